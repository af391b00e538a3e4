"""What a worker gives up: the filter's program on both architectures, the rights per version of Landlock, and both for
real, each beside what happens without."""

from __future__ import annotations

import errno
import json
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rlm_cli.sandbox import SandboxOptions
from rlm_cli.sandbox.docker_sandbox import DockerSandbox
from rlm_cli.sandbox.kernel import landlock, seccomp, wire
from rlm_cli.sandbox.kernel.seccomp import CONTAINER, Check, Policy, program
from rlm_cli.sources import Document
from rlm_cli.sources.convert import confine as converters
from tests.kernel.local import FakeHost, kernel, run

LINUX = sys.platform == "linux" and platform.machine() in seccomp.ARCHITECTURES
on_linux = pytest.mark.skipif(not LINUX, reason="the filter is for Linux on x86-64 and ARM64")

X86, ARM, I386 = 0xC000003E, 0xC00000B7, 0x40000003  # AUDIT_ARCH_*, linux/audit.h
MACHINES = {"x86_64": X86, "aarch64": ARM}
X32 = 0x40000000
ALLOWED = 0

Instruction = tuple[int, int, int, int]


def verdict(code: Sequence[Instruction], architecture: int, number: int, arguments: Sequence[int] = ()) -> int:
    """Runs a program as the kernel does: the errno that the call gets, `ALLOWED` if it goes on. Fails on what it would
    not load: an unknown instruction, a jump or an end out of the program, a load out of `struct seccomp_data`."""
    data = number.to_bytes(4, "little") + architecture.to_bytes(4, "little") + bytes(8)
    data += b"".join((value % 2**64).to_bytes(8, "little") for value in [*arguments, *[0] * (6 - len(arguments))])
    accumulator, at = 0, 0
    while True:
        operation, if_true, if_false, operand = code[at]
        assert 0 <= operand < 2**32 and 0 <= if_true < 256 and 0 <= if_false < 256
        at += 1
        if operation == 0x20:  # BPF_LD | BPF_W | BPF_ABS
            assert operand % 4 == 0 and operand + 4 <= len(data) == 64
            accumulator = int.from_bytes(data[operand : operand + 4], "little")
        elif operation == 0x54:  # BPF_ALU | BPF_AND | BPF_K
            accumulator &= operand
        elif operation == 0x15:  # BPF_JMP | BPF_JEQ | BPF_K
            at += if_true if accumulator == operand else if_false
        elif operation == 0x25:  # BPF_JMP | BPF_JGT | BPF_K
            at += if_true if accumulator > operand else if_false
        else:
            assert operation == 0x06, f"instruction {operation:#x}"  # BPF_RET | BPF_K
            if operand == 0x7FFF0000:  # SECCOMP_RET_ALLOW
                return ALLOWED
            assert operand & 0xFFFF0000 == 0x00050000 and operand & 0xFFFF  # SECCOMP_RET_ERRNO
            return operand & 0xFFFF


def on(machine: str, number: int, *arguments: int) -> int:
    """What model code's call gets on a machine."""
    return verdict(program(machine, CONTAINER), MACHINES[machine], number, arguments)


# -- the container's filter, against numbers written down apart from the module's ------------------------------------

EPERM, ENOSYS = errno.EPERM, errno.ENOSYS

# (call, its number on x86-64, on ARM64), from the manual of each call and the tables of the Linux sources.
REFUSED = [
    ("unshare", 272, 97), ("setns", 308, 268), ("chroot", 161, 51), ("pivot_root", 155, 41), ("mount", 165, 40),
    ("umount2", 166, 39), ("open_tree", 428, 428), ("move_mount", 429, 429), ("fsopen", 430, 430),
    ("fsconfig", 431, 431), ("fsmount", 432, 432), ("fspick", 433, 433), ("mount_setattr", 442, 442),
    ("name_to_handle_at", 303, 264), ("open_by_handle_at", 304, 265), ("ptrace", 101, 117),
    ("process_vm_readv", 310, 270), ("process_vm_writev", 311, 271), ("pidfd_getfd", 438, 438), ("kcmp", 312, 272),
    ("io_uring_setup", 425, 425), ("io_uring_enter", 426, 426), ("io_uring_register", 427, 427), ("bpf", 321, 280),
    ("perf_event_open", 298, 241), ("userfaultfd", 323, 282), ("add_key", 248, 217), ("request_key", 249, 218),
    ("keyctl", 250, 219), ("flock", 73, 32), ("fanotify_init", 300, 262), ("inotify_init1", 294, 26),
    ("init_module", 175, 105), ("finit_module", 313, 273), ("delete_module", 176, 106), ("kexec_load", 246, 104),
    ("kexec_file_load", 320, 294), ("reboot", 169, 142), ("swapon", 167, 224), ("acct", 163, 89),
    ("quotactl", 179, 60), ("syslog", 103, 116), ("sethostname", 170, 161), ("settimeofday", 164, 170),
    ("clock_settime", 227, 112), ("adjtimex", 159, 171), ("connect", 42, 203), ("bind", 49, 200), ("listen", 50, 201),
    ("accept4", 288, 242), ("sync", 162, 81), ("mq_open", 240, 180), ("io_setup", 206, 0),
    ("splice", 275, 76), ("vmsplice", 278, 75), ("tee", 276, 77), ("shmget", 29, 194), ("msgget", 68, 186),
    ("semget", 64, 190),
]  # fmt: skip

