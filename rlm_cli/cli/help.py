"""`rlm help [TOPIC]`: variables and keys come from the config table, exit codes from the errors, the rest is text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated

import typer

from .. import config
from ..errors import ExitCode, UsageError

TOPICS_FOLDER = Path(__file__).with_name("topics")

EXIT_CODES: Mapping[ExitCode, str] = {
    ExitCode.OK: "a complete answer was written",
    ExitCode.ERROR: "something unexpected failed inside rlm",
    ExitCode.USAGE: "the command line, a setting or a --schema file is wrong; nothing was spent",
    ExitCode.NO_ANSWER: "the model stopped without an answer, or with an empty one",
    ExitCode.AUTH: "no key, a rejected key, or no permission for the model",
    ExitCode.SANDBOX: "container runtime missing, down or denied; no image; the sandbox died",
    ExitCode.LIMIT: "a limit was reached; stdout may hold a partial answer",
    ExitCode.PROVIDER: "the model is unknown, or its service failed after all retries",
    ExitCode.INPUT: "a source is missing, unreadable, empty, filtered away, or above --max-input",
    ExitCode.SCHEMA: "the answer does not satisfy --schema, after repairs",
    ExitCode.BATCH_FAILURES: "a batch finished, and more of it failed than --fail-on allows",
    ExitCode.INTERRUPTED: "Ctrl-C",
    ExitCode.TERMINATED: "SIGTERM",
}


def exit_codes() -> str:
    rows = "\n".join(f"  {code.value:3}  {code.name.lower():15} {text}" for code, text in EXIT_CODES.items())
    return (
        f"Exit codes. Scripts may depend on them; they do not change.\n\n{rows}\n\n"
        "A partial answer is never 0. With --json the same object is printed on success and on failure; its\n"
        "error.code names the failure more finely (docker_daemon_down, rate_limited, limit_cost ...).\n"
    )


def environment() -> str:
    named = [key for key in config.KEYS.values() if key.env]
    width = max(len(key.env) for key in named)
    flag_width = max(len(key.flag) for key in named)
    rows = "\n".join(f"  {key.env:{width}}  {key.flag:{flag_width}}  {key.name}" for key in named)
    other = "\n".join(f"  {name}\n      {text}" for name, text in config.OTHER_VARIABLES)
    return (
        "Environment. An empty variable is unset. A flag wins over its variable, which wins over config files.\n\n"
        f"  {'VARIABLE':{width}}  {'FLAG':{flag_width}}  KEY\n{rows}\n\nBesides:\n\n{other}\n\n"
        "Keys of model providers are read from the provider's own variable (OPENAI_API_KEY, ANTHROPIC_API_KEY ...).\n"
    )


_PROJECT_RULES: Mapping[config.Project, str] = {
    "no": "",
    "yes": "project may set it",
    "lower": "project may lower it",
    "add": "project may add to it",
    "alias": "project may name one of your aliases",
}


def config_topic() -> str:
    keys = [key for key in config.KEYS.values() if not key.switch]
    lines = []
    for key in keys:
        default = "" if key.many else key.kind.show(key.default)
        facts = [f"default {default}" if default else "", key.env, key.flag, _PROJECT_RULES[key.project]]
        name = f"{key.name}.NAME" if key.many else key.name
        lines += [f"  {name}", f"      {key.doc}", f"      {' · '.join(filter(None, facts))}".rstrip()]
    body = "\n".join(line for line in lines if line.strip())
    return _text("config").replace("{keys}", body)


def _text(name: str) -> str:
    return (TOPICS_FOLDER / f"{name}.txt").read_text("utf-8")


TOPICS: Mapping[str, tuple[str, Callable[[], str]]] = {
    "environment": ("variables, beside their flags and keys", environment),
    "exit-codes": ("what the exit code says", exit_codes),
    "formats": ("what stdout carries: text, JSON, events", lambda: _text("formats")),
    "modes": ("by code, or in one plain call", lambda: _text("modes")),
    "sources": ("what is read, and what is left out", lambda: _text("sources")),
    "sandbox": ("where the model's code runs, and what it cannot do", lambda: _text("sandbox")),
    "config": ("files, precedence and every key", config_topic),
}


def help_(topic: Annotated[str | None, typer.Argument(metavar="[TOPIC]", help="one of the topics")] = None) -> None:
    """Read about a topic: environment, exit-codes, formats, modes, sources, sandbox or config; or about a command."""
    if topic is None:
        rows = "\n".join(f"  rlm help {name:12}  {about}" for name, (about, _) in TOPICS.items())
        typer.echo(f"Topics:\n\n{rows}\n\nrlm --help lists the commands, rlm COMMAND --help explains one.")
        return
    if topic not in TOPICS:
        _print_command_help(topic)
        return
    typer.echo(TOPICS[topic][1]().rstrip("\n"))


def _print_command_help(name: str) -> None:
    """`rlm help ask` is `rlm ask --help`, except that a topic wins over a command of its name."""
    from .app import VERBS, command

    if name not in {verb.name for verb in VERBS}:
        raise UsageError(f"no help topic {name!r}: there are {', '.join(TOPICS)}, and every command", hint="rlm help")
    command().main([name, "--help"], prog_name="rlm", standalone_mode=False)
