"""Image names, as docker reads them, and what is no image name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.errors import UserError
from runner.image import reference
from runner.model import Reference
from tests.support.defences import attack, without

REFERENCE = "runner/image/reference.py"
HEX = "a" * 64
DIGEST = f"sha256:{HEX}"


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("alpine", "docker.io/library/alpine:latest"),
        ("alpine:3.20", "docker.io/library/alpine:3.20"),
        ("library/alpine", "docker.io/library/alpine:latest"),
        ("team/app", "docker.io/team/app:latest"),
        ("docker.io/alpine", "docker.io/library/alpine:latest"),
        ("index.docker.io/team/app:1", "docker.io/team/app:1"),
        ("localhost/x", "localhost/x:latest"),
        ("localhost:5000/x", "localhost:5000/x:latest"),
        ("registry.example/a/b/c:v1", "registry.example/a/b/c:v1"),
        ("Registry.Example:5000/a:V1", "registry.example:5000/a:V1"),
        ("[::1]:5000/a", "[::1]:5000/a:latest"),
        (f"alpine@{DIGEST}", f"docker.io/library/alpine@{DIGEST}"),
        (f"alpine:3@{DIGEST}", f"docker.io/library/alpine:3@{DIGEST}"),
        ("a__b/c--d/e.f_g", "docker.io/a__b/c--d/e.f_g:latest"),
        ("localhost", "docker.io/library/localhost:latest"),
    ],
)
def test_name_is_read_as_docker_reads_it(text: str, canonical: str) -> None:
    assert str(reference.parse(text)) == canonical


@attack(
    44,
    without(REFERENCE, "    if not registry_name.is_repository(repository):", "    if False:"),
    without(REFERENCE, "    if not registry_name.is_valid(registry):", "    if False:"),
    without(REFERENCE, "        if not _is_tag(tag):", "        if False:"),
    without(
        REFERENCE,
        "    if len(text) > _LONGEST:",
        "    if False:",
        REFERENCE,
        "    if len(registry) + 1 + len(repository) > _LONGEST_NAME:",
        "    if False:",
    ),
)
@pytest.mark.parametrize(
    "text",
    [
        "", "-v", "--privileged", "Alpine", "team/App", "a b", "a;b", "$(id)", "`id`", "a|b", "a&b", "a\nb", "a\0b", "../a", "a/../b",
        "/a", "a/",
        "a//b", "a:", "a:b:c", ":tag", "a:-tag", "a:.tag", f"a:{'t' * 129}", f"{'a' * 300}", f"{'a' * 5000}", "a@", "a@sha256:abc",
        f"a@sha256:{HEX.upper()}", f"a@sha512:{HEX * 2}", f"a@{DIGEST}@{DIGEST}", "a@sha256:" + "../" * 21 + "x", "a___b", "a.-b", "_a",
        "A/b", "OCI:1/b", "Docker-Archive:1/b", "a_", "ä",
        "registry.example:port/a", "registry.example:0/a", "registry.example:99999/a", "registry..example/a", "-host.example/a", "[::1/a",
        "[zz]/a",
        "https://registry.example/a", HEX, "registry.example/\u202ea", "a٠:1", "registry.example:٨٠/a",
    ],
)  # fmt: skip
def test_what_is_no_name_is_the_users_error(text: str) -> None:
    with pytest.raises(UserError):
        reference.parse(text)


@attack(44, without(REFERENCE, '        if "/" in digest or "://" in name:', "        if False:"))
@pytest.mark.parametrize(
    "text", ["me:hunter2@registry.example/a", "https://me:hunter2@registry.example/a", "me:hunter2@registry.example/a:1"]
)
def test_credentials_in_a_name_are_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(UserError) as caught:
        reference.parse(text)
    assert "hunter2" not in caught.value.message + caught.value.hint
    assert "credentials" in caught.value.message


def test_upper_case_repository_gets_a_hint() -> None:
    with pytest.raises(UserError) as caught:
        reference.parse("registry.example/Team/App")
    assert "team/app" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "short"),
    [("docker.io/library/alpine:3", "alpine:3"), ("docker.io/team/app:1", "team/app:1"), ("registry.example/a:1", "registry.example/a:1"),
     ("docker.io/library/a/b:1", "library/a/b:1")],
)  # fmt: skip
def test_short_form_is_what_people_write(text: str, short: str) -> None:
    assert reference.familiar(reference.parse(text)) == short
    assert reference.parse(short) == reference.parse(text)


def test_canonical_name_of_local_sources_is_absolute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/usr")
    assert reference.canonical("oci:lib/../images:v1") == "oci:/usr/images:v1"
    assert reference.canonical("docker-archive:/a/b.tar:team/app:1") == "docker-archive:/a/b.tar:team/app:1"
    assert reference.canonical("toolbox") == "toolbox"
    assert reference.canonical("alpine") == "docker.io/library/alpine:latest"


@pytest.mark.parametrize("source", ["oci:", "docker-archive:", "oci:a\0b", "oci:" + "x" * 5000])
def test_local_source_needs_a_path(source: str) -> None:
    with pytest.raises(UserError):
        reference.canonical(source)


_WORD = st.from_regex(r"[a-z0-9]{1,8}(?:(?:\.|_|__|-{1,3})[a-z0-9]{1,8}){0,2}", fullmatch=True)
_HOST = st.one_of(st.just("docker.io"), st.from_regex(r"[a-z0-9]{1,5}(-[a-z0-9]{1,5})?\.[a-z]{2,5}(:[1-9][0-9]{0,3})?", fullmatch=True))
_TAG = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,40}", fullmatch=True)


@given(_HOST, st.lists(_WORD, min_size=2, max_size=4), st.one_of(st.just(""), _TAG), st.booleans())
def test_every_reference_survives_being_written_and_read(host: str, path: list[str], tag: str, pinned: bool) -> None:
    digest = DIGEST if pinned else ""
    ref = Reference(host, "/".join(path), tag or ("" if pinned else "latest"), digest)
    assert reference.parse(str(ref)) == ref
    assert reference.parse(reference.familiar(ref)) == ref
    assert reference.canonical(str(ref)) == str(ref)


@given(st.text(max_size=200))
def test_any_text_is_a_clean_reference_or_the_users_error(text: str) -> None:
    try:
        ref = reference.parse(text)
    except UserError:
        return
    assert reference.parse(str(ref)) == ref
    assert all(character.isascii() and character.isprintable() and character not in " ;|&$`'\"\\<>(){}*?~#!" for character in str(ref))
    assert ".." not in str(ref)
    assert not str(ref).startswith("-")
