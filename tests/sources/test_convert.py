"""Documents as text: every format by its own bytes, hostile ones, what a worker may do, and what is kept."""

from __future__ import annotations

import io
import json
import os
import sqlite3
import stat
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlm_cli.errors import ExitCode, InputError
from rlm_cli.sources import DEFAULT_OPTIONS, Corpus, Document, SourceOptions
from rlm_cli.sources.convert import convert, formats
from rlm_cli.sources.convert.cache import IN_USE, Cache, Converted
from rlm_cli.sources.convert.convert import Conversion, Job
from rlm_cli.sources.convert.formats import Format, recognise
from rlm_cli.sources.convert.join import FOLDER
from rlm_cli.sources.gather import collect

from .conftest import plant
from .documents import assembled, docx, drawn, paragraph, pdf, pptx, row, xlsx, zipped

EVERY_FORMAT = replace(DEFAULT_OPTIONS, convert="all")


@pytest.fixture
def spool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("spool")


def read(folder: Path, spool: Path, options: SourceOptions = DEFAULT_OPTIONS, cache: Path | None = None) -> Corpus:
    return collect([str(folder)], options, spool=spool, cache=cache)


def texts(corpus: Corpus) -> dict[str, str]:
    return {document.name: document.path.read_text("utf-8") for document in corpus.documents}


def text_of(content: bytes, name: str, tmp_path: Path, spool: Path, options: SourceOptions = DEFAULT_OPTIONS) -> str:
    folder = plant(tmp_path / "in", {name: content})
    return texts(collect([str(folder / name)], options, spool=spool))[name]


def why_not(content: bytes, name: str, tmp_path: Path, spool: Path) -> str:
    """Why a document in a folder is left out; its neighbour is always read."""
    folder = plant(tmp_path / "in", {name: content, "neighbour.txt": "here\n"})
    corpus = read(folder, spool)
    assert texts(corpus) == {"neighbour.txt": "here\n"}
    (skip,) = corpus.skips
    assert skip.reason == "unconverted" and skip.path.endswith(f"/{name}")
    assert corpus.skipped.unconverted == 1 == corpus.skipped.total
    return skip.rule


# -- formats -------------------------------------------------------------------------------------------------------


def test_pdf_pages_have_marks(tmp_path: Path, spool: Path) -> None:
    """A page can be cited."""
    made = text_of(pdf(["Clause one", "", "renews automatically"]), "a.pdf", tmp_path, spool)
    assert made == "--- page 1 ---\nClause one\n--- page 2 ---\n\n--- page 3 ---\nrenews automatically\n"


def test_pdf_is_known_by_its_content(tmp_path: Path, spool: Path) -> None:
    """A PDF needs no suffix, and a .pdf that is a text is a text."""
    assert "Clause" in text_of(pdf(["Clause"]), "contract", tmp_path, spool)
    assert text_of(b"not found\n", "b.pdf", tmp_path, spool) == "not found\n"


def test_word_keeps_what_lawyers_need(tmp_path: Path, spool: Path) -> None:
    """Tables, tracked insertions (not deletions), and what stands in the header only."""
    body = (
        paragraph("The term is")
        + '<w:p><w:ins w:id="1"><w:r><w:t>seven years</w:t></w:r></w:ins>'
        + '<w:del w:id="2"><w:r><w:delText>two years</w:delText></w:r></w:del></w:p>'
        + f"<w:tbl><w:tr><w:tc>{paragraph('Fee')}</w:tc><w:tc>{paragraph('100 EUR')}</w:tc></w:tr></w:tbl>"
    )
    made = text_of(docx(body, header="Contract No. 4711"), "a.docx", tmp_path, spool)
    assert "The term is" in made and "seven years" in made and "two years" not in made
    assert "| Fee | 100 EUR |" in made
    assert made.endswith("--- headers and footers ---\nContract No. 4711\n")


def test_sheets_are_csv_with_their_row_numbers(tmp_path: Path, spool: Path) -> None:
    """The n-th line below the mark is row n, also where rows are empty."""
    book = xlsx({"Orders & more": row(1, "id", "amount") + row(3, 7, 2.5), "Empty": "", "Two": row(1, 'a "b", c')})
    assert text_of(book, "a.xlsx", tmp_path, spool) == (
        "--- sheet 1: Orders & more ---\nid,amount\n\n7,2.5\n--- sheet 2: Empty ---\n"
        '--- sheet 3: Two ---\n"a ""b"", c"\n'
    )


