"""System call filters: policies by name, the BPF programs made of them, and their installation.

A policy says of calls by name what becomes of them; the program for one architecture is a pure function of it. Shared
with the host's converter workers (sources/convert/confine.py), which allow a few calls and refuse the rest. x86-64 and
ARM64; elsewhere there is no program. Numbers: asm/unistd_64.h and asm-generic/unistd.h.
"""

from __future__ import annotations

import errno
import struct
import sys

from . import system
from .facts import machine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Union

    Verdict = Union[int, "tuple[Check, ...]"]
    """Of a named call: refused with this errno; or allowed when all checks hold."""

ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
"""Machine -> (its AUDIT_ARCH, its column in `CALLS`)."""

NEWEST = 470
"""The last call that this table was made with. A later one does not exist here (ENOSYS): who calls it has a way
without. So are the x32 calls of x86-64, which have a bit above all numbers."""

# Name -> its number on x86-64 and on ARM64; None: not there.
CALLS: dict[str, tuple[int | None, int | None]] = {
    # files and memory
    "read": (0, 63),
    "write": (1, 64),
    "close": (3, 57),
    "fstat": (5, 80),
    "poll": (7, None),
    "ppoll": (271, 73),
    "lseek": (8, 62),
    "pread64": (17, 67),
    "pwrite64": (18, 68),
    "readv": (19, 65),
    "writev": (20, 66),
    "fcntl": (72, 25),
    "ioctl": (16, 29),
    "flock": (73, 32),
    "ftruncate": (77, 46),
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "munmap": (11, 215),
    "brk": (12, 214),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "preadv": (295, 69),
    "pwritev": (296, 70),
    "preadv2": (327, 286),
    "pwritev2": (328, 287),
    "sendfile": (40, 71),
    "copy_file_range": (326, 285),
    "splice": (275, 76),
    "vmsplice": (278, 75),
    "tee": (276, 77),
    "fallocate": (285, 47),
    "fsync": (74, 82),
    "fdatasync": (75, 83),
    "fadvise64": (221, 223),
    "readahead": (187, 213),
    "msync": (26, 227),
    "mincore": (27, 232),
    "sync": (162, 81),
    "syncfs": (306, 267),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "fanotify_init": (300, 262),
    "fanotify_mark": (301, 263),
    "inotify_init": (253, None),
    "inotify_init1": (294, 26),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "memfd_secret": (447, 447),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_setup": (206, 0),
    # paths
    "open": (2, None),
    "openat": (257, 56),
    "openat2": (437, 437),
    "creat": (85, None),
    "stat": (4, None),
    "lstat": (6, None),
    "newfstatat": (262, 79),
    "statx": (332, 291),
    "statfs": (137, 43),
    "fstatfs": (138, 44),
    "access": (21, None),
    "faccessat": (269, 48),
    "faccessat2": (439, 439),
    "readlink": (89, None),
    "readlinkat": (267, 78),
    "getxattr": (191, 8),
    "lgetxattr": (192, 9),
    "fgetxattr": (193, 10),
    "listxattr": (194, 11),
    "llistxattr": (195, 12),
    "flistxattr": (196, 13),
    "getdents": (78, None),
    "getdents64": (217, 61),
    "getcwd": (79, 17),
    "chdir": (80, 49),
    "fchdir": (81, 50),
    "umask": (95, 166),
    "mkdir": (83, None),
    "mkdirat": (258, 34),
    "rmdir": (84, None),
    "unlink": (87, None),
    "unlinkat": (263, 35),
    "rename": (82, None),
    "renameat": (264, 38),
    "renameat2": (316, 276),
    "symlink": (88, None),
    "symlinkat": (266, 36),
    # descriptors
    "dup": (32, 23),
    "dup2": (33, None),
    "dup3": (292, 24),
    "pipe": (22, None),
    "pipe2": (293, 59),
    "close_range": (436, 436),
    "select": (23, None),
    "pselect6": (270, 72),
    "epoll_create": (213, None),
    "epoll_create1": (291, 20),
    "epoll_ctl": (233, 21),
    "epoll_wait": (232, None),
    "epoll_pwait": (281, 22),
    "epoll_pwait2": (441, 441),
    "eventfd2": (290, 19),
    "timerfd_create": (283, 85),
    "timerfd_settime": (286, 86),
    "timerfd_gettime": (287, 87),
    # processes, threads, signals
    "set_tid_address": (218, 96),
    "set_robust_list": (273, 99),
    "futex_waitv": (449, 449),
    "arch_prctl": (158, None),
    "rt_sigpending": (127, 136),
    "rt_sigsuspend": (130, 133),
    "rt_sigtimedwait": (128, 137),
    "alarm": (37, None),
    "setitimer": (38, 103),
    "getitimer": (36, 102),
    "setrlimit": (160, 164),
    "getrlimit": (97, 163),
    "wait4": (61, 260),
    "waitid": (247, 95),
    "sched_getparam": (143, 121),
    "sched_getscheduler": (145, 120),
    "sched_get_priority_max": (146, 125),
    "sched_get_priority_min": (147, 126),
    "getpriority": (140, 141),
    "getppid": (110, 173),
    "getuid": (102, 174),
    "geteuid": (107, 175),
    "getgid": (104, 176),
    "getegid": (108, 177),
    "getresuid": (118, 148),
    "getresgid": (120, 150),
    "getgroups": (115, 158),
    "getpgid": (121, 155),
    "getpgrp": (111, None),
    "getsid": (124, 156),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sigaltstack": (131, 132),
    "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123),
    "sched_setaffinity": (203, 122),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "sched_setattr": (314, 274),
    "setpriority": (141, 140),
    "ioprio_set": (251, 30),
    "prlimit64": (302, 261),
    "futex": (202, 98),
    "membarrier": (324, 283),
    "rseq": (334, 293),
    "restart_syscall": (219, 128),
    "getpid": (39, 172),
    "gettid": (186, 178),
    "exit": (60, 93),
    "exit_group": (231, 94),
    "fork": (57, None),
    "vfork": (58, None),
    "clone": (56, 220),
    "clone3": (435, 435),
    "execve": (59, 221),
    "execveat": (322, 281),
    "kill": (62, 129),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "prctl": (157, 167),
    "ptrace": (101, 117),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "modify_ldt": (154, None),
    "iopl": (172, None),
    "ioperm": (173, None),
    "uselib": (134, None),
    # sockets and messages
    "socket": (41, 198),
    "socketpair": (53, 199),
    "connect": (42, 203),
    "bind": (49, 200),
    "listen": (50, 201),
    "accept": (43, 202),
    "accept4": (288, 242),
    "sendto": (44, 206),
    "recvfrom": (45, 207),
    "shutdown": (48, 210),
    "mq_open": (240, 180),
    "msgget": (68, 186),
    "semget": (64, 190),
    "shmget": (29, 194),
    # time and facts
    "time": (201, None),
    "times": (100, 153),
    "getcpu": (309, 168),
    "nanosleep": (35, 101),
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "clock_nanosleep": (230, 115),
    "gettimeofday": (96, 169),
    "getrusage": (98, 165),
    "getrandom": (318, 278),
    "sysinfo": (99, 179),
    "uname": (63, 160),
    # namespaces and mounts
    "unshare": (272, 97),
    "setns": (308, 268),
    "listns": (470, 470),
    "chroot": (161, 51),
    "pivot_root": (155, 41),
    "mount": (165, 40),
    "umount2": (166, 39),
    "open_tree": (428, 428),
    "open_tree_attr": (467, 467),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "statmount": (457, 457),
    "listmount": (458, 458),
    # the system as a whole
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "lookup_dcookie": (212, 18),
    "lsm_set_self_attr": (460, 460),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "syslog": (103, 116),
    "vhangup": (153, 58),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
    "nfsservctl": (180, 42),
}

