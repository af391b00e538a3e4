"""Docker: the engine, its images and our containers, and what its failures mean.

The only importer of the docker package, and with `stream` the only place that touches its private attributes (the
attached socket has no public way to write). Never used against a container that runs model code: exec, cp and
archives, which is where an engine can be attacked from inside (SANDBOX.md 12). Three families of exceptions come out of
the package (its own, those of requests, and OSError); all leave this file as `SandboxError`.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import docker
import requests
from docker import auth as docker_auth
from docker.context import ContextAPI
from docker.errors import APIError, DockerException, ImageNotFound, NotFound, TLSParameterError
from docker.types import LogConfig, Mount, Ulimit

from ..errors import SandboxError
from .client import BOOT
from .image import Image, ImageProgress, OnImageProgress, silent
from .owner import Owner
from .profile import Profile, environment
from .stream import DockerChannel

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
class VolumeFacts:
    """One of our volumes: a copy of an input. `orphan` as with containers."""

    name: str
    run_id: str
    owner: str
    orphan: bool


@dataclass(frozen=True)
class VolumeMount:
    """A named volume in a container."""

    name: str
    target: str
    read_only: bool


@dataclass(frozen=True)
class ContainerSpec:
    """Everything that makes one container."""

    name: str
    image: Image
    profile: Profile
    binds: tuple[tuple[str, str], ...] = ()
    """(path on the host, path in the container), all read-only."""

    volume: VolumeMount | None = None
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

    def is_local(self) -> bool:
        """Whether the engine runs on this machine, so that our paths may be its paths. Connects.

        Elsewhere a mount is not even tried: it would bind whatever lies at that path there, and a sample of bytes
        cannot tell an older copy of a huge file from the file.
        """
        self.api()
        return bool(self.socket_path)

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
                mounts=mounts(spec),
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

    def prune(self, *, dry_run: bool = False) -> list[ContainerFacts | VolumeFacts]:
        """Remove the containers and volumes whose owner is provably dead on this machine; returns them."""
        containers = [container for container in self.containers() if container.orphan]
        volumes = [volume for volume in self.volumes() if volume.orphan]
        if not dry_run:
            for container in containers:
                self.remove(container.id)
            for volume in volumes:
                self.remove_volume(volume.name)
        return [*containers, *volumes]

    # -- volumes

    def create_volume(self, name: str, labels: Mapping[str, str]) -> None:
        """A new empty volume of the engine's own disk."""
        api = self.api()
        with self._errors("creating a volume"):
            api.create_volume(name, labels=dict(labels))

    def remove_volume(self, name: str, *, patience: float = REMOVAL_TIMEOUT) -> None:
        """Remove it, once the container that used it is gone. One that is gone already is fine."""
        api = self.api()
        deadline = time.monotonic() + patience
        with self._errors("removing the volume"):
            while True:
                answer = api._delete(api._url("/volumes/{0}", name), timeout=patience)
                if answer.status_code == 404:
                    return
                if answer.status_code != 409 or time.monotonic() > deadline:  # 409: a container still has it
                    api._raise_for_status(answer)
                    return
                time.sleep(0.01)

    def volumes(self) -> list[VolumeFacts]:
        """Every volume with our label, whoever made it."""
        api = self.api()
        with self._errors("listing volumes"):
            found = api.volumes(filters={"label": OWNER_LABEL})
        return [volume_facts(entry) for entry in found.get("Volumes") or ()]

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


def mounts(spec: ContainerSpec) -> list[Mount]:
    """All mounts of a container."""
    made = [Mount(target, source, type="bind", read_only=True) for source, target in spec.binds]
    if spec.volume is not None:
        volume = spec.volume
        made.append(Mount(volume.target, volume.name, type="volume", read_only=volume.read_only))
    return made


def volume_facts(entry: Mapping[str, Any]) -> VolumeFacts:
    """One line of the engine's list."""
    labels = entry.get("Labels") or {}
    label = labels.get(OWNER_LABEL, "")
    owner = Owner.parse(label)
    return VolumeFacts(
        name=str(entry["Name"]),
        run_id=str(labels.get("rlm.run", "")),
        owner=str(label),
        orphan=owner is not None and owner.is_dead(),
    )


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
