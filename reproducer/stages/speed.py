"""Latency of reading a prompt and of writing after it, dense and pruned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from pydantic import Field

from reproducer.queue import Context
from reproducer.spec import Count, Section, Spec, Tokens
from reproducer.spec.origins import Loc
from reproducer.stages.base import Measure, ModelState, write_result
from reproducer.stages.results import Speed

if TYPE_CHECKING:
    from reproducer.stages.cost import Cost, ModelCost

MULTIPLE = 64  # of 16-bit numbers: 128 bytes, in which GPUs read memory and cut matrices


class SpeedKeys(Section):
    """`repeats` prompts of `batch` × `prefill` tokens, each continued by `decode` tokens; `warmup` before them."""

    prefill: Tokens = 128
    decode: Count = 32
    batch: Count = 1
    repeats: Count = 20
    warmup: Annotated[int, Field(ge=0, le=10**6)] = 2


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

    def facts(self, result: Any, device: str | None) -> Mapping[str, Any]:
        return {"speed": result.model_copy(update={"device": device or ""})}

    @property
    def whole(self) -> str:
        return "it measures the model on the device"

    def run(self, context: Context) -> None:
        from reproducer.evaluation.speed import measure
        from reproducer.models.architecture import architecture_of, layer_shape

        model, _ = self.load(context)
        settings = {name: getattr(self, name) for name in SpeedKeys.model_fields}
        found = measure(model, **settings, progress=partial(context.progress, text="prompts"))
        architecture = architecture_of(model)
        channels = [layer_shape(layer, architecture).channels for layer in architecture.decoder_layers(model)]
        missed = sum(width % MULTIPLE != 0 for width in channels)
        sizes: dict[str, Any] = {"prefill_tokens": self.prefill, "decode_tokens": self.decode, "batch": self.batch}
        widths: dict[str, Any] = {"multiple": MULTIPLE, "layers": len(channels), "missed": missed}
        write_result(context, Speed(**sizes, **widths, prefill=found.prefill, decode=found.decode))

    def cost(self, model: ModelCost) -> Cost:
        read, written = self.batch * self.prefill, self.batch * self.decode
        once = model.passes(read, self.prefill, read, "none") + model.passes(written, 1, self.batch, "logits")
        return once * (self.warmup + self.repeats)
