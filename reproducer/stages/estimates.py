"""How long stages will take and how much memory: what they cost, at the rates of the device at hand.

Rates are measured in a moment, and what the store has measured of the same kind of stage corrects the time.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from reproducer.models.catalogue import CATALOGUE
from reproducer.models.fetch import recipe
from reproducer.models.load import locate
from reproducer.queue import Outcome, Stage, describe_machine
from reproducer.stages.base import OnModel
from reproducer.stages.cost import CHARACTERS_PER_TOKEN, ModelCost, Work

if TYPE_CHECKING:
    import torch

PROBE_SECONDS = 0.05  # that a rate is measured for
READING, FETCHING = 1e9, 5e7  # bytes a second from a disk, and from a hub or a package registry
HEAP = 1.75  # of the C library, seen in processes that trained, searched and pruned: what is freed in between has gaps
LEAST = 0.1  # seconds: an estimate below that is of bookkeeping, and says nothing of others


@dataclass(frozen=True)
class Estimate:
    """Of one stage: wall time, and the most bytes that it holds at once, model included and libraries not."""

    seconds: float
    memory: float


@dataclass(frozen=True)
class Estimates:
    """Of a list of stages, run one after the other.

    Attributes:
        stages: by key; or why there is none.
        seconds: of those that have no result yet and can be told.
        misfits: a line for every such stage that needs more memory than there is.
        basis: what the estimates rest on, for a reader.
        corrections: factors that are in the times, by the kind of stage.
    """

    stages: Mapping[str, Estimate | str]
    seconds: float
    misfits: Sequence[str]
    basis: str
    corrections: Mapping[str, float]


def estimates(stages: Sequence[Stage], outcome: Outcome, device: Device) -> Estimates:
    """What stages take, those that have a result already correcting the times of others of their kind.

    Memory is not corrected: how much a process grew says little where the stage before left a model or free pages.
    """
    raw: dict[str, Estimate | str] = {}
    loaded: tuple[str, ...] = ()
    ratios: dict[str, list[float]] = {}
    made = {key: result.artifact for key, result in outcome.results.items() if result.artifact is not None}
    for stage in stages:
        try:
            raw[stage.key], loaded = estimate(stage, outcome, device, loaded)
        except NotImplementedError:
            raw[stage.key] = "not estimated"
        except Exception as error:  # whatever transformers makes of a config; a run will say it in full
            raw[stage.key] = f"not estimated: {str(error).partition(chr(10))[0] or type(error).__name__}"
        found, artifact = raw[stage.key], made.get(stage.key)
        here = artifact is not None and artifact.record["environment"].get("cpu") == describe_machine()["cpu"]
        if artifact is not None and here and device.here and isinstance(found, Estimate) and found.seconds >= LEAST:
            ratios.setdefault(stage.kind, []).append(artifact.seconds / found.seconds)
    corrections = {kind: statistics.median(seen) for kind, seen in ratios.items()}
    corrected: dict[str, Estimate | str] = dict(raw)
    total, misfits = 0.0, []
    for stage in stages:
        if isinstance(one := raw[stage.key], Estimate):
            one = replace(one, seconds=one.seconds * corrections.get(stage.kind, 1.0))
            corrected[stage.key] = one
            if stage.key not in made:
                total += one.seconds
                if one.memory > device.memory:
                    misfits.append(f"{stage.label}: {misfit(one, device)}")
    return Estimates(corrected, total, misfits, _basis(device, corrections), corrections)


def misfit(found: Estimate, device: Device) -> str:
    """By how much a stage does not fit on the device."""
    more = memory_text(found.memory - device.memory)
    return f"needs {memory_text(found.memory)} of {memory_text(device.memory)}, {more} too much"


def estimate(
    stage: Any, outcome: Outcome, device: Device, loaded: tuple[str, ...]
) -> tuple[Estimate | str, tuple[str, ...]]:
    """Of a stage, when the model made of the stages `loaded` is in memory; and of which stages the model then is."""
    if (model := model_of(stage, outcome)) is None:
        return "unknown until fetched", loaded
    cost = stage.cost(model)
    work, memory = cost.work, cost.memory
    if isinstance(stage, OnModel):
        memory = model.weights + device.heap * memory
        parts = tuple(part.key for part in (stage.model, *stage.edits))
        if parts != loaded:
            loading, loaded = model.loading(), parts
            work = work + loading.work
            memory = max(memory, model.weights + loading.memory)
    return Estimate(device.rates(model.dtype).seconds(work), memory), loaded


def model_of(stage: Any, outcome: Outcome) -> ModelCost | None:
    """The model that a stage works on or provides; None where its config is not known before it is fetched."""
    base = getattr(stage, "model", stage)
    while (config := _config(base, outcome)) is None and "model" in base.inputs:
        base = base.inputs["model"]  # a derived model has its base's widths
    if config is None:
        return None
    dtype = getattr(stage, "dtype", "auto")
    if dtype == "auto":
        dtype = config.get("dtype") or config.get("torch_dtype") or "float32"
    bytewise = getattr(base, "recipe", {}).get("source") in ("random", "drawn")
    found = ModelCost(config, dtype, characters=1.0 if bytewise else CHARACTERS_PER_TOKEN)
    if (plan := getattr(stage, "plan", None)) is not None:
        found = found.cut(getattr(plan, "cut", None) or plan.search.cut)  # a plan as found has its search's
    recovery = getattr(stage, "recovery", None)
    return found if recovery is None else replace(found, recovery=recovery.how)


def _config(model: Stage, outcome: Outcome) -> Mapping[str, Any] | None:
    given: Mapping[str, Any] = getattr(model, "recipe", {})
    if "config" in given:
        return given["config"]
    result = outcome.results.get(model.key)
    try:
        folder = locate(result.artifact.directory) if result and result.artifact else Path(given.get("path", ""))
        return json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return next((entry.config for entry in CATALOGUE.values() if entry.config and recipe(entry) == given), None)


def _basis(device: Device, corrections: Mapping[str, float]) -> str:
    rates = "; ".join(
        f"{one.flops / 1e12:.3g} TFLOP/s and {one.bytes / 1e9:.3g} GB/s in {dtype}"
        for dtype, one in sorted(device.measured.items())
    )
    lines = [
        f"Estimates for {device.label} ({memory_text(device.memory)} of memory), one stage at a time, nothing else "
        "running.",
        f"Counted on one decoder layer, at rates {device.source}: {rates or 'none'}.",
        f"Assumed: the usual sizes of data sets, {CHARACTERS_PER_TOKEN:.0f} characters a token, "
        f"{FETCHING / 1e6:.0f} MB/s of downloads, {READING / 1e9:.0f} GB/s from the disk.",
    ]
    if corrections:
        seen = ", ".join(f"{kind} {ratio:.2f}" for kind, ratio in sorted(corrections.items()))
        lines.append(f"Times are corrected by what took longer or shorter in the store: {seen}.")
    return "\n".join(lines)


def memory_text(size: float) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


@dataclass(frozen=True)
class Rates:
    """Of one dtype, a second: operations of a square product, bytes read and written, calls of small operations."""

    flops: float
    bytes: float
    calls: float

    def seconds(self, work: Work) -> float:
        computing = work.flops / self.flops + work.bytes / self.bytes + work.calls / self.calls
        return computing + work.read / READING + work.fetched / FETCHING


@dataclass
class Device:
    """What there is to compute on. Rates are measured when they are first asked for.

    Attributes:
        memory: bytes.
        heap: how much of it is taken for each byte that tensors of changing sizes fill.
        here: it is this machine's, so that what the store has measured here says something of it.
        source: of the rates, for a reader.
    """

    label: str
    memory: int
    measure: Callable[[str], Rates]
    heap: float = 1.0
    here: bool = True
    source: str = "measured just now"
    measured: dict[str, Rates] = field(default_factory=dict)

    @classmethod
    def named(cls, name: str) -> Self:
        """The device that torch calls so."""
        import psutil
        import torch

        if torch.device(name).type == "cuda":
            properties = torch.cuda.get_device_properties(name)
            return cls(properties.name, properties.total_memory, partial(_rates, name))
        label = f"{describe_machine()['cpu']}, {torch.get_num_threads()} threads"
        return cls(label, psutil.virtual_memory().total, partial(_rates, name), HEAP)

    def rates(self, dtype: str) -> Rates:
        if dtype not in self.measured:
            self.measured[dtype] = self.measure(dtype)
        return self.measured[dtype]


def _rates(name: str, dtype: str) -> Rates:
    """Measured in about half a second, products formed as stages form them."""
    import torch

    from reproducer.models.products import wide_products

    with wide_products(getattr(torch, dtype), torch.device(name)):
        return _measured(name, getattr(torch, dtype))


def _measured(name: str, dtype: torch.dtype) -> Rates:
    import torch
    from torch.nn.functional import linear, silu

    options: Any = {"device": name, "dtype": dtype}
    flops, size, least = 0.0, 256, 0.0
    while least < 0.03 and size <= 8192:  # from small to large: a dtype without fast products must not take minutes
        left, right = torch.ones(2, size, size, **options)
        least = _best(partial(linear, left, right), name)
        flops, size = max(flops, 2 * size**3 / least), 2 * size
    values = torch.ones(2**26 if name.startswith("cuda") else 2**21, **options)  # as large as a model's, out of caches
    moved = _best(lambda: silu(values) * values, name)
    small = torch.ones(8, 8, **options)
    called = _best(lambda: [linear(small, small).view(64) for _ in range(100)], name)
    return Rates(flops, 5 * values.nbytes / moved, 300 / called)  # transposed, multiplied, viewed


def _best(call: Callable[[], object], name: str) -> float:
    """Least seconds of a call, on a CPU at most what it takes one thread: what else runs can only make it slower."""
    import torch

    if torch.device(name).type == "cuda":
        return _least(call, time.perf_counter, partial(torch.cuda.synchronize, name))
    threads, together = torch.get_num_threads(), _least(call, time.perf_counter)
    try:  # on a busy machine threads wait for each other
        torch.set_num_threads(1)
        return min(together, _least(call, time.thread_time))
    finally:
        torch.set_num_threads(threads)


def _least(call: Callable[[], object], clock: Callable[[], float], wait: Callable[[], None] = lambda: None) -> float:
    least, end = math.inf, time.perf_counter() + PROBE_SECONDS
    while time.perf_counter() < end or least == math.inf:
        began = clock()
        call()
        wait()
        least = min(least, max(clock() - began, 1e-9))
    return least
