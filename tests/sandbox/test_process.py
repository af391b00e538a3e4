"""`--sandbox process`: what the filters hold that no container is there to hold, and that nothing of it is left behind.

Everything here is real, as an ordinary user; the catalogue has the rest. What a probe tries is shown to succeed by the
same code in a Python of the same user that nothing confines.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rlm_cli.errors import ExitCode, SandboxError
from rlm_cli.sandbox import SandboxOptions, Slice, process_sandbox
from rlm_cli.sandbox.frames import BootFacts, WorkerFacts
from rlm_cli.sandbox.kernel import supervisor
from rlm_cli.sandbox.process_sandbox import (
    MISSING,
    Machine,
    ProcessChannel,
    ProcessSandbox,
    refusal,
    wrong_facts,
)
from tests.kernel.local import FakeHost
from tests.unprivileged import NOBODY, unprivileged

linux = pytest.mark.skipif(sys.platform != "linux", reason="the back-end is Linux's")
MIB = 1024**2
ROOT = Path(__file__).parents[2]
PYTHON = os.path.realpath(sys.executable)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user may enter, unlike pytest's own."""
    made = Path(tempfile.mkdtemp(prefix="rlm-test-"))
    made.chmod(0o777)
    yield made
    shutil.rmtree(made)


def sandbox(folder: Path, memory: int = 256 * MIB, **more: Any) -> ProcessSandbox:
    """One whose kernel is an ordinary user's; not opened."""
    return ProcessSandbox(SandboxOptions(memory=memory), folder=folder, command=(*unprivileged(), PYTHON), **more)


@contextlib.asynccontextmanager
async def opened(
    folder: Path, *files: Path, host: FakeHost | None = None, **more: Any
) -> AsyncIterator[ProcessSandbox]:
    """One over `files`, by default a small one."""
    if not files:
        files = (folder / "input",)
        files[0].write_bytes(b"line one\nline two\n")
    made = sandbox(folder, **more)
    try:
        await made.open([Slice(path.name, path, path.stat().st_size) for path in files], FakeHost())
        yield made
    finally:
        await made.close()


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Bounded, so that a hang is a failure."""

    async def bounded() -> None:
        async with asyncio.timeout(60):
            await main()

    asyncio.run(bounded())


async def printed(made: ProcessSandbox, code: str, timeout: float = 30) -> str:
    """What a cell prints that must succeed."""
    result = await made.execute(code, timeout=timeout)
    assert (result.status, result.error, result.restarted) == ("ok", "", "")
    return result.stdout.head


# -- what one process could do to a user's others, to their files and to the machine's memory -----------------------

ATTEMPT = """
import ctypes, errno, fcntl, mmap, os, resource, socket, sys
LIBC = ctypes.CDLL(None, use_errno=True)
def attempt(label, what):
    try:
        what()
        print(f"{label}: worked")
    except OSError as error:
        print(f"{label}: {errno.errorcode[error.errno]}")
    except (MemoryError, ValueError) as error:
        print(f"{label}: {type(error).__name__}")
def libc(name, *arguments):
    if getattr(LIBC, name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), name)
def prlimit(pid):
    libc("prlimit", pid, resource.RLIMIT_CORE, (ctypes.c_ulong * 2)(0, 0), None)
def signals_by_pipe(pid):
    reader, writer = os.pipe()
    fcntl.fcntl(reader, fcntl.F_SETOWN, pid)