# What Python, its threads, children, event loops and shared memory are made of.
NEEDED = [
    ("read", 0, 63), ("write", 1, 64), ("openat", 257, 56), ("close", 3, 57), ("fstat", 5, 80), ("newfstatat", 262, 79),
    ("statx", 332, 291), ("lseek", 8, 62), ("mmap", 9, 222), ("mprotect", 10, 226), ("brk", 12, 214),
    ("pipe2", 293, 59), ("dup3", 292, 24), ("futex", 202, 98), ("execve", 59, 221), ("wait4", 61, 260),
    ("exit_group", 231, 94), ("getdents64", 217, 61), ("memfd_create", 319, 279), ("sendmsg", 46, 211),
    ("recvmsg", 47, 212), ("sendfile", 40, 71), ("copy_file_range", 326, 285),
    ("epoll_create1", 291, 20), ("epoll_pwait", 281, 22), ("eventfd2", 290, 19), ("prlimit64", 302, 261),
    ("getrandom", 318, 278), ("rt_sigaction", 13, 134), ("kill", 62, 129), ("tgkill", 234, 131), ("rseq", 334, 293),
    ("pidfd_open", 434, 434), ("sched_getaffinity", 204, 123), ("unlinkat", 263, 35), ("renameat2", 316, 276),
]  # fmt: skip


@pytest.mark.parametrize("machine", MACHINES)
def test_what_no_cell_needs_is_refused_and_what_python_needs_is_not(machine: str) -> None:
    """By number, on each architecture; nothing that is asked about is left to the engine's filter alone."""
    results = [
        {name: on(machine, x86 if machine == "x86_64" else arm) for name, x86, arm in table}
        for table in (REFUSED, NEEDED)
    ]
    assert results == [{name: EPERM for name, *_ in REFUSED}, {name: ALLOWED for name, *_ in NEEDED}]


THREAD = 0x3D0F00  # glibc's flags of a thread: CLONE_VM | FS | FILES | SIGHAND | THREAD | SYSVSEM | SETTLS | ...
FORK, VFORK = 0x1200011, 0x4111
NAMESPACES = {
    "NS": 0x20000, "CGROUP": 0x2000000, "UTS": 0x4000000, "IPC": 0x8000000, "USER": 0x10000000, "PID": 0x20000000,
    "NET": 0x40000000,
}  # fmt: skip


