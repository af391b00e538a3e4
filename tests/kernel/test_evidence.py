"""`cite` and `FINAL(evidence=...)` as a cell calls them, in a real kernel: what arrives at the host."""

from __future__ import annotations

import pytest

from rlm_cli.sandbox import Quote, StepResult
from rlm_cli.sandbox.kernel import wire

from .local import kernel, run

ONE = {"doc": b"alpha beta\ngamma delta\nalpha again\n"}
TWO = {"a.txt": b"alpha beta\ngamma delta\n", "b.txt": b"epsilon\nalpha again\n"}


def results(documents: dict[str, bytes], *codes: str, text_limit: int = 1 << 26) -> list[StepResult]:
    async def main() -> list[StepResult]:
        async with kernel(documents, text_limit=text_limit) as started:
            return [await started.run(code) for code in codes]

    return run(main)


def evidence(documents: dict[str, bytes], *codes: str, text_limit: int = 1 << 26) -> list[Quote]:
    """Of the last cell's answer."""
    *_, last = results(documents, *codes, text_limit=text_limit)
    assert (last.status, last.error) == ("ok", "")
    assert last.answer is not None
    assert last.answer.whole() == b"yes"
    return list(last.answer.evidence)


@pytest.mark.parametrize("text_limit", [20, 1 << 26], ids=["Text", "str"])
@pytest.mark.parametrize(
    ("given", "quote"),
    [
        ("'gamma delta'", Quote("gamma delta")),
        ("['gamma', 'delta']", [Quote("gamma"), Quote("delta")]),
        ("grep('delta')", Quote("gamma delta", "", 17)),
        ("grep('delta')[0]", Quote("gamma delta", "", 17)),
        ("chunks(size=12)[1]", Quote("gamma delta\n", "", 11)),
        ("('', 11, 16)", Quote("gamma", "", 11)),
        ("('doc', 11, 16)", Quote("gamma", "", 11)),
        ("['alpha', cite('doc', 11, 16)]", [Quote("gamma", "", 11), Quote("alpha")]),
        ("[(None, 11, 16), (context, 0, 5)]", [Quote("gamma", "", 11), Quote("alpha", "", 0)]),
        ("{'document': 'doc', 'quote': 'beta'}", Quote("beta", "doc")),
        ("[('doc', 'beta')]", Quote("beta", "doc")),
        ("__import__('re').search('g.mma', context)", Quote("gamma", "", 11)),
        ("(line for line in ['alpha', 'beta'])", [Quote("alpha"), Quote("beta")]),
        ("[{'quote': 'beta', 'start': 10**30}]", Quote("beta")),
        ("[]", []),
        ("None", []),
    ],
)
def test_what_final_takes_over_one_document(given: str, quote: Quote | list[Quote], text_limit: int) -> None:
    """A plain quote, whatever has a place, and a part of the input; in either kind of text."""
    expected = quote if isinstance(quote, list) else [quote]
    assert evidence(ONE, f"FINAL('yes', evidence={given})", text_limit=text_limit) == expected


def test_over_documents_each_says_where_it_is_from() -> None:
    given = "[*grep('alpha'), ('b.txt', 0, 7), chunks(size=12)[1]]"
    assert evidence(TWO, f"FINAL('yes', {given})") == [
        Quote("alpha beta", "a.txt", 0),
        Quote("alpha again", "b.txt", 8),
        Quote("epsilon", "b.txt", 0),
        Quote("gamma delta\n", "a.txt", 11),
    ]


def test_cite_is_for_the_answer_that_comes_later() -> None:
    """Noted in any cell, before what FINAL itself is given, each once, for each spelling of FINAL."""
    notes = (
        "cite('alpha'); cite('b.txt', 0, 7); cite(grep('epsilon')); cite(['alpha', 'gamma']);"
        "cite(context['a.txt'], 6, 10); cite('a.txt', -6)"
    )
    noted = [Quote("alpha"), Quote("epsilon", "b.txt", 0), Quote("gamma"), Quote("beta", "", 6)]
    noted.append(Quote("delta\n", "a.txt", 17))
    assert evidence(TWO, notes, "FINAL('yes', evidence=['delta', 'alpha'])") == [*noted, Quote("delta")]
    for final in ("FINAL_VAR('x')", "SUBMIT(x)", "answer['content'] = x; answer['ready'] = True"):
        assert evidence(TWO, notes, "x = 'yes'", final) == noted


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("5", "'int' object is not iterable"),
        ("[5]", "evidence[0] is not evidence: it takes a quote (str)"),
        ("['a', {'document': 'a.txt'}]", "evidence[1] is not evidence"),
        ("[('nowhere', 0, 5), ('a', 'b', 'c', 'd')]", "evidence[1] is not evidence"),
        ("[context]", "evidence[0] is not evidence"),
    ],
)
def test_what_is_no_evidence_is_an_error_of_the_cell(given: str, why: str) -> None:
    """And no answer: the model may say it again."""
    (failed,) = results(TWO, f"FINAL('yes', evidence={given})")
    assert (failed.status, failed.answer) == ("error", None)
    assert why in failed.error


def test_too_much_is_left_out_and_said() -> None:
    """Beyond the number, the length and the size: the answer arrives, and the cell is told."""
    many = "FINAL('yes', evidence=[f'quote {n}' for n in range(5000)] + [' '])"
    (result,) = results(ONE, many)
    assert result.answer is not None
    assert len(result.answer.evidence) == wire.QUOTES_MAX
    assert "beyond 1,000 quotes" in result.stderr.head
    (result,) = results(ONE, "FINAL('yes', evidence=['é' * 10**6, '', *(chr(0x1f600 + n) * 4000 for n in range(999))])")
    assert result.answer is not None
    assert result.answer.evidence[0] == Quote("é" * wire.QUOTE_CHARS)
    assert sum(len(one.quote.encode()) for one in result.answer.evidence) < wire.EVIDENCE_MAX
    assert "is left out" in result.stderr.head
    assert "cut to 4,000 characters" in result.stderr.head


def test_a_large_answer_brings_its_evidence_too() -> None:
    (result,) = results(ONE, "FINAL('x' * 3_000_000, evidence='gamma\\ud800')")
    assert result.answer is not None
    assert len(result.answer.whole()) == 3_000_000
    assert result.answer.evidence == (Quote("gamma?"),)


def test_an_answer_that_fails_brings_none() -> None:
    """Evidence of a FINAL that raised is not that of the next."""
    failing = "def g():\n    yield 'x' * 3_000_000\n    1 / 0\nFINAL(g(), evidence='alpha')"
    assert evidence(ONE, failing, "FINAL('yes')") == []
