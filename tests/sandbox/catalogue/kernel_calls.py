"""B: the network, and the doors of the host's kernel."""

from __future__ import annotations

from .files import ABSENT, NO, WORKED
from .rows import Case, Control, probe, tested

NO_SOCKET = "EAFNOSUPPORT|EPERM|EACCES"
NO_ROUTE = f"{NO_SOCKET}|ENETUNREACH|ECONNREFUSED|EADDRNOTAVAIL"

TCP_CODE = """
import socket
for label, address, port in TCP + OUTSIDE:
    def connect():
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family) as s:
            s.settimeout(10)
            s.connect((address, port))
    attempt(label, connect)
"""
DNS_CODE = """
import socket, time
def datagram():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.sendto(b"query", UDP)
attempt("a datagram", datagram)
if OUTSIDE:
    began = time.monotonic()
    attempt("a name", lambda: socket.getaddrinfo("example.com", 80))
    print("it took: " + ("no time" if time.monotonic() - began < 4 else "long"))
"""
VSOCK_CODE = """
import socket
def connect(cid):
    with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as s:
        s.settimeout(5)
        if cid is not None:
            s.connect((cid, VSOCK[1]))
attempt("a socket", lambda: connect(None))
if OUTSIDE:
    attempt("to the host", lambda: connect(VSOCK[0]))
"""
FAMILIES = """
import socket
def abstract():
    with socket.socket(socket.AF_UNIX) as s:
        s.connect("\\0" + ABSTRACT)
attempt("abstract", abstract)
attempt("netlink", lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0).close())
attempt("packet", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0).close())
attempt("raw ICMP", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).close())
def algorithm():
    try:
        socket.socket(38, socket.SOCK_SEQPACKET, 0).close()
    except OSError as error:
        if error.errno == errno.EAFNOSUPPORT and not OUTSIDE:
            raise LookupError from None
        raise
attempt("kernel crypto", algorithm)
"""
IO_URING = """
import ctypes
attempt("io_uring", lambda: os.close(call("io_uring_setup", 4, ctypes.create_string_buffer(120))))
"""
NAMESPACES = """
def clone(name, *args):
    pid = call(name, *args)
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
def apart(what):
    \"\"\"In a process of its own, which it may change.\"\"\"
    def child():
        try:
            what()
        except OSError as error:
            os._exit(error.errno)
        os._exit(0)
    code = os.waitstatus_to_exitcode(in_child(child))
    if code:
        raise OSError(code, "refused")
NEW_USER, NEW_NET, SIGCHLD = 0x10000000, 0x40000000, 17
for label, what in (
    ("unshare a user namespace", lambda: call("unshare", NEW_USER)),
    ("clone into a user namespace", lambda: clone("clone", NEW_USER | SIGCHLD, 0, 0, 0, 0)),
    ("unshare a network", lambda: call("unshare", NEW_NET)),
    ("setns", lambda: call("setns", os.open("/proc/self/ns/net", os.O_RDONLY), 0)),
    ("pivot_root", lambda: call("pivot_root", b"/nowhere", b"/nowhere")),
    ("chroot", lambda: os.chroot("/tmp")),
):
    attempt(label, lambda: apart(what))
"""
CALLS = """
import ctypes
def attributes(*words):
    return ctypes.create_string_buffer(b"".join(word.to_bytes(4, sys.byteorder) for word in words).ljust(128, b"\\0"))
attempt("keyctl", lambda: call("keyctl", 0, -3, 0))
attempt("add_key", lambda: call("add_key", b"user", b"rlm-test", b"x", 1, -2))
attempt("bpf", lambda: os.close(call("bpf", 0, attributes(2, 4, 4, 1), 72)))
attempt("perf_event_open", lambda: os.close(call("perf_event_open", attributes(1, 112), 0, -1, -1, 0)))
attempt("userfaultfd", lambda: os.close(call("userfaultfd", 0)))
iov = (ctypes.c_long * 2)(1, 1)
attempt("process_vm_readv", lambda: call("process_vm_readv", 1, iov, 1, iov, 1, 0))
attempt("ptrace", lambda: call("ptrace", 0x4206, 1, 0, 0))
"""
SPLICES = """
import ctypes
(out, into), (_, second) = os.pipe(), os.pipe()
page = ctypes.create_string_buffer(b"x")
vector = (ctypes.c_void_p * 2)(ctypes.addressof(page), 1)
with open(os.__file__, "rb") as file:
    attempt("splice", lambda: call("splice", file.fileno(), None, into, None, 1, 0))
    os.write(into, b"x")
    attempt("tee", lambda: call("tee", out, second, 1, 0))
    attempt("vmsplice", lambda: call("vmsplice", into, vector, 1, 0))
    print("sendfile: " + str(os.sendfile(into, file.fileno(), 0, 1)))
"""
DEVICES = """
import glob, stat
def node():
    os.mknod("/tmp/node", 0o600 | stat.S_IFBLK, os.makedev(8, 0))
    os.unlink("/tmp/node")
def writable(*patterns):
    found = [path for pattern in patterns for path in glob.glob(pattern)]
    os.close(os.open(found[0], os.O_WRONLY))
attempt("make a block device", node)
attempt("/dev/kmsg", lambda: os.close(os.open("/dev/kmsg", os.O_RDONLY)))
attempt("syslog", lambda: libc_call("klogctl", 10, None, 0))
attempt("sysrq", lambda: writable("/proc/sysrq-trigger"))
attempt("core_pattern", lambda: writable("/proc/sys/kernel/core_pattern"))
attempt("cgroup", lambda: writable("/sys/fs/cgroup/memory/cgroup.procs", "/sys/fs/cgroup/cgroup.procs"))
attempt("oom_score_adj of another", lambda: writable("/proc/1/oom_score_adj"))
"""
SETUID = """
import subprocess
path = FOLDER + "/sleep"
print("it is setuid: " + str(bool(os.stat(path).st_mode & 0o4000)))
def run():
    with subprocess.Popen([path, "600"]) as child:
        status = dict(line.split(":", 1) for line in open(f"/proc/{child.pid}/status"))
        child.kill()
    if int(status["Uid"].split()[1]) != os.stat(path).st_uid:
        raise PermissionError(errno.EPERM, "no gain")
attempt("become its owner", run)
"""
OLD_ENTRIES = """
import ctypes, mmap
def x32():
    if call(0x40000000 | 39) != os.getpid():
        raise LookupError
attempt("x32", x32)
def int80():
    code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(b"\\xb8\\x14\\x00\\x00\\x00\\xcd\\x80\\xc3")  # mov eax, 20 (getpid); int 0x80; ret
    address = ctypes.addressof(ctypes.c_char.from_buffer(code))
    os._exit(0 if ctypes.CFUNCTYPE(ctypes.c_int)(address)() == os.getpid() else 1)
status = in_child(int80)
print("int 0x80: " + ("worked" if status == 0 else "refused"))
"""


