"""Docker: the engine, its images and our containers, and what its failures mean.

The only importer of the docker package, and with `stream` the only place that touches its private attributes (the
attached socket has no public way to write). Never used against a container that runs model code: exec, cp and
archives, which is where an engine can be attacked from inside (SANDBOX.md 12). Three families of exceptions come out of
the package (its own, those of requests, and OSError); all leave this file as `SandboxError`.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import docker
import requests
from docker import auth as docker_auth
from docker.context import ContextAPI
from docker.errors import APIError, DockerException, ImageNotFound, InvalidVersion, NotFound, TLSParameterError
from docker.types import LogConfig, Mount, Ulimit

from ..errors import SandboxError
from .client import BOOT
from .engine_errors import (
    UNREACHED,
    Flavor,
    bad_version,
    engine_down,
    no_address,
    no_answer,
    no_permission,
    no_ssh,
    no_tls,
    not_an_engine,
    podman_down,
    pull_failure,
    refusal,
)
from .image import Image, ImageProgress, OnImageProgress, silent
from .owner import Owner
from .profile import Profile, environment
from .stream import DockerChannel

T = TypeVar("T")
Runtime = Literal["auto", "docker", "podman"]
"""auto: Docker, and where that cannot be reached Podman."""

OLDEST_API = "1.24"
CALL_TIMEOUT = 30.0
PROBE_TIMEOUT: Mapping[Flavor, float] = {"Docker": 2.0, "Podman": 3.5}
"""Seconds; Podman runs three programs to find out its own version."""
PULL_SILENCE = 300.0
"""Seconds without a line of progress after which a pull has failed."""

REMOVAL_TIMEOUT = 10.0
HURRY = 2.0
"""Seconds that a person who pressed Ctrl-C twice waits for the container to go."""

OWNER_LABEL = "rlm.owner"
PODMAN_NPROC = 16_384
ATTACH = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1, "logs": 0}


@dataclass(frozen=True)
class EngineFacts:
    """What `probe` found. `memory` in bytes; `cgroup` is the version, "1" or "2"."""

    name: Flavor
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

    def __init__(
        self, *, timeout: float = CALL_TIMEOUT, runtime: Runtime = "docker", podman: Sequence[str] = ()
    ) -> None:
        self._timeout = timeout
        self._runtime = runtime
        self._podman = tuple(podman)
        self._client: Any = None
        self._host = ""
        self._lock = threading.Lock()  # one connection, whichever thread comes first
        self.flavor: Flavor = "Docker"
        """Whose engine it is. Known once connected."""

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
        cannot tell an older copy of a huge file from the file. A socket that ssh forwards leads elsewhere, too.
        """
        self.api()
        return bool(self.socket_path) and not is_forwarded(self.socket_path)

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
                self._client = self._connect()
            return self._client

    def _connect(self) -> Any:
        """The first engine that answers. When none does: what is wrong with the first, which is the one that a person
        thinks of."""
        failures: list[SandboxError] = []
        if self._runtime != "podman":
            try:
                return self._connected(docker_place)
            except SandboxError as error:
                if self._runtime == "docker" or error.code not in UNREACHED or docker_is_chosen():
                    raise
                failures.append(error)
        for host in self._podman:
            try:
                return self._connected(functools.partial(dict, base_url=host), "Podman")
            except SandboxError as error:
                if not error.code.startswith("podman_") and self._runtime == "podman":
                    raise
                failures.append(error)
        raise failures[0] if self._runtime == "auto" else podman_down(self._podman)

    def _connected(self, place: Callable[[], dict[str, Any]], flavor: Flavor = "Docker") -> Any:
        client = None
        try:
            with self._errors("connecting to the engine", flavor):
                found = place()
                self._host = found.get("base_url") or "unix:///var/run/docker.sock"
                knock(self._host)
                try:
                    client = docker.APIClient(
                        **found, version=OLDEST_API, timeout=min(PROBE_TIMEOUT[flavor], self._timeout)
                    )
                except ValueError as error:  # urllib's, of an address: a port that is none, half a bracket
                    raise no_address(self.host, str(error)) from error
                client.trust_env = False  # neither a web proxy nor its certificates lead to an engine
                self._negotiate(client)
                client.timeout = self._timeout
        except BaseException:
            if client is not None:
                client.close()
            raise
        return client

    def _negotiate(self, client: Any) -> None:
        """Speak the engine's own version of the API; and whose engine it is."""
        try:
            about = client.version(api_version=False)
            version = str(about["ApiVersion"])
            if docker.utils.version_lt(version, OLDEST_API):
                raise InvalidVersion(f"{version}, and at least {OLDEST_API} is needed")
            parts = [str(part.get("Name", "")) for part in about.get("Components") or ()]
        except (DockerException, requests.exceptions.RequestException, LookupError, TypeError, ValueError) as error:
            wrong = misunderstood(error, self.host)
            if wrong is None:
                raise
            raise wrong from error
        client._version = version
        self.flavor = "Podman" if any("podman" in part.lower() for part in parts) else "Docker"

    def probe(self) -> EngineFacts:
        """What engine this is; within `PROBE_TIMEOUT`, or an error that says what to do."""
        api = self.api()
        with self._errors("asking the engine for its facts"):
            info = api._result(api._get(api._url("/info"), timeout=PROBE_TIMEOUT[self.flavor]), True)
            security = info.get("SecurityOptions") or []
        return EngineFacts(
            name=self.flavor,
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
                ulimits=[Ulimit(name=name, soft=most, hard=most) for name, most in self._ulimits(profile)],
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
                environment=environment(spec.image.env, removable=self.flavor == "Docker"),
                labels=dict(spec.labels),
                stdin_open=True,  # closed by the engine when we go away (StdinOnce)
                tty=False,
                stop_signal="SIGKILL",
                healthcheck={"test": ["NONE"]},  # an image's own check would run programs beside the kernel
                host_config=host_config,
                use_config_proxy=False,
            )
        return str(answer["Id"])

    def _ulimits(self, profile: Profile) -> list[tuple[str, int]]:
        """Podman as root asks for four million processes of the user where nothing is said, which a system may not let
        it. What is said is no limit of ours (`pids` is): it counts a user's processes on the whole machine."""
        ours = [("nofile", profile.open_files), ("core", 0)]
        if self.flavor != "Podman":
            return ours
        import resource  # not on Windows, where there is no such limit either

        most = resource.getrlimit(resource.RLIMIT_NPROC)[1]
        return [*ours, ("nproc", PODMAN_NPROC if most == resource.RLIM_INFINITY else min(most, PODMAN_NPROC))]

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

    def inspect(self, container: str, *, patience: float = CALL_TIMEOUT) -> dict[str, Any] | None:
        """The engine's own record of a container, or None when it is gone."""
        api = self.api()
        try:
            with self._errors("inspecting the container"):
                answer = api._get(api._url("/containers/{0}/json", container), timeout=min(patience, self._timeout))
                return dict(api._result(answer, True))
        except SandboxError as error:
            # Podman says it in a 500 of one whose removal is under way.
            if isinstance(error.__cause__, NotFound) or "no such container" in error.message.lower():
                return None
            raise

    def kill(self, container: str, *, patience: float) -> None:
        """SIGKILL it, and see it end within `patience` seconds. One that runs no more is fine."""
        api = self.api()
        deadline = time.monotonic() + patience
        with self._errors("killing the container"):
            answer = api._post(api._url("/containers/{0}/kill", container), params={"signal": "KILL"}, timeout=patience)
            if answer.status_code not in (404, 409):  # gone, or not running
                api._raise_for_status(answer)
        while (found := self.inspect(container, patience=patience)) and (found.get("State") or {}).get("Running"):
            if time.monotonic() > deadline:
                raise SandboxError(f"the container {container} does not end", code="container_stuck")
            time.sleep(0.01)

    def remove(self, container: str, *, patience: float = REMOVAL_TIMEOUT) -> None:
        """Kill and remove it, and see it gone. A container that is gone already is fine."""
        api = self.api()
        deadline = time.monotonic() + patience
        with self._errors("removing the container"):
            while True:
                answer = api._delete(
                    api._url("/containers/{0}", container), params={"force": True, "v": True}, timeout=patience
                )
                # 409: its removal is under way (auto_remove); 500: Podman says that while the container is ending.
                if answer.status_code != 500 or time.monotonic() > deadline:
                    break
                time.sleep(0.05)
            if answer.status_code not in (404, 409):
                api._raise_for_status(answer)
        while self.inspect(container, patience=patience) is not None:
            if time.monotonic() > deadline:
                raise SandboxError(
                    f"the container {container} does not go away",
                    hint=f"{self.flavor.lower()} rm -f {container}",
                    code="container_stuck",
                )
            time.sleep(0.01)

    def containers(self) -> list[ContainerFacts]:
        """Every container with our label, running or not, whoever made it."""
        api = self.api()
        with self._errors("listing containers"):
            found = api.containers(all=True, filters={"label": OWNER_LABEL})
        return [container_facts(entry) for entry in found]

    def prune(self, *, dry_run: bool = False, patience: float = REMOVAL_TIMEOUT) -> list[ContainerFacts | VolumeFacts]:
        """Remove the containers and volumes whose owner is provably dead on this machine; returns them. One that does
        not go within `patience` seconds keeps none of the others, and is what is raised in the end."""
        orphans: list[ContainerFacts | VolumeFacts] = [*self.containers(), *self.volumes()]
        orphans = [orphan for orphan in orphans if orphan.orphan]
        stuck: SandboxError | None = None
        for orphan in [] if dry_run else orphans:
            try:
                if isinstance(orphan, ContainerFacts):
                    self.remove(orphan.id, patience=patience)
                else:
                    self.remove_volume(orphan.name, patience=patience)
            except SandboxError as error:
                stuck = stuck or error
        if stuck is not None:
            raise stuck
        return orphans

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
    def _errors(self, doing: str, flavor: Flavor | None = None) -> Iterator[None]:
        try:
            yield
        except (DockerException, requests.exceptions.RequestException, OSError) as error:
            raise explain(error, doing, self.host, flavor or self.flavor) from error


