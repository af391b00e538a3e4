"""Run one cell: compile, execute in `__main__`, echo its last expression, and say how it ended."""

from __future__ import annotations

import ast
import builtins
import linecache
import sys
from collections import deque
from types import ModuleType

from .display import bounded_repr, format_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from types import CodeType
    from typing import Any

    from .interrupts import Interrupts
    from .memory import Guard

# Bound now: a cell may rebind what these modules hold, and shares the worker's process.
_compile = compile
_eval = eval
_Expr = ast.Expr
_Expression = ast.Expression
ONLY_AST = ast.PyCF_ONLY_AST
FLAGS = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
SOURCES_KEPT = 200
"""Cells whose lines a traceback can still show."""
CO_COROUTINE = 0x80  # inspect has it, and takes 10 ms to import

SWALLOWED = "KeyboardInterrupt: the cell was interrupted, and caught it; its results may be incomplete"


def new_main() -> ModuleType:
    """The module that cells run in. It is the real `__main__`, so that pickling what a cell defines works."""
    main = ModuleType("__main__")
    sys.modules["__main__"] = main
    return main


def compile_cell(source: str, name: str) -> tuple[CodeType | None, CodeType | None]:
    """The statements, and the last expression by itself, where there is one. Raises what `compile` raises."""
    tree = _compile(source, name, "exec", ONLY_AST | FLAGS, True)
    last = None
    final = tree.body[-1] if tree.body else None
    if isinstance(final, _Expr):
        tree.body.pop()
        last = _compile(_Expression(final.value), name, "eval", FLAGS, True)
    body = _compile(tree, name, "exec", FLAGS, True) if tree.body else None
    return body, last


class Loop:
    """The event loop of a cell that awaits at its top level, made when it is needed."""

    def __init__(self) -> None:
        self._loop: AbstractEventLoop | None = None

    def run(self, coroutine: Any) -> Any:
        if self._loop is None:
            import asyncio

            self._loop = asyncio.new_event_loop()
        return self._loop.run_until_complete(coroutine)

    def close(self) -> None:
        """Cancel what is left, as asyncio.run does."""
        loop = self._loop
        if loop is None:
            return
        import asyncio

        try:
            tasks = asyncio.all_tasks(loop)
            for task in tasks:
                task.cancel()
            if tasks:
                loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            loop.close()


class Builtins:
    """What every cell finds under the names of the builtins. A cell that breaks `print` breaks it for itself, and does
    not break the standard library's part in telling how it ended."""

    def __init__(self) -> None:
        self._module = builtins
        self._names = builtins.__dict__
        self._originals = dict(self._names)

    def restore(self, namespace: dict[str, Any]) -> None:
        """Put back what was changed or deleted, and say so."""
        namespace["__builtins__"] = self._module
        names = self._names
        changed = [name for name, value in self._originals.items() if names.get(name) is not value]
        if changed:
            names.update(self._originals)
            try:
                sys.stderr.write(f"[kernel] changed builtins were put back: {', '.join(changed[:20])}\n")
            except Exception:  # a cell may have closed or replaced it
                pass


class Cells:
    """Runs cells one after the other in one namespace."""

    def __init__(self, interrupts: Interrupts, guard: Guard) -> None:
        self._interrupts = interrupts
        self._guard = guard
        self._sources: deque[str] = deque()
        self.main = new_main()
        self.namespace = self.main.__dict__
        self._builtins = Builtins()

    def run(self, number: int, source: str) -> tuple[str, str]:
        """(status, traceback): "ok", "error" or "interrupted". Only KeyboardInterrupt between cells escapes."""
        sys.modules["__main__"] = self.main
        self._builtins.restore(self.namespace)
        try:
            try:
                self._guard.arm()
                self._interrupts.arm()
                self._run(f"<cell {number}>", source)
            finally:
                self._interrupts.disarm()
                self._guard.disarm()
                self._builtins.restore(self.namespace)
        except SystemExit as error:
            if error.code not in (None, 0):
                return self._status("error"), format_error(error)
            sys.stderr.write("[kernel] the cell ended itself with exit(); the variables live on\n")
        except BaseException as error:
            return self._status("error"), format_error(error) + self._advice(error)
        return self._status("ok"), SWALLOWED if self._interrupts.count else ""

    def _advice(self, error: BaseException) -> str:
        from .advice import advice

        return advice(error, self.namespace, self._guard.most)

    def _status(self, status: str) -> str:
        self._interrupts.disarm()  # once more: a KeyboardInterrupt may have come before the first
        self._guard.disarm()
        return "interrupted" if self._interrupts.count else status

    def _keep(self, name: str, source: str) -> None:
        """For tracebacks; of a bounded number of cells."""
        try:
            linecache.cache[name] = (len(source), None, [line + "\n" for line in source.split("\n")], name)
            self._sources.append(name)
            if len(self._sources) > SOURCES_KEPT:
                linecache.cache.pop(self._sources.popleft(), None)
        except Exception:  # a cell put something else there: tracebacks lack the lines of the source
            pass

    def _run(self, name: str, source: str) -> None:
        self._keep(name, source)
        body, last = compile_cell(source, name)
        loop = Loop()
        try:
            if body is not None:
                self._evaluate(body, loop)
            value = self._evaluate(last, loop) if last is not None else None
            if value is not None:
                sys.stdout.write(bounded_repr(value) + "\n")
        finally:
            loop.close()

    def _evaluate(self, code: CodeType, loop: Loop) -> Any:
        value = _eval(code, self.namespace)
        return loop.run(value) if code.co_flags & CO_COROUTINE else value
