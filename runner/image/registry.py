"""The distribution protocol, pull side: manifests and blobs of one repository, from its mirrors and the registry itself."""

import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TypeVar

from runner import config, log
from runner.errors import InfraError, RunnerError, UserError
from runner.image import auth, challenge, manifest, mirrors, reference
from runner.image.endpoint import Endpoint
from runner.image.manifest import Fetched
from runner.image.transport import Patience, Stream, Transport, in_whole
from runner.model import Reference

_HOSTS = {"docker.io": "registry-1.docker.io"}
_MIRROR_ATTEMPTS = 2
_T = TypeVar("_T")


class Client:
    """Reads one repository; a context manager, usable from several threads.

    Its methods raise UserError for a missing image and refused credentials, Temporary for a registry that is down or busy after all tries,
    InfraError for one that breaks the protocol. Mirrors are asked in order before the registry, and only its own failure counts.
    """

    def __init__(self, ref: Reference, *, settings: config.Settings, keychain: auth.Keychain, patience: Patience | None = None) -> None:
        """Choose the servers; UserError for a mirror that is not a URL and a CA file that cannot be read."""
        patience = patience or Patience()
        calm = patience._replace(attempts=min(patience.attempts, _MIRROR_ATTEMPTS))
        own = settings.registry(ref.registry)
        self._ref = ref
        self._trusts_mirrors = own.mirrors_trusted
        self._endpoints: list[Endpoint] = []
        with ExitStack() as opened:
            for mirror in own.mirrors:
                place = mirrors.place(mirror, ref)
                name = place.ref.registry
                http = Transport(ca_file=settings.registry(name).ca_file, patience=calm)
                opened.callback(http.close)
                self._endpoints.append(Endpoint(place.ref, name=name, url=place.url, http=http, keychain=keychain))
            http = Transport(ca_file=own.ca_file, patience=patience)
            opened.callback(http.close)
            self._endpoints.append(Endpoint(ref, name=ref.registry, url=base_url(ref.registry, own, http), http=http, keychain=keychain))
            self._opened = opened.pop_all()

    def __enter__(self) -> "Client":
        """Return the client itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close all connections."""
        self._opened.close()

    def manifest(self, name: str) -> Fetched:
        """Return the manifest or index with this tag or digest, of at most manifest.LIMIT_BYTES; its digest is for the caller to check."""
        return self._first(lambda endpoint: self._manifest(endpoint, name))

    def check(self, digest: str) -> None:
        """Return if the registry itself opens the manifest with this digest for our credentials, or a mirror that is trusted to judge.

        Asks by HEAD, which registries do not count as a pull.
        """
        if self._trusts_mirrors:
            self._first(lambda endpoint: self._head(endpoint, digest))
        else:
            self._head(self._endpoints[-1], digest)

    @contextmanager
    def blob(self, digest: str, offset: int) -> Iterator[Stream]:
        """Yield the content of a blob from `offset` on, or from 0 when the registry gives no ranges: see Stream.offset."""
        with ExitStack() as opened:
            yield self._first(lambda endpoint: opened.enter_context(_blob(endpoint, digest, offset)))

    def _first(self, ask: Callable[[Endpoint], _T]) -> _T:
        for endpoint in self._endpoints[:-1]:
            try:
                return ask(endpoint)
            except RunnerError as e:
                log.debug(f"mirror {endpoint.url} does not help: {e.message}")
        return ask(self._endpoints[-1])

    def _head(self, endpoint: Endpoint, digest: str) -> None:
        with endpoint.get(f"manifests/{digest}", {"Accept": manifest.ACCEPT}, missing=self._missing(self._what(digest)), method="HEAD"):
            return

    def _what(self, name: str) -> str:
        short = reference.familiar(self._ref)
        return short if name in (self._ref.tag, self._ref.digest) else f"manifest {name} of {short}"

    def _missing(self, what: str) -> UserError:
        return UserError(
            f"image not found: registry {self._ref.registry} has no {what}", "check the name and the tag; a private image needs credentials"
        )

    def _manifest(self, endpoint: Endpoint, name: str) -> Fetched:
        what = self._what(name)
        missing = self._missing(what)
        accept = {"Accept": manifest.ACCEPT}
        reply = in_whole(lambda: endpoint.get(f"manifests/{name}", accept, missing=missing), limit_bytes=manifest.LIMIT_BYTES)
        if reply.status != 200:
            raise InfraError(f"registry {self._ref.registry} answers {reply.status} for {what}")
        return Fetched(reply.headers.get("Content-Type", ""), reply.body)


@contextmanager
def _blob(endpoint: Endpoint, digest: str, offset: int) -> Iterator[Stream]:
    missing = InfraError(f"registry has no blob {digest}, which the manifest names", "push the image again")
    if offset:
        with endpoint.get(f"blobs/{digest}", {"Range": f"bytes={offset}-"}, missing=missing) as response:
            stream = Stream(response)
            if response.status_code != 416 and stream.offset in (0, offset):
                yield stream
                return
    with endpoint.get(f"blobs/{digest}", {}, missing=missing) as response:
        stream = Stream(response)
        if response.status_code == 416 or stream.offset:
            raise InfraError(f"registry answers {response.status_code} for the whole of blob {digest}")
        yield stream


def base_url(registry: str, own: config.Registry, http: Transport) -> str:
    """Return the URL of a registry: https, but http where configured, and on loopback where no TLS is spoken, as docker does."""
    host = _HOSTS.get(registry, registry)
    if own.plain_http:
        return f"http://{host}"
    name = urllib.parse.urlsplit(f"//{host}").hostname or ""
    if not own.ca_file and challenge.is_loopback(name) and not http.speaks_tls(host):
        return f"http://{host}"
    return f"https://{host}"
