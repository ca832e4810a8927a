"""What results.json holds: facts about a run and nothing else. Sentences about them live in the report's templates.

Units: accuracies and `params_removed` are fractions of 1, perplexities are per token, seconds are wall time, losses
are in nats a token; `PaperComparison` alone has the paper's units. `None` says that something was not measured, or not
yet. `python -m reproducer.stages.results` prints the JSON schema that is committed as reports/results.schema.json.
"""

from __future__ import annotations

import json
import sys
from typing import Literal, TypeVar

from pydantic import Field, JsonValue

from reproducer.evaluation.measured import (
    AnyMeasured,
    EfficiencyResult,
    Measured,
    PerplexityResult,
    TaskResult,
)
from reproducer.facts import Facts
from reproducer.search.record import Baseline, Best, Costs, Trial
from reproducer.stages.compared import PaperComparison

M = TypeVar("M", bound=Measured)
Scalar = float | int | str | bool | None
Settings = dict[str, JsonValue]


class Environment(Facts):
    """Where the newest artifact was made; `others` counts artifacts made elsewhere or with other versions."""

    python: str
    platform: str
    cpu: str
    cpu_count: int | None
    device: str | None = None
    packages: dict[str, str] = Field(default_factory=dict)
    others: int = 0


class Model(Facts):
    """A model of the spec.

    Attributes:
        name, label: in rows (`name`), and for a reader.
        source: where the weights are from: `kind` (package, hub, folder, random, drawn) and what determines them
            (`package` and `version`; `id` and `revision`; `path`; `seed`).
        architecture: as transformers calls it, such as `llama`; None where it is not known before the weights are read.
        parameters: of the dense model, tied embeddings counted once.
        notes: what the catalogue says of the weights.
        stands_for: the paper's model whose place it takes under a profile.
        tuned: the recovery that made it out of its `base`, name and settings; None for a model as it is.
        averaged: keys of the accuracies that `average_acc` of its rows is the mean of: all but those in which its dense
            row is not above the task's `majority`. None in files of versions that took all.
    """

    name: str
    label: str
    source: Settings
    dtype: str
    architecture: str | None = None
    parameters: int | None = None
    notes: str = ""
    stands_for: str | None = None
    base: str | None = None
    tuned: Settings | None = None
    averaged: list[str] | None = None


class Column(Facts):
    """A measure.

    Attributes:
        key: in a row's `metrics`, such as `wikitext2_ppl`, `boolq_acc`, `boolq_margin`, `average_acc`.
        kind: perplexity; accuracy, a fraction of 1; or other.
        source: the text or task behind it; None for an average.
        score: of a task, the metric of lm-eval that is shown; or `margin`, the mean over its items of the right
            choice's log-likelihood minus the best wrong one's.
        unit: of a margin: over what its task's own metric divides log-likelihoods by.
        unseen: a text that nothing is to be calibrated, searched or trained on.
        timed: never twice the same, so no regression check compares it.
    """

    key: str
    label: str
    kind: Literal["perplexity", "accuracy", "other"]
    higher_is_better: bool
    source: str | None = None
    score: str | None = None
    unit: Literal["nats", "nats/character", "nats/byte"] | None = None
    unseen: bool = False
    timed: bool = False

    @property
    def is_margin(self) -> bool:
        return self.unit is not None


class TrainingStep(Facts):
    """One step of a recovery: the mean loss of its batch, and the examples seen so far."""

    step: int
    loss: float
    learning_rate: float
    examples: int


class Earlier(Facts):
    """An earlier run that rows were taken over from: the command, where its newest artifact was made, its work."""

    command: list[str] = Field(default_factory=list)
    environment: Environment
    seconds: float = 0.0


class Sight(Facts):
    """A text that made a row: what for, which split, and how many samples were drawn (None: all of the windows)."""

    dataset: str
    split: Literal["calibration", "search", "report"]
    purpose: Literal["calibration", "search"]
    samples: int | None = None


class Tokens(Facts):
    """Tokens that went through the model, counted at its layers: a pass through half of them counts half."""

    forward: int
    backward: int


