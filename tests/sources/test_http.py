"""URLs, against a real server on loopback that breaks off, changes its mind and lies."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import ssl
import stat
import subprocess
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm_cli.disk import Room
from rlm_cli.errors import InputError
from rlm_cli.sources.http import Errand, Fetched, Patience, Progress, fetch
from rlm_cli.sources.urls import LONGEST_NAME, name_parts, shown

from .web import TAG, Page, Reply, Web, closed_port, deaf_server, entity

BODY = bytes(range(256)) * 4000


@dataclass
class Desk:
    """A cache, and what was said and waited for."""

    folder: Path
    said: list[str] = field(default_factory=list)
    waited: list[float] = field(default_factory=list)
    progress: list[Progress] = field(default_factory=list)

    def errand(self, url: str, **changes: Any) -> Errand:
        room = Room(self.folder, lambda _: (1 << 50, 1 << 49))
        made = Errand(
            url,
            self.folder / "cache",
            room,
            patience=Patience(connect_s=5, stall_s=20, attempts=3, first_pause_s=0.5, longest_pause_s=60),
            received=self.progress.append,
            says=self.said.append,
            pause=self.waited.append,
        )
        return replace(made, **changes)

    def fetch(self, url: str, **changes: Any) -> Fetched:
        target = self.folder / "target"
        target.unlink(missing_ok=True)
        return fetch(self.errand(url, **changes), target)

    def refused(self, url: str, **changes: Any) -> InputError:
        with pytest.raises(InputError) as caught:
            self.fetch(url, **changes)
        assert not (self.folder / "target").exists()
        return caught.value

    def kept(self) -> dict[str, int]:
        """What the cache keeps, by suffix."""
        return {path.suffix: path.stat().st_size for path in sorted((self.folder / "cache").iterdir())}


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    return Desk(tmp_path)


def served(desk: Desk, page: Page | Reply, **changes: Any) -> tuple[Fetched, Web]:
    with Web({"/a.log": page}) as web:
        return desk.fetch(web.url("/a.log"), **changes), web


def ranges(web: Web) -> list[str]:
    return [asked.headers.get("range", "") for asked in web.asked]


# -- the plain case -------------------------------------------------------------------------------------------------


def test_a_page_arrives_whole_private_and_hashed(desk: Desk) -> None:
    """Bytes, hash, name, charset; progress up to the last byte; 0600, and nothing left in the cache."""
    got, web = served(desk, Reply(BODY, headers={"Content-Type": "text/plain; charset=ISO-8859-1"}))
    assert (got.path.read_bytes(), stat.S_IMODE(got.path.stat().st_mode)) == (BODY, 0o600)
    digest = hashlib.sha256(BODY).hexdigest()
    assert (got.size, got.sha256, got.parts[-1], got.charset) == (len(BODY), digest, "a.log", "iso-8859-1")
    assert (got.media, desk.progress[-1][:2], desk.kept()) == ("text/plain", (len(BODY), len(BODY)), {})
    assert [(asked.headers["accept-encoding"], "range" in asked.headers) for asked in web.asked] == [
        ("identity", False)
    ]
    assert stat.S_IMODE((desk.folder / "cache").stat().st_mode) == 0o700


def test_an_empty_page_and_one_without_a_length(desk: Desk) -> None:
    """Zero bytes are an entity; HTTP/1.0 ends a body by hanging up."""
    assert served(desk, Reply(b""))[0].size == 0
    assert served(desk, Reply(BODY, bare=True))[0].path.read_bytes() == BODY
    assert desk.progress[-1].total is None


def test_a_server_that_insists_on_gzip_is_understood(desk: Desk) -> None:
    """The document is what was compressed; a damaged coding, a bomb and a coding we did not ask for are errors."""
    coded = gzip.compress(BODY)
    got, _ = served(desk, Reply(coded, headers={"Content-Encoding": "gzip", "ETag": TAG}))
    assert (got.path.read_bytes(), got.size, got.sha256) == (BODY, len(BODY), hashlib.sha256(BODY).hexdigest())
    bomb = zlib.compressobj(wbits=31)
    zeros = b"".join([*(bomb.compress(bytes(1 << 20)) for _ in range(80)), bomb.flush()])
    codes: list[str] = []
    for coding, body in (("gzip", coded[:-9]), ("gzip", zeros), ("br", b"x")):
        with Web({"/a": Reply(body, headers={"Content-Encoding": coding})}) as web, pytest.raises(InputError) as caught:
            fetch(desk.errand(web.url("/a")), desk.folder / f"t{len(codes)}")
        codes.append(caught.value.code)
    assert codes == ["incomplete", "archive_refused", "http_encoding"]


# -- transfers that break -------------------------------------------------------------------------------------------


def test_a_broken_transfer_goes_on_where_it_stopped(desk: Desk) -> None:
    """Range with If-Range; progress never goes back; the bytes and the hash are those of the whole."""
    got, web = served(desk, entity(BODY, cuts=(100_000, 300_000)))
    assert (got.path.read_bytes(), got.sha256) == (BODY, hashlib.sha256(BODY).hexdigest())
    assert ranges(web) == ["", "bytes=100000-", "bytes=400000-"]
    assert {asked.headers.get("if-range") for asked in web.asked[1:]} == {TAG}
    assert ([at.done for at in desk.progress] == sorted(at.done for at in desk.progress), desk.waited) == (
        True,
        [0.5, 0.5],
    )
    assert "the connection broke; trying again in" in desk.said[0]


def test_an_entity_that_changed_is_fetched_anew(desk: Desk) -> None:
    """If-Range fails: the new one, from its first byte, and nothing of the old one."""
    new = BODY[::-1]

    def page(asked: Any, seen: int) -> Reply:
        return entity(BODY, cuts=(1000,))(asked, 0) if seen == 0 else entity(new, tag='"v2"')(asked, seen)

    got, web = served(desk, page)
    assert (got.path.read_bytes() == new, ranges(web)) == (True, ["", "bytes=1000-"])


@pytest.mark.parametrize(
    "lie",
    [
        {"Content-Range": "bytes 0-999/1024000"},
        {"Content-Range": "bytes 1000-1023999/99"},
        {"Content-Range": "nonsense"},
        {"ETag": '"other"', "Content-Range": "bytes 1000-1023999/1024000"},
    ],
)
def test_a_part_that_was_not_asked_for_is_never_put_in(desk: Desk, lie: Mapping[str, str]) -> None:
    """A 206 that does not continue what is there: the transfer starts over."""

    def page(asked: Any, seen: int) -> Reply:
        if seen == 1:
            return Reply(b"garbage", 206, lie)
        return entity(BODY, cuts=(1000,) if seen == 0 else ())(asked, 0)

    got, web = served(desk, page)
    assert (got.path.read_bytes() == BODY, ranges(web)) == (True, ["", "bytes=1000-", ""])


@pytest.mark.parametrize("headers", [{}, {"ETag": 'W/"weak"'}, {"ETag": TAG, "Accept-Ranges": "none"}])
def test_without_a_promise_it_starts_over(desk: Desk, headers: Mapping[str, str]) -> None:
    """No strong validator, or no ranges: from the first byte, a bounded number of times, and nothing is kept."""
    got, web = served(desk, lambda _, seen: Reply(BODY, headers=headers, cut=1000 if seen == 0 else None))
    assert (got.path.read_bytes() == BODY, ranges(web)) == (True, ["", ""])
    with Web({"/a": Reply(BODY, headers=headers, cut=1000)}) as web:
        error = desk.refused(web.url("/a"))
        assert len(web.asked) == 3
    assert (error.code, "after 1.0 kB of 1.0 MB" in error.message, desk.kept()) == ("incomplete", True, {})


def test_a_date_is_a_validator_when_it_is_old_enough(desk: Desk) -> None:
    """RFC 9110: Last-Modified tells versions apart only when the entity was at rest for a second."""
    old, now = "Sat, 01 Jan 2000 00:00:00 GMT", "Sat, 01 Jan 2000 00:00:09 GMT"
    sent: list[str] = []
    for modified in (old, now):
        page = Reply(BODY, headers={"Last-Modified": modified, "Date": now}, cut=1000)
        with Web({"/a": page}) as web:
            desk.refused(web.url("/a"))
            sent.append(web.asked[1].headers.get("if-range", ""))
    assert sent == [old, ""]


def test_the_next_command_goes_on(desk: Desk) -> None:
    """What arrived stays, private, when it can be continued; the next command fetches the rest, and cleans up."""
    with Web({"/a": entity(BODY, cuts=(5000, 0, 0, 0))}) as web:
        error = desk.refused(web.url("/a"))
        kept = desk.kept()
        modes = {stat.S_IMODE(path.stat().st_mode) for path in (desk.folder / "cache").iterdir()}
        got = desk.fetch(web.url("/a"))
    assert (error.code, "goes on where" in error.hint, kept[".part"], modes) == ("incomplete", True, 5000, {0o600})
    assert (got.path.read_bytes() == BODY, got.sha256, desk.kept()) == (True, hashlib.sha256(BODY).hexdigest(), {})
    assert ranges(web)[-1] == "bytes=5000-"


def test_ctrl_c_keeps_what_arrived(desk: Desk) -> None:
    """An interrupt in the middle of the body; a later command continues; another URL's part is not touched."""

    def interrupt(at: Progress) -> None:
        raise KeyboardInterrupt

    with Web({"/a": entity(BODY), "/b": entity(b"other")}) as web:
        with pytest.raises(KeyboardInterrupt):
            desk.fetch(web.url("/a"), received=interrupt)
        part = desk.kept()[".part"]
        assert desk.fetch(web.url("/b")).path.read_bytes() == b"other"
        assert (0 < part <= len(BODY), desk.kept()[".part"]) == (True, part)
        assert desk.fetch(web.url("/a")).path.read_bytes() == BODY
    assert ranges(web)[-1] == f"bytes={min(part, len(BODY) - 1)}-"


