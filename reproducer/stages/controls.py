"""Controls: rows and columns that tell what else, beside the search itself, could explain its gain.

`controls: [same-information, same-compute, unseen-text]` in a spec adds them; they question the spec's first searched
method. Each is an ordinary method with other data, so that no stage knows of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from reproducer.errors import UserError, nearest
from reproducer.methods.registry import METHODS
from reproducer.search.settings import SearchSettings
from reproducer.spec import MethodSpec, Spec
from reproducer.stages.perplexity import Perplexity

UNSEEN_TEXT = "c4"
SHORT = {"llm-pruner-e1": "E1", "llm-pruner-e2": "E2"}  # to repeat with what the search had, and their short names


@dataclass(frozen=True)
class _Question:
    """What the controls are made from: the searched method, its settings, and the texts that it searches on."""

    spec: Spec
    method: MethodSpec
    label: str
    settings: SearchSettings
    texts: list[str]


def _same_information(asked: _Question) -> list[dict[str, Any]]:
    """Baselines calibrated on the windows that the search measures on, and the search with a pool made of them."""
    pool = asked.settings.windows * len(asked.texts)
    seen = {"dataset": asked.texts, "split": "search", "shares": None, "pool": pool}
    rows: list[dict[str, Any]] = [
        {"name": name, "label": f"{short} on the search's texts", "calibration": seen} for name, short in SHORT.items()
    ]
    label = f"{asked.label} over the search's texts"
    return [*rows, {"name": asked.method.name, "label": label, "calibration": seen, "search": asked.method.search}]


def _same_compute(asked: _Question) -> list[dict[str, Any]]:
    """E2 with as many samples as the search's trials have, and the best of as many draws as it has trials."""
    trials = asked.settings.trials
    samples = trials * asked.method.calibration_for(asked.spec).samples
    drawn = {"sampler": "random", "mode": "default", "stop": False, "start": 0, "space": {}}
    return [
        {"name": "llm-pruner-e2", "label": f"E2, {samples} samples", "calibration": {"samples": samples, "pool": None}},
        {"name": "best-draw", "label": f"E2, best of {trials} draws", "search": {**asked.method.search, **drawn}},
    ]


ROWS: Mapping[str, Callable[[_Question], list[dict[str, Any]]]] = {
    "same-information": _same_information,
    "same-compute": _same_compute,
}
UNSEEN = "unseen-text"


def controlled(spec: Spec) -> tuple[Spec, dict[str, str]]:
    """The spec with its controls written out, and which control each added row is of, by its label.

    Raises:
        SpecError: an unknown control; no searched method to question; a search on the report's own rows.
    """
    for index, name in enumerate(spec.controls):
        with spec.at(("controls", index)):
            if name not in (*ROWS, UNSEEN):
                raise UserError(f"unknown control '{name}'", nearest(name, [*ROWS, UNSEEN]))
    kinds = [name for name in ROWS if name in spec.controls]
    rows = {row["label"]: (name, row) for name in kinds for row in ROWS[name](_question(spec, name))}
    changes: dict[str, Any] = {}
    if rows:
        changes["methods"] = [*spec.methods, *(MethodSpec.model_validate(row) for _, row in rows.values())]
    if UNSEEN in spec.controls and not spec.evaluate.get("unseen"):
        changes["evaluate"] = {**spec.evaluate, "unseen": [spec.substitute("datasets", UNSEEN_TEXT)]}
    return spec.model_copy(update=changes), {label: name for label, (name, _) in rows.items()}


def _question(spec: Spec, control: str) -> _Question:
    place = ("controls", list(spec.controls).index(control))
    known = METHODS.all()
    searched = [one for one in spec.methods if one.name in known and known[one.name].space is not None]
    if not searched:
        raise spec.error(place, f"'{control}' questions a search, and no method of this spec is searched")
    method = searched[0]
    settings = spec.parse(("search",), SearchSettings, method.search_for(spec))
    if settings.split != "search":
        message = f"'{control}' would calibrate on the rows that the report measures on, as this search does"
        raise spec.error(place, f"{message}; leave search.split out")
    reported = spec.evaluate.get("perplexity") or Perplexity.defaults(spec)["perplexity"]
    texts = settings.texts or ([reported] if isinstance(reported, str) else list(reported))
    return _Question(spec, method, method.label or known[method.name].label, settings, texts)
