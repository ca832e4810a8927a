"""Size, latency and memory of a pass (Table 9), and latencies of reading a prompt and of writing after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from pydantic import Field

from reproducer.evaluation.measured import EfficiencyResult, Speed
from reproducer.queue import Context
from reproducer.spec import Count, Section, Spec, Tokens
from reproducer.spec.origins import Loc
from reproducer.stages.base import ModelState, write_result
from reproducer.stages.measure import Measure
from reproducer.stages.results import Column

if TYPE_CHECKING:
    from reproducer.stages.cost import Cost, ModelShape


MULTIPLE = 64  # of 16-bit numbers: 128 bytes, in which GPUs read memory and cut matrices
Warmup = Annotated[int, Field(ge=0, le=10**6)]


class EfficiencyKeys(Section):
    """Timed passes over `batch` sentences of `length` tokens: `repeats` of them, after `warmup` that do not count."""

    length: Tokens = 64
    batch: Count = 1
    repeats: Count = 20
    warmup: Warmup = 3


class SpeedKeys(Section):
    """`repeats` prompts of `batch` × `prefill` tokens, each continued by `decode` tokens; `warmup` before them."""

    prefill: Tokens = 128
    decode: Count = 32
    batch: Count = 1
    repeats: Count = 20
    warmup: Warmup = 2


class Efficiency(Measure):
    """Counts and measurements of forward passes. A recovery plays no part: merged into the weights it costs nothing."""

    kind: ClassVar[str] = "efficiency"
    of_device: ClassVar[bool] = True
    timed: ClassVar[bool] = True
    rank: ClassVar[int] = 20
    Result: ClassVar = EfficiencyResult

    length: int
    batch: int
    repeats: int
    warmup: int

    class Keys(Section):
        """`efficiency` None: not measured."""

        efficiency: EfficiencyKeys | None = None

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

    def metrics(self, result: Any) -> Mapping[str, float]:
        return {column.key: getattr(result, column.key) for column in self.columns()}

    def run(self, context: Context) -> None:
        from reproducer.evaluation.efficiency import measure_passes
        from reproducer.pruning.counting import count

        model, _ = self.load(context)
        counts = count(model, length=self.length)
        settings = {name: getattr(self, name) for name in EfficiencyKeys.model_fields}
        passes = measure_passes(model, **settings, progress=partial(context.progress, text="passes"))
        result = self.Result(
            params_billion=counts.parameters / 1e9,
            macs_giga=self.batch * counts.macs / 1e9,
            memory_mib=passes.peak_memory_bytes / 2**20,
            latency_seconds=passes.latency,
            tokens_per_second=passes.tokens_per_second,
            weights_mib=counts.weight_bytes / 2**20,
            quartiles=passes.quartiles,
            seconds=passes.seconds,
        )
        write_result(context, result)

    def cost(self, model: ModelShape) -> Cost:
        tokens = self.batch * self.length
        return model.passes(tokens, self.length, tokens, tokens) * (1 + self.warmup + self.repeats)


class MeasureSpeed(Measure):
    """Timed passes with a cache. A recovery plays no part: merged into the weights it costs nothing."""

    kind: ClassVar[str] = "speed"
    of_device: ClassVar[bool] = True
    timed: ClassVar[bool] = True
    Result: ClassVar = Speed

    prefill: int
    decode: int
    batch: int
    repeats: int
    warmup: int

    class Keys(Section):
        """`speed` None: not measured."""

        speed: SpeedKeys | None = None

    @classmethod
    def lengths(cls, evaluate: Any) -> Sequence[tuple[Loc, int]]:
        return [(("speed", "prefill"), evaluate.speed.prefill + evaluate.speed.decode)] if evaluate.speed else []

    @classmethod
    def stages_for(cls, evaluate: Any, spec: Spec, state: ModelState) -> Sequence[Self]:
        if evaluate.speed is None:
            return []
        state = state.only_cut()
        return [cls(**state.fields, **evaluate.speed.model_dump(), label=f"{state.label}: speed")]

    @property
    def role(self) -> str:
        return "speed"

    def run(self, context: Context) -> None:
        from reproducer.evaluation.efficiency import measure_speed
        from reproducer.models.architecture import architecture_of, layer_shape

        model, _ = self.load(context)
        settings = {name: getattr(self, name) for name in SpeedKeys.model_fields}
        speed = measure_speed(model, **settings, progress=partial(context.progress, text="prompts"))
        architecture = architecture_of(model)
        channels = [layer_shape(layer, architecture).channels for layer in architecture.decoder_layers(model)]
        result = Speed(
            prefill_tokens=self.prefill,
            decode_tokens=self.decode,
            batch=self.batch,
            multiple=MULTIPLE,
            layers=len(channels),
            missed=sum(width % MULTIPLE != 0 for width in channels),
            prefill=speed.prefill,
            decode=speed.decode,
        )
        write_result(context, result)

    def cost(self, model: ModelShape) -> Cost:
        read = self.batch * self.prefill
        once = model.passes(read, self.prefill, read, scored=0) + model.written(self.batch * self.decode, self.batch)
        return once * (self.warmup + self.repeats)
