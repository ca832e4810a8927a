"""Exported models load without remote code where this package is imported: their classes are registered here.

`import reproducer` imports neither torch nor transformers. So it waits for transformers' Auto classes to be imported.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

AUTO = "transformers.models.auto.modeling_auto"


def register_when_imported() -> None:
    """Register the classes of pruned models now, or as soon as transformers' Auto classes are there."""
    if AUTO in sys.modules:
        _register()
    elif not any(isinstance(finder, _Waiting) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Waiting())


def _register() -> None:
    from reproducer.models.export.classes import register

    register()


class _Waiting(MetaPathFinder):
    """Finds nothing but the module that it waits for, and registers when that has been executed."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != AUTO:
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(name, path)
        if spec is not None and spec.loader is not None:
            loader: Any = spec.loader
            execute = loader.exec_module

            def execute_and_register(module: ModuleType) -> None:
                execute(module)
                _register()

            loader.exec_module = execute_and_register
        return spec
