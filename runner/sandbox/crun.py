"""crun: how it is called, and what its complaints mean."""

import os

from runner import errors, paths
from runner.kernel import files, plain_json, process

ROOT = f"{paths.RUN}/crun"
# Inside a job. crun wants to be out of the container's reach (CVE-2019-5736): unless its program lies on a read-only mount, it makes itself
# such a mount and starts a second time, at every start (1.5 ms)
PROGRAM = f"{paths.RUN}/bin/crun"


def program() -> str:
    """Return the path of crun; InfraError if it is not installed."""
    try:
        return process.find("crun")
    except FileNotFoundError as e:
        raise errors.InfraError("crun is not installed", "apt-get install crun") from e


def _argv(*arguments: str, log: str = "") -> list[str]:
    # cgroups are ours (kernel.cgroup): crun 1.8 refuses hybrid hosts and needs systemd elsewhere
    options = ["--root", ROOT, "--cgroup-manager=disabled"]
    if log:
        options += [f"--log=file:{log}", "--log-format=json"]
    return ["crun", *options, *arguments]


def run_argv(bundle: str, container_id: str, *, detach: bool = False, preserve_fds: int = 0) -> list[str]:
    """Return the command that runs a bundle. Foreground: it ends with the container's exit code. Its own words go to the bundle's log.

    `preserve_fds` descriptors from 3 on are the container's, too.
    """
    more = [*(["--detach"] if detach else []), *([f"--preserve-fds={preserve_fds}"] if preserve_fds else [])]
    return _argv("run", *more, "--bundle", bundle, "--pid-file", f"{bundle}/pid", container_id, log=f"{bundle}/log")


def create_argv(bundle: str, container_id: str) -> list[str]:
    """Return the command that makes a container of a bundle, up to the point where its own program would start: `start_argv` does that."""
    return _argv("create", "--bundle", bundle, "--pid-file", f"{bundle}/pid", container_id, log=f"{bundle}/log")


def start_argv(bundle: str, container_id: str) -> list[str]:
    """Return the command that starts the program of a container that `create_argv` made."""
    return _argv("start", container_id, log=f"{bundle}/log")


def exec_argv(container_id: str, *, process: str, log: str = "", detach: bool = False) -> list[str]:
    """Return the command that runs one more process in a container that runs, as the file `process` describes it (config.md, "Process").

    The file has the whole environment: with --env, crun 1.8.1 would drop the container's own. It ends with the process's exit code.
    """
    return _argv("exec", *(["--detach"] if detach else []), "--process", process, container_id, log=log)


def delete_argv(container_id: str) -> list[str]:
    """Return the command that kills and forgets a container; succeeds when there is none."""
    return _argv("delete", "--force", container_id)


def is_known(container_id: str) -> bool:
    """Tell whether crun has state of a container: one that runs, or whose crun was killed."""
    return os.path.exists(f"{ROOT}/{container_id}")


def compile_filter(bundle: str, container_id: str) -> bytes:
    """Return the seccomp filter of a bundle as the BPF program that crun makes of it: b"" if it cannot be had, which is no error.

    libseccomp needs 5 to 20 ms for docker's profile, at every start; the program can be given to crun ready-made.
    """
    argv = _argv("create", "--bundle", bundle, container_id)
    try:
        if process.run_leaving_children(argv) != 0:
            return b""
        return files.read(f"{ROOT}/{container_id}/seccomp.bpf")
    except OSError:
        return b""
    finally:
        process.run(delete_argv(container_id), check=False)


class StartFailure(errors.UserError):
    """A container's own program could not be started; `exit_code` as docker and podman report it."""

    def __init__(self, message: str, hint: str, exit_code: int) -> None:
        super().__init__(message, hint)
        self.exit_code = exit_code


def failure(bundle: str, argv: tuple[str, ...]) -> errors.RunnerError | None:
    """Return what crun logged as the reason why the container did not start, or None if it did start."""
    try:
        with open(f"{bundle}/log", "rb") as file:
            return failure_of(file.read(64 * 1024), argv)
    except FileNotFoundError:
        return None


def failure_of(words: bytes, argv: tuple[str, ...]) -> errors.RunnerError | None:
    """Return what crun's log means like `failure`."""
    messages = []
    for line in words.decode(errors="replace").splitlines():
        try:
            entry = plain_json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and entry.get("level") == "error":
            messages.append(str(entry.get("msg", "")))
    if not messages:
        return None
    return explain(messages[-1], argv)


def explain(message: str, argv: tuple[str, ...]) -> errors.RunnerError:
    """Turn one message of crun into the error whose reader can act."""
    program = argv[0] if argv else ""
    words = message.lower()
    if "not found" in words and ("executable" in words or "path" in words):
        return StartFailure(f"{program}: program not found in the container", "check the name, or choose an image that has it", 127)
    if "no such file" in words and ("exec" in words or "open executable" in words):
        return StartFailure(
            f"{program}: program not found in the container", "check the name, or its interpreter (first line, or loader)", 127
        )
    if ("permission denied" in words or "not permitted" in words) and ("exec" in words or program in message):
        return StartFailure(f"{program}: program cannot be executed", "is it executable, and for this user?", 126)
    if "exec format error" in words:
        return StartFailure(f"{program}: program cannot be executed: wrong format", "is the image for another architecture?", 126)
    return errors.InfraError(f"crun cannot start the container: {message}", "run `dockless doctor`")
