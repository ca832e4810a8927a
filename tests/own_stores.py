"""Engines whose workers have stores of their own, as machines that share no folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from reproducer.queue import Stage


class OwnStores:
    """An engine over another one's workers.

    Args:
        place: called in a worker, gives the number of its machine.
    """

    def __init__(self, engine: Any, place: Callable[[], int]) -> None:
        self._engine, self._place = engine, place

    @property
    def slots(self) -> int:
        return self._engine.slots

    def submit(self, function: Callable[..., Any], stage: Stage, root: Path, *more: Any, **needs: Any) -> Any:
        return self._engine.submit(_on_own_store, self._place, function, stage, root, *more, **needs)

    def close(self) -> None:
        self._engine.close()


def _on_own_store(place: Callable[[], int], function: Callable[..., Any], stage: Stage, root: Path, *more: Any) -> Any:
    return function(stage, root.with_name(f"store-of-{place()}"), *more)
