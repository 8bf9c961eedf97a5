"""Leaving root behind: tried as root of a user namespace, where other accounts exist."""

import os
import pwd
from pathlib import Path
from typing import Any

import pytest

from runner import errors
from runner.adapters.gitlab import privileges
from runner.kernel import accounts, userns
from runner.model import Account, BuildUser
from runner.sandbox import build_users

OTHER = pwd.getpwuid(1)  # some account of the system, with a low number


def as_root(name: str) -> Any:
    """Drop to an account in a child that is root; return who it is then."""
    account = accounts.current()
    (first, *_) = build_users.available(account)
    namespace = BuildUser("test", 0, *first).keeper_map(account)

    def inside() -> dict[str, Any]:
        os.setgroups([0, 5])
        became = privileges.drop(name)
        return {
            "account": list(became),
            "uids": list(os.getresuid()),
            "gids": list(os.getresgid()),
            "groups": os.getgroups(),
            "cwd": os.getcwd(),
            "may_return": _may_become_root(),
        }

    return userns.call(namespace, inside)


def _may_become_root() -> bool:
    try:
        os.setuid(0)
    except PermissionError:
        return False
    return True


def test_root_becomes_the_account_for_good() -> None:
    assert as_root(OTHER.pw_name) == {
        "account": [OTHER.pw_name, OTHER.pw_uid, OTHER.pw_gid, OTHER.pw_dir],
        "uids": [OTHER.pw_uid] * 3,
        "gids": [OTHER.pw_gid] * 3,
        "groups": [],
        "cwd": "/",
        "may_return": False,
    }


def test_an_account_that_does_not_exist_is_named_with_the_way_out() -> None:
    with pytest.raises(errors.UserError, match="account nobody-of-that-name does not exist") as caught:
        as_root("nobody-of-that-name")
    assert "useradd" in caught.value.hint


def test_the_engine_does_not_run_as_root() -> None:
    with pytest.raises(errors.UserError, match="is root"):
        as_root("root")


def test_an_ordinary_user_stays_and_leaves_the_runners_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert privileges.drop("nobody-of-that-name") == accounts.current()
    assert os.getcwd() == "/"


ACCOUNT = Account("ci", 1000, 1000, "/home/ci")


def test_the_account_has_a_home_of_its_own_and_no_directories_of_root() -> None:
    environ = {"HOME": "/root", "XDG_DATA_HOME": "/root/.local/share", "XDG_RUNTIME_DIR": "/run/user/0", "PATH": "/bin"}
    assert privileges.home_environ(ACCOUNT, environ) == {"HOME": "/home/ci", "PATH": "/bin"}
    assert privileges.home_environ(ACCOUNT, {"PATH": "/bin"}) == {"HOME": "/home/ci", "PATH": "/bin"}


def test_who_is_the_account_already_keeps_its_directories() -> None:
    environ = {"HOME": "/home/ci", "XDG_DATA_HOME": "/data"}
    assert privileges.home_environ(ACCOUNT, environ) == environ
