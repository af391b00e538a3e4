"""The reading helpers as a cell calls them: over a str, a Text and documents, in a real kernel."""

from __future__ import annotations

import pytest

from .test_text import probe

LOG = "".join(f"2024-05-{n % 28 + 1:02} entry {n} caf\u00e9\n  at frame {n}\n" for n in range(400))
CELLS = [
    "pieces = chunks(size=1000, by=r'^2024'); len(pieces), all(p.startswith('2024') for p in pieces)",
    "p = pieces[3]; context[p.start:p.end] == p, line_of(p), line_of(p.start), p.document",
    "''.join(chunks(context, 700)) == ''.join(chunks(context, count=3)), sum(map(len, chunks())) == len(context)",
    "len(draw_sample(5)), all(s in context for s in draw_sample(context, 9, by='^2024')), len(chunks())",
    "abs(estimate_tokens() / (estimate_tokens(context[:4000]) * len(context) / 4000) - 1) < 0.1",
    "rows = csv_rows(delimiter=' '); next(rows)['entry'], rows.bad, rows.line, rows.fieldnames[1]",
    "type(context) is str; rows = json_rows(); list(rows), rows.bad, rows.bad_rows[0].line",
    "import re; line_of(re.search('entry 7 ', context)), FINAL(pieces[0])",
]


def test_the_same_cells_over_a_str_and_a_text() -> None:
    """The same results, whichever kind the input is."""
    data = {"doc": LOG.encode()}
    _, as_text = probe(data, CELLS[:3] + CELLS[4:], text_limit=5_000)
    _, as_str = probe(data, CELLS[:3] + CELLS[4:], text_limit=10**6)
    assert as_text == as_str
    assert as_str[1] == "(True, 153, 153, '')"
    assert (as_str[3], as_str[-1]) == ("True", "(15, None)")
    assert probe(data, CELLS[3:4], text_limit=5_000)[1] == ["(5, True, 4)"]


def test_documents() -> None:
    """Each piece, line and row says which document it is from."""
    documents = {"a.csv": b"x,y\n1,2\n", "b.csv": b"x,y\n3,4\n" * 2000, "none.csv": b""}
    cells = [
        "[(p.document, line_of(p)) for p in chunks(size=4000)]",
        "rows = csv_rows(); [(rows.document, row['y']) for row in rows][:2], {s.document for s in draw_sample(8)}",
        "estimate_tokens() > 6000, json_rows({'a': '1\\n2'}).__next__()",
        "line_of(5)",
    ]
    _, shown = probe(documents, cells, text_limit=5000)
    assert shown[0] == "[('a.csv', 1), ('b.csv', 1), ('b.csv', 1001), ('b.csv', 2001), ('b.csv', 3001)]"
    assert shown[1:3] == ["([('a.csv', '2'), ('b.csv', '4')], {'b.csv'})", "(True, 1)"]
    assert "TypeError: context is a mapping" in shown[3]


@pytest.mark.parametrize("name", ["chunks", "draw_sample", "csv_rows", "json_rows", "line_of", "estimate_tokens"])
def test_help_is_for_models(name: str) -> None:
    """help(name) shows the arguments, the shapes and an example, without `self`."""
    _, (shown,) = probe({"doc": b"x"}, [f"help({name})"], text_limit=100)
    assert shown.startswith(f"{name}({'place' if name == 'line_of' else 'text=None'}")
    assert "`text`" in shown
    assert "context" in shown
    assert "self," not in shown
