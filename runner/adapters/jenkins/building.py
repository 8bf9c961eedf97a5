"""`docker build`: a Dockerfile, by the host's buildah, over the cache that the agent's builds share."""

from __future__ import annotations

from runner import errors, log
from runner.adapters.jenkins import images
from runner.adapters.jenkins.options import Grammar
from runner.image import auth
from runner.image import images as stored
from runner.image.platforms import host
from runner.job import build, build_secrets
from runner.sandbox.engine_files import Login

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from runner.adapters.jenkins.shim import Shim

_GRAMMAR = Grammar(
    "build",
    "-t= --tag= -f= --file= --build-arg= --target= --no-cache --pull --label= --platform= --network= --secret= -q --quiet "
    # what makes no difference here
    "--rm --force-rm --load --progress= --cache-from= --provenance= --sbom= --compress",
    {
        "--ssh": "no key of the agent is shown to a build",
        "--privileged": "no build is the machine's root",
        "--output": "an image is the only result",
        "-o": "an image is the only result",
        "--push": "`docker push` sends an image",
    },
)


def main(arguments: Sequence[str], shim: Shim) -> int:
    """Build an image, record it under every -t, and return the exit code of the build. Moves this process into the job: call once."""
    parsed = _GRAMMAR.parse(arguments)
    if len(parsed.words) != 1:
        raise errors.UserError(f"docker build: one directory is to be named as context, not {len(parsed.words)}")
    if parsed.words[0] == "-" or "://" in parsed.words[0]:
        raise errors.UserError("docker build: the context has to be a directory of this machine")
    names = [images.name_for(text) for text in parsed.every("tag")]
    if not names:
        raise errors.UserError("docker build: -t NAME is needed, or nothing could use the image")
    if parsed.last("network") not in ("", "default", "bridge"):
        raise errors.UserError(f"docker build: --network={parsed.last('network')[:80]} is refused: a build has a network of its own")
    if parsed.last("platform") not in ("", str(host())):
        raise errors.UserError(f"docker build: --platform={parsed.last('platform')[:80]} is not this machine's, {host()}")
    request = build.Request(
        name=names[0],
        context=parsed.words[0],
        file=parsed.last("file"),
        build_args=tuple(pair for text in parsed.every("build-arg") if (pair := _argument(text, shim))),
        target=parsed.last("target"),
        secrets=tuple(_secret(text, shim) for text in parsed.every("secret")),
        no_cache=parsed.has("no-cache"),
        pull=parsed.has("pull"),
        build_user=shim.build_user,
        labels=parsed.every("label"),
    )
    known = auth.Keychain.of_account(shim.around.account.home, shim.environ).all()
    logins = tuple(Login(place, found.username, found.password, found.identity_token) for place, found in known)
    outcome = build.run(request, shim.around, logins=logins, environ=dict(shim.environ))
    if outcome.oom_killed:
        log.fail("the memory limit was reached and a process of the build was killed (OOM)")
    if outcome.exit_code == 0 and names[1:]:
        image = stored.find(shim.around.store, names[0])
        if image is None:
            raise errors.Temporary(f"image {names[0]} was removed as soon as it was built")
        for name in names[1:]:
            stored.add(shim.around.store, name, image)
    return outcome.exit_code


def _argument(text: str, shim: Shim) -> tuple[str, str] | None:
    """Read NAME=VALUE, or NAME for a variable of the caller; None for one that the caller has not."""
    name, has_value, value = text.partition("=")
    if not name:
        raise errors.UserError("docker build: a --build-arg has no name")
    if has_value:
        return name, value
    return (name, shim.environ[name]) if name in shim.environ else None


def _secret(text: str, shim: Shim) -> tuple[str, bytes]:
    try:
        return build_secrets.read(text, shim.environ)
    except errors.UserError as e:
        e.message, e.hint = f"docker build: {e.message}", ""  # one line is what a log has room for
        raise
