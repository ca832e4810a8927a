"""`prune`, and its parts that stages and the search call: `plan_for`, `train` and `decide`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from reproducer.errors import UserError
from reproducer.methods.registry import METHODS, Decision, Method, Request, Rule
from reproducer.models.architecture import architecture_of, family_of
from reproducer.models.quantised import refuse_quantised
from reproducer.models.tokens import Tokens, counting
from reproducer.pruning.allocation import allocate, check_layers, check_reachable
from reproducer.pruning.cut import Cut
from reproducer.pruning.scoring import check_samples
from reproducer.pruning.statistics import GradientStatistic

Progress = Callable[[float, float, str], None]

if TYPE_CHECKING:
    from torch import Tensor, nn

    from reproducer.pruning.collect import Limits
    from reproducer.pruning.plan import Plan


def prune(
    model: nn.Module,
    method: str,
    calibration: Tensor | None = None,
    *,
    structure_ratio: float | None = None,
    ratio: float | None = None,
    layers: Sequence[int] | None = None,
    scope: Literal["local", "global", "parameters", "uniform"] = "local",
    heads: Literal["auto", "local", "pooled"] = "auto",
    round_to: int = 1,
    in_steps: int = 1,
    seed: int = 0,
    limits: Limits | None = None,
    repair: Tensor | None = None,
    progress: Progress = lambda done, total, text: None,
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
        scope: `local`, the same number from every layer; `global`, each kind ranked over all layers; `parameters`,
            heads and channels of all layers ranked together by score per parameter; or `uniform`, all layers of one
            shape, which transformers loads with the family's own class.
        heads: `local`, `pooled` over the layers, or `auto` (pooled for grouped-query attention); see `allocation`.
        round_to: kept channels a layer are multiples of this, for example 64.
        in_steps: equal cuts that reach the ratio, each decided on what the ones before it left; for methods that score.
        seed: for methods that draw at random.
        limits: memory that the statistics may take.
        repair: LongTensor [samples, length] of token ids, to fit the remaining weights to; see `pruning.repaired`.
        progress: called with what is done, what there is in all, and a word on the state; neither has a unit.
        parameters: the method's own.

    Raises:
        UserError: an unknown method or parameter, a bad ratio, layers out of range, missing or unfit samples, or a
            quantised model.
    """
    from reproducer.models.products import wide_products
    from reproducer.pruning.plan import fingerprint
    from reproducer.pruning.repaired import repaired

    cut = Cut(structure_ratio=structure_ratio, ratio=ratio, scope=scope, heads=heads, round_to=round_to, steps=in_steps)
    chosen = [] if layers is None else check_layers(layers, len(family_of(model.config).decoder_layers(model)))
    request = Request(
        model,
        METHODS.get(method),
        cut,
        parameters,
        ids=calibration,
        layers=chosen,
        seed=seed,
        limits=limits,
        progress=progress,
    )
    weight = next(model.parameters())
    with wide_products(weight.dtype, weight.device):
        plan = plan_for(request)
    plan.base = fingerprint(model)
    return plan if repair is None else repaired(plan, model, repair)


def plan_for(request: Request) -> Plan:
    """The plan that a request asks for, from checks to decision.

    A method that trains does so in a temporary directory, unless the request names one, whose training is done.
    """
    from reproducer.pruning.passages import collect_by_passage

    request = request if request.method.calibrated else replace(request, ids=None)
    rule = request.rule
    _check(request)
    if isinstance(rule, Rule):  # before minutes are spent; a decision cuts as it likes
        check_reachable(request.model, request.layers, request.cut, request.cut.steps)
        if request.cut.steps > 1:
            return _in_steps(request, rule)
    with ExitStack() as stack:
        if request.method.trains and request.directory is None:
            request = replace(request, directory=Path(stack.enter_context(tempfile.TemporaryDirectory())))
            train(request)
        ids, passages = request.ids, request.passages
        if passages is not None and ids is not None and rule.needs and all(each.additive for each in rule.needs):
            wanted = request.layers, rule.needs, request.limits, passages
            statistics = collect_by_passage(
                request.model, ids, *wanted, lambda done, total: request.progress(done, total, "statistics")
            )
        else:
            statistics = _collected(request, request.model, ids, rule)
        return decide(replace(request, statistics=statistics))


def _check(request: Request) -> None:
    """UserError for a model, samples or steps that the method cannot take."""
    from torch import Tensor

    method, rule, ids, steps = request.method, request.rule, request.ids, request.cut.steps
    statistics = [*rule.needs, *(each for needs in getattr(rule, "passes", ()) for each in needs)]
    if method.trains or any(isinstance(statistic, GradientStatistic) for statistic in statistics):
        refuse_quantised(request.model, f"method '{method.name}'")
    architecture_of(request.model)  # raises where the model is not of a declared architecture
    check_cut(method, rule, steps, request.cut.scope)
    if method.calibrated:
        apart = steps > 1 and isinstance(ids, Tensor) and ids.dim() == 3 and len(ids) == steps
        for samples in ids if apart and ids is not None else [ids]:
            check_samples(samples, request.model, method.min_samples)