"""
PROCESSES = """
attempt("environment", lambda: open(f"/proc/{VICTIM}/environ", "rb").read(1))
attempt("arguments", lambda: open(f"/proc/{VICTIM}/cmdline", "rb").read(1))
attempt("memory map", lambda: open(f"/proc/{VICTIM}/maps", "rb").read(1))
attempt("open files", lambda: os.listdir(f"/proc/{VICTIM}/fd"))
attempt("all processes", lambda: os.listdir("/proc"))
attempt("priority", lambda: os.setpriority(os.PRIO_PROCESS, VICTIM, 1))
attempt("processors", lambda: os.sched_setaffinity(VICTIM, os.sched_getaffinity(VICTIM)))
attempt("scheduling", lambda: os.sched_setscheduler(VICTIM, os.SCHED_BATCH, os.sched_param(0)))
attempt("limits", lambda: prlimit(VICTIM))
attempt("signals by pipe", lambda: signals_by_pipe(VICTIM))
attempt("signal", lambda: os.kill(VICTIM, 0))
attempt("kill", lambda: os.kill(VICTIM, 9))
"""
FILES = """
attempt("read", lambda: open(OWNED).read())
attempt("list", lambda: os.listdir(os.path.dirname(OWNED)))
attempt("write", lambda: open(OWNED, "a").close())
attempt("mode", lambda: os.chmod(OWNED, 0o644))
attempt("owner", lambda: os.chown(OWNED, os.getuid(), -1))
attempt("times", lambda: os.utime(OWNED, (1, 1)))
attempt("attribute", lambda: os.setxattr(OWNED, "user.a", b"1"))
attempt("link", lambda: os.link(OWNED, OWNED + ".link"))
attempt("cut", lambda: os.truncate(OWNED, 1))
attempt("cut while reading", lambda: os.close(os.open(OWNED, os.O_RDONLY | os.O_TRUNC)))
attempt("cut unopened", lambda: os.close(os.open(OWNED, 3 | os.O_TRUNC)))
attempt("rename", lambda: os.rename(OWNED, OWNED + ".moved"))
attempt("remove", lambda: os.unlink(OWNED + ".moved" if os.path.exists(OWNED + ".moved") else OWNED))
attempt("watch", lambda: libc("inotify_init1", 0))
"""
MEMORY = """
SIZE = 600 << 20
LIBC.mmap.restype = ctypes.c_void_p
def read_only(size):
    at = LIBC.mmap(None, ctypes.c_size_t(size), 3, 0x22, -1, ctypes.c_long(0))
    if at == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), "mmap")
    ctypes.memset(at, 1, 1)
    libc("mprotect", ctypes.c_void_p(at), ctypes.c_size_t(size), 1)
attempt("a block", lambda: len(bytearray(SIZE)))
attempt("shared", lambda: mmap.mmap(-1, SIZE)[:1])
attempt("private", lambda: mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE)[:1])
attempt("like a stack", lambda: mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x100)[:1])
attempt("a file in memory", lambda: os.memfd_create("x"))
attempt("written, then read-only", lambda: [read_only(64 << 20) for _ in range(32)])
attempt("page tables", lambda: mmap.mmap(-1, 1 << 40, flags=mmap.MAP_PRIVATE | 0x4000, prot=mmap.PROT_READ))
attempt("stack", lambda: resource.setrlimit(resource.RLIMIT_STACK, (SIZE, SIZE)))
attempt("System V", lambda: libc("shmget", 0, 4096, 0o1600))
limit = resource.getrlimit(resource.RLIMIT_DATA)[1]
attempt("to the limit", lambda: resource.setrlimit(resource.RLIMIT_DATA, (limit, limit)))
attempt("a block then", lambda: len(bytearray(SIZE)))
attempt("beyond it", lambda: resource.setrlimit(resource.RLIMIT_DATA, (-1, -1)))
"""
REFUSED = {"EPERM", "EACCES", "MemoryError", "ENOMEM", "ValueError"}


def answers(text: str) -> dict[str, str]:
    return dict(line.split(": ") for line in text.splitlines())


def victim_of(folder: Path) -> subprocess.Popen[bytes]:
    """Another process of the user's, with a secret in its environment. Running once it has made the file `OWNED`."""
    file = folder / "owned" / "file"
    make = f"os.mkdir({str(file.parent)!r}, 0o700); open({str(file)!r}, 'w').write('secret')"
    code = f"import os, time; {make}; time.sleep(600)"
    process = subprocess.Popen([*unprivileged(), PYTHON, "-I", "-S", "-c", code])
    until(file.exists)
    return process


