"""`dockless`: the fork in the road, and the only place that turns an exception into an exit code.

Commands that CI systems call at every step (`run`, `step`, `gitlab run`, `github hook`) branch off before click is imported. Start-up is
part of their contract: tests/unit/test_hot_path.py says which modules they may load.
"""

from __future__ import annotations

import errno
import gc
import os
import sys

from runner import __version__, errors, log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_ENGINE_FAILED = 125  # as podman and docker run report their own failures
_MACHINES_FAULT = (errno.EIO, errno.EROFS, errno.ENOMEM, errno.EMFILE, errno.ENFILE)  # may come from any call, and is no bug of ours
_CONTAINERS = (["run"], ["step"])  # the commands whose exit code is otherwise the container's


def main() -> None:
    """Run the command line and exit, without the interpreter taking itself apart, which lasts as long as its start."""
    gc.disable()  # there is no garbage yet: it would only look at what is being imported, for a millisecond
    _open_missing_streams()
    try:
        code = run(sys.argv[1:])
    except SystemExit as e:  # a signal's handler: threads that wait for a registry must not hold us up
        code = e.code if isinstance(e.code, int) else 1
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        pass  # nobody is left who could be told: `run` has tried
    os._exit(code)


def _open_missing_streams() -> None:
    """Open /dev/null where the caller closed a standard stream: the next file would get its number, and our words into it."""
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number is this one
    sys.stdout = sys.stdout or os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", encoding="utf-8", closefd=False)


def run(argv: list[str]) -> int:
    """Run one command and return its exit code; errors are printed as a sentence and a hint."""
    words, argv = argv, []
    try:
        argv, complaint = _take_global_options(words)
        if complaint:
            raise complaint  # now that the command is known, whose exit codes count
        code = _dispatch(argv)
        sys.stdout.flush()  # here, where it is told if that fails
        return code
    except errors.Bug as e:
        log.fail(f"internal error: {e.message}", "this is a bug in dockless: please report it with the output of --debug")
        code = e.exit_code
    except errors.RunnerError as e:
        log.fail(e.message, e.hint)
        # the program that could not be started has an exit code of its own
        return (
            e.exit_code
            if "exit_code" in vars(e)
            else _gitlab_code(e, argv)
            if argv[:1] == ["gitlab"]
            else (_ENGINE_FAILED if argv[:1] in _CONTAINERS else e.exit_code)
        )
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:
        _discard_stdout()  # the reader of our answer has gone: nothing to say, nobody to say it to
        return 141
    except OSError as e:
        if log.is_debug():
            raise
        _discard_stdout()
        if e.errno in (errno.ENOSPC, errno.EDQUOT):  # may happen anywhere, and is nobody's bug
            log.fail(f"{e.filename or 'nothing can be written'}: {e.strerror}", "make room: `dockless gc` removes what no image needs")
            code = errors.InfraError.exit_code
        elif isinstance(e, ChildProcessError) and "(exit -" in str(e):
            log.fail(f"a part of this command was killed: {e.strerror}", "was the machine out of memory? try again")
            code = errors.InfraError.exit_code
        elif e.errno in _MACHINES_FAULT:
            log.fail(f"{e.filename or 'a file'}: {e.strerror}", "the disk or the machine fails: look at the kernel's log with `dmesg`")
            code = errors.InfraError.exit_code
        else:
            code = _confess(e)
    except Exception as e:  # the last line of defence: a person sees a sentence, a developer asks for more
        if log.is_debug():
            raise
        code = _confess(e)
    if argv[:1] == ["gitlab"]:
        return _system_failure()
    return _ENGINE_FAILED if argv[:1] in _CONTAINERS and code != 130 else code


def _confess(error: Exception) -> int:
    log.fail(f"internal error: {type(error).__name__}: {error}", "this is a bug in dockless: please report it with the output of --debug")
    return errors.Bug.exit_code


def _discard_stdout() -> None:
    """Let what is still buffered go nowhere, or the interpreter would complain about it on its way out."""
    null = os.open(os.devnull, os.O_WRONLY)
    if null != 1:
        os.dup2(null, 1)


