"""Services of a job: the names they are reached by, what they may know, and the ports that say that they are up."""

from __future__ import annotations

from runner import log
from runner.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from runner.adapters.gitlab import payload

_HOST_NAME = r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9])?"
_RESERVED = ("localhost", "ip6-localhost", "ip6-loopback")
_PORTS_LIMIT = 20


class Service(NamedTuple):
    """A service that will be started."""

    asked: payload.Image
    aliases: tuple[str, ...]


def host_names(image: str) -> tuple[str, ...]:
    """Return the names that an image gives its service: its path with "/" as "__" and as "-", without tag, digest and registry port.

    The rule of GitLab Runner's helpers/container/services (SplitNameAndVersion).
    """
    name = image.partition("@")[0]
    head, slash, last = name.rpartition("/")
    path = head + slash + last.partition(":")[0]
    first, slash, rest = path.partition("/")
    path = first.partition(":")[0] + slash + rest
    return tuple(dict.fromkeys((path.replace("/", "__"), path.replace("/", "-"))))


def assign(asked: tuple[payload.Image, ...], *, taken: tuple[str, ...] = ()) -> list[Service]:
    """Give every service its names: the first one to claim a name has it, and a service without any name left is not started."""
    if not asked:
        return []
    import re  # 5 ms, as below: for jobs that have what it is for

    claimed = set(taken)
    found = []
    for service in asked:
        mine = []
        for name in dict.fromkeys((*host_names(service.name), *service.aliases)):
            # programs and resolvers do not tell upper case from lower
            if not re.fullmatch(_HOST_NAME, name) or name.lower() in _RESERVED:
                log.warn(f"Skipping alias {name!r} for service {service.name!r}: it is not a host name that a service may have")
            elif name.lower() in claimed:
                log.warn(f"Skipping alias {name!r} for service {service.name!r}: another service has it")
            else:
                claimed.add(name.lower())
                mine.append(name)
        if mine:
            found.append(Service(service, tuple(mine)))
        else:
            log.warn(f"Service {service.name!r} is not started: all of its names are taken")
    return found


def environment(
    service: payload.Image, job: payload.Job, container_environment: tuple[tuple[str, str], ...]
) -> tuple[tuple[str, str], ...]:
    """Return a service's environment: the job's public variables and the runner's own, then the service's, expanded against all.

    Variables that are not public (a project's secrets) stay with the job (GetServiceVariables).
    """
    private, everything = job.private_names(), dict(container_environment)
    found = {name: value for name, value in container_environment if name not in private}
    for variable in service.variables:
        if not variable.key or "=" in variable.key or "\0" in variable.key + variable.value:
            continue  # no process can have it
        found[variable.key] = variable.value if variable.raw else expand(variable.value, everything)
    return tuple(found.items())


_REFERENCE = r"\$(?:\{([^}]*)\}|([*#$@!?0-9-])|([A-Za-z_][A-Za-z0-9_]*))"


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Replace $NAME and ${NAME} once, as the runner does with Go's os.Expand: unknown names become empty, "$$" becomes "$"."""

    if "$" not in text:
        return text
    import re

    def value(match: re.Match[str]) -> str:
        name = match.group(1) or match.group(2) or match.group(3) or ""
        return name if name == "$" else variables.get(name, "")

    return re.sub(_REFERENCE, value, text)


def ports(environment_: tuple[tuple[str, str], ...], exposed: tuple[str, ...]) -> tuple[int, ...]:
    """Return the TCP ports of which one has to accept: $HEALTHCHECK_TCP_PORT, else the first twenty that the image exposes.

    The environment is the whole of the container's: the image's, then what overrides it.
    """
    for name, value in reversed(environment_):
        if name.upper() == "HEALTHCHECK_TCP_PORT" and value.isascii() and value.isdigit() and len(value) < 6 and 0 < int(value) < 65536:
            return (int(value),)
    found = set()
    for text in exposed:
        number, _, protocol = text.partition("/")
        if number.isascii() and number.isdigit() and protocol in ("", "tcp"):
            found.add(int(number))
    return tuple(sorted(found)[:_PORTS_LIMIT])
