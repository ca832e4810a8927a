"""A measure whose result is not a number: how wide every layer's feed-forward part is, with a section in the report.

A spec names it as `evaluate: {measures: [{name: "my_measure:Widths", layers: 2}]}`.
"""

from typing import ClassVar, Literal

from reproducer.evaluation.measured import Measured
from reproducer.spec import Count, Section
from reproducer.stages.base import write_result
from reproducer.stages.cost import Cost
from reproducer.stages.measure import Measure, register


class WidthsResult(Measured):
    """Channels of each layer, from the first on."""

    kind: Literal["widths"] = "widths"
    channels: list[int]

    @classmethod
    def section(cls, results):
        lines = [f"| {label} | {' '.join(map(str, result.channels))} |" for label, result in results]
        return "\n".join(["## Widths", "", "| Row | Channels of each layer |", "| --- | --- |", *lines])


@register
class Widths(Measure):
    """The channels of the first `layers` layers."""

    kind: ClassVar[str] = "widths"
    Result: ClassVar = WidthsResult
    layers: int

    class Keys(Section):
        layers: Count = 100

    @classmethod
    def stages_for(cls, evaluate, spec, state):
        return [cls(**state.fields, layers=evaluate.layers, label=f"{state.label}: widths")]

    @property
    def role(self):
        return "widths"

    def run(self, context):
        model, _ = self.load(context)
        layers = model.model.layers[: self.layers]
        write_result(context, WidthsResult(channels=[layer.mlp.down_proj.in_features for layer in layers]))

    def cost(self, model):
        return Cost()
