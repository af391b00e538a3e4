"""The whole command against hostile text, on a real terminal with a real container; keys in a provider's errors."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.hostile import COLOUR, TEXTS, commands
from tests.loopback import code

from .conftest import LIMIT_S, RLM, Shell

pytestmark = pytest.mark.docker

ALL = "".join(TEXTS.values())
KEY = "private+value/of-no-known-shape=="


def on_a_terminal(shell: Shell, *args: str) -> tuple[int, str]:
    """`rlm ARGS...` with a terminal for stdout and stderr, and no stdin: exit code, and what the terminal was sent."""
    leader, inside = os.openpty()
    env = {name: value for name, value in shell.environment.items() if name not in ("CI", "NO_COLOR")}
    process = subprocess.Popen(
        [*RLM, *args, "--no-input"], cwd=shell.folder, env=env | {"TERM": "xterm-256color"}, stdin=subprocess.DEVNULL,
        stdout=inside, stderr=inside, start_new_session=True,
    )  # fmt: skip
    os.close(inside)
    seen = bytearray()
    try:
        while piece := os.read(leader, 1 << 16):
            seen += piece
    except OSError:  # everybody has closed it
        pass
    finally:
        os.close(leader)
        code_ = process.wait(LIMIT_S)
    return code_, seen.decode("utf-8")


def script(folder: Path) -> str:
    """A hostile model: its words, its code, what its code prints and raises, its sub-model's replies, its answer."""
    quoted = ascii(ALL)
    answer = (
        f"'# Heading ' + {quoted} + '\\n\\n[label](http://evil.example/?q=1) ![i](http://evil.example/i.png) "
        f"<b>html</b> &#27;[2J <http://evil.example/a>\\n\\n```\\n' + {quoted} + '\\n```\\n'"
    )
    roots = [
        f"Look: {ALL}\n\n```repl\nprint({quoted}, context)\nimport sys\nsys.stderr.write({quoted})\n```\n",
        f"{ALL}\n\n```repl\nprint(llm_query({quoted}))\nraise ValueError({quoted})\n```\n",
        f"Done.\n\n```repl\nFINAL({answer})\n```\n",
    ]
    lines = [{"role": "root", "reply": reply} for reply in roots] + [{"role": "sub", "reply": ALL, "repeat": True}]
    path = folder / "script.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    return f"scripted:{path}"


def test_e01_to_e09_e17_a_hostile_run_on_a_real_terminal(shell: Shell) -> None:
    """File name, content, words, code, output, error, reply and answer: live, then shown and replayed from its record.
    Nothing reaches the terminal but text, colour and our own redrawing; links are shown in full, and are no links.

    Positive control: the record holds the very characters; in a pipe, as with --raw, the answer is itself.
    """
    name = "a" + TEXTS["e01-osc52"] + TEXTS["e06-bidi-zero-width-tags"] + ".txt"
    (shell.folder / name).write_text(ALL)
    before = os.umask(0)
    try:
        exit_code, seen = on_a_terminal(shell, "ask", name, f"What? {ALL}", "-m", script(shell.folder))
    finally:
        os.umask(before)
    assert (exit_code, commands(seen)) == (0, [])
    for shown in ("\\x1b]52;c;", "\\x9b2J", "[bold red]y[/x] :smile:", "label (http://evil.example/?q=", "<b>html</b>"):
        assert shown in COLOUR.sub("", seen)
    record = (max((shell.folder / "rlm" / "runs").iterdir()) / "events.jsonl").read_text()
    assert record.count("\\u001b]52;c;") > 5
    for words in (("show", "-v"), ("show", "--answer"), ("replay", "--no-delay"), ("list",)):
        exit_code, seen = on_a_terminal(shell, "runs", *words)
        assert (words, exit_code, commands(seen)) == (words, 0, [])
    assert shell.run("runs", "show", "--answer").out.decode().count(ALL) == 2
    modes = {f"{path.stat().st_mode & 0o777:o}" for path in (shell.folder / "rlm").rglob("*")}
    assert modes == {"700", "600"}  # E16, under umask 0


def test_d04_a_key_in_a_providers_error_goes_nowhere(shell: Shell) -> None:
    """The provider quotes the key, alone, in a URL, in a header: it is not on the screen, in no file, and not in what
    the cell or the root is told. Positive control: the provider did get it, and did say it."""
    shell = Shell(shell.folder, shell.server, {"RLM_API_KEY": KEY})
    (shell.folder / "a.txt").write_text("hello\n")
    shell.server.policies["curious"] = lambda turn: (
        code("r = llm_query_batched(['x'])[0]\nprint('told:', r, r.error)") if turn.step == 0 else code("FINAL('done')")
    )
    done = shell.ask("a.txt", "Q", "--json", "-v", root="root/curious", sub="sub/e00/leak")
    assert (done.code, done.json["answer"]) == (0, "done")
    (asked,) = shell.server.requests_of("sub")
    assert KEY in asked.authorization
    told = shell.server.requests_of("root")[1].prompt
    assert "told: [sub-call failed: " in told
    assert "https://api.example/v1/chat?key=[key]" in told
    files = b"".join(path.read_bytes() for path in (shell.folder / "rlm").rglob("*") if path.is_file())
    for place in (done.out.decode(), done.err, told, files.decode()):
        assert KEY not in place
        assert quote(KEY, safe="") not in place
    assert "[key]" in files.decode()
    assert commands(done.err) == []
