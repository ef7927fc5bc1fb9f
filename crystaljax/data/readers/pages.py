"""Pages of a service: requested over HTTP with patience, kept on disk one by one.

A page is in the cache completely or not at all, and a page that is there is never asked
for again: a download that broke off goes on where it was, and one that is complete
needs no network.
"""

import contextlib
import dataclasses
import datetime
import email.utils
import functools
import gzip
import hashlib
import http.client
import json
import math
import pathlib
import random
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import tqdm

import crystaljax
from crystaljax.data.sources import record
from crystaljax.system import atomic_files, errors, saved_requests

# Too many requests, and what servers answer while they are overloaded or restarted.
_TRANSIENT_STATUS = (429, 500, 502, 503, 504)
_MAX_WAIT = 60.0  # s, between two attempts
# A server that asks for more than this wants to be left alone for now.
_MAX_RETRY_AFTER = 600.0  # s
_SHOWN_CHARACTERS = 200
_QUERY_NAME = "query.json"
_SUFFIX = ".json.gz"
# Raised whenever the layout of the cache changes.
_FORMAT_VERSION = 1

_REMEDY = (
    "give another directory with --cache, or delete this one to ask for everything "
    "again"
)

T = TypeVar("T")


class PageError(errors.UserError):
    """An answer that is not the page that was requested.

    Attributes:
        is_final: asking again would be of no use.
        retry_after: s, how long the server wants not to be asked.
    """

    def __init__(self, message: str, is_final: bool = False, retry_after: float = 0.0):
        super().__init__(message)
        self.is_final = is_final
        self.retry_after = retry_after


class DownloadError(errors.UserError):
    """A page could not be had; those before it are in the cache."""


@dataclasses.dataclass(frozen=True)
class Manners:
    """How a service is asked.

    Attributes:
        verify_tls: refuse servers whose certificate cannot be verified.
        timeout: s, of waiting for the server.
        max_attempts: to ask for one page.
        min_interval: s, between the starts of two requests.
        retry_wait: s, before the second attempt; it doubles with each further one, up
            to a minute, and is shortened by a random share of up to a half. A server
            that says when to come back is obeyed.
    """

    verify_tls: bool = True
    timeout: float | int = 120.0
    max_attempts: int = 6
    min_interval: float | int = 0.5
    retry_wait: float | int = 2.0

    def __post_init__(self):
        if self.max_attempts < 1:
            raise errors.UserError(
                f"max_attempts is {self.max_attempts}; expected 1 or more"
            )
        if not 0 < self.timeout < math.inf:
            raise errors.UserError(f"timeout is {self.timeout} s; expected more than 0")
        for name in ("min_interval", "retry_wait"):
            if not 0 <= getattr(self, name) < math.inf:
                raise errors.UserError(
                    f"{name} is {getattr(self, name)} s; expected 0 or more"
                )


DEFAULT_MANNERS = Manners()


# ----------------------------------------------------------------------------- cache


@dataclasses.dataclass(frozen=True)
class PageCache:
    """Pages by name in a directory: one gzip JSON file each.

    Attributes:
        directory: holds the pages and ``query.json``, which says what they answer.
    """

    directory: pathlib.Path

    def open(self, query: dict[str, Any]) -> None:
        """Makes the directory, or makes sure that it holds pages of this query.

        Raises:
            ValueError: it holds those of another query; the message says what differs.
        """
        query = {"format": _FORMAT_VERSION} | query
        path = self.directory / _QUERY_NAME
        saved = saved_requests.load(path, _REMEDY)
        if saved is not None:
            saved_requests.require_same(
                query, saved, path=self.directory, contents="pages", remedy=_REMEDY
            )
        elif self.count():
            raise errors.UserError(
                f"{self.directory} holds {self.count()} pages but no {_QUERY_NAME}, so "
                "there is no telling what they answer; give another cache directory"
            )
        else:
            atomic_files.write_json(path, query)

    def read(self, name: str) -> Any:
        """The page; None if it is not there, or is damaged."""
        try:
            return json.loads(gzip.decompress(self._path(name).read_bytes()))
        except FileNotFoundError:
            return None
        except (EOFError, gzip.BadGzipFile, zlib.error, ValueError):
            return None

    def write(self, name: str, page: Any) -> None:
        """Keeps a page; until it is complete nothing can be seen of it."""
        # The header has the time of the download.
        content = gzip.compress(json.dumps(page).encode(), 6, mtime=int(time.time()))
        atomic_files.write_bytes(self._path(name), content)

    def count(self) -> int:
        """Number of pages."""
        return len(list(self.directory.glob(f"*{_SUFFIX}")))

    def describe(self) -> dict[str, Any]:
        """Number of pages, and when the first and the last were requested (UTC)."""
        times = sorted(map(_gzip_time, self.directory.glob(f"*{_SUFFIX}")))
        ends = [times[0], times[-1]] if times else []
        return {
            "num_pages": len(times),
            "downloaded": [
                datetime.datetime.fromtimestamp(end, datetime.UTC).isoformat()
                for end in ends
            ],
        }

    def _path(self, name: str) -> pathlib.Path:
        return self.directory / f"{name}{_SUFFIX}"


def _gzip_time(path: pathlib.Path) -> int:
    with path.open("rb") as file:
        return int.from_bytes(file.read(8)[4:], "little")


# -------------------------------------------------------------------------- requests