@pytest.mark.parametrize(
    ("x86", "arm", "arguments", "result"),
    [
        *((56, 220, (flags,), ALLOWED) for flags in (THREAD, FORK, VFORK, 17)),
        *((56, 220, (flag | 17,), EPERM) for flag in NAMESPACES.values()),
        (435, 435, (0, 88), ENOSYS),  # clone3: C libraries then use clone
        *((41, 198, (family, 1, 0), errno.EAFNOSUPPORT) for family in (1, 2, 10, 16, 17, 38, 40)),
        *((53, 199, (1, kind, 0), ALLOWED) for kind in (1, 1 | 0o2000000, 1 | 0o4000)),
        *((53, 199, (1, kind, 0), errno.ESOCKTNOSUPPORT) for kind in (2, 5, 2 | 0o2000000)),
        *((53, 199, (family, 1, 0), errno.EAFNOSUPPORT) for family in (2, 40)),
        *((72, 25, (3, command), ALLOWED) for command in (0, 1, 2, 3, 4, 1030, 1031, 1033, 1034)),
        *((72, 25, (3, command), EPERM) for command in (6, 7, 37, 38, 1024, 1040)),  # locks, and leases
        *((16, 29, (0, command), ALLOWED) for command in (0x5401, 0x5413, 0x541B)),  # TCGETS TIOCGWINSZ FIONREAD
        *((16, 29, (0, command), EPERM) for command in (0x5412, 0x541C)),  # TIOCSTI TIOCLINUX
        *((x86, arm, (0, 0), ALLOWED) for x86, arm in ((302, 261), (203, 122), (144, 119), (142, 118), (314, 274))),
        *((x86, arm, (1, 0), EPERM) for x86, arm in ((302, 261), (203, 122), (144, 119), (142, 118), (314, 274))),
        *((141, 140, (which, who), EPERM) for which, who in ((0, 1), (1, 0), (2, 0))),  # setpriority: PRIO_PGRP, _USER
        *((251, 30, (which, who), EPERM) for which, who in ((1, 1), (2, 0), (3, 0))),  # ioprio_set
        (141, 140, (0, 0), ALLOWED),
        (251, 30, (1, 0), ALLOWED),
        *((number, number, (), ENOSYS) for number in (471, 1000, X32 - 1)),  # newer than the table
    ],
)
def test_arguments_decide(x86: int, arm: int, arguments: tuple[int, ...], result: int) -> None:
    """On both architectures; and the upper half of a register, which the kernel ignores, changes nothing."""
    dirty = tuple(value | 0xDEAD << 32 for value in arguments)
    seen = [on(machine, number, *given) for machine, number in (("x86_64", x86), ("aarch64", arm))
            for given in (arguments, dirty)]  # fmt: skip
    assert seen == [result] * 4


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("number", [0, 1, 41, 56, 59, 102, 359, 435])
def test_another_way_into_the_kernel_is_no_way_round(machine: str, number: int) -> None:
    """32-bit calls (102 and 359 are its sockets), x32 calls, those of the other architecture: whatever the number."""
    code = program(machine, CONTAINER)
    foreign = [value for value in (X86, ARM, I386, 0x40000028, 0) if value != MACHINES[machine]]
    assert [verdict(code, value, number) for value in foreign] == [EPERM] * len(foreign)
    assert verdict(code, MACHINES[machine], number | X32) == ENOSYS


# -- any policy -----------------------------------------------------------------------------------------------------

numbers = st.sampled_from(sorted({n for pair in seccomp.CALLS.values() for n in pair if n is not None}))
words = st.one_of(st.integers(0, 2**64 - 1), st.integers(0, 40), st.sampled_from([2**32 - 1, 2**32, 2**63]))
values = st.one_of(st.integers(0, 40), st.integers(0, 2**32 - 1))
errnos = st.integers(1, 133)
checks = st.builds(
    Check,
    st.integers(0, 5),
    st.lists(values, min_size=1, max_size=4, unique=True).map(tuple),
    errnos,
    mask=st.sampled_from([seccomp.WHOLE, 0xF, 0x7E020000]),
    among=st.booleans(),
)
policies = st.builds(
    lambda calls, other: Policy(calls, other=other),
    st.dictionaries(
        st.sampled_from(sorted(seccomp.CALLS)), st.one_of(errnos, st.lists(checks, max_size=3).map(tuple)), max_size=40
    ),
    st.one_of(st.just(0), errnos),
)


def meant(policy: Policy, column: int, number: int, arguments: Sequence[int]) -> int:
    """What a policy says of a call, in Python."""
    if number > seccomp.NEWEST:
        return ENOSYS
    named = [said for name, said in policy.calls.items() if seccomp.CALLS[name][column] == number]
    if not named:
        return policy.other
    if isinstance(named[0], int):
        return named[0]
    for check in named[0]:
        if (arguments[check.argument] & 0xFFFFFFFF & check.mask in check.values) != check.among:
            return check.errno
    return ALLOWED


@given(
    policies,
    st.sampled_from([*MACHINES]),
    st.one_of(numbers, st.integers(0, 2**32 - 1)),
    st.lists(words, min_size=6, max_size=6),
)
@example(CONTAINER, "x86_64", 53, [1, 1, 0, 0, 0, 0])
@example(converters.POLICY, "aarch64", 56, [0] * 6)
def test_a_program_does_what_its_policy_says(policy: Policy, machine: str, number: int, arguments: list[int]) -> None:
    """Whatever the policy, the call and its arguments; and no instruction goes astray."""
    column = [*MACHINES].index(machine)
    found = verdict(program(machine, policy), MACHINES[machine], number, arguments)
    assert found == meant(policy, column, number, arguments)


