"""C: bombs, floods, and a cell that breaks its own process."""

from __future__ import annotations

import os

from rlm_cli.sandbox import StepResult

from .files import WORKED
from .rows import Case, Step, probe, tested

LADDER = "tests/sandbox/test_ladder.py::"
MIB = 1024**2
FULL = os.environ.get("RLM_E2E") == "full"
FLOOD = 10_240 * MIB if FULL else 64 * MIB
"""Bytes of one flood; the container cuts it, so that a larger one costs time and nothing else."""

FORKS = """
import signal, time
children = []
def fork():
    while len(children) < 300:
        pid = os.fork()
        if pid == 0:
            time.sleep(600)
            os._exit(0)
        children.append(pid)
attempt("300 processes", fork)
for pid in children:
    os.kill(pid, signal.SIGKILL)
for pid in children:
    os.waitpid(pid, 0)
print("fewer than 128: " + str(len(children) < 128))
"""
SUBPROCESSES = """
import subprocess
children = []
def start():
    while len(children) < 300:
        children.append(subprocess.Popen(["/bin/sleep", "600"]))
attempt("300 programs", start)
for child in children:
    child.kill()
    child.wait()
"""
THREADS = """
import threading
go = threading.Event()
threads = []
def start():
    while len(threads) < 300:
        thread = threading.Thread(target=go.wait)
        thread.start()
        threads.append(thread)
attempt("300 threads", start)
go.set()
for thread in threads:
    thread.join()
"""
RUNAWAY = """
import time
if os.fork() == 0:
    while True:
        try:
            os.fork()
        except OSError:
            pass
print("bombed: True", flush=True)
while True:
    time.sleep(1)
"""
COUNT = """
mine = os.getpid()
others = [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) not in (1, mine)]
print(f"others: {len(others)}")
"""
DAEMON = """
import time
reader, writer = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.write(writer, b".")
        os.closerange(0, 1024)
        while True:
            time.sleep(60)
    os._exit(0)
os.wait()
os.read(reader, 1)
"""
BOMB_IN_CHILD = """
import subprocess
kept = 7
code = "import resource; resource.setrlimit(resource.RLIMIT_DATA, (-1, -1)); x = b'x' * (600 << 20)"
child = subprocess.run([sys.executable, "-I", "-S", "-c", code], stderr=subprocess.DEVNULL)
print("the child: " + str(child.returncode))
"""
FILL = """
def fill(path):
    with open(path, "wb", buffering=0) as file:
        try:
            while file.tell() < 300 << 20:
                if file.write(bytes(1 << 20)) < 1 << 20:
                    file.write(b"x")
        finally:
            os.unlink(path)
attempt("/tmp", lambda: fill(SCRATCH + "/full"))
attempt("/dev/shm", lambda: fill("/dev/shm/full"))
attempt("afterwards", lambda: open(SCRATCH + "/small", "wb").write(b"x"))
os.unlink(SCRATCH + "/small")
"""
INODES = """
n = 0
print("began: True", flush=True)
while True:
    n += 1
    os.symlink("x", f"{SCRATCH}/inode{n}")
"""
TIDY = """
import glob
for path in glob.glob(SCRATCH + "/inode*"):
    os.unlink(path)
print("still here: " + str(n > 0))
"""
DESCRIPTORS = """
held = []
def open_many():
    while len(held) < 4000:
        held.append(os.open("/dev/null", os.O_RDONLY))
attempt("4,000 files", open_many)
"""
SIGNALS = """
import signal, subprocess, time
victim = os.getppid() if OUTSIDE else subprocess.Popen(["/bin/sleep", "600"]).pid
def alive():
    if OUTSIDE:
        return os.path.exists(f"/proc/{victim}")
    return os.waitpid(victim, os.WNOHANG | os.WUNTRACED)[0] == 0
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM, signal.SIGSTOP, signal.SIGKILL):
    try:
        os.kill(victim, number)
    except PermissionError:
        pass
time.sleep(0.05)
print("the supervisor lives: " + str(alive()))
if OUTSIDE:
    try:
        os.kill(-1, signal.SIGKILL)
    except OSError:
        pass
"""


