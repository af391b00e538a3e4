"""A model whose replies come from a file: for tests, demos and bug reports. `-m scripted:path/to/file.jsonl`

One JSON object a line; blank lines and lines that start with `#` are skipped:

    {"role": "root", "reply": "I look first.\\n\\n```repl\\nprint(len(context))\\n```"}
    {"role": "root", "reply": ["```repl", "FINAL('42')", "```"]}
    {"role": "sub", "match": "March", "reply": "two charges", "usage": {"input": 120, "output": 3}}
    {"role": "sub", "reply": "seen: {prompt}", "repeat": true}
    {"role": "root", "error": "429"}

    role      "root" (default), "sub", or "final" (the last turn at a limit; without such a line it takes a root line)
    reply     the text, or a list of its lines; "{prompt}" stands for the newest user message
    match     the line only answers a request whose newest user message contains this
    repeat    true: the line is never used up
    usage     tokens to report: input, output, cached, reasoning (else counted at four characters a token, estimated)
    error     instead of a reply: 401 404 429 500 400 context timeout reset (the next request takes the next line)
    delay_s   seconds to wait first

A request takes the first line of its role that matches and is not used up. When there is none, the run ends with an
error that says what was asked: a script never makes anything up.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import AuthError, ProviderError, RlmError, TransientError, UsageError
from ..events import Role, Usage
from . import Completion, Finish, OnText, Request, Spent, note_spent

PIECE_CHARS = 24
ROLES = ("root", "sub", "final")
ERRORS: Mapping[str, RlmError] = {
    "401": AuthError("the script says: key rejected", code="key_rejected"),
    "404": ProviderError("the script says: unknown model", code="unknown_model"),
    "400": ProviderError("the script says: bad request", code="bad_request"),
    "context": ProviderError("the script says: the prompt is too long", code="context_overflow"),
    "429": TransientError("the script says: rate limited", code="rate_limited"),
    "500": TransientError("the script says: not available", code="provider_unavailable"),
    "timeout": TransientError("the script says: no answer in time", code="timeout"),
    "reset": TransientError("the script says: connection reset", code="connection_reset"),
}


@dataclass(frozen=True)
class Line:
    """One line of a script; see the module's docstring."""

    reply: str = ""
    role: Role = "root"
    match: str = ""
    repeat: bool = False
    usage: Usage | None = None
    error: str = ""
    delay_s: float = 0.0


class ScriptedModel:
    """`Model` that plays lines in order. Keeps the requests it got in `requests`."""

    def __init__(self, lines: Iterable[Line], *, name: str = "the script") -> None:
        self._lines = list(lines)
        self._name = name
        self.requests: list[Request] = []

    @classmethod
    def load(cls, path: Path) -> ScriptedModel:
        """The script in `path`. Raises `UsageError` naming file and line when it cannot be read."""
        try:
            text = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            hint = "-m scripted:FILE.jsonl, a file of JSON lines"
            raise UsageError(f"cannot read the script {str(path)!r}: {why}", hint=hint, code="script") from error
        lines = [
            parse_line(line, f"{path}:{number}")
            for number, line in enumerate(text.splitlines(), 1)
            if line.strip() and not line.lstrip().startswith("#")
        ]
        return cls(lines, name=str(path))

    async def complete(self, request: Request, on_text: OnText | None = None) -> Completion:
        """Play the next line, streamed in small pieces. Raises `ProviderError` when the script has none left."""
        self.requests.append(request)
        prompt = next((m.content for m in reversed(request.messages) if m.role == "user"), "")
        line = self._take(request.role, prompt)
        await asyncio.sleep(line.delay_s)
        if line.error:
            raise scripted_error(line.error)
        text, finish = await _stream(line.reply.replace("{prompt}", prompt), request, on_text)
        usage = line.usage or Usage(_tokens(request.chars), _tokens(len(text)), estimated=True)
        return Completion(text, usage, request.model, finish, cost_usd=0.0)

    def _take(self, role: Role, prompt: str) -> Line:
        for wanted in ("final", "root") if role == "final" else (role,):
            for index, line in enumerate(self._lines):
                if line.role == wanted and line.match in prompt:
                    if not line.repeat:
                        del self._lines[index]
                    return line
        raise ProviderError(
            f"{self._name} has no line left for this {role} request: {prompt[:200]!r}",
            hint='Add one; a last line {"role": "sub", "reply": "...", "repeat": true} answers everything.',
            code="script_exhausted",
        )


