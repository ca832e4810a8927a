"""`--offload`: what fits on a device is told to the byte, and stages leave what they leave without it."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import torch
from test_cost import GIB, PRUNED, TABLE1, one, stages

from reproducer import commands, running
from reproducer.cli import _parser, main
from reproducer.models import offload as offloading
from reproducer.queue import Outcome, Store, run
from reproducer.spec import load_spec
from reproducer.stages import estimates as estimating
from reproducer.stages.base import forget
from reproducer.stages.collect import collect
from reproducer.stages.cost import Cost
from reproducer.stages.estimates import Device, Estimate, estimates, resident_layers
from reproducer.stages.expand import expand
from reproducer.stages.schedule import cards, device_named

SEARCH, LORA = "llama-7b AdaPruner search 25% of structures", f"{PRUNED} + lora"
CARDS_24GB = [name for name in cards() if name.endswith("-24gb")]
WEIGHTS = 2 * 6_738_415_616
ROOT = Path(__file__).parents[2]
LAYER = 2 * (4 * 4096**2 + 3 * 4096 * 11008 + 2 * 4096)


def card(memory: float, offload: bool = False) -> Device:
    return dataclasses.replace(device_named("l4-24gb", 1), memory=int(memory), offload=offload)


def told(stage, device: Device) -> tuple[Estimate, list[str]]:
    found = estimates([stage], Outcome({}), device)
    estimate = found.stages[stage.key]
    assert isinstance(estimate, Estimate), estimate
    return estimate, list(found.misfits)


def test_a_7b_search_in_bfloat16_fits_a_24_gb_card(tmp_path):
    """Weights, statistics and hidden states, and all of its layers stay there."""
    stage = one(tmp_path, SEARCH)
    assert stage.dtype == "bfloat16" and len(CARDS_24GB) >= 4
    for name in CARDS_24GB:
        device = device_named(name, 1)
        found, misfits = told(stage, device)
        assert not misfits and WEIGHTS + 2 * GIB < found.memory < min(24e9, device.memory)
        assert resident_layers(stage, Outcome({}), device) == 32
    assert f"about {found.memory / GIB:.0f} GiB" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_what_does_not_fit_is_told_by_how_much_and_what_would_help(tmp_path):
    stage = one(tmp_path, SEARCH)
    found, _ = told(stage, card(80 * GIB))
    _, (line,) = told(stage, card(12 * GIB))
    sizes = f"{found.memory / GIB:.2f} GiB of 12.00 GiB, {found.memory / GIB - 12:.2f} GiB too much"
    assert line == f"{SEARCH}: needs {sizes}; --offload keeps layers in host memory that do not fit"
    _, (line,) = told(stage, card(2 * GIB))
    assert line.endswith(f"; with --offload still {found.least / GIB - 2:.2f} GiB")
    _, (line,) = told(stage, card(2 * GIB, offload=True))
    assert line.endswith(f" of 2.00 GiB, {found.least / GIB - 2:.2f} GiB too much")
    _, (line,) = told(one(tmp_path, LORA), card(12 * GIB))
    assert line.endswith(" GiB too much; it cannot be offloaded: it trains on all layers")


@pytest.mark.parametrize("label", [SEARCH, "llama-7b: wikitext2"])
def test_as_many_layers_stay_as_there_is_room_for(tmp_path, label):
    stage, before = one(tmp_path, label), -1
    whole, _ = told(stage, card(80 * GIB))
    for gib in (5, 7, 9, 12, 14, 16, 24):
        device = card(gib * GIB, offload=True)
        found, misfits = told(stage, device)
        resident = resident_layers(stage, Outcome({}), device)
        assert not misfits and before <= resident <= 32
        before = resident
        away = 32 - resident
        if away:  # two of them may be at hand
            assert found.memory == pytest.approx(whole.memory - (away - 2) * LAYER)
            assert found.memory <= 0.9 * device.memory < found.memory + LAYER, "one more would not fit"
        else:
            assert found.memory == whole.memory <= 0.9 * device.memory
    assert before == 32


def test_what_cannot_be_offloaded_says_why(tmp_path):
    text = TABLE1.replace("llm-pruner-e2, ", "ddp, {name: adapruner, label: Two, search: {workers: 2}}, ")
    text = text.replace("efficiency: {}", "efficiency: {}\n  speed: {}")
    why: dict[str, set[str]] = {}
    for stage in stages(tmp_path, text):
        tuned = " tuned" * (getattr(stage, "recovery", None) is not None)
        why.setdefault(stage.kind + tuned, set()).add(getattr(stage, "whole", "is no stage on a model"))
    assert why == {
        "model": {"is no stage on a model"},
        "search": {"", "each of its workers has the model there"},
        "prune": {"", "the method trains on all layers"},
        "training": {"the method trains on all layers"},
        "prune-found": {""},
        "recovery": {"it trains on all layers"},
        "efficiency": {"it measures the model on the device"},
        "speed": {"it measures the model on the device"},
        **{kind: {""} for kind in ("perplexity", "zeroshot", "generation")},
        **{f"{kind} tuned": {"adapters are not offloaded"} for kind in ("perplexity", "zeroshot", "generation")},
    }
    device = card(1 * GIB)
    for stage in stages(tmp_path, text):
        if getattr(stage, "whole", ""):
            assert resident_layers(stage, Outcome({}), device) == 32


SPEC = """\
name: small
models: [tiny-gqa]
methods: [adapruner]
prune: {ratio: 0.20, layers: [1, 5]}
calibration: {dataset: python-topics, samples: 3, length: 32, pool: 40}
search: {trials: 3, windows: 4}
recovery:
  - none
  - {name: lora, dataset: builtin-instructions, examples: 4, steps: 1, batch: 2, micro_batch: 2, warmup_steps: 0}
