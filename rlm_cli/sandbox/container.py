"""Docker: the engine, a container with everything locked, and the byte stream to the kernel in it.

The only importer of the docker package, and the only place that touches its private attributes (the attached socket
has no public way to write). Never used against a container that runs model code: exec, cp and archives, which is
where an engine can be attacked from inside (SANDBOX.md 12). Three families of exceptions come out of the package
(its own, those of requests, and OSError); all leave this file as `SandboxError`.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import secrets
import shutil
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import docker
import requests
from docker import auth as docker_auth
from docker.context import ContextAPI
from docker.errors import APIError, DockerException, ImageNotFound, NotFound, TLSParameterError
from docker.types import LogConfig, Mount, Ulimit

from .. import __version__
from ..errors import SandboxError
from ..events import SandboxInfo
from . import ContextFacts, Document, Host, OnOutput, SandboxOptions, StepResult
from .client import BOOT, KernelClient
from .guard import Guard
from .image import Image, ImageProgress, OnImageProgress, resolve_image, silent
from .owner import Owner
from .profile import MIN_MEMORY, Profile, environment, wrong_facts
from .staging import OnStageProgress, Proof, Staged, ignore, stage

T = TypeVar("T")

CALL_TIMEOUT = 30.0
PROBE_TIMEOUT = 2.0
PULL_SILENCE = 300.0
"""Seconds without a line of progress after which a pull has failed."""

REMOVAL_TIMEOUT = 10.0
HURRY = 2.0
"""Seconds that a person who pressed Ctrl-C twice waits for the container to go."""

OWNER_LABEL = "rlm.owner"
ATTACH = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1, "logs": 0}
STDERR_KEPT = 8 * 1024


@dataclass(frozen=True)
class EngineFacts:
    """What `probe` found. `memory` in bytes; `cgroup` is the version, "1" or "2"."""

    host: str
    version: str
    api: str
    os: str
    architecture: str
    cpus: int
    memory: int
    cgroup: str
    rootless: bool
    seccomp: bool


@dataclass(frozen=True)
class ContainerFacts:
    """One of our containers. `orphan`: its owner is provably dead, so nobody will remove it."""

    id: str
    name: str
    state: str
    run_id: str
    owner: str
    created: int
    """Seconds since the epoch."""

    orphan: bool


@dataclass(frozen=True)
class ContainerSpec:
    """Everything that makes one container."""

    name: str
    image: Image
    profile: Profile
    binds: tuple[tuple[str, str], ...] = ()
    """(path on the host, path in the container), all read-only."""

    labels: Mapping[str, str] = field(default_factory=dict)


class Engine:
    """One connection to a Docker Engine: DOCKER_HOST, else the current context, as the docker command does.

    Blocking: callers on the event loop use `asyncio.to_thread`. Every method raises only `SandboxError`. Connects
    at the first call; `close` releases it.
    """

    def __init__(self, *, timeout: float = CALL_TIMEOUT) -> None:
        self._timeout = timeout
        self._client: Any = None
        self._host = ""
        self._lock = threading.Lock()  # one connection, whichever thread comes first

    @property
    def host(self) -> str:
        """Where the engine is, as DOCKER_HOST spells it."""
        return self._host or "the default socket"

    @property
    def socket_path(self) -> str:
        """The local engine's socket, or "" when it is not a local one. Known once connected."""
        return socket_path(self._host)

    def close(self) -> None:
        """Release every connection. Idempotent; the next call would connect again."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def api(self) -> Any:
        """The connected client; the first call asks the engine for its version, which must answer quickly."""
        with self._lock:
            if self._client is None:
                with self._errors("connecting to the engine"):
                    found = docker.utils.kwargs_from_env()
                    if "base_url" not in found:
                        found = {**ContextAPI.kwargs_from_context(), **found}
                    self._host = found.get("base_url") or "unix:///var/run/docker.sock"
                    knock(self._host)
                    self._client = docker.APIClient(**found, timeout=min(PROBE_TIMEOUT, self._timeout))
                    self._client.timeout = self._timeout
            return self._client

    def probe(self) -> EngineFacts:
        """What engine this is; within `PROBE_TIMEOUT` seconds, or an error that says what to do."""
        api = self.api()
        with self._errors("asking the engine for its facts"):
            info = api._result(api._get(api._url("/info"), timeout=PROBE_TIMEOUT), True)
            security = info.get("SecurityOptions") or []
        return EngineFacts(
            host=self.host,
            version=str(info.get("ServerVersion", "")),
            api=str(api._version),
            os=str(info.get("OperatingSystem", "")),
            architecture=str(info.get("Architecture", "")),
            cpus=int(info.get("NCPU", 0)),
            memory=int(info.get("MemTotal", 0)),
            cgroup=str(info.get("CgroupVersion", "1")),
            rootless=any("rootless" in option for option in security),
            seccomp=any("seccomp" in option for option in security),
        )

    # -- images

    def find_image(self, name: str) -> Image | None:
        """The image of that name, or None when the engine has none."""
        api = self.api()
        try:
            with self._errors(f"looking for the image {name}"):
                found = api.inspect_image(name)
        except SandboxError as error:
            if error.code == "image_missing":
                return None
            raise
        config = found.get("Config") or {}
        return Image(
            name=name,
            id=str(found["Id"]),
            size=int(found.get("Size", 0)),
            architecture=str(found.get("Architecture", "")),
            env=tuple(config.get("Env") or ()),
            volumes=tuple(config.get("Volumes") or ()),
        )

    def pull_image(self, name: str, on_progress: OnImageProgress = silent) -> Image:
        """Download an image. Raises `SandboxError`: registry_unreachable or image_pull_failed."""
        api = self.api()
        repository, _, digest = name.partition("@")
        repository, tag = docker.utils.parse_repository_tag(repository)
        registry, _ = docker_auth.resolve_repository_name(repository)
        header = docker_auth.get_config_header(api, registry)
        try:
            with self._errors(f"pulling {name}"):
                response = api._post(
                    api._url("/images/create"),
                    params={"fromImage": repository, "tag": digest or tag or "latest"},
                    headers={"X-Registry-Auth": header} if header else {},
                    stream=True,
                    timeout=PULL_SILENCE,
                )
                api._raise_for_status(response)
                follow_pull(name, api._stream_helper(response, decode=True), on_progress)
        except SandboxError as error:
            raise pull_failure(name, error) from error
        found = self.find_image(name)
        if found is None:
            raise SandboxError(f"the engine pulled {name} and does not have it", code="image_pull_failed")
        return found

    def import_image(self, tar: Path, name: str, *, changes: tuple[str, ...]) -> Image:
        """Make an image of a root file system."""
        api = self.api()
        repository, tag = docker.utils.parse_repository_tag(name)
        with self._errors(f"importing {name}"), tar.open("rb") as data:
            response = api._post(
                api._url("/images/create"),
                params={"fromSrc": "-", "repo": repository, "tag": tag, "changes": list(changes)},
                headers={"Content-Type": "application/tar"},
                data=data,
                timeout=PULL_SILENCE,
            )
            api._raise_for_status(response)
            said = response.text
        found = self.find_image(name)
        if found is None:
            raise SandboxError(f"the engine did not take the image: {said.strip()}", code="image_build_failed")
        return found

    # -- containers

    def create(self, spec: ContainerSpec) -> str:
        """Create the container, not started. Returns its id."""
        api = self.api()
        profile = spec.profile
        with self._errors("creating the container"):
            host_config = api.create_host_config(
                network_mode=profile.network,
                read_only=profile.read_only,
                tmpfs=profile.tmpfs,
                ipc_mode="private",
                shm_size=profile.shm_size,
                cap_drop=list(profile.cap_drop),
                security_opt=profile.security_opt,
                mem_limit=profile.memory,
                memswap_limit=profile.memory,
                oom_score_adj=profile.oom_score_adj,
                nano_cpus=int(profile.cpus * 1e9),
                pids_limit=profile.pids,
                ulimits=[
                    Ulimit(name="nofile", soft=profile.open_files, hard=profile.open_files),
                    Ulimit(name="core", soft=0, hard=0),
                ],
                log_config=LogConfig(type=LogConfig.types.NONE),
                mounts=[Mount(target, source, type="bind", read_only=True) for source, target in spec.binds],
                auto_remove=True,
                init=False,
            )
            answer = api.create_container(
                spec.image.id,
                entrypoint=["python3"],
                command=["-I", "-S", "-u", "-c", BOOT],
                name=spec.name,
                user=profile.user,
                hostname="sandbox",
                working_dir="/tmp",  # noqa: S108 - in the container
                environment=environment(spec.image.env),
                labels=dict(spec.labels),
                stdin_open=True,  # closed by the engine when we go away (StdinOnce)
                tty=False,
                stop_signal="SIGKILL",
                healthcheck={"test": ["NONE"]},  # an image's own check would run programs beside the kernel
                host_config=host_config,
                use_config_proxy=False,
            )
        return str(answer["Id"])

    def attach(self, container: str) -> DockerChannel:
        """The stream to a container; before `start`, or its first bytes are lost."""
        api = self.api()
        with self._errors("attaching to the container"):
            return DockerChannel(api.attach_socket(container, params=ATTACH))

    def start(self, container: str) -> None:
        """Start it. Raises `SandboxError`: image_no_python, mount_failed, limit_refused ..."""
        api = self.api()
        with self._errors("starting the container"):
            api.start(container)

    def inspect(self, container: str) -> dict[str, Any] | None:
        """The engine's own record of a container, or None when it is gone."""
        api = self.api()
        try:
            with self._errors("inspecting the container"):
                return dict(api.inspect_container(container))
        except SandboxError as error:
            if isinstance(error.__cause__, NotFound):
                return None
            raise

    def remove(self, container: str, *, patience: float = REMOVAL_TIMEOUT) -> None:
        """Kill and remove it, and see it gone. A container that is gone already is fine."""
        api = self.api()
        deadline = time.monotonic() + patience
        with self._errors("removing the container"):
            answer = api._delete(
                api._url("/containers/{0}", container), params={"force": True, "v": True}, timeout=patience
            )
            if answer.status_code not in (404, 409):  # 409: its removal is under way (auto_remove)
                api._raise_for_status(answer)
        while self.inspect(container) is not None:
            if time.monotonic() > deadline:
                raise SandboxError(
                    f"the container {container} does not go away",
                    hint=f"docker rm -f {container}",
                    code="container_stuck",
                )
            time.sleep(0.01)

    def containers(self) -> list[ContainerFacts]:
        """Every container with our label, running or not, whoever made it."""
        api = self.api()
        with self._errors("listing containers"):
            found = api.containers(all=True, filters={"label": OWNER_LABEL})
        return [container_facts(entry) for entry in found]

    def prune(self, *, dry_run: bool = False) -> list[ContainerFacts]:
        """Remove the containers whose owner is provably dead on this machine; returns them."""
        orphans = [container for container in self.containers() if container.orphan]
        if not dry_run:
            for container in orphans:
                self.remove(container.id)
        return orphans

    @contextlib.contextmanager
    def _errors(self, doing: str) -> Iterator[None]:
        try:
            yield
        except (DockerException, requests.exceptions.RequestException, OSError) as error:
            raise explain(error, doing, self.host) from error


