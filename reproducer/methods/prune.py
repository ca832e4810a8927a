"""`prune`, and its two halves that stages and the search call: `train` and `decide`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from reproducer.errors import UserError
from reproducer.methods.registry import METHODS, Decision, Method, Request, Rule, TrainingJob
from reproducer.models.tokens import Tokens, counting

if TYPE_CHECKING:
    from torch import Tensor, nn

    from reproducer.models.architecture import Kind
    from reproducer.pruning.collect import Limits
    from reproducer.pruning.cut import Cut
    from reproducer.pruning.passages import PassageFiles
    from reproducer.pruning.plan import Plan
    from reproducer.pruning.statistics import Statistics


def prune(
    model: nn.Module,
    method: str,
    calibration: Tensor | None = None,
    *,
    structure_ratio: float | None = None,
    ratio: float | None = None,
    layers: Sequence[int] | None = None,
    scope: Literal["local", "global"] = "local",
    heads: Literal["auto", "local", "pooled"] = "auto",
    round_to: int = 1,
    in_steps: int = 1,
    seed: int = 0,
    limits: Limits | None = None,
    **parameters: Any,
) -> Plan:
    """Decide what of `model` stays. The model's weights, gradients, flags, mode and hooks stay as found.

    Args:
        model: a causal language model of a declared architecture.
        method: a registered name (`reproduce methods` lists them), or `module:attribute` of a method of your own.
        calibration: LongTensor [samples, length] of token ids, for methods that need it; or, for other samples in each
            step, [in_steps, samples, length].
        structure_ratio: fraction of the heads and channels of each pruned layer to remove (LLM-Pruner's ratio), or
        ratio: fraction of all parameters to remove, reached within half a point. Exactly one of the two.
        layers: indices of the layers to prune; by default LLM-Pruner's 4 to 29 of 32, in proportion.
        scope: `local`, the same number from every layer, or `global`, ranked over all layers.
        heads: `local`, `pooled` over the layers, or `auto` (pooled for grouped-query attention); see `allocation`.
        round_to: kept channels a layer are multiples of this, for example 64.
        in_steps: equal cuts that reach the ratio, each decided on what the ones before it left; for methods that score.
        seed: for methods that draw at random.
        limits: memory that the statistics may take.
        parameters: the method's own.

    Raises:
        UserError: an unknown method or parameter, a bad ratio, layers out of range, missing or unfit samples, or a
            quantised model.
    """
    from reproducer.models.products import wide_products
    from reproducer.pruning.cut import Cut
    from reproducer.pruning.plan import fingerprint

    cut = Cut(structure_ratio=structure_ratio, ratio=ratio, scope=scope, heads=heads, round_to=round_to)
    weight = next(model.parameters())
    with wide_products(weight.dtype, weight.device):
        plan = plan_by(
            METHODS.get(method),
            parameters,
            model,
            calibration,
            layers=layers,
            cut=cut,
            steps=in_steps,
            seed=seed,
            limits=limits,
        )
    plan.base = fingerprint(model)
    return plan


def plan_by(
    method: Method,
    parameters: Mapping[str, Any],
    model: nn.Module,
    ids: Tensor | None,
    *,
    layers: Sequence[int] | None,
    cut: Cut,
    seed: int,
    steps: int = 1,
    limits: Limits | None = None,
    trained: Path | None = None,
    passages: PassageFiles | None = None,
) -> Plan:
    """What `prune` does, with the cut as one object.

    Args:
        passages: where statistics of single samples are kept, for a method whose statistics are means over samples.
        trained: the directory of a training that is done; None: a method that trains does so in a temporary one.
    """
    from reproducer.models.quantised import refuse_quantised
    from reproducer.pruning.allocation import check_reachable
    from reproducer.pruning.collect import collect
    from reproducer.pruning.passages import collect_by_passage
    from reproducer.pruning.scoring import check_samples
    from reproducer.pruning.statistics import GradientStatistic

    rule = method.make(parameters)
    taken = [*rule.needs, *(one for of_pass in getattr(rule, "passes", ()) for one in of_pass)]
    if method.trains or any(isinstance(statistic, GradientStatistic) for statistic in taken):
        refuse_quantised(model, f"method '{method.name}'")
    indices = _indices(model, layers)
    ids = ids if method.calibrated else None
    check_steps(method, rule, steps)
    if method.calibrated:
        apart = steps > 1 and ids is not None and ids.dim() == 3 and len(ids) == steps
        for samples in ids if apart and ids is not None else [ids]:
            check_samples(samples, model, method.min_samples)
    if isinstance(rule, Rule):  # before minutes are spent; a decision cuts as it likes
        check_reachable(model, indices, cut, steps)
        if steps > 1:
            return _in_steps(model, method, rule, ids, indices, cut, steps, seed, parameters, limits)
    options: dict[str, Any] = {"layers": indices, "cut": cut, "ids": ids, "seed": seed}
    with ExitStack() as stack:
        if isinstance(rule, Decision) and rule.train is not None and trained is None:
            trained = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            train(model, rule, directory=trained, **options)
        if passages is not None and ids is not None and rule.needs and all(one.additive for one in rule.needs):
            statistics = collect_by_passage(model, ids, indices, rule.needs, limits, passages)
        else:
            statistics = collect(model, ids, indices, rule.needs, limits)
        settings = cut_settings(cut, seed, parameters)
        return decide(model, rule, statistics, trained=trained, method=method.name, settings=settings, **options)


def check_steps(method: Method, rule: Rule | Decision, steps: int) -> None:
    """UserError for a method that does not score, in more than one step."""
    if steps > 1 and not isinstance(rule, Rule):
        message = f"{method.name} decides over all layers by itself; it cannot be asked for in {steps} steps"
        raise UserError(message, "leave steps out: they are for methods that score structures")


def _in_steps(
    model: nn.Module,
    method: Method,
    rule: Rule,
    ids: Tensor | None,
    layers: list[int],
    cut: Cut,
    steps: int,
    seed: int,
    parameters: Mapping[str, Any],
    limits: Limits | None,
) -> Plan:
    """Equal cuts one after the other, each by the scores of the model that the one before it left."""
    from reproducer.models.architecture import architecture_of
    from reproducer.pruning.allocation import allocate
    from reproducer.pruning.collect import collect

    architecture = architecture_of(model)
    settings = {**cut_settings(cut, seed, parameters), "steps": steps}
    plan: Plan | None = None
    for step, part in enumerate(cut.divided(steps)):
        current = model if plan is None else plan.apply(model)
        samples = ids[step] if ids is not None and ids.dim() == 3 else ids
        statistics = collect(current, samples, layers, rule.needs, limits)
        request = Request(current, architecture_of(current), layers, part, samples, seed, statistics)
        scores: Any = request.scores(rule.score, rule.members)
        if plan is not None:
            scores = {
                index: {kind: _whole(plan, kind, index, of) for kind, of in scores[index].items()} for index in scores
            }
        kept = allocate(model, architecture, scores, part)
        whole = replace(request, model=model, architecture=architecture, method=method.name, settings=settings)
        plan = whole.keep(kept["heads"], kept["channels"], scores=scores)
        del current, request  # one smaller model at a time beside the whole one
    assert plan is not None
    return plan


def _whole(plan: Plan, kind: Kind, layer: int, scores: Tensor) -> Tensor:
    """Scores of the units that a plan keeps, at their places in the whole layer; -inf for those that are gone."""
    import torch

    kept = plan.kept(kind, layer)
    if kept is None:
        return scores
    whole = torch.full((plan.units[layer][kind],), -torch.inf, dtype=scores.dtype)
    whole[kept] = scores
    return whole


def cut_settings(cut: Cut, seed: int, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """What a plan says of how it was made, in values that JSON has: an infinite parameter is text."""
    written = {name: str(value) if value in (inf, -inf) else value for name, value in parameters.items()}
    names = ("structure_ratio", "ratio", "scope", "heads", "round_to")
    return {**{name: getattr(cut, name) for name in names}, "seed": seed, "parameters": written}


def train(
    model: nn.Module,
    rule: Decision,
    *,
    layers: Sequence[int] | None,
    cut: Cut,
    ids: Tensor | None,
    seed: int,
    directory: Path,
    progress: Callable[[int, int, str], None] | None = None,
) -> Tokens:
    """Let a method that trains do so; what an interrupted call left in `directory` is taken up.

    Args:
        progress: called with steps done, steps in total and a word on the state.

    Returns:
        What went through the model.
    """
    import torch

    from reproducer.models.architecture import architecture_of

    assert rule.train is not None
    if ids is None:
        raise UserError("a method that trains needs calibration samples; register it with calibrated=True")
    job = TrainingJob(model, architecture_of(model), ids, _indices(model, layers), cut, seed, directory)
    if progress is not None:
        job = replace(job, progress=progress)
    with torch.inference_mode(False), torch.enable_grad(), _left_as_found(model, seed), counting(model, job.tokens):
        rule.train(job)
    return job.tokens


def decide(
    model: nn.Module,
    rule: Rule | Decision,
    statistics: Statistics,
    *,
    layers: Sequence[int] | None,
    cut: Cut,
    ids: Tensor | None = None,
    seed: int = 0,
    trained: Path | None = None,
    method: str = "",
    settings: Mapping[str, Any] | None = None,
) -> Plan:
    """The plan of a rule or a decision from given statistics, for stages and the search.

    Args:
        statistics: at least those that the rule needs, of `layers` alone.
        layers, cut, ids, seed: as in `prune`.
        trained: the directory of the method's training.
        method, settings: what the plan says of its origin.

    Raises:
        UserError: the cut cannot be reached, or a decision's plan does not fit the model.
    """
    from reproducer.models.architecture import architecture_of

    request = Request(
        model,
        architecture_of(model),
        _indices(model, layers),
        cut,
        ids,
        seed,
        statistics,
        trained,
        method,
        settings or {},
    )
    if isinstance(rule, Rule):
        return request.plan(request.scores(rule.score, rule.members))
    with _left_as_found(model, seed):
        plan = rule.decide(request)
    plan.check(model)
    return plan


def _indices(model: nn.Module, layers: Sequence[int] | None) -> list[int]:
    from reproducer.models.architecture import architecture_of
    from reproducer.pruning.allocation import check_layers

    return check_layers(layers, len(architecture_of(model).decoder_layers(model)))


@contextmanager
def _left_as_found(model: nn.Module, seed: int) -> Iterator[None]:
    """Evaluation mode, frozen parameters and seeded generators inside; everything as before afterwards, come what may.

    That is modules, parameters, hooks and other attributes of modules, modes, flags, gradients, and torch's generators.
    Values that were written over cannot be brought back.

    Raises:
        UserError: weights were changed in place.
    """
    import torch

    from reproducer.models.walk import frozen

    modules = [(module, {name: _shallow(value) for name, value in vars(module).items()}) for module in model.modules()]
    parameters = [(p, p.data, p.grad, None if p.is_inference() else p._version) for p in model.parameters()]
    devices = {p.device.index for p in model.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(devices=devices), frozen(model):
        torch.manual_seed(seed)
        try:
            yield
        finally:
            for module, attributes in modules:
                vars(module).clear()
                for name, (value, entries) in attributes.items():
                    vars(module)[name] = value
                    if entries is not None:
                        value.clear()
                        value.update(entries)
            for parameter, data, gradient, _ in parameters:
                if parameter.data_ptr() != data.data_ptr():
                    parameter.data = data
                parameter.grad = gradient
    if any(version is not None and parameter._version != version for parameter, _, _, version in parameters):
        raise UserError("the method changed the model's weights", "it may add hooks and modules of its own")


def _shallow(value: Any) -> tuple[Any, dict[str, Any] | None]:
    """An attribute of a module, with its entries if it is a dictionary: submodules, parameters, hooks."""
    return value, dict(value) if isinstance(value, dict) else None