@pytest.mark.parametrize("note", [b"", b"[]", b'{"validator": 5, "total": 1}', b'{"evil": 1}', b'{"validator": "", "x'])
def test_a_cache_that_was_tampered_with_is_started_over(desk: Desk, note: bytes) -> None:
    """What the note beside a part says is checked; bytes nobody vouches for are dropped."""
    with Web({"/a": entity(BODY, cuts=(5000, 0, 0, 0))}) as web:
        desk.refused(web.url("/a"))
        next((desk.folder / "cache").glob("*.json")).write_bytes(note)
        assert desk.fetch(web.url("/a")).path.read_bytes() == BODY
    assert ranges(web)[-1] == ""


def test_two_commands_fetch_the_same_url(desk: Desk) -> None:
    """The second does not wait for the first and does not touch its part."""
    inner: list[bytes] = []

    def meanwhile(at: Progress) -> None:
        if not inner:
            inner.append(b"")
            other = fetch(desk.errand(web.url("/a"), received=lambda _: None), desk.folder / "second")
            inner.append(other.path.read_bytes())

    with Web({"/a": entity(BODY)}) as web:
        first = desk.fetch(web.url("/a"), received=meanwhile)
    assert (first.path.read_bytes() == BODY, inner[1] == BODY, desk.kept()) == (True, True, {})


