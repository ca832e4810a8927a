"""What a search leaves for others to read: `search.json`, results alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from reproducer.facts import Facts
from reproducer.methods.space import Scalar

FILE = "search.json"
State = Literal["complete", "stopped", "void", "failed"]


class Trial(Facts):
    """One trial.

    Attributes:
        number: counts the trials in order; a failed one has the number of the trial that made up for it.
        value: its objective; `partial`, that of a stopped trial on the windows that were measured.
        state: `stopped` as hopeless on a part of the texts; `void`, without a finite objective; `failed`, interrupted.
        params: its point of the space; samples are indices into what is offered.
        baseline: the method that the point stands for.
        phase: `joint`; or `samples` and `parameters`, one after the other.
        worker: the process that did it; 0 is the one that began.
    """

    number: int
    value: float | None
    partial: float | None = None
    state: State
    params: dict[str, Scalar]
    baseline: str | None = None
    seconds: float | None = None
    phase: str = "joint"
    worker: int = 0


class Baseline(Facts):
    """A method that was scored on the objective.

    Attributes:
        value: None: not finite, or not measured to the end.
        partial: of one that was given up as far worse than others: the objective on the windows so far.
    """

    method: str
    label: str
    value: float | None = None
    partial: float | None = None


class Sample(Facts):
    """A calibration sample: its index in the pool, and the passage that it begins."""

    index: int
    text: str


class Best(Facts):
    """The best of all trials and baselines: the method, parameters and samples that make its plan.

    Attributes:
        number: of its trial; None for a baseline outside of the study.
        baseline: which one it is, if it is one.
    """

    number: int | None
    value: float
    method: str
    params: dict[str, Scalar]
    samples: list[Sample]
    baseline: str | None = None


class Costs(Facts):
    """Finished trials, and what they and the preparations took; what an interruption made necessary counts again.

    Attributes:
        seconds: of all trials.
        sample_tokens: tokens of samples that went forward, and backward, for statistics.
        text_tokens: tokens of texts that went forward to be evaluated.
        forward_tokens, backward_tokens: what went through the model, counted at its layers. States below the first
            pruned layer and statistics of a passage are computed once, and count once.
    """

    trials: int
    stopped: int
    seconds: float
    sample_tokens: int
    text_tokens: int
    forward_tokens: int = 0
    backward_tokens: int = 0


class Record(Facts):
    """A finished search.

    Attributes:
        space: the method's own part of it, by parameter: `{low, high}`, a list of values, or a value that is set.
        workers: processes that searched; with more than one, another search would not make the same trials.
        importances: only in records of earlier versions.
    """

    space: dict[str, Any]
    workers: int
    trials: list[Trial]
    baselines: list[Baseline]
    best: Best
    importances: dict[str, float] = Field(default_factory=dict)
    costs: Costs

    @classmethod
    def read(cls, directory: Path) -> Record:
        return cls.model_validate(json.loads((directory / FILE).read_text()))
