"""The run log: what is written is what is read, nobody else can read it, and hostile folders do no harm."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlm_cli.errors import ConfigError, InputError
from rlm_cli.events import (
    ROOT,
    AnswerFile,
    Bus,
    CodeWritten,
    ErrorInfo,
    ModelPair,
    ModelText,
    Output,
    OutputText,
    Record,
    Result,
    RunFinished,
    RunStarted,
    SourcesFacts,
    Span,
    Warned,
)
from rlm_cli.runlog import (
    _INLINE_CHARS,
    RunLog,
    _ascii,
    _line,
    _shrink,
    find_run,
    list_runs,
    new_run_id,
    prune,
    read_answer,
    read_header,
    read_result,
    read_run,
    remove_run,
    run_ids,
)

STARTED = RunStarted(
    "20261120-153012-a1b2c3", "0.1.0", "why?", ModelPair("a/root", "a/sub"), SourcesFacts(), {}, ("logs/",)
)


@dataclass(frozen=True)
class Entry:
    name: str
    kept: str
    size: int


def result(run_id: str, **fields: Any) -> Result:
    return replace(Result(run_id, "ok", "42", "why?", 0, "0.1.0"), **fields)


def counter() -> Callable[[], float]:
    ticks = iter(range(1_700_000_000, 1_800_000_000))
    return lambda: float(next(ticks))


def write(directory: Path, *events: Any, finish: bool = True, **fields: Any) -> list[Record]:
    """Log a small run; the records that should be read back."""
    seen: list[Record] = []
    log = RunLog(directory)
    bus = Bus([log, seen.append], clock=counter())
    bus.emit(STARTED)
    for event in events:
        bus.emit(event, Span((1,)) if isinstance(event, Warned) else ROOT)
    if finish:
        bus.emit(RunFinished(result(directory.name, **fields)))
    log.close()
    return seen


def runs(root: Path, *days: int) -> list[str]:
    """Finished runs on days of November 2026, one megabyte-free folder each."""
    ids = [f"202611{day:02}-120000-{day:06x}" for day in days]
    for run_id in ids:
        write(root / run_id)
    return ids


def test_a_run_is_read_back_as_it_was(tmp_path: Path) -> None:
    """Every logged record comes back equal, long texts and hostile ones included."""
    hostile = ["\x1b]52;c;x\x07", "line\u2028sep\nnew", "\ud800 lone", "x" * 5000 + "\ud800", "é" * 3000]
    wrote = write(tmp_path / "r", *(CodeWritten(1, text, text) for text in hostile), Warned("w" * 2049))
    assert list(read_run(tmp_path / "r")) == wrote


def test_every_line_is_one_ascii_record(tmp_path: Path) -> None:
    """No byte of a text can end a line or reach a terminal that shows the file."""
    write(tmp_path / "r", Output(1, "stdout", "a\nb\u2028c\u0085d\x1b[2J\x9b é", 9))
    raw = (tmp_path / "r" / "events.jsonl").read_bytes()
    assert (raw.isascii(), raw.count(b"\n"), b"\x1b" in raw) == (True, 3, False)
    assert [json.loads(line)["seq"] for line in raw.splitlines()] == [0, 1, 2]


LENGTHS = st.sampled_from([0, 1, 400, _INLINE_CHARS - 1, _INLINE_CHARS, _INLINE_CHARS + 1])
texts = st.builds(lambda char, length: char * length, st.sampled_from(["x", "é", '"', "\ud800"]), LENGTHS)
values = st.recursive(
    texts | st.none() | st.integers() | st.sampled_from(["$blob", '"data":[', '"$blob":']),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.sampled_from([600, 800, 1000]).map(lambda length: [7] * length)
        | st.dictionaries(st.sampled_from(["$blob", "$literal", "data", "text"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(["reply", "data", "$blob", "usage"]), values, max_size=4))
@settings(max_examples=200, deadline=None)
def test_a_line_says_what_looking_at_every_value_says(body: dict[str, Any]) -> None:
    """Whatever a record holds, long texts outside and inside, and what looks like a reference: the same bytes, the same
    blobs. Nothing is shrunk by halves where the line is too short to need a look."""
    record = {"type": "any"} | body
    quick, slow = list[str](), list[str]()

    def stored(into: list[str]) -> Callable[[str], str]:
        return lambda text: into.append(text) or str(len(into))  # type: ignore[func-returns-value]

    assert _line(record, stored(quick)) == _ascii(_shrink(record, stored(slow)))
    assert quick == slow


def test_streaming_pieces_are_not_logged(tmp_path: Path) -> None:
    """`CodeWritten` and `Output` carry the same text once."""
    write(tmp_path / "r", ModelText(1, "he"), OutputText(1, "stdout", "o"))
    assert [r.event.type for r in read_run(tmp_path / "r")] == ["run.started", "run.finished"]


def test_a_long_text_is_stored_once(tmp_path: Path) -> None:
    """The log does not grow with repetition."""
    write(tmp_path / "r", *(CodeWritten(n, "p" * 3000, "p" * 3000) for n in range(20)))
    assert len(list((tmp_path / "r" / "blobs").iterdir())) == 1
    assert (tmp_path / "r" / "events.jsonl").stat().st_size < 20 * 1500


def test_only_the_owner_can_read(tmp_path: Path) -> None:
    """Folders are 0700 and files 0600 whatever the umask says."""
    old = os.umask(0)
    try:
        write(tmp_path / "new" / "r", CodeWritten(1, "x" * 3000, ""))
        log = RunLog(tmp_path / "new" / "s")
        log.write_manifest([Entry("a", "/in/a", 1)])
        log.close()
    finally:
        os.umask(old)
    modes = {stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "new").rglob("*") if p.is_file()}
    folders = {stat.S_IMODE(p.stat().st_mode) for p in [tmp_path / "new", *(tmp_path / "new").rglob("*")] if p.is_dir()}
    assert (modes, folders) == ({0o600}, {0o700})


def test_the_manifest_names_documents_and_copies_none(tmp_path: Path) -> None:
    """One line a document: name, path, size."""
    log = RunLog(tmp_path / "r")
    log.write_manifest([Entry("a\n.log", "/in/a", 7), Entry("b", "/in/b", 0)])
    log.close()
    lines = (tmp_path / "r" / "sources.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"name": "a\n.log", "path": "/in/a", "size": 7},
        {"name": "b", "path": "/in/b", "size": 0},
    ]


@pytest.mark.parametrize("target", ["r", "r/events.jsonl"])
def test_links_are_refused(tmp_path: Path, target: str) -> None:
    """A planted link makes the log fail with a hint; what it points to stays as it was."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "file").write_text("mine")
    link = tmp_path / target
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(victim if target == "r" else victim / "file")
    with pytest.raises(ConfigError) as caught:
        RunLog(tmp_path / "r")
    assert (caught.value.code, "--no-log" in caught.value.hint) == ("log_unwritable", True)
    assert ((victim / "file").read_text(), sorted(p.name for p in victim.iterdir())) == ("mine", ["file"])