def test_a_call_without_a_number_is_a_mistake_that_is_noticed() -> None:
    """A misspelt name would be a hole."""
    with pytest.raises(KeyError, match="io_urinc_setup"):
        Policy({"io_urinc_setup": EPERM})


@on_linux
def test_the_numbers_are_this_kernels() -> None:
    """By what the system's own headers say, where they are installed, of every call that they know."""
    headers = {
        "x86_64": "/usr/include/x86_64-linux-gnu/asm/unistd_64.h",
        "aarch64": "/usr/include/asm-generic/unistd.h",
    }
    machine = platform.machine()
    if not Path(headers[machine]).exists():
        pytest.skip("linux-libc-dev is not installed")
    words_of = (line.split() for line in Path(headers[machine]).read_text().splitlines())
    known = {w[1].removeprefix("__NR_").removeprefix("__NR3264_"): int(w[2])
             for w in words_of if len(w) == 3 and w[0] == "#define" and w[2].isdigit()}  # fmt: skip
    column = [*MACHINES].index(machine)
    ours = {name: pair[column] for name, pair in seccomp.CALLS.items() if name in known}
    assert len(ours) > 100
    assert ours == {name: known[name] for name in ours}


# -- installed ------------------------------------------------------------------------------------------------------

PROBES = """
import ctypes, errno, fcntl, json, os, resource, socket, sys, tempfile
from rlm_cli.sandbox.kernel import confinement, landlock, seccomp, wire
libc = ctypes.CDLL(None, use_errno=True)
def tried(act):
    try:
        act()
        return 0
    except OSError as error:
        return error.errno
def raw(*arguments):
    if libc.syscall(*map(ctypes.c_long, arguments)) == -1:
        raise OSError(ctypes.get_errno(), "")
def number(name):
    return seccomp.CALLS[name][[*seccomp.ARCHITECTURES].index(os.uname().machine)]
held = open(sys.argv[1])
pair = socket.socketpair()
pipe, other = os.pipe(), os.pipe()
vector = (ctypes.c_void_p * 2)(ctypes.addressof(ctypes.create_string_buffer(b"x")), 1)
requests = ctypes.c_ulong(0)
probes = {
    "inet": lambda: socket.socket(socket.AF_INET).close(),
    "unix": lambda: socket.socket(socket.AF_UNIX).close(),
    "datagrams": lambda: socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM),
    "flock": lambda: fcntl.flock(held, fcntl.LOCK_SH),
    "lockf": lambda: fcntl.lockf(held, fcntl.LOCK_SH),
    "lease": lambda: fcntl.fcntl(held, 1024, fcntl.F_UNLCK),
    "bind": lambda: pair[0].bind(sys.argv[1] + ".sock"),
    "limits": lambda: resource.prlimit(os.getppid(), resource.RLIMIT_NOFILE),
    "schedule": lambda: os.sched_setaffinity(os.getppid(), os.sched_getaffinity(os.getppid())),
    "priority": lambda: os.setpriority(os.PRIO_PROCESS, os.getppid(), os.getpriority(os.PRIO_PROCESS, os.getppid())),
    "inotify": lambda: raw(number("inotify_init1"), 0),
    "aio": lambda: raw(number("io_setup"), 1, ctypes.addressof(requests)),
    "unshare": lambda: raw(number("unshare"), 0),
    "handle": lambda: raw(number("name_to_handle_at"), 0, 0, 0, 0, 0),
    "setns": lambda: raw(number("setns"), -1, 0),
    "splice": lambda: os.splice(held.fileno(), pipe[1], 1),
    "tee": lambda: raw(number("tee"), pipe[0], other[1], 1, 0),
    "vmsplice": lambda: raw(number("vmsplice"), pipe[1], ctypes.addressof(vector), 1, 0),
    "rings": lambda: raw(number("io_uring_enter"), -1, 0, 0, 0, 0),
    "far": lambda: raw(900),
}
before = {name: tried(act) for name, act in probes.items()}
"""


