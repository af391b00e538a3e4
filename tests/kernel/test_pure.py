"""The kernel's pure parts: codec, capture, decoder, search, serialisation; and that Python 3.9 can read all of it."""

from __future__ import annotations

import ast
import gzip
import io
import json
import re
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlm_cli.sandbox.kernel import answer_pieces, answers, capture, decoding, display, search, wire
from rlm_cli.sandbox.kernel.encoded import Encoded
from rlm_cli.sandbox.kernel.text import Text

KERNEL = Path(wire.__file__).parent


@pytest.mark.parametrize("path", sorted(KERNEL.glob("*.py")), ids=lambda path: path.name)
def test_python_3_9_can_compile_the_kernel(path: Path) -> None:
    """No match statements and no newer grammar; annotations are never evaluated."""
    tree = ast.parse(path.read_text("utf-8"), feature_version=(3, 9))
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    zips = (call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "zip")
    assert not any(keyword.arg == "strict" for call in zips for keyword in call.keywords)
    assert "from __future__ import annotations" in path.read_text("utf-8")


@given(
    frames=st.lists(st.tuples(st.sampled_from([b"o", b"e", b"w"]), st.binary(max_size=50))),
    sizes=st.lists(st.integers(1, 30), min_size=1),
)
def test_frames_survive_any_split(frames: list[tuple[bytes, bytes]], sizes: list[int]) -> None:
    """However the bytes are cut on the way, the same frames come out."""
    stream = b"".join(wire.frame(*frame) for frame in frames)
    splitter, lender = wire.Splitter(b"oew"), wire.Splitter(b"oew")
    found, lent, at, turn = [], [], 0, 0
    while at < len(stream):
        size = sizes[turn % len(sizes)]
        found += list(splitter.feed(stream[at : at + size]))
        lent += [(kind, bytes(payload)) for kind, payload in lender.lend(stream[at : at + size])]
        at, turn = at + size, turn + 1
    assert (found, splitter.buffered) == (lent, lender.buffered) == (frames, 0)


@given(st.binary(max_size=300))
def test_garbage_is_frames_or_a_violation(data: bytes) -> None:
    """No bytes make the splitter fail in another way."""
    try:
        for kind, payload in wire.Splitter(wire.FROM_SUPERVISOR).feed(data):
            assert kind in wire.FROM_SUPERVISOR
            assert len(payload) <= wire.PAYLOAD_MAX
    except wire.Violation:
        pass


@given(st.lists(st.binary(max_size=40)))
def test_texts_round_trip(texts: list[bytes]) -> None:
    """Prompts come out of a frame as they went in, and a wrong count is noticed."""
    packed = wire.pack_texts(texts)
    assert list(wire.unpack_texts(packed, len(texts))) == texts
    with pytest.raises(wire.Violation):
        wire.unpack_texts(packed, len(texts) + 1)


@given(st.dictionaries(st.text(), st.integers() | st.text()), st.binary(max_size=100))
def test_messages_round_trip(fields: dict[str, Any], payload: bytes) -> None:
    """Header and payload are found again, whatever they hold."""
    header, rest = wire.split(wire.message(fields, payload))
    assert (json.loads(header), rest) == (fields, payload)


@given(writes=st.lists(st.binary(max_size=40)), keep=st.integers(4, 30), take=st.booleans())
def test_capture_counts_every_byte(writes: list[bytes], keep: int, take: bool) -> None:
    """Head and tail are the true ends of what was written, in at most `keep` bytes each, and the count is exact."""
    sink = capture.Capture(keep)
    head = b""
    for data in writes:
        sink.add(data)
        head += sink.take() if take else b""
    end = sink.finish()
    head += end.head
    everything = b"".join(writes)
    assert end.total == len(everything) == len(head) + end.dropped + len(end.tail)
    assert everything.startswith(head)
    assert everything.endswith(end.tail)
    assert max(len(head), len(end.tail)) <= keep
    assert not end.dropped or len(head) + len(end.tail) >= 2 * keep - 6


@given(text=st.text(alphabet="aé€😀\n", max_size=60), step=st.integers(1, 7))
def test_capture_never_cuts_a_character(text: str, step: int) -> None:
    """Every piece that goes out decodes by itself, also where the middle was dropped."""
    data = text.encode()
    sink = capture.Capture(16)
    pieces = []
    for at in range(0, len(data), step):
        sink.add(data[at : at + step])
        pieces.append(sink.take())
    end = sink.finish()
    for piece in (*pieces, end.head, end.tail):
        piece.decode("utf-8")


