"""`https://...` -> a file: the only importer of httpx. What is fetched is what a person wrote on a command line.

The bytes grow in a file of the cache (partial.py): a transfer that breaks goes on where it stopped (Range with
If-Range), within one command and in the next one. Where the
server cannot promise that it is the same entity still, the transfer starts over. A length that does not come out right
is an error. A body without any length (HTTP/1.0) ends where the connection ends: nobody can tell more about it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from email.message import Message
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from pathlib import Path
from typing import NamedTuple

import httpx

from .. import __version__
from ..disk import Room, disk_error
from ..errors import InputError
from ..units import human_bytes, human_seconds
from .compressed import DamagedError, decompressed
from .partial import Entity, Part
from .urls import is_url, name_parts, shown

MOST_REDIRECTS = 10
REDIRECTS = (301, 302, 303, 307, 308)
PASSING = (408, 425, 429, 500, 502, 503, 504)
"""Statuses that may be gone the next time."""


@dataclass(frozen=True)
class Patience:
    """Seconds and counts. `stall_s`: without a byte; `attempts`: in a row that bring nothing new."""

    connect_s: float = 15.0
    stall_s: float = 60.0
    attempts: int = 5
    first_pause_s: float = 0.5
    longest_pause_s: float = 120.0


class Progress(NamedTuple):
    """Bytes so far; of how many, None where the server does not say; bytes a second in this attempt."""

    done: int
    total: int | None
    rate: float


def _ignore(_: object, /) -> None:
    """Nobody listens."""


@dataclass(frozen=True)
class Errand:
    """One URL to fetch. `limit`: most bytes, None: any. `received` hears of progress, and `says` a sentence whenever
    something takes another attempt; both may raise to stop."""

    url: str
    cache: Path
    room: Room
    limit: int | None = None
    patience: Patience = Patience()
    received: Callable[[Progress], None] = _ignore
    says: Callable[[str], None] = _ignore
    pause: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic

    @property
    def shown(self) -> str:
        return shown(self.url)


@dataclass(frozen=True)
class Fetched:
    """A fetched entity. `parts`: its name (`urls.name_parts`); `charset` and `media`: the server's words, or ""."""

    path: Path
    size: int
    sha256: str
    parts: tuple[str, ...]
    charset: str
    media: str


def fetch(errand: Errand, target: Path) -> Fetched:
    """Fetch to the new file `target`, which must be on the disk of `errand.cache`. Blocks; memory stays small.

    Raises `InputError` (url, http_status, unreachable, tls, over_max_input, disk, incomplete, http_encoding). What has
    arrived of an entity that can be continued stays in the cache, then and on Ctrl-C.
    """
    transfer = None
    try:
        with _client(errand) as client, Part.opened(errand.cache, _key(errand.url), target) as part:
            transfer = Transfer(errand, client, part)
            head = transfer.run()
            part.move_to(target)
    except OSError as error:
        raise disk_error(error, errand.cache, errand.shown) from error
    size, digest = part.size, part.digest.hexdigest()
    if part.entity.coding:
        size, digest = _decoded(errand, target)
    message = Message()
    message["Content-Type"] = head.get("content-type", "")
    charset, media = message.get_content_charset("") or "", message.get_content_type()
    parts = name_parts(errand.url, head.get("content-disposition", ""))
    return Fetched(target, size, digest, parts, charset, media if "content-type" in head else "")