def check_cut(method: Method, rule: Rule | Decision, steps: int, scope: str) -> None:
    """UserError for a method that does not score, in more than one step or uniformly."""
    if isinstance(rule, Rule):
        return
    if scope == "uniform":
        message = f"{method.name} decides by itself how wide each layer is; it cannot leave all of one shape"
        raise UserError(message, "take a method that scores structures, such as llm-pruner-e2")
    if steps > 1:
        message = f"{method.name} decides over all layers by itself; it cannot be asked for in {steps} steps"
        raise UserError(message, "leave steps out: they are for methods that score structures")


def _collected(request: Request, model: nn.Module, ids: Tensor | None, rule: Rule | Decision, step: int = 0) -> Any:
    """Statistics for one of the request's steps, of the model as the ones before it left it."""
    from reproducer.pruning.collect import collect

    steps = request.cut.steps
    text = f"statistics, step {step + 1} of {steps}" if steps > 1 else "statistics"

    def progress(done: float, total: float) -> None:
        request.progress((step + done / total) / steps, 1.0, text)

    return collect(model, ids, request.layers, rule.needs, request.limits, progress=progress)


def _in_steps(request: Request, rule: Rule) -> Plan:
    """Equal cuts one after the other, each by the scores of the model that the one before it left."""
    model, ids = request.model, request.ids
    plan: Plan | None = None
    for step, cut in enumerate(request.cut.divided(request.cut.steps)):
        current = model if plan is None else plan.apply(model)
        samples = ids[step] if ids is not None and ids.dim() == 3 else ids
        statistics = _collected(request, current, samples, rule, step)
        scores: Any = replace(request, model=current, statistics=statistics).scores(rule.score, rule.members)
        del current  # one smaller model at a time in memory beside the unpruned one
        if plan is not None:
            scores = {
                index: {kind: _spread(plan, kind, index, values) for kind, values in of_layer.items()}
                for index, of_layer in scores.items()
            }
        kept = allocate(model, request.architecture, scores, cut)
        plan = request.keep(kept, scores=scores)
    assert plan is not None
    return plan


def _spread(plan: Plan, kind: str, layer: int, scores: Tensor) -> Tensor:
    """Scores of the units that a plan keeps, at their indices in the unpruned layer; -inf for those that are gone."""
    import torch

    kept = plan.kept[kind].get(layer)
    if kept is None:
        return scores
    spread = torch.full((plan.units[layer][kind],), -torch.inf, dtype=scores.dtype)
    spread[kept] = scores
    return spread


def train(request: Request) -> Tokens:
    """Let a method that trains do so; what an interrupted call left in the request's directory is taken up.

    Returns:
        What went through the model.
    """
    import torch

    rule: Any = request.rule
    if request.ids is None:
        raise UserError("a method that trains needs calibration samples; register it with calibrated=True")
    model, tokens = request.model, request.tokens
    with torch.inference_mode(False), torch.enable_grad(), _restored(model, request.seed), counting(model, tokens):
        rule.train(request)
    return tokens


def decide(request: Request) -> Plan:
    """The plan of a rule or a decision from the request's statistics, for the search.

    Raises:
        UserError: the cut cannot be reached, or a decision's plan does not fit the model.
    """
    rule = request.rule
    if isinstance(rule, Rule):
        return request.plan(request.scores(rule.score, rule.members))
    with _restored(request.model, request.seed):
        plan = rule.decide(request)
    plan.check(request.model)
    return plan


@contextmanager
def _restored(model: nn.Module, seed: int) -> Iterator[None]:
    """Evaluation mode, frozen parameters and seeded generators inside; everything as before afterwards, come what may.

    That is modules, parameters, hooks and other attributes of modules, modes, flags, gradients, and torch's generators.
    Values that were written over cannot be brought back.

    Raises:
        UserError: weights were changed in place.
    """
    import torch

    from reproducer.models.walk import frozen

    attributes = [vars(module) for module in model.modules()]
    before = [dict(of_module) for of_module in attributes]
    # submodules, parameters and hooks are dictionaries, whose entries are put back too
    entries = [{name: dict(value) for name, value in of.items() if isinstance(value, dict)} for of in attributes]
    parameters = [(p, p.data, p.grad, None if p.is_inference() else p._version) for p in model.parameters()]
    devices = {p.device.index for p in model.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(devices=devices), frozen(model):
        torch.manual_seed(seed)
        try:
            yield
        finally:
            for now, old, inside in zip(attributes, before, entries, strict=True):
                now.clear()
                now.update(old)
                for name, values in inside.items():
                    now[name].clear()
                    now[name].update(values)
            for parameter, data, gradient, _ in parameters:
                if parameter.data_ptr() != data.data_ptr():
                    parameter.data = data
                parameter.grad = gradient
    if any(version is not None and parameter._version != version for parameter, _, _, version in parameters):
        raise UserError("the method changed the model's weights", "it may add hooks and modules of its own")
