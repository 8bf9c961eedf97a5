"""An image from a Dockerfile: the host's buildah in a toolbox of its own, over storage that its build user keeps; `dockless build`.

What buildah makes leaves the toolbox as files, which become an OCI image layout, and enters the store as every other image does: every
digest is checked. Where the build's image is in the store already, nothing is copied at all.
"""

import os
from typing import NamedTuple

from runner import errors, paths
from runner.image import dir_transport, images, reference
from runner.job import oneoff
from runner.job.state import JobState
from runner.job.surroundings import Surroundings
from runner.kernel import process
from runner.model import ContainerSpec, Image, JobSpec, Outcome, VolumeSpec
from runner.sandbox import build_users, engine_files, mounts

STORAGE = "buildah"  # of one map only, in which container root is the account: no other engine may use it
_CONTEXT, _DOCKERFILE, _OUT = "/build/context", "/build/Dockerfile", "/build/out"
_OUT_VOLUME = "out"
_SECRETS, _AUTH = "/run/build/secrets", "/run/build/auth.json"
_SCRIPT = "/run/build/build.sh"
_MAKE = f"""\
# build.sh IMAGE-ID-THAT-IS-STORED [OPTION...]
set -eu
stored=$1
shift
buildah rm --all > /dev/null # what a killed build left
buildah build "$@"
id=$(cat {_OUT}/id)
[ "$id" = "$stored" ] || buildah push --quiet --disable-compression "$id" dir:{_OUT}/image > /dev/null
echo "$id"
"""
_PROXIES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
_HINT = "name a directory that holds what the Dockerfile copies, such as ."


class Request(NamedTuple):
    """What `dockless build` was asked for; "" means the default."""

    name: str
    context: str
    file: str = ""  # relative to the working directory, as docker's; "-" is stdin
    build_args: tuple[tuple[str, str], ...] = ()
    target: str = ""
    secrets: tuple[tuple[str, bytes], ...] = ()
    no_cache: bool = False
    pull: bool = False  # look for newer base images
    build_user: str = ""
    labels: tuple[str, ...] = ()  # NAME=VALUE


class Sources(NamedTuple):
    """Real paths of the host: the context, and a Dockerfile that lies elsewhere ("" for one in the context); and -f for buildah."""

    context: str
    dockerfile: str
    argument: str


def run(
    request: Request, around: Surroundings, *, logins: tuple[engine_files.Login, ...], environ: dict[str, str], grace_s: float = 10.0
) -> Outcome:
    """Build an image and record it under its name; buildah's own output and exit code are passed on. Nothing of a failed build is recorded.

    Raises RunnerErrors for what is not the Dockerfile's doing. Moves this process into the job: call once.
    """
    name = image_name(request.name)
    try:
        process.find("buildah")
    except FileNotFoundError as e:
        raise errors.InfraError("buildah is not installed, which builds images", "apt-get install --no-install-recommends buildah") from e
    known = _stored(around.store, name)
    spec = job_spec(
        request, find_sources(request, state_dir=around.store.root), around,
        key=f"build-{os.getpid()}-{os.urandom(3).hex()}", stored=known.config_digest if known else "none", logins=logins, environ=environ,
    )  # fmt: skip

    def record(job: JobState, outcome: Outcome) -> None:
        if outcome.exit_code == 0:
            _record(around, name, known, around.store.job_volume(job.key, _OUT_VOLUME))

    return oneoff.run_job(spec, around, fetch=lambda asked, id_map: images.toolbox(), stops=True, grace_s=grace_s, then=record)


def image_name(text: str) -> str:
    """Return the name under which an image is recorded; UserError for a digest, a file and the toolbox, which nobody can give a name."""
    name = reference.canonical(text)
    if name == images.TOOLBOX or reference.local_kind(name) or reference.parse(name).digest:
        raise errors.UserError(f"an image cannot be named {text}", "write a name such as team/app:1.0 or registry.example/team/app:1.0")
    return name


def find_sources(request: Request, *, state_dir: str) -> Sources:
    """Return where context and Dockerfile are. UserError for what is not there, or may not be shown to a container."""
    context = _checked("context", request.context, state_dir=state_dir)
    if not os.path.isdir(context):
        raise errors.UserError(f"context {request.context} is not a directory", _HINT)
    if request.file in ("", "-"):
        return Sources(context, "", request.file)
    file = _checked("Dockerfile", request.file, state_dir=state_dir)
    if not os.path.isfile(file):
        raise errors.UserError(f"Dockerfile {request.file} is not a file", "-f names it from here, not from the context")
    if mounts.is_within(file, context):
        return Sources(context, "", f"{_CONTEXT}/{os.path.relpath(file, context)}")
    return Sources(context, file, _DOCKERFILE)