WHOLE = 0xFFFFFFFF


class Check:
    """Of one argument of a call, counted from 0: its lower 32 bits, of these those in `mask`, must be one of `values`
    (`among`) or none of them; else the call fails with `errno`. The arguments that are checked are C ints, or their
    upper half is ignored by the kernel; what a pointer points to cannot be looked at."""

    __slots__ = ("among", "argument", "errno", "mask", "values")

    def __init__(self, argument: int, values: tuple[int, ...], errno: int, *, mask: int = WHOLE, among: bool = True):
        self.argument = argument
        self.values = values
        self.errno = errno
        self.mask = mask
        self.among = among


class Policy:
    """What becomes of each call: of those in `calls` what is said there, of any other `other` (an errno; 0: allowed).

    A call by another architecture's convention fails with EPERM. Raises `KeyError` for a name that `CALLS` lacks.
    """

    def __init__(self, calls: Mapping[str, Verdict], *, other: int = 0) -> None:
        unknown = calls.keys() - CALLS.keys()
        if unknown:
            raise KeyError(*unknown)
        self.calls = dict(calls)
        self.other = other


# -- what model code in a container may not do ---------------------------------------------------------------------

CLONE_NAMESPACES = 0x7E020000  # CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
AF_UNIX = 1
SOCK_STREAM = 1
SOCK_TYPE = 0xF
TIOCSTI, TIOCLINUX = 0x5412, 0x541C
PRIO_PROCESS, IOPRIO_WHO_PROCESS = 0, 1
SCHEDULING = ("sched_setaffinity", "sched_setparam", "sched_setscheduler", "sched_setattr")
LOCKS_AND_LEASES = (6, 7, 37, 38, 1024, 1040)
"""F_SETLK, F_SETLKW, F_OFD_SETLK, F_OFD_SETLKW, F_SETLEASE, and F_SETDELEG of Linux 6.19, which is a lease too."""