def probe(script: str, *arguments: str) -> Any:
    """What a Python process of its own prints as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", PROBES + script, *arguments], capture_output=True, timeout=60, check=False, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@on_linux
def test_the_running_kernel_refuses_what_it_did_before(tmp_path: Path) -> None:
    """The same calls of one process, without the filter and with it; what was made before stays usable."""
    file = tmp_path / "file"
    file.write_text("x")
    script = """
installed = seccomp.install(seccomp.CONTAINER)
after = {name: tried(act) for name, act in probes.items()}
pair[0].sendall(b"x")
alive = [pair[1].recv(1) == b"x", tried(socket.socketpair), tried(lambda: os.waitpid(os.fork() or os._exit(0), 0))]
mode = [line for line in open("/proc/self/status") if line.startswith(("Seccomp:", "NoNewPrivs:"))]
print(json.dumps([installed, before, after, alive, mode]))
"""
    installed, before, after, alive, mode = probe(script, str(file))
    assert (installed, alive, mode) == (True, [True, 0, 0], ["NoNewPrivs:\t1\n", "Seccomp:\t2\n"])
    names = ("inet", "unix", "datagrams", "flock", "lockf", "inotify", "aio", "unshare", "bind", "limits", "schedule")
    free = dict.fromkeys((*names, "priority", "splice", "tee", "vmsplice"), 0)
    assert {name: before[name] for name in free} == free
    assert (before["setns"], before["rings"]) == (errno.EBADF, errno.EBADF)
    assert before["lease"] == errno.EAGAIN  # there was none to give up
    assert before["handle"] in (errno.EFAULT, errno.EBADF)
    families = {"inet": errno.EAFNOSUPPORT, "unix": errno.EAFNOSUPPORT, "datagrams": errno.ESOCKTNOSUPPORT}
    assert after == {**dict.fromkeys(before, EPERM), **families, "far": ENOSYS}


# -- Landlock -------------------------------------------------------------------------------------------------------

FILES = {1: 0x1FFF, 2: 0x3FFF, 3: 0x7FFF, 4: 0x7FFF, 5: 0xFFFF, 6: 0xFFFF, 7: 0xFFFF, 8: 0xFFFF}


@pytest.mark.parametrize("version", FILES)
def test_each_version_is_asked_for_all_that_it_has_and_no_more(version: int) -> None:
    """A right that the running kernel does not know makes the whole ruleset fail (EINVAL), a longer structure too."""
    network, scopes = 0b11 if version >= 4 else 0, 0b11 if version >= 6 else 0
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    assert landlock.handled(version) == (FILES[version], network, scopes, size)


@on_linux
def test_files_are_out_of_reach_that_were_not_named(tmp_path: Path) -> None:
    """Read here, write there, run a program elsewhere, and each of it only there."""
    if not landlock.version():
        pytest.skip("this kernel has no Landlock")
    for name in ("read", "write", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("x")
    script = """
import shutil, signal, subprocess
place, names = sys.argv[2], ("read", "write", "other")
acts = {
    **{f"read {name}": lambda name=name: open(f"{place}/{name}/file").close() for name in names},
    **{f"change {name}": lambda name=name: open(f"{place}/{name}/file", "a").close() for name in names},
    "list other": lambda: os.listdir(f"{place}/other"),
    "make": lambda: os.close(os.open(f"{place}/write/new", os.O_CREAT | os.O_WRONLY)),
    "move": lambda: (os.mkdir(f"{place}/write/deep"), os.rename(f"{place}/write/new", f"{place}/write/deep/new")),
    "remove": lambda: shutil.rmtree(f"{place}/write/deep"),
    "make in read": lambda: os.mkdir(f"{place}/read/new"),
    "run": lambda: subprocess.run(["/bin/true"], check=True),
    "signal": lambda: os.kill(os.getppid(), 0),
    "null": lambda: open("/dev/null", "w").close(),
}
free = {name: tried(act) for name, act in acts.items() if name not in ("make in read",)}
version = landlock.restrict(read=[place + "/read", "/nowhere"], run=["/usr", "/bin", "/lib", "/lib64", "/etc"],
                            write=[place + "/write", "/dev/null"])
