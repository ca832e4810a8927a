"""Engines: what runs the calls that the queue, or a stage, hands to it. One file an engine.

A module of the user's own or an installed package (entry-point group `reproducer.engines`) offers one the same way:

    @register("threads")
    class Threads: ...
"""

import inspect
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Protocol, TypeVar

from reproducer.errors import UserError
from reproducer.registry import Registry


class Engine(Protocol):
    """Runs calls somewhere.

    The future of a call whose worker was lost has a `concurrent.futures.BrokenExecutor` as its exception; whoever
    submitted the call may submit it again. A worker ends when the process of the engine does, however that ended.

    An engine whose class has `elsewhere = True` finds machines by itself. It is made with 0 slots for as many as there
    is room for, takes the keyword `device` (what `--device` says), has `devices` as `run` takes them, and its `submit`
    takes the keyword `memory`, in bytes. One that has an address takes the keyword `address`.

    Attributes:
        slots: how many calls make progress at once; further ones wait. It may change as machines come and go.
    """

    @property
    def slots(self) -> int: ...

    def submit(self, function: Callable[..., Any], /, *arguments: Any) -> Future[Any]:
        """Call `function`, a picklable module-level one, with picklable arguments. Keep both and the result small."""

    def close(self) -> None:
        """End the workers, breaking off what they are at; returns when all have ended. May be called twice."""


Factory = Callable[..., Engine]  # makes an engine with so many slots
T = TypeVar("T", bound=Factory)

ENGINES: Registry[Factory] = Registry("engine", "reproducer.queue.engines", "reproducer.engines")


def register(name: str) -> Callable[[T], T]:
    """Decorates what makes an engine, a class or a function of the number of slots."""

    def add(factory: T) -> T:
        ENGINES.add(name, factory)
        return factory

    return add


def engine_named(text: str) -> tuple[Factory, dict[str, str]]:
    """What makes the engine that `text` names, and keywords for it: NAME, NAME:ADDRESS or MODULE:ATTRIBUTE.

    Raises:
        UserError: there is none of that name, or it has no address.
    """
    name, _, address = text.partition(":")
    if not address or name not in ENGINES.all():
        return ENGINES.get(text), {}
    factory = ENGINES.get(name)
    if "address" not in inspect.signature(factory).parameters:
        raise UserError(f"the engine '{name}' has no address", f"take --engine {name}")
    return factory, {"address": address}
