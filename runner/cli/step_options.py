"""The options of `dockless step`: those of `dockless run` that fit, and what a job has besides one container.

Where a workflow cannot write them into `shell:` they come from variables: DOCKLESS_STEP_IMAGE, and DOCKLESS_STEP_OPTIONS with words quoted
as for a shell. What stands on the command line wins.
"""

from __future__ import annotations

from runner import errors
from runner.adapters.step.asked import Asked, Service
from runner.cli import options, run_options
from runner.cli.options import Option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_OF_RUN = (
    "image", "env", "env-file", "volume", "workdir", "user", "network", "pull", "memory", "cpus", "pids", "hostname", "platform",
    "build-user", "docker", "init",
)  # fmt: skip
OPTIONS = (
    *(option for option in run_options.OPTIONS if option.key() in _OF_RUN),
    Option(("--service",), "IMAGE[=ALIAS]", "start a service beside the job's steps, reached by ALIAS or its image's name", many=True),
    Option(("--service-env",), "NAME[=VALUE]", "set a variable of every service, or pass on the caller's", many=True),
    Option(("--tools",), "MODE", "whether steps may write to the runner's tool cache", choices=("ro", "rw")),
    Option(("--end",), "", "end the containers of this job's steps; a command, which `shell:` always has, is not run"),
)
TABLE = options.Table("step", OPTIONS)


def parse(arguments: list[str], environ: Mapping[str, str]) -> Asked:
    """Parse the words after `step`, and the variables. UserError for what is not understood."""
    found, rest = options.parse(TABLE, [*_from_variables(environ), *arguments])

    def one(key: str) -> str:
        return found.get(key, [""])[0]

    if not rest and "end" not in found:
        raise errors.UserError("step: no command is given", "shell: dockless step --image node:22 -- bash -e {0}")
    if "service" in found and one("network") == "none":
        raise errors.UserError("step: without a network nobody reaches a service", "leave out --network none, or the services")
    pull = one("pull")
    return Asked(
        image=one("image"),
        argv=tuple(rest),
        env=options.environment(TABLE, found, environ),
        volumes=tuple(found.get("volume", ())),
        cwd=one("workdir"),
        user=one("user"),
        network=one("network"),
        pull="if-not-present" if pull == "missing" else pull,
        limits=options.limits(TABLE, found),
        init="init" in found,
        hostname=one("hostname"),
        build_user=one("build-user"),
        platform=one("platform"),
        docker="docker" in found,
        services=_services(found.get("service", [])),
        service_env=options.environment(TABLE, {"env": found.get("service-env", [])}, environ),
        tools=one("tools"),
        end="end" in found,
    )


def wants_help(arguments: list[str]) -> bool:
    """Tell whether --help stands among the options, and not in the container's command."""
    return options.wants_help(TABLE, arguments)


def _from_variables(environ: Mapping[str, str]) -> list[str]:
    image, text = environ.get("DOCKLESS_STEP_IMAGE", ""), environ.get("DOCKLESS_STEP_OPTIONS", "")
    words = ["--image", image] if image else []
    if text.strip():
        import shlex  # loads regular expressions: for who uses it

        try:
            words += shlex.split(text, comments=False)
        except ValueError as e:
            raise errors.UserError(f"step: DOCKLESS_STEP_OPTIONS cannot be read: {e}".lower(), "quote words as for a shell") from e
    return words


def _services(texts: list[str]) -> tuple[Service, ...]:
    """Return the services as IMAGE=ALIAS names them; without an alias it is the last part of the image's name."""
    found: dict[str, Service] = {}
    for text in texts:
        image, has_alias, alias = text.rpartition("=")
        if not has_alias or "/" in alias:  # a directory's name may have the sign
            image, alias = text, text.partition("@")[0].rpartition("/")[2].partition(":")[0]
        if not image or not alias:
            raise errors.UserError(f"step: service {text!r} cannot be used", "write IMAGE or IMAGE=ALIAS")
        if alias in found:
            raise errors.UserError(f"step: two services are called {alias}", "give each its own name: IMAGE=ALIAS")
        found[alias] = Service(image, alias)
    return tuple(found.values())
