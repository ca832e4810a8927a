"""A kind of recovery in a user's own module: found by its name, trained, resumed, loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lora_cases import contents, rows_file, uneven_llama, word_tokenizer

from reproducer.models import training
from reproducer.recovery.registry import RECOVERIES, Job
from reproducer.registry import source_digest

SETTINGS = {"dataset": rows_file(), "learning_rate": 1e-2, "epochs": 4, "batch": 4, "warmup_steps": 0, "cutoff": 96}
IDS = torch.arange(2, 42).view(2, 20)


@pytest.fixture
def kind(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "extension"))
    kind = RECOVERIES.get("my_recovery:NormTuning")
    assert source_digest(kind) is not None
    return kind(**SETTINGS)


def test_it_learns_and_what_it_leaves_is_loaded(kind, tmp_path):
    model = uneven_llama()
    losses = kind.train(Job(model, word_tokenizer(), tmp_path, seed=0))
    assert losses[-1]["loss"] < losses[0]["loss"]
    assert contents(tmp_path).keys() == {"norms.safetensors"}
    loaded, merged = (kind.apply(uneven_llama(), tmp_path, merge=merge) for merge in (False, True))
    changed = {
        name for name, tensor in uneven_llama().state_dict().items() if not tensor.equal(loaded.state_dict()[name])
    }
    assert changed and all("norm" in name for name in changed)
    with torch.no_grad():
        assert torch.equal(loaded(IDS).logits, model.eval()(IDS).logits)
        assert torch.equal(loaded(IDS).logits, merged(IDS).logits)


def test_interrupted_it_ends_with_the_same_bits(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0)

    def interrupt(done: float, total: float, text: str) -> None:
        if done > 3:
            raise KeyboardInterrupt

    unbroken = kind.train(Job(uneven_llama(), word_tokenizer(), tmp_path / "unbroken", seed=0))
    with pytest.raises(KeyboardInterrupt):
        kind.train(Job(uneven_llama(), word_tokenizer(), tmp_path / "broken", 0, interrupt))
    assert kind.train(Job(uneven_llama(), word_tokenizer(), tmp_path / "broken", seed=0)) == unbroken
    assert contents(tmp_path / "broken") == contents(tmp_path / "unbroken")
