"""CSV and JSON streams and token estimates: against the standard library over the real string."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm_cli.bench.rows import COUNT_TOKENS
from rlm_cli.sandbox.kernel import readers
from rlm_cli.sandbox.kernel.readers import CsvRows, JsonRows, sniff, unique
from rlm_cli.sandbox.kernel.tokens import estimate_tokens

from .test_text import text_of

FIELDS = st.text(alphabet='ab,;" \t\r\né😀\u2028\x1c', max_size=6)


def rows_of(text: Any, delimiter: str | None = None, fieldnames: Any = None, **options: Any) -> CsvRows:
    return CsvRows(text, delimiter, fieldnames, options)


def written(table: list[list[str]], delimiter: str, line_end: str) -> str:
    out = io.StringIO(newline="")
    csv.writer(out, delimiter=delimiter, lineterminator=line_end, quoting=csv.QUOTE_ALL).writerows(table)
    return out.getvalue()


def test_both_kinds(string: str = "a,b\n1,2\n") -> None:
    """A str, a Text and a mapping give the same rows."""
    expected = [{"a": "1", "b": "2"}]
    assert list(rows_of(string)) == list(rows_of(text_of(string.encode()))) == expected
    rows = rows_of({"x": string, "empty": "", "y": text_of(string.encode())})
    assert [(rows.document, rows.line, row) for row in rows] == [("x", 2, *expected), ("y", 2, *expected)]


@given(
    width=st.integers(1, 4), rows=st.data(), delimiter=st.sampled_from(",;\t|"), window=st.integers(1, 30),
    line_end=st.sampled_from(["\n", "\r\n", "\r"]), bom=st.sampled_from(["", "\ufeff"]),
)  # fmt: skip
def test_csv_survives(width: int, rows: st.DataObject, delimiter: str, window: int, line_end: str, bom: str) -> None:
    """What csv writes is read again, wherever the parts are cut: quotes, delimiters and line ends in fields."""
    header = [f"c{n}" for n in range(width)]
    table = rows.draw(st.lists(st.lists(FIELDS, min_size=width, max_size=width), max_size=6))
    string = bom + written([header, *table], delimiter, line_end)
    for text in (string, text_of(("\ufeff" + string).encode() if bom else string.encode(), window=window)):
        found = rows_of(text, delimiter)
        assert (list(found), found.bad) == ([dict(zip(header, row, strict=True)) for row in table], 0)
        assert found.fieldnames == header


@given(st.text(alphabet='ab,"\n\r ', max_size=60), st.integers(1, 20))
def test_rows_are_those_of_dict_reader(string: str, window: int) -> None:
    """Whatever the text: DictReader's rows, and the ones of a wrong width are counted."""
    header = ["x", "y"]
    expected = list(csv.DictReader(io.StringIO(string, newline=""), header))
    for text in (string, text_of(string.encode(), window=window)):
        rows = rows_of(text, ",", header)
        assert list(rows) == expected
        assert rows.bad == sum(None in row or row["y"] is None for row in expected)
        assert len(rows.bad_rows) == min(rows.bad, 20)


