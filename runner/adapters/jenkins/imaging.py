"""`docker pull`, `tag`, `push`, `images` and `rmi`: images by docker's names."""

from __future__ import annotations

import sys

from runner import errors, log
from runner.adapters.jenkins import images as named
from runner.adapters.jenkins.options import Grammar
from runner.image import auth, reference
from runner.image import images as stored
from runner.model import Image

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from runner.adapters.jenkins.shim import Shim

_PULL = Grammar("pull", "-q --quiet --platform= --disable-content-trust", {"-a": "one tag at a time", "--all-tags": "one tag at a time"})
_PUSH = Grammar("push", "-q --quiet --disable-content-trust", {"-a": "one tag at a time", "--all-tags": "one tag at a time"})
_TAG = Grammar("tag", "")
_IMAGES = Grammar("images", "-a --all -q --quiet --no-trunc --format= --digests -f= --filter=")
_RMI = Grammar("rmi", "-f --force --no-prune")


def pull(arguments: Sequence[str], shim: Shim) -> int:
    """Fetch an image, also if it is there already, and print its name; progress goes to stderr."""
    parsed = _PULL.parse(arguments)
    (name,) = _words("pull", parsed.words, 1)
    from runner.image import pull as puller  # with the registry client, which takes 90 ms to import

    keychain = auth.Keychain.of_account(shim.around.account.home, shim.environ)
    puller.ensure(
        name, store=shim.around.store, settings=shim.around.settings, keychain=keychain, policies=("always",),
        platform=parsed.last("platform"),
    )  # fmt: skip
    print(reference.canonical(name))
    return 0


def tag(arguments: Sequence[str], shim: Shim) -> int:
    """Give a stored image one more name."""
    source, target = _words("tag", _TAG.parse(arguments).words, 2)
    found = _find(shim, source)
    stored.add(shim.around.store, named.name_for(target), found)
    return 0


def _find(shim: Shim, text: str) -> Image:
    found = named.find(shim.around, text)
    if found is None:
        raise errors.UserError(f"no such image: {text[:200]}")
    return found[1]


def push(arguments: Sequence[str], shim: Shim) -> int:
    """Copy a stored image to its registry, with the credentials of $DOCKER_CONFIG."""
    parsed = _PUSH.parse(arguments)
    (name,) = _words("push", parsed.words, 1)
    _find(shim, named.name_for(name))
    from runner.job import push as pusher

    keychain = auth.Keychain.of_account(shim.around.account.home, shim.environ)
    return pusher.run(name, name, shim.around, keychain=keychain, environ=dict(shim.environ))


def images(arguments: Sequence[str], shim: Shim) -> int:
    """List stored images, or those of a name."""
    parsed = _IMAGES.parse(arguments)
    if parsed.last("filter"):
        raise errors.UserError("docker images: --filter is not served by dockless")
    known = stored.all(shim.around.store)
    if parsed.words:
        wanted = reference.parse(parsed.words[0])
        is_exact = ":" in parsed.words[0].rpartition("/")[2]
        known = [
            (name, image)
            for name, image in known
            if not reference.local_kind(name)
            and (found := reference.parse(name)).repository == wanted.repository
            and found.registry == wanted.registry
            and (found.tag == wanted.tag or not is_exact)
        ]
    rows = [_row(name, image, whole=parsed.has("no-trunc")) for name, image in known]
    if parsed.has("quiet"):
        lines = list(dict.fromkeys(row["ID"] for row in rows))
        print("".join(f"{line}\n" for line in lines), end="")
    elif parsed.last("format"):
        from runner.adapters.jenkins import template

        print("".join(f"{template.render(parsed.last('format'), row)}\n" for row in rows), end="")
    else:
        from runner.adapters.jenkins import looking

        heads = {"Repository": "REPOSITORY", "Tag": "TAG", "ID": "IMAGE ID", "Size": "SIZE"}
        sys.stdout.write(looking.table([list(heads.values()), *([row[name] for name in heads] for row in rows)]))
    return 0


def _row(name: str, image: Image, *, whole: bool) -> dict[str, str]:
    if reference.local_kind(name):
        repository, tag_text = name, "<none>"
    else:
        ref = reference.parse(name)
        repository, tag_text = reference.familiar(ref._replace(tag="", digest="")), ref.tag or "<none>"
    digits = image.config_digest.removeprefix("sha256:")
    return {
        "Repository": repository,
        "Tag": tag_text,
        "ID": f"sha256:{digits}" if whole else digits[:12],
        "Digest": image.digest,
        "Size": f"{image.size / 1e6:.3g}MB",
    }


def rmi(arguments: Sequence[str], shim: Shim) -> int:
    """Forget images by their names; what no other image needs is deleted."""
    parsed = _RMI.parse(arguments)
    if not parsed.words:
        raise errors.UserError("docker rmi: no image is named")
    code = 0
    for word in parsed.words:
        found = named.find(shim.around, word)
        if found and stored.remove(shim.around.store, found[0]):
            print(f"Untagged: {found[0]}")
        elif not parsed.has("force"):
            log.fail(f"no such image: {word[:200]}")
            code = 1
    from runner.job import collect

    collect.collect(shim.around.store)
    return code


def _words(verb: str, words: Sequence[str], count: int) -> Sequence[str]:
    if len(words) != count:
        raise errors.UserError(f"docker {verb}: {count} {'name is' if count == 1 else 'names are'} needed, {len(words)} given")
    return words
