"""System calls that the standard library has no function for, through ctypes. Linux; elsewhere every call fails."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_GET_SECCOMP = 21
PR_SET_SECCOMP = 22
PR_SET_NO_NEW_PRIVS = 38
PR_GET_NO_NEW_PRIVS = 39

_libc: list[Any] = []


def libc() -> Any:
    """The C library of this process. Raises `OSError` where there is none to be had."""
    if not _libc:
        try:
            import ctypes
        except ImportError:
            raise OSError("this Python has no ctypes") from None
        _libc.append(ctypes.CDLL(None, use_errno=True))
    return _libc[0]


def call(number: int, *arguments: Any) -> int:
    """A system call by its number; its result. Raises `OSError` with its errno.

    Integers are passed as machine words: a C `int` would leave the upper half of a register to chance.
    """
    return _result(libc().syscall(*map(_word, (number, *arguments))))


def prctl(option: int, *arguments: Any) -> int:
    """prctl(2) with the arguments that are not given as 0. Raises `OSError`; also where there is no prctl."""
    function = getattr(libc(), "prctl", None)
    if function is None:
        raise OSError("this system has no prctl")
    return _result(function(*map(_word, (option, *arguments, *[0] * (4 - len(arguments))))))


def give_up_privileges() -> None:
    """No program that this process or a child of it starts gains anything (setuid, file capabilities); for good.
    Filters of any kind need it. Raises `OSError`."""
    prctl(PR_SET_NO_NEW_PRIVS, 1)


def _word(argument: Any) -> Any:
    import ctypes

    return ctypes.c_long(argument) if isinstance(argument, int) else argument


def _result(value: int) -> int:
    if value < 0:
        import ctypes

        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return value
