"""stdout: the answer as it is for programs, rendered and harmless for a person; errors and tables beside it."""

from __future__ import annotations

import io
import os
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlm_cli.events import ErrorInfo
from rlm_cli.render.answer import print_answer, print_pieces, write_raw
from rlm_cli.render.error import print_error
from rlm_cli.render.look import Look
from rlm_cli.render.tables import Column, print_table

from .screen import Screen
from .test_sanitize import texts

PIPE = Look()
# Zero-width characters leave no trace on a screen: they are looked for in what was sent.
FORBIDDEN = re.compile(r"\x1b(?!\[[\d;]*m)|[\x00-\x08\x0b-\x1a\x7f-\x9f\u200b\u202e\u2066\ufeff\U000e0041]")


def stream() -> tuple[io.BytesIO, io.TextIOWrapper]:
    raw = io.BytesIO()
    return raw, io.TextIOWrapper(raw, encoding="ascii", newline="\r\n")


def rendered(answer: str, *, color: bool = False, width: int = 80) -> str:
    screen = Screen(width)
    assert print_answer(answer, screen, look=Look(width=width, tty=True, color=color))
    assert FORBIDDEN.findall(screen.sent) == []
    return screen.text


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("answer", ["42", "42\n", "a\r\nb\x1b[2J\x00é\u2028", "x" * 1_000_000, ""])
def test_off_a_terminal_the_answer_is_itself(answer: str, raw: bool) -> None:
    """UTF-8 whatever the locale says, no line-end translation, nothing escaped, one final newline added if missing."""
    kept, out = stream()
    assert print_answer(answer, out, look=PIPE, raw=raw)
    assert kept.getvalue() == (answer if answer.endswith("\n") else answer + "\n").encode()


def test_bytes_are_written_as_they_are() -> None:
    """An answer that is not text gets nothing added."""
    kept, out = stream()
    assert write_raw(b"\xff\x00\r\n", out)
    assert kept.getvalue() == b"\xff\x00\r\n"


def test_a_large_answer_is_itself_off_a_terminal() -> None:
    """Piece by piece, with one final newline; as bytes with nothing added."""
    for pieces, exact, expected in (
        ([b"a\x1b", b"b"], False, b"a\x1bb\n"),
        ([b"a\n", b""], False, b"a\n"),
        ([b"\xff", b"\0"], True, b"\xff\0"),
    ):
        kept, out = stream()
        assert print_pieces(pieces, out, look=PIPE, exact=exact)
        assert kept.getvalue() == expected


def test_a_large_answer_is_harmless_on_a_terminal() -> None:
    """Escaped, also where a character or a sequence was cut; bytes too."""
    screen = Screen(80)
    pieces = [b"a\x1b", b"[2J\xc3", b"\xa9\r", b"\nb\xff\xe2\x82"]
    assert print_pieces(pieces, screen, look=Look(width=80, tty=True), exact=True)
    assert screen.text == "a\\x1b[2Jé\nb\\xff\\xe2\\x82\n"


def test_a_reader_that_left_is_no_error() -> None:
    """`| head -1`: quiet, and the flush at exit has nowhere to fail."""
    reader, writer = os.pipe()
    os.close(reader)
    out = os.fdopen(writer, "w")
    assert not print_answer("x" * 100_000, out, look=PIPE)
    out.write("more")
    out.close()


def test_markdown_is_rendered_for_a_person() -> None:
    """Structure shows, line ends stay, URLs are in full, HTML and images are text, nothing is left out."""
    answer = (
        "# Result\n\nline one\nline two with `code` and **bold**\n\n- a\n- b\n\n"
        "[label](http://evil.example/?q=1) ![pic](http://img.example/p.png) <b>html</b>\n\n<div>block</div>\n"
    )
    assert rendered(answer) == (
        "Result\n\nline one\nline two with code and bold\n\n • a\n • b\n\n"
        "label (http://evil.example/?q=1) [image: pic] (http://img.example/p.png)\n<b>html</b>\n\n<div>block</div>\n"
    )


def test_decoded_entities_are_cleaned_too() -> None:
    """Markdown decodes `&#8238;` after the text was cleaned: what comes out of the parser is cleaned again."""
    text = rendered("&#8238;gnp &#x9b;x [a&#8203;](http://x/%E2%80%AE) <http://y/%E2%80%AE>")
    assert (text.count("\\u202e"), text.count("\\u200b")) == (2, 1)


@pytest.mark.parametrize("answer", ['{"a": "*b*", "c": [1, 2]}', "[1,\n 2]"])
def test_json_is_not_markdown(answer: str) -> None:
    """Stars and underscores in JSON are data."""
    assert rendered(answer) == answer + "\n"


@pytest.mark.parametrize(
    "answer", ["> " * 5000 + "x", "[" * 5000, "*" * 5000, "\n" * 10_000, "- " * 3000, "x" * 1_000_000]
)
def test_pathological_markdown_is_survived(answer: str) -> None:
    """Deep nesting and long runs end in text, soon."""
    assert rendered(answer).endswith("\n")


@settings(max_examples=200, deadline=None)
@given(
    text=st.lists(texts | st.sampled_from(["`", "**", "# ", "\n\n", "> ", "[a](b)", "|a|\n|-|\n", "&#27;"])).map(
        "".join
    )
)
def test_no_answer_commands_the_terminal(text: str) -> None:
    """`Screen` refuses every control but colours."""
    rendered(text, color=True)


def test_an_error_says_what_why_and_the_fix() -> None:
    """Plain, cleaned, and the hint unwrapped so that it can be pasted."""
    out = io.StringIO()
    hint = "rlm ask " + "very-long-name/" * 12 + " 'q'"
    print_error(out, ErrorInfo("docker_daemon_down", "Docker \x1b[2J[/x] is down\nsocket: gone", hint))
    assert out.getvalue() == (
        f"rlm: error: Docker \\x1b[2J[/x] is down\n  socket: gone [docker_daemon_down]\n  fix: {hint}\n"
    )


def test_a_table_in_a_pipe_is_whole_and_aligned() -> None:
    """Nothing cut, numbers right, wide letters counted as two cells, no trailing spaces."""
    out = io.StringIO()
    print_table(
        out, ["id", Column("cost", "right"), "question"], [["日本", "$0.1", "a\nb\x1b[2J"], ["x", "$10.1", "y" * 200]]
    )
    assert out.getvalue() == (f"id     cost  question\n日本   $0.1  a⏎b\\x1b[2J\nx     $10.1  {'y' * 200}\n")


def test_a_column_to_copy_is_never_cut() -> None:
    """A run's id is whole in the narrowest list; the others give way."""
    screen = Screen(40)
    print_table(screen, [Column("run", keep=True), "question"], [["i" * 30, "q" * 90]], look=Look(width=40, tty=True))
    assert screen.text.splitlines()[1] == f"{'i' * 30}  {'q' * 7}…"


@pytest.mark.parametrize("rows", [[], [["a", "b"]], [["a" * 300, "b" * 300]]])
def test_a_table_on_a_terminal_fits(rows: list[list[str]]) -> None:
    """The widest columns give way; an empty table is its heading."""
    screen = Screen(40)
    print_table(screen, ["one", "two"], rows, look=Look(width=40, tty=True, color=True))
    assert (any(screen.soft), screen.text.count("\n"), screen.text.startswith("one")) == (False, 1 + len(rows), True)
