"""The entry for config.toml, read back as TOML."""

import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.adapters.gitlab import snippet


def entry(program: str = "/opt/dockless", config: str = "") -> dict[str, Any]:
    (found,) = tomllib.loads(snippet.text(program, config=config))["runners"]
    assert isinstance(found, dict)
    return found


def test_the_runner_is_told_what_a_custom_executor_needs() -> None:
    found = entry()
    assert (found["executor"], found["shell"]) == ("custom", "bash")
    assert (found["builds_dir"], found["cache_dir"]) == ("/builds", "/cache")


def test_what_dockers_executor_has_switched_on_is_switched_on() -> None:
    assert entry()["safe_directory_checkout"] is True
    assert entry()["custom_build_dir"] == {"enabled": True}


@pytest.mark.parametrize("verb", ["config", "prepare", "run", "cleanup"])
def test_each_stage_calls_its_verb(verb: str) -> None:
    custom = entry()["custom"]
    assert custom[f"{verb}_exec"] == "/opt/dockless"
    assert custom[f"{verb}_args"] == ["gitlab", verb]
    assert entry(config="/etc/my.yaml")["custom"][f"{verb}_args"] == ["--config", "/etc/my.yaml", "gitlab", verb]


def test_a_kill_is_over_before_the_build_stops_waiting_for_it() -> None:
    custom = entry()["custom"]
    assert 30 <= custom["graceful_kill_timeout"] <= 60
    assert custom["graceful_kill_timeout"] + custom["force_kill_timeout"] < 5 * 60


PATHS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20)


@given(PATHS, PATHS)
def test_any_path_survives_the_way_into_the_file(program: str, config: str) -> None:
    custom = entry(program, config)["custom"]
    assert custom["run_exec"] == program
    assert custom["run_args"] == ["--config", config, "gitlab", "run"]


def test_the_snippet_names_the_configuration_that_is_in_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert snippet.main("/opt/dockless", {"DOCKLESS_CONFIG": "/etc/my.yaml"}) == 0
    assert capsys.readouterr().out == snippet.text("/opt/dockless", config="/etc/my.yaml")
