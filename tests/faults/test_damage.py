"""Disks that lose directories and flip bits: what is damaged is made again or named, and never believed."""

from pathlib import Path

import pytest

from runner.kernel import accounts, files, userns
from runner.sandbox import build_users
from tests.support import faults
from tests.support.defences import attack, without
from tests.support.engine import Engine
from tests.support.images import build_image, busybox_layer, file, write_oci_layout


@pytest.fixture
def image(tmp_path: Path) -> str:
    write_oci_layout(tmp_path / "layout", build_image([busybox_layer(), [file("hello", b"hi\n")]]))
    return f"oci:{tmp_path}/layout"


def run(engine: Engine, image: str) -> tuple[int, str]:
    result = engine.run("run", "--image", image, "--", "cat", "/hello")
    assert result.code == 0 or faults.is_explained(result.err), result.err
    return result.code, result.out


@attack(
    50,
    without(
        "runner/image/layer_names.py",
        "    except (OSError, ValueError):\n        return False\n    return is_same",
        "    except (OSError, ValueError):\n        return True\n    return is_same",
    ),
)
def test_layers_that_vanish_under_a_container_are_made_again_for_the_next(engine: Engine, image: str) -> None:
    assert run(engine, image) == (0, "hi\n")
    with engine.start("run", "--image", image, "--", "sh", "-c", "echo ready; read go; cat /hello") as victim:
        assert victim.stdout and victim.stdout.readline() == "ready\n"
        account = accounts.current()
        for layer in engine.state.glob("layers/*/*/"):
            userns.call(build_users.every_map(account), lambda: files.remove_tree(str(layer)))  # noqa: B023 - called before the next turn
        victim.communicate("go\n", timeout=30)  # it may fail, and ends
    assert engine.leftovers() == []
    assert run(engine, image) == (0, "hi\n")
    assert ": 0 mended, 0 broken" in engine.run("verify").out
    assert faults.torn_layers(engine) == []


@attack(
    50,
    without(
        "runner/image/images.py",
        "    except (FileNotFoundError, ValueError):\n        return None\n    known =",
        "    except FileNotFoundError:\n        return None\n    known =",
    ),
)
@pytest.mark.parametrize("name", ["images/*.json", "layers/*/map.json", "layers/*/*.seal", "build-users.json", "format"])
def test_bit_that_flips_in_a_record_is_outlived_or_told(engine: Engine, image: str, name: str) -> None:
    assert run(engine, image) == (0, "hi\n")
    record = min(engine.state.glob(name))
    whole = record.read_bytes()
    for at, bit in ((0, 0x80), (len(whole) // 2, 0x01), (len(whole) // 3, 0x40)):
        record.write_bytes(whole[:at] + bytes([whole[at] ^ bit]) + whole[at + 1 :])
        _, shown = run(engine, image)
        assert shown in ("hi\n", "")
        assert engine.leftovers() == []
        record.write_bytes(whole)
    assert run(engine, image) == (0, "hi\n")
