"""The calls that are left to model code where no container is around it: a list of what it may do, all else is refused.

Chosen by what a user's process could do to that user's files, processes and machine. Landlock decides which files can
be opened; it does not see what happens to a path that is not opened (mode, owner, times, attributes), nor what one
process does to another of the same user, so no call for that is here. Nor is any that starts a process, nor one that
takes shared memory, which no limit counts. Metadata can be read: whether a path exists, its size, where a link leads.
"""

from __future__ import annotations

import errno

from .seccomp import AF_UNIX, CLONE_NAMESPACES, SOCK_STREAM, SOCK_TYPE, Check, Policy

CLONE_THREAD = 0x10000
MAP_SHARED, MAP_ANONYMOUS, MAP_GROWSDOWN, MAP_HUGETLB = 0x01, 0x20, 0x100, 0x40000
TRUNCATED_UNREAD = (0o1000, 0o1003)
"""O_TRUNC with O_RDONLY, and with the access mode that is neither reading nor writing: both cut a file short that is
not opened for writing, which Landlock before version 3 lets pass."""
ACCESS_OR_TRUNCATE = 0o1003

COMMANDS = (0, 1, 2, 3, 4, 1030, 1031, 1032, 1034)
"""Of fcntl: duplicates, flags, sizes of pipes, seals. Not: locks, leases, and whom a descriptor sends signals to."""
REQUESTS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
"""Of ioctl: is it a terminal and how large, how much is there to read, O_NONBLOCK and FD_CLOEXEC on and off."""
OPTIONS = (3, 15, 16, 21, 23, 39, 0x53564D41)
"""Of prctl: names of threads and of memory, and facts. Not: what happens when the supervisor dies."""

ALLOWED = (
    # What is called most often comes first: the filter goes through this list.
    *("futex", "read", "write", "poll", "ppoll", "close", "lseek", "fstat", "newfstatat", "stat", "lstat", "statx"),
    *("munmap", "mprotect", "brk", "mremap", "madvise", "clock_gettime", "gettimeofday", "getpid", "gettid"),
    *("rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sched_yield", "nanosleep", "clock_nanosleep"),
    # Files, as far as Landlock lets them be opened.
    *("pread64", "pwrite64", "readv", "writev", "preadv", "pwritev", "preadv2", "pwritev2", "sendfile"),
    *("copy_file_range", "getdents", "getdents64", "ftruncate", "fallocate", "fsync", "fdatasync", "msync", "mincore"),
    *("fadvise64", "readahead", "access", "faccessat", "faccessat2", "readlink", "readlinkat", "statfs", "fstatfs"),
    *("getcwd", "chdir", "fchdir", "umask", "mkdir", "mkdirat", "rmdir", "unlink", "unlinkat", "rename", "renameat"),
    *("renameat2", "symlink", "symlinkat", "creat"),
    # Descriptors, and waiting for them.
    *("dup", "dup2", "dup3", "pipe", "pipe2", "close_range", "select", "pselect6", "epoll_create", "epoll_create1"),
    *("epoll_ctl", "epoll_wait", "epoll_pwait", "epoll_pwait2", "eventfd2"),
    *("timerfd_create", "timerfd_settime", "timerfd_gettime", "sendto", "recvfrom", "shutdown"),
    # This process: threads, signals, timers, limits that can only be lowered.
    *("set_tid_address", "set_robust_list", "rseq", "membarrier", "futex_waitv", "arch_prctl", "restart_syscall"),
    *("sigaltstack", "rt_sigpending", "rt_sigsuspend", "rt_sigtimedwait", "alarm", "setitimer", "getitimer"),
    *("setrlimit", "getrlimit", "exit", "exit_group", "wait4", "waitid"),
    # Facts.
    *("clock_getres", "time", "times", "getrusage", "getrandom", "sysinfo", "uname", "getcpu", "sched_getaffinity"),
    *("sched_getparam", "sched_getscheduler", "sched_get_priority_max", "sched_get_priority_min", "getpriority"),
    *("getppid", "getuid", "geteuid", "getgid", "getegid", "getresuid", "getresgid", "getgroups", "getpgid"),
    *("getpgrp", "getsid"),
)
ATTRIBUTES = ("getxattr", "lgetxattr", "fgetxattr", "listxattr", "llistxattr", "flistxattr")


def policy(pid: int) -> Policy:
    """For the process `pid`, which may send signals to itself."""
    untruncated = (Check(1, TRUNCATED_UNREAD, errno.EPERM, mask=ACCESS_OR_TRUNCATE, among=False),)
    openat = (Check(2, TRUNCATED_UNREAD, errno.EPERM, mask=ACCESS_OR_TRUNCATE, among=False),)
    calls = dict.fromkeys(ALLOWED, 0)
    return Policy(
        {
            **calls,
            "open": untruncated,
            "openat": openat,
            "openat2": errno.ENOSYS,  # its flags are behind a pointer
            "mmap": (
                # Neither counts in RLIMIT_DATA: shared memory without a file, and a mapping that grows like a stack.
                Check(3, (MAP_SHARED | MAP_ANONYMOUS,), errno.ENOMEM, mask=MAP_SHARED | MAP_ANONYMOUS, among=False),
                Check(3, (0,), errno.ENOMEM, mask=MAP_GROWSDOWN | MAP_HUGETLB),
            ),
            "clone": (Check(0, (CLONE_THREAD,), errno.EPERM, mask=CLONE_THREAD | CLONE_NAMESPACES),),
            "clone3": errno.ENOSYS,
            "prlimit64": (Check(0, (0,), errno.EPERM),),
            "kill": (Check(0, (pid,), errno.EPERM),),
            "tgkill": (Check(0, (pid,), errno.EPERM),),
            "prctl": (Check(0, OPTIONS, errno.EPERM),),
            "fcntl": (Check(1, COMMANDS, errno.EPERM),),
            "ioctl": (Check(1, REQUESTS, errno.ENOTTY),),
            "socket": errno.EAFNOSUPPORT,
            "socketpair": (
                Check(0, (AF_UNIX,), errno.EAFNOSUPPORT),
                Check(1, (SOCK_STREAM,), errno.ESOCKTNOSUPPORT, mask=SOCK_TYPE),
            ),
            # Who copies a file copies them too, where there are any.
            **dict.fromkeys(ATTRIBUTES, errno.ENOTSUP),
        },
        other=errno.EPERM,
    )
