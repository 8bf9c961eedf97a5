"""Images for jobs that have a Docker API, made of Debian's own files, and a registry that serves them to jobs.

No test reaches a public registry: `docker:24.0.5-cli` and `alpine` are what is made here, pulled through a mirror of docker.io.
"""

import functools
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support import images
from tests.support.gitlab_runner import outward_address
from tests.support.images import BuiltImage, TarEntry, busybox_layer, directory, file
from tests.support.registries import docker_registry

# what a Docker API test may name without a registry
CLIENT, BASE, REAPER = "docker:24.0.5-cli", "alpine:3.20", "testcontainers/ryuk:0.8.1"
_CERTIFICATES = "etc/ssl/certs/ca-certificates.crt"

# the official image's entrypoint by what it does: a word that docker has help for is docker's; the API is at the socket if there is one,
# else at the host `docker`; and whatever tcp address it is, certificates that are there are used, which a port without TLS does not survive
_CLIENT_ENTRY = b"""#!/bin/sh
set -eu
case ${1:-} in
    -*) set -- docker "$@" ;;
    *) ! docker help "${1:-}" >/dev/null 2>&1 || set -- docker "$@" ;;
esac
tls=no
certs=${DOCKER_TLS_CERTDIR:-}/client
if [ -n "${DOCKER_TLS_CERTDIR:-}" ] && [ -s "$certs/ca.pem" ] && [ -s "$certs/cert.pem" ] && [ -s "$certs/key.pem" ]; then tls=yes; fi
if [ -z "${DOCKER_HOST:-}" ]; then
    if [ -S /var/run/docker.sock ]; then DOCKER_HOST=unix:///var/run/docker.sock
    elif [ $tls = yes ] || [ -n "${DOCKER_TLS_VERIFY:-}" ]; then DOCKER_HOST=tcp://docker:2376
    else DOCKER_HOST=tcp://docker:2375; fi
    export DOCKER_HOST
fi
case $tls$DOCKER_HOST${DOCKER_TLS_VERIFY:-}${DOCKER_CERT_PATH:-} in
    "yestcp:${DOCKER_HOST#tcp:}") export DOCKER_TLS_VERIFY=1 DOCKER_CERT_PATH="$certs" ;;
esac
exec "$@"
"""

# testcontainers' reaper as one client sees it: a port that takes a line with a filter; when the client has gone, its containers go
_REAPER_ENTRY = b"""#!/bin/sh
export DOCKER_HOST=unix:///var/run/docker.sock
docker version >/dev/null || exit 1
echo "$(date) Started!"
exec nc -l -p 8080 -e /reap
"""
_REAP = b"""#!/bin/sh
filter=
while read -r line; do
    [ -n "$filter" ] || { filter=$(echo "$line" | tr -d '\\r'); echo ACK; }
done
for container in $(docker ps --all --quiet --filter "$filter"); do docker rm --force --volumes "$container"; done >/dev/null
"""


def program(path: str) -> list[TarEntry]:
    """Return one of the host's programs and the shared libraries that it needs, at the same paths."""
    shown = subprocess.run(["ldd", path], capture_output=True, text=True, check=False).stdout  # fails for what is static
    libraries = re.findall(r"(/\S+) \(0x", shown)
    parents = {str(parent).lstrip("/") for each in (path, *libraries) for parent in Path(each).parents if str(parent) != "/"}
    copies = [file(each.lstrip("/"), Path(each).read_bytes(), mode=0o755) for each in (path, *libraries)]
    return [*(directory(name) for name in sorted(parents - {"bin", "usr", "usr/bin"})), *copies]


@functools.cache
def base() -> BuiltImage:
    """Return an image as small as Alpine's: busybox."""
    return images.build_image([busybox_layer()], {"Env": [f"PATH={images.PATH}"], "Cmd": ["/bin/sh"]}, docker=True, history=True)


@functools.cache
def client() -> BuiltImage:
    """Return an image with Docker's command line, as the official one of the same name is: entrypoint, certificates, /certs."""
    extra = [
        *(directory(name) for name in ("etc/ssl", "etc/ssl/certs", "usr/local", "usr/local/bin", "certs", "certs/client")),
        file(_CERTIFICATES, Path("/", _CERTIFICATES).read_bytes()),
        file("usr/local/bin/docker-entrypoint.sh", _CLIENT_ENTRY, mode=0o755),
    ]
    config = {
        "Env": [f"PATH={images.PATH}", "DOCKER_VERSION=24.0.5", "DOCKER_TLS_CERTDIR=/certs"],
        "Entrypoint": ["docker-entrypoint.sh"],
        "Cmd": ["sh"],
    }
    return images.build_image([busybox_layer(), program("/usr/bin/docker"), extra], config, docker=True, history=True)


@functools.cache
def reaper() -> BuiltImage:
    """Return an image that does for testcontainers what its own reaper does, over a socket that it is given."""
    extra = [file("start", _REAPER_ENTRY, mode=0o755), file("reap", _REAP, mode=0o755)]
    config = {"Env": [f"PATH={images.PATH}"], "Cmd": ["/start"], "ExposedPorts": {"8080/tcp": {}}}
    return images.build_image([busybox_layer(), program("/usr/bin/docker"), extra], config, docker=True, history=True)


@contextmanager
def hub(directory_: Path) -> Iterator[str]:
    """Serve the images over plain http where jobs can reach them too; yields host:port, for a mirror of docker.io and for pushing."""
    with docker_registry(directory_, address=outward_address()) as host:
        for name, image in ((CLIENT, client()), (BASE, base()), (REAPER, reaper())):
            images.push(image, f"{host}/{name if '/' in name else f'library/{name}'}")
        yield host
