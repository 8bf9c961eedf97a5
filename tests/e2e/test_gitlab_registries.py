"""GitLab jobs in images of real registries: with and without TLS, passwords and token servers; credentials come from where GitLab says."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support import faults, images, worse_hosts
from tests.support.gitlab_jobs import GitLab, job, text_of
from tests.support.gitlab_replay import JobResult
from tests.support.images import build_image, busybox_layer, file
from tests.support.registries import TokenServer, docker_registry, make_certificates
from tests.support.worse_hosts import Scripts

_ENV = [f"PATH={images.PATH}"]
APP = build_image([busybox_layer(), [file("hello", b"hello from the registry\n")]])
WEB = build_image([busybox_layer()], {"Env": _ENV, "Cmd": ["httpd", "-f", "-h", "/etc"], "ExposedPorts": {"80/tcp": {}}})
USER, PASSWORD = "gitlab-ci-token", "s3cret"


class Registry(NamedTuple):
    """A registry that lets one user in."""

    host: str
    ca: Path | None

    def settings(self) -> dict[str, Any]:
        """Return what the configuration says about it."""
        return {"registries": {self.host: {"ca_file": str(self.ca)}}} if self.ca else {}

    def auth(self, password: str = PASSWORD, *, path: str = "") -> str:
        """Return a DOCKER_AUTH_CONFIG for it, or for a path in it."""
        pair = base64.b64encode(f"{USER}:{password}".encode()).decode()
        return json.dumps({"auths": {f"{self.host}{path}": {"auth": pair}}})

    def payload(self, password: str = PASSWORD) -> list[dict[str, str]]:
        """Return the credentials that GitLab sends with a job: the user is always this, the password is CI_JOB_TOKEN."""
        return [{"type": "registry", "url": self.host, "username": USER, "password": password}]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serve an image to everybody, without TLS; yields the port."""
    with docker_registry(tmp_path_factory.mktemp("plain")) as host:
        images.push(APP, f"{host}/team/app:v1")
        yield host.rpartition(":")[2]


