"""How long a stage will take and how much memory: arithmetic on its recipe, at the rates of the device at hand.

Nothing is loaded, fetched or read but the config.json of a local model. `costs` counts what passes cost and `amounts`
knows how much data there is; here is what each kind of stage does with them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from reproducer.methods.registry import get
from reproducer.models.loss import LOGITS_AT_ONCE, SCORED_TOKENS
from reproducer.models.walk import BATCH_TOKENS
from reproducer.pruning.statistics import ACTIVATION_BYTES, Element, Power, Second
from reproducer.queue import Stage
from reproducer.search.objective import KEPT_BYTES
from reproducer.search.space import EMBEDDED
from reproducer.stages import amounts
from reproducer.stages.costs import Shape, Work, adapter, forward, graph_bytes, head, shape_of, statistics, training
from reproducer.stages.device import Device

EFFICIENCY = 0.6  # of a square product's rate that those of real models reach: narrower, shorter, between other things
CALLS = 3e-4  # seconds for the calls of a decoder layer, some forty of them, however little they compute
READING = 1e9  # bytes a second from a disk
FETCHING = 5e7  # bytes a second from a hub or a package registry


@dataclass(frozen=True)
class Estimate:
    """Of one stage: wall time, and the most bytes that it holds at once, model included."""

    seconds: float
    memory: int

    def misfit(self, device: Device) -> str:
        """That the device has too little memory, or nothing."""
        if self.memory <= device.memory:
            return ""
        return f"does not fit: needs {memory_text(self.memory)} of {memory_text(device.memory)}"


def estimate(
    stages: Iterable[Stage], device: Device, fetched: Mapping[str, Path] | None = None
) -> dict[str, Estimate | str]:
    """By key, what each of these stages will take, run one after the other in this order; or why that is not known.

    A stage that works on the same model as the one before it need not load it.

    Args:
        fetched: key of a model stage -> the folder of its artifact, of those in the store.
    """
    found: dict[str, Estimate | str] = {}
    loaded: tuple[str, ...] = ()
    for stage in stages:
        if stage.kind not in KINDS:
            found[stage.key] = "not estimated"
            continue
        if (shape := shape_of(stage, fetched or {})) is None:
            found[stage.key] = "unknown until fetched"
            continue
        work, memory = KINDS[stage.kind](stage, shape)
        parts = tuple(stage.inputs[name].key for name in ("model", "plan", "adapter") if name in stage.inputs)
        if parts and parts != loaded:
            work += Work(read=shape.dense.bytes)
        loaded = parts
        found[stage.key] = Estimate(seconds(work, shape.dtype, device), math.ceil(memory))
    return found


def basis(device: Device) -> str:
    """What the estimates made so far rest on, for the reader of a dry run."""
    rates = "; ".join(
        f"{one.flops / 1e12:.3g} TFLOP/s and {one.bytes / 1e9:.3g} GB/s in {dtype}"
        for dtype, one in sorted(device.measured.items())
    )
    return (
        f"Times and memory are estimates for {device.label} ({memory_text(device.memory)} of memory), one stage at a "
        "time, nothing else running.\n"
        f"Measured just now: {rates or 'nothing'}; models are taken to reach {EFFICIENCY:.0%} of a product's rate.\n"
        f"Assumed: the usual sizes of data sets, {amounts.CHARACTERS_PER_TOKEN:.0f} characters a token, "
        f"{FETCHING / 1e6:.0f} MB/s of downloads, {READING / 1e9:.0f} GB/s from the disk.\n"
        "Memory is what is held at once; on a CPU a process can grow beyond it."
    )


def memory_text(size: float) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def seconds(work: Work, dtype: str, device: Device) -> float:
    """How long the device takes for it."""
    total = work.layers * CALLS + work.read / READING + work.fetched / FETCHING
    if work.flops or work.bytes:
        rates = device.rates(dtype)
        total += work.flops / (EFFICIENCY * rates.flops) + work.bytes / rates.bytes
    return total


Cost = tuple[Work, float]  # and bytes of memory


def _model(stage: Stage, shape: Shape) -> Cost:
    match stage.params["recipe"]["source"]:
        case "hub":
            return Work(fetched=2 * shape.parameters), 0  # stored in 16 bits
        case "package":  # four bits a weight; making float32 of them takes longer than fetching them
            return Work(fetched=4 * shape.parameters), 8 * shape.parameters
        case "random":
            return Work(read=shape.bytes), shape.bytes
    return Work(), 0  # a folder stays where it is, drawn weights are made where they are used


def _derived(stage: Stage, shape: Shape) -> Cost:
    return Work(read=shape.bytes), 2 * shape.bytes  # merged into a copy


def _prune(stage: Stage, shape: Shape) -> Cost:
    params, calibration = stage.params, stage.params.get("calibration")
    if "search" in stage.inputs:
        if not params.get("transfer"):
            return Work(), shape.bytes
        calibration, per_sample = stage.inputs["search"].params["calibration"], True
    else:
        needs = get(params["method"]).make_rule(params["parameters"]).needs
        per_sample = any(isinstance(one, Second) or (isinstance(one, Element) and one.factor) for one in needs)
        if calibration is None or all(isinstance(one, Power) for one in needs):
            weights = shape.layers * shape.layer_weights
            return Work(bytes=2 * weights * 4), shape.bytes + 2 * 4 * shape.layer_weights
    samples, length, first = calibration["samples"], calibration["length"], shape.first(params["prune"])
    work = statistics(shape, samples, length, first, per_sample, ACTIVATION_BYTES)
    return work, shape.bytes + _statistics_bytes(shape, samples * length, first, ACTIVATION_BYTES)


def _search(stage: Stage, shape: Shape) -> Cost:
    """As if every trial had passages of its own and none were stopped: both make a search shorter."""
    params = stage.params
    calibration, cut = params["calibration"], params["prune"]
    samples, length, first = calibration["samples"], calibration["length"], shape.first(cut)
    upper, pruned = shape.layers - first, shape.cut(cut)
    tokens = sum(_window_tokens(shape, text, params["seq_len"], params["windows"]) for text in params["texts"])
    trials = params["trials"]
    draws = {"random": 1, "score": 1}.get(params["data"], trials)  # sets of samples whose statistics are needed
    if params.get("order") == "sequential":
        draws = math.ceil(draws / 2)
    candidates = trials + sum(name not in EMBEDDED for name in params["baselines"])
    evaluated = forward(pruned, tokens, params["seq_len"], BATCH_TOKENS, upper) + head(pruned, tokens, BATCH_TOKENS)
    sliced = Work(bytes=2 * upper * pruned.layer_weights * shape.item)  # a candidate's weights are copied
    work = (evaluated + sliced) * candidates
    work += statistics(shape, samples, length, first, True, KEPT_BYTES, below=False) * draws
    passages = draws * samples
    if first:  # the hidden states below the first pruned layer are computed once
        work += forward(shape, tokens, params["seq_len"], BATCH_TOKENS, first)
        work += forward(shape, passages * length, length, length, first)
    hidden = (2 * tokens + passages * length) * shape.hidden * shape.item
    numbers = min(KEPT_BYTES, 8 * passages * upper * sum(shape.widths.values()))  # two a member vector
    together = _statistics_bytes(shape, samples * length, first, KEPT_BYTES)
    return work, shape.bytes + shape.layer_weights * shape.item + hidden + numbers + together


def _recovery(stage: Stage, shape: Shape) -> Cost:
    lora = stage.params["lora"]
    data = amounts.instructions(stage.params["dataset"], stage.params["source"], lora["examples"])
    steps = math.ceil(lora["epochs"] * data.rows / lora["batch"])
    steps = min(steps, lora["steps"] or steps)
    length = min(shape.tokens(data.characters), lora["cutoff"])
    examples, together = steps * lora["batch"], lora["micro_batch"]
    work = training(shape, examples * length, length, together * length, lora["rank"], lora["targets"])
    longest = together * lora["cutoff"]
    # An adapted module keeps its input two times more, in float32: before and behind the dropout.
    kept = shape.layers * (graph_bytes(shape, longest) + 4 * longest * shape.features(lora["targets"]))
    # float32: the adapter, its gradient and two moments
    states = 4 * 4 * lora["rank"] * shape.layers * shape.features(lora["targets"])
    return work, max(shape.dense.bytes, shape.bytes + states + kept + _logits_bytes(shape))


def _perplexity(stage: Stage, shape: Shape) -> Cost:
    params = stage.params
    tokens = _window_tokens(shape, params["text"], params["seq_len"], params["windows"])
    return _passes(stage, shape, tokens, params["seq_len"], BATCH_TOKENS, _logits_bytes(shape))


def _zeroshot(stage: Stage, shape: Shape) -> Cost:
    task = amounts.task(stage.params["task"], stage.params["limit"])
    length = shape.tokens(task.characters)
    together = max(SCORED_TOKENS, length)
    logits = 2 * together * shape.vocabulary * shape.item  # and their logarithms of probabilities
    return _passes(stage, shape, task.items * task.sequences * length, length, together, logits)


def _generation(stage: Stage, shape: Shape) -> Cost:
    prompt, written = shape.tokens(len(stage.params["prompt"])), stage.params["max_new_tokens"]
    length = prompt + written
    cache = 2 * shape.layers * length * shape.keys * shape.item
    work, memory = _passes(stage, shape, written, length, 1, cache)
    return work + forward(shape, prompt, prompt, prompt), memory


def _efficiency(stage: Stage, shape: Shape) -> Cost:
    params = stage.params
    tokens, passes = params["batch"] * params["length"], 1 + params["warmup"] + params["repeats"]
    logits = 2 * tokens * shape.vocabulary * shape.item
    return _passes(stage, shape, passes * tokens, params["length"], tokens, logits)


KINDS: Mapping[str, Callable[[Stage, Shape], Cost]] = {
    "model": _model,
    "derived": _derived,
    "prune": _prune,
    "search": _search,
    "recovery": _recovery,
    "perplexity": _perplexity,
    "zeroshot": _zeroshot,
    "generation": _generation,
    "efficiency": _efficiency,
}


def _window_tokens(shape: Shape, text: Mapping[str, object], length: int, limit: int | None) -> float:
    """Tokens of all windows of a text, or of the first so many."""
    count = max(1, int(shape.tokens(amounts.text(text)) // length))
    return length * min(count, limit or count)


def _passes(stage: Stage, shape: Shape, tokens: float, length: float, batch: float, beside: float) -> Cost:
    """Forward passes to logits, with the adapter if the stage has one; `beside` is what else takes memory."""
    work = forward(shape, tokens, length, batch) + head(shape, tokens, batch)
    memory = shape.bytes + min(tokens, batch) * shape.features() * shape.item + beside
    if "adapter" in stage.inputs:
        lora = stage.inputs["adapter"].params["lora"]
        work += adapter(shape, tokens, batch, lora["rank"], lora["targets"])
        memory += 4 * lora["rank"] * shape.layers * shape.features(lora["targets"])
    return work, max(shape.dense.bytes, memory)


def _logits_bytes(shape: Shape) -> float:
    """The chunk of logits that exists at once, in float32 and in the dtype that they are made in."""
    return LOGITS_AT_ONCE * (max(4, shape.item) + (shape.item if shape.item < 4 else 0))


def _statistics_bytes(shape: Shape, tokens: float, first: int, activations: float) -> float:
    """Hidden states between the layers and what they keep for the backward pass; gradient chunks take what is left."""
    upper, graph = shape.layers - first, graph_bytes(shape, tokens)
    kept = min(activations, upper * graph) + graph
    return upper * tokens * shape.hidden * shape.item + kept + _logits_bytes(shape)
