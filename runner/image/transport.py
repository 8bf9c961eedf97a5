"""HTTP as registries need it: own CAs, proxies, redirects that keep secrets, retries with patience, bounded bodies.

The only file that imports requests. What requests raises becomes one of our errors here and nowhere else.
"""

import email.utils
import json
import random
import ssl
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

import requests
import urllib3.exceptions
from requests.adapters import HTTPAdapter
from requests.utils import get_environ_proxies

from runner import log
from runner.errors import Busy, InfraError, RunnerError, Temporary, UserError
from runner.image import challenge

Response = requests.Response  # so that nobody else needs to import requests

_MOST_REDIRECTS = 5
_ERROR_BODY_BYTES = 8192
_TIMEOUTS_S = (10.0, 60.0)  # to connect; between two bytes
_SLOWEST_BODY_S = 60.0  # for a whole manifest or token
_RETRIED = (429, 500, 502, 503, 504)


class _Broken(Temporary):
    """The connection broke in the middle of a body."""


class Patience(NamedTuple):
    """How often a request is tried, and how long the first pause is; each later pause doubles, with jitter.

    A server that asks for a longer pause than `longest_pause_s` is not asked again.
    """

    attempts: int = 4
    first_pause_s: float = 0.5
    longest_pause_s: float = 60.0


class Reply(NamedTuple):
    """A whole, bounded answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Stream:
    """A body that is still arriving. `offset`: where it starts in the whole; `total`: bytes of the whole, -1 when not said."""

    def __init__(self, response: Response) -> None:
        """Read from `response`, which its owner closes."""
        self._response = response
        length = response.headers.get("Content-Length", "")
        span = response.headers.get("Content-Range", "") if response.status_code == 206 else ""
        self.offset, self.total = _content_range(span) if span else (0, int(length) if _is_number(length) else -1)

    def read(self, most_bytes: int) -> bytes:
        """Return what has arrived, at most `most_bytes`, b"" at the end. Temporary when the connection breaks."""
        try:
            # read1 returns what one recv(2) brings: a registry that dribbles is then seen by the caller.
            return self._response.raw.read1(most_bytes, decode_content=False) or b""
        except (urllib3.exceptions.HTTPError, OSError) as e:
            raise _Broken(f"registry {_host(self._response.url)} broke off: {_cause(e)}") from e


class _Adapter(HTTPAdapter):
    """requests' own way to use a TLS context of ours, with a proxy too: it has no parameter for one."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        super().__init__(pool_maxsize=8)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs, ssl_context=self._context)

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        return super().proxy_manager_for(*args, **kwargs, ssl_context=self._context)

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        conn.cert_reqs = "CERT_REQUIRED"  # against the context alone; requests would add its own list of CAs


