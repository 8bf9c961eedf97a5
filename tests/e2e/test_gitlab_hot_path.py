"""`dockless gitlab run` in a job that stands: every stage pays for what it loads."""

from pathlib import Path

from runner import paths
from runner.job import keeper, state
from runner.kernel import files
from tests.support import imports
from tests.support.engine import Engine
from tests.support.gitlab_jobs import GitLab, job, text_of


class Measured(GitLab):
    """A runner whose run_exec reports what it imports, into the job log."""

    def driver(self) -> dict[str, list[str]]:
        """Return the programs of [runners.custom]."""
        return {**super().driver(), "run": imports.argv("gitlab", "run")}


def test_stages_load_nothing_slow(engine: Engine, tmp_path: Path) -> None:
    with Measured(engine, tmp_path).prepared(job()) as attempt:
        before = len(text_of(attempt))
        assert attempt.stage("prepare_script", ["echo helper"]).failure is None
        assert attempt.stage("build_script", ["echo build"]).failure is None
        said = text_of(attempt)[before:]
    modules = imports.loaded(said)
    assert {"helper", "build"} <= set(imports.without(said).split())
    assert {"runner.adapters.gitlab.run", "runner.job.step"} <= modules
    assert imports.slow(modules, stage=True) == set()


def test_failing_stage_loads_nothing_slow(engine: Engine, tmp_path: Path) -> None:
    with Measured(engine, tmp_path).prepared(job()) as attempt:
        before = len(text_of(attempt))
        assert attempt.stage("build_script", ["exit 3"]).failure is not None
        modules = imports.loaded(text_of(attempt)[before:])
    assert "runner.job.step" in modules
    assert imports.slow(modules, stage=True) == set()


class Traced(GitLab):
    """A runner whose run_exec notes the programs that it starts."""

    def driver(self) -> dict[str, list[str]]:
        """Return the programs of [runners.custom]."""
        plain = super().driver()
        return {**plain, "run": ["strace", "-f", "-qq", "-e", "trace=execve,execveat", "-o", str(self.trace), *plain["run"]]}

    @property
    def trace(self) -> Path:
        return self.temporary / "trace"


def test_stage_starts_crun_once(engine: Engine, tmp_path: Path) -> None:
    gitlab = Traced(engine, tmp_path)
    with gitlab.prepared(job()) as attempt:
        assert attempt.stage("build_script", ["true"]).failure is None
    started = [line for line in gitlab.trace.read_text().splitlines() if '["crun"' in line]
    assert len(started) == 1, started


def test_first_job_of_a_machine_leaves_the_compiled_filter_for_every_step(engine: Engine, tmp_path: Path) -> None:
    # compiling the profile anew costs a step as much as Python's start; a job's containers have no command of their own, unlike `run`'s
    with GitLab(engine, tmp_path).prepared(job()) as attempt:
        assert attempt.stage("build_script", ["grep Seccomp: /proc/self/status"]).failure is None
        assert "Seccomp:\t2" in text_of(attempt)
        (compiled,) = (engine.state / "seccomp").glob("*.bpf")
        (key,) = state.keys(paths.Store(str(engine.state)))
        current = state.load(paths.Store(str(engine.state)), key)
        assert current is not None
        specs = keeper.call(current.keeper, lambda: [files.read_json(f"{paths.RUN}/c/{name}/base.json") for name in ("build", "helper")])
    for spec in specs:
        assert spec["annotations"] == {"run.oci.seccomp_bpf_data": compiled.read_text()}
        assert "seccomp" not in spec["linux"]


class Preparing(GitLab):
    """A runner whose verbs all report what they import; what prepare says is in the job log."""

    def driver(self) -> dict[str, list[str]]:
        """Return the programs of [runners.custom]."""
        return {verb: imports.argv(*argv[argv.index("runner") + 1 :]) for verb, argv in super().driver().items()}


def test_preparing_a_job_without_services_loads_nothing_slow(engine: Engine, tmp_path: Path) -> None:
    gitlab = Preparing(engine, tmp_path)
    gitlab.configure(images={"pull_policy": ["if-not-present"]})
    with gitlab.prepared(job()):
        pass  # what reads the configuration the first time may be slow
    with gitlab.prepared(job()) as attempt:
        modules = imports.loaded(text_of(attempt))
    assert {"runner.adapters.gitlab.prepare", "runner.job.assembly"} <= modules
    assert imports.slow(modules) == set()