class Session:
    """Asks one service for pages, one after the other.

    Args:
        manners: how to ask.
        cache: where the pages are kept; for the messages of errors.
        sleep: waits for so many seconds.
        clock: s, since any moment.
    """

    def __init__(
        self,
        manners: Manners,
        cache: PageCache,
        *,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._manners = manners
        self._cache = cache
        self._sleep = sleep
        self._clock = clock
        self._last_start = -math.inf
        self._opener = _build_opener(manners.verify_tls)

    def fetch(self, url: str, parse_fn: Callable[[bytes], T]) -> T:
        """The page at a URL.

        Args:
            url: http or https.
            parse_fn: body → page; raises `PageError` for a body that is none, which is
                then requested again.

        Raises:
            DownloadError: it could not be had.
        """
        attempt = 1
        while True:
            self._keep_interval()
            try:
                return parse_fn(self._read(url))
            except PageError as error:
                if error.is_final or attempt == self._manners.max_attempts:
                    raise self.give_up(url, f"{error} (attempt {attempt})") from error
                self._sleep(max(self._backoff(attempt), error.retry_after))
            attempt += 1

    def give_up(self, url: str, reason: str) -> DownloadError:
        """The error to raise: says what is kept and what to do."""
        return DownloadError(
            f"{url} gave no usable page: {reason}; {self._cache.count()} pages are "
            f"kept in {self._cache.directory}: run the same command again to go on "
            "from there"
        )

    def _keep_interval(self) -> None:
        wait = self._last_start + self._manners.min_interval - self._clock()
        if wait > 0:
            self._sleep(wait)
        self._last_start = self._clock()

    def _backoff(self, attempt: int) -> float:
        # Clients that failed together should not come back together.
        jitter = random.uniform(0.5, 1.0)
        return jitter * min(_MAX_WAIT, self._manners.retry_wait * 2.0 ** (attempt - 1))

    def _read(self, url: str) -> bytes:
        headers = {
            "User-Agent": f"crystaljax/{crystaljax.__version__}",
            "Accept": "application/json",
        }
        request = urllib.request.Request(url, headers=headers)
        try:
            with self._opener.open(request, timeout=self._manners.timeout) as response:
                # Without an amount: only then a body cut off in the middle is noticed.
                return response.read()
        except urllib.error.HTTPError as error:
            raise _status_error(error) from error
        except (OSError, http.client.HTTPException) as error:
            raise _connection_error(error) from error


# Reading the certificates takes a while.
@functools.cache
def build_tls_context(verify: bool) -> ssl.SSLContext:
    """Certificates and host names are verified unless it is asked not to."""
    context = ssl.create_default_context()
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def require_http(url: str) -> str:
    """The URL, if it is one that can be asked.

    Raises:
        ValueError: it is not http or https, or has no host.
    """
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise errors.UserError(f"URL {url!r}; expected one that begins with https://")
    return url


def parse_json(body: bytes) -> Any:
    """Body → JSON value.

    Raises:
        PageError: it is empty, cut off or no JSON.
    """
    if not body.strip():
        raise PageError("the answer is empty")
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise PageError(f"the answer is no JSON: {_shorten_body(body)}") from error


def distinct_rows(
    read_pages_fn: Callable[[], Iterator[list[dict[str, Any]]]],
    id_name: str,
    show_progress: bool,
) -> Iterator[dict[str, Any] | record.Failure]:
    """The rows of all pages; a failure for one that was there before.

    Args:
        read_pages_fn: yields the rows of every page, from the cache or else the
            service; called twice.
        id_name: of the entry of a row that tells it from others.
        show_progress: of the download.
    """
    # Everything before the first row: workers would wait for the server, and an
    # interrupt would find the download in a thread.
    with tqdm.tqdm(desc="pages", disable=not show_progress) as progress:
        for _ in read_pages_fn():
            progress.update()
    # Hashes: there may be millions.
    seen: set[int] = set()
    for rows in read_pages_fn():
        for row in rows:
            id = row.get(id_name)
            if not isinstance(id, str | int):
                yield row
            elif (key := _hash(str(id))) in seen:
                reason = f"duplicate {id_name}"
                yield record.Failure(str(id), reason, is_rule=True)
            else:
                seen.add(key)
                yield row


def _hash(id: str) -> int:
    # JSON can hold what UTF-8 cannot.
    content = id.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big")


def shorten(value: object) -> str:
    """A JSON value as text for a message."""
    text = json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "…"


def _build_opener(verify_tls: bool) -> urllib.request.OpenerDirector:
    # Not urlopen's own, which opens file: and ftp: as well.
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(context=build_tls_context(verify_tls)),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    return opener


def _status_error(error: urllib.error.HTTPError) -> PageError:
    body = b""
    with contextlib.suppress(OSError, http.client.HTTPException), error:
        body = error.read()
    message = f"HTTP status {error.code} {error.reason}: {_shorten_body(body)}"
    retry_after = _parse_retry_after(error.headers.get("Retry-After"))
    if retry_after > _MAX_RETRY_AFTER:
        message += f", and wants to be asked again in {retry_after:.0f} s"
    is_final = error.code not in _TRANSIENT_STATUS or retry_after > _MAX_RETRY_AFTER
    return PageError(message, is_final, retry_after)


def _connection_error(error: OSError | http.client.HTTPException) -> PageError:
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    message = f"{type(cause).__name__}: {cause}"
    if isinstance(cause, ssl.SSLCertVerificationError):
        message += (
            "; update the certificates of this machine, or pass --noverify_tls for a "
            "server that you trust"
        )
        return PageError(message, is_final=True)
    return PageError(message, is_final=isinstance(error, http.client.InvalidURL))


def _parse_retry_after(text: str | None) -> float:
    """Seconds or a date → seconds; 0 for anything else."""
    if text is None:
        return 0.0
    if text.strip().isdecimal():
        return float(text)
    try:
        date = email.utils.parsedate_to_datetime(text)
        return max(0.0, date.timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return 0.0


def _shorten_body(body: bytes) -> str:
    return repr(body[:_SHOWN_CHARACTERS].decode("utf-8", "replace"))
