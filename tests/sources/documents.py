"""Small documents made by hand: the formats as they are on disk, so that tests need no library to write them."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
TYPES = (
    '<?xml version="1.0"?><Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
    '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
    '<Default Extension="xml" ContentType="application/xml"/></Types>'
)


def zipped(files: Mapping[str, str | bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as made:
        for name, content in files.items():
            made.writestr(name, content)
    return out.getvalue()


def relations(targets: Mapping[str, tuple[str, str]]) -> str:
    """id -> (type, target)."""
    rows = "".join(
        f'<Relationship Id="{key}" Type="{OFFICE}/{kind}" Target="{target}"/>'
        for key, (kind, target) in targets.items()
    )
    return f'<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">{rows}</Relationships>'


def pdf(pages: Sequence[str]) -> bytes:
    """Each page one line of Helvetica."""
    objects = [b"<< /Type /Catalog /Pages 2 0 R >>", b""]
    objects.append(b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>")
    kids = []
    for text in pages:
        drawn = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET".encode("latin-1") if text else b""
        objects.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(drawn), drawn))
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents %d 0 R"
            b" /Resources << /Font << /F1 3 0 R >> >> >>" % len(objects)
        )
        kids.append(b"%d 0 R" % len(objects))
    objects[1] = b"<< /Type /Pages /Count %d /Kids [%s] >>" % (len(kids), b" ".join(kids))
    return assembled(objects)


def assembled(objects: Sequence[bytes], trailer: bytes = b"") -> bytes:
    out = bytearray(b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n")
    places = []
    for number, content in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    start = len(out)
    size = len(objects) + 1
    out += b"xref\n0 %d\n0000000000 65535 f \n%s" % (size, table)
    out += b"trailer\n<< /Size %d /Root 1 0 R %s>>\nstartxref\n%d\n%%%%EOF\n" % (size, trailer, start)
    return bytes(out)


WORD = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'


def paragraph(text: str) -> str:
    return f'<w:p><w:r><w:t xml:space="preserve">{escape(text)}</w:t></w:r></w:p>'


def docx(body: str, *, header: str = "", prolog: str = "", more: Mapping[str, str | bytes] | None = None) -> bytes:
    """`body` is WordprocessingML."""
    files: dict[str, str | bytes] = {
        "[Content_Types].xml": TYPES,
        "_rels/.rels": relations({"rId1": ("officeDocument", "word/document.xml")}),
        "word/document.xml": f'<?xml version="1.0"?>{prolog}<w:document {WORD}><w:body>{body}</w:body></w:document>',
    }
    if header:
        files["word/header1.xml"] = f"<w:hdr {WORD}>{paragraph(header)}</w:hdr>"
    return zipped(files | dict(more or {}))


def xlsx(sheets: Mapping[str, str], *, dimension: str = "A1") -> bytes:
    """name -> the rows as SpreadsheetML."""
    main = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    listed = "".join(
        f'<sheet name="{escape(name)}" sheetId="{number}" r:id="rId{number}"/>' for number, name in enumerate(sheets, 1)
    )
    files: dict[str, str | bytes] = {
        "[Content_Types].xml": TYPES,
        "_rels/.rels": relations({"rId1": ("officeDocument", "xl/workbook.xml")}),
        "xl/workbook.xml": f'<workbook {main} xmlns:r="{OFFICE}"><sheets>{listed}</sheets></workbook>',
        "xl/_rels/workbook.xml.rels": relations(
            {f"rId{number}": ("worksheet", f"worksheets/sheet{number}.xml") for number in range(1, len(sheets) + 1)}
        ),
    }
    for number, rows in enumerate(sheets.values(), 1):
        files[f"xl/worksheets/sheet{number}.xml"] = (
            f'<worksheet {main}><dimension ref="{dimension}"/><sheetData>{rows}</sheetData></worksheet>'
        )
    return zipped(files)


def row(number: int, *cells: str | float) -> str:
    made = []
    for column, value in zip("ABCDEFGH", cells, strict=False):
        place = f"{column}{number}"
        if isinstance(value, str):
            made.append(f'<c r="{place}" t="inlineStr"><is><t>{escape(value)}</t></is></c>')
        else:
            made.append(f'<c r="{place}"><v>{value}</v></c>')
    return f'<row r="{number}">{"".join(made)}</row>'


def pptx(slides: Sequence[str], notes: Mapping[int, str] | None = None) -> bytes:
    """Each slide is DrawingML; `notes` by the slide's number."""
    draw = 'xmlns:a="http://schemas.openxmlformats.org/drawingml/2006/main"'
    show = 'xmlns:p="http://schemas.openxmlformats.org/presentationml/2006/main"'
    # The last slide's file comes first: the order is that of the list, not of the names.
    numbers = list(range(len(slides), 0, -1))
    listed = "".join(f'<p:sldId id="{255 + n}" r:id="rId{n}"/>' for n in numbers)
    files: dict[str, str | bytes] = {
        "[Content_Types].xml": TYPES,
        "ppt/presentation.xml": (
            f'<p:presentation {show} xmlns:r="{OFFICE}"><p:sldIdLst>{listed}</p:sldIdLst></p:presentation>'
        ),
        "ppt/_rels/presentation.xml.rels": relations({f"rId{n}": ("slide", f"slides/slide{n}.xml") for n in numbers}),
    }
    for at, (number, slide) in enumerate(zip(numbers, slides, strict=True), 1):
        files[f"ppt/slides/slide{number}.xml"] = f"<p:sld {show} {draw}>{slide}</p:sld>"
        if notes and at in notes:
            files[f"ppt/slides/_rels/slide{number}.xml.rels"] = relations(
                {"rId1": ("notesSlide", f"../notesSlides/n{at}.xml")}
            )
            files[f"ppt/notesSlides/n{at}.xml"] = f"<p:notes {show} {draw}>{drawn(notes[at])}</p:notes>"
    return zipped(files)


def drawn(text: str) -> str:
    return f"<a:p><a:r><a:t>{escape(text)}</a:t></a:r></a:p>"
