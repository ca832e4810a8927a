"""Where methods are registered, and the two shapes of a method: a rule that scores, a decision over all layers.

A method is one file with one decorated function of the method's parameters:

    @register("my-wanda", label="Wanda", source="https://arxiv.org/abs/2306.11695")
    def my_wanda() -> Rule:
        weights, inputs = Power(1), InputNorm()
        return Rule((weights, inputs), lambda vectors, _: vectors[weights] * vectors[inputs], members="outputs")

It may live in this package, in an installed one (entry-point group `reproducer.methods`), or in a module of the user's
own, which a spec names as `my_module:my_wanda`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from reproducer.errors import UserError
from reproducer.methods.parameters import check_parameters
from reproducer.methods.space import Space
from reproducer.models.architecture import family_of, layer_shape, linear_at, unit_parameters
from reproducer.models.declaration import Architecture
from reproducer.models.tokens import Tokens
from reproducer.pruning.allocation import Kept, Scores, allocate, check_layers, parameters_to_remove, remove_lowest
from reproducer.pruning.cut import Cut
from reproducer.pruning.scoring import Score, structure_scores
from reproducer.pruning.statistics import Statistic, Statistics
from reproducer.registry import Registry

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from reproducer.pruning.collect import Limits
    from reproducer.pruning.passages import PassageFiles
    from reproducer.pruning.plan import Plan

Members = Literal["all", "outputs"]


@dataclass(frozen=True)
class Rule:
    """A method that scores member vectors; how many units go, and where, is the requested cut's business.

    Attributes:
        needs: the statistics that have to be collected.
        score: from one member's statistics, each [vectors], to scores [vectors]; higher is kept. A structure's score
            is the sum over its member vectors. The second argument is a generator seeded by the caller.
        members: the weights whose vectors are scored: `all` of a structure, or the `outputs` alone (columns of the
            output and the down projection, the only ones that activation statistics exist of).
    """

    needs: tuple[Statistic, ...]
    score: Score
    members: Members = "all"

    def __post_init__(self) -> None:
        for statistic in self.needs:
            if self.members == "all" and statistic.outputs_only:
                message = f"{statistic} exists for the columns of the output and the down projection alone"
                raise UserError(message, 'a Rule that needs it has members="outputs"')


@dataclass(frozen=True)
class Decision:
    """A method that decides over all layers at once: its own ranking, uneven layers, whole layers, changed weights.

    Attributes:
        decide: makes the plan.
        needs: the statistics that have to be collected for it.
        train: runs before `decide` and leaves files for it. It may be interrupted and run again: what it wrote is
            still there. In a spec's run it is a stage of its own.
        passes: for estimates of its cost, passes over the samples that `decide` itself makes: of each, statistics that
            take as much.
        training: the same for `train`: from the number of samples and of layers to prune, how many sequences go forward
            alone, how many forward and backward, and how many of the latter at once. None: not estimated.
    """

    decide: Callable[[Request], Plan]
    needs: tuple[Statistic, ...] = ()
    train: Callable[[Request], None] | None = None
    passes: tuple[tuple[Statistic, ...], ...] = ()
    training: Callable[[int, int], tuple[float, float, int]] | None = None


@dataclass(frozen=True)
class Request:
    """What is asked of a method: built once, and handed to its training and its decision.

    Attributes:
        model: for a training or a decision frozen and in evaluation mode; it may be run, and its weights stay as they
            are. A training adds hooks or modules of its own, which are taken away again.
        method, parameters: the method, and what is set of its own parameters.
        cut: how much is to go, and from where.
        ids: calibration samples, LongTensor [samples, length]; None if the method reads none. Of a cut in steps that
            has other samples in each, [steps, samples, length].
        layers: indices of the layers that may be cut, sorted; by default those of the cut.
        seed: for whatever is drawn; around a training or a decision the global generator is seeded with it too.
        directory: of a method that trains: for files of any names, replaced atomically. An interrupted training's are
            still there, and the decision reads what it left.
        progress: called with what is done, what there is in all, and a word on the state.
        tokens: what a training spent so far. Whoever calls counts; a training that goes on where it was interrupted
            sets them to what they were there.
        limits: memory that the statistics may take.
        passages: where statistics of single samples are kept, for a method whose statistics are means over samples.
        statistics: {layer: {module: {statistic: Tensor}}} of what a decision needs.
    """

    model: nn.Module
    method: Method
    cut: Cut
    parameters: Mapping[str, Any] = field(default_factory=dict)
    ids: Tensor | None = None
    layers: list[int] = field(default_factory=list)
    seed: int = 0
    directory: Path | None = None
    progress: Callable[[float, float, str], None] = lambda done, total, text: None
    tokens: Tokens = field(default_factory=Tokens)
    limits: Limits | None = None
    passages: PassageFiles | None = None
    statistics: Statistics = field(default_factory=dict)

    def __post_init__(self) -> None:
        count = len(self.architecture.decoder_layers(self.model))
        object.__setattr__(self, "layers", check_layers(self.layers or self.cut.within(count), count))

    @property
    def architecture(self) -> Architecture:
        """Which structures the model couples."""
        return family_of(self.model.config)

    @property
    def head(self) -> Tensor:
        """The weight of the output head, whose device takes the samples."""
        return self.architecture.head_of(self.model).weight

    @cached_property
    def rule(self) -> Rule | Decision:
        """The method with its parameters."""
        return self.method.make(self.parameters)

    @property
    def settings(self) -> dict[str, Any]:
        """What a plan says of how it was made."""
        names = ("structure_ratio", "ratio", "scope", "heads", "round_to")
        steps = {"steps": self.cut.steps} if self.cut.steps > 1 else {}
        return {
            **{name: getattr(self.cut, name) for name in names},
            "seed": self.seed,
            "parameters": dict(self.parameters),
            **steps,
        }

    def generator(self) -> torch.Generator:
        """A new generator, seeded."""
        import torch

        return torch.Generator().manual_seed(self.seed)

    def units(self, layer: int) -> dict[str, int]:
        """How many prunable units of each kind a layer has."""
        return dict(layer_shape(self.architecture.decoder_layers(self.model)[layer], self.architecture).counts)

    def unit_parameters(self, layer: int) -> dict[str, int]:
        """How many parameters leave the model with one unit of each kind."""
        block = self.architecture.decoder_layers(self.model)[layer]
        return {kind.name: unit_parameters(block, self.architecture, kind) for kind in self.architecture.kinds}

    def output(self, layer: int, kind: str) -> tuple[str, nn.Linear]:
        """The projection that the units of a kind feed: its parameters' prefix in the model, and the module."""
        path = self.architecture.output(kind)
        module = linear_at(self.architecture.decoder_layers(self.model)[layer], path)
        return f"{self.architecture.layers}.{layer}.{path}", module

    def parameters_to_remove(self) -> int:
        """How many parameters the cut takes away; see `pruning.allocation.parameters_to_remove`."""
        return parameters_to_remove(self.model, self.layers, self.cut)

    def scores(self, score: Score, members: Members = "all") -> dict[int, dict[str, Tensor]]:
        """Scores of structures {layer: {kind: [units]}}: the sums over their vectors of what `score` gives each."""
        return structure_scores(self.model, self.architecture, self.statistics, score, self.generator(), members)

    def remove_lowest(self, scores: Scores, remove: int | None = None) -> Kept:
        """Units that stay when the lowest scores of all kinds and layers go; see `pruning.allocation.remove_lowest`.

        Args:
            remove: parameters to take away; None: those of the cut.
        """
        remove = self.parameters_to_remove() if remove is None else remove
        return remove_lowest(self.model, self.architecture, scores, remove, self.cut.round_to)

    def plan(self, scores: Scores, tensors: Mapping[str, Tensor] | None = None) -> Plan:
        """The plan that keeps the best-scored units, as many as the requested cut leaves."""
        kept = allocate(self.model, self.architecture, scores, self.cut)
        return self.keep(kept, tensors=tensors, scores=scores)

    def keep(
        self,
        kept: Mapping[str, Mapping[int, Sequence[int]]] | None = None,
        *,
        tensors: Mapping[str, Tensor] | None = None,
        removed_layers: Iterable[int] = (),
        scores: Scores | None = None,
    ) -> Plan:
        """The plan of a decision of one's own; a layer that is absent keeps all.

        Args:
            kept: {kind: {layer: units that stay}}.
            tensors: {parameter name in the base model: Tensor}, changed or added, shaped as in the pruned model.
            removed_layers: indices of layers that go as a whole.
            scores: for the plan's `scores`, if there are any.
        """
        from reproducer.pruning.plan import Plan, units_of

        return Plan(
            units_of(self.model, self.architecture),
            {
                kind: {int(index): sorted(map(int, units)) for index, units in sorted(of_kind.items())}
                for kind, of_kind in (kept or {}).items()
            },
            method=self.method.name,
            settings=self.settings,
            tensors=dict(tensors or {}),
            removed_layers=sorted(map(int, removed_layers)),
            scores=scores or {},
        )


