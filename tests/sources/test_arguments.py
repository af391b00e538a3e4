"""`[SOURCES]... QUESTION`: every row of CLI.md 2.3, and the corrected command each refusal carries."""

from __future__ import annotations

import fnmatch
import shlex
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm_cli.errors import ExitCode, InputError, RlmError, UsageError
from rlm_cli.sources.arguments import Line, Parsed, check_sources, quote, split_arguments
from rlm_cli.sources.paths import Disk

PATHS = ("a.log", "b.log", "big.log", "logs/", "logs", "README", "Makefile", "why", "my file.txt", "logs/app.log")


def exists(word: str) -> bool:
    return any(fnmatch.fnmatchcase(path, word) for path in PATHS)


def entries(folder: str) -> list[str]:
    return [path.removeprefix(folder) for path in PATHS if path.startswith(folder) and "/" not in path[len(folder) :]]


LINE = Line(disk=Disk(exists, entries))


@dataclass(frozen=True)
class Refusal:
    exit_code: ExitCode
    code: str
    said: str
    hint: str


def split(
    *words: str, question: str | None = None, file: str | None = None, piped: bool = False, tty: bool = False
) -> Parsed | Refusal:
    try:
        return split_arguments(words, question, file, stdin_is_data=piped, interactive=tty, line=LINE)
    except RlmError as error:
        return Refusal(error.exit_code, error.code, error.message, error.hint)


def test_the_rows_that_run() -> None:
    """What each accepted command line means (CLI.md 2.3)."""
    assert [
        split("a.log", "b.log", "why?"),
        split("why?", piped=True),
        split("-", "b.log", "why?", piped=True),
        split("big.log", "-", piped=True),
        split("README", "Makefile", question="README"),
        split("logs/", "-v prints nothing, why?"),
        split("a.log", file="q.md"),
        split("a.log", file="-", piped=True),
        split("*.log", "why?"),
        split(question="why?", piped=True),
        split("a.log", tty=True),
        # Sources are named: stdin is not read, whatever waits there (C19).
        split("a.log", "why?", piped=True),
        # The last word is the question even when it looks like a path that is not there.
        split("a.log", "nope.log"),
        split("a.log", "what is in *.txt"),
    ] == [
        Parsed(("a.log", "b.log"), "why?"),
        Parsed(("-",), "why?"),
        Parsed(("-", "b.log"), "why?"),
        Parsed(("big.log",), "", "stdin", "-"),
        Parsed(("README", "Makefile"), "README"),
        Parsed(("logs/",), "-v prints nothing, why?"),
        Parsed(("a.log",), "", "file", "q.md"),
        Parsed(("a.log",), "", "stdin", "-"),
        Parsed(("*.log",), "why?"),
        Parsed(("-",), "why?"),
        Parsed(("a.log",), "", "prompt"),
        Parsed(("a.log",), "why?"),
        Parsed(("a.log",), "nope.log"),
        Parsed(("a.log",), "what is in *.txt"),
    ]


