"""What a hostile script tries inside a container, as one program: it prints what came of each attempt, as JSON. For the toolbox's Python.

Numbers of system calls are those of x86-64; on other machines that part is left out. An attempt that gets through yields "" and one that
does not the name of the errno.
"""

import ctypes
import errno
import json
import mmap
import os
import resource
import stat
import subprocess
import sys
from collections.abc import Callable

LIBC = ctypes.CDLL(None, use_errno=True)
X32 = 0x40000000
NEWUSER = 0x10000000
CALLS = {
    "unshare": (272, NEWUSER), "unshare mounts": (272, 0x20000), "unshare time": (272, 0x80), "unshare network": (272, 0x40000000),
    "unshare x32": (272 | X32, NEWUSER), "unshare files": (272, 0x400), "clone3": (435, 0, 0), "setns": (308, 0, 0),
    "mount": (165, 0, 0, 0, 0, 0), "umount2": (166, 0, 0), "pivot_root": (155, 0, 0), "fsopen": (430, 0, 0), "fsmount": (432, 0, 0, 0),
    "open_tree": (428, 0, 0, 0), "move_mount": (429, 0, 0, 0, 0, 0), "mount_setattr": (442, 0, 0, 0, 0, 0), "bpf": (321, 0, 0, 0),
    "io_uring_setup": (425, 0, 0), "io_uring_enter": (426, 0, 0, 0, 0, 0), "io_uring_register": (427, 0, 0, 0, 0),
    "perf_event_open": (298, 0, 0, 0, 0, 0), "userfaultfd": (323, 0), "modify_ldt": (154, 0, 0, 0), "keyctl": (250, 0, -3, 1),
    "request_key": (249, 0, 0, 0, 0), "TIOCSTI": (16, 99, 0x5412, 0), "TIOCSTI high": (16, 99, 0x100005412, 0),
    "TIOCLINUX": (16, 99, 0x541C, 0), "TIOCGWINSZ": (16, 99, 0x5413, 0), "init_module": (175, 0, 0, 0), "kexec_load": (246, 0, 0, 0, 0),
    "open_by_handle_at": (304, 0, 0, 0), "iopl": (172, 3), "reboot": (169, 0, 0, 0),
}  # fmt: skip


def said(function: Callable[..., object], *arguments: object) -> str:
    try:
        function(*arguments)
    except OSError as e:
        return errno.errorcode[e.errno or 0]
    return ""


def call(number: int, *arguments: int) -> str:
    result = LIBC.syscall(number, *[ctypes.c_ulong(argument % 2**64) for argument in arguments])
    return "" if result >= 0 else errno.errorcode[ctypes.get_errno()]


def clone(flags: int) -> str:
    result = LIBC.syscall(56, ctypes.c_ulong(flags | 17), 0, 0, 0, 0)
    if result == 0:
        os._exit(0)
    return "" if result > 0 else errno.errorcode[ctypes.get_errno()]


def by_32_bits(number: int, argument: int) -> str:
    """Make a call by int 0x80, as programs of 32 bits do."""
    code = b"\x53\xb8" + number.to_bytes(4, "little") + b"\xbb" + argument.to_bytes(4, "little") + b"\xcd\x80\x5b\xc3"
    memory = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    memory.write(code)
    pid = os.fork()
    if pid == 0:
        result = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(memory)))()
        os._exit(-result if -100 < result < 0 else 0)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return "no such calls" if status < 0 else errno.errorcode.get(status, "")


def write(path: str) -> None:
    os.close(os.open(path, os.O_WRONLY))