class Transport:
    """Connections to one registry and to where it sends us. Usable from several threads; `close` ends it."""

    def __init__(self, *, ca_file: str = "", patience: Patience | None = None) -> None:
        """Trust the system's CAs ($SSL_CERT_FILE counts) and those of `ca_file`; UserError when that cannot be read."""
        self._patience = patience or Patience()
        context = ssl.create_default_context()
        if ca_file:
            try:
                context.load_verify_locations(ca_file)
            except (OSError, ssl.SSLError) as e:
                raise UserError(f"cannot read CA file {ca_file}: {e.strerror or e}", "check ca_file in the configuration") from e
        self._session = requests.Session()
        self._session.trust_env = False  # else requests sends what ~/.netrc says; proxies are looked up below
        self._session.mount("https://", _Adapter(context))
        self._session.mount("http://", HTTPAdapter(pool_maxsize=8))

    def close(self) -> None:
        """Close all idle connections."""
        self._session.close()

    def get(self, url: str, headers: Mapping[str, str], *, limit_bytes: int) -> Reply:
        """GET a small body, patiently; any status is an answer. InfraError when it is longer than `limit_bytes`."""
        return in_whole(lambda: self.open(url, headers), limit_bytes=limit_bytes)

    def post_form(self, url: str, form: Mapping[str, str], *, limit_bytes: int) -> Reply:
        """POST a form, patiently, following no redirect: a form may hold a secret."""

        def send() -> Response:
            with _translated(url):
                return self._session.post(url, data=dict(form), **self._options(url))

        return in_whole(lambda: self._patiently(url, send), limit_bytes=limit_bytes)

    @contextmanager
    def open(self, url: str, headers: Mapping[str, str], *, method: str = "GET") -> Iterator[Response]:
        """GET a body that the caller reads, or HEAD; yields the first answer that is neither a redirect nor worth another try.

        Raises Busy when the server asks for a longer pause (Retry-After) than our patience has.
        """
        response = self._patiently(url, lambda: self._follow(method, url, headers))
        try:
            yield response
        finally:
            response.close()

    def _patiently(self, url: str, send: Callable[[], Response]) -> Response:
        patience = self._patience
        pause = patience.first_pause_s
        for attempt in range(1, patience.attempts + 1):
            last = attempt == patience.attempts
            try:
                response = send()
            except Temporary as e:
                if last:
                    raise
                reason, wait = e.message, min(pause, patience.longest_pause_s)
            else:
                if response.status_code not in _RETRIED:
                    return response
                asked = _retry_after(response.headers.get("Retry-After", ""))
                reason = f"registry {_host(url)} answers {response.status_code}"
                if asked > patience.longest_pause_s:
                    words = error_text(response)
                    response.close()
                    raise Busy(f"{reason} and wants to be asked again in {asked:.0f} s{words and ': '}{words}", "try again after that time")
                if last:
                    return response
                wait = max(min(pause, patience.longest_pause_s), asked)
                response.close()
            wait *= random.uniform(1.0, 1.25)
            log.warn(f"{reason}; trying again in {wait:.1f} s")
            time.sleep(wait)
            pause *= 2
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _follow(self, method: str, url: str, headers: Mapping[str, str]) -> Response:
        """Ask and follow redirects; another host, port or scheme never sees Authorization (CVE-2018-18074 and its kin)."""
        kept = {"Accept-Encoding": "identity", "User-Agent": "dockless", **headers}
        here = url
        for _ in range(_MOST_REDIRECTS + 1):
            with _translated(here):
                response = self._session.request(method, here, headers=kept, **self._options(here))
            location = response.headers.get("Location", "")
            if response.status_code not in (301, 302, 303, 307, 308) or not location:
                return response
            response.close()
            target = urllib.parse.urljoin(here, location)
            challenge.check_target(target, asked_by=here, what="redirect")
            if _origin(target) != _origin(here):
                kept.pop("Authorization", None)
            here = target
        raise InfraError(f"registry {_host(url)} redirects in a circle")

    def _options(self, url: str) -> dict[str, Any]:
        host = urllib.parse.urlsplit(url).hostname or ""
        # As Go's clients: what is on this machine is never asked for through a proxy.
        proxies = {} if challenge.is_loopback(host) else get_environ_proxies(url)
        return {"timeout": _TIMEOUTS_S, "proxies": proxies, "allow_redirects": False, "stream": True}

    def speaks_tls(self, host: str) -> bool:
        """Tell whether https works at all at host[:port]; a certificate that we refuse is still TLS."""
        try:
            self._session.get(f"https://{host}/v2/", **self._options(f"https://{host}/")).close()
        except requests.exceptions.SSLError as e:
            return "CERTIFICATE_VERIFY_FAILED" in str(e)
        except (requests.RequestException, OSError):
            return False
        return True


def error_text(response: Response) -> str:
    """Return a registry's own words about an error (distribution-spec, error codes), made harmless; "" without any."""
    try:
        errors = json.loads(response.raw.read(_ERROR_BODY_BYTES, decode_content=False) or b"{}")["errors"]
        text = str(errors[0].get("message") or errors[0].get("code"))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, OSError, urllib3.exceptions.HTTPError):
        return ""
    return "".join(character if character.isprintable() else " " for character in text[:200])