@pytest.mark.parametrize("huge", [False, True])
def test_a_quotation_mark_that_nothing_closes(huge: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """Only its line is bad, and it is given as it stands; all rows after it are read."""
    rest = "".join(f"{n},plain\n" for n in range(200_000))
    string = f'n,text\n0,"two\nlines"\n1,"never closed\n{rest}'
    rows = rows_of(text_of(string.encode(), most=10**7, window=1 << 16) if huge else string)
    found = list(rows)
    assert found[:3] == [
        {"n": "0", "text": "two\nlines"},
        {"n": "1", "text": '"never closed'},
        {"n": "0", "text": "plain"},
    ]
    assert (len(found), found[-1]["n"], rows.bad, rows.line) == (200_002, "199999", 1, 200_004)
    assert [(bad.line, bool(bad)) for bad in rows.bad_rows] == [(4, False)]
    assert "field larger" in repr(rows.bad_rows)
    assert "[csv_rows] 1 bad rows" in capsys.readouterr().err


def test_rows_of_a_wrong_width(capsys: pytest.CaptureFixture[str]) -> None:
    """They come as DictReader gives them, with their lines; and the end of the text says that there were some."""
    rows = rows_of("a;b\n1;2\n\n3\n4;5;6\n")
    assert list(rows) == [{"a": "1", "b": "2"}, {"a": "3", "b": None}, {"a": "4", "b": "5", None: ["6"]}]
    assert [(bad.line, bad.error) for bad in rows.bad_rows] == [
        (4, "1 fields instead of 2"),
        (5, "3 fields instead of 2"),
    ]
    assert (rows.delimiter, rows.fieldnames) == (";", ["a", "b"])
    assert "2 bad rows, see .bad_rows; the first are at line 4, 5" in capsys.readouterr().err


def test_the_header_is_there_before_the_first_row() -> None:
    """Asking for it loses no row; names that are missing or repeated are made up; options are csv's."""
    rows = rows_of("a|a||a_2\n1|2|3|4\n")
    assert rows.fieldnames == ["a", "a_2", "column_3", "a_2_4"]
    assert (list(rows), rows_of("").fieldnames) == ([{"a": "1", "a_2": "2", "column_3": "3", "a_2_4": "4"}], [])
    assert list(rows_of("'a,b',c\n", fieldnames=["x", "y"], quotechar="'")) == [{"x": "a,b", "y": "c"}]
    with pytest.raises(TypeError):
        rows_of("a", quotchar="'")


@given(st.lists(st.sampled_from(["a", "", "b", "a_2", "column_2"]), max_size=6))
def test_names_of_columns_are_unique(header: list[str]) -> None:
    """However often one is repeated."""
    assert len(set(unique(header))) == len(header)


@pytest.mark.parametrize(
    ("head", "delimiter"),
    [("a,b\n1,2\n", ","), ("a;b\n1,5;2,5\n3,5;4\n", ";"), ("a\tb c, d\n1\t2\n", "\t"), ("a|b\n1|2\n", "|"), ("", ","),
     ("a\n", ","), ('"a,b";c\n"1,2";3\n', ";"), ("id,note\n1,a; b; c\n2,d\n", ",")],
)  # fmt: skip
def test_the_delimiter_is_told(head: str, delimiter: str) -> None:
    """By the number of columns that stays the same."""
    assert sniff(head, {}) == delimiter


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(values=st.lists(VALUES, max_size=8), ascii_only=st.booleans(), window=st.integers(1, 30), bad=st.booleans())
def test_json_lines(values: list[Any], ascii_only: bool, window: int, bad: bool) -> None:
    """Every value comes with its line and place, and a line that is no JSON ends nothing."""
    lines = ['{"a": 1}'] + [json.dumps(value, ensure_ascii=ascii_only) for value in values]
    string = "".join(f"{line}\r\n\n" for line in lines) + "{bad" * bad
    for text in (string, text_of(string.encode(), window=window)):
        rows = JsonRows(text)
        found = [(value, rows.line, string[rows.start :].split("\r")[0]) for value in rows]
        assert found == [(json.loads(line), 2 * n + 1, line) for n, line in enumerate(lines)]
        assert [(row.line, row.text) for row in rows.bad_rows] == [(2 * len(lines) + 1, "{bad")] * bad


@given(
    values=st.lists(VALUES, max_size=8), indent=st.sampled_from([None, 2]), window=st.integers(1, 30), bom=st.booleans()
)
def test_one_json_array(values: list[Any], indent: int | None, window: int, bom: bool) -> None:
    """Its items, with their places, wherever the parts are cut."""
    string = "\ufeff" * bom + "\n " + json.dumps(values, indent=indent) + "\n"
    for text in (string, text_of(("\ufeff" * bom + string).encode(), window=window)):
        rows = JsonRows(text)
        found = [(value, json.JSONDecoder().raw_decode(string, rows.start)[0]) for value in rows]
        assert found == [(value, value) for value in values]


@pytest.mark.parametrize("string", ['[{"a": 1}, {"b": ?}]', '[\n{"a": 1},\n', '[{"a": 1}, "never closed'])
def test_an_array_that_breaks_off(string: str) -> None:
    """What is before is given; then an error says where."""
    rows = JsonRows(string)
    assert next(rows) == {"a": 1}
    with pytest.raises(ValueError, match="the array is broken at character 1"):
        next(rows)


def test_arrays_on_lines_are_no_array() -> None:
    """Nor is a number or a mapping of documents."""
    rows = JsonRows({"arrays": "[1, 2]\n[3]\n", "array": "[1, 2]\n", "values": '5\nnull\n{"a": {}}'})
    assert [(rows.document, value) for value in rows] == [
        ("arrays", [1, 2]), ("arrays", [3]), ("array", 1), ("array", 2), ("values", 5), ("values", None),
        ("values", {"a": {}}),
    ]  # fmt: skip


def test_lines_longer_than_a_part() -> None:
    """A str is read in parts as well."""
    line = json.dumps("x" * (3 * readers.WINDOW))
    assert [len(value) for value in JsonRows(f"{line}\n{line}")] == [3 * readers.WINDOW] * 2
    assert [row["a"] for row in rows_of(f"a\n{line[:900_000]}\nb\n")] == [line[1:900_000] + "\nb\n"]


ENGLISH = (
    "The committee met on Thursday to consider the report, and agreed that the present arrangements were neither fair "
    "nor likely to last. Several members asked whether the costs had been properly estimated; the chairman replied "
    "that nobody could know before the autumn. "
)
KINDS = {
    "English": ENGLISH * 5,
    "German": "Das Komitee traf sich am Donnerstag, um den Bericht zu beraten, und stellte fest, dass die bisherige "
    "Regelung weder gerecht noch dauerhaft sei. Mehrere Mitglieder fragten nach den Kosten, die niemand kannte. ",
    "Russian": "Комитет собрался в четверг, чтобы обсудить доклад, и решил, что нынешний порядок несправедлив. ",
    "Chinese": "委员会星期四开会讨论了这份报告，认为目前的安排既不公平，也不太可能持久。几位成员询问费用是否计算正确。",
    "Japanese": "委員会は木曜日に会合を開き、報告書について検討しました。現在の取り決めは公平ではない。",
    "Korean": "위원회는 목요일에 모여 보고서를 검토했으며 현재의 제도가 공평하지 않다는 데 의견을 모았다.",
    "Greek": "Η επιτροπή συνεδρίασε την Πέμπτη για να εξετάσει την έκθεση και συμφώνησε ότι δεν είναι δίκαιο.",
    "code": 'def read(path: str) -> list[str]:\n    """Lines of a file."""\n    with open(path) as file:\n        '
    "return [line.rstrip() for line in file if not line.startswith('#')]\n\n" * 9,
    "log": "".join(
        f"2024-05-{n % 28 + 1:02} 12:{n % 60:02}:07,{n * 37 % 1000:03} INFO [worker-{n % 7}] com.shop.PaymentService "
        f"- order {n * 7919} paid in {n * 13 % 997} ms\n"
        for n in range(200)
    ),
    "CSV": "".join(f"{n},2024-05-{n % 28 + 1:02},Berlin,{n * 7919 % 10000 / 100},shipped\n" for n in range(300)),
    "JSON": json.dumps([{"id": n, "name": f"user{n}", "tags": ["a", "bc"], "ok": True} for n in range(150)], indent=2),
}


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """What the tokenizer counts that LiteLLM ships; litellm has one importer, so it is asked as `make bench` does."""
    path = tmp_path_factory.mktemp("tokens") / "texts.json"
    path.write_text(json.dumps(list(KINDS.values())), "utf-8")
    environment = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_MODE": "PRODUCTION"}
    ended = subprocess.run(
        [sys.executable, "-c", COUNT_TOKENS, str(path)], env=environment, capture_output=True, timeout=120, check=True
    )
    return dict(zip(KINDS, json.loads(ended.stdout), strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_are_estimated_within_a_quarter(kind: str, tokens: dict[str, int]) -> None:
    """Against cl100k, for the kinds of text that are promised; of a huge one and of many documents, by samples."""
    text = KINDS[kind]
    assert estimate_tokens(text) == pytest.approx(tokens[kind], rel=0.25)
    times = 1_000_000 // len(text.encode())
    for huge in (text * times, text_of(text.encode() * times), text_of((text * times).encode("utf-16"), "utf-16")):
        assert estimate_tokens(huge) == pytest.approx(estimate_tokens(text) * times, rel=0.1)
    assert estimate_tokens({str(n): text for n in range(200)}) == pytest.approx(estimate_tokens(text) * 200, rel=0.01)


def test_tokens_of_nothing() -> None:
    """Empty texts and mappings have none."""
    assert [estimate_tokens(it) for it in ("", {}, {"a": ""}, {str(n): "" for n in range(99)})] == [0, 0, 0, 0]
