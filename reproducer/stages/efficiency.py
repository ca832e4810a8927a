"""Size, latency and memory (Table 9)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from pydantic import Field

from reproducer.facts import Facts
from reproducer.queue import Context
from reproducer.spec import Count, Section, Spec, Tokens
from reproducer.spec.origins import Loc
from reproducer.stages.base import Measure, ModelState, write_result
from reproducer.stages.results import Column, Latency

if TYPE_CHECKING:
    from reproducer.stages.cost import Cost, ModelCost


class EfficiencyKeys(Section):
    """Timed passes over `batch` sentences of `length` tokens: `repeats` of them, after `warmup` that do not count."""

    length: Tokens = 64
    batch: Count = 1
    repeats: Count = 20
    warmup: Annotated[int, Field(ge=0, le=10**6)] = 3


class Efficiency(Measure):
    """Counts and measurements of forward passes. A recovery plays no part: merged into the weights it costs nothing."""

    kind: ClassVar[str] = "efficiency"
    of_device: ClassVar[bool] = True
    timed: ClassVar[bool] = True
    rank: ClassVar[int] = 20

    length: int
    batch: int
    repeats: int
    warmup: int

    class Keys(Section):
        """`efficiency` None: not measured."""

        efficiency: EfficiencyKeys | None = None

    class Result(Facts):
        """`weights_mib` are the parameters' own; `memory_mib` what a pass took at most, weights included."""

        params_billion: float
        macs_giga: float
        memory_mib: float
        latency_seconds: float
        tokens_per_second: float
        weights_mib: float
        quartiles: tuple[float, float]
        seconds: list[float]

    @classmethod
    def lengths(cls, evaluate: Any) -> Sequence[tuple[Loc, int]]:
        return [(("efficiency", "length"), evaluate.efficiency.length)] if evaluate.efficiency else []

    @classmethod
    def stages_for(cls, evaluate: Any, spec: Spec, state: ModelState) -> Sequence[Self]:
        if evaluate.efficiency is None:
            return []
        settings, state = evaluate.efficiency.model_dump(), state.only_cut()
        return [cls(**state.fields, **settings, label=f"{state.label}: latency")]

    @property
    def role(self) -> str:
        return "efficiency"

    def columns(self) -> Sequence[Column]:
        return [
            Column(key=key, label=label, kind="other", source="efficiency", higher_is_better=better, timed=timed)
            for key, label, better, timed in (
                ("params_billion", "Parameters (B)", False, False),
                ("macs_giga", "MACs (G)", False, False),
                ("memory_mib", "Memory (MiB)", False, False),
                ("latency_seconds", "Latency (s)", False, True),
                ("tokens_per_second", "Tokens/s", True, True),
            )
        ]

    def facts(self, result: Any, device: str | None) -> Mapping[str, Any]:
        metrics = {column.key: getattr(result, column.key) for column in self.columns()}
        latency = Latency(device=device or "", seconds=result.seconds, quartiles=result.quartiles)
        return {"metrics": metrics, "latency": latency}

    @property
    def whole(self) -> str:
        return "it measures the model on the device"

    def run(self, context: Context) -> None:
        from reproducer.evaluation.efficiency import measure
        from reproducer.pruning.counting import count

        model, _ = self.load(context)
        counts = count(model, length=self.length)
        settings = {name: getattr(self, name) for name in EfficiencyKeys.model_fields}
        found = measure(model, **settings, progress=partial(context.progress, text="passes"))
        result = self.Result(
            params_billion=counts.parameters / 1e9,
            macs_giga=self.batch * counts.macs / 1e9,
            memory_mib=found.peak_memory_bytes / 2**20,
            latency_seconds=found.latency,
            tokens_per_second=found.tokens_per_second,
            weights_mib=counts.weight_bytes / 2**20,
            quartiles=found.quartiles,
            seconds=found.seconds,
        )
        write_result(context, result)

    def cost(self, model: ModelCost) -> Cost:
        tokens = self.batch * self.length
        return model.passes(tokens, self.length, tokens, "logits") * (1 + self.warmup + self.repeats)
