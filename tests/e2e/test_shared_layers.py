"""One copy of each layer for all build users: through views that root made once, no container and no escaped process can write to it."""

import errno
import os
from pathlib import Path

import pytest

from runner import paths
from runner.image import images as records
from runner.image import layer_names, layers, views
from runner.kernel import accounts, userns
from runner.model import BuildUser, IdMap
from runner.sandbox import build_users
from tests.support import images
from tests.support.engine import Engine, Result
from tests.support.images import TarEntry, directory, file

# VFS_CAP_REVISION_2, effective, cap_net_bind_service
CAPABLE = (b"\x01\x00\x00\x02" + (1 << 10).to_bytes(4, "little") + bytes(12)).decode("utf-8", "surrogateescape")


@pytest.fixture
def shared(tmp_path: Path) -> Engine:
    """The store that `./dev test` had `dockless setup` prepare, as root."""
    state = os.environ.get("DOCKLESS_SHARED_STATE", "")
    if not state:
        words = "no store with views: only root can make them, as ./dev test does"
        if os.environ.get("DOCKLESS_MUST_WORK"):
            pytest.fail(words)
        pytest.skip(words)
    engine = Engine(tmp_path / "e")
    engine.state = Path(state)
    return engine


@pytest.fixture
def image(tmp_path: Path) -> str:
    """An image of two layers that no other test has."""
    busybox = images.busybox_layer()
    program = next(entry.data for entry in busybox if len(entry.data) > 100_000)
    own: list[TarEntry] = [
        directory("data"), file("data/file", f"{tmp_path.name}\n".encode()), file("data/of-seven", b"7", uid=7, gid=7),
        directory("caps"),
        file("caps/busybox", program, mode=0o755)._replace(pax={"SCHILY.xattr.security.capability": CAPABLE}),
    ]  # fmt: skip
    images.write_oci_layout(tmp_path / "layout", images.build_image([busybox, own]), "one")
    return f"oci:{tmp_path}/layout:one"


def run(engine: Engine, image: str, script: str, *options: str) -> Result:
    return engine.run("run", *options, "--image", image, "--", "sh", "-c", script)


def store(engine: Engine) -> paths.Store:
    return paths.Store(str(engine.state))


def top_layer(engine: Engine, image: str) -> tuple[str, str]:
    """Return map and name of an image's top layer on the disk."""
    found = records.find(store(engine), image)
    shared = views.shared_map(store(engine))
    assert found and shared
    name = layer_names.map_name(shared)
    return name, layer_names.find(store(engine), name, found.layers, len(found.layers) - 1)


def build_user(engine: Engine, name: str) -> BuildUser:
    account = accounts.current()
    return next(user for user in build_users.every(store(engine), account) if user.name == name)


def test_two_build_users_read_the_same_file_on_the_disk(shared: Engine, image: str) -> None:
    said = [run(shared, image, "stat -c '%i %u %g' /data/file /data/of-seven", "--build-user", name) for name in ("one", "two")]
    assert [one.code for one in said] == [0, 0], said
    assert said[0].out == said[1].out
    assert [line.split()[1:] for line in said[0].out.splitlines()] == [["0", "0"], ["7", "7"]]
    found = records.find(store(shared), image)
    assert found
    maps = [name for name in layers.maps(store(shared)) if layer_names.find(store(shared), name, found.layers, 1)]
    assert maps == [top_layer(shared, image)[0]]
    ids = {build_user(shared, name).uid_start for name in ("one", "two")} | {build_user(shared, build_users.IMAGES).uid_start}
    assert len(ids) == 3


@pytest.mark.parametrize("user", ["0", str(os.getuid())])
def test_in_a_shared_workspace_files_of_the_image_keep_their_owners(shared: Engine, image: str, tmp_path: Path, user: str) -> None:
    work = tmp_path / "work"
    work.mkdir()
    said = run(shared, image, "stat -c '%u %g' /data/file /data/of-seven; echo x > /w/new", "-v", f"{work}:/w", "-u", user)
    assert said.out.split() == ["0", "0", "7", "7"], said.err
    assert (work / "new").stat().st_uid == os.getuid()
    assert [name for name in layers.maps(store(shared)) if name.endswith(f"a{user}")] == []


