"""Which images a .gitlab-ci.yml names, and what it leaves open."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.adapters.gitlab import ci_file
from runner.adapters.gitlab.ci_file import Found, Wanted
from runner.errors import UserError

TEMPLATES = Path(__file__).resolve().parents[2] / "ci-templates/gitlab"


def read(text: str) -> Found:
    return ci_file.read(text.encode(), "ci.yml")


def images(text: str) -> list[str]:
    found = read(text)
    assert found.left_out == ()
    return [one.image for one in found.wanted]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("job: {script: [true]}", []),
        ("image: a", ["a"]),
        ("image: {name: a, entrypoint: ['']}", ["a"]),
        ("default: {image: a, services: [b, {name: c, alias: x}]}", ["a", "b", "c"]),
        ("services: [a]\njob: {image: b}", ["a", "b"]),
        ("default: {image: a}\njob: {image: b}", ["a", "b"]),
        ("job: {image: a, services: ['docker:27-dind']}", ["a", "docker:27-dind"]),
        (".hidden: {image: a}", ["a"]),
        ("a: {image: x}\nb: {image: x}\nc: {image: 'docker.io/library/x:latest'}", ["x"]),
        ("stages: [image]\nvariables: {image: no}\ncache: {image: no}\nworkflow: {image: no}\ninclude: []\njob: {image: a}", ["a"]),
        ("image: toolbox\njob: {services: [toolbox, a]}", ["a"]),
        ("job: {image: oci:/srv/images/app:v1}", ["oci:/srv/images/app:v1"]),
        ("true: {image: a}\n2: {image: b}", ["a", "b"]),
        # a header with inputs
        ("spec: {inputs: {x: {}}}\n---\njob: {image: a}", ["a"]),
        ("image: a\n---\nimage: b", ["a"]),
        # keys that stand twice, as GitLab takes them
        ("job: {image: a}\njob: {image: b}", ["b"]),
    ],
)
def test_image_is_found_wherever_it_may_stand(text: str, expected: list[str]) -> None:
    assert images(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (".a: &a {image: x}\njob: {<<: *a}", ["x"]),
        (".a: &a [x, y]\njob: {services: *a}", ["x", "y"]),
        (".a: {image: x}\njob: {image: !reference [.a, image]}", ["x"]),
        (".a: {services: [x, y]}\njob: {services: [!reference [.a, services], z]}", ["x", "y", "z"]),
        (".a: {services: [{name: x}]}\n.b: {services: !reference [.a, services]}\njob: {services: !reference [.b, services]}", ["x"]),
        (".a: {variables: {V: '1'}}\njob: {variables: !reference [.a, variables], image: 'x:$V'}", ["x:1"]),
        (".a: {variables: {V: '1'}}\njob: {variables: {W: !reference [.a, variables, V]}, image: 'x:$W'}", ["x:1"]),
        ("job: {script: !reference [.a, script], before_script: [!reference [.x, y], !custom z], image: x}", ["x"]),
        (".a: {docker: {platform: arm64}}\njob: {image: {name: x, docker: !reference [.a, docker]}}", ["x"]),
    ],
)
def test_anchors_and_references_are_followed(text: str, expected: list[str]) -> None:
    assert images(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("variables: {V: '1'}\njob: {image: 'x:$V'}", ["x:1"]),
        ("variables: {V: 3.20, W: 7}\njob: {image: 'x:$V', services: ['y:${W}']}", ["x:3.2", "y:7"]),
        ("variables: {V: {value: '1', description: d}}\njob: {image: 'x:${V}-a'}", ["x:1-a"]),
        ("variables: {V: '1'}\njob: {variables: {V: '2'}, image: 'x:$V'}", ["x:2"]),
        ("variables: {A: 'r/$B', B: 'x:$C', C: '1'}\nimage: $A", ["r/x:1"]),
        ("default: {image: 'x:$V'}\njob: {variables: {V: '1'}}", ["x:1"]),
        (".a: {image: 'x:$V'}\njob: {extends: .a, variables: {V: '1'}}\nmore: {extends: [.a], variables: {V: '2'}}", ["x:1", "x:2"]),
        (".a: {variables: {V: '1'}}\n.b: {extends: .a, variables: {W: '2'}}\njob: {extends: .b, image: 'x:$V-$W'}", ["x:1-2"]),
        (".a: {image: {name: x, docker: {platform: p}}}\njob: {extends: .a, image: {name: y}}", ["x", "y"]),
        ("job: {image: $I, parallel: {matrix: [{I: [a, b], S: [1, 2]}, {I: c}]}}", ["a", "b", "c"]),
        ("job: {image: 'a:$V-$W', parallel: {matrix: [{V: [1, 2], W: [3, 4]}]}}", ["a:1-3", "a:1-4", "a:2-3", "a:2-4"]),
        ("job: {image: a, parallel: 5}", ["a"]),
        ("job: {image: a, parallel: {matrix: []}}", ["a"]),
    ],
)
def test_variables_of_the_file_are_expanded(text: str, expected: list[str]) -> None:
    assert images(text) == expected


def test_platform_is_the_images_own_and_may_be_a_variable() -> None:
    text = """