def test_slides_are_in_the_order_of_the_show(tmp_path: Path, spool: Path) -> None:
    """Texts, tables by rows, and notes."""
    cells = "".join(f"<a:tc>{drawn(text)}</a:tc>" for text in ("k", "v"))
    made = text_of(
        pptx([drawn("First"), f"<a:tbl><a:tr>{cells}</a:tr></a:tbl>"], {1: "say this"}), "a.pptx", tmp_path, spool
    )
    assert made == "--- slide 1 ---\nFirst\nNotes: say this\n--- slide 2 ---\nk | v\n"


def test_notebook_cells_and_what_they_printed(tmp_path: Path, spool: Path) -> None:
    """No pictures, no colours."""
    picture = {"output_type": "display_data", "data": {"image/png": "iVBORw0KGgo", "text/plain": ["<Figure>"]}}
    failed = {"output_type": "error", "traceback": ["\x1b[31mValueError\x1b[0m: bad"]}
    cells = [
        {"cell_type": "markdown", "source": ["# Title\n", "text"]},
        {"cell_type": "code", "source": "f()", "outputs": [picture, failed]},
    ]
    made = text_of(json.dumps({"cells": cells, "nbformat": 4}).encode(), "a.ipynb", tmp_path, spool)
    assert made == (
        "--- cell 1 (markdown) ---\n# Title\ntext\n--- cell 2 (code) ---\nf()\n"
        "--- output of cell 2 ---\n<Figure>\nValueError: bad\n"
    )


def test_html_is_text_unless_asked_for(tmp_path: Path, spool: Path) -> None:
    """Source code stays what it is; `all` gives what a reader sees."""
    head = "<head><meta charset=windows-1251><style>b{}</style></head>"
    raw = f"<html>{head}<body><h1>Заг</h1><script>x()</script><p>and <b>bold</b></p>".encode("cp1251")
    folder = plant(tmp_path / "in", {"a.html": raw})
    (document,) = read(folder, spool).documents
    assert document.origin == "file" and document.path.read_bytes() == raw
    (document,) = read(folder, spool, EVERY_FORMAT).documents
    assert document.origin == "converted" and document.path.read_text() == "# Заг\n\nand **bold**\n"


def test_sqlite_tables_are_documents(tmp_path: Path, spool: Path) -> None:
    """A schema, a document for each table, bytes by their number; views are not run."""
    folder = tmp_path / "in"
    folder.mkdir()
    base = sqlite3.connect(folder / "app.db")
    base.execute('CREATE TABLE "us/er""s" (id INTEGER PRIMARY KEY, name TEXT, photo BLOB)')
    base.execute('INSERT INTO "us/er""s" VALUES (1, ?, ?), (2, NULL, NULL)', ("né\ne", b"\x00" * 9))
    base.execute("CREATE TABLE empty (a)")
    base.execute(
        "CREATE VIEW endless AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n"
    )
    base.commit()
    base.close()
    found = texts(read(folder, spool))
    assert set(found) == {"app.db/schema.sql", 'app.db/us_er"s.jsonl', "app.db/empty.jsonl"}
    rows = [json.loads(line) for line in found['app.db/us_er"s.jsonl'].splitlines()]
    assert rows == [{"id": 1, "name": "né\ne", "photo": "<9 bytes>"}, {"id": 2, "name": None, "photo": None}]
    assert found["app.db/schema.sql"].count("CREATE") == 3
    assert not (folder / "app.db-wal").exists()


def test_what_sqlite_has_only_in_its_log_is_said(tmp_path: Path, spool: Path) -> None:
    """Never a silent loss."""
    folder = tmp_path / "in"
    folder.mkdir()
    base = sqlite3.connect(folder / "app.db")
    base.execute("PRAGMA journal_mode=WAL")
    base.execute("CREATE TABLE t (a)")
    base.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    base.execute("INSERT INTO t VALUES (1)")
    base.commit()
    corpus = collect([str(folder / "app.db")], spool=spool)
    base.close()
    assert any("write-ahead log" in note for note in corpus.notes)


