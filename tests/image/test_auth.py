"""Credentials: which source wins, what matches, helpers, and that no secret is ever shown."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from runner.errors import UserError
from runner.image import auth, reference
from runner.image.auth import Credentials, Keychain


def basic(pair: str) -> dict[str, str]:
    return {"auth": base64.b64encode(pair.encode()).decode()}


def found(keychain: Keychain, image: str) -> tuple[str, str] | None:
    credentials = keychain.lookup(reference.parse(image))
    return (credentials.username, credentials.password) if credentials else None


def write_helper(directory: Path, name: str, *, entries: dict[str, Any], log: Path) -> None:
    """A credential helper that knows `entries` and notes what it was asked, with which environment."""
    script = f"""#!/usr/bin/python3
import json, os, sys
entries = {entries!r}
key = sys.stdin.read().strip()
with open({str(log)!r}, "a") as file:
    print(json.dumps([sys.argv[1], key, os.environ.get("CUSTOM_ENV_X"), os.environ.get("KEPT")]), file=file)
if sys.argv[1] == "list":
    print(json.dumps({{name: entry["Username"] for name, entry in entries.items()}}))
elif key in entries:
    print(json.dumps(entries[key]))
else:
    print("credentials not found in native keychain")
    sys.exit(1)
"""
    helper = directory / f"docker-credential-{name}"
    helper.write_text(script)
    helper.chmod(0o755)


def test_the_longest_path_wins() -> None:
    text = json.dumps({"auths": {"r.example": basic("host:1"), "r.example/team": basic("team:2"), "r.example/team/app": basic("app:3")}})
    keychain = Keychain(docker_auth_config=text)
    assert found(keychain, "r.example/team/app/sub:1") == ("app", "3")
    assert found(keychain, "r.example/team/application") == ("team", "2")
    assert found(keychain, "r.example/other") == ("host", "1")
    assert found(keychain, "elsewhere.example/team/app") is None


def test_all_credentials_are_those_that_lookups_would_find() -> None:
    text = json.dumps({"auths": {"https://index.docker.io/v1/": basic("hub:1"), "r.example/team": basic("team:2"), "empty.example": {}}})
    keychain = Keychain(docker_auth_config=text, payload=[("r.example", "job", "3"), ("r.example/team", "job", "4")])
    assert [(path, one.username, one.password) for path, one in keychain.all()] == [
        ("docker.io", "hub", "1"),
        ("r.example/team", "team", "2"),
        ("r.example", "job", "3"),
    ]


def test_of_one_path_the_first_source_wins(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"auths": {"a.example": basic("file:2"), "b.example": basic("file:2")}}))
    payload = [("a.example", "payload", "3"), ("b.example", "payload", "3"), ("c.example", "payload", "3")]
    keychain = Keychain(
        docker_auth_config=json.dumps({"auths": {"a.example": basic("variable:1")}}), config_files=[str(file)], payload=payload
    )
    assert found(keychain, "a.example/x") == ("variable", "1")
    assert found(keychain, "b.example/x") == ("file", "2")
    assert found(keychain, "c.example/x") == ("payload", "3")


def test_a_longer_path_of_a_later_source_wins_over_the_host_of_an_earlier() -> None:
    text = json.dumps({"auths": {"r.example": basic("variable:1")}})
    keychain = Keychain(docker_auth_config=text, payload=[("r.example/team", "payload", "3")])
    assert found(keychain, "r.example/team/app") == ("payload", "3")


@pytest.mark.parametrize(
    "key",
    [
        "https://index.docker.io/v1/",
        "index.docker.io",
        "docker.io",
        "registry-1.docker.io",
        "https://Index.Docker.IO/v1/",
    ],
)
@pytest.mark.parametrize("image", ["alpine", "docker.io/library/alpine:3", "index.docker.io/team/app"])
def test_docker_hub_has_many_names(key: str, image: str) -> None:
    assert found(Keychain(docker_auth_config=json.dumps({"auths": {key: basic("hub:1")}})), image) == ("hub", "1")


def test_official_images_match_without_library() -> None:
    keychain = Keychain(docker_auth_config=json.dumps({"auths": {"docker.io/nginx": basic("nginx:1"), "docker.io": basic("hub:2")}}))
    assert found(keychain, "nginx") == ("nginx", "1")
    assert found(keychain, "redis") == ("hub", "2")


def test_keys_may_be_urls_and_hosts_have_no_case() -> None:
    keychain = Keychain(docker_auth_config=json.dumps({"auths": {"https://R.Example:5000/v2/": basic("a:1")}}))
    assert found(keychain, "r.example:5000/x") == ("a", "1")


def test_first_existing_file_of_the_account_counts(tmp_path: Path) -> None:
    (tmp_path / ".dockercfg").write_text(json.dumps({"r.example": basic("old:1")}))
    assert found(Keychain.of_account(str(tmp_path), {}), "r.example/x") == ("old", "1")
    (tmp_path / ".docker").mkdir()
    (tmp_path / ".docker/config.json").write_text(json.dumps({"auths": {"r.example": {"username": "new", "password": "2"}}}))
    credentials = Keychain.of_account(str(tmp_path), {}).lookup(reference.parse("r.example/x"))
    assert credentials == Credentials("new", "2", "", str(tmp_path / ".docker/config.json"))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/config.json").write_text(json.dumps({"auths": {"r.example": {"identitytoken": "t"}}}))
    other = Keychain.of_account(str(tmp_path), {"DOCKER_CONFIG": str(tmp_path / "elsewhere")}).lookup(reference.parse("r.example/x"))
    assert other is not None
    assert other.identity_token == "t"


def test_passwords_may_have_colons_and_users_be_empty_placeholders() -> None:
    keychain = Keychain(docker_auth_config=json.dumps({"auths": {"a.example": basic("me:p:w:d"), "b.example": {}}}))
    assert found(keychain, "a.example/x") == ("me", "p:w:d")
    assert found(keychain, "b.example/x") is None


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"auths": []}', '{"auths": {"r.example": 7}}', '{"auths": {"r.example": {"auth": 5}}}', "[" * 100_000, "\x00",
    '{"credHelpers": 5}',
             '{"auths": {"r.example": {"auth": "' + "x" * 2_000_000 + '"}}}', '{"auths": {"r.example": {"auth": "eA=="}}}'],
)  # fmt: skip
def test_a_broken_source_is_warned_about_and_skipped(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    keychain = Keychain(docker_auth_config=text, payload=[("r.example", "payload", "3")])
    assert found(keychain, "r.example/x") == ("payload", "3")
    assert "WARNING: cannot use registry credentials from $DOCKER_AUTH_CONFIG" in capsys.readouterr().err


def test_unreadable_file_is_warned_about(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").mkdir()
    assert found(Keychain(config_files=[str(tmp_path / "config.json")]), "r.example/x") is None
    assert f"cannot use registry credentials from {tmp_path}/config.json: " in capsys.readouterr().err


def test_helper_of_a_registry_overrides_the_files_own_entry(tmp_path: Path) -> None:
    log = tmp_path / "log"
    write_helper(tmp_path, "fake", entries={"r.example": {"Username": "helped", "Secret": "s"}}, log=log)
    text = json.dumps({"auths": {"r.example": basic("plain:1")}, "credHelpers": {"r.example": "fake"}})
    environ = {"CUSTOM_ENV_X": "of the job", "KEPT": "yes"}
    keychain = Keychain(docker_auth_config=text, helper_path=f"{tmp_path}:/usr/bin", environ=environ)
    credentials = keychain.lookup(reference.parse("r.example/x"))
    assert credentials == Credentials("helped", "s", "", "$DOCKER_AUTH_CONFIG (docker-credential-fake)")
    assert [json.loads(line) for line in log.read_text().splitlines()] == [["get", "r.example", None, "yes"]]


def test_store_answers_for_all_its_registries_and_tokens(tmp_path: Path) -> None:
    entries = {"https://index.docker.io/v1/": {"Username": "hub", "Secret": "1"}, "r.example": {"Username": "<token>", "Secret": "t"}}
    write_helper(tmp_path, "fake", entries=entries, log=tmp_path / "log")
    keychain = Keychain(docker_auth_config=json.dumps({"credsStore": "fake"}), helper_path=f"{tmp_path}:/usr/bin", environ={})
    assert found(keychain, "alpine") == ("hub", "1")
    credentials = keychain.lookup(reference.parse("r.example/x"))
    assert credentials is not None
    assert (credentials.username, credentials.password, credentials.identity_token) == ("", "", "t")
    assert found(keychain, "other.example/x") is None


def test_helper_that_knows_nothing_gives_way_to_a_shorter_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_helper(tmp_path, "fake", entries={}, log=tmp_path / "log")
    text = json.dumps({"auths": {"r.example": basic("host:1")}, "credHelpers": {"r.example/team": "fake"}})
    keychain = Keychain(docker_auth_config=text, helper_path=f"{tmp_path}:/usr/bin", environ={})
    assert found(keychain, "r.example/team/app") == ("host", "1")
    assert "docker-credential-fake" in capsys.readouterr().err


def test_missing_store_skips_its_source(capsys: pytest.CaptureFixture[str]) -> None:
    keychain = Keychain(docker_auth_config='{"credsStore": "not-there"}', payload=[("r.example", "payload", "3")], environ={})
    assert found(keychain, "r.example/x") == ("payload", "3")
    assert "not installed" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text", ['{"credsStore": "../../tmp/evil"}', '{"credHelpers": {"r.example": "a/b"}}', '{"credHelpers": {"r.example": 5}}']
)
def test_helper_name_that_is_a_path_ends_the_pull(text: str) -> None:
    with pytest.raises(UserError, match="credential helper"):
        found(Keychain(docker_auth_config=text), "r.example/x")


def test_no_secret_is_ever_shown() -> None:
    credentials = Credentials("me", "hunter2", "sesame", "x")
    keychain = Keychain(
        docker_auth_config=json.dumps({"auths": {"r.example": basic("me:hunter2")}}), payload=[("r.example", "u", "hunter2")]
    )
    found(keychain, "r.example/x")
    for text in (repr(credentials), str(credentials), f"{credentials}", repr(keychain), repr([credentials]), "%s" % (credentials,)):  # noqa: UP031
        assert "hunter2" not in text
        assert "sesame" not in text


@pytest.mark.parametrize("text", ["https://r.example/", "http://R.example", "r.example/v1", " r.example/v2/ "])
def test_registry_path_is_one_spelling(text: str) -> None:
    assert auth.registry_path(text) == "r.example"
