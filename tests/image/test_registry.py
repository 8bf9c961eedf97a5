"""The registry client against registries that lie, stumble and redirect; real ones are in test_pull."""

import base64
import email.utils
import json
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from runner import config
from runner.errors import Busy, InfraError, Temporary, UserError
from runner.image import auth, manifest, reference, registry, transport
from tests.support import images
from tests.support.defences import attack, without
from tests.support.registries import Answer, Certificates, LyingRegistry, Request, make_certificates, serve, tunnel

IMAGE = images.build_image([[images.file("a", b"x" * 1000)]])
LAYER = IMAGE.layer_digests[0]
QUICK = transport.Patience(attempts=4, first_pause_s=0.01, longest_pause_s=1.2)


def client(
    host: str,
    *,
    keychain: auth.Keychain | None = None,
    settings: config.Registry | None = None,
    more: tuple[tuple[str, config.Registry], ...] = (),
) -> registry.Client:
    ref = reference.parse(f"{host}/team/app:v1")
    plain = settings or config.Registry(plain_http=True)
    return registry.Client(
        ref, settings=config.Settings(registries=((host, plain), *more)), keychain=keychain or auth.Keychain(), patience=QUICK
    )


@contextmanager
def lying(lie: Callable[[Request, Answer], Answer | None]) -> Iterator[tuple[str, list[Request]]]:
    server = LyingRegistry()
    server.add(IMAGE, "team/app", "v1")
    server.lie = lie
    with server.running() as running:
        yield running


def truth(request: Request, answer: Answer) -> Answer | None:
    return None


def read(opened: registry.Client, digest: str = LAYER, offset: int = 0) -> tuple[int, bytes]:
    with opened.blob(digest, offset) as stream:
        content = b""
        while chunk := stream.read(100):
            content += chunk
        return stream.offset, content


def test_manifest_and_blob_are_read_with_the_right_headers() -> None:
    with lying(truth) as (host, seen), client(host) as opened:
        fetched = opened.manifest("v1")
        assert (fetched.media_type, fetched.raw) == IMAGE.manifests[IMAGE.digest]
        assert read(opened) == (0, IMAGE.blobs[LAYER])
        assert read(opened, offset=5) == (5, IMAGE.blobs[LAYER][5:])
    assert seen[0].headers["accept"] == manifest.ACCEPT
    assert {request.headers["accept-encoding"] for request in seen} == {"identity"}
    assert not any("authorization" in request.headers for request in seen)


@attack(
    49,
    without("runner/image/transport.py", "_RETRIED = (429, 500, 502, 503, 504)", "_RETRIED = ()"),
)
@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_busy_registry_is_asked_again(status: int) -> None:
    lies = [Answer(status, b"<html>", {"Retry-After": "1"} if status == 429 else {})] * 2

    with lying(lambda request, answer: lies.pop() if lies else None) as (host, seen), client(host) as opened:
        assert opened.manifest("v1").raw == IMAGE.manifests[IMAGE.digest][1]
    assert len(seen) == 3


@attack(
    49,
    without("runner/image/transport.py", "max(min(pause, patience.longest_pause_s), asked)", "min(pause, patience.longest_pause_s)"),
)
def test_retry_after_is_kept() -> None:
    lies = [Answer(429, b"", {"Retry-After": "1"})]
    with lying(lambda request, answer: lies.pop() if lies else None) as (host, _), client(host) as opened:
        import time

        began = time.monotonic()
        opened.manifest("v1")
        assert time.monotonic() - began >= 1.0


def test_date_in_retry_after_is_kept() -> None:
    later = email.utils.format_datetime(datetime.now(UTC) + timedelta(hours=2), usegmt=True)
    with (
        lying(lambda request, answer: Answer(503, b"", {"Retry-After": later})) as (host, seen),
        client(host) as opened,
        pytest.raises(Busy, match=r"answers 503 and wants to be asked again in 7[12][0-9]{2} s"),
    ):
        opened.manifest("v1")
    assert len(seen) == 1