def test_parquet_rows_are_json_lines(tmp_path: Path, spool: Path) -> None:
    """With the schema beside them."""
    core, write = pytest.importorskip("arro3.core"), pytest.importorskip("arro3.io").write_parquet
    out = io.BytesIO()
    columns = {
        "n": core.Array([1, None], core.DataType.int64()),
        "s": core.Array(["é", "b"], core.DataType.string()),
    }
    write(core.Table.from_pydict(columns), out)
    folder = plant(tmp_path / "in", {"t.parquet": out.getvalue()})
    found = texts(read(folder, spool))
    assert found == {
        "t.parquet/rows.jsonl": '{"n":1,"s":"é"}\n{"n":null,"s":"b"}\n',
        "t.parquet/schema.txt": "n: Int64\ns: Utf8\n",
    }


# -- around them ---------------------------------------------------------------------------------------------------


def test_documents_in_archives_are_converted(tmp_path: Path, spool: Path) -> None:
    """contracts.zip is read like contracts/."""
    inside = {"x/a.pdf": pdf(["inside"]), "b.txt": b"text\n", "c.bin": b"\0"}
    folder = plant(tmp_path / "in", {"all.zip": zipped(inside)})
    corpus = read(folder, spool)
    assert texts(corpus) == {"all.zip/x/a.pdf": "--- page 1 ---\ninside\n", "all.zip/b.txt": "text\n"}
    assert {d.name: d.origin for d in corpus.documents}["all.zip/x/a.pdf"] == "converted"
    assert all(document.kept == str(folder / "all.zip") for document in corpus.documents)
    assert [skip.reason for skip in corpus.skips] == ["binary"]


def test_none_converts_nothing(tmp_path: Path, spool: Path) -> None:
    """A document is a binary file again, and its bytes are there when it is named."""
    content = pdf(["\xe9"]) + b"\0"
    folder = plant(tmp_path / "in", {"a.pdf": content, "b.txt": "x"})
    options = replace(DEFAULT_OPTIONS, convert="none")
    assert read(folder, spool, options).skipped.binary == 1
    (document,) = collect([str(folder / "a.pdf")], options, spool=spool).documents
    assert document.path.read_bytes() == content


def test_a_link_is_no_document(tmp_path: Path, spool: Path) -> None:
    """Nothing is followed out of a tree to be converted."""
    outside = plant(tmp_path / "out", {"secret.pdf": pdf(["secret"])})
    folder = plant(tmp_path / "in", {"b.txt": "x"})
    (folder / "a.pdf").symlink_to(outside / "secret.pdf")
    corpus = read(folder, spool)
    assert texts(corpus) == {"b.txt": "x"} and corpus.skipped.special == 1


