"""Text that means harm to a terminal, a run that holds it wherever text can be, and what may reach a terminal."""

from __future__ import annotations

import dataclasses
import io
import re
import types
import typing
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any, Literal, Union

from rlm_cli.events import EVENT_TYPES, ROOT, Record, RunFinished, Span

TEXTS: Mapping[str, str] = {
    "e01-osc52": "\x1b]52;c;cHduZWQ=\x07",
    "e02-osc8": "\x1b]8;;http://evil.example\x1b\\click\x1b]8;;\x1b\\",
    "e02-osc8-open": "\x1b]8;;http://evil.example\x07 never closed",
    "e03-title-erase-ask": "\x1b]0;title\x07\x1b[2J\x1b[1;1H\x1b[c\x1b[6n",
    "e03-dcs-apc": "\x1bP$qm\x1b\\\x1b_Gf=100;AAAA\x1b\\\x1b^pm\x1b\\\x1bc",
    "e04-c1": "\x9b2J\x9d52;c;cHduZWQ=\x9c\x90q\x9c\x9fx\x9c\x85",
    "e05-overwrite": "rm -rf /\rls -l   \x08\x08\x08\x0b\x0c\x7f",
    "e06-bidi-zero-width-tags": "\u202egnp.exe\u2066\u200b\u200d\u2060\ufeff\U000e0041\U000e007f\u2028",
    "e07-markup": "[link=http://evil.example]x[/link] [/] [bold red]y[/x] :smile: {0} %s",
}
"""One of each kind, by the case of the catalogue that it is in."""

FLOODS: Mapping[str, str] = {
    "lines": "x\n" * 10_000,
    "one-line": "x" * 1_000_000,
    "zalgo": ("日" + "\u0300\u0489" * 200) * 50,
    "blank": "\n" * 10_000 + "x",
}
"""Case E05: nothing that commands the terminal, and far too much of it."""

COLOUR = re.compile(r"\x1b\[[\d;]*m")
REDRAW = re.compile(r"\r(?:\x1b\[\d+A)? \x1b\[J\r")
"""What the live view sends to erase its own lines; no text of `TEXTS` has it."""


def commands(sent: str) -> list[str]:
    """What a terminal would obey, or not show, in what was sent to it: [] for the work of an honest program. Only our
    colours and the live view's own redrawing are allowed. Judged by Unicode, not by the sanitizer's own tables."""
    rest = REDRAW.sub("", COLOUR.sub("", sent)).replace("\r\n", "\n")
    return [f"U+{ord(char):04X}" for char in rest if char not in "\n\t" and _is_command(char)]


SEEN = "\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd"
"""Unicode's prepended concatenation marks: formats by their category, and signs that are drawn."""


def _is_command(char: str) -> bool:
    return char not in SEEN and unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp")


class Terminal(io.TextIOWrapper):
    """A stream that says it is a terminal, and keeps what it was sent."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), encoding="utf-8", errors="backslashreplace", write_through=True)

    def isatty(self) -> bool:
        return True

    @property
    def sent(self) -> str:
        kept: io.BytesIO = self.buffer  # type: ignore[assignment]
        return kept.getvalue().decode("utf-8")


def run_of(text: str, *, run_id: str = "20261120-153012-a1b2c3") -> list[Record]:
    """A run in which every field that is text has this text, of every kind of event, at every value of each choice;
    by the root and by a child; `run.finished` comes last. Only the run's id, which names a folder, is `run_id`."""
    events = [event for kind in EVENT_TYPES.values() if kind is not RunFinished for event in _each(kind, text)]
    ends = [dataclasses.replace(end, result=dataclasses.replace(end.result, run_id=run_id))
            for end in _each(RunFinished, text)]  # fmt: skip
    events = [dataclasses.replace(event, run_id=run_id) if event.type == "run.started" else event for event in events]
    placed = [(span, event) for event in events for span in (ROOT, Span((1,)))]
    placed += [(ROOT, end) for end in ends]
    return [Record(number, 1_795_188_612.0 + number, span, event) for number, (span, event) in enumerate(placed)]


def _each(kind: Any, text: str) -> Iterator[Any]:
    """The event once for every value of its choices, together with itself where optional fields are left out."""
    most = max((len(typing.get_args(choice)) for choice in _choices(kind)), default=1)
    for turn in range(most):
        yield _filled(kind, text, turn)


def _choices(kind: Any) -> Iterator[Any]:
    if typing.get_origin(kind) is Literal:
        yield kind
    elif dataclasses.is_dataclass(kind):
        for hint in typing.get_type_hints(kind).values():
            yield from _choices(hint)
    else:
        for argument in typing.get_args(kind):
            yield from _choices(argument)


def _filled(kind: Any, text: str, turn: int) -> Any:
    """A value of this type with `text` for every string, keys of mappings too."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return arguments[turn % len(arguments)]
    if origin in (Union, types.UnionType):
        return _filled(next(one for one in arguments if one is not type(None)), text, turn)
    if origin is tuple:
        return (_filled(arguments[0], text, turn),)
    if origin is not None:
        return {text: _filled(arguments[1], text, turn)}
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        fields = {field.name: _filled(hints[field.name], text, turn) for field in dataclasses.fields(kind)}
        if "type" in hints:
            fields["type"] = kind.__dataclass_fields__["type"].default
        if "answer_file" in hints:
            fields["answer_file"] = None  # the answer is in the result
        return kind(**fields)  # type: ignore[operator]
    simple: Mapping[Any, Any] = {str: text, int: 1, float: 1.0, bool: True}
    return simple.get(kind, text)