def _take_global_options(argv: list[str]) -> tuple[list[str], errors.UserError | None]:
    """Apply the options that stand before the command; they reach everything through the environment.

    Returns what follows them, and what is wrong with the last wrong one: an empty path.
    """
    rest = list(argv)
    complaint = None
    while rest and rest[0].startswith("--"):
        name, has_value, value = rest[0].partition("=")
        if rest[0] == "--debug":
            os.environ["DOCKLESS_DEBUG"] = "1"
            rest = rest[1:]
        elif name in ("--config", "--state-dir") and (has_value or len(rest) > 1):
            variable = "DOCKLESS_CONFIG" if name == "--config" else "DOCKLESS_STATE"
            path = value if has_value else rest[1]
            if path:
                os.environ[variable] = os.path.abspath(path)
            else:
                complaint = errors.UserError(f"option {name} is empty", "name a path, or leave the option out")
            rest = rest[1:] if has_value else rest[2:]
        elif name == "--version":
            print(f"dockless {__version__}", flush=True)
            sys.exit(0)
        else:
            rest = rest[1:] if name == "--" else rest
            break
    log.configure(colour=sys.stderr.isatty(), debug=os.environ.get("DOCKLESS_DEBUG", "") not in ("", "0"))
    return rest, complaint


def _dispatch(argv: list[str]) -> int:
    if argv[:2] == ["gitlab", "run"] and "--help" not in argv:
        from runner.adapters.gitlab import run as gitlab_run

        return gitlab_run.main(argv[2:], os.environ)
    if argv[:2] == ["github", "hook"] and "--help" not in argv:
        from runner.adapters.github import hook

        return hook.main(argv[2:], os.environ)
    if argv[:1] == ["run"]:
        from runner.cli import run_options

        if not run_options.wants_help(argv[1:]):
            from runner.cli import run as cli_run

            return cli_run.main(argv[1:], os.environ)
    if argv[:1] == ["step"]:
        from runner.cli import step_options

        if not step_options.wants_help(argv[1:]):
            from runner.cli import step as cli_step

            return cli_step.main(argv[1:], os.environ)
    if argv[:2] == ["jenkins", "docker"]:
        from runner.adapters.jenkins import docker_command
        from runner.cli import surroundings

        return docker_command.main(argv[2:], os.environ, open_all=surroundings.open_all)
    if argv[:2] == ["jenkins", "agent"]:
        from runner.cli import agent_options

        if not agent_options.wants_help(argv[2:]):
            from runner.cli import agent

            return agent.main(argv[2:], os.environ)
    gc.enable()
    verb = _gitlab_verb(argv)
    if verb:
        return verb([], os.environ)
    from runner.cli import commands

    answered = commands.complete()
    return commands.main(argv) if answered is None else answered


def _gitlab_verb(argv: list[str]) -> Callable[[list[str], Mapping[str, str]], int] | None:
    """Return the body of a verb that gitlab-runner calls without arguments: click would cost each of them as much as a step."""
    match argv:
        case ["gitlab", "config"]:
            from runner.adapters.gitlab import config as verb
        case ["gitlab", "prepare"]:
            from runner.adapters.gitlab import prepare as verb  # type: ignore[no-redef]
        case ["gitlab", "cleanup"]:
            from runner.adapters.gitlab import cleanup as verb  # type: ignore[no-redef]
        case _:
            return None
    return verb.main


def _gitlab_code(error: errors.RunnerError, argv: list[str]) -> int:
    """Return the exit code that gitlab-runner understands: the job's fault, which is final, or the system's, which it retries."""
    from runner.adapters.gitlab import environment

    codes = environment.codes(os.environ)
    if isinstance(error, errors.UserError) and argv[1:2] != ["config"]:
        return codes.build_failure
    return codes.system_failure


def _system_failure() -> int:
    from runner.adapters.gitlab import environment

    return environment.codes(os.environ).system_failure


if __name__ == "__main__":
    main()