@pytest.mark.parametrize("what", ["manifest", "blob", "head"])
@pytest.mark.parametrize("status", [429, 503])
def test_registry_that_wants_a_longer_pause_than_we_have_is_left_alone(what: str, status: int) -> None:
    body = b'{"errors":[{"code":"TOOMANYREQUESTS","message":"you have reached your limit"}]}'
    ask: dict[str, Callable[[registry.Client], object]] = {
        "manifest": lambda opened: opened.manifest("v1"),
        "blob": read,
        "head": lambda opened: opened.check(IMAGE.digest),
    }
    with (
        lying(lambda request, answer: Answer(status, body, {"Retry-After": "3600"})) as (host, seen),
        client(host) as opened,
        pytest.raises(Busy, match=f"registry {host} answers {status} and wants to be asked again in 3600 s") as caught,
    ):
        ask[what](opened)
    assert caught.value.message.endswith(": you have reached your limit") is (what != "head")
    assert caught.value.hint
    assert len(seen) == 1


@pytest.mark.parametrize("status", [429, 500, 503])
def test_registry_that_stays_busy_is_temporary(status: int) -> None:
    body = b'{"errors":[{"code":"X","message":"no\\u0007 room\\nfor you"}]}'
    with (
        lying(lambda request, answer: Answer(status, body)) as (host, seen),
        client(host) as opened,
        pytest.raises(Temporary, match=rf"{status}.*: no  room for you"),
    ):
        opened.manifest("v1")
    assert len(seen) == QUICK.attempts


def test_registry_that_is_down_is_temporary() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{unused.getsockname()[1]}"
        with client(host) as opened, pytest.raises(Temporary, match=f"cannot reach registry {host}: .*refused"):
            opened.manifest("v1")


def test_name_that_does_not_resolve_is_temporary() -> None:
    with client("no-such-registry.invalid") as opened, pytest.raises(Temporary, match=r"cannot reach registry no-such-registry\.invalid"):
        opened.manifest("v1")


def test_missing_image_is_the_users_error_and_missing_blob_the_registrys() -> None:
    with lying(truth) as (host, _), client(host) as opened:
        with pytest.raises(UserError, match=f"image not found: registry {host} has no manifest v2"):
            opened.manifest("v2")
        with pytest.raises(InfraError, match="no blob") as caught:
            read(opened, digest="sha256:" + "0" * 64)
        assert not isinstance(caught.value, Temporary)


def test_denied_image_is_the_users_error() -> None:
    body = b'{"errors":[{"code":"DENIED","message":"not yours"}]}'
    with (
        lying(lambda request, answer: Answer(403, body)) as (host, seen),
        client(host) as opened,
        pytest.raises(UserError, match="denies access to team/app: not yours"),
    ):
        opened.manifest("v1")
    assert len(seen) == 1


@pytest.mark.parametrize(
    "body", [b"\xff" * 10, b"[]", b'{"errors":[]}', b'{"errors":[7]}', b"[" * 8000, b'{"errors":[{"message":"' + b"x" * 10**6 + b'"}]}']
)
def test_error_bodies_are_bounded_and_may_be_nonsense(body: bytes) -> None:
    with lying(lambda request, answer: Answer(418, body)) as (host, _), client(host) as opened:
        with pytest.raises(InfraError, match="answers 418") as caught:
            opened.manifest("v1")
        assert len(caught.value.message) < 400


@attack(
    17,
    without("runner/image/transport.py", "if len(body) > limit_bytes:", "if False:"),
)
def test_manifest_of_a_hundred_megabytes_is_not_read() -> None:
    with (
        lying(lambda request, answer: Answer(200, b" " * (5 * 1024**2), length=100 * 1024**2)) as (host, _),
        client(host) as opened,
        pytest.raises(InfraError, match="more than 4194304 bytes"),
    ):
        opened.manifest("v1")


def test_manifest_that_breaks_off_is_asked_for_again() -> None:
    raw = IMAGE.manifests[IMAGE.digest][1]
    lies = [Answer(200, raw, {"Content-Type": manifest.OCI_MANIFEST}, cut_at=20)]
    with lying(lambda request, answer: lies.pop() if lies else None) as (host, _), client(host) as opened:
        assert opened.manifest("v1").raw == raw


