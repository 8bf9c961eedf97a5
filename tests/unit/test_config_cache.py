"""Where the configuration is found, and the cache of its parsed form: never older than the file, and only ever a cache."""

import json
import os
from pathlib import Path

import pytest

from runner import config, config_cache, errors
from runner.config import Disk, Egress, Gc, GitLab, Images, Network, Registry, ServiceSettings, Settings, Trust
from runner.kernel import accounts, userns
from runner.model import BuildUser, Limits
from runner.sandbox import build_users

FULL = Settings(
    "ci",
    "/srv/state",
    Images("debian", ("a", "b"), ("never",), ("always",), ("p",), 60, (Trust(("r.example/**",), "signed", ("/k",)),)),
    (("docker.io", Registry(("https://m",), True, "/ca", True)), ("other", Registry())),
    Network("10.0.0.0/16", 1400, ("192.0.2.1",), Egress("none", ("host:1",), ("10.0.0.0/8",))),
    Limits(1, 2.5, 3),
    Limits(4, 5.5, 6),
    GitLab(services=(ServiceSettings("redis", "r", ("e",), ("c",), (("A", "1"),)), ServiceSettings("db")), volumes=("/x",)),
    Gc(90, 50, 1, 2, 3, 4),
    disk=Disk(5, 6, 7),
)


