"""The templates for GitLab, read as GitLab reads them, and every job of theirs run."""

import io
import json
import re
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from runner.adapters.gitlab import snippet
from tests.support import artifact_client, images, pipelines
from tests.support.coordinator import Coordinator
from tests.support.engine import TREE
from tests.support.gitlab_jobs import GitLab
from tests.support.gitlab_runner import REACHABLE, outward_address
from tests.support.registries import LyingRegistry

TEMPLATES = TREE / "ci-templates/gitlab"
_PLAIN = {"GIT_STRATEGY": "none"}

# an image of the host's busybox, made in two stages: what RUN may do, what COPY keeps, and what the configuration says
_PROJECT = """
image-build:
  before_script:
    - mkdir -p rootfs/bin && cp /usr/bin/busybox rootfs/bin/ && ln -sf busybox rootfs/bin/sh
    - |
      cat > Dockerfile <<'END'
      FROM scratch AS made
      COPY rootfs/ /
      ARG WORD=none
      RUN echo "made with $WORD" > /made.txt && busybox chown 1000:1000 /made.txt
      FROM made
      ENV COLOUR=green
      USER 1000
      CMD ["/bin/busybox", "cat", "/made.txt"]
      END
"""


def template(name: str) -> str:
    return (TEMPLATES / f"{name}.gitlab-ci.yml").read_text()


def test_config_toml_agrees_with_what_dockless_prints() -> None:
    shown = tomllib.loads((TEMPLATES / "config.toml").read_text())
    assert shown["runners"] == tomllib.loads(snippet.text("/usr/local/bin/dockless"))["runners"]


def test_readme_names_every_file_and_every_job() -> None:
    readme = (TEMPLATES / "README.md").read_text()
    files = [path.name for path in TEMPLATES.iterdir() if path.name != "README.md"]
    names = {job["job_info"]["name"].partition(":")[0] for path in TEMPLATES.glob("*.yml") for job in pipelines.jobs(path.read_text())}
    assert [name for name in (*files, *names) if f"`{name}`" not in readme] == []


def test_service_template_talks_to_its_service(gitlab: GitLab) -> None:
    (job,) = pipelines.jobs(template("test-with-service"), variables={**_PLAIN, "TEST_IMAGE": "toolbox", "REDIS_IMAGE": "toolbox"})
    result = gitlab.play(job)
    log = result.log.decode()
    assert result.status == "success", log
    assert "OK\n" in log
    assert "probably didn't start properly" not in log


def test_service_template_fails_when_the_script_of_the_including_file_does(gitlab: GitLab) -> None:
    including = "test-with-service: {script: [redis-cli -u $REDIS_URL ping, exit 3]}"
    images = {"TEST_IMAGE": "toolbox", "REDIS_IMAGE": "toolbox"}
    (job,) = pipelines.jobs(template("test-with-service"), including=including, variables={**_PLAIN, **images})
    result = gitlab.play(job)
    assert (result.status, result.exit_code) == ("failed", 3)
    assert "PONG\n" in result.log.decode()


# a registry that lets one user in, and a look at what it holds when the job is over
_REGISTRY = """
  services:
    - name: toolbox
      alias: registry
      command:
        - sh
        - -c
        - |
          htpasswd -nbB ci sesame > /tmp/users
          cat > /tmp/config.yml <<'END'
          version: 0.1
          storage: {filesystem: {rootdirectory: /var/lib/registry}}
          http: {addr: ":5000"}
          auth: {htpasswd: {realm: test, path: /tmp/users}}
          END
          exec docker-registry serve /tmp/config.yml
      variables: {HEALTHCHECK_TCP_PORT: 5000}
  after_script:
    - skopeo inspect --tls-verify=false --creds ci:sesame docker://registry:5000/team/app:v1
"""
_PUSH = {
    "CI_REGISTRY": "registry:5000",
    "CI_REGISTRY_USER": "ci",
    "CI_REGISTRY_PASSWORD": "sesame",
    "PUSH_AS": "$CI_REGISTRY/team/app:v1",
    "REGISTRY_OPTIONS": "--tls-verify=false",
}


_OPENED = {"security": {"open": ["mount", "userns"]}}  # buildah makes containers of its own


_SUITES = """
test-matrix:
  before_script:
    - mkdir -p ci
    - echo 'echo "result= unit on $(cat /etc/os-release), $CI_NODE_INDEX of $CI_NODE_TOTAL"' > ci/unit.sh
    - sed s/unit/integration/ ci/unit.sh > ci/integration.sh
"""
_SAID = re.compile(r"^result= (.*)$", re.MULTILINE)


@pytest.fixture
def coordinator() -> Coordinator:
    return Coordinator()


@pytest.fixture
def url(coordinator: Coordinator, gitlab: GitLab, tmp_path: Path) -> Iterator[str]:
    """The URL of a GitLab that takes artifacts, which the runner's helper can upload."""
    gitlab.configure(gitlab={"runner_binary": artifact_client.install(str(tmp_path / "helper"))}, **_OPENED, **REACHABLE)
    with coordinator.running(address=outward_address()) as url:
        yield url


def _built(gitlab: GitLab, coordinator: Coordinator, url: str, directory: Path, **variables: str) -> Path:
    """Run the image template to its artifact, and return the OCI layout that it holds."""
    (payload,) = pipelines.jobs(template("image-build"), including=_PROJECT, variables={**_PLAIN, **variables})
    job = coordinator.take(payload)
    result = gitlab.play(payload, url=url)
    assert result.status == "success", result.log.decode()
    (artifact,) = job.artifacts
    assert artifact.query == {"artifact_format": "zip", "artifact_type": "archive", "expire_in": "1 week"}
    with zipfile.ZipFile(io.BytesIO(artifact.content)) as files:
        files.extract("image.tar", directory)
    with tarfile.open(directory / "image.tar") as archive:
        archive.extractall(directory / "layout")
    return directory / "layout"


