"""`dockless jenkins agent`: an agent of Jenkins in a container of its own, whose stdin and stdout are the channel.

Nobody of ours stands between Jenkins and the agent: its process has our descriptors. We say what we say on stderr, which Jenkins logs.
"""

from __future__ import annotations

import os
import resource
import sys

from runner import errors, log
from runner.adapters.jenkins import agent_command, agent_image, agent_jar, takeover
from runner.job import oneoff
from runner.kernel import files, process, signals
from runner.model import ContainerSpec, JobSpec, Limits, VolumeSpec
from runner.record import NamedTuple
from runner.sandbox import mounts, toolbox

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import FrameType

    from runner.job.surroundings import Surroundings
    from runner.model import DockerSpec, IdMap, Image, Outcome

BUILD_USER = "jenkins"
# a controller waits 5 s for what it has asked to end (SoftKillWaitSeconds), and forgets it
_GRACE_S = 4.0
# an agent ends by itself when the channel does; one that hangs is ended
_EOF_GRACE_S = 15.0
_MOST_FILES = 1024**2  # a JVM that starts itself anew asks the kernel about each possible descriptor (UnixSlaveRestarter)
_LOCALE = "C.UTF-8"
_STOP_SIGNALS = (signals.SIGINT, signals.SIGTERM, signals.SIGHUP)
_SECRET_BYTES = 64 * 1024


class Asked(NamedTuple):
    """What the command line says; "" and empty mean what Jenkins, the image or the configuration says."""

    argv: tuple[str, ...] = ()
    image: str = ""
    name: str = ""
    work_directory: str = ""
    secret_file: str = ""
    env: tuple[tuple[str, str], ...] = ()
    volumes: tuple[str, ...] = ()  # as written: SRC:DST[:ro]
    user: str = ""
    network: str = ""
    pull: str = ""
    platform: str = ""
    limits: Limits = Limits()
    build_user: str = ""
    docker: bool = False
    jar: VolumeSpec | None = None  # found, not asked for


class _OtherFactsError(Exception):
    """The image is not the one for which the container is being made."""

    def __init__(self, facts: agent_image.Facts) -> None:
        self.facts = facts


def run(asked: Asked, around: Surroundings, environ: Mapping[str, str]) -> Outcome:
    """Run an agent to its end; what ran under its name before has ended first. Moves this process into the job: call once.

    Raises RunnerErrors; crun.StartFailure when the program cannot be started.
    """
    for number in _STOP_SIGNALS:
        signals.signal(number, _interrupted)  # until there is a container: what was begun is undone
    directory = _work_directory(asked, around, environ)
    name = asked.name or agent_command.name(asked.argv, environ) or directory
    asked = asked._replace(work_directory=directory, name=name, image=asked.image or around.settings.images.default)
    argv, jar = agent_jar.find(asked.argv, around, environ, directory=directory, image=asked.image)
    asked = asked._replace(argv=argv, jar=jar)
    hidden = agent_command.hide(argv, environ, secret=_secret(asked), files=_named_files(argv))
    if hidden.was_shown:
        log.warn("the agent's secret stands in this command, which everybody on this machine can read: write it to a file, -secret @FILE")
    log.debug(f"agent {name} in {directory}")
    takeover.take_over(key(name), around, name=name)
    _bound_descriptors()
    facts = agent_image.guess(_stored(asked, around), asked.user)
    try:
        return _run(asked, around, environ, hidden, facts)
    except _OtherFactsError as e:
        # found out only now, since the image had to be fetched first: what it has pulled is there for the second try
        log.debug(f"image {asked.image}: {e.facts._replace(passwd=b'')}: the container is made again")
        again = asked._replace(pull="if-not-present" if asked.pull == "always" else asked.pull)
        return _run(again, around, environ, hidden, e.facts)


def _interrupted(number: int, _frame: FrameType | None) -> None:
    for each in _STOP_SIGNALS:
        signals.signal(each, signals.SIG_IGN)  # a second one would interrupt the undoing of what was begun
    sys.exit(128 + number)


def _run(asked: Asked, around: Surroundings, environ: Mapping[str, str], hidden: agent_command.Hidden, facts: agent_image.Facts) -> Outcome:
    def fetch(container: ContainerSpec, id_map: IdMap) -> Image:
        signals.pthread_sigmask(signals.SIG_SETMASK, ())  # a pull can take minutes, and all that was made is taken back
        try:
            image = oneoff.fetch(container, around, id_map)
        finally:
            signals.pthread_sigmask(signals.SIG_SETMASK, _STOP_SIGNALS)
        if container.name == oneoff.CONTAINER:
            found = agent_image.facts(image, asked.user, around, id_map, home=asked.work_directory)
            if found != facts:
                raise _OtherFactsError(found)
        return image

    spec = plan(asked, around, environ, hidden, facts)
    # between a thing and the note that it is to be taken back no signal may come: what asks us to end waits until the container is there
    signals.pthread_sigmask(signals.SIG_SETMASK, _STOP_SIGNALS)
    hangup_fd = -1 if agent_command.is_inbound(asked.argv, environ) else 0
    return oneoff.run_job(spec, around, fetch=fetch, stops=True, grace_s=_GRACE_S, hangup_fd=hangup_fd, hangup_grace_s=_EOF_GRACE_S)


