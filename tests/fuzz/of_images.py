"""Targets for what registries and images say: names, manifests, configs, challenges, compression, archives."""

import hashlib
import io
import json
import os
import tempfile
import urllib.parse

from runner import registry_name
from runner.errors import UserError
from runner.image import auth, bounds, challenge, decompress, image_config, manifest, platforms, reference, tar, unpack
from runner.kernel import files
from tests.fuzz import expect

_LARGEST = 32 * 1024**2  # of what one input may be unpacked to


def references(data: bytes) -> None:
    """Names of images: what is accepted reads back as itself, from each of its spellings, and names no option and no path upwards."""
    name = expect.text(data)
    canonical = expect.refused(lambda: reference.canonical(name))
    if canonical is not None:
        assert reference.canonical(canonical) == canonical
    found = expect.refused(lambda: reference.parse(name))
    if found is None:
        return
    for spelling in (str(found), reference.familiar(found)):
        assert reference.parse(spelling) == found, spelling
    assert registry_name.is_valid(found.registry) and registry_name.is_repository(found.repository)
    assert str(found).isascii() and str(found).isprintable() and " " not in str(found) and not str(found).startswith("-")
    assert ".." not in found.repository.split("/") and not found.repository.startswith("/")


def registries(data: bytes) -> None:
    """Names of registries, URLs of mirrors and platforms, as people configure them: normal forms stay."""
    written = expect.text(data)
    for normal in (registry_name.of_setting, registry_name.mirror):
        found = expect.refused(lambda normal=normal: normal(written))  # type: ignore[misc]
        assert found is None or normal(found) == found
    platform = expect.refused(lambda: platforms.parse(written))
    assert platform is None or platforms.parse(str(platform)) == platform
    expect.refused(lambda: auth.registry_path(written))


def manifests(data: bytes) -> None:
    """Manifests and indexes: the first line is what the registry calls them."""
    kind, _, raw = data.partition(b"\n")
    found = expect.refused(lambda: manifest.parse(raw, kind.decode("latin-1"), "image x"))
    if found is None:
        return
    blobs = [entry.blob for entry in found.entries] if isinstance(found, manifest.Index) else [found.config, *found.layers]
    assert len(blobs) <= manifest.MAX_ENTRIES
    assert all(reference.is_digest(blob.digest) and 0 <= blob.size <= 2**40 for blob in blobs)
    if isinstance(found, manifest.Index):
        expect.refused(lambda: manifest.choose(found, platforms.host(), "image x"))


def image_configs(data: bytes) -> None:
    """Config blobs: all that is kept can be given to a process."""
    found = expect.refused(lambda: image_config.parse(data, "image x"))
    if found is None:
        return
    config = found.config
    environment = [word for pair in config.env for word in pair]
    assert expect.is_encodable(*config.entrypoint, *config.cmd, *environment, config.working_dir, config.user, *config.volumes)
    for path in (*config.volumes, *filter(None, [config.working_dir])):
        assert path.startswith("/") and ".." not in path.split("/") and not path.startswith("//")
    assert all(reference.is_digest(digest) for digest in found.diff_ids)
    check = config.healthcheck
    assert 0 < check.retries <= 1000 and 0 < check.interval_s <= 86400 and 0 < check.timeout_s <= 86400
    json.dumps(found)  # it is kept as JSON


def challenges(data: bytes) -> None:
    """WWW-Authenticate headers: no credentials leave for where they must not, and only our own scope is asked for."""
    header = data.decode("latin-1")
    # names would be looked up in the network's DNS: addresses are what is judged here
    for found in challenge.parse(header):
        realm = found.parameters.get("realm", "")
        host = _host_of(realm)
        if not (host.replace(".", "").isdigit() or ":" in host):
            continue
        url = expect.refused(lambda found=found: challenge.token_url(found, registry_url="http://8.8.8.8/", repository="a/b"))  # type: ignore[misc]
        if not url:
            continue
        parts = urllib.parse.urlsplit(url)
        asked = urllib.parse.parse_qsl(parts.query)
        assert [value for name, value in asked if name == "scope"] == ["repository:a/b:pull"]
        assert parts.username is None and parts.password is None and not any(character <= " " for character in url)
        assert parts.scheme == "https" or (parts.scheme, parts.hostname) == ("http", "8.8.8.8")
        assert challenge.reach(parts.hostname or "") is challenge.Reach.PUBLIC