def _blob(layout: Path, digest: str) -> bytes:
    return (layout / "blobs/sha256" / digest.removeprefix("sha256:")).read_bytes()


def test_image_template_makes_an_oci_archive_of_the_dockerfile(gitlab: GitLab, coordinator: Coordinator, url: str, tmp_path: Path) -> None:
    layout = _built(gitlab, coordinator, url, tmp_path, BUILD_OPTIONS="--build-arg WORD=care")
    (listed,) = json.loads((layout / "index.json").read_text())["manifests"]
    manifest = json.loads(_blob(layout, listed["digest"]))
    config = json.loads(_blob(layout, manifest["config"]["digest"]))["config"]
    assert (config["User"], config["Cmd"]) == ("1000", ["/bin/busybox", "cat", "/made.txt"])
    assert "COLOUR=green" in config["Env"]
    members = {}
    for layer in manifest["layers"]:
        with tarfile.open(fileobj=io.BytesIO(_blob(layout, layer["digest"]))) as content:
            members.update({member.name.lstrip("./"): (member.uid, _text(content, member)) for member in content if member.isfile()})
    assert members["made.txt"] == (1000, b"made with care\n")
    assert members["bin/busybox"][0] == 0


def test_image_that_the_template_built_runs_here(gitlab: GitLab, coordinator: Coordinator, url: str, tmp_path: Path) -> None:
    layout = _built(gitlab, coordinator, url, tmp_path, BUILD_OPTIONS="--build-arg WORD=care")
    assert gitlab.engine.run("run", "--image", f"oci:{layout}").out == "made with care\n"
    shown = gitlab.engine.run("run", "--image", f"oci:{layout}", "--", "busybox", "sh", "-c", "echo $COLOUR $(busybox id -u)")
    assert shown.out == "green 1000\n"


def test_image_template_pushes_with_the_credentials_of_the_job(gitlab: GitLab) -> None:
    (job,) = pipelines.jobs(template("image-build"), including=_PROJECT + _REGISTRY, variables={**_PLAIN, **_PUSH})
    gitlab.configure(**_OPENED)
    result = gitlab.play(job)
    log = result.log.decode()
    assert result.status == "success", log
    assert '"Name": "registry:5000/team/app"' in log


def test_image_template_says_what_it_misses_where_it_cannot_build(gitlab: GitLab) -> None:
    (job,) = pipelines.jobs(template("image-build"), including=_PROJECT, variables=_PLAIN)
    result = gitlab.play(job)
    log = result.log.decode()
    assert (result.status, result.failure_reason) == ("failed", "script_failure"), log
    assert "build with a docker:dind service and docker, or have security.open: [mount, userns] configured" in log


def test_image_template_fails_when_the_registry_lets_it_not_in(gitlab: GitLab) -> None:
    refused = {**_PUSH, "CI_REGISTRY_PASSWORD": "barley"}
    (job,) = pipelines.jobs(template("image-build"), including=_PROJECT + _REGISTRY, variables={**_PLAIN, **refused})
    gitlab.configure(**_OPENED)
    result = gitlab.play(job)
    assert (result.status, result.failure_reason) == ("failed", "script_failure")
    assert 'logging into "registry:5000": invalid username/password' in result.log.decode()


def test_image_template_fails_with_the_step_that_fails(gitlab: GitLab) -> None:
    broken = _PROJECT.replace("RUN echo", "RUN exit 9; echo")
    (job,) = pipelines.jobs(template("image-build"), including=broken, variables=_PLAIN)
    gitlab.configure(**_OPENED)
    result = gitlab.play(job)
    log = result.log.decode()
    assert (result.status, result.failure_reason) == ("failed", "script_failure"), log
    assert "exit status 9" in log
    assert "push image oci-archive" not in log


def test_matrix_template_runs_every_suite_on_its_own_image_at_once(gitlab: GitLab) -> None:
    registry = LyingRegistry()
    for name, tag in (("debian", "12-slim"), ("ubuntu", "24.04"), ("alpine", "3.20")):
        distribution = [images.file("etc/os-release", f"ID={name}\n".encode())]
        registry.add(images.build_image([images.busybox_layer(), distribution], {}), f"library/{name}", tag)
    payloads = pipelines.jobs(template("matrix"), including=_SUITES, variables=_PLAIN)
    with registry.running() as (host, _):
        gitlab.configure(registries={"docker.io": {"mirrors": [f"http://{host}"], "mirrors_trusted": True}}, **REACHABLE)
        with ThreadPoolExecutor(3) as runner:
            replays = [gitlab.replay(payload, concurrent=(place, place)) for place, payload in enumerate(payloads)]
            results = list(runner.map(lambda replay: replay.run(), replays))
    logs = [result.log.decode() for result in results]
    assert [result.status for result in results] == ["success"] * 5, logs
    assert [_SAID.findall(log) for log in logs] == [
        ["unit on ID=debian, 1 of 5"],
        ["integration on ID=debian, 2 of 5"],
        ["unit on ID=ubuntu, 3 of 5"],
        ["integration on ID=ubuntu, 4 of 5"],
        ["unit on ID=alpine, 5 of 5"],
    ]


def _text(content: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = content.extractfile(member)
    assert file
    return file.read()
