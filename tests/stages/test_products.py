"""Stages form narrow products in float32 where the processor is slow at them, and take times without."""

import pytest
from torch.utils._python_dispatch import _get_current_dispatch_mode

from reproducer.cli import main
from reproducer.evaluation import efficiency, perplexity
from reproducer.models import products
from reproducer.models.products import WideProducts

SPEC = """\
name: narrow
models: [{name: tiny, dtype: bfloat16}]
methods: [llm-pruner-e2]
prune: {ratio: 0.2}
calibration: {dataset: python-topics, samples: 2, length: 16}
evaluate: {perplexity: [python-topics], windows: 2, seq_len: 32, speed: {prefill: 4, decode: 2, repeats: 1}}
"""


@pytest.mark.parametrize("slow", [True, False])
def test_until_a_stage_ends_but_not_while_it_is_timed(tmp_path, monkeypatch, slow):
    seen = {}
    for module, name in ((perplexity, "perplexity"), (efficiency, "measure_speed")):
        monkeypatch.setattr(module, name, spy(getattr(module, name), seen, name))
    monkeypatch.setattr(products, "has_fast_products", lambda dtype: not slow)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spec.yaml").write_text(SPEC)
    assert main(["spec.yaml", "--device", "cpu"]) == 0
    assert seen == {"perplexity": slow, "measure_speed": False}
    assert not isinstance(_get_current_dispatch_mode(), WideProducts)  # nothing is left of it


def spy(function, seen, name):
    def spied(*arguments, **keywords):
        seen[name] = isinstance(_get_current_dispatch_mode(), WideProducts)
        return function(*arguments, **keywords)

    return spied