CASES = (
    Case(
        "B01",
        "TCP to the host, the bridge's gateway, the metadata service, the internet, over IPv4 and IPv6",
        "an error at once; the canaries accept nothing",
        (
            probe(
                "connect",
                TCP_CODE,
                dict.fromkeys(("loopback", "gateway", "metadata", "internet", "IPv6", "IPv6 loopback"), NO_ROUTE),
                {"loopback": WORKED, "gateway": WORKED},
            ),
        ),
    ),
    Case(
        "B02",
        "send a datagram, ask for a name",
        "an error at once, without waiting for a server",
        (
            probe(
                "ask",
                DNS_CODE,
                {"a datagram": NO_ROUTE, "a name": "gaierror -?\\d+|E.*", "it took": "no time"},
                {"a datagram": WORKED},
            ),
        ),
    ),
    Case(
        "B03",
        "a vsock to the machine below (a hypervisor, WSL2)",
        "no such socket can be made",
        (
            probe(
                "connect",
                VSOCK_CODE,
                {"a socket": NO_SOCKET, "to the host": NO_SOCKET},
                {"a socket": "worked|unavailable"},
            ),
        ),
    ),
    Case(
        "B04",
        "abstract unix sockets, netlink, packet, kernel crypto and raw ICMP sockets",
        "no such socket can be made",
        (
            probe(
                "make",
                FAMILIES,
                dict.fromkeys(("abstract", "netlink", "packet", "raw ICMP", "kernel crypto"), NO_SOCKET),
                dict.fromkeys(("abstract", "netlink", "packet", "raw ICMP"), WORKED)
                | {"kernel crypto": "worked|LookupError"},
            ),
        ),
    ),
    Case(
        "B05",
        "io_uring, which makes sockets past a filter",
        "refused",
        (probe("set up", IO_URING, {"io_uring": "EPERM|ENOSYS"}, {"io_uring": "worked|unavailable"}),),
    ),
    Case(
        "B06",
        "new namespaces (unshare, clone), setns, chroot, pivot_root",
        "refused",
        (
            probe(
                "leave",
                NAMESPACES,
                dict.fromkeys(
                    (
                        "unshare a user namespace",
                        "clone into a user namespace",
                        "unshare a network",
                        "setns",
                        "pivot_root",
                        "chroot",
                    ),
                    "EPERM",
                ),
                dict.fromkeys(
                    (
                        "unshare a user namespace",
                        "clone into a user namespace",
                        "unshare a network",
                        "setns",
                        "chroot",
                    ),
                    WORKED,
                )
                | {"pivot_root": "ENOENT"},
            ),
        ),
    ),
    Case(
        "B07",
        "keyctl, add_key, bpf, perf_event_open, userfaultfd, process_vm_readv, ptrace; splice, vmsplice, tee",
        "refused",
        (
            probe(
                "call",
                CALLS,
                dict.fromkeys(
                    (
                        "keyctl",
                        "add_key",
                        "bpf",
                        "perf_event_open",
                        "userfaultfd",
                        "process_vm_readv",
                        "ptrace",
                    ),
                    "EPERM|ENOSYS",
                ),
                dict.fromkeys(("keyctl", "add_key", "bpf", "perf_event_open", "ptrace"), WORKED)
                | {"process_vm_readv": "EFAULT|worked", "userfaultfd": "worked|unavailable"},
            ),
            probe(
                "splice",
                SPLICES,
                {**dict.fromkeys(("splice", "tee", "vmsplice"), "EPERM"), "sendfile": "1"},
                {**dict.fromkeys(("splice", "tee", "vmsplice"), WORKED), "sendfile": "1"},
            ),
        ),
    ),
    Case(
        "B08",
        "make a device, read the kernel's log, write sysrq, core_pattern, cgroup files",
        "refused",
        (
            probe(
                "write",
                DEVICES,
                {
                    "make a block device": NO,
                    "/dev/kmsg": ABSENT + "|EPERM",
                    "syslog": "EPERM",
                    **dict.fromkeys(
                        ("sysrq", "core_pattern", "cgroup", "oom_score_adj of another"), "EROFS|EACCES|EPERM|IndexError"
                    ),
                },
                dict.fromkeys(
                    (
                        "make a block device",
                        "/dev/kmsg",
                        "syslog",
                        "core_pattern",
                        "cgroup",
                        "oom_score_adj of another",
                    ),
                    WORKED,
                )
                | {"sysrq": "worked|unavailable"},
            ),
        ),
    ),
    Case(
        "B09",
        "run a setuid program",
        "it gains nothing: no_new_privs",
        (
            probe(
                "run",
                SETUID,
                {"it is setuid": "True", "become its owner": NO},
                Control({"it is setuid": "True", "become its owner": WORKED}, nobody=True),
            ),
        ),
    ),
    Case(
        "B10",
        "enter the kernel the 32-bit way (int 0x80) or as x32, which a filter may overlook",
        "refused",
        (
            probe(
                "enter",
                OLD_ENTRIES,
                {"x32": "EPERM|ENOSYS", "int 0x80": "refused"},
                {"x32": "worked|ENOSYS", "int 0x80": "worked|unavailable"},
            ),
            tested("tests/sandbox/test_confinement.py::test_another_way_into_the_kernel_is_no_way_round"),
        ),
    ),
    Case(
        "B11",
        "an engine that drops a limit silently",
        "the supervisor reads every limit back; the host refuses to run anything and names the one that is missing",
        (
            tested(
                "tests/sandbox/test_container.py::test_a_container_that_is_not_locked_is_refused",
                "tests/sandbox/test_profile.py::test_each_wrong_fact_is_named_alone",
                only=("docker",),
            ),
        ),
    ),
    Case(
        "B12",
        "an engine whose own filter of system calls is off",
        "ours refuses the same; where it cannot be installed, nothing is run",
        (
            tested(
                "tests/sandbox/catalogue/test_probes.py::test_our_own_filter_is_enough",
                "tests/sandbox/test_profile.py::test_what_is_wrong_with_a_worker_is_named",
                "tests/sandbox/test_confinement.py::test_a_system_that_refuses_the_filter_is_reported_in_its_words",
                only=("docker",),
            ),
        ),
    ),
)
