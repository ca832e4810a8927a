"""The rows of a table, and which stages each needs: a spec expanded, with nothing read or loaded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from reproducer.data.pool import apportioned
from reproducer.errors import UserError
from reproducer.methods.registry import Decision, Rule
from reproducer.models.catalogue import resolve
from reproducer.pruning.cut import Cut
from reproducer.queue import Stage, topological
from reproducer.recovery.registry import Recovery
from reproducer.spec import MethodSpec, PruneSpec, Spec
from reproducer.spec.values import chained
from reproducer.stages.base import ModelState, OnModel, named_edits
from reproducer.stages.known import Known
from reproducer.stages.measure import Measure
from reproducer.stages.model import FetchModel
from reproducer.stages.prune import Prune, PruneAsFound
from reproducer.stages.recovery import Recover
from reproducer.stages.resolve import DENSE, Resolved, ResolvedMethod, ResolvedModel, resolved
from reproducer.stages.results import Column, Sight
from reproducer.stages.search import Search

Chain = Sequence[tuple[str, Recovery]]


@dataclass(frozen=True)
class Row:
    """One row: what it is, its model, and the stages behind it by role.

    Roles are `model`, `search` or `transfer`, `training`, those of the model's edits (`plan`, `recovery`), and those of
    the measures.
    """

    model: str
    method: str
    label: str
    ratio: float | None
    structure_ratio: float | None
    recovery: str
    recovery_label: str | None
    seed: int
    state: ModelState
    stages: Mapping[str, Stage]
    steps: int = 1
    saw: Sequence[Sight] = ()
    control: str | None = None
    plain: bool = True  # its method runs as its name alone says, as a search scores it

    @property
    def facts(self) -> dict[str, Any]:
        """The fields that results.json has too."""
        return {name: value for name, value in vars(self).items() if name not in ("state", "stages", "plain")}

    @property
    def measures(self) -> dict[str, Measure]:
        return {role: stage for role, stage in self.stages.items() if isinstance(stage, Measure)}

    @property
    def making(self) -> dict[str, Stage]:
        """The stages that make the model."""
        return {role: stage for role, stage in self.stages.items() if not isinstance(stage, Measure)}

    @property
    def deciding(self) -> list[Stage]:
        """Of these, the ones that decide what goes."""
        return [stage for stage in self.making.values() if isinstance(stage, OnModel) and stage.decides]

    @property
    def columns(self) -> list[Column]:
        """Those that its measures fill."""
        return [column for stage in self.measures.values() for column in stage.columns()]


@dataclass(frozen=True)
class Part:
    """The specs of a document that reproduce one item of the paper, or a spec that reproduces none.

    Attributes:
        expansions: of these specs, models under the names that the document gives them.
        rows: numbers of their rows among the document's.
    """

    expansions: Sequence[Expansion]
    rows: Sequence[int]

    @property
    def spec(self) -> dict[str, Any]:
        return self.expansions[0].resolved_spec

    @property
    def columns(self) -> list[Column]:
        return unique_columns(column for expansion in self.expansions for column in expansion.columns)


@dataclass(frozen=True)
class Expansion:
    """The rows and columns of a spec, or of a document with its parts.

    Attributes:
        known: what is taken over from an earlier run.
        parts: of a document, whose `resolved` holds what its specs have together.
    """

    resolved: Resolved
    rows: Sequence[Row]
    known: Known = field(default=Known(), kw_only=True)
    parts: Sequence[Part] = field(default=(), kw_only=True)

    @property
    def spec(self) -> Spec:
        return self.resolved.spec

    @cached_property
    def stages(self) -> list[Stage]:
        """Every stage once, inputs before what needs them; without those whose results are known."""
        return topological(stage for row in self.rows for stage in self.known.missing(row))

    @property
    def resolved_spec(self) -> dict[str, Any]:
        """The spec as it is run: with profiles, overrides and defaults, its open sections complete."""
        found, spec = self.resolved, self.spec
        if self.parts:
            return {"name": spec.name, "title": spec.title, "seeds": list(spec.seeds)}
        first = found.methods[0].calibration if found.methods else None
        sections: dict[str, Any] = {"evaluate": found.evaluate.model_dump(mode="json")}
        if first is not None and spec.calibration.dataset is None:
            names = [text.name for text in first.texts]
            sections["calibration"] = {**spec.calibration.model_dump(mode="json"), "dataset": names}
        chains = [
            [{"name": name, **recovery.model_dump(mode="json")} for name, recovery in chain]
            for chain in found.recoveries
        ]
        sections["recovery"] = [
            chain if len(chain) > 1 else chain[0] if chain else {"name": "none"} for chain in chains
        ]
        return {**spec.model_dump(mode="json"), **sections}

    def check_cuts(self) -> None:
        """Refuse parameters that a method refuses, and cuts that no choice of units can reach.

        The latter of models whose shape is known before anything is fetched; a decision may cut other things.

        Raises:
            SpecError: at the method's own parameters or cut, or the spec's.
        """
        from reproducer.models.architecture import architecture_of
        from reproducer.models.load import meta_model
        from reproducer.pruning.allocation import check_layers, check_reachable

        for part in self.parts:
            for expansion in part.expansions:
                expansion.check_cuts()
        if self.parts:
            return
        spec = self.spec
        rules = []
        for method in self.resolved.methods:
            place = ("methods", spec.methods.index(method.given))
            with spec.at((*place, "parameters")):
                rule = method.method.make(method.given.parameters)
            rules.append((method, place, rule))
            for model in self.resolved.models:
                with spec.at((*place, "prune")):
                    _check_cut(method, rule, method.given.prune_for(spec, model.given))
        for model in self.resolved.models:
            if model.entry.config is None:
                continue
            empty = meta_model(model.entry.config)
            layers = len(architecture_of(empty).decoder_layers(empty))
            for method, place, rule in rules:
                for asked in _cuts(MethodSpec(name=DENSE).prune_for(spec, model.given)):
                    cut = _own_cut(spec, model, method, asked)
                    with spec.at((*place, "prune") if method.given.prune else ("prune",)):
                        if isinstance(rule, Rule):
                            check_reachable(empty, None, cut, cut.steps)
                        else:
                            check_layers(cut.within(layers), layers)

    def needs(self, stages: Sequence[Stage]) -> list[str]:
        """The models that these stages fetch from outside, for a person."""
        fetched = [stage for stage in stages if isinstance(stage, FetchModel)]
        return [str(source) for stage in fetched if (source := stage.remote) is not None]

    @property
    def columns(self) -> list[Column]:
        """Those of the dense model, which every row of a spec has; of a document, those of all its parts."""
        return unique_columns(column for part in self.parts for column in part.columns) or self.rows[0].columns


def unique_columns(columns: Iterable[Column]) -> list[Column]:
    """Each once; a text is unseen where it is so for every spec."""
    unique: dict[str, Column] = {}
    for column in columns:
        known = unique.setdefault(column.key, column)
        unique[column.key] = known.model_copy(update={"unseen": known.unseen and column.unseen})
    return list(unique.values())


def expand(spec: Spec) -> Expansion:
    """All rows and stages of a spec: the same spec always gives the same stages with the same keys.

    Raises:
        SpecError: a name of the spec is unknown; tells the file, the line and the nearest right name.
    """
    found = resolved(spec)
    spec = found.spec  # with its controls written out
    rows: list[Row] = []
    for model in found.models:
        rows.append(_dense(found, model))
        for asked in _cuts(MethodSpec(name=DENSE).prune_for(spec, model.given)):
            for chain in found.recoveries:
                for method in found.methods:
                    if method.given.recovery and _name(chain) not in method.given.recovery:
                        continue
                    cut = _own_cut(spec, model, method, asked)
                    rows += [_pruned(found, model, method, cut, chain, seed) for seed in spec.seeds]
    return Expansion(found, rows)


def _name(chain: Chain) -> str:
    return chained(name for name, _ in chain) or "none"


def _cuts(section: PruneSpec) -> list[Cut]:
    """A cut for each ratio that a spec's section asks for."""
    name = "ratio" if section.ratio is not None else "structure_ratio"
    settings = section.model_dump(exclude={"ratio", "structure_ratio"})
    return [Cut(**settings, **{name: value}) for value in getattr(section, name)]


