"""One tenant's private images and the others (contracts/security.md D4, case 22), over registries that ask for credentials."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runner import config, paths
from runner.errors import InfraError, Temporary, UserError
from runner.image import auth, images, platforms, pull, reference
from runner.model import Image
from tests.support import images as made
from tests.support import stores
from tests.support.defences import attack, without
from tests.support.private_registry import PrivateRegistry
from tests.support.registries import Answer, LyingRegistry, TokenServer, docker_registry, serve

HOST = platforms.host()
APP = made.build_image([[made.file("a", b"private")]], architecture=HOST.architecture)
MOVED = made.build_image([[made.file("a", b"newer")]], architecture=HOST.architecture)
A, B = "project-7", "project-8"
NOBODY = auth.Keychain()


@pytest.fixture
def store(tmp_path: Path) -> paths.Store:
    return stores.make(tmp_path / "store")


def ensure(
    store: paths.Store,
    source: str,
    *policies: str,
    tenant: str,
    keychain: auth.Keychain = NOBODY,
    settings: config.Settings | None = None,
    platform: str = "",
) -> Image:
    return pull.ensure(
        source,
        store=store,
        settings=settings or config.Settings(),
        keychain=keychain,
        policies=policies or ("if-not-present",),
        platform=platform,
        tenant=tenant,
    )


def having(host: str, password: str = "s3cret", user: str = "me") -> auth.Keychain:
    return auth.Keychain(payload=[(host, user, password)])


def with_images(**changes: Any) -> config.Settings:
    return config.Settings(images=config.Images()._replace(**changes))


@pytest.fixture
def guarded() -> Iterator[PrivateRegistry]:
    with PrivateRegistry(APP).running() as registry:
        yield registry


HEAD = [("HEAD", "manifests")]


def test_person_is_not_asked_for_credentials_of_what_is_in_the_accounts_own_store(store: paths.Store, guarded: PrivateRegistry) -> None:
    ensure(store, guarded.name, tenant="", keychain=having(guarded.host))
    guarded.seen.clear()
    assert ensure(store, guarded.name, tenant="").digest == APP.digest
    assert guarded.seen == []
    assert not Path(store.access).exists()


@attack(
    22,
    without("runner/image/access.py", "refused = _ask(tenant, source, image)", "refused = None"),
)
@pytest.mark.parametrize("status", [401, 403, 404])
@pytest.mark.parametrize("keychain", ["nothing", "wrong"])
def test_private_image_of_one_tenant_is_not_there_for_another(
    store: paths.Store, guarded: PrivateRegistry, status: int, keychain: str
) -> None:
    ensure(store, guarded.name, tenant=A, keychain=having(guarded.host))
    guarded.status = status
    theirs = NOBODY if keychain == "nothing" else having(guarded.host, "guessed")
    with pytest.raises(UserError, match=r"credentials|denies access|image not found") as if_not_present:
        ensure(store, guarded.name, tenant=B, keychain=theirs)
    with pytest.raises(UserError, match=f"image {guarded.name} is stored here, but not for this job: ") as never:
        ensure(store, guarded.name, "never", tenant=B, keychain=theirs)
    assert if_not_present.value.hint and never.value.hint
    with pytest.raises(UserError):
        ensure(store, guarded.name, "always", "never", "if-not-present", tenant=B, keychain=theirs)
    assert images.find(store, guarded.name) is not None


@attack(
    22,
    without("runner/image/access.py", "refused = _ask(tenant, source, image)", "refused = None"),
)
def test_digest_in_the_name_opens_nothing(store: paths.Store, guarded: PrivateRegistry) -> None:
    pinned = f"{guarded.host}/team/app@{APP.digest}"
    ensure(store, pinned, tenant=A, keychain=having(guarded.host))
    with pytest.raises(UserError, match="wants credentials"):
        ensure(store, pinned, tenant=B)


def test_other_tenant_is_let_in_by_credentials_of_its_own_and_downloads_nothing(
    store: paths.Store, guarded: PrivateRegistry, capsys: pytest.CaptureFixture[str]
) -> None:
    guarded.passwords.add("theirs")
    ensure(store, guarded.name, tenant=A, keychain=having(guarded.host))
    guarded.asked()
    for policy in ("if-not-present", "never"):
        assert ensure(store, guarded.name, policy, tenant=B, keychain=having(guarded.host, "theirs")).digest == APP.digest
    assert guarded.asked() == HEAD
    assert "Using locally found image version" in capsys.readouterr().err


@pytest.mark.parametrize("policy", ["if-not-present", "always"])
def test_pull_is_an_answer_that_is_remembered(store: paths.Store, guarded: PrivateRegistry, policy: str) -> None:
    ensure(store, guarded.name, policy, tenant=A, keychain=having(guarded.host))
    guarded.asked()
    ensure(store, guarded.name, tenant=A, keychain=having(guarded.host))
    assert guarded.seen == []


def test_answer_is_remembered_for_the_configured_while_and_no_longer(store: paths.Store, guarded: PrivateRegistry) -> None:
    ensure(store, guarded.name, tenant="", keychain=having(guarded.host))
    guarded.asked()
    for expected in (HEAD, []):
        ensure(store, guarded.name, tenant=A, keychain=having(guarded.host))
        assert guarded.asked() == expected
    record = json.loads(Path(store.tenant_access(A)).read_text())
    record["grants"][0][3] -= 3600
    Path(store.tenant_access(A)).write_text(json.dumps(record))
    for expected in (HEAD, []):
        ensure(store, guarded.name, tenant=A, keychain=having(guarded.host))
        assert guarded.asked() == expected


def test_nothing_is_remembered_for_no_time(store: paths.Store, guarded: PrivateRegistry) -> None:
    settings = with_images(access_ttl=0)
    ensure(store, guarded.name, tenant=A, keychain=having(guarded.host), settings=settings)
    guarded.asked()
    for _ in range(3):
        ensure(store, guarded.name, tenant=A, keychain=having(guarded.host), settings=settings)
        assert guarded.asked() == HEAD
    assert not Path(store.tenant_access(A)).exists()


def test_remembered_answer_is_for_the_credentials_that_were_used(store: paths.Store, guarded: PrivateRegistry) -> None:
    ensure(store, guarded.name, tenant=A, keychain=having(guarded.host))
    for theirs in (NOBODY, having(guarded.host, "of an unprotected job")):
        with pytest.raises(UserError, match="credentials"):
            ensure(store, guarded.name, tenant=A, keychain=theirs)


@attack(
    23,
    without("runner/image/access.py", "grants.Grant(image.source, image.digest, ", 'grants.Grant(image.source, "", '),
)
def test_answer_is_for_the_content_that_was_asked_about(store: paths.Store, guarded: PrivateRegistry) -> None:
    ensure(store, guarded.name, tenant=A, keychain=having(guarded.host))
    guarded.server.add(MOVED, "team/app", "v1")
    ensure(store, guarded.name, "always", tenant="", keychain=having(guarded.host))
    guarded.asked()
    assert ensure(store, guarded.name, tenant=A, keychain=having(guarded.host)).digest == MOVED.digest
    assert guarded.asked() == HEAD


def test_image_that_its_registry_has_deleted_is_pulled_by_its_name(store: paths.Store, guarded: PrivateRegistry) -> None:
    ensure(store, guarded.name, tenant="", keychain=having(guarded.host))
    del guarded.server.answers[f"/v2/team/app/manifests/{APP.digest}"]
    guarded.server.add(MOVED, "team/app", "v1")
    assert ensure(store, guarded.name, tenant=B, keychain=having(guarded.host)).digest == MOVED.digest


def test_each_platform_is_asked_about(store: paths.Store, guarded: PrivateRegistry) -> None:
    other = "arm64" if HOST.architecture != "arm64" else "amd64"
    foreign = made.build_image([[made.file("a", b"1")]], architecture=other)
    index = made.build_index([APP, foreign])
    guarded.server.add(index, "team/app", "v1")
    for platform in ("", other):
        ensure(store, guarded.name, tenant="", keychain=having(guarded.host), platform=platform)
        guarded.asked()
        ensure(store, guarded.name, tenant=A, keychain=having(guarded.host), platform=platform)
        assert guarded.asked() == HEAD


@pytest.mark.parametrize("policy", ["if-not-present", "never"])
def test_registry_that_is_down_opens_nothing(store: paths.Store, policy: str) -> None:
    guarded = PrivateRegistry(APP)
    with guarded.running():
        ensure(store, guarded.name, tenant="", keychain=having(guarded.host))
        ensure(store, guarded.name, tenant=A, keychain=having(guarded.host))
    with pytest.raises(Temporary, match=f"cannot tell whether this job may use image {guarded.name}: cannot reach registry") as caught:
        ensure(store, guarded.name, policy, tenant=B, keychain=having(guarded.host))
    assert "images.public" in caught.value.hint
    # what was answered before does not need it
    assert ensure(store, guarded.name, policy, tenant=A, keychain=having(guarded.host)).digest == APP.digest


def test_registry_that_breaks_the_protocol_opens_nothing(store: paths.Store, guarded: PrivateRegistry) -> None:
    ensure(store, guarded.name, tenant="", keychain=having(guarded.host))
    guarded.server.lie = lambda request, truth: Answer(418, b"")
    with pytest.raises(InfraError, match="answers 418"):
        ensure(store, guarded.name, tenant=B, keychain=having(guarded.host))


# --- what the policy names public


@pytest.mark.parametrize("pattern", ["**", "HOST/team/*", "HOST/**", "HOST/team/app:v1"])
def test_public_image_is_for_everybody_and_no_registry_is_asked(store: paths.Store, guarded: PrivateRegistry, pattern: str) -> None:
    ensure(store, guarded.name, tenant="", keychain=having(guarded.host))
    guarded.seen.clear()
    settings = with_images(public=("other/*", pattern.replace("HOST", guarded.host)))
    for policy in ("if-not-present", "never"):
        assert ensure(store, guarded.name, policy, tenant=B, settings=settings).digest == APP.digest
    assert guarded.seen == []


@pytest.mark.parametrize("pattern", ["*", "HOST/team/other", "HOST/*", "HOST/team/[", "team/app:v1"])
def test_pattern_of_another_image_opens_nothing(store: paths.Store, guarded: PrivateRegistry, pattern: str) -> None:
    ensure(store, guarded.name, tenant="", keychain=having(guarded.host))
    with pytest.raises(UserError, match="wants credentials"):
        ensure(store, guarded.name, tenant=B, settings=with_images(public=(pattern.replace("HOST", guarded.host),)))


@pytest.mark.parametrize("written", ["debian", "debian:latest", "docker.io/library/debian", "Index.docker.io/library/debian:latest"])
@pytest.mark.parametrize("pattern", ["debian:*", "docker.io/library/**"])
def test_pattern_is_for_an_image_however_a_job_writes_its_name(store: paths.Store, written: str, pattern: str) -> None:
    image = stores.add(store, APP, reference.canonical(written))
    images.add(store, written, image)
    settings = with_images(public=(pattern,))._replace(registries=(("docker.io", config.Registry(mirrors=("http://127.0.0.1:1",))),))
    assert ensure(store, written, "never", tenant=B, settings=settings) == image


# --- what is no registry's


def test_toolbox_and_files_of_the_machine_are_not_asked_about(store: paths.Store, tmp_path: Path) -> None:
    made.write_oci_layout(tmp_path / "layout", APP)
    assert ensure(store, "toolbox", "never", tenant=B).source == "toolbox"
    for _ in range(2):
        assert ensure(store, f"oci:{tmp_path}/layout", tenant=B).digest == APP.digest
    assert not Path(store.access).exists()


# --- Debian's docker-registry


def test_token_server_is_asked_with_the_tenants_own_credentials(store: paths.Store, tmp_path: Path) -> None:
    tokens = TokenServer(tmp_path / "tokens", {"me": "s3cret"})
    with tokens.running(), docker_registry(tmp_path / "registry", token_server=tokens) as host:
        made.push(APP, f"{host}/team/app:v1", token=tokens.mint("team/app", ("pull", "push")))
        ensure(store, f"{host}/team/app:v1", tenant=A, keychain=having(host))
        for theirs in (NOBODY, having(host, "guessed")):
            with pytest.raises(UserError, match="credentials"):
                ensure(store, f"{host}/team/app:v1", tenant=B, keychain=theirs)
        tokens.users["you"] = "theirs"
        tokens.requests.clear()
        for _ in range(2):
            assert ensure(store, f"{host}/team/app:v1", "never", tenant=B, keychain=having(host, "theirs", "you")).digest == APP.digest
        assert [user for _, user in tokens.requests] == ["you"]


def test_password_is_asked_for_with_the_tenants_own_credentials(store: paths.Store, tmp_path: Path) -> None:
    with docker_registry(tmp_path / "registry", htpasswd=("me", "s3cret")) as host:
        made.push(APP, f"{host}/team/app:v1", auth=("me", "s3cret"))
        ensure(store, f"{host}/team/app:v1", tenant=A, keychain=having(host))
        for theirs in (NOBODY, having(host, "guessed")):
            with pytest.raises(UserError, match="credentials"):
                ensure(store, f"{host}/team/app:v1", "never", tenant=B, keychain=theirs)
        assert ensure(store, f"{host}/team/app:v1", "never", tenant=B, keychain=having(host)).digest == APP.digest


# --- mirrors, which may serve to everybody


def mirrored(host: str, mirror: str, **changes: Any) -> config.Settings:
    return config.Settings(registries=((host, config.Registry(mirrors=(f"http://{mirror}",), plain_http=True)._replace(**changes)),))


@pytest.fixture
def open_mirror() -> Iterator[str]:
    server = LyingRegistry()
    server.add(APP, "team/app", "v1")
    with server.running() as (host, _):
        yield host


@pytest.mark.parametrize("policy", ["always", "if-not-present"])
def test_mirror_that_serves_everybody_opens_nothing(store: paths.Store, guarded: PrivateRegistry, open_mirror: str, policy: str) -> None:
    settings = mirrored(guarded.host, open_mirror)
    for stored in (False, True):
        with pytest.raises(UserError, match="wants credentials for team/app"):
            ensure(store, guarded.name, policy, tenant=B, settings=settings)
        assert (images.find(store, guarded.name) is not None) or not stored
    assert ensure(store, guarded.name, policy, tenant=B, settings=settings, keychain=having(guarded.host)).digest == APP.digest
    guarded.seen.clear()
    assert ensure(store, guarded.name, policy, tenant=B, settings=settings, keychain=having(guarded.host)).digest == APP.digest
    assert guarded.seen == []


def test_mirror_that_is_trusted_may_let_in_by_itself(store: paths.Store, guarded: PrivateRegistry, open_mirror: str) -> None:
    settings = mirrored(guarded.host, open_mirror, mirrors_trusted=True)
    assert ensure(store, guarded.name, tenant=A, settings=settings).digest == APP.digest
    assert ensure(store, guarded.name, "never", tenant=B, settings=settings).digest == APP.digest
    assert guarded.seen == []


def test_mirror_that_is_trusted_and_refuses_leaves_it_to_the_registry(store: paths.Store, guarded: PrivateRegistry) -> None:
    ensure(store, guarded.name, tenant="", keychain=having(guarded.host))
    with serve(lambda request: Answer(401, b"", {"WWW-Authenticate": 'Basic realm="m"'})) as (mirror, asked):
        settings = mirrored(guarded.host, mirror, mirrors_trusted=True)
        with pytest.raises(UserError, match="wants credentials"):
            ensure(store, guarded.name, "never", tenant=B, settings=settings)
        assert asked
        assert ensure(store, guarded.name, "never", tenant=B, settings=settings, keychain=having(guarded.host)).digest == APP.digest


def test_credentials_for_a_trusted_mirror_are_among_those_that_an_answer_is_for(
    store: paths.Store, guarded: PrivateRegistry, open_mirror: str
) -> None:
    settings = mirrored(guarded.host, open_mirror, mirrors_trusted=True)
    ensure(store, guarded.name, tenant=A, settings=settings, keychain=having(open_mirror, "one"))
    for password, asked in (("one", 1), ("two", 2)):
        ensure(store, guarded.name, "never", tenant=A, settings=settings, keychain=having(open_mirror, password))
        assert len(json.loads(Path(store.tenant_access(A)).read_text())["grants"]) == asked


def test_mirror_without_its_registry_opens_nothing_unless_it_is_trusted(store: paths.Store, open_mirror: str) -> None:
    name = "127.0.0.1:1/team/app:v1"
    with pytest.raises(Temporary, match="cannot tell whether this job may use image"):
        ensure(store, name, "always", tenant=B, settings=mirrored("127.0.0.1:1", open_mirror))
    assert ensure(store, name, "always", tenant=B, settings=mirrored("127.0.0.1:1", open_mirror, mirrors_trusted=True)).digest == APP.digest
    assert ensure(store, name, "always", tenant="", settings=mirrored("127.0.0.1:1", open_mirror)).digest == APP.digest


def test_remembered_answer_costs_no_import_of_requests(store: paths.Store, guarded: PrivateRegistry) -> None:
    ensure(store, guarded.name, tenant=A, keychain=having(guarded.host))
    code = f"""
import sys
from runner import config, paths
from runner.image import auth, pull
keychain = auth.Keychain(payload=[({guarded.host!r}, "me", "s3cret")])
pull.ensure({guarded.name!r}, store=paths.Store({store.root!r}), settings=config.Settings(), keychain=keychain, tenant={A!r})
print(*sys.modules)
"""
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert "runner.image.access" in loaded
    assert not {"requests", "urllib3", "ssl", "runner.image.fetch"} & set(loaded)
