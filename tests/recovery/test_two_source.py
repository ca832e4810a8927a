"""Two-source recovery: which passages are chosen, text before instructions, refusals."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from lora_cases import PAIRS, contents, fresh_adapter, job, text_file, two_source, uneven_llama, word_tokenizer
from torch import nn
from transformers import get_linear_schedule_with_warmup

from reproducer.errors import UserError
from reproducer.recovery.training.examples import Phase, tokenised
from reproducer.recovery.two_source import TwoSource

DENSE = 7  # the seed of `job`'s dense model


def passages() -> dict[int, list[int]]:
    """The first ten tokens of each passage that has so many, by its number in the text."""
    rows = [json.loads(line)["text"] for line in Path(text_file()).read_text().splitlines()]
    ids = {number: word_tokenizer()(row)["input_ids"] for number, row in enumerate(rows)}
    return {number: tokens[:10] for number, tokens in ids.items() if len(tokens) >= 10}


def loss(model: nn.Module, ids: list[int]) -> float:
    """Mean next-token loss as transformers takes it."""
    batch = torch.tensor([ids])
    with torch.no_grad():
        return model(batch, labels=batch).loss.item()


def test_the_passages_that_lost_most_are_taken(tmp_path):
    (phase,) = two_source(text_pool=14).before(job(tmp_path))
    found = passages()
    assert len(found) == 14
    lost = {n: loss(uneven_llama(), ids) - loss(uneven_llama(seed=DENSE), ids) for n, ids in found.items()}
    expected = sorted(sorted(lost, key=lost.__getitem__, reverse=True)[: math.ceil(0.4 * 14)])
    assert 0 < len(expected) < 14 and min(lost.values()) < 0 < max(lost.values()), "a choice for this test to see"
    assert [example.ids for example in phase.examples] == [found[number] for number in expected]
    assert {example.prompt for example in phase.examples} == {0}, "every token is learned"
    rows = json.loads((tmp_path / "passages.json").read_text())["losses"]
    assert [row["passage"] for row in rows] == expected
    for row in rows:
        assert row["pruned"] == pytest.approx(loss(uneven_llama(), found[row["passage"]]), rel=1e-5)
        assert row["dense"] == pytest.approx(loss(uneven_llama(seed=DENSE), found[row["passage"]]), rel=1e-5)


def test_text_comes_first_and_one_adapter_goes_through_both(tmp_path):
    """float64, against a plain loop with peft and transformers over both phases, with one optimiser."""
    settings = two_source(batch=3, micro_batch=1, epochs=1, warmup_steps=1, text_steps=5, text_warmup_steps=2)
    model = uneven_llama(torch.float64)
    dense = uneven_llama(torch.float64, seed=DENSE)
    ours = settings.train(job(tmp_path, 3, model, dense=lambda: dense))
    assert [entry["step"] for entry in ours] == list(range(1, 9))
    assert [entry["examples"] for entry in ours] == [3, 6, 9, 12, 15, 18, 21, 22]

    (text,) = settings.before(job(tmp_path / "..", 3, model, dense=lambda: dense))
    rows, _ = tokenised(PAIRS, word_tokenizer(), settings.cutoff)
    instructions = Phase(rows, steps=3, warmup=1, passes=len(rows))
    plain = fresh_adapter(model, settings, seed=3).train()
    weights = [parameter for parameter in plain.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=settings.learning_rate, weight_decay=0.0)
    schedules = [
        get_linear_schedule_with_warmup(torch.optim.SGD([nn.Parameter()], lr=1e-2), *s) for s in ((2, 5), (1, 3))
    ]
    for number, entry in enumerate(ours):
        phase, within, schedule = (
            (text, number, schedules[0]) if number < 5 else (instructions, number - 5, schedules[1])
        )
        losses = []
        for example in phase.batch(within, size=3, seed=3):
            labels = torch.tensor([example.ids])
            labels[0, : example.prompt] = -100
            losses.append((plain(torch.tensor([example.ids]), labels=labels).loss, example.targets))
        total = sum(one * count for one, count in losses) / sum(count for _, count in losses)
        assert entry["loss"] == pytest.approx(total.item(), rel=1e-6)  # transformers takes its loss in float32
        assert entry["learning_rate"] == pytest.approx(schedule.get_last_lr()[0], rel=1e-12)
        total.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.param_groups[0]["lr"] = entry["learning_rate"]
        optimizer.step()
        schedule.optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    batches = [example for step in range(5) for example in text.batch(step, size=3, seed=3)]
    assert len(batches) == 15 and all(batches.count(example) >= 2 for example in text.examples)


def test_the_dense_model_is_loaded_once_and_neither_model_is_changed(tmp_path):
    loaded = []

    def dense():
        loaded.append(uneven_llama(seed=DENSE))
        return loaded[-1]

    model = uneven_llama().train()
    first = two_source().before(job(tmp_path, model=model, dense=dense))
    assert model.training and all(weight.requires_grad for weight in model.parameters())
    assert two_source().before(job(tmp_path, dense=dense)) == first and len(loaded) == 1
    two_source().before(job(tmp_path, model=uneven_llama(seed=3), dense=dense))
    assert len(loaded) == 2, "what was chosen for another model is not taken over"
    (tmp_path / "passages.json").write_text("{")
    assert two_source().before(job(tmp_path, dense=dense)) == first and len(loaded) == 3


def test_a_model_that_lost_nothing_learns_from_the_first_passages(tmp_path):
    said = []
    (phase,) = two_source().before(job(tmp_path, dense=uneven_llama, say=said.append))
    first = list(passages().values())
    assert all(example.ids in first for example in phase.examples)
    assert said == ["the model loses nothing to the dense one on any passage: the first ones are taken"]


@pytest.mark.parametrize(
    ("changes", "more", "message"),
    [
        ({}, {"dense": None}, "compares the pruned model with the dense one"),
        ({"text_length": 129}, {}, "recovery.text_length: 129 tokens are more than the 128"),
        ({"text_length": 32}, {}, r"asked for 12 samples of at least 32 tokens(.|\n)*smaller recovery.text_pool"),
    ],
)
def test_what_cannot_be_trained(tmp_path, changes, more, message):
    with pytest.raises(UserError, match=message):
        two_source(**changes).train(job(tmp_path, **more))


def test_a_loss_that_is_not_finite_is_told_before_the_first_step(tmp_path):
    model = uneven_llama()
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, 0] = float("nan")
    with pytest.raises(
        UserError, match=r"the loss is not finite before the first step, on a passage of recovery\.text"
    ):
        two_source().train(job(tmp_path, model=model))
    assert not contents(tmp_path)


def test_a_profile_may_replace_both_default_data_sets():
    kinds = {"bookcorpus": "python-topics", "alpaca": "builtin-instructions"}
    replaced = TwoSource().resolved(lambda kind, name: kinds[name])
    assert (replaced.text, replaced.dataset) == ("python-topics", "builtin-instructions")
    assert replaced.sources().keys() == {"text", "dataset"}
    assert replaced.fingerprints().keys() == {"builtin-instructions", "python-topics (calibration)"}
    assert TwoSource().sources()["text"]["id"] == "bookcorpus/bookcorpus"
    assert two_source().resolved(lambda *what: "other") == two_source()
    assert two_source().lengths() == {"cutoff": 96, "text_length": 10}
