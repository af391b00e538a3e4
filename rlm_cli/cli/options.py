"""The options that commands share, and the two base classes that give them to a command.

Every option that stands for a configuration key is declared here once, as a row of `KEY_OPTIONS`: its help text,
default and parser belong to the key (`rlm_cli.config`). Such an option never is a parameter of the command function:
its text is kept in the context until `settings(ctx)` merges it with the other layers. So a command reads

    @app.command(cls=AskCommand)
    def ask(ctx: typer.Context, arguments: Arguments = None, question: Question = None) -> None:
        settings = options.settings(ctx)

`Command` accepts the global options (--config, --set, -q, -v ...) after the verb, `Group` before it; what stands later
on the line wins. `AskCommand` takes the panels Model, Limits, Sources, Output, Run and Sandbox of CLI.md 5.2 too.
`explicit(ctx)` tells which keys were given as flags. The `Annotated` types below are for function parameters.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from .. import config
from ..errors import ConfigError

PANELS = ("Question", "Sources", "Model", "Limits", "Output", "Run", "Sandbox", "Options", "Everywhere")
EVERYWHERE = "Everywhere"
NAME_COLUMN = 26


# -- options that stand for configuration keys ---------------------------------------------------------------------


@dataclass(frozen=True)
class KeyOption:
    """One flag. `value`: what a flag without an argument sets; `negative`: the flag that sets the opposite."""

    panel: str
    key: str
    decls: tuple[str, ...]
    metavar: str = ""
    value: object = None
    help: str = ""
    count: bool = False
    multiple: bool = False

    @property
    def text(self) -> str:
        key = config.KEYS[self.key]
        words = self.help or key.doc
        default = "" if key.many or self.value is not None or self.count else key.show(key.default)
        # Every key has a variable; the ones with a name of their own are worth the room.
        env = "" if self.help or (key.section and key.env == config.derived_env(key.name)) else key.env
        notes = "; ".join(filter(None, (f"default {default}" if default else "", env)))
        return f"{words} [{notes}]" if notes else words


KEY_OPTIONS: Sequence[KeyOption] = (
    KeyOption("Sources", "sources.hidden", ("--hidden",), value=True),
    KeyOption("Sources", "sources.encoding", ("-E", "--encoding"), "NAME"),
    KeyOption("Sources", "sources.max_input", ("--max-input",), "SIZE|none"),
    KeyOption("Sources", "sources.convert", ("--convert",), "auto|all|none"),
    KeyOption("Model", "model", ("-m", "--model"), "ID"),
    KeyOption("Model", "sub_model", ("--sub-model",), "ID"),
    KeyOption("Model", "mode", ("--mode",), "auto|rlm|rlm-d0|direct"),
    KeyOption("Model", "api.base", ("--api-base",), "URL"),
    KeyOption("Model", "model_options", ("-O", "--model-option"), "K=V", multiple=True),
    KeyOption("Limits", "limits.cost", ("--max-cost",), "USD|none"),
    KeyOption("Limits", "limits.tokens", ("--max-tokens",), "N|none"),
    KeyOption("Limits", "limits.time", ("--max-time",), "DUR|none"),
    KeyOption("Limits", "limits.iterations", ("--max-iterations",), "N"),
    KeyOption("Limits", "limits.depth", ("--max-depth",), "N"),
    KeyOption("Limits", "limits.subcalls", ("--max-subcalls",), "N|none"),
    KeyOption("Limits", "limits.concurrency", ("--concurrency",), "N"),
    KeyOption("Limits", "limits.on_limit", ("--on-limit",), "answer|fail"),
    KeyOption("Limits", "run.price", ("--price",), "IN,OUT"),
    KeyOption("Limits", "limits.allow_unknown_cost", ("--allow-unknown-cost",), value=True),
    KeyOption("Output", "output.format", ("-f", "--format"), "text|json|events"),
    KeyOption("Output", "output.format", ("--json",), value="json", help="one JSON object; same as -f json"),
    KeyOption("Output", "output.format", ("--events",), value="events", help="JSON lines as it runs; -f events"),
    KeyOption(
        "Output", "output.cite", ("--cite",), value=True, help="quotes for the answer, looked up [default; RLM_CITE]"
    ),
    KeyOption("Output", "output.cite", ("--no-cite",), value=False, help="the opposite of --cite"),
    KeyOption(
        "Run", "cache.enabled", ("--cache",), value=True, help="use and keep sub-call replies across runs [RLM_CACHE]"
    ),
    KeyOption("Run", "cache.enabled", ("--no-cache",), value=False, help="the opposite of --cache"),
    KeyOption("Run", "logs.enabled", ("--no-log",), value=False, help="keep no record of this run [RLM_NO_LOG]"),
    KeyOption("Sandbox", "sandbox.runtime", ("--sandbox",), "auto|docker|podman|process"),
    KeyOption("Sandbox", "sandbox.image", ("--image",), "REF"),
    KeyOption("Sandbox", "sandbox.pull", ("--pull",), "missing|always|never"),
    KeyOption("Sandbox", "sandbox.memory", ("--memory",), "SIZE"),
    KeyOption("Sandbox", "sandbox.cpus", ("--cpus",), "N"),
    KeyOption("Sandbox", "sandbox.step_timeout", ("--step-timeout",), "DUR"),
    KeyOption(EVERYWHERE, "run.quiet", ("-q", "--quiet"), value=True),
    KeyOption(
        EVERYWHERE, "run.verbose", ("-v", "--verbose"), count=True, help="code and outputs in full; -vv: prompts"
    ),
    KeyOption(EVERYWHERE, "output.progress", ("--progress",), "auto|rich|plain|none"),
    KeyOption(EVERYWHERE, "output.color", ("--color",), "auto|always|never"),
    KeyOption(EVERYWHERE, "run.no_input", ("--no-input",), value=True),
    KeyOption(EVERYWHERE, "run.offline", ("--offline",), value=True),
    KeyOption(EVERYWHERE, "run.debug", ("--debug",), value=True),
)

_FLAGS, _OVERRIDES, _FILE = "rlm.flags", "rlm.overrides", "rlm.config_file"


def _keep(option: KeyOption) -> Callable[..., None]:
    """A Typer callback that remembers the flag's text, where it was given, under its key."""

    def keep(ctx: typer.Context, value: Any) -> None:
        if value is None or value is False or value == 0 or value == []:
            return
        kept = ctx.meta.setdefault(_FLAGS, {})
        kept[option.key] = _pairs(option, value) if option.multiple else value if option.value is None else option.value

    return keep