def socket_path(host: str) -> str:
    """The file of a local engine's socket; "" for any other kind of address."""
    path = host.removeprefix("http+").removeprefix("unix://")
    if path == host:
        return ""
    return path if path.startswith("/") else f"/{path}"


def knock(host: str) -> None:
    """Connect to a local engine's socket once. Raises the plain `OSError`: the docker package wraps it five deep,
    and leaks the socket."""
    path = socket_path(host)
    if path:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(PROBE_TIMEOUT)
            probe.connect(path)


def container_facts(entry: Mapping[str, Any]) -> ContainerFacts:
    """One line of the engine's list."""
    labels = entry.get("Labels") or {}
    owner = Owner.parse(labels.get(OWNER_LABEL, ""))
    return ContainerFacts(
        id=str(entry["Id"]),
        name=str((entry.get("Names") or [""])[0]).lstrip("/"),
        state=str(entry.get("State", "")),
        run_id=str(labels.get("rlm.run", "")),
        owner=str(labels.get(OWNER_LABEL, "")),
        created=int(entry.get("Created", 0)),
        orphan=owner is not None and owner.is_dead(),
    )


# -- what went wrong -------------------------------------------------------------------------------------------------


def explain(error: BaseException, doing: str, host: str) -> SandboxError:
    """Whose fault it is and what to type next, from what lies at the bottom of the exception."""
    chain = tuple(causes(error))
    kinds = {type(cause).__name__ for cause in chain}
    if isinstance(error, APIError):
        return refusal(error, doing)
    if any(isinstance(cause, PermissionError) for cause in chain):
        return SandboxError(
            f"no permission to use the Docker Engine at {host}",
            hint="sudo usermod -aG docker $USER, then log in again (that group is as good as root), or rootless Docker",
            code="docker_permission",
        )
    if any(isinstance(cause, TimeoutError | requests.exceptions.Timeout) for cause in chain) or (
        kinds & {"ReadTimeoutError", "ConnectTimeoutError"}
    ):
        return SandboxError(
            f"the Docker Engine at {host} did not answer in time ({doing})",
            hint="docker info   (if that hangs too, restart the engine)",
            code="engine_timeout",
        )
    if any(isinstance(cause, ssl.SSLError | TLSParameterError) for cause in chain):
        return SandboxError(
            f"no secure connection to the Docker Engine at {host}: {bottom(chain)}",
            hint="check DOCKER_TLS_VERIFY, DOCKER_CERT_PATH and REQUESTS_CA_BUNDLE:  docker info",
            code="docker_tls",
        )
    if any(isinstance(cause, FileNotFoundError | ConnectionError | socket.gaierror) for cause in chain) or isinstance(
        error, requests.exceptions.ConnectionError
    ):
        return engine_down(host)
    return SandboxError(f"{doing} failed: {bottom(chain)}", hint="docker info", code="engine_error")


