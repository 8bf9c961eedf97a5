"""Configs of images that want more than a workload: directories of the host, other users, our own names (case 24)."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runner import paths
from tests.support import images, trees
from tests.support.defences import attack, without
from tests.support.engine import Engine, Result
from tests.support.images import busybox_layer

Run = Callable[..., Result]


@pytest.fixture
def run(engine: Engine, tmp_path: Path) -> Iterator[Run]:
    """Return a function that runs a script in an image with a config."""

    def start(script: str, *options: str, **config: Any) -> Result:
        built = images.build_image([busybox_layer()], {"Env": [f"PATH={images.PATH}"], **config})
        images.write_oci_layout(tmp_path / "layout", built)
        return engine.run("run", *options, "--image", f"oci:{tmp_path}/layout", "--", "sh", "-c", script)

    yield start
    # gc keeps the layers of stored images, and only their owners can remove them
    trees.in_keeper(lambda: trees.remove_all(Path(paths.Store(str(engine.state)).layers)))


@attack(24, without("runner/job/furnish.py", """.startswith("/proc/"):""", """ == "/proc/":"""))
@pytest.mark.parametrize("path", ["/proc/self/fd/7", "//proc/./self/fd/8/../9", "/proc/1/root"])
def test_working_directory_that_is_a_descriptor_of_the_runtime_is_refused(run: Run, path: str) -> None:
    result = run("echo started; ls ../../..", WorkingDir=path)
    assert (result.code, result.out) == (125, "")
    assert "is in /proc, where no container may start" in result.err


def test_working_directory_in_proc_that_a_person_asks_for_is_refused(run: Run) -> None:
    assert "is in /proc, where no container may start" in run("echo started", "-w", "/tmp/../proc/self/fd/7").err


@attack(24, without("runner/sandbox/users.py", """raise errors.UserError(f"group {wanted!r} does not exist in this image\"""", """return 0
    raise errors.UserError(f"group {wanted!r} does not exist in this image\""""))  # fmt: skip
@pytest.mark.parametrize(("user", "words"), [("0:0:x", "group '0:x' does not exist in this image"), ("0:", "nothing follows the colon")])
def test_user_that_is_none_is_refused(run: Run, user: str, words: str) -> None:
    result = run("echo started", User=user)
    assert (result.code, result.out) == (125, "")
    assert words in result.err


def test_labels_of_our_own_names_and_nonsense_have_no_effect(run: Run, engine: Engine) -> None:
    labels = {"io.dockless.volumes": "/:/host", "io.podman.annotations.privileged": "TRUE", "run": "id", "dockless": "mark"}
    check = {"Test": ["CMD", "true"], "Interval": 10**30, "Retries": -1}
    result = run("id -u; ls /host", Labels=labels, StopSignal="SIGNONSENSE", Healthcheck=check, Volumes={"/host": {}})
    assert result.out == "0\n"
    records = "".join(path.read_text() for path in Path(paths.Store(str(engine.state)).images).glob("*.json"))
    assert json.dumps("dockless") not in records and "io.podman" not in records


def test_environment_of_ten_megabytes_is_refused_before_it_is_fetched(run: Run) -> None:
    result = run("echo started", Env=["A=" + "x" * (10 * 1024**2)])
    assert result.out == ""
    assert "too large a config" in result.err
