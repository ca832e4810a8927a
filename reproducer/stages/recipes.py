"""One function a kind of stage: what determines its result. The counterpart of `handlers`, which does the work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from reproducer.data.instructions import resolve_instructions
from reproducer.data.tasks import resolve_task
from reproducer.data.text import resolve_text
from reproducer.methods.registry import Method
from reproducer.models.catalogue import Entry
from reproducer.models.fetch import recipe
from reproducer.queue import Stage
from reproducer.search.settings import SearchSettings
from reproducer.search.space import is_ablated
from reproducer.spec import Spec
from reproducer.spec.models import MethodSpec, ModelSpec
from reproducer.spec.sections import EfficiencySpec, EvaluateSpec, RecoverySpec, SearchSpec

# A version goes up when the same recipe would give another result.
VERSIONS = {
    "model": 1,
    "derived": 1,
    "search": 2,
    "prune": 1,
    "recovery": 1,
    "perplexity": 1,
    "zeroshot": 1,
    "generation": 1,
    "efficiency": 1,
}


@dataclass(frozen=True)
class Made:
    """A model as a stage finds it: the base, what was cut out of it, and what was learnt since."""

    model: Stage
    dtype: str
    plan: Stage | None = None
    adapter: Stage | None = None

    @property
    def inputs(self) -> dict[str, Stage]:
        parts = {"model": self.model, "plan": self.plan, "adapter": self.adapter}
        return {name: stage for name, stage in parts.items() if stage is not None}

    @property
    def label(self) -> str:
        return (self.adapter or self.plan or self.model).label


def model_stage(entry: Entry) -> Stage:
    return _stage("model", {"recipe": recipe(entry)}, {}, entry.name)


def derived_stage(spec: ModelSpec, base: Stage, dtype: str) -> Stage:
    """A model made here: `base` fine-tuned, the adapter merged into its weights. The same for all seeds of a spec."""
    assert spec.tuned is not None
    adapter = recovery_stage(spec.tuned, Made(base, dtype), 0)
    return _stage("derived", {"dtype": dtype}, {"model": base, "adapter": adapter}, spec.name)


def search_stage(spec: Spec, method: MethodSpec, made: Made, cut: Mapping[str, Any], seed: int) -> Stage:
    settings = method.search_for(spec)
    texts = settings.texts or spec.evaluate.perplexity
    how = search_settings(settings)
    params = {
        **settings.model_dump(mode="json", exclude={"texts", "windows", "baselines", "transfer", "space", "start"}),
        "sampler": how.sampling,
        "encoding": how.coding,
        "stop": how.stops,
        # only where they say something: without them a recipe keeps the key that it had
        **({"start": how.starting} if how.starting else {}),
        **({"returns": "its own"} if is_ablated(settings.data, settings.space.taylor) else {}),
        "space": settings.space.model_dump(mode="json", exclude_none=True),
        "baselines": search_baselines(spec, method),
        "texts": [_text(name, settings.split) for name in texts],
        "seq_len": spec.evaluate.seq_len,
        "windows": settings.windows,
        "calibration": _calibration(spec, method),
        "prune": dict(cut),
        "seed": seed,
        "dtype": made.dtype,
    }
    label = method.label or method.name
    return _stage("search", params, made.inputs, f"{made.label} {label} search {_percent(cut)}{_seed(seed)}")


def search_settings(search: SearchSpec) -> SearchSettings:
    """How a search goes, with what its mode leaves to be decided."""
    names = ("trials", "sampler", "mode", "order", "encoding", "stop", "start")
    return SearchSettings(**{name: getattr(search, name) for name in names})


def search_baselines(spec: Spec, method: MethodSpec) -> list[str]:
    """Methods that a search scores too: the ones its settings name, and those of the spec's own rows.

    So that AdaPruner is never worse, on its own objective, than a row beside it. Methods with other parameters
    or settings of their own are rows for themselves and no baselines.
    """
    rows = [
        entry.name
        for entry in spec.methods
        if entry.name not in ("dense", "adapruner") and not (entry.parameters or entry.prune or entry.calibration)
    ]
    named = method.search_for(spec).baselines
    return [*named, *(name for name in dict.fromkeys(rows) if name not in named)]


def plan_stage(
    spec: Spec,
    method_spec: MethodSpec,
    method: Method,
    made: Made,
    cut: Mapping[str, Any],
    seed: int,
    search: Stage | None,
    transfer: bool = False,
) -> Stage:
    """A plan by a method's scores, by a search on the same model and cut, or by the configuration of another search."""
    params: dict[str, Any] = {"method": method.name, "prune": dict(cut), "dtype": made.dtype}
    inputs = made.inputs
    if search is not None:
        inputs = {**inputs, "search": search}
        if transfer:
            params |= {"transfer": True, "length": method_spec.calibration_for(spec).length, "seed": seed}
    else:
        params["parameters"] = dict(method_spec.parameters)
        if method.calibrated:
            params["calibration"] = _calibration(spec, method_spec)
        if method.calibrated or method.name == "random":
            params["seed"] = seed  # the others draw nothing: all seeds share one plan
    label = f"{made.label} {method_spec.label or method.name} {_percent(cut)}"
    return _stage("prune", params, inputs, label + _seed(params.get("seed", 0)))


