"""The recovery `least-squares`: its files, going on where it was killed, and what a spec may ask of it."""

from __future__ import annotations

import pytest
import torch
from lora_cases import contents, job, text_file, uneven_llama

from reproducer.errors import UserError
from reproducer.recovery.least_squares import LeastSquares
from reproducer.spec import SpecError, load_spec
from reproducer.stages.resolve import resolved

IDS = torch.arange(2, 42).view(2, 20)


def kind(**changes):
    return LeastSquares(**{"texts": [text_file()], "samples": 6, "length": 10} | changes)


def dense(device="cpu"):
    """A model of which `uneven_llama` could be a cut: as many layers of its widths or larger ones."""
    return uneven_llama(seed=7)


def test_what_it_leaves_is_what_it_changed_the_model_to(tmp_path):
    model = uneven_llama()
    assert kind().train(job(tmp_path, model=model, dense=dense)) == []
    assert all(name.startswith("layer-") for name in contents(tmp_path))
    loaded = kind().apply(uneven_llama(), tmp_path)
    with torch.no_grad():
        assert torch.equal(loaded(IDS).logits, model.eval()(IDS).logits)
        assert not torch.equal(loaded(IDS).logits, uneven_llama().eval()(IDS).logits)


def test_killed_it_goes_on_behind_the_last_layer_to_the_same_bits(tmp_path):
    for name in ("unbroken", "broken"):
        (tmp_path / name).mkdir()
    kind().train(job(tmp_path / "unbroken", dense=dense))

    def interrupt(done, total, text):
        raise KeyboardInterrupt

    for _ in range(2):  # each attempt does one more layer
        with pytest.raises(KeyboardInterrupt):
            kind().train(job(tmp_path / "broken", dense=dense, progress=interrupt))
    kind().train(job(tmp_path / "broken", dense=dense))
    assert contents(tmp_path / "broken") == contents(tmp_path / "unbroken")
    done = contents(tmp_path / "broken")
    kind(ridge=1.0).train(job(tmp_path / "broken", dense=dense))  # what other settings left is not taken
    assert contents(tmp_path / "broken") != done


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(UserError, match="has none"):
        kind().train(job(tmp_path, dense=None))
    with pytest.raises(UserError, match="holds no repair of this model"):
        kind().train(job(tmp_path, dense=dense))
        kind().apply(torch.nn.Linear(2, 2), tmp_path)


def test_texts_share_the_samples_and_a_small_one_gives_all_it_has(tmp_path):
    model = uneven_llama()
    seen, said = [], []
    model.model.embed_tokens.register_forward_hook(lambda _, inputs, output: seen.append(inputs[0]))
    options = {"model": model, "dense": dense, "say": said.append}
    kind(texts=[text_file(), "builtin-instructions"], samples=2000).train(job(tmp_path, **options))
    ids = torch.cat([batch for batch in seen if batch.shape[1] == 10 and len(batch) > 1])
    assert said[0].startswith(text_file()) and "1000 were to be fitted to" in said[0]
    assert len(ids.unique(dim=0)) > 20


def test_the_reports_own_rows_are_refused_before_anything_runs(tmp_path):
    path = tmp_path / "spec.yaml"
    path.write_text(
        "name: own\nmodels: [tiny]\nmethods: [magnitude]\nprune: {ratio: 0.2}\n"
        f"evaluate: {{perplexity: [{text_file()}]}}\n"
        f"recovery:\n  - none\n  - {{name: least-squares, texts: [{text_file()}]}}\n"
    )
    with pytest.raises(SpecError, match=r"spec\.yaml:8: recovery\[1\].*same rows"):
        resolved(load_spec(path))
