"""Estimates of a dry run: their counts agree with independent ones, and they move as what they depend on moves."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from reproducer.models.catalogue import CATALOGUE
from reproducer.pruning.counting import count
from reproducer.spec import load_spec
from reproducer.stages import amounts
from reproducer.stages.costs import Shape, Work, forward, head, shape_of, statistics
from reproducer.stages.device import Device, Rates, this_device
from reproducer.stages.estimates import EFFICIENCY, KINDS, Estimate, basis, estimate, seconds
from reproducer.stages.recipes import VERSIONS
from reproducer.stages.rows import expand
from tests.helpers import tiny

TABLE1 = """\
name: table1
models: [llama-7b]
methods: [magnitude, vector, llm-pruner-e1, llm-pruner-e2, adapruner]
prune: {structure_ratio: 0.25, layers: [4, 30]}
recovery: [none, lora]
evaluate:
  perplexity: [wikitext2, ptb]
  tasks: [boolq, piqa, hellaswag, winogrande, arc_easy, arc_challenge, openbookqa]
  generate: [The universe is the entirety of space]
  efficiency: {}
"""
GIB = 2**30
SPECS = sorted((Path(__file__).parents[2] / "specs").glob("*.yaml"))


def device(flops: float = 1e14, moved: float = 1e12, memory: float = 80 * GIB) -> Device:
    return Device("a device", int(memory), lambda dtype: Rates(flops, moved))


def stages(tmp_path, text=TABLE1, *overrides):
    path = tmp_path / "spec.yaml"
    path.write_text(text)
    return expand(load_spec(path, (), overrides)).stages


def alone(tmp_path, label, *overrides, text=TABLE1, on=None) -> Estimate:
    """The estimate of the stage with that label, in a queue of its own."""
    (stage,) = [stage for stage in stages(tmp_path, text, *overrides) if stage.label == label]
    found = estimate([stage], on or device())[stage.key]
    assert isinstance(found, Estimate)
    return found


def work(tmp_path, label, *overrides, text=TABLE1) -> Work:
    (stage,) = [stage for stage in stages(tmp_path, text, *overrides) if stage.label == label]
    shape = shape_of(stage, {})
    assert shape is not None
    return KINDS[stage.kind](stage, shape)[0]


# What is counted.


@pytest.mark.parametrize("name", CATALOGUE)
def test_a_shape_has_the_models_parameters(name):
    entry = CATALOGUE[name]
    assert Shape.of(entry.config, "float32").parameters == entry.parameters


def test_the_cut_of_llama_7b_leaves_what_llm_pruner_leaves():
    shape = Shape.of(CATALOGUE["llama-7b"].config, "bfloat16")
    cut = shape.cut({"structure_ratio": 0.25, "ratio": None, "layers": [4, 30]})
    assert cut.parameters == pytest.approx(5_422_977_024, abs=1)
    assert cut.dense == shape and cut.bytes == 2 * cut.parameters
    half = shape.cut({"ratio": 0.5, "structure_ratio": None, "layers": None})
    assert half.parameters == pytest.approx(0.5 * shape.parameters)


@pytest.mark.parametrize("groups", [2, 4])
def test_products_are_those_that_counting_finds(groups):
    model = tiny(groups=groups, tied=groups == 2)
    shape = Shape.of(model.config.to_dict(), "float32")
    passed = forward(shape, 3 * 16, 16, 16) + head(shape, 3 * 16, 16)
    assert passed.flops == 3 * 2 * count(model, length=16).macs
    assert passed.layers == 3 * len(model.model.layers)
    gradient = head(shape, 48, 16, gradient=True)
    assert gradient.flops == 2 * head(shape, 48, 16).flops


def test_statistics_have_the_products_of_a_pass_forward_and_backward():
    model = tiny(layers=4)
    model.set_attn_implementation("eager")  # torch does not count the products of its own attention on a CPU
    shape = Shape.of(model.config.to_dict(), "float32")
    ids = torch.randint(61, (5, 12))
    with FlopCounterMode(display=False) as counted:
        model(ids, labels=ids).loss.backward()
    found = statistics(shape, 5, 12, 0, per_sample=False, activations=math.inf)
    unused = head(shape, 60, 60).flops  # the gradient of the head's weights
    assert found.flops == counted.get_total_flops() - unused
    again = statistics(shape, 5, 12, 0, per_sample=False, activations=0)
    once = forward(shape, 60, 12, 60)
    assert again.flops - found.flops == pytest.approx(once.flops)
    upper = statistics(shape, 5, 12, 2, per_sample=False, activations=math.inf)
    assert found.flops - upper.flops == pytest.approx(once.flops)  # two layers of four run forward alone


# What it makes of them.


def test_every_kind_of_stage_has_an_estimate(tmp_path):
    queue = stages(tmp_path)
    found = estimate(queue, device())
    assert set(VERSIONS) == set(KINDS)
    assert {stage.kind for stage in queue} == set(VERSIONS) - {"derived"}
    for stage in queue:
        one = found[stage.key]
        assert isinstance(one, Estimate) and math.isfinite(one.seconds) and one.seconds >= 0, stage.label
        if stage.kind != "model":
            assert one.memory >= 2 * 5_422_977_024, stage.label


@pytest.mark.parametrize("profile", ["paper", "small", "tiny"])
@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_every_spec_is_estimated_under_every_profile(path, profile):
    queue = expand(load_spec(path, (profile,))).stages
    for key, one in estimate(queue, device()).items():
        assert isinstance(one, Estimate) and 0 <= one.seconds < math.inf and one.memory >= 0, (key, one)


def test_a_derived_model_has_its_bases_shape(tmp_path):
    text = (
        TABLE1.replace("[llama-7b]", "[{name: mine, base: llama-7b, tuned: {name: lora, steps: 200}}]")
        + "  windows: 8\n"
    )
    queue = stages(tmp_path, text)
    assert "derived" in {stage.kind for stage in queue}
    assert all(isinstance(one, Estimate) for one in estimate(queue, device()).values())


@pytest.mark.parametrize(
    ("label", "one", "two"),
    [
        ("llama-7b: wikitext2", "evaluate.windows=64", "evaluate.windows=128"),
        ("llama-7b: boolq", "evaluate.limit=200", "evaluate.limit=400"),
        ("llama-7b: hellaswag", "evaluate.limit=200", "evaluate.limit=400"),
        ("llama-7b llm-pruner-e2 25% of structures", "calibration.samples=10", "calibration.samples=20"),
        ("llama-7b adapruner search 25% of structures", "search.trials=50", "search.trials=100"),
    ],
)
def test_twice_the_work_takes_about_twice_as_long(tmp_path, label, one, two):
    rates = device(1e12, 1e11)
    first, second = (seconds(work(tmp_path, label, change), "bfloat16", rates) for change in (one, two))
    assert second / first == pytest.approx(2, rel=0.1)


def test_recovery_goes_by_its_steps_and_by_the_rows_that_there_are(tmp_path):
    def training(**settings):
        text = TABLE1.replace("lora]", f"{json.dumps({'name': 'lora', **settings})}]")
        return work(tmp_path, "llama-7b vector 25% of structures + lora", text=text).flops

    assert training(steps=400) == pytest.approx(2 * training(steps=200))
    assert training(steps=10**6) == training() == pytest.approx(training(epochs=4) / 2, rel=0.01)
    assert training(examples=5200) == pytest.approx(training() / 10, rel=0.02)
    assert training(cutoff=64) < 0.6 * training()


def test_a_text_has_no_more_windows_than_there_are(tmp_path):
    whole, many = (work(tmp_path, "llama-7b: ptb", f"evaluate.windows={limit}") for limit in ("null", 10**6))
    assert whole == many
    longer = work(tmp_path, "llama-7b: wikitext2")
    assert longer.flops / whole.flops == pytest.approx(1_294 / 396, rel=0.01)


def test_methods_differ_as_their_statistics_do(tmp_path):
    names = ("magnitude", "vector", "llm-pruner-e1", "llm-pruner-e2")
    found = {name: work(tmp_path, f"llama-7b {name} 25% of structures") for name in names}
    assert found["magnitude"].flops == 0 < found["magnitude"].bytes
    assert found["vector"] == found["llm-pruner-e1"]
    assert found["llm-pruner-e2"].flops == found["llm-pruner-e1"].flops
    assert found["llm-pruner-e2"].bytes > found["llm-pruner-e1"].bytes


def test_pruned_is_cheaper_than_dense_and_an_adapter_costs_something(tmp_path):
    pruned = "llama-7b vector 25% of structures"
    dense, cut, tuned = (alone(tmp_path, f"{model}: ptb") for model in ("llama-7b", pruned, f"{pruned} + lora"))
    assert cut.seconds < dense.seconds and cut.seconds < tuned.seconds
    assert work(tmp_path, f"{pruned}: ptb").flops / work(tmp_path, "llama-7b: ptb").flops == pytest.approx(
        5_422_977_024 / 6_738_415_616, rel=0.01
    )


def test_a_device_twice_as_fast_takes_half_the_products_time():
    spent = Work(flops=3e15)
    assert seconds(spent, "float32", device(1e14)) == pytest.approx(3e15 / (EFFICIENCY * 1e14))
    assert seconds(spent, "float32", device(2e14)) == pytest.approx(seconds(spent, "float32", device(1e14)) / 2)
    assert seconds(Work(bytes=2e12), "float32", device()) == pytest.approx(2)


def test_writing_token_by_token_reads_the_weights_for_each(tmp_path):
    label = "llama-7b: text after a prompt"
    slow, fast = (alone(tmp_path, label, on=device(1e18, moved)).seconds for moved in (1e11, 2e11))
    assert slow - fast == pytest.approx(64 * 13.0e9 / 2e11, rel=0.1)


def test_a_model_is_loaded_once_for_the_stages_behind_one_another(tmp_path):
    first, second = [stage for stage in stages(tmp_path) if stage.label in ("llama-7b: wikitext2", "llama-7b: ptb")]
    on = device()
    together = estimate([first, second], on)
    apart = estimate([second], on)
    assert apart[second.key].seconds - together[second.key].seconds == pytest.approx(2 * 6_738_415_616 / 1e9)


# Memory.


def test_what_does_not_fit_is_said(tmp_path):
    label = "llama-7b llm-pruner-e2 25% of structures"
    weights = 2 * CATALOGUE["llama-7b"].parameters
    assert weights / GIB == pytest.approx(12.55, abs=0.01)
    found = alone(tmp_path, label)
    assert weights < found.memory < 2 * weights
    assert found.misfit(device(memory=80 * GIB)) == ""
    assert found.misfit(device(memory=8 * GIB)) == f"does not fit: needs {found.memory / GIB:.2f} GiB of 8.00 GiB"
    assert alone(tmp_path, label, "calibration.samples=40").memory > found.memory


def test_memory_of_recovery_grows_with_what_is_trained_at_once(tmp_path):
    label = "llama-7b vector 25% of structures + lora"
    four, eight = (
        alone(tmp_path, label, text=TABLE1.replace("lora]", f"{{name: lora, micro_batch: {size}}}]")).memory
        for size in (4, 8)
    )
    assert four < eight < 2 * four


# What is not known.


def test_a_model_that_was_never_fetched_is_unknown_until_it_is(tmp_path):
    queue = stages(tmp_path, TABLE1.replace("llama-7b", "someone/model"))
    assert set(estimate(queue, device()).values()) == {"unknown until fetched"}
    folder = tmp_path / "fetched"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CATALOGUE["llama-7b"].config | {"dtype": "bfloat16"}))
    known = estimate(queue, device(), {queue[0].key: folder})
    ours = estimate(stages(tmp_path), device())
    assert [one.memory for one in known.values()][1:] == [one.memory for one in ours.values()][1:]
    odd = {"dtype": "float8"}, {"hidden_size": "wide"}, {"num_attention_heads": 0}
    damaged = [json.dumps(CATALOGUE["llama-7b"].config | one) for one in odd]
    for content in ('{"model_type": "another"}', "[]", "{", *damaged):
        (folder / "config.json").write_text(content)
        assert set(estimate(queue, device(), {queue[0].key: folder}).values()) == {"unknown until fetched"}, content


def test_a_local_folders_config_is_read(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**CATALOGUE["tiny"].config, "torch_dtype": "bfloat16"}))
    queue = stages(tmp_path, TABLE1.replace("llama-7b", str(folder)))
    shape = shape_of(queue[1], {})
    assert shape is not None
    assert (shape.parameters, shape.dtype) == (CATALOGUE["tiny"].parameters, "bfloat16")


def test_files_of_ones_own_are_sized(tmp_path):
    path = tmp_path / "own.txt"
    path.write_text("x" * 40_000)
    text = {"name": str(path), "role": "report", "source": {"path": str(path)}}
    assert amounts.text(text) == 40_000
    assert amounts.text({"name": "some/set", "role": "report", "source": {"id": "some/set"}}) == amounts.OTHER_TEXT
    assert amounts.instructions(str(path), {"path": str(path)}, None).rows == pytest.approx(40_000 / 510, abs=1)
    assert amounts.task("boolq", 100).items == 100
    assert amounts.task("boolq", None) == amounts.task("boolq", 10**6)


# The device.


def test_the_device_is_measured_once_and_what_was_measured_is_told(monkeypatch):
    here = this_device("cpu")
    assert here.memory > GIB and not here.measured
    assert "nothing" in basis(here)
    rates = here.rates("float32")
    assert rates.flops > 1e7 and rates.bytes > 1e7
    monkeypatch.setattr(here, "measure", lambda dtype: pytest.fail("measured twice"))
    assert here.rates("float32") is rates
    assert f"{rates.flops / 1e12:.3g} TFLOP/s" in basis(here) and here.label in basis(here)


@pytest.mark.mirror
def test_sizes_written_down_are_those_of_the_mirror():
    """Within a tenth of what is there."""
    from reproducer.data.tasks import load_task_rows
    from reproducer.data.text import load_text

    for (name, role), characters in amounts.TEXTS.items():
        assert len(load_text(name, role).joined()) == pytest.approx(characters, rel=0.1), name
    for name, task in amounts.TASKS.items():
        assert len(load_task_rows(name).rows) == task.items, name
