"""USER of an image against files that the image wrote itself."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner import errors
from runner.model import User
from runner.sandbox import users
from tests.support.defences import attack, without

PASSWD = """\
root:x:0:0:root:/root:/bin/sh
app:x:1000:1001:App:/home/app:/bin/sh
1234:x:0:0:a name of digits:/root:/bin/sh
homeless:x:1002:1002::relative:/bin/sh
huge:x:70000:70000::/home/huge:/bin/sh
negative:x:-1:0::/:/bin/sh
short:x:5
app:x:0:0:second entry:/root:/bin/sh
"""
GROUP = """\
root:x:0:
app:x:1001:
docker:x:999:other,app
audio:x:29:app
again:x:29:app
near:x:30:apple,ap
huge:x:70000:app
app2:x:1001:app
wheel:x:10
"""


class Root:
    """The root directory of a made-up container."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "etc").mkdir(parents=True)
        (directory / "etc/passwd").write_text(PASSWD)
        (directory / "etc/group").write_text(GROUP)
        self.fd = os.open(directory, os.O_PATH)

    def resolve(self, text: str) -> User:
        return users.resolve(text, root=self.fd)


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Root]:
    made = Root(tmp_path / "root")
    yield made
    os.close(made.fd)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", User(0, 0, (), "/root")),
        ("root", User(0, 0, (), "/root")),
        ("app", User(1000, 1001, (999, 29), "/home/app")),
        ("1000", User(1000, 1001, (999, 29), "/home/app")),
        ("app:docker", User(1000, 999, (), "/home/app")),
        ("app:5", User(1000, 5, (), "/home/app")),
        ("1000:0", User(1000, 0, (), "/home/app")),
        ("4711", User(4711, 0, (), "/")),
        ("4711:4712", User(4711, 4712, (), "/")),
        ("4711:wheel", User(4711, 10, (), "/")),
        (":5", User(0, 5, (), "/root")),
        ("homeless", User(1002, 1002, (), "/")),
        ("65535:65535", User(65535, 65535, (), "/")),
        ("01000", User(1000, 1001, (999, 29), "/home/app")),
    ],
)
def test_users_are_resolved_as_docker_does(root: Root, text: str, expected: User) -> None:
    assert root.resolve(text) == expected


def test_digits_are_an_id_and_not_the_name_of_somebody_else(root: Root) -> None:
    assert root.resolve("1234").uid == 1234


@pytest.mark.parametrize(
    "text",
    [
        "nobody-here", "app:nothing-here", "app:", "1000:", ":", "65536", "0:65536", "70000", "-1", "+0", "0:-1", "--1", "4294967296",
        "4294967295", "18446744073709551616", "0" * 11, "9" * 5000, "٣", "²", "0x10", "1e3", " 0", "0 ", "1000\n", "app:1:2",
        "huge", "negative", "short",
    ],
)  # fmt: skip
def test_everything_else_is_refused_with_a_sentence(root: Root, text: str) -> None:
    with pytest.raises(errors.UserError) as caught:
        root.resolve(text)
    assert caught.value.hint
    assert len(caught.value.message) < 200


@given(st.text(max_size=30))
def test_whatever_is_asked_the_ids_are_the_containers_own(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    made = Root(tmp_path_factory.mktemp("users") / "root")
    try:
        user = made.resolve(text)
    except errors.UserError:
        return
    finally:
        os.close(made.fd)
    assert all(0 <= number <= 65535 for number in (user.uid, user.gid, *user.groups))


def test_an_image_without_the_files_has_numbers_only(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_PATH)
    assert users.resolve("", root=fd) == User(0, 0, (), "/")
    assert users.resolve("7:8", root=fd) == User(7, 8, (), "/")
    with pytest.raises(errors.UserError, match="does not exist"):
        users.resolve("root", root=fd)
    os.close(fd)


def test_links_are_followed_inside_the_root_only(root: Root, tmp_path: Path) -> None:
    (tmp_path / "passwd").write_text("outside:x:7:7::/:/bin/sh\n")
    (root.directory / "etc/passwd").rename(root.directory / "etc/real")
    for target, works in (("real", True), ("/etc/real", True), ("../../../../etc/real", True), (str(tmp_path / "passwd"), False)):
        (root.directory / "etc/passwd").symlink_to(target)
        if works:
            assert root.resolve("app").uid == 1000
        with pytest.raises(errors.UserError):
            root.resolve("outside")
        (root.directory / "etc/passwd").unlink()


@attack(7, without("runner/sandbox/users.py", "os.O_RDONLY | os.O_NONBLOCK |", "os.O_RDONLY |"))
@pytest.mark.timeout(10)
@pytest.mark.parametrize("kind", ["fifo", "directory", "device", "loop", "proc"])
def test_files_that_are_no_files_are_as_good_as_missing(root: Root, kind: str) -> None:
    path = root.directory / "etc/passwd"
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to({"device": "/dev/zero", "loop": "passwd", "proc": "/proc/self/root/etc/passwd"}[kind])
    assert root.resolve("1000").uid == 1000
    with pytest.raises(errors.UserError, match="does not exist"):
        root.resolve("app")


def test_a_file_without_end_is_read_up_to_its_last_whole_row_within_the_limit(root: Root) -> None:
    limit = 1024**2
    row = b"half:x:1000:1000::/home:/bin/sh"
    filler = b"#" * (limit - len(b"first:x:8:8::/:/bin/sh\n") - len(b"\nhalf:x:10")) + b"\n"
    (root.directory / "etc/passwd").write_bytes(b"first:x:8:8::/:/bin/sh\n" + filler + row)
    os.truncate(root.directory / "etc/passwd", 1024**4)  # sparse: a terabyte
    assert root.resolve("first").uid == 8
    with pytest.raises(errors.UserError, match="does not exist"):
        root.resolve("half")


def test_odd_ends_of_lines_and_bytes_make_no_rows(root: Root) -> None:
    rows = ["x\x0bevil:x:0:0::/:", "x\u2028evil:x:0:0::/:", "evil\0:x:0:0::/:/bin/sh", "evil:x:0:0::/\0:/bin/sh"]
    (root.directory / "etc/passwd").write_text("\n".join(rows))
    with pytest.raises(errors.UserError, match="does not exist"):
        root.resolve("evil")
    (root.directory / "etc/passwd").write_bytes(b"\xff\xfe:x:1:1::/:/bin/sh\nfine:x:5:5::/:/bin/sh\n")
    assert root.resolve("fine").uid == 5


def test_ids_of_thousands_of_digits_in_the_files_are_passed_over(root: Root) -> None:
    (root.directory / "etc/passwd").write_text(f"app:x:{'9' * 5000}:0::/:/bin/sh\napp:x:6:6::/:/bin/sh\n")
    (root.directory / "etc/group").write_text(f"g:x:{'9' * 5000}:app\nh:x:77:app\n")
    assert root.resolve("app") == User(6, 6, (77,), "/")
