"""`[SOURCES]... QUESTION`: one variadic argument, split here (CLI.md 2.3).

The last positional is the question, always; nothing is guessed from what words say. The file system is only asked
in order to refuse: a question that is an existing path, or a source that does not exist, is a slip of the hand, and
its error carries the command that was probably meant. Pure but for the `Disk` passed in.
"""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ..errors import InputError, UsageError
from .paths import DISK, Disk, is_glob
from .urls import is_url, shown

STDIN = "-"

QuestionFrom = Literal["text", "file", "stdin", "prompt"]


@dataclass(frozen=True)
class Parsed:
    """What the words mean. `sources` may hold `-` (data from stdin), and does when no source was named and stdin
    carries data. `question` is "" unless `question_from` is "text"; "prompt": a person is there to be asked for it."""

    sources: tuple[str, ...]
    question: str = ""
    question_from: QuestionFrom = "text"
    question_file: str = ""

    @property
    def reads_stdin(self) -> bool:
        """Whether stdin is data."""
        return STDIN in self.sources


@dataclass(frozen=True)
class Line:
    """The command line being read: how it begins, to quote it back corrected, and the disk to hold it against."""

    command: str = "rlm ask"
    disk: Disk = DISK

    def fixed(self, *words: str) -> str:
        """The command with these words, quoted for a POSIX shell."""
        dashes = ["--"] if any(word.startswith("-") and word != STDIN for word in words) else []
        return " ".join([self.command, *dashes, *(quote(shown(word)) for word in words)])


def quote(word: str) -> str:
    """Like `shlex.quote`, in double quotes where that means the same: they read better."""
    plain = shlex.quote(word)
    return f'"{word}"' if plain != word and word and not re.search(r'["$`\\!\n\r]', word) else plain


def split_arguments(
    positionals: Sequence[str],
    question: str | None = None,
    question_file: str | None = None,
    *,
    stdin_is_data: bool,
    interactive: bool = False,
    line: Line = Line(),
) -> Parsed:
    """Split the words of `rlm ask`. `question` and `question_file` are -Q and --question-file.

    `stdin_is_data`: a pipe, a regular file or a socket. `interactive`: a person is at the terminal and may be asked.
    `-s` sources are put in front of the positionals by the caller.
    Raises `UsageError` (nothing was meant that can be run) or `InputError` (a source is not there).
    """
    if question is not None and question_file is not None:
        raise UsageError("-Q and --question-file both give a question", hint="leave one of them out")
    if question is not None:
        line = replace(line, command=f"{line.command} -Q {quote(question)}")
        parsed = Parsed(tuple(positionals), question)
    elif question_file is not None:
        line = replace(line, command=f"{line.command} --question-file {quote(question_file)}")
        origin: QuestionFrom = "stdin" if question_file == STDIN else "file"
        parsed = Parsed(tuple(positionals), "", origin, question_file)
    else:
        parsed = _split_last(positionals, interactive, line)
    if parsed.question_from == "text" and not parsed.question.strip():
        raise UsageError("the question is empty", hint="say what you want to know", code="no_question")
    tail = [positionals[-1]] if question is None and question_file is None and parsed.question_from != "prompt" else []
    return _with_sources(parsed, tail, stdin_is_data=stdin_is_data, interactive=interactive, line=line)


def _split_last(words: Sequence[str], interactive: bool, line: Line) -> Parsed:
    """Without -Q and --question-file: the last word is the question, `-` there is stdin."""
    if not words:
        raise UsageError("no question", hint=line.fixed("SOURCES...", "QUESTION"), code="no_question")
    *sources, last = words
    if last == STDIN:
        return Parsed(tuple(sources), "", "stdin", STDIN)
    if not sources and interactive and line.disk.exists(last):
        return Parsed((last,), "", "prompt")
    _refuse_source_as_question(sources, last, line)
    return Parsed(tuple(sources), last)


def _refuse_source_as_question(sources: list[str], last: str, line: Line) -> None:
    """C14: the last word is a path, a matching glob or a URL."""
    url = is_url(last)
    if not url and not line.disk.exists(last):
        return
    kind = "a URL" if url else "a glob that matches files" if is_glob(last) else "an existing path"
    message = f"the last argument is the question, but {shown(last)!r} is {kind}"
    missing = _missing(sources, line)
    if missing and (_asks(missing[0]) or (len(missing) == 1 and not nearest(missing[0], line.disk))):
        rest = [word for word in (*sources, last) if word != missing[0]]
        raise UsageError(f"{message}; the question goes last", hint=line.fixed(*rest, missing[0]), code="question_last")
    if len(missing) > 1:
        raise UsageError(f"{message}; did you forget quotes?", hint=_quoted((*sources, last), missing[0], line))
    meant = replace(line, command=f"{line.command} -Q {quote(shown(last))}").fixed(*sources)
    hint = f"{line.fixed(*sources, last, 'QUESTION')}  (if it is the question: {meant})"
    raise UsageError(message, hint=hint, code="no_question")


