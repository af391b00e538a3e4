"""What a sandbox makes on the engine, each from before its creation until it is seen to be gone.

Blocking; `kill` may be called from any thread at any moment, also while the thing is being made.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping

from ..errors import SandboxError
from .container import HURRY, REMOVAL_TIMEOUT, ContainerSpec, Engine, VolumeMount
from .engine_errors import UNREACHED, engine_gone
from .guard import Guard
from .stream import DockerChannel

KILL = 5.0
"""Seconds that a killed container has to be gone."""


class Box:
    """One container."""

    def __init__(self, engine: Engine, name: str) -> None:
        self._engine = engine
        self.name = name
        self._channel: DockerChannel | None = None
        self._may_exist = False
        self._doomed = False
        self._launching = threading.Lock()  # held while the container comes into being: its remover waits

    def launch(self, spec: ContainerSpec) -> DockerChannel:
        """Create, attach, start: in this order, or the first bytes are lost."""
        path = self._engine.socket_path
        with self._launching:
            if self._doomed:
                raise SandboxError("the sandbox was closed while it started", code="sandbox_lost")
            guard = Guard.of_container(path, self.name) if path else None
            try:
                self._may_exist = True
                try:
                    container = self._engine.create(spec)
                except SandboxError as error:
                    self._may_exist = error.code != "name_clash"  # that one is somebody else's
                    raise
                self._channel = self._engine.attach(container)
                self._engine.start(container)
            finally:
                if guard:
                    guard.release()
        return self._channel

    def doom(self) -> None:
        """It must not be launched any more."""
        self._doomed = True

    @property
    def said(self) -> str:
        """Its last words on stderr, which no model code can write to."""
        return self._channel.stderr if self._channel is not None else ""

    def is_there(self) -> bool:
        """Whether the engine still has it. Raises `SandboxError` when the engine does not answer soon."""
        return self._engine.inspect(self.name, patience=HURRY) is not None

    def put_down(self) -> None:
        """One that does not obey: kill it, and where that does not help remove it by force, as the ladder has it.
        Raises `SandboxError` (engine_gone) when the engine does neither."""
        self._doomed = True
        try:
            try:
                self._engine.kill(self.name, patience=KILL)
            except SandboxError as error:
                if error.code in UNREACHED:
                    raise
                self._engine.remove(self.name, patience=KILL)
        except SandboxError as error:
            raise engine_gone(self.name, error, self._engine.flavor) from error

    def remove(self, *, patience: float = REMOVAL_TIMEOUT) -> None:
        """Remove the container, then close its stream. Raises `SandboxError` when the engine does not remove it."""
        self._doomed = True
        try:
            if self._may_exist:
                self._engine.remove(self.name, patience=patience)
        finally:
            if self._channel is not None:
                self._channel.close()

    def kill(self) -> None:
        """The same as far as it can be done in a hurry; never raises for the engine's failures."""
        self._doomed = True
        if self._channel is not None:
            self._channel.close()
        locked = self._launching.acquire(timeout=HURRY)
        try:
            if self._may_exist:
                with contextlib.suppress(SandboxError):
                    self._engine.remove(self.name, patience=HURRY)
        finally:
            if locked:
                self._launching.release()


class Volume:
    """A named volume with a copy of the input, which outlives the containers that use it."""

    def __init__(self, engine: Engine, name: str, labels: Mapping[str, str]) -> None:
        self._engine = engine
        self.name = name
        self._labels = labels
        self._guard: Guard | None = None
        self._may_exist = False
        self._doomed = False
        self._changing = threading.Lock()

    def create(self) -> None:
        """An empty one."""
        path = self._engine.socket_path
        with self._changing:
            if self._doomed:
                raise SandboxError("the sandbox was closed while it started", code="sandbox_lost")
            self._guard = Guard.of_volume(path, self.name) if path else None
            self._may_exist = True
            self._engine.create_volume(self.name, self._labels)

    def mounted(self, target: str, *, read_only: bool) -> VolumeMount:
        """It, in a container."""
        return VolumeMount(self.name, target, read_only)

    def remove(self, *, patience: float = REMOVAL_TIMEOUT) -> None:
        """After its containers. Raises `SandboxError`; then the guard goes on trying once we are gone."""
        self._doomed = True
        if not self._changing.acquire(timeout=patience):
            return
        try:
            if self._may_exist:
                self._engine.remove_volume(self.name, patience=patience)
                self._may_exist = False
            if self._guard is not None:
                self._guard.release()
        finally:
            self._changing.release()

    def kill(self) -> None:
        """The same as far as it can be done in a hurry; never raises for the engine's failures."""
        with contextlib.suppress(SandboxError):
            self.remove(patience=HURRY)
