"""The stage that searches calibration samples and a method's own parameters."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from reproducer.methods.registry import METHODS, Method
from reproducer.pruning.cut import Cut
from reproducer.queue import Artifact, Context
from reproducer.registry import source_digest
from reproducer.search.record import Record
from reproducer.search.settings import SearchSettings
from reproducer.stages import results
from reproducer.stages.base import Calibration, ModelState, OnModel, TextSource, seed_text
from reproducer.stages.cost import Cost, ModelShape

if TYPE_CHECKING:
    from reproducer.search.objective import Objective
    from reproducer.stages.resolve import ResolvedMethod

# Shares of what a search without memory would do, as they were seen in searches with the local sampler.
SEEN_AGAIN = 0.6  # of passages that are new in a trial
SEEN_WHOLE = 0.4  # of texts that trials run through where hopeless ones stop
# What plays no part in the result, or stands in a field of its own.
ELSEWHERE = {"texts", "space", "baselines", "transfer"}


class Search(OnModel):
    """A search: its best plan, and the record of how that was found.

    Attributes:
        method: what is searched.
        settings: the spec's, as resolved; `space` the method's own, complete.
        baselines: methods that are scored on the objective too.
        sources: digests of the modules of those methods that are not this package's, by the method's name.
        texts, seq_len: the objective is the mean perplexity of windows of so many tokens of these.
        calibration: the pool that samples are chosen from, and how many.
        seed: of the search, and of the draw that the baselines use.
    """

    kind: ClassVar[str] = "search"
    decides: ClassVar[bool] = True
    version: ClassVar[int] = 6
    resumable: ClassVar[bool] = True

    method: str
    settings: SearchSettings
    space: dict[str, Any]
    baselines: list[str]
    sources: dict[str, str]
    texts: list[TextSource]
    seq_len: int
    calibration: Calibration
    cut: Cut
    seed: int

    @cached_property
    def params(self) -> dict[str, Any]:
        params = super().params
        params["settings"]["encoding"] = "indices"  # a setting of old with one value left; it is part of the key
        return params

    @classmethod
    def of(
        cls, found: ResolvedMethod, state: ModelState, cut: Cut, baselines: list[str], seq_len: int, seed: int
    ) -> Search:
        """The search of a method of the spec."""
        assert found.search is not None and found.space is not None
        return cls(
            **state.fields,
            method=found.name,
            settings=found.search.model_copy(update={"texts": None, "space": {}, "baselines": [], "transfer": None}),
            space=found.space.model_dump(mode="json"),  # type: ignore[attr-defined]  # a space is a section
            baselines=baselines,
            sources={
                name: digest
                for name in (found.name, *baselines)
                if (digest := source_digest(METHODS.get(name))) is not None
            },
            texts=list(found.texts),
            seq_len=seq_len,
            calibration=found.calibration,
            cut=cut,
            seed=seed,
            label=f"{state.label} {found.label} search {cut}{seed_text(seed)}",
        )

    def fingerprints(self, device: str) -> dict[str, str]:
        searched = {name: digest for text in self.texts for name, digest in text.fingerprints().items()}
        return self.calibration.fingerprints() | searched

    def run(self, context: Context) -> None:
        from reproducer.search.study import search

        passages = self.passages(context, self.cut)
        objective, pool = self._objective(*self.load(context), passages)
        if pool.summary:
            context.say(pool.summary)
        method = METHODS.get(self.method)
        assert method.space is not None
        workers = self.settings.workers
        record = search(
            objective,
            method,
            method.space.model_validate(self.space),  # type: ignore[attr-defined]
            self.settings.model_copy(update={"baselines": self.baselines}),
            pool.draw(self.calibration.samples, self.seed),
            context.directory,
            seed=self.seed,
            text=pool.text,
            progress=context.progress,
            engine=context.engine(workers - 1) if workers > 1 else None,
            build=partial(_objective_elsewhere, self, context.inputs["model"], context.device, passages),
        )
        context.record("pool", len(pool))
        context.record("tokens", {"forward": record.costs.forward_tokens, "backward": record.costs.backward_tokens})

    def _objective(self, model: Any, tokenizer: Any, passages: Path) -> tuple[Objective, Any]:
        """The objective, and the pool that samples are from."""
        from reproducer.data.text import windows
        from reproducer.search.objective import Objective

        pool = self.calibration.load(tokenizer)
        count = self.settings.windows
        texts = {text.name: windows(text.load(), tokenizer, self.seq_len, count) for text in self.texts}
        return Objective(model, pool.ids, texts, None, self.cut, passages=passages), pool

    def cost(self, model: ModelShape) -> Cost:
        """Of a search that learns from its trials: these repeat samples, and stop early."""
        from reproducer.models.walk import BATCH_TOKENS
        from reproducer.search.objective import ACTIVATION_BYTES

        settings, samples, length = self.settings, self.calibration.samples, self.calibration.length
        tokens = model.window_tokens(self.texts, self.seq_len, settings.windows)
        draws = 1 if settings.data in ("random", "score") else settings.trials
        again = (0.5 if settings.order == "sequential" else 1) * (SEEN_AGAIN if settings.sampler == "local" else 1)
        passages = max(1, draws * again) * samples
        if settings.offered and settings.data != "random":
            passages = min(passages, settings.offered + samples)
        evaluated = settings.trials * (SEEN_WHOLE if settings.stop else 1) + len(self.baselines)
        evaluated += settings.scored if settings.data == "score" else 0
        needs = METHODS.get(self.method).make({}).needs
        cost = model.cut(self.cut).passes(tokens, BATCH_TOKENS) * evaluated
        cost += model.collected(needs, passages, length, 1, ACTIVATION_BYTES)
        for name in self.baselines:  # statistics that are no means over samples are of all samples together
            others = [need for need in METHODS.get(name).make({}).needs if not need.additive]
            cost += model.collected(others, samples, length, samples, ACTIVATION_BYTES)
        return replace(cost, memory=cost.memory + model.hidden(2 * tokens + passages * length))

    def read(self, directory: Path) -> Record:
        """What the search left."""
        return Record.read(directory)

    def method_called(self, name: str) -> Method:
        """The one of the searched method and the baselines that the record calls so.

        A module of the user's own has to be imported first, which its name in the spec does.
        """
        return next(method for method in map(METHODS.get, (self.method, *self.baselines)) if method.name == name)

    def describe(self, artifact: Artifact, model: str, label: str) -> results.Search:
        """What results.json says of it.

        Args:
            model, label: of the row that searched.
        """
        record = self.read(artifact.directory)
        settings = self.settings.model_dump(mode="json", exclude=ELSEWHERE)
        return results.Search(
            stage=self.key,
            model=model,
            method=METHODS.get(self.method).name,
            label=label,
            ratio=self.cut.ratio,
            structure_ratio=self.cut.structure_ratio,
            seed=self.seed,
            settings={**settings, "samples": self.calibration.samples, "seq_len": self.seq_len},
            texts=[text.name for text in self.texts],
            seconds=artifact.seconds,
            **record.model_dump(),
        )


def _objective_elsewhere(stage: Search, folder: Path, device: str, passages: Path) -> Objective:
    """The objective once more, in another process of the same search."""
    from reproducer.models.load import load_model
    from reproducer.models.products import wide_products

    model, tokenizer = load_model(folder, stage.dtype, device)
    with wide_products(model.dtype, model.device):
        return stage._objective(model, tokenizer, passages)[0]
