"""What measures find out about a model: one type of result a kind of measure.

Perplexities are per token, losses in nats a token, accuracies fractions of 1, times in seconds.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, ConfigDict, Field, SerializeAsAny

from reproducer.facts import Facts


class Measured(Facts):
    """The result of a measure. A subclass is the type of one kind; JSON names the kind, so it is read as that type.

    `section` is the measure's part of the report, in Markdown from a heading on; None: it has none.
    """

    types: ClassVar[dict[str, type[Measured]]] = {}
    kind: str

    @classmethod
    def __pydantic_init_subclass__(cls, **more: Any) -> None:
        kind = cls.model_fields["kind"].default
        if isinstance(kind, str):
            Measured.types[kind] = cls

    @classmethod
    def section(cls, results: list[tuple[str, Any]]) -> str | None:
        """Args: results: the row's label and its result, for every row that was measured."""
        return None


class OtherResult(Measured):
    """A result of a kind that is not imported here."""

    model_config = ConfigDict(extra="allow")


def _typed(value: Any) -> Any:
    if isinstance(value, Measured):
        return value
    kind = value.get("kind") if isinstance(value, dict) else None
    return Measured.types.get(str(kind), OtherResult).model_validate(value)


AnyMeasured = Annotated[SerializeAsAny[Measured], BeforeValidator(_typed)]


class PerplexityResult(Measured):
    """`value` is exp of the mean of `nll_per_window`, each the mean loss of a window in nats a token."""

    kind: Literal["perplexity"] = "perplexity"
    value: float
    nll_per_window: list[float]
    tokens: int | None = None


class Item(Facts):
    """One item of a task: its row in the data, from 0, and its scores (0 or 1 where they are accuracies, nats or nats a
    character where they are margins)."""

    id: int
    scores: dict[str, float]


class TaskResult(Measured):
    """All scores of a task; `shown` names the one in the column. `stderr` has those that are known.

    `majority`: the accuracy of always giving the place that is right most often in these items; None for a task without
    choices.
    """

    kind: Literal["zeroshot"] = "zeroshot"
    task: str = ""
    shown: str
    scores: dict[str, float]
    stderr: dict[str, float] = Field(default_factory=dict)
    higher_is_better: dict[str, bool] = Field(default_factory=dict)
    items: list[Item]
    majority: float | None = None


class Generation(Measured):
    """The greedy continuation of a prompt."""

    kind: Literal["generation"] = "generation"
    prompt: str
    text: str


class EfficiencyResult(Measured):
    """`weights_mib` are the parameters' own; `memory_mib` what a pass took at most, weights included.

    `seconds` of every timed pass, on `device`.
    """

    kind: Literal["efficiency"] = "efficiency"
    params_billion: float
    macs_giga: float
    memory_mib: float
    latency_seconds: float
    tokens_per_second: float
    weights_mib: float | None = None
    quartiles: tuple[float, float]
    seconds: list[float]
    device: str = ""


class Speed(Measured):
    """Seconds of every repeat: of reading `batch` × `prefill_tokens`, and of writing `decode_tokens` after them.

    Attributes:
        missed: of `layers` layers, those whose feed-forward width is no multiple of `multiple`.
        device: that it ran on.
    """

    kind: Literal["speed"] = "speed"
    prefill_tokens: int
    decode_tokens: int
    batch: int
    prefill: list[float]
    decode: list[float]
    multiple: int
    layers: int
    missed: int
    device: str = ""


class Gguf(Measured):
    """A model as a GGUF file in llama.cpp.

    Attributes:
        type: of the file, such as `q8_0`; `matrices`: how many of them have which type.
        architecture: llama.cpp's.
        padded: layers whose feed-forward width was filled up with zero channels.
        text, windows, perplexity: over so many windows of the text, computed by llama.cpp.
        prefill, decode: tokens a second of every repeat, of reading `prefill_tokens` and of writing `decode_tokens`.
        engine: what held llama.cpp, with its version. device: that it ran on.
    """

    kind: Literal["gguf"] = "gguf"
    type: str
    architecture: str
    matrices: dict[str, int]
    padded: int
    bytes: int
    text: str
    windows: int
    perplexity: float
    prefill_tokens: int
    decode_tokens: int
    prefill: list[float]
    decode: list[float]
    threads: int
    engine: str
    device: str = ""