def causes(error: BaseException | None, depth: int = 8) -> Iterator[BaseException]:
    """The exception and everything it wraps: causes, contexts, and what requests hides in arguments and reasons."""
    if error is None or depth == 0:
        return
    yield error
    inside = [*error.args, getattr(error, "reason", None), error.__cause__ or error.__context__]
    for cause in inside:
        if isinstance(cause, BaseException):
            yield from causes(cause, depth - 1)


def bottom(chain: Sequence[BaseException]) -> str:
    """The innermost words that say something."""
    return next((str(cause) for cause in reversed(chain) if str(cause)), type(chain[0]).__name__)


def engine_down(host: str) -> SandboxError:
    """Nothing listens there: not installed, or not running."""
    if host.startswith("unix://") and not shutil.which("docker") and not Path("/usr/bin/dockerd").exists():
        return SandboxError(
            "Docker is not installed; model-written code runs only in a container",
            hint="install Docker Engine: https://docs.docker.com/engine/install/   then: rlm doctor",
            code="docker_not_installed",
        )
    return SandboxError(
        f"cannot reach the Docker Engine at {host}: it is not running, or not there",
        hint="start it (sudo systemctl start docker; on macOS: open -a Docker) or set DOCKER_HOST; then: rlm doctor",
        code="docker_daemon_down",
    )


