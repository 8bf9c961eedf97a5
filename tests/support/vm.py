"""`./dev vm`: boot the virtual machine, show what its tests say, and end as they do.

python -m tests.support.vm DIRECTORY

The disks are those of vm_disk. The processors are emulated, so /dev/kvm is not needed; there is no network device; what the guest writes to
its disk is forgotten at the end, but not when it boots again. Its first serial port is the console, which goes to a file; the second has
what the tests say, and as its last line the verdict.
"""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from pathlib import Path

TIMEOUT_S = 1800  # four minutes on an idle machine with two processors
_VERDICT = b"guest: exit "
_KERNEL_LINE = "root=/dev/vda rw console=ttyS0 quiet systemd.unit=guest.target systemd.show_status=no mitigations=off panic=1"


def argv(directory: Path, console: Path) -> list[str]:
    """Return qemu's command line: two processors, and every write into a file that qemu has already unlinked."""
    return [
        "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-nic", "none",
        "-machine", "q35", "-accel", "tcg,thread=multi,tb-size=512", "-cpu", "max", "-smp", "2", "-m", "3G",
        "-kernel", str(directory / "vmlinuz"), "-initrd", str(directory / "initrd.img"), "-append", _KERNEL_LINE,
        "-drive", f"file={directory}/system.ext4,format=raw,if=virtio,snapshot=on,cache=unsafe",
        "-drive", f"file={directory}/payload.ext4,format=raw,if=virtio,read-only=on",
        "-serial", f"file:{console}", "-serial", "stdio",
    ]  # fmt: skip


def main(directory: Path) -> int:
    """Run the guest to its end; return the tests' exit code, 1 for a guest that came to no verdict in time."""
    with tempfile.TemporaryDirectory(prefix="dockless-vm-") as temporary:
        console = Path(temporary) / "console"
        began = time.monotonic()
        # a group of its own: an interrupt at the terminal is ours, and we end it
        qemu = subprocess.Popen(
            argv(directory, console),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            process_group=0,
            env={**os.environ, "TMPDIR": temporary},
        )
        overtime = threading.Timer(TIMEOUT_S, qemu.kill)
        overtime.start()
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # by way of the `finally` below
        try:
            assert qemu.stdout
            verdict = show(qemu.stdout)
            qemu.wait()
        finally:
            overtime.cancel()
            qemu.kill()
            qemu.wait()
        took = time.monotonic() - began
        print(f"vm: {took:.0f} s", file=sys.stderr)
        if verdict is not None:
            return verdict
        why = f"it was killed after {TIMEOUT_S} s" if qemu.returncode == -signal.SIGKILL else f"qemu ended with {qemu.returncode}"
        said = console.read_bytes()[-5000:].decode(errors="replace") if console.exists() else ""
        print(f"{said}\nvm: error: the guest came to no verdict: {why}; above is the end of its console", file=sys.stderr)
        return 1


def show(lines: Iterable[bytes]) -> int | None:
    """Pass on what the guest says, and return its verdict: the number of the last line, None if there was none."""
    verdict = None
    for line in lines:
        line = line.replace(b"\r\n", b"\n")
        if line.startswith(_VERDICT):
            verdict = int(line.removeprefix(_VERDICT))
            continue
        sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()
    return verdict


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