def _pairs(option: KeyOption, texts: Iterable[str]) -> dict[str, str]:
    pairs = [text.partition("=") for text in texts]
    if bad := [name for name, equals, _ in pairs if not name or not equals]:
        raise typer.BadParameter(f"{bad[0]!r} is not {option.metavar}")
    return {name.strip(): value for name, _, value in pairs}


def _keep_overrides(ctx: typer.Context, value: list[str] | None) -> None:
    ctx.meta.setdefault(_OVERRIDES, []).extend(value or [])


def _keep_file(ctx: typer.Context, value: Path | None) -> None:
    if value is not None:
        ctx.meta[_FILE] = value


def _parameter(option: KeyOption, name: str) -> inspect.Parameter:
    kind: Any = str | None
    if option.multiple:
        kind = list[str] | None
    elif option.count:
        kind = int
    elif option.value is not None:
        kind = bool
    info = typer.Option(
        *option.decls,
        help=option.text,
        metavar=option.metavar or None,
        rich_help_panel=option.panel,
        callback=_keep(option),
        expose_value=False,
        count=option.count,
        show_default=False,
    )
    default = 0 if option.count else False if option.value is not None else None
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, info])


def _declared(
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="any configuration key (rlm help config); repeatable",
            rich_help_panel=EVERYWHERE,
            callback=_keep_overrides,
            expose_value=False,
        ),
    ] = None,
    config_file: Annotated[
        Path | None,
        typer.Option(
            "--config",
            metavar="FILE",
            help="use this config file [RLM_CONFIG]",
            rich_help_panel=EVERYWHERE,
            callback=_keep_file,
            expose_value=False,
        ),
    ] = None,
) -> None:
    """The two global options that are no keys."""


