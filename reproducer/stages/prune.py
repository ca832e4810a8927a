"""Stages that decide what goes: a training run before the cut where a method has one, and the plan."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from reproducer.methods.registry import METHODS, Decision, Request
from reproducer.models.tokens import Tokens, counting
from reproducer.pruning.cut import Cut
from reproducer.queue import Context, Stage
from reproducer.registry import source_digest
from reproducer.stages.base import PLAN, Calibration, Edit, ModelState, OnModel, seed_text
from reproducer.stages.cost import Cost, ModelShape
from reproducer.stages.search import Search

if TYPE_CHECKING:
    from torch import Tensor

    from reproducer.pruning.plan import Plan
    from reproducer.stages.resolve import ResolvedMethod

Scalar = float | int | str | bool


class _ByMethod(OnModel):
    """What a method that is not searched works with.

    Attributes:
        method, parameters: its name and what is set of its own parameters.
        source: digest of the module of a method that is not this package's.
        calibration: None for a method that reads no samples.
        seed: of the draw and the method; None for a method that draws nothing, so that all seeds share its plan.
    """

    method: str
    parameters: dict[str, Scalar]
    source: str | None = None
    cut: Cut
    calibration: Calibration | None = None
    seed: int | None = None

    def fingerprints(self, device: str) -> dict[str, str]:
        return self.calibration.fingerprints() if self.calibration else {}

    def request(self, context: Context) -> Request:
        """What is asked of the method, on the stage's model and its samples."""
        model, tokenizer = self.load(context)
        ids, seed = self.samples(context, tokenizer), self.seed or 0
        return Request(model, METHODS.get(self.method), self.cut, self.parameters, ids=ids, seed=seed)

    def samples(self, context: Context, tokenizer: Any) -> Tensor | None:
        """The calibration samples, LongTensor [samples, length]; [steps, samples, length] if each has its own."""
        if self.calibration is None:
            return None
        pool, count, steps = self.calibration.load(tokenizer), self.calibration.samples, self.cut.steps
        context.record("pool", len(pool))
        if pool.summary:
            context.say(pool.summary)
        if not self.cut.resample or steps == 1:
            return pool.ids[pool.draw(count, self.seed or 0)]
        # rows come in order; so each step gets some of every part of the text
        return pool.ids[pool.draw(count * steps, self.seed or 0)].unflatten(0, (count, steps)).transpose(0, 1)


class Train(_ByMethod):
    """What a method learns before it decides; it goes on where it was interrupted."""

    kind: ClassVar[str] = "training"
    decides: ClassVar[bool] = True
    version: ClassVar[int] = 2
    resumable: ClassVar[bool] = True

    def run(self, context: Context) -> None:
        from reproducer.methods.prune import train

        request = replace(self.request(context), directory=context.directory, progress=context.progress)
        record_tokens(context, request.model, train(request))

    def cost(self, model: ModelShape) -> Cost:
        rule: Any = METHODS.get(self.method).make(self.parameters)
        if rule.training is None or self.calibration is None:
            raise NotImplementedError
        forward, both, batch = rule.training(self.calibration.samples, len(self.cut.within(model.layers)))
        return model.learning(forward, both, self.calibration.length, batch)


class _Cutting(Edit):
    """A stage that leaves a plan."""

    role: ClassVar[str] = "plan"
    cuts: ClassVar[bool] = True
    decides: ClassVar[bool] = True

    def apply(self, model: Any, directory: Path, merge: bool = False) -> Any:
        from reproducer.pruning.plan import Plan

        plan = Plan.load(directory / PLAN)
        plan.check_base(model)
        plan.apply_(model)
        return model

    def removed_layers(self, directory: Path) -> list[int]:
        from reproducer.pruning.plan import Plan

        return Plan.load(directory / PLAN).removed_layers