variables: {P: arm64}
a: {image: {name: x, docker: {platform: linux/$P}}}
b: {image: x}
c: {services: [{name: x, docker: {platform: linux/arm64}}]}
"""
    assert read(text) == Found((Wanted("x", "linux/arm64"), Wanted("x")), (), ())


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("image: $CI_REGISTRY_IMAGE:1", "default: '$CI_REGISTRY_IMAGE:1' is left out: CI_REGISTRY_IMAGE is not set in this file"),
        ("job: {image: 'x:${V}'}", "job job: 'x:${V}' is left out: V is not set in this file"),
        ("variables: {A: $B}\njob: {image: $A}", "job job: '$A' is left out: B is not set in this file"),
        ("variables: {A: $A}\njob: {image: $A}", "job job: '$A' is left out: it cannot be expanded"),
        ("variables: {A: $B$B$B, B: $C$C$C, C: $A}\njob: {image: $A}", "job job: '$A' is left out: it cannot be expanded"),
        ("job: {image: '$[[ inputs.image ]]'}", "job job: '$[[ inputs.image ]]' is left out: it cannot be expanded"),
        ("job: {image: x, services: ['$(id)']}", "job job: '$(id)' is left out: it cannot be expanded"),
        ("job: {image: {name: x, docker: {platform: $P}}}", "job job: '$P' is left out: P is not set in this file"),
        ("job: {image: !reference [.a, image]}", "job job: !reference [.a, image] is not in this file"),
        ("a: {image: !reference [b, image]}\nb: {image: !reference [a, image]}", "job a: !reference ["),
        ("job: {image: !secret x}", "job job: !secret is not in this file"),
        ("job: {image: 7}", "job job: '7' is no image"),
        ("job: {services: [{alias: x}]}", "job job: \"{'alias': 'x'}\" is no image"),
        ("job: {image: Upper}", "job job: bad image name 'Upper': a repository has no upper-case letters"),
        ('job: {image: "a\\u001b[2J"}', "job job: bad image name"),
    ],
)
def test_image_that_the_file_leaves_open_is_said_in_a_line(text: str, sentence: str) -> None:
    found = read(text)
    assert found.left_out[0].startswith(sentence)
    assert all(line.isprintable() for line in found.left_out)


def test_what_is_left_open_is_said_once_and_not_where_another_job_fills_it_in() -> None:
    found = read("image: $X\na: {}\nb: {}\n.c: {image: 'y:$V'}\nd: {extends: .c, variables: {V: '1'}}")
    assert [one.image for one in found.wanted] == ["y:1"]
    assert found.left_out == ("default: '$X' is left out: X is not set in this file",)


def test_password_in_a_name_is_not_repeated() -> None:
    (sentence,) = read("job: {image: 'me:hunter2@registry.example/app'}").left_out
    assert "hunter2" not in sentence


def test_includes_are_named() -> None:
    text = """
include:
  - local: /a.yml
  - project: group/project
    file: [/b.yml, /c.yml]
  - remote: https://ci.example/d.yml
  - template: Auto.yml
  - component: ci.example/x/y@1
  - e.yml
  - {}
"""
    assert read(text).includes == ("/a.yml", "/b.yml", "/c.yml", "https://ci.example/d.yml", "Auto.yml", "ci.example/x/y@1", "e.yml", "?")
    assert read("include: a.yml").includes == ("a.yml",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n- b", "ci.yml is neither a pipeline of GitLab nor a list of images"),
        ("a: [", "ci.yml is not YAML"),
        ("a: *b", "ci.yml is not YAML"),
        ("services: &a [*a]", "ci.yml is not YAML (line 1): it holds itself"),
        ("x: &a {y: *a}", "ci.yml is not YAML (line 1): it holds itself"),
        (
            "a: &a [1,1,1,1,1,1,1,1,1,1]\n"
            + "".join(f"{b}: &{b} [{','.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcde", "bcdef", strict=True)),
            "too much",
        ),
        ("[" * 2000, "ci.yml is "),
    ],
)
def test_what_is_no_pipeline_is_refused_with_a_sentence(text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        read(text)
    assert message in caught.value.message
    assert caught.value.hint


def test_references_that_multiply_come_to_an_end() -> None:
    levels = "".join(f".l{n}: {{services: [{', '.join([f'!reference [.l{n + 1}, services]'] * 20)}]}}\n" for n in range(8))
    assert images(f"{levels}.l8: {{services: []}}\njob: {{image: a, services: !reference [.l0, services]}}") == ["a"]


def test_matrix_is_looked_at_as_far_as_gitlab_makes_jobs_of_it() -> None:
    values = "[" + ",".join(str(n) for n in range(100)) + "]"
    assert len(images(f"job: {{image: 'a:$A-$B', parallel: {{matrix: [{{A: {values}, B: {values}}}]}}}}")) == 200


@given(st.text("{}[]:,&*!|>-#'\" \n\tabc$", max_size=60))
def test_every_text_is_read_or_refused(text: str) -> None:
    try:
        read(text)
    except UserError:
        pass


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("image-build", []),
        ("matrix", ["debian:12-slim", "ubuntu:24.04", "alpine:3.20"]),
        ("test-with-service", ["redis:7"]),
    ],
)
def test_templates_of_this_project_are_understood(template: str, expected: list[str]) -> None:
    assert images((TEMPLATES / f"{template}.gitlab-ci.yml").read_text()) == expected


def test_every_template_of_this_project_is_among_them() -> None:
    assert {path.name.partition(".")[0] for path in TEMPLATES.glob("*.yml")} == {"image-build", "matrix", "test-with-service"}
