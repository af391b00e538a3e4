"""Evidence on a screen: `path:line`, flags, and nothing that a terminal would obey."""

from __future__ import annotations

import io
import re

from hypothesis import given
from hypothesis import strategies as st

from rlm_cli.events import Citation
from rlm_cli.render.citations import citation_lines, print_citations
from rlm_cli.render.look import Look
from rlm_cli.render.sanitize import clean_line

FOUND = Citation("took 41 s", "verbatim", "a.log", "/home/me/logs/a.log", 7, 100, 109)
MISSING = Citation("took 99 s", "not_found", "a.log")


def plain(*citations: Citation, here: str = "", most: int = 20) -> list[str]:
    return [line.plain for line in citation_lines(citations, here=here, most=most)]


def test_a_path_is_shown_from_the_working_folder() -> None:
    """Whole elsewhere, and in a record, which may be read from any folder."""
    assert plain(FOUND, here="/home/me") == ["Evidence:", '  logs/a.log:7  "took 41 s"']
    assert plain(FOUND) == plain(FOUND, here="/home/m") == ["Evidence:", '  /home/me/logs/a.log:7  "took 41 s"']
    assert plain() == []


def test_each_status_is_said() -> None:
    other = Citation("a  b", "approximate", "report.pdf", None, 3, 0, 4)
    unchecked = Citation("later", "unchecked")
    assert plain(other, MISSING, unchecked)[1:] == [
        '  report.pdf, line 3  "a  b" (but for white space)',
        '  ✗ not found in the input: "took 99 s" (said to be in a.log)',
        '  ✗ not checked: "later"',
    ]


def test_of_many_those_that_are_missing_are_shown() -> None:
    """A flag is never among the ones left out for room, and what is left out is counted."""
    lines = plain(*[FOUND] * 30, MISSING, *[FOUND] * 5)
    assert len(lines) == 22
    assert "not found" in lines[1]
    assert lines[-1] == "  and 16 more, in --json and in rlm runs show"


def test_a_screen_without_unicode_gets_ascii() -> None:
    out = io.StringIO()
    print_citations(out, [MISSING], look=Look(unicode=False))
    assert out.getvalue() == '\nEvidence:\n  x not found in the input: "took 99 s" (said to be in a.log)\n'


@given(st.builds(Citation, path=st.none() | st.text(), line=st.none() | st.integers(1, 10**9)))
def test_no_character_of_a_quote_or_path_reaches_the_terminal_raw(citation: Citation) -> None:
    """One line each, and cleaning it again changes nothing."""
    for line in plain(citation, here="/"):
        assert clean_line(line).strip() == line.strip()
        assert not re.search(r"[\x00-\x1f\x7f-\x9f\u202e]", line)
