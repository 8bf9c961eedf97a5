"""What the helper does for a GitLab job: sources over http, caches, artifacts."""

from pathlib import Path
from typing import Any

import pytest

from tests.support import repositories
from tests.support.gitlab_jobs import GitLab, job
from tests.support.repositories import Repository

_SHIM = """#!/bin/sh
# caches and artifacts as gitlab-runner's helper commands have them, in tar files
verb=$1
shift
while [ $# -gt 0 ]; do
    case $1 in
        --file) file=$2; shift 2 ;;
        --id) id=$2; shift 2 ;;
        --path) paths="$paths $2"; shift 2 ;;
        *) shift 2 ;;
    esac
done
case $verb in
    --version) echo "Version: 19.4.0" ;;
    cache-archiver) mkdir -p "$(dirname "$file")" && tar -cf "$file" $paths ;;
    cache-extractor) tar -xf "$file" ;;
    artifacts-uploader) tar -cf "/cache/artifacts-$id.tar" $paths ;;
    artifacts-downloader) tar -xf "/cache/artifacts-$id.tar" ;;
esac
"""
_CACHE = [{"key": "k", "paths": ["cached/"], "policy": "pull-push", "when": "on_success"}]


# 14: caches and artifacts


@pytest.fixture
def gitlab_with_shim(gitlab: GitLab, tmp_path: Path) -> GitLab:
    """Return a runner whose helper finds a small stand-in for gitlab-runner, outside of /usr."""
    shim = tmp_path / "opt" / "gitlab-runner"
    shim.parent.mkdir()
    shim.write_text(_SHIM)
    shim.chmod(0o755)
    gitlab.configure(gitlab={"runner_binary": str(shim)})
    return gitlab


def test_cache_of_one_job_is_extracted_in_the_next(gitlab_with_shim: GitLab) -> None:
    first = gitlab_with_shim.play(job("mkdir -p cached; echo from the first job > cached/f", cache=_CACHE))
    second = gitlab_with_shim.play(job("cat cached/f", cache=_CACHE))
    assert "Failed to extract cache" in first.log.decode()
    assert "Created cache" in first.log.decode()
    assert "Successfully extracted cache" in second.log.decode()
    assert "from the first job\n" in second.log.decode()


def test_cache_of_a_failed_job_is_not_kept_unless_it_asks_for_that(gitlab_with_shim: GitLab) -> None:
    fail = ["mkdir -p cached; echo x > cached/f", "exit 3"]
    result = gitlab_with_shim.play(job(fail, cache=_CACHE))
    assert result.exit_code == 3
    assert "Creating cache" not in result.log.decode()
    always = gitlab_with_shim.play(job(fail, cache=[{**_CACHE[0], "when": "always"}]))
    assert "Created cache" in always.log.decode()
    assert always.exit_code == 3


def test_artifacts_of_one_job_reach_another(gitlab_with_shim: GitLab) -> None:
    artifacts = [{"paths": ["made"], "when": "on_success", "artifact_type": "archive", "artifact_format": "zip"}]
    first = gitlab_with_shim.play(job("echo handed on > made", id=4711, artifacts=artifacts))
    dependency = {"id": 4711, "token": "t", "name": "first", "artifacts_file": {"filename": "a.zip", "size": 1}}
    second = gitlab_with_shim.play(job("cat made", dependencies=[dependency]))
    assert "Uploading artifacts..." in first.log.decode()
    assert "Downloading artifacts for first (4711)..." in second.log.decode()
    assert "handed on\n" in second.log.decode()


def test_artifacts_that_cannot_be_had_fail_the_job_before_its_script(gitlab_with_shim: GitLab) -> None:
    dependency = {"id": 99, "token": "t", "name": "none", "artifacts_file": {"filename": "a.zip", "size": 1}}
    result = gitlab_with_shim.play(job("echo 'script' ran", dependencies=[dependency]))
    assert (result.status, result.failure_reason) == ("failed", "script_failure")
    assert "script ran" not in result.log.decode()