def test_program_with_capabilities_has_them_through_a_view(shared: Engine, image: str) -> None:
    said = run(shared, image, "/caps/busybox grep CapEff /proc/self/status", "-u", "1000")
    assert said.out.split() == ["CapEff:", f"{1 << 10:016x}"], said.err


def test_what_a_container_writes_stays_with_it(shared: Engine, image: str, tmp_path: Path) -> None:
    script = "echo changed > /data/file; rm /data/of-seven; touch /data/new; mount -o remount,rw / 2>&1; cat /data/file; chmod 0 /data"
    assert "changed" in run(shared, image, script).out
    again = run(shared, image, "cat /data/file; ls /data; stat -c %a /data")
    assert again.out.split() == [tmp_path.name, "file", "of-seven", "755"]


def attempts(layer: str, layer_fd: int) -> list[int]:
    """Try to write below a layer by its path and by a descriptor that somebody leaked; return the errors."""
    found = []
    for write in (
        lambda: os.open(f"{layer}/data/file", os.O_WRONLY),
        lambda: os.open("data/file", os.O_WRONLY, dir_fd=layer_fd),
        lambda: os.open("data/planted", os.O_WRONLY | os.O_CREAT, dir_fd=layer_fd),
        lambda: os.unlink("data/file", dir_fd=layer_fd),
        lambda: os.chmod("data", 0o700, dir_fd=layer_fd),
        lambda: os.chown("data", 0, 0, dir_fd=layer_fd),
    ):
        try:
            write()
            found.append(0)
        except OSError as e:
            found.append(e.errno or -1)
    return found


def escaped(id_map: IdMap, layer: str) -> list[int]:
    fd = os.open(layer, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return list(userns.call(id_map, lambda: attempts(layer, fd)))
    finally:
        os.close(fd)


def test_escaped_process_with_a_build_users_ids_can_write_to_no_layer(shared: Engine, image: str) -> None:
    assert run(shared, image, "true", "--build-user", "one").code == 0
    user = build_user(shared, "one")
    map_name, name = top_layer(shared, image)
    view = views.place(store(shared), user.isolated_map()).shown
    assert view.startswith(paths.VIEWS)
    refused = {errno.EACCES, errno.EPERM, errno.EROFS}
    on_disk = escaped(user.isolated_map(), store(shared).layer(map_name, name))
    through_view = escaped(user.isolated_map(), f"{view}/{name}")
    assert on_disk[0] == through_view[0] == errno.EACCES
    assert set(on_disk) <= refused
    assert set(through_view) <= refused
    # the ids are right, so a writable view would have let it
    assert errno.EROFS in through_view


def test_layer_opens_for_nobody_on_the_way_to_it(shared: Engine, image: str) -> None:
    assert run(shared, image, "true").code == 0
    for path in (shared.state, Path(store(shared).layers), Path(f"{paths.VIEWS}/{os.getuid()}")):
        assert path.stat().st_mode & 0o007 == 0
    assert Path(f"{paths.VIEWS}/{os.getuid()}").stat().st_uid == 0


def test_nobody_but_root_may_mount_or_name_a_view(shared: Engine) -> None:
    with pytest.raises(PermissionError):
        os.mkdir(f"{paths.VIEWS}/{os.getuid()}/planted")
    with pytest.raises(PermissionError):
        os.rename(f"{paths.VIEWS}/{os.getuid()}", f"{paths.VIEWS}/planted")


def test_without_views_each_build_user_has_a_copy_and_is_told_what_would_share_it(tmp_path: Path, image: str) -> None:
    engine = Engine(tmp_path / "alone")
    first, second = (run(engine, image, "cat /data/file", "--build-user", name) for name in ("one", "two"))
    assert first.out == second.out != ""
    assert "dockless setup" not in first.err
    assert "after `dockless setup` (once, as root) all share one copy" in second.err
    found = records.find(store(engine), image)
    assert found
    assert len([name for name in layers.maps(store(engine)) if layer_names.find(store(engine), name, found.layers, 1)]) == 2