def test_without_the_extra_the_command_is_named(tmp_path: Path, spool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Named: an error; in a folder: a skip, and one note for all."""
    absent = {**formats.NAMED, "pdf": Format("pdf", "PDF", (".pdf",), (("no_such_module", "no"),), "docs")}
    monkeypatch.setattr(formats, "NAMED", absent)
    folder = plant(tmp_path / "in", {"a.pdf": pdf(["a"]), "b.pdf": pdf(["b"]), "c.txt": "c"})
    corpus = read(folder, spool)
    assert set(texts(corpus)) == {"c.txt"} and corpus.skipped.unconverted == 2
    assert corpus.notes == ("2 documents were not read: pip install 'rlm-cli[docs]' converts them to text",)
    with pytest.raises(InputError) as caught:
        collect([str(folder / "a.pdf")], spool=spool)
    assert caught.value.code == "extra_missing" and caught.value.hint == "pip install 'rlm-cli[docs]'"


# -- hostile documents ---------------------------------------------------------------------------------------------


def test_a_scan_is_named(tmp_path: Path, spool: Path) -> None:
    """A PDF without text is not an empty document."""
    assert why_not(pdf(["", ""]), "scan.pdf", tmp_path, spool) == "there is no text in it: a scan?"


def test_a_named_document_that_fails_is_an_error(tmp_path: Path, spool: Path) -> None:
    """With the exit code of unusable input, and nothing left behind."""
    folder = plant(tmp_path / "in", {"a.pdf": pdf(["a"])[:60]})
    with pytest.raises(InputError, match=r"a\.pdf cannot be converted to text: it is damaged") as caught:
        collect([str(folder / "a.pdf")], spool=spool)
    assert caught.value.exit_code == ExitCode.INPUT and caught.value.code == "unconverted"
    assert list(spool.iterdir()) == []


@pytest.mark.parametrize("name", ["a.docx", "a.xlsx", "a.pptx", "a.db", "a.parquet", "a.ipynb"])
def test_damaged_documents_are_skipped(name: str, tmp_path: Path, spool: Path) -> None:
    """Cut off in the middle, each one."""
    base = sqlite3.connect(tmp_path / "whole.db")
    base.execute("CREATE TABLE t (a)")
    base.executemany("INSERT INTO t VALUES (?)", [("x" * 500,)] * 50)
    base.commit()
    base.close()
    whole = {
        "a.docx": docx(paragraph("x" * 3000)),
        "a.xlsx": xlsx({"A": row(1, "x" * 3000)}),
        "a.pptx": pptx([drawn("x" * 3000)]),
        "a.db": (tmp_path / "whole.db").read_bytes(),
        "a.parquet": b"PAR1" + b"\x15" * 400 + b"PAR1",
        "a.ipynb": b'{"cells": [{"cell_type": "code", "source": "x"}]}   ',
    }[name]
    assert why_not(whole[: len(whole) * 2 // 3], name, tmp_path, spool)


def test_encrypted_documents_are_named(tmp_path: Path, spool: Path) -> None:
    """Word files with a password are no zips; a PDF says it in its trailer."""
    assert "encrypted" in why_not(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "a.docx", tmp_path / "1", spool)
    locked = (
        b"/Encrypt << /Filter /Standard /V 1 /R 2 /P -4 /O <"
        + b"11" * 32
        + b"> /U <"
        + b"22" * 32
        + b"> >> /ID [<00><00>] "
    )
    pages = [b"<< /Type /Catalog /Pages 2 0 R >>", b"<< /Type /Pages /Count 0 /Kids [] >>"]
    assert "encrypted" in why_not(assembled(pages, locked), "a.pdf", tmp_path / "2", spool)


def test_a_zip_bomb_in_a_document_is_refused(tmp_path: Path, spool: Path) -> None:
    """By what it claims; what it does not claim is not unpacked."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("word/document.xml", bytes(1 << 20))
        made.filelist[0].file_size = 600 << 20
    assert "zip bomb" in why_not(out.getvalue(), "a.docx", tmp_path, spool)


def test_a_bomb_of_entities_is_refused(tmp_path: Path, spool: Path) -> None:
    """Billion laughs: the XML parser itself gives up."""
    levels = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
    prolog = f'<!DOCTYPE z [<!ENTITY l0 "lol">{levels}]>'
    assert why_not(docx("<w:p><w:r><w:t>&l9;</w:t></w:r></w:p>", prolog=prolog), "a.docx", tmp_path, spool)


def test_a_stream_that_unpacks_without_end_is_refused(tmp_path: Path, spool: Path) -> None:
    """A PDF whose page is 3 GB of zeros, packed."""
    packer = zlib.compressobj(9)
    begun = packer.compress(bytes(1 << 24)) + packer.flush(zlib.Z_FULL_FLUSH)
    # What follows a full flush can be said again.
    again = packer.compress(bytes(1 << 24)) + packer.flush(zlib.Z_FULL_FLUSH)
    packed = begun + again * 190 + packer.flush()
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Count 1 /Kids [4 0 R] >>",
        b"<< /Length %d /Filter /FlateDecode >>\nstream\n%s\nendstream" % (len(packed), packed),
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 3 0 R >>",
    ]
    assert why_not(assembled(objects), "a.pdf", tmp_path, spool)


def test_a_sheet_as_large_as_excel_allows(tmp_path: Path, spool: Path) -> None:
    """Two cells in opposite corners are 17 billion; what it merely claims costs nothing."""
    corner = '<row r="1048576"><c r="XFD1048576"><v>1</v></c></row>'
    assert why_not(xlsx({"A": row(1, 1) + corner}), "a.xlsx", tmp_path / "1", spool)
    claimed = xlsx({"A": row(1, "small")}, dimension="A1:XFD1048576")
    assert text_of(claimed, "b.xlsx", tmp_path / "2", spool) == "--- sheet 1: A ---\nsmall\n"


def test_text_above_the_limit_is_an_error(tmp_path: Path, spool: Path) -> None:
    """Not a cut."""
    folder = plant(tmp_path / "in", {"a.xlsx": xlsx({"A": "".join(row(n, "x" * 100) for n in range(1, 2000))})})
    with pytest.raises(InputError, match=r"a\.xlsx, as text") as caught:
        read(folder, spool, replace(DEFAULT_OPTIONS, max_input=50_000))
    assert caught.value.code == "over_max_input" and list(spool.iterdir()) == []


