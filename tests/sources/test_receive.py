"""Sources that are no files: pipes that are named, stdin that is packed, URLs; from the words to the documents."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import socket
import stat
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rlm_cli.disk import LEFT, LOOK_EVERY, MOST_LEFT, UNCHECKED, Room
from rlm_cli.errors import InputError
from rlm_cli.sources import DEFAULT_OPTIONS, Corpus, SourceOptions
from rlm_cli.sources.gather import collect
from rlm_cli.sources.receive import Listener, Places, receive
from rlm_cli.sources.stdin import Watch, spool_pipe, spool_stdin
from rlm_cli.sources.summary import stored, stored_words, summary_line

from .conftest import plant
from .web import Reply, Web

QUIET = Listener()
LINES = b"".join(b"line %d\n" % number for number in range(2000))


@pytest.fixture
def places(tmp_path_factory: pytest.TempPathFactory) -> Places:
    folder = tmp_path_factory.mktemp("scratch")
    return Places(folder, folder, folder / "transfers")


def read(places: Places, *sources: str, options: SourceOptions = DEFAULT_OPTIONS, listener: Listener = QUIET) -> Corpus:
    return collect(sources, options, received=receive(sources, options, places, listener=listener), spool=places.spool)


def contents(corpus: Corpus) -> dict[str, bytes]:
    return {document.name: document.path.read_bytes() for document in corpus.documents}


@contextmanager
def writing(path: Path, data: bytes) -> Iterator[None]:
    """A FIFO at `path` that a thread opens, writes to and closes."""
    os.mkfifo(path)
    thread = threading.Thread(target=path.write_bytes, args=(data,), daemon=True)
    thread.start()
    yield
    thread.join(20)
    assert not thread.is_alive()


@contextmanager
def piped(data: bytes) -> Iterator[str]:
    """The path a shell gives for `<(command)`."""
    reader, writer = os.pipe()

    def write() -> None:
        with os.fdopen(writer, "wb") as file:
            file.write(data)

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    yield f"/dev/fd/{reader}"
    thread.join(20)
    os.close(reader)


@contextmanager
def as_stdin(path: Path) -> Iterator[None]:
    """This process's descriptor 0 for a moment."""
    kept, data = os.dup(0), os.open(path, os.O_RDONLY)
    os.dup2(data, 0)
    os.close(data)
    try:
        yield
    finally:
        os.dup2(kept, 0)
        os.close(kept)


def tarred() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        info = tarfile.TarInfo("logs/a.log")
        info.size = len(LINES)
        tar.addfile(info, io.BytesIO(LINES))
    return out.getvalue()


def zipped() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as made:
        made.writestr("logs/a.log", LINES)
    return out.getvalue()


# -- pipes ----------------------------------------------------------------------------------------------------------


def test_a_named_pipe_is_read_to_its_end(here: Path, places: Places) -> None:
    """Whole, private, called what it is called; in a folder it stays left out."""
    heard: list[tuple[str, int]] = []
    with writing(here / "feed", LINES * 50):
        corpus = read(places, "feed", listener=Listener(lambda name, size, *_: heard.append((name, size))))
    document = corpus.documents[0]
    assert (contents(corpus), document.origin, document.kept) == ({"feed": LINES * 50}, "pipe", "feed")
    assert (stat.S_IMODE(document.path.stat().st_mode), heard[-1]) == (0o600, ("feed", len(LINES) * 50))
    assert (stored(corpus), stored_words(corpus)) == ({"pipe": 944500}, ("stored for this: 944 kB from pipes",))
    plant(here, {"t/a": "x"})
    os.mkfifo(here / "t/feed")
    assert [(skip.path, skip.reason, skip.rule) for skip in read(places, "t").skips] == [
        ("t/feed", "special", "a named pipe")
    ]


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, bytes])
def test_process_substitution(places: Places, pack: Callable[[bytes], bytes]) -> None:
    """`<(command)`: opened when it is compressed, whatever the descriptor is called; its name is not a bare number."""
    with piped(pack(LINES)) as path:
        corpus = read(places, path)
    assert contents(corpus) == {f"fd-{path.rpartition('/')[2]}": LINES}


def test_two_pipes_and_a_file(here: Path, places: Places) -> None:
    plant(here, {"a.log": "file"})
    with piped(b"one") as one, piped(b"two") as two:
        corpus = read(places, one, "a.log", two)
    assert sorted(contents(corpus).values()) == [b"file", b"one", b"two"]
    assert summary_line(corpus, ["a.log"]).startswith("3 files · 10 B")


