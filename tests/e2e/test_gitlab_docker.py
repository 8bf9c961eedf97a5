"""GitLab jobs that were written for Docker-in-Docker: the service is replaced, the job goes on as it was."""

import base64
import json
import ssl
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support import docker_jobs, pipelines, repositories
from tests.support.docker_images import BASE, CLIENT
from tests.support.gitlab_jobs import GitLab, job, output, text_of
from tests.support.gitlab_runner import outward_address
from tests.support.registries import Certificates, docker_registry, make_certificates

DIND = "docker:24.0.5-dind"
# the job of docs.gitlab.com/ci/docker/docker_in_docker, "Docker-in-Docker with TLS enabled in the Docker executor", without its comments
_FROM_GITLABS_DOCUMENTATION = """
default:
  image: docker:24.0.5-cli
  services:
    - docker:24.0.5-dind
  before_script:
    - docker info

variables:
  DOCKER_TLS_CERTDIR: "/certs"

build:
  stage: build
  tags:
    - tls-docker-runner
  script:
    - docker build -t my-docker-image .
    - docker run my-docker-image /script/to/run/tests
"""
# the pipeline of docs.gitlab.com/user/packages/container_registry/build_and_push_images, likewise
_PUSHING_PIPELINE = """
default:
  image: docker:24.0.5-cli
  services:
    - docker:24.0.5-dind
  before_script:
    - echo "$CI_REGISTRY_PASSWORD" | docker login $CI_REGISTRY -u $CI_REGISTRY_USER --password-stdin

stages:
  - build
  - test
  - release
  - deploy

variables:
  DOCKER_HOST: tcp://docker:2376
  DOCKER_TLS_CERTDIR: "/certs"
  CONTAINER_TEST_IMAGE: $CI_REGISTRY_IMAGE:$CI_COMMIT_REF_SLUG
  CONTAINER_RELEASE_IMAGE: $CI_REGISTRY_IMAGE:latest

build:
  stage: build
  script:
    - docker build --pull -t $CONTAINER_TEST_IMAGE .
    - docker push $CONTAINER_TEST_IMAGE

test1:
  stage: test
  script:
    - docker pull $CONTAINER_TEST_IMAGE
    - docker run $CONTAINER_TEST_IMAGE /script/to/run/tests

test2:
  stage: test
  script:
    - docker pull $CONTAINER_TEST_IMAGE
    - docker run $CONTAINER_TEST_IMAGE /script/to/run/another/test

release-image:
  stage: release
  script:
    - docker pull $CONTAINER_TEST_IMAGE
    - docker tag $CONTAINER_TEST_IMAGE $CONTAINER_RELEASE_IMAGE
    - docker push $CONTAINER_RELEASE_IMAGE
  rules:
    - if: $CI_COMMIT_BRANCH == "main"

deploy:
  stage: deploy
  script:
    - ./deploy.sh
  rules:
    - if: $CI_COMMIT_BRANCH == "main"
  environment: production
"""
_DOCKERFILE = f"""FROM {BASE}
RUN mkdir -p /script/to/run/another \\
    && printf '#!/bin/sh\\necho "tests passed"\\n' > /script/to/run/tests \\
    && printf '#!/bin/sh\\necho "another test passed"\\n' > /script/to/run/another/test \\
    && chmod 755 /script/to/run/tests /script/to/run/another/test
"""
_USER, _PASSWORD = "gitlab-ci-token", "s3cret"


class Project(NamedTuple):
    """A project with a registry of its own, which wants TLS and a password."""

    url: str
    sha: str
    registry: str
    ca: Path

    def payload(self, payload: dict[str, Any]) -> dict[str, Any]:
        """Return a job with the project's sources."""
        git = {**payload["git_info"], "repo_url": self.url, "sha": self.sha, "depth": 0}
        return {**payload, "git_info": git}

    def variables(self) -> dict[str, str]:
        """Return what GitLab tells jobs about it."""
        return {
            "CI_REGISTRY": self.registry,
            "CI_REGISTRY_IMAGE": f"{self.registry}/group/project",
            "CI_REGISTRY_USER": _USER,
            "CI_REGISTRY_PASSWORD": _PASSWORD,
            "CI_COMMIT_REF_SLUG": "main",
        }

    def tags(self) -> list[str]:
        """Return the tags in its registry."""
        pair = base64.b64encode(f"{_USER}:{_PASSWORD}".encode()).decode()
        request = urllib.request.Request(f"https://{self.registry}/v2/group/project/tags/list", headers={"Authorization": f"Basic {pair}"})
        with urllib.request.urlopen(request, context=ssl.create_default_context(cafile=str(self.ca))) as answer:
            return sorted(json.load(answer)["tags"])


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("tls"), address=outward_address())


