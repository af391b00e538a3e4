"""`rlm ask` from the shell to the answer: real command line, LiteLLM, Docker and kernel; a loopback provider."""

from __future__ import annotations

import gzip
import itertools
import json
import subprocess
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from tests.loopback import LABELS, default_label
from tests.sources.conftest import plant
from tests.sources.documents import docx, paragraph, pdf, row, xlsx

from .conftest import Shell

pytestmark = pytest.mark.docker

ITEMS = [f"item q{number}: what is thing number {number}?" for number in range(400)]
COUNTS = Counter(default_label(f"q{number}") for number in range(400))
ANSWER = ", ".join(f"{name}={COUNTS[name]}" for name in sorted(COUNTS))
SAMPLES = Path(__file__).parents[2] / "sample_data"
ESCAPE = "\x1b"


def corpus(folder: Path) -> Path:
    """The items in 20 files on two levels."""
    for number in range(20):
        place = folder / "corpus" / f"part{number % 4}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number:02}.txt").write_text("\n".join(ITEMS[number * 20 : number * 20 + 20]) + "\n")
    return folder / "corpus"


def ask_directory(shell: Shell) -> tuple[str, ...]:
    corpus(shell.folder)
    return ("corpus",)


def ask_file(shell: Shell) -> tuple[str, ...]:
    (shell.folder / "items.txt").write_text("\n".join(ITEMS) + "\n")
    return ("items.txt",)


@pytest.mark.parametrize("source", ["directory", "file", "pipe"])
def test_forty_batched_sub_calls_from_any_source(shell: Shell, source: str) -> None:
    """The answer is exact, stdout holds nothing else, and the provider, --json and the log agree on every call."""
    stdin = ("\n".join(ITEMS) + "\n").encode() if source == "pipe" else None
    sources = ask_directory(shell) if source == "directory" else ask_file(shell) if source == "file" else ()
    done = shell.ask(*sources, "How many of each label?", "--json", stdin=stdin)
    assert (done.code, done.json["answer"], done.json["status"]) == (0, ANSWER, "ok")
    calls, requests = done.json["calls"], shell.server.requests
    assert (calls["root"], calls["sub"], calls["retries"], calls["total"]) == (3, 40, 0, 43)
    finished = [event for event in shell.record() if event["type"] == "call.finished"]
    assert len(requests) == calls["total"] == sum(event["attempts"] for event in finished)
    usage = done.json["usage"]["total"]
    assert (usage["input"], usage["output"]) == (
        sum(r.prompt_tokens for r in requests),
        sum(r.output_tokens for r in requests),
    )
    assert done.json["cost"]["usd"] == pytest.approx(usage["input"] * 1e-6 + usage["output"] * 2e-6)
    assert shell.server.max_in_flight["sub"] <= 8


def test_stdout_is_the_answer_and_stderr_one_plain_line_per_step(shell: Shell) -> None:
    """In a pipe nothing is drawn and no library can print into the answer."""
    done = shell.ask(*ask_file(shell), "How many of each label?")
    assert done.out == f"{ANSWER}\n".encode()
    assert ESCAPE not in done.err
    assert sum(line.startswith("rlm: step ") for line in done.err.splitlines()) == 3


