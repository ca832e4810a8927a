"""What the device at hand can do, measured in a moment: for the estimates of a dry run."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

PROBE_SECONDS = 0.05  # for each size of a product, and twice for memory
ENOUGH = 0.03  # seconds of one product: behind it a larger one tells no more
LARGEST = 8192  # rows and columns: fills any GPU
ELEMENTS = 2**25  # of a tensor to read and write: more than any cache holds


@dataclass(frozen=True)
class Rates:
    """Of one dtype: floating-point operations a second of a square matrix product, and bytes read and written."""

    flops: float
    bytes: float


@dataclass
class Device:
    """What an estimate needs to know.

    Attributes:
        label: for a person.
        memory: bytes that there are in all.
        measure: finds the rates of a dtype, given its name.
        measured: those that were asked for.
    """

    label: str
    memory: int
    measure: Callable[[str], Rates]
    measured: dict[str, Rates] = field(default_factory=dict)

    def rates(self, dtype: str) -> Rates:
        """The rates of a dtype, measured once."""
        if dtype not in self.measured:
            self.measured[dtype] = self.measure(dtype)
        return self.measured[dtype]


def this_device(name: str) -> Device:
    """The device that torch calls `name`, `cpu` or a GPU. It is measured when its rates are first asked for."""
    import torch

    if torch.device(name).type == "cuda":
        properties = torch.cuda.get_device_properties(name)
        return Device(properties.name, properties.total_memory, partial(probe, name))
    import psutil

    from reproducer.queue import describe_machine

    label = f"{describe_machine()['cpu']}, {torch.get_num_threads()} threads"
    return Device(label, psutil.virtual_memory().total, partial(probe, name))


def probe(name: str, dtype: str) -> Rates:
    """The rates of a device: the best of about half a second, so that what else runs plays as little part as it can."""
    import torch

    flops, size, least = 0.0, 256, 0.0
    while (
        least < ENOUGH and size <= LARGEST
    ):  # from small to large: a dtype without fast products must not take minutes
        left, right = (torch.rand(size, size, device=name).to(getattr(torch, dtype)) for _ in range(2))
        least = _best(partial(torch.nn.functional.linear, left, right), name, PROBE_SECONDS)
        flops, size = max(flops, 2 * size**3 / least), 2 * size
    values = torch.ones(ELEMENTS, dtype=getattr(torch, dtype), device=name)
    result = torch.empty_like(values)
    moved = _best(partial(torch.add, values, 1, out=result), name, 2 * PROBE_SECONDS)
    return Rates(flops, 2 * values.nbytes / moved)


def _best(call: Callable[[], object], name: str, limit: float) -> float:
    """Least seconds of a call, repeated for `limit` seconds: what else runs can only make it slower."""
    import torch

    wait = torch.cuda.synchronize if torch.device(name).type == "cuda" else lambda: None
    call()  # buffers and kernels are made
    wait()
    least, end = float("inf"), time.perf_counter() + limit
    while True:
        began = time.perf_counter()
        call()
        wait()
        now = time.perf_counter()
        least = min(least, now - began)
        if now >= end:
            return least