def test_a_run_is_never_written_twice(tmp_path: Path) -> None:
    """An existing log is an error, not an append."""
    write(tmp_path / "r")
    with pytest.raises(ConfigError):
        RunLog(tmp_path / "r")


def test_a_torn_last_line_costs_only_itself(tmp_path: Path) -> None:
    """What a crash left is readable up to the crash."""
    wrote = write(tmp_path / "r", CodeWritten(1, "r", "c"))
    path = tmp_path / "r" / "events.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    assert list(read_run(tmp_path / "r")) == wrote[:-1]


@pytest.mark.parametrize(
    "line",
    [
        b"[" * 100_000,
        b'{"type":"warning","seq":1,"ts":1e999,"span":"","message":{"$blob":"../../etc/passwd"}}',
        b'{"type":"warning","seq":1,"ts":%s,"span":""}' % (b"9" * 400),
        b'{"type":"warning","seq":1,"ts":1,"span":"%s"}' % (b"9" * 5000),
        b"\xff\xfe\x00",
        b"null",
    ],
)
def test_hostile_lines_do_no_harm(tmp_path: Path, line: bytes) -> None:
    """Any line is a record or is left out: nothing is read outside the folder, nothing raises."""
    wrote = write(tmp_path / "r")
    with (tmp_path / "r" / "events.jsonl").open("ab") as file:
        file.write(line + b"\n")
    read = list(read_run(tmp_path / "r"))
    assert read[: len(wrote)] == wrote
    assert "root:" not in repr(read)


def test_a_changed_or_lost_blob_is_said(tmp_path: Path) -> None:
    """A blob that does not match its hash is not shown as if it were the text."""
    write(tmp_path / "r", CodeWritten(1, "x" * 3000, ""))
    (blob,) = (tmp_path / "r" / "blobs").iterdir()
    blob.write_text("other")
    event = list(read_run(tmp_path / "r"))[1].event
    assert isinstance(event, CodeWritten)
    assert event.reply == "x" * 160 + "… [the rest of 3000 characters is missing]"