@pytest.mark.parametrize(
    ("data", "encoding", "expected"),
    [
        (b"a\r\nb\r", "auto", ("a\r\nb\r", False)),
        ("é€".encode(), "auto", ("é€", False)),
        (b"\xef\xbb\xbfhi", "auto", ("hi", False)),
        ("hé".encode("utf-16"), "auto", ("hé", False)),
        (b"\xfe\xff" + "hé".encode("utf-16-be"), "auto", ("hé", False)),
        ("hé".encode("utf-32"), "auto", ("hé", False)),
        (b"caf\xe9 \x80", "auto", ("caf\xe9 \x80", True)),
        (b"\xff\xfea", "auto", ("�", True)),
        (b"caf\xe9", "cp1252", ("café", False)),
        (b"a\xffb", "utf-8", ("a�b", True)),
        (b"", "auto", ("", False)),
    ],
)
def test_decode(data: bytes, encoding: str, expected: tuple[str, bool]) -> None:
    """Mark, strict UTF-8, Latin-1, in this order; a named codec replaces; line ends stay as they are."""
    assert decoding.decode(data, encoding) == expected


@given(st.binary())
def test_auto_never_fails_and_never_drops(data: bytes) -> None:
    """Any bytes become text; without a mark they can be turned back."""
    text, lossy = decoding.decode(data)
    if not any(data.startswith(mark) for mark, _ in decoding.BOMS):
        assert text.encode("latin-1" if lossy else "utf-8") == data


@given(text=st.text(alphabet="ab\r\n", max_size=80), pattern=st.sampled_from(["a", "b+", "^a", "b$", "a|b", "ab?"]))
def test_grep_finds_the_lines_a_loop_finds(text: str, pattern: str) -> None:
    """Line numbers, texts and offsets agree with going through the lines one by one."""
    lines = text.split("\n")
    expected = [(i + 1, line.rstrip("\r")) for i, line in enumerate(lines) if re.search(pattern, line, re.MULTILINE)]
    hits = search.grep(pattern, text)
    assert [(hit.line, hit.text) for hit in hits] == expected
    assert all(re.fullmatch(pattern, text[hit.start : hit.end], re.MULTILINE) for hit in hits)


def test_grep_context_limit_and_repr() -> None:
    """Lines around, the limit and what a model sees of it."""
    hits = search.grep("C", {"doc": "a\nb\nc\nd\ne", "more": "c"}, context_lines=1, ignore_case=True)
    assert repr(hits) == "<2 matching lines>\ndoc-2- b\ndoc:3: c\ndoc-4- d\nmore:1: c"
    cut = search.grep("c", "c\nc", limit=1)
    assert (len(cut), cut.truncated) == (1, True)


def sent(value: object) -> tuple[str, bytes]:
    """(kind, bytes) of the answer as the host puts it together."""
    parts = list(answers.as_sent(value))
    assert [last for _, _, last in parts] == [False] * (len(parts) - 1) + [True]
    return parts[-1][0], b"".join(part for _, part, _ in parts)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("é\n", ("text", "é\n")),
        (b"\0\xff", ("bytes", b"\0\xff")),
        (42, ("json", "42")),
        ({"é": [1, (2,)]}, ("json", '{\n  "é": [\n    1,\n    [\n      2\n    ]\n  ]\n}')),
        ({3, 1}, ("json", "[\n  1,\n  3\n]")),
        ((n for n in (1, 2)), ("json", "[\n  1,\n  2\n]")),
        ({"a": {1}}, ("json", '{\n  "a": [\n    1\n  ]\n}')),
        (float("nan"), ("text", "nan")),
        ({(1, 2): 3}, ("text", "{(1, 2): 3}")),
        (Ellipsis, ("text", "Ellipsis")),
    ],
)
def test_answers(value: object, expected: tuple[str, str | bytes]) -> None:
    """What kind of answer each kind of value becomes."""
    assert sent(value) == (expected[0], expected[1].encode() if isinstance(expected[1], str) else expected[1])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=30),
    lambda inner: (
        st.lists(inner, max_size=30) | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=30)
    ),
    max_leaves=60,
)


@settings(deadline=None)
@given(value=JSON, pretty=st.integers(0, 200), batch=st.integers(1, 200))
def test_large_json_is_the_same_value(value: Any, pretty: int, batch: int) -> None:
    """Indented as `json.dumps` does it while it is small; beyond that laid out in lines, with the same content."""
    indented = json.dumps(value, ensure_ascii=False, indent=2)
    text = "".join(answer_pieces.Json(pretty, batch).texts(value))
    assert json.loads(text) == json.loads(indented)
    assert len(indented) > pretty or text == indented