def test_blob_that_breaks_off_is_temporary() -> None:
    with (
        lying(lambda request, answer: answer._replace(cut_at=10)) as (host, _),
        client(host) as opened,
        pytest.raises(Temporary, match="broke off"),
    ):
        read(opened)


@pytest.mark.parametrize("status", [200, 416])
def test_registry_without_ranges_gives_the_whole(status: int) -> None:
    def lie(request: Request, answer: Answer) -> Answer | None:
        return Answer(status, IMAGE.blobs[LAYER] if status == 200 else b"") if "range" in request.headers else None

    with lying(lie) as (host, _), client(host) as opened:
        assert read(opened, offset=5) == (0, IMAGE.blobs[LAYER])


def test_registry_that_answers_with_another_range_is_asked_for_the_whole() -> None:
    def lie(request: Request, answer: Answer) -> Answer | None:
        return Answer(206, b"xyz", {"Content-Range": "bytes 7-9/10"}) if "range" in request.headers else None

    with lying(lie) as (host, _), client(host) as opened:
        assert read(opened, offset=5) == (0, IMAGE.blobs[LAYER])


# --- credentials


def basic(pair: str) -> str:
    return "Basic " + base64.b64encode(pair.encode()).decode()


def guarded(challenge: str, right: str) -> Callable[[Request, Answer], Answer | None]:
    """A registry that lets in who sends the `right` Authorization."""

    def lie(request: Request, answer: Answer) -> Answer | None:
        return None if request.headers.get("authorization") == right else Answer(401, b"", {"WWW-Authenticate": challenge})

    return lie


def test_basic_credentials_are_sent_when_asked_for_and_said_where_from(capsys: pytest.CaptureFixture[str]) -> None:
    with (
        lying(guarded('Basic realm="x"', basic("me:pw"))) as (host, seen),
        client(host, keychain=auth.Keychain(payload=[(host, "me", "pw")])) as opened,
    ):
        opened.manifest("v1")
        read(opened)
    assert [("authorization" in request.headers) for request in seen] == [False, True, True]
    assert "Authenticating with credentials from job payload (GitLab Registry)" in capsys.readouterr().err


def test_wrong_credentials_are_the_users_error_and_end_soon() -> None:
    with (
        lying(guarded('Basic realm="x"', "none")) as (host, seen),
        client(host, keychain=auth.Keychain(payload=[(host, "me", "pw")])) as opened,
    ):
        with pytest.raises(UserError, match=r"refuses the credentials from job payload \(GitLab Registry\)") as caught:
            opened.manifest("v1")
        assert "pw" not in caught.value.message + caught.value.hint
    assert len(seen) <= 3


def test_registry_that_wants_credentials_which_nobody_has_is_the_users_error() -> None:
    with lying(guarded('Basic realm="x"', "none")) as (host, _), client(host) as opened:
        with pytest.raises(UserError, match="wants credentials for team/app") as caught:
            opened.manifest("v1")
        assert "DOCKER_AUTH_CONFIG" in caught.value.hint


@pytest.mark.parametrize("header", ["Negotiate", "", "Digest realm=x"])
def test_unknown_challenge_is_an_error(header: str) -> None:
    with lying(guarded(header, "none")) as (host, _), client(host) as opened, pytest.raises(InfraError, match="not supported"):
        opened.manifest("v1")


@contextmanager
def token_guarded(answer_token: Callable[[Request], Answer], *, tokens: list[str]) -> Iterator[tuple[str, list[Request], list[Request]]]:
    """A registry that wants the last of `tokens`, and its token server."""
    with serve(answer_token) as (realm, asked):

        def lie(request: Request, answer: Answer) -> Answer | None:
            if request.headers.get("authorization") == f"Bearer {tokens[-1]}":
                return None
            return Answer(
                401, b"", {"WWW-Authenticate": f'Bearer realm="http://{realm}/token",service="s",scope="repository:other/x:pull,push"'}
            )

        with lying(lie) as (host, seen):
            yield host, seen, asked