@pytest.mark.parametrize(
    ("words", "options", "exit_code", "said", "hint"),
    [
        (["-"], {"piped": True}, 2, "no source to read", "rlm ask - QUESTION  (stdin is data), or: rlm ask FILE -"),
        (["a.log", "b.log"], {}, 2, "'b.log' is an existing path", "rlm ask a.log b.log QUESTION"),
        (["a.log", "*.log"], {}, 2, "a glob that matches", 'rlm ask a.log "*.log" QUESTION'),
        (["a.log"], {"piped": True}, 2, "'a.log' is an existing path", "rlm ask a.log QUESTION"),
        (["a.log"], {}, 2, "'a.log' is an existing path", "rlm ask a.log QUESTION"),
        (["a.log", "b.log"], {"tty": True}, 2, "'b.log' is an existing path", "rlm ask a.log b.log QUESTION"),
        (["a.log", "https://x.org/y"], {}, 2, "is a URL", "rlm ask a.log https://x.org/y QUESTION"),
        (["why?", "a.log"], {}, 2, "the question goes last", 'rlm ask a.log "why?"'),
        (["what failed", "a.log", "b.log"], {}, 2, "the question goes last", 'rlm ask a.log b.log "what failed"'),
        (["what failed", "a.log", "x.log"], {}, 8, "the question goes last", 'rlm ask a.log x.log "what failed"'),
        (["logs/", "how", "did", "it", "fail"], {}, 8, "did you forget quotes?", 'rlm ask logs/ "how did it fail"'),
        (["logs/", "tell", "me", "why"], {}, 2, "did you forget quotes?", 'rlm ask logs/ "tell me why"'),
        (
            ["b.lgo", "why?"],
            {},
            8,
            "no such file or directory: 'b.lgo'",
            "did you mean 'b.log'? rlm ask b.log \"why?\"",
        ),
        (["logs/ap.log", "q?"], {}, 8, "'logs/ap.log'", "did you mean 'logs/app.log'? rlm ask logs/app.log"),
        (["readme", "q?"], {}, 8, "'readme'", "did you mean 'README'?"),
        (["zzzz/q", "q?"], {}, 8, "'zzzz/q'", "ls ."),
        (["zzzz/", "q?"], {}, 8, "'zzzz/'", "ls ."),
        (["logs/zzzz/q", "q?"], {}, 8, "'logs/zzzz/q'", "ls logs"),
        (["/zzzz/q", "q?"], {}, 8, "'/zzzz/q'", "ls /"),
        (["*.gz", "q?"], {}, 8, "no file matches '*.gz'", "ls ."),
        (["https://u:pw@x.org/y?token=1", "a.lgo", "q?"], {}, 8, "'a.lgo'", '"https://x.org/y?token=…" a.log "q?"'),
        (["-", "-"], {"piped": True}, 2, "both the question and a source", "rlm ask - QUESTION"),
        (["-"], {"file": "-", "piped": True}, 2, "both the question and a source", "QUESTION"),
        (["-", "-", "q?"], {"piped": True}, 2, "'-' is given twice", "leave one"),
        (["why?"], {}, 8, "no source is named and stdin is empty", 'rlm ask FILE "why?"'),
        (["why?"], {"tty": True}, 8, "no source is named", 'rlm ask FILE "why?"'),
        ([], {}, 2, "no question", "rlm ask SOURCES... QUESTION"),
        (["a.log", "  "], {}, 2, "the question is empty", "say what"),
        (["a.log"], {"question": ""}, 2, "the question is empty", "say what"),
        (["a.log"], {"question": "x", "file": "y"}, 2, "both give a question", "leave one"),
        (["b.lgo"], {"question": "is it?"}, 8, "'b.lgo'", 'rlm ask -Q "is it?" b.log'),
        ([], {"question": "why?"}, 8, "no source is named", 'rlm ask -Q "why?" FILE'),
    ],
)
def test_the_rows_that_are_refused(
    words: list[str], options: dict[str, bool | str], exit_code: int, said: str, hint: str
) -> None:
    """Each slip is refused before anything is spent, with its exit code, its reason and the command to paste."""
    refusal = split(*words, **options)  # type: ignore[arg-type]
    assert isinstance(refusal, Refusal)
    assert (int(refusal.exit_code), said in refusal.said, hint in refusal.hint) == (exit_code, True, True), refusal


def test_sources_alone_are_checked_too() -> None:
    """`rlm sources` has no question: its suggestion does not invent one."""
    with pytest.raises(InputError) as caught:
        check_sources(["b.lgo", "a.log"], line=Line("rlm sources", LINE.disk))
    assert caught.value.hint == "did you mean 'b.log'? rlm sources b.log a.log"


words = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=12)


@given(words)
def test_quoting_survives_the_shell(word: str) -> None:
    """Whatever the word, pasting it gives the word back."""
    assert shlex.split(quote(word)) == [word]


@given(st.lists(words, max_size=4), words)
def test_a_correction_pastes_back_to_the_same_words(sources: list[str], question: str) -> None:
    """The corrected command, split by a shell, is the words it was made of, behind `--` when one begins with a dash."""
    pasted = shlex.split(LINE.fixed(*sources, question))
    dashed = any(word.startswith("-") and word != "-" for word in (*sources, question))
    assert pasted == ["rlm", "ask", *(["--"] if dashed else []), *sources, question]


@given(st.lists(st.sampled_from([*PATHS, "-", "why?", "x y", "*.log", "http://a/b", "zz"]), max_size=5), st.booleans())
def test_every_line_is_understood_or_refused(positionals: list[str], piped: bool) -> None:
    """No combination crashes, guesses a source (C17), or takes anything but the last word for the question (C13)."""
    try:
        parsed = split_arguments(positionals, stdin_is_data=piped, line=LINE)
    except (UsageError, InputError) as error:
        assert error.message and error.hint
        return
    expected = tuple(positionals[:-1]) or ("-",)
    assert parsed.sources == expected
    assert parsed.question == ("" if positionals[-1] == "-" else positionals[-1])
