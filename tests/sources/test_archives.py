"""Compressed files and archives as documents: every format, hostile ones, and what is left on the disk afterwards."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import resource
import stat
import struct
import sys
import tarfile
import tempfile
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlm_cli.errors import ExitCode, InputError
from rlm_cli.sources import DEFAULT_OPTIONS, Corpus, Document, SourceOptions
from rlm_cli.sources import archives as opening
from rlm_cli.sources.archives import FOLDER
from rlm_cli.sources.compressed import (
    PIECE,
    Codec,
    DamagedError,
    MissingDecoderError,
    decompressed,
    kind_of,
    raw_lzma,
    says_packed,
    without_suffix,
    zstd_decoder,
)
from rlm_cli.sources.gather import collect
from rlm_cli.sources.receive import Received
from rlm_cli.sources.summary import summary_line
from rlm_cli.sources.walk import VERSION_CONTROL

from .conftest import plant

LINES = b"".join(b"line %d of the log\n" % number for number in range(5_000))


def zstd(data: bytes) -> bytes:
    return bytes(pytest.importorskip("zstandard").ZstdCompressor().compress(data))


def lzma_alone(data: bytes) -> bytes:
    return lzma.compress(data, format=lzma.FORMAT_ALONE)


Pack = Callable[[bytes], bytes]
PACKERS: dict[str, Pack] = {
    ".gz": lambda data: gzip.compress(data, mtime=0),
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".lzma": lzma_alone,
    ".zst": zstd,
}
CODECS: dict[str, Codec] = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".lzma": "lzma", ".zst": "zstd"}


def zipped(files: Mapping[str, bytes], *, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as made:
        for name, content in files.items():
            made.writestr(zipfile.ZipInfo(name), content, method)
    return out.getvalue()


def tarred(files: Mapping[str, bytes], *more: tarfile.TarInfo, form: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as made:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            made.addfile(info, io.BytesIO(content))
        for info in more:
            made.addfile(info)
    return out.getvalue()


@pytest.fixture
def spool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("spool")


def contents(corpus: Corpus) -> dict[str, bytes]:
    return {document.name: document.path.read_bytes() for document in corpus.documents}


def reasons(corpus: Corpus) -> list[tuple[str, str, str]]:
    return [(skip.path, skip.reason, skip.rule) for skip in corpus.skips]


def failed(*sources: str, spool: Path, options: SourceOptions = DEFAULT_OPTIONS) -> InputError:
    """The error, after which nothing may be left."""
    with pytest.raises(InputError) as caught:
        collect(sources, options, spool=spool)
    assert (caught.value.exit_code, list(spool.iterdir())) == (ExitCode.INPUT, [])
    return caught.value


# -- formats --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", PACKERS)
def test_a_compressed_file_is_a_document_named_without_its_suffix(here: Path, spool: Path, suffix: str) -> None:
    """Whole, also when it has several members and padding; upper case counts; the original is where it came from."""
    pack = PACKERS[suffix]
    whole = pack(LINES) + (b"" if suffix == ".lzma" else pack(b"second\n") + b"\0" * 512)
    expected = LINES + (b"" if suffix == ".lzma" else b"second\n")
    plant(here / "t", {f"logs/app.log{suffix.upper()}": whole})
    walked, named = collect(["t"], spool=spool), collect([f"t/logs/app.log{suffix.upper()}"], spool=spool / "other")
    assert (contents(walked), contents(named)) == ({"logs/app.log": expected}, {"app.log": expected})
    document = walked.documents[0]
    assert (document.origin, document.kept) == ("archive", str(here.resolve() / f"t/logs/app.log{suffix.upper()}"))
    assert summary_line(walked, ["t"]).startswith("1 file · ")


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tgz", *(f".tar{suffix}" for suffix in PACKERS)])
def test_an_archive_is_a_folder(here: Path, spool: Path, suffix: str) -> None:
    """In a folder its name is in front; named alone it is the folder; with others its own name is in front again."""
    files = {"a.txt": b"a", "deep/er/b.log": LINES, "empty": b"", "utf-16": "é".encode("utf-16"), "ü x": b"u"}
    pack = PACKERS.get("." + suffix.rpartition(".")[2], PACKERS[".gz"] if suffix == ".tgz" else bytes)
    plant(here, {f"t/x{suffix}": zipped(files) if suffix == ".zip" else pack(tarred(files)), "t/plain": "p"})
    inside = {f"x{suffix}/{name}": content for name, content in files.items()}
    one = collect(["t"], spool=spool / "1")
    two = collect([f"t/x{suffix}"], spool=spool / "2")
    three = collect([f"t/x{suffix}", "t/plain"], spool=spool / "3")
    assert (contents(one), contents(two), contents(three)) == (
        inside | {"plain": b"p"},
        files,
        inside | {"plain": b"p"},
    )
    assert one.facts.files == len(files) + 1


def test_names_stay_unambiguous(here: Path, spool: Path) -> None:
    """The suffix stays where something else has the shorter name: a file, another compressed one, stdin."""
    gz, xz = PACKERS[".gz"], PACKERS[".xz"]
    tree = {"a.log": b"1", "a.log.gz": gz(b"2"), "b.log.gz": gz(b"3"), "b.log.xz": xz(b"4"), "stdin.gz": gz(b"5")}
    plant(here / "t", {**tree, "c.log.gz": gz(b"6"), ".gz": gz(b"7")})
    assert contents(collect(["t"], SourceOptions(hidden=True), spool=spool)) == {
        "a.log": b"1",
        "a.log.gz": b"2",
        "b.log.gz": b"3",
        "b.log.xz": b"4",
        "c.log": b"6",
        "stdin.gz": b"5",
        ".gz": b"7",
    }
    assert without_suffix("d/.gz") == ""
    plant(here, {"u/c.log.gz": gz(b"8")})
    both = collect(["t/c.log.gz", "u/c.log.gz"], spool=spool / "2")
    assert contents(both) == {"t/c.log": b"6", "u/c.log": b"8"}


def test_content_decides_how_a_packed_name_is_read(here: Path, spool: Path) -> None:
    """A .gz that is text is text; one that is a zip is a zip; a .docx is a zip that nobody asked to open."""
    plant(
        here / "t",
        {
            "text.gz": b"just text",
            "empty.gz": b"",
            "zip.gz": zipped({"a": b"1"}),
            "bz2.gz": bz2.compress(b"2"),
            "text.tgz": gzip.compress(b"3"),
            "w.docx": zipped({"word.xml": b"4"}),
            "none.tar": tarred({}),
            "none.tgz": gzip.compress(tarred({})),
            "none.zip": zipped({}),
        },
    )
    corpus = collect(["t"], spool=spool)
    assert contents(corpus) == {
        "bz2": b"2",
        "empty.gz": b"",
        "text.gz": b"just text",
        "text.tgz": b"3",
        "zip.gz/a": b"1",
    }
    assert [skip[:2] for skip in reasons(corpus)] == [("t/none.tar", "binary"), ("t/w.docx", "unconverted")]


NAME = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12)
TREES = st.dictionaries(st.lists(NAME, min_size=1, max_size=4).map("/".join), st.binary(max_size=300), max_size=12)


def plain_names(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Those that need no cleaning, and are no folder's name at the same time."""
    return {
        name: content
        for name, content in files.items()
        if not {"", ".", "..", *VERSION_CONTROL} & set(name.split("/")) and not says_packed(name)
    }


