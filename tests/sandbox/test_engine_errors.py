"""Engine errors to messages (SANDBOX.md 7, H01): an engine that answers each recorded failure, and what a person reads.

Every row is one condition: how the engine is addressed, what it says, and the code and the command of the message. The
time bounds are those of a person who waits: four seconds.
"""

from __future__ import annotations

import asyncio
import http.server
import json
import re
import socket
import socketserver
import ssl
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from rlm_cli.errors import ExitCode, SandboxError
from rlm_cli.sandbox import SandboxOptions
from rlm_cli.sandbox.container import ContainerSpec, Engine
from rlm_cli.sandbox.docker_sandbox import DockerSandbox
from rlm_cli.sandbox.engine_errors import engine_gone
from rlm_cli.sandbox.image import Image, resolve_image
from rlm_cli.sandbox.owner import Owner
from rlm_cli.sandbox.podman import podman_hosts
from rlm_cli.sandbox.profile import Profile
from tests.sandbox.test_container import Doc, NoModels

PATIENCE_S = 4.0

VERSION = (200, {"ApiVersion": "1.41", "MinAPIVersion": "1.12", "Components": [{"Name": "Engine"}]})
INFO = (200, {"ServerVersion": "20.10.24", "NCPU": 4, "MemTotal": 2**33, "Architecture": "x86_64"})
IMAGE = (200, {"Id": "sha256:1", "Size": 1, "Architecture": "amd64", "Config": {}})
CREATED = (201, {"Id": "c" * 64, "Warnings": []})
GONE = (404, {"message": "No such container: x"})

Reply = tuple[int, Any]


@dataclass
class FakeEngine:
    """Answers `METHOD /path` (without the version, longest match first) as told; all else is well."""

    replies: Mapping[str, Reply]
    address: str = ""
    asked: list[str] = field(default_factory=list)

    def reply(self, request: str) -> Reply:
        self.asked.append(request)
        known = {"GET /version": VERSION, "GET /info": INFO, "GET /images/": IMAGE, "POST /containers/create": CREATED,
                 "DELETE /containers/": (204, ""), "GET /containers/json": (200, []), "GET /containers/": GONE,
                 "GET /volumes": (200, {"Volumes": []}), **self.replies}  # fmt: skip
        found = max((start for start in known if request.startswith(start)), key=len, default="")
        return known.get(found, (200, {}))


class Handler(http.server.BaseHTTPRequestHandler):
    """One request of the docker package's."""

    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = re.sub(r"^/v[\d.]+", "", self.path)
        status, body = self.server.engine.reply(f"{self.command} {path}")  # type: ignore[attr-defined]
        if status == 0:  # never
            self.server.closing.wait(30)  # type: ignore[attr-defined]
            self.close_connection = True
            return
        raw = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain" if isinstance(body, str) else "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    do_GET = do_POST = do_DELETE = answer  # noqa: N815 - http.server's names

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *_: Any) -> None:
        """Quiet."""


class UnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that left is no news."""


class TcpServer(socketserver.ThreadingMixIn, socketserver.TCPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that left is no news."""


@contextmanager
def fake_engine(
    replies: Mapping[str, Reply] | None = None, *, tcp: bool = False, tls: ssl.SSLContext | None = None
) -> Iterator[FakeEngine]:
    """An engine at `address`."""
    engine = FakeEngine(replies or {})
    with tempfile.TemporaryDirectory(prefix="rlm-") as folder:
        server: Any
        if tcp:
            server = TcpServer(("127.0.0.1", 0), Handler)
            engine.address = f"tcp://127.0.0.1:{server.server_address[1]}"
            if tls:
                server.socket = tls.wrap_socket(server.socket, server_side=True)
        else:
            server = UnixServer(f"{folder}/d", Handler)
            engine.address = f"unix://{folder}/d"
        server.engine, server.closing = engine, threading.Event()
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield engine
        finally:
            server.closing.set()
            server.shutdown()
            server.server_close()
            thread.join()


