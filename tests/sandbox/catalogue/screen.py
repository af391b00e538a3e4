"""E: the terminal, and the files that others read."""

from __future__ import annotations

from .rows import Case, NotHere, tested

CLEAN = "tests/render/test_sanitize.py::test_nothing_dangerous_comes_out"
FUZZ = "tests/render/test_sanitize.py::test_a_hundred_thousand_random_strings"
SHOWN = "tests/render/test_sanitize.py::test_what_is_dangerous_is_shown"
ANSWER = "tests/render/test_answer.py::test_no_answer_commands_the_terminal"
LARGE = "tests/render/test_answer.py::test_a_large_answer_is_harmless_on_a_terminal"
LIVE = "tests/render/test_views.py::test_hostile_text_cannot_command_the_terminal"
PLAIN = "tests/render/test_views.py::test_plain_lines_have_no_control_byte"
MARKDOWN = "tests/render/test_answer.py::test_markdown_is_rendered_for_a_person"
REAL = "tests/ask/test_hostile.py::test_e01_to_e09_e17_a_hostile_run_on_a_real_terminal"
VIEWS = "tests/render/test_hostile.py::test_e09_no_text_of_a_run_commands_the_terminal"
FLOOD = "tests/render/test_hostile.py::test_e05_a_flood_keeps_the_layout"
HOSTILE = "tests/cli/test_hostile.py::"
RECORDS = ("test_e17_a_hostile_record_is_shown_and_not_obeyed", "test_e17_a_header_of_any_shape_is_survived")

