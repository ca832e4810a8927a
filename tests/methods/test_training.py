"""Training that is interrupted ends with the same bits as one that is not."""

import pytest
import torch

from reproducer.errors import UserError
from reproducer.methods.prune import train
from reproducer.methods.registry import METHODS, Request
from reproducer.methods.training import train_steps, trained
from reproducer.models import training
from reproducer.models.tokens import Tokens
from reproducer.pruning.cut import Cut
from tests.helpers import tiny, tokens

SHORT = {"ddp": {"steps": 7, "batch": 3}}
SHORT["lorashear"] = {"warmup_steps": 2, "periods": 2, "period_steps": 3, "batch": 3}
STEPS = {"ddp": 7, "lorashear": 8}


class Killed(Exception):
    pass


def request(method, directory, parameters=None, **more):
    """Of a method on three layers, or on one."""
    model = tiny(groups=2, channels=64)
    cut = Cut(ratio=0.2)
    return Request(
        model, METHODS.get(method), cut, parameters or {}, ids=tokens(5, 8), seed=3, directory=directory, **more
    )


def killed_after(steps, seen):
    def progress(done, total, text):
        seen.append(done)
        if done == steps:
            raise Killed

    return progress


@pytest.mark.parametrize("kill", [1, 3, 5])
@pytest.mark.parametrize("method", sorted(SHORT))
def test_killed_and_run_again(method, kill, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir(), parts.mkdir()
    train(request(method, whole, SHORT[method]))
    seen = []
    with pytest.raises(Killed):
        train(request(method, parts, SHORT[method], progress=killed_after(kill, seen)))
    assert not (parts / "trained.safetensors").exists()
    train(request(method, parts, SHORT[method], progress=killed_after(-1, seen)))
    assert seen == list(range(1, STEPS[method] + 1))  # no step twice
    expected, found = trained(whole), trained(parts)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert [path.name for path in parts.iterdir()] == ["trained.safetensors"]
    train(request(method, parts, SHORT[method], progress=killed_after(-1, seen)))
    assert len(seen) == STEPS[method]  # done: nothing is left to do


def job(directory, **more):
    return request("ddp", directory, layers=[1], **more)


def count(job, losses=(), steps=6, settings=None, batch=2):
    """A training of one number, which counts tokens as its caller would; the samples that its steps saw."""
    weight, seen = torch.zeros((), requires_grad=True), []
    optimizer = torch.optim.Adam([weight], lr=0.1)

    def step(number, ids):
        seen.append([next(i for i in range(5) if torch.equal(job.ids[i], row)) for row in ids])
        job.tokens.forward += ids.numel()
        job.tokens.backward += 2 * ids.numel()
        optimizer.zero_grad()
        (weight - number).square().backward()
        optimizer.step()
        return losses[number] if number < len(losses) else 1.0

    train_steps(job, {"weight": weight}, optimizer, step, steps=steps, batch=batch, settings=settings or {})
    return seen


def test_tokens_of_before_the_interruption_count(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    with pytest.raises(Killed):
        count(job(tmp_path, progress=killed_after(4, [])))
    second = job(tmp_path)
    assert len(count(second)) == 2
    assert second.tokens == Tokens(forward=6 * 16, backward=2 * 6 * 16)


def test_another_training_does_not_take_up_a_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    with pytest.raises(Killed):
        count(job(tmp_path, progress=killed_after(4, [])), settings={"rate": 1})
    assert len(count(job(tmp_path), settings={"rate": 2})) == 6
    assert len(count(job(tmp_path), settings={"rate": 2})) == 0
    assert len(count(job(tmp_path), settings={"rate": 3})) == 6


@pytest.mark.parametrize("batch", [1, 2, 5, 7, 12])
def test_every_sample_once_before_one_comes_again(batch, tmp_path):
    seen = [sample for step in count(job(tmp_path), steps=10, batch=batch) for sample in step]
    assert len(seen) == 10 * batch
    epochs = [seen[start : start + 5] for start in range(0, len(seen) - 4, 5)]
    assert all(sorted(epoch) == list(range(5)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1  # in another order


def test_a_loss_that_is_not_finite(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    with pytest.raises(UserError, match="the loss is not finite at step 3 of 6"):
        count(job(tmp_path), losses=[1.0, 2.0, float("inf")])
    assert not (tmp_path / "trained.safetensors").exists()
    assert len(count(job(tmp_path))) == 4  # what was there before that step is taken up
