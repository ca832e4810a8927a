"""lm-eval as its users run it, for our results to be compared with."""

import copy
from pathlib import Path

import datasets
import lm_eval
from lm_eval.evaluator import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from reproducer.data.tasks import TASKS
from reproducer.evaluation.harness import DEFINITIONS


def plain_lm_eval(monkeypatch, model, tokenizer, task, rows, limit=None):
    """Its own evaluation, wrapper and task file, one sequence a batch; only the download is answered with `rows`.

    Returns:
        lm-eval's samples and its means of the task.
    """
    entry = TASKS[task]

    def load_dataset(path, name=None, **_):
        assert (path, name or "default") == (entry.source.id, entry.source.configuration)
        data = datasets.Dataset.from_list(rows)
        return datasets.DatasetDict({"train": data, entry.source.split: data})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    folder = Path(lm_eval.__file__).parent / "tasks" / Path(DEFINITIONS[entry.task]).parent
    report = simple_evaluate(
        HFLM(pretrained=model, tokenizer=copy.deepcopy(tokenizer), batch_size=1),
        tasks=[entry.task],
        task_manager=TaskManager(include_path=folder, include_defaults=False),
        limit=limit,
        bootstrap_iters=0,
    )
    return report["samples"][entry.task], report["results"][entry.task]


def assert_same(result, samples, means):
    """Both accuracies of every item, in order, and their means."""
    assert [item["id"] for item in result.items] == [sample["doc_id"] for sample in samples]
    for metric in ("acc", "acc_norm"):
        assert [item[metric] for item in result.items] == [sample.get(metric) for sample in samples]
        assert getattr(result, metric) == means.get(f"{metric},none")
