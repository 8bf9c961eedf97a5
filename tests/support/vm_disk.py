"""The disks of the virtual machine of `./dev vm`: a Debian 12 of its own with the stock kernel, and the checkout with its Python packages.

python -m tests.support.vm_disk DIRECTORY PACKAGE…

Run as root. The system is made once for a list of packages and the text of this file; its kernel and its initrd are kept beside it. What
the machine does when it is up lies in the checkout (tests/vm/guest.sh), so that a change there makes no new system.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from runner.kernel import process

SUITE = "bookworm"
# what an installed Debian has and its smallest variant has not
_BASE = ("systemd-sysv", "dbus", "udev", "initramfs-tools", "ca-certificates")
_KERNEL = "linux-image-cloud-amd64"
_SYSTEM_MIB, _PAYLOAD_SPARE_MIB = 3072, 64
_FILES = {
    "etc/fstab": "/dev/vda / ext4 defaults,noatime 0 0\n/dev/vdb {base} ext4 ro,noatime 0 0\n",
    "etc/hostname": "guest\n",
    "etc/hosts": "127.0.0.1 localhost guest\n",
    "etc/resolv.conf": "nameserver 192.0.2.53\n",
    # only what the disks need: an initrd with everything takes emulated processors seconds to unpack
    "etc/initramfs-tools/conf.d/small": "MODULES=list\nCOMPRESS=lz4\n",
    "etc/initramfs-tools/modules": "virtio_pci\nvirtio_blk\n",
    # behind the machine's own boot, as whatever comes after it
    "etc/systemd/system/guest.target": "[Unit]\nRequires=multi-user.target\nAfter=multi-user.target\nWants=guest.service\n",
    "etc/systemd/system/guest.service": (
        "[Unit]\nAfter=multi-user.target\nFailureAction=poweroff\n\n"
        "[Service]\nType=oneshot\nTimeoutStartSec=infinity\nExecStart=/bin/sh {base}/tree/tests/vm/guest.sh {base}\n"
    ),
}
# nobody logs in, and there is no network to wait for
_MASKED = ("getty@tty1", "serial-getty@ttyS0", "apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "fstrim.timer",
           "e2scrub_all.timer", "e2scrub_reap", "systemd-timesyncd")  # fmt: skip


def main(directory: Path, packages: Sequence[str]) -> None:
    """Make `system.ext4`, `vmlinuz` and `initrd.img` if they are not there, and `payload.ext4` in any case."""
    base = directory.parent
    directory.mkdir(exist_ok=True)
    key = hashlib.sha256(repr((Path(__file__).read_text(), str(base), *packages)).encode()).hexdigest()
    made = directory / "made-from"
    if not made.exists() or made.read_text() != key:
        made.unlink(missing_ok=True)
        _make_system(directory, base, packages)
        made.write_text(key)
    _make_payload(directory, base)


def _make_system(directory: Path, base: Path, packages: Sequence[str]) -> None:
    print("vm: making a Debian for the guest, which takes two minutes and is kept", file=sys.stderr)
    root = directory / "root"
    shutil.rmtree(root, ignore_errors=True)
    _run("debootstrap", "--variant=minbase", f"--include={','.join(_BASE)}", SUITE, str(root), *_mirror())
    for name, text in _FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)  # it may be a link
        path.write_text(text.format(base=base))
    _install(root, (_KERNEL, *packages))
    for name in _MASKED:
        unit = name if name.endswith(".timer") else f"{name}.service"
        (root / "etc/systemd/system" / unit).unlink(missing_ok=True)
        (root / "etc/systemd/system" / unit).symlink_to("/dev/null")
    (root / base.relative_to("/")).mkdir(parents=True, exist_ok=True)
    shutil.rmtree(root / "var/lib/apt/lists")
    for name in ("vmlinuz", "initrd.img"):
        shutil.copyfile(root / name, directory / name)
    _make_file_system(directory / "system.ext4", root, mib=_SYSTEM_MIB)
    shutil.rmtree(root)


def _mirror() -> tuple[str, ...]:
    """Return the mirror that this machine itself uses; debootstrap knows one if it has none."""
    wanted = ("--format", "$(REPO_URI)", f"Codename: {SUITE}", "Component: main", "Created-By: Packages")
    found = subprocess.run(("apt-get", "indextargets", *wanted), capture_output=True, text=True, check=True).stdout.split()
    return tuple(found[:1])


def _install(root: Path, packages: Sequence[str]) -> None:
    """Install packages with apt in the new system: debootstrap knows no alternatives among dependencies."""
    policy = root / "usr/sbin/policy-rc.d"
    resolver = root / "etc/resolv.conf"
    guests = resolver.read_text()
    with ExitStack() as stack:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
        stack.callback(policy.unlink)
        resolver.write_bytes(Path("/etc/resolv.conf").read_bytes())
        stack.callback(resolver.write_text, guests)
        _in_root(root, "apt-get", "-q", "update")
        _in_root(root, "apt-get", "-q", "-y", "--no-install-recommends", "install", *packages)
        _in_root(root, "apt-get", "clean")


def _in_root(root: Path, *argv: str) -> None:
    """Run a program in the new system, in namespaces that take its mounts and whatever it starts away with it."""
    proxies = {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}
    env = {"PATH": process.TRUSTED_PATH, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8", **proxies}
    _run("unshare", "--mount", "--pid", "--fork", f"--root={root}", "--mount-proc", *argv, env=env)


def _make_payload(directory: Path, base: Path) -> None:
    """Write what is mounted at the same place in the guest: everything of `base` but the disks."""
    stage = directory / "payload"
    shutil.rmtree(stage, ignore_errors=True)
    stage.mkdir()
    for entry in base.iterdir():
        if entry != directory:
            _run("cp", "-a", str(entry), str(stage))
    used = int(subprocess.run(("du", "-sm", str(stage)), capture_output=True, text=True, check=True).stdout.split()[0])
    _make_file_system(directory / "payload.ext4", stage, mib=used + used // 4 + _PAYLOAD_SPARE_MIB)
    shutil.rmtree(stage)


def _make_file_system(image: Path, root: Path, *, mib: int) -> None:
    image.unlink(missing_ok=True)
    _run("mkfs.ext4", "-q", "-F", "-d", str(root), "-m", "0", "-E", "lazy_itable_init=1", str(image), f"{mib}M")


def _run(*argv: str, env: dict[str, str] | None = None) -> None:
    """Run a program; what it says is shown only if it fails."""
    done = subprocess.run(argv, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        sys.stderr.buffer.write(done.stdout[-20_000:])
        raise SystemExit(f"vm: error: {' '.join(argv[:3])} ended with {done.returncode}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
