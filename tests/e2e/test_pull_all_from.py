"""`dockless pull --all-from`: a machine is warmed before its first job."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from runner.image import platforms
from tests.support import images
from tests.support.engine import Engine
from tests.support.registries import LyingRegistry, Request

ARCHITECTURE = platforms.host().architecture
IMAGES = {name: images.build_image([[images.file(name, b"x")]], architecture=ARCHITECTURE) for name in ("app", "web", "db")}
FOREIGN = images.build_image([[images.file("a", b"f")]], architecture="s390x")


@pytest.fixture
def registry() -> Iterator[tuple[str, list[Request]]]:
    server = LyingRegistry()
    for name, image in IMAGES.items():
        server.add(image, f"team/{name}", "1")
    server.add(images.build_index([IMAGES["app"], FOREIGN]), "team/multi", "1")
    with server.running() as running:
        yield running


def ids(*names: str) -> list[str]:
    return [IMAGES[name].config_digest for name in names]


def test_images_of_a_pipeline_are_pulled_and_the_rest_is_said(engine: Engine, registry: tuple[str, list[Request]], tmp_path: Path) -> None:
    host, _ = registry
    pipeline = tmp_path / ".gitlab-ci.yml"
    pipeline.write_text(f"""
include: [{{local: /more.yml}}]
variables: {{HOST: "{host}"}}
default: {{image: $HOST/team/app:1}}
.web: {{services: ["$HOST/team/web:1", {{name: "{host}/team/web:1"}}]}}
build: {{services: !reference [.web, services], script: [make]}}
foreign: {{image: {{name: "$HOST/team/multi:1", docker: {{platform: linux/s390x}}}}}}
deploy: {{image: $CI_REGISTRY_IMAGE}}
""")
    result = engine.run("pull", "--all-from", str(pipeline))
    assert (result.code, result.out.split()) == (0, [*ids("app", "web"), FOREIGN.config_digest]), result.err
    assert f"WARNING: {pipeline}: include is not followed: /more.yml\n" in result.err
    assert f"WARNING: {pipeline}: job deploy: '$CI_REGISTRY_IMAGE' is left out: CI_REGISTRY_IMAGE is not set in this file\n" in result.err
    assert "3 of 3 images were pulled\n" in result.err
    assert f"{host}/team/web:1" in engine.run("images").out


def test_list_may_come_on_stdin_beside_names_and_other_files(engine: Engine, registry: tuple[str, list[Request]], tmp_path: Path) -> None:
    host, seen = registry
    (tmp_path / "list").write_text(f"# what jobs need\n\n{host}/team/app:1  # twice\n{host}/team/db:1\ntoolbox\n")
    result = engine.run(
        "pull", f"{host}/team/web:1", "--all-from", "-", "--all-from", str(tmp_path / "list"), stdin=f"{host}/team/app:1\r\n"
    )
    assert (result.code, result.out.split()) == (0, ids("web", "app", "db")), result.err
    assert len([request for request in seen if "/manifests/" in request.path]) == 3


def test_platform_is_for_images_without_one_of_their_own(engine: Engine, registry: tuple[str, list[Request]]) -> None:
    host, _ = registry
    result = engine.run("pull", "--platform", "s390x", "--all-from", "-", stdin=f"{host}/team/multi:1\n")
    assert (result.code, result.out.split()) == (0, [FOREIGN.config_digest]), result.err


def test_image_that_fails_does_not_stop_the_others(engine: Engine, registry: tuple[str, list[Request]]) -> None:
    host, _ = registry
    listed = f"{host}/team/none:1\nUpper\n{host}/team/app:1\nme:hunter2@{host}/team/app\n{host}/team/db:1\n"
    result = engine.run("pull", "--all-from", "-", stdin=listed)
    assert (result.code, result.out.split()) == (1, ids("app", "db"))
    assert f"WARNING: cannot pull {host}/team/none:1: image not found" in result.err
    last = result.err.splitlines()[-2:]
    assert last == [
        f"ERROR: 3 of 5 images were not pulled: {host}/team/none:1, what is no name, what is no name",
        "(see the warnings above)",
    ]
    assert "hunter2" not in result.err


def test_one_image_of_a_file_that_fails_is_a_failure_too(engine: Engine) -> None:
    result = engine.run("pull", "--all-from", "-", stdin="127.0.0.1:1/team/app:1\n")
    assert result.code == 1
    assert result.err.endswith("ERROR: 1 of 1 images were not pulled: 127.0.0.1:1/team/app:1\n(see the warnings above)\n")


@pytest.mark.parametrize(
    ("stdin", "message"), [("a: [\n", "- is not YAML"), ("- a\n- b\n", "- is neither a pipeline of GitLab nor a list")]
)
def test_file_that_is_neither_is_refused(engine: Engine, stdin: str, message: str) -> None:
    result = engine.run("pull", "--all-from", "-", stdin=stdin)
    assert result.code == 1
    assert result.err.startswith(f"ERROR: {message}")
    assert len(result.err.splitlines()) == 2


def test_file_that_is_not_there_is_refused(engine: Engine, tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        result = engine.run("pull", "--all-from", str(path))
        assert result.code == 1
        assert result.err.startswith(f"ERROR: file {path} cannot be read: ")


def test_file_without_images_is_no_failure(engine: Engine) -> None:
    result = engine.run("pull", "--all-from", "-", stdin="# nothing\n")
    assert (result.code, result.out, result.err) == (0, "", "0 of 0 images were pulled\n")