def scripted_error(name: str) -> RlmError:
    """A fresh error of that kind (exceptions carry state of their own), with one request on its account."""
    known = ERRORS[name]
    error = type(known)(known.message, code=known.code)
    note_spent(error, Spent(1))
    return error


def parse_line(text: str, where: str) -> Line:
    """One line of a script. Raises `UsageError` that names `where`."""
    try:
        data = json.loads(text)
    except ValueError as error:
        raise UsageError(f"{where}: not JSON: {error}", code="script") from error
    problem = _problem(data)
    if problem:
        raise UsageError(f"{where}: {problem}", hint='A line looks like {"role": "sub", "reply": "..."}', code="script")
    reply = data.get("reply", "")
    return Line(
        "\n".join(reply) if isinstance(reply, list) else reply,
        data.get("role", "root"),
        data.get("match", ""),
        data.get("repeat", False),
        Usage(**data["usage"]) if "usage" in data else None,
        str(data.get("error", "")),
        float(data.get("delay_s", 0.0)),
    )


def _problem(data: Any) -> str:
    """What is wrong with a line, "" when nothing is."""
    if not isinstance(data, dict):
        return "a line is a JSON object"
    if unknown := set(data) - {"role", "reply", "match", "repeat", "usage", "error", "delay_s"}:
        return f"unknown field {', '.join(sorted(unknown))}"
    if data.get("role", "root") not in ROLES:
        return f"role {data['role']!r} is not one of {', '.join(ROLES)}"
    reply = data.get("reply", "")
    if not isinstance(reply, str) and not (isinstance(reply, list) and all(isinstance(x, str) for x in reply)):
        return "reply is a text or a list of lines"
    if ("reply" in data) == ("error" in data):
        return "a line has either a reply or an error"
    if "error" in data and str(data["error"]) not in ERRORS:
        return f"error {data['error']!r} is not one of {', '.join(ERRORS)}"
    return _problem_of_details(data)


def _problem_of_details(data: Mapping[str, Any]) -> str:
    usage, delay = data.get("usage", {}), data.get("delay_s", 0)
    if not isinstance(usage, dict) or not set(usage) <= {"input", "output", "cached", "reasoning"}:
        return "usage has input, output, cached and reasoning"
    if not all(type(count) is int and count >= 0 for count in usage.values()):
        return "usage counts tokens: whole numbers"
    if not isinstance(data.get("match", ""), str) or not isinstance(data.get("repeat", False), bool):
        return "match is a text and repeat is true or false"
    if type(delay) not in (int, float) or not 0 <= delay < 3600:
        return "delay_s is seconds, below 3600"
    return ""


async def _stream(text: str, request: Request, on_text: OnText | None) -> tuple[str, Finish]:
    """`text` as far as `request.cut` lets it come, handed out piece by piece."""
    shown, cutter = 0, request.cut() if request.cut else None
    for end in range(PIECE_CHARS, len(text) + PIECE_CHARS, PIECE_CHARS):
        cut = cutter(text[:end]) if cutter else None
        stop = min(end, len(text)) if cut is None else cut
        if on_text and stop > shown:
            on_text(text[shown:stop])
        shown = stop
        if cut is not None:
            return text[:cut], "cut"
        await asyncio.sleep(0)
    return text, "stop"


def _tokens(chars: int) -> int:
    return -(-chars // 4)
