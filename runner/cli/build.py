"""`dockless build` and `dockless push`: what the words of their command lines mean."""

from __future__ import annotations

from runner import errors, log
from runner.cli.surroundings import open_all
from runner.image import auth
from runner.job import build, build_secrets, push
from runner.sandbox.engine_files import Login

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


def main(
    name: str,
    context: str,
    environ: Mapping[str, str],
    *,
    file: str,
    build_args: tuple[str, ...],
    target: str,
    secrets: tuple[str, ...],
    no_cache: bool,
    pull: bool,
    build_user: str,
) -> int:
    """Build an image and return buildah's exit code. Raises RunnerErrors for what is not the Dockerfile's doing."""
    request = build.Request(
        name=name,
        context=context,
        file=file,
        build_args=tuple(argument for text in build_args if (argument := build_argument(text, environ))),
        target=target,
        secrets=tuple(build_secrets.read(text, environ) for text in secrets),
        no_cache=no_cache,
        pull=pull,
        build_user=build_user,
    )
    around = open_all(environ)
    outcome = build.run(request, around, logins=_logins(around.account.home, environ), environ=dict(environ))
    if outcome.oom_killed:
        log.fail("the memory limit was reached and a process of the build was killed (OOM)")
    return outcome.exit_code


def main_of_push(name: str, destination: str, environ: Mapping[str, str]) -> int:
    """Copy a stored image to a registry and return skopeo's exit code."""
    around = open_all(environ)
    keychain = auth.Keychain.of_account(around.account.home, environ)
    return push.run(name, destination or name, around, keychain=keychain, environ=dict(environ))


def build_argument(text: str, environ: Mapping[str, str]) -> tuple[str, str] | None:
    """Read NAME=VALUE, or NAME for a variable of the caller; None for one that the caller has not, whose default counts then."""
    name, has_value, value = text.partition("=")
    if not name:
        raise errors.UserError(f"build argument {text!r} has no name", "write NAME=VALUE")
    if has_value:
        return name, value
    return (name, environ[name]) if name in environ else None


def _logins(home: str, environ: Mapping[str, str]) -> tuple[Login, ...]:
    known = auth.Keychain.of_account(home, environ).all()
    return tuple(Login(place, found.username, found.password, found.identity_token) for place, found in known)
