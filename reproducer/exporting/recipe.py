"""The spec behind `reproduce prune`: the best recipe that is known here, and what it needs to run anywhere.

LLM-Pruner-E2 in four steps, each with other samples, out of a mix of texts: reports/controls-small compares it with
searches and with single cuts. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from io import StringIO
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML

from reproducer.errors import UserError
from reproducer.spec import Spec

RATIO = 0.2
METHOD = "llm-pruner-e2"
TEXTS = ("python-topics", "python-docstrings")  # every Python has them
MEASURED = ("python-packages", *TEXTS)  # the first that is not calibrated on
STEPS, SAMPLES, LENGTH = 4, 32, 128
WINDOWS = 64  # of LENGTH tokens, that perplexity is measured over
# 640 examples, so a larger rate and a shorter warm-up than LLM-Pruner's two epochs have
TUNING = {"batch": 16, "steps": 40, "warmup_steps": 4, "learning_rate": 5e-4}
FILE = "prune.yaml"


def settings(
    model: str,
    *,
    ratio: float,
    method: str,
    calibration: Sequence[str],
    samples: int,
    recover: str | None,
    seed: int,
) -> dict[str, Any]:
    """The spec as YAML has it.

    Raises:
        UserError: an unknown method, or no text is left to measure on.
    """
    from reproducer.methods.registry import METHODS, Rule

    found = METHODS.get(method)
    unseen = next((text for text in MEASURED if text not in calibration), None)
    if unseen is None:
        raise UserError("nothing is left to measure perplexity on", f"calibrate on fewer of {', '.join(MEASURED)}")
    prune: dict[str, Any] = {"ratio": ratio}
    if found.space is None and isinstance(found.make({}), Rule):
        prune |= {"steps": STEPS} | ({"resample": True} if found.calibrated else {})
    return {
        "name": "prune",
        "title": "A smaller model",
        "models": [model],
        "methods": [method],
        "prune": prune,
        "calibration": {"dataset": list(calibration), "samples": samples, "length": LENGTH},
        **({"search": {"texts": list(calibration)}} if found.space is not None else {}),
        **({"recovery": ["none", {"name": recover, **TUNING}]} if recover else {}),
        "evaluate": {"perplexity": [unseen], "seq_len": LENGTH, "windows": WINDOWS},
        "seeds": [seed],
    }


def spec_of(settings: dict[str, Any]) -> Spec:
    """The spec; UserError for a value that it cannot have."""
    try:
        return Spec.model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def text_of(settings: dict[str, Any]) -> str:
    """The spec's file."""
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style, yaml.sort_base_mapping_type_on_output = False, False  # type: ignore[assignment]
    stream = StringIO()
    yaml.dump(settings, stream)
    return f"# What made this model: `reproduce {FILE}` runs it again.\n{stream.getvalue()}"
