"""The environment between gitlab-runner and us, and the one that containers get."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.adapters.gitlab import environment

NAMES = st.text("ABC_ci1.", min_size=1, max_size=6)


def test_exit_codes_are_what_the_runner_says() -> None:
    said = {"BUILD_FAILURE_EXIT_CODE": "7", "SYSTEM_FAILURE_EXIT_CODE": "9"}
    assert environment.codes(said) == environment.Codes(7, 9)


@pytest.mark.parametrize("text", ["", "x", "-1", "1 ", "²", "٣"])
def test_exit_codes_have_the_runners_defaults(text: str) -> None:
    assert environment.codes({}) == environment.Codes(1, 2)
    assert environment.codes({"BUILD_FAILURE_EXIT_CODE": text, "SYSTEM_FAILURE_EXIT_CODE": text}) == environment.Codes(1, 2)


def test_exit_codes_cannot_be_set_by_a_job() -> None:
    assert environment.codes({"CUSTOM_ENV_BUILD_FAILURE_EXIT_CODE": "0"}) == environment.Codes(1, 2)


def test_job_variables_are_what_has_the_prefix() -> None:
    environ = {
        "CUSTOM_ENV_A": "1",
        "CUSTOM_ENV_CUSTOM_ENV_B": "2",
        "CUSTOM_ENV_": "nameless",
        "CUSTOM_ENVX": "3",
        "PATH": "/bin",
        "custom_env_C": "4",
        "X_CUSTOM_ENV_D": "5",
    }
    assert environment.variables(environ) == {"A": "1", "CUSTOM_ENV_B": "2"}


@pytest.mark.parametrize("name", [environment.JOB, environment.STATE_DIR, environment.ACCOUNT])
def test_a_job_variable_cannot_be_taken_for_our_own_channel(name: str) -> None:
    environ = {f"CUSTOM_ENV_{name}": "forged"}
    assert name not in environ
    assert environment.variables(environ) == {name: "forged"}


def test_a_container_gets_every_variable_and_files_as_paths() -> None:
    variables = {"A": "1", "KEY": "-----BEGIN", "RUNNER_TEMP_PROJECT_DIR": "/builds/g/p.tmp", "CI_SERVER_TLS_CA_FILE": "-----BEGIN"}
    found = dict(environment.for_container(variables, ("KEY", "NOT_THERE")))
    assert found == {
        "A": "1",
        "KEY": "/builds/g/p.tmp/KEY",
        "RUNNER_TEMP_PROJECT_DIR": "/builds/g/p.tmp",
        "CI_SERVER_TLS_CA_FILE": "/builds/g/p.tmp/CI_SERVER_TLS_CA_FILE",
        "CI_DISPOSABLE_ENVIRONMENT": "true",
    }


def test_a_container_is_told_that_it_is_disposable_as_dockers_are() -> None:
    found = dict(environment.for_container({"CI_SHARED_ENVIRONMENT": "true"}, ()))
    assert found == {"CI_DISPOSABLE_ENVIRONMENT": "true"}


def test_what_the_runner_tells_the_driver_about_services_stays_with_the_driver() -> None:
    told = {"CI_JOB_SERVICES": '[{"name":"db","variables":{"PASSWORD":"secret"}}]'}
    assert "CI_JOB_SERVICES" not in dict(environment.for_container(told, ()))


@given(st.dictionaries(NAMES, st.text(max_size=8)), st.frozensets(NAMES))
def test_no_content_of_a_file_reaches_a_containers_environment(variables: dict[str, str], files: frozenset[str]) -> None:
    found = dict(environment.for_container({**variables, "RUNNER_TEMP_PROJECT_DIR": "/t"}, files))
    assert all(found[name] == f"/t/{name}" for name in files & found.keys())
    assert all(found[name] == value for name, value in variables.items() if name in found and name not in files)


@given(st.dictionaries(st.text("A=", max_size=4), st.text("a\0=", max_size=4)))
def test_what_cannot_be_in_an_environment_is_left_out(variables: dict[str, str]) -> None:
    for name, value in environment.for_container(variables, ()):
        assert "=" not in name
        assert "\0" not in name + value


@pytest.mark.parametrize(
    ("value", "expected"),
    [("true", True), ("TRUE", True), ("True", True), ("t", True), ("1", True), ("false", False), ("0", False), ("yes", False), ("", False)],
)
def test_flags_are_read_as_the_runner_reads_them(value: str, expected: bool) -> None:
    assert environment.flag({"FF_X": value}, "FF_X") is expected
    assert environment.flag({}, "FF_X") is False
