"""Bundles of compiled modules: what a launcher imports comes out of them, as long as they are true."""

import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import MAGIC_NUMBER
from pathlib import Path

import pytest

from runner import bundle, launcher


class Zoo:
    """A package of two modules, and a program that imports them as a launcher would."""

    def __init__(self, directory: Path) -> None:
        self.package = directory / "zoo"
        self.package.mkdir()
        self.sources = {"zoo": self.package / "__init__.py", "zoo.cat": self.package / "cat.py"}
        self.sources["zoo"].write_text("NAME = __name__\n")
        self.sources["zoo.cat"].write_text('"""A cat."""\n\nfrom zoo import NAME\n\nSOUND = "meow"\n')
        self.bundle = directory / "zoo.bundle"
        self.bundle.write_bytes(bundle.content([(name, str(path)) for name, path in self.sources.items()]))

    def ask(self, expression: str) -> str:
        lines = ["import sys", f"sys.path.append({str(self.package.parent)!r})", bundle.START.format(path=repr(str(self.bundle)))]
        program = "\n".join([*lines, "import zoo.cat", f"print({expression})"])
        done = subprocess.run([sys.executable, "-ISB", "-c", program], env={}, capture_output=True, text=True, check=True, timeout=60)
        assert done.stderr == ""
        return done.stdout.rstrip("\n")


LOADER = "type(zoo.cat.__spec__.loader).__name__, zoo.cat.SOUND"


@pytest.fixture
def zoo(tmp_path: Path) -> Zoo:
    return Zoo(tmp_path)


def test_modules_come_out_of_the_bundle_and_look_like_any_other(zoo: Zoo) -> None:
    assert zoo.ask(LOADER) == "_Finder meow"
    assert zoo.ask("zoo.NAME, zoo.cat.NAME, zoo.cat.__name__, zoo.cat.__package__") == "zoo zoo zoo.cat zoo"
    assert zoo.ask("zoo.__file__, zoo.cat.__file__") == f"{zoo.sources['zoo']} {zoo.sources['zoo.cat']}"
    assert zoo.ask("*zoo.__path__") == str(zoo.package)


def test_module_that_has_changed_is_imported_from_its_source(zoo: Zoo) -> None:
    info = zoo.sources["zoo.cat"].stat()
    zoo.sources["zoo.cat"].write_text('SOUND = "purr"\n')
    os.utime(zoo.sources["zoo.cat"], ns=(info.st_atime_ns, info.st_mtime_ns))
    assert zoo.ask(LOADER) == "SourceFileLoader purr"


def test_module_that_was_touched_is_imported_from_its_source(zoo: Zoo) -> None:
    os.utime(zoo.sources["zoo.cat"], ns=(1, 1))
    assert zoo.ask(LOADER) == "SourceFileLoader meow"


def test_module_that_is_gone_is_gone(zoo: Zoo) -> None:
    zoo.sources["zoo.cat"].unlink()
    with pytest.raises(subprocess.CalledProcessError) as raised:
        zoo.ask("zoo.cat")
    assert "No module named 'zoo.cat'" in raised.value.stderr


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "half": lambda data: data[: len(data) // 2],
    "no bundle": lambda _: b"#!/bin/sh\n",
    "of another interpreter": lambda data: data.replace(MAGIC_NUMBER, b"\x00\x00\r\n", 1),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_bundle_is_none(zoo: Zoo, damage: str) -> None:
    zoo.bundle.write_bytes(DAMAGES[damage](zoo.bundle.read_bytes()))
    assert zoo.ask(LOADER) == "SourceFileLoader meow"


def test_bundle_that_is_missing_is_no_loss(zoo: Zoo) -> None:
    zoo.bundle.unlink()
    assert zoo.ask(LOADER) == "SourceFileLoader meow"


@pytest.mark.parametrize(
    "words", [["run", "--image", "x"], ["step", "--image", "x"], ["--debug", "gitlab", "run", "s", "build_script"], ["github", "hook"]]
)
def test_launcher_imports_hot_commands_from_its_bundles(tmp_path: Path, words: list[str]) -> None:
    program = tmp_path / "dockless"
    launcher.write(str(program), sys.executable)
    command = next(word for word in words if word in ("run", "step", "gitlab", "github"))
    hot = {
        "run": "runner.cli.run, runner.job.assembly", "step": "runner.cli.step", "gitlab": "runner.adapters.gitlab.run",
        "github": "runner.adapters.github.prepare_job, runner.adapters.github.run_script_step, runner.job.assembly",
    }[command]  # fmt: skip
    started = program.read_text().replace("main()", f"import {hot}; print(*(m.__name__ for m in sys.modules.values() if is_cold(m)))")
    cold = "is_cold = lambda m: m.__name__.startswith('runner.') and type(m.__spec__.loader).__name__ != '_Finder'\n"
    done = subprocess.run([sys.executable, "-IS", "-c", cold + started, *words], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == []


def test_launcher_starts_the_program(tmp_path: Path) -> None:
    program = tmp_path / "dockless"
    launcher.write(str(program), sys.executable)
    assert subprocess.run([program, "--version"], capture_output=True, text=True, check=True, timeout=60).stdout.startswith("dockless ")


def test_docker_command_that_a_launcher_writes_has_the_launchers_libraries(tmp_path: Path) -> None:
    program = tmp_path / "dockless"
    launcher.write(str(program), sys.executable)
    environ = {"HOME": str(tmp_path), "DOCKLESS_STATE": str(tmp_path / "state")}
    subprocess.run([program, "jenkins", "install-docker-shim", tmp_path / "bin"], env=environ, capture_output=True, check=True, timeout=60)
    docker = tmp_path / "bin" / "docker"
    libraries = [next(line for line in path.read_text().splitlines() if line.startswith("sys.path")) for path in (program, docker)]
    assert libraries[0] == libraries[1]
    done = subprocess.run([docker, "-v"], env={}, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.startswith("Docker version ")
    assert (tmp_path / "bin" / "docker.modules").stat().st_size > 100_000