REFUSED = (
    # Into other namespaces and file systems.
    *("unshare", "setns", "listns", "chroot", "pivot_root", "mount", "umount2", "open_tree", "open_tree_attr"),
    *("move_mount", "fsopen", "fsconfig", "fsmount", "fspick", "mount_setattr", "statmount", "listmount"),
    *("name_to_handle_at", "open_by_handle_at"),
    # Into other processes, and past the filter (a ring's requests are not seen by it).
    *("ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "pidfd_getfd", "kcmp"),
    *("io_uring_setup", "io_uring_enter", "io_uring_register"),
    # Parts of the kernel that exploits start from, and that no cell needs.
    *("bpf", "perf_event_open", "userfaultfd", "keyctl", "add_key", "request_key", "modify_ldt", "memfd_secret"),
    *("lookup_dcookie", "uselib", "migrate_pages", "move_pages", "lsm_set_self_attr", "nfsservctl"),
    # Pages of a file, the input's too, put into a pipe as they are: a mistake there has let a reader write to them.
    # Whoever copies has sendfile and copy_file_range.
    *("splice", "vmsplice", "tee"),
    # What is shared with the host: a lock on a mounted file holds up the host, so does flushing all its disks; watches
    # and message queues are counted by user, host-wide, and asynchronous requests for all users together.
    *("flock", "sync", "syncfs", "fanotify_init", "fanotify_mark", "inotify_init", "inotify_init1", "mq_open"),
    "io_setup",
    # Memory that stays when who took it is killed: no new worker would have room.
    *("shmget", "msgget", "semget"),
    # The machine itself.
    *("init_module", "finit_module", "delete_module", "kexec_load", "kexec_file_load", "reboot", "swapon", "swapoff"),
    *("acct", "quotactl", "quotactl_fd", "syslog", "vhangup", "iopl", "ioperm", "sethostname", "setdomainname"),
    *("settimeofday", "clock_settime", "clock_adjtime", "adjtimex"),
    # Of the one kind of socket that is left, a connected pair, nothing can be made that has an address.
    *("connect", "bind", "listen", "accept", "accept4"),
)

CONTAINER = Policy(
    {
        **dict.fromkeys(REFUSED, errno.EPERM),
        "socket": errno.EAFNOSUPPORT,
        # asyncio and multiprocessing make stream pairs. One end of a datagram pair could still send to any address.
        "socketpair": (
            Check(0, (AF_UNIX,), errno.EAFNOSUPPORT),
            Check(1, (SOCK_STREAM,), errno.ESOCKTNOSUPPORT, mask=SOCK_TYPE),
        ),
        "clone": (Check(0, (0,), errno.EPERM, mask=CLONE_NAMESPACES),),
        "clone3": errno.ENOSYS,  # its flags are behind a pointer; C libraries then use clone
        "fcntl": (Check(1, LOCKS_AND_LEASES, errno.EPERM, among=False),),
        "ioctl": (Check(1, (TIOCSTI, TIOCLINUX), errno.EPERM, among=False),),
        # Of oneself, which is 0, and not of the supervisor: it has the same user, and no file for its next worker's
        # pipes would be its end.
        **dict.fromkeys(("prlimit64", *SCHEDULING), (Check(0, (0,), errno.EPERM),)),
        "setpriority": (Check(0, (PRIO_PROCESS,), errno.EPERM), Check(1, (0,), errno.EPERM)),
        "ioprio_set": (Check(0, (IOPRIO_WHO_PROCESS,), errno.EPERM), Check(1, (0,), errno.EPERM)),
    }
)
"""On top of the engine's own filter, whose age decides what that lets through."""

# -- programs ------------------------------------------------------------------------------------------------------

LOAD, AND, JUMP_EQUAL, JUMP_GREATER, RETURN = 0x20, 0x54, 0x15, 0x25, 0x06
ALLOW, ERRNO = 0x7FFF0000, 0x00050000
AT_NUMBER, AT_ARCHITECTURE, AT_ARGUMENTS = 0, 4, 16  # in struct seccomp_data


def program(architecture: str, policy: Policy) -> list[tuple[int, int, int, int]]:
    """The policy as classic BPF over `struct seccomp_data`, for a machine in `ARCHITECTURES`: (code, jump if true, jump
    if false, operand), jumps counted from the next instruction."""
    audited, column = ARCHITECTURES[architecture]
    made = [
        (LOAD, 0, 0, AT_ARCHITECTURE),
        (JUMP_EQUAL, 1, 0, audited),
        (RETURN, 0, 0, ERRNO | errno.EPERM),
        (LOAD, 0, 0, AT_NUMBER),
        (JUMP_GREATER, 0, 1, NEWEST),
        (RETURN, 0, 0, ERRNO | errno.ENOSYS),
    ]
    for name, verdict in policy.calls.items():
        number = CALLS[name][column]
        if number is not None:
            body = judge(verdict)
            made += [(JUMP_EQUAL, 0, len(body), number), *body]
    return [*made, (RETURN, 0, 0, result(policy.other))]


def judge(verdict: Verdict) -> list[tuple[int, int, int, int]]:
    """The instructions for one call, which all end in a verdict."""
    if isinstance(verdict, int):
        return [(RETURN, 0, 0, result(verdict))]
    made = []
    for check in verdict:
        made += [(LOAD, 0, 0, AT_ARGUMENTS + 8 * check.argument), (AND, 0, 0, check.mask)]
        count = len(check.values)
        for at, value in enumerate(check.values):
            # Behind the values: the refusal, and then what follows it. A match of the wrong kind falls into the
            # refusal.
            to_refusal, past_it = count - 1 - at, count - at
            last = at == count - 1
            if check.among:
                made.append((JUMP_EQUAL, past_it, 0, value))
            else:
                made.append((JUMP_EQUAL, to_refusal, past_it if last else 0, value))
        made.append((RETURN, 0, 0, result(check.errno)))
    return [*made, (RETURN, 0, 0, ALLOW)]


def result(number: int) -> int:
    """What a program returns for an errno; 0: the call goes on."""
    return ERRNO | number if number else ALLOW


# -- installation --------------------------------------------------------------------------------------------------

MODE_FILTER = 2


def supported() -> bool:
    """Whether there is a program for this machine."""
    return sys.platform == "linux" and machine() in ARCHITECTURES


def install(policy: Policy) -> bool:
    """Filter the calls of this thread, and of all that it starts, for good: call it while there is one thread. Filters
    add up; the strictest verdict counts.

    False: there is no program for this machine. Raises `OSError` when the kernel refuses, or has no filters.
    """
    if not supported():
        return False
    code = b"".join(struct.pack("=HBBI", *row) for row in program(machine(), policy))
    system.give_up_privileges()
    import ctypes

    place = ctypes.create_string_buffer(code, len(code))
    described = struct.pack("@HP", len(code) // 8, ctypes.addressof(place))  # struct sock_fprog
    system.prctl(system.PR_SET_SECCOMP, MODE_FILTER, described)
    return True