# -- what servers say -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("status", "attempts"), [(500, 3), (503, 3), (429, 3), (404, 1), (403, 1), (410, 1), (204, 1)])
def test_statuses(desk: Desk, status: int, attempts: int) -> None:
    """What may pass is tried again, a bounded number of times; the rest is an error at once, with its number."""
    with Web({"/a": Reply(b"" if status == 204 else b"no", status)}) as web:
        error = desk.refused(web.url("/a"))
        assert len(web.asked) == attempts
    assert (error.exit_code, str(status) in error.message, bool(error.hint)) == (8, True, True)


def test_retry_after_is_obeyed_within_reason(desk: Desk) -> None:
    """Seconds or a date; an hour is told to the person instead of waited."""
    date = {"Date": "Sat, 01 Jan 2000 00:00:00 GMT", "Retry-After": "Sat, 01 Jan 2000 00:00:07 GMT"}
    waits = [{"Retry-After": "3"}, date]
    page: Page = lambda _, seen: Reply(b"", 503, waits[seen]) if seen < 2 else Reply(b"x")  # noqa: E731
    assert (served(desk, page)[0].size, desk.waited) == (1, [3.0, 7.0])
    with Web({"/a": Reply(b"", 429, {"Retry-After": "3600"})}) as web:
        assert "it asks to wait 1 h 00 min" in desk.refused(web.url("/a")).message


