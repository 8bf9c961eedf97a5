"""Docker-in-Docker services: which images are that, and what becomes of them."""

import base64
import json

import pytest

from runner import config, errors, paths
from runner.adapters.gitlab import docker, payload, services
from runner.image import auth
from runner.job import docker_spec
from runner.job.surroundings import Surroundings
from runner.kernel import accounts
from runner.model import DockerSpec, VolumeSpec


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ("docker:dind", True),
        ("docker:27-dind", True),
        ("docker:24.0.5-dind", True),
        ("docker:27.1-dind-rootless", True),
        ("docker:stable-dind", True),
        ("docker.io/library/docker:dind", True),
        ("registry.example/mirror/docker:dind", True),
        ("registry.example:5000/docker:28-dind-alpine3.21", True),
        ("docker:dind@sha256:" + "a" * 64, True),
        ("docker:27", False),
        ("docker:27-cli", False),
        ("docker", False),
        ("docker@sha256:" + "a" * 64, False),
        ("registry.example:5000/docker", False),
        ("registry.example:5000-dind/docker", False),
        ("mydocker:dind", False),
        ("docker/dind:latest", False),
        ("team/docker-dind:dind", False),
        ("docker:undinded", False),
    ],
)
def test_dind_is_known_by_repository_and_tag(image: str, expected: bool) -> None:
    assert docker.is_dind(image) is expected


def plan(
    mode: str = "replace", variables: dict[str, str] | None = None, *, protected: bool = False, **service: object
) -> DockerSpec | None:
    settings = config.Settings(docker=config.Docker(mode, "podman"), network=config.Network(mtu=1400))
    asked = services.assign((payload.Image("docker:27-dind", **service),)) if service.pop("there", True) else []  # type: ignore[arg-type]
    volumes = (VolumeSpec("/builds", "job", "builds"), VolumeSpec("/certs/client", "job", "certs"))
    return docker.plan(
        asked, Surroundings(paths.Store("/state"), settings, accounts.current()), variables or {},
        volumes=volumes, protected=protected, keychain=auth.Keychain(),
    )  # fmt: skip


def test_service_becomes_a_sidecar_that_has_the_jobs_volumes(capsys: pytest.CaptureFixture[str]) -> None:
    asked = plan(aliases=("my-docker",))
    assert asked
    assert asked.container.aliases == ("docker", "my-docker")
    assert asked.container.nested and asked.container.engine
    assert [volume.target for volume in asked.container.volumes] == [
        "/var/lib/containers/storage", "/var/tmp/buildah-cache", "/builds",
    ]  # fmt: skip
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("Service docker:27-dind is replaced by a Docker API of the job's own")


def test_protected_refs_have_a_storage_of_their_own() -> None:
    open_, protected = plan(), plan(protected=True)
    assert open_ and protected
    assert open_.container.volumes[0].source == "podman"
    assert protected.container.volumes[0].source == "podman-protected"
    assert {volume.source for volume in open_.container.volumes[:2]}.isdisjoint(volume.source for volume in protected.container.volumes[:2])


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, ""),
        ({"DOCKER_TLS_CERTDIR": ""}, ""),
        ({"DOCKER_TLS_CERTDIR": "/certs"}, "/certs/client"),
        ({"DOCKER_TLS_CERTDIR": "/certs/"}, "/certs/client"),
        ({"DOCKER_HOST": "tcp://docker:2376"}, "/certs/client"),
        ({"DOCKER_HOST": "tcp://docker:2376", "DOCKER_CERT_PATH": "/mine"}, "/mine"),
        ({"DOCKER_TLS_VERIFY": "1"}, "/certs/client"),
        ({"DOCKER_HOST": "tcp://docker:2375"}, ""),
        ({"DOCKER_HOST": "tcp://docker:2376", "DOCKER_TLS_CERTDIR": ""}, ""),
    ],
)
def test_certificates_are_where_the_job_looks_for_them(variables: dict[str, str], expected: str) -> None:
    asked = plan(variables=variables)
    assert asked and asked.certificates == expected


def test_variable_of_the_service_counts_as_well() -> None:
    variable = payload.Variable("DOCKER_TLS_CERTDIR", "/tls", public=True, file=False, raw=True)
    settings = config.Settings(docker=config.Docker("replace", "podman"), network=config.Network(mtu=1400))
    around = Surroundings(paths.Store("/state"), settings, accounts.current())
    asked = services.assign((payload.Image("docker:dind", variables=(variable,)),))
    found = docker.plan(asked, around, {}, volumes=(), protected=False, keychain=auth.Keychain())
    assert found and found.certificates == "/tls/client"


def test_relative_directory_for_certificates_is_refused() -> None:
    with pytest.raises(errors.UserError, match="no absolute path"):
        plan(variables={"DOCKER_TLS_CERTDIR": "certs"})


@pytest.mark.parametrize(("mode", "there", "given"), [("replace", False, False), ("provide", False, True), ("off", False, False)])
def test_without_a_service_only_provide_gives_one(mode: str, there: bool, given: bool) -> None:
    assert (plan(mode, there=there) is not None) is given


def test_off_refuses_a_service_with_the_reason() -> None:
    with pytest.raises(errors.UserError, match="needs privileges") as caught:
        plan("off")
    assert "docker: replace" in caught.value.hint


def test_flags_that_have_no_effect_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    plan(command=("dockerd", "--tls=false", "--experimental"))
    assert "have no effect: --experimental" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, {"DOCKER_HOST": "tcp://docker:2375", "DOCKER_BUILDKIT": "0"}),
        ({"DOCKER_HOST": "tcp://other:1"}, {"DOCKER_BUILDKIT": "0"}),
        ({"DOCKER_BUILDKIT": "1"}, {"DOCKER_HOST": "tcp://docker:2375"}),
        (
            {"DOCKER_TLS_CERTDIR": "/certs"},
            {"DOCKER_HOST": "tcp://docker:2376", "DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": "/certs/client", "DOCKER_BUILDKIT": "0"},
        ),
    ],
)
def test_job_is_told_where_the_api_is_unless_it_says_so_itself(variables: dict[str, str], expected: dict[str, str]) -> None:
    assert dict(docker.environment(plan(variables=variables), variables)) == expected


def test_credentials_are_in_a_file_that_only_the_engine_sees() -> None:
    settings = config.Settings(docker=config.Docker("provide", "podman"), network=config.Network(mtu=1400))
    around = Surroundings(paths.Store("/state"), settings, accounts.current())
    keychain = auth.Keychain(payload=[("registry.example", "user", "hunter2")])
    asked = docker_spec.make(around, volumes=(), limits=settings.limits, keychain=keychain)
    ((path, content),) = asked.container.secrets
    assert path == "/root/.docker/config.json"
    assert list(json.loads(content)["auths"]) == ["registry.example"]
    told = json.loads(content)["auths"]["registry.example"]["auth"]
    assert base64.b64decode(told) == b"user:hunter2"
    assert told not in repr(asked.container._replace(secrets=()))
