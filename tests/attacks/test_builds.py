"""Dockerfiles that reach for the host: what they mount, copy, add and cache is never the host's, and what was secret stays so."""

import os
from pathlib import Path

import pytest

from tests.support import images
from tests.support.defences import attack, without
from tests.support.engine import Engine, Result
from tests.support.images import file, hardlink, symlink

BUILD = "runner/job/build.py"


class Builds:
    """An engine, a context with a Dockerfile, and a base that is made here: `FROM scratch` and busybox."""

    def __init__(self, engine: Engine, context: Path) -> None:
        self.engine, self.context = engine, context
        (context / "root.tar").write_bytes(images.tar(images.busybox_layer()))

    def run(self, *instructions: str, options: tuple[str, ...] = (), name: str = "app") -> Result:
        """Build an image of these instructions."""
        return self.engine.run("build", "-t", name, *options, "-f", "-", str(self.context), stdin=self.text(*instructions), timeout_s=100)

    def text(self, *instructions: str) -> str:
        base = f"FROM scratch AS base\nADD root.tar /\nENV PATH={images.PATH}\n"
        return base + "\n".join(instructions) + "\n"

    def see(self, script: str, name: str = "app") -> str:
        """Return what a script prints in an image that was built."""
        return self.engine.run("run", "--image", name, "--pull", "never", "--", "sh", "-c", script).out


@pytest.fixture
def builds(engine: Engine, tmp_path: Path) -> Builds:
    (tmp_path / "context").mkdir()
    return Builds(engine, tmp_path / "context")


def untouched(probe: Path) -> bool:
    return {entry.name: entry.read_text() for entry in probe.iterdir()} == {"file": "untouched"}


@attack(46, without("runner/sandbox/toolbox.py", '_BINDS = ("/usr",', '_BINDS = ("/tmp", "/usr",'))
def test_no_link_that_a_build_follows_leads_to_the_host(builds: Builds, probe: Path) -> None:
    """CVE-2024-1753: buildah followed a link that it mounts from, there to the root of the machine, and here to that of the toolbox."""
    (builds.context / "link").symlink_to(probe)
    (builds.context / "up").symlink_to("../" * 30 + str(probe))
    there = f"{probe}/file"
    result = builds.run(
        "FROM base AS planted",
        f"RUN ln -s / /rootdir && ln -s {probe} /probe && ln -s {'../' * 30}{probe} /up",
        "FROM base AS app",
        *(
            f"RUN --mount=type=bind,from=planted,source={source},target=/m,rw cat /m{rest}; echo evil > /m{rest}; true"
            for source, rest in (("/rootdir", there), ("/probe", "/file"), ("/up", "/file"), ("/../../..", there))
        ),
        "RUN ls /",
    )
    assert "untouched" not in result.out + result.err
    assert untouched(probe)
    evil = [symlink("out", str(probe)), file("out/file", b"evil"), hardlink("h", f"{probe}/file"), file(f"../../../../..{there}", b"evil")]
    (builds.context / "evil.tar").write_bytes(images.tar(evil))
    for source in ("link/file", "up/file", "../" * 30 + there, "evil.tar"):
        result = builds.run("FROM base", f"ADD {source} /copied/", f"RUN cat /copied/* /copied/out/*; cat {there}; true")
        assert "untouched" not in result.out + result.err
    assert untouched(probe)


@attack(
    46,
    without("runner/job/furnish.py", "            rootfs.lock(place)  #", "            pass  #"),
    without(BUILD, '"bind", found.context, read_only=True)', '"bind", found.context)'),
)
def test_build_cannot_write_into_its_context_which_the_account_owns(builds: Builds) -> None:
    """What lies there belongs to the account: a hook in .git would be run by it, outside of any container."""
    hooks = builds.context / ".git" / "hooks"
    hooks.mkdir(parents=True)
    before = sorted(os.listdir(builds.context))
    for mount in ("type=bind,target=/m,rw", "type=bind,target=/m,readwrite=true", "type=bind,target=/m"):
        builds.run("FROM base", f"RUN --mount={mount} echo evil > /m/planted; echo evil > /m/.git/hooks/post-checkout; true")
    nested = "mount -o remount,bind,rw /rootdir/build/context; echo evil > /m/build/context/planted; true"
    builds.run(
        "FROM base AS planted",
        "RUN ln -s / /rootdir",
        "FROM base",
        f"RUN --mount=type=bind,from=planted,source=/rootdir,target=/m,rw {nested}",
    )
    assert sorted(os.listdir(builds.context)) == before
    assert os.listdir(hooks) == []


@attack(
    46,
    without(
        "runner/job/assembly.py", "store.build_storage(current.build_user.name, wish.source", 'store.build_storage("local", wish.source'
    ),
)
def test_cache_that_is_named_like_a_path_is_one_of_its_build_user(builds: Builds, probe: Path) -> None:
    odd = ("id=../../../../x", "id=/etc", f"id=../../../../../../../../..{probe}", "source=../../../usr", "target=/d/../../..")
    counts = [f"RUN --mount=type=cache,target=/c,{one} echo >> /c/file; echo count $(wc -l < /c/file); true" for one in odd]
    for _ in range(2):
        result = builds.run("FROM base", *counts, options=("--no-cache",))
    assert "count 2" in result.out
    other = builds.run("FROM base", *counts, options=("--build-user", "other"))
    assert "count 1" in other.out
    assert "count 3" not in other.out
    assert untouched(probe)
    assert sorted(os.listdir(builds.engine.state / "storage")) == ["local", "other"]