class Reached(Facts):
    """What a plan cuts of single layers: `layers` (of so many) lose these shares of their heads and channels together.

    The shares are None where whole layers go and no other loses a part.
    """

    layers: list[int]
    of: int
    heads: float | None = None
    channels: float | None = None


class Row(Facts):
    """One row: what it is, what was measured, what it cost.

    Attributes:
        label: in the table, such as `w/o D`.
        ratio, structure_ratio: the cut that was asked for: of all parameters, or of each layer's structures.
        recovery, recovery_label: its name, `none` for no recovery; its label for a reader, None: the name.
        status: `missing`: something has not run yet, and nothing failed.
        error: why it failed.
        params, params_removed: parameters left, and the share of the dense model's that is gone.
        reached: what was cut layer by layer; None of a dense row, and of plans of older versions.
        seconds, peak_memory_bytes: sum and maximum over its own stages.
        deciding_seconds, recovery_seconds: of them, what it took to decide what goes, its search and training included,
            and the recovery; None: there was none, or it is not known (in files of older versions).
        stages: their keys by role.
        steps: cuts that the ratio was reached in.
        control: which control it is a row of, such as `same-information`; None: it is none.
        saw: the texts that decided what was cut.
        tokens: what deciding that took, its search and training included; None: not known.
        search_objective: its own search's, or what a search of the same cut and seed saw of this method.
        measured: what its measures found out, by their names.
        earlier: place in the results' `earlier` of the run that it was taken over from; None: it ran here.
    """

    model: str
    method: str
    label: str
    ratio: float | None = None
    structure_ratio: float | None = None
    steps: int = 1
    recovery: str = "none"
    recovery_label: str | None = None
    seed: int = 0
    control: str | None = None
    saw: list[Sight] = Field(default_factory=list)
    tokens: Tokens | None = None
    status: Literal["done", "failed", "missing"] = "done"
    error: str | None = None
    metrics: dict[str, float | None] = Field(default_factory=dict)
    params: int | None = None
    params_removed: float | None = None
    reached: Reached | None = None
    seconds: float | None = None
    deciding_seconds: float | None = None
    recovery_seconds: float | None = None
    peak_memory_bytes: int | None = None
    stages: dict[str, str] = Field(default_factory=dict)
    search_objective: float | None = None
    measured: dict[str, AnyMeasured] = Field(default_factory=dict)
    training: list[TrainingStep] | None = None
    earlier: int | None = None

    @property
    def has_metrics(self) -> bool:
        """Whether it has a metric, be it done or not."""
        return any(value is not None for value in self.metrics.values())

    def of_kind(self, kind: type[M]) -> dict[str, M]:
        """Its results of one kind of measure, by name."""
        return {name: result for name, result in self.measured.items() if isinstance(result, kind)}

    @property
    def window_losses(self) -> dict[str, list[float]]:
        """The mean loss of each window, by column key."""
        return {name: result.nll_per_window for name, result in self.of_kind(PerplexityResult).items()}

    @property
    def task_scores(self) -> dict[str, TaskResult]:
        """By task."""
        return {result.task: result for result in self.of_kind(TaskResult).values()}

    @property
    def latency(self) -> EfficiencyResult | None:
        """Times of passes; None where they were not taken."""
        return self.of_kind(EfficiencyResult).get("efficiency")


class Search(Facts):
    """One search, told by the cut that it was made for.

    Attributes:
        stage: the key of its stage.
        settings: all of them, as resolved (`trials`, `sampler`, `mode`, `order`, `data`, `stop`, `start`,
            `split`, `windows`, `transfer`, …).
        space: the method's own, by parameter: `{low, high}`, a list of values, or a value that is set.
        texts: what the objective is the mean perplexity of.
        baselines: every method beside the search, without the search's own result.
        importances: only in results of earlier versions: each parameter's share in what sets the best trials apart.
    """

    stage: str
    model: str
    method: str
    label: str
    ratio: float | None = None
    structure_ratio: float | None = None
    seed: int
    settings: Settings
    space: Settings
    texts: list[str]
    workers: int = 1
    trials: list[Trial]
    baselines: list[Baseline]
    best: Best
    importances: dict[str, float] = Field(default_factory=dict)
    costs: Costs | None = None
    seconds: float