def test_compressed_files_and_archives_answer_like_the_plain_ones(shell: Shell) -> None:
    """The items as .gz and in a .zip: the same exact answer, and when the run is over nothing that was unpacked."""
    plain = sorted(corpus(shell.folder).rglob("*.txt"))
    packed = shell.folder / "packed"
    packed.mkdir()
    with zipfile.ZipFile(packed / "half.zip", "w", zipfile.ZIP_DEFLATED) as made:
        for path in plain[:10]:
            made.write(path, f"part/{path.name}")
    for path in plain[10:]:
        (packed / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    done = shell.ask("packed", "How many of each label?", "--json")
    assert done.code == 0, done.err
    names = {path.name for path in plain[10:]} | {f"half.zip/part/{path.name}" for path in plain[:10]}
    run = max((shell.folder / "rlm" / "runs").iterdir())
    manifest = [json.loads(line) for line in (run / "sources.jsonl").read_text().splitlines()]
    assert (done.code, done.json["answer"], done.json["sources"]["files"]) == (0, ANSWER, 20)
    assert {entry["name"] for entry in manifest} == names
    assert {Path(entry["path"]).parent for entry in manifest} == {packed}
    assert not [path for path in run.rglob("*") if path.name == "unpacked"]


def test_document_names_are_relative_to_the_source(shell: Shell) -> None:
    """One folder: paths inside it. Several sources: the source's own name is in front."""
    corpus(shell.folder)
    shell.server.policies["names"] = lambda turn: "```repl\nFINAL(sorted(context)[:2] + [len(context)])\n```"
    one = shell.ask("corpus", "Q", root="root/names", sub="sub/e00")
    (shell.folder / "other.log").write_text("x\n")
    two = shell.ask("corpus", "other.log", "Q", root="root/names", sub="sub/e00")
    assert json.loads(one.out) == ["part0/00.txt", "part0/04.txt", 20]
    assert json.loads(two.out) == ["corpus/part0/00.txt", "corpus/part0/04.txt", 21]


@pytest.mark.parametrize(
    ("policy", "answer"),
    [
        ("two_blocks", "11"),
        ("final_mention", "done properly"),
        ("error_recovery", "1"),
        ("reactive", "saw 78"),
        ("big_print", "11"),
    ],
)
def test_roots_of_every_habit_reach_their_answer(shell: Shell, policy: str, answer: str) -> None:
    """Inventing output, mentioning FINAL, raising errors, reading output, printing too much: all handled."""
    (shell.folder / "a.txt").write_text("hello word\n")
    done = shell.ask("a.txt", "Q", root=f"root/{policy}", sub="sub/e00")
    assert (done.code, done.out.decode().strip()) == (0, answer)


@pytest.mark.parametrize("odd", ["think", "thought", "toolcall", "drop x1", "mid429x1", "nousage", "500x2"])
def test_odd_models_still_answer(shell: Shell, odd: str) -> None:
    """Thinking aloud, calling tools nobody offered, breaking off, saying 429 in the middle, counting nothing."""
    (shell.folder / "a.txt").write_text("one\ntwo\n")
    done = shell.ask("a.txt", "Q", "--json", root=f"root/lazy/{odd.replace(' ', '')}")
    assert (done.code, done.json["answer"], done.json["calls"]["total"]) == (0, "8", len(shell.server.requests))


@pytest.mark.parametrize(
    ("root", "code", "error"),
    [
        ("root/lazy/401", 4, "key_rejected"),
        ("root/lazy/404", 7, "unknown_model"),
        ("root/lazy/429", 7, "rate_limited"),
        ("root/lazy/500", 7, "provider_unavailable"),
        ("root/lazy/reset", 7, ""),
        ("root/empty", 3, "no_answer"),
        ("root/prose_only", 3, "no_answer"),
    ],
)
def test_failures_have_their_code_and_one_json_object(shell: Shell, root: str, code: int, error: str) -> None:
    """Every way a provider can fail ends in its documented exit code, with a parsable object on stdout."""
    (shell.folder / "a.txt").write_text("hello\n")
    done = shell.ask("a.txt", "Q", "--json", root=root)
    assert (done.code, done.json["exit_code"]) == (code, code)
    assert error in done.json["error"]["code"]
    assert done.json["calls"]["total"] == len(shell.server.requests)
    assert "Traceback" not in done.err
    assert "sk-test-key" not in done.err + done.out.decode()


def test_retries_are_visible_bounded_and_counted(shell: Shell) -> None:
    """Two 429s and a 500 on the way: same answer, every request in the ledger, the waits on stderr."""
    done = shell.ask(*ask_file(shell), "Q", "--json", "--concurrency", "4", sub="sub/e00/429x2/500x1")
    assert (done.code, done.json["answer"]) == (0, ANSWER)
    assert done.json["calls"]["retries"] >= 2
    assert done.json["calls"]["total"] == len(shell.server.requests)
    assert "retrying in" in done.err
    assert shell.server.max_in_flight["sub"] <= 4


def test_a_limit_is_a_partial_answer_with_exit_6(shell: Shell) -> None:
    """A root that never finishes gets one last turn; what it says is on stdout and is never exit 0."""
    (shell.folder / "a.txt").write_text("hello\n")
    shell.server.policies["late"] = lambda turn: (
        "About six." if "run ends here" in turn.last else "```repl\nprint(len(context))\n```"
    )
    done = shell.ask("a.txt", "Q", "--max-iterations", "2", root="root/late")
    assert (done.code, done.out) == (6, b"About six.\n")
    assert len(shell.server.requests) == 3


def test_the_cost_cap_holds(shell: Shell) -> None:
    """Reservation: with 40 calls in parallel the provider is never paid more than the cap."""
    done = shell.ask(*ask_file(shell), "Q", "--json", "--max-cost", "0.012")
    assert done.code == 6
    assert done.json["limit_hit"] == "cost"
    billed = sum(r.prompt_tokens * 1e-6 + r.output_tokens * 2e-6 for r in shell.server.requests)
    assert 0 < billed <= 0.012
    assert done.json["cost"]["usd"] == pytest.approx(billed)


def test_an_unknown_price_under_an_explicit_cap_is_refused_unpaid(shell: Shell) -> None:
    """Dollars that cannot be counted cannot be capped: exit 2 before the first request."""
    (shell.folder / "a.txt").write_text("hello\n")
    models = ("--mode", "rlm", "-m", "openai/root/lazy", "--api-base", shell.server.url)
    refused = shell.run("ask", "a.txt", "Q", *models, "--max-cost", "1")
    assert (refused.code, len(shell.server.requests)) == (2, 0)
    assert "--price" in refused.err
    default = shell.run("ask", "a.txt", "Q", *models, "--json")
    assert (default.code, default.json["cost"]["known"]) == (0, False)
    assert "2,000,000 tokens" in default.err


def test_a_missing_key_is_told_before_anything_happens(shell: Shell) -> None:
    """No key, no request, no container: exit 4 and what to set."""
    (shell.folder / "a.txt").write_text("hello\n")
    bare = Shell(shell.folder, shell.server, {"OPENAI_API_KEY": ""})
    done = bare.run("ask", "a.txt", "Q")
    assert (done.code, done.out) == (4, b"")
    assert "OPENAI_API_KEY" in done.err
    assert not (shell.folder / "rlm" / "runs").exists() or not any((shell.folder / "rlm" / "runs").iterdir())


def test_events_begin_and_end_as_promised(shell: Shell) -> None:
    """First run.started, last run.finished with the same object as --json; sequence numbers without a gap."""
    done = shell.ask(*ask_file(shell), "Q", "--events")
    events = done.lines
    assert (events[0]["type"], events[-1]["type"]) == ("run.started", "run.finished")
    assert [event["seq"] for event in events] == list(range(len(events)))
    assert (events[-1]["result"]["answer"], events[-1]["result"]["exit_code"]) == (ANSWER, 0)
    assert [event["type"] for event in events] == [event["type"] for event in shell.record()]


def test_sources_named_means_stdin_is_never_touched(shell: Shell) -> None:
    """A pipe that never closes cannot hang a run that does not read it."""
    (shell.folder / "a.txt").write_text("hello\n")
    process = shell.start("ask", "a.txt", "Q", *shell.model("root/lazy"), stdin=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.read() == b"6\n"
    done = shell.finish(process)
    assert done.code == 0


def test_a_slow_pipe_is_read_to_its_end(shell: Shell) -> None:
    """Data that comes late and in pieces is complete in `context`."""
    process = shell.start("ask", "-", "Q", *shell.model("root/lazy"), stdin=subprocess.PIPE)
    assert process.stdin is not None
    for _ in range(50):
        process.stdin.write(b"x" * 100_000)
        process.stdin.flush()
    done = shell.finish(process)
    assert (done.code, done.out) == (0, b"5000000\n")


def test_empty_stdin_is_an_input_error(shell: Shell) -> None:
    """`< /dev/null` ends at once with exit 8 and asks nobody."""
    done = shell.ask("Q?", "--json", root="root/lazy")
    assert (done.code, done.json["error"]["code"], len(shell.server.requests)) == (8, "stdin_empty", 0)


def test_output_file_is_written_whole_and_stdout_stays_empty(shell: Shell) -> None:
    """-o: the bytes of the answer, nothing on stdout, no scratch file left."""
    done = shell.ask(*ask_file(shell), "Q", "-o", "answer.txt")
    assert (done.code, done.out) == (0, b"")
    assert (shell.folder / "answer.txt").read_text() == ANSWER
    assert not list(shell.folder.glob(".answer*"))


def test_a_failed_run_leaves_no_output_file(shell: Shell) -> None:
    """An answer file appears only with an answer in it."""
    (shell.folder / "a.txt").write_text("hello\n")
    (shell.folder / "old.txt").write_text("old")
    done = shell.ask("a.txt", "Q", "-o", "old.txt", root="root/lazy/401")
    assert (done.code, (shell.folder / "old.txt").read_text()) == (4, "old")
    assert not list(shell.folder.glob(".old*"))


@pytest.mark.parametrize("form", ["text", "json", "events"])
def test_a_closed_reader_is_no_error_message(shell: Shell, form: str) -> None:
    """`rlm ask ... | head -0`: quiet, and no failure of the run."""
    (shell.folder / "a.txt").write_text("hello\n")
    process = shell.start("ask", "a.txt", "Q", "-q", "-f", form, *shell.model("root/lazy"))
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert (process.wait(60), process.stderr.read()) == (0, b"")
    process.stderr.close()


def test_schema_is_enforced_with_repairs(shell: Shell) -> None:
    """A value that does not fit goes back to the root; the repaired one is data in --json."""
    (shell.folder / "a.txt").write_text("hello\n")
    shell.server.policies["repair"] = lambda turn: (
        "```repl\nFINAL('six')\n```" if turn.step == 0 else "```repl\nFINAL({'n': len(context)})\n```"
    )
    schema = '{"type":"object","required":["n"],"properties":{"n":{"type":"integer"}}}'
    done = shell.ask("a.txt", "Q", "--json", "--schema", schema, root="root/repair")
    assert (done.code, done.json["data"], done.json["iterations"]) == (0, {"n": 6}, 2)


def test_schema_that_never_fits_is_exit_9(shell: Shell) -> None:
    """Bounded repairs; the value is kept."""
    (shell.folder / "a.txt").write_text("hello\n")
    shell.server.policies["wrong"] = lambda turn: "```repl\nFINAL('six')\n```"
    done = shell.ask("a.txt", "Q", "--json", "--schema", '{"type":"integer"}', root="root/wrong")
    assert (done.code, done.json["status"], done.json["answer"]) == (9, "error", "six")


def test_the_prefix_of_every_root_prompt_is_the_last_prompt(shell: Shell) -> None:
    """Byte for byte, as the provider received them."""
    shell.ask(*ask_file(shell), "Q")
    prompts = [list(request.messages) for request in shell.server.requests_of("root")]
    assert len(prompts) == 3
    for earlier, later in itertools.pairwise(prompts):
        assert later[: len(earlier)] == earlier


def test_replay_and_show_need_no_key_no_docker_no_network(shell: Shell) -> None:
    """A recorded run is redrawn from its folder alone."""
    asked = shell.ask(*ask_file(shell), "How many of each label?")
    dead = Shell(shell.folder, shell.server, {"OPENAI_API_KEY": "", "DOCKER_HOST": "unix:///nowhere.sock"})
    before = len(shell.server.requests)
    replayed = dead.run("runs", "replay", "--no-delay")
    shown = dead.run("runs", "show", "--answer")
    assert (replayed.code, shown.code) == (0, 0)
    assert ANSWER in shown.out.decode()
    steps = [line for line in asked.err.splitlines() if "step " in line]
    assert steps
    assert all(line in replayed.out.decode() + replayed.err for line in steps)
    assert len(shell.server.requests) == before


def test_no_engine_is_exit_5_before_anything_is_read_or_paid(shell: Shell) -> None:
    """Model code is never run elsewhere instead."""
    (shell.folder / "a.txt").write_text("hello\n")
    dead = Shell(shell.folder, shell.server, {"DOCKER_HOST": "unix:///nowhere.sock"})
    done = dead.ask("a.txt", "Q", "--json", root="root/lazy")
    assert (done.code, len(shell.server.requests)) == (5, 0)
    assert done.json["error"]["code"] == "docker_daemon_down"


def questions() -> list[dict[str, str]]:
    lines = (SAMPLES / "questions.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["kind"] == "lexical"]


@pytest.mark.parametrize("row", questions(), ids=lambda row: str(row["id"]))
def test_the_offline_model_answers_the_shipped_lexical_questions(shell: Shell, row: dict[str, str]) -> None:
    """No key, no network: the whole real path, and it says what it is."""
    bare = Shell(shell.folder, shell.server, {"OPENAI_API_KEY": ""})
    sources = [str(SAMPLES / name) for name in row["sources"]]
    done = bare.run("ask", *sources, "-Q", row["question"], "-m", "offline")
    assert done.code == 0
    assert row["answer"] in done.out.decode()
    assert "not a language model" in done.err


def test_a_document_larger_than_the_container_is_a_text(shell: Shell) -> None:
    """No refusal and no out-of-memory: 300 MB in a container of 128, counted, searched and sliced."""
    line = b"2026-01-01 all is well with host 17\n"
    with (shell.folder / "big.log").open("wb") as file:
        for _ in range(300):
            file.write(line * (1_000_000 // len(line)))
        file.write(b"the needle\n")
    code = [
        "```repl",
        "lines = context.splitlines()",
        "found = [number for number, line in enumerate(lines) if 'needle' in line]",
        "FINAL([len(context), context.count('\\n'), found, grep('needle')[0].line, context[-11:], lines[5]])",
        "```",
    ]
    (shell.folder / "script.jsonl").write_text(json.dumps({"role": "root", "reply": code}))
    done = shell.run("ask", "big.log", "-Q", "Q", "--memory", "128m", "-m", "scripted:script.jsonl")
    size, lines = (shell.folder / "big.log").stat().st_size, 300 * (1_000_000 // len(line)) + 1
    assert (done.code, done.json) == (0, [size, lines, [lines - 1], lines, "the needle\n", line.decode().rstrip("\n")])


def test_a_dry_run_needs_no_key_and_no_engine(shell: Shell) -> None:
    """What would be read is shown all the same, with what is missing; exit 0."""
    (shell.folder / "a.txt").write_text("hello\n")
    bare = Shell(shell.folder, shell.server, {"OPENAI_API_KEY": "", "DOCKER_HOST": "unix:///nowhere.sock"})
    done = bare.run("ask", "a.txt", "Q", "-n", "--json")
    assert (done.code, done.json["sources"]["files"], done.json["error"]["code"]) == (0, 1, "no_key")
    priced = shell.ask("a.txt", "Q", "-n", "--json", root="root/lazy")
    assert priced.json["cost_range_usd"]["low"] <= priced.json["cost_range_usd"]["high"] <= 1.0
    assert shell.server.requests == ()


def test_documents_of_all_kinds_answer_like_texts(shell: Shell) -> None:
    """Contracts as PDF, Word and a spreadsheet: the offline model finds the one line that answers, also a second time,
    from the cache."""
    filler = "Payment is due within thirty days."
    plant(
        shell.folder / "contracts",
        {
            "acme.pdf": pdf([filler, "The governing law of the Acme contract is Norway.", filler]),
            "bolt.docx": docx(paragraph(filler) + paragraph("The governing law of the Bolt contract is Kenya.")),
            "crane.xlsx": xlsx({"Terms": row(1, "term", "value") + row(2, "governing law of Crane", "Peru")}),
        },
    )
    for question, answer in (("Bolt", b"Kenya"), ("Acme", b"Norway"), ("Crane", b"Peru")):
        done = shell.run("ask", "contracts", f"What is the governing law of {question}?", "-m", "offline")
        assert done.code == 0 and answer in done.out, (done.out, done.err)


MAP = f"FINAL(map_query([f'thing {{n}}' for n in range(500)], 'Label it.', {{'enum': {list(LABELS)}}}))"


@pytest.mark.parametrize("sub", ["sub/e00/badjson20", "sub/e00/badjson20/fence", "sub/e00/refuse25/think", "sub/e00"])
def test_map_query_labels_every_item(shell: Shell, sub: str) -> None:
    """500 items, a fifth of the replies broken or refused: each has its own label, and every call is counted."""
    (shell.folder / "a.txt").write_text("x\n")
    shell.server.policies["map"] = lambda turn: f"```repl\n{MAP}\n```"
    done = shell.ask("a.txt", "Q", "--json", root="root/map", sub=sub)
    assert (done.code, done.json["status"]) == (0, "ok"), done.err
    assert json.loads(done.json["answer"]) == [default_label(str(n + 1)) for n in range(500)]
    asked = shell.server.requests_of("sub")
    assert done.json["calls"]["sub"] == len(asked)
    assert len(asked) in (range(10, 11) if sub == "sub/e00" else range(11, 150))


def test_map_query_when_the_budget_ends_on_the_way(shell: Shell) -> None:
    """What is done keeps its value, the rest says which limit; the last turn still answers."""
    (shell.folder / "a.txt").write_text("x\n")
    counted = "v = map_query([f'thing {n}' for n in range(5000)], 'Label it.', str); bad = [x for x in v if not x]"
    say = "FINAL([len(v), len(bad), sorted({x.error for x in bad}), budget()['limit']])"
    shell.server.policies["map"] = lambda turn: f"```repl\n{counted}\n{say}\n```"
    done = shell.ask("a.txt", "Q", "--json", "--max-subcalls", "70", root="root/map")
    total, bad, errors, limit = json.loads(done.json["answer"])
    assert (done.code, total, bad, limit) == (6, 5000, 1500, "subcalls")
    assert all("70" in error for error in errors), errors


def test_a_schema_for_a_sub_call(shell: Shell) -> None:
    """A parsed value, or after two repairs an error with the last reply; the repairs are calls like others."""
    (shell.folder / "a.txt").write_text("x\n")
    cell = """
good = llm_query("item 7: x", schema=dict[str, str])
try:
    llm_query("item 8: x", schema=list[int])
except SubcallError as error:
    FINAL([good, str(error), error.reply])
"""
    shell.server.policies["typed"] = lambda turn: f"```repl\n{cell}\n```"
    done = shell.ask("a.txt", "Q", "--json", root="root/typed", sub="sub/e00/fence")
    good, error, reply = json.loads(done.json["answer"])
    assert good == {"7": default_label("7")}
    assert "the value must be array" in error
    assert default_label("8") in reply
    assert done.json["calls"]["sub"] == len(shell.server.requests_of("sub")) == 4
