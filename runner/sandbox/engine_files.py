"""The configuration of an engine that runs inside a toolbox: what podman and buildah read in /etc/containers, and dockerd in /etc/docker.

Pure functions from our own settings to (absolute path, text); only `authorities` reads files. Nothing here is secret but what `auth_file`
returns.
"""

from __future__ import annotations

from binascii import b2a_base64

from runner import errors
from runner.kernel import files, plain_json
from runner.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from runner.config import Settings

    Files = tuple[tuple[str, str], ...]

STORAGE = "/var/lib/containers"
CACHE_MOUNTS = "/var/tmp/buildah-cache"  # where buildah keeps what RUN --mount=type=cache asks for, whatever storage.conf says
_LARGEST_AUTHORITY = 1024**2
# containers/common has this id for the network that is there without being made; a file of that name with another id is refused
_DEFAULT_NETWORK = "2f259bab93aaaaa2542ba43ef33eb990d0999ee1b9924b557b7be53c0b7a1bb9"
# dockerd needs no TLS of registries on loopback addresses; what a build or a container finds there is its own
_LOOPBACK = ("localhost", "127.0.0.1")

# that it is in a user namespace, where overlay needs `userxattr`, containers/storage finds out by itself
_STORAGE = f"""\
[storage]
driver = "overlay"
runroot = "/run/containers/storage"
graphroot = "{STORAGE}/storage"

[storage.options.overlay]
mountopt = "nodev"
"""

# cgroups: the toolbox has a group of its own, with the job's limits, and may not make others everywhere
_CONTAINERS = """\
[containers]
cgroups = "disabled"

[network]
network_backend = "netavark"
network_config_dir = "/etc/containers/networks"

[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "crun"
init_path = "/usr/bin/tini-static"

[engine.runtimes]
crun = ["/run/dockless/bin/crun", "/usr/bin/crun"]
"""

_POLICY = '{"default": [{"type": "insecureAcceptAnything"}]}\n'


class Login(NamedTuple):
    """Credentials of a registry, or of a path below it: "registry.example/team"."""

    place: str
    username: str
    password: str
    identity_token: str = ""

    def __repr__(self) -> str:
        """Never show a secret."""
        return f"Login(place={self.place!r}, username={self.username!r}, password=…)"


def authorities(settings: Settings) -> dict[str, str]:
    """Read the certificates (PEM) of every registry that has some of its own; UserError for a file that cannot be read."""
    found = {}
    for name, registry in settings.registries:
        if not registry.ca_file:
            continue
        try:
            found[name] = files.read(registry.ca_file, limit_bytes=_LARGEST_AUTHORITY).decode()
        except (OSError, UnicodeDecodeError) as e:
            cause = e.strerror if isinstance(e, OSError) else "not PEM"
            raise errors.UserError(f"cannot read CA file {registry.ca_file}: {cause}", "check ca_file in the configuration") from e
    return found


def containers_files(settings: Settings, *, certificates: Mapping[str, str], mtu: int) -> Files:
    """Return what podman, buildah and skopeo read; `certificates` as from `authorities`, `mtu` that of the containers' network."""
    return (
        ("/etc/containers/storage.conf", _STORAGE),
        ("/etc/containers/containers.conf", _CONTAINERS),
        ("/etc/containers/policy.json", _POLICY),
        ("/etc/containers/registries.conf", _registries(settings)),
        ("/etc/containers/networks/podman.json", _network(mtu)),
        *((f"/etc/containers/certs.d/{name}/ca.crt", text) for name, text in certificates.items()),
    )


def docker_files(settings: Settings, *, certificates: Mapping[str, str], mtu: int) -> Files:
    """Return what dockerd reads. It knows mirrors of Docker Hub only, and none that has a path."""
    hub = [url for url in settings.registry("docker.io").mirrors if "/" not in url.partition("://")[2]]
    plain = [name for name, registry in settings.registries if registry.plain_http]
    # its BuildKit speaks http only where it is told so by an address, and to mirrors as well (moby 20.10, daemon.RegistryHosts)
    spoken = dict.fromkeys((*(url for url in hub if url.startswith("http://")), *(f"http://{name}" for name in plain)))
    value: dict[str, Any] = {
        "registry-mirrors": hub,
        "insecure-registries": [*plain, *spoken],
        "mtu": mtu,
    }
    return (
        ("/etc/docker/daemon.json", plain_json.dumps(value) + "\n"),
        # in its rootless mode it looks below the home directory
        *((f"/root/.config/docker/certs.d/{name}/ca.crt", text) for name, text in certificates.items()),
    )


def auth_file(logins: Iterable[Login]) -> str:
    """Return the file in which docker's clients, podman, buildah and skopeo look for credentials (containers-auth.json(5))."""
    entries = {}
    for login in logins:
        pair = b2a_base64(f"{login.username}:{login.password}".encode(), newline=False).decode()
        entries[login.place] = {"auth": pair, "identitytoken": login.identity_token} if login.identity_token else {"auth": pair}
    return plain_json.dumps({"auths": entries})


def _registries(settings: Settings) -> str:
    """Return containers-registries.conf(5), version 2: short names are Docker Hub's, mirrors are asked in their order."""
    lines = ['unqualified-search-registries = ["docker.io"]', 'short-name-mode = "permissive"']
    plain = {name for name, registry in settings.registries if registry.plain_http}
    for name, registry in settings.registries:
        if not (registry.mirrors or registry.plain_http or registry.ca_file):
            continue
        lines += _table("[[registry]]", name, insecure=registry.plain_http, prefix=name)
        for url in registry.mirrors:
            scheme, _, place = url.partition("://")
            lines += _table("[[registry.mirror]]", place, insecure=scheme == "http" or place.partition("/")[0] in plain)
    for name in _LOOPBACK:  # a prefix ends at a colon as well: this is every port
        if name not in plain:
            lines += _table("[[registry]]", name, insecure=True, prefix=name)
    return "\n".join(lines) + "\n"


def _table(head: str, location: str, *, insecure: bool, prefix: str = "") -> list[str]:
    named = [f"prefix = {_quoted(prefix)}"] if prefix else []
    return ["", head, *named, f"location = {_quoted(location)}", f"insecure = {'true' if insecure else 'false'}"]


def _quoted(text: str) -> str:
    """Return a TOML string; JSON's are such strings."""
    return plain_json.dumps(text)


def _network(mtu: int) -> str:
    """Return the network that containers are in when nobody says otherwise, as netavark's own tools write it; with an MTU."""
    value = {
        "name": "podman",
        "id": _DEFAULT_NETWORK,
        "driver": "bridge",
        "network_interface": "podman0",
        "created": "2024-01-01T00:00:00Z",
        "subnets": [{"subnet": "10.88.0.0/16", "gateway": "10.88.0.1"}],
        "ipv6_enabled": False,
        "internal": False,
        "dns_enabled": False,
        "ipam_options": {"driver": "host-local"},
        "options": {"mtu": str(mtu)},
    }
    return plain_json.dumps(value) + "\n"
