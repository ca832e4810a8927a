"""Exported models load without remote code where this package is imported: transformers' AutoConfig knows them.

`import reproducer` imports neither torch nor transformers: it waits for AutoConfig to be imported. Even then the
families' classes cannot be, as transformers may be half imported itself; something stands for each until it is used.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

AUTO = "transformers.models.auto.configuration_auto"


def register_when_imported() -> None:
    """Register the configurations of pruned models now, or as soon as AutoConfig is there."""
    if AUTO in sys.modules:
        _register(sys.modules[AUTO])
    elif not any(isinstance(finder, _Waiting) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Waiting())


def _register(module: Any) -> None:
    from reproducer.models.families import FAMILIES, PRUNED

    for model_type in (model_type for family in FAMILIES for model_type in family.model_types):
        module.AutoConfig.register(PRUNED + model_type, _stand_in(model_type), exist_ok=True)


def _stand_in(model_type: str) -> Any:
    """As much of a configuration's class as AutoConfig uses; the class itself takes its place when it is made."""

    def made() -> Any:
        from reproducer.models.export.classes import config_class

        return config_class(model_type)

    class StandIn:
        def __new__(cls, *values: Any, **settings: Any) -> Any:
            return made()(*values, **settings)

        @classmethod
        def from_dict(cls, *values: Any, **settings: Any) -> Any:
            return made().from_dict(*values, **settings)

        @classmethod
        def from_pretrained(cls, *values: Any, **settings: Any) -> Any:
            return made().from_pretrained(*values, **settings)

    return StandIn


class _Waiting(MetaPathFinder):
    """Finds nothing but the module that it waits for, and registers when that has been executed."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != AUTO:
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(name, path)
        if spec is not None and spec.loader is not None:
            loader: Any = spec.loader
            execute = loader.exec_module

            def execute_and_register(module: ModuleType) -> None:
                execute(module)
                _register(module)

            loader.exec_module = execute_and_register
        return spec
