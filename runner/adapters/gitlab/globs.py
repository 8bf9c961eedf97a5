"""Doublestar globs, in which gitlab-runner's allowed_images and allowed_services are written (bmatcuk/doublestar)."""

import re


def matches(pattern: str, name: str) -> bool:
    """Tell whether the whole of `name` matches: `*` and `?` stop at a slash, `**` does not, {a,b} and [abc] work."""
    try:
        return re.fullmatch(_translate(pattern), name) is not None
    except re.error:
        return False  # a pattern that is none allows nothing


def _translate(pattern: str) -> str:
    out, depth, i = "", 0, 0
    while i < len(pattern):
        c = pattern[i]
        if pattern.startswith("**/", i):
            out, i = out + "(?:.*/)?", i + 3
            continue
        if pattern.startswith("**", i):
            out, i = out + ".*", i + 2
            continue
        if c == "[" and (end := pattern.find("]", i + 2)) > 0:
            inside = pattern[i + 1 : end].replace("\\", "\\\\").replace("[", "\\[")
            out, i = out + "[" + ("^" + inside[1:] if inside[0] in "!^" else inside) + "]", end + 1
            continue
        if c == "\\" and i + 1 < len(pattern):
            out, i = out + re.escape(pattern[i + 1]), i + 2
            continue
        if c == "{":
            out, depth = out + "(?:", depth + 1
        elif c == "}" and depth:
            out, depth = out + ")", depth - 1
        elif c == "," and depth:
            out += "|"
        else:
            out += {"*": "[^/]*", "?": "[^/]"}.get(c, re.escape(c))
        i += 1
    return out
