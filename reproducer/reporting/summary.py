"""Rows of `results` brought together: seeds of one configuration into a group, groups into the table's blocks."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Group:
    """All seeds of one configuration: one line of the table.

    `ratio` is the requested fraction of all parameters (0 for dense), or None where `structure_ratio` was asked for.
    """

    model: str
    method: str
    label: str
    ratio: float | None
    structure_ratio: float | None
    recovery: str
    rows: tuple[Row, ...]

    @property
    def block(self) -> tuple[str, float | None, float | None, str]:
        """What rows must share to be compared: model, ratio, structure ratio, recovery."""
        return (self.model, self.ratio, self.structure_ratio, self.recovery)

    @property
    def dense(self) -> bool:
        return self.method == "dense"

    @property
    def done(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row["status"] == "done")

    @property
    def failed(self) -> bool:
        """No seed was finished and at least one failed."""
        return not self.done and any(row["status"] == "failed" for row in self.rows)

    def values(self, key: str) -> list[float]:
        """The metric `key` of the finished seeds; where none was finished, what was measured before the failure."""
        return _values([row["metrics"].get(key) for row in self.done or self.rows])

    def facts(self, name: str) -> list[float]:
        """A field of the row itself (`seconds`, `params_removed`, …), of the same rows as `values`."""
        return _values([row.get(name) for row in self.done or self.rows])


def _values(found: Sequence[Any]) -> list[float]:
    return [float(value) for value in found if value is not None]


def groups(rows: Sequence[Row]) -> list[Group]:
    """Rows that differ in the seed alone, together, in the order in which they first appear."""
    found: dict[tuple, list[Row]] = {}
    for row in rows:
        ratio = 0.0 if row["method"] == "dense" else row.get("ratio")
        key = (row["model"], row["method"], row["label"], ratio, row.get("structure_ratio"), row["recovery"])
        found.setdefault(key, []).append(row)
    return [Group(*(*key, tuple(members))) for key, members in found.items()]


def blocks(lines: Sequence[Group]) -> list[list[Group]]:
    """The lines of one model, ratio and recovery together, in the order in which they first appear."""
    found: dict[tuple, list[Group]] = {}
    for line in lines:
        found.setdefault(line.block, []).append(line)
    return list(found.values())


def mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


def deviation(values: Sequence[float]) -> float | None:
    """The sample standard deviation (n − 1 in the denominator); None for fewer than two values."""
    return statistics.stdev(values) if len(values) > 1 else None


def perplexity_text(value: float) -> str:
    """Two decimals as the paper prints; fewer from a thousand on, powers of ten from a million on."""
    if abs(value) >= 1e6:
        return f"{value:.2e}".replace("e+0", "e").replace("e+", "e")
    return f"{value:.1f}" if abs(value) >= 999.995 else f"{value:.2f}"


def percent_text(fraction: float) -> str:
    """An accuracy in percent, two decimals, as the paper prints it."""
    return f"{100 * fraction:.2f}"


def other_text(value: float) -> str:
    """Two decimals as the paper prints; of numbers below 1 four digits that tell something."""
    return f"{value:.4g}" if abs(value) < 1 else perplexity_text(value)


FORMATS: dict[str, Callable[[float], str]] = {
    "perplexity": perplexity_text,
    "accuracy": percent_text,
    "other": other_text,
}


def ratio_text(ratio: float | None, structure_ratio: float | None) -> str:
    """`20%` of all parameters, or `25% a layer` where the ratio was asked for layer by layer."""
    if ratio is None and structure_ratio is None:
        return "–"
    if ratio is None:
        return f"{_short(structure_ratio)}% a layer"
    return f"{_short(ratio)}%"


def _short(fraction: float | None) -> str:
    return f"{100 * (fraction or 0):.4g}"


def recovery_text(recovery: str) -> str:
    """The paper's "w/o tune" and "w/ tune"; a recovery other than LoRA by its name."""
    return {"none": "w/o tune", "lora": "w/ tune"}.get(recovery, f"w/ {recovery}")


def seconds_text(seconds: float) -> str:
    if seconds < 0.1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min"


def bytes_text(size: float) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def check(results: Any, where: str = "results") -> None:
    """Refuse numbers that JSON cannot hold (NaN, infinities) and accuracies that are not fractions.

    Raises:
        ValueError: naming the place, for example `results.rows[3].metrics.ptb_ppl`.
    """
    _finite(results, where)
    keys = [metric["key"] for metric in results["metrics"] if metric["kind"] == "accuracy"]
    for index, row in enumerate(results["rows"]):
        for key in keys:
            value = row["metrics"].get(key)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{where}.rows[{index}].metrics.{key}: an accuracy is a fraction of 1, not {value}")


def _finite(value: Any, where: str) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where}: {value} is not a number that results.json can hold")
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _finite(inner, f"{where}.{key}")
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            _finite(inner, f"{where}[{index}]")
