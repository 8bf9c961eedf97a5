"""How gitlab-runner writes shell: its quoting, its exports, its guards, and the wrapper around a stage.

A body is a list of lines; `finish` wraps it the way the runner does: one line, quoted, evaluated in a subshell without a standard input.
"""

import posixpath
import shlex
from collections.abc import Sequence
from typing import Any, NamedTuple

GREEN, YELLOW, RESET = "\033[32;1m", "\033[0;33m", "\033[0;m"

_ESCAPES = {7: r"\a", 8: r"\b", 9: r"\t", 10: r"\n", 11: r"\v", 12: r"\f", 13: r"\r", 39: r"\'", 92: r"\\"}
_LITERAL = frozenset(b",-./0123456789@ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz")


class Variable(NamedTuple):
    """One variable of a job as scripts and drivers see it: expanded."""

    key: str
    value: str
    file: bool = False
    raw: bool = False


class Setting(NamedTuple):
    """All that a script depends on: the job, its variables at this moment, and where things lie."""

    payload: dict[str, Any]
    variables: tuple[Variable, ...]
    project_dir: str
    cache_dir: str
    url: str
    hostname: str = ""
    shell: str = "bash"
    safe_directory: bool = False
    pre_build: str = ""
    post_build: str = ""

    def value(self, key: str, default: str = "") -> str:
        """Return a variable's value: the last one set wins."""
        return next((each.value for each in reversed(self.variables) if each.key == key), default)

    def flag(self, key: str) -> bool:
        """Tell whether a feature flag or boolean variable is on."""
        return self.value(key).lower() in ("true", "1", "t")

    @property
    def temporary(self) -> str:
        """The project's `.tmp` directory: file variables, git template, dotenv."""
        return self.project_dir + ".tmp"


def quote(text: str, *, posix: bool = False) -> str:
    """Quote a word: `$'...'`, which dash does not know, or as POSIX has it."""
    data = text.encode("utf-8", "surrogateescape")
    if not data:
        return "''"
    if posix:
        return shlex.quote(text)
    if all(byte in _LITERAL for byte in data):
        return text
    inner = "".join(_ESCAPES.get(byte) or (chr(byte) if 32 <= byte < 127 else f"\\x{byte:02x}") for byte in data)
    return f"$'{inner}'"


def finish(body: Sequence[str], *, shell: str = "bash", posix: bool = False, trace: bool = False, legacy_eval: bool = False) -> str:
    """Wrap the lines of a stage into the script that the driver is given."""
    whole = quote("".join(f"{line}\n" for line in body), posix=posix)
    return "\n".join(
        [
            f"#!/usr/bin/env {shell}", "",
            "trap 'exit 1' TERM", "",
            *(["set -o xtrace"] if trace else []),
            'case "$(set -o)" in *"pipefail"*) set -o pipefail;; esac; set -o errexit',
            "set +o noclobber",
            f": | eval {whole}" if legacy_eval else f"(trap 'exit 1' TERM; eval {whole}) < /dev/null",
            "exit 0", "",
        ]
    )  # fmt: skip


class Writer:
    """Collects lines; knows the quoting of the job."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.lines: list[str] = []
        self._posix = setting.flag("FF_POSIXLY_CORRECT_ESCAPES")
        self._check = setting.flag("FF_ENABLE_BASH_EXIT_CODE_CHECK")
        self._depth = 0

    def quote(self, text: str) -> str:
        return quote(text, posix=self._posix)

    def line(self, text: str) -> None:
        self.lines.append("  " * self._depth + text)

    def check(self) -> None:
        if self._check:
            self.line("_runner_exit_code=$?; if [ $_runner_exit_code -ne 0 ]; then exit $_runner_exit_code; fi")

    def command(self, *words: str) -> None:
        self.line(" ".join(self.quote(word) for word in words))
        self.check()

    def notice(self, text: str, colour: str = GREEN) -> None:
        self.line("echo " + self.quote(f"{colour}{text}{RESET}"))

    def if_(self, condition: str) -> None:
        self.line(f"if {condition} ; then")
        self._depth += 1

    def if_quiet(self, *words: str) -> None:
        self.if_(" ".join(self.quote(word) for word in words) + " >/dev/null 2>&1")

    def else_(self) -> None:
        self._depth -= 1
        self.line("else")
        self._depth += 1

    def fi(self) -> None:
        self._depth -= 1
        self.line("fi")

    def path(self, name: str) -> str:
        """Return a path in the temporary directory as scripts spell it: a relative one from where the script stands."""
        return double(posixpath.join("" if self.setting.temporary.startswith("/") else "$PWD", self.setting.temporary, name))

    def remove(self, name: str) -> None:
        self.line(f"rm -f {name}")

    def exports(self) -> None:
        temporary = double(self.setting.temporary)
        for variable in self.setting.variables:
            if not variable.file:
                self.line(f"export {self.quote(variable.key)}={self.quote(variable.value)}")
                continue
            self.line(f"mkdir -p {temporary}")
            self.line(f"printf '%s' {self.quote(variable.value)} > {self.path(variable.key)}")
            self.line(f"export {self.quote(variable.key)}={self.path(variable.key)}")
        dotenv = self.path("gitlab_runner_env")
        self.line(f"export GITLAB_ENV={dotenv}")
        self.line(f"mkdir -p {temporary}")
        self.line(f"touch {dotenv}")
        self.line(f'while read -r line; do export "$line"; done < {dotenv}')

    def commands(self, commands: Sequence[str]) -> None:
        for each in commands:
            text = each.strip()
            if not text:
                self.line("echo")
            elif "\n" in text:
                self.notice(f"$ {text.splitlines()[0]} # collapsed multi-line command")
            else:
                self.notice(f"$ {text}")
            self.lines.append(text)
            self.check()

    def guarded(self, action: str) -> None:
        """Open an `if` that says what is disabled when there is no gitlab-runner; `end_guard` closes it."""
        self._action = action
        self.if_quiet("gitlab-runner", "--version")

    def end_guard(self) -> None:
        self.else_()
        self.notice(f"Missing gitlab-runner. {self._action} is disabled.", YELLOW)
        self.fi()


def double(text: str) -> str:
    """Quote a path so that variables in it are still expanded."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
