"""The documents say what the code does: every key with its default, every example, every variable, and no hint that leads nowhere."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from runner import config, config_file, errors, quantities
from runner.adapters.gitlab import environment
from runner.cli import commands
from runner.image import bounds
from runner.model import IDS_PER_BUILD_USER, Limits
from runner.sandbox import mounts, network

TREE = Path(__file__).resolve().parents[2]
CONFIGURATION = (TREE / "docs/configuration.md").read_text()
EXAMPLES = re.findall(r"^```yaml\n(.*?)^```$", CONFIGURATION, re.DOTALL | re.MULTILINE)
LIMITS = (TREE / "docs/limits.md").read_text()
SOURCES = [*(TREE / "runner").rglob("*.py")]
BESIDE = {"disk": "limits"}  # what holds for a whole job stands among what holds for one container
NESTED = {
    "registries": ("registries.NAME", config.Registry()),
    "services": ("gitlab.services[]", config.ServiceSettings("")),
    "trust": ("images.trust[]", config.Trust((), "")),
}


def known(settings: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every key of the configuration file with its default, from the shapes that hold it."""
    for name, default in settings._asdict().items():
        if name in NESTED:
            place, entry = NESTED[name]
            if name != "registries":
                yield f"{prefix}{name}", default
            yield from known(entry, f"{place}.")
        elif hasattr(default, "_asdict"):
            yield from known(default, f"{prefix}{BESIDE.get(name, name)}.")
        else:
            yield f"{prefix}{name}", default


def documented() -> dict[str, str]:
    """Return the keys of the document's tables with what stands under "default"."""
    found: dict[str, str] = {}
    for section in re.split(r"^## ", CONFIGURATION, flags=re.MULTILINE):
        if "| key |" in section:
            rows = re.findall(r"^\| `([^`]+)` \| ((?:[^|\n]|\\\|)+) \| ((?:[^|\n]|\\\|)+) \| (.*) ?\|$", section, re.MULTILINE)
            assert len(rows) == section.count("\n| `"), section
            found |= {key: default.strip() for key, _, default, _ in rows}
    return found