def plan(asked: Asked, around: Surroundings, environ: Mapping[str, str], hidden: agent_command.Hidden, facts: agent_image.Facts) -> JobSpec:
    """Return the job of an agent's container, whose user is the account outside: the files of its directory stay the account's."""
    volumes = _volumes(asked, around)
    api, api_env = _docker(asked, around, volumes, facts.uid) if asked.docker else (None, ())
    own = {name: environ[name] for name in agent_command.PASSED if environ.get(name)}
    if not facts.has_locale:
        own["LANG"] = _LOCALE
    if facts.passwd:
        own["HOME"] = asked.work_directory
    passwd = (("/etc/passwd", facts.passwd, 0o644),) if facts.passwd else ()
    hostname = key(asked.name)[-40:].strip("-._+") or "agent"
    container = ContainerSpec(
        name=oneoff.CONTAINER,
        image=asked.image,
        pull_policy=(asked.pull or "if-not-present",),
        platform=asked.platform,
        entrypoint=() if hidden.argv else None,
        command=hidden.argv or None,
        env=(*api_env, *own.items(), *hidden.env, *asked.env),
        user=asked.user,
        working_dir=asked.work_directory,
        hostname=hostname.replace("+", "-"),
        volumes=volumes,
        limits=asked.limits,
        init=True,  # java reaps nobody
        own_files=(*passwd, *((path, content, 0o400) for path, content in hidden.files)),
    )
    pid = os.getpid()
    return JobSpec(
        key=key(asked.name),
        build_user=asked.build_user or BUILD_USER,
        containers=(container,),
        network=asked.network or "default",
        docker=api,
        shared_id=facts.uid,
        shared_gid=facts.gid,
        owner=(pid, process.start_time(pid)),
    )


def key(name: str) -> str:
    """Return the key of an agent's job: one for each name, whatever characters it has."""
    import zlib

    raw = name.encode("utf-8", "surrogateescape")
    plain = "".join(character if character.isascii() and character.isalnum() else "-" for character in name)[:60]
    return f"jenkins-agent-{plain}-{zlib.crc32(raw):08x}"


def _volumes(asked: Asked, around: Surroundings) -> tuple[VolumeSpec, ...]:
    directory = asked.work_directory
    target = mounts.check_target(directory, directory)
    found = {target: VolumeSpec(target, "bind", mounts.check_source(directory, directory, state_dir=around.store.root))}
    if asked.image == toolbox.IMAGE:  # the Java of its /usr has its configuration elsewhere (Debian's openjdk)
        for path in (f"/etc/{name}" for name in os.listdir("/etc") if name.startswith("java-")):
            found[path] = VolumeSpec(path, "bind", path, read_only=True)
    if asked.jar:
        found[asked.jar.target] = asked.jar
    for volume in mounts.parse_all(asked.volumes, state_dir=around.store.root, cwd=directory):
        found[volume.target] = volume
    return tuple(found.values())


def _docker(
    asked: Asked, around: Surroundings, volumes: tuple[VolumeSpec, ...], uid: int
) -> tuple[DockerSpec, tuple[tuple[str, str], ...]]:
    from runner.job import docker_spec

    if around.settings.docker.mode == "off":
        raise errors.UserError("the configuration permits no Docker API", "docker: replace in it permits --docker")
    api = docker_spec.make(around, volumes=volumes, shared_id=uid, limits=asked.limits)
    return api, docker_spec.environment(api, dict(asked.env))


def _work_directory(asked: Asked, around: Surroundings, environ: Mapping[str, str]) -> str:
    """Return the agent's directory, which is made where it does not exist. UserError where nobody names it, or it is not the account's."""
    found = asked.work_directory or agent_command.work_directory(asked.argv, environ)
    if not found:
        raise errors.UserError("jenkins agent: the agent's directory is not known", "name the node's remote root directory: --workdir DIR")
    if not found.startswith("/"):
        raise errors.UserError(f"jenkins agent: directory {found} is not an absolute path", "name the node's remote root directory")
    found = os.path.normpath(found)
    reason = mounts.refusal(os.path.realpath(found), state_dir=os.path.realpath(around.store.root))
    if reason:
        raise errors.UserError(f"jenkins agent: directory {found} cannot be used: {reason}", "name one that is the agent's alone")
    try:
        os.makedirs(found, mode=0o700, exist_ok=True)
    except OSError as e:
        raise errors.UserError(
            f"jenkins agent: directory {found} cannot be made: {e.strerror}", f"make it for {around.account.name}"
        ) from e
    if not os.access(found, os.R_OK | os.W_OK | os.X_OK):
        raise errors.UserError(
            f"jenkins agent: directory {found} is not {around.account.name}'s", f"chown -R {around.account.name} {found}"
        )
    return found


def _secret(asked: Asked) -> bytes:
    return _content(asked.secret_file, "--secret-file").strip() if asked.secret_file else b""


def _named_files(argv: tuple[str, ...]) -> dict[str, bytes]:
    """Return the content of the files of this machine that arguments name as @FILE, by argument."""
    return {word: _content(word[1:], word) for word in argv if word.startswith("@") and os.path.isfile(word[1:])}


def _content(path: str, what: str) -> bytes:
    try:
        return files.read(path, limit_bytes=_SECRET_BYTES)
    except OSError as e:
        raise errors.UserError(f"jenkins agent: {what}: {path} cannot be read: {e.strerror}", "check the path and its permissions") from e


def _bound_descriptors() -> None:
    soft, hard = (
        _MOST_FILES if limit == resource.RLIM_INFINITY else min(limit, _MOST_FILES) for limit in resource.getrlimit(resource.RLIMIT_NOFILE)
    )
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _stored(asked: Asked, around: Surroundings) -> Image | None:
    from runner.image import images

    return images.find(around.store, asked.image, platform=asked.platform)