def test_a_converter_that_dies_takes_one_file_with_it(tmp_path: Path, spool: Path) -> None:
    """The next file has a new one."""
    work = Conversion(spool)
    folder = plant(tmp_path / "in", {f"{n}.pdf": pdf([str(n)]) for n in range(6)})
    killed: list[int] = []

    def kill(done: int, of: int) -> None:
        if not killed:
            killed.extend(slot.process.pid for slot in work._slots if slot.task is not None)
            for pid in killed:
                os.kill(pid, 9)

    work.on_progress = kill
    results = work.run([Job(str(folder / f"{n}.pdf"), f"{n}.pdf", "pdf") for n in range(6)])
    failed = [result for result in results if not isinstance(result, Converted)]
    assert len(failed) == len(killed) < len(results) == 6
    assert all("ended from outside" in error.why for error in failed)


def test_stopping_leaves_nothing(tmp_path: Path, spool: Path) -> None:
    """Ctrl-C between two files: no process, no file."""
    folder = plant(tmp_path / "in", {f"{n}.pdf": pdf([str(n)]) for n in range(6)})
    started: list[subprocess.Popen[bytes]] = []

    class StopError(Exception):
        pass

    work = Conversion(spool / "made")

    def stop(done: int, of: int) -> None:
        started.extend(slot.process for slot in work._slots)
        raise StopError

    work.on_progress = stop
    with pytest.raises(StopError):
        work.run([Job(str(folder / f"{n}.pdf"), f"{n}.pdf", "pdf") for n in range(6)])
    assert started and all(process.poll() is not None for process in started)
    assert [path for path in (spool / "made").iterdir() if not (path / "index.json").exists()] == []


# -- confinement ---------------------------------------------------------------------------------------------------

PROBE = """
import ctypes, json, os, socket, _socket, sys
from rlm_cli.sources.convert import confine
confine.confine(seconds=30, output=1 << 20)
tried = {}
def attempt(name, act):
    try:
        act()
        tried[name] = "done"
    except BaseException as error:
        tried[name] = type(error).__name__
attempt("open", lambda: os.open("/etc/passwd", os.O_RDONLY))
attempt("create", lambda: os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT))
attempt("socket", lambda: _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM))
attempt("library socket", lambda: socket.create_connection(("127.0.0.1", 9)))
attempt("fork", os.fork)
attempt("exec", lambda: os.execv("/bin/true", ["true"]))
attempt("kill", lambda: os.kill(os.getppid(), 0))
attempt("unlink", lambda: os.unlink("/nowhere"))
attempt("limits", lambda: __import__("resource").setrlimit(7, (4, 4)))
attempt("memory", lambda: bytearray(3 << 30))
os.write(1, json.dumps(tried).encode())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the filter is Linux's")
def test_a_worker_can_do_nothing_but_convert(tmp_path: Path) -> None:
    """No file, no network, no process, no signal, no more memory than it was given."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE, str(tmp_path / "made")], capture_output=True, timeout=60, check=True, env={}
    )
    tried = json.loads(done.stdout)
    assert tried.pop("memory") == "MemoryError"
    assert tried.pop("library socket") == "OSError"
    assert set(tried.values()) <= {"PermissionError", "ValueError"}, tried
    assert not (tmp_path / "made").exists()


def test_converters_see_no_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys live in this process."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    slot = convert.start()
    try:
        environment = Path(f"/proc/{slot.process.pid}/environ")
        if environment.exists():
            assert b"secret" not in environment.read_bytes()
    finally:
        convert.stop(slot)
    assert slot.process.returncode is not None


# -- the cache -----------------------------------------------------------------------------------------------------


def started_by(folder: Path, spool: Path, cache: Path) -> int:
    """How many files a conversion of the folder had to convert anew."""
    before = set(cache.rglob("index.json")) if cache.exists() else set()
    read(folder, spool, cache=cache)
    return len(set(cache.rglob("index.json")) - before)