@linux
@pytest.mark.parametrize("code", [PROCESSES, FILES, MEMORY], ids=["processes", "files", "memory"])
def test_what_a_users_process_may_do_and_a_cell_may_not(code: str, folder: Path) -> None:
    """A cell has its user's uid: only the filters keep it from that user's processes, files and memory."""
    confined: dict[str, str] = {}

    async def main() -> None:
        async with opened(folder) as made:
            confined.update(answers(await printed(made, program)))
            assert await printed(made, "print(context[:8])") == "line one\n"

    victim = victim_of(folder)
    try:
        program = f"VICTIM, OWNED = {victim.pid}, {str(folder / 'owned' / 'file')!r}\n{ATTEMPT}{code}"
        run(main)
        assert victim.poll() is None
        bare = [*unprivileged(), PYTHON, "-I", "-S", "-c", program]
        free = answers(subprocess.run(bare, capture_output=True, text=True, timeout=60, check=True).stdout)
    finally:
        victim.kill()
        victim.wait()
    assert set(free) == set(confined)
    assert {label for label, said in confined.items() if said == "worked"} == {"to the limit"} & set(free)
    assert set(confined.values()) <= REFUSED | {"worked"}
    in_the_way = {label for label, said in free.items() if said != "worked"}
    assert in_the_way <= {"attribute", "cut unopened"}, "of file systems and kernels that do not have it"


@linux
def test_the_environment_is_three_names_and_the_scratch_folder_is_private(folder: Path) -> None:
    """No key, no proxy; the folder is empty, 0700 and where the cell is."""
    code = """
import os
print(sorted(os.environ), oct(os.stat(".").st_mode)[-4:], os.listdir(), os.getcwd() == os.environ["HOME"])
"""

    async def main() -> None:
        async with opened(folder) as made:
            assert await printed(made, code) == "['HOME', 'LANG', 'PATH'] 0700 [] True\n"

    run(main)


# -- a kernel like any other --------------------------------------------------------------------------------------


@linux
def test_a_file_larger_than_the_memory_is_scanned(folder: Path) -> None:
    """It is mapped, which the limit does not count; what is read is the host's bytes."""
    file = folder / "huge"
    with file.open("wb") as out:
        out.truncate(160 * MIB)
        out.seek(159 * MIB)
        out.write(b"the needle")

    async def main() -> None:
        async with opened(folder, file, memory=96 * MIB) as made:
            code = "print(type(context).__name__, context.find('the needle'), len(grep('needle')))"
            assert await printed(made, code) == f"Text {159 * MIB} 1\n"

    run(main)


@linux
def test_a_private_file_is_read_and_stays_private(folder: Path) -> None:
    """0600: the kernel has its owner's uid."""
    file = folder / "private"
    file.write_text("mine")
    file.chmod(0o600)
    if os.geteuid() == 0:
        os.chown(file, NOBODY, NOBODY)

    async def main() -> None:
        async with opened(folder, file) as made:
            assert await printed(made, "print(context)") == "mine\n"

    run(main)
    assert file.stat().st_mode & 0o777 == 0o600


