"""What is otherwise without a container: `--sandbox process`, beside the rows as they are for one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from .files import WORKED
from .rows import Case, Differs, Elsewhere, Probe, probe, tested

PROCESS = ("process",)
HERE = "tests/sandbox/test_process.py::"


def shown(*names: str) -> Elsewhere:
    """Tests of the back-end's own."""
    return tested(*(HERE + name for name in names), only=PROCESS)


LIFTED = """
import mmap, resource
hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
attempt("to the limit", lambda: resource.setrlimit(resource.RLIMIT_DATA, (hard, hard)))
attempt("beyond it", lambda: resource.setrlimit(resource.RLIMIT_DATA, (-1, -1)))
attempt("600 MB", lambda: bytearray(600 << 20))
attempt("600 MB shared", lambda: mmap.mmap(-1, 600 << 20))
"""
MANY_THREADS = """
import threading
go = threading.Event()
threading.stack_size(65536)
def start():
    for _ in range(3_000):
        threading.Thread(target=go.wait).start()
attempt("3,000 threads", start)
go.set()
"""
STARTING = """
import posix, subprocess
program = os.path.realpath(sys.executable)
attempt("fork", os.fork)
attempt("a program", lambda: subprocess.run([program, "-c", "pass"]))
attempt("in its place", lambda: os.execv(program, [program, "-c", "pass"]))
attempt("spawn", lambda: os.posix_spawn(program, [program, "-c", "pass"], {}))
attempt("in memory", lambda: os.memfd_create("program"))
"""
DUMP_LIMIT = """
import resource
soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
print(f"limit: {soft} {hard}")
attempt("raise it", lambda: resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)))
"""
NO_FORK = "a cell cannot start any process, which A16 shows"
IN_C15 = "the same code starts processes in the controls of C01 and C04"

MORE: Mapping[str, tuple[Probe | Elsewhere, ...]] = {
    "A01": (shown("test_what_a_users_process_may_do_and_a_cell_may_not"),),
    "A11": (shown("test_a_private_file_is_read_and_stays_private"),),
    "A16": (
        probe(
            "start",
            STARTING,
            dict.fromkeys(("fork", "a program", "in its place", "spawn", "in memory"), "EPERM|EACCES"),
            only=PROCESS,
            why=IN_C15,
        ),
    ),
    "B11": (shown("test_each_wrong_fact_is_named_alone", "test_a_kernel_that_is_root_is_refused"),),
    "C01": (
        probe(
            "many threads", MANY_THREADS, {"3,000 threads": "RuntimeError|MemoryError"}, only=PROCESS, why="300 work"
        ),
    ),
    "C03": (
        probe(
            "lifted",
            LIFTED,
            {
                "to the limit": WORKED,
                "beyond it": "ValueError",
                "600 MB": "MemoryError",
                "600 MB shared": "ENOMEM",
            },
            only=PROCESS,
            why="the same sizes succeed in tests/sandbox/test_process.py, where nothing is in the way",
        ),
        shown("test_what_a_users_process_may_do_and_a_cell_may_not"),
    ),
    "C10": (shown("test_a_host_that_does_not_read"),),
    "C11": (shown("test_the_kill_ladder_is_that_of_a_container"),),
    "C12": (shown("test_the_kill_ladder_is_that_of_a_container"),),
    "D01": (shown("test_the_environment_is_three_names_and_the_scratch_folder_is_private"),),
    "D10": (
        probe(
            "limit",
            DUMP_LIMIT,
            {"limit": "0 0", "raise it": "EPERM|ValueError"},
            only=PROCESS,
            why="it is the first half of the probe of a container, whose control is there",
        ),
    ),
    "G13": (shown("test_a_file_larger_than_the_memory_is_scanned"),),
    "H01": (shown("test_who_cannot_confine_is_told_why", "test_where_there_is_no_engine_the_way_without_is_named"),),
    "H04": (shown("test_a_killed_host_leaves_nothing"),),
    "H05": (
        shown("test_a_run_names_what_is_missing_and_records_what_it_ran_on", "test_a_second_ctrl_c_waits_for_nobody"),
    ),
    "H06": (shown("test_a_kernel_that_somebody_kills_ends_the_run_with_one_error"),),
    "H09": (shown("test_a_host_that_slept_is_told_so"),),
}

NO_ENGINE = "there is no engine that could: the process is given the input's files open, and nothing else"

DIFFERS: Mapping[str, Differs] = {
    "A13": Differs(NO_ENGINE, protected=True),
    "A14": Differs(NO_ENGINE, protected=True),
    "A16": Differs("no program can be started at all, from wherever", protected=True, says={"run": None}),
    "A17": Differs(NO_ENGINE, protected=True),
    "B10": Differs(
        f"{NO_FORK}, so the 32-bit way is not tried; the filter that refuses it is made by the same function",
        protected=True,
        says={"enter": None},
    ),
    "B12": Differs("there is no engine's filter: the strict one is ours, and all that there is", protected=True),
    "C01": Differs(
        "no process at all; threads up to 512 more than the user had (the system counts them by user)",
        protected=True,
        says={"threads": {"300 threads": WORKED}, "runaway": None},
    ),
    "C02": Differs(NO_FORK, protected=True, says={"daemon": None}),
    "C03": Differs(
        "the guard is the limit itself, which cannot be lifted: always a MemoryError, and never a new worker; 1 GiB "
        "more can be had by tricks with what is not counted as data",
        protected=True,
        says={"unguarded": None},
    ),
    "C04": Differs(NO_FORK, protected=True, says={"child": None}),
    "C06": Differs(
        "nothing bounds the disk: one file may have 256 MiB, and there may be many, until the run's folder is removed",
        protected=False,
        says={"space": {"/tmp": "EFBIG", "/dev/shm": "EACCES", "afterwards": WORKED}},
    ),
    "C17": Differs(NO_FORK, protected=True),
    "D02": Differs(
        "it can open next to nothing, so that the search is short",
        protected=True,
        says={"search": {"looked at many": "True|False"}},
    ),
    "D03": Differs("no engine is involved; the environment is made of three names (D01)", protected=True),
    "D10": Differs(NO_FORK + "; the limit is tried", protected=True, says={"abort": None}),
    "H02": Differs(NO_ENGINE, protected=True),
    "H03": Differs(NO_ENGINE, protected=True),
    "H09": Differs(
        "the kernel ends by itself; none takes its place, and the run ends with an error that says so", protected=True
    ),
}


def with_process(case: Case) -> Case:
    """The row with what is said of it here."""
    differs = DIFFERS.get(case.id)
    return replace(
        case,
        proofs=(*case.proofs, *MORE.get(case.id, ())),
        on={**case.on, **({"process": differs} if differs is not None else {})},
    )