def test_a_pipe_nobody_writes_to_is_waited_for_aloud(here: Path) -> None:
    """Said once, after a while; then a writer comes, and nothing is lost; an empty one is an empty document."""
    os.mkfifo(here / "feed")
    threads: list[threading.Thread] = []

    def waiting() -> None:
        threads.append(threading.Thread(target=(here / "feed").write_bytes, args=(LINES,), daemon=True))
        threads[-1].start()

    document = spool_pipe("feed", here / "out", watch=Watch(waiting=waiting, patience=0.02))
    threads[0].join(20)
    assert (len(threads), document.path.read_bytes()) == (1, LINES)


def test_ctrl_c_while_a_pipe_is_awaited(here: Path) -> None:
    """Nothing stays behind."""

    def waiting() -> None:
        raise KeyboardInterrupt

    os.mkfifo(here / "feed")
    with pytest.raises(KeyboardInterrupt):
        spool_pipe("feed", here / "out", watch=Watch(waiting=waiting, patience=0.01))
    assert not (here / "out").exists()


def test_devices_and_sockets_are_refused_by_name(here: Path, places: Places) -> None:
    """At once: nothing endless is read, nothing is waited for."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("sock")
        errors = []
        for path in ("/dev/zero", "/dev/null", "sock"):
            with pytest.raises(InputError) as caught:
                read(places, path)
            errors.append((caught.value.code, caught.value.message))
    assert errors == [
        ("special_file", "/dev/zero is a device, not a file"),
        ("special_file", "/dev/null is a device, not a file"),
        ("special_file", "sock is a socket, not a file"),
    ]


def test_max_input_holds_for_all_that_is_received(here: Path, places: Places) -> None:
    with piped(b"x" * 60) as one, piped(b"y" * 60) as two, pytest.raises(InputError) as caught:
        read(places, one, two, options=SourceOptions(max_input=100))
    assert caught.value.code == "over_max_input"


# -- packed stdin ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (gzip.compress(LINES), {"stdin": LINES}),
        (gzip.compress(b"one\n") + gzip.compress(b"two\n"), {"stdin": b"one\ntwo\n"}),
        (tarred(), {"logs/a.log": LINES}),
        (zipped(), {"logs/a.log": LINES}),
        (b"PK is how it begins", {"stdin": b"PK is how it begins"}),
        (b"\x5d\0\0text all the same", {"stdin": b"\x5d\0\0text all the same"}),
    ],
    ids=["gzip", "two gzips", "tar", "zip", "like a zip", "like lzma"],  # gzip has the time in it
)
def test_stdin_is_opened_by_its_first_bytes(
    here: Path, places: Places, data: bytes, expected: dict[str, bytes]
) -> None:
    """A compressed file is its content, an archive its files; anything else is what it is."""
    (here / "in").write_bytes(data)
    with as_stdin(here / "in"):
        corpus = read(places, "-")
    assert contents(corpus) == expected
    assert {document.kept for document in corpus.documents} == {str(places.spool / "stdin")}


def test_packed_stdin_raw_or_damaged(here: Path, places: Places) -> None:
    """sources.archives=false takes the bytes; a stream cut short is an error, never a part of it."""
    (here / "in").write_bytes(gzip.compress(LINES)[:-5])
    with as_stdin(here / "in"):
        raw = read(places, "-", options=SourceOptions(archives=False))
    assert contents(raw) == {"stdin": (here / "in").read_bytes()}
    (places.spool / "stdin").unlink()
    with as_stdin(here / "in"), pytest.raises(InputError) as caught:
        read(places, "-")
    assert (caught.value.code, caught.value.message) == (
        "unreadable",
        "stdin cannot be opened: it is damaged or cut off: it ends in the middle",
    )


def test_the_manifest_knows_packed_stdin_by_its_content(here: Path, places: Places) -> None:
    """The same bytes, the same manifest; others, another."""
    hashes: list[str] = []
    for data in (LINES, LINES, LINES[::-1]):
        (here / "in").write_bytes(gzip.compress(data, mtime=0))
        (places.spool / "stdin").unlink(missing_ok=True)
        places = Places(here / f"s{len(hashes)}", here / f"s{len(hashes)}", here)
        places.spool.mkdir()
        with as_stdin(here / "in"):
            hashes.append(read(places, "-").facts.manifest_sha256)
    assert (hashes[0] == hashes[1], hashes[0] != hashes[2]) == (True, True)


# -- URLs -----------------------------------------------------------------------------------------------------------


def test_pages_become_documents(places: Places) -> None:
    """Named by the address, as much of it as is needed; archives opened; the charset of the server is the encoding."""
    pages = {
        "/x/a.log": Reply(b"one"),
        "/y/a.log": Reply(b"two"),
        "/b.log.gz": Reply(gzip.compress(LINES)),
        "/t.tgz": Reply(tarred()),
        "/download": Reply(zipped(), headers={"Content-Disposition": 'attachment; filename="logs.zip"'}),
        "/latin": Reply(b"na\xefve", headers={"Content-Type": "text/plain; charset=latin-1"}),
        "/odd": Reply(b"x", headers={"Content-Type": "text/plain; charset=hex"}),
    }
    with Web(pages) as web:
        corpus = read(places, *(web.url(path, "me:pw") for path in pages))
        kept = {document.kept for document in corpus.documents}
        assert contents(corpus) == {
            "x/a.log": b"one",
            "y/a.log": b"two",
            "b.log": LINES,
            "t.tgz/logs/a.log": LINES,
            "logs.zip/logs/a.log": LINES,
            "latin": b"na\xefve",
            "odd": b"x",
        }
        assert kept == {web.url(path) for path in pages}
    encodings = {document.name: document.encoding for document in corpus.documents}
    assert (encodings["latin"], encodings["odd"], encodings["b.log"]) == ("iso8859-1", "auto", "auto")


def test_a_page_that_is_a_document_becomes_text(places: Places) -> None:
    """A notebook at an address: its text, recorded as the address."""
    cell = {"cell_type": "markdown", "metadata": {}, "source": ["a word from a notebook"]}
    notebook = json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [cell]}).encode()
    with Web({"/n.ipynb": Reply(notebook, headers={"Content-Type": "application/json"})}) as web:
        (document,) = read(places, web.url("/n.ipynb")).documents
        assert (document.name, document.origin, document.kept) == ("n.ipynb", "converted", web.url("/n.ipynb"))
    assert b"a word from a notebook" in document.path.read_bytes()


def test_an_encoding_that_the_person_names_wins(places: Places) -> None:
    with Web({"/a": Reply(b"x", headers={"Content-Type": "text/plain; charset=latin-1"})}) as web:
        corpus = read(places, web.url("/a"), options=SourceOptions(encoding="utf-16"))
    assert [document.encoding for document in corpus.documents] == ["utf-16"]


def test_offline_and_missing_files_fetch_nothing(here: Path, places: Places) -> None:
    """Refused before the first request; a file that is not there, too; no password in what is said."""
    with Web({"/a": Reply(b"x")}) as web:
        with pytest.raises(InputError) as caught:
            receive([web.url("/a", "me:pw")], DEFAULT_OPTIONS, places, offline=True)
        with pytest.raises(InputError) as missing:
            read(places, web.url("/a", "me:pw"), "nowhere.log")
        assert web.asked == []
    assert (caught.value.code, missing.value.code) == ("offline", "not_found")
    assert [
        text for error in (caught, missing) for text in (error.value.message, error.value.hint) if "me:pw" in text
    ] == []


# -- room -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("total", "left"), [(10 << 30, LEFT), (100 << 30, 5 << 30), (10 << 40, MOST_LEFT)])
def test_some_of_the_disk_stays_free(tmp_path: Path, total: int, left: int) -> None:
    """1 GiB, or 5 %, and at most 16 GiB; a size that is known is refused beforehand, a small one never."""
    room = Room(tmp_path, lambda _: (total, left + UNCHECKED))
    room.need(UNCHECKED, "x")
    full = Room(tmp_path, lambda _: (total, left - 1))
    full.take(UNCHECKED - 1, "x")
    full.need(UNCHECKED - 1, "x")
    for at, count in ((room, UNCHECKED + 1), (full, UNCHECKED)):
        with pytest.raises(InputError) as caught:
            at.need(count, "the page")
        assert (caught.value.code, caught.value.message.startswith(f"the page does not fit in {tmp_path}: ")) == (
            "disk",
            True,
        )
    with pytest.raises(InputError):
        full.take(1, "the page")


def test_stdin_stops_before_the_disk_is_full(tmp_path: Path) -> None:
    """The disk is looked at again and again while it fills; nothing is kept of what did not fit."""
    free = [LEFT + 1, LEFT + 1, LEFT - 1]
    room = Room(tmp_path, lambda _: (1 << 30, free.pop(0)))
    source = tmp_path / "in"
    with source.open("wb") as file:
        file.truncate(UNCHECKED + 4 * LOOK_EVERY)
    with source.open("rb") as file, pytest.raises(InputError) as caught:
        spool_stdin(file.fileno(), tmp_path, room=room)
    assert (caught.value.code, free, (tmp_path / "stdin").exists()) == ("disk", [], False)
