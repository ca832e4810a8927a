"""lm-eval's task files: found by the task's name, read by lm-eval's own loader, checked for what can run here.

lm-eval's index would parse some 14,000 files to know where one task is; here their bytes are searched for its name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from reproducer.data.builtin import FOLDER
from reproducer.data.sources import Source
from reproducer.errors import UserError, nearest

OUTPUTS = ("multiple_choice", "loglikelihood", "generate_until")
NAMED = rb"^[\"']?(?:task|group)[\"']?:[ \t]*[\"']?(%s)[\"']?[ \t]*(?:#.*)?\r?$"
ANY = NAMED % rb"\S+"
CATALOGUE = {
    "quiz": FOLDER / "quiz.yaml",
    "boolq": "super_glue/boolq/default.yaml",
    "piqa": "piqa/piqa.yaml",
    "hellaswag": "hellaswag/hellaswag.yaml",
    "winogrande": "winogrande/default.yaml",
    "arc_easy": "arc/arc_easy.yaml",
    "arc_challenge": "arc/arc_challenge.yaml",
    "openbookqa": "openbookqa/openbookqa.yaml",
}
"""Where the tasks of the package's catalogue are: these are not looked for."""


@cache
def task_file(name: str) -> Path | None:
    """The file that defines the task or group `name`; None where there is none. About a second where it is long."""
    if name in CATALOGUE:
        return _folder() / CATALOGUE[name]
    pattern = re.compile(NAMED % re.escape(name.encode("utf-8", "replace")), re.MULTILINE)
    by_likelihood = sorted(_files(), key=lambda path: path.stem != name)  # most files are named as their task
    return next((path for path in by_likelihood if pattern.search(path.read_bytes())), None)


def task_config(name: str, functions: bool) -> dict[str, Any]:
    """lm-eval's configuration of a task, what it includes merged into it.

    Args:
        functions: import lm-eval's modules that it names, and have their functions in their places; without, it has
            their paths, and no code of lm-eval's tasks runs.

    Raises:
        UserError: there is no such task, with the nearest names; it is a group; it cannot be read or imported.
    """
    from lm_eval.tasks._yaml_loader import load_yaml

    path = task_file(name)
    if path is None:
        if members := _tagged(name):
            raise _group(name, members)
        names = {found.decode() for file in _files() for found in re.findall(ANY, file.read_bytes(), re.MULTILINE)}
        raise UserError(f"lm-eval has no task '{name}'", nearest(name, names | CATALOGUE.keys()))
    if not path.is_file():
        raise UserError(f"this version of lm-eval has no definition of task {name} at {path}")
    try:
        config: dict[str, Any] = load_yaml(path, resolve_func=functions)
    except Exception as error:  # whatever the modules beside the task raise
        raise UserError(f"lm-eval's task {name} cannot be read from {path}: {type(error).__name__}: {error}") from error
    if "group" in config:
        members = config["task"] if isinstance(config.get("task"), list) else []
        raise _group(
            name, [str(one.get("task", one.get("group")) if isinstance(one, dict) else one) for one in members]
        )
    return config


def checked(name: str, config: Mapping[str, Any], own_data: bool) -> None:
    """Refuse a task that cannot run here.

    Args:
        config: as `task_config` has it, without functions.
        own_data: the spec gives the rows.

    Raises:
        UserError: which part of the task's definition stands in the way.
    """
    output = config.get("output_type", "generate_until")
    problem = hint = None
    if "class" in config:
        problem = "is a Python class and has no task file that says what it asks"
    elif output == "loglikelihood_rolling":
        problem, hint = "is the perplexity of whole documents", "name its text in evaluate.perplexity"
    elif output not in OUTPUTS:
        problem = f"asks for '{output}', which is none of {', '.join(OUTPUTS)}"
    elif config.get("doc_to_image") or config.get("doc_to_audio"):
        problem = "asks about images or sound"
    elif config.get("unsafe_code"):
        problem = "runs code that the model writes, which is not safe"
    elif downloaded := [metric for metric in metric_names(config) if not _registered(metric, config)]:
        problem = f"has metrics that lm-eval would download as code: {', '.join(downloaded)}"
    elif not own_data and (reason := _unusual_data(config)):
        problem, hint = reason, "give its rows: data: PATH.jsonl, or data: org/dataset:configuration:split"
    if problem:
        raise UserError(f"lm-eval's task '{name}' {problem}", hint)


