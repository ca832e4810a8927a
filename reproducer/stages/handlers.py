"""What each kind of stage does; `recipes` says what determines its result, and holds its version.

A mapping is found by device, for the queue's worker processes too: `reproducer.stages.handlers:cpu`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from reproducer.queue import Context, Handler, describe_machine
from reproducer.stages.recipes import VERSIONS


def handlers_for(device: str) -> dict[str, Handler]:
    """Handlers of all kinds that compute on `device`."""

    def handler(kind: str, run: Callable[..., None], **options: Any) -> Handler:
        return Handler(VERSIONS[kind], partial(run, device=device), **options)

    return {
        "model": Handler(VERSIONS["model"], fetch_model, fingerprints=_model_fingerprints),
        "derived": handler("derived", derive_model),
        "search": handler("search", run_search, resumable=True, fingerprints=_search_fingerprints),
        "prune": handler("prune", run_prune, fingerprints=_calibration_fingerprints),
        "recovery": handler("recovery", run_recovery, resumable=True, fingerprints=_recovery_fingerprints),
        "perplexity": handler("perplexity", run_perplexity, fingerprints=_perplexity_fingerprints),
        "zeroshot": handler("zeroshot", run_zeroshot, fingerprints=_task_fingerprints),
        "generation": handler("generation", run_generation),
        "efficiency": handler("efficiency", run_efficiency, fingerprints=partial(_machine_fingerprint, device=device)),
    }


def __getattr__(device: str) -> dict[str, Handler]:
    if device.startswith("__"):
        raise AttributeError(device)
    return handlers_for(device)


def fetch_model(context: Context) -> None:
    from reproducer.models.fetch import fetch
    from reproducer.models.load import count_parameters

    fetch(context.params["recipe"], context.directory, context.say)
    context.record("parameters", count_parameters(context.directory))


def derive_model(context: Context, device: str) -> None:
    """The base with a fine-tuned adapter merged into its weights, written as `save_pretrained` does."""
    from reproducer.models.architecture import parameter_count
    from reproducer.recovery.adapter import merge_adapter
    from reproducer.stages.loaded import load

    model, tokenizer = load(context, device, base_only=True)
    merged: Any = merge_adapter(model, context.inputs["adapter"])
    merged.save_pretrained(context.directory)
    tokenizer.save_pretrained(context.directory)
    context.record("parameters", parameter_count(merged))


def run_search(context: Context, device: str) -> None:
    from reproducer.search.space import Space
    from reproducer.search.study import SearchSettings, search
    from reproducer.stages.loaded import load

    params = context.params
    objective, pool = _objective(params, *load(context, device))
    samples = params["calibration"]["samples"]
    space = Space(
        pool=len(pool),
        samples=samples,
        fixed=tuple(pool.draw(samples, params["seed"])),
        data=params["data"],
        **params["space"],
    )
    names = ("trials", "sampler", "mode", "seed", "baselines", "order", "encoding", "stop", "workers", "scored")
    settings = SearchSettings(**{name: params[name] for name in names}, start=params.get("start", 0))
    build = partial(_build_objective, dict(params), context.inputs["model"], device)
    found = search(objective, space, settings, context.directory, context.progress, build)
    chosen = [{"index": index, "text": pool.text(index)} for index in found.samples]
    _write(context, "samples.json", chosen)
    context.record("pool", len(pool))
    tokens = {name: len(ids) * (params["seq_len"] - 1) for name, ids in objective.texts.items()}
    context.record("objective_tokens", tokens)


def _objective(params: Mapping[str, Any], model: Any, tokenizer: Any) -> tuple[Any, Any]:
    """The objective of a search, and the pool that its samples are from."""
    from reproducer.data.text import load_text, windows
    from reproducer.search.objective import Objective

    pool = _pool(params["calibration"], tokenizer)
    texts = {
        text["name"]: windows(load_text(text["name"], text["role"]), tokenizer, params["seq_len"], params["windows"])
        for text in params["texts"]
    }
    return Objective(model, pool.ids, texts, *_cut(params["prune"])), pool


def _build_objective(params: Mapping[str, Any], folder: Path, device: str) -> Any:
    """The objective once more, in another process of the same search."""
    from reproducer.models.load import load_model

    return _objective(params, *load_model(folder, params["dtype"], device))[0]


def run_prune(context: Context, device: str) -> None:
    from reproducer.methods.prune import prune
    from reproducer.models.architecture import parameter_count
    from reproducer.pruning.plan import Plan
    from reproducer.stages.loaded import load

    params = context.params
    model, tokenizer = load(context, device)
    if params.get("transfer"):
        plan = _transferred(context, model, tokenizer)
    elif "search" in context.inputs:  # the plan behind the best objective, exactly as it was evaluated
        plan = Plan.load(context.inputs["search"] / "plan.safetensors")
    else:
        ids = None
        if "calibration" in params:
            pool = _pool(params["calibration"], tokenizer)
            ids = pool.ids[pool.draw(params["calibration"]["samples"], params["seed"])]
            context.record("pool", len(pool))
        layers, allocation = _cut(params["prune"])
        plan = prune(
            model,
            params["method"],
            ids,
            layers=layers,
            seed=params.get("seed", 0),
            **vars(allocation),
            **params["parameters"],
        )
    plan.save(context.directory / "plan.safetensors")
    total = parameter_count(model)
    context.record("parameters", {"total": total, "left": total - plan.parameters_removed(model)})


def _transferred(context: Context, model: Any, tokenizer: Any) -> Any:
    """What another search found, metric and samples, applied to this model and cut without a new search."""
    from reproducer.data.pool import cut_samples
    from reproducer.methods.prune import prune

    params, source = context.params, context.inputs["search"]
    found = json.loads((source / "best.json").read_text(encoding="utf-8"))
    samples = json.loads((source / "samples.json").read_text(encoding="utf-8"))
    ids = cut_samples([sample["text"] for sample in samples], tokenizer, params["length"])
    layers, allocation = _cut(params["prune"])
    options = {"layers": layers, "seed": params["seed"], **vars(allocation), **found["parameters"]}
    return prune(model, found["method"], ids, **options)


def run_recovery(context: Context, device: str) -> None:
    from types import SimpleNamespace

    from reproducer.data.instructions import load_instructions
    from reproducer.recovery.lora import train_lora
    from reproducer.stages.loaded import forget, load

    params = context.params
    model, tokenizer = load(context, device)
    forget()
    settings = SimpleNamespace(**params["lora"])
    rows = [dict(row) for row in load_instructions(params["dataset"], settings.examples).rows]
    result = train_lora(
        model, tokenizer, rows, settings, context.directory, params["seed"], context.progress, context.say
    )
    context.record("training", {"steps": result.steps, "examples": result.examples})


def run_perplexity(context: Context, device: str) -> None:
    from reproducer.data.text import load_text, windows
    from reproducer.evaluation.perplexity import perplexity
    from reproducer.stages.loaded import load

    params = context.params
    model, tokenizer = load(context, device)
    text = load_text(params["text"]["name"], params["text"]["role"])
    ids = windows(text, tokenizer, params["seq_len"], params["windows"])
    result = perplexity(model, ids, progress=partial(context.progress, text=text.name))
    _write(context, "result.json", vars(result))


def run_zeroshot(context: Context, device: str) -> None:
    from reproducer.evaluation.zeroshot import zeroshot
    from reproducer.stages.loaded import load

    params = context.params
    model, tokenizer = load(context, device)
    progress = partial(context.progress, text=params["task"])
    result = zeroshot(model, tokenizer, params["task"], params["limit"], progress=progress)
    _write(context, "result.json", {**vars(result), "value": result.value})


def run_generation(context: Context, device: str) -> None:
    from reproducer.evaluation.generation import generate
    from reproducer.stages.loaded import load

    params = context.params
    model, tokenizer = load(context, device)
    text = generate(model, tokenizer, params["prompt"], params["max_new_tokens"])
    _write(context, "result.json", {"prompt": params["prompt"], "text": text})


def run_efficiency(context: Context, device: str) -> None:
    from reproducer.evaluation.efficiency import measure
    from reproducer.pruning.counting import count
    from reproducer.stages.loaded import load

    params = context.params
    settings = {name: params[name] for name in ("length", "batch", "repeats", "warmup")}
    model, _ = load(context, device)
    counts = count(model, length=params["length"])
    found = measure(model, **settings, progress=partial(context.progress, text="passes"))
    result = {
        "params_billion": counts.parameters / 1e9,
        "macs_giga": params["batch"] * counts.macs / 1e9,
        "memory_mib": found.peak_memory_bytes / 2**20,
        "latency_seconds": found.latency,
        "tokens_per_second": found.tokens_per_second,
        "weights_mib": counts.weight_bytes / 2**20,
        "quartiles": found.quartiles,
        "seconds": found.seconds,
    }
    _write(context, "result.json", result)


def _pool(calibration: Mapping[str, Any], tokenizer: Any) -> Any:
    from reproducer.data.pool import calibration_pool
    from reproducer.data.text import load_text

    text = load_text(calibration["text"]["name"], calibration["text"]["role"])
    return calibration_pool(text, tokenizer, calibration["length"], calibration["pool"])


def _cut(prune: Mapping[str, Any]) -> tuple[range | None, Any]:
    from reproducer.pruning.allocation import Allocation

    layers = prune["layers"]
    names = ("ratio", "structure_ratio", "scope", "heads", "round_to")
    settings: dict[str, Any] = {name: prune.get(name) for name in names}
    return None if layers is None else range(*layers), Allocation(**settings)


def _write(context: Context, name: str, value: Any) -> None:
    text = json.dumps(value, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False)
    (context.directory / name).write_text(text, encoding="utf-8")


def _model_fingerprints(params: Mapping[str, Any]) -> dict[str, str]:
    from reproducer.models.fetch import fingerprints

    return fingerprints(params["recipe"])


def _text_fingerprint(text: Mapping[str, Any]) -> dict[str, str]:
    from reproducer.data.text import text_fingerprint

    return {f"{text['name']} ({text['role']})": text_fingerprint(text["name"], text["role"])}


def _machine_fingerprint(params: Mapping[str, Any], device: str) -> dict[str, str]:
    """A time holds for the device that it was taken on: on another one it is taken again."""
    if device.startswith("cuda"):
        import torch

        return {"device": torch.cuda.get_device_name(device)}
    machine = describe_machine()
    return {"device": f"{machine['cpu']}, {machine['cpu_count']} cores"}


def _search_fingerprints(params: Mapping[str, Any]) -> dict[str, str]:
    found = _calibration_fingerprints(params)
    for text in params["texts"]:
        found |= _text_fingerprint(text)
    return found


def _calibration_fingerprints(params: Mapping[str, Any]) -> dict[str, str]:
    return _text_fingerprint(params["calibration"]["text"]) if "calibration" in params else {}


def _perplexity_fingerprints(params: Mapping[str, Any]) -> dict[str, str]:
    return _text_fingerprint(params["text"])


def _task_fingerprints(params: Mapping[str, Any]) -> dict[str, str]:
    from reproducer.data.tasks import task_fingerprint

    return {params["task"]: task_fingerprint(params["task"])}


def _recovery_fingerprints(params: Mapping[str, Any]) -> dict[str, str]:
    from reproducer.data.instructions import instructions_fingerprint

    return {params["dataset"]: instructions_fingerprint(params["dataset"])}