@pytest.fixture
def project(tmp_path: Path, certificates: Certificates) -> Iterator[Project]:
    """Serve a project with a Dockerfile, and its registry, where jobs can reach them."""
    repository = repositories.make(tmp_path)
    repository.commit("deploy.sh", "#!/bin/sh\necho deployed\n")
    sha = repository.commit("Dockerfile", _DOCKERFILE)
    address = outward_address()
    registry = docker_registry(tmp_path / "registry", htpasswd=(_USER, _PASSWORD), tls=certificates, address=address)
    with registry as host, repository.serving(address) as url:
        yield Project(url, sha, host, certificates.ca)


@pytest.fixture(params=docker_jobs.ENGINES)
def api(request: pytest.FixtureRequest, gitlab: GitLab, docker_hub: str) -> str:
    """Configure each engine, and return its name."""
    gitlab.configure(**docker_jobs.settings(request.param, docker_hub, mode="replace"))
    return str(request.param)


def dind(*script: str, **more: Any) -> dict[str, Any]:
    """Return a job with docker's command line and a dind service, and without TLS unless its variables say otherwise."""
    variables = {"DOCKER_TLS_CERTDIR": "", **more.pop("variables", {})}
    return job(list(script), **{"image": CLIENT, "services": [DIND], "variables": variables, **more})


def _build(*lines: str) -> str:
    text = "\\n".join((f"FROM {BASE}", *lines))
    return f"printf '{text}\\n' | docker build -t made -"


# jobs from GitLab's documentation


def test_job_of_gitlabs_documentation_builds_and_runs_over_tls(gitlab: GitLab, api: str, project: Project) -> None:
    (payload,) = pipelines.jobs(_FROM_GITLABS_DOCUMENTATION)
    result = gitlab.play(project.payload(payload))
    log = result.log.decode()
    assert result.status == "success", log
    assert "tests passed\n" in log
    assert " Architecture: x86_64" in log or " Architecture: amd64" in log  # of docker info


def test_pipeline_of_gitlabs_documentation_builds_tests_and_pushes(gitlab: GitLab, api: str, docker_hub: str, project: Project) -> None:
    settings = docker_jobs.settings(api, docker_hub, mode="replace")
    settings["registries"][project.registry] = {"ca_file": str(project.ca)}
    gitlab.configure(**settings)
    logs = []
    for payload in pipelines.jobs(_PUSHING_PIPELINE, variables=project.variables()):
        result = gitlab.play(project.payload(payload))
        logs.append(result.log.decode())
        assert result.status == "success", logs[-1]
    assert "Login Succeeded" in logs[0]
    assert "\ntests passed\n" in logs[1]
    assert "another test passed\n" in logs[2]
    assert "deployed\n" in logs[4]
    assert project.tags() == ["latest", "main"]


# what a job sees


def test_service_is_replaced_unseen_and_the_log_says_so_in_one_line(gitlab: GitLab, api: str) -> None:
    # the registry has no image of this name: a pull would fail the job
    service = "registry.invalid/mirror/docker:27-dind-rootless"
    result = gitlab.play(dind("docker version --format 'seen {{.Server.Os}}'", services=[service]))
    log = result.log.decode()
    assert result.status == "success", log
    assert "seen linux\n" in log
    said = [line for line in log.splitlines() if service in line]
    assert len(said) == 1
    assert "replaced" in said[0]
    assert api in said[0]


def test_job_without_tls_has_the_plain_port(gitlab: GitLab, api: str) -> None:
    with gitlab.prepared(dind()) as attempt:
        assert output(attempt, 'echo "$DOCKER_HOST [${DOCKER_TLS_VERIFY:-}]"; docker version -f "{{.Server.Os}}"').split() == [
            "tcp://docker:2375",
            "[]",
            "linux",
        ]


def test_job_with_tls_has_certificates_that_only_fit_its_own_api(gitlab: GitLab, api: str) -> None:
    with gitlab.prepared(dind(variables={"DOCKER_TLS_CERTDIR": "/certs"})) as attempt:
        shown = output(attempt, 'echo "$DOCKER_HOST $DOCKER_TLS_VERIFY $DOCKER_CERT_PATH"; ls $DOCKER_CERT_PATH')
        assert shown.split() == ["tcp://docker:2376", "1", "/certs/client", "ca.pem", "cert.pem", "key.pem"]
        assert output(attempt, 'docker version -f "{{.Server.Os}}"') == "linux\n"
        without = "unset DOCKER_TLS_VERIFY; docker --tls --tlscacert /certs/client/ca.pem --tlscert /none --tlskey /none version"
        assert "linux" not in output(attempt, f"{without} || true")


@pytest.mark.parametrize("name", ["mirror/docker:dind", "docker:27.1.2-dind-alpine3.20", "docker:dind@sha256:" + "0" * 64])
def test_service_is_reached_by_docker_and_by_its_own_names(gitlab: GitLab, docker_hub: str, name: str) -> None:
    gitlab.configure(**docker_jobs.settings("podman", docker_hub, mode="replace"))
    with gitlab.prepared(dind(services=[{"name": name, "alias": "engine"}])) as attempt:
        ask = 'for host in docker engine; do docker -H tcp://$host:2375 version -f "{{.Server.Os}}"; done'
        assert output(attempt, ask) == "linux\nlinux\n"


