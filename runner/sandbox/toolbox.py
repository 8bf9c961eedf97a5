"""The toolbox: a root file system made of the host's own read-only /usr, so that a container needs no image at all.

Only public directories are shown: /usr, the certificate store, the alternatives' links, and the loader's cache. Everything in /etc that
could tell about the host is written anew. Files of the host belong to nobody inside, so its setuid programs have no power there.
"""

import os

from runner import model

IMAGE = "toolbox"

CONFIG = model.ImageConfig(
    cmd=("/bin/bash",),
    env=(("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"), ("LANG", "C.UTF-8")),
    working_dir="/",
)

_PASSWD = (
    "root:x:0:0:root:/root:/bin/bash\n"
    "daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\n"
    "www-data:x:33:33:www-data:/var/www:/usr/sbin/nologin\n"
    "user:x:1000:1000:user:/home/user:/bin/bash\n"
    "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
)
_GROUP = "root:x:0:\ndaemon:x:1:\ntty:x:5:\nwww-data:x:33:\nuser:x:1000:\nnogroup:x:65534:\n"
_NSSWITCH = "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nnetworks: files\nprotocols: files\nservices: files\n"

_DIRECTORIES = (
    ("usr", 0o755), ("etc", 0o755), ("etc/ssl", 0o755), ("etc/ssl/certs", 0o755), ("etc/alternatives", 0o755), ("proc", 0o755),
    ("sys", 0o755), ("dev", 0o755), ("run", 0o755), ("run/lock", 0o1777), ("tmp", 0o1777), ("var", 0o755), ("var/tmp", 0o1777),
    ("var/cache", 0o755), ("var/lib", 0o755), ("var/log", 0o755), ("root", 0o700), ("home", 0o755), ("mnt", 0o755), ("opt", 0o755),
    ("srv", 0o755),
    ("home/user", 0o777),  # the number of this user outside depends on the job's map; nobody else is here
)  # fmt: skip
_LINKS = (
    ("bin", "usr/bin"), ("sbin", "usr/sbin"), ("lib", "usr/lib"), ("lib32", "usr/lib32"), ("lib64", "usr/lib64"), ("libx32", "usr/libx32"),
    ("var/run", "/run"), ("var/lock", "/run/lock"), ("etc/os-release", "../usr/lib/os-release"), ("etc/mtab", "../proc/self/mounts"),
)  # fmt: skip
_FILES = (
    ("etc/passwd", _PASSWD), ("etc/group", _GROUP), ("etc/nsswitch.conf", _NSSWITCH), ("etc/ld.so.cache", ""),
    ("etc/ssl/openssl.cnf", ""), ("etc/shells", "/bin/sh\n/bin/bash\n"), ("etc/host.conf", "multi on\n"), ("etc/hostname", "job\n"),
    ("etc/hosts", ""), ("etc/resolv.conf", ""),
)  # fmt: skip
_COPIES = ("etc/services", "etc/protocols", "etc/debian_version", "etc/mime.types")
_BINDS = ("/usr", "/etc/ssl/certs", "/etc/ssl/openssl.cnf", "/etc/alternatives", "/etc/ld.so.cache")


def furnish(directory: str, *, owner: tuple[int, int]) -> None:
    """Fill the new directory `directory` with the toolbox's own small files, all owned by `owner` (uid, gid as the caller sees them)."""
    os.mkdir(directory, 0o755)
    made = [directory]
    for name, mode in _DIRECTORIES:
        os.mkdir(f"{directory}/{name}")
        os.chmod(f"{directory}/{name}", mode)
        made.append(f"{directory}/{name}")
    for name, target in _LINKS:
        if name.startswith("lib") and not os.path.isdir(f"/{target}"):
            continue
        os.symlink(target, f"{directory}/{name}")
        made.append(f"{directory}/{name}")
    files = [(name, text.encode()) for name, text in _FILES]
    for name in _COPIES:
        try:
            with open(f"/{name}", "rb") as file:
                files.append((name, file.read(1024**2)))
        except OSError:
            continue  # not on this host: not in the toolbox either
    for name, data in files:
        with open(f"{directory}/{name}", "wb") as file:
            file.write(data)
        made.append(f"{directory}/{name}")
    for path in made:
        os.chown(path, *owner, follow_symlinks=False)


def volumes() -> tuple[model.Volume, ...]:
    """Return what of the host a toolbox shows, read-only."""
    return tuple(model.Volume(path, path, read_only=True) for path in _BINDS if os.path.exists(path))