LATE_FLOOD = """
import threading
def write_much():
    for _ in range(64):
        os.write(1, b"late\\n" * (1 << 18))
flood = threading.Timer(0.02, write_much)
flood.start()
"""


def late_is_bounded(result: StepResult) -> None:
    assert len(result.late) <= 64 * 1024


def flood(write: str) -> str:
    begin = "import os, sys\nblock = b'y' * (1 << 20)\nos.write(1, b'FIRST\\n')\n"
    return f"{begin}for _ in range({FLOOD} >> 20):\n    {write}\n"


WAYS = {
    "stdout": "sys.stdout.write(block.decode())",
    "stderr": "sys.stderr.write(block.decode())",
    "descriptor 1": "os.write(1, block)",
}


def is_cut(stream: str, total: int) -> object:
    """A check: head and tail are kept, every byte is counted."""

    def check(result: StepResult) -> None:
        captured = result.stdout if stream == "stdout" else result.stderr
        kept = len(captured.head.encode()) + len(captured.tail.encode())
        assert captured.total == total
        assert captured.dropped == total - kept
        assert 0 < kept <= 128 * 1024
        assert captured.tail.endswith("yyyy")

    return check


ENDINGS = {
    "leave": ("os._exit(7)", "exit code 7"),
    "abort": ("os.abort()", "SIGABRT"),
    "crash in C": ("import ctypes; ctypes.string_at(0)", "SIGSEGV"),
    "kill itself": ("os.kill(os.getpid(), 9)", "SIGKILL"),
    "close all descriptors": ("os.closerange(0, 1000)", "descriptors that the kernel needs"),
}
SYSTEM_V = """
def outlives_us():
    segment = libc_call("shmget", 0, 4096, 0o600)
    libc_call("shmctl", segment, 0, None)
attempt("System V", outlives_us)
"""