@pytest.fixture(scope="module")
def by_password(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """Serve images over TLS by a CA of our own, behind a password."""
    certificates = make_certificates(tmp_path_factory.mktemp("tls"))
    with docker_registry(tmp_path_factory.mktemp("guarded"), htpasswd=(USER, PASSWORD), tls=certificates) as host:
        for image, name in ((APP, "team/app:v1"), (WEB, "team/web:v1")):
            images.push(image, f"{host}/{name}", auth=(USER, PASSWORD), ca=certificates.ca)
        yield Registry(host, certificates.ca)


@pytest.fixture(scope="module")
def by_token(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """Serve an image behind a token server, as GitLab's own registry is."""
    tokens = TokenServer(tmp_path_factory.mktemp("tokens"), {USER: PASSWORD})
    with tokens.running(), docker_registry(tmp_path_factory.mktemp("registry"), token_server=tokens) as host:
        images.push(APP, f"{host}/team/app:v1", token=tokens.mint("team/app", ("pull", "push")))
        yield Registry(host, None)


@pytest.fixture(params=["by_password", "by_token"])
def guarded(request: pytest.FixtureRequest, gitlab: GitLab) -> Registry:
    """Return each registry that wants credentials; the configuration says what it needs to know about it."""
    registry: Registry = request.getfixturevalue(request.param)
    gitlab.configure(**registry.settings())
    return registry


def play(gitlab: GitLab, registry: Registry, **changes: Any) -> JobResult:
    """Play a job in an image of a registry."""
    return gitlab.play(job("cat /hello", image=f"{registry.host}/team/app:v1", **changes))


def let_in(result: JobResult, source: str) -> None:
    """Assert that a job ran in its image, and was told whose credentials were used, but not which."""
    log = result.log.decode()
    assert result.status == "success", log
    assert "\nhello from the registry\n" in log
    assert f"Authenticating with credentials from {source}\n" in log
    assert PASSWORD not in log


def kept_out(result: JobResult, says: str) -> None:
    """Assert that a job failed by its own fault, at once, and was told what to do."""
    log = result.log.decode()
    assert (result.failure_reason, result.exit_code, result.prepare_attempts) == ("script_failure", 1, 1), log
    assert f"{says}\033[0;m\n(set DOCKER_AUTH_CONFIG, or run: docker login (or " in log
    assert faults.is_explained(log), log


# without TLS: the name is no loopback name, where http is tried by itself


def named(tmp_path: Path) -> Scripts:
    """Return what gives this machine the name of a registry."""
    (tmp_path / "hosts").write_text("127.0.0.1 localhost registry.test\n")
    return Scripts(f"mount --bind {tmp_path}/hosts /etc/hosts")


def test_registry_without_tls_is_used_where_the_configuration_says_so(gitlab: GitLab, plain: str, tmp_path: Path) -> None:
    gitlab.configure(registries={f"registry.test:{plain}": {"plain_http": True}})
    result = worse_hosts.play(gitlab, job("cat /hello", image=f"registry.test:{plain}/team/app:v1"), scripts=named(tmp_path))
    assert result.status == "success", result.log
    assert "\nhello from the registry\n" in result.log


def test_registry_without_tls_is_not_used_where_the_configuration_does_not_say_so(gitlab: GitLab, plain: str, tmp_path: Path) -> None:
    argv = gitlab.engine.argv("pull", f"registry.test:{plain}/team/app:v1")
    result = worse_hosts.run(argv, env=gitlab.environment(), scripts=named(tmp_path))
    assert result.code == faults.CODES["pull"][faults.SYSTEM]
    assert f"\n(a registry without TLS needs plain_http for registry.test:{plain})\n" in result.err
    assert faults.is_explained(result.err), result.err


# credentials


def test_credentials_of_the_jobs_variables_let_it_in(gitlab: GitLab, guarded: Registry) -> None:
    let_in(play(gitlab, guarded, variables={"DOCKER_AUTH_CONFIG": guarded.auth()}), "$DOCKER_AUTH_CONFIG")


def test_credentials_that_gitlab_sends_let_it_in(gitlab: GitLab, guarded: Registry) -> None:
    let_in(play(gitlab, guarded, credentials=guarded.payload()), "job payload (GitLab Registry)")


def test_credentials_may_be_a_file(gitlab: GitLab, by_token: Registry) -> None:
    variable = {"key": "DOCKER_AUTH_CONFIG", "value": by_token.auth(), "file": True}
    let_in(play(gitlab, by_token, variables=[variable]), "$DOCKER_AUTH_CONFIG")


def test_credentials_of_the_jobs_variables_beat_those_of_the_runner(gitlab: GitLab, by_token: Registry) -> None:
    payload = job("cat /hello", image=f"{by_token.host}/team/app:v1", variables={"DOCKER_AUTH_CONFIG": by_token.auth()})
    result = gitlab.play(payload, runner_variables={"DOCKER_AUTH_CONFIG": by_token.auth("wr0ng")})
    let_in(result, "$DOCKER_AUTH_CONFIG")


def test_credentials_of_the_runner_let_every_job_in(gitlab: GitLab, by_token: Registry) -> None:
    payload = job("cat /hello", image=f"{by_token.host}/team/app:v1")
    let_in(gitlab.play(payload, runner_variables={"DOCKER_AUTH_CONFIG": by_token.auth()}), "$DOCKER_AUTH_CONFIG")


def test_credentials_of_the_longest_path_win_wherever_they_come_from(gitlab: GitLab, by_token: Registry) -> None:
    sent = [{**by_token.payload()[0], "url": f"{by_token.host}/team"}]
    result = play(gitlab, by_token, variables={"DOCKER_AUTH_CONFIG": by_token.auth("wr0ng")}, credentials=sent)
    let_in(result, "job payload (GitLab Registry)")


def test_services_come_with_the_same_credentials(gitlab: GitLab, by_password: Registry) -> None:
    gitlab.configure(**by_password.settings())
    service = {"name": f"{by_password.host}/team/web:v1", "alias": "web"}
    result = gitlab.play(job("curl -fsS http://web/passwd", services=[service], credentials=by_password.payload()))
    assert result.status == "success", result.log.decode()
    assert "builder" in result.log.decode()


# wrong credentials


@pytest.mark.parametrize("source", ["$DOCKER_AUTH_CONFIG", "job payload (GitLab Registry)"])
def test_wrong_password_is_the_jobs_fault(gitlab: GitLab, guarded: Registry, source: str) -> None:
    ways: dict[str, dict[str, Any]] = {
        "$DOCKER_AUTH_CONFIG": {"variables": {"DOCKER_AUTH_CONFIG": guarded.auth("wr0ng")}, "credentials": guarded.payload()},
        "job payload (GitLab Registry)": {"credentials": guarded.payload("wr0ng")},
    }
    result = play(gitlab, guarded, **ways[source])
    kept_out(result, f"registry {guarded.host} refuses the credentials from {source} for team/app")
    assert "wr0ng" not in result.log.decode()


def test_job_without_credentials_is_told_that_it_needs_some(gitlab: GitLab, guarded: Registry) -> None:
    kept_out(play(gitlab, guarded), f"registry {guarded.host} wants credentials for team/app: it is private or does not exist")


def test_stored_image_is_not_given_to_a_job_that_may_not_pull_it(gitlab: GitLab, by_token: Registry) -> None:
    let_in(play(gitlab, by_token, credentials=by_token.payload()), "job payload (GitLab Registry)")
    kept_out(play(gitlab, by_token, project=8), f"registry {by_token.host} wants credentials for team/app: it is private or does not exist")


def test_registry_of_an_unknown_ca_is_not_the_jobs_fault(gitlab: GitLab, by_password: Registry) -> None:
    attempt = gitlab.replay(job(image=f"{by_password.host}/team/app:v1", credentials=by_password.payload())).attempt()
    ended = attempt.prepare()
    attempt.cleanup()
    assert ended.returncode == faults.CODES["gitlab"][faults.SYSTEM]
    assert f"ERROR: cannot trust registry {by_password.host}: " in text_of(attempt)
    assert f"\n(for a private CA set registries: {{{by_password.host}: {{ca_file: " in text_of(attempt)
    assert faults.is_explained(text_of(attempt))