def _typer_params(panels: Sequence[str]) -> list[Any]:
    """The parameters of these panels, made by Typer itself from a function with the wanted signature."""
    wanted = [option for option in KEY_OPTIONS if option.panel in panels]
    parameters = [_parameter(option, f"key_{number}") for number, option in enumerate(wanted)]
    if EVERYWHERE in panels:
        parameters += inspect.signature(_declared, eval_str=True).parameters.values()

    def function(**_: object) -> None: ...

    keyword_only = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
    function.__signature__ = inspect.Signature(keyword_only)  # type: ignore[attr-defined]  # what Typer reads
    function.__annotations__ = {parameter.name: parameter.annotation for parameter in keyword_only}
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command()(function)
    return list(typer.main.get_command(app).params)


# -- commands that take them ---------------------------------------------------------------------------------------


def _write_options(command: Any, ctx: typer.Context, formatter: Any) -> None:
    """Options by panel, as plain sections: no markup is read, so `[...]` stays as it is written."""
    panels: dict[str, list[tuple[str, str]]] = {}
    for param in command.get_params(ctx):
        if record := param.get_help_record(ctx):
            left, right = record
            panel = getattr(param, "rich_help_panel", None) or "Options"
            if param.param_type_name == "argument":
                panel, left = "Arguments", param.metavar or left
            elif param.name == "help":
                panel, right = EVERYWHERE, "show this help"
            panels.setdefault(panel, []).append((left, right))
    # One column for all panels: short names are padded to it, long ones keep their own line.
    width = max((len(left) for rows in panels.values() for left, _ in rows if len(left) <= NAME_COLUMN), default=0)
    for panel in ("Arguments", *PANELS):
        if rows := panels.get(panel):
            with formatter.section(panel):
                formatter.write_dl([(left.ljust(width), right) for left, right in rows], col_max=NAME_COLUMN)


class Command(TyperCommand):
    """A command that takes the global options, and shows its own by panel."""

    panels: Sequence[str] = (EVERYWHERE,)

    def __init__(self, name: str | None, **kwargs: Any) -> None:
        super().__init__(name, **kwargs)
        self.params = [*self.params, *_typer_params(self.panels)]

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        arguments = [p for p in self.get_params(ctx) if p.param_type_name == "argument"]
        return ["[OPTIONS]", *(p.metavar or "" for p in arguments)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        _write_options(self, ctx, formatter)


class SourcesCommand(Command):
    """A command that reads sources: the Sources panel of `ask`."""

    panels = ("Sources", EVERYWHERE)


class AskCommand(Command):
    """`ask`, and later `batch` and `chat`: every panel."""

    panels = PANELS


class Group(TyperGroup):
    """A group whose global options may stand before the verb."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.params = [*self.params, *_typer_params((EVERYWHERE,))]

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """As Typer's, without cutting the sentences."""
        found = ((name, self.get_command(ctx, name)) for name in self.list_commands(ctx))
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name.ljust(12), command.get_short_help_str(200)) for name, command in found if command]
            )

    def format_options(self, ctx: Any, formatter: Any) -> None:
        self.format_commands(ctx, formatter)
        _write_options(self, ctx, formatter)


def command_group(help_text: str, default: Callable[[typer.Context], None] | None = None) -> typer.Typer:
    """A Typer app for a group of commands (`rlm runs ...`). Without a verb it runs `default`, or shows its help."""
    app = typer.Typer(
        cls=Group,
        invoke_without_command=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        pretty_exceptions_show_locals=False,
    )

    @app.callback(help=help_text)
    def group(ctx: typer.Context) -> None:
        if ctx.invoked_subcommand is not None:
            return
        if default is None:
            typer.echo(ctx.get_help())
            raise typer.Exit(2)
        default(ctx)

    return app


