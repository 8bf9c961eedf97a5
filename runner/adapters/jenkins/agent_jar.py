"""The agent's jar: in its directory, on this machine, or the controller's own, fetched once for each version that the controller serves."""

from __future__ import annotations

import os

from runner import errors, log
from runner.adapters.jenkins import agent_command
from runner.kernel import files, locks
from runner.model import VolumeSpec
from runner.record import NamedTuple
from runner.sandbox import mounts, toolbox

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from runner.job.surroundings import Surroundings

_LIMIT_BYTES = 64 * 1024**2
_RECORD = "jar.json"
_ZIP = b"PK"  # what a jar begins with: a page that asks for a password does not


class _Record(NamedTuple):
    """What a controller has said of the jar that is stored."""

    url: str
    digest: str
    etag: str
    modified: str
    version: str  # X-Jenkins; "" where it is not said


def find(
    argv: tuple[str, ...], around: Surroundings, environ: Mapping[str, str], *, directory: str, image: str
) -> tuple[tuple[str, ...], VolumeSpec | None]:
    """Return the command and what has to be bound for its jar, None where it is in the agent's directory or in the image.

    A jar elsewhere on this machine is bound at its path. One that is not here is the controller's; where that cannot be had and none is
    stored, the image may have it. Without a command it is the controller's, where Jenkins' own images look.
    """
    said = agent_command.jar(argv)
    if argv and not said:
        return argv, None
    path = os.path.normpath(os.path.join(directory, said or agent_command.JAR))
    inside = mounts.is_within(path, directory)
    if said and os.path.isfile(path):
        return argv, None if inside else VolumeSpec(
            path, "bind", mounts.check_source(path, path, state_dir=around.store.root), read_only=True
        )
    url = agent_command.jar_url(argv, environ)
    source = _fetch(url, around) if url else ""
    if not source:
        return argv, None
    target = agent_command.JAR if inside else path
    if image == toolbox.IMAGE and mounts.is_within(target, "/usr"):
        target = f"{agent_command.SECRETS}/agent.jar"  # that /usr is the host's, in which nothing can be made
    return agent_command.with_jar(argv, target) if argv else argv, VolumeSpec(target, "bind", source, read_only=True)


def _fetch(url: str, around: Surroundings) -> str:
    """Return the path of the controller's jar in the store, fetched if it has another one now; "" if there is none to be had."""
    import hashlib  # loads a TLS library: for who has to ask a controller, which needs it anyway

    directory = around.store.agent_jar(hashlib.sha256(url.encode("utf-8", "surrogateescape")).hexdigest()[:16])
    files.make_directory(around.store.jenkins)
    files.make_directory(directory)
    with locks.hold(f"{directory}.lock"):
        known = _known(directory, url)
        try:
            record, body = _ask(url, known)
            if body:
                digest = hashlib.sha256(body).hexdigest()
                record = record._replace(digest=digest)
                files.write_atomic(f"{directory}/{digest}.jar", body, mode=0o444)
                log.say(f"fetched {url}{' of Jenkins ' if record.version else ''}{record.version}, {len(body)} bytes")
            files.write_json(f"{directory}/{_RECORD}", record._asdict())
        except errors.RunnerError as e:
            if known is None:
                log.warn(f"the agent's jar cannot be had from its controller, so it has to be in the image: {e.message}")
                return ""
            log.warn(f"the agent's jar may be an older one: {e.message}")
            record = known
        for name in os.listdir(directory):
            if name not in (_RECORD, f"{record.digest}.jar"):
                files.remove_tree(f"{directory}/{name}")  # who runs it has it open
    return f"{directory}/{record.digest}.jar"


def _known(directory: str, url: str) -> _Record | None:
    """Return the record of a stored jar that is whole."""
    import hashlib

    try:
        record = _Record(**files.read_json(f"{directory}/{_RECORD}"))
        body = files.read(f"{directory}/{record.digest}.jar", limit_bytes=_LIMIT_BYTES)
    except (OSError, ValueError, TypeError):
        return None
    return record if record.url == url and hashlib.sha256(body).hexdigest() == record.digest else None


def _ask(url: str, known: _Record | None) -> tuple[_Record, bytes]:
    """Ask the controller for its jar, unless it is the one that we know: then there is no body. Raises RunnerErrors."""
    from runner.image import transport

    conditions = {"If-None-Match": known.etag, "If-Modified-Since": known.modified} if known else {}
    connection = transport.Transport(patience=transport.Patience(attempts=2, longest_pause_s=5.0))
    try:
        with connection.open(url, {name: value for name, value in conditions.items() if value}) as response:
            version = response.headers.get("X-Jenkins", "")
            if known and (response.status_code == 304 or (version and version == known.version and response.status_code == 200)):
                return known._replace(version=version or known.version), b""
            if response.status_code != 200:
                raise errors.InfraError(f"{url} answers {response.status_code}", "is the controller's URL right?")
            body = transport.whole(response, limit_bytes=_LIMIT_BYTES).body
            if not body.startswith(_ZIP):
                raise errors.InfraError(f"{url} is no jar", "is the controller's URL right?")
            return _Record(url, "", response.headers.get("ETag", ""), response.headers.get("Last-Modified", ""), version), body
    finally:
        connection.close()
