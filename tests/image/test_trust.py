"""Rules about images by registry and repository, and the signatures that they may ask for."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from runner import config, paths
from runner.errors import InfraError, UserError
from runner.image import auth, fetch, images, platforms, pull, trust
from runner.kernel import process
from runner.model import Image
from tests.support import images as made
from tests.support import signed, stores
from tests.support.registries import LyingRegistry, docker_registry

HOST = platforms.host()
BUILT = made.build_image([[made.file("a", b"1")]], architecture=HOST.architecture)
OTHER = made.build_image([[made.file("a", b"2")]], architecture=HOST.architecture)
INDEX = made.build_index([OTHER])


class Signed(NamedTuple):
    """A registry with signed images, and the keys."""

    host: str
    ours: signed.Key
    theirs: signed.Key


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Signed]:
    directory = tmp_path_factory.mktemp("signed")
    ours, theirs = signed.make_key(directory, "ours"), signed.make_key(directory, "theirs", algorithm="RSA")
    with docker_registry(directory / "registry") as host:
        for repository in ("team/app", "team/plain", "team/theirs", "team/copied"):
            made.push(BUILT, f"{host}/{repository}:v1")
        made.push(INDEX, f"{host}/team/index:v1")
        signed.sign(ours, host, "team/app", BUILT.digest)
        signed.sign(theirs, host, "team/theirs", BUILT.digest)
        signed.sign(ours, host, "team/app", BUILT.digest, push_to="team/copied")
        signed.sign(ours, host, "team/index", INDEX.digest)
        yield Signed(host, ours, theirs)


@pytest.fixture
def store(tmp_path: Path) -> paths.Store:
    return stores.make(tmp_path / "store")


def rules(*trusted: config.Trust) -> config.Settings:
    return config.Settings(images=config.Images(trust=trusted))


def wants(*keys: signed.Key) -> config.Settings:
    return rules(config.Trust(("**",), "signed", tuple(str(key.public) for key in keys)))


def ensure(store: paths.Store, source: str, *policies: str, settings: config.Settings, tenant: str = "") -> Image:
    return pull.ensure(source, store=store, settings=settings, keychain=auth.Keychain(), policies=policies or ("always",), tenant=tenant)


# --- by name


@pytest.mark.parametrize("source", ["debian", "docker.io/library/debian:12", "index.docker.io/debian", "debian@sha256:" + "a" * 64])
@pytest.mark.parametrize("pattern", ["docker.io/**", "docker.io/library/*", "**", "{a.example,docker.io}/*/deb*"])
def test_denied_image_is_denied_under_each_of_its_names(store: paths.Store, source: str, pattern: str) -> None:
    with pytest.raises(UserError, match="is denied on this machine"):
        ensure(store, source, settings=rules(config.Trust((pattern,), "deny")))


def test_first_rule_counts_and_what_no_rule_names_is_allowed(store: paths.Store, registry: Signed) -> None:
    allowed = config.Trust((f"{registry.host}/team/*",), "allow")
    denied = config.Trust(("**",), "deny")
    assert ensure(store, f"{registry.host}/team/app:v1", settings=rules(allowed, denied)).digest == BUILT.digest
    with pytest.raises(UserError, match="denied"):
        ensure(store, f"{registry.host}/team/app:v1", settings=rules(denied, allowed))
    assert ensure(store, f"{registry.host}/team/app:v1", settings=rules(config.Trust(("elsewhere.example/**",), "deny"))).digest


@pytest.mark.parametrize("policy", ["always", "if-not-present", "never"])
def test_stored_image_is_denied_too(store: paths.Store, registry: Signed, policy: str) -> None:
    ensure(store, f"{registry.host}/team/app:v1", settings=config.Settings())
    with pytest.raises(UserError, match="denied"):
        ensure(store, f"{registry.host}/team/app:v1", policy, settings=rules(config.Trust(("**",), "deny")))


def test_digest_is_required_where_a_rule_says_so(store: paths.Store, registry: Signed) -> None:
    settings = rules(config.Trust(("**",), "digest"))
    with pytest.raises(UserError, match="by its digest only") as caught:
        ensure(store, f"{registry.host}/team/app:v1", settings=settings)
    assert f"{registry.host}/team/app@sha256:…" in caught.value.hint
    assert ensure(store, f"{registry.host}/team/app:v1@{BUILT.digest}", settings=settings).digest == BUILT.digest


def test_what_comes_from_no_registry_is_not_judged(store: paths.Store, tmp_path: Path) -> None:
    made.write_oci_layout(tmp_path / "layout", BUILT, "v1")
    settings = rules(config.Trust(("**",), "deny"))
    assert ensure(store, "toolbox", settings=settings) == images.toolbox()
    assert ensure(store, f"oci:{tmp_path}/layout:v1", settings=settings).digest == BUILT.digest


# --- by signature


@pytest.mark.parametrize("name", ["team/app:v1", f"team/app@{BUILT.digest}"])
def test_image_that_our_key_signed_is_pulled(store: paths.Store, registry: Signed, capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert ensure(store, f"{registry.host}/{name}", settings=wants(registry.ours)).digest == BUILT.digest
    assert f"Image {registry.host}/{name} is signed, as {registry.ours.public} proves\n" in capsys.readouterr().err
    assert os.listdir(store.jobs) == []


def test_any_key_of_a_rule_will_do_and_rsa_is_one(store: paths.Store, registry: Signed) -> None:
    assert ensure(store, f"{registry.host}/team/theirs:v1", settings=wants(registry.ours, registry.theirs)).digest == BUILT.digest


def test_signature_of_an_index_is_one_of_what_it_names(store: paths.Store, registry: Signed) -> None:
    assert ensure(store, f"{registry.host}/team/index:v1", settings=wants(registry.ours)).digest == OTHER.digest
    with pytest.raises(UserError, match="is not signed"):
        ensure(store, f"{registry.host}/team/index@{OTHER.digest}", settings=wants(registry.ours))


@pytest.mark.parametrize(
    ("repository", "cause"),
    [
        ("team/plain", r"is not signed, .*image not found: .*sha256-[0-9a-f]{64}\.sig"),
        ("team/theirs", "is signed, but by no key of its rule"),
        ("team/copied", "has the signature of another image"),
    ],
)
def test_image_that_our_key_did_not_sign_is_refused_before_its_layers_are_asked_for(
    store: paths.Store, registry: Signed, repository: str, cause: str
) -> None:
    with pytest.raises(UserError, match=cause) as caught:
        ensure(store, f"{registry.host}/{repository}:v1", settings=wants(registry.ours))
    assert caught.value.hint
    assert stores.blobs(store) == set()
    assert images.all(store) == []
    assert os.listdir(store.jobs) == []


@pytest.mark.parametrize("policy", ["if-not-present", "never"])
def test_stored_image_needs_a_signature_of_a_key_that_counts_now(store: paths.Store, registry: Signed, policy: str) -> None:
    name = f"{registry.host}/team/plain:v1"
    ensure(store, name, settings=config.Settings())
    with pytest.raises(UserError, match=r"signed|signature"):
        ensure(store, name, policy, settings=wants(registry.ours))
    name = f"{registry.host}/team/app:v1"
    ensure(store, name, settings=wants(registry.ours))
    with pytest.raises(UserError, match=r"signed|signature"):
        ensure(store, name, policy, settings=wants(registry.theirs))


def test_signature_is_for_one_repository_only(store: paths.Store, registry: Signed) -> None:
    ensure(store, f"{registry.host}/team/app:v1", settings=wants(registry.ours))
    ensure(store, f"{registry.host}/team/plain:v1", settings=config.Settings())
    with pytest.raises(UserError, match=r"no signature of .*team/plain:v1 has been verified"):
        ensure(store, f"{registry.host}/team/plain:v1", "never", settings=wants(registry.ours))


def test_verified_image_costs_no_program_and_no_question_the_next_time(store: paths.Store, registry: Signed) -> None:
    name = f"{registry.host}/team/app:v1"
    ensure(store, name, settings=wants(registry.ours))
    code = f"""
