"""Evidence from a cell in a real container to the screen, the object, the record and a replay. Scripted model."""

from __future__ import annotations

import json

import pytest

from .conftest import Done, Shell

pytestmark = pytest.mark.docker

LOG = "ok\r\nthe pool  is exhausted\r\nok\r\nlate: \x1b[31mred\r\n"
CODE = (
    "FINAL('the pool', evidence=[grep('exhausted')[0], 'pool is exhausted', {'document': 'b.txt', 'quote': 'made up'},"
    " grep('late')[0]])"
)


def script(shell: Shell, code: str = CODE) -> None:
    (shell.folder / "logs").mkdir()
    (shell.folder / "logs" / "a.log").write_bytes(LOG.encode("utf-16"))
    (shell.folder / "b.txt").write_text("nothing here\n")
    (shell.folder / "script.jsonl").write_text(json.dumps({"reply": f"```repl\n{code}\n```"}) + "\n")


def ask(shell: Shell, *words: str) -> Done:
    return shell.run("ask", "logs", "b.txt", "Q", "-m", "scripted:script.jsonl", *words)


def prompt_chars(shell: Shell) -> int:
    """Of the newest run's system prompt."""
    return int(next(line["system"]["chars"] for line in shell.record() if line["type"] == "prompt.set"))


def test_every_quote_is_looked_up_and_told_below_the_answer(shell: Shell) -> None:
    """stdout is the answer alone; on stderr each quote has its place, or is flagged; escapes are shown, not sent."""
    script(shell)
    done = ask(shell)
    assert (done.code, done.out) == (0, b"the pool\n")
    evidence = done.err[done.err.index("Evidence:") :].splitlines()
    assert evidence == [
        "Evidence:",
        '  logs/a.log:2  "the pool  is exhausted"',
        '  logs/a.log:2  "pool is exhausted" (but for white space)',
        '  ✗ not found in the input: "made up" (said to be in b.txt)',
        '  logs/a.log:4  "late: \\x1b[31mred"',
    ]
    shown = shell.run("runs", "show")
    assert f'{shell.folder.resolve()}/logs/a.log:2  "the pool  is exhausted"' in shown.out.decode()
    assert '✗ not found in the input: "made up"' in shown.out.decode()
    assert shell.run("runs", "show", "--answer").out == b"the pool\n"
    replayed = shell.run("runs", "replay", "--no-delay")
    assert replayed.out == b"the pool\n"
    assert "not found in the input" in replayed.err
    assert "not found in the input" in shell.run("runs", "export", "last", "--to", "md").out.decode()


def test_in_json_and_in_the_record(shell: Shell) -> None:
    script(shell)
    done = ask(shell, "--json")
    path = str(shell.folder.resolve() / "logs" / "a.log")
    first, second, third, _ = done.json["citations"]
    start = LOG.index("the pool")
    assert (first["status"], first["document"], first["path"]) == ("verbatim", "logs/a.log", path)
    assert (first["line"], first["start"], first["end"]) == (2, start, start + len(first["quote"]))
    assert first["quote"].rstrip("\r") == "the pool  is exhausted"
    assert (second["status"], second["line"], second["start"]) == ("approximate", 2, start + 4)
    assert (third["status"], third["document"], third["path"], third["line"]) == ("not_found", "b.txt", None, None)
    assert "Evidence:" not in done.err
    assert shell.record()[-1]["result"]["citations"] == done.json["citations"]


def test_without_it_nothing_is_asked_or_told(shell: Shell) -> None:
    """--no-cite: not in the prompt, not looked up; -q: looked up and not told; a demanded form has none by itself."""
    script(shell)
    plain = ask(shell, "--no-cite", "--json")
    assert plain.json["citations"] == []
    shorter = prompt_chars(shell)
    quiet = ask(shell, "-q")
    assert (quiet.out, quiet.err) == (b"the pool\n", "")
    assert len(shell.record()[-1]["result"]["citations"]) == 4
    assert prompt_chars(shell) > shorter
    (shell.folder / "script.jsonl").write_text(
        json.dumps({"reply": "```repl\nFINAL(['the pool'], evidence=['exhausted'])\n```"}) + "\n"
    )
    assert ask(shell, "--schema", '{"type":"array"}', "--json").json["citations"] == []
    assert len(ask(shell, "--schema", '{"type":"array"}', "--cite", "--json").json["citations"]) == 1


def test_stdin_has_lines_and_no_path(shell: Shell) -> None:
    script(shell, "FINAL('x', evidence='second')")
    words = ("ask", "-", "Q", "-m", "scripted:script.jsonl")
    assert '  stdin, line 2  "second"' in shell.run(*words, stdin=b"first\nsecond\n").err
    (one,) = shell.run(*words, "--json", stdin=b"first\nsecond\n").json["citations"]
    assert (one["path"], one["line"], one["start"]) == (None, 2, 6)
