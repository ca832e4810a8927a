"""The spec behind `reproduce prune`: the best recipe that is known here, and what it needs to run anywhere.

The constants below are the recipe: LLM-Pruner-E2 on a mix of texts, ranked over all layers by score per parameter, then
a least-squares repair on the same mix. reports/benchmarks/repair.md compares it with other cuts and repairs. Imports no
torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from io import StringIO
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML

from reproducer.data.sizes import file_size
from reproducer.data.sources import absolute, is_path, parse_source
from reproducer.data.text import TEXTS as CATALOGUE
from reproducer.data.text import text_source
from reproducer.errors import UserError
from reproducer.models.catalogue import Folder, resolve
from reproducer.spec import Spec

RATIO = 0.2
METHOD, SCOPE = "llm-pruner-e2", "parameters"
RECOVERY = ("least-squares",)  # kinds, one after the other, unless others are asked for
TEXTS = ("python-topics", "python-docstrings")  # every Python has them
MEASURED = ("python-packages", *TEXTS)  # the first that is not calibrated on is measured
SAMPLES, LENGTH = 32, 128
BLOCK = 64  # channels, of a uniform cut
WINDOWS = 48  # of LENGTH tokens, that perplexity is measured over
ITEMS = 100  # of a task
ENOUGH, ROWS = 50_000, 20  # bytes and rows of a file, of which a tenth is then kept back from the calibration
SPEED = {"prefill": 128, "decode": 16, "repeats": 3, "warmup": 1}
PROMPTS = ("The capital of France is", "To keep a small garden healthy, you should")
WRITTEN = 24  # tokens after a prompt
# of every kind that has such a setting; 640 examples, so a larger rate and a shorter warm-up than LLM-Pruner's two
# epochs have; as many samples for a fit without training as the built-in texts hold
TUNING = {"batch": 16, "steps": 40, "warmup_steps": 4, "learning_rate": 5e-4, "samples": 128}
WARM_UP = 0.1  # of the steps that are asked for
FILE = "prune.yaml"


def settings(
    model: str,
    *,
    ratio: float = RATIO,
    method: str = METHOD,
    uniform: bool = False,
    calibration: Sequence[str] = TEXTS,
    samples: int = SAMPLES,
    recover: Sequence[str] = RECOVERY,
    recover_steps: int | None = None,
    recover_data: str | None = None,
    evaluate: Sequence[str] = (),
    seed: int = 0,
) -> dict[str, Any]:
    """The spec as YAML has it, in which paths are absolute: it means the same wherever it is run.

    Args:
        evaluate: texts and tasks to measure; none: the calibration's held-out part, and a text that nothing is
            calibrated on.

    Raises:
        UserError: an unknown method or recovery, or a setting that a recovery does not have.
    """
    from reproducer.methods.registry import METHODS

    source = resolve(model).source
    model = source.path if isinstance(source, Folder) else model
    calibration, evaluate = [list(map(absolute, names)) for names in (calibration, evaluate)]
    recover_data = absolute(recover_data) if recover_data else None
    searched = METHODS.get(method).space is not None
    prune: dict[str, Any] = {"ratio": ratio} | (
        {"scope": "uniform", "round_to": BLOCK} if uniform else {"scope": SCOPE}
    )
    texts = list(evaluate)
    if not texts:
        calibration, texts = _held_out(calibration)
    tasks = [name for name in texts if not _is_text(name)]
    chain = recoveries([kind for kind in recover if kind != "none"], calibration, recover_steps, recover_data)
    return {
        "name": "prune",
        "title": "A smaller model",
        "models": [model],
        "methods": [method],
        "prune": prune,
        "calibration": {"dataset": list(calibration), "samples": samples, "length": LENGTH},
        **({"search": {"texts": list(calibration)}} if searched else {}),
        **({"recovery": [chain]} if chain else {}),
        "evaluate": {
            "perplexity": [name for name in texts if name not in tasks],
            "seq_len": LENGTH,
            "windows": WINDOWS,
            **({"tasks": tasks, "limit": ITEMS} if tasks else {}),
            "speed": dict(SPEED),
            "generate": list(PROMPTS),
            "new_tokens": WRITTEN,
        },
        "seeds": [seed],
    }


def recoveries(kinds: Sequence[str], texts: Sequence[str], steps: int | None, data: str | None) -> list[dict[str, Any]]:
    """Sections of recoveries: of the recipe's settings and of those asked for, the ones that each kind has."""
    from reproducer.recovery.registry import RECOVERIES

    known = {kind: RECOVERIES.get(kind).model_fields for kind in kinds}
    asked: dict[str, Any] = {"steps": steps, "dataset": data}
    for name, option in (("steps", "--recover-steps"), ("dataset", "--recover-data")):
        if asked[name] is not None and not any(name in fields for fields in known.values()):
            raise UserError(f"{option}: '{', '.join(kinds)}' has no {name}", "add --recover lora, which has")
    asked |= {"warmup_steps": None if steps is None else int(WARM_UP * steps)}
    tuned = {**TUNING, "text": texts[0], "texts": list(texts), **{k: v for k, v in asked.items() if v is not None}}
    return [
        {"name": kind, **{name: value for name, value in tuned.items() if name in fields}}
        for kind, fields in known.items()
    ]


def measuring(models: Sequence[str], perplexity: Sequence[str], tasks: Sequence[str], limit: int | None) -> Spec:
    """The spec behind `reproduce evaluate`: models as they are."""
    measured = {"perplexity": list(perplexity), "tasks": list(tasks), "limit": limit, "seq_len": LENGTH}
    return spec_of({"name": "evaluate", "models": list(models), "methods": ["dense"], "evaluate": measured})


def _held_out(calibration: Sequence[str]) -> tuple[list[str], list[str]]:
    """What is left to calibrate on, and texts to measure: a part that is kept back of the former, and one not seen.

    A text of the catalogue or of the hub has a split of its own to measure on; of a file a tenth is kept back, where
    it is long enough.
    """
    left, kept = [], []
    for name in calibration:
        source, joint = text_source(name, "calibration"), "&" if "?" in name else "?"
        if not is_path(source.id):
            left.append(name)
            kept += [name] if source != _reported(name) else []
        elif (file_size(source.identity()) or 0) >= ENOUGH and len(source.read()) >= ROWS:
            left.append(f"{name}{joint}rows=0-90%")
            kept.append(f"{name}{joint}rows=90-100%")
        else:
            left.append(name)
    return left, kept[:1] + [text for text in MEASURED if text not in calibration][:1]


def _reported(name: str) -> Any:
    try:
        return text_source(name, "report")
    except UserError:  # a text of the catalogue that serves for calibration alone
        return text_source(name, "calibration")


def _is_text(name: str) -> bool:
    plain = name.partition("?")[0]
    source = None if plain in CATALOGUE else parse_source(plain, "report")
    if source is not None and is_path(source.id):
        return "choices" not in source.read().rows[0]  # that is a task of the user's own
    return plain in CATALOGUE or source is not None


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