def test_token_is_fetched_once_and_renewed_when_it_expires() -> None:
    tokens = ["first"]

    def answer(request: Request) -> Answer:
        return Answer(200, json.dumps({"token": tokens[-1]}).encode())

    with token_guarded(answer, tokens=tokens) as (host, _, asked), client(host) as opened:
        opened.manifest("v1")
        read(opened)
        assert len(asked) == 1
        tokens.append("second")
        read(opened)
        assert len(asked) == 2
    assert all("scope=repository%3Ateam%2Fapp%3Apull" in request.path and "other" not in request.path for request in asked)


def test_registry_that_never_accepts_its_own_tokens_ends_soon() -> None:
    with (
        token_guarded(lambda request: Answer(200, b'{"token":"other"}'), tokens=["right"]) as (host, seen, asked),
        client(host) as opened,
        pytest.raises(UserError, match="wants credentials"),
    ):
        opened.manifest("v1")
    assert len(seen) == 3
    assert len(asked) == 2


def test_identity_token_is_exchanged_by_post() -> None:
    forms: list[str] = []

    def answer(request: Request) -> Answer:
        forms.append(request.method)
        return Answer(200, b'{"access_token":"right"}')

    text = '{"auths": {"%s": {"identitytoken": "sesame"}}}'
    with (
        token_guarded(answer, tokens=["right"]) as (host, _, _),
        client(host, keychain=auth.Keychain(docker_auth_config=text % host)) as opened,
    ):
        opened.manifest("v1")
    assert forms == ["POST"]


@pytest.mark.parametrize(
    "answer", [Answer(200, b"{}"), Answer(200, b"[]"), Answer(200, b"x"), Answer(200, b'{"token":"a\\r\\nX: y"}'), Answer(302, b"")]
)
def test_token_server_that_gives_no_token_is_an_error(answer: Answer) -> None:
    with (
        token_guarded(lambda request: answer, tokens=["right"]) as (host, _, _),
        client(host) as opened,
        pytest.raises(InfraError, match="token server"),
    ):
        opened.manifest("v1")


@attack(
    19,
    without("runner/image/challenge.py", 'check_target(realm, asked_by=registry_url, what="token realm")', "pass"),
)
@pytest.mark.parametrize(
    "realm", ["http://169.254.169.254/token", "https://169.254.169.254/token", "http://localhost:1/token", "file:///etc/passwd", ""]
)
def test_realm_on_another_or_forbidden_host_gets_nothing(realm: str) -> None:
    lie = guarded(f'Bearer realm="{realm}",service="s"', "none")
    with (
        lying(lie) as (host, seen),
        client(host, keychain=auth.Keychain(payload=[(host, "me", "pw")])) as opened,
        pytest.raises(UserError, match="token realm"),
    ):
        opened.manifest("v1")
    assert len(seen) == 1


@attack(
    20,
    without("runner/image/transport.py", 'challenge.check_target(target, asked_by=here, what="redirect")', "pass"),
)
def test_token_server_cannot_redirect_to_link_local_addresses() -> None:
    answer = Answer(302, b"", {"Location": "https://169.254.169.254/latest/meta-data"})
    with (
        token_guarded(lambda request: answer, tokens=["right"]) as (host, _, _),
        client(host) as opened,
        pytest.raises(UserError, match="redirect"),
    ):
        opened.manifest("v1")


def test_private_image_that_is_hidden_from_strangers_is_found_with_credentials() -> None:
    def lie(request: Request, answer: Answer) -> Answer | None:
        if request.headers.get("authorization") == basic("me:pw"):
            return None
        return Answer(401, b"", {"WWW-Authenticate": 'Basic realm="x"'}) if request.path == "/v2/" else Answer(404, b"")

    with lying(lie) as (host, _):
        with client(host, keychain=auth.Keychain(payload=[(host, "me", "pw")])) as opened:
            assert opened.manifest("v1").raw
        with client(host) as opened, pytest.raises(UserError, match="image not found"):
            opened.manifest("v1")


