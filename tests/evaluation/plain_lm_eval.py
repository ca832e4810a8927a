"""lm-eval as its users run it, for our results to be compared with."""

import copy

import datasets
import pytest
from lm_eval.evaluator import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from reproducer.data.lm_eval_tasks import task_file
from reproducer.data.tasks import MARGIN


def plain_lm_eval(monkeypatch, model, tokenizer, task, rows, limit=None):
    """Its own evaluation, wrapper and task file, one sequence a batch; only the download is answered with `rows`.

    Args:
        task: what `resolve_task` returns.

    Returns:
        lm-eval's samples and its means of the task.
    """

    def load_dataset(path, name=None, **_):
        assert (path, name or "default") == (task.source.id, task.source.configuration or "default")
        data = datasets.Dataset.from_list(rows)
        return datasets.DatasetDict(dict.fromkeys(("train", "validation", task.source.split), data))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    # Its bootstrap forks, and the tests have threads, whose locks a fork keeps.
    monkeypatch.setenv("DISABLE_MULTIPROC", "1")
    report = simple_evaluate(
        HFLM(pretrained=model, tokenizer=copy.deepcopy(tokenizer), batch_size=1),
        tasks=[task.name],
        num_fewshot=0,
        task_manager=TaskManager(include_path=task_file(task.name).parent, include_defaults=False),
        limit=limit,
        bootstrap_iters=100,
    )
    return report["samples"][task.name], report["results"][task.name]


def assert_same(result, samples, means):
    """The scores of every item, in order, their means and the standard errors of these; margins are not lm-eval's."""
    filters = {sample["filter"] for sample in samples}
    items = {}
    for sample in samples:
        for metric in sample["metrics"]:
            key = f"{metric},{sample['filter']}" if len(filters) > 1 else metric
            items.setdefault(sample["doc_id"], {})[key] = sample[metric]
    assert [item.id for item in result.items] == list(items)
    for item in result.items:
        theirs = {key: score for key, score in item.scores.items() if key != MARGIN}
        assert theirs and theirs.items() <= items[item.id].items()
    scores = {key: value for key, value in means.items() if "," in key and "_stderr" not in key}
    expected = {key if len(filters) > 1 else key.partition(",")[0]: scores[key] for key in scores}
    # A mean over items is exact; a perplexity has the rounding of likelihoods in other batches: nats, some 1e-5 of 100.
    ours = {key: value for key, value in result.scores.items() if key != MARGIN}
    assert ours == pytest.approx(expected, rel=1e-2 if "perplexity" in expected else 1e-12)
    for name, error in result.stderr.items():
        metric, _, filtered = name.partition(",")
        if metric != MARGIN:
            theirs = means[f"{metric}_stderr,{filtered or min(filters)}"]
            assert error == pytest.approx(theirs, rel=1e-12)