def written(value: Any, prefix: str = "") -> Iterator[str]:
    """Yield the keys that an example has, with the names of registries replaced."""
    for key, item in value.items():
        if prefix == "registries.":
            yield from written(item, "registries.NAME.")
        elif isinstance(item, dict) and key != "environment":
            yield from written(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"
        for entry in item if isinstance(item, list) else []:
            if isinstance(entry, dict):
                yield from written(entry, f"{prefix}{key}[].")


def test_every_key_is_documented_and_no_other() -> None:
    assert sorted(documented()) == sorted(key for key, _ in known(config.Settings()))
    assert {f"limits.{name}" for name in Limits._fields} <= documented().keys()


@pytest.mark.parametrize(("key", "default"), [pytest.param(*item, id=item[0]) for item in known(config.Settings())])
def test_documented_default_is_the_one_of_the_code(key: str, default: Any) -> None:
    said = documented()[key]
    if said == "none":
        assert not default
    else:
        assert re.fullmatch(r"`.+`", said)
        value = yaml.safe_load(said.strip("`"))
        parse = {"age": quantities.parse_duration, "size": quantities.parse_size}.get(key.rpartition("_max_")[2])
        if key in ("limits.disk_reserve", "limits.log"):
            parse = quantities.parse_size
        assert (parse(value) if parse else value) == (list(default) if isinstance(default, tuple) else default)


@pytest.mark.parametrize("example", EXAMPLES)
def test_example_is_understood_and_says_something(example: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(example)
    assert config_file.load(str(path)) != config.Settings()


def test_every_key_has_an_example() -> None:
    shown = {key for example in EXAMPLES for key in written(yaml.safe_load(example))}
    assert shown == documented().keys()


def test_examples_together_are_one_configuration(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("".join(EXAMPLES))
    assert {name for name, value in config_file.load(str(path))._asdict().items() if value} == set(config.Settings._fields)


def test_links_within_the_document_lead_to_a_heading() -> None:
    headings = {
        re.sub(r"[^a-z0-9 -]", "", line.lower()).strip().replace(" ", "-") for line in re.findall(r"^#+ (.*)$", CONFIGURATION, re.M)
    }
    targets = set(re.findall(r"\]\(#([^)]+)\)", CONFIGURATION))
    assert targets and targets <= headings


def test_every_variable_of_our_own_is_documented_and_no_other() -> None:
    used = {name for path in SOURCES for name in re.findall(r"\b_?DOCKLESS_[A-Z_]+", path.read_text())}
    assert set(re.findall(r"\b_?DOCKLESS_[A-Z_]+", CONFIGURATION)) == used
    assert {environment.JOB, environment.STATE_DIR, environment.ACCOUNT, environment.CALLER} <= used


def test_every_flag_of_a_job_that_has_an_effect_is_documented() -> None:
    adapters = "".join(path.read_text() for path in (TREE / "runner/adapters/gitlab").glob("*.py"))
    flags = set(re.findall(r"\"((?:FF|GIT|CI_DEBUG|HEALTHCHECK)_[A-Z_]+)\"", adapters))
    assert flags
    assert {flag for flag in flags if f"`{flag}`" not in CONFIGURATION} == set()


def test_every_global_option_is_documented() -> None:
    options = {name for option in commands.dockless.params for name in option.opts} - {"--version", "--help"}
    assert options == {"--config", "--state-dir", "--debug"}
    assert {name for name in options if f"`{name}" not in CONFIGURATION.replace("`dockless ", "`")} == set()


def test_no_hint_needs_a_document_that_is_not_installed() -> None:
    assert [str(path) for path in SOURCES if re.search(r"(docs|contracts)/[a-z]+\.md\b[^\n]*\"\)", path.read_text())] == []


def modes(sentence: str) -> list[str]:
    return [mode for group in re.findall(sentence, LIMITS, re.DOTALL) for mode in re.findall(r"`(\w+)`", group)]


def test_modes_of_volumes_are_those_that_are_understood() -> None:
    understood, refused = modes(r"Volume modes are (.*?change nothing)"), modes(r"others \((.*?)\) are refused")
    assert len(understood) == 11
    for mode in understood:
        assert mounts.parse(f"name:/x:{mode}", state_dir="/state", cwd="/").read_only is (mode == "ro")
    assert refused
    for mode in refused:
        with pytest.raises(errors.UserError, match="is not supported"):
            mounts.parse(f"name:/x:{mode}", state_dir="/state", cwd="/")


def test_numbers_of_the_limits_are_those_of_the_code() -> None:
    assert f"Ids are 0 to {IDS_PER_BUILD_USER - 1}." in LIMITS
    assert f"unpack to {bounds.DEFAULT.total_bytes // 1024**3} GiB and\n  {bounds.DEFAULT.members // 10**6} million files" in LIMITS
    assert f"less than {bounds.DEFAULT.reserve_bytes // 1024**2} MiB are free" in LIMITS
    most, times = bounds.DEFAULT.unsuspicious_bytes // 1024**3, bounds.DEFAULT.expansion
    assert f"more than {most} GiB and to more than {times} times\n  its blob, or that takes half an hour of processor time" in LIMITS
    assert bounds.DEFAULT.seconds == 1800
    (most,) = re.findall(r"At most (\d+) containers", LIMITS)
    plan = network.addresses(config.Network().subnet)
    assert plan.endpoint(int(most) - 1)
    with pytest.raises(ValueError, match=most):
        plan.endpoint(int(most))


@pytest.mark.parametrize("document", sorted((TREE / "docs").glob("*.md")), ids=lambda path: path.name)
def test_files_that_a_document_names_are_there(document: Path) -> None:
    text = document.read_text()
    named = [document.parent / target for target in re.findall(r"\]\(([^)#]+)\)", text)]
    named += [TREE / path for path in re.findall(r"`((?:ci-templates|docs|runner)/[^` ]+)`", text)]
    assert [str(path) for path in named if not path.exists()] == []


def test_table_of_the_readme_is_that_of_the_last_benchmark() -> None:
    """It has every number that something is wanted of, without the columns that explain it."""
    rows = [line.split(" | ") for line in (TREE / "benchmarks/RESULTS.md").read_text().splitlines() if line.startswith("| ")]
    wanted = [" | ".join([row[0], *row[2:5], f"{row[5]} |"]) for row in rows[2:] if row[5]]
    assert len(wanted) > 2
    assert "\n".join(wanted) in (TREE / "README.md").read_text()
