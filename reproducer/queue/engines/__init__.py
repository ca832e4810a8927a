"""Engines: what runs the calls that the queue, or a stage, hands to it. One file an engine.

A module of the user's own or an installed package (entry-point group `reproducer.engines`) offers one the same way:

    @register("threads")
    class Threads: ...
"""

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Protocol, TypeVar

from reproducer.registry import Registry


class Engine(Protocol):
    """Runs calls somewhere.

    The future of a call whose worker was lost (killed, its machine gone) has a `concurrent.futures.BrokenExecutor` as
    its exception; whoever submitted the call may submit it again. A worker ends when the process of the engine does,
    however that ended.

    Attributes:
        slots: how many calls make progress at once; further ones wait.
    """

    slots: int

    def submit(self, function: Callable[..., Any], /, *arguments: Any) -> Future[Any]:
        """Call `function`, a picklable module-level one, with picklable arguments. Keep both and the result small."""

    def close(self) -> None:
        """End the workers, breaking off what they are at; returns when all have ended. May be called twice."""


Factory = Callable[[int], Engine]  # makes an engine with so many slots
T = TypeVar("T", bound=Factory)

ENGINES: Registry[Factory] = Registry("engine", "reproducer.queue.engines", "reproducer.engines")


def register(name: str) -> Callable[[T], T]:
    """Decorates what makes an engine, a class or a function of the number of slots."""

    def add(factory: T) -> T:
        ENGINES.add(name, factory)
        return factory

    return add
