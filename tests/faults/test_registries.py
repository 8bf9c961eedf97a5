"""A registry that fails at each request of a pull in turn, once and for ever: whose fault it is, and the next pull works."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runner import config, errors, paths
from runner.image import auth, blobs, fetch, platforms, reference, registry, transport
from tests.support import images, stores
from tests.support.defences import attack, without
from tests.support.registries import Answer, Certificates, LyingRegistry, Request, make_certificates

HOST = platforms.host()
IMAGE = images.build_image([[images.file("a", b"short")], [images.file("b", b"x" * 1000)]], architecture=HOST.architecture)
QUICK = transport.Patience(attempts=3, first_pause_s=0.001, longest_pause_s=1.2)

# how a request is answered instead; those that are tried again are the ones that may be over the next time
Failure = Callable[[Answer], Answer]
PASSING: dict[str, Failure] = {
    "429 with Retry-After": lambda _: Answer(429, b"", {"Retry-After": "0"}),
    "500": lambda _: Answer(500, b""),
    "502 with a page": lambda _: Answer(502, b"<html><body>\x1b[2J" + b"bad gateway " * 1000, {"Content-Type": "text/html"}),
    "disconnect": lambda truth: truth._replace(cut_at=len(truth.body) // 2),
    "disconnect at once": lambda truth: truth._replace(cut_at=0),
}
LASTING: dict[str, Failure] = {
    "401": lambda _: Answer(401, b"", {"WWW-Authenticate": "Basic"}),
    "403": lambda _: Answer(403, b"{}"),
    "404": lambda _: Answer(404, b"not found"),
    "other content": lambda truth: truth._replace(body=b"\0" * len(truth.body)),
    "longer than it says": lambda truth: truth._replace(body=truth.body + b"x"),
    "shorter than it says": lambda truth: truth._replace(length=len(truth.body) + 10),
}


class Guarded:
    """A registry that wants a token for everything, and fails the requests that `fails` picks by their number."""

    def __init__(self) -> None:
        self.count = 0
        self.failure: Failure = lambda truth: truth
        self.fails: Callable[[int], bool] = lambda number: False
        self._host = ""
        self._served = LyingRegistry()
        self._served.add(IMAGE, "team/app", "v1")
        self._served.lie = self._answer

    def running(self) -> Iterator[str]:
        with self._served.running() as (self._host, _):
            yield self._host

    def _answer(self, request: Request, truth: Answer) -> Answer:
        if request.path.startswith("/token"):
            truth = Answer(200, b'{"token": "t0ken"}')
        elif request.headers.get("authorization") != "Bearer t0ken":
            truth = Answer(401, b"", {"WWW-Authenticate": f'Bearer realm="http://{self._host}/token",service="test"'})
        self.count += 1
        return self.failure(truth) if self.fails(self.count) else truth


@pytest.fixture
def guarded() -> Guarded:
    return Guarded()


@pytest.fixture
def host(guarded: Guarded) -> Iterator[str]:
    yield from guarded.running()


def pull(store: paths.Store, host: str) -> None:
    """Bring an image's manifest and layers as a pull does, with little patience."""
    ref = reference.parse(f"{host}/team/app:v1")
    settings = config.Settings(registries=((host, config.Registry(plain_http=True)),))
    with registry.Client(ref, settings=settings, keychain=auth.Keychain(), patience=QUICK) as client:
        found = fetch.resolve(client, ref.tag, HOST, what=f"{host}/team/app:v1")
        with blobs.Claim(store, pause_s=0.001) as claim:
            for blob in found.manifest.layers:
                claim.need(blob, lambda offset: client.blob(blob.digest, offset))  # noqa: B023 - called before the next turn


def layers(store: paths.Store) -> dict[str, bytes]:
    return {digest: Path(store.blob(digest)).read_bytes() for digest in stores.blobs(store)}


WHOLE = {digest: IMAGE.blobs[digest] for digest in IMAGE.layer_digests}


