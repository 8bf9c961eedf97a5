"""What runs in the Docker sidecar: the engine's command line, what puts its storage in order, and TLS in front of it. No I/O.

Two engines of the host serve the same API. podman is small and always there; dockerd is the real thing, BuildKit included, in the rootless
mode that takes being root of a user namespace for granted (ARCHITECTURE.md section 7 has the variables that it asks for).
"""

from __future__ import annotations

from runner.kernel import plain_json
from runner.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

PODMAN, DOCKERD = "podman", "dockerd"
STORAGE = {PODMAN: "/var/lib/containers/storage", DOCKERD: "/var/lib/docker"}  # where each keeps what outlives the job
FRONT = "/run/dockless/engine_front.py"
TLS = "/run/dockless/tls"
PORT, TLS_PORT = 2375, 2376  # IANA: docker, docker-s
_SOCKET = "/run/dockless/engine.sock"
_SHIMS = "/run/dockless/bin"
_PATH = f"{_SHIMS}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_NO_BUILDKIT = (
    "BuildKit is not served by podman, which this runner uses for Docker: build with DOCKER_BUILDKIT=0 and without `docker buildx`, "
    "or have the administrator set docker.engine: dockerd"
)
_STUNNEL = f"""foreground = yes
pid =
debug = crit
[docker]
accept = {TLS_PORT}
connect = 127.0.0.1:{PORT}
cert = {TLS}/cert.pem
key = {TLS}/key.pem
CAfile = {TLS}/ca.pem
verifyChain = yes
"""
# networks that a job makes have an MTU of 1500, whatever that of the way out is, in both engines (podman 4.3, dockerd before 24)
_CLAMP = (
    "add table inet dockless-docker; "
    "add chain inet dockless-docker forward { type filter hook forward priority mangle; }; "
    "add rule inet dockless-docker forward tcp flags syn tcp option maxseg size set rt mtu"
)
# dockerd asks rootlesskit to forward ports from the host's network; here they are published where dockerd itself is
_PROXY_SHIM = '#!/bin/sh\nexec docker-proxy "$@"\n'
# a client of podman's own asks for control groups, whatever the engine's configuration says
_CRUN_SHIM = '#!/bin/sh\nexec /usr/bin/crun --cgroup-manager=disabled "$@"\n'


class Front(NamedTuple):
    """How sandbox.engine_front is started: its command line and the small files that it and its engine need."""

    command: tuple[str, ...]
    files: tuple[tuple[str, str], ...]


def front(engine: str, *, first_listener: int, tls: bool, program: str) -> Front:
    """Return what serves the API of `engine`; its listening sockets are descriptors from `first_listener` on: Unix, TCP, with `tls` TLS.

    `program` is the text of sandbox.engine_front.
    """
    stunnel, shim = "/etc/dockless-stunnel.conf", f"{_SHIMS}/rootlesskit-docker-proxy"
    plan = {
        "listeners": [first_listener, first_listener + 1],
        "socket": _SOCKET,
        "tls": f"stunnel {stunnel}" if tls else "",
        "tls_listener": first_listener + 2,
        **(_podman() if engine == PODMAN else _dockerd()),
    }
    plan["before"].append(_command(["nft", _CLAMP], there="/proc/self/ns"))
    files = [(FRONT, program)]
    if tls:
        files.append((stunnel, _STUNNEL))
    if engine == DOCKERD:
        files.append((shim, _PROXY_SHIM))
    else:
        files.append((f"{_SHIMS}/crun", _CRUN_SHIM))
    return Front(("/usr/bin/python3", "-IS", FRONT, plain_json.dumps(plan)), tuple(files))


def _podman() -> dict[str, Any]:
    kept = STORAGE[PODMAN]
    # also those of builds that were killed, which are nobody's but the storage's
    remove = "podman ps --all --external --quiet --no-trunc | xargs --no-run-if-empty podman rm --force --time 0 --volumes"
    return {
        "engine": ["podman", "--log-level", "warn", "system", "service", "--time", "0", f"unix://{_SOCKET}"],
        "env": {"PATH": _PATH, "HOME": "/root", "LANG": "C.UTF-8"},
        # what belonged to an earlier job; its images and build cache stay
        "before": [
            _command(["sh", "-c", remove], there=f"{kept}/overlay-containers/containers.json", empty="[]"),
            _command(["podman", "volume", "rm", "--all", "--force"], there=f"{kept}/volumes"),
        ],
        "after": [],
        "no_buildkit": _NO_BUILDKIT,
    }


def _dockerd() -> dict[str, Any]:
    kept = STORAGE[DOCKERD]
    argv = [
        "dockerd", "--rootless", "--storage-driver", "overlay2", "--host", f"unix://{_SOCKET}", "--data-root", kept,
        "--exec-root", "/run/docker", "--pidfile", "/run/docker.pid", "--config-file", "/etc/docker/daemon.json", "--log-level", "warn",
    ]  # fmt: skip
    clean = "docker ps --all --quiet --no-trunc | xargs --no-run-if-empty docker rm --force --volumes"
    return {
        "engine": argv,
        "env": {
            "PATH": _PATH, "HOME": "/root", "XDG_RUNTIME_DIR": "/run", "ROOTLESSKIT_STATE_DIR": "/run", "ROOTLESSKIT_PARENT_EUID": "1",
        },
        # what belonged to an earlier job; its images and build cache stay
        "before": [_command(["rm", "-rf", f"{kept}/volumes", f"{kept}/network"], there=kept)],
        "after": [_command(["env", f"DOCKER_HOST=unix://{_SOCKET}", "sh", "-c", clean], there=f"{kept}/containers")],
        "no_buildkit": "",
    }  # fmt: skip


def _command(run: Sequence[str], *, there: str, empty: str = "") -> dict[str, Any]:
    return {"run": list(run), "if": there, "empty": empty}
