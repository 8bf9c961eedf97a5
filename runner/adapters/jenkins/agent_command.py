"""The command that Jenkins would run for an agent, read without running it: whose agent, which directory, which jar, what is secret.

remoting's own options have one dash (-url, -secret, -workDir: hudson.remoting.Launcher), and any argument may be @FILE.
"""

from __future__ import annotations

import os

from runner.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

JARS = ("agent.jar", "remoting.jar", "slave.jar")  # what a controller serves below jnlpJars/ (jenkins.model: Slave.JnlpJar)
JAR = "/usr/share/jenkins/agent.jar"  # where Jenkins' own images have it
SECRETS = "/run/jenkins-agent"
# what a controller tells the process that it starts (CommandLauncher), and what the entrypoint of Jenkins' own images reads
PASSED = (
    "HUDSON_COOKIE", "NODE_NAME", "WORKSPACE", "JENKINS_URL", "HUDSON_URL", "AGENTJAR_URL", "SLAVEJAR_URL", "JENKINS_AGENT_NAME",
    "JENKINS_NAME", "JENKINS_AGENT_WORKDIR", "JENKINS_WEB_SOCKET", "JENKINS_TUNNEL", "JENKINS_DIRECT_CONNECTION",
    "JENKINS_INSTANCE_IDENTITY", "JENKINS_PROTOCOLS", "JENKINS_JAVA_BIN", "JENKINS_JAVA_OPTS", "JENKINS_AGENT_FILE", "REMOTING_OPTS",
)  # fmt: skip
_SECRET = "JENKINS_SECRET"


class Hidden(NamedTuple):
    """A command whose secrets are in files of the container's memory."""

    argv: tuple[str, ...]
    files: tuple[tuple[str, bytes], ...]
    env: tuple[tuple[str, str], ...]
    was_shown: bool  # a secret stood in the command line itself, which everybody on this machine can read


def value(argv: tuple[str, ...], *names: str) -> str:
    """Return what follows the first of some options, "" if none is there."""
    at = next((at for at, word in enumerate(argv[:-1]) if word in names), None)
    return "" if at is None else argv[at + 1]


def name(argv: tuple[str, ...], environ: Mapping[str, str]) -> str:
    """Return the agent's name as far as Jenkins says it, "" where it does not."""
    return value(argv, "-name") or next(
        (environ[key] for key in ("NODE_NAME", "JENKINS_AGENT_NAME", "JENKINS_NAME") if environ.get(key)), ""
    )


def work_directory(argv: tuple[str, ...], environ: Mapping[str, str]) -> str:
    """Return the agent's remote root as far as Jenkins says it, "" where it does not."""
    said = value(argv, "-workDir") or _entered(argv)
    return said or next((environ[key] for key in ("WORKSPACE", "JENKINS_AGENT_WORKDIR") if environ.get(key)), "")


def _entered(argv: tuple[str, ...]) -> str:
    """Return the directory of `sh -c 'cd "DIR" && …'`, as the SSH launcher writes it."""
    script = value(argv, "-c")
    return script[4:].partition('"')[0] if script.startswith('cd "') else ""


def jar_url(argv: tuple[str, ...], environ: Mapping[str, str]) -> str:
    """Return where the controller serves the agent's jar; "" where nobody says who the controller is."""
    root = value(argv, "-url")
    said = "" if root else environ.get("AGENTJAR_URL", "")
    root = root or environ.get("JENKINS_URL", "")
    return said or (f"{root.rstrip('/')}/jnlpJars/agent.jar" if root else "")


def is_inbound(argv: tuple[str, ...], environ: Mapping[str, str]) -> bool:
    """Tell whether the agent connects by itself, so that its stdin is no channel."""
    return bool(value(argv, "-url", "-jnlpUrl", "-direct")) or (
        not argv and any(environ.get(key) for key in ("JENKINS_URL", "JENKINS_DIRECT_CONNECTION"))
    )


def jar(argv: tuple[str, ...]) -> str:
    """Return the path of the agent's jar as the command has it, "" if it runs none."""
    found = value(argv, "-jar")
    return found if os.path.basename(found) in JARS else ""


def with_jar(argv: tuple[str, ...], path: str) -> tuple[str, ...]:
    """Return the command with another path of the jar."""
    at = argv.index("-jar") + 1
    return (*argv[:at], path, *argv[at + 1 :])


def hide(argv: tuple[str, ...], environ: Mapping[str, str], *, secret: bytes, files: Mapping[str, bytes]) -> Hidden:
    """Return the command with its secret, and with what its @FILE arguments name (`files`, by argument), in files.

    `secret` is one that stands in no command line; else JENKINS_SECRET counts. Without a command it reaches the image's own entrypoint,
    which reads the environment.
    """
    secret = secret or environ.get(_SECRET, "").encode()
    if not argv:
        return Hidden((), (), ((_SECRET, secret.decode()),) if secret else (), was_shown=False)
    words: list[str] = []
    found: list[tuple[str, bytes]] = []
    shown = False
    for before, word in zip(("", *argv), argv, strict=False):
        if word in files:
            content = files[word]
        elif before == "-secret" and not word.startswith("@"):
            content, shown = word.encode(), True
        else:
            words.append(word)
            continue
        place = f"{SECRETS}/{len(found)}"
        found.append((place, content))
        words.append(f"@{place}")
    if secret and "-secret" not in argv and value(argv, "-url", "-jnlpUrl", "-direct"):
        place = f"{SECRETS}/{len(found)}"
        found.append((place, secret))
        words += ["-secret", f"@{place}"]
    return Hidden(tuple(words), tuple(found), (), was_shown=shown)
