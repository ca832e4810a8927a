"""Every choice behind a report that a sceptical reader would ask about, in words."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from reproducer.data.tasks import TASKS
from reproducer.methods.registry import methods
from reproducer.queue import Outcome
from reproducer.spec import Spec
from reproducer.spec.models import MethodSpec
from reproducer.spec.sections import EfficiencySpec, EvaluateSpec, PruneSpec, RecoverySpec, SearchSpec, TransferSpec
from reproducer.stages import names
from reproducer.stages.recipes import search_settings

if TYPE_CHECKING:
    from reproducer.stages.rows import Expansion


def choices(spec: Spec, expansion: Expansion, outcome: Outcome) -> list[dict[str, str]]:
    """Topics and what was done, in the order of the way through the program."""
    return [{"topic": topic, "text": text} for topic, text in _all(spec, expansion, outcome)]


def _all(spec: Spec, expansion: Expansion, outcome: Outcome) -> Iterator[tuple[str, str]]:
    for index in range(len(spec.models)):
        entry = names.entry(spec, index)
        given = spec.models[index]
        notes = f" {entry.notes}" if entry.notes else ""
        made = f"{entry.describe()}; computed in {entry.dtype}.{notes}"
        if given.tuned is not None:
            made = (
                f"{given.base} fine-tuned here, the adapter merged into the weights: {_lora(given.tuned)}. Base: {made}"
            )
        if given.name in spec.stands_for:
            made = f"Stands for {spec.stands_for[given.name]}. {made}"
        yield f"Model {given.label or (given.name if given.base else entry.label)}", made
    yield "What is pruned", _pruning(spec.prune)
    calibration = spec.calibration
    pool = "all of them" if calibration.pool is None else f"{calibration.pool} of them, spread evenly over the text,"
    if any(known.calibrated for method in spec.methods if (known := methods().get(method.name))):
        yield (
            "Calibration",
            f"{calibration.samples} samples of {calibration.length} tokens from {calibration.dataset}: the pool holds "
            f"passages of at least {calibration.length} tokens, cut there; {pool} may be drawn. Every method that is "
            "not searched gets the same random draw, made from the seed.",
        )
    for method in spec.methods:
        known = methods().get(method.name)
        if known is not None and known.searched:
            yield f"Search: {method.label or known.label}", _search(spec, method, method.search_for(spec))
    if spec.evaluate.perplexity:
        yield "Perplexity", _perplexity(spec.evaluate)
    if spec.evaluate.tasks:
        columns = ", ".join(f"{TASKS[name].label} {TASKS[name].metric}" for name in spec.evaluate.tasks)
        limit = spec.evaluate.limit
        yield (
            "Zero-shot",
            f"lm-eval's task definitions without examples in the prompt; {columns}. "
            + ("All items." if limit is None else f"The first {limit} items a task."),
        )
    for recovery in spec.recovery:
        if recovery.name == "lora":
            yield "Recovery", _lora(recovery) + "."
    yield "Seeds", ", ".join(map(str, spec.seeds)) + ("" if len(spec.seeds) > 1 else " (one run: no spread is known)")
    yield "Row times", "Seconds are the sum over a row's own stages; stages that rows share count in each of them."
    if spec.evaluate.efficiency is not None:
        yield "Sizes and times", _efficiency(spec.evaluate.efficiency)
        yield from _machines(expansion, outcome)
    read: dict[str, str] = {}
    for result in outcome.results.values():
        if result.artifact is not None and result.stage.kind != "efficiency":
            read |= result.artifact.record["fingerprints"]
    for source, digest in sorted(read.items()):
        yield f"Data read: {source}", f"SHA-256 {digest[:16]}…" if len(digest) > 20 else digest


def _lora(recovery: RecoverySpec) -> str:
    budget = f"{recovery.epochs} epochs" + (f", stopped after {recovery.steps} steps" if recovery.steps else "")
    return (
        f"LoRA of rank {recovery.rank} (alpha {recovery.alpha:g}, dropout {recovery.dropout:g}) on "
        f"{', '.join(recovery.targets)}; {recovery.dataset}, cut at {recovery.cutoff} tokens; AdamW, learning "
        f"rate {recovery.learning_rate:g} after {recovery.warmup_steps} steps of warm-up, batches of {recovery.batch}, "
        f"{budget}"
    )


def _perplexity(evaluate: EvaluateSpec) -> str:
    return (
        f"LLM-Pruner's protocol: rows joined by two newlines, tokenised once, non-overlapping windows of "
        f"{evaluate.seq_len} tokens, the rest dropped; the exponential of the mean loss of the "
        f"{evaluate.seq_len - 1} predicted tokens a window. "
        + ("All windows." if evaluate.windows is None else f"The first {evaluate.windows} windows a text.")
    )


def _efficiency(efficiency: EfficiencySpec) -> str:
    return (
        "Parameters and multiply-accumulates are counted from the architecture: all linear layers, the head included, "
        "and attention's two products in full. Times are measured: whole forward passes to logits at every position, "
        f"without a cache, over {efficiency.batch} x {efficiency.length} random tokens; the median of "
        f"{efficiency.repeats} passes after {efficiency.warmup} that do not count. Memory is the most that weights and "
        "activations took at once in a pass: on a GPU as torch reports it, on a CPU counted from the tensors. A tuned "
        "row has the figures of its plan: an adapter merges into the weights."
    )


def _machines(expansion: Expansion, outcome: Outcome) -> Iterator[tuple[str, str]]:
    """The spread of every row's times, by the device that they were measured on."""
    found: dict[str, list[str]] = {}
    for row in expansion.rows:
        if (artifact := outcome[row.stages["efficiency"]].artifact) is None:
            continue
        result = json.loads((artifact.directory / "result.json").read_text(encoding="utf-8"))
        first, third = (f"{1000 * seconds:.4g}" for seconds in result["quartiles"])
        found.setdefault(artifact.record["fingerprints"]["device"], []).append(f"{row.label} {first} to {third} ms")
    for device, spreads in found.items():
        yield f"Times on {device}", "First to third quartile of the passes: " + "; ".join(spreads) + "."