def in_whole(ask: Callable[[], AbstractContextManager[Response]], *, limit_bytes: int) -> Reply:
    """Ask for a body and read it to its end; once more when the connection breaks in the middle. Before that `ask` tries again by itself.

    Raises as reading does: InfraError when it is longer than `limit_bytes`, Temporary when it breaks again or takes too long.
    """
    try:
        with ask() as response:
            return whole(response, limit_bytes=limit_bytes)
    except _Broken:
        with ask() as response:
            return whole(response, limit_bytes=limit_bytes)


def whole(response: Response, *, limit_bytes: int) -> Reply:
    """Read a body to its end; InfraError when it is longer than `limit_bytes`, Temporary when it takes too long."""
    stream, host = Stream(response), _host(response.url)
    body = bytearray()
    deadline = time.monotonic() + _SLOWEST_BODY_S
    while chunk := stream.read(65536):
        body += chunk
        if len(body) > limit_bytes:
            raise InfraError(f"registry {host} sends more than {limit_bytes} bytes where a short answer belongs")
        if time.monotonic() > deadline:
            raise Temporary(f"registry {host} is too slow: {len(body)} bytes in {_SLOWEST_BODY_S:.0f} s")
    return Reply(response.status_code, response.headers, bytes(body))


def _content_range(text: str) -> tuple[int, int]:
    """Read "bytes 5-9/10" (RFC 9110 section 14.4) as (5, 10); nonsense is (-1, -1)."""
    unit, _, span = text.partition(" ")
    first, _, rest = span.partition("-")
    total = rest.partition("/")[2]
    if unit != "bytes" or not _is_number(first):
        return -1, -1
    return int(first), int(total) if _is_number(total) else -1


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 19


@contextmanager
def _translated(url: str) -> Iterator[None]:
    """Turn what requests raises into our errors, one for each reaction."""
    host = _host(url)
    try:
        yield
    except RunnerError:
        raise
    except requests.exceptions.SSLError as e:
        if "CERTIFICATE_VERIFY_FAILED" in str(e):
            hint = f"for a private CA set registries: {{{host}: {{ca_file: /path/to/ca.pem}}}} in the configuration"
            raise InfraError(f"cannot trust registry {host}: {_cause(e)}", hint) from e
        raise Temporary(f"cannot speak TLS with registry {host}: {_cause(e)}", f"a registry without TLS needs plain_http for {host}") from e
    except requests.exceptions.Timeout as e:
        raise Temporary(f"registry {host} does not answer in time") from e
    except requests.exceptions.ConnectionError as e:
        raise Temporary(
            f"cannot reach registry {host}: {_cause(e)}", "check the network, the proxy variables and the registry's name"
        ) from e
    except (requests.RequestException, urllib3.exceptions.HTTPError, UnicodeError) as e:
        raise InfraError(f"cannot talk to registry {host}: {_cause(e)}") from e


def _cause(error: BaseException) -> str:
    """Return the innermost reason: requests wraps urllib3, which wraps the operating system's error."""
    seen: BaseException = error
    for _ in range(10):
        inner = getattr(seen, "reason", None)
        if not isinstance(inner, BaseException):
            inner = next((arg for arg in reversed(seen.args) if isinstance(arg, BaseException)), None) or seen.__cause__
        if inner is None:
            break
        seen = inner
    text = (seen.strerror if isinstance(seen, OSError) else None) or str(seen) or type(seen).__name__
    if isinstance(seen, ssl.SSLCertVerificationError):
        text = seen.verify_message
    return text[:200]


def _retry_after(value: str) -> float:
    """Read Retry-After (RFC 9110 section 10.2.3): seconds or a date; nonsense is 0."""
    if value.isascii() and value.isdigit() and len(value) < 10:
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return 0.0


def is_same_origin(one: str, other: str) -> bool:
    """Tell whether two URLs have one scheme, host and port."""
    return _origin(one) == _origin(other)


def _origin(url: str) -> tuple[str, str, int | None]:
    parts = urllib.parse.urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or {"https": 443, "http": 80}.get(parts.scheme)


def _host(url: str) -> str:
    return urllib.parse.urlsplit(url).netloc.rpartition("@")[2]
