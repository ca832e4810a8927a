"""Things that a spec picks by name: of this package, of an installed one, or of a module of the user's own."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import pkgutil
import sys
from pathlib import Path
from typing import Any, Generic, TypeVar

from reproducer.errors import UserError, nearest

T = TypeVar("T")


class Registry(Generic[T]):
    """What one room offers by name.

    Args:
        noun: what a single thing is called in messages, such as `method`.
        package: the package of which every module is imported once, so that what it registers is known.
        group: the entry-point group under which installed packages offer theirs.
    """

    def __init__(self, noun: str, package: str, group: str) -> None:
        self._noun, self._package, self._group = noun, package, group
        self._things: dict[str, T] = {}
        self._added: list[T] = []  # what was replaced, too: a spec may name it by its module
        self._complete = False

    def add(self, name: str, thing: T) -> T:
        """Register `thing`; a later one of the same name takes its place (a module may be imported anew).

        Raises:
            UserError: the name is one of this package's own, and `thing` is not.
        """
        known = self._things.get(name)
        if known is not None and _is_own(known) and not _is_own(thing):
            message = f"the {self._noun} '{name}' of {thing.__module__} has the name of one of {self._package}"
            raise UserError(message, "register it under another name")
        self._things[name] = thing
        self._added.append(thing)
        return thing

    def all(self) -> dict[str, T]:
        """Everything by name, in alphabetical order.

        Raises:
            UserError: an installed package offers something that cannot be imported.
        """
        if not self._complete:
            package = importlib.import_module(self._package)
            for module in pkgutil.iter_modules(package.__path__):
                importlib.import_module(f"{self._package}.{module.name}")
            for point in importlib.metadata.entry_points(group=self._group):
                try:
                    point.load()
                except Exception as error:
                    message = f"the {self._noun} '{point.name}' of an installed package cannot be imported: {error}"
                    raise UserError(message, f"mend or uninstall the package that offers {point.value}") from error
            self._complete = True
        return dict(sorted(self._things.items()))

    def get(self, name: str) -> T:
        """The thing registered as `name`, or what `module:attribute` names.

        Raises:
            UserError: there is none; with the nearest name. Or the module cannot be imported.
        """
        if ":" in name:
            return self._imported(name)
        known = self.all()
        if name not in known:
            raise UserError(f"unknown {self._noun} '{name}'", nearest(name, known))
        return known[name]

    def _imported(self, name: str) -> T:
        module_name, _, attribute = name.partition(":")
        try:
            found: Any = importlib.import_module(module_name)
            for part in attribute.split("."):
                found = getattr(found, part)
        except Exception as error:  # whatever the user's module raises
            reason = str(error).partition("\n")[0] or type(error).__name__
            hint = "it is looked for in the spec's folder, the working directory and the installed packages"
            raise UserError(f"the {self._noun} '{name}' cannot be imported: {reason}", hint) from error
        if not any(thing is found for thing in self._added):
            raise UserError(
                f"'{name}' is a {type(found).__name__}, no registered {self._noun}",
                f"decorate it as the modules of {self._package} do",
            )
        registered: T = found
        return registered


def _is_own(thing: Any) -> bool:
    """Whether it is defined in this package."""
    return str(getattr(thing, "__module__", "")).partition(".")[0] == __name__.partition(".")[0]


def source_digest(thing: Any) -> str | None:
    """SHA-256 of the file that defines `thing` (something with a `__module__`); None for one of this package.

    It joins the key of a stage that uses the thing, so that an edit of a user's own module makes the stage run again.
    """
    module = sys.modules.get(getattr(thing, "__module__", ""), None)
    if module is None or _is_own(thing):
        return None
    file = getattr(module, "__file__", None)
    return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else None