print(json.dumps([version, free, {name: tried(act) for name, act in acts.items()}]))
"""
    version, free, held = probe(script, str(tmp_path / "read" / "file"), str(tmp_path))
    assert version == landlock.version()
    assert set(free.values()) == {0}
    denied = {"read other", "change other", "change read", "list other", "make in read"}
    expected = {name: errno.EACCES if name in denied else 0 for name in held}
    assert {**held, "signal": 0} == {**expected, "signal": 0}
    assert held["signal"] == (EPERM if version >= 6 else 0)


@on_linux
def test_a_kernel_without_landlock_is_said_to_have_none(tmp_path: Path) -> None:
    """A filter refuses the calls as such a kernel does: the worker goes on, and its facts say 0."""
    file = tmp_path / "file"
    file.write_text("x")
    script = """
seccomp.CALLS["landlock_create_ruleset"] = (444, 444)
seccomp.install(seccomp.Policy({"landlock_create_ruleset": errno.ENOSYS}))
facts = confinement.confine(confinement.Plan())
print(json.dumps([facts, tried(lambda: open(sys.argv[1]).close()), tried(lambda: socket.socket())]))
"""
    facts, read, made = probe(script, str(file))
    assert facts == {"filtered": True, "seccomp": 2, "no_new_privs": True, "landlock": 0, "failures": []}
    assert (read, made) == (0, errno.EAFNOSUPPORT)


@on_linux
def test_a_system_that_refuses_the_filter_is_reported_in_its_words(tmp_path: Path) -> None:
    """The host then refuses to run; the worker does not pretend."""
    file = tmp_path / "file"
    file.write_text("x")
    script = """
seccomp.install(seccomp.Policy({"prctl": errno.EINVAL}))
facts = confinement.confine(confinement.Plan())
print(json.dumps([facts, tried(lambda: socket.socket())]))
"""
    facts, made = probe(script, str(file))
    assert (facts["filtered"], facts["landlock"], made) == (False, 0, 0)
    assert facts["failures"] == ["Landlock: Invalid argument", "seccomp: Invalid argument"]


# -- the worker -----------------------------------------------------------------------------------------------------

LIVES = """
import asyncio, concurrent.futures, multiprocessing, os, queue, shutil, subprocess, sys, tempfile, threading
from multiprocessing import shared_memory
def square(n): return n * n
with multiprocessing.get_context("fork").Pool(2) as pool: print("pool", pool.map(square, [1, 2, 3]))
fork = multiprocessing.get_context("fork")
with concurrent.futures.ProcessPoolExecutor(2, mp_context=fork) as pool: print("processes", list(pool.map(square, [4])))
with concurrent.futures.ThreadPoolExecutor(2) as pool: print("threads", list(pool.map(square, [5])))
made = asyncio.create_subprocess_exec(sys.executable, "-c", "print(6)", stdout=subprocess.PIPE)
print("child", (await (await made).communicate())[0])
print("shell", subprocess.check_output("echo 7 | cat", shell=True))
block = shared_memory.SharedMemory(create=True, size=10); block.close(); block.unlink()
with tempfile.TemporaryDirectory() as folder:
    open(folder + "/a", "w").close()
    os.mkdir(folder + "/b"); os.rename(folder + "/a", folder + "/b/c"); os.symlink("b", folder + "/l")
    os.mkfifo(folder + "/f"); os.link(folder + "/b/c", folder + "/d"); shutil.copytree(folder + "/b", folder + "/e")