# Words in the engine's refusal -> (code, hint). The first that matches wins.
REFUSALS: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (
        ("executable file not found", 'exec: "python3"', "stat python3: no such file"),
        "image_no_python",
        "use an image with python3 3.9 or later on its PATH, or the default one: unset sandbox.image",
    ),
    (
        ("exec format error", "does not match the specified platform"),
        "image_wrong_arch",
        "pull the image again for this machine's architecture:  rlm sandbox pull",
    ),
    (
        ("bind source path does not exist", "invalid mount config", "error while creating mount", "to rootfs at"),
        "mount_failed",
        "the engine does not see this machine's files (remote engine, or a folder Docker Desktop does not share)",
    ),
    (
        ("memory limit", "memoryswap", "range of cpus", "rlimit", "pids limit", "nanocpus"),
        "limit_refused",
        "ask for less:  --set sandbox.memory=1GB --set sandbox.cpus=1",
    ),
    (("no space left on device",), "engine_disk_full", "docker system df   (and: docker system prune)"),
)


def refusal(error: APIError, doing: str) -> SandboxError:
    """The engine answered and said no."""
    said = str(error.explanation or error)
    if isinstance(error, ImageNotFound):
        return SandboxError(f"no such image: {said}", hint="rlm sandbox pull", code="image_missing")
    lowered = said.lower()
    for words, code, hint in REFUSALS:
        if any(word.lower() in lowered for word in words):
            return SandboxError(f"{doing}: the engine refused: {said}", hint=hint, code=code)
    return SandboxError(f"{doing} failed: {said}", hint="docker info", code="engine_error")


