"""The options of `dockless jenkins agent`: those of `dockless run` that fit, and what an agent has besides."""

from __future__ import annotations

from runner.adapters.jenkins.agent import Asked
from runner.cli import options, run_options
from runner.cli.options import Option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_OF_RUN = (
    "image", "env", "env-file", "volume", "user", "network", "pull", "memory", "cpus", "pids", "platform", "build-user", "docker",
)  # fmt: skip
OPTIONS = (
    *(option for option in run_options.OPTIONS if option.key() in _OF_RUN),
    Option(("--name",), "NAME", "the agent's name: a second start ends the first [default: the node's, where Jenkins says it, else DIR]"),
    Option(("--workdir",), "DIR", "the node's remote root directory, at the same path inside [default: as Jenkins says it]"),
    Option(("--secret-file",), "FILE", "where an inbound agent's secret is [default: -secret @FILE, or $JENKINS_SECRET]"),
)
TABLE = options.Table("jenkins agent", OPTIONS)


def parse(arguments: list[str], environ: Mapping[str, str]) -> Asked:
    """Parse the words after `jenkins agent`. UserError for what is not understood."""
    found, rest = options.parse(TABLE, arguments)

    def one(key: str) -> str:
        return found.get(key, [""])[0]

    pull = one("pull")
    return Asked(
        argv=tuple(rest),
        image=one("image"),
        name=one("name"),
        work_directory=one("workdir"),
        secret_file=one("secret-file"),
        env=options.environment(TABLE, found, environ),
        volumes=tuple(found.get("volume", ())),
        user=one("user"),
        network=one("network"),
        pull="if-not-present" if pull == "missing" else pull,
        platform=one("platform"),
        limits=options.limits(TABLE, found),
        build_user=one("build-user"),
        docker="docker" in found,
    )


def wants_help(arguments: list[str]) -> bool:
    """Tell whether --help stands among the options, and not in the agent's command."""
    return options.wants_help(TABLE, arguments)