def socket_path(host: str) -> str:
    """The file of a local engine's socket; "" for any other kind of address."""
    path = host.removeprefix("http+").removeprefix("unix://")
    if path == host:
        return ""
    return path if path.startswith("/") else f"/{path}"


def is_forwarded(path: str) -> bool:
    """Whether ssh listens at that socket (`ssh -L`), and the engine is on another machine. Only Linux says who does."""
    if sys.platform != "linux":
        return False
    try:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(PROBE_TIMEOUT["Docker"])
            probe.connect(path)
            pid = int.from_bytes(probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)[:4], sys.byteorder)
        return Path(f"/proc/{pid}/comm").read_text("utf-8", "replace").strip() == "ssh"
    except OSError:
        return False


def knock(host: str) -> None:
    """Connect to a local engine's socket once. Raises the plain `OSError`: the docker package wraps it five deep,
    and leaks the socket."""
    path = socket_path(host)
    if path:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(PROBE_TIMEOUT["Docker"])
            probe.connect(path)


def docker_place() -> dict[str, Any]:
    """What the docker command would use: DOCKER_HOST, else the current context."""
    found: dict[str, Any] = docker.utils.kwargs_from_env()
    return found if "base_url" in found else {**ContextAPI.kwargs_from_context(), **found}


def docker_is_chosen() -> bool:
    """Whether the person named the engine, by DOCKER_HOST: then no other will do."""
    return "base_url" in docker.utils.kwargs_from_env()


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