def _own_cut(spec: Spec, model: ResolvedModel, method: ResolvedMethod, asked: Cut) -> Cut:
    """The cut that is asked for under a method's own settings; a single ratio among these wins."""
    own = _cuts(method.given.prune_for(spec, model.given))[0]
    if any(method.given.prune.get(key) is not None for key in ("ratio", "structure_ratio")):
        return own
    return own.at(ratio=asked.ratio, structure_ratio=asked.structure_ratio)


def _check_cut(method: ResolvedMethod, rule: Rule | Decision, section: PruneSpec) -> None:
    """UserError for a method that cannot be asked for in so many steps, or uniformly, as the spec's section says."""
    from reproducer.methods.prune import check_cut

    if section.steps > 1 and method.search is not None:
        message = f"{method.name} is searched for one cut, not for {section.steps} steps"
        raise UserError(message, "give `steps` to the methods that score, in a `prune` of their own")
    check_cut(method.method, rule, section.steps, section.scope)
    pool, samples = method.calibration.pool, method.calibration.samples
    needed = section.steps * samples if section.resample and method.method.calibrated else 0
    if pool is not None and needed > pool:
        message = f"{section.steps} steps with {samples} samples each need {needed} of them"
        raise UserError(f"{message}; the pool has {pool}", "make calibration.pool larger")


