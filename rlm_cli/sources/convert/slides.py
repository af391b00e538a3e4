"""PowerPoint: its texts are flat, and the library for it weighs 40 MB and has had no release since 2024."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from xml.etree import ElementTree

from .output import Output, RefusedError
from .package import opened, parsed, relations

DRAWING = "{http://schemas.openxmlformats.org/drawingml/2006/main}"
RELATION = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}"
PRESENTATION = "{http://schemas.openxmlformats.org/presentationml/2006/main}"


def pptx(source: int, ready: Callable[[], None], output: Output) -> None:
    """Its slides in their order, each below a mark: texts, tables as rows, diagrams, charts, and the notes."""
    ready()
    package = opened(source)
    names = set(package.namelist())
    start = "ppt/presentation.xml"
    targets = relations(package, start)
    listed = parsed(package, start).iter(f"{PRESENTATION}sldId")
    for number, entry in enumerate(listed, 1):
        slide = targets.get(entry.get(f"{RELATION}id", ""), "")
        output.mark(f"slide {number}")
        if slide not in names:
            raise RefusedError(f"it is damaged: slide {number} is missing")
        root = parsed(package, slide)
        for line in lines_of(root):
            output.line(line)
        for part in sorted(set(relations(package, slide).values()) & names):
            if "/diagrams/data" in part or "/charts/chart" in part:
                for line in lines_of(parsed(package, part)):
                    output.line(line)
            elif "/notesSlides/" in part:
                notes = [line for line in lines_of(parsed(package, part)) if line.strip() != str(number)]
                if notes:
                    output.line("Notes: " + "\n".join(notes))


def lines_of(root: ElementTree.Element) -> Iterator[str]:
    """Paragraphs, and tables row by row, in their order; of a chart its names and numbers too."""
    for child in root:
        if child.tag == f"{DRAWING}tbl":
            for row in child.iter(f"{DRAWING}tr"):
                yield " | ".join(" ".join(lines_of(cell)) for cell in row.iter(f"{DRAWING}tc"))
        elif child.tag == f"{DRAWING}p":
            text = "".join(run_text(run) for run in child)
            if text.strip():
                yield text
        elif child.tag.endswith(("/chart}cat", "/chart}val", "/chart}tx")) and not child.findall(f".//{DRAWING}p"):
            values = [node.text or "" for node in child.iter() if node.tag.endswith("/chart}v")]
            if values:
                yield ", ".join(values)
        else:
            yield from lines_of(child)


def run_text(run: ElementTree.Element) -> str:
    return "\n" if run.tag == f"{DRAWING}br" else "".join(text.text or "" for text in run.iter(f"{DRAWING}t"))
