"""Numbers and settings as a report shows them."""

import math
from collections.abc import Mapping
from typing import Any

from reproducer.stages.results import Column

UNTUNED = "w/o tune"


def perplexity(value: float) -> str:
    """Two decimals as the paper prints; fewer from a thousand on, powers of ten from a million on."""
    if abs(value) >= 1e6:
        return f"{value:.2e}".replace("e+0", "e").replace("e+", "e")
    return f"{value:.1f}" if abs(value) >= 999.995 else f"{value:.2f}"


def percent(fraction: float) -> str:
    """In percent without its sign, two decimals, as the paper prints accuracies."""
    return f"{100 * fraction:.2f}"


def other(value: float) -> str:
    """Two decimals as the paper prints; of numbers below 1 four digits that tell something."""
    return f"{value:.4g}" if abs(value) < 1 else perplexity(value)


def with_interval(value: float, half: float | None, column: Column) -> str:
    """A value of a column with half the width of its interval; accuracies, given as fractions, in percent."""
    if column.kind == "accuracy":
        value, half = 100 * value, None if half is None else 100 * half
    return plus_minus(value, half, most=6 if column.kind == "other" else 2)


def plus_minus(value: float, half: float | None, signs: bool = False, most: int = 4) -> str:
    """Two digits of the half, and the value as far as they reach; three digits of a value without a half.

    No more than `most` places behind the point.
    """
    places = min(_places(half, 2) if half else _places(value, 3), most)
    plus = "+" if signs and value > 0 else ""
    return plus + _fixed(value, places) + (f" ± {_fixed(half, places)}" if half else "")


def _places(value: float, digits: int) -> int:
    """Places behind the point that show so many digits of `value`."""
    return max(0, digits - 1 - math.floor(math.log10(abs(value)))) if value else 0


def _fixed(value: float, places: int) -> str:
    text = perplexity(value) if abs(value) >= 1e6 else f"{value:.{places}f}"
    return text.replace("-", "−") if float(text) else text.lstrip("-")


def effect(value: float | None, unit: str, signs: bool = True) -> str | None:
    """An effect of a claim with its unit, to three digits; `signs`: it is a difference, so a plus is written too."""
    if value is None:
        return None
    text = _signed(value, min(_places(value, 3), 2), unit, signs)
    number = text.rstrip("0").rstrip(".") if "." in text else text
    return _with_unit(number, unit)


def ranged(value: float, low: float | None, high: float | None, unit: str, signs: bool = True) -> str:
    """An effect and its interval: `−10.3% [−14.0, −6.6]`, as far as that lets digits tell something."""
    if low is None or high is None:
        return str(effect(value, unit, signs))
    places = min(_places((high - low) / 2, 2), 2)
    number, *ends = (_signed(one, places, unit, signs) for one in (value, low, high))
    return f"{_with_unit(number, unit)} [{ends[0]}, {ends[1]}]"


def _signed(value: float, places: int, unit: str, signs: bool) -> str:
    text = _fixed(abs(value), places)
    plus = "+" if signs and unit != "times" else ""
    return text if not float(text) else f"{'−' if value < 0 else plus}{text}"


def _with_unit(number: str, unit: str) -> str:
    return {"per cent": f"{number}%", "times": f"×{number}"}.get(unit, f"{number} {unit}")


def p_value(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "below 0.001"


def seconds(value: float) -> str:
    if value < 0.1:
        return f"{1000 * value:.0f} ms"
    if value < 59.95:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(round(value / 60), 60)
    return f"{hours} h {minutes:02d} min"


def size(count: float) -> str:
    """Bytes in GiB or MiB."""
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def thousands(count: float) -> str:
    return f"{count:,}"


def short(value: float) -> str:
    """A fraction in percent, without zeros at its end."""
    return f"{100 * value:.4g}%"


def percent1(share: float) -> str:
    """A share in percent, one decimal, as in a sentence."""
    return f"{100 * share:.1f}%"


def cut(place: Any) -> str:
    """`20%` of all parameters, or `25% a layer` where it was asked for layer by layer; of a row, line or search."""
    if place.ratio is not None:
        return short(place.ratio)
    return "–" if place.structure_ratio is None else f"{short(place.structure_ratio)} a layer"


def tuning(place: Any) -> str:
    """`w/o tune`, or `w/ LoRA`: the label of a row's recovery, or else its name."""
    return UNTUNED if place.recovery == "none" else f"w/ {place.recovery_label or place.recovery}"


def setting(value: Any) -> str:
    """A value of a spec or a search space: `{0, 1e6, only}` for a list, `[0, 1]` for what has a low and a high end."""
    if isinstance(value, list | tuple):
        return "{" + ", ".join(map(setting, value)) + "}"
    if isinstance(value, Mapping):
        if {"low", "high"} <= value.keys():
            return f"[{setting(value['low'])}, {setting(value['high'])}]"
        return ", ".join(f"{name} {setting(inner)}" for name, inner in value.items())
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, float):
        if value == 0 or 1e-4 <= abs(value) < 1e5:
            return f"{value:.6g}"
        mantissa, exponent = f"{value:.5e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return str(value)


def paper_number(value: float | None, kind: str, relative: bool) -> str | None:
    """A number of the paper or ours beside it, in its units; `relative`: to the dense row's."""
    if value is None:
        return None
    text = (other if kind == "other" else perplexity)(abs(value))
    if relative and kind != "accuracy":
        return f"×{text}"
    sign = "" if not float(text) else "−" if value < 0 else "+" if relative else ""
    return f"{sign}{text}"


def row_name(row: Any, model: bool = True, seed: bool = True) -> str:
    """What a row is called in a sentence."""
    place = "" if row.method == "dense" else f", {cut(row)}, {tuning(row)}"
    return f"{f'{row.model}, ' * model}{row.label}{place}{f', seed {row.seed}' * seed}"


FILTERS = {
    function.__name__: function
    for function in (
        perplexity, percent, p_value, seconds, size, thousands, short, percent1, cut, tuning, setting, effect, ranged,
        plus_minus, row_name,
    )
}  # fmt: skip
