"""Declarative batch reproducer for structured pruning of large language models."""

from typing import TYPE_CHECKING, Any

from reproducer.models.export.registration import register_when_imported

if TYPE_CHECKING:
    from reproducer.evaluation.model import evaluate
    from reproducer.exporting.model import export
    from reproducer.methods.prune import prune
    from reproducer.pruning.plan import Plan
    from reproducer.spec import load_spec

__all__ = ["Plan", "evaluate", "export", "load_spec", "prune"]

_HOMES = {
    "evaluate": "reproducer.evaluation.model",
    "export": "reproducer.exporting.model",
    "prune": "reproducer.methods.prune",
    "Plan": "reproducer.pruning.plan",
    "load_spec": "reproducer.spec",
}


def __getattr__(name: str) -> Any:  # looked up when asked for, so that a dry run never imports torch
    import importlib
    import importlib.metadata

    if name == "__version__":
        return importlib.metadata.version("reproducer")
    if name not in _HOMES:
        raise AttributeError(f"module 'reproducer' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])


register_when_imported()