def _key(url: str) -> str:
    """The name of a URL's part; with its credentials: another user's entity is another one."""
    return hashlib.sha256(url.encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _client(errand: Errand) -> httpx.Client:
    """Proxies come from the environment. Certificates: those of httpx and those of the system."""
    context = httpx.create_ssl_context()
    context.load_default_certs()
    patience = errand.patience
    timeout = httpx.Timeout(patience.stall_s, connect=patience.connect_s)
    headers = {"User-Agent": f"rlm/{__version__}", "Accept": "*/*", "Accept-Encoding": "identity"}
    try:
        return httpx.Client(verify=context, timeout=timeout, headers=headers, follow_redirects=False)
    except (ValueError, httpx.InvalidURL) as error:
        hint = "look at the variables HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY"
        why = f"the proxy for {errand.shown} cannot be used: {error}"
        raise InputError(why, hint=hint, code="unreachable") from error


# -- the transfer ---------------------------------------------------------------------------------------------------


class BrokenError(Exception):
    """An attempt failed in a way that may pass. `wait`: seconds the server asked for, None: it did not."""

    def __init__(self, why: str, wait: float | None = None) -> None:
        super().__init__(why)
        self.why = why
        self.wait = wait


@dataclass
class Transfer:
    """Attempts until the whole entity is there."""

    errand: Errand
    client: httpx.Client
    part: Part

    def run(self) -> Mapping[str, str]:
        """The headers of the last answer, in lower case."""
        most, failures, pause = self.part.size, 0, self.errand.patience.first_pause_s
        if most:
            self.errand.says(f"{self.errand.shown}: going on after {human_bytes(most)}")
        while True:
            try:
                return self._attempt()
            except BrokenError as error:
                if self.part.size > most:
                    most, failures, pause = self.part.size, 0, self.errand.patience.first_pause_s
                failures += 1
                wait = pause if error.wait is None else error.wait
                if failures >= self.errand.patience.attempts or wait > self.errand.patience.longest_pause_s:
                    raise self._gave_up(error) from error
                self.errand.says(f"{self.errand.shown}: {error.why}; trying again in {human_seconds(wait)}")
                self.errand.pause(wait)
                pause = min(pause * 2, self.errand.patience.longest_pause_s)

    def _gave_up(self, error: BrokenError) -> InputError:
        why, size, total = error.why, self.part.size, self.part.entity.total
        if size:
            why = f"{why}, after {human_bytes(size)}{f' of {human_bytes(total)}' if total else ''}"
        if error.wait is not None and error.wait > self.errand.patience.longest_pause_s:
            why = f"{why}; it asks to wait {human_seconds(error.wait)}"
        kept = size and self.part.entity.validator
        hint = "the same command goes on where this one stopped" if kept else "try again later"
        return InputError(f"{self.errand.shown} could not be fetched: {why}", hint=hint, code="incomplete")

    def _attempt(self) -> Mapping[str, str]:
        headers = {}
        if self.part.size and self.part.entity.validator:
            headers = {"Range": f"bytes={self.part.size}-", "If-Range": self.part.entity.validator}
        try:
            with self._answer(headers) as response:
                if response.status_code in PASSING:
                    raise BrokenError(_status(response), _retry_after(response))
                self._begin(response)
                self._receive(response)
                return {name.lower(): value for name, value in response.headers.items()}
        except httpx.HTTPError as error:
            raise self._judged(error) from error
        except httpx.InvalidURL as error:
            raise self._bad_url(str(error)) from error

    # -- one answer -------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _answer(self, headers: Mapping[str, str]) -> Iterator[httpx.Response]:
        """The answer, after redirects; a password goes to the server it was meant for, and to no other."""
        url = httpx.URL(self.errand.url)
        if not url.host:
            raise self._bad_url("it names no host")
        auth = (url.username, url.password) if url.userinfo else None
        url = url.copy_with(userinfo=b"", fragment=None)
        origin = (url.scheme, url.host, url.port)
        for _ in range(MOST_REDIRECTS + 1):
            own = auth if (url.scheme, url.host, url.port) == origin else None
            with self.client.stream("GET", url, headers=headers, auth=own) as response:
                if response.status_code not in REDIRECTS:
                    yield response
                    return
                url = self._redirected(url, response)
        raise InputError(
            f"{self.errand.shown} redirects more than {MOST_REDIRECTS} times",
            hint="look at the address in a browser, and name the one it ends at",
            code="http_status",
        )

    def _redirected(self, url: httpx.URL, response: httpx.Response) -> httpx.URL:
        where = response.headers.get("location", "")
        target = url.join(where)
        if not is_url(str(target)) or not target.host or not where:
            raise InputError(
                f"{self.errand.shown} redirects to {shown(where)!r}, which is no http(s) address",
                hint="look at the address in a browser, and name the one it ends at",
                code="http_status",
            )
        if url.scheme == "https" and target.scheme == "http":
            raise InputError(
                f"{self.errand.shown} redirects to {shown(str(target))}, which is not encrypted",
                hint="name that address yourself if this is fine",
                code="http_status",
            )
        return target.copy_with(userinfo=b"", fragment=None)

    def _begin(self, response: httpx.Response) -> None:
        """Make ready for the answer's body: go on, or start over. Raises `InputError` for a refusal."""
        if response.status_code == HTTPStatus.PARTIAL_CONTENT:
            if not self._continues(response):
                self.part.start(Entity())
                raise BrokenError("the server sent another part than it was asked for", 0.0)
        elif response.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and self.part.size:
            self.part.start(Entity())
            raise BrokenError("it changed while it was fetched", 0.0)
        elif response.status_code != HTTPStatus.OK:
            raise self._refused(response)
        else:
            entity = _entity(response)
            if entity.coding not in ("", "gzip"):
                raise InputError(
                    f"{self.errand.shown} comes in the coding {entity.coding!r}, although none was asked for",
                    hint=f"fetch it yourself: curl -fsSL --compressed {self.errand.shown} | rlm ask - ...",
                    code="http_encoding",
                )
            self.part.start(entity)
        total = self.part.entity.total
        if total is not None:
            self._check_limit(total)
            self.errand.room.need(total - self.part.size, self.errand.shown)

    def _continues(self, response: httpx.Response) -> bool:
        """Whether the body is the rest of what is there."""
        found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", response.headers.get("content-range", "").strip(), re.A)
        if found is None or int(found[1]) != self.part.size:
            return False
        entity, old = _entity(response), self.part.entity
        total = None if found[3] == "*" else int(found[3])
        dated = "etag" not in response.headers or not old.validator.startswith('"')
        same = dated or entity.validator == old.validator
        return same and entity.coding == old.coding and (None in (total, old.total) or total == old.total)

    def _receive(self, response: httpx.Response) -> None:
        part, errand = self.part, self.errand
        begun, before = errand.clock(), part.size
        for data in response.iter_raw():
            self._check_limit(part.size + len(data))
            errand.room.take(len(data), errand.shown)
            part.append(data)
            seconds = max(errand.clock() - begun, 1e-3)
            errand.received(Progress(part.size, part.entity.total, (part.size - before) / seconds))
        total = part.entity.total
        if total is not None and part.size != total:
            why = f"{human_bytes(part.size)} came instead of {human_bytes(total)}"
            if part.size > total:
                part.start(Entity())
            raise BrokenError(why)

    def _check_limit(self, size: int) -> None:
        limit = self.errand.limit
        if limit is not None and size > limit:
            self.part.entity = Entity()  # nothing is kept of what is too large
            raise InputError(
                f"{self.errand.shown} holds more than --max-input allows",
                hint="raise it: --max-input 16g, or lift it: --max-input none",
                code="over_max_input",
            )

    # -- failures ---------------------------------------------------------------------------------------------------

    def _refused(self, response: httpx.Response) -> InputError:
        hint = "check the address"
        if response.status_code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            hint = "a name and a password go into the address: https://NAME:PASSWORD@HOST/..."
        elif response.status_code == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
            hint = "the proxy's name and password go into HTTPS_PROXY"
        return InputError(f"{self.errand.shown}: {_status(response)}", hint=hint, code="http_status")

    def _bad_url(self, why: str) -> InputError:
        return InputError(f"{self.errand.shown} is no valid URL: {why}", hint="check the address", code="url")

    def _judged(self, error: httpx.HTTPError) -> Exception:
        """The error for a person, or `BrokenError` when another attempt may help."""
        name, host = self.errand.shown, httpx.URL(self.errand.url).host
        causes = list(_causes(error))
        if isinstance(error, httpx.UnsupportedProtocol | httpx.LocalProtocolError):
            return self._bad_url(str(error))
        if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in causes):
            why = next(c.verify_message for c in causes if isinstance(c, ssl.SSLCertVerificationError))
            hint = "a certificate authority of your own: SSL_CERT_FILE=/path/ca.pem rlm ..."
            return InputError(f"{name}: the server's certificate was not accepted: {why}", hint=hint, code="tls")
        if isinstance(error, httpx.ProxyError):
            hint = "look at the variables HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY"
            return InputError(f"{name}: the proxy refused: {error}", hint=hint, code="unreachable")
        if isinstance(error, httpx.ConnectError) and not self.part.size:
            found = [c for c in causes if isinstance(c, OSError)]
            why = next((c.strerror for c in reversed(found) if c.strerror), str(error))
            what = f"the host {host!r} was not found" if _is_dns(causes) else f"no connection to {host!r}: {why}"
            hint = "check the address, your network and HTTPS_PROXY"
            return InputError(f"{name}: {what}", hint=hint, code="unreachable")
        if isinstance(error, httpx.TimeoutException):
            patience = self.errand.patience
            seconds = patience.connect_s if isinstance(error, httpx.ConnectTimeout) else patience.stall_s
            return BrokenError(f"nothing came for {human_seconds(seconds)}")
        return BrokenError("the connection broke")