@attack(
    49,
    without("runner/image/transport.py", "                if response.status_code not in _RETRIED:", "                if True:"),
    without("runner/image/download.py", "        if breaks >= _BREAKS:", "        if breaks:"),
)
@pytest.mark.parametrize("name", PASSING)
def test_failure_of_any_one_request_is_outlived(guarded: Guarded, host: str, tmp_path: Path, name: str) -> None:
    pull(stores.make(tmp_path / "clean"), host)
    requests, guarded.failure = guarded.count, PASSING[name]
    for number in range(1, requests + 1):
        store = stores.make(tmp_path / str(number))
        guarded.count, guarded.fails = 0, lambda count, number=number: count == number  # type: ignore[misc] # a lambda with a default
        pull(store, host)
        assert layers(store) == WHOLE
        assert stores.leftovers(store) == []
    assert requests > 4


@attack(
    49,
    without("runner/image/download.py", "    except InfraError:\n        _unlink(path)\n", "    except InfraError:\n"),
    without("runner/image/download.py", 'f"sha256:{self._hasher.hexdigest()}" == blob.digest', "True"),
)
@pytest.mark.parametrize("name", [*PASSING, *LASTING])
def test_failure_of_all_requests_from_any_one_on_is_told_and_the_next_pull_works(
    guarded: Guarded, host: str, tmp_path: Path, name: str
) -> None:
    pull(stores.make(tmp_path / "clean"), host)
    requests, guarded.failure = guarded.count, {**PASSING, **LASTING}[name]
    for number in range(1, requests + 1):
        store = stores.make(tmp_path / str(number))
        guarded.count, guarded.fails = 0, lambda count, number=number: count >= number  # type: ignore[misc] # a lambda with a default
        try:
            pull(store, host)
        except (errors.UserError, errors.InfraError) as e:
            assert "\x1b" not in e.message + e.hint
            assert len(e.message) < 500
        assert layers(store).items() <= WHOLE.items()
        if name in LASTING:
            assert stores.leftovers(store) == []  # nothing of it is worth being continued
        guarded.fails = lambda _: False
        pull(store, host)
        assert layers(store) == WHOLE
        assert stores.leftovers(store) == []


# certificates


@pytest.fixture(scope="module")
def expired(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Return a server certificate of a trusted CA whose time was over yesterday."""
    directory = tmp_path_factory.mktemp("tls")
    made = make_certificates(directory)
    (directory / "index").write_text("")
    (directory / "serial").write_text("03")
    section = "default_md=sha256\npolicy=any\nunique_subject=no\n[any]\ncommonName=optional\n"
    (directory / "ca.conf").write_text(
        f"[ca]\ndefault_ca=one\n[one]\ndatabase={directory}/index\nserial={directory}/serial\nnew_certs_dir={directory}\n{section}"
    )
    subprocess.run(
        ["openssl", "ca", "-batch", "-notext", "-config", str(directory / "ca.conf"), "-cert", str(made.ca), "-keyfile",
         str(directory / "ca.key"), "-in", str(directory / "server.csr"), "-out", str(made.cert), "-extfile", str(directory / "server.ext"),
         "-startdate", "20200101000000Z", "-enddate", "20200102000000Z"],
        check=True, capture_output=True,
    )  # fmt: skip
    return made


@attack(
    49,
    without(
        "runner/image/transport.py", "context = ssl.create_default_context()", "context = ssl._create_unverified_context()",
        "runner/image/transport.py", 'conn.cert_reqs = "CERT_REQUIRED"', 'conn.cert_reqs = "CERT_NONE"',
    ),
)  # fmt: skip
def test_registry_whose_certificate_has_expired_is_not_trusted(expired: Certificates) -> None:
    server = LyingRegistry()
    server.add(IMAGE, "team/app", "v1")
    with server.running(tls=expired) as (host, seen):
        settings = config.Settings(registries=((host, config.Registry(ca_file=str(expired.ca))),))
        ref = reference.parse(f"{host}/team/app:v1")
        with (
            registry.Client(ref, settings=settings, keychain=auth.Keychain(), patience=QUICK) as client,
            pytest.raises(errors.InfraError, match=f"cannot trust registry {host}: certificate has expired"),
        ):
            client.manifest("v1")
    assert seen == []