def told(act: Callable[[], object]) -> SandboxError:
    """The error, which comes soon, fits on one screen, and has something to type."""
    began = time.monotonic()
    with pytest.raises(SandboxError) as caught:
        act()
    error = caught.value
    assert time.monotonic() - began < PATIENCE_S
    assert (error.exit_code, bool(error.hint), len(error.message + error.hint) < 1500) == (ExitCode.SANDBOX, True, True)
    assert "Traceback" not in error.message
    return error


def start(engine: Engine) -> None:
    """Everything a run asks of an engine up to its first byte."""
    spec = ContainerSpec("rlm-test", Image("x", "sha256:1", 1), Profile())
    engine.probe()
    resolve_image(engine, SandboxOptions(image="x", pull="missing"))
    engine.start(engine.create(spec))


SAID: dict[str, tuple[dict[str, Reply], str, str]] = {
    "image missing, pull refused": (
        {"GET /images/": (404, {"message": "No such image: x:latest"}),
         "POST /images/create": (404, {"message": "pull access denied for x, repository does not exist"})},
        "image_missing", "docker pull x",
    ),
    "image missing, no network": (
        {"GET /images/": (404, {"message": "No such image: x:latest"}),
         "POST /images/create": (500, {"message": "Get https://registry-1.docker.io/v2/: dial tcp: lookup "
                                                  "registry-1.docker.io: no such host"})},
        "image_missing", "docker load",
    ),
    "wrong architecture": (
        {"POST /containers/cccc": (400, {"message": "OCI runtime create failed: exec format error"})},
        "image_wrong_arch", "rlm sandbox pull",
    ),
    "no python in the image": (
        {"POST /containers/cccc": (400, {"message": 'exec: "python3": executable file not found in $PATH: unknown'})},
        "image_no_python", "unset sandbox.image",
    ),
    "no python in the image, Podman": (
        {"POST /containers/cccc": (500, {"message": "runc: executable file `python3` not found in $PATH"})},
        "image_no_python", "unset sandbox.image",
    ),
    "unknown runtime": (
        {"POST /containers/create": (400, {"message": "Unknown runtime specified kata"})},
        "engine_runtime", "docker info",
    ),
    "broken default runtime": (
        {"POST /containers/create": (400, {"message": "unknown or invalid runtime name: runsc"})},
        "engine_runtime", "docker info",
    ),
    "bind source missing": (
        {"POST /containers/create": (400, {"message": 'invalid mount config for type "bind": bind source path does not '
                                                      "exist: /home/me/a.log"})},
        "mount_failed", "Docker Desktop",
    ),
    "folder not shared": (
        {"POST /containers/cccc": (500, {"message": "Mounts denied: The path /data is not shared from the host"})},
        "mount_failed", "Docker Desktop",
    ),
    "bind source missing, Podman": (
        {"POST /containers/create": (500, {"message": "statfs /home/me/a.log: no such file or directory"})},
        "mount_failed", "Docker Desktop",
    ),
    "memory refused": (
        {"POST /containers/create": (400, {"message": "Minimum memory limit allowed is 6MB"})},
        "limit_refused", "sandbox.memory",
    ),
    "processors refused": (
        {"POST /containers/create": (400, {"message": "Range of CPUs is from 0.01 to 2.00, as there are only 2 CPUs"})},
        "limit_refused", "sandbox.cpus",
    ),
    "rlimit refused": (
        {"POST /containers/cccc": (500, {"message": "error setting rlimit type 6: operation not permitted"})},
        "limit_refused", "sandbox.memory",
    ),
    "name taken": (
        {"POST /containers/create": (409, {"message": 'Conflict. The container name "/rlm-test" is already in use by '
                                                      'container "abc". You have to remove (or rename) it'})},
        "name_clash", "run it again",
    ),
    "the engine's disk is full": (
        {"POST /containers/create": (500, {"message": "write /var/lib/docker/x: no space left on device"})},
        "engine_disk_full", "docker system",
    ),
    "API too old": ({"GET /version": (200, {"ApiVersion": "1.18"})}, "engine_api", "update the engine"),
    "API too new": (
        {"GET /version": (400, {"message": "client version 1.24 is too old. Minimum supported API version is 1.44"})},
        "engine_api", "update the engine",
    ),
    "a web server": ({"GET /version": (404, "<html>nginx</html>")}, "engine_not_docker", "DOCKER_HOST"),
    "a web server that is glad of anything": ({"GET /version": (200, "<html>")}, "engine_not_docker", "DOCKER_HOST"),
    "some other JSON": ({"GET /version": (200, ["hello"])}, "engine_not_docker", "DOCKER_HOST"),
    "it hangs at once": ({"GET /version": (0, "")}, "engine_timeout", "docker info"),
    "it hangs when asked for its facts": ({"GET /info": (0, "")}, "engine_timeout", "docker info"),
}  # fmt: skip