@linux
def test_many_files_children_large_answers_and_sub_calls(folder: Path) -> None:
    """What is packed, spooled, handed to a child and asked of the host goes the same ways as with a container."""
    files = [folder / f"{number:02}.txt" for number in range(20)]
    for file in files:
        file.write_text(f"this is {file.name}\n")
    documents = [Slice(file.name, file, file.stat().st_size) for file in files]

    async def main() -> None:
        async with opened(folder, *files) as made:
            code = "print(len(context), context['07.txt'], llm_query('abc'))"
            assert await printed(made, code) == "20 this is 07.txt\n ABC\n"
            child = made.child()
            try:
                await child.open(made.placed(documents)[3:5], FakeHost())
                result = await child.execute("print(list(context.values()))", timeout=30)
                assert result.stdout.head == "['this is 03.txt\\n', 'this is 04.txt\\n']\n"
            finally:
                await child.close()
            result = await made.execute("FINAL(b'z' * 3_000_000)", timeout=30)
            assert result.answer is not None
            assert (result.answer.kind, result.answer.size) == ("bytes", 3_000_000)
            assert await made.changes() == ()

    run(main)
    gc.collect()  # an answer's file lives as long as the answer
    assert sorted(folder.iterdir()) == files


@linux
def test_the_kill_ladder_is_that_of_a_container(folder: Path) -> None:
    """Interrupted where that helps, killed and replaced where it does not; out of memory keeps the variables."""

    async def main() -> None:
        async with opened(folder) as made:
            loop = await made.execute("kept = 7\nwhile True: pass", timeout=0.3)
            assert (loop.status, loop.restarted) == ("timeout", "")
            bomb = await made.execute("x = []\nwhile True: x.append(bytearray(1 << 20))", timeout=30)
            assert (bomb.status, "Variables are kept" in bomb.error) == ("error", True)
            assert await printed(made, "del x; print(kept)") == "7\n"
            held = await made.execute("sum(range(10**12))", timeout=0.3)
            assert (held.status, "every variable is gone" in held.restarted) == ("timeout", True)
            crashed = await made.execute("import ctypes; ctypes.string_at(0)", timeout=30)
            assert (crashed.status, "SIGSEGV" in crashed.restarted) == ("died", True)
            assert await printed(made, "print(context[:8])") == "line one\n"

    run(main)


# -- nothing is left --------------------------------------------------------------------------------------------------

HOSTILE = """
import os
os.mkdir("closed", 0)
here = os.open(".", os.O_RDONLY)
for _ in range(2000):
    os.mkdir("deeper")
    os.chdir("deeper")
os.fchdir(here)
print(os.getppid(), os.getpid())
"""


def gone(pid: int) -> bool:
    """Whether no such process runs; one that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Raises `AssertionError` when it does not come true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@linux
def test_a_hostile_scratch_folder_goes_with_the_process(folder: Path) -> None:
    """Folders that cannot be entered, and deeper than any path is long."""
    pids: list[int] = []

    async def main() -> None:
        async with opened(folder) as made:
            pids.extend(map(int, (await printed(made, HOSTILE)).split()))
            assert len([*folder.glob("rlm-kernel-*")]) == 1

    run(main)
    assert [gone(pid) for pid in pids] == [True, True]
    assert [path.name for path in folder.iterdir()] == ["input"]


KILLED = """
import asyncio, os, sys
from pathlib import Path
from rlm_cli.sandbox import Slice
from tests.sandbox.test_process import FakeHost, sandbox
async def main():
    made = sandbox(Path(sys.argv[1]))
    file = Path(sys.argv[1]) / "input"
    await made.open([Slice("input", file, file.stat().st_size)], FakeHost())
    await made.execute(sys.argv[2], timeout=600, on_output=lambda _, text: print(text, end="", flush=True))