def explain(error: BaseException, doing: str, host: str, flavor: Flavor = "Docker") -> SandboxError:
    """Whose fault it is and what to type next, from what lies at the bottom of the exception."""
    chain = tuple(causes(error))
    kinds = {type(cause).__name__ for cause in chain}
    if isinstance(error, ImageNotFound):
        return SandboxError(f"no such image: {said_by(error)}", hint="rlm sandbox pull", code="image_missing")
    if isinstance(error, APIError):
        return refusal(said_by(error), doing)
    if any(isinstance(cause, PermissionError) for cause in chain):
        return no_permission(host, flavor)
    if any(isinstance(cause, TimeoutError | requests.exceptions.Timeout) for cause in chain) or (
        kinds & {"ReadTimeoutError", "ConnectTimeoutError"}
    ):
        return no_answer(host, doing)
    if any(isinstance(cause, ssl.SSLError | TLSParameterError) for cause in chain):
        return no_tls(host, bottom(chain))
    if "paramiko" in str(error):
        return no_ssh(host)
    if any(isinstance(cause, FileNotFoundError | ConnectionError | socket.gaierror) for cause in chain) or isinstance(
        error, requests.exceptions.ConnectionError
    ):
        return engine_down(host, flavor)
    return SandboxError(f"{doing} failed: {bottom(chain)}", hint="docker info", code="engine_error")


def misunderstood(error: BaseException, host: str) -> SandboxError | None:
    """When it was asked for its version: the error of something that answers, and is no engine or none that we can
    talk to; None for any other."""
    chain = tuple(causes(error))
    if isinstance(error, InvalidVersion):
        return bad_version(host, str(error))
    if isinstance(error, APIError):
        said = said_by(error)
        if "client version" in said.lower():
            return bad_version(host, said)
        if "https" in said.lower():  # a TLS port that was asked in plain words
            return no_tls(host, said)
        return not_an_engine(host, said)
    if isinstance(error, requests.exceptions.JSONDecodeError | KeyError | TypeError | AttributeError):
        return not_an_engine(host, "its answer has no API version")
    if any(isinstance(cause, http.client.HTTPException) and not isinstance(cause, ConnectionError) for cause in chain):
        return not_an_engine(host, bottom(chain))
    return None


def said_by(error: APIError) -> str:
    return str(error.explanation or error)


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
