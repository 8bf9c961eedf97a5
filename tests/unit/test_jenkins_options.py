"""docker's command lines, read as docker reads them."""

import pytest

from runner.adapters.jenkins import signal_names
from runner.adapters.jenkins.options import Grammar, Parsed, variables
from runner.errors import UserError

RUN = Grammar("run", "-d --detach -t --tty -i --interactive -u= --user= -e= --env= --env-file= --rm", {"--bad": "it is bad"}, mixed=False)
RM = Grammar("rm", "-f --force -v --volumes")


@pytest.mark.parametrize(
    ("words", "values", "rest"),
    [
        (["-t", "-d", "-u", "1:2", "image", "cat", "-d"], {"tty": ["true"], "detach": ["true"], "user": ["1:2"]}, ("image", "cat", "-d")),
        (["-itu1:2", "image"], {"interactive": ["true"], "tty": ["true"], "user": ["1:2"]}, ("image",)),
        (["-u=root", "--user=other", "--rm=false", "i"], {"user": ["root", "other"], "rm": ["false"]}, ("i",)),
        (["--env", "A=--x", "-e", "B=", "--", "-d"], {"env": ["A=--x", "B="]}, ("-d",)),
        (["-e", "", "i"], {"env": [""]}, ("i",)),
    ],
)
def test_options_end_where_the_containers_own_words_begin(words: list[str], values: dict[str, list[str]], rest: tuple[str, ...]) -> None:
    assert RUN.parse(words) == Parsed(values, rest)


def test_options_may_stand_after_words_where_nothing_else_follows() -> None:
    assert RM.parse(["one", "-f", "--volumes", "two"]) == Parsed({"force": ["true"], "volumes": ["true"]}, ("one", "two"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--what"], "docker run: option --what is not served by dockless"),
        (["-dx"], "docker run: option -x is not served"),
        (["-u"], "docker run: option -u needs a value"),
        (["--rm=perhaps"], "docker run: option --rm takes no value"),
        (["--bad", "x"], "docker run: --bad is refused: it is bad"),
        (["--bad=x"], "docker run: --bad is refused: it is bad"),
    ],
)
def test_what_is_not_served_is_said(words: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        RUN.parse(words)
    assert caught.value.message.startswith(message)
    assert caught.value.hint == ""


def test_variables_are_given_or_the_callers() -> None:
    parsed = RUN.parse(["-e", "A=1=2", "-e", "B", "-e", "C", "i"])
    assert variables(parsed, {"B": "own"}, verb="run") == (("A", "1=2"), ("B", "own"))
    with pytest.raises(UserError, match="is no name of a variable"):
        variables(RUN.parse(["-e", "=x", "i"]), {}, verb="run")


@pytest.mark.parametrize("text", ["01000", "0" * 5000 + "9", "64000", "RTMIN+00099", "0", "65", "²"])
def test_numbers_that_are_no_signal_are_none(text: str) -> None:
    with pytest.raises(UserError):
        signal_names.number(text)
