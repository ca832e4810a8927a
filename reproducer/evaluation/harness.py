"""The two things lm-eval needs from us: rows that were read elsewhere, and batches of a size that fits."""

from __future__ import annotations

import copy
import logging
import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain

import datasets
import lm_eval.api.task
import numpy
import pyarrow
import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import CacheHook
from lm_eval.api.task import ConfigurableTask
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import normalize_gen_kwargs

from reproducer.data.files import DataError
from reproducer.data.lm_eval_tasks import task_config
from reproducer.data.sources import Rows
from reproducer.data.tasks import TASKS, Task
from reproducer.errors import UserError
from reproducer.evaluation.checks import not_finite
from reproducer.models.quiet import quiet
from reproducer.tokenizing import opened

Progress = Callable[[int, int], None] | None
SPLIT = "test"
# Without examples no other split is needed, and a mirror may not have it.
OTHER_SPLITS = ("training_split", "validation_split", "fewshot_split", "fewshot_config")


class TaskOnRows(ConfigurableTask):
    """lm-eval's task with its prompts, targets and metrics on `rows` as its only split, without examples.

    A task's own preparation of its rows (`process_docs`) may draw random numbers and drop rows: it runs once, and
    `limit` counts what it leaves. The catalogue's tasks keep all rows, so that no more than `limit` are prepared.

    Raises:
        UserError: lm-eval cannot read its task, or cannot use these rows.
        DataError: the rows are no table: a field that holds texts in one row and numbers in another, say.
    """

    def __init__(self, task: Task, rows: Rows, limit: int | None) -> None:
        self._name, self._rows = task.name, rows
        form = task.form or task.name
        config = task_config(form, functions=True) | {"task": task.name}
        data = _table(rows, limit if form in TASKS else None)
        with self._suited():
            if prepare := config.pop("process_docs", None):
                data = prepare(data)
                data = data if isinstance(data, datasets.Dataset) else datasets.Dataset.from_list(list(data))
            if len(data) == 0:
                raise UserError(f"lm-eval's task {form} leaves none of the {len(rows)} rows of {rows.location}")
            data = _first(data, limit)
            for key in ("tag", "task_list", "dataset_path", "dataset_name", "dataset_kwargs", *OTHER_SPLITS):
                config.pop(key, None)
            own = {"custom_dataset": lambda **_: {SPLIT: data}, "test_split": SPLIT, "num_fewshot": 0}
            super().__init__(config=config | own)

    def build_all_requests(self, **options) -> None:
        with self._suited():
            super().build_all_requests(**options)

    def right(self, row) -> set[int]:
        """The right choices of a row, counted from 0, as lm-eval finds them: mostly one; none counts as a mistake."""
        # where the choices stand in the prompts and their continuation is shared, the "text" is the right one's index
        answer = self.doc_to_text(row) if self.multiple_input else self.doc_to_target(row)
        choices = self.doc_to_choice(row)
        answers = answer if isinstance(answer, list) else [answer]
        indices = [choices.index(text) if isinstance(text, str) and text in choices else text for text in answers]
        return {index for index in indices if isinstance(index, int) and 0 <= index < len(choices)}

    def margin(self, row, likelihoods: Sequence[float], metric: str) -> float | None:
        """By how much the best right choice of a row is ahead of the best wrong one; None where one of them is missing.

        Compared is what lm-eval compares for `metric`, so that above 0 the row counts as right: log-likelihoods
        (`likelihoods`, one a request of the row) in nats; over the choice's characters for `acc_norm`, over its bytes
        for `acc_bytes`, minus the choice's own without the prompt for `acc_mutual_info`.
        """
        choices, right = self.doc_to_choice(row), self.right(row)
        values = numpy.array(likelihoods[: len(choices)], dtype=float)
        if metric == "acc_norm":
            values = values / [len(choice) for choice in choices]
        elif metric == "acc_bytes":
            values = values / [len(choice.encode()) for choice in choices]
        elif metric == "acc_mutual_info":
            values = values - likelihoods[len(choices) :]
        wrong = [value for index, value in enumerate(values) if index not in right]
        if not right or not wrong:
            return None
        margin = float(max(values[index] for index in right) - max(wrong))
        return margin if math.isfinite(margin) else None  # not so where a choice is an empty text

    @contextmanager
    def _suited(self) -> Iterator[None]:
        try:
            yield
        except UserError:
            raise
        except Exception as error:  # whatever the task's templates and functions raise
            raise UserError(
                f"a row of {self._rows.location} does not suit lm-eval's task {self._name}: "
                f"{type(error).__name__}: {error}",
                f"the first row has the fields {', '.join(self._rows.rows[0])}",
            ) from error


