"""Manifests, indexes and configs: what is read, and every way in which they may lie."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.errors import RunnerError, UserError
from runner.image import image_config, manifest, platforms
from runner.model import Healthcheck
from tests.support import images
from tests.support.defences import attack, without

DIGEST = "sha256:" + "a" * 64
CONFIG = {"mediaType": manifest.OCI_CONFIG, "digest": DIGEST, "size": 10}
LAYER = {"mediaType": f"{manifest.OCI_LAYER}+gzip", "digest": DIGEST, "size": 20}


def raw_manifest(**changes: Any) -> bytes:
    return json.dumps({"schemaVersion": 2, "mediaType": manifest.OCI_MANIFEST, "config": CONFIG, "layers": [LAYER], **changes}).encode()


def raw_index(*entries: dict[str, Any], **changes: Any) -> bytes:
    return json.dumps({"schemaVersion": 2, "mediaType": manifest.OCI_INDEX, "manifests": list(entries), **changes}).encode()


def entry(platform: str | None, digit: str = "b", kind: str = manifest.OCI_MANIFEST) -> dict[str, Any]:
    value: dict[str, Any] = {"mediaType": kind, "digest": "sha256:" + digit * 64, "size": 5}
    if platform is not None:
        parts = platform.split("/")
        value["platform"] = dict(zip(("os", "architecture", "variant"), parts, strict=False))
    return value


def index(*entries: dict[str, Any]) -> manifest.Index:
    parsed = manifest.parse(raw_index(*entries), "", "image x")
    assert isinstance(parsed, manifest.Index)
    return parsed


@pytest.mark.parametrize("docker", [False, True])
@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
def test_manifests_of_both_families_are_read(docker: bool, compression: str) -> None:
    built = images.build_image([[images.file("a", b"1")], [images.file("b", b"2")]], docker=docker, compression=compression)
    media_type, raw = built.manifests[built.digest]
    parsed = manifest.parse(raw, media_type, "image x")
    assert isinstance(parsed, manifest.Manifest)
    assert parsed.config.digest == built.config_digest
    assert tuple(layer.digest for layer in parsed.layers) == built.layer_digests


def test_manifest_without_own_media_type_is_what_the_registry_says() -> None:
    raw = json.dumps({"schemaVersion": 2, "config": CONFIG, "layers": []}).encode()
    assert isinstance(manifest.parse(raw, f"{manifest.OCI_MANIFEST}; charset=utf-8", "image x"), manifest.Manifest)
    with pytest.raises(UserError, match="not supported"):
        manifest.parse(raw, "application/json", "image x")


@attack(
    16,
    without("runner/image/manifest.py", 'if "layers" in value or "config" in value:', "if False:"),
    without("runner/image/manifest.py", 'if "manifests" in value:', "if False:"),
    without("runner/image/manifest.py", "and said != media_type:", "and False:"),
)
@attack(
    17,
    without("runner/image/manifest.py", "len(value) > MAX_ENTRIES", "False"),
    without("runner/image/manifest.py", "except (ValueError, RecursionError) as e:", "except ValueError as e:"),
    without("runner/image/manifest.py", "if len(raw) > LIMIT_BYTES:", "if False:"),
)
@attack(
    18,
    without("runner/image/manifest.py", "    if foreign:", "    if False:"),
)
@attack(
    24,
    without("runner/image/manifest.py", "if config.size > LIMIT_BYTES:", "if False:"),
)
@pytest.mark.parametrize(
    ("raw", "media_type", "cause"),
    [
        (raw_manifest(manifests=[]), manifest.OCI_MANIFEST, "index and a manifest at once"),
        (raw_index(layers=[]), manifest.OCI_INDEX, "index and a manifest at once"),
        (raw_index(config=CONFIG), manifest.OCI_INDEX, "index and a manifest at once"),
        (raw_manifest(), manifest.OCI_INDEX, "announced as"),
        (raw_index(), manifest.DOCKER_MANIFEST, "announced as"),
        (raw_manifest(mediaType=manifest.DOCKER_MANIFEST), manifest.OCI_MANIFEST, "announced as"),
        (raw_manifest(schemaVersion=1), "", "schema 1"),
        (raw_manifest(), "application/vnd.docker.distribution.manifest.v1+prettyjws", "schema 1"),
        (raw_manifest(layers=[LAYER] * 151), "", "at most 150 layers"),
        (raw_manifest(layers={}), "", "at most 150 layers"),
        (raw_manifest(config={**CONFIG, "size": 5 * 1024**2}), "", "too large a config"),
        (raw_manifest(config={**CONFIG, "mediaType": "application/vnd.cncf.helm.config.v1+json"}), "", "not a container image"),
        (raw_manifest(layers=[{**LAYER, "mediaType": "application/vnd.erofs"}]), "", "type that is not supported"),
        (raw_manifest(layers=[{**LAYER, "mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"}]), "",
        "fetched from elsewhere"),
        (raw_index(*[entry("linux/amd64")] * 1001), "", "at most 1000 images"),
        (b"[" * 100_000, manifest.OCI_MANIFEST, "not valid JSON"),
        (b"[]", manifest.OCI_MANIFEST, "not a JSON object"),
        (b" " * (4 * 1024**2 + 1), manifest.OCI_MANIFEST, "too large"),
        (b"<html>", manifest.OCI_MANIFEST, "not valid JSON"),
    ],
)  # fmt: skip
def test_document_that_lies_is_refused(raw: bytes, media_type: str, cause: str) -> None:
    with pytest.raises(UserError, match=cause):
        manifest.parse(raw, media_type, "image x")


@attack(
    15,
    without("runner/image/manifest.py", "or not reference.is_digest(digest)", ""),
)
@pytest.mark.parametrize(
    "digest",
    ["sha256:" + "A" * 64, "sha256:" + "a" * 63, "sha256:" + "a" * 65, "sha256:../../../../etc/passwd", "sha512:" + "a" * 128, "", None,
    7, "a" * 64,
     "sha256:" + "a" * 63 + "\n", "SHA256:" + "a" * 64, "sha256:" + "٠" * 64],
)  # fmt: skip
def test_digest_that_could_not_be_a_file_name_is_refused(digest: Any) -> None:
    with pytest.raises(UserError, match="bad digest"):
        manifest.parse(raw_manifest(layers=[{**LAYER, "digest": digest}]), "", "image x")


@pytest.mark.parametrize("size", [-1, 2**63, 1.5, "20", None, True])
def test_size_that_is_none_is_refused(size: Any) -> None:
    with pytest.raises(UserError, match="bad size"):
        manifest.parse(raw_manifest(layers=[{**LAYER, "size": size}]), "", "image x")


def test_urls_of_a_layer_are_not_even_kept() -> None:
    parsed = manifest.parse(raw_manifest(layers=[{**LAYER, "urls": ["http://attacker.example/"]}]), "", "image x")
    assert "attacker" not in repr(parsed)


def test_the_best_platform_is_chosen() -> None:
    found = index(
        entry("linux/arm/v6", "1"),
        entry("linux/arm/v7", "2"),
        entry("linux/amd64", "3"),
        entry("linux/arm64/v8", "4"),
        entry("windows/amd64", "5"),
    )
    wanted = {"arm64": "4", "linux/amd64": "3", "linux/arm/v7": "2", "linux/arm/v6": "1", "armhf": "2", "linux/arm64/v8": "4"}
    assert {text: manifest.choose(found, platforms.parse(text), "image x").blob.digest[7] for text in wanted} == wanted


def test_missing_platform_lists_what_there_is() -> None:
    found = index(entry("linux/arm64"), entry("linux/s390x"), entry("unknown/unknown"))
    with pytest.raises(UserError) as caught:
        manifest.choose(found, platforms.parse("amd64"), "image x")
    assert "linux/arm64, linux/s390x" in caught.value.hint


def test_entry_without_platform_is_the_last_resort() -> None:
    found = index(entry(None, "1"), entry("linux/amd64", "2"))
    assert manifest.choose(found, platforms.parse("amd64"), "image x").blob.digest[7] == "2"
    assert manifest.choose(found, platforms.parse("arm64"), "image x").blob.digest[7] == "1"


def test_signatures_and_attestations_in_an_index_are_passed_over() -> None:
    assert index(entry("linux/amd64", kind="application/vnd.example.signature")).entries == ()


@pytest.mark.parametrize("text", ["windows/amd64", "linux/pdp11", "linux/amd64/v1/x", "../../x", "linux/arm/v 7", "a" * 1000, "/"])
def test_platform_that_linux_cannot_run_is_the_users_error(text: str) -> None:
    with pytest.raises(UserError):
        platforms.parse(text)


def config(**inner: Any) -> image_config.ParsedConfig:
    value = {"os": "linux", "architecture": "amd64", "config": inner, "rootfs": {"type": "layers", "diff_ids": [DIGEST]}}
    return image_config.parse(json.dumps(value).encode(), "image x")


def test_config_is_read() -> None:
    parsed = config(
        Entrypoint=["/entry"], Cmd=["a", "b"], Env=["A=1", "B=x=y", "broken", "=x", "A=2"], WorkingDir="work/./dir/", User="app:tools",
        ExposedPorts={"8080/tcp": {}, "53/udp": {}, "443": {}, "x/tcp": {}, "0/tcp": {}, "70000/tcp": {}}, Volumes={"/data/": {}},
        StopSignal="quit",
        Healthcheck={"Test": ["CMD", "true"], "Interval": 5_000_000_000, "Timeout": 1_500_000_000, "Retries": 7},
        Labels={"org.example": "ignored"},
    )  # fmt: skip
    assert parsed.diff_ids == (DIGEST,)
    assert str(parsed.platform) == "linux/amd64"
    got = parsed.config
    assert (got.entrypoint, got.cmd, got.env) == (("/entry",), ("a", "b"), (("A", "2"), ("B", "x=y")))
    assert (got.working_dir, got.user, got.volumes, got.stop_signal) == ("/work/dir", "app:tools", ("/data",), "SIGQUIT")
    assert got.exposed_ports == ("53/udp", "443/tcp", "8080/tcp")
    assert got.healthcheck == Healthcheck(("CMD", "true"), 5.0, 1.5, 0.0, 7)


@attack(
    24,
    without("runner/image/image_config.py", "if sum(len(text) for text in texts) > _MOST_BYTES:", "if False:"),
    without("runner/image/image_config.py", ' or ".." in path.split("/")', ""),
    without("runner/image/image_config.py", "and len(value.encode()) <= longest", ""),
)
@pytest.mark.parametrize(
    "inner",
    [
        {"Env": ["A=" + "x" * (200 * 1024)]}, {"Env": [f"A{i}=" + "x" * 100_000 for i in range(11)]}, {"Env": ["A=1"] * 5000},
        {"Env": "A=1\0"},
        {"Env": [1]}, {"Env": {"A": "1"}}, {"Cmd": ["a\0b"]}, {"Cmd": ["\ud800"]}, {"Entrypoint": {"a": 1}}, {"WorkingDir": "/a\0b"},
        {"WorkingDir": "/" + "a/" * 3000}, {"WorkingDir": ["/"]}, {"User": "a\nroot:x:0:0"}, {"User": "x" * 300}, {"User": 0},
        {"Volumes": {"/../../etc": {}}}, {"Volumes": {"relative": {}}}, {"Volumes": {"/": {}}}, {"Volumes": ["/x"]},
        {"Volumes": {f"/v{i}": {} for i in range(300)}},
    ],
)  # fmt: skip
def test_config_that_no_container_must_get_is_refused(inner: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        config(**inner)


@attack(
    24,
    without("runner/image/image_config.py", 'return _absolute(path) if path else ""', "return path"),
)
def test_working_directory_cannot_climb_out() -> None:
    assert config(WorkingDir="/../../etc").config.working_dir == "/etc"


@attack(
    24,
    without("runner/image/image_config.py", 'return name if known else ""', "return name"),
)
@pytest.mark.parametrize("stop_signal", ["SIGNONSENSE", "0", "65", "-9", "TERM; id", 9, "SIGRTMIN+x", "x" * 100])
def test_nonsense_stop_signal_means_the_default(stop_signal: Any) -> None:
    assert config(StopSignal=stop_signal).config.stop_signal == ""


@pytest.mark.parametrize(("written", "read"), [("SIGTERM", "SIGTERM"), ("int", "SIGINT"), ("9", "9"), ("SIGRTMIN+3", "SIGRTMIN+3")])
def test_stop_signals_that_people_write(written: str, read: str) -> None:
    assert config(StopSignal=written).config.stop_signal == read


@pytest.mark.parametrize("check", [{"Test": ["NONE"]}, {"Test": []}, {}, "x", None, {"Test": ["ls"]}])
def test_health_check_that_is_none(check: Any) -> None:
    assert config(Healthcheck=check).config.healthcheck == Healthcheck()


@attack(
    24,
    without("runner/image/image_config.py", "return min(value / 1e9, _DAY_S)", "return value / 1e9"),
    without("runner/image/image_config.py", "and 0 < retries <= 1000", ""),
)
def test_hostile_health_check_times_are_bounded() -> None:
    check = config(
        Healthcheck={"Test": ["CMD-SHELL", "x"], "Interval": 10**30, "Timeout": -5, "StartPeriod": "x", "Retries": 10**9}
    ).config.healthcheck
    assert check == Healthcheck(("CMD-SHELL", "x"), 86400.0, 30.0, 0.0, 3)


@attack(
    15,
    without("runner/image/image_config.py", "or not reference.is_digest(diff_id)", ""),
)
def test_bad_diff_ids_are_refused() -> None:
    for diff_ids in (["sha256:../x"], "x", [DIGEST] * 200, [7]):
        with pytest.raises(UserError):
            image_config.parse(json.dumps({"config": {}, "rootfs": {"diff_ids": diff_ids}}).encode(), "image x")


_JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=20), st.sampled_from([DIGEST,
    manifest.OCI_MANIFEST])),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.sampled_from(
        ["mediaType", "config", "layers", "manifests", "digest", "size", "platform", "os", "urls", "rootfs", "diff_ids", "Env", "Cmd",
        "Volumes",
         "Healthcheck", "Test", "Interval", "ExposedPorts", "User", "StopSignal", "WorkingDir", "schemaVersion", "architecture"]), inner,
         max_size=6)),
    max_leaves=30,
)  # fmt: skip


@given(_JSON, st.sampled_from([*manifest.MANIFEST_TYPES, *manifest.INDEX_TYPES, "", "text/html"]))
def test_any_json_is_read_or_the_users_error(value: Any, media_type: str) -> None:
    raw = json.dumps(value).encode()
    for read in (lambda: manifest.parse(raw, media_type, "image x"), lambda: image_config.parse(raw, "image x")):
        try:
            read()
        except RunnerError as e:
            assert isinstance(e, UserError)


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_the_users_error(raw: bytes) -> None:
    with pytest.raises(UserError):
        manifest.parse(raw, "", "image x")