def _with_sources(parsed: Parsed, tail: list[str], *, stdin_is_data: bool, interactive: bool, line: Line) -> Parsed:
    """Check the sources; without any, stdin is the source if it carries data. `tail`: the question's word, if one."""
    from_stdin = parsed.question_from == "stdin"
    if parsed.sources.count(STDIN) > 1:
        raise UsageError("'-' is given twice, and stdin can be read once", hint="leave one '-' out", code="stdin_twice")
    if from_stdin and parsed.reads_stdin:
        plain = replace(line, command=line.command.removesuffix(f" --question-file {STDIN}"))
        hint = "put the question on the command line: " + plain.fixed(*parsed.sources, "QUESTION")
        raise UsageError("stdin cannot be both the question and a source", hint=hint, code="stdin_twice")
    if parsed.sources:
        check_sources(parsed.sources, tail=tail, line=line)
        return parsed
    if from_stdin:
        fixes = (
            f"{line.fixed(STDIN, 'QUESTION')}  (stdin is data), or: {line.fixed('FILE', STDIN)}  (it is the question)"
        )
        raise UsageError("stdin is the question here, so there is no source to read", hint=fixes, code="no_source")
    if not stdin_is_data:
        code = "no_source" if interactive else "stdin_empty"
        why = "no source is named" + ("" if interactive else " and stdin is empty")
        raise InputError(why, hint="name what to read: " + line.fixed("FILE", *tail), code=code)
    return Parsed((STDIN,), parsed.question, parsed.question_from, parsed.question_file)


def check_sources(sources: Sequence[str], *, tail: Sequence[str] = (), line: Line = Line()) -> None:
    """Raise `InputError` for the first source that is not there, with what was probably meant (C15).

    `tail` is the question, when it is a word of the line.
    """
    missing = _missing(sources, line)
    if missing:
        raise _missing_error(missing, list(sources), list(tail), line)


def _missing(sources: Sequence[str], line: Line) -> list[str]:
    return [word for word in sources if word != STDIN and not is_url(word) and not line.disk.exists(word)]


def _missing_error(missing: list[str], sources: list[str], question: list[str], line: Line) -> InputError:
    first = missing[0]
    what = "no file matches" if is_glob(first) else "no such file or directory:"
    if question and _asks(first):
        rest = [word for word in (*sources, *question) if word != first]
        return InputError(f"{what} {first!r}; the question goes last", hint=line.fixed(*rest, first), code="not_found")
    near = nearest(first, line.disk)
    if near:
        others = [near if word == first else word for word in sources]
        return InputError(
            f"{what} {first!r}", hint=f"did you mean {near!r}? {line.fixed(*others, *question)}", code="not_found"
        )
    if question and len(missing) >= 2:
        hint = _quoted((*sources, *question), first, line)
        return InputError(f"{what} {first!r}; did you forget quotes?", hint=hint, code="not_found")
    hint = f"nothing there has a similar name; look with: ls {quote(_folder_above(first, line.disk))}"
    return InputError(f"{what} {first!r}", hint=hint, code="not_found")


def _folder_above(path: str, disk: Disk) -> str:
    """The nearest folder above `path` that exists, so that there is something to look at."""
    folder = path.rstrip("/")
    while "/" in folder.strip("/"):
        folder = folder.rpartition("/")[0]
        if disk.exists(folder):
            return folder
    return "/" if path.startswith("/") else "."


def _asks(word: str) -> bool:
    return " " in word.strip() or word.rstrip().endswith("?")


def _quoted(words: Sequence[str], first: str, line: Line) -> str:
    """Everything from the first unknown word on was one question."""
    at = list(words).index(first)
    return line.fixed(*words[:at], " ".join(words[at:]))


def nearest(path: str, disk: Disk = DISK) -> str:
    """The existing path whose last part is most like this one's, or ""."""
    folder, slash, name = path.rstrip("/").rpartition("/")
    by_lower = {entry.lower(): entry for entry in disk.entries(folder + slash)}
    near = difflib.get_close_matches(name.lower(), list(by_lower), 1, 0.7)
    return folder + slash + by_lower[near[0]] if near else ""