def _pruning(prune: PruneSpec) -> str:
    if prune.ratio is not None:
        how_much = f"{', '.join(f'{r:.0%}' for r in prune.ratio)} of all parameters of the model, embeddings included"
    else:
        values = prune.structure_ratio or []
        how_much = f"{', '.join(f'{r:.0%}' for r in values)} of the heads and channels of each pruned layer"
    where = (
        f"layers {prune.layers[0]} to {prune.layers[1] - 1}"
        if prune.layers
        else "LLM-Pruner's layers (4 to 29 of 32) in proportion"
    )
    scope = "every layer loses the same number of units" if prune.scope == "local" else "units ranked over all layers"
    heads = {
        "auto": "key-value groups are ranked over all layers by their share of their layer's importance where heads "
        "share keys, and cut like channels where they do not",
        "local": "heads are cut like channels",
        "pooled": "heads are ranked over all layers by their share of their layer's importance",
    }[prune.heads]
    rounding = f"; kept channels are multiples of {prune.round_to}" if prune.round_to > 1 else ""
    heads = heads if prune.scope == "local" else "heads likewise"
    return f"{how_much}; {where}; {scope}; {heads}{rounding}. The column of removed parameters says what was reached."


def _transfer(transfer: TransferSpec) -> str:
    """Where a row's configuration was searched, in words."""
    place = f"on {transfer.model}" if transfer.model else "on the same model"
    if transfer.ratio or transfer.structure_ratio:
        unit = "all parameters" if transfer.ratio else "each layer's structures"
        place += f" at {(transfer.ratio or transfer.structure_ratio):.0%} of {unit}"
    return f"no search of its own: samples and metric are those that a search {place} found. That search: "


def _search(spec: Spec, method: MethodSpec, search: SearchSpec) -> str:
    texts = " and ".join(search.texts or spec.evaluate.perplexity)
    space = search.space

    def values(offered: list[Any]) -> str:
        return "{" + ", ".join(value if isinstance(value, str) else f"{value:g}" for value in offered) + "}"

    samples = spec.calibration.samples
    data_is_searched = search.data in ("search", "ten-spaces")
    data = {
        "search": f"{samples} samples, each from the whole pool, are searched",
        "random": "the samples are the baselines' random draw; only the metric is searched",
        "ten-spaces": f"the pool is split into {samples} parts, and one sample from each is searched",
        "score": f"the samples are the {samples} passages that prune best alone, by LLM-Pruner-E2's metric and the "
        "search objective; only the metric is searched",
    }[search.data]
    if data_is_searched and space.taylor is None:
        together = {"joint": " together with the metric", "sequential": " first, the metric after them"}
        data += together[search.order]
    disjoint = {
        "search": "a split that the report does not measure on",
        "report": "the very texts that the report measures on, as the paper does",
    }[search.split]
    how = search_settings(search)
    sampler = {
        "local": "a local search, which changes a few coordinates of the best trial so far"
        + (f", after {how.starting} trials that are baselines or random" if how.starting else ""),
        "tpe": "TPE (univariate, as in the paper)" if search.mode == "paper" else "TPE (multivariate)",
        "random": "random search",
        "gp": "a Gaussian process",
        "cmaes": "CMA-ES",
    }[how.sampling]
    if data_is_searched:
        sampler += {
            "indices": ", samples as bare indices",
            "ordered": ", samples as indices into the pool sorted along the first principal component of its states",
            "features": ", samples as weights of the passages' loss and principal components",
        }[how.coding]
    if how.stops:
        sampler += ", hopeless trials stopped on a first quarter of the windows"
    if search.workers > 1:
        sampler += f", {search.workers} processes on one study, so that the trials depend on timing"
    metric = (
        f"I = α₁·c·|Σ(s1 − ½·a·s2)| + α₂·f·Σ|s1 − ½·b·s2| with α in [0, {space.alpha_max:g}], "
        f"a in {values(space.coarse_second)}, b in {values(space.fine_second)}, c in {values(space.coarse_scale)}, "
        f"f in {values(space.fine_scale)}; 0 is first order alone, “only” second order alone. The paper gives the "
        "ranges (1e5, 1e6, 1e7), (1e-2, 1e-3), (1e-4) without saying which term each scales; this is our reading, and "
        "the values 0 and “only” are our addition, which puts Vector, E1 and E2 into the space. "
    )
    if space.taylor:
        metric = f"The metric is fixed at the {space.taylor} order, as LLM-Pruner-E{'12'[space.taylor == 'second']}. "
    return (
        (_transfer(search.transfer) if search.transfer else "")
        + metric
        + f"{data[0].upper()}{data[1:]}. {search.trials} trials by {sampler}; objective: mean perplexity of the "
        f"pruned, untuned model on {texts}, {disjoint}, the first {search.windows} windows of each. Squared gradients "
        "are averaged over the samples as in LLM-Pruner's code; the paper's Eq. 4 prints a sum."
    )