def _checked(what: str, path: str, *, state_dir: str) -> str:
    real = os.path.realpath(path)
    try:
        os.stat(real)
    except OSError as e:
        raise errors.UserError(f"{what} {path} cannot be used: {(e.strerror or str(e)).lower()}", _HINT) from e
    reason = mounts.refusal(real, state_dir=os.path.realpath(state_dir))
    if reason:
        raise errors.UserError(f"{what} {path} cannot be used: {reason}", _HINT)
    return real


def job_spec(
    request: Request,
    found: Sources,
    around: Surroundings,
    *,
    key: str,
    stored: str,
    logins: tuple[engine_files.Login, ...],
    environ: dict[str, str],
) -> JobSpec:
    """Return the job of one toolbox in which the script runs buildah."""
    volumes = [
        VolumeSpec(_CONTEXT, "bind", found.context, read_only=True),
        VolumeSpec(_OUT, "job", _OUT_VOLUME),
        VolumeSpec(engine_files.STORAGE, "storage", STORAGE),
        VolumeSpec(engine_files.CACHE_MOUNTS, "storage", f"{STORAGE}-cache"),
    ]
    if found.dockerfile:
        volumes.append(VolumeSpec(_DOCKERFILE, "bind", found.dockerfile, read_only=True))
    secrets = [(f"{_SECRETS}/{number}", content) for number, (_, content) in enumerate(request.secrets)]
    if logins:
        secrets.append((_AUTH, engine_files.auth_file(logins).encode()))
    certificates = engine_files.authorities(around.settings)
    container = ContainerSpec(
        name=oneoff.CONTAINER,
        image=images.TOOLBOX,
        command=("sh", _SCRIPT, stored, *arguments(request, found, with_logins=bool(logins))),
        env=tuple((name, environ[name]) for name in _PROXIES if name in environ),
        hostname="build",
        volumes=tuple(volumes),
        nested=True,
        engine=True,
        files=(
            *engine_files.containers_files(around.settings, certificates=certificates, mtu=around.mtu()),
            (_SCRIPT, _MAKE),
        ),
        secrets=tuple(secrets),
    )
    # the context belongs to the account, which may keep files in it to itself: container root has to be the account
    return JobSpec(key=key, build_user=request.build_user or build_users.LOCAL, containers=(container,), shared_id=0)


def arguments(request: Request, found: Sources, *, with_logins: bool) -> tuple[str, ...]:
    """Return what `buildah build` is told. Secrets are named by the files that hold them.

    The job has a network of its own already: RUN needs no other. Docker's format keeps HEALTHCHECK and SHELL.
    """
    options = [
        "--layers", f"--pull={'true' if request.pull else 'false'}", "--format=docker", "--isolation=oci", "--network=host",
        f"--iidfile={_OUT}/id", f"--tag={image_name(request.name)}",
    ]  # fmt: skip
    if with_logins:
        options.append(f"--authfile={_AUTH}")
    if request.no_cache:
        options.append("--no-cache")
    if request.target:
        options.append(f"--target={request.target}")
    options += [f"--build-arg={name}={value}" for name, value in request.build_args]
    options += [f"--label={label}" for label in request.labels]
    options += [f"--secret=id={name},src={_SECRETS}/{number}" for number, (name, _) in enumerate(request.secrets)]
    if found.argument:
        options.append(f"--file={found.argument}")
    return (*options, "--", _CONTEXT)


def _stored(store: paths.Store, name: str) -> Image | None:
    """Return the stored image of a name, if it has all its blobs: those of a built image cannot be fetched again."""
    image = images.find(store, name)
    return image if image and dir_transport.is_whole(store, image) else None


def _record(around: Surroundings, name: str, known: Image | None, out: str) -> None:
    """Bring what buildah left in `out` into the store, if that is another image than the `known` one."""
    if not os.path.isdir(f"{out}/image"):
        claim = images.claim(around.store, name) if known else None
        if claim is None:
            raise errors.Temporary(f"image {name} was removed while it was built", "build it again")
        os.close(claim)
        return

    def fetch_it() -> None:
        # the registry client, which it loads, takes 90 ms to import
        from runner.image import auth, fetch

        layout = f"{out}/layout"
        dir_transport.to_layout(f"{out}/image", layout)
        fetch.fetch(f"oci:{layout}", store=around.store, settings=around.settings, keychain=auth.Keychain(), name=name)

    # in a child: who has joined a PID namespace that its children are in can have no threads (pid_namespaces(7))
    process.fork_call(fetch_it)