UNREACHABLE = (
    "no such host",
    "connection refused",
    "network is unreachable",
    "i/o timeout",
    "timeout",
    "no route to host",
    "server misbehaving",
    "proxyconnect",
    "temporary failure in name resolution",
)


def pull_failure(name: str, error: SandboxError) -> SandboxError:
    """A pull that failed: the registry cannot be reached, or it has no such image for us."""
    if error.code.startswith("docker_") or error.code == "engine_timeout":
        return error
    reason = error.message.partition(": ")[2] or error.message
    if any(word in reason.lower() for word in UNREACHABLE):
        return SandboxError(
            f"the registry cannot be reached: {reason}",
            hint="rlm sandbox build   (makes an equivalent image from Debian packages)",
            code="registry_unreachable",
        )
    return SandboxError(
        f"pulling {name} failed: {reason}",
        hint=f"check the name and your login:  docker pull {name}",
        code="image_pull_failed",
    )


def follow_pull(name: str, lines: Iterator[Mapping[str, Any]], on_progress: OnImageProgress) -> None:
    """Turn the engine's lines, one a layer and moment, into one sum. Raises `SandboxError` on its error line."""
    layers: dict[str, tuple[int, int]] = {}
    for line in lines:
        if "error" in line:
            raise SandboxError(f"pulling {name} failed: {line['error']}", code="image_pull_failed")
        detail = line.get("progressDetail") or {}
        if line.get("status") == "Downloading" and detail.get("total"):
            layers[str(line.get("id"))] = (int(detail.get("current", 0)), int(detail["total"]))
        elif line.get("status") == "Download complete" and str(line.get("id")) in layers:
            total = layers[str(line["id"])][1]
            layers[str(line["id"])] = (total, total)
        else:
            continue
        done = sum(current for current, _ in layers.values())
        on_progress(ImageProgress(name, "pulling", done, sum(total for _, total in layers.values())))


# -- the stream ------------------------------------------------------------------------------------------------------


class Demultiplexer:
    """The engine's framing of an attached stream without a terminal: stream:1 | 0 0 0 | length:u32 | payload."""

    def __init__(self) -> None:
        self._header = b""
        self._stream = 0
        self._left = 0
        self.stderr = b""
        """The last bytes that did not come from stdout: what a container says that never became a kernel."""

    def feed(self, data: bytes) -> bytes:
        """The part of `data` that is the container's stdout."""
        out = []
        view = memoryview(data)
        while view:
            if self._left == 0:
                need = 8 - len(self._header)
                self._header += view[:need]
                view = view[need:]
                if len(self._header) == 8:
                    self._stream, self._left = struct.unpack(">BxxxI", self._header)
                    self._header = b""
                continue
            piece = view[: self._left]
            view = view[len(piece) :]
            self._left -= len(piece)
            if self._stream == 1:
                out.append(piece)
            else:
                self.stderr = (self.stderr + piece)[-STDERR_KEPT:]
        return b"".join(out)


class DockerChannel:
    """The attached socket as a `Channel`. `read` and `write` from one thread each; `close` from any."""

    def __init__(self, attached: Any) -> None:
        # Unix and plain TCP: a SocketIO around the socket; TLS: the socket itself. Nothing public can be written to.
        self._attached = attached
        self._socket = getattr(attached, "_sock", attached)
        self._socket.settimeout(None)
        self._demultiplexer = Demultiplexer()
        self._closed = False

    @property
    def stderr(self) -> str:
        """What the container said beside the protocol; only before the kernel boots is that worth reading."""
        return self._demultiplexer.stderr.decode("utf-8", "replace").strip()

    def read(self) -> bytes:
        """Some bytes of the kernel's, or b"" at the end. Raises `SandboxError` when the engine fails."""
        while True:
            try:
                data = self._socket.recv(1 << 18)
            except OSError as error:
                if self._closed:
                    return b""
                raise lost(error) from error
            if not data:
                return b""
            out = self._demultiplexer.feed(data)
            if out:
                return out

    def write(self, data: bytes) -> None:
        """All of `data`. Raises `SandboxError` when the other side is gone."""
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise lost(error) from error

    def close(self) -> None:
        """Wake up a blocked `read` and release everything. Idempotent."""
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        response = getattr(self._attached, "_response", None)
        # The response first: closing it flushes the reader it sits on, which must still be open.
        for thing in (response, self._attached, self._socket):
            if thing is not None:
                with contextlib.suppress(OSError):
                    thing.close()


