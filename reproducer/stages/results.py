"""What results.json holds: facts about a run and nothing else. Sentences about them live in the report's templates.

Units: accuracies and `params_removed` are fractions of 1, perplexities are per token, seconds are wall time, losses
are in nats a token. `None` says that something was not measured, or not yet.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Scalar = float | int | str | bool | None


class Facts(BaseModel):
    """Frozen; unknown keys, NaN and infinity are refused: JSON cannot hold the latter two."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


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
        source: where the weights are from: `kind` (package, hub, folder, random, drawn) and what determines them.
        parameters: of the dense model, tied embeddings counted once.
        notes: what the catalogue says of the weights.
        stands_for: the paper's model whose place it takes under a profile.
        tuned: the recovery that made it out of its base, with all settings; None for a model as it is.
    """

    name: str
    label: str
    source: dict[str, Any]
    dtype: str
    parameters: int | None = None
    notes: str = ""
    stands_for: str | None = None
    base: str | None = None
    tuned: dict[str, Any] | None = None


class Column(Facts):
    """A measure.

    Attributes:
        key: in a row's `metrics`, such as `wikitext2_ppl`, `boolq_acc`, `average_acc`.
        kind: perplexity; accuracy, a fraction of 1; or other.
        source: the text or task behind it; None for an average.
        score: of a task, the metric of lm-eval that is shown.
        timed: never twice the same, so no regression check compares it.
    """

    key: str
    label: str
    kind: Literal["perplexity", "accuracy", "other"]
    higher_is_better: bool
    source: str | None = None
    score: str | None = None
    timed: bool = False


class TaskScores(Facts):
    """All scores of a task; `shown` names the one in the column. `stderr` has those that are known."""

    items: int
    shown: str
    scores: dict[str, float]
    stderr: dict[str, float] = Field(default_factory=dict)


class Item(Facts):
    """One item of a task: its row in the data, from 0, and its scores (0 or 1 where they are accuracies)."""

    id: int
    scores: dict[str, float]


class Generation(Facts):
    prompt: str
    text: str


class TrainingStep(Facts):
    """One step of a recovery: the mean loss of its batch, and the examples seen so far."""

    step: int
    loss: float
    learning_rate: float
    examples: int


class Latency(Facts):
    """Seconds of every timed pass, and the device that they were measured on."""

    device: str
    seconds: list[float]
    quartiles: tuple[float, float]


class Row(Facts):
    """One row: what it is, what was measured, what it cost.

    Attributes:
        label: in the table, such as `w/o D`.
        ratio, structure_ratio: the cut that was asked for: of all parameters, or of each layer's structures.
        recovery: name of the recovery; `none`.
        status: `missing`: something has not run yet, and nothing failed.
        error: why it failed.
        params, params_removed: parameters left, and the share of the dense model's that is gone.
        seconds, peak_memory_bytes: sum and maximum over its own stages.
        stages: their keys by role.
        search_objective: its own search's, or what a search of the same cut and seed saw of this method.
        task_scores, items: by task. window_losses: by column key, the mean loss of each window.
    """

    model: str
    method: str
    label: str
    ratio: float | None = None
    structure_ratio: float | None = None
    recovery: str = "none"
    seed: int = 0
    status: Literal["done", "failed", "missing"] = "done"
    error: str | None = None
    metrics: dict[str, float | None] = Field(default_factory=dict)
    params: int | None = None
    params_removed: float | None = None
    seconds: float | None = None
    peak_memory_bytes: int | None = None
    stages: dict[str, str] = Field(default_factory=dict)
    search_objective: float | None = None
    task_scores: dict[str, TaskScores] = Field(default_factory=dict)
    items: dict[str, list[Item]] = Field(default_factory=dict)
    window_losses: dict[str, list[float]] = Field(default_factory=dict)
    generations: list[Generation] = Field(default_factory=list)
    training: list[TrainingStep] | None = None
    latency: Latency | None = None


class Trial(Facts):
    """One trial. `partial`: a stopped trial's objective on the texts that it saw. `baseline`: the method it stands for.

    `state`: complete; stopped (hopeless on a part of the texts); void (no finite objective); failed.
    """

    number: int
    value: float | None
    partial: float | None = None
    state: str
    params: dict[str, Scalar]
    baseline: str | None = None
    seconds: float | None = None
    phase: str | None = None
    worker: int = 0


class Baseline(Facts):
    """A method that the search scored on its own objective; `value` None: not finite."""

    method: str
    label: str
    value: float | None


class Sample(Facts):
    """A calibration sample: its index in the pool, and the passage that it begins."""

    index: int
    text: str


class Best(Facts):
    """What a search returned. `number`: its trial, None where a method beside the study won; `baseline`: whose name."""

    number: int | None
    value: float
    method: str
    params: dict[str, Scalar]
    samples: list[Sample]
    baseline: str | None = None


class SearchCosts(Facts):
    """Tokens of samples that went forward and backward, tokens of texts that went forward; seconds of all trials."""

    trials: int
    stopped: int
    seconds: float
    sample_tokens: int
    text_tokens: int


class Search(Facts):
    """One search, told by the cut that it was made for. `settings`: all of them, as resolved; `space`: likewise."""

    model: str
    method: str
    label: str
    ratio: float | None = None
    structure_ratio: float | None = None
    seed: int
    settings: dict[str, Any]
    space: dict[str, Any]
    texts: list[str]
    workers: int = 1
    trials: list[Trial]
    baselines: list[Baseline]
    best: Best
    importances: dict[str, float] = Field(default_factory=dict)
    costs: SearchCosts | None = None
    seconds: float


class TextUse(Facts):
    """A text that perplexity was measured on: `limit` windows were asked for (None: all), `windows` were read."""

    name: str
    label: str
    limit: int | None
    seq_len: int
    windows: int | None = None


class TaskUse(Facts):
    name: str
    label: str
    limit: int | None
    metric: str
    items: int | None = None


class CalibrationUse(Facts):
    """Passages to calibrate on: `limit` asked for (None: all), `pool` found, of which `samples` are taken."""

    dataset: str
    samples: int
    length: int
    limit: int | None
    pool: int | None = None


class RecoveryUse(Facts):
    """A recovery with its settings, what it used, and how many rows did so."""

    name: str
    settings: dict[str, Any]
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


class Results(Facts):
    """A run. `spec`: as it was run, with profile, `--set` and defaults. `paper`: added by the report, if it has one."""

    spec: dict[str, Any]
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
    paper: dict[str, Any] | None = None
