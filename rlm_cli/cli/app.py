"""The command tree. Each verb's module is imported when it is used, so `rlm --help` costs no more than Typer."""

from __future__ import annotations

import difflib
import importlib
import inspect
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from .. import __version__
from ..errors import Interrupted, UsageError
from . import options


@dataclass(frozen=True)
class Verb:
    """One command: where it is defined, and its line in `rlm --help`. `attribute` is a function or a `typer.Typer`."""

    name: str
    module: str
    attribute: str
    help: str
    kind: type[options.Command] = options.Command


VERBS: Sequence[Verb] = (
    Verb("ask", "ask", "ask", "Answer a question about files, folders or a pipe", options.AskCommand),
    Verb("sources", "sources", "sources", "Show what would be read and what not; free", options.SourcesCommand),
    Verb("runs", "runs", "app", "List, show, replay and export past runs"),
    Verb("models", "models", "app", "List models, their prices and the default"),
    Verb("config", "config_command", "app", "Read and change settings"),
    Verb("doctor", "doctor", "doctor", "Check that everything works, one line each"),
    Verb("sandbox", "sandbox", "app", "Status, image and leftovers of the sandbox"),
    Verb("schema", "schema", "schema", "Print a JSON Schema: result, event or config"),
    Verb("help", "help", "help_", "Read about a topic: exit-codes, environment ..."),
    Verb("completion", "completion", "completion", "Print a completion script for a shell"),
    Verb("version", "version", "version", "Print the version"),
)
_BY_NAME = {verb.name: verb for verb in VERBS}

EXAMPLES = """\
  rlm ask corpus/ "Which customers were double-charged in March?"
  journalctl -o cat | rlm ask "What failed first, and why?"
  rlm ask logs/ tickets/ "Which outage explains these tickets?" --json
  rlm sources corpus/            what would be read; free, no key, no Docker
"""


class Root(options.Group):
    """`rlm` itself: verbs are loaded when named, and a question without a verb is an error, never a run."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - Typer's signature
        return list(_BY_NAME)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002 - Typer's signature
        verb = _BY_NAME.get(cmd_name)
        return load(verb) if verb else None

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002 - Typer's signature
        with formatter.section("Commands"):
            formatter.write_dl([(verb.name.ljust(options.NAME_COLUMN), verb.help) for verb in VERBS])

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if not ctx.resilient_parsing and args[0] not in _BY_NAME and not args[0].startswith("-"):
            raise unknown_verb(args)
        return super().resolve_command(ctx, args)

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        with _not_silently():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        with _not_silently():
            try:
                return super().invoke(ctx)
            except BrokenPipeError:  # `| head` has what it wanted; Typer would call that a failure
                return 0


@contextmanager
def _not_silently() -> Iterator[None]:
    """Typer would turn a Ctrl-C into a silent exit 130, also while it imports what it reads a line with."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted() from None


def unknown_verb(args: Sequence[str]) -> UsageError:
    """What to say to `rlm "question"`, `rlm file "question"` and `rlm aks`."""
    word = args[0]
    near = difflib.get_close_matches(word, _BY_NAME, n=1)
    if near and " " not in word:
        meant = shlex.join(["rlm", near[0], *args[1:]])
        return UsageError(f"{word!r} is not a command; did you mean {near[0]!r}?", hint=meant)
    if " " in word or word.endswith("?"):
        return UsageError(
            f"{word!r} is not a command: a question needs `ask` and something to read",
            hint=f"rlm ask SOURCES {shlex.quote(word)}",
            code="missing_verb",
        )
    if Path(word).exists():
        rest = shlex.join(args[1:]) or '"QUESTION"'
        hint = f"rlm ask {shlex.quote(word)} {rest}"
        return UsageError(f"{word!r} is a path, not a command", hint=hint, code="missing_verb")
    return UsageError(f"{word!r} is not a command", hint="rlm --help", code="missing_verb")


def load(verb: Verb) -> Any:
    """The verb as Typer's command object. A module's EXAMPLES follow its function's docstring in the help."""
    module = importlib.import_module(f".{verb.module}", __package__)
    found = getattr(module, verb.attribute)
    if not isinstance(found, typer.Typer):
        app = typer.Typer(add_completion=False, rich_markup_mode=None)
        words = inspect.cleandoc(found.__doc__ or "")
        app.command(verb.name, cls=verb.kind, help=f"{words}\n\n{getattr(module, 'EXAMPLES', '')}")(found)
        found = app
    command = typer.main.get_command(found)
    command.name = verb.name
    return command


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"rlm {__version__}")
        raise typer.Exit


def root(
    ctx: typer.Context,
    _version: Annotated[
        bool, typer.Option("-V", "--version", callback=_print_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    """Ask questions of inputs far bigger than any context window."""
    if ctx.invoked_subcommand is None:
        typer.echo(f"Usage: rlm COMMAND ...\n\n{EXAMPLES}\nrlm --help lists the commands, rlm COMMAND -h explains one.")
        raise typer.Exit(2)


def command() -> Any:
    """The whole tree, as Typer's command object."""
    app = typer.Typer(
        cls=Root,
        invoke_without_command=True,
        context_settings={"help_option_names": ["-h", "--help"]},
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        pretty_exceptions_show_locals=False,
    )
    app.callback(help=f"{root.__doc__}\n\n\b\n{EXAMPLES}")(root)
    return typer.main.get_command(app)