def kind(path: str) -> str:
    """Say what is at a path: nothing, a null device, an empty directory that nobody writes to, or something."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return "nothing"
    if stat.S_ISDIR(found.st_mode):
        read_only = os.statvfs(path).f_flag & os.ST_RDONLY
        return "empty" if not os.listdir(path) and read_only else "directory"
    return "null" if stat.S_ISCHR(found.st_mode) and found.st_rdev == os.makedev(1, 3) else "file"


def sockets() -> list[str]:
    found = []
    for top, directories, names in os.walk("/"):
        if top == "/":
            directories[:] = [name for name in directories if name not in ("proc", "sys", "usr")]
        for name in names:
            path = f"{top}/{name}"
            if stat.S_ISSOCK(os.lstat(path).st_mode):
                found.append(path)
    with open("/proc/net/unix", encoding="ascii") as file:
        found += [line.split()[-1] for line in file.read().splitlines()[1:] if len(line.split()) > 7]
    return found


def writable(top: str, names: tuple[str, ...] = ()) -> list[str]:
    """Return the files below a directory that can be opened for writing."""
    paths = [f"{directory}/{name}" for directory, _, files in os.walk(top) for name in files if not names or name in names]
    return [path for path in paths if not said(write, path)]


def typed(words: bytes) -> str:
    """Make standard input the terminal of a session of our own, and type into it for whoever reads there next."""
    pid = os.fork()
    if pid == 0:
        os.setsid()
        LIBC.ioctl(0, ctypes.c_ulong(0x540E), 0)  # TIOCSCTTY
        results = [LIBC.ioctl(0, ctypes.c_ulong(0x5412), bytes([byte])) for byte in words]
        os._exit(ctypes.get_errno() if any(results) else 0)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return errno.errorcode.get(status, "")


def command(*argv: str) -> str:
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    return "" if done.returncode == 0 else done.stdout


def main() -> None:
    masked = json.loads(sys.argv[1])
    with open("/proc/self/cgroup", encoding="ascii") as file:
        groups = [line.split(":", 2)[2] for line in file.read().splitlines()]
    with open("/proc/1/environ", encoding="utf-8") as file:
        first = file.read()
    with open("/proc/self/stat", encoding="ascii") as file:
        terminal = int(file.read().rpartition(")")[2].split()[4])
    found = {
        "masked": {path: kind(path) for path in masked},
        "read-only": {path: bool(os.statvfs(path).f_flag & os.ST_RDONLY) for path in json.loads(sys.argv[2]) if os.path.exists(path)},
        "settings": {name: said(write, f"/proc/{name}") for name in ("sys/kernel/core_pattern", "sysrq-trigger", "sys/vm/drop_caches")},
        "sys": writable("/sys/kernel"),
        "network devices": writable("/sys/class/net/lo/", ("mtu",)),
        "cgroups": writable("/sys/fs/cgroup"),
        "cgroup directory": said(os.mkdir, "/sys/fs/cgroup/evil"),
        "groups": groups,
        "mounted groups": command("mount", "-t", "cgroup", "-o", "memory", "none", "/mnt"),
        "sockets": sockets(),
        "environment": dict(os.environ),
        "environment of 1": first,
        "processes": sorted(int(name) for name in os.listdir("/proc") if name.isdigit()),
        "root of 1": os.stat("/proc/1/root/").st_ino == os.stat("/").st_ino,
        "terminal": terminal,
        "typed": typed(b"touch /evil\n"),
        "descriptors": sorted(os.listdir("/proc/self/fd")),
        "helpers": {path: said(write, path) for path in ("/proc/self/exe", "/.dockless-init", "/usr/bin/env")},
        "remount": {
            path: command("mount", "-o", "remount,bind,rw", path) for path in ("/usr", "/proc/sys", "/sys", "/sys/fs/cgroup")
        },
        "unmasked": {path: command("umount", path) for path in ("/proc/keys", "/proc/sys", "/usr", "/proc")},
        "mounted over": command("mount", "-t", "proc", "proc", "/proc"),
        "core": resource.getrlimit(resource.RLIMIT_CORE),
        "keys": sum(call(248, 0, 0, 0, 0, -3) == "" for _ in range(1000)),
        "thread": clone(0),
    }  # fmt: skip
    if os.uname().machine == "x86_64":
        found["calls"] = {name: call(*arguments) for name, arguments in CALLS.items()}
        found["clone"] = {hex(flag): clone(flag) for flag in (0x20000, 0x02000000, 0x04000000, 0x08000000, NEWUSER, 0x20000000, 0x40000000)}
        found["32 bits"] = {"unshare": by_32_bits(310, NEWUSER), "mount": by_32_bits(21, 0), "io_uring_setup": by_32_bits(425, 0)}
    shm = 0
    with open("/dev/shm/fill", "wb") as file:
        try:
            while shm < 128:
                file.write(bytes(1024**2))
                file.flush()
                shm += 1
        except OSError as e:
            found["shm"] = [shm, errno.errorcode[e.errno or 0]]
    found.setdefault("shm", [shm, ""])
    os.unlink("/dev/shm/fill")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