CASES = (
    Case(
        "C01",
        "bombs of processes, programs and threads",
        "an error at the limit of 128, or a killed worker; the next cell works",
        (
            probe(
                "fork",
                FORKS,
                {"300 processes": "EAGAIN|EPERM", "fewer than 128": "True"},
                {"300 processes": WORKED, "fewer than 128": "False"},
            ),
            probe("spawn", SUBPROCESSES, {"300 programs": "EAGAIN|EPERM"}, {"300 programs": WORKED}),
            probe("threads", THREADS, {"300 threads": "RuntimeError|MemoryError"}, {"300 threads": WORKED}),
            probe(
                "runaway",
                RUNAWAY,
                {"bombed": "True"},
                status="timeout",
                timeout=0.3,
                restarted=None,
                then=(
                    Step("import os; os._exit(0)", status="died", restarted="exit code 0"),
                    Step(COUNT, {"others": "0"}),
                ),
                why="it says that it has begun, and the count of others is proven by C02",
            ),
        ),
    ),
    Case(
        "C02",
        "leave a daemon behind, in a session of its own and without descriptors",
        "it ends with the worker, and with the container at the latest",
        (
            probe(
                "daemon",
                DAEMON,
                {},
                then=(
                    Step(COUNT, {"others": "1"}),
                    Step("import os; os._exit(0)", status="died", restarted="exit code 0"),
                    Step(COUNT, {"others": "0"}),
                ),
                why="it is counted before its end and not after",
            ),
        ),
    ),
    Case(
        "C03",
        "take more memory than there is: one huge block, a multiplied list; or some that stays when the worker dies",
        'a MemoryError that keeps the variables; where the cell lifts that guard, "out of memory" and a new worker',
        (
            tested(
                "tests/sandbox/test_container.py::test_a_cell_that_takes_too_much_keeps_its_variables", only=("docker",)
            ),
            tested("tests/test_client.py::test_out_of_memory_is_named"),
            probe(
                "block",
                "attempt('600 MB', lambda: bytearray(600 << 20))\nattempt('a list', lambda: [0] * (75 << 20))",
                {"600 MB": "MemoryError", "a list": "MemoryError"},
                {"600 MB": WORKED, "a list": WORKED},
            ),
            probe(
                "unguarded",
                "import resource\nresource.setrlimit(resource.RLIMIT_DATA, (-1, -1))\nx = b'x' * (600 << 20)",
                {},
                status="died",
                restarted="out of memory",
                why="the same size succeeds in the control of the block",
            ),
            probe("for good", SYSTEM_V, {"System V": "EPERM"}, {"System V": WORKED}),
        ),
    ),
    Case(
        "C04",
        "take it in a child process",
        "the child is killed, the cell is told, the variables live on",
        (
            probe(
                "child",
                BOMB_IN_CHILD,
                {"the child": "-9"},
                {"the child": "0"},
                check=lambda result: contains(result.stderr.head, "out of memory"),
                then=(Step("print(f'kept: {kept}')", {"kept": "7"}),),
            ),
        ),
    ),
    Case(
        "C05",
        "overflow the C stack, crash in C",
        "the signal is named, a new worker is there",
        (
            probe(
                "stack",
                "import ctypes\nsys.setrecursionlimit(10**9)\n"
                "CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int)\n"
                "def again():\n    return CALLBACK(again)()\nagain()",
                {},
                status="died",
                restarted="SIGSEGV|SIGABRT|SIGBUS",
                why="the death of its process is the success",
            ),
            probe(
                "crash",
                ENDINGS["crash in C"][0],
                {},
                status="died",
                restarted="SIGSEGV",
                why="the death of its process is the success",
            ),
        ),
    ),
    Case(
        "C06",
        "fill /tmp, /dev/shm and the table of inodes",
        '"no space left", or an interrupt; not a byte reaches a disk of the host',
        (
            probe(
                "space",
                FILL,
                {"/tmp": "ENOSPC", "/dev/shm": "ENOSPC", "afterwards": WORKED},
                {"/tmp": WORKED, "/dev/shm": "ENOSPC", "afterwards": WORKED},
            ),
            probe(
                "inodes",
                INODES,
                {"began": "True"},
                status="timeout",
                timeout=0.5,
                then=(Step(TIDY, {"still here": "True"}),),
                why="it makes files until it is stopped",
            ),
        ),
    ),
    Case(
        "C07",
        "open files until none can be opened",
        '"too many open files"; the next cell works while they are still open',
        (
            probe(
                "open",
                DESCRIPTORS,
                {"4,000 files": "EMFILE"},
                {"4,000 files": WORKED},
                then=(Step("for fd in held: os.close(fd)\nprint(f'held: {len(held) > 500}')", {"held": "True"}),),
            ),
        ),
    ),
    Case(
        "C08",
        "print without end, to stdout, stderr and descriptor 1",
        "the first and the last 64 KiB and the exact count; the rest is dropped in the container; no engine keeps it",
        (
            *(
                probe(
                    way,
                    flood(write),
                    {},
                    timeout=600,
                    check=is_cut("stderr" if way == "stderr" else "stdout", FLOOD + (0 if way == "stderr" else 6)),  # type: ignore[arg-type]
                    why="all bytes are counted",
                )
                for way, write in WAYS.items()
            ),
            tested("tests/sandbox/test_container.py::test_the_engine_holds_the_profile", only=("docker",)),
            tested("tests/kernel/test_kernel.py::test_output_is_cut_in_the_container_with_true_counts"),
        ),
    ),
    Case(
        "C09",
        "one line of 200 MB",
        "as above",
        (
            probe(
                "line",
                "for _ in range(200): os.write(1, b'y' * (1 << 20))",
                {},
                check=is_cut("stdout", 200 * MIB),  # type: ignore[arg-type]
                why="all bytes are counted",
            ),
        ),
    ),
    Case(
        "C10",
        "flood a host that does not read for a while",
        "nothing grows, and it goes on",
        (tested("tests/sandbox/test_engine_faults.py::test_c10_a_host_that_does_not_read", only=("docker",)),),
    ),
    Case(
        "C11",
        "loop, sleep, backtrack, compute a huge power or sort past the deadline",
        "interrupted, the variables live on",
        (
            tested(LADDER + "test_c11_what_a_signal_stops_keeps_its_variables", only=("docker",)),
            tested("tests/kernel/test_kernel.py::test_the_deadline_interrupts_and_keeps_variables"),
        ),
    ),
    Case(
        "C12",
        "hold the interpreter's lock in C past the deadline",
        "the worker is killed two seconds later and replaced; the model is told that its variables are gone",
        (
            tested(
                LADDER + "test_c12_c13_what_no_signal_stops_is_killed",
                LADDER + "test_c12_the_clocks_are_the_documented_ones",
                only=("docker",),
            ),
            tested("tests/kernel/test_kernel.py::test_a_cell_that_does_not_stop_is_killed"),
        ),
    ),
    Case(
        "C13",
        "swallow KeyboardInterrupt, ignore or block SIGINT, loop at exit",
        "as above",
        (
            tested(
                LADDER + "test_c12_c13_what_no_signal_stops_is_killed",
                LADDER + "test_c13_a_signal_that_is_blocked",
                LADDER + "test_c13_an_exit_function_that_never_ends",
                only=("docker",),
            ),
            tested("tests/kernel/test_kernel.py::test_a_cell_that_does_not_stop_is_killed"),
        ),
    ),
    Case(
        "C14",
        "kill or stop the supervisor, or everybody",
        "no effect on it",
        (
            probe(
                "signal",
                SIGNALS,
                {"the supervisor lives": "True"},
                {"the supervisor lives": "False"},
            ),
            tested(
                LADDER + "test_c14_a_supervisor_that_is_frozen_is_replaced",
                LADDER + "test_c14_silence_is_noticed_before_the_deadline",
                only=("docker",),
            ),
        ),
    ),
    Case(
        "C15",
        "leave, abort, crash, kill itself, close all descriptors, lose stdout",
        "the cause is named, and the next cell works",
        (
            *(
                probe(
                    name,
                    code,
                    {},
                    status="died",
                    restarted=reason,
                    why="the death of its process is the success",
                )
                for name, (code, reason) in ENDINGS.items()
            ),
            probe(
                "no stdout",
                "sys.stdout = sys.stderr = None\nsys.__stdout__.close()",
                {},
                why="the next cell's output is the proof",
            ),
            tested("tests/kernel/test_kernel.py::test_a_dead_worker_is_replaced"),
        ),
    ),
    Case(
        "C16",
        "print from a thread after the cell is over",
        "labelled as late, bounded, never part of the next cell's result",
        (
            tested("tests/kernel/test_kernel.py::test_late_output_is_labelled"),
            probe(
                "flood",
                LATE_FLOOD,
                {},
                then=(
                    Step("import time\ntime.sleep(0.2)"),
                    Step("flood.join()\nprint('over: True')", check=late_is_bounded),
                ),
                why="the thread is waited for until it has written everything",
            ),
        ),
    ),
    Case(
        "C17",
        "fork, so that parent and child both come back from the cell",
        "one result; the child takes no command",
        (tested("tests/kernel/test_kernel.py::test_fork_in_a_cell_answers_once"),),
    ),
    Case(
        "C18",
        "10,000 cells",
        "neither side holds more descriptors, threads or memory afterwards",
        (tested("tests/sandbox/catalogue/test_probes.py::test_ten_thousand_cells"),),
    ),
)


def contains(text: str, part: str) -> None:
    assert part in text
