import json
import tomllib
from pathlib import Path

import pytest

from runner import config
from runner.errors import UserError
from runner.sandbox import engine_files

SETTINGS = config.Settings(
    registries=(
        ("docker.io", config.Registry(mirrors=("https://mirror.example/hub", "http://cache.example:5000"))),
        ("plain.example:5000", config.Registry(plain_http=True)),
        ("localhost:5001", config.Registry(ca_file="/somewhere/ca.pem")),
    )
)


def _containers(settings: config.Settings = SETTINGS, certificates: dict[str, str] | None = None) -> dict[str, str]:
    return dict(engine_files.containers_files(settings, certificates=certificates or {}, mtu=1400))


def _registries(settings: config.Settings = SETTINGS) -> dict[str, dict[str, object]]:
    found = tomllib.loads(_containers(settings)["/etc/containers/registries.conf"])
    return {str(entry["prefix"]): entry for entry in found["registry"]}


def test_mirrors_are_asked_in_their_order_and_without_their_scheme() -> None:
    assert _registries()["docker.io"]["mirror"] == [
        {"location": "mirror.example/hub", "insecure": False},
        {"location": "cache.example:5000", "insecure": True},
    ]


def test_a_registry_is_insecure_where_the_configuration_says_plain_http() -> None:
    assert {name: entry["insecure"] for name, entry in _registries().items()} == {
        "docker.io": False, "plain.example:5000": True, "localhost:5001": False, "localhost": True, "127.0.0.1": True,
    }  # fmt: skip


def test_a_mirror_by_https_whose_own_entry_says_plain_http_is_insecure() -> None:
    plain = ("mirror.example", config.Registry(plain_http=True))
    found = _registries(SETTINGS._replace(registries=(*SETTINGS.registries, plain)))
    assert found["docker.io"]["mirror"] == [
        {"location": "mirror.example/hub", "insecure": True},
        {"location": "cache.example:5000", "insecure": True},
    ]


def test_all_configuration_can_be_read_by_its_own_parser_also_without_settings() -> None:
    files = _containers(config.Settings())
    for path, text in files.items():
        (tomllib.loads if path.endswith(".conf") else json.loads)(text)
    assert json.loads(files["/etc/containers/networks/podman.json"])["options"] == {"mtu": "1400"}


def test_certificates_lie_where_each_engine_looks_for_them() -> None:
    certificates = {"localhost:5001": "PEM"}
    assert _containers(certificates=certificates)["/etc/containers/certs.d/localhost:5001/ca.crt"] == "PEM"
    docker = dict(engine_files.docker_files(SETTINGS, certificates=certificates, mtu=1400))
    assert docker["/root/.config/docker/certs.d/localhost:5001/ca.crt"] == "PEM"


def test_dockerd_gets_no_mirror_that_it_would_refuse_to_start_with() -> None:
    files = dict(engine_files.docker_files(SETTINGS, certificates={}, mtu=1400))
    assert json.loads(files["/etc/docker/daemon.json"]) == {
        "registry-mirrors": ["http://cache.example:5000"], "mtu": 1400,
        "insecure-registries": ["plain.example:5000", "http://cache.example:5000", "http://plain.example:5000"],
    }  # fmt: skip


def test_authorities_are_read_from_the_files_of_the_configuration(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.write_text("PEM")
    settings = config.Settings(registries=(("a.example", config.Registry(ca_file=str(file))), ("b.example", config.Registry())))
    assert engine_files.authorities(settings) == {"a.example": "PEM"}
    file.unlink()
    with pytest.raises(UserError, match="cannot read CA file"):
        engine_files.authorities(settings)


def test_an_auth_file_has_the_login_in_base64_and_its_text_form_has_no_secret() -> None:
    login = engine_files.Login("registry.example/team", "user", "geheim", "token")
    assert json.loads(engine_files.auth_file([login])) == {
        "auths": {"registry.example/team": {"auth": "dXNlcjpnZWhlaW0=", "identitytoken": "token"}}
    }
    assert "geheim" not in repr(login)
    assert "token" not in repr(login)