asyncio.run(main())
"""


@linux
@pytest.mark.parametrize("cell", ["while True: pass", "sum(range(10**12))"], ids=["loop", "lock held"])
def test_a_killed_host_leaves_nothing(cell: str, folder: Path) -> None:
    """SIGKILL while a cell computes: supervisor, worker and scratch folder are gone soon after."""
    (folder / "input").write_text("x")
    code = f"{HOSTILE}import time; time.sleep(0.2)\n{cell}"  # output is sent on once it has rested for a moment
    command = [sys.executable, "-c", KILLED, str(folder), code]
    host = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert host.stdout is not None
    with host.stdout as said:
        supervisor, worker = map(int, said.readline().split())
    assert not gone(worker)
    host.kill()
    host.wait()
    until(lambda: gone(supervisor) and gone(worker))
    until(lambda: [path.name for path in folder.iterdir()] == ["input"])


@linux
def test_a_kernel_that_somebody_kills_ends_the_run_with_one_error(folder: Path) -> None:
    """The supervisor's death is its worker's, too."""

    async def main() -> None:
        async with opened(folder) as made:
            supervisor, worker = map(int, (await printed(made, "import os; print(os.getppid(), os.getpid())")).split())
            cell = asyncio.ensure_future(made.execute("while True: pass", timeout=60))
            await asyncio.sleep(0)
            os.kill(supervisor, signal.SIGKILL)
            with pytest.raises(SandboxError) as caught:
                await cell
            assert caught.value.code == "sandbox_lost"
            await asyncio.to_thread(until, lambda: gone(worker))

    run(main)


@linux
def test_a_second_ctrl_c_waits_for_nobody(folder: Path) -> None:
    """`kill_now`, from another thread."""
    pids: list[int] = []

    async def main() -> None:
        async with opened(folder) as made:
            pids.extend(map(int, (await printed(made, "import os; print(os.getppid(), os.getpid())")).split()))
            cell = asyncio.ensure_future(made.execute("sum(range(10**12))", timeout=60))
            await asyncio.sleep(0)
            await asyncio.to_thread(made.kill_now)
            with pytest.raises(SandboxError):
                await cell

    run(main)
    until(lambda: all(map(gone, pids)))
    until(lambda: [path.name for path in folder.iterdir()] == ["input"])


class Silent(ProcessChannel):
    """A channel of a host that falls asleep, to a supervisor that takes it for dead after 2 s, not after a minute."""

    asleep = threading.Event()

    def write(self, data: bytes) -> None:
        said = f"SILENCE = {supervisor.SILENCE}".encode()
        if not self.asleep.is_set():
            super().write(data.replace(said, b"SILENCE = 2".ljust(len(said))))


@linux
def test_a_host_that_slept_is_told_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The supervisor ends by itself, whatever a cell does, and the error says why; nothing is left."""
    monkeypatch.setattr(process_sandbox, "ProcessChannel", Silent)
    Silent.asleep.clear()
    pids: list[int] = []

    async def main() -> None:
        async with opened(folder) as made:
            pids.extend(map(int, (await printed(made, "import os; print(os.getppid(), os.getpid())")).split()))
            Silent.asleep.set()
            with pytest.raises(SandboxError, match="no word from here for a minute") as caught:
                await made.execute("while True: pass", timeout=60)
            assert caught.value.code == "deserted"

    run(main)
    assert [gone(pid) for pid in pids] == [True, True]
    assert [path.name for path in folder.iterdir()] == ["input"]


@linux
def test_a_process_that_cannot_start_says_why(folder: Path) -> None:
    """In the system's own words: here, that the folder for its scratch is not there."""
    file = folder / "input"
    file.write_text("x")
    made = sandbox(folder / "absent")

    async def main() -> None:
        try:
            with pytest.raises(SandboxError, match=r"it said: .*No such file or directory"):
                await made.open([Slice("input", file, 1)], FakeHost())
        finally:
            await made.close()

    run(main)


class Gated(ProcessChannel):
    """A channel that the host reads only while `gate` is open."""

    gate = threading.Event()

    def read(self) -> bytes:
        self.gate.wait()
        return super().read()