@pytest.mark.parametrize("condition", SAID)
def test_h01_what_an_engine_says(condition: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recorded failure becomes its own code and a message with one thing to type."""
    replies, code, words = SAID[condition]
    with fake_engine(replies) as fake:
        monkeypatch.setenv("DOCKER_HOST", fake.address)
        engine = Engine()
        error = told(lambda: start(engine))
        engine.close()
    assert (error.code, words in error.hint) == (code, True), error.hint


def test_h01_an_engine_that_is_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: the same fake with nothing wrong takes every step, and a proxy of the web is not asked."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nonexistent")
    for tcp in (False, True):
        with fake_engine(tcp=tcp) as fake:
            monkeypatch.setenv("DOCKER_HOST", fake.address)
            engine = Engine()
            start(engine)
            engine.close()
        assert fake.asked[-1].startswith("POST /containers/cccc")


@pytest.fixture
def nothing_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No program on the PATH."""
    monkeypatch.setenv("PATH", str(tmp_path))


def test_h01_refused_by_tcp(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody listens on that port; the address is named."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
    monkeypatch.setenv("DOCKER_HOST", address)
    error = told(Engine().probe)
    assert (error.code, address in error.message) == ("docker_daemon_down", True)


def test_h01_a_host_that_is_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that does not exist is an engine that cannot be reached."""
    monkeypatch.setenv("DOCKER_HOST", "tcp://engine.invalid:2375")
    assert told(Engine().probe).code == "docker_daemon_down"


@pytest.mark.parametrize("address", ["tcp://a:b", "tcp://a:99999", "tcp://[x]:1", "http://[::1", "tcp://\x1b[2J:1"])
def test_h01_an_address_that_is_none(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slip of the hand is not a bug of ours."""
    monkeypatch.setenv("DOCKER_HOST", address)
    error = told(Engine().probe)
    assert (error.code, address in error.message, "DOCKER_HOST" in error.hint) == ("engine_address", True, True)


def test_h01_ssh_needs_a_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """The docker package cannot do ssh by itself; the hint says how to forward the socket."""
    monkeypatch.setenv("DOCKER_HOST", "ssh://me@127.0.0.1:1")
    error = told(Engine().probe)
    assert (error.code, "ssh -NL" in error.hint) == ("engine_ssh", True)


def test_h01_tls_without_certificates(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """DOCKER_TLS_VERIFY with an empty DOCKER_CERT_PATH."""
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
    monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
    monkeypatch.setenv("DOCKER_CERT_PATH", str(tmp_path))
    error = told(Engine().probe)
    assert (error.code, "DOCKER_CERT_PATH" in error.hint) == ("docker_tls", True)


def certificate(folder: Path) -> None:
    """A key and a certificate for nobody, which stand for the engine's own, the client's, and the authority's."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "2",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", folder / "key.pem", "-out", folder / "cert.pem"],
        check=True, capture_output=True,
    )  # fmt: skip
    (folder / "ca.pem").write_bytes((folder / "cert.pem").read_bytes())


def test_h01_tls_with_the_wrong_authority(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The engine's certificate is signed by somebody else: refused. With the right authority it works, which is the
    control; and a plain port that is asked for TLS, like a TLS port that is asked in plain words, is told apart."""
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for folder in (ours, theirs):
        folder.mkdir()
        certificate(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(theirs / "cert.pem", theirs / "key.pem")
    monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
    with fake_engine(tcp=True, tls=context) as fake:
        monkeypatch.setenv("DOCKER_HOST", fake.address)
        monkeypatch.setenv("DOCKER_CERT_PATH", str(ours))
        assert told(Engine().probe).code == "docker_tls"
        monkeypatch.setenv("DOCKER_CERT_PATH", str(theirs))
        engine = Engine()
        engine.probe()
        engine.close()
    with fake_engine(tcp=True) as fake:
        monkeypatch.setenv("DOCKER_HOST", fake.address)
        assert told(Engine().probe).code == "docker_tls"
    said = "Client sent an HTTP request to an HTTPS server.\n"
    with fake_engine({"GET /version": (400, said)}, tcp=True) as fake:
        monkeypatch.delenv("DOCKER_TLS_VERIFY")
        monkeypatch.delenv("DOCKER_CERT_PATH")
        monkeypatch.setenv("DOCKER_HOST", fake.address)
        assert told(Engine().probe).code == "docker_tls"


def test_h01_a_name_that_is_taken_is_tried_once_more(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The next container has another name, and the one whose name it was is not removed: H08."""
    said = SAID["name taken"][0]
    path = tmp_path / "a.txt"
    path.write_text("hello\n")
    with fake_engine(said) as fake:
        monkeypatch.setenv("DOCKER_HOST", fake.address)

        async def test() -> str:
            sandbox = DockerSandbox(SandboxOptions(image="x"), folder=tmp_path)
            try:
                await sandbox.open([Doc("a.txt", path, 6)], NoModels())
            except SandboxError as error:
                return error.code
            finally:
                await sandbox.close()
            return ""

        code = asyncio.run(test())
    names = [ask.partition("name=")[2] for ask in fake.asked if ask.startswith("POST /containers/create")]
    assert (code, len(set(names))) == ("name_clash", 2)
    assert [ask for ask in fake.asked if ask.startswith("DELETE")] == []


# -- Podman, and which engine is taken


def test_where_podman_listens() -> None:
    """CONTAINER_HOST alone where it is set; the user's service goes before the system's; root has only that."""
    system = "unix:///run/podman/podman.sock"
    assert {
        "told": podman_hosts({"CONTAINER_HOST": "unix:///x", "XDG_RUNTIME_DIR": "/r"}, 7),
        "user": podman_hosts({"XDG_RUNTIME_DIR": "/r/"}, 7),
        "no session": podman_hosts({}, 7),
        "root": podman_hosts({"CONTAINER_HOST": ""}, 0),
    } == {
        "told": ("unix:///x",),
        "user": ("unix:///r/podman/podman.sock", system),
        "no session": ("unix:///run/user/7/podman/podman.sock", system),
        "root": (system,),
    }


PODMAN = {"GET /version": (200, {"ApiVersion": "1.41", "Components": [{"Name": "Podman Engine"}]})}


def test_h01_podman_that_is_not_installed(nothing_there: None) -> None:
    """--sandbox podman: both places that were looked at, and the command that installs it."""
    engine = Engine(runtime="podman", podman=("unix:///nonexistent/1", "unix:///nonexistent/2"))
    error = told(engine.probe)
    assert error.code == "podman_not_installed"
    assert "/nonexistent/1 or unix:///nonexistent/2" in error.message
    assert "apt-get install -y podman" in error.hint


def test_h01_podman_without_its_service(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The program is there and nobody listens: the command that starts the socket."""
    program = tmp_path / "podman"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    error = told(Engine(runtime="podman", podman=("unix:///nonexistent/1",)).probe)
    assert (error.code, "podman.socket" in error.hint) == ("podman_down", True)


@pytest.mark.parametrize(("version", "program"), [(PODMAN, "podman"), ({}, "docker")])
def test_the_way_to_remove_a_container_is_the_engines_own(
    version: dict[str, Reply], program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose engine it is decides which program the hints name."""
    stays = {"DELETE /containers/c": (204, ""), "GET /containers/c/json": (200, {"State": {"Running": True}})}
    with fake_engine({**version, **stays}) as fake:
        monkeypatch.setenv("DOCKER_HOST", fake.address)
        engine = Engine()
        assert told(lambda: engine.remove("c", patience=0.1)).hint == f"{program} rm -f c"
        assert f" {program} rm -f c " in engine_gone("c", SandboxError("no"), engine.flavor).hint
        engine.close()


def test_podman_has_a_container_no_more_whatever_the_status(monkeypatch: pytest.MonkeyPatch) -> None:
    """While a container is removed, Podman's answer is a 500; another 500 says nothing of the container."""
    said = "container 22c does not exist in database: no such container"
    asked = {"GET /containers/a/json": (500, {"message": said}), "GET /containers/b/json": (500, {"message": "busy"})}
    with fake_engine({**PODMAN, **asked}) as fake:
        monkeypatch.setenv("DOCKER_HOST", fake.address)
        engine = Engine()
        assert engine.inspect("a") is None
        with pytest.raises(SandboxError):
            engine.inspect("b")
        engine.close()


def test_one_that_cannot_be_removed_keeps_none_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a crash has left is removed but for one thing, and that is told."""
    dead = {"rlm.owner": str(replace(Owner.here(), started="1"))}
    left = [{"Id": name, "Names": [f"/{name}"], "Labels": dead} for name in ("stuck", "loose")]
    volumes = {"Volumes": [{"Name": "kept", "Labels": dead}]}
    asked = {"GET /containers/json": (200, left), "GET /volumes": (200, volumes), "DELETE /volumes/": (204, "")}
    stuck = {"DELETE /containers/stuck": (204, ""), "GET /containers/stuck/json": (200, {"State": {}})}
    with fake_engine({**asked, **stuck}) as fake:
        monkeypatch.setenv("DOCKER_HOST", fake.address)
        engine = Engine()
        assert told(lambda: engine.prune(patience=0.1)).code == "container_stuck"
        engine.close()
    assert [one.split("?")[0] for one in fake.asked if one.startswith("DELETE")] == [
        "DELETE /containers/stuck",
        "DELETE /containers/loose",
        "DELETE /volumes/kept",
    ]


def test_h01_a_broken_docker_does_not_hide_podman(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """auto: Docker, and where that does not answer Podman; when neither does, Docker is what is told about. Who names
    an engine, by DOCKER_HOST or --sandbox docker, gets that one or none."""
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    meta = tmp_path / "contexts" / "meta" / "dead"
    meta.mkdir(parents=True)
    (tmp_path / "config.json").write_text('{"currentContext": "dead"}')
    endpoint = {"docker": {"Host": "unix:///nonexistent/docker.sock", "SkipTLSVerify": False}}
    (meta / "meta.json").write_text(json.dumps({"Name": "dead", "Metadata": {}, "Endpoints": endpoint}))
    import hashlib

    meta.rename(meta.with_name(hashlib.sha256(b"dead").hexdigest()))
    with fake_engine(PODMAN) as fake:
        found = Engine(runtime="auto", podman=("unix:///nonexistent/1", fake.address))
        assert (found.probe().name, found.host) == ("Podman", fake.address)
        found.close()
        assert told(Engine(runtime="docker", podman=(fake.address,)).probe).code.startswith("docker_")
        monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent/docker.sock")
        assert told(Engine(runtime="auto", podman=(fake.address,)).probe).code.startswith("docker_")
        monkeypatch.delenv("DOCKER_HOST")
    error = told(Engine(runtime="auto", podman=("unix:///nonexistent/1",)).probe)
    assert (error.code.startswith("docker_"), "/nonexistent/docker.sock" in error.message) == (True, True)


def test_podman_gets_no_variable_of_its_service() -> None:
    """A name without "=" removes a variable on Docker; on Podman it would bring the service's own value in."""
    from rlm_cli.sandbox.profile import environment

    given = ("PATH=/bin", "PYTHON_VERSION=3")
    assert [entry for entry in environment(given) if "=" not in entry]
    kept = dict(entry.split("=") for entry in environment(given, removable=False))
    assert {name: value for name, value in kept.items() if value} == {
        "PATH": "/bin",
        "HOME": "/tmp",
        "LANG": "C.UTF-8",
    }