def test_busy_token_server_is_asked_again_for_both_kinds_of_credentials() -> None:
    for text in ('{"auths": {"%s": {"identitytoken": "sesame"}}}', '{"auths": {"%s": {"username": "me", "password": "pw"}}}'):
        lies = [Answer(429, b"", {"Retry-After": "0"}), Answer(503, b"")]

        def answer(request: Request, lies: list[Answer] = lies) -> Answer:
            return lies.pop() if lies else Answer(200, b'{"token":"right"}')

        with (
            token_guarded(answer, tokens=["right"]) as (host, _, asked),
            client(host, keychain=auth.Keychain(docker_auth_config=text % host)) as opened,
        ):
            assert opened.manifest("v1").raw
        assert len(asked) == 3


@pytest.mark.parametrize("user", [b'"identitytoken": "sesame"', b'"username": "me", "password": "pw"'])
def test_token_server_that_wants_a_longer_pause_than_we_have_is_left_alone(user: bytes) -> None:
    text = '{"auths": {"%s": {' + user.decode() + "}}}"
    with (
        token_guarded(lambda request: Answer(429, b"", {"Retry-After": "3600"}), tokens=["right"]) as (host, _, asked),
        client(host, keychain=auth.Keychain(docker_auth_config=text % host)) as opened,
        pytest.raises(Busy, match="answers 429 and wants to be asked again in 3600 s"),
    ):
        opened.manifest("v1")
    assert len(asked) == 1


# --- redirects


@attack(
    20,
    without("runner/image/transport.py", 'kept.pop("Authorization", None)', "pass"),
)
def test_authorization_is_dropped_on_the_way_to_another_host() -> None:
    data = IMAGE.blobs[LAYER]
    with serve(lambda request: Answer(200, data)) as (storage, stored):

        def lie(request: Request, answer: Answer) -> Answer | None:
            if request.headers.get("authorization") != basic("me:pw"):
                return Answer(401, b"", {"WWW-Authenticate": 'Basic realm="x"'})
            return Answer(307, b"", {"Location": f"http://{storage}/elsewhere"}) if "/blobs/" in request.path else None

        with lying(lie) as (host, _), client(host, keychain=auth.Keychain(payload=[(host, "me", "pw")])) as opened:
            opened.manifest("v1")
            assert read(opened) == (0, data)
    assert [request.path for request in stored] == ["/elsewhere"]
    assert "authorization" not in stored[0].headers


def test_authorization_stays_within_one_host() -> None:
    def lie(request: Request, answer: Answer) -> Answer | None:
        if request.headers.get("authorization") != basic("me:pw"):
            return Answer(401, b"", {"WWW-Authenticate": 'Basic realm="x"'})
        return Answer(307, b"", {"Location": "/v2/team/app/manifests/v1?again"}) if request.path.endswith("/v1") else None

    with lying(lie) as (host, seen), client(host, keychain=auth.Keychain(payload=[(host, "me", "pw")])) as opened:
        opened.manifest("v1")
    assert seen[-1].path.endswith("?again")


@pytest.mark.parametrize(
    "location",
    ["http://169.254.169.254/", "https://169.254.169.254/x", "file:///etc/passwd", "http://localhost:1/", "http://u:p@127.0.0.1/"],
)
def test_redirect_to_where_a_registry_has_no_business_is_refused(location: str) -> None:
    with (
        lying(lambda request, answer: Answer(307, b"", {"Location": location})) as (host, seen),
        client(host) as opened,
        pytest.raises(UserError, match="redirect"),
    ):
        opened.manifest("v1")
    assert len(seen) == 1


def test_circle_of_redirects_ends() -> None:
    with (
        lying(lambda request, answer: Answer(302, b"", {"Location": request.path})) as (host, seen),
        client(host) as opened,
        pytest.raises(InfraError, match="circle"),
    ):
        opened.manifest("v1")
    assert len(seen) == 6


# --- may we?