def resident(pid: int) -> int:
    """Bytes of memory that a process has."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def ticks(*pids: int) -> int:
    """Processor time that they have used."""
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return sum(int(each[11]) + int(each[12]) for each in fields)


@linux
def test_a_host_that_does_not_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While nobody reads, a flood waits in the cell and not in the supervisor; then it goes on to the last byte."""
    monkeypatch.setattr(process_sandbox, "ProcessChannel", Gated)
    Gated.gate.set()

    async def main() -> None:
        async with opened(folder) as made:
            pids = [*map(int, (await printed(made, "import os; print(os.getppid(), os.getpid())")).split())]
            before = resident(pids[0])
            code = "print('on', flush=True)\nfor _ in range(200): FINAL('x' * 2**20)\nprint('end')"
            cell = asyncio.create_task(made.execute(code, timeout=60))
            Gated.gate.clear()
            used = -1
            while used != (used := ticks(*pids)):  # until nothing moves any more
                await asyncio.sleep(0.5)
            assert (cell.done(), resident(pids[0]) - before < 16 * MIB) == (False, True)
            Gated.gate.set()
            result = await cell
            assert (result.status, result.stdout.head) == ("ok", "on\nend\n")
            assert ticks(*pids) > used

    run(main)


# -- where it is refused --------------------------------------------------------------------------------------------

MACHINE = Machine("linux", 1000, "x86_64", filters=True, landlock=4)


@pytest.mark.parametrize(
    ("machine", "code"),
    [
        (MACHINE, ""),
        (replace(MACHINE, landlock=1), ""),
        (replace(MACHINE, landlock=0), "process_no_landlock"),
        (replace(MACHINE, uid=0), "process_root"),
        (replace(MACHINE, system="darwin"), "process_not_linux"),
        (replace(MACHINE, system="win32", uid=-1), "process_not_linux"),
        (replace(MACHINE, filters=False, architecture="riscv64"), "process_no_seccomp"),
    ],
)
def test_who_cannot_confine_is_told_why(machine: Machine, code: str) -> None:
    """One code each, exit 5, and the container as the way out."""
    error = refusal(machine)
    assert (error.code if error else "") == code
    assert error is None or (error.exit_code, "--sandbox docker" in error.hint) == (ExitCode.SANDBOX, True)


BOOT = BootFacts(
    version=1, uid=1000, gid=1000, pid=7, cap_eff=0, no_new_privs=False, seccomp=0, memory_limit=256 * MIB,
    pids_limit=None, interfaces=("lo", "eth0"), root_writable=True, in_writable=False, dumpable=False, python="3.11",
    machine="x86_64",
)  # fmt: skip
WORKER = WorkerFacts(seccomp=2, filtered=True, landlock=4, no_new_privs=True)


def test_a_confined_process_is_right() -> None:
    assert wrong_facts(BOOT, WORKER, 256 * MIB) == ()


@pytest.mark.parametrize(
    ("boot", "worker", "named"),
    [
        (replace(BOOT, uid=0), WORKER, "root"),
        (replace(BOOT, cap_eff=1), WORKER, "capabilities"),
        (replace(BOOT, dumpable=True), WORKER, "looked into"),
        (replace(BOOT, memory_limit=None), WORKER, "memory"),
        (replace(BOOT, memory_limit=512 * MIB), WORKER, "memory"),
        (BOOT, replace(WORKER, no_new_privs=False), "privileges"),
        (BOOT, replace(WORKER, filtered=False), "filter"),
        (BOOT, replace(WORKER, seccomp=0), "filter"),
        (BOOT, replace(WORKER, landlock=0, failures=("Landlock: denied",)), "Landlock: denied"),
    ],
)
def test_each_wrong_fact_is_named_alone(boot: BootFacts, worker: WorkerFacts, named: str) -> None:
    """Then nothing is run."""
    (wrong,) = wrong_facts(boot, worker, 256 * MIB)
    assert named in wrong


