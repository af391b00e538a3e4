"""Answers of 100 MB, from a real container to stdout, a file, the record and a replay. Scripted model."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest

from .conftest import LIMIT_S, RLM, Shell

pytestmark = pytest.mark.docker

SPARE_KIB = 10 * 1024
"""What a large answer may add to the memory of the command, however slow its loop is: twice what was measured."""

LINE = "0123456789" * 10 + "é\n"
LINES = 1_000_000


@dataclass(frozen=True)
class Large:
    """A command whose answer was read from a pipe: exit code, size and hash of stdout, its last bytes, peak memory."""

    code: int
    size: int
    sha256: str
    end: bytes
    peak_kib: int
    err: str


def script(shell: Shell, *codes: str) -> None:
    (shell.folder / "a.txt").write_text("hello\n")
    replies = [json.dumps({"reply": f"```repl\n{code}\n```"}) + "\n" for code in codes]
    (shell.folder / "script.jsonl").write_text("".join(replies))


def start(shell: Shell, *words: str) -> subprocess.Popen[bytes]:
    return shell.start("ask", "a.txt", "Q", "-q", "-m", "scripted:script.jsonl", *words)


def ask(shell: Shell, code: str, *words: str) -> Large:
    """Run one cell and hash its answer."""
    script(shell, code)
    return read(shell, "ask", "a.txt", "Q", "-q", "-m", "scripted:script.jsonl", *words)


MEASURED = """
import os, sys
pid = os.posix_spawn(sys.executable, [sys.executable, *sys.argv[1:]], os.environ)
_, status, usage = os.wait4(pid, 0)
sys.stderr.write(f"{usage.ru_maxrss}")
sys.exit(os.waitstatus_to_exitcode(status))
"""
"""Runs a command and ends its stderr with its peak memory in KiB. A child of the tests themselves would be counted with
the memory that they had when it was forked."""


def read(shell: Shell, *words: str) -> Large:
    """Run `rlm WORDS`; its stdout is hashed and not kept."""
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", MEASURED, *RLM[1:], *words],
        cwd=shell.folder,
        env=shell.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    seen, size, end = hashlib.sha256(), 0, b""
    while data := os.read(process.stdout.fileno(), 1 << 20):
        seen.update(data)
        size += len(data)
        end = (end + data)[-20:]
    err, _, peak = process.stderr.read().decode().rpartition("\n")
    for pipe in (process.stdout, process.stderr):
        pipe.close()
    return Large(process.wait(LIMIT_S), size, seen.hexdigest(), end, int(peak), err)


def sha256(pieces: Iterable[bytes]) -> str:
    seen = hashlib.sha256()
    for piece in pieces:
        seen.update(piece)
    return seen.hexdigest()


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def lines() -> Iterable[bytes]:
    return (LINE.encode() * 10_000 for _ in range(LINES // 10_000))


TEXT = sha256(lines())
MAKE = f"LINE = {LINE!r}\n"
KINDS = {
    "str": "FINAL(LINE * 1_000_000)",
    "generator": "FINAL(LINE for _ in range(1_000_000))",
    "path": (
        "import pathlib\np = pathlib.Path('/tmp/out')\nwith p.open('w') as f:\n"
        "    for _ in range(1_000):\n        f.write(LINE * 1_000)\nFINAL(p)"
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_100_mb_of_text_arrive(shell: Shell, kind: str) -> None:
    """Byte for byte on stdout and in a file, with no more memory on the host than for an answer of two bytes."""
    tiny = ask(shell, "FINAL('42')")
    assert (tiny.code, tiny.end) == (0, b"42\n")
    piped = ask(shell, MAKE + KINDS[kind])
    assert (piped.code, piped.size, piped.sha256, piped.err) == (0, 103_000_000, TEXT, "")
    filed = ask(shell, MAKE + KINDS[kind], "-o", "out.txt")
    assert (filed.code, filed.size, sha256_of(shell.folder / "out.txt")) == (0, 0, TEXT)
    assert max(piped.peak_kib, filed.peak_kib) < tiny.peak_kib + SPARE_KIB
    assert not list(shell.folder.glob(".out*"))


def test_100_mb_of_bytes_arrive(shell: Shell) -> None:
    """Nothing is added to bytes."""
    piped = ask(shell, "FINAL(bytes(range(256)) * 400_000)")
    assert (piped.code, piped.size) == (0, 102_400_000)
    assert piped.sha256 == sha256(bytes(range(256)) * 4_000 for _ in range(100))


@pytest.mark.parametrize(
    ("code", "ends", "item"),
    [
        ("FINAL([f'item {n:090}' for n in range(1_000_000)])", "[]", '"item {n:090}"'),
        ("FINAL({str(n): f'{n:090}' for n in range(1_000_000)})", "{}", '"{n}": "{n:090}"'),
    ],
    ids=["list", "dict"],
)
def test_100_mb_of_json_arrive(shell: Shell, code: str, ends: str, item: str) -> None:
    """A list and a dict, one item a line; `runs show` and a replay stream the same."""
    tiny = ask(shell, "FINAL([1])")
    made = ask(shell, code, "-o", "out.json")
    assert (made.code, made.peak_kib < tiny.peak_kib + SPARE_KIB) == (0, True)
    items = (f"{',' if n else ends[0]}\n{item.format(n=n)}".encode() for n in range(1_000_000))
    content = sha256([*items, f"\n{ends[1]}".encode()])
    shown = sha256([(shell.folder / "out.json").read_bytes(), b"\n"])
    assert sha256_of(shell.folder / "out.json") == content
    for words in (("show", "last", "--answer"), ("replay", "last", "--no-delay")):
        again = read(shell, "runs", *words)
        assert (again.code, again.sha256) == (0, shown)
        assert again.peak_kib < tiny.peak_kib + SPARE_KIB


def test_more_than_the_container_has_memory(shell: Shell) -> None:
    """A generator's answer is never held, neither there nor here."""
    done = ask(shell, MAKE + "FINAL(LINE for _ in range(3_000_000))", "--memory", "64MiB")
    assert (done.code, done.size, done.sha256) == (0, 309_000_000, sha256(p for _ in range(3) for p in lines()))


