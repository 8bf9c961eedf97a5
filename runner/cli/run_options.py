"""The options of `dockless run`, and what they mean."""

from __future__ import annotations

import os

from runner.cli import options
from runner.cli.options import Option
from runner.model import RunRequest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


OPTIONS = (
    Option(("--image",), "IMAGE", "the image: a reference, oci:DIR[:TAG], docker-archive:FILE or toolbox (the host's own /usr)"),
    Option(("-e", "--env"), "NAME[=VALUE]", "set an environment variable, or pass on the caller's", many=True),
    Option(("--env-file",), "FILE", "set the variables of a file, one NAME=VALUE a line", many=True),
    Option(("-v", "--volume"), "SRC:DST[:ro]", "show a directory of the host, or a named volume, in the container", many=True),
    Option(("-w", "--workdir"), "DIR", "the working directory"),
    Option(("-u", "--user"), "USER[:GROUP]", "the user, by name or number"),
    Option(("--network",), "MODE", "a network of its own with a way out, or none", choices=("default", "none")),
    Option(("--pull",), "POLICY", "when to fetch the image", choices=("always", "if-not-present", "missing", "never")),
    Option(("-m", "--memory"), "SIZE", "the memory limit, such as 512m or 2g"),
    Option(("--cpus",), "N", "the limit of processor time, in cores"),
    Option(("--pids", "--pids-limit"), "N", "the limit of processes"),
    Option(("--entrypoint",), "PROGRAM", 'run this instead of the image\'s entrypoint; "" for none'),
    Option(("-h", "--hostname"), "NAME", "the host name"),
    Option(("--platform",), "OS/ARCH", "the platform, where an image has several"),
    Option(("--build-user",), "NAME", "whose slice of ids and whose named volumes to use (default: local)"),
    Option(("--docker",), "", "give the container a Docker API of its own, at DOCKER_HOST and /var/run/docker.sock"),
    Option(("--init",), "", "run a small init as PID 1 that reaps and passes signals on"),
    Option(("-t", "--tty"), "", "give the container a terminal (the default when stdin and stdout are one)"),
    Option(("-i", "--interactive"), "", "accepted as podman's: stdin is always passed on"),
    Option(("--rm",), "", "accepted as podman's: nothing is ever left behind"),
)

TABLE = options.Table("run", OPTIONS)


def parse(arguments: list[str], environ: Mapping[str, str]) -> RunRequest:
    """Parse the words after `run`. UserError, with the nearest option, for what is not understood."""
    found, rest = options.parse(TABLE, arguments)
    return _request(found, tuple(rest), environ)


def wants_help(arguments: list[str]) -> bool:
    """Tell whether --help stands among the options, and not in the container's command."""
    return options.wants_help(TABLE, arguments)


def _request(found: dict[str, list[str]], argv: tuple[str, ...], environ: Mapping[str, str]) -> RunRequest:
    def one(key: str) -> str:
        return found.get(key, [""])[0]

    pull = one("pull")
    entrypoint = found.get("entrypoint")
    return RunRequest(
        image=one("image"),
        argv=argv,
        env=options.environment(TABLE, found, environ),
        volumes=tuple(found.get("volume", ())),
        cwd=one("workdir"),
        user=one("user"),
        network=one("network"),
        pull="if-not-present" if pull == "missing" else pull,
        limits=options.limits(TABLE, found),
        terminal="tty" in found or ("interactive" not in found and os.isatty(0) and os.isatty(1)),
        init="init" in found,
        docker="docker" in found,
        hostname=one("hostname"),
        build_user=one("build-user"),
        entrypoint=None if entrypoint is None else (entrypoint[0],),
        platform=one("platform"),
    )