@settings(max_examples=60, deadline=None)
@given(TREES, st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]))
def test_any_tree_comes_back_as_it_was(files: dict[str, bytes], form: int) -> None:
    """Names and contents through zip and tar, whatever characters, order and bytes; binary ones with -uuu."""
    tree = plain_names(files) | {"some": b"thing"}
    for packed, title in ((zipped(tree), "x.zip"), (tarred(tree, form=form), "x.tar")):
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, title).write_bytes(packed)
            (Path(folder) / "spool").mkdir()
            corpus = collect(
                [f"{folder}/{title}"], SourceOptions(unrestricted=3, convert="none"), spool=Path(folder) / "spool"
            )
            assert contents(corpus) == tree


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=4000), st.sampled_from([".gz", ".bz2", ".xz"]), st.data())
def test_damage_is_an_error_and_never_a_shorter_text(data: bytes, suffix: str, more: st.DataObject) -> None:
    """Cut anywhere, or with a byte changed: the right content or `DamagedError`, nothing in between."""
    packed = bytearray(PACKERS[suffix](data))
    if more.draw(st.booleans()):
        cut = more.draw(st.integers(1, len(packed) - 1))
        with pytest.raises(DamagedError):
            list(decompressed(io.BytesIO(bytes(packed[:cut])).read, CODECS[suffix]))
        return
    at = more.draw(st.integers(0, len(packed) - 1))
    packed[at] ^= more.draw(st.integers(1, 255))
    try:
        out = b"".join(decompressed(io.BytesIO(bytes(packed)).read, CODECS[suffix]))
    except DamagedError:
        return
    # A gzip header has fields that mean nothing to the content.
    assert out == data


