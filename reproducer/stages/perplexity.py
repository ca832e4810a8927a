"""Perplexity of a text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Self

from pydantic import Field

from reproducer.data.text import text_label
from reproducer.errors import UserError
from reproducer.evaluation.measured import PerplexityResult
from reproducer.queue import Context
from reproducer.spec import Count, Listed, Section, Spec, Text, Tokens
from reproducer.spec.origins import Loc
from reproducer.stages.base import ModelState, TextSource, slug, write_result
from reproducer.stages.cost import Cost, ModelShape
from reproducer.stages.measure import Measure, register
from reproducer.stages.results import Column, TextUse

TEXTS = ("wikitext2", "ptb")  # the paper's


@register
class Perplexity(Measure):
    """Perplexity over non-overlapping windows of a text, LLM-Pruner's protocol."""

    kind: ClassVar[str] = "perplexity"
    rank: ClassVar[int] = 0
    Result: ClassVar = PerplexityResult

    text: TextSource
    seq_len: int
    windows: int | None
    unseen: bool = Field(False, exclude=True)  # tells nothing of the result

    class Keys(Section):
        """`windows` of `seq_len` tokens of each text; None: all of them. `perplexity` None: the paper's two texts.

        `unseen` are further texts that no search measures on by default.
        """

        perplexity: Listed[Text] | None = None
        unseen: Listed[Text] = Field(default_factory=list)
        seq_len: Tokens = 128
        windows: Count | None = None

    @classmethod
    def defaults(cls, spec: Spec) -> dict[str, Any]:
        return {"perplexity": [spec.substitute("datasets", name) for name in TEXTS]}

    @classmethod
    def lengths(cls, evaluate: Any) -> Sequence[tuple[Loc, int]]:
        return [(("seq_len",), evaluate.seq_len)] if evaluate.perplexity or evaluate.unseen else []

    @classmethod
    def stages_for(cls, evaluate: Any, spec: Spec, state: ModelState) -> Sequence[Self]:
        names = [("perplexity", index, name) for index, name in enumerate(evaluate.perplexity)]
        names += [
            ("unseen", index, name)
            for index, name in enumerate(evaluate.unseen)
            if name not in evaluate.perplexity  # a profile may make two texts one
        ]
        stages = []
        for key, index, name in names:
            with spec.at(("evaluate", key, index)):
                text = TextSource.of(name, "report")
            fields = {"seq_len": evaluate.seq_len, "windows": evaluate.windows, "unseen": key == "unseen"}
            stages.append(cls(**state.fields, **fields, text=text, label=f"{state.label}: {name}"))
        return stages

    @property
    def role(self) -> str:
        return f"{slug(self.text.name)}_ppl"

    def columns(self) -> Sequence[Column]:
        return [
            Column(
                key=self.role,
                label=text_label(self.text.name),
                kind="perplexity",
                source=self.text.name,
                higher_is_better=False,
                unseen=self.unseen,
            )
        ]

    def metrics(self, result: Any) -> Mapping[str, float]:
        return {self.role: result.value}

    def use(self, result: Any | None) -> TextUse:
        """What results.json says of the text."""
        windows = len(result.nll_per_window) if result else None
        label = text_label(self.text.name)
        return TextUse(name=self.text.name, label=label, limit=self.windows, seq_len=self.seq_len, windows=windows)

    def fingerprints(self, device: str) -> dict[str, str]:
        return self.text.fingerprints()

    def run(self, context: Context) -> None:
        from reproducer.data.text import windows
        from reproducer.evaluation.perplexity import perplexity

        model, tokenizer = self.load(context)
        text = self.text.load()
        if "gemma" in model.config.model_type and not text.begin:
            context.say(
                f"models of type {model.config.model_type} need the token that begins a text, which only the first "
                f"window of {self.text.name} has: name it {self.text.name}?begin=each"
            )
        ids = windows(text, tokenizer, self.seq_len, self.windows)
        found = perplexity(model, ids, progress=partial(context.progress, text=self.text.name))
        if not math.isfinite(found.value):
            loss = sum(found.nll_per_window) / len(found.nll_per_window)
            raise UserError(f"the perplexity is too large for a number: the mean loss is {loss:.4g} nats a token")
        write_result(context, found)

    def cost(self, model: ModelShape) -> Cost:
        from reproducer.models.walk import BATCH_TOKENS

        return model.passes(model.window_tokens([self.text], self.seq_len, self.windows), BATCH_TOKENS)
