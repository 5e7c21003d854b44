"""Classes by name, each in a file of a package: ``NAME.py`` defines the one class that is built as ``NAME``."""

import importlib
import inspect
import pkgutil
import sys
from typing import Any

from instseg.errors import unknown_name


def names(package: str) -> list[str]:
    """Every file of an imported package; folders and names that begin with ``_`` are passed over."""
    files = pkgutil.iter_modules(sys.modules[package].__path__)
    return sorted(file.name for file in files if not file.ispkg and not file.name.startswith("_"))


def load(package: str, name: str, base: type, kind: str) -> type[Any]:
    """The class derived from ``base`` in a file of :func:`names`; ``kind`` is what it is, for the message.

    Raises:
        UserError: there is no such file.
        TypeError: it does not define exactly one such class.
    """
    if name not in names(package):
        raise unknown_name(kind, name, names(package))
    module = importlib.import_module(f"{package}.{name}")
    classes = [value for value in vars(module).values() if inspect.isclass(value) and issubclass(value, base)]
    defined = [c for c in classes if c.__module__ == module.__name__]
    if len(defined) != 1:
        file = f"{package.rpartition('.')[2]}/{name}.py"
        raise TypeError(f"{file} must define one {base.__name__}, and defines {len(defined)}")
    return defined[0]


def options(loaded: type) -> dict[str, Any]:
    """The keyword-only arguments of a class and their defaults."""
    parameters = inspect.signature(loaded).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