@settings(max_examples=80, deadline=None)
@given(st.binary(max_size=600), st.sampled_from(["zip", "tar"]), st.data())
def test_no_damage_surprises_us(noise: bytes, kind: str, more: st.DataObject) -> None:
    """An archive with noise written over it is read, or refused as `InputError`: no other exception, nothing left."""
    files = {"a.txt": b"hello" * 50, "b/c.txt": b"x" * 700, "d" * 150: b"long"}
    packed = zipped(files) if kind == "zip" else tarred(files)
    at = more.draw(st.integers(4, len(packed) - 1))
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, f"x.{kind}").write_bytes(packed[:at] + noise + packed[at + len(noise) :])
        spool = Path(folder) / "spool"
        spool.mkdir()
        try:
            collect([f"{folder}/x.{kind}"], spool=spool)
        except InputError:
            assert list(spool.iterdir()) == []


def test_zstd_that_is_not_installed_says_what_to_install(
    here: Path, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a decoder: skipped in a folder, an error by name, both with the command; other files are read."""
    for module in ("compression.zstd", "zstandard"):
        monkeypatch.setitem(sys.modules, module, None)
    plant(here / "t", {"a.zst": b"\x28\xb5\x2f\xfd\x04\x00\x09\x00\x00\x61\x00\x00\x00", "b.txt": "b"})
    with pytest.raises(MissingDecoderError):
        zstd_decoder()
    corpus = collect(["t"], spool=spool)
    assert contents(corpus) == {"b.txt": b"b"}
    assert "pip install 'rlm-cli[zstd]'" in corpus.skips[0].rule
    assert corpus.skips[0].reason == "unreadable"
    assert "pip install 'rlm-cli[zstd]'" in failed("t/a.zst", spool=fresh(spool)).message


def fresh(spool: Path) -> Path:
    """Another empty folder."""
    return Path(tempfile.mkdtemp(dir=spool))


# -- what is left out ------------------------------------------------------------------------------------------------


def test_the_rules_of_a_walk_hold_inside(here: Path, spool: Path) -> None:
    """Hidden, binary, `sources.ignore`, -g; version control is not even counted; ignore files inside say nothing."""
    files = {
        ".env": b"x",
        ".cache/x": b"x",
        ".git/config": b"x",
        ".gitignore": b"*.log\n",
        "a.log": b"a",
        "b.csv": b"b",
        "bin": b"\0",
        "sub/c.log": b"c",
    }
    plant(here / "t", {"x.zip": zipped(files), "y.tgz": gzip.compress(tarred(files)), "z.log": "z", "z.tar": b"\0"})

    def read(*globs: str, level: int = 0, ignore: tuple[str, ...] = ()) -> list[str]:
        options = SourceOptions(globs=globs, unrestricted=level, ignore=ignore)
        return [d.name for d in collect(["t"], options, spool=fresh(spool)).documents if not d.name.startswith("y")]

    assert [
        read(),
        read(ignore=("*.csv",)),
        read("*.log"),
        read("!sub"),
        read("x.zip"),
        read("!x.zip"),
        read("*.log", level=3),
        read(level=3),
    ] == [
        ["x.zip/a.log", "x.zip/b.csv", "x.zip/sub/c.log", "z.log"],
        ["x.zip/a.log", "x.zip/sub/c.log", "z.log"],
        ["x.zip/a.log", "x.zip/sub/c.log", "z.log"],
        ["x.zip/a.log", "x.zip/b.csv", "z.log"],
        ["x.zip/a.log", "x.zip/b.csv", "x.zip/sub/c.log"],
        ["z.log"],
        ["x.zip/a.log", "x.zip/sub/c.log", "z.log"],
        [f"x.zip/{name}" for name in sorted(files) if name != ".git/config"] + ["z.log", "z.tar"],
    ]
    corpus = collect(["t"], spool=spool)
    assert reasons(corpus)[:4] == [
        ("t/x.zip/.cache/x", "hidden", ""),
        ("t/x.zip/.env", "hidden", ""),
        ("t/x.zip/.gitignore", "hidden", ""),
        ("t/x.zip/bin", "binary", "a NUL byte in its first 64 KiB"),
    ]
    assert (corpus.skipped.hidden, corpus.skipped.binary) == (6, 3)


def test_links_devices_and_names_that_point_outside(here: Path, spool: Path) -> None:
    """Only regular entries are read, and their names are only names: nothing is written but numbered files."""

    def special(name: str, kind: bytes, link: str = "") -> tarfile.TarInfo:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, link
        return info

    more = (
        special("sym", tarfile.SYMTYPE, "/etc/passwd"),
        special("hard", tarfile.LNKTYPE, "../../up"),
        special("fifo", tarfile.FIFOTYPE),
        special("dev", tarfile.CHRTYPE),
        special("odd", b"Z"),
        special("folder", tarfile.DIRTYPE),
    )
    tar = tarred({"/etc/passwd": b"1", "../../up": b"2", "a/../up": b"3", "up": b"4", "..": b"5", "./x": b"6"}, *more)
    plant(here, {"t/x.tar": tar, "t/y.zip": zipped({"../up": b"7", "/abs": b"8"})})
    outside = sorted(here.parent.iterdir())
    corpus = collect(["t"], spool=spool)
    assert contents(corpus) == {
        "x.tar/a/up": b"3",
        "x.tar/etc/passwd": b"1",
        "x.tar/unnamed": b"5",
        "x.tar/up": b"2",
        "x.tar/up (2)": b"4",
        "x.tar/x": b"6",
        "y.zip/abs": b"8",
        "y.zip/up": b"7",
    }
    assert reasons(corpus) == [
        ("t/x.tar/dev", "special", "a device"),
        ("t/x.tar/fifo", "special", "a named pipe"),
        ("t/x.tar/hard", "special", "a hard link to another entry"),
        ("t/x.tar/odd", "special", "not a regular file"),
        ("t/x.tar/sym", "special", "a symbolic link"),
    ]
    files = [path for path in spool.rglob("*") if path.is_file()]
    assert {path.name.isdigit() for path in files} == {True}
    assert sorted(here.parent.iterdir()) == outside


def test_zip_links_encryption_and_methods(here: Path, spool: Path) -> None:
    """A symbolic link, an encrypted entry and one in a method that we do not know are left out, each by name."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as made:
        link = zipfile.ZipInfo("link")
        link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        made.writestr(link, "/etc/passwd")
        made.writestr("a.txt", "a")
        made.writestr(zipfile.ZipInfo("bz"), "b" * 100, zipfile.ZIP_BZIP2)
        made.writestr("odd", "o")
        made.writestr("secret", "s")
    packed = bytearray(out.getvalue())
    packed[packed.rindex(b"PK\x01\x02", 0, packed.rindex(b"PK\x01\x02")) + 10] = 98
    for mark, flags in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        at = packed.rindex(mark)
        packed[at + flags] |= 1
    plant(here / "t", {"x.zip": bytes(packed)})
    corpus = collect(["t"], spool=spool)
    assert contents(corpus) == {"x.zip/a.txt": b"a", "x.zip/bz": b"b" * 100}
    assert reasons(corpus) == [
        ("t/x.zip/link", "special", "a symbolic link"),
        ("t/x.zip/odd", "unreadable", "compression method 98 inside a zip: unpack it first"),
        ("t/x.zip/secret", "unreadable", "encryption: unpack it first, with its password"),
    ]


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_every_method_of_a_zip(here: Path, spool: Path, method: int) -> None:
    """Whole, also when it is empty or larger than a piece; a bit that fell over is damage, not text."""
    files = {"empty": b"", "small": b"x", "large": LINES * 500, "noise": os.urandom(300_000).hex().encode()}
    packed = zipped(files, method=method)
    plant(
        here,
        {"x.zip": packed, "bad.zip": packed[:5000] + bytes(byte ^ 1 for byte in packed[5000:5008]) + packed[5008:]},
    )
    assert contents(collect(["x.zip"], spool=spool)) == files
    assert failed("bad.zip", spool=fresh(spool)).code == "unreadable"


@given(st.binary(max_size=3000), st.integers(0, 4), st.integers(0, 4), st.integers(0, 4), st.binary(max_size=40))
def test_lzma_in_a_zip(data: bytes, lc: int, lp: int, pb: int, noise: bytes) -> None:
    """Any properties the format allows give the bytes back; noise gives damage, and nothing else."""
    if lc + lp <= 4:
        filters = [{"id": lzma.FILTER_LZMA1, "dict_size": 1 << 16, "lc": lc, "lp": lp, "pb": pb}]
        raw = io.BytesIO(lzma.compress(data, lzma.FORMAT_RAW, filters=filters))
        properties = struct.pack("<BI", (pb * 5 + lp) * 9 + lc, 1 << 16)
        assert b"".join(raw_lzma(raw.read, properties, len(data))) == data
    with suppress(DamagedError):
        b"".join(raw_lzma(io.BytesIO(noise[5:]).read, noise[:5], 100))


def test_archives_in_archives_are_opened(here: Path, spool: Path) -> None:
    """So are compressed files in them (log bundles are made of both). Damage to one entry's own compression costs that
    entry."""
    gz = PACKERS[".gz"]
    inner = {
        "app.log.gz": gz(LINES),
        "b.log": b"b",
        "b.log.gz": gz(b"2"),
        "bad.gz": gz(LINES)[:-9],
        "in.tar": tarred({"x": b"x"}),
        "in.tgz": gz(tarred({"x": b"x"})),
        "in.zip": zipped({"x": b"x"}),
        "last": b"l",
    }
    plant(here / "t", {"x.zip": zipped(inner), "y.tar.gz": gz(tarred(inner))})
    corpus = collect(["t"], spool=spool)
    read = {"app.log": LINES, "b.log": b"b", "b.log.gz": b"2", "last": b"l"}
    read |= {f"in.{kind}/x": b"x" for kind in ("tar", "tgz", "zip")}
    assert contents(corpus) == {f"{top}/{name}": read[name] for top in ("x.zip", "y.tar.gz") for name in read}
    assert reasons(corpus) == [
        (f"t/{top}/bad.gz", "unreadable", "it ends in the middle") for top in ("x.zip", "y.tar.gz")
    ]


def test_nests_have_a_depth_and_share_the_limits(here: Path, spool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three deep and no deeper, by name; what is damaged inside costs itself alone, and leaves nothing behind; entries
    and the ratio are counted over the whole nest."""
    nest = zipped({"deep.txt": b"4"})
    for level in (3, 2, 1):
        nest = zipped({f"in{level}.zip": nest, f"{level}.txt": b"x", f".h{level}": b"h"})
    bad = zipped({"one": b"1" * 2000, "two": b"2" * 2000}, method=zipfile.ZIP_STORED)
    plant(
        here,
        {
            "n.zip": nest,
            "d.zip": zipped({"bad.zip": bad[:3000] + b"?" + bad[3001:], "good": b"g", "bad.zip/one": b"1"}),
        },
    )
    corpus = collect(["n.zip"], spool=spool)
    assert contents(corpus) == {"1.txt": b"x", "in1.zip/2.txt": b"x", "in1.zip/in2.zip/3.txt": b"x"}
    assert reasons(corpus) == [
        ("n.zip/.h1", "hidden", ""),
        ("n.zip/in1.zip/.h2", "hidden", ""),
        ("n.zip/in1.zip/in2.zip/.h3", "hidden", ""),
        ("n.zip/in1.zip/in2.zip/in3.zip", "too_large", "archives are opened 3 deep: unpack it first"),
    ]
    chosen = collect(["n.zip"], SourceOptions(globs=("3.txt",)), spool=fresh(spool))
    assert contents(chosen) == {"in1.zip/in2.zip/3.txt": b"x"}
    damaged = collect(["d.zip"], spool=fresh(spool))
    assert (contents(damaged), [skip[:2] for skip in reasons(damaged)]) == (
        {"good": b"g", "bad.zip/one": b"1"},
        [("d.zip/bad.zip", "unreadable")],
    )
    assert sum(path.is_file() for path in fresh_files(damaged)) == 2
    many = zipped({"a.zip": zipped(dict.fromkeys("abc", b"x")), "b.zip": zipped(dict.fromkeys("abc", b"x"))})
    plant(here, {"m.zip": many})
    monkeypatch.setattr(opening, "MOST_ENTRIES", 7)
    assert failed("m.zip", spool=fresh(spool)).code == "archive_refused"
    monkeypatch.setattr(opening, "MOST_ENTRIES", 8)
    assert len(collect(["m.zip"], spool=fresh(spool)).documents) == 6


def fresh_files(corpus: Corpus) -> Iterator[Path]:
    """What lies where the documents of the corpus do."""
    return corpus.documents[0].path.parent.iterdir()


@pytest.mark.parametrize("name", ["a.gz", "a.bz2", "a.xz", "a.lzma", "a.zip", "a.tar", "a.tar.gz", "b.tar"])
def test_a_damaged_archive_gives_nothing(here: Path, spool: Path, name: str) -> None:
    """Cut off, or (b.tar) with a damaged header in the middle: skipped with its reason in a folder, an error by name;
    never the first half."""
    files = {"one": os.urandom(3000), "two": os.urandom(3000)}
    whole = {
        ".gz": PACKERS[".gz"](LINES),
        ".bz2": bz2.compress(LINES),
        ".xz": lzma.compress(LINES),
        ".lzma": lzma_alone(LINES),
        ".zip": zipped(files),
        ".tar": tarred(files),
        ".tar.gz": gzip.compress(tarred(files)),
    }[name[1:]]
    if name == "b.tar":
        damaged = bytearray(whole)
        damaged[512 + 3072 : 512 + 3082] = b"not a name"
    else:
        damaged = bytearray(whole[: len(whole) * 2 // 3 if name != "a.tar" else 4000])
    plant(here / "t", {name: bytes(damaged), "plain": "p"})
    corpus = collect(["t"], spool=spool)
    assert (contents(corpus), [skip[:2] for skip in reasons(corpus)]) == (
        {"plain": b"p"},
        [(f"t/{name}", "unreadable")],
    )
    error = failed(f"t/{name}", spool=fresh(spool))
    assert (error.code, f"t/{name} cannot be opened" in error.message) == ("unreadable", True)


# -- limits ----------------------------------------------------------------------------------------------------------


def bomb(pack: Pack, size: int = 96 << 20) -> bytes:
    return pack(bytes(size))


@pytest.mark.parametrize("name", ["a.gz", "a.bz2", "a.xz", "a.zst", "a.tgz", "a.zip", "n.zip"])
def test_a_bomb_is_refused_by_name(here: Path, spool: Path, name: str) -> None:
    """96 MiB of zeros in almost nothing (n.zip: as a .gz in a zip): an error by name, a reason in a folder, and memory
    of a few MiB. max_input plays no part."""
    packers: dict[str, Pack] = {
        **{f"a{suffix}": pack for suffix, pack in PACKERS.items()},
        "a.tgz": lambda data: gzip.compress(tarred({"zeros": data})),
        "a.zip": lambda data: zipped({"zeros": data}),
        "n.zip": lambda data: zipped({"zeros.gz": gzip.compress(data)}),
    }
    options = SourceOptions(unrestricted=3, max_input=None)
    plant(here / "t", {name: bomb(packers[name]), "plain": "p"})
    tracemalloc.start()
    try:
        corpus = collect(["t"], options, spool=spool)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (contents(corpus), [skip[:2] for skip in reasons(corpus)]) == (
        {"plain": b"p"},
        [(f"t/{name}", "too_large")],
    )
    assert [path for path in spool.rglob("*") if path.is_file()] == []
    assert peak < 16 * PIECE
    error = failed(f"t/{name}", spool=fresh(spool), options=options)
    assert (error.code, "like a zip bomb" in error.message) == ("archive_refused", True)


def test_a_tar_cannot_fill_memory_with_a_description(here: Path, spool: Path) -> None:
    """A name of 8 MiB, which tarfile would keep in memory, is damage."""
    plant(here / "t", {"x.tar": tarred({"n" * (8 << 20): b"x"}), "plain": "p"})
    corpus = collect(["t"], spool=spool)
    assert reasons(corpus) == [
        ("t/x.tar", "unreadable", "it is damaged or cut off: the description of an entry is too long")
    ]


def test_too_many_entries_are_refused(here: Path, spool: Path) -> None:
    """Counted as they come, folders and left-out ones too: here, hidden names without content."""
    many = io.BytesIO()
    for number in range(opening.MOST_ENTRIES + 1):
        many.write(tarfile.TarInfo(f".{number}").tobuf(tarfile.USTAR_FORMAT))
    many.write(bytes(1024))
    plant(here / "t", {"x.tgz": gzip.compress(many.getvalue(), 1), "plain": "p"})
    assert reasons(collect(["t"], spool=spool)) == [("t/x.tgz", "too_large", "it has more than 100,000 entries")]
    assert failed("t/x.tgz", spool=fresh(spool)).code == "archive_refused"


def test_ten_thousand_entries(here: Path, spool: Path) -> None:
    """All there, in order, with progress that only grows."""
    plant(here / "t", {"x.zip": zipped({f"d{n % 50}/{n}.txt": b"%d" % n for n in range(10_000)})})
    seen: list[tuple[int, int]] = []
    corpus = collect(["t"], spool=spool, on_progress=lambda files, size: seen.append((files, size)))
    assert (corpus.facts.files, corpus.facts.bytes) == (10_000, sum(len(str(n)) for n in range(10_000)))
    assert (seen == sorted(seen), seen[-1][0] > 9_000) == (True, True)


def test_max_input_counts_what_comes_out(here: Path, spool: Path) -> None:
    """Plain files, stdin and unpacked bytes together, to the byte; more is an error, in a folder too, before it is on
    the disk; what is left out does not count."""
    stdin = Document("stdin", str(here / "in"), 5, origin="stdin", sha256="00")
    packed = zipped({"1": b"y" * 500, "bin": b"\0" * 9000})
    plant(here, {"t/a.gz": gzip.compress(b"x" * 3000), "t/b.zip": packed, "t/c": "z" * 10, "in": "stdin"})
    corpus = collect(
        ["t", "-"], SourceOptions(max_input=3515), received=[Received("-", stdin, ("stdin",))], spool=spool
    )
    assert corpus.facts.bytes == 3515
    with pytest.raises(InputError) as caught:
        collect(
            ["t", "-"], SourceOptions(max_input=3514), received=[Received("-", stdin, ("stdin",))], spool=fresh(spool)
        )
    assert (caught.value.code, "b.zip" in caught.value.message) == ("over_max_input", True)
    error = failed("t", spool=fresh(spool), options=SourceOptions(max_input=9))
    assert (error.code, "the largest: c (10 B)" in error.message) == ("over_max_input", True)
    big = gzip.compress(bytes(range(32, 127)) * 50_000)
    plant(here, {"u/big.gz": big})
    assert failed("u", spool=fresh(spool), options=SourceOptions(max_input=1000)).code == "over_max_input"


# -- the disk --------------------------------------------------------------------------------------------------------


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """No file may grow larger, as on a full disk (Python ignores the signal, and gets an error)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("name", ["a.gz", "a.zip", "a.tgz"])
def test_a_full_disk_is_an_error_that_leaves_nothing(here: Path, spool: Path, name: str) -> None:
    """H10: the system's own words, and no file, although one entry had been written."""
    files = {"first": b"1", "second": LINES}
    data = {"a.gz": gzip.compress(LINES), "a.zip": zipped(files), "a.tgz": gzip.compress(tarred(files))}[name]
    plant(here / "t", {name: data, "plain": "p"})
    with files_up_to(50_000):
        error = failed("t", spool=spool)
    assert (error.code, str(spool) in error.message) == ("disk", True)


def test_unpacked_files_are_private_and_stopping_removes_them(here: Path, spool: Path) -> None:
    """0600 in 0700, all below one folder; whoever stops the reading, or finds nothing to read, leaves nothing."""
    plant(here / "t", {"x.zip": zipped({"a": b"1", "b": LINES}), "y.gz": gzip.compress(LINES)})
    collect(["t"], spool=spool)
    modes = {(path.is_dir(), stat.S_IMODE(path.stat().st_mode)) for path in spool.rglob("*")}
    assert modes == {(True, 0o700), (False, 0o600)}
    assert [path.name for path in spool.iterdir()] == [FOLDER]

    def stop(files: int, size: int) -> None:
        if size > len(LINES):
            raise KeyboardInterrupt

    other = fresh(spool)
    with pytest.raises(KeyboardInterrupt):
        collect(["t"], spool=other, on_progress=stop)
    assert list(other.iterdir()) == []
    plant(here, {"e/x.zip": zipped({"a": b""}), "b/x.zip": zipped({"a": b"\0"}), "d/x.gz": gzip.compress(LINES)[:-1]})
    errors = [failed(word, spool=fresh(spool)) for word in ("e", "b", "d")]
    assert [error.code for error in errors] == ["empty", "all_skipped", "all_skipped"]
    assert "1 of them unreadable: it is damaged or cut off: it ends in the middle" in errors[2].message
    assert "permissions" not in errors[2].hint


def test_without_a_place_or_with_the_switch_off_nothing_is_opened(here: Path, spool: Path) -> None:
    """`sources.archives = false`, or no spool: compressed files are binary files, taken raw by name or with -uuu."""
    packed = gzip.compress(b"x\0" * 50)
    plant(here / "t", {"a.gz": packed, "b": "b"})
    off = SourceOptions(archives=False)
    assert contents(collect(["t"], off, spool=spool)) == contents(collect(["t"])) == {"b": b"b"}
    assert contents(collect(["t/a.gz"], off, spool=spool)) == {"a.gz": packed}
    assert contents(collect(["t/a.gz"], spool=spool)) == {"a": b"x\0" * 50}


def test_an_archive_is_opened_once(here: Path, spool: Path) -> None:
    """Named and in a folder: one set of documents; the name makes its damage an error. The manifest notices changes."""
    plant(here / "t", {"x.zip": zipped({"a": b"1"}), "bad.gz": gzip.compress(LINES)[:-4]})
    twice = collect(["t", "t/x.zip"], spool=spool)
    assert [document.name for document in twice.documents] == ["t/x.zip/a"]
    assert failed("t", "t/bad.gz", spool=fresh(spool)).code == "unreadable"
    first, again = (collect(["t"], spool=fresh(spool)).facts for _ in range(2))
    os.utime(here / "t/x.zip", ns=(0, 1))
    assert (first == again, collect(["t"], spool=fresh(spool)).facts == first) == (True, False)


def test_magic_is_not_a_guess() -> None:
    """Text and empty files are nothing; every packer's output is its own kind."""
    assert [kind_of(head) for head in (b"", b"BZh9 is text", b"PK", b"\x5d\0\0", b"hello" * 200, bytes(512))] == [
        None
    ] * 6
    assert {suffix: kind_of(PACKERS[suffix](b"x")) for suffix in (".gz", ".bz2", ".xz", ".lzma")} == {
        suffix: CODECS[suffix] for suffix in (".gz", ".bz2", ".xz", ".lzma")
    }


def test_holes_in_a_tar_are_not_filled(here: Path, spool: Path) -> None:
    """A sparse entry that claims a terabyte costs nothing: it is left out, and what follows it is read."""
    hole = tarfile.TarInfo("hole")
    header = bytearray(hole.tobuf(tarfile.GNU_FORMAT))
    header[156:157] = b"S"
    # One block of nothing at the end of a terabyte (GNU's map of holes and the real size).
    header[386:398], header[398:410] = tarfile_number(1 << 40), tarfile_number(0)
    header[483:495] = tarfile_number(1 << 40)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    plant(here / "t", {"x.tar": bytes(header) + tarred({"after": b"a"})})
    corpus = collect(["t"], spool=spool)
    assert contents(corpus) == {"x.tar/after": b"a"}
    assert reasons(corpus) == [("t/x.tar/hole", "special", "a file with holes: unpack it first")]


def tarfile_number(value: int) -> bytes:
    """Twelve bytes of a tar's header, in base 256."""
    return b"\x80" + value.to_bytes(11, "big")


def test_damage_below_damage_is_the_archives(here: Path, spool: Path) -> None:
    """A .tar.gz cut off inside an entry that is itself compressed is damaged as a whole: the entry is not to blame."""
    noise = os.urandom(3 * PIECE).hex().encode()
    whole = gzip.compress(tarred({"first": b"1", "in.gz": gzip.compress(noise), "last": b"l"}))
    plant(here / "t", {"x.tar.gz": whole[: 2 * PIECE + 1000], "plain": "p"})
    corpus = collect(["t"], spool=spool)
    assert reasons(corpus) == [("t/x.tar.gz", "unreadable", "it is damaged or cut off: it ends in the middle")]


def test_what_a_damaged_archive_gave_up_counts_no_more(here: Path, spool: Path) -> None:
    """--max-input holds for what is read: bytes of an archive that was dropped leave room for the next one."""
    bad = gzip.compress(bytes(range(33, 127)) * 20_000)[:-4]
    plant(here / "t", {"a.gz": bad, "b.gz": gzip.compress(b"x" * 2_000_000)})
    corpus = collect(["t"], SourceOptions(max_input=2_000_000), spool=spool)
    assert (corpus.facts.files, corpus.facts.bytes, len(corpus.skips)) == (1, 2_000_000, 1)


def test_a_zip_cannot_fill_memory_with_its_list(here: Path, spool: Path) -> None:
    """zipfile reads the list of entries whole, whatever its size: one of 17 MiB is refused before it is read."""
    size = opening.MOST_DIRECTORY + PIECE
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, size, 0, 0)
    plant(here / "t", {"x.zip": b"PK\x03\x04" + bytes(size - 4) + end, "plain": "p"})
    assert "its list of entries is larger than" in collect(["t"], spool=spool).skips[0].rule
