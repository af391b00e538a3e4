"""The root's role: a fixed policy of four turns, written as code for the sandbox.

Probe, filter by the question's words, ask the sub-model about the best passages, aggregate. Which turn it is follows
from the number of replies so far; when the session was lost on the way, the policy starts over once.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from .. import Message
from . import steps
from .question import LINE_NOUNS, Question, read_question

NOTHING = "No passage matches the question's words. (offline model: keyword search only)"
INTRODUCTION = "I am the offline model: keyword search and extraction by fixed rules, not a language model."
TURNS = 4
ROUNDS = 2
MOST_HITS = 100_000
"""Of one term: a word on every line of a huge input must not fill the sandbox's memory."""

_QUESTION = (
    re.compile(
        r"^Question:[ \t]*\n(?P<fence>~{3,}|`{3,})[^\n]*\n(?P<text>.*?)\n(?P=fence)[ \t]*$", re.MULTILINE | re.DOTALL
    ),
    re.compile(r"<question>\s*(?P<text>.*?)\s*</question>", re.IGNORECASE | re.DOTALL),
    re.compile(r"^\W{0,4}Question\W{0,3}:?[ \t]*\n?(?P<text>\S.*)$", re.IGNORECASE | re.MULTILINE),
)
_CANDIDATE = re.compile(r"^candidate: (.+)$", re.MULTILINE)


def root_reply(messages: Sequence[Message]) -> str:
    """The next turn: a sentence and one code block."""
    turn = sum(message.role == "assistant" for message in messages)
    question = read_question(question_in(messages))
    if turn >= TURNS * ROUNDS:  # they failed twice: that nothing was found would be a lie
        return "My fixed steps failed, see their errors. I have no answer."
    if not question.terms:
        why = f"{INTRODUCTION} The question has no word to search for."
        return _turn(why, "FINAL(nothing)", nothing=NOTHING)
    write = (_probe, _filter, _gather, _answer)[turn % TURNS]
    return write(question)


def final_reply(messages: Sequence[Message]) -> str:
    """The last words when a limit ended the run: the best candidate that was printed, if any."""
    for message in reversed(messages):
        if message.role == "user" and (candidate := _CANDIDATE.search(message.content)):
            return candidate[1].strip()
    return NOTHING


def question_in(messages: Sequence[Message]) -> str:
    """The user's question, from the first user message; all of it when it is not marked."""
    opening = next((message.content for message in messages if message.role == "user"), "")
    found = next(filter(None, (pattern.search(opening) for pattern in _QUESTION)), None)
    return found["text"].strip() if found else opening.strip()


def _probe(_question: Question) -> str:
    return _turn(f"{INTRODUCTION} First I look at what `context` is.", steps.PROBE)


def _filter(question: Question) -> str:
    return _turn(
        "I rank the lines by the question's words; the rarer a word is here, the more it counts.",
        steps.FILTER,
        exact=[term for term in question.terms if term in question.exact],
        words=[term for term in question.terms if term not in question.exact],
        latest=question.pick == "last",
        most_hits=MOST_HITS,
        nothing=NOTHING,
    )


def _gather(question: Question) -> str:
    if question.kind != "count":
        most = 24 if question.plural or question.kind == "passage" else 8
        words = "I hand the best passages to the sub-model, each with the question."
        return _turn(words, steps.FAN_OUT, question=question.text, most_passages=most)
    if question.unit in LINE_NOUNS or question.unit.removesuffix("s") in LINE_NOUNS:
        return _turn("I count the lines that hold all of the words.", steps.COUNT_LINES)
    return _turn("I count the documents that hold all of the words.", steps.COUNT_DOCUMENTS)


def _answer(question: Question) -> str:
    if question.kind == "count":
        return _turn("The count is the answer.", steps.COUNTED)
    if question.kind == "passage":
        words, code = "I answer with the best passages.", steps.PASSAGES
    elif question.plural:
        words = "I answer with all that was found."
        code = steps.DOCUMENTS if question.kind == "document" else steps.VALUES
    else:
        words = "I take what was found in the best passage."
        code = steps.ONE_DOCUMENT if question.kind == "document" else steps.ONE_VALUE
    return _turn(words, code, nothing=NOTHING)


def _turn(words: str, code: str, /, **values: object) -> str:
    """A reply: words, then one block that assigns `values` and runs `code`. A repr is one line: it closes no fence."""
    assigned = [f"{name} = {value!r}" for name, value in values.items()]
    block = "\n".join([*assigned, code.strip()])
    return f"{words}\n```repl\n{block}\n```\n"
