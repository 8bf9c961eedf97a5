"""The `docker` that Pipelines call: its command line leads to one of dockless's own verbs; on the hot path, so without click.

What a Pipeline does with docker is contracts/jenkins.md, table A2. What is not served says so in one line and fails.
"""

from __future__ import annotations

import os

from runner import __version__, errors
from runner.adapters.jenkins.options import Grammar
from runner.adapters.jenkins.shim import Shim

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from runner.job.surroundings import Surroundings

    Verb = Callable[[Sequence[str], Shim], int]

VERSION = "27.0.0"  # whose command line this is: docker-workflow chooses its options by it
_ENGINE_FAILED = 125  # docker run's own failures
_OWN = Grammar("", "--build-user= --root=", mixed=False)
# of docker itself, before the command
_GLOBAL = Grammar(
    "",
    "-v --version -D --debug -l= --log-level= --config= -c= --context= --help",
    {"-H": "dockless runs containers on this machine only", "--host": "dockless runs containers on this machine only"},
    mixed=False,
)


def main(arguments: list[str], environ: Mapping[str, str], *, open_all: Callable[[Mapping[str, str]], Surroundings]) -> int:
    """Serve one docker command and return its exit code. Raises RunnerErrors, with docker's exit codes.

    `arguments` begin with the options that the launcher has, then "--", then docker's own.
    """
    own = _OWN.parse(arguments[: arguments.index("--")]) if "--" in arguments else _OWN.parse(())
    words = arguments[arguments.index("--") + 1 :] if "--" in arguments else arguments
    parsed = _GLOBAL.parse(words)
    verb, rest = (parsed.words[0], parsed.words[1:]) if parsed.words else ("", ())
    if verb in ("container", "image") and rest:  # docker container run … is docker run …
        verb, rest = ("images" if (verb, rest[0]) == ("image", "ls") else "ps" if rest[0] == "ls" else rest[0]), rest[1:]
    if (verb, *rest[:1]) == ("buildx", "build"):
        verb, rest = "build", rest[1:]
    try:
        _refuse_bytes(arguments)
        if parsed.has("version"):
            print(f"Docker version {VERSION}, build dockless-{__version__}")
            return 0
        if not verb or parsed.has("help"):
            print(f"docker by dockless {__version__}, for Jenkins Pipelines: {', '.join(sorted(_VERBS))}")
            return 0
        body = _body(verb)
        _refuse_servers(parsed.last("context"), environ)
        if parsed.last("config"):
            environ = {**environ, "DOCKER_CONFIG": parsed.last("config")}
            os.environ["DOCKER_CONFIG"] = parsed.last("config")
        shim = Shim(open_all(environ), environ, own.last("build-user", "jenkins"), own.every("root"))
        return body(rest, shim)
    except errors.RunnerError as e:
        if "exit_code" not in vars(e):
            e.exit_code = _ENGINE_FAILED if verb == "run" else 1
        raise


def _refuse_bytes(arguments: Sequence[str]) -> None:
    try:
        "".join(arguments).encode()
    except UnicodeEncodeError as e:  # a container's process is described in JSON, which has no other bytes
        raise errors.UserError("docker: an argument is not UTF-8") from e


def _refuse_servers(context: str, environ: Mapping[str, str]) -> None:
    """Raise UserError where a Pipeline means another machine's Docker (withServer): it must never run here instead."""
    if environ.get("DOCKER_HOST", ""):
        raise errors.UserError(
            f"DOCKER_HOST is {environ['DOCKER_HOST'][:200]}, but this docker command is dockless and runs containers on this machine only: "
            "take withServer out, or let a node with Docker's own client run it"
        )
    chosen = context or environ.get("DOCKER_CONTEXT", "")
    if chosen not in ("", "default"):
        raise errors.UserError(f"docker context {chosen[:80]} is not served by dockless, which runs containers on this machine only")


# where each verb is: module and function
_VERBS = {
    "run": "run.main",
    "exec": "executing.main",
    "stop": "ending.stop",
    "kill": "ending.kill",
    "rm": "ending.rm",
    "inspect": "inspecting.main",
    "top": "looking.top",
    "ps": "looking.ps",
    "logs": "looking.logs",
    "port": "looking.port",
    "version": "looking.version",
    "images": "imaging.images",
    "pull": "imaging.pull",
    "tag": "imaging.tag",
    "rmi": "imaging.rmi",
    "push": "imaging.push",
    "build": "building.main",
    "login": "logins.login",
    "logout": "logins.logout",
}


def _body(verb: str) -> Verb:
    place = _VERBS.get(verb)
    if place is None:
        raise errors.UserError(f"docker {verb[:80]} is not served by dockless")
    module, _, function = place.partition(".")
    # as an import statement of each would be; only one of them is loaded
    found: Verb = getattr(__import__(f"runner.adapters.jenkins.{module}", fromlist=[function]), function)
    return found
