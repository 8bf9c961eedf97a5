"""Targets for what CI systems send and jobs write: GitLab's jobs, GitHub's hooks, pipelines, options of workflows, volumes."""

import json
import os
import tempfile
from pathlib import Path

from runner import config
from runner.adapters.github import message, options, ports
from runner.adapters.gitlab import ci_file, environment, payload, policy, services, volumes
from runner.kernel import plain_json
from runner.sandbox import mounts
from tests.fuzz import expect

_LIMIT = 256 * 1024


def hooks(data: bytes) -> None:
    """Messages of the actions runner: whatever is in them, what becomes of a process can be given to it."""
    asked = expect.refused(lambda: message.parse(data))
    assert message.is_whole(data) or asked is None
    if asked is None:
        return
    found = [
        message.container(asked.arguments),
        message.container(asked.arguments.get("container")),
        *message.containers(asked.arguments.get("services")),
    ]
    script = message.script(asked.arguments)
    assert expect.is_encodable(script.entrypoint, script.working_directory, *message.argv(script.entrypoint, script.arguments))
    assert expect.is_encodable(asked.response_file, *script.prepend_path, *(word for pair in script.environment for word in pair))
    for container in found:
        if container is None:
            continue
        assert expect.is_encodable(container.image, container.dockerfile, container.working_directory, container.options, container.name)
        assert expect.is_encodable(*message.argv(container.entrypoint, container.arguments))
        assert expect.is_encodable(*(word for pair in container.environment for word in pair))
        assert all("=" not in name and name for name, _ in container.environment)
        assert container.registry is None or container.registry.password not in repr(container)
        expect.refused(lambda container=container: options.parse(container.options))  # type: ignore[misc]
        expect.refused(lambda container=container: ports.parse("c", container.ports))  # type: ignore[misc]


def workflow_options(data: bytes) -> None:
    """The words of `options:` and of `ports:`: bounded numbers, names without separators, nothing that is the host's."""
    written = expect.text(data)
    found = expect.refused(lambda: options.parse(written))
    if found is not None:
        assert all(name and "=" not in name for name, _ in found.env)
        assert 0 <= found.limits.pids < 1 << 22 and 0 <= found.shm_size < 2**63 and 0 <= found.limits.memory < 2**63
        assert all(name and address and not set(name + address) & set(" \t\n#") for name, address in found.extra_hosts)
        if found.health:
            assert found.health.interval_s >= 0 and found.health.timeout_s >= 0 and found.health.retries > 0
        for text in found.volumes:
            expect.refused(lambda text=text: mounts.split(text))  # type: ignore[misc]
    published = expect.refused(lambda: ports.parse("c", written.split("\n")))
    for port in published or ():
        assert 0 < port.number < 65536 and 0 <= port.host < 65536


def gitlab_jobs(data: bytes) -> None:
    """Jobs of GitLab, from the payload to the names of services, their environment, their ports and the job's volumes."""
    job = expect.refused(lambda: payload.parse(data))
    if job is None:
        return
    names = {variable.key: variable.value for variable in job.variables if variable.key and "\0" not in variable.key + variable.value}
    inside = environment.for_container(names, job.file_names())
    settings = config.Settings()
    expect.refused(lambda: policy.image(job, settings))
    expect.refused(lambda: policy.services(job, settings))
    expect.refused(lambda: volumes.plan(job, settings, names, state_dir="/var/lib/x", project_dir="/builds/x"))
    volumes.is_protected(job)
    claimed: set[str] = set()
    for service in services.assign(job.services[:50], taken=("build",)):
        assert service.aliases
        for alias in service.aliases:
            assert alias.isascii() and alias.replace("-", "").replace(".", "").replace("_", "").isalnum() and len(alias) < 254
            assert alias.lower() not in claimed | {"localhost", "build"}
            claimed.add(alias.lower())
        given = services.environment(service.asked, job, inside)
        assert all(port < 65536 for port in services.ports(given, ("6379/tcp",)))
        assert expect.is_encodable(*(word for pair in given for word in pair)) and all(name and "=" not in name for name, _ in given)
        secret = {name for name in job.private_names() if name not in {variable.key for variable in service.asked.variables}}
        assert not secret & {name for name, _ in given}
    assert expect.is_encodable(*(word for pair in inside for word in pair))


def gitlab_environments(data: bytes) -> None:
    """The environment of a driver's call, one NAME=VALUE a line: what has the runner's own names cannot come from a job."""
    environ = dict(line.partition("=")[::2] for line in expect.words(data))
    found = environment.variables(environ)
    assert all(f"CUSTOM_ENV_{name}" in environ for name in found)
    codes = environment.codes({**found, **{name: value for name, value in environ.items() if name.startswith("CUSTOM_ENV_")}})
    assert codes == environment.codes({}) or {"BUILD_FAILURE_EXIT_CODE", "SYSTEM_FAILURE_EXIT_CODE"} & set(found)
    inside = dict(environment.for_container(found, ["FILE"]))
    assert "CI_JOB_SERVICES" not in inside and "=" not in "".join(inside)
    for value in found.values():
        services.expand(value, found)
    assert all(0 < port < 65536 for port in services.ports(tuple(found.items()), ()))


def pipelines(data: bytes) -> None:
    """Files of pipelines, of which images are pulled: bounded work, whatever refers to what."""
    found = expect.refused(lambda: ci_file.read(data[:_LIMIT], "x.yml"))
    if found is not None:
        assert all(isinstance(each.image, str) for each in found.wanted)
        assert all(isinstance(sentence, str) for sentence in found.left_out)


def volume_texts(data: bytes) -> None:
    """Volumes as SOURCE:TARGET: a target is plain and below the root, and nothing of the host is shown that is not for containers."""
    written = expect.text(data)
    with tempfile.TemporaryDirectory(prefix="dockless-fuzz-") as scratch:
        for name in ("state", "work"):
            Path(scratch, name).mkdir()
        os.symlink("/", f"{scratch}/work/link")
        found = expect.refused(lambda: mounts.parse(written, state_dir=f"{scratch}/state", cwd=f"{scratch}/work"))
        expect.refused(lambda: mounts.parse_all(written.split("\n"), state_dir=f"{scratch}/state", cwd=f"{scratch}/work"))
    if found is None:
        return
    assert found.target.startswith("/") and found.target not in ("/", "/proc", "/sys", "/dev") and ".." not in found.target.split("/")
    if found.kind == "bind":
        assert found.source.startswith("/") and found.source != "/"
        assert not found.source.startswith(("/etc/", "/proc", "/sys", "/dev", "/root", f"{scratch}/state"))
    else:
        assert "/" not in found.source and found.source not in ("", ".", "..") and found.source.isprintable()


def own_json(data: bytes) -> None:
    """Our own JSON against that of the standard library: the same values, the same refusals."""
    try:
        value, plain = json.loads(data.decode(), parse_constant=_refuse), True
    except (ValueError, RecursionError):
        value, plain = None, False
    try:
        found, ours = plain_json.loads(data), True
    except (ValueError, RecursionError):
        found, ours = None, False
    assert (plain, repr(value)) == (ours, repr(found))
    if ours:
        try:
            written = plain_json.dumps(found)
        except (ValueError, RecursionError):  # infinity, which 1e999 is
            return
        assert repr(plain_json.loads(written)) == repr(found)


def _refuse(name: str) -> object:
    raise ValueError(name)