pipe = multiprocessing.Pipe(); pipe[0].send([8]); print("pipe", pipe[1].recv())
with open("/dev/null", "w") as sink: print("sink", sink.write("x"), os.cpu_count() > 0)
import resource
resource.setrlimit(resource.RLIMIT_CORE, resource.getrlimit(resource.RLIMIT_CORE)); os.nice(1)
os.sched_setaffinity(0, os.sched_getaffinity(0))
"""
LIVES_SAY = "pool [1, 4, 9]\nprocesses [16]\nthreads [25]\nchild b'6\\n'\nshell b'7\\n'\npipe [8]\nsink 1 True\n"

STATUS = """
import os
lines = dict(line.split(":\\t") for line in open("/proc/self/status").read().splitlines())
print(lines["Seccomp"], lines["NoNewPrivs"], open("/proc/self/oom_score_adj").read().strip(), os.getpid())
"""


def test_the_standard_library_lives_with_it_and_every_worker_has_it(tmp_path: Path) -> None:
    """In a real container: pools, children, event loops, shared memory, temporary files; and the worker that replaces a
    killed one is confined as the first was."""

    async def test() -> None:
        path = tmp_path / "doc"
        path.write_bytes(b"x")
        sandbox = DockerSandbox(SandboxOptions())
        try:
            await sandbox.open([Document("doc", str(path), 1)], FakeHost())
            lived = await sandbox.execute(LIVES, timeout=60)
            first = await sandbox.execute(STATUS, timeout=60)
            ended = await sandbox.execute("import os; os._exit(3)", timeout=60)
            second = await sandbox.execute(STATUS + "import socket; socket.socket()", timeout=60)
        finally:
            await sandbox.close()
        assert (lived.error, lived.stdout.head) == ("", LIVES_SAY)
        *held, pid = first.stdout.head.split()
        *held_again, pid_again = second.stdout.head.split()
        assert (held, held_again, ended.status) == (["2", "1", "1000"], held, "died")
        assert (pid != pid_again, f"[Errno {errno.EAFNOSUPPORT}]" in second.error) == (True, True)

    run(test)


def test_an_error_that_the_filter_makes_says_what_to_do_instead() -> None:
    """And what it says works."""

    async def test() -> None:
        async with kernel() as k:
            web = await k.run("import urllib.request; urllib.request.urlopen('http://127.0.0.1:9/')")
            table = "create table t (x)"
            locked = await k.run(f"import sqlite3, tempfile\nsqlite3.connect(tempfile.mktemp()).execute('{table}')")
            advised = "sqlite3.connect(f'file:{tempfile.mktemp()}?nolock=1', uri=True)"
            for connected in (advised, "sqlite3.connect(':memory:')"):
                assert await k.out(f"_ = {connected}.execute('{table}')\nprint('made')") == "made\n"
        assert "[kernel] There is no network" in web.error
        assert "?nolock=1" in locked.error

    run(test)


# -- what a cell breaks ---------------------------------------------------------------------------------------------

BREAK = "import {module} as broken\ndef broke(*a, **k): raise RuntimeError('broken')\nbroken.{name} = broke"
NEXT = "x = 20 + 22\nprint(len(context), llm_query('hi'))\nx"


FRESH = "import posix\nposix.kill(posix.getpid(), 9)"
NAMES = (
    *(f"builtins.{n}" for n in ("exec", "eval", "compile", "print", "len", "isinstance", "getattr", "open", "type")),
    *("builtins.__import__", "builtins.BaseException", "os.write", "os.read", "os.getpid", "os._exit", "json.dumps"),
    *("json.loads", "json.JSONEncoder", "signal.signal", "linecache.cache", "ast.Expr", "ast.Expression", "ast.parse"),
    *("traceback.TracebackException", "time.perf_counter", "threading.current_thread", "threading.Lock", "gc.freeze"),
    *("select.poll", "struct.pack", "resource.setrlimit", "sys.displayhook", "io.FileIO", "codecs.lookup"),
)


def test_what_a_cell_breaks_the_next_one_does_not_feel() -> None:
    """One name at a time, each in a new worker; no state is lost by it. Builtins are put back, and that is said."""

    async def test() -> None:
        felt, said = [], []
        async with kernel() as k:
            for name in NAMES:
                module, _, attribute = name.rpartition(".")
                first = await k.run(BREAK.format(module=module, name=attribute), timeout=10)
                after = await k.run(NEXT, timeout=10)
                if (after.status, after.stdout.head, after.error, after.restarted) != ("ok", "18 HI\n42\n", "", ""):
                    felt.append((name, after))
                if f"put back: {attribute}\n" in first.stderr.head:
                    said.append(name)
                await k.run(FRESH)
        assert (felt, said) == ([], [name for name in NAMES if name.startswith("builtins.")])

    run(test)


BREAK_READER = """
import sys
for frame in sys._current_frames().values():
    while frame is not None:
        if frame.f_code.co_name == "read" and hasattr(frame.f_locals.get("self"), "calls"):
            frame.f_locals["self"].calls.on_reply = None
        frame = frame.f_back
"""


def test_a_worker_whose_own_loop_fails_is_replaced_at_once_and_says_why() -> None:
    """Not at the deadline: what reads commands is gone, and nothing would ever end the cell."""

    async def test() -> None:
        async with kernel() as k:
            await k.run(BREAK_READER)
            broken = await k.run("print(llm_query('x'))", timeout=50)
            after = await k.run(NEXT)
        assert (broken.status, f"exit code {wire.BROKEN}" in broken.restarted) == ("died", True)
        assert "'NoneType' object is not callable" in broken.stderr.head
        assert after.stdout.head == "18 HI\n42\n"

    run(test)
