"""How things may look on one stream: decided once per stream by `look_for`, from values the caller passes in."""

from __future__ import annotations

import codecs
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TextIO, cast

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

ColorChoice = Literal["auto", "always", "never"]

# One cell each, so that alignment survives.
_NARROW = str.maketrans("·…→█░─│✓✗⏎≈×–—•", "-~>#.-|+x/~x--*")


@dataclass(frozen=True)
class Look:
    """`width` in cells, None to ask the terminal whenever something is drawn (it may be resized).

    `tty`: a person is reading. `live`: the view may redraw lines in place. `verbosity`: 0, 1 for -v, 2 for -vv.
    """

    color: bool = False
    width: int | None = None
    unicode: bool = True
    verbosity: int = 0
    tty: bool = False
    live: bool = False


def look_for(
    stream: TextIO, *, color: ColorChoice = "auto", env: Mapping[str, str] | None = None, verbosity: int = 0
) -> Look:
    """What `stream` can show. Colour: `color`, else NO_COLOR, FORCE_COLOR, TERM=dumb, then whether it is a terminal.

    Nothing is redrawn where NO_COLOR, TERM=dumb or CI is set, or off a terminal: those who set them get plain lines
    without a single escape byte. `env` is the environment (only `config` reads the real one).
    """
    env = env or {}
    tty = _is_tty(stream)
    plain = bool(env.get("NO_COLOR")) or env.get("TERM") == "dumb"
    return Look(
        color=_wants_color(color, env, tty=tty),
        unicode=_is_unicode(stream),
        verbosity=verbosity,
        tty=tty,
        live=tty and not plain and env.get("CI", "") in ("", "0", "false"),
    )


def _is_tty(stream: TextIO) -> bool:
    try:
        return stream.isatty()
    except ValueError:  # closed
        return False


def _wants_color(choice: ColorChoice, env: Mapping[str, str], *, tty: bool) -> bool:
    if choice != "auto":
        return choice == "always"
    if env.get("NO_COLOR"):
        return False
    if env.get("FORCE_COLOR", "") not in ("", "0", "false"):
        return True
    return tty and env.get("TERM") != "dumb"


def _is_unicode(stream: TextIO) -> bool:
    try:
        return codecs.lookup(stream.encoding or "utf-8").name.startswith("utf")
    except (LookupError, AttributeError):
        return True


def width_of(stream: TextIO, look: Look) -> int:
    """Columns to draw in, now; 80 where nobody knows."""
    if look.width or not look.tty:
        return look.width or 80
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


def height_of(stream: TextIO) -> int:
    """Rows of the terminal behind `stream`, now; 24 where nobody knows."""
    try:
        return os.get_terminal_size(stream.fileno()).lines or 24
    except (OSError, ValueError):
        return 24


class NarrowStream:
    """Writes to a stream that cannot encode our glyphs: they become ASCII, the rest of Unicode visible escapes."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.encoding = getattr(stream, "encoding", None) or "ascii"

    def write(self, text: str) -> int:
        safe = text.translate(_NARROW).encode(self.encoding, "backslashreplace").decode(self.encoding)
        return self._stream.write(safe)

    def flush(self) -> None:
        self._stream.flush()

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()


def writable(stream: TextIO, look: Look) -> TextIO:
    """`stream`, or one in front of it that can write everything we draw."""
    return stream if look.unicode else cast(TextIO, NarrowStream(stream))


def console_for(stream: TextIO, look: Look) -> Console:
    """A rich console that looks at nothing but `look`: no environment, no markup, no emoji codes, no highlighting.

    Colours are the terminal's own sixteen, so they fit its background.
    """
    from rich.console import Console

    class Plain(Console):
        def on_broken_pipe(self) -> None:
            """Rich would end the process here, with exit code 1: whether that is a failure is for others to say."""
            raise  # noqa: PLE0704 - the error that Rich calls this for

    return Plain(
        file=writable(stream, look),
        force_terminal=look.color,
        color_system="standard" if look.color else None,
        no_color=not look.color,
        width=width_of(stream, look),
        markup=False,
        emoji=False,
        highlight=False,
        legacy_windows=False,
        _environ={},
    )


def print_lines(stream: TextIO, lines: Iterable[Text], *, look: Look | None = None) -> None:
    """Print `lines` one by one, unwrapped."""
    console = console_for(stream, look or Look())
    for line in lines:
        console.print(line, soft_wrap=True)