@pytest.mark.parametrize("words", [(), ("--no-log",)], ids=["record", "no log"])
def test_json_refers_to_a_large_answer(shell: Shell, words: tuple[str, ...]) -> None:
    """--json and --events: the file, its size and its hash. Without a record it is a file of its own."""
    script(shell, MAKE + "FINAL(LINE * 20_000)")
    temporary = shell.folder / "tmp"
    temporary.mkdir()
    expected = LINE.encode() * 20_000
    for form in ("--json", "--events"):
        done = Shell(shell.folder, shell.server, {"TMPDIR": str(temporary)})
        result = done.finish(start(done, form, *words)).lines[-1]
        result = result["result"] if form == "--events" else result
        file = result["answer_file"]
        assert (result["status"], result["answer"], result["data"], file["kind"]) == ("ok", None, None, "text")
        path = Path(file["path"])
        assert (path.read_bytes(), path.stat().st_mode & 0o777) == (expected, 0o600)
        assert (file["bytes"], file["sha256"]) == (len(expected), hashlib.sha256(expected).hexdigest())
        assert path.parent == temporary if words else path.name == file["sha256"]
    assert len(list(temporary.iterdir())) == (2 if words else 0)


def test_an_export_holds_a_large_answer(shell: Shell) -> None:
    """The result and the report may go elsewhere: the answer is in them."""
    script(shell, MAKE + "FINAL(LINE * 20_000)")
    assert start(shell).communicate(timeout=LIMIT_S)[0].decode() == LINE * 20_000
    exported = shell.run("runs", "export", "last").json["result"]
    assert exported["answer"] == LINE * 20_000
    assert LINE * 20_000 in shell.run("runs", "export", "last", "--to", "md").out.decode()
    assert "--answer" in shell.run("runs", "show", "last").out.decode()


def test_a_schema_is_checked_in_a_large_answer(shell: Shell) -> None:
    """What does not satisfy it goes back to the model; what does is handed over."""
    script(shell, "FINAL(['x' * 100] * 20_000)", "FINAL([7] * 500_000)")
    done = start(shell, "--schema", '{"type": "array", "items": {"type": "integer"}}')
    out = done.communicate(timeout=LIMIT_S)[0]
    assert (done.returncode, json.loads(out)) == (0, [7] * 500_000)
    (newest,) = (shell.folder / "rlm" / "runs").iterdir()
    assert [path.stat().st_size for path in newest.rglob("*") if path.stat().st_size > 1 << 20] == [len(out) - 1]


@pytest.mark.parametrize(("words", "where"), [("", "show"), ("--no-log", "the answer is in ")])
def test_a_full_disk_says_where_the_large_answer_is(shell: Shell, words: str, where: str) -> None:
    """Exit 1, and what was paid for can be had."""
    script(shell, MAKE + "FINAL(LINE * 20_000)")
    done = subprocess.run(
        ["bash", "-c", f"{shlex.join(RLM)} ask a.txt Q -q -m scripted:script.jsonl {words} >/dev/full"],
        cwd=shell.folder,
        env={**shell.environment, "TMPDIR": str(shell.folder)},
        stderr=subprocess.PIPE,
        timeout=LIMIT_S,
        check=False,
    )
    hint = done.stderr.decode().splitlines()[-1].removeprefix("  fix: ")
    assert (done.returncode, b"No space left" in done.stderr, where in hint) == (1, True, True)
    kept = Path(hint.removeprefix(where)).read_bytes() if words else shell.run(*hint.split()[1:]).out
    assert kept.decode() == LINE * 20_000


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_a_large_answer_is_written(shell: Shell, number: signal.Signals, code: int) -> None:
    """The exit code of the signal, and the command that prints the answer."""
    script(shell, MAKE + "FINAL(LINE * 20_000)")
    process = start(shell)
    assert process.stdout is not None
    assert os.read(process.stdout.fileno(), 1) == LINE[0].encode()  # it is being written, and the pipe is full
    process.send_signal(number)
    assert process.stderr is not None
    err = process.stderr.read().decode()  # to its end, which comes although nobody reads stdout
    for pipe in (process.stdout, process.stderr):
        pipe.close()
    assert (process.wait(LIMIT_S), "while the answer was written" in err) == (code, True)
    hint = err.splitlines()[-1].removeprefix("  fix: rlm ")
    assert shell.run(*hint.split()).out.decode() == LINE * 20_000


def test_a_reader_of_a_large_answer_that_leaves_is_no_news(shell: Shell) -> None:
    """`| head -1`: what was read, and nothing on stderr."""
    script(shell, MAKE + "FINAL(LINE * 200_000)")
    process = start(shell)
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline().decode() == LINE
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert (process.wait(LIMIT_S), err) == (0, b"")