def test_address_that_the_job_has_set_wins(gitlab: GitLab, api: str) -> None:
    variables = {"DOCKER_HOST": "unix:///var/run/docker.sock"}
    with gitlab.prepared(dind(variables=variables)) as attempt:
        assert output(attempt, 'echo $DOCKER_HOST; docker version -f "{{.Server.Os}}"') == "unix:///var/run/docker.sock\nlinux\n"
    with gitlab.prepared(dind(variables={"DOCKER_HOST": "tcp://elsewhere.invalid:2375"})) as attempt:
        assert output(attempt, "echo $DOCKER_HOST") == "tcp://elsewhere.invalid:2375\n"


def test_directory_of_the_project_is_the_same_in_containers(gitlab: GitLab, api: str) -> None:
    run = f'docker run --rm -v "$CI_PROJECT_DIR:$CI_PROJECT_DIR" -v /cache:/c -w "$CI_PROJECT_DIR" {BASE}'
    with gitlab.prepared(dind()) as attempt:
        shown = output(
            attempt,
            'mkdir -p "$CI_PROJECT_DIR"; cd "$CI_PROJECT_DIR"',
            f"echo mine > f; {run} sh -c 'cat f; echo theirs > g; echo kept > /c/of-{api}'; cat g /cache/of-{api}",
        )
        assert shown.endswith("mine\ntheirs\nkept\n")


def test_docker_for_every_job_needs_no_service(gitlab: GitLab, docker_hub: str) -> None:
    gitlab.configure(**docker_jobs.settings("podman", docker_hub))
    with gitlab.prepared(job(image=CLIENT)) as attempt:
        assert output(attempt, 'docker version -f "{{.Server.Os}}"') == "linux\n"


def test_docker_that_is_off_is_refused_with_the_reason(gitlab: GitLab) -> None:
    gitlab.configure(docker="off")
    result = gitlab.play(job("echo 'script' ran", services=[DIND]))
    log = result.log.decode()
    assert (result.status, result.failure_reason, result.prepare_attempts) == ("failed", "script_failure", 1)
    assert DIND in log
    assert "docker: replace" in log
    assert "script ran" not in log


def test_build_that_fails_fails_the_job(gitlab: GitLab, api: str) -> None:
    result = gitlab.play(dind(_build("RUN exit 9"), "echo 'went' on"))
    assert (result.status, result.failure_reason) == ("failed", "script_failure")
    assert "went on" not in result.log.decode()


# what stays


def test_next_job_of_the_project_builds_from_the_cache_and_no_other_project_does(gitlab: GitLab, api: str) -> None:
    build = [_build("RUN echo once > /f"), "docker images"]
    first, second, stranger = (gitlab.play(dind(*build, project=project)).log.decode() for project in (7, 7, 8))
    assert "Using cache" not in first
    assert "Using cache" in second
    assert "Using cache" not in stranger
    with gitlab.prepared(dind(project=9)) as attempt:
        assert output(attempt, "docker images -q") == ""
    with gitlab.prepared(dind()) as attempt:
        assert "made" in output(attempt, "docker images; docker ps -aq")
        assert output(attempt, "docker run --rm made cat /f") == "once\n"


def test_protected_refs_have_a_cache_of_their_own(gitlab: GitLab, api: str) -> None:
    gitlab.play(dind(_build("RUN echo poisoned > /f")))
    with gitlab.prepared(dind(git_info={"protected": True})) as attempt:
        assert output(attempt, "docker images -q") == ""


def test_layers_of_a_build_that_failed_are_kept(gitlab: GitLab, api: str) -> None:
    assert gitlab.play(dind(_build("RUN echo long > /f", "RUN exit 9"))).status == "failed"
    assert "Using cache" in gitlab.play(dind(_build("RUN echo long > /f", "RUN true"))).log.decode()


def test_two_jobs_of_a_project_build_at_once(gitlab: GitLab, api: str) -> None:
    steps = [f"RUN echo {number} > /f{number}" for number in range(4)]
    payloads = [dind(_build(*steps), "docker run --rm made cat /f0 /f3") for _ in range(2)]
    with ThreadPoolExecutor(2) as runners:
        replays = [gitlab.replay(payload, concurrent=(place, place)) for place, payload in enumerate(payloads)]
        results = list(runners.map(lambda replay: replay.run(), replays))
    logs = [result.log.decode() for result in results]
    assert [result.status for result in results] == ["success", "success"], logs
    assert ["0\n3\n" in log for log in logs] == [True, True]
    again = gitlab.play(dind(_build(*steps)))
    assert again.status == "success"
    assert "Using cache" in again.log.decode()


def test_job_log_of_a_job_that_never_connects_has_no_engine(gitlab: GitLab, api: str) -> None:
    with gitlab.prepared(dind()) as attempt:
        assert output(attempt, "ps -o args | grep -c '[p]odman\\|[d]ockerd' || true") == "0\n"
        assert "replaced" in text_of(attempt)
