"""A: the host's files, and the supervisor beside the cell."""

from __future__ import annotations

from .rows import Case, probe, tested

NO = "EPERM|EACCES"
ABSENT = "ENOENT|EACCES"
READ_ONLY = "EROFS|EACCES"
WORKED = "worked"

READ_HONEY = """
attempt("file", lambda: open(HONEY_FILE).read())
attempt("by way of process 1", lambda: open("/proc/1/root" + HONEY_FILE).read())
attempt("by way of ..", lambda: open(SCRATCH + "/../../../../.." + HONEY_FILE).read())
attempt("its folder", lambda: os.listdir(os.path.dirname(HONEY_FILE)))
attempt("/root", lambda: os.listdir("/root"))
"""
WRITE = """
for folder in ("/", "/usr", "/etc", FOLDER, "/root"):
    label = "the input's folder" if folder == FOLDER else folder
    attempt(label, lambda: open(os.path.join(folder, "planted"), "w").close())
attempt("/tmp, which shows that writing works", lambda: open(SCRATCH + "/planted", "w").close())
os.unlink(SCRATCH + "/planted")
"""
CHANGE_CORPUS = """
def rename():
    os.rename(CORPUS, CORPUS + ".moved")
    os.rename(CORPUS + ".moved", CORPUS)
attempt("open", lambda: open(CORPUS, "r+b").close())
attempt("append", lambda: open(CORPUS, "ab").close())
attempt("chmod", lambda: os.chmod(CORPUS, 0o777))
attempt("utime", lambda: os.utime(CORPUS, (0, 0)))
attempt("truncate", lambda: os.truncate(CORPUS, 0))
attempt("setxattr", lambda: os.setxattr(CORPUS, "user.planted", b"1"))
attempt("rename", rename)
attempt("unlink", lambda: os.unlink(CORPUS))
if not OUTSIDE:
    open(CORPUS, "w").close()
"""
MOUNT = """
import tempfile
place = tempfile.mkdtemp(dir=SCRATCH).encode()
REMOUNT, BIND = 32, 4096
def mount(source, target, kind, flags):
    libc_call("mount", source, target, kind, flags, None)
    if not flags & REMOUNT:
        libc_call("umount2", target, 2)
attempt("remount the input read-write", lambda: mount(None, FOLDER.encode(), None, REMOUNT | BIND))
attempt("remount / read-write", lambda: mount(None, b"/", None, REMOUNT | BIND))
attempt("a new tmpfs", lambda: mount(b"none", place, b"tmpfs", 0))
attempt("bind /etc", lambda: mount(b"/etc", place, None, BIND))
attempt("open_tree", lambda: call("open_tree", -100, b"/etc", 1))
attempt("fsopen", lambda: call("fsopen", b"tmpfs", 0))
os.rmdir(place)
"""
CONNECT_UNIX = """
import socket
def connect():
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(UNIX)
attempt("connect", connect)
"""
WRITE_FIFO = """
def write(flags):
    fd = os.open(FIFO, flags | os.O_NONBLOCK)
    os.write(fd, b"from a cell")
attempt("write", lambda: write(os.O_WRONLY))
attempt("read and write", lambda: write(os.O_RDWR))
"""
LOCK = """
import fcntl, struct
held = open(CORPUS, "rb")
attempt("flock", lambda: fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB))
attempt("lockf", lambda: fcntl.lockf(held, fcntl.LOCK_SH | fcntl.LOCK_NB))
attempt("open file description lock", lambda: fcntl.fcntl(held, 37, struct.pack("hhqqi4x", fcntl.F_RDLCK, 0, 0, 0, 0)))
attempt("lease", lambda: fcntl.fcntl(held, 1024, fcntl.F_RDLCK))
"""
SUPERVISOR = """
import ctypes
iov = (ctypes.c_long * 2)(1, 1)
parent = os.getppid()
for name in ("mem", "environ", "maps", "auxv", "syscall"):
    attempt(name, lambda: open(f"/proc/{parent}/{name}", "rb").read(0 if name == "mem" else 1))
attempt("fd", lambda: os.listdir(f"/proc/{parent}/fd"))
attempt("its stdout", lambda: open(f"/proc/{parent}/fd/1", "wb").close())
attempt("cwd", lambda: os.listdir(f"/proc/{parent}/cwd/"))
attempt("ptrace", lambda: call("ptrace", 0x4206, parent, 0, 0))
attempt("process_vm_readv", lambda: call("process_vm_readv", parent, iov, 1, iov, 1, 0))
attempt("take its stdout", lambda: call("pidfd_getfd", call("pidfd_open", parent, 0), 1, 0))
"""
DROPPED = """
import shutil, subprocess
def run(path, fds=()):
    subprocess.run([sys.executable, "-I", "-S", "-c", INSIDE], executable=path, pass_fds=fds, check=True)
INSIDE = PRELUDE_TEXT + f"UNIX, HONEY_FILE, FOLDER = {(UNIX, HONEY_FILE, FOLDER)!r}" + '''
import socket
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print("its filter: " + status["Seccomp"].strip())
attempt("its honey", lambda: open(HONEY_FILE).read())
attempt("its write", lambda: open("/etc/planted", "w").close())
attempt("its socket", lambda: socket.socket(socket.AF_UNIX).connect(UNIX))
attempt("its namespace", lambda: call("unshare", 0x10000000))
'''
shutil.copy(os.path.realpath(sys.executable), SCRATCH + "/dropped")
os.chmod(SCRATCH + "/dropped", 0o755)
attempt("from /tmp", lambda: subprocess.run([SCRATCH + "/dropped", "-I", "-S", "-c", "pass"], check=True))
os.unlink(SCRATCH + "/dropped")
memory = os.memfd_create("dropped", 0)
with open(os.path.realpath(sys.executable), "rb") as program:
    os.sendfile(memory, program.fileno(), 0, os.fstat(program.fileno()).st_size)
run(f"/proc/self/fd/{memory}", (memory,))
"""

