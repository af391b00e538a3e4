"""The program inside the container: a supervisor (PID 1) and a forked worker that runs the model's code.

Standard library only, Python 3.9 and later; docs/PROTOCOL.md is the wire. The host sends these modules as text and
calls `boot`; nothing is installed in the image.

What is protected: the supervisor's memory and its two pipes to the host (it never runs model code and is not
dumpable), so output, exit status and boot facts can be believed. The kernel's modules have builtins of their own, so
that a cell which rebinds `len` or `print` hurts only itself.

What is not protected: the worker. A cell shares its process, may forge any frame of its own cell, and may break it;
the host checks every frame, and the supervisor kills and replaces a broken worker.
"""

from __future__ import annotations

import builtins
import sys
from importlib.machinery import ModuleSpec

TYPE_CHECKING = False  # importing typing costs 5 ms, and only type checkers need it
if TYPE_CHECKING:
    from types import CodeType, ModuleType


class _Sources:
    """Finder and loader of modules that exist only as text."""

    def __init__(self, package: str, sources: dict[str, str]) -> None:
        self._package = package
        self._sources = sources

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:  # noqa: ARG002
        package, _, module = name.rpartition(".")
        if package != self._package or module not in self._sources:
            return None
        return ModuleSpec(name, self, origin=f"<{package}/{module}.py>")  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> None:  # noqa: ARG002
        return None

    def get_source(self, name: str) -> str:
        return self._sources[name.rpartition(".")[2]]

    def get_code(self, name: str) -> CodeType:
        package, _, module = name.rpartition(".")
        return compile(self.get_source(name), f"<{package}/{module}.py>", "exec", dont_inherit=True)

    def exec_module(self, module: ModuleType) -> None:
        module.__dict__["__builtins__"] = dict(builtins.__dict__)
        exec(self.get_code(module.__name__), module.__dict__)


def boot(sources: dict[str, str]) -> None:
    """Import the kernel from `sources` (module name -> text) and run its supervisor. Never returns.

    The text under no name is JSON, what `supervisor.main` is given: `place`, where blobs go that the host will stream
    before anything runs (without it none come), and `alone`, what `alone.prepare` is given where there is no container.
    """
    settings = sources.pop("", "{}")
    sys.meta_path.insert(0, _Sources(__name__, sources))
    from .supervisor import main
    from .wire import parse_json

    main(**parse_json(settings))
