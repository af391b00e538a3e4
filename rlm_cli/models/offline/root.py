"""The root's role: a fixed policy of four turns, written as code for the sandbox.

Probe, filter by the question's words, ask the sub-model about the best passages, aggregate. Which turn it is follows
from the number of replies so far; when the session was lost on the way, the policy starts over once.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from .. import Message
from .question import LINE_NOUNS, Question, read_question

NOTHING = "No passage matches the question's words. (offline model: keyword search only)"
INTRODUCTION = "I am the offline model: keyword search and extraction by fixed rules, not a language model."
TURNS = 4
ROUNDS = 2

_QUESTION = (
    re.compile(
        r"^Question:[ \t]*\n(?P<fence>~{3,}|`{3,})[^\n]*\n(?P<text>.*?)\n(?P=fence)[ \t]*$", re.MULTILINE | re.DOTALL
    ),
    re.compile(r"<question>\s*(?P<text>.*?)\s*</question>", re.IGNORECASE | re.DOTALL),
    re.compile(r"^\W{0,4}Question\W{0,3}:?[ \t]*\n?(?P<text>\S.*)$", re.IGNORECASE | re.MULTILINE),
)
_CANDIDATE = re.compile(r"^candidate: (.+)$", re.MULTILINE)

PROBE = """
many = hasattr(context, "keys")
names = list(context) if many else [""]
text_of = context.__getitem__ if many else lambda name: context
print(type(context).__name__, len(context), "documents" if many else "characters")
for name in names[:2]:
    print(name, repr(text_of(name)[:160]))
"""

FILTER = """
import heapq, math, re
from collections import Counter
exact, words = {exact}, {words}
patterns = {{t: re.compile(r"(?<!\\w)" + re.escape(t) + (r"(?!\\w)" if t in exact else "")) for t in exact + words}}
def found(text):
    low = text.lower()
    return [t for t in patterns if t in low and patterns[t].search(low)]
def lines(text):
    at = 0
    while at < len(text):
        end = text.find("\\n", at + 1_000_000) + 1 or len(text)
        for line in text[at:end].splitlines(True):
            for cut in range(0, len(line), 2000):
                yield at + cut, line[cut:cut + 2000]
            at += len(line)
seen, total = Counter(), 0
for name in names:
    seen.update(found(name))
    for _, line in lines(text_of(name)):
        total += 1
        seen.update(found(line))
weight = {{t: math.log(1 + total / seen[t]) * (2 if t in exact else 1) for t in seen}}
def hits():
    for name in names:
        text = text_of(name)
        whole = sum(weight[t] for t in found(name + "\\n" + text)) / 2 if many else 0
        for at, line in lines(text) if whole or not many else ():
            held = found(line)
            if held and (many or not exact or any(t in exact for t in held)):
                yield whole + sum(weight[t] for t in held), name, at, line
ranked = ((score, {sign}n, name, at, line) for n, (score, name, at, line) in enumerate(hits()))
best = heapq.nlargest(24, ranked) if not exact or any(seen[t] for t in exact) else []
print(total, "lines; with each term:", dict(seen))
for score, _, name, _, line in best[:5]:
    print(f"{{score:.1f}}", name, line.strip()[:120])
if not best:
    FINAL({nothing})
"""

FAN_OUT = """
question = {question}
def window(name, at, line):
    text = text_of(name)
    if len(text) <= 3000:
        return 0, len(text)
    stop = text.find("\\n", at + len(line) + 300)
    start = text.rfind("\\n", 0, max(at - 300, 0)) + 1
    return max(start, at - 1000, 0), min(len(text) if stop < 0 else stop, at + len(line) + 1000)
passages = []
for score, _, name, at, line in best:
    if score >= 0.8 * best[0][0] and not any(n == name and a <= at < b for n, a, b in passages):
        passages.append((name, *window(name, at, line)))
passages = passages[:{most}]
prompts = []
for name, start, stop in passages:
    text = text_of(name)
    head = text[:text.find("\\n") + 1][:300] if start else ""
    prompts.append(f"Question: {{question}}\\n\\nPassage ({{name or 'the input'}}):\\n{{head}}{{text[start:stop]}}")
