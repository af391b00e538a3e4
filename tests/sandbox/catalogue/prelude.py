"""What every probe's code begins with, in a cell and in the bare container alike."""

from __future__ import annotations

from collections.abc import Mapping

PRELUDE = '''\
import errno, os, sys
def attempt(label, what):
    """Say `label: worked`, or the name of the error."""
    try:
        what()
        outcome = "worked"
    except OSError as error:
        outcome = errno.errorcode.get(error.errno) or f"{type(error).__name__} {error.errno}"
    except Exception as error:
        outcome = type(error).__name__
    print(f"{label}: {outcome}", flush=True)
NUMBERS = {
    "clone": (56, 220), "clone3": (435, 435), "ptrace": (101, 117), "pivot_root": (155, 41), "add_key": (248, 217),
    "keyctl": (250, 219), "perf_event_open": (298, 241), "process_vm_readv": (310, 270), "bpf": (321, 280),
    "userfaultfd": (323, 282), "io_uring_setup": (425, 425), "pidfd_open": (434, 434), "pidfd_getfd": (438, 438),
    "setns": (308, 268), "unshare": (272, 97), "open_tree": (428, 428), "fsopen": (430, 430),
    "splice": (275, 76), "vmsplice": (278, 75), "tee": (276, 77),
}
def call(name, *args):
    """A system call or one of libc's functions; raises OSError."""
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    number = NUMBERS[name][os.uname().machine != "x86_64"] if isinstance(name, str) else name
    words = [ctypes.c_long(arg) if isinstance(arg, int) else arg for arg in args]
    result = libc.syscall(ctypes.c_long(number), *words)
    if result < 0:
        raise OSError(ctypes.get_errno(), name)
    return result
def libc_call(name, *args):
    import ctypes
    result = getattr(ctypes.CDLL(None, use_errno=True), name)(*args)
    if result < 0:
        raise OSError(ctypes.get_errno(), name)
    return result
def in_child(what):
    """Run it in a forked process; its exit status as `os.waitpid` gives it."""
    pid = os.fork()
    if pid == 0:
        try:
            what()
        finally:
            os._exit(99)
    return os.waitpid(pid, 0)[1]
'''


def with_prelude(code: str, places: Mapping[str, object]) -> str:
    """A program: the prelude, the names that stand for places, and the probe."""
    places = {**places, "PRELUDE_TEXT": PRELUDE} if "PRELUDE_TEXT" in code else places
    names = "".join(f"{name} = {value!r}\n" for name, value in places.items())
    return f"{PRELUDE}{names}{code}"
