"""A small terminal: enough of one to see what a person would see, and strict about what may be sent to it."""

from __future__ import annotations

import fcntl
import io
import re
import struct
import termios

from rich.cells import get_character_cell_size

_TOKEN = re.compile(r"\x1b\[(\d*(?:;\d+)*)([A-Za-z])|([\r\n])|([^\x00-\x1f\x7f-\x9f])|(.)", re.DOTALL)


def set_size(window: int, columns: int) -> None:
    fcntl.ioctl(window, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))


class Screen(io.StringIO):
    """Understands text, CR, LF, cursor up, erase below and colours; any other control is a failure.

    It never scrolls: all rows stay in `rows`. Rows that are too long wrap, and `resize` rewraps them, as most
    terminals do; `soft` marks rows that continue the one above.
    """

    def __init__(self, width: int = 80) -> None:
        super().__init__()
        self.width = width
        self.rows: list[list[str]] = [[]]
        self.soft: list[bool] = [False]
        self.row = self.col = 0
        self.sent = ""
        self.writes = 0
        self._window = -1

    def isatty(self) -> bool:
        return True

    def attach(self, window: int) -> None:
        """Let the terminal device `window` answer for the size, as it does for a real program."""
        self._window = window
        set_size(window, self.width)

    def fileno(self) -> int:
        if self._window < 0:
            raise OSError("no window")
        return self._window

    def write(self, text: str) -> int:
        self.sent += text
        self.writes += 1
        for match in _TOKEN.finditer(text):
            number, final, control, char, bad = match.groups()
            assert bad is None, f"forbidden control {bad!r}"
            if final:
                self._command(number, final)
            elif control == "\r":
                self.col = 0
            elif control == "\n":
                self._down(soft=False)
            else:
                self._put(char)
        return len(text)

    def _command(self, number: str, final: str) -> None:
        assert final in "AJm", f"forbidden command {final!r}"
        if final == "A":
            assert self.row >= int(number), "the cursor left the top of the screen"
            self.row -= int(number)
        elif final == "J":
            assert self.col, "tmux keeps a screen that is cleared from its first cell"
            self.rows[self.row] = self.rows[self.row][: self.col]
            del self.rows[self.row + 1 :], self.soft[self.row + 1 :]

    def _down(self, *, soft: bool) -> None:
        self.row, self.col = self.row + 1, 0
        if self.row == len(self.rows):
            self.rows.append([])
            self.soft.append(soft)

    def _put(self, char: str) -> None:
        cells = get_character_cell_size(char)
        if self.col + cells > self.width:
            self._down(soft=True)
        row = self.rows[self.row]
        row[self.col : self.col + cells] = [char, *[""] * (cells - 1)]
        self.col += cells

    def resize(self, width: int) -> None:
        """Rewrap every row; the cursor stays on its character."""
        at = self.col + sum(len(self.rows[r]) for r in self._start_of(self.row))
        logical: list[list[str]] = []
        cursor = 0
        for index, (row, soft) in enumerate(zip(self.rows, self.soft, strict=True)):
            logical = [*logical[:-1], logical[-1] + row] if soft else [*logical, list(row)]
            if index == self.row:
                cursor = len(logical) - 1
        self.width, self.rows, self.soft = width, [], []
        if self._window >= 0:
            set_size(self._window, width)
        for number, row in enumerate(logical):
            first = len(self.rows)
            pieces = [row[i : i + width] for i in range(0, len(row), width)] or [[]]
            self.rows += pieces
            self.soft += [False, *[True] * (len(pieces) - 1)]
            if number == cursor:
                self.row = first + min(at // width, len(pieces) - 1)
                self.col = at - (self.row - first) * width

    def _start_of(self, row: int) -> range:
        first = row
        while self.soft[first]:
            first -= 1
        return range(first, row)

    @property
    def text(self) -> str:
        """What is on the screen, without trailing spaces."""
        return "\n".join("".join(row).rstrip() for row in self.rows).rstrip("\n") + "\n"