def test_redirects(desk: Desk) -> None:
    """Followed, ten at most, to http and https only; the name is that of the address that was written."""
    hops: dict[str, Page | Reply] = {f"/{n}": Reply(b"", 302, {"Location": f"/{n + 1}"}) for n in range(20)}
    hops["/10"] = Reply(b"here")
    file = Reply(b"", 301, {"Location": "file:///etc/passwd"})
    with Web({**hops, "/file": file, "/none": Reply(b"", 302)}) as web:
        got = desk.fetch(web.url("/0"))
        assert (got.path.read_bytes(), got.parts[-1]) == (b"here", "0")
        hops["/10"] = Reply(b"", 302, {"Location": "/11"})
        web.pages["/10"] = hops["/10"]
        refusals = [desk.refused(web.url(path)).message for path in ("/0", "/file", "/none")]
    assert [
        words in text for words, text in zip(("more than 10", "file:///etc", "no http"), refusals, strict=True)
    ] == [True] * 3


def test_a_password_goes_to_its_own_server_only(desk: Desk) -> None:
    """Basic authentication from the address; not to the server it redirects to; in no message and no file name."""
    with Web({"/x": Reply(b"x")}) as other, Web({"/a": Reply(b"", 302, {"Location": other.url("/x")})}) as web:
        got = desk.fetch(web.url("/a", "user:p%40ss"))
        seen = (web.asked[0].headers["authorization"], "authorization" in other.asked[0].headers)
        web.pages["/a"] = Reply(b"", 500)
        error = desk.refused(web.url("/a", "user:p%40ss"))
    assert seen == ("Basic dXNlcjpwQHNz", False)
    words = [error.message, error.hint, *desk.said, *got.parts, *desk.kept()]
    assert [word for word in words if "p%40ss" in word or "user" in word] == []


# -- limits and failures of the network -----------------------------------------------------------------------------


@pytest.mark.parametrize("bare", [False, True])
def test_the_cap_holds_whatever_the_server_says(desk: Desk, bare: bool) -> None:
    """A known length is refused before a byte is stored; an unknown one where it passes the limit. Nothing is kept."""
    headers = {} if bare else {"ETag": TAG}
    with Web({"/a": Reply(BODY, headers=headers, bare=bare)}) as web:
        assert desk.refused(web.url("/a"), limit=len(BODY) - 1).code == "over_max_input"
        assert (desk.kept(), bool(desk.progress)) == ({}, bare)
        assert desk.fetch(web.url("/a"), limit=len(BODY)).size == len(BODY)


def test_a_disk_that_would_fill_up_is_left_alone(desk: Desk) -> None:
    """Before anything is stored when the length is known."""
    room = Room(desk.folder, lambda _: (100 << 30, 6 << 30))
    huge = Reply(b"", headers={"Content-Length": str(2 << 30)}, cut=0)
    with Web({"/a": huge}) as web:
        error = desk.refused(web.url("/a"), room=room)
    assert (error.code, str(desk.folder) in error.message, "RLM_HOME" in error.hint) == ("disk", True, True)


def test_no_server_and_no_host(desk: Desk) -> None:
    """Said in words, at once."""
    refused = desk.refused(f"http://127.0.0.1:{closed_port()}/")
    unknown = desk.refused("http://no-such-host.invalid/x")
    assert (refused.code, "Connection refused" in refused.message, desk.waited) == ("unreachable", True, [])
    assert (unknown.code, "'no-such-host.invalid' was not found" in unknown.message) == ("unreachable", True)


@pytest.mark.parametrize(
    "url", ["http://", "http://[::1", "https:///x", "http://a b/", "http://x:99999999/", "http://\x00/"]
)
def test_what_is_no_url(desk: Desk, url: str) -> None:
    assert desk.refused(url).code in ("url", "unreachable")


def test_a_server_that_says_nothing(desk: Desk) -> None:
    """A stall ends, and is tried a bounded number of times."""
    with deaf_server() as url:
        error = desk.refused(url, patience=Patience(stall_s=0.05, attempts=2))
    assert (error.code, "nothing came for 50 ms" in error.message) == ("incomplete", True)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes a certificate")