def test_large_json_has_one_item_a_line() -> None:
    """As it can be searched by line: also within a large list of an object, and of what is read only once."""
    rows = [{"id": number, "name": "é"} for number in range(20_000)]
    text = "".join(
        answer_pieces.Json().texts({"rows": (row for row in rows), "n": 1, "keys": dict.fromkeys("ab", 1).keys()})
    )
    assert json.loads(text) == {"rows": rows, "n": 1, "keys": ["a", "b"]}
    assert text.splitlines()[:3] == ["{", '"rows": [', '{"id": 0, "name": "é"},']
    assert text.splitlines()[-5:] == [
        '{"id": 19999, "name": "é"}',
        "],",
        '"n": 1,',
        '"keys": ["a", "b"]',
        "}",
    ]


@given(st.lists(st.text(max_size=20)) | st.lists(st.binary(max_size=20)))
def test_a_generator_of_pieces_is_their_sum(items: list[str] | list[bytes]) -> None:
    """As writelines has it; one that yields nothing is an empty list."""
    kind, data = sent(item for item in items)
    if not items:
        assert (kind, data) == ("json", b"[]")
    else:
        assert data == b"".join(item.encode() if isinstance(item, str) else item for item in items)
        assert kind == ("text" if isinstance(items[0], str) else "bytes") or not data


@given(st.lists(st.tuples(st.sampled_from(["text", "bytes"]), st.binary(max_size=50)), min_size=1))
def test_parts_are_the_pieces(found: list[tuple[str, bytes]]) -> None:
    """Nothing is lost between pieces and parts, and the last kind is the answer's."""
    parts = list(answers.parts(iter(found)))
    assert b"".join(part for _, part in parts) == b"".join(piece for _, piece in found)
    assert parts[-1][0] == found[-1][0]


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "text"),
        ("é\n".encode() * 700_000, "text"),
        (b"a" * wire.PART_MAX + b"\xe2\x82", "bytes"),
        (b"a" * 2 * wire.PART_MAX + b"\xff", "bytes"),
    ],
    ids=["empty", "text", "cut", "bytes"],
)
def test_a_file_is_its_content(tmp_path: Path, content: bytes, kind: str) -> None:
    """Named, open for reading or still being written; text when all of it is UTF-8."""
    path = tmp_path / "out"
    path.write_bytes(content)
    assert sent(path) == (kind, content)
    with path.open("rb") as file:
        file.read(2)
        assert sent(file) == (kind, content)
    with path.open("wb") as file:
        file.write(content)
        assert sent(file) == (kind, content)


def test_other_files_and_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In memory or compressed: what one would read. A path of nothing is its name, but not below /tmp."""
    monkeypatch.chdir("/")  # the tests may be started below /tmp
    packed = tmp_path / "a.gz"
    packed.write_bytes(gzip.compress(b"hello"))
    with gzip.open(packed, "rt") as text:
        assert sent(text) == ("text", b"hello")
    memory = io.StringIO()
    memory.write("hello")
    assert sent(memory) == ("text", b"hello")
    assert sent(PurePosixPath("logs/a.txt")) == ("text", b"logs/a.txt")
    with pytest.raises(FileNotFoundError):
        sent(Path("/tmp/rlm-there-is-no-such-file"))


def test_a_lazy_text_is_sent_in_pieces() -> None:
    """A Text, or what it was split to, as the str or list would be."""
    data = "line é\n".encode() * 100_000
    lazy = Text(Encoded(lambda start, size: data[start : start + size], len(data)), most=1000)
    assert sent(lazy) == ("text", data)
    assert json.loads(sent(lazy.splitlines())[1]) == data.decode().splitlines()


def test_answer_pieces_are_small_and_whole() -> None:
    """A long text leaves in pieces of at most 1 MiB that join to its UTF-8."""
    text = "aé😀" * 500_000
    parts = [part for _, part, _ in answers.as_sent(text)]
    assert b"".join(parts) == text.encode()
    assert max(map(len, parts)) <= wire.PART_MAX


def test_reprs_are_bounded() -> None:
    """Big values show their size and not themselves."""
    assert display.bounded_repr("x" * 10**6, 100).endswith("[1,000,000 characters in all]")
    assert len(display.bounded_repr(list(range(10**6)), 1000)) < 1200
    assert display.bounded_repr({"a": [1, 2], "b": (3,)}) == "{'a': [1, 2], 'b': (3,)}"
    assert display.bounded_repr((1,)) == "(1,)"