def _causes(error: BaseException) -> Iterator[BaseException]:
    step: BaseException | None = error
    while step is not None:
        yield step
        step = step.__cause__ or step.__context__


def _is_dns(causes: list[BaseException]) -> bool:
    return any(isinstance(cause, socket.gaierror) for cause in causes)


def _status(response: httpx.Response) -> str:
    """The status in our words: the server's are untrusted."""
    try:
        return f"{response.status_code} {HTTPStatus(response.status_code).phrase}"
    except ValueError:
        return f"status {response.status_code}"


def _retry_after(response: httpx.Response) -> float | None:
    """Seconds, from a number or a date."""
    text = response.headers.get("retry-after", "").strip()
    if re.fullmatch(r"\d{1,9}", text, re.A):
        return float(text)
    wanted, now = _date(text), _date(response.headers.get("date", "")) or time.time()
    return max(0.0, wanted - now) if wanted is not None else None


def _entity(response: httpx.Response) -> Entity:
    headers = response.headers
    tag, modified = headers.get("etag", ""), headers.get("last-modified", "")
    changed, sent = _date(modified), _date(headers.get("date", ""))
    # RFC 9110, 8.8.2.2: a date is a strong validator when the entity was at rest for a second by then.
    dated = modified if changed is not None and sent is not None and sent - changed >= 1 else ""
    validator = tag if re.fullmatch(r'"[\x21\x23-\x7e]*"', tag) else dated
    if headers.get("accept-ranges", "").strip().lower() == "none":
        validator = ""
    length = headers.get("content-length", "")
    total = int(length) if re.fullmatch(r"\d{1,18}", length, re.A) else None
    coding = headers.get("content-encoding", "").strip().lower().removeprefix("x-")
    return Entity(validator, total, "" if coding == "identity" else coding)