CASES = (
    Case(
        "A01",
        "read the host's files: a private file, a home folder, by `..` and through /proc/1/root",
        "none of it is there",
        (
            probe(
                "read",
                READ_HONEY,
                {
                    "file": ABSENT,
                    "by way of process 1": ABSENT,
                    "by way of ..": ABSENT,
                    "its folder": ABSENT,
                    "/root": ABSENT,
                },
                dict.fromkeys(("file", "by way of process 1", "by way of ..", "its folder", "/root"), WORKED),
            ),
        ),
    ),
    Case(
        "A02",
        "write to /, /usr, /etc, /root and the input's folder",
        "refused; only /tmp and /dev/shm can be written",
        (
            probe(
                "write",
                WRITE,
                dict.fromkeys(("/", "/usr", "/etc", "/root", "the input's folder"), READ_ONLY)
                | {"/tmp, which shows that writing works": WORKED},
                dict.fromkeys(("/", "/usr", "/etc", "/root", "the input's folder"), WORKED)
                | {"/tmp, which shows that writing works": WORKED},
            ),
        ),
    ),
    Case(
        "A03",
        "open the input for writing, append, chmod, utime, truncate, set attributes, rename, unlink",
        "refused, although its mode lets everybody write; the host's file is the same byte for byte",
        (
            probe(
                "change",
                CHANGE_CORPUS,
                {
                    "open": READ_ONLY,
                    "append": READ_ONLY,
                    "chmod": "EROFS|EPERM|EACCES",
                    "utime": "EROFS|EPERM|EACCES",
                    "truncate": "EROFS|EPERM|EACCES",
                    "setxattr": "EROFS|EPERM|EACCES",
                    "rename": "EROFS|EACCES|EBUSY|EXDEV",
                    "unlink": "EROFS|EACCES|EBUSY",
                },
                {
                    **dict.fromkeys(("open", "append", "chmod", "utime", "truncate", "rename", "unlink"), WORKED),
                    "setxattr": "worked|EOPNOTSUPP",
                },
            ),
        ),
    ),
    Case(
        "A04",
        "remount the input or / read-write, mount a tmpfs, bind a folder, take the new mount calls",
        "refused",
        (
            probe(
                "mount",
                MOUNT,
                {
                    **dict.fromkeys(
                        ("remount the input read-write", "remount / read-write", "a new tmpfs", "bind /etc"), NO
                    ),
                    **dict.fromkeys(("open_tree", "fsopen"), "EPERM|ENOSYS"),
                },
                dict.fromkeys(
                    (
                        "remount the input read-write",
                        "remount / read-write",
                        "a new tmpfs",
                        "bind /etc",
                        "open_tree",
                        "fsopen",
                    ),
                    WORKED,
                ),
            ),
        ),
    ),
    Case(
        "A05",
        "a folder given as input holds links to /etc/shadow and out of the folder, or gets them while it is read",
        "the host does not follow them: they are never part of the input",
        (
            tested(
                "tests/sources/test_walk.py::test_links_loop_and_lead_out",
                "tests/sources/test_gather.py::test_pipes_sockets_and_links_are_left_alone",
                "tests/sources/test_archives.py::test_links_devices_and_names_that_point_outside",
                "tests/sources/test_convert.py::test_a_link_is_no_document",
                "tests/sources/test_walk.py::test_links_put_in_place_of_what_was_listed",
                "tests/sandbox/test_staging.py::test_a_link_put_in_place_of_what_was_listed_is_not_followed",
            ),
        ),
    ),
    Case(
        "A06",
        "links that loop, 5,000 folders in each other, tens of thousands of files",
        "the walk ends, and a limit is named",
        (
            tested(
                "tests/sources/test_walk.py::test_links_loop_and_lead_out",
                "tests/sources/test_walk.py::test_a_folder_5000_levels_deep",
                "tests/sources/test_walk.py::test_twenty_thousand_files_forty_levels_deep",
                "tests/sources/test_gather.py::test_over_the_limit_names_the_largest",
                "tests/sources/test_archives.py::test_too_many_entries_are_refused",
            ),
        ),
    ),
    Case(
        "A07",
        "a FIFO, socket, device or endless file given as input",
        "refused by name without waiting; a pipe that a person names is read like stdin",
        (
            tested(
                "tests/sources/test_gather.py::test_named_but_not_a_file",
                "tests/sources/test_receive.py::test_devices_and_sockets_are_refused_by_name",
                "tests/sources/test_walk.py::test_what_is_no_file_is_named",
                "tests/sandbox/test_staging.py::test_special_files_are_refused_without_hanging",
                "tests/test_config.py::test_a_huge_or_special_project_file_does_not_hang",
            ),
        ),
    ),
    Case(
        "A08",
        "connect to a unix socket of the host that lies in a mounted folder",
        "no socket can be made; the canary accepts nothing",
        (probe("connect", CONNECT_UNIX, {"connect": "EAFNOSUPPORT|EPERM|EACCES"}, {"connect": WORKED}),),
    ),
    Case(
        "A09",
        "write into a FIFO of the host that lies in a mounted folder",
        "refused; the canary reads nothing",
        (
            probe(
                "write",
                WRITE_FIFO,
                {"write": "EACCES|EROFS", "read and write": "EACCES|EROFS"},
                {"write": WORKED, "read and write": WORKED},
            ),
        ),
    ),
    Case(
        "A10",
        "lock the input: flock, POSIX locks, open file description locks, leases",
        "refused: a program of the host takes both kinds of lock meanwhile",
        (
            probe(
                "lock",
                LOCK,
                {
                    "flock": NO,
                    "lockf": NO,
                    "open file description lock": NO,
                    "lease": NO,
                },
                dict.fromkeys(("flock", "lockf", "open file description lock"), WORKED)
                | {"lease": "worked|EAGAIN|EINVAL"},
            ),
        ),
    ),
    Case(
        "A11",
        "an input that only its owner may read (0600)",
        "it is read, its mode stays, and the kernel is never root",
        (
            tested(
                "tests/sandbox/test_container.py::test_a_private_file_of_the_users_can_be_read",
                "tests/sandbox/test_staging.py::test_a_private_file_is_copied_where_no_user_but_root_may_read_it",
                "tests/sandbox/test_staging.py::test_the_chosen_user_is_never_root_and_may_read",
                "tests/sandbox/test_streamed.py::test_a_private_file_is_mounted_for_its_owner",
                "tests/sandbox/test_streamed.py::test_what_is_lent_is_private_again",
                only=("docker",),
            ),
        ),
    ),
    Case(
        "A12",
        "paths with a space, comma, colon, quote, newline, ESC, leading dash, bytes that are no UTF-8",
        "the right file gets in, and its name is shown escaped",
        (
            tested(
                "tests/sandbox/test_container.py::test_mounted_documents_are_read_byte_for_byte",
                only=("docker",),
            ),
            tested(
                "tests/sandbox/test_staging.py::test_a_path_that_json_cannot_carry_is_packed",
                "tests/sandbox/test_staging.py::test_any_name_becomes_text_that_utf8_can_carry",
                "tests/sources/test_gather.py::test_odd_names",
                "tests/sources/test_walk.py::test_names_of_any_bytes",
                "tests/cli/test_boundary.py::test_control_sequences_in_an_error_are_shown_not_sent",
            ),
        ),
    ),
    Case(
        "A13",
        "the engine does not have the path that is to be mounted (a remote one)",
        "the input is copied in; never an empty one, and no folder appears anywhere",
        (
            tested(
                "tests/sandbox/test_streamed.py::test_a_path_the_engine_does_not_have",
                "tests/sandbox/test_streamed.py::test_a_remote_engine_gets_a_copy",
                "tests/ask/test_copied.py::test_a_remote_engine_answers_all_the_same",
                only=("docker",),
            ),
        ),
    ),
    Case(
        "A14",
        "the engine has another file at that path",
        "the proof over size and samples does not agree: the input is copied in",
        (
            tested(
                "tests/sandbox/test_streamed.py::test_another_file_at_the_path",
                "tests/sandbox/test_upload.py::test_a_stream_and_a_file_have_the_same_proof",
                only=("docker",),
            ),
        ),
    ),
    Case(
        "A15",
        "look into the supervisor or take its stream to the host: /proc, ptrace, process_vm_readv, pidfd_getfd",
        "refused: it is not dumpable",
        (
            probe(
                "look",
                SUPERVISOR,
                {
                    **dict.fromkeys(("mem", "environ", "maps", "auxv", "syscall", "fd", "its stdout", "cwd"), NO),
                    **dict.fromkeys(("ptrace", "process_vm_readv", "take its stdout"), "EPERM|ENOSYS"),
                },
                {
                    **dict.fromkeys(
                        ("mem", "environ", "maps", "auxv", "fd", "cwd", "ptrace", "take its stdout"), WORKED
                    ),
                    "syscall": "worked|ENOENT",
                    "its stdout": "worked|ENXIO",
                    "process_vm_readv": "EFAULT|worked",
                },
            ),
        ),
    ),
    Case(
        "A16",
        "run a program that the cell dropped into /tmp or into memory",
        "not from /tmp; from memory it runs under the same confinement",
        (
            probe(
                "run",
                DROPPED,
                {
                    "from /tmp": "EACCES|EPERM",
                    "its filter": "2",
                    "its honey": ABSENT,
                    "its write": READ_ONLY,
                    "its socket": "EAFNOSUPPORT|EPERM|EACCES",
                    "its namespace": "EPERM",
                },
                dict.fromkeys(("from /tmp", "its honey", "its write", "its socket", "its namespace"), WORKED)
                | {"its filter": "0"},
            ),
        ),
    ),
    Case(
        "A17",
        "our own source asks the engine for exec, cp, archives, privileges or `-v` mounts",
        "none of them is in it, and a test says so",
        (
            tested(
                "tests/sandbox/test_profile.py::test_the_engine_is_never_asked_for_what_can_be_attacked_from_inside",
                "tests/sandbox/test_container.py::test_the_engine_holds_the_profile",
                only=("docker",),
            ),
        ),
    ),
)
