"""How long stages will take and how much memory: what they cost, at the rates of a device.

What the store has measured of the same kind of stage corrects the time.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Self

from reproducer.models.catalogue import CATALOGUE
from reproducer.models.fetch import recipe
from reproducer.models.load import locate
from reproducer.queue import Outcome, Stage, describe_machine
from reproducer.stages.cost import EFFICIENCY, ModelShape, Rates

BOOKKEEPING = 0.1  # seconds: what is estimated below that says nothing of other stages


def model_of(stage: Any, outcome: Outcome) -> ModelShape | None:
    """The model that a stage works on or provides; None where its config is not known before it is fetched."""
    base = getattr(stage, "model", stage)
    while (config := _config(base, outcome)) is None and "model" in base.inputs:
        base = base.inputs["model"]  # a derived model has its base's widths
    if config is None:
        return None
    dtype = getattr(stage, "dtype", "auto")
    if dtype == "auto":
        dtype = config.get("dtype") or config.get("torch_dtype") or "float32"
    shape = _shape(json.dumps(dict(config), sort_keys=True), dtype)
    if getattr(base, "recipe", {}).get("source") in ("random", "drawn"):
        shape = replace(shape, characters=1.0)  # the byte tokenizer's
    for edit in getattr(stage, "edits", ()):
        if edit.cuts:
            shape = shape.cut(getattr(edit, "cut", None) or edit.search.cut)  # a plan as found has its search's
    return shape


@cache
def _shape(config: str, dtype: str) -> ModelShape:
    import torch

    from reproducer.models.architecture import architecture_of, parameter_count
    from reproducer.models.load import meta_model

    kept = {name: value for name, value in json.loads(config).items() if name not in ("dtype", "torch_dtype")}
    model = meta_model(kept)
    layers: Any = architecture_of(model).decoder_layers(model)
    of_layers = sum(weight.numel() for weight in layers.parameters())
    settings, total = model.config.get_text_config(), parameter_count(model)
    of_layer, item = of_layers / len(layers), getattr(torch, dtype).itemsize
    return ModelShape(len(layers), settings.hidden_size, settings.vocab_size, of_layer, total - of_layers, dtype, item)


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
        seconds: of those that have no result yet and can be estimated.
        misfits: a line for every such stage that needs more memory than there is.
        basis: what the estimates rest on, for a reader.
    """

    stages: Mapping[str, Estimate | str]
    seconds: float
    misfits: Sequence[str]
    basis: str


def estimates(stages: Sequence[Stage], outcome: Outcome, device: Device) -> Estimates:
    """What stages take; those of a kind that have a result of this machine correct the times of the others."""
    found = {stage.key: estimate(stage, outcome, device) for stage in stages}
    finished = {key: result.artifact for key, result in outcome.results.items() if result.artifact is not None}
    ratios: dict[str, list[float]] = {}
    for stage in stages if device.here else ():
        estimated, artifact = found[stage.key], finished.get(stage.key)
        if artifact is None or artifact.record["environment"].get("cpu") != describe_machine()["cpu"]:
            continue
        if isinstance(estimated, Estimate) and estimated.seconds >= BOOKKEEPING:
            ratios.setdefault(stage.kind, []).append(artifact.seconds / estimated.seconds)
    corrections = {kind: statistics.median(seen) for kind, seen in ratios.items()}
    seconds, misfits = 0.0, []
    for stage in stages:
        if not isinstance(estimated := found[stage.key], Estimate):
            continue
        factor = corrections.get(stage.kind, 1.0)
        found[stage.key] = estimated = replace(estimated, seconds=factor * estimated.seconds)
        if stage.key in finished:
            continue
        seconds += estimated.seconds
        if estimated.memory > device.memory:
            sizes = [memory_text(size) for size in (estimated.memory, device.memory, estimated.memory - device.memory)]
            misfits.append("{}: needs {} of {}, {} too much".format(stage.label, *sizes))
    return Estimates(found, seconds, misfits, _basis(device, corrections))


def estimate(stage: Any, outcome: Outcome, device: Device) -> Estimate | str:
    """Of a stage that loads its own model; or why there is none."""
    try:
        if (model := model_of(stage, outcome)) is None:
            return "unknown until fetched"
        cost = stage.cost(model)
    except NotImplementedError:
        return "not estimated"
    except Exception as error:  # whatever transformers makes of a config; a run will say it in full
        return f"not estimated: {str(error).partition(chr(10))[0] or type(error).__name__}"
    held = cost.memory + (model.weights if hasattr(stage, "dtype") else 0.0)
    return Estimate(model.seconds(cost, device.rates(model.dtype)), held)


def _basis(device: Device, corrections: Mapping[str, float]) -> str:
    rates = "; ".join(
        f"{rates.flops / 1e12:.3g} TFLOP/s and {rates.bytes / 1e9:.3g} GB/s in {dtype}"
        for dtype, rates in sorted(device.measured.items())
    )
    lines = [
        f"Estimates for {device.label} ({memory_text(device.memory)} of memory), one stage at a time, nothing else "
        f"running; matrix products at {EFFICIENCY:.0%} of rates {device.source}: {rates or 'none'}.",
    ]
    if corrections:
        seen = ", ".join(f"{kind} {ratio:.2f}" for kind, ratio in sorted(corrections.items()))
        lines.append(f"Times are corrected by what took longer or shorter in the store: {seen}.")
    return "\n".join(lines)


def memory_text(size: float) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


@dataclass
class Device:
    """What there is to compute on. Rates are measured when they are first asked for.

    Attributes:
        memory: bytes.
        here: it is this machine's, so that what the store has measured here says something of it.
        source: of the rates, for a reader.
    """

    label: str
    memory: int
    measure: Callable[[str], Rates]
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
            return cls(properties.name, properties.total_memory, lambda dtype: _measured(name, dtype))
        label = f"{describe_machine()['cpu']}, {torch.get_num_threads()} threads"
        return cls(label, psutil.virtual_memory().total, lambda dtype: _measured(name, dtype))

    def rates(self, dtype: str) -> Rates:
        if dtype not in self.measured:
            self.measured[dtype] = self.measure(dtype)
        return self.measured[dtype]


def _measured(name: str, dtype: str) -> Rates:
    """Measured in about a quarter of a second, products formed as stages form them."""
    import torch

    from reproducer.models.products import wide_products

    on_gpu = name.startswith("cuda")
    options: Any = {"device": name, "dtype": getattr(torch, dtype)}
    with wide_products(getattr(torch, dtype), torch.device(name)):
        size = 8192 if on_gpu else 768
        left, right = torch.ones(2, size, size, **options)
        product = _least_seconds(lambda: torch.nn.functional.linear(left, right), on_gpu)
        values = torch.ones(2**26 if on_gpu else 2**22, **options)  # out of caches
        return Rates(2 * size**3 / product, 3 * values.nbytes / _least_seconds(lambda: values + values, on_gpu))


def _least_seconds(call: Callable[[], object], on_gpu: bool) -> float:
    """Of a call: what else runs can only make it slower."""
    import torch

    least, end = math.inf, time.perf_counter() + 0.1
    while time.perf_counter() < end or least == math.inf:
        began = time.perf_counter()
        call()
        if on_gpu:
            torch.cuda.synchronize()
        least = min(least, max(time.perf_counter() - began, 1e-9))
    return least