def test_a_certificate_nobody_vouches_for_is_refused(desk: Desk) -> None:
    """TLS is verified; SSL_CERT_FILE is how to vouch for one."""
    key, certificate = desk.folder / "key.pem", desk.folder / "cert.pem"
    words = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", "/CN=x"]
    line = ["openssl", "req", "-x509", *words, "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key)]
    subprocess.run([*line, "-out", str(certificate)], check=True, capture_output=True, timeout=60)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with Web({"/a": Reply(b"x")}) as web:
        web.http.socket = context.wrap_socket(web.http.socket, server_side=True)
        url = web.url("/a").replace("http:", "https:")
        error = desk.refused(url)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SSL_CERT_FILE", str(certificate))
            assert desk.fetch(url).size == 1
    assert (error.code, "certificate" in error.message, "SSL_CERT_FILE" in error.hint) == ("tls", True, True)


def test_a_proxy_comes_from_the_environment(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """HTTP_PROXY is asked for the whole address."""
    with Web({"http://nowhere.invalid/a": Reply(b"through")}) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url(""))
        assert desk.fetch("http://nowhere.invalid/a").path.read_bytes() == b"through"


# -- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "plain"),
    [
        ("logs/", "logs/"),
        ("HTTP://u:p@x.org/a", "http://x.org/a"),
        ("https://u@x.org:8080/a?b=c#frag", "https://x.org:8080/a?b=c"),
        ("https://x.org/?access_token=s3&page=2", "https://x.org/?access_token=…&page=2"),
        ("https://x.org/?X-Amz-Signature=ab&sig=q&code=1", "https://x.org/?X-Amz-Signature=…&sig=…&code=…"),
        ("https://x.org/?v=eyJhbGciOiJIUzI1NiIsInR5cCI6", "https://x.org/?v=…"),
        ("https://a@b:c@x.org/a@b", "https://x.org/a@b"),
    ],
)
def test_secrets_are_not_shown(word: str, plain: str) -> None:
    assert shown(word) == plain


@pytest.mark.parametrize(
    ("url", "disposition", "parts"),
    [
        ("https://x.org/logs/app%20one.log?x=1", "", ("x.org", "logs", "app one.log")),
        ("https://x.org", "", ("x.org",)),
        ("https://x.org/d/", "", ("x.org", "d")),
        ("https://x.org/a/../b%2fc", "", ("x.org", "a", "b_c")),
        ("https://x.org/dl", 'attachment; filename="../../etc/passwd"', ("x.org", "passwd")),
        ("https://x.org/dl", 'attachment; filename="C:\\\\x\\\\y.txt"', ("x.org", "y.txt")),
        ("https://x.org/dl", "attachment; filename*=UTF-8''na%C3%AFve%0A.txt", ("x.org", "naïve_.txt")),
        ("https://x.org/dl", 'attachment; filename=".."', ("x.org", "dl")),
        ("https://x.org/dl", "inline", ("x.org", "dl")),
    ],
)
def test_names(url: str, disposition: str, parts: tuple[str, ...]) -> None:
    assert name_parts(url, disposition) == parts


@given(st.text(), st.text())
def test_no_header_makes_a_path_of_a_name(path: str, header: str) -> None:
    """Whatever server and address say: parts without slash, control characters or dots alone, of bounded length."""
    for parts in (name_parts(f"https://x.org/{path}", header), name_parts(f"https://x/{path}", f'filename="{header}"')):
        assert parts
        for part in parts:
            assert part not in ("", ".", "..")
            assert not any(char == "/" or ord(char) < 32 for char in part)
            assert len(part.encode("utf-8", "replace")) <= LONGEST_NAME


@given(st.text(st.characters(exclude_characters="/?#"), max_size=20), st.text(max_size=30))
def test_userinfo_is_never_shown(userinfo: str, rest: str) -> None:
    """Everything up to the last @ of the authority goes."""
    assert shown(f"https://{userinfo}@host/{rest}").startswith("https://host/")


def test_the_notes_name_no_url(desk: Desk) -> None:
    """What stays in the cache says nothing of where it came from."""
    with Web({"/a": entity(BODY, cuts=(5000, 0, 0, 0))}) as web:
        desk.refused(web.url("/a", "user:pw"))
    note = next((desk.folder / "cache").glob("*.json"))
    assert json.loads(note.read_text()) == {"validator": TAG, "total": len(BODY), "coding": ""}
