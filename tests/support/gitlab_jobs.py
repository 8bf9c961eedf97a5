"""GitLab jobs on the engine: the replayed runner calls its verbs, and tests read what the job log says."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.support.engine import Engine, wait_until
from tests.support.gitlab_attempt import Attempt
from tests.support.gitlab_calls import Call
from tests.support.gitlab_replay import JobResult, Replay, job_payload

_BEGIN = "--- output begins ---"


def job(script: Sequence[str] | str = "true", **changes: Any) -> dict[str, Any]:
    """Return a job in the toolbox without a repository; everything of `job_payload` can be changed, and `project`, its number."""
    variables = changes.pop("variables", {})
    project = changes.pop("project", 7)
    entries = [{"key": key, "value": value} for key, value in variables.items()] if isinstance(variables, Mapping) else list(variables)
    return job_payload(
        **{
            "script": [script] if isinstance(script, str) else list(script),
            "image": "toolbox",
            "variables": [{"key": "CI_PROJECT_ID", "value": str(project)}, {"key": "GIT_STRATEGY", "value": "none"}, *entries],
            "job_info": {"name": "test", "stage": "test", "project_id": project, "project_name": "project"},
            **changes,
        }
    )


class GitLab:
    """A runner whose custom executor is an engine, and the engine's configuration."""

    def __init__(self, engine: Engine, temporary: Path) -> None:
        self.engine = engine
        self.temporary = temporary
        self.configure()

    def configure(self, **settings: Any) -> None:
        """Write the engine's configuration, by the names of its sections; jobs may name the images that tests lay down beside it."""
        local = ["**", "oci:/**", "docker-archive:/**"]
        settings["images"] = {"allowed": local, **settings.get("images", {})}
        settings["gitlab"] = {"allowed_services": local, **settings.get("gitlab", {})}
        settings["gc"] = {"high": 100, **settings.get("gc", {})}  # however full the disk is that tests run on
        self.engine.config.write_text(yaml.safe_dump(settings))

    def environment(self) -> dict[str, str]:
        """Return the environment of the runner's own process."""
        return self.engine.environ({"TMPDIR": str(self.temporary)})

    def driver(self) -> dict[str, list[str]]:
        """Return the programs of [runners.custom]."""
        return {verb: self.engine.argv("gitlab", verb) for verb in ("config", "prepare", "run", "cleanup")}

    def replay(self, payload: dict[str, Any], **settings: Any) -> Replay:
        """Return a job that can be played; `settings` are those of Replay."""
        return Replay(self.driver(), payload, **{"env": self.environment(), "graceful_s": 30.0, **settings})

    def play(self, payload: dict[str, Any], **settings: Any) -> JobResult:
        """Play a whole job; afterwards nothing of it may be left."""
        result = self.replay(payload, **settings).run()
        assert self.engine.leftovers() == []
        return result

    @contextmanager
    def prepared(self, payload: dict[str, Any] | None = None, **settings: Any) -> Iterator[Attempt]:
        """Yield a job that stands, for single stages; it is cleaned up afterwards."""
        attempt = self.replay(payload or job(), **settings).attempt()
        try:
            ended = attempt.prepare()
            assert ended.failure is None, text_of(attempt)
            assert attempt.job_env["DOCKLESS_STATE_DIR"] == str(self.engine.state)
            yield attempt
        finally:
            attempt.cleanup()


def text_of(attempt: Attempt) -> str:
    """Return the job log so far."""
    return bytes(attempt.build.log).decode(errors="replace")


def output(attempt: Attempt, *commands: str, stage: str = "build_script") -> str:
    """Run commands as a stage's whole script and return what they printed; the stage must pass."""
    start = len(attempt.build.log)
    ended = attempt.stage(stage, ["exec 2>&1", f"echo '{_BEGIN}'", *commands])  # two streams would come in any order
    shown = bytes(attempt.build.log[start:]).decode(errors="replace")
    assert ended.failure is None, shown
    return shown.partition(_BEGIN + "\n")[2].rpartition("section_end:")[0]


def start_until(attempt: Attempt, mark: str, *commands: str, stage: str = "build_script") -> Call:
    """Start a stage and return its call as soon as it has printed `mark`."""
    start = len(attempt.build.log)
    call = attempt.start_stage(stage, list(commands))
    assert wait_until(lambda: mark.encode() in attempt.build.log[start:], 30), text_of(attempt)
    return call