class Home:
    """An account's home with a configuration file and the cache."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.file = directory / ".config/dockless/config.yaml"
        self.file.parent.mkdir(parents=True)
        self.cache = directory / f".cache/dockless/config-{sum(os.fsencode(self.file)) % 64}.json"

    def write(self, text: str) -> None:
        """Replace the file, as editors do, with another inode."""
        new = self.file.with_suffix(".new")
        new.write_text(text)
        new.rename(self.file)

    def load(self) -> Settings:
        return config_cache.load(str(self.file), home=str(self.directory))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_file_that_is_named_is_taken_even_if_it_does_not_exist(home: Home) -> None:
    home.write("{}")
    assert config_cache.locate({"DOCKLESS_CONFIG": "/nowhere.yaml"}, home=str(home.directory)) == "/nowhere.yaml"
    with pytest.raises(errors.UserError, match=r"/nowhere\.yaml cannot be read"):
        config_cache.load("/nowhere.yaml", home=str(home.directory))


def test_accounts_own_file_comes_before_the_systems(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    system = home.directory / "system.yaml"
    system.write_text("{}")
    monkeypatch.setattr(config_cache, "SYSTEM_FILE", str(system))
    home.write("{}")
    assert config_cache.locate({}, home=str(home.directory)) == str(home.file)
    assert config_cache.locate({"DOCKLESS_CONFIG": ""}, home=str(home.directory)) == str(home.file)
    assert config_cache.locate({}, home="") == str(system)
    home.file.unlink()
    assert config_cache.locate({}, home=str(home.directory)) == str(system)
    system.unlink()
    assert config_cache.locate({}, home=str(home.directory)) == ""


def test_no_file_is_the_defaults_and_leaves_no_cache(home: Home) -> None:
    assert config_cache.load("", home=str(home.directory)) == Settings()
    assert not home.cache.exists()


def test_settings_are_the_same_from_the_file_and_from_the_cache(home: Home) -> None:
    home.write("account: ci\nimages: {allowed: [a]}\nregistries: {docker.io: {mirrors: ['http://x']}}\ngitlab: {services: [{name: r}]}\n")
    first = home.load()
    assert first.gitlab.services == (ServiceSettings("r"),)
    assert home.cache.stat().st_mode & 0o777 == 0o600
    stored = json.loads(home.cache.read_text())
    stored[1][0] = "from-the-cache"
    home.cache.write_text(json.dumps(stored))
    assert home.load() == first._replace(account="from-the-cache")


def test_everything_survives_the_way_through_json() -> None:
    assert config.decode(json.loads(json.dumps(FULL))) == FULL
    assert config.decode(json.loads(json.dumps(Settings()))) == Settings()


def test_two_configurations_are_both_remembered(home: Home) -> None:
    home.write("account: one")
    other = home.directory / "other.yaml"
    other.write_text("account: two")
    for _ in range(2):
        assert home.load().account == "one"
        assert config_cache.load(str(other), home=str(home.directory)).account == "two"
    remembered = [json.loads(path.read_text())[1][0] for path in home.cache.parent.iterdir()]
    assert sorted(remembered) == ["one", "two"]


def test_changed_file_is_read_again(home: Home) -> None:
    home.write("account: one")
    assert home.load().account == "one"
    home.write("account: two")
    assert home.load().account == "two"


def test_file_that_was_changed_in_place_is_read_again(home: Home) -> None:
    home.write("account: one")
    home.load()
    home.file.write_text("account: three")
    assert home.load().account == "three"


def test_file_of_the_same_size_and_time_is_another_by_its_inode(home: Home) -> None:
    home.write("account: one")
    home.load()
    before = home.file.stat()
    home.write("account: two")
    os.utime(home.file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert home.load().account == "two"


def test_cache_of_another_file_is_not_taken(home: Home) -> None:
    home.write("account: one")
    home.load()
    other = home.directory / "other.yaml"
    other.hardlink_to(home.file)
    stored = json.loads(home.cache.read_text())
    stored[1][0] = "from-the-cache"
    home.cache.write_text(json.dumps(stored))
    assert config_cache.load(str(other), home=str(home.directory)).account == "one"


@pytest.mark.parametrize(
    "damage",
    ["", "{", "[]", "null", "7", '"text"', "{}", "[[]]", "[null, null]", "STAMP", "STAMP, null", "STAMP, []", "STAMP, [1,2,3,4,5,6,7,8]"],
)
def test_damaged_cache_is_only_slower(home: Home, damage: str) -> None:
    home.write("account: one")
    home.load()
    stamp = json.dumps(json.loads(home.cache.read_text())[0])
    home.cache.write_text(f"[{damage.replace('STAMP', stamp)}]" if "STAMP" in damage else damage)
    assert home.load().account == "one"
    assert home.load().account == "one"


@pytest.mark.timeout(10)
@pytest.mark.parametrize("kind", ["directory", "fifo", "closed", "dangling link"])
def test_cache_that_cannot_be_a_cache_is_only_slower(home: Home, kind: str) -> None:
    home.write("account: one")
    home.cache.parent.mkdir(parents=True)
    if kind == "directory":
        home.cache.mkdir()
    elif kind == "fifo":
        os.mkfifo(home.cache)
    elif kind == "closed":
        home.cache.touch(mode=0)
    else:
        home.cache.symlink_to("/nowhere/config.json")
    assert home.load().account == "one"
    assert [path.name for path in home.cache.parent.iterdir()] == [home.cache.name]


def test_home_that_cannot_be_written_is_only_slower(home: Home) -> None:
    home.write("account: one")
    home.directory.chmod(0o500)
    found = home.load().account
    home.directory.chmod(0o700)
    assert found == "one"
    assert not home.cache.exists()


def test_cache_of_somebody_else_is_not_believed(home: Home) -> None:
    home.write("account: one")
    home.load()
    stored = json.loads(home.cache.read_text())
    stored[1][0] = "of-somebody-else"
    home.cache.write_text(json.dumps(stored))
    home.cache.chmod(0o644)
    account = accounts.current()
    id_map = BuildUser("test", 0, *build_users.available(account)[0]).keeper_map(account)
    userns.call(id_map, lambda: os.chown(home.cache, 1, 1))
    assert home.load().account == "one"


def test_broken_file_is_refused_also_when_it_was_fine_before(home: Home) -> None:
    home.write("account: one")
    home.load()
    home.write("acount: two")
    with pytest.raises(errors.UserError, match="acount is not a setting"):
        home.load()
