"""Size, latency and memory of a pass (Table 9), and latencies of reading a prompt and of writing after it."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field

from reproducer.evaluation.measured import EfficiencyResult, Speed
from reproducer.queue import Context
from reproducer.spec import Count, Section, Spec, Tokens
from reproducer.spec.origins import Loc
from reproducer.stages.base import ModelState, write_result
from reproducer.stages.cost import Cost, ModelShape
from reproducer.stages.measure import Measure, register
from reproducer.stages.results import Column

MULTIPLE = 64  # of 16-bit numbers: 128 bytes, in which GPUs read memory and cut matrices
Warmup = Annotated[int, Field(ge=0, le=10**6)]


class _Timed(Measure):
    """Timed passes. A recovery plays no part: merged into the weights it costs nothing."""

    of_device: ClassVar[bool] = True
    timed: ClassVar[bool] = True

    batch: int
    repeats: int
    warmup: int

    @classmethod
    def stages_for(cls, evaluate: Any, spec: Spec, state: ModelState) -> Sequence[Self]:
        if (settings := getattr(evaluate, cls.kind)) is None:
            return []
        state = state.only_cut()
        return [cls(**state.fields, **settings.model_dump(), label=f"{state.label}: {cls.kind}")]

    @property
    def role(self) -> str:
        return self.kind


class EfficiencyKeys(Section):
    """Timed passes over `batch` sentences of `length` tokens: `repeats` of them, after `warmup` that do not count."""

    length: Tokens = 64
    batch: Count = 1
    repeats: Count = 20
    warmup: Warmup = 3


@register
class Efficiency(_Timed):
    """Counts and measurements of forward passes."""

    kind: ClassVar[str] = "efficiency"
    rank: ClassVar[int] = 20
    Result: ClassVar = EfficiencyResult

    length: int

    class Keys(Section):
        """`efficiency` None: not measured."""

        efficiency: EfficiencyKeys | None = None

    @classmethod
    def lengths(cls, evaluate: Any) -> Sequence[tuple[Loc, int]]:
        return [(("efficiency", "length"), evaluate.efficiency.length)] if evaluate.efficiency else []

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
        counts, progress = count(model, length=self.length), partial(context.progress, text="passes")
        seconds, peak = measure_passes(model, self.length, self.batch, self.repeats, self.warmup, progress)
        latency = statistics.median(seconds)  # which a pass that something else disturbed does not move
        several = seconds if len(seconds) > 1 else 2 * seconds
        first, _, third = statistics.quantiles(several, method="inclusive")
        result = EfficiencyResult(
            params_billion=counts.parameters / 1e9,
            macs_giga=self.batch * counts.macs / 1e9,
            memory_mib=peak / 2**20,
            latency_seconds=latency,
            tokens_per_second=self.batch * self.length / latency,
            weights_mib=counts.weight_bytes / 2**20,
            quartiles=(first, third),
            seconds=seconds,
        )
        write_result(context, result)

    def cost(self, model: ModelShape) -> Cost:
        tokens = self.batch * self.length
        return model.passes(tokens, tokens, tokens) * (1 + self.warmup + self.repeats)


class SpeedKeys(Section):
    """`repeats` prompts of `batch` × `prefill` tokens, each continued by `decode` tokens; `warmup` before them."""

    prefill: Tokens = 128
    decode: Count = 32
    batch: Count = 1
    repeats: Count = 20
    warmup: Warmup = 2


@register
class MeasureSpeed(_Timed):
    """Timed passes with a cache."""

    kind: ClassVar[str] = "speed"
    Result: ClassVar = Speed

    prefill: int
    decode: int

    class Keys(Section):
        """`speed` None: not measured."""

        speed: SpeedKeys | None = None

    @classmethod
    def lengths(cls, evaluate: Any) -> Sequence[tuple[Loc, int]]:
        return [(("speed", "prefill"), evaluate.speed.prefill + evaluate.speed.decode)] if evaluate.speed else []

    def run(self, context: Context) -> None:
        from reproducer.evaluation.efficiency import measure_speed
        from reproducer.models.architecture import architecture_of, layer_shape

        model, _ = self.load(context)
        settings = {name: getattr(self, name) for name in SpeedKeys.model_fields}
        prefill, decode = measure_speed(model, **settings, progress=partial(context.progress, text="prompts"))
        architecture = architecture_of(model)
        channels = [layer_shape(layer, architecture).channels for layer in architecture.decoder_layers(model)]
        result = Speed(
            prefill_tokens=self.prefill,
            decode_tokens=self.decode,
            batch=self.batch,
            multiple=MULTIPLE,
            layers=len(channels),
            missed=sum(width % MULTIPLE != 0 for width in channels),
            prefill=prefill,
            decode=decode,
        )
        write_result(context, result)

    def cost(self, model: ModelShape) -> Cost:
        read = self.batch * self.prefill
        once = model.passes(read, read, scored=0) + model.written(self.batch * self.decode, self.batch)
        return once * (self.warmup + self.repeats)