@linux
def test_a_kernel_that_is_root_is_refused(folder: Path) -> None:
    """Whatever asked for it: what the process says about itself decides."""
    if os.geteuid() != 0:
        pytest.skip("only root can make one")
    file = folder / "input"
    file.write_text("x")
    made = ProcessSandbox(SandboxOptions(memory=256 * MIB), folder=folder, command=(PYTHON,))

    async def main() -> None:
        try:
            with pytest.raises(SandboxError, match="root") as caught:
                await made.open([Slice("input", file, 1)], FakeHost())
            assert caught.value.code == "boot_facts"
        finally:
            await made.close()

    run(main)


# -- the command line -------------------------------------------------------------------------------------------------

SCRIPT = [
    {"reply": "```repl\nimport os\nopen('note', 'w').write('x')\nprint('two refunds')\n```"},
    {"reply": "```repl\nwhile True: pass\n```"},
]


def started(folder: Path, *words: str) -> subprocess.Popen[bytes]:
    """`rlm` as an ordinary user."""
    command = [*unprivileged(ROOT), sys.executable, "-m", "rlm_cli", *words]
    own = {"HOME": str(folder), "RLM_HOME": str(folder / "rlm"), "PYTHONPATH": str(ROOT), "SECRET_KEY": "sk-planted"}
    env = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1", **own}
    return subprocess.Popen(
        command, cwd=folder, env=env, start_new_session=True, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@linux
def test_a_run_names_what_is_missing_and_records_what_it_ran_on(folder: Path) -> None:
    """The banner is on stderr; the first record and the result name the back-end; Ctrl-C keeps what was
    found and leaves nothing behind."""
    (folder / "input.txt").write_text("a refund\na refund\n")
    (folder / "script.jsonl").write_text("\n".join(map(json.dumps, SCRIPT)))
    words = ("input.txt", "Q", "--sandbox", "process", "-m", "scripted:script.jsonl", "--mode", "rlm", "--events")
    process = started(folder, "ask", *words)
    assert process.stdout is not None
    assert process.stderr is not None
    lines = []
    for line in process.stdout:
        lines.append(json.loads(line))
        if lines[-1]["type"] == "code.written" and "while True" in line.decode():
            process.send_signal(signal.SIGINT)
    err = process.stderr.read().decode()
    process.stdout.close()
    process.stderr.close()
    assert process.wait(30) == 130
    first, last = lines[0], lines[-1]["result"]
    assert (first["type"], first["sandbox"]) == ("run.started", "process")
    assert (last["sandbox"]["kind"], last["sandbox"]["network"], last["answer"]) == ("process", False, "two refunds\n")
    assert MISSING in last["warnings"]
    assert f"rlm: warning: {MISSING}\n" in err
    assert [*folder.rglob("rlm-kernel-*"), *folder.rglob("note")] == []


@linux
def test_what_comes_from_the_network_needs_a_word(folder: Path) -> None:
    """Exit 5 before anything is fetched or asked."""
    process = started(folder, "ask", "https://192.0.2.1/x", "Q", "--sandbox", "process", "-m", "offline", "--json")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, json.loads(out)["error"]["code"]) == (5, "process_fetched")
    assert b"-y" in err


@linux
def test_doctor_says_that_it_works(folder: Path) -> None:
    """Chosen, it takes the place of the engine's checks."""
    process = started(folder, "doctor", "--json", "--set", "sandbox.runtime=process", "--set", "model=offline")
    out, _ = process.communicate(timeout=60)
    found = {check["name"]: check for check in json.loads(out)["checks"]}
    assert (process.returncode, found["process"]["status"]) == (0, "ok")
    assert {"runtime", "image", "container"} & set(found) == set()
    assert "Landlock" in found["process"]["text"]


@linux
def test_where_there_is_no_engine_the_way_without_is_named(folder: Path) -> None:
    """With its cost, and never taken."""
    (folder / "input.txt").write_text("x")
    words = ("input.txt", "Q", "-m", "offline", "--mode", "rlm", "--json")
    process = started(folder, "ask", *words)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 5
    assert b"less well protected: --sandbox process" in err
    assert json.loads(out)["sandbox"]["kind"] == ""
