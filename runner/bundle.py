"""The modules of a hot command, compiled, in one file beside the launcher: finding and opening each is a quarter of its import.

Only a cache, as __pycache__ is: what it lacks, and a module whose source has changed since, is imported as always.
"""

import os
import sys
from _frozen_importlib import ModuleSpec
from _frozen_importlib_external import MAGIC_NUMBER
from marshal import dumps, loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from types import ModuleType

    # source, its mtime in ns and its size, whether it is a package, and its code
    Entry = tuple[str, int, int, bool, bytes]

# What a launcher does before all other imports; this module comes out of the bundle, too
START = """from _frozen_importlib_external import MAGIC_NUMBER
from marshal import loads
try:
    with open({path}, "rb", 0) as file:
        magic, code, modules = loads(file.read())
    if magic == MAGIC_NUMBER:
        space = {{"__name__": "bundle"}}
        exec(loads(code), space)
        space["use"](modules)
except (OSError, EOFError, TypeError, ValueError):
    pass  # it is only a cache
"""


def use(modules: "Mapping[str, Entry]") -> None:
    """Import these modules from here, from now on."""
    sys.meta_path.insert(0, _Finder(modules))


class _Finder:
    """An importer (importlib.abc.MetaPathFinder and Loader) of what a bundle has."""

    def __init__(self, modules: "Mapping[str, Entry]") -> None:
        self._modules = modules

    def find_spec(self, name: str, _path: "Sequence[str] | None" = None, _target: "ModuleType | None" = None) -> ModuleSpec | None:
        entry = self._modules.get(name)
        if entry is None:
            return None
        source, mtime_ns, size, is_package, _ = entry
        try:
            info = os.stat(source)
        except OSError:
            return None
        if info.st_mtime_ns != mtime_ns or info.st_size != size:
            return None
        spec = ModuleSpec(name, self, origin=source, is_package=is_package)  # type: ignore[arg-type]  # it is what importlib.abc wants
        spec.has_location = True
        if spec.submodule_search_locations is not None:
            spec.submodule_search_locations.append(os.path.dirname(source))
        return spec

    def create_module(self, _spec: ModuleSpec) -> None:
        """Leave it to the import system."""

    def exec_module(self, module: "ModuleType") -> None:
        exec(loads(self._modules[module.__name__][4]), module.__dict__)


def content(modules: "Iterable[tuple[str, str]]") -> bytes:
    """Return the bundle, for this interpreter, of some modules, each with its name and its source file."""
    return dumps((MAGIC_NUMBER, _compiled(__file__), {name: _entry(source) for name, source in modules}))


def _entry(source: str) -> "Entry":
    info = os.stat(source)
    return source, info.st_mtime_ns, info.st_size, os.path.basename(source) == "__init__.py", _compiled(source)


def _compiled(source: str) -> bytes:
    with open(source, "rb") as file:
        return dumps(compile(file.read(), source, "exec", dont_inherit=True, optimize=2))  # docstrings are for others
