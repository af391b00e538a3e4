"""H: engines and people that interrupt."""

from __future__ import annotations

from .rows import Case, tested

ERRORS = "tests/sandbox/test_engine_errors.py::"
FAULTS = "tests/sandbox/test_engine_faults.py::"
LADDER = "tests/sandbox/test_ladder.py::"
SIGNALS = "tests/ask/test_signals.py::"

CASES = (
    Case(
        "H01",
        "no engine, no permission, no image, a failed pull, a remote engine, a wrong architecture",
        "one screen that says what to type, and an exit code, within seconds",
        (
            tested(
                ERRORS + "test_h01_what_an_engine_says",
                ERRORS + "test_h01_an_engine_that_is_well",
                ERRORS + "test_h01_refused_by_tcp",
                ERRORS + "test_h01_ssh_needs_a_package",
                ERRORS + "test_h01_tls_with_the_wrong_authority",
                ERRORS + "test_h01_podman_that_is_not_installed",
                only=("docker",),
            ),
            tested(
                "tests/sandbox/test_stream.py::test_an_engine_that_is_not_there",
                "tests/sandbox/test_stream.py::test_no_permission_for_the_socket",
                "tests/sandbox/test_container.py::test_a_missing_image_is_named",
                "tests/sandbox/test_container.py::test_a_registry_that_cannot_be_reached",
                "tests/sandbox/test_container.py::test_an_image_without_python_is_named",
                "tests/ask/test_ask.py::test_no_engine_is_exit_5_before_anything_is_read_or_paid",
                only=("docker",),
            ),
        ),
    ),
    Case(
        "H02",
        "the engine hangs in the middle of a cell",
        "a message, no endless wait",
        (tested(FAULTS + "test_h02_an_engine_that_freezes", only=("docker",)),),
    ),
    Case(
        "H03",
        "the engine is killed in the middle of a cell",
        "a message at once; what the engine leaves ends by itself",
        (
            tested(
                FAULTS + "test_h03_an_engine_that_is_killed",
                FAULTS + "test_h03_an_engine_that_is_stopped_and_started_again",
                only=("docker",),
            ),
        ),
    ),
    Case(
        "H04",
        "rlm is killed (SIGKILL) at any moment",
        "no container and no copy of the input is left",
        (
            tested(
                FAULTS + "test_h04_a_host_that_is_killed_at_any_moment",
                FAULTS + "test_h04_a_volume_is_reaped_at_the_next_start",
                only=("docker",),
            ),
            tested(
                "tests/sandbox/test_container.py::test_a_killed_host_leaves_no_container",
                "tests/sandbox/test_streamed.py::test_a_killed_host_leaves_no_volume",
                "tests/ask/test_interrupts.py::test_sigkill_leaves_no_container",
                "tests/ask/test_copied.py::test_a_killed_command_leaves_no_copy_of_the_input",
                only=("docker",),
            ),
        ),
    ),
    Case(
        "H05",
        "Ctrl-C once, twice, three times",
        "what was found is kept; killed at once; left at once. The terminal is sane, the exit code 130",
        (
            tested(
                SIGNALS + "test_h05_once_in_a_cell",
                SIGNALS + "test_h05_twice_in_a_cell_that_does_not_stop",
                SIGNALS + "test_h05_while_a_model_is_waited_for",
                SIGNALS + "test_h05_while_the_sandbox_starts",
            ),
            tested(
                "tests/ask/test_interrupts.py::test_ctrl_c_keeps_what_was_found",
                "tests/ask/test_interrupts.py::test_a_second_ctrl_c_kills_at_once",
            ),
        ),
    ),
    Case(
        "H06",
        "somebody else removes or kills the container",
        "one clear error",
        (
            tested(LADDER + "test_h06_a_container_that_a_third_party_ends", only=("docker",)),
            tested("tests/sandbox/test_container.py::test_a_container_that_somebody_removes", only=("docker",)),
        ),
    ),
    Case(
        "H07",
        "two runs at once while a third removes leftovers",
        "it touches neither",
        (
            tested(
                FAULTS + "test_h07_h08_many_reapers_and_what_is_not_ours",
                "tests/sandbox/test_container.py::test_prune_removes_only_what_is_provably_dead",
                "tests/sandbox/test_streamed.py::test_prune_removes_the_volumes_of_the_dead",
                only=("docker",),
            ),
            tested(
                "tests/cli/test_scratch.py::test_a_sweep_removes_nothing_else",
                "tests/sandbox/test_owner.py::test_this_process_is_alive_and_its_label_reads_back",
            ),
        ),
    ),
    Case(
        "H08",
        "containers of others with similar names or labels, another machine on the same engine",
        "untouched",
        (
            tested(
                FAULTS + "test_h07_h08_many_reapers_and_what_is_not_ours",
                ERRORS + "test_h01_a_name_that_is_taken_is_tried_once_more",
                "tests/sandbox/test_container.py::test_prune_removes_only_what_is_provably_dead",
                only=("docker",),
            ),
            tested(
                "tests/sandbox/test_owner.py::test_another_boot_is_dead_and_another_machine_is_not_ours_to_judge",
                "tests/sandbox/test_owner.py::test_foreign_labels_are_nobody",
                "tests/sandbox/test_owner.py::test_a_reused_process_id_is_not_the_owner",
            ),
        ),
    ),
    Case(
        "H09",
        "rlm is stopped for minutes (a laptop sleeps)",
        "the sandbox ends by itself, and the run goes on in a new one, which is said",
        (
            tested(
                LADDER + "test_h09_a_host_that_was_stopped_goes_on_in_a_new_container",
                LADDER + "test_h09_a_short_stop_changes_nothing",
                only=("docker",),
            ),
        ),
    ),
    Case(
        "H10",
        "the disk fills up",
        "a clear message; what was begun is removed",
        (
            tested(
                "tests/test_runlog.py::test_a_full_disk_ends_the_log_and_not_the_run",
                "tests/sandbox/test_staging.py::test_a_full_disk_is_said_in_words",
                "tests/sources/test_stdin.py::test_a_full_disk_is_said_and_cleaned_up",
                "tests/sources/test_archives.py::test_a_full_disk_is_an_error_that_leaves_nothing",
                "tests/cli/test_boundary.py::test_a_full_disk_is_told_and_is_no_bug",
                "tests/test_client.py::test_a_disk_that_takes_no_answer_ends_the_run",
            ),
        ),
    ),
)