def lost(error: OSError) -> SandboxError:
    """The stream broke: the container or the engine went away."""
    return SandboxError(
        f"the connection to the container broke: {error.strerror or error}",
        hint="run the command again; if it happens again:  rlm doctor",
        code="sandbox_lost",
    )


# -- the sandbox -----------------------------------------------------------------------------------------------------


class DockerSandbox:
    """A kernel in a locked-down container: the `Sandbox` protocol over Docker.

    `folder` is a private directory (0700) for a packed copy of the input, where one is needed; None: the system's
    temporary one. An `engine` that was given stays open. Use it from one event loop; `kill_now` alone may be called
    from any thread, at any moment.
    """

    def __init__(
        self,
        options: SandboxOptions,
        *,
        folder: Path | None = None,
        engine: Engine | None = None,
        text_limit: int = 64 * 1024**2,
        on_image: OnImageProgress = silent,
        on_stage: OnStageProgress = ignore,
    ) -> None:
        self._options = options
        self._folder = folder
        self._engine = engine or Engine()
        self._owns_engine = engine is None
        self._text_limit = text_limit
        self._on_image = on_image
        self._on_stage = on_stage
        self._name = f"rlm-{secrets.token_hex(6)}"
        self._image = options.image
        self._staged: Staged | None = None
        self._channel: DockerChannel | None = None
        self._client: KernelClient | None = None
        self._threads: list[asyncio.Future[Any]] = []
        self._closing: asyncio.Future[None] | None = None
        self._doomed = False
        self._may_exist = False
        self._launching = threading.Lock()  # held while the container comes into being: its remover waits

    @property
    def info(self) -> SandboxInfo:
        """What `rlm` reports about where the code runs."""
        return SandboxInfo(kind="docker", image=self._image, network=False)

    @property
    def name(self) -> str:
        """The container's name."""
        return self._name

    async def open(self, documents: Sequence[Document], host: Host) -> ContextFacts:
        """Stage the corpus, start the container, check its boot facts, attach, and prove that it sees our bytes.

        Raises `SandboxError` (an engine's code, boot_facts, handshake) or `InputError` (from staging).
        """
        if self._options.memory < MIN_MEMORY:
            raise too_little_memory(self._options.memory)
        atexit.register(self.kill_now)
        (image, profile), staged = await asyncio.gather(
            self._in_thread(self._prepare), self._in_thread(self._stage, documents)
        )
        channel = await self._in_thread(self._launch, image, profile, staged)
        self._client = KernelClient(channel)
        await boot(self._client, channel, profile)
        context, proof = await self._client.attach(
            index=staged.index, index_file=staged.index_file, text_limit=self._text_limit, host=host
        )
        check_proof(proof, staged.proof)
        return context

    async def execute(self, code: str, *, timeout: float, on_output: OnOutput | None = None) -> StepResult:
        """Run one cell (see `Sandbox.execute`)."""
        if self._client is None or self._doomed:
            raise SandboxError("the sandbox is not open", code="sandbox_lost")
        return await self._client.execute(code, timeout=timeout, on_output=on_output)

    def interrupt(self) -> None:
        """Stop the running cell (see `Sandbox.interrupt`)."""
        if self._client is not None:
            self._client.interrupt()

    async def close(self) -> None:
        """Remove the container and the copy of the input, whatever state they are in. Idempotent; once begun it goes
        on even if the waiter is cancelled. Raises `SandboxError` when the engine does not remove the container."""
        if self._closing is None:
            self._doomed = True
            self._closing = asyncio.ensure_future(self._close())
        await asyncio.shield(self._closing)

    def kill_now(self) -> None:
        """The same at once and without an event loop, as far as it can be done in two seconds: for a second Ctrl-C
        and for the interpreter's exit. Never raises for the engine's failures: the kernel also dies by end-of-file."""
        self._doomed = True
        if self._channel is not None:
            self._channel.close()
        locked = self._launching.acquire(timeout=HURRY)
        try:
            if self._may_exist:
                with contextlib.suppress(SandboxError):
                    self._engine.remove(self._name, patience=HURRY)
        finally:
            if locked:
                self._launching.release()
        if self._staged is not None:
            self._staged.remove()
        atexit.unregister(self.kill_now)

    async def _in_thread(self, function: Callable[..., T], *args: Any) -> T:
        """Run blocking work; it is waited for in `close` if nobody else does."""
        work = asyncio.ensure_future(asyncio.to_thread(function, *args))
        self._threads.append(work)
        return await asyncio.shield(work)

    def _prepare(self) -> tuple[Image, Profile]:
        """What is needed of the engine before the container can be described; and the last crash's leftovers go."""
        image = resolve_image(self._engine, self._options, on_progress=self._on_image)
        self._image = image.name
        with contextlib.suppress(SandboxError):
            self._engine.prune()
        cpus = self._engine.probe().cpus or self._options.cpus
        return image, Profile(
            memory=self._options.memory, cpus=min(self._options.cpus, cpus), masked=tuple(sorted(image.volumes))
        )

    def _stage(self, documents: Sequence[Document]) -> Staged:
        self._staged = stage(documents, self._folder, on_progress=self._on_stage, cancelled=lambda: self._doomed)
        return self._staged

    def _launch(self, image: Image, profile: Profile, staged: Staged) -> DockerChannel:
        """Create, attach, start: in this order, or the first bytes are lost."""
        spec = ContainerSpec(
            name=self._name,
            image=image,
            profile=profile,
            binds=tuple((bind.source, f"/in/{bind.file}") for bind in staged.binds),
            labels={
                **self._options.labels,
                OWNER_LABEL: str(Owner.here()),
                "rlm.run": self._options.run_id,
                "rlm.version": __version__,
            },
        )
        path = self._engine.socket_path
        with self._launching:
            if self._doomed:
                raise SandboxError("the sandbox was closed while it started", code="sandbox_lost")
            guard = Guard(path, self._name) if path else None
            try:
                self._may_exist = True
                container = self._engine.create(spec)
                self._channel = self._engine.attach(container)
                self._engine.start(container)
            finally:
                if guard:
                    guard.release()
        return self._channel

    async def _close(self) -> None:
        await asyncio.gather(*self._threads, return_exceptions=True)
        try:
            # At once, so that neither waits for the other: a killed kernel ends the client's threads, too.
            await asyncio.gather(self._close_stream(), self._remove_container())
        finally:
            if self._staged is not None:
                await asyncio.to_thread(self._staged.remove)
            if self._owns_engine:
                await asyncio.to_thread(self._engine.close)
            atexit.unregister(self.kill_now)

    async def _close_stream(self) -> None:
        if self._client is not None:
            await self._client.close()
        if self._channel is not None:
            self._channel.close()

    async def _remove_container(self) -> None:
        if self._may_exist:
            await asyncio.to_thread(self._engine.remove, self._name)