evaluate: {perplexity: [python-topics], seq_len: 32, windows: 4, tasks: [quiz], limit: 4, generate: [The]}
"""


def test_a_run_leaves_the_same_with_and_without(tmp_path, monkeypatch):
    (tmp_path / "spec.yaml").write_text(SPEC)
    expansion = expand(load_spec(tmp_path / "spec.yaml"))
    resident, placed = iter([1, 3, 2] * 100), []
    monkeypatch.setattr(estimating, "_resident", lambda model, cost, device: next(resident))
    placing = offloading.offload

    def watched(model, device, count):
        placing(model, device, count)
        placed.append(count)

    monkeypatch.setattr(offloading, "offload", watched)
    found = []
    for offload in (False, True):
        forget()
        outcome = run(expansion.stages, Store(tmp_path / str(offload)), offload=offload)
        assert outcome.ok, [result.message for result in outcome.results.values() if result.message]
        found.append(collect(expansion, outcome))
        assert bool(placed) == offload
    forget()
    assert {1, 2, 3} < set(placed) and max(placed) == 6, "tuned models are not offloaded"
    for plain, other in zip(found[0].rows, found[1].rows, strict=True):
        assert (plain.label, plain.status, plain.metrics, plain.params) == (
            other.label,
            other.status,
            other.metrics,
            other.params,
        )
        assert (plain.generations, plain.window_losses, plain.items) == (
            other.generations,
            other.window_losses,
            other.items,
        )
    assert [one.best for one in found[0].searches] == [one.best for one in found[1].searches]


def gpus(monkeypatch, memory, count=1):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(Device, "named", lambda name: card(memory))


def test_the_flag_is_for_gpus_and_goes_to_the_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spec.yaml").write_text(SPEC)
    for more in ([], ["--dry-run"], ["--dry-run", "--on", "2xhere"]):
        assert main(["spec.yaml", "--device", "cpu", "--offload", *more]) == 2
        assert "--offload is for GPUs" in capsys.readouterr().err
    gpus(monkeypatch, 24 * GIB)
    monkeypatch.setattr(running, "run_queue", lambda *_, **given: given["offload"])
    for flags in ([], ["--offload"]):
        given = _parser().parse_args(["run", "spec.yaml", *flags])
        assert running.run_stages(commands._load(given), given, None) == bool(flags)


def test_what_cannot_run_is_refused_before_anything_does(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = re.sub(r"  (tasks|generate): .*\n", "", re.sub(r"methods: .*", "methods: [vector]", TABLE1))
    (tmp_path / "spec.yaml").write_text(text)
    monkeypatch.setattr(running, "run_queue", lambda *_, **given: given["offload"])
    gpus(monkeypatch, 12 * GIB)
    assert main(["spec.yaml", "--offload"]) == 2
    said = capsys.readouterr().err
    assert "too much; it cannot be offloaded: it " in said and "leave it out of the spec" in said
    given = _parser().parse_args(["run", "spec.yaml"])
    assert running.run_stages(commands._load(given), given, None) is False
    assert "too large for it: " in capsys.readouterr().out
    assert main(["spec.yaml", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "GiB too much" in shown and "; --offload keeps layers in host memory that do not fit" in shown
    assert main(["spec.yaml", "--dry-run", "--offload"]) == 0
    assert "without what it takes to bring offloaded layers" in capsys.readouterr().out
    (tmp_path / "spec.yaml").write_text(text.replace("[none, lora]", "[none]").replace("  efficiency: {}\n", ""))
    given = _parser().parse_args(["run", "spec.yaml", "--offload"])
    assert running.run_stages(commands._load(given), given, None) is True


def test_a_stage_without_an_estimate_gets_half_of_the_memory(tmp_path, monkeypatch):
    stage, seen = one(tmp_path, PRUNED), []
    monkeypatch.setattr(type(stage), "cost", lambda self, model: (_ for _ in ()).throw(NotImplementedError))
    monkeypatch.setattr(estimating, "_resident", lambda model, cost, device: seen.append(cost))
    resident_layers(stage, Outcome({}), card(10 * GIB))
    assert seen == [Cost(memory=0.45 * 10 * GIB)]