replies = llm_query_batched(prompts)
answers = [(name, str(reply).strip()) for (name, _, _), reply in zip(passages, replies) if reply]
answers = [(name, reply) for name, reply in answers if reply != "NOT FOUND"]
if not any(replies):  # no sub-call went through: the lines themselves
    answers = [(name, line.strip()[:400]) for _, _, name, _, line in best]
print(len(prompts), "passages,", len(answers), "replies")
for name, reply in answers[:5]:
    print("candidate:", reply[:200].replace("\\n", " "))
"""

COUNT_LINES = """
terms = [t for t in patterns if seen[t]]
matching = [line for name in names for _, line in lines(text_of(name)) if len(found(line)) == len(terms)]
count = len(matching) or min(seen[t] for t in terms)
print("candidate:", count)
for line in matching[:3]:
    print(line.strip()[:120])
"""

COUNT_DOCUMENTS = """
terms = [t for t in patterns if seen[t]]
matching = [name for name in names if len(found(name + "\\n" + text_of(name))) == len(terms)]
count = len(matching) if many else seen[min(terms, key=seen.get)]
print("candidate:", count, matching[:10])
"""

PICK_VALUE = (
    "values = list(dict.fromkeys(reply for _, reply in answers))\nshort = [v for v in values if len(v) <= 80] or values"
)
ANSWERS = {
    "one value": f"{PICK_VALUE}\nFINAL(short[0] if short else {NOTHING!r})",
    "values": f'{PICK_VALUE}\nFINAL(", ".join(short) or {NOTHING!r})',
    "one document": f"FINAL((answers[0][0] or answers[0][1]) if answers else {NOTHING!r})",
    "documents": f'FINAL(", ".join(dict.fromkeys(name or reply for name, reply in answers)) or {NOTHING!r})',
    "passages": f'FINAL("\\n".join(list(dict.fromkeys(reply for _, reply in answers))[:3]) or {NOTHING!r})',
    "count": "FINAL(str(count))",
}


def root_reply(messages: Sequence[Message]) -> str:
    """The next turn: a sentence and one code block."""
    turn = sum(message.role == "assistant" for message in messages)
    question = read_question(question_in(messages))
    if turn >= TURNS * ROUNDS or not question.terms:
        why = "My fixed steps are used up." if turn else f"{INTRODUCTION} The question has no word to search for."
        return _turn(why, f"FINAL({NOTHING!r})")
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
    return _turn(f"{INTRODUCTION} First I look at what `context` is.", PROBE)


def _filter(question: Question) -> str:
    exact = [term for term in question.terms if term in question.exact]
    words = [term for term in question.terms if term not in question.exact]
    code = FILTER.format(
        exact=literal(exact),
        words=literal(words),
        sign="" if question.pick == "last" else "-",
        nothing=literal(NOTHING),
    )
    return _turn("I rank the lines by the question's words; the rarer a word is here, the more it counts.", code)


def _gather(question: Question) -> str:
    if question.kind != "count":
        most = 24 if question.plural or question.kind == "passage" else 8
        code = FAN_OUT.format(question=literal(question.text), most=most)
        return _turn("I hand the best passages to the sub-model, each with the question.", code)
    counts_lines = question.unit in LINE_NOUNS or question.unit.removesuffix("s") in LINE_NOUNS
    thing = "lines" if counts_lines else "documents"
    return _turn(f"I count the {thing} that hold all of the words.", COUNT_LINES if counts_lines else COUNT_DOCUMENTS)


def _answer(question: Question) -> str:
    if question.kind == "count":
        return _turn("The count is the answer.", ANSWERS["count"])
    if question.kind == "passage":
        return _turn("I answer with the best passages.", ANSWERS["passages"])
    one, several = ("one document", "documents") if question.kind == "document" else ("one value", "values")
    if question.plural:
        return _turn("I answer with all that was found.", ANSWERS[several])
    return _turn("I take what was found in the best passage.", ANSWERS[one])


def _turn(words: str, code: str) -> str:
    return f"{words}\n```repl\n{code.strip()}\n```\n"


def literal(value: object) -> str:
    """`value` as Python source in which no backtick can close the code block."""
    return repr(value).replace("`", "\\x60")