@dataclass(eq=False)
class Method:
    """A registered method.

    Attributes:
        function: of the method's own parameters, all with defaults; returns its `Rule` or `Decision`.
        name, label: in specs, and in reports.
        source: where it was published.
        calibrated: whether it reads calibration samples.
        min_samples: how many it needs, if it reads any.
        random: whether its result depends on the seed even for the same samples.
        trains: whether it is a `Decision` that trains before it cuts: a stage of its own in a spec's run.
        space: what a search of it searches; None if it is not searched.
    """

    function: Callable[..., Rule | Decision]
    name: str
    label: str
    source: str
    calibrated: bool = True
    random: bool = False
    trains: bool = False
    space: type[Space] | None = None
    min_samples: int = 1

    def __post_init__(self) -> None:
        # Its module, whose source joins the keys of stages, and its text.
        functools.update_wrapper(self, self.function)  # type: ignore[arg-type]
        for name, default in self.parameters.items():
            if default is inspect.Parameter.empty:
                raise UserError(f"method '{self.name}' has a parameter without a default: {name}")

    def __reduce__(self) -> Any:  # pickled by its address: its module has the method under the function's name
        return _method_at, (f"{self.__module__}:{self.function.__qualname__}",)

    @property
    def summary(self) -> str:
        return (inspect.getdoc(self.function) or "").partition("\n")[0]

    @property
    def parameters(self) -> dict[str, Any]:
        """Names and defaults of the method's own parameters."""
        return {name: p.default for name, p in inspect.signature(self.function).parameters.items()}

    def make(self, parameters: Mapping[str, Any] | None = None) -> Rule | Decision:
        """The rule or decision with these parameters; UserError for one that the method does not have or take."""
        check_parameters(self.name, self.function, parameters or {})
        rule = self.function(**(parameters or {}))
        if not isinstance(rule, Rule | Decision):
            raise UserError(f"method '{self.name}' gives a {type(rule).__name__}; it should give a Rule or a Decision")
        if (isinstance(rule, Decision) and rule.train is not None) != self.trains:
            raise UserError(
                f"method '{self.name}' is registered with trains={self.trains}, and its decision says otherwise",
                "a method that trains before it cuts is registered with trains=True",
            )
        return rule


METHODS: Registry[Method] = Registry("method", "reproducer.methods", "reproducer.methods")


def _method_at(address: str) -> Method:
    return METHODS.get(address)


def register(
    name: str,
    *,
    label: str,
    source: str,
    calibrated: bool = True,
    random: bool = False,
    trains: bool = False,
    space: type[Space] | None = None,
    min_samples: int = 1,
) -> Callable[[Callable[..., Rule | Decision]], Method]:
    """Decorate a function of a method's parameters that returns its `Rule` or `Decision`; see `Method`."""

    def add(function: Callable[..., Rule | Decision]) -> Method:
        return METHODS.add(name, Method(function, name, label, source, calibrated, random, trains, space, min_samples))

    return add