class TextUse(Facts):
    """A text that perplexity was measured on: `limit` windows were asked for (None: all), `windows` were read."""

    name: str
    label: str
    limit: int | None
    seq_len: int
    windows: int | None = None


class TaskUse(Facts):
    """A task that was measured: `limit` items were asked for (None: all), `items` were read.

    `majority`: the accuracy of always giving the place that is right most often in these items; None for a task without
    choices.
    """

    name: str
    label: str
    limit: int | None
    metric: str
    items: int | None = None
    majority: float | None = None


class CalibrationUse(Facts):
    """What is calibrated on: `limit` passages asked for (None: all), `pool` found, of which `samples` are taken.

    Attributes:
        split: `calibration`, passages of the text, cut; `search`, windows that a search measures on.
        shares: of the samples, where several texts are mixed.
    """

    dataset: str
    split: str = "calibration"
    shares: list[float] = Field(default_factory=list)
    samples: int
    length: int
    limit: int | None
    pool: int | None = None


class RecoveryUse(Facts):
    """A recovery with its settings, what it used, and how many rows did so."""

    name: str
    label: str | None = None
    settings: Settings
    steps: int | None = None
    examples: int | None = None
    runs: int = 1


class StageUse(Facts):
    """Of one kind of stage: how many there are, how many have a result, and the seconds that these took."""

    kind: str
    stages: int
    done: int
    seconds: float


class Source(Facts):
    """Something that was read from outside the store, and its fingerprint."""

    name: str
    digest: str


class Part(Facts):
    """What a document includes: the specs that reproduce one item of the paper, or one that reproduces none.

    `spec`: the first of them, as it was run. `rows`: places in the results' rows. `columns`: their keys. `paper`: added
    by the report, if there is an item.
    """

    spec: Settings
    rows: list[int]
    columns: list[str]
    paper: PaperComparison | None = None


class Results(Facts):
    """A run. `spec`: as it was run, with profile, `--set` and defaults. `paper`: added by the report, if it has one.

    `parts`: of a document, whose `spec` holds little more than its name. `earlier`: runs whose rows were taken over;
    what is told of stages and their seconds is without those, but for how many are done.
    """

    spec: Settings
    profile: list[str] = Field(default_factory=list)
    command: list[str] = Field(default_factory=list)
    environment: Environment
    models: list[Model]
    columns: list[Column]
    rows: list[Row]
    searches: list[Search] = Field(default_factory=list)
    texts: list[TextUse] = Field(default_factory=list)
    tasks: list[TaskUse] = Field(default_factory=list)
    calibration: list[CalibrationUse] = Field(default_factory=list)
    recoveries: list[RecoveryUse] = Field(default_factory=list)
    stages: list[StageUse] = Field(default_factory=list)
    seconds: float = 0.0
    wall_seconds: float = 0.0
    sources: list[Source] = Field(default_factory=list)
    parts: list[Part] = Field(default_factory=list)
    paper: PaperComparison | None = None
    earlier: list[Earlier] = Field(default_factory=list)

    def of_part(self, part: Part) -> Results:
        """The rows, columns and searches of a part, as a run of its own."""
        rows = [self.rows[place] for place in part.rows]
        labels = {(row.model, row.label) for row in rows}
        return self.model_copy(
            update={
                "spec": part.spec,
                "rows": rows,
                "columns": [column for column in self.columns if column.key in part.columns],
                "searches": [one for one in self.searches if (one.model, one.label) in labels],
                "parts": [],
                "paper": part.paper,
            }
        )

    def to_json(self) -> str:
        """The text of results.json; `Results.model_validate_json` reads it back."""
        return self.model_dump_json(indent=1) + "\n"


def schema() -> str:
    """The JSON schema of results.json, as reports/results.schema.json has it."""
    return json.dumps(Results.model_json_schema(mode="serialization"), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(schema())
