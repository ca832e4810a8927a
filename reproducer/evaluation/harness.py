"""The two things lm-eval needs from us: rows that were read elsewhere, and batches of a size that fits."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import lm_eval
import lm_eval.api.task
import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import CacheHook
from lm_eval.api.task import ConfigurableTask
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks._yaml_loader import load_yaml

from reproducer.errors import UserError

# Where lm-eval keeps the definition of each task. Its own index knows too, but reads some 14,000 files for it.
DEFINITIONS = {
    "boolq": "super_glue/boolq/default.yaml",
    "piqa": "piqa/piqa.yaml",
    "hellaswag": "hellaswag/hellaswag.yaml",
    "winogrande": "winogrande/default.yaml",
    "arc_easy": "arc/arc_easy.yaml",
    "arc_challenge": "arc/arc_challenge.yaml",
    "openbookqa": "openbookqa/openbookqa.yaml",
}


def task_config(name: str) -> dict[str, Any]:
    """lm-eval's own configuration of task `name`; of `quiz`, the one beside this file."""
    here, theirs = Path(__file__).parent, Path(lm_eval.__file__).parent / "tasks"
    path = here / "quiz.yaml" if name == "quiz" else theirs / DEFINITIONS[name]
    if not path.is_file():
        raise UserError(f"lm-eval {lm_eval.__version__} has no definition of task {name} at {path}")
    return load_yaml(path)


def task_on_rows(config: dict[str, Any], rows: list[dict]) -> ConfigurableTask:
    """lm-eval's task with prompts, targets and metrics as `config` has them, on `rows` as its only split."""
    config = dict(config)
    split = config.get("test_split") or config["validation_split"]
    for key in ("tag", "dataset_path", "dataset_name", "dataset_kwargs"):
        config.pop(key, None)
    for key in ("training_split", "validation_split", "test_split", "fewshot_split"):
        config[key] = None  # zero-shot: no other split is needed, and a mirror may not have it
    config |= {"test_split": split, "num_fewshot": 0}
    rows_as_data = datasets.Dataset.from_list(rows)
    return ConfigurableTask(config=config | {"custom_dataset": lambda **_: {split: rows_as_data}})


class BudgetedLM(HFLM):
    """lm-eval's wrapper of a model object, with batches by token budget and no silent cuts.

    Args:
        model: a transformers causal language model, pruned or not.
        tokenizer: its tokenizer; left as it is (lm-eval would give it a padding token, which goes to a copy;
            likelihoods never read a padded position).
        batch_tokens: tokens of a batch, padding included; one sequence at least.
        progress: called with (requests answered, requests in all).

    Raises:
        UserError: a tokenizer without an end-of-sequence or beginning-of-sequence token; a prompt with its
            answer that is longer than the model's context (lm-eval would cut the prompt's beginning off); an
            answer without a token of its own; a likelihood that is not finite.
    """

    def __init__(self, model, tokenizer, batch_tokens: int, progress: Callable[[int, int], None] | None = None) -> None:
        if tokenizer.bos_token_id is None and tokenizer.eos_token_id is None:
            raise UserError(
                f"the tokenizer {tokenizer.name_or_path or type(tokenizer).__name__} has neither a beginning-of-"
                "sequence nor an end-of-sequence token, one of which lm-eval needs",
                "set one in its tokenizer_config.json",
            )
        if tokenizer.pad_token_id is None:
            tokenizer = copy.deepcopy(tokenizer)
        # With "auto", lm-eval asks `_batch_scheduler` for the size of every batch.
        super().__init__(pretrained=model, tokenizer=tokenizer, batch_size="auto")
        self._batch_tokens = batch_tokens
        self._progress = progress
        self._instances: list[Instance] = []
        self._rows, self._next, self._positions = 1, 0, 0

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        self._instances = requests
        if self._progress is not None:
            self.set_cache_hook(_Counter(self._progress, len(requests)))
        return super().loglikelihood(requests, disable_tqdm=True)

    def _loglikelihood_tokens(self, requests, disable_tqdm: bool = False, override_bs: int | None = None):
        for instance, (_, context, answer) in zip(self._instances, requests, strict=True):
            length = len(context) + len(answer) - 1  # the last token is only predicted
            if length > self.max_length:
                raise UserError(
                    f"item {instance.doc_id} of {instance.task_name} is {length} tokens long, more than the model's "
                    f"context of {self.max_length}; cutting it would change what is measured",
                    f"take {instance.task_name} out of evaluate.tasks, a smaller evaluate.limit, or a model with a "
                    "longer context",
                )
            if not answer:
                raise UserError(
                    f"item {instance.doc_id} of {instance.task_name}: answer {instance.args[1]!r} adds no token to "
                    "its prompt"
                )
        self._next = 0
        answers = super()._loglikelihood_tokens(requests, disable_tqdm, override_bs)
        for instance, (likelihood, _) in zip(self._instances, answers, strict=True):
            if not math.isfinite(likelihood):
                raise UserError(
                    f"item {instance.doc_id} of {instance.task_name}: the likelihood of an answer is {likelihood}",
                    f"the weights hold non-finite values or overflow in {self.model.dtype}; try dtype: float32",
                )
        return answers

    def _batch_scheduler(self, pos: int, n_reordered_requests) -> int:
        """Rows of the batch that request `pos` is in; requests come longest first, so its first sets the width."""
        if pos == self._next:
            _, context, answer = n_reordered_requests[pos]
            width = len(context) + len(answer) - 1
            self._rows = max(1, self._batch_tokens // width)
            self._next = pos + self._rows
            # An answer's first token is predicted by its prompt's last: no row needs what stands before that.
            shortest = min(len(context) for _, context, _ in n_reordered_requests[pos : self._next])
            self._positions = width - shortest + 1
        return self._rows

    def _model_call(self, inps, attn_mask=None, labels=None):
        """Logits of the batch's last positions, as many as its answers need: lm-eval counts them from the end."""
        with torch.no_grad():
            return self.model(inps, logits_to_keep=self._positions).logits


class _Counter(CacheHook):
    """lm-eval tells a cache hook about every answered request; this one only counts them."""

    def __init__(self, progress: Callable[[int, int], None], total: int) -> None:
        super().__init__(None)
        self._progress, self._done, self._total = progress, 0, total

    def add_partial(self, attr, req, res) -> None:
        self._done += 1
        self._progress(self._done, self._total)


@contextmanager
def quiet() -> Iterator[None]:
    """Without the progress bars and remarks of lm-eval and datasets; their settings as before afterwards."""
    logger, bars, tqdm = logging.getLogger("lm_eval"), datasets.are_progress_bars_disabled(), lm_eval.api.task.tqdm
    level = logger.level
    try:
        logger.setLevel(logging.ERROR)
        datasets.disable_progress_bars()
        lm_eval.api.task.tqdm = lambda iterable, **_: iterable
        yield
    finally:
        logger.setLevel(level)
        lm_eval.api.task.tqdm = tqdm
        if not bars:
            datasets.enable_progress_bars()
