"""Templates become the jobs that GitLab would send of them."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.pipelines import Unsupported, combinations, jobs, merge


def _variable(payload: dict[str, object], key: str) -> str | None:
    """The value that a runner would use: of equal names the last."""
    entries = payload["variables"]
    assert isinstance(entries, list)
    return next((entry["value"] for entry in reversed(entries) if entry["key"] == key), None)


def test_before_script_comes_first_and_after_script_is_a_step_of_its_own() -> None:
    (job,) = jobs("t:\n  before_script: [a, b]\n  script: c\n  after_script: [d]\n")
    assert [(step["name"], step["script"], step["when"]) for step in job["steps"]] == [
        ("script", ["a", "b", "c"], "on_success"),
        ("after_script", ["d"], "always"),
    ]


def test_nested_scripts_are_flat() -> None:
    (job,) = jobs("t: {script: [a, [b, [c]]]}")
    assert job["steps"][0]["script"] == ["a", "b", "c"]


def test_job_carries_its_name_and_stage() -> None:
    (job,) = jobs("lint: {script: a, stage: build}")
    assert (job["job_info"]["name"], job["job_info"]["stage"]) == ("lint", "build")
    assert (_variable(job, "CI_JOB_NAME"), _variable(job, "CI_JOB_STAGE")) == ("lint", "build")


def test_defaults_are_for_jobs_that_say_nothing_else() -> None:
    one, two = jobs("default: {image: a, before_script: [b]}\none: {script: s}\ntwo: {script: s, image: c, before_script: []}")
    assert (one["image"]["name"], one["steps"][0]["script"]) == ("a", ["b", "s"])
    assert (two["image"]["name"], two["steps"][0]["script"]) == ("c", ["s"])


def test_pipelines_variables_win_over_the_matrix_the_matrix_over_the_job_and_the_job_over_all_jobs() -> None:
    text = "variables: {A: 1, B: 1, C: 1, D: 1}\nt: {script: s, variables: {B: 2, C: 2, D: 2}, parallel: {matrix: [{C: 3, D: 3}]}}"
    (job,) = jobs(text, variables={"D": "4"})
    assert [_variable(job, key) for key in "ABCD"] == ["1", "2", "3", "4"]


def test_variable_that_is_not_expanded_is_raw() -> None:
    (job,) = jobs("t: {script: s, variables: {A: {value: $B, expand: false, description: d}, C: $B}}")
    assert [entry["raw"] for entry in job["variables"] if entry["key"] in "AC"] == [True, False]


def test_image_keeps_entrypoint_user_platform_and_pull_policy() -> None:
    (job,) = jobs('t: {script: s, image: {name: i, entrypoint: [""], docker: {user: u, platform: arm64}, pull_policy: never}}')
    assert job["image"] == {
        "name": "i",
        "entrypoint": [""],
        "pull_policy": ["never"],
        "executor_opts": {"docker": {"user": "u", "platform": "arm64"}},
    }


def test_services_are_names_or_tables() -> None:
    (job,) = jobs("t: {script: s, services: [redis:7, {name: postgres:16, alias: db, command: [a], variables: {K: v}}]}")
    plain, full = job["services"]
    assert plain == {"name": "redis:7", "executor_opts": {}}
    assert (full["name"], full["alias"], full["command"]) == ("postgres:16", "db", ["a"])
    assert [(entry["key"], entry["value"]) for entry in full["variables"]] == [("K", "v")]


def test_job_without_services_has_none() -> None:
    assert jobs("t: {script: s}")[0]["services"] is None


def test_artifacts_are_an_archive_and_one_report_each() -> None:
    archive, report = jobs("t: {script: s, artifacts: {paths: [out], expire_in: 1 day, reports: {junit: r.xml}}}")[0]["artifacts"]
    assert archive == {"paths": ["out"], "expire_in": "1 day", "when": "on_success", "artifact_type": "archive", "artifact_format": "zip"}
    assert (report["artifact_type"], report["paths"], report["when"], report["expire_in"]) == ("junit", ["r.xml"], "always", "1 day")


def test_cache_has_gitlabs_defaults() -> None:
    assert jobs("t: {script: s, cache: {paths: [x]}}")[0]["cache"] == [
        {"key": "default", "policy": "pull-push", "when": "on_success", "paths": ["x"]}
    ]


def test_matrix_makes_a_named_and_numbered_job_of_each_combination() -> None:
    found = jobs("t: {script: s, parallel: {matrix: [{A: [1, 2], B: [x, y]}, {A: 3}]}}")
    assert [job["job_info"]["name"] for job in found] == ["t: [1, x]", "t: [1, y]", "t: [2, x]", "t: [2, y]", "t: [3]"]
    assert [(_variable(job, "A"), _variable(job, "B")) for job in found[:2]] == [("1", "x"), ("1", "y")]
    assert _variable(found[4], "B") is None
    assert [_variable(job, "CI_NODE_INDEX") for job in found] == ["1", "2", "3", "4", "5"]
    assert {_variable(job, "CI_NODE_TOTAL") for job in found} == {"5"}
    assert len({job["id"] for job in found}) == 5


def test_number_makes_so_many_equal_jobs() -> None:
    found = jobs("t: {script: s, parallel: 3}")
    assert [job["job_info"]["name"] for job in found] == ["t 1/3", "t 2/3", "t 3/3"]


# at most 3 entries of 27 jobs: what is made stays small whatever hypothesis draws
ENTRIES = st.dictionaries(st.sampled_from("ABC"), st.lists(st.text("xyz", max_size=2), min_size=1, max_size=3), min_size=1)


@given(st.lists(ENTRIES, min_size=1, max_size=3))
def test_matrix_is_the_product_of_each_entry(matrix: list[dict[str, list[str]]]) -> None:
    expected = [
        dict(zip(entry.keys(), values, strict=True)) for entry in matrix for values in itertools.product(*(entry[key] for key in entry))
    ]
    assert combinations({"matrix": matrix}) == expected


def test_matrix_makes_two_hundred_jobs_and_no_more() -> None:
    entry = {"A": list(range(20)), "B": list(range(10))}
    assert len(combinations({"matrix": [entry]})) == 200
    with pytest.raises(Unsupported, match="this one 201"):
        combinations({"matrix": [entry, {"A": 1}]})


def test_matrix_that_would_fill_the_memory_is_refused_before_it_does() -> None:
    with pytest.raises(Unsupported, match="at most 200"):
        combinations({"matrix": [{f"V{number}": [0, 1] for number in range(64)}]})


def test_including_file_adds_to_tables_and_replaces_lists() -> None:
    template = "t: {script: [a], image: i, variables: {A: 1, B: 1}}"
    (job,) = jobs(template, including="include: [{local: x}]\nt: {script: [b], variables: {B: 2}}")
    assert job["steps"][0]["script"] == ["b"]
    assert (job["image"]["name"], _variable(job, "A"), _variable(job, "B")) == ("i", "1", "2")


def test_merge_leaves_both_files_as_they_are() -> None:
    below, above = {"a": {"b": 1}}, {"a": {"c": 2}}
    assert merge(below, above) == {"a": {"b": 1, "c": 2}}
    assert (below, above) == ({"a": {"b": 1}}, {"a": {"c": 2}})


def test_hidden_jobs_are_not_sent() -> None:
    assert [job["job_info"]["name"] for job in jobs(".base: {script: a}\nt: {script: s, rules: [{when: always}], needs: []}")] == ["t"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no job"),
        (".hidden: {script: s}", "no job"),
        ("- a", "not a table"),
        ("a: [", "not YAML"),
        ("t: [s]", "not a table"),
        ("t: {stage: test}", "needs a script"),
        ("t: {script: {a: b}}", "a script is"),
        ("t: {script: [1]}", "a script is"),
        ("t: {script: s, extends: .base}", "does not know extends"),
        ("t: {script: s, sript: t, cahce: {}}", "does not know cahce, sript"),
        ("image: i\nt: {script: s}", "image is not a table"),
        ("default: {script: s}\nt: {script: s}", "default: this reader does not know script"),
        ("t: {script: s, image: {nam: i}}", "does not know nam"),
        ("t: {script: s, image: {name: i, docker: {privileged: true}}}", "does not know privileged"),
        ("t: {script: s, artifacts: {path: [x]}}", "does not know path"),
        ("t: {script: s, cache: {key: {files: [x]}}}", "not a text"),
        ("t: {script: s, variables: {A: [x]}}", "variable A"),
        ("t: {script: s, variables: {A: true}}", "variable A"),
        ("t: {script: s, parallel: many}", "not a table"),
        ("t: {script: s, parallel: true}", "not a table"),
        ("t: {script: s, parallel: {matrix: []}}", "neither"),
        ("t: {script: s, parallel: {matrix: [{A: [1]}], fast: 1}}", "neither"),
        ("t: {script: s, parallel: {matrix: [x]}}", "not a table"),
    ],
)
def test_what_the_reader_does_not_know_is_refused_by_name(text: str, why: str) -> None:
    with pytest.raises(Unsupported, match=why):
        jobs(text)
