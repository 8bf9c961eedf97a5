"""A stored image to a registry, by skopeo: `dockless push`.

Uploads, their sessions and the many ways in which registries do them are skopeo's business; we show it verified blobs, the one set of
credentials that it needs, and what our configuration says about the registry.
"""

import os

from runner import errors
from runner.config import Settings
from runner.image import auth, dir_transport, images, reference, upload_place
from runner.image.challenge import is_loopback
from runner.job.surroundings import Surroundings
from runner.kernel import files, locks, process
from runner.model import Reference
from runner.sandbox import engine_files

_PASSED_ON = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR")


def run(name: str, destination: str, around: Surroundings, *, keychain: auth.Keychain, environ: dict[str, str]) -> int:
    """Copy the stored image `name` to the registry that `destination` names; return skopeo's exit code, its output is passed on.

    Blobs that are there already are not sent. UserError for an image that is not stored, or not whole, and for a registry that refuses
    uploads or sends them elsewhere; InfraError without skopeo, and when the registry cannot be asked.
    """
    ref = reference.parse(destination.removeprefix("docker://"))
    if ref.digest:
        raise errors.UserError(f"cannot push to {destination}: a digest is what comes of an image", "name a tag")
    try:
        process.find("skopeo")
    except FileNotFoundError as e:
        raise errors.InfraError("skopeo is not installed, which pushes images", "apt-get install --no-install-recommends skopeo") from e
    image = images.find(around.store, name)
    if image is None or image.source == images.TOOLBOX:
        raise errors.UserError(f"image {name} is not in the store", "`dockless images` lists what is")
    upload_place.check(ref, settings=around.settings, keychain=keychain)
    found = keychain.lookup(ref)
    logins = [engine_files.Login(ref.registry, found.username, found.password, found.identity_token)] if found else []
    key = f"push-{os.getpid()}-{os.urandom(3).hex()}"
    directory = around.store.job(key)
    lock = locks.take(around.store.job_lock(key))  # without it the next job's reaper removes the directory
    secret = os.memfd_create("auth.json")
    try:
        files.make_directory(directory)
        dir_transport.link(around.store, image, f"{directory}/image")
        certificates = _certificates(around.settings, ref.registry, f"{directory}/certificates")
        os.write(secret, engine_files.auth_file(logins).encode())
        env = process.minimal_env(**{variable: environ[variable] for variable in _PASSED_ON if variable in environ})
        argv = arguments(ref, f"{directory}/image", certificates=certificates, settings=around.settings)
        return process.run_in_foreground(argv, env=env, stdin=secret)
    finally:
        os.close(secret)
        files.remove_tree(directory)
        files.remove_tree(around.store.job_lock(key))
        os.close(lock)


def arguments(ref: Reference, directory: str, *, certificates: str, settings: Settings) -> list[str]:
    """Return the command line; credentials are on its stdin, which is a file and not a pipe. `certificates` is a directory or ""."""
    argv = ["skopeo", "copy", "--insecure-policy", "--dest-authfile=/dev/stdin"]
    if certificates:
        argv.append(f"--dest-cert-dir={certificates}")
    elif settings.registry(ref.registry).plain_http or is_loopback(_host(ref.registry)):
        argv.append("--dest-tls-verify=false")  # as for pulls; skopeo tries https first
    return [*argv, f"dir:{directory}", f"docker://{ref}"]


def _host(registry: str) -> str:
    host, colon, port = registry.rpartition(":")
    return host if colon and port.isdigit() else registry


def _certificates(settings: Settings, registry: str, directory: str) -> str:
    """Make a directory with the CAs of a registry, as containers-certs.d(5) has it; "" when it has none of its own."""
    only = settings._replace(registries=((registry, settings.registry(registry)),))
    text = engine_files.authorities(only).get(registry)
    if text is None:
        return ""
    os.mkdir(directory)
    files.write_atomic(f"{directory}/ca.crt", text.encode(), durable=False)
    return directory