import sys
from runner import config, paths
from runner.image import auth, pull
rule = config.Trust(("**",), "signed", ({str(registry.ours.public)!r},))
image = pull.ensure({name!r}, store=paths.Store({store.root!r}), settings=config.Settings(images=config.Images(trust=(rule,))),
                    keychain=auth.Keychain(), policies=("never",))
print(image.digest, "requests" in sys.modules, "runner.image.signatures" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == [BUILT.digest, "False", "False"]


def test_nothing_of_it_is_loaded_where_there_are_no_rules(store: paths.Store, registry: Signed) -> None:
    name = f"{registry.host}/team/app:v1"
    ensure(store, name, settings=config.Settings())
    code = f"""
import sys
from runner import config, paths
from runner.image import auth, pull
pull.ensure({name!r}, store=paths.Store({store.root!r}), settings=config.Settings(), keychain=auth.Keychain(), policies=("never",))
print(sorted({{"runner.globs", "runner.image.trust", "runner.image.signatures"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


# --- signatures that lie


@pytest.fixture
def key(tmp_path: Path) -> signed.Key:
    return signed.make_key(tmp_path, "key")


def judge(store: paths.Store, key: signed.Key, *statements: bytes, spoil: str = "") -> None:
    """Pull an image of which a registry has these signatures; "proof" and "statement" spoil them."""
    server = LyingRegistry()
    server.add(BUILT, "team/app", "v1")
    with server.running() as (host, _):
        made_for = [said.replace(b"HOST", host.encode()) for said in statements]
        attached = signed.signature(key, *made_for)
        server.add(attached, "team/app", signed.tag(BUILT.digest))
        place = f"/v2/team/app/manifests/{signed.tag(BUILT.digest)}"
        answer = server.answers[place]
        if spoil == "proof":
            server.answers[place] = answer._replace(body=answer.body.replace(b'signature": "ME', b'signature": "MF'))
        if spoil == "statement":
            for digest in attached.blobs:
                path = f"/v2/team/app/blobs/{digest}"
                server.answers[path] = server.answers[path]._replace(body=server.answers[path].body.replace(b"critical", b"Critical"))
        fetch.fetch(f"{host}/team/app:v1", store=store, settings=wants(key), keychain=auth.Keychain())


GOOD = signed.statement("HOST/team/app", BUILT.digest)


def test_one_good_signature_among_others_is_enough(store: paths.Store, key: signed.Key) -> None:
    judge(store, key, signed.statement("HOST/team/app", OTHER.digest), b"nonsense", GOOD)


@pytest.mark.parametrize(
    "statement",
    [
        signed.statement("HOST/team/app", OTHER.digest),
        signed.statement("HOST/team/other", BUILT.digest),
        signed.statement("elsewhere.example/team/app", BUILT.digest),
        signed.statement("HOST/team/app", BUILT.digest, type="atomic container signature"),
        signed.statement("HOST/team/app", BUILT.digest, identity={}),
        signed.statement("HOST/team/app", BUILT.digest, identity={"docker-reference": 7}),
        signed.statement("HOST/team/app", BUILT.digest, image=None),
        b'{"critical": 7}',
        b"[]",
        b"",
        b"[" * 50_000,
    ],
)
def test_statement_about_something_else_is_no_signature(store: paths.Store, key: signed.Key, statement: bytes) -> None:
    with pytest.raises(UserError, match="has the signature of another image"):
        judge(store, key, statement)
    assert images.all(store) == []


@pytest.mark.parametrize("spoil", ["proof", "statement"])
def test_signature_that_does_not_fit_its_statement_is_refused(store: paths.Store, key: signed.Key, spoil: str) -> None:
    with pytest.raises(UserError, match="by no key of its rule"):
        judge(store, key, GOOD, spoil=spoil)


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{}", b'{"layers": {}}', b'{"layers": [7]}', b'{"layers": [{"mediaType": "x", "digest": "sha256:../x", "size": 1}]}',
     b'{"layers": []}'],
)  # fmt: skip
def test_signature_that_is_no_signature_is_none(store: paths.Store, key: signed.Key, body: bytes) -> None:
    server = LyingRegistry()
    server.add(BUILT, "team/app", "v1")
    server.lie = lambda request, truth: truth._replace(status=200, body=body) if request.path.endswith(".sig") else None
    with server.running() as (host, seen):
        with pytest.raises(UserError, match="is not signed"):
            ensure(store, f"{host}/team/app:v1", settings=wants(key))
        assert not any("/blobs/" in request.path for request in seen)


# --- keys


@pytest.mark.parametrize(("content", "cause"), [(None, "cannot be read: No such file"), (b"nonsense", "is no public key in PEM")])
def test_key_that_is_none_is_named(store: paths.Store, registry: Signed, tmp_path: Path, content: bytes | None, cause: str) -> None:
    key = tmp_path / "bad.pub"
    if content is not None:
        key.write_bytes(content)
    with pytest.raises(UserError, match=f"key {key} of images.trust {cause}") as caught:
        ensure(store, f"{registry.host}/team/app:v1", settings=rules(config.Trust(("**",), "signed", (str(key),))))
    assert caught.value.hint
    assert os.listdir(store.jobs) == []


def test_missing_openssl_is_said(store: paths.Store, registry: Signed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "TRUSTED_PATH", "/nowhere")
    with pytest.raises(InfraError, match="openssl is not installed") as caught:
        ensure(store, f"{registry.host}/team/app:v1", settings=wants(registry.ours))
    assert "apt-get install" in caught.value.hint


def test_key_that_is_replaced_has_signed_nothing_yet(store: paths.Store, registry: Signed, tmp_path: Path) -> None:
    key = tmp_path / "key.pub"
    key.write_bytes(registry.ours.public.read_bytes())
    settings = rules(config.Trust(("**",), "signed", (str(key),)))
    name = f"{registry.host}/team/app:v1"
    image = ensure(store, name, settings=settings)
    assert trust.unverified(name, image, store=store, settings=settings) is None
    key.write_bytes(registry.theirs.public.read_bytes())
    assert trust.unverified(name, image, store=store, settings=settings) is not None