class Prune(_ByMethod, _Cutting):
    """The plan of a method's scores or decision."""

    kind: ClassVar[str] = "prune"
    version: ClassVar[int] = 3

    training: Stage | None = None

    @classmethod
    def of(cls, found: ResolvedMethod, state: ModelState, cut: Cut, seed: int) -> Prune:
        """The stage for a method of the spec, with the training in front of it that the method has."""
        method = found.method
        fields: dict[str, Any] = {
            **state.fields,
            "method": found.name,
            "parameters": dict(found.given.parameters),
            "source": source_digest(method),
            "cut": cut,
            "calibration": found.calibration if method.calibrated else None,
            "seed": seed if method.calibrated or method.random else None,
        }
        label = f"{state.label} {found.label} {cut}{seed_text(fields['seed'])}"
        training = Train(**fields, label=f"{label}, training") if method.trains else None
        return cls(**fields, training=training, label=label)

    def run(self, context: Context) -> None:
        from reproducer.methods.prune import plan_for
        from reproducer.pruning.passages import PassageFiles

        request = self.request(context)
        with counting(request.model, Tokens()) as tokens:
            passages = PassageFiles(self.passages(context, self.cut), tokens)
            plan = plan_for(
                replace(
                    request,
                    directory=context.inputs.get("training"),
                    passages=passages,
                    progress=context.progress,
                )
            )
        record_tokens(context, request.model, tokens)
        leave(context, plan, request.model)

    def cost(self, model: ModelShape) -> Cost:
        cost = collecting(model, self.method, self.parameters, self.calibration) * self.cut.steps
        smaller = model.weights if self.cut.steps > 1 else 0.0  # what the steps so far left, at most
        return replace(cost, memory=cost.memory + smaller)


class PruneAsFound(_Cutting):
    """The plan of a search, exactly as it was evaluated; or, at another cut or on another model, its configuration.

    Attributes:
        cut: None for the search's own model and cut.
        length: tokens a sample, where the samples are cut anew.
    """

    kind: ClassVar[str] = "prune-found"

    search: Search
    cut: Cut | None = None
    length: int | None = None
    seed: int = 0

    @classmethod
    def of(cls, search: Search, state: ModelState, label: str, cut: Cut, seed: int, transfer: bool) -> PruneAsFound:
        text = f"{state.label} {label} {cut}{seed_text(seed)}"
        if not transfer:
            return cls(**state.fields, search=search, label=text)
        return cls(**state.fields, search=search, cut=cut, length=search.calibration.length, seed=seed, label=text)

    def run(self, context: Context) -> None:
        from reproducer.pruning.plan import Plan

        model, tokenizer = self.load(context)
        if self.cut is None:
            plan = Plan.load(context.inputs["search"] / PLAN)
            record_tokens(context, model, Tokens())
        else:
            plan = self._transferred(context, model, tokenizer, self.cut)
        leave(context, plan, model)

    def cost(self, model: ModelShape) -> Cost:
        if self.cut is None:
            return Cost()
        calibration = self.search.calibration.model_copy(update={"length": self.length})
        return collecting(model, self.search.method, {}, calibration)

    def _transferred(self, context: Context, model: Any, tokenizer: Any, cut: Cut) -> Plan:
        """What the search found, metric and samples, applied to this model and cut."""
        from reproducer.data.pool import cut_samples
        from reproducer.methods.prune import plan_for

        best = self.search.read(context.inputs["search"]).best
        ids = cut_samples([sample.text for sample in best.samples], tokenizer, self.length or 0)
        method = self.search.method_called(best.method)
        with counting(model, Tokens()) as tokens:
            plan = plan_for(
                Request(model, method, cut, best.params, ids=ids, seed=self.seed, progress=context.progress)
            )
        record_tokens(context, model, tokens)
        return plan


def record_tokens(context: Context, model: Any, tokens: Tokens) -> None:
    """Record what went through the model, in tokens through all of its layers."""
    layers = model.config.get_text_config().num_hidden_layers
    context.record("tokens", {name: round(count / layers) for name, count in vars(tokens).items()})


def leave(context: Context, plan: Plan, model: Any) -> None:
    """Write the plan, and what it leaves: of the parameters, and of the layers that it cuts."""
    from reproducer.models.architecture import parameter_count
    from reproducer.pruning.plan import fingerprint

    plan.base = fingerprint(model)
    plan.save(context.directory / PLAN)
    context.record("parameters", {"total": parameter_count(model), "left": plan.parameters_left(model)})
    context.record("cut", {"layers": plan.layers, "of": len(plan.units), **plan.shares()})


def collecting(model: ModelShape, method: str, parameters: dict[str, Scalar], calibration: Calibration | None) -> Cost:
    """What the statistics of a method take, and the passes that it makes itself; deciding is next to nothing."""
    from reproducer.pruning.collect import ACTIVATION_BYTES

    rule, cost = METHODS.get(method).make(parameters), Cost()
    samples, length = (calibration.samples, calibration.length) if calibration else (1, 2)
    for needs in [rule.needs, *(rule.passes if isinstance(rule, Decision) else ())]:
        cost += model.collected(needs, samples, length, samples, ACTIVATION_BYTES)
    return cost