# -- what was given ------------------------------------------------------------------------------------------------


def explicit(ctx: typer.Context) -> Mapping[str, object]:
    """Key name -> what its flag said, for the flags on this command line."""
    return dict(ctx.meta.get(_FLAGS, {}))


def config_file(ctx: typer.Context) -> Path | None:
    """The --config option."""
    found: Path | None = ctx.meta.get(_FILE)
    return found


def settings(ctx: typer.Context, flags: Mapping[str, object] | None = None) -> config.Settings:
    """All layers merged, `flags` (key -> raw value) on top of the options on the line. Raises `ConfigError`."""
    return config.load({**explicit(ctx), **(flags or {})}, ctx.meta.get(_OVERRIDES, ()), config_file=config_file(ctx))


def examine(ctx: typer.Context) -> tuple[config.Settings, tuple[ConfigError, ...]]:
    """As `settings`, for the commands that must work on a broken file."""
    return config.examine(explicit(ctx), ctx.meta.get(_OVERRIDES, ()), config_file=config_file(ctx))


def places(ctx: typer.Context) -> config.Places:
    """Where configuration, runs and cache are; needs no valid file."""
    return config.places(config.environment(), config_file(ctx))


# -- options for function parameters -------------------------------------------------------------------------------

Arguments = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[SOURCES]... QUESTION", help="files, folders, globs, URLs or - (stdin); the question goes last"
    ),
]
SourceArguments = Annotated[
    list[str] | None, typer.Argument(metavar="SOURCES...", help="files, folders, globs, URLs or - (stdin)")
]
Question = Annotated[
    str | None,
    typer.Option(
        "-Q",
        "--question",
        metavar="TEXT",
        help="the question; then all arguments are sources",
        rich_help_panel="Question",
    ),
]
QuestionFile = Annotated[
    str | None,
    typer.Option("--question-file", metavar="FILE|-", help="read the question from a file", rich_help_panel="Question"),
]
SourceOption = Annotated[
    list[str] | None,
    typer.Option("-s", "--source", metavar="PATH", help="a source; repeatable", rich_help_panel="Sources"),
]
Globs = Annotated[
    list[str] | None,
    typer.Option(
        "-g", "--glob", metavar="GLOB", help="take only these in folders; !GLOB leaves out", rich_help_panel="Sources"
    ),
]
Unrestricted = Annotated[
    int,
    typer.Option(
        "-u",
        "--unrestricted",
        count=True,
        help="-u no ignore files, -uu hidden too, -uuu binary too",
        rich_help_panel="Sources",
        show_default=False,
    ),
]
NoIgnore = Annotated[
    bool, typer.Option("--no-ignore", help="do not obey ignore files; same as -u", rich_help_panel="Sources")
]
Follow = Annotated[bool, typer.Option("-L", "--follow", help="follow symbolic links", rich_help_panel="Sources")]
OutputFile = Annotated[
    str | None,
    typer.Option(
        "-o",
        "--output",
        metavar="FILE|-",
        help="write the answer to a file, whole; stdout stays empty",
        rich_help_panel="Output",
    ),
]
SchemaOption = Annotated[
    str | None,
    typer.Option(
        "--schema", metavar="FILE|JSON", help="JSON Schema that the answer must satisfy", rich_help_panel="Output"
    ),
]
Raw = Annotated[
    bool, typer.Option("--raw", help="plain text even on a terminal", rich_help_panel="Output", show_default=False)
]
DryRun = Annotated[
    bool,
    typer.Option("-n", "--dry-run", help="show what would be read and what it may cost", rich_help_panel="Run"),
]
Yes = Annotated[bool, typer.Option("-y", "--yes", help="do not ask for confirmation", rich_help_panel="Run")]
Json = Annotated[bool, typer.Option("--json", help="print JSON", show_default=False)]