def _host_of(url: str) -> str:
    try:
        return urllib.parse.urlsplit(url).hostname or ""
    except ValueError:
        return ""


def compressed(data: bytes) -> None:
    """Blobs of layers: pieces of bounded size, or a sentence that says what is wrong."""

    def read() -> int:
        total = 0
        for chunk in decompress.chunks(io.BytesIO(data)):
            assert 0 < len(chunk) <= decompress.CHUNK_BYTES
            total += len(chunk)
            if total > _LARGEST:
                break
        return total

    expect.refused(read, decompress.Malformed)


def archives(data: bytes) -> None:
    """Archives: the same members whatever the pieces in which they come, with numbers in their bounds and content inside of the file."""
    raw = expect.with_checksums(data)
    outcomes = {_listed(raw, size) for size in (len(raw) or 1, 512, 37)}
    assert len(outcomes) == 1, outcomes


def _listed(raw: bytes, size: int) -> str:
    """Return a digest of everything that a reader tells of an archive that comes in pieces."""
    told = hashlib.sha256()
    reader = tar.Reader(raw[at : at + size] for at in range(0, len(raw), size))
    try:
        while member := reader.next():
            assert b"\0" not in member.path + member.link
            assert 0 <= member.mode <= 0o7777 and member.uid >= 0 and member.gid >= 0 and 0 <= member.size < 2**63
            told.update(repr(member).encode())
            end = 0
            for offset, piece in reader.content(member):
                assert piece and offset >= end and offset + len(piece) <= member.size
                end = offset + len(piece)
                told.update(piece)
    except tar.Malformed as e:
        told.update(str(e).encode())
    return told.hexdigest()


def layers(data: bytes) -> None:
    """Archives unpacked into a directory, twice, as root of a user namespace: nothing beside it changes, and bounds hold."""
    raw = expect.with_checksums(data)
    with tempfile.TemporaryDirectory(prefix="dockless-fuzz-") as scratch:
        os.mkdir(f"{scratch}/outside", 0o755)
        with open(f"{scratch}/outside/file", "w", encoding="utf-8") as file:
            file.write("untouched")
        os.mkdir(f"{scratch}/layer", 0o755)
        before = _seen(f"{scratch}/outside")
        root = os.open(f"{scratch}/layer", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        limits = bounds.Bounds(members=300, total_bytes=4 * 1024**2, names_bytes=64 * 1024, reserve_bytes=0)
        try:
            for _ in range(2):  # over what the first left: its links are then in the second one's way
                try:
                    unpack.Tree(root, "layer 1", limits).fill(raw[at : at + 4096] for at in range(0, len(raw), 4096))
                except UserError as e:
                    assert e.hint
                if sum(len(names) + len(others) for _, names, others in os.walk(f"{scratch}/layer")) > limits.members:
                    raise AssertionError("more was unpacked than the bound says")
        finally:
            os.close(root)
            assert sorted(os.listdir(scratch)) == ["layer", "outside"]
            assert _seen(f"{scratch}/outside") == before
            files.remove_tree(f"{scratch}/layer")


def _seen(directory: str) -> list[tuple[str, int, int, int, int, int]]:
    """Return what anybody could have changed of a directory and of what is in it."""
    paths = [directory, *(f"{directory}/{name}" for name in sorted(os.listdir(directory)))]
    stats = [(path, os.lstat(path)) for path in paths]
    return [(path, info.st_mode, info.st_uid, info.st_nlink, info.st_size, info.st_mtime_ns) for path, info in stats]