def recovery_stage(recovery: RecoverySpec, made: Made, seed: int) -> Stage:
    settings = recovery.model_dump(mode="json", exclude={"name", "dataset"})
    source = resolve_instructions(recovery.dataset)
    params = {"lora": settings, "dataset": recovery.dataset, "source": source, "seed": seed, "dtype": made.dtype}
    return _stage("recovery", params, made.inputs, f"{made.label} + {recovery.name}{_seed(seed)}")


def perplexity_stage(evaluate: EvaluateSpec, text: str, made: Made) -> Stage:
    params = {
        "text": _text(text, "report"),
        "seq_len": evaluate.seq_len,
        "windows": evaluate.windows,
        "dtype": made.dtype,
    }
    return _stage("perplexity", params, made.inputs, f"{made.label}: {text}")


def task_stage(evaluate: EvaluateSpec, task: str, made: Made) -> Stage:
    source = resolve_task(task).source.identity()
    params = {"task": task, "source": source, "limit": evaluate.limit, "dtype": made.dtype}
    return _stage("zeroshot", params, made.inputs, f"{made.label}: {task}")


def generation_stage(prompt: str, made: Made, tokens: int = 64) -> Stage:
    params = {"prompt": prompt, "max_new_tokens": tokens, "dtype": made.dtype}
    return _stage("generation", params, made.inputs, f"{made.label}: text after a prompt")


def efficiency_stage(efficiency: EfficiencySpec, made: Made) -> Stage:
    """An adapter plays no part: merged into the weights it costs nothing, so a tuned row has its plan's figures."""
    params = {**efficiency.model_dump(mode="json"), "dtype": made.dtype}
    made = replace(made, adapter=None)
    return _stage("efficiency", params, made.inputs, f"{made.label}: latency")


def _stage(kind: str, params: Mapping[str, Any], inputs: Mapping[str, Stage], label: str) -> Stage:
    return Stage(kind, VERSIONS[kind], params, inputs, label)


def _calibration(spec: Spec, method: MethodSpec) -> dict[str, Any]:
    section = method.calibration_for(spec)
    return {
        "text": _text(section.dataset, "calibration"),
        "samples": section.samples,
        "length": section.length,
        "pool": section.pool,
    }


def _text(name: str, role: str) -> dict[str, Any]:
    return {"name": name, "role": role, "source": resolve_text(name, role)}


def _percent(cut: Mapping[str, Any]) -> str:
    if cut.get("ratio") is not None:
        return f"{100 * cut['ratio']:.4g}%"
    return f"{100 * cut['structure_ratio']:.4g}% of structures"


def _seed(seed: int) -> str:
    return f" seed {seed}" if seed else ""