def test_text_is_kept_by_content(tmp_path: Path, spool: Path) -> None:
    """Another name costs nothing, another content does; scans are remembered too. For nobody's eyes but ours."""
    cache = tmp_path / "cache"
    folder = plant(tmp_path / "in", {"a.pdf": pdf(["a"]), "scan.pdf": pdf([""])})
    assert started_by(folder, spool, cache) == 2
    (folder / "a.pdf").rename(folder / "renamed.pdf")
    assert started_by(folder, spool, cache) == 0
    plant(folder, {"renamed.pdf": pdf(["other"])})
    assert started_by(folder, spool, cache) == 1
    for path in cache.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    assert list(spool.iterdir()) == []


def test_a_cached_text_needs_no_converter(tmp_path: Path, spool: Path) -> None:
    """It is the same document, and no process is started."""
    folder = plant(tmp_path / "in", {"a.pdf": pdf(["a"])})
    cache = Cache(tmp_path / "cache")
    job = Job(str(folder / "a.pdf"), "a.pdf", "pdf")
    (first,) = Conversion(spool, cache).run([job])
    again = Conversion(spool, cache)
    again.on_progress = lambda done, of: pytest.fail("a process") if again._slots else None
    assert again.run([job]) == [first]


def test_half_an_entry_is_made_again(tmp_path: Path, spool: Path) -> None:
    """Whatever happened to the disk."""
    folder = plant(tmp_path / "in", {"a.pdf": pdf(["a"])})
    (document,) = read(folder, spool, cache=tmp_path / "cache").documents
    document.path.write_text("cut")
    (document,) = read(folder, spool, cache=tmp_path / "cache").documents
    assert document.path.read_text() == "--- page 1 ---\na\n"


def test_the_cache_is_bounded(tmp_path: Path, spool: Path) -> None:
    """The least recently used go first; what a run may still read stays."""
    cache = Cache(tmp_path / "cache")
    for name in "abc":
        folder = plant(tmp_path / name, {"x.pdf": pdf([name * 50])})
        read(folder, spool, cache=cache.folder)
    homes = sorted(path.parent for path in cache.folder.rglob("index.json"))
    now = homes[0].stat().st_mtime
    for age, home in enumerate(homes, 1):
        os.utime(home, (now - age * 10, now - age * 10))
    (homes[0].parent / "stray").write_text("no entry: it must not end the count")
    cache.prune(most=250, now=now)
    assert all(home.exists() for home in homes)
    cache.prune(most=150, now=now + IN_USE)
    assert [home.exists() for home in homes] == [True, False, False]


# -- properties ----------------------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=12), st.binary(max_size=40), st.sampled_from(["auto", "all", "none"]))
def test_recognising_never_fails(name: str, head: bytes, which: formats.Convert) -> None:
    """Any name, any content."""
    form = recognise(name, head, which)
    assert form is None or which != "none"


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.text(max_size=8), st.text(max_size=30)), min_size=2, max_size=8))
def test_parts_are_cut_where_they_were_written(
    tmp_path_factory: pytest.TempPathFactory, parts: list[tuple[str, str]]
) -> None:
    """Names become safe and different, contents stay."""
    home = tmp_path_factory.mktemp("parts")
    written = [text.encode("utf-8", "replace") for _, text in parts]
    (home / convert.WHOLE).write_bytes(b"".join(written))
    made = convert.split(home, [(name, len(data)) for (name, _), data in zip(parts, written, strict=True)])
    assert len({name for name, _ in made}) == len(parts)
    assert all("/" not in name and name not in ("", ".", "..") for name, _ in made)
    assert [(home / str(number)).read_bytes() for number in range(len(parts))] == written


def test_a_report_that_lies_is_refused(tmp_path: Path) -> None:
    """Sizes are measured."""
    (tmp_path / convert.WHOLE).write_bytes(b"12345")
    lies: Mapping[str, list[tuple[str, int]]] = {
        "more": [("a", 6)],
        "less": [("a", 4)],
        "negative": [("a", 6), ("b", -1)],
    }
    for parts in lies.values():
        with pytest.raises(ValueError):
            convert.split(tmp_path, parts)


def test_documents_say_where_they_come_from(tmp_path: Path, spool: Path) -> None:
    """`kept` is the file that is still there afterwards."""
    folder = plant(tmp_path / "in", {"a.pdf": pdf(["a"])})
    (document,) = read(folder, spool).documents
    assert isinstance(document, Document) and document.origin == "converted"
    assert document.kept == str(folder / "a.pdf") and document.path.is_relative_to(spool / FOLDER)
