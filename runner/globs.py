"""Doublestar globs (bmatcuk/doublestar), in which rules about image names are written here as in gitlab-runner's allowed_images."""


def matches(pattern: str, name: str) -> bool:
    """Tell whether the whole of `name` matches: `*`, `?` and [abc] stop at a slash, a directory `**` is any number of them, {a,b} works.

    A pattern that is none allows nothing.
    """
    try:
        return any(_matches_plain(plain, name) for plain in _alternatives(pattern))
    except ValueError:
        return False


def is_pattern(pattern: str) -> bool:
    """Tell whether `matches` understands a pattern."""
    try:
        for plain in _alternatives(pattern):
            for directory in plain.split("/"):
                _directory(directory)
    except ValueError:
        return False
    return True


def _matches_plain(pattern: str, name: str) -> bool:
    """Match a pattern without braces, directory by directory; `reached` are the counts of directories that the pattern may use up."""
    names = name.split("/")
    reached = {0}
    for wanted in pattern.split("/"):
        if wanted == "**":
            reached = set(range(min(reached), len(names) + 1)) if reached else reached
        else:
            import re  # 5 ms, as below: for machines that have rules

            expression = re.compile(_directory(wanted), re.DOTALL)
            reached = {used + 1 for used in reached if used < len(names) and expression.fullmatch(names[used])}
    return len(names) in reached


def _alternatives(pattern: str) -> list[str]:
    """Return the patterns without braces that a pattern stands for."""
    i = 0
    while i < len(pattern):
        if pattern[i] == "[":
            i = _class(pattern, i)[1]
        elif pattern[i] == "{":
            end, choices = _choices(pattern, i + 1)
            return [one for choice in choices for one in _alternatives(pattern[:i] + choice + pattern[end:])]
        else:
            i += 2 if pattern[i] == "\\" else 1
    return [pattern]


def _choices(pattern: str, start: int) -> tuple[int, list[str]]:
    """Return the place behind the brace that closes the one before `start`, and what its commas separate."""
    found, depth, i = [""], 0, start
    while i < len(pattern):
        c = pattern[i : i + 2] if pattern[i] == "\\" else pattern[i]
        i += len(c)
        if c == "}" and not depth:
            return i, found
        if c == "," and not depth:
            found.append("")
            continue
        depth += {"{": 1, "}": -1}.get(c, 0)
        found[-1] += c
    raise ValueError("a brace is not closed")


def _directory(pattern: str) -> str:
    """Return the regular expression of one directory."""
    import re

    out, i = "", 0
    while i < len(pattern):
        c = pattern[i]
        if c == "[":
            expression, i = _class(pattern, i)
            out += expression
            continue
        if c == "\\":
            i += 1
            if i == len(pattern):
                raise ValueError("nothing follows a backslash")
            out += re.escape(pattern[i])
        else:
            out += {"*": ".*", "?": "."}.get(c, re.escape(c))
        i += 1
    return out


def _class(pattern: str, start: int) -> tuple[str, int]:
    """Return the regular expression of the character class that begins at `start`, and the place behind it."""
    i = start + 1
    negation = "^" if pattern[i : i + 1] in ("!", "^") else ""
    i += len(negation)
    members, low = "", ""
    while i < len(pattern) and pattern[i] != "]":
        is_range = bool(low) and pattern[i] == "-" and pattern[i + 1 : i + 2] not in ("", "]")
        i += is_range
        i += pattern[i] == "\\"
        member = pattern[i : i + 1]
        if not member or member == "/":
            raise ValueError("a character class is not closed in its directory")
        if is_range and member < low:
            raise ValueError("a range of characters runs backwards")
        members += f"-{_member(member)}" if is_range else _member(member)
        low = "" if is_range else member
        i += 1
    if i >= len(pattern) or not members:
        raise ValueError("a character class is empty or not closed")
    return f"[{negation}{members}]", i + 1


def _member(character: str) -> str:
    return character if character.isalnum() else f"\\{character}"
