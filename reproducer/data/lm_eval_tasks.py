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
from reproducer.errors import UserError, listed, nearest

OUTPUTS = ("multiple_choice", "loglikelihood", "generate_until")
NAMED = rb"^[\"']?(?:task|group)[\"']?:[ \t]*[\"']?(%s)[\"']?[ \t]*(?:#.*)?\r?$"
ANY = NAMED % rb"\S+"
CATALOGUE: dict[str, str | Path] = {
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


def task_facts(name: str, own_data: bool) -> tuple[dict[str, bool], Source, bool]:
    """What a spec needs to know of a task, with none of lm-eval's tasks' code run.

    Args:
        own_data: the spec gives the rows.

    Returns:
        The names of its scores in its own order, and whether higher is better. With several filters (ways to find
        the answer in what a model wrote) a score is named `metric,filter`, as in lm-eval's own results.
        The split that it is scored on; of a task whose rows the spec gives, only the split's name counts.
        Whether it is scored by lm-eval's own comparison of the likelihoods of choices.

    Raises:
        UserError: as `task_config`, and for a task that cannot run here: what in its definition stands in the way.
    """
    config = task_config(name, functions=False)
    import lm_eval.api.metrics  # noqa: F401  # fills the registries
    from lm_eval.api import registry

    output = config.get("output_type", "generate_until")
    listed = config.get("metric_list")
    if listed is None:
        listed = [{"metric": metric} for metric in registry.DEFAULT_METRIC_REGISTRY.get(output, ())]
    better, downloaded = {}, []
    for entry in listed:
        own, metric = Path(entry["metric"]).is_absolute(), entry["metric"]  # a function of the task's own module
        metric = metric.rpartition(".")[2] if own else metric
        known = metric in registry.METRIC_REGISTRY and not entry.get("hf_evaluate")
        if not (own or known or "process_results" in config):
            downloaded.append(metric)
        default = registry.HIGHER_IS_BETTER_REGISTRY.get(metric) if known else True
        better[metric] = bool(entry.get("higher_is_better", default))
    problem, hint = _problem(config, output, downloaded), None
    if output == "loglikelihood_rolling":
        problem, hint = "is the perplexity of whole documents", "name its text in evaluate.perplexity"
    if problem is None and not own_data and (problem := _data_problem(config)):
        hint = "give its rows: data: PATH.jsonl, or data: org/dataset:configuration:split"
    if problem is not None:
        raise UserError(f"lm-eval's task '{name}' {problem}", hint)
    filters = [one["name"] for one in config.get("filter_list") or ()]
    if len(filters) > 1:
        better = {f"{metric},{one}": higher for one in filters for metric, higher in better.items()}
    revision = (config.get("dataset_kwargs") or {}).get("revision")
    id = f"{config.get('dataset_path')}" + (f"@{revision}" if revision else "")
    chosen = output == "multiple_choice" and "process_results" not in config
    return better, Source(id, config.get("dataset_name"), _split(config) or "test", ""), chosen


def _problem(config: Mapping[str, Any], output: str, downloaded: list[str]) -> str | None:
    if "class" in config:
        return "is a Python class and has no task file that says what it asks"
    if output not in OUTPUTS:
        return f"asks for '{output}', which is none of {', '.join(OUTPUTS)}"
    if config.get("doc_to_image") or config.get("doc_to_audio"):
        return "asks about images or sound"
    if config.get("unsafe_code"):
        return "runs code that the model writes, which is not safe"
    return f"has metrics that lm-eval would download as code: {', '.join(downloaded)}" if downloaded else None


def _data_problem(config: Mapping[str, Any]) -> str | None:
    path, options = config.get("dataset_path"), config.get("dataset_kwargs") or {}
    if config.get("custom_dataset") or not path or path in ("json", "csv", "text", "parquet"):
        return "makes its data itself instead of naming a data set"
    if more := set(options) - {"trust_remote_code", "revision"}:
        return f"reads its data set with options of its own ({', '.join(sorted(more))})"
    return None if _split(config) else "has neither a test nor a validation split"


def _split(config: Mapping[str, Any]) -> str | None:
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
    hint = f"name its tasks themselves: {listed([*map(str, members)], 10)}" if members else None
    return UserError(f"'{name}' is a group of lm-eval's tasks", hint)