keys = st.sampled_from(["$blob", "$literal", "a", "data"])
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.sampled_from(["x" * 3000, "$blob"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=json_values)
def test_any_data_comes_back(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    """Answer data that looks like our references, or is long, is neither confused with them nor lost."""
    directory = tmp_path_factory.mktemp("run") / "r"
    write(directory, data=data)
    whole = read_result(directory)
    assert whole is not None
    assert whole.data == data


def test_the_header_is_small_and_the_result_whole(tmp_path: Path) -> None:
    """A list reads no long text; `read_result` has all of it."""
    write(tmp_path / "r", answer="é" * 1_000_000, data=list(range(100_000)), error=ErrorInfo("limit_cost", "m", "h"))
    header, whole = read_header(tmp_path / "r"), read_result(tmp_path / "r")
    assert (tmp_path / "r" / "run.json").stat().st_size < 5000
    assert whole == result(
        "r", answer="é" * 1_000_000, data=list(range(100_000)), error=ErrorInfo("limit_cost", "m", "h")
    )
    assert header.result is not None
    assert (header.status, header.result.answer, header.result.data) == ("ok", "é" * 160 + "…", None)
    assert (header.question, header.models, header.names, header.version) == (
        "why?",
        ModelPair("a/root", "a/sub"),
        ("logs/",),
        "0.1.0",
    )


def test_a_large_answer_is_a_blob_of_its_own(tmp_path: Path) -> None:
    """Read piece by piece from wherever the folder is now; a wrong byte, a cut or a missing file is an error."""
    data = b"answer\n" * 400_000
    file = AnswerFile("/elsewhere", len(data), hashlib.sha256(data).hexdigest(), "text")
    write(tmp_path / "old", answer=None, answer_file=file)
    (tmp_path / "old" / "blobs" / file.sha256).write_bytes(data)
    (tmp_path / "old").rename(tmp_path / "r")
    found = read_result(tmp_path / "r")
    assert found is not None
    assert found.answer_file == replace(file, path=str(tmp_path / "r" / "blobs" / file.sha256))
    assert b"".join(read_answer(tmp_path / "r", found.answer_file)) == data
    for wrong in (b"x" + data[1:], data[:-1]):
        (tmp_path / "r" / "blobs" / file.sha256).write_bytes(wrong)
        with pytest.raises(InputError, match="changed or is damaged"):
            list(read_answer(tmp_path / "r", found.answer_file))
    (tmp_path / "r" / "blobs" / file.sha256).unlink()
    with pytest.raises(InputError, match="No such file"):
        list(read_answer(tmp_path / "r", found.answer_file))


@pytest.mark.parametrize(
    "header", [b'{"$blob": "x", "head": "y"}', b'{"$literal": [1]}', b"[]", b'{"result": 1e999}', b""]
)
def test_a_damaged_header_is_an_empty_one(tmp_path: Path, header: bytes) -> None:
    """A list of runs goes on over it, also where it looks like a long text that was stored elsewhere."""
    write(tmp_path / "r")
    (tmp_path / "r" / "run.json").write_bytes(header)
    found = read_header(tmp_path / "r")
    assert (found.status, found.question, found.result, read_result(tmp_path / "r")) == ("crashed", "", None, None)


@pytest.mark.parametrize("sha", ["../run.json", "/etc/passwd", ""])
def test_a_forged_answer_file_is_no_answer(tmp_path: Path, sha: str) -> None:
    """A name from a record is a hash or nothing."""
    write(tmp_path / "r", answer=None, answer_file=AnswerFile("/etc/passwd", 1, sha, "text"))
    found = read_result(tmp_path / "r")
    assert found is not None
    assert (found.answered, found.answer_file) == (False, None)


def test_running_and_crashed_are_told_apart(tmp_path: Path) -> None:
    """While the log is open the run is running; once its process let go without a result, it crashed."""
    log = RunLog(tmp_path / "r")
    Bus([log]).emit(STARTED)
    during = read_header(tmp_path / "r").status
    log.close()
    assert (during, read_header(tmp_path / "r").status) == ("running", "crashed")


def test_ids_sort_by_time() -> None:
    """An id is the UTC start and three random bytes."""
    assert new_run_id(lambda: 1795188612.9, lambda n: "ab" * n) == "20261120-153012-ababab"


def test_lists_are_newest_first_and_survive_junk(tmp_path: Path) -> None:
    """Links, files, strangers and broken headers neither show up as runs nor stop the list."""
    first, second = runs(tmp_path, 1, 2)
    (tmp_path / "20261103-120000-00000c").symlink_to(tmp_path / first)
    (tmp_path / "20261104-120000-00000d").write_text("a file")
    (tmp_path / "notes").mkdir()
    (tmp_path / "20261105-120000-00000e").mkdir()
    (tmp_path / "20261105-120000-00000e" / "run.json").write_text('{"result": [1], "started": "x", "names": 3}')
    os.mkfifo(tmp_path / "20261105-120000-00000e" / "events.jsonl")
    assert [(h.id, h.status) for h in list_runs(tmp_path)] == [
        ("20261105-120000-00000e", "crashed"),
        (second, "ok"),
        (first, "ok"),
    ]
    assert run_ids(tmp_path / "nowhere") == []


@pytest.mark.parametrize(
    ("ref", "found"), [("last", 2), ("20261101", 0), ("000002", 1), ("20261103-120000-000003", 2), ("20261102-12", 1)]
)
def test_a_run_is_found(tmp_path: Path, ref: str, found: int) -> None:
    """By `last`, by id, by a unique prefix or suffix."""
    ids = runs(tmp_path, 1, 2, 3)
    assert find_run(tmp_path, ref) == tmp_path / ids[found]


@pytest.mark.parametrize(
    ("ref", "code"),
    [("202611", "run_ambiguous"), ("20261109", "run_not_found"), ("../x", "run_not_found"), ("", "run_not_found")],
)
def test_an_unclear_run_is_not_guessed(tmp_path: Path, ref: str, code: str) -> None:
    """None or several: an error that shows candidates."""
    ids = runs(tmp_path, 1, 2)
    with pytest.raises(InputError) as caught:
        find_run(tmp_path, ref)
    assert (caught.value.code, ids[1] in caught.value.message) == (code, True)


DAY_10 = 1794268800.0 + 60 * 60 * 12  # 2026-11-10 12:00 UTC


@pytest.mark.parametrize(
    ("rules", "left"),
    [
        ({}, [1, 4, 7, 9]),
        ({"keep": 2}, [7, 9]),
        ({"keep": 0}, []),
        ({"older_than": 4 * 86400.0}, [7, 9]),
        ({"older_than": 0.0, "keep": 1}, [9]),
        ({"max_size": 0}, []),
        ({"max_size": 10**9}, [1, 4, 7, 9]),
        ({"max_size": 0, "keep": 3}, [4, 7, 9]),
    ],
)
def test_prune(tmp_path: Path, rules: dict[str, Any], left: list[int]) -> None:
    """Each rule removes what it says, the newest `keep` always stay, and a dry run removes nothing."""
    ids = dict(zip((1, 4, 7, 9), runs(tmp_path, 1, 4, 7, 9), strict=True))
    for day, run_id in ids.items():  # the header says when a run started; the folder's name is only a fallback
        header = json.loads((tmp_path / run_id / "run.json").read_text())
        (tmp_path / run_id / "run.json").write_text(json.dumps(header | {"started": DAY_10 - (10 - day) * 86400}))
    dry = prune(tmp_path, **rules, dry_run=True, clock=lambda: DAY_10)
    assert len(run_ids(tmp_path)) == 4
    real = prune(tmp_path, **rules, clock=lambda: DAY_10)
    assert (sorted(run_ids(tmp_path)), dry) == ([ids[day] for day in left], real)


def test_prune_by_size_drops_the_oldest(tmp_path: Path) -> None:
    """The newest runs that fit stay, and the freed bytes are the removed ones'."""
    ids = runs(tmp_path, 1, 2, 3)
    for run_id in ids:
        (tmp_path / run_id / "big").write_bytes(b"x" * 100_000)
    pruned = prune(tmp_path, max_size=250_000)
    assert (run_ids(tmp_path), [h.id for h in pruned.runs]) == ([ids[2], ids[1]], [ids[0]])
    assert 100_000 <= pruned.bytes < 110_000


def test_a_running_run_is_not_pruned(tmp_path: Path) -> None:
    """Whatever the rules say."""
    (old,) = runs(tmp_path, 1)
    log = RunLog(tmp_path / "20261102-120000-000002")
    pruned = prune(tmp_path, keep=0)
    log.close()
    assert ([h.id for h in pruned.runs], run_ids(tmp_path)) == ([old], ["20261102-120000-000002"])


@pytest.mark.parametrize("run_id", ["..", "../other", "", ".", "20261103-120000-00000c", "notes"])
def test_nothing_outside_is_removed(tmp_path: Path, run_id: str) -> None:
    """Only a real run folder directly below the root; a link is not followed, nor are links inside a run."""
    root = tmp_path / "runs"
    (inside,) = runs(root, 1)
    other = tmp_path / "other"
    other.mkdir()
    (other / "file").write_text("mine")
    (root / "notes").mkdir()
    (root / "20261103-120000-00000c").symlink_to(other)
    (root / inside / "link").symlink_to(other)
    with pytest.raises(InputError):
        remove_run(root, run_id)
    remove_run(root, inside)
    assert ((other / "file").read_text(), (root / "notes").is_dir(), run_ids(root)) == ("mine", True, [])


def test_a_full_disk_ends_the_log_and_not_the_run(tmp_path: Path) -> None:
    """The bus takes a failing log off and tells the other listeners."""
    log = RunLog(tmp_path / "r")
    seen: list[Record] = []
    bus = Bus([log, seen.append])
    bus.emit(STARTED)
    log.close()  # the next write fails as on a full disk
    bus.emit(CodeWritten(1, "r", "c"))
    assert sorted(r.event.type for r in seen) == ["code.written", "run.started", "warning"]
