"""Timed prompts and continuations."""

import pytest
import torch

from reproducer.evaluation import speed
from reproducer.evaluation.speed import measure
from tests.families import family_model
from tests.helpers import tiny


def test_a_prompt_and_its_continuation_are_timed_apart(monkeypatch):
    model, clock, passes = tiny(), iter(range(100)), []

    def note(module, arguments, given):
        cache = given.get("past_key_values")
        passes.append((tuple(given["input_ids"].shape), cache.get_seq_length() if cache is not None else 0))

    model.register_forward_pre_hook(note, with_kwargs=True)
    monkeypatch.setattr(speed.time, "perf_counter", lambda: float(next(clock)) ** 2)
    progress = []
    found = measure(model, 5, 3, batch=2, repeats=2, warmup=1, progress=lambda *done: progress.append(done))
    assert passes == [((2, 5), 0), ((2, 1), 5), ((2, 1), 6), ((2, 1), 7)] * 3
    # the clock is read three times a prompt, and told squares: (n + 1)² − n²
    assert found.prefill == [7.0, 13.0] and found.decode == [9.0, 15.0]
    assert progress[-1] == (3, 3)


def test_the_model_is_left_as_it_was():
    model = tiny().train()
    state = torch.get_rng_state()
    measure(model, 4, 2, repeats=1, warmup=0)
    assert model.training and all(weight.requires_grad for weight in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("family", ["gemma2", "gpt_neox", "opt"])
def test_other_families(family):
    found = measure(family_model(family, dtype=torch.float32), 8, 2, repeats=1, warmup=0)
    assert found.prefill[0] > 0 and found.decode[0] > 0
