"""Templates of docker inspect -f, as Go's text/template renders them."""

import pytest

from runner.adapters.jenkins import template
from runner.errors import UserError

VALUE = {
    "Id": "abc", "Created": "2024-01-01T00:00:00Z", "Running": True, "Nothing": None, "Config": {"Image": "a b", "Labels": {"k": "v"}},
    "Mounts": [{"Destination": "/a"}, {"Destination": "/b c"}], "Words": ["x", "y"], "None": [],
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (".", "."),
        ("", ""),
        ("{{.Id}}", "abc"),
        ("{{ .Config.Image }}!", "a b!"),
        ("{{json .Created}}", '"2024-01-01T00:00:00Z"'),
        ("{{json .Config}}", '{"Image":"a b","Labels":{"k":"v"}}'),
        ("{{.Running}} {{.Nothing}}", "true <no value>"),
        ("{{range.Mounts}}{{.Destination}}\n{{end}}", "/a\n/b c\n"),
        ("<{{range .Mounts}}{{.Destination}} {{end}}>{{.Id}}", "</a /b c >abc"),
        ("{{range .None}}{{range .Mounts}}x{{end}}{{end}}after", "after"),
        ("{{range .Mounts}}{{range .None2}}{{end}}{{end}}", None),
        ("{{range .Words}}{{println .}}{{end}}", "x\ny\n"),
        ("{{.Words}} {{.Config}}", "[x y] map[Image:a b Labels:map[k:v]]"),
        ('{{index .Config.Labels "k"}} {{index .Words 1}}', "v y"),
        ('{{join .Words ", "}}', "x, y"),
        ("a {{- .Id -}} b", "aabcb"),
        ("{{.Id", None),
        ("{{end}}", None),
        ("{{range .Words}}x", None),
        ("{{range .None}}x", None),
        ("{{.Absent}}", None),
        ("{{.Id.Deeper}}", None),
        ("{{if .Id}}x{{end}}", None),
        ("{{index .Words 9}}", None),
        ('{{index .Words "²"}}', None),
        (f"{{{{index .Words {'[' * 100_000}}}}}", None),
        ('{{join .Id ","}}', None),
        ("{{range .Words}}{{range .}}x{{end}}{{end}}", None),
    ],
)
def test_template_is_rendered_or_refused(text: str, expected: str | None) -> None:
    if expected is None:
        with pytest.raises(UserError, match="template"):
            template.render(text, VALUE)
    else:
        assert template.render(text, VALUE) == expected