def _dense(found: Resolved, model: ResolvedModel) -> Row:
    stages = {"model": model.state.model, **_measuring(found, model.state)}
    seed = found.spec.seeds[0]
    return Row(model.name, DENSE, model.label, 0.0, None, "none", None, seed, model.state, stages)


def _pruned(
    found: Resolved,
    model: ResolvedModel,
    method: ResolvedMethod,
    cut: Cut,
    chain: Chain,
    seed: int,
) -> Row:
    stages: dict[str, Stage] = {"model": model.state.model}
    plan: Prune | PruneAsFound
    if method.search is not None:
        search, transfer = _search(found, model, method, cut, seed)
        stages["transfer" if transfer else "search"] = search
        plan = PruneAsFound.of(search, model.state, method.label, cut, seed, transfer)
    else:
        plan = Prune.of(method, model.state, cut, seed)
        if plan.training is not None:
            stages["training"] = plan.training
    state = model.state.edited(plan)
    for name, recovery in chain:
        state = state.edited(Recover.of(name, recovery, state, seed))
    return Row(
        model=model.name,
        method=method.method.name,
        label=method.label,
        ratio=cut.ratio,
        structure_ratio=cut.structure_ratio,
        recovery=_name(chain),
        recovery_label=chained(recovery.label for _, recovery in chain) or None,
        seed=seed,
        state=state,
        stages={**stages, **named_edits(state.edits), **_measuring(found, state)},
        steps=cut.steps,
        saw=_saw(method, cut),
        control=found.controls.get(method.label),
        plain=method.plain,
    )


def _saw(method: ResolvedMethod, cut: Cut) -> list[Sight]:
    sights = []
    if method.method.calibrated:
        calibration = method.calibration
        samples = calibration.samples * (cut.steps if cut.resample else 1)
        counts = apportioned(samples, calibration.shares)
        for text, count in zip(calibration.texts, counts, strict=True):
            sights.append(Sight(dataset=text.name, split=text.role, purpose="calibration", samples=count))
    return sights + [Sight(dataset=text.name, split=text.role, purpose="search") for text in method.texts]


def _measuring(found: Resolved, state: ModelState) -> dict[str, Stage]:
    stages: dict[str, Stage] = {}
    for kind, keys in found.measures:
        for stage in kind.stages_for(keys, found.spec, state):
            if stage.role in stages:
                message = f"two measures are called '{stage.role}' in results.json; keep one, or rename its data"
                raise found.spec.error(("evaluate",), message)
            stages[stage.role] = stage
    return stages


def _search(found: Resolved, model: ResolvedModel, method: ResolvedMethod, cut: Cut, seed: int) -> tuple[Search, bool]:
    """The search behind a row, and whether it was made elsewhere: on another model, or at another cut."""
    assert method.search is not None
    state, transfer = model.state, method.search.transfer
    if transfer is not None:
        if transfer.model is not None:
            state = _source_state(found, transfer.model, model.state.dtype)
        if transfer.ratio is not None or transfer.structure_ratio is not None:
            cut = cut.at(ratio=transfer.ratio, structure_ratio=transfer.structure_ratio)
    search = Search.of(method, state, cut, list(method.search.baselines), found.evaluate.seq_len, seed)
    return search, transfer is not None


def _source_state(found: Resolved, name: str, dtype: str) -> ModelState:
    """The model that a configuration was searched on: one of the spec's, or any other."""
    known = next((model for model in found.models if model.given.name == name), None)
    return known.state if known else ModelState(FetchModel.of(resolve(name).with_dtype(dtype)), dtype)
