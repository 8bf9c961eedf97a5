"""Reading YAML from people: aliases that cannot multiply, in a configuration no key twice, and one sentence for whatever is wrong."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import yaml

from runner.errors import UserError

_NODES = 100_000  # after every alias has been replaced by what it stands for


def decode(raw: bytes, path: str) -> Any:
    """Return the one document of a configuration file; UserError with its line for what is not YAML, or not meant by anybody."""
    with explained(f"configuration {path}"):
        return yaml.load(raw, Loader=_Loader)  # a SafeLoader


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn what PyYAML raises into a UserError about `what`, with the line."""
    try:
        yield
    except yaml.reader.ReaderError as e:
        raise UserError(f"{what} is not YAML: {e.reason} at byte {e.position}", "write it in UTF-8") from e
    except yaml.YAMLError as e:
        mark = getattr(e, "problem_mark", None)
        place = f" (line {mark.line + 1})" if mark else ""
        raise UserError(f"{what} is not YAML{place}: {getattr(e, 'problem', None) or e}", "check the indentation") from e
    except RecursionError as e:
        raise UserError(f"{what} is nested too deeply", "it needs five levels at most") from e
    except ValueError as e:  # what looks like a date and is none
        raise UserError(f"{what} is not YAML: {e}", "put what looks like a date in quotes") from e


class BoundedLoader(yaml.SafeLoader):
    """A SafeLoader that refuses aliases within aliases that make millions of a few lines, and what holds itself."""

    def __init__(self, stream: bytes) -> None:
        super().__init__(stream)
        self._count = 0
        self._sizes: dict[int, int] = {}  # of anchored nodes, by identity

    def compose_document(self) -> yaml.Node | None:
        """Compose one document, which knows no anchors of those before."""
        self._sizes.clear()
        return super().compose_document()

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose one node, counting what an alias stands for as often as it is used."""
        before = self._count
        is_alias = self.check_event(yaml.AliasEvent)
        node = super().compose_node(parent, index)
        if is_alias and id(node) not in self._sizes:  # the anchor is still being read
            raise yaml.composer.ComposerError(None, None, "it holds itself", node.start_mark if node else None)
        self._count += self._sizes.get(id(node), 1) if is_alias else 1
        if not is_alias:
            self._sizes[id(node)] = self._count - before
        if self._count > _NODES:
            raise yaml.composer.ComposerError(None, None, "there is too much of it", node.start_mark if node else None)
        return node


class _Loader(BoundedLoader):
    """One that refuses keys that stand twice, too."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Compose a mapping whose keys all differ. What `<<` merges in comes later, and may be overridden."""
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            name = (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else id(key)
            if name in seen:
                raise yaml.composer.ComposerError(None, None, f"{key.value} stands there twice", key.start_mark)
            seen.add(name)
        return node