CASES = (
    Case(
        "E01",
        "an answer that writes the clipboard (OSC 52)",
        "no ESC reaches a terminal",
        (tested(CLEAN, ANSWER, LARGE, REAL),),
    ),
    Case(
        "E02",
        "hyperlinks (OSC 8), also unterminated ones",
        "only visible text",
        (tested(ANSWER, SHOWN, LIVE, VIEWS, REAL),),
    ),
    Case(
        "E03",
        "titles, cursor movement, queries, DCS, APC",
        "shown as text",
        (tested(ANSWER, SHOWN, LIVE, VIEWS, REAL),),
    ),
    Case("E04", "the same as C1 bytes", "shown as text", (tested(CLEAN, SHOWN, ANSWER, VIEWS),)),
    Case(
        "E05",
        "overwriting by CR and BS, 10,000 newlines, a line of 1 MB, piles of marks",
        "the layout stays bounded",
        (
            tested(
                "tests/render/test_sanitize.py::test_a_line_is_one_line_of_bounded_width",
                "tests/render/test_sanitize.py::test_pieces_are_cleaned_as_the_whole",
                "tests/render/test_answer.py::test_pathological_markdown_is_survived",
                FLOOD,
                "tests/render/test_hostile.py::test_e05_a_pile_of_marks_does_not_climb",
            ),
        ),
    ),
    Case(
        "E06",
        "bidirectional overrides, zero width, tag characters",
        "shown escaped",
        (tested("tests/render/test_sanitize.py::test_every_format_character_of_unicode", SHOWN),),
    ),
    Case("E07", "Rich markup and emoji codes in any string", "literal", (tested(LIVE, ANSWER, VIEWS),)),
    Case(
        "E08",
        "links, images and HTML in an answer's Markdown",
        "addresses are shown in full, nothing is fetched, no hyperlink is made",
        (tested(MARKDOWN, "tests/render/test_answer.py::test_decoded_entities_are_cleaned_too"),),
    ),
    Case(
        "E09",
        "the same in a progress line, error, file name, model name, exception",
        "the same",
        (
            tested(
                LIVE,
                PLAIN,
                VIEWS,
                HOSTILE + "test_e09_file_names_are_shown_and_not_sent",
                HOSTILE + "test_e09_an_error_quotes_and_does_not_send",
                HOSTILE + "test_e09_settings_are_shown_and_not_sent",
                "tests/cli/test_boundary.py::test_control_sequences_in_an_error_are_shown_not_sent",
                "tests/render/test_citations.py::test_no_character_of_a_quote_or_path_reaches_the_terminal_raw",
            ),
        ),
    ),
    Case(
        "E10",
        "output to a pipe or file, NO_COLOR, TERM=dumb",
        "plain UTF-8 without control bytes; the answer itself is written as it is",
        (
            tested(
                PLAIN,
                "tests/render/test_views.py::test_without_color_no_style_is_sent",
                "tests/render/test_views.py::test_look",
                "tests/render/test_answer.py::test_off_a_terminal_the_answer_is_itself",
            ),
        ),
    ),
    Case(
        "E11",
        "stdout is closed early (`| head`)",
        "a quiet end, and no container is left",
        (
            tested(
                "tests/ask/test_ask.py::test_a_closed_reader_is_no_error_message",
                "tests/ask/test_large_answers.py::test_a_reader_of_a_large_answer_that_leaves_is_no_news",
                "tests/cli/test_boundary.py::test_a_reader_that_left_is_no_news",
            ),
        ),
    ),
    Case(
        "E12",
        "a hundred thousand random strings, a million by hand",
        "no control comes out, cleaning twice changes nothing, text is kept",
        (tested(FUZZ, CLEAN, "tests/render/test_sanitize.py::test_ordinary_text_is_left_alone"),),
    ),
    Case(
        "E13",
        "an HTML report with scripts and hostile links",
        "inert",
        (NotHere("nothing of rlm writes HTML: a run is exported as JSON, JSON lines or Markdown", moot=True),),
    ),
    Case(
        "E14",
        "newlines, U+2028, ESC, surrogates, very long fields in the record",
        "one ASCII line a record, long texts beside it",
        (
            tested(
                "tests/test_runlog.py::test_every_line_is_one_ascii_record",
                "tests/test_runlog.py::test_a_run_is_read_back_as_it_was",
                "tests/test_runlog.py::test_a_long_text_is_stored_once",
                "tests/render/test_hostile.py::test_e14_e17_a_hostile_record_is_ascii_lines_and_comes_back",
            ),
        ),
    ),
    Case(
        "E15",
        "the record's path is a link, exists already, cannot be written, the disk is full",
        "links are not followed, nothing is overwritten, the run goes on without a record",
        (
            tested(
                "tests/test_runlog.py::test_links_are_refused",
                "tests/test_runlog.py::test_a_run_is_never_written_twice",
                "tests/test_runlog.py::test_a_full_disk_ends_the_log_and_not_the_run",
                "tests/test_runlog.py::test_nothing_outside_is_removed",
                "tests/test_private.py::test_e15_a_new_file_is_never_somebody_elses",
            ),
        ),
    ),
    Case(
        "E16",
        "read another user's record",
        "folders are 0700 and files 0600, whatever the umask",
        (
            tested(
                "tests/test_runlog.py::test_only_the_owner_can_read",
                "tests/sources/test_archives.py::test_unpacked_files_are_private_and_stopping_removes_them",
                "tests/cli/test_scratch.py::test_it_is_private_and_goes_away",
                "tests/test_private.py::test_e16_everything_kept_is_for_the_owner_alone",
            ),
        ),
    ),
    Case(
        "E17",
        "replay or show a record that was made to do harm",
        "E01 to E08 hold again, nothing outside its folder is read",
        (
            tested(
                "tests/test_runlog.py::test_hostile_lines_do_no_harm",
                "tests/test_runlog.py::test_a_changed_or_lost_blob_is_said",
                "tests/test_runlog.py::test_a_forged_answer_file_is_no_answer",
                "tests/cli/test_data_commands.py::test_a_fence_is_longer_than_any_inside",
            ),
            tested(REAL, *(HOSTILE + name for name in RECORDS)),
        ),
    ),
    Case(
        "E18",
        "spreadsheet formulas in an export",
        "inert",
        (NotHere("nothing of rlm writes CSV: a run is exported as JSON, JSON lines or Markdown", moot=True),),
    ),
)
