"""`gitlab run SCRIPT STAGE`: the hot path; one stage of the job, in the container where it belongs, with its real exit code."""

from __future__ import annotations

import os

from runner import errors, log, paths
from runner.adapters.gitlab import environment, privileges, stages
from runner.job import state, step
from runner.job.state import JobState
from runner.kernel import process
from runner.model import Outcome
from runner.record import NamedTuple
from runner.sandbox import crun

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

# like docker's executor: the first shell that exists reads the script from stdin (shells/bash.go, BashDetectShellScript)
_SHELLS = ("/usr/local/bin/bash", "/usr/bin/bash", "/bin/bash", "/usr/local/bin/sh", "/usr/bin/sh", "/bin/sh", "/busybox/sh")
DETECT_SHELL = "".join(f"if [ -x {shell} ]; then exec {shell}; fi; " for shell in _SHELLS) + "echo shell not found; exit 1"
_GREY, _RESET = "\033[0;90m", "\033[0;m"


class _Opened(NamedTuple):
    """What only the runner's own user may open, opened before that user is left."""

    script: int
    code_file: int


def main(arguments: list[str], environ: Mapping[str, str]) -> int:
    """Run one stage; return 0, or the runner's code for a failed build after writing the script's own to BUILD_EXIT_CODE_FILE.

    Raises RunnerErrors for everything that is not the script's doing.
    """
    log.configure(colour=True)
    if len(arguments) != 2:
        raise errors.UserError("run takes a script and a stage", 'gitlab-runner adds both: run_args = ["gitlab", "run"]')
    codes = environment.codes(environ)
    opened = _open(arguments[0], environ)
    privileges.leave_root(environ.get(environment.ACCOUNT, ""))
    current = _state(environ)
    stage = arguments[1]
    name = stages.container(stage)
    job_variables = environment.variables(environ)
    log.hide(*environment.values(job_variables, current.facts.get("masked", ())))
    if name == stages.BUILD:
        _give_project_to_user(current, job_variables)
    try:
        outcome = _run(current, environ, opened.script, name, job_variables)
    except crun.StartFailure as e:
        if e.exit_code == 127 and e.message.startswith("sh:"):
            image = current.container(name).image
            e = crun.StartFailure(f"image {image} has no shell, which every job needs", "use an image with sh, or its -debug variant", 127)
        log.fail(e.message, e.hint)
        return _report(opened.code_file, e.exit_code, codes)
    except errors.UserError as e:
        log.fail(e.message, e.hint)
        return _report(opened.code_file, e.exit_code, codes)  # without a code in its file this would be the system's failure
    if outcome.oom_killed:
        log.fail("the memory limit was reached and a process of the job was killed (OOM)", "limits.memory in the configuration")
    return _report(opened.code_file, outcome.exit_code, codes)


def _report(code_file: int, exit_code: int, codes: environment.Codes) -> int:
    if exit_code == 0:
        return 0
    if code_file >= 0:
        os.pwrite(code_file, f"{exit_code}\n".encode(), 0)
    return codes.build_failure


def _open(script: str, environ: Mapping[str, str]) -> _Opened:
    """Copy the script where the container may not reach the host's file, and clear the last stage's exit code."""
    try:
        source = os.open(script, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as e:
        raise errors.InfraError(f"script {script} cannot be read: {e.strerror}", "only gitlab-runner calls this verb") from e
    copy = os.memfd_create("script")
    with open(source, "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        while size > 0 and (sent := os.sendfile(copy, file.fileno(), None, size)):
            size -= sent
    os.lseek(copy, 0, os.SEEK_SET)
    path = environ.get("BUILD_EXIT_CODE_FILE", "")
    if not path:
        return _Opened(copy, -1)
    try:
        # one file for the whole job: a stale code would be reported for this stage
        os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as e:
        raise errors.InfraError(f"{path} cannot be cleared: {e.strerror}") from e
    return _Opened(copy, os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))


def _state(environ: Mapping[str, str]) -> JobState:
    key, root = environ.get(environment.JOB, ""), environ.get(environment.STATE_DIR, "")
    current = state.load(paths.Store(root), key) if key and root else None
    if current is None:
        raise errors.InfraError(
            f"job {key or '(no key)'} was not prepared on this machine", "config_exec and prepare_exec have to be dockless too"
        )
    return current


def _run(current: JobState, environ: Mapping[str, str], script: int, name: str, job_variables: dict[str, str]) -> Outcome:
    files = tuple(current.facts.get("files", ()))
    # docker's helper image runs with umask 0, so that images with any USER can write to the checkout
    umask = 0 if name == stages.HELPER and not environment.flag(job_variables, "FF_DISABLE_UMASK_FOR_DOCKER_EXECUTOR") else None
    request = step.Request(
        name, argv=("sh", "-c", DETECT_SHELL), env=environment.for_container(job_variables, files), umask=umask, stdin=script
    )
    if name == stages.HELPER:
        # PATH of the helper was chosen at prepare: the job's own would hide the tools
        request = request._replace(env=tuple(pair for pair in request.env if pair[0] != "PATH"))
    services: dict[str, str] = current.facts.get("services", {})
    if not (services and environment.flag(job_variables, "CI_DEBUG_SERVICES")):
        return step.run(current, request)
    from runner.job import follow  # only those who debug services pay for it

    store = paths.Store(environ[environment.STATE_DIR])
    with follow.follow(store, current.key, tuple(services), prefix=lambda service: f"{_GREY}[service:{services[service]}]{_RESET} "):
        return step.run(current, request)


def _give_project_to_user(current: JobState, job_variables: dict[str, str]) -> None:
    """With FF_DISABLE_UMASK_FOR_DOCKER_EXECUTOR the checkout belongs to root: hand it to the image's user, as docker's executor does."""
    container = current.container(stages.BUILD)
    if container.uid == 0 or not environment.flag(job_variables, "FF_DISABLE_UMASK_FOR_DOCKER_EXECUTOR"):
        return
    directories = tuple(d for d in (job_variables.get("CI_PROJECT_DIR", ""), job_variables.get("RUNNER_TEMP_PROJECT_DIR", "")) if d)
    if directories:
        command = ("chown", "-RP", f"{container.uid}:{container.gid}", "--", *directories)
        process.fork_call(lambda: list(step.run(current, step.Request(stages.HELPER, argv=command))))