async def boot(client: KernelClient, channel: DockerChannel, profile: Profile) -> None:
    """Start the kernel and refuse the container unless it is what was asked for."""
    try:
        facts = await client.start()
    except SandboxError as error:
        said = channel.stderr  # no model code has run yet: this is python3's own complaint
        if not said:
            raise
        raise SandboxError(f"{error.message}; the container said: {said}", hint=error.hint, code=error.code) from error
    wrong = wrong_facts(facts, profile)
    if wrong:
        raise SandboxError(
            f"the container is not locked down, so nothing was run: {'; '.join(wrong)}",
            hint="rlm doctor   (an engine that drops limits needs cgroup v2, or a newer version)",
            code="boot_facts",
        )


def check_proof(seen: Sequence[tuple[str, int, str]], read: Proof) -> None:
    """Raises `SandboxError` (handshake) unless the kernel sees the bytes that the host read."""
    if sorted(seen) != sorted(read):
        raise SandboxError(
            "the engine does not see the same files: a remote engine, a path it does not share, "
            "or a file that changed while it was being read",
            hint="use a local engine (unset DOCKER_HOST), or pipe the input:  rlm ask - ... < FILE",
            code="handshake",
        )


def too_little_memory(memory: int) -> SandboxError:
    """A kernel needs room for Python itself."""
    return SandboxError(
        f"{memory} bytes of memory are too few for a Python kernel (at least {MIN_MEMORY})",
        hint="--set sandbox.memory=64MB or more",
        code="limit_refused",
    )
