"""`docker inspect`: containers and images as docker describes them, as far as Pipelines ask."""

from __future__ import annotations

import json
import time
from typing import Any

from runner import errors, log
from runner.adapters.jenkins import containers, images, template
from runner.adapters.jenkins.containers import Container
from runner.adapters.jenkins.options import Grammar
from runner.model import Image

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from runner.adapters.jenkins.shim import Shim

_GRAMMAR = Grammar("inspect", "-f= --format= --type= -s --size")


def main(arguments: Sequence[str], shim: Shim) -> int:
    """Print each object, by a template or as JSON; fails when there is none of a name, as docker does after the others."""
    parsed = _GRAMMAR.parse(arguments)
    if not parsed.words:
        raise errors.UserError("docker inspect: nothing is named")
    found: list[dict[str, Any]] = []
    code = 0
    for word in parsed.words:
        described = _describe(shim, word, kind=parsed.last("type"))
        if described is None:
            log.fail(f"no such object: {word[:200]}")
            code = 1
        else:
            found.append(described)
    if "format" in parsed.values:
        for described in found:
            print(template.render(parsed.last("format"), described))
    else:
        print(json.dumps(found, indent=4))
    return code


def _describe(shim: Shim, word: str, *, kind: str) -> dict[str, Any] | None:
    if kind not in ("", "container", "image"):
        raise errors.UserError(f"docker inspect: --type={kind[:40]} is not served by dockless")
    if kind != "image":
        container = containers.find(shim.around, word)
        if container:
            return of_container(container)
    if kind != "container":
        named = images.find(shim.around, word)
        if named:
            return of_image(*named)
    return None


def of_container(container: Container) -> dict[str, Any]:
    """Describe a container. Its environment, which may hold secrets, is not part of that."""
    record, part = container.record, container.job.container(container.record.part)
    running = container.is_running()
    argv = (*part.entrypoint, *part.command)
    return {
        "Id": record.id,
        "Created": rfc3339(record.created),
        "Path": argv[0] if argv else "",
        "Args": list(argv[1:]),
        "State": {"Status": "running" if running else "exited", "Running": running, "Pid": record.main.pid if running else 0},
        "Image": record.image_id,
        "Name": f"/{record.name}",
        "Config": {
            "Hostname": record.hostname,
            "Image": record.image,
            "Cmd": list(part.command),
            "Entrypoint": list(part.entrypoint),
            "User": f"{part.uid}:{part.gid}",
            "Labels": dict(record.labels),
        },
        "Mounts": [
            {"Type": "bind", "Source": source, "Destination": target, "Mode": "ro" if read_only else "", "RW": not read_only}
            for source, target, read_only in record.mounts
        ],
        "NetworkSettings": {"IPAddress": part.ip, "Ports": _ports(record)},
    }


def _ports(record: containers.Record) -> dict[str, list[dict[str, str]]]:
    found: dict[str, list[dict[str, str]]] = {}
    for port in record.ports:
        found.setdefault(f"{port.container}/tcp", []).append({"HostIp": port.address, "HostPort": str(port.host)})
    return found


def of_image(name: str, image: Image) -> dict[str, Any]:
    """Describe an image."""
    system, _, architecture = image.platform.partition("/")
    config = image.config
    return {
        "Id": image.config_digest,
        "RepoTags": [name],
        "RepoDigests": [f"{name.partition('@')[0].rpartition(':')[0] or name}@{image.digest}"],
        "Config": {
            "Env": [f"{key}={value}" for key, value in config.env],
            "Cmd": list(config.cmd),
            "Entrypoint": list(config.entrypoint),
            "User": config.user,
            "WorkingDir": config.working_dir,
            "ExposedPorts": {port: {} for port in config.exposed_ports},
            "Volumes": {path: {} for path in config.volumes},
        },
        "Os": system,
        "Architecture": architecture,
        "Size": image.size,
        "RootFS": {"Type": "layers", "Layers": [layer.diff_id for layer in image.layers]},
    }


def rfc3339(seconds: float) -> str:
    """Write a time as docker does: UTC, nanoseconds."""
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds % 1 * 1e9):09}Z"
