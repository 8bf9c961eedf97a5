"""What buildah and skopeo are told, as values."""

from pathlib import Path

import pytest

from runner import config
from runner.cli import build as cli
from runner.errors import InfraError, UserError
from runner.image import auth, reference
from runner.job import build, build_secrets, push
from runner.job.surroundings import Surroundings
from runner.kernel import process
from runner.layout import open_store
from runner.model import Account
from runner.sandbox.engine_files import Login

SECRET = b"geheim"


@pytest.fixture
def around(tmp_path: Path) -> Surroundings:
    (tmp_path / "context").mkdir()
    (tmp_path / "context" / "Dockerfile").touch()
    return Surroundings(open_store(str(tmp_path / "state")), config.Settings(), Account("a", 1000, 1000, str(tmp_path)))


def _request(tmp_path: Path, **more: str) -> build.Request:
    return build.Request("app", f"{tmp_path}/context", secrets=(("word", SECRET),), **more)  # type: ignore[arg-type]  # texts only


def test_secrets_and_credentials_are_in_files_of_memory_and_nowhere_else_in_the_job(around: Surroundings, tmp_path: Path) -> None:
    request = _request(tmp_path)
    found = build.find_sources(request, state_dir=around.store.root)
    login = Login("r.example", "user", "hidden")
    spec = build.job_spec(request, found, around, key="k", stored="none", logins=(login,), environ={"TOKEN": "geheim", "no_proxy": "x"})
    container = spec.containers[0]
    assert container.secrets[0] == ("/run/build/secrets/0", SECRET)
    assert container.secrets[1][0] == "/run/build/auth.json"
    rest = repr(spec._replace(containers=(container._replace(secrets=()),)))
    assert "geheim" not in rest
    assert "hidden" not in rest
    assert container.env == (("no_proxy", "x"),)
    assert "--secret=id=word,src=/run/build/secrets/0" in (container.command or ())
    assert "--authfile=/run/build/auth.json" in (container.command or ())


def test_nothing_of_the_host_is_writable_but_what_is_the_build_users_own(around: Surroundings, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").touch()
    request = _request(tmp_path, file=f"{tmp_path}/elsewhere")
    found = build.find_sources(request, state_dir=around.store.root)
    spec = build.job_spec(request, found, around, key="k", stored="none", logins=(), environ={})
    bound = {volume.source: volume.read_only for volume in spec.containers[0].volumes if volume.kind == "bind"}
    assert bound == {f"{tmp_path}/context": True, f"{tmp_path}/elsewhere": True}
    assert spec.shared_id == 0


def test_a_link_out_of_the_context_is_a_dockerfile_of_elsewhere(around: Surroundings, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").touch()
    (tmp_path / "context" / "link").symlink_to(tmp_path / "elsewhere")
    found = build.find_sources(_request(tmp_path, file=f"{tmp_path}/context/link"), state_dir=around.store.root)
    assert found.dockerfile == f"{tmp_path}/elsewhere"


def test_the_store_is_no_context(around: Surroundings, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the state of dockless"):
        build.find_sources(build.Request("app", str(tmp_path)), state_dir=around.store.root)


@pytest.mark.parametrize("program", ["buildah", "skopeo"])
def test_missing_program_is_told_with_the_command_that_installs_it(
    around: Surroundings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    monkeypatch.setattr(process, "TRUSTED_PATH", str(tmp_path))
    with pytest.raises(InfraError, match=f"{program} is not installed") as caught:
        if program == "buildah":
            build.run(_request(tmp_path), around, logins=(), environ={})
        else:
            push.run("app", "app", around, keychain=auth.Keychain(), environ={})
    assert caught.value.hint == f"apt-get install --no-install-recommends {program}"


@pytest.mark.parametrize(
    ("text", "name"),
    [("id=a,src={file}", "a"), ("source={file},id=a,type=file", "a"), ("id=npm_token.x,env=TOKEN", "npm_token.x"), ("id=TOKEN", "TOKEN")],
)
def test_secret_is_read_from_a_file_or_a_variable(tmp_path: Path, text: str, name: str) -> None:
    (tmp_path / "file").write_bytes(SECRET)
    assert build_secrets.read(text.format(file=tmp_path / "file"), {"TOKEN": "geheim"}) == (name, SECRET)


@pytest.mark.parametrize(
    "text", ["", "a", "src=b", "id=,src=b", "id=a/../b,src=c", "id=a,env=MISSING", "id=a", "id=a,src=b,env=TOKEN", "id=a,target=/x,src=b"]
)
def test_odd_secret_is_refused(text: str) -> None:
    with pytest.raises(UserError):
        build_secrets.read(text, {"TOKEN": "geheim"})


def test_build_argument_without_a_value_is_the_callers_variable() -> None:
    assert cli.build_argument("A=1=2", {}) == ("A", "1=2")
    assert cli.build_argument("A", {"A": "mine"}) == ("A", "mine")
    assert cli.build_argument("A", {}) is None


@pytest.mark.parametrize(
    ("registry", "settings", "option"),
    [
        ("r.example", config.Registry(), ""),
        ("r.example", config.Registry(plain_http=True), "--dest-tls-verify=false"),
        ("localhost:5000", config.Registry(), "--dest-tls-verify=false"),
        ("127.0.0.1", config.Registry(), "--dest-tls-verify=false"),
        ("[::1]:5000", config.Registry(), "--dest-tls-verify=false"),
    ],
)
def test_push_checks_certificates_where_a_pull_would(registry: str, settings: config.Registry, option: str) -> None:
    ref = reference.parse(f"{registry}/team/app:1")
    argv = push.arguments(ref, "/d", certificates="", settings=config.Settings(registries=((registry, settings),)))
    assert [word for word in argv if word.startswith("--dest-")] == ["--dest-authfile=/dev/stdin", *([option] if option else [])]
    assert argv[-2:] == ["dir:/d", f"docker://{registry}/team/app:1"]


def test_push_with_a_ca_always_checks_it() -> None:
    settings = config.Settings(registries=(("localhost:5000", config.Registry(ca_file="/ca.pem")),))
    argv = push.arguments(reference.parse("localhost:5000/app:1"), "/d", certificates="/d/certificates", settings=settings)
    assert "--dest-cert-dir=/d/certificates" in argv
    assert "--dest-tls-verify=false" not in argv