def test_build_container_has_no_gitlab_runner_of_the_helper(gitlab_with_shim: GitLab) -> None:
    result = gitlab_with_shim.play(job("ls /run/dockless 2>/dev/null || echo 'not' here"))
    assert "not here\n" in result.log.decode()


# sources


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return repositories.make(tmp_path)


def _checkout(sha: str, *script: str, **more: Any) -> dict[str, Any]:
    """Return a job that fetches its sources from a service of its own: the host's loopback is out of reach."""
    serve = ["python3", "-m", "http.server", "80", "--directory", "/srv/git"]
    service = {"name": "toolbox", "alias": "git", "command": serve, "variables": [{"key": "HEALTHCHECK_TCP_PORT", "value": "80"}]}
    git = {"repo_url": "http://gitlab-ci-token:secret@git/project.git", "sha": sha, "depth": 0}
    strategy = more.pop("strategy", "fetch")
    variables = {"GIT_STRATEGY": strategy, **more.pop("variables", {})}
    return job(list(script), services=[service], git_info=git, variables=variables, **more)


@pytest.fixture
def gitlab_with_sources(gitlab: GitLab, repository: Repository) -> GitLab:
    gitlab.configure(gitlab={"volumes": ["/cache", f"{repository.path.parent}:/srv/git:ro"]})
    return gitlab


def test_sources_are_fetched_and_checked_out(gitlab_with_sources: GitLab, repository: Repository) -> None:
    sha = repository.commit("README", "words of the repository\n")
    result = gitlab_with_sources.play(_checkout(sha, "pwd; cat README; git rev-parse HEAD"), safe_directory=True)
    log = result.log.decode()
    assert result.status == "success", log
    assert f"/builds/project\nwords of the repository\n{sha}\n" in log
    assert "Initialized empty Git repository in /builds/project/.git/" in log


def test_next_job_fetches_into_what_the_last_one_left(gitlab_with_sources: GitLab, repository: Repository) -> None:
    first = repository.commit("README", "first\n")
    gitlab_with_sources.play(_checkout(first, "touch untracked"), safe_directory=True)
    second = repository.commit("README", "second\n")
    log = gitlab_with_sources.play(_checkout(second, "cat README; ls"), safe_directory=True).log.decode()
    assert "Reinitialized existing Git repository in /builds/project/.git/" in log
    assert "Removing untracked" in log
    assert "second\nREADME\n" in log


def test_clone_starts_from_nothing(gitlab_with_sources: GitLab, repository: Repository) -> None:
    sha = repository.commit("README", "first\n")
    gitlab_with_sources.play(_checkout(sha, "true"), safe_directory=True)
    log = gitlab_with_sources.play(_checkout(sha, "cat README", strategy="clone"), safe_directory=True).log.decode()
    assert "Initialized empty Git repository in /builds/project/.git/" in log
    assert "first\n" in log


def test_commit_that_is_not_there_fails_the_job_after_every_attempt(gitlab_with_sources: GitLab, repository: Repository) -> None:
    repository.commit("README", "x\n")
    payload = _checkout("f" * 40, "echo 'script' ran", variables={"GET_SOURCES_ATTEMPTS": "2"})
    result = gitlab_with_sources.play(payload, safe_directory=True)
    assert (result.failure_reason, result.exit_code) == ("script_failure", 128)
    assert [phase for phase, _, _ in result.timeline].count("get_sources") == 2
    assert "script ran" not in result.log.decode()


def test_user_other_than_root_can_change_its_checkout(gitlab_with_sources: GitLab, repository: Repository) -> None:
    sha = repository.commit("README", "words\n")
    image = {"name": "toolbox", "executor_opts": {"docker": {"user": "1000"}}}
    payload = _checkout(sha, "id -u; echo more >> README; mkdir made; cat README", image=image)
    result = gitlab_with_sources.play(payload, safe_directory=True)
    assert result.status == "success", result.log.decode()
    assert "1000\nwords\nmore\n" in result.log.decode()