def _table(rows: Rows, limit: int | None) -> datasets.Dataset:
    if isinstance(rows.rows, datasets.Dataset):
        return _first(rows.rows, limit)
    try:
        return datasets.Dataset.from_list([dict(row) for row in rows.rows[:limit]])
    except (pyarrow.ArrowException, OverflowError, RecursionError, TypeError) as error:
        raise DataError(f"{rows.location}: the rows are no table: {error}") from error


def _first(data: datasets.Dataset, limit: int | None) -> datasets.Dataset:
    return data.select(range(min(len(data), limit or len(data))))


class BudgetedLM(HFLM):
    """lm-eval's wrapper of a model object, with batches of so many tokens (one sequence at least) and no silent cuts.

    The tokenizer is left as it is: lm-eval would give it a padding token, which goes to a copy. `progress` is called
    with (requests answered, requests in all).

    Raises:
        UserError: a tokenizer without an end-of-sequence or beginning-of-sequence token; a prompt with its answer that
            is longer than the model's context (lm-eval would cut the prompt's beginning off); an answer without a
            token of its own; a likelihood that is not finite.
    """

    def __init__(self, model, tokenizer, batch_tokens: int, progress: Progress = None) -> None:
        if tokenizer.bos_token_id is None and tokenizer.eos_token_id is None:
            raise UserError(
                f"the tokenizer {tokenizer.name_or_path or type(tokenizer).__name__} has neither a beginning-of-"
                "sequence nor an end-of-sequence token, one of which lm-eval needs",
                "set one in its tokenizer_config.json",
            )
        tokenizer = opened(tokenizer)
        if tokenizer.pad_token_id is None:
            tokenizer = copy.deepcopy(tokenizer)
        super().__init__(pretrained=model, tokenizer=tokenizer, batch_size=1)  # how many rows is decided batch by batch
        self._batch_tokens = batch_tokens
        self._progress = progress
        self._instances: list[Instance] = []

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        self._count(requests)
        return super().loglikelihood(requests, disable_tqdm=True)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        self._count(requests)
        longest = 1
        for instance in requests:
            prompt, options = instance.args
            length = len(self.tok_encode(prompt))
            written = normalize_gen_kwargs(options, self.max_gen_toks)["max_gen_toks"]
            self._fits(instance, length + written, f" and {written} more to answer it")
            longest = max(longest, length)
        self.batch_size_per_gpu = max(1, self._batch_tokens // longest)  # rows of a batch; "auto" would try sizes out
        return super().generate_until(requests, disable_tqdm=True)

    def _model_generate(self, context, max_length: int, stop: list[str], **options) -> torch.Tensor:
        def finite(ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
            if not torch.isfinite(logits).all():
                name = self._instances[0].task_name
                raise not_finite(f"{name}: the logits of an answer are not finite", self.model)
            return logits

        return super()._model_generate(context, max_length, stop, logits_processor=[finite], **options)

    def _count(self, requests: list[Instance]) -> None:
        self._instances = requests
        if self._progress is not None:
            self.set_cache_hook(_Counter(self._progress, len(requests)))

    def _fits(self, instance: Instance, length: int, more: str = "") -> None:
        if length > self.max_length:
            raise UserError(
                f"item {instance.doc_id} of {instance.task_name} is {length} tokens long{more}, more than the model's "
                f"context of {self.max_length}; cutting it would change what is measured",
                f"take {instance.task_name} out of evaluate.tasks, a smaller evaluate.limit, or a model with a "
                "longer context",
            )

    def _loglikelihood_tokens(self, requests, disable_tqdm: bool = False, override_bs: int | None = None):
        """Answers' log-likelihoods in nats, and whether each is the likeliest token by token, as lm-eval computes them.

        But only the positions that predict an answer get logits. As there, requests that differ in nothing but their
        last token share a row.
        """
        sharing: dict[tuple[int, ...], list[int]] = {}
        for number, (instance, (_, context, answer)) in enumerate(zip(self._instances, requests, strict=True)):
            self._fits(instance, len(context) + len(answer) - 1)  # the last token is only predicted
            if not answer:
                item = f"item {instance.doc_id} of {instance.task_name}"
                raise UserError(f"{item}: answer {instance.args[1]!r} adds no token to its prompt")
            sharing.setdefault((*context, *answer[:-1]), []).append(number)
        answered: list[tuple[float, bool]] = [(math.nan, False)] * len(requests)
        inputs = sorted(sharing, key=lambda ids: (-len(ids), ids))  # like lengths together, the longest first
        start = 0
        while start < len(inputs):
            batch = inputs[start : start + max(1, self._batch_tokens // len(inputs[start]))]
            start += len(batch)
            asked = [(row, number) for row, ids in enumerate(batch) for number in sharing[ids]]
            scores = self._scores(batch, [(row, requests[number][2]) for row, number in asked])
            for (_, number), score in zip(asked, scores, strict=True):
                if not math.isfinite(score[0]):
                    item = f"item {self._instances[number].doc_id} of {self._instances[number].task_name}"
                    raise not_finite(f"{item}: the likelihood of an answer is {score[0]}", self.model)
                answered[number] = score
                self.cache_hook.add_partial("loglikelihood", requests[number][0], score)
        return answered

    def _scores(
        self, inputs: Sequence[Sequence[int]], answers: Sequence[tuple[int, Sequence[int]]]
    ) -> list[tuple[float, bool]]:
        """Log-likelihoods of answers (row of `inputs`, tokens), and whether each is the likeliest."""
        width = len(inputs[0])  # the longest comes first
        ids = torch.zeros(len(inputs), width, dtype=torch.long)
        for row, tokens in enumerate(inputs):
            ids[row, : len(tokens)] = torch.tensor(tokens)
        spans = []  # positions of the batch, row after row
        for row, answer in answers:
            end = row * width + len(inputs[row])
            spans.append(range(end - len(answer), end))
        needed = {position: index for index, position in enumerate(sorted(set(chain(*spans))))}
        nats = torch.log_softmax(self._logits(ids, list(needed)), dim=-1)
        at = torch.tensor([needed[position] for position in chain(*spans)], device=nats.device)
        wanted = torch.tensor([token for _, answer in answers for token in answer], device=nats.device)
        values, lengths = nats[at, wanted], [len(answer) for _, answer in answers]
        sums = torch.stack([part.sum() for part in values.split(lengths)]).tolist()
        likeliest = torch.stack([part.all() for part in (values == nats.amax(-1)[at]).split(lengths)]).tolist()
        for index, (positions, tokens) in enumerate(zip(at.split(lengths), wanted.split(lengths), strict=True)):
            if likeliest[index]:  # of several that are, lm-eval means the first; looking for it at once takes longer
                likeliest[index] = bool((nats[positions].argmax(-1) == tokens).all())
        return list(zip(sums, likeliest, strict=True))

    def _logits(self, ids: torch.Tensor, positions: list[int]) -> torch.Tensor:
        """[positions, vocabulary] at these positions of the flattened `ids`; the head sees no others."""
        index = torch.tensor(positions, device=self.device)
        head = self.model.get_output_embeddings()
        picked = head.register_forward_pre_hook(lambda _, states: (states[0].flatten(0, 1)[index].unsqueeze(0),))
        try:
            with torch.no_grad():
                return self.model(ids.to(self.device), use_cache=False).logits[0]
        finally:
            picked.remove()


class _Counter(CacheHook):
    """lm-eval tells a cache hook about every answered request; this one only counts them."""

    def __init__(self, progress: Callable[[int, int], None], total: int) -> None:
        super().__init__(None)
        self._progress, self._done, self._total = progress, 0, total

    def add_partial(self, attr, req, res) -> None:
        self._done += 1
        self._progress(self._done, self._total)


@contextmanager
def alone(device: torch.device) -> Iterator[None]:
    """lm-eval without progress bars and remarks, and at the random numbers that its own runs start from.

    Settings and generators are as before afterwards.
    """
    logger, bars, tqdm = logging.getLogger("lm_eval"), datasets.are_progress_bars_disabled(), lm_eval.api.task.tqdm
    level, python_state, numpy_state = logger.level, random.getstate(), numpy.random.get_state()
    try:
        logger.setLevel(logging.ERROR)
        datasets.disable_progress_bars()
        lm_eval.api.task.tqdm = lambda iterable, **_: iterable
        with quiet(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            random.seed(0)
            numpy.random.seed(1234)
            torch.manual_seed(1234)
            yield
    finally:
        random.setstate(python_state)
        numpy.random.set_state(numpy_state)
        logger.setLevel(level)
        lm_eval.api.task.tqdm = tqdm
        if not bars:
            datasets.enable_progress_bars()
