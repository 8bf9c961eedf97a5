"""The guest of `./dev vm`: what set-up may change of it, its shared layers, and `dockless` on it as root and as the account."""

import hashlib
import json
import os
import pwd
import stat
import subprocess
from pathlib import Path

from runner import paths
from runner.image import layer_names
from runner.image import views as image_views
from runner.kernel import accounts
from runner.model import Account, IdMap
from tests.support import images
from tests.support.engine import Result

ACCOUNT = "dockless"
PROGRAM = "/usr/local/bin/dockless"
BALLAST_BYTES = 8 * 1024**2  # of the image: a second copy of it would be seen
KEPT = Path("/var/lib/guest")  # outlives a boot
_TREES = ("/etc", "/run/dockless", "/run/systemd/system", "/var/lib/systemd/linger", "/usr/local")
# what useradd and systemd leave behind when they change the files beside them, and the clock
_NOISE = ("/etc/passwd-", "/etc/shadow-", "/etc/group-", "/etc/gshadow-", "/etc/subuid-", "/etc/subgid-", "/etc/.pwd.lock", "/etc/adjtime")


def run(*argv: str, account: str = "root", timeout_s: float = 240) -> Result:
    """Run a program to its end, as root or as an account that has just logged in."""
    home = pwd.getpwnam(account).pw_dir
    user = ["setpriv", f"--reuid={account}", f"--regid={account}", "--clear-groups"] if account != "root" else []
    env = {"PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": home, "LC_ALL": "C.UTF-8"}
    done = subprocess.run([*user, *argv], env=env, cwd="/", capture_output=True, text=True, timeout=timeout_s, check=False)
    return Result(done.returncode, done.stdout, done.stderr)


def dockless(*arguments: str, account: str = "root") -> Result:
    """Run dockless, which must succeed."""
    result = run(PROGRAM, *arguments, account=account)
    assert result.code == 0, result.out + result.err
    return result


def snapshot() -> dict[str, str]:
    """Return everything that set-up might change: files with owner, mode and contents, mounts, and what systemd would start."""
    found = {f"mount {where}": what for where, what in mounts().items()}
    for tree in _TREES:
        found |= contents(tree)
    return {name: what for name, what in found.items() if name not in _NOISE}


def contents(tree: str) -> dict[str, str]:
    """Return every file of a tree with owner, mode and contents; what is mounted in it belongs to somebody else."""
    found = {tree: _described(tree)} if os.path.isdir(tree) else {}
    for directory, subdirectories, names in os.walk(tree):
        found |= {path: _described(path) for path in (f"{directory}/{name}" for name in (*subdirectories, *names))}
        subdirectories[:] = [name for name in subdirectories if not os.path.ismount(f"{directory}/{name}")]
    return found


def _described(path: str) -> str:
    status = os.lstat(path)
    contents = ""
    if stat.S_ISLNK(status.st_mode):
        contents = os.readlink(path)
    elif stat.S_ISREG(status.st_mode):
        contents = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    return f"{status.st_mode:o} {status.st_uid}:{status.st_gid} {contents}"


def mounts() -> dict[str, str]:
    """Return the file system and the options of every mount, by its place."""
    lines = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return {line[4]: f"{line[5]} {line[line.index('-') + 1]}" for line in lines}


def keep(name: str, value: object) -> None:
    """Write something down for tests of the next boot."""
    (KEPT / f"{name}.json").write_text(json.dumps(value))


def kept(name: str) -> dict[str, str]:
    """Return what was written down."""
    value: dict[str, str] = json.loads((KEPT / f"{name}.json").read_text())
    return value


def difference(before: dict[str, str], after: dict[str, str]) -> dict[str, tuple[str | None, str | None]]:
    """Return what differs between two snapshots, with how it was and how it is."""
    return {name: (before.get(name), after.get(name)) for name in sorted({*before, *after}) if before.get(name) != after.get(name)}


def account() -> Account:
    """Return the account, which set-up has made."""
    found = accounts.find(ACCOUNT)
    assert found is not None
    return found


def store() -> paths.Store:
    """Return the account's store."""
    return paths.Store(paths.state_directory(account().home, {}))


def shared_layers() -> str:
    """Return the directory of the layers that all build users share."""
    shared = image_views.shared_map(store())
    assert shared is not None
    return store().layer_map(layer_names.map_name(shared))


def layers() -> dict[str, int]:
    """Return the inode of every unpacked layer in the store, whoever may use it, by "map/name"."""
    found = (path for path in Path(store().layers).glob("*/*") if path.is_dir() and not path.name.startswith("."))
    return {f"{path.parent.name}/{path.name}": path.stat().st_ino for path in found}


def disk_use() -> int:
    """Return how many bytes of the disk the store takes."""
    root = store().root
    entries = (f"{directory}/{name}" for directory, subdirectories, names in os.walk(root) for name in (*subdirectories, *names))
    # links are counted once
    return sum({info.st_ino: info.st_blocks * 512 for info in map(os.lstat, entries)}.values())


def views() -> dict[str, str]:
    """Return the options of every view's mount, by its place."""
    return {where: what for where, what in mounts().items() if where.startswith(f"{paths.VIEWS}/")}


def view_of(id_map: IdMap) -> str:
    """Return where the layers are shown with the ids of a map."""
    return paths.view(account().uid, os.stat(shared_layers()), layer_names.map_name(id_map))


def make_image() -> str:
    """Return the name of an image on the disk, made at the first call: busybox, and a layer with /etc/hello and /ballast."""
    layout = Path("/srv/image")
    if not layout.exists():
        second = [images.file("etc/hello", b"hello\n"), images.file("ballast", os.urandom(BALLAST_BYTES))]
        images.write_oci_layout(layout, images.build_image([images.busybox_layer(), second], compression="none"), "v1")
    return f"oci:{layout}:v1"


def run_in_image(build_user: str, script: str) -> str:
    """Run a script in a container of the image, as the account, and return what it prints."""
    argv = ("run", "--image", make_image(), "--build-user", build_user, "--", "sh", "-ec", script)
    return dockless(*argv, account=ACCOUNT).out