def test_question_whether_a_manifest_is_open_is_a_head_that_counts_as_no_pull() -> None:
    with lying(truth) as (host, seen), client(host) as opened:
        opened.check(IMAGE.digest)
        with pytest.raises(UserError, match=r"image not found: .* has no manifest sha256:000"):
            opened.check("sha256:" + "0" * 64)
    assert [request.method for request in seen] == ["HEAD", "HEAD"]
    assert seen[0].path == f"/v2/team/app/manifests/{IMAGE.digest}"
    assert seen[0].headers["accept"] == manifest.ACCEPT


def test_question_is_for_the_registry_itself_unless_its_mirrors_are_trusted() -> None:
    with lying(guarded('Basic realm="x"', "none")) as (host, seen), lying(truth) as (mirror, asked):
        for trusted in (False, True):
            settings = config.Registry(plain_http=True, mirrors=(f"http://{mirror}",), mirrors_trusted=trusted)
            with client(host, settings=settings) as opened:
                if trusted:
                    opened.check(IMAGE.digest)
                else:
                    with pytest.raises(UserError, match="wants credentials"):
                        opened.check(IMAGE.digest)
            assert (len(seen), len(asked)) == (1, 1 if trusted else 0)


# --- ways to a registry


def test_mirror_is_asked_first_and_the_registry_when_it_fails() -> None:
    with lying(truth) as (host, seen):
        for status in (404, 401, 500):
            with serve(lambda request, status=status: Answer(status, b"")) as (mirror, asked):  # type: ignore[misc]  # bound per turn
                settings = config.Registry(plain_http=True, mirrors=(f"http://{mirror}",))
                with client(host, settings=settings, keychain=auth.Keychain(payload=[(host, "me", "pw")])) as opened:
                    assert opened.manifest("v1").raw
                    assert read(opened)[1] == IMAGE.blobs[LAYER]
            assert asked
            assert not any("authorization" in request.headers for request in asked)
    assert len(seen) == 6


def test_mirror_that_has_the_image_is_enough() -> None:
    with lying(truth) as (mirror, seen):
        settings = config.Registry(mirrors=(f"http://{mirror}/",))
        with client("no-such-registry.invalid", settings=settings) as opened:
            assert opened.manifest("v1").raw
            assert read(opened)[1] == IMAGE.blobs[LAYER]
    assert [request.path.split("/")[4] for request in seen] == ["manifests", "blobs"]


@pytest.mark.parametrize("path", ["hub", "hub/", "group/dependency_proxy/containers"])
def test_path_of_a_mirror_is_what_its_repositories_begin_with(path: str) -> None:
    server = LyingRegistry()
    server.add(IMAGE, f"{path.rstrip('/')}/team/app", "v1")
    with (
        server.running() as (mirror, seen),
        client("no-such-registry.invalid", settings=config.Registry(mirrors=(f"http://{mirror}/{path}",))) as opened,
    ):
        assert opened.manifest("v1").raw
        assert read(opened)[1] == IMAGE.blobs[LAYER]
        assert read(opened, offset=7)[1] == IMAGE.blobs[LAYER][7:]
    assert {request.path.partition("/manifests")[0].partition("/blobs")[0] for request in seen} == {f"/v2/{path.rstrip('/')}/team/app"}


def test_images_of_docker_hub_are_found_below_the_path_of_a_mirror() -> None:
    server = LyingRegistry()
    server.add(IMAGE, "dockerhub/library/alpine", "3")
    with server.running() as (mirror, _):
        settings = config.Settings(registries=(("docker.io", config.Registry(mirrors=(f"http://{mirror}/dockerhub",))),))
        with registry.Client(reference.parse("alpine:3"), settings=settings, keychain=auth.Keychain(), patience=QUICK) as opened:
            assert opened.manifest("3").raw