def _date(text: str) -> float | None:
    try:
        return parsedate_to_datetime(text).timestamp() if text else None
    except (ValueError, TypeError, OverflowError):
        return None


# -- what a server compressed on its own ----------------------------------------------------------------------------


def _decoded(errand: Errand, path: Path) -> tuple[int, str]:
    """Replace a gzip-coded body by what it stands for; size and hash of that."""
    from .archives import MOST_RATIO, RATIO_FROM

    plain = path.with_name(f"{path.name}.plain")
    size, digest, most = 0, hashlib.sha256(), max(RATIO_FROM, MOST_RATIO * path.stat().st_size)
    with path.open("rb") as coded, os.fdopen(os.open(plain, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
        try:
            for piece in decompressed(coded.read, "gzip"):
                size += len(piece)
                if size > most or (errand.limit is not None and size > errand.limit):
                    why = "like a zip bomb" if size > most else "more than --max-input allows"
                    raise InputError(
                        f"{errand.shown} unpacks to more than {human_bytes(size)}, {why}",
                        hint="name less, or raise it: --max-input none" if size <= most else "",
                        code="archive_refused" if size > most else "over_max_input",
                    )
                errand.room.take(len(piece), errand.shown)
                out.write(piece)
                digest.update(piece)
        except DamagedError as error:
            raise InputError(
                f"{errand.shown} arrived damaged: {error}", hint="try again later", code="incomplete"
            ) from error
    plain.replace(path)
    return size, digest.hexdigest()