def metric_names(config: Mapping[str, Any]) -> list[str]:
    """The metrics that the task has, in its own order."""
    from lm_eval.api.registry import DEFAULT_METRIC_REGISTRY

    if config.get("metric_list") is None:
        return list(DEFAULT_METRIC_REGISTRY[config.get("output_type", "generate_until")])
    return [_metric_name(metric["metric"]) for metric in config["metric_list"]]


def shown_metrics(config: Mapping[str, Any]) -> dict[str, bool]:
    """The names of the task's scores, and whether higher is better.

    With several filters (ways to find the answer in what a model wrote) a score is named `metric,filter`, as in
    lm-eval's own results.
    """
    import lm_eval.api.metrics  # noqa: F401  # fills the registry
    from lm_eval.api.registry import HIGHER_IS_BETTER_REGISTRY as KNOWN

    own = {_metric_name(metric["metric"]): metric for metric in config.get("metric_list") or ()}
    better = {
        name: bool(own.get(name, {}).get("higher_is_better", KNOWN.get(name) if name in KNOWN else True))
        for name in metric_names(config)
    }
    filters = [one["name"] for one in config.get("filter_list") or ()]
    if len(filters) < 2:
        return better
    return {f"{name},{one}": higher for one in filters for name, higher in better.items()}


def task_source(config: Mapping[str, Any]) -> Source:
    """The split of a data set that the task is scored on."""
    revision = (config.get("dataset_kwargs") or {}).get("revision")
    id = config["dataset_path"] + (f"@{revision}" if revision else "")
    return Source(id, config.get("dataset_name"), evaluated_split(config) or "test", "")


def evaluated_split(config: Mapping[str, Any]) -> str | None:
    return config.get("test_split") or config.get("validation_split")


def _folder() -> Path:
    spec = find_spec("lm_eval")  # finds it without importing it
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent / "tasks"


@cache
def _files() -> tuple[Path, ...]:
    return tuple(sorted(_folder().glob("**/*.yaml")))


def _tagged(name: str) -> list[str]:
    """Tasks that bear the tag `name`, which lm-eval takes for a group of them."""
    from lm_eval.tasks._yaml_loader import load_yaml

    found = []
    for path in _files():
        if re.search(rb"\b%s\b" % re.escape(name.encode("utf-8", "replace")), path.read_bytes()):
            config = load_yaml(path, resolve_func=False, recursive=False)
            tags = config.get("tag")
            if name in ([tags] if isinstance(tags, str) else tags or ()):
                found.append(str(config.get("task")))
    return found


def _group(name: str, members: list[Any]) -> UserError:
    some = ", ".join(map(str, members[:10])) + (f" and {len(members) - 10} more" if len(members) > 10 else "")
    return UserError(f"'{name}' is a group of lm-eval's tasks", f"name its tasks themselves: {some}" if some else None)


def _metric_name(metric: str) -> str:
    """A metric that is a function of the task's own module is called by the function's name."""
    return metric.rpartition(".")[2] if Path(metric).is_absolute() else metric


def _registered(metric: str, config: Mapping[str, Any]) -> bool:
    """Whether the metric is lm-eval's own code: of its registry, or of the modules beside the task."""
    import lm_eval.api.metrics  # noqa: F401  # fills the registry
    from lm_eval.api.registry import METRIC_REGISTRY

    if config.get("process_results") is not None:
        return True
    entry = next(
        one for one in config.get("metric_list") or [{"metric": metric}] if _metric_name(one["metric"]) == metric
    )
    return Path(entry["metric"]).is_absolute() or (metric in METRIC_REGISTRY and not entry.get("hf_evaluate"))


def _unusual_data(config: Mapping[str, Any]) -> str | None:
    path, options = config.get("dataset_path"), config.get("dataset_kwargs") or {}
    more = set(options) - {"trust_remote_code", "revision"}
    if config.get("custom_dataset") or not path or path in ("json", "csv", "text", "parquet"):
        return "makes its data itself instead of naming a data set"
    if more:
        return f"reads its data set with options of its own ({', '.join(sorted(more))})"
    return None if evaluated_split(config) else "has neither a test nor a validation split"