def test_credentials_for_the_path_of_a_mirror_go_there_and_its_token_is_for_its_own_repository() -> None:
    server = LyingRegistry()
    server.add(IMAGE, "hub/team/app", "v1")
    with serve(lambda request: Answer(200, b'{"token":"right"}')) as (realm, asked):
        challenge = f'Bearer realm="http://{realm}/token",service="s"'
        server.lie = guarded(challenge, "Bearer right")
        with server.running() as (mirror, _):
            keychain = auth.Keychain(payload=[(f"{mirror}/hub", "me", "pw"), (f"{mirror}/other", "you", "no")])
            settings = config.Registry(mirrors=(f"http://{mirror}/hub",))
            with client("no-such-registry.invalid", settings=settings, keychain=keychain) as opened:
                assert opened.manifest("v1").raw
    assert [request.basic() for request in asked] == ["me:pw"]
    assert "scope=repository%3Ahub%2Fteam%2Fapp%3Apull" in asked[0].path


def test_mirror_that_wants_a_long_pause_is_passed_over() -> None:
    with lying(truth) as (host, _), serve(lambda request: Answer(429, b"", {"Retry-After": "3600"})) as (mirror, asked):
        with client(host, settings=config.Registry(plain_http=True, mirrors=(f"http://{mirror}",))) as opened:
            assert opened.manifest("v1").raw
        assert len(asked) == 1


@pytest.mark.parametrize(
    "mirror",
    [
        "mirror.example",
        "https://mirror.example/A",
        "https://mirror.example/v2",
        "ftp://mirror.example",
        "https://u:p@mirror.example",
        "https://[",
        "",
    ],
)
def test_mirror_that_is_no_url_is_the_users_error(mirror: str) -> None:
    with pytest.raises(UserError, match="bad mirror"):
        client("r.example", settings=config.Registry(mirrors=(mirror,)))


def test_loopback_registry_is_reached_without_tls_and_without_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    with lying(truth) as (host, _), client(host, settings=config.Registry()) as opened:
        assert opened.manifest("v1").raw


def test_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "")
    with serve(lambda request: Answer(200, b"{}", {"Content-Type": "x"})) as (proxy, asked):
        monkeypatch.setenv("http_proxy", f"http://{proxy}")
        with client("r.invalid") as opened:
            assert opened.manifest("v1").raw == b"{}"
    assert asked[0].path == "http://r.invalid/v2/team/app/manifests/v1"


def test_netrc_is_never_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / ".netrc"
    netrc.write_text("machine 127.0.0.1 login me password pw\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(netrc))
    with lying(truth) as (host, seen), client(host) as opened:
        opened.manifest("v1")
    assert "authorization" not in seen[0].headers


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("tls"))


def test_own_ca_is_trusted_and_an_unknown_one_is_not(certificates: Certificates) -> None:
    server = LyingRegistry()
    server.add(IMAGE, "team/app", "v1")
    with server.running(tls=certificates) as (host, _):
        with client(host, settings=config.Registry(ca_file=str(certificates.ca))) as opened:
            assert opened.manifest("v1").raw
        with client(host, settings=config.Registry()) as opened, pytest.raises(InfraError, match=f"cannot trust registry {host}") as caught:
            opened.manifest("v1")
        assert not isinstance(caught.value, Temporary)
        assert "ca_file" in caught.value.hint


def test_ca_file_that_cannot_be_read_is_the_users_error(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nonsense")
    for name in ("ca.pem", "missing.pem"):
        with pytest.raises(UserError, match="CA file"):
            client("r.example", settings=config.Registry(ca_file=str(tmp_path / name)))


def test_own_ca_counts_through_a_proxy_too(certificates: Certificates, monkeypatch: pytest.MonkeyPatch) -> None:
    server = LyingRegistry()
    server.add(IMAGE, "team/app", "v1")
    with server.running(tls=certificates) as (target, _), tunnel(target) as (proxy, asked):
        monkeypatch.setenv("https_proxy", f"http://{proxy}")
        monkeypatch.setenv("no_proxy", "")
        with client("registry.test", settings=config.Registry(ca_file=str(certificates.ca))) as opened:
            assert opened.manifest("v1").raw
            assert read(opened)[1] == IMAGE.blobs[LAYER]
        with client("registry.test", settings=config.Registry()) as opened, pytest.raises(InfraError, match="cannot trust"):
            opened.manifest("v1")
    assert set(asked) == {"registry.test:443"}
