"""Estimates: what is counted agrees with what really runs, and what is told moves as its causes do."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from reproducer.data import sizes
from reproducer.evaluation import operations
from reproducer.evaluation.operations import Allocations, Operations, count
from reproducer.models.catalogue import CATALOGUE
from reproducer.pruning.counting import count as count_model
from reproducer.pruning.statistics import Element, First, Power, Second
from reproducer.queue import Artifact, Outcome, describe_machine
from reproducer.queue.outcome import Result
from reproducer.recovery.groupwise import GroupWise
from reproducer.recovery.lora import Lora
from reproducer.spec import load_spec
from reproducer.stages import cost
from reproducer.stages.cost import Cost, ModelCost, Work
from reproducer.stages.estimates import Device, Estimate, Rates, estimates, model_of
from reproducer.stages.expand import expand
from tests.families import ZOO, family_model

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
ROOT = Path(__file__).parents[2]
SPECS = [
    path for path in sorted((ROOT / "specs").glob("*.yaml")) if path.stem != "paper"
]  # that has the others' stages
PRUNED = "llama-7b LLM-Pruner-E2 25% of structures"


def device(flops: float = 1e14, moved: float = 1e12, memory: float = 80 * GIB) -> Device:
    return Device("a device", int(memory), lambda dtype: Rates(flops, moved, 1e6))


def stages(tmp_path, text=TABLE1, *overrides):
    path = tmp_path / "spec.yaml"
    path.write_text(text)
    return expand(load_spec(path, (), overrides)).stages


def one(tmp_path, label, *overrides, text=TABLE1):
    return next(stage for stage in stages(tmp_path, text, *overrides) if stage.label == label)


def work(tmp_path, label, *overrides, text=TABLE1) -> Work:
    stage = one(tmp_path, label, *overrides, text=text)
    return stage.cost(model_of(stage, Outcome({}))).work


def alone(stage, on=None, outcome=None) -> Estimate:
    found = estimates([stage], outcome or Outcome({}), on or device()).stages[stage.key]
    assert isinstance(found, Estimate), found
    return found


def llama(layers=4, **settings):
    return family_model("llama", layers=layers, dtype=torch.float32, heads=4, groups=2, **settings)


# What is counted


def test_tensors_are_counted_while_they_live():
    def run():
        first = torch.ones(1000)  # 4,000 bytes written
        second = first.view(10, 100) + 1  # 4,000 read, 4,000 written; the view is free
        del first
        second.mul_(2)  # read and written in place: nothing new
        return second[0]

    assert count(run) == Operations(flops=0, bytes=4000 + 8000 + 8000, calls=5, memory=8000)
    assert count(lambda: torch.ones(3, 4) @ torch.ones(4, 5)).flops == 2 * 3 * 4 * 5
    assert count(lambda: torch.ones(4).isfinite().all().cpu().item() or 1 / 0).flops == 0  # nothing has a value to ask


@pytest.mark.parametrize("name", ZOO)
def test_parameters_and_products_of_every_family_are_those_of_the_whole_model(name):
    model = family_model(name, dtype=torch.float32)
    found = ModelCost(model.config.to_dict(), "float32")
    assert found.layers == 3
    assert found.parameters == sum(weight.numel() for weight in model.parameters())
    passed = found.passes(4 * 8, 8, 16, "logits").work
    assert passed.flops == pytest.approx(4 * 2 * count_model(model, length=8).macs)
    assert passed.calls == pytest.approx(found.passes(2 * 8, 8, 16, "logits").work.calls * 2)


def test_the_cut_of_llama_7b_leaves_what_llm_pruner_leaves():
    whole = ModelCost(CATALOGUE["llama-7b"].config, "bfloat16")
    assert whole.parameters == CATALOGUE["llama-7b"].parameters
    cut = whole.cut(SimpleNamespace(ratio=None, structure_ratio=0.25, indices=range(4, 30)))
    norms = 2 * 4096 * 32  # which no cut of heads and channels touches
    assert cut.parameters == pytest.approx(5_422_977_024, abs=norms)
    assert cut.dense() == whole and cut.weights == 2 * cut.parameters
    half = whole.cut(SimpleNamespace(ratio=0.5, structure_ratio=None, indices=None))
    assert half.parameters == pytest.approx(0.5 * whole.parameters)


@pytest.mark.parametrize("needs", [(First(),), (Element(1.0),), (First(), Second())])
def test_statistics_have_the_products_of_a_pass_forward_and_backward(needs):
    model = llama()
    model.set_attn_implementation("eager")  # torch does not count the products of its own attention on a CPU
    ids = torch.randint(61, (5, 12))
    with FlopCounterMode(display=False) as counted:
        model(ids, labels=ids).loss.backward()
    found = ModelCost(model.config.to_dict(), "float32")
    head = 2 * 60 * 61 * 32  # the gradient of its weight, which no statistic needs
    spared = 2 * 2 * 5 * 61 * 32  # logits of the last tokens, which predict nothing, and their gradients
    pairs = 2 * 5 * 4 * 12 * 12 * 8  # a layer's scores of all pairs, which a fused attention makes twice
    whole, once = found.collected(needs, 5, 12, 0).work.flops, found.passes(60, 12, 60, "none").work.flops
    assert whole == counted.get_total_flops() - head - spared + 4 * pairs
    assert whole - found.collected(needs, 5, 12, 2).work.flops == once + 2 * pairs  # two of four run forward alone
    assert found.collected(needs, 5, 12, 0, activations=0).work.flops == whole + once
    weights = found.collected((Power(),), 1, 2, 0).work
    assert weights.flops == 0 < weights.bytes


FUNCTIONS = [
    (cost._pass, (3, 16, "losses", 16), None),
    (cost._pass, (3, 16, "logits", 4), Lora()),
    (cost._collected, ((First(), Second()), 3, 16, False), None),
    (cost._collected, ((Element(1.0),), 3, 16, False), None),
    (cost._training, (3, 16), Lora(rank=2)),
    (cost._training, (3, 16, 1.0), Lora(rank=2)),
    (cost._training, (3, 16), GroupWise(rank=2, group=12)),
    (cost._pass, (3, 16, "losses", 16), GroupWise()),
]


@pytest.mark.parametrize(("function", "sizes", "recovery"), FUNCTIONS)
def test_shapes_that_are_known_count_as_those_that_torch_derives(function, sizes, recovery, monkeypatch):
    config = llama(hidden=64, channels=160).config.to_dict()
    model = replace(ModelCost(config, "bfloat16"), recovery=recovery)._small._models[0]
    run = partial(function, model, *sizes)
    monkeypatch.setattr(operations, "_results", {})
    found = [count(run), count(run)]
    assert operations._results
    monkeypatch.setattr(operations, "_made", lambda operator, args, kwargs: operator(*args, **kwargs))
    assert found == [count(run)] * 2


@pytest.mark.parametrize(("function", "sizes", "recovery"), FUNCTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_memory_is_what_the_function_takes_on_a_whole_model(function, sizes, recovery, dtype):
    """Counted on two and three layers of the meta device, for six; and really run, on a CPU, with six."""
    model = llama(layers=6, hidden=64, channels=160).to(dtype)
    found = replace(ModelCost(model.config.to_dict(), str(dtype).removeprefix("torch.")), recovery=recovery)
    counted = found._counted(function, *sizes)
    run = recovery.adapted(model) if recovery else model
    with Allocations() as made:
        function(run, *sizes)
    assert counted.memory == pytest.approx(made.peak, rel=0.1)


def test_costs_in_a_row():
    first, second = Cost(Work(flops=1, calls=3), 10), Cost(Work(flops=2, read=5), 7)
    assert first + second == Cost(Work(flops=3, calls=3, read=5), 10)
    assert first * 3 == Cost(Work(flops=3, calls=9), 10)


# What it makes of them


@pytest.mark.parametrize("profile", ["paper", "small", "tiny"])
@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_every_stage_of_every_spec_is_estimated_under_every_profile(path, profile):
    queue = expand(load_spec(path, (profile,))).stages
    found = estimates(queue, Outcome({}), device())
    for stage in queue:
        estimate = found.stages[stage.key]
        assert isinstance(estimate, Estimate), (stage.label, estimate)
        assert 0 <= estimate.seconds < math.inf and 0 <= estimate.memory < math.inf
    assert found.seconds == sum(one.seconds for one in found.stages.values() if isinstance(one, Estimate))


@pytest.mark.parametrize(
    ("label", "less", "more"),
    [
        ("llama-7b: wikitext2", "evaluate.windows=64", "evaluate.windows=128"),
        ("llama-7b: boolq", "evaluate.limit=200", "evaluate.limit=400"),
        ("llama-7b: hellaswag", "evaluate.limit=200", "evaluate.limit=400"),
        (PRUNED, "calibration.samples=10", "calibration.samples=20"),
        # of any passages: those of the few that are offered are collected once, however many trials follow
        (
            "llama-7b AdaPruner search 25% of structures",
            "search={trials: 50, offered: 0}",
            "search={trials: 100, offered: 0}",
        ),
    ],
)
def test_twice_the_work_takes_about_twice_as_long(tmp_path, label, less, more):
    rates = device(1e12, 1e11).rates("bfloat16")
    first, second = (rates.seconds(work(tmp_path, label, change)) for change in (less, more))
    assert second / first == pytest.approx(2, rel=0.1)


def test_recovery_goes_by_its_steps_and_by_the_rows_that_there_are(tmp_path, monkeypatch):
    monkeypatch.delenv("REPRODUCER_MIRROR", raising=False)

    def training(**settings):
        text = TABLE1.replace("lora]", f"{json.dumps({'name': 'lora', **settings})}]")
        return work(tmp_path, "llama-7b Vector 25% of structures + lora", text=text).flops

    assert training(steps=400) == pytest.approx(2 * training(steps=200))
    assert training(steps=10**6) == training() == pytest.approx(training(epochs=4) / 2, rel=0.01)
    assert training(examples=5200) == pytest.approx(training() / 10, rel=0.02)
    assert training(cutoff=64) < 0.6 * training()


def test_two_sources_cost_what_one_does_and_the_passes_of_the_text(tmp_path, monkeypatch):
    monkeypatch.delenv("REPRODUCER_MIRROR", raising=False)

    def of(name, **settings):
        text = TABLE1.replace("lora]", f"{json.dumps({'name': name, **settings})}]")
        stage = one(tmp_path, f"llama-7b Vector 25% of structures + {name}", text=text)
        return stage.cost(model_of(stage, Outcome({})))

    plain = of("lora").work.flops

    def more(**settings):
        return of("two-source", **settings).work.flops - plain

    both, steps, pool = more(), more(text_steps=128), more(text_pool=8192)
    assert steps + pool - 2 * both == pytest.approx(both, rel=1e-6), "twice the one and twice the other are twice both"
    weights = 6_738_415_616 - 131_072_000, 5_422_977_024 - 131_072_000  # embeddings multiply nothing
    compared = 2 * 4096 * 128 * sum(weights)
    assert pool - both == pytest.approx(compared, rel=0.05)  # attention's scores aside
    assert steps - both == pytest.approx(64 * 128 * 128 * 4 * weights[1], rel=0.05)  # no gradients of weights
    assert of("two-source").memory > 2 * 6_738_415_616  # the dense model, for a moment beside the other


def test_memory_of_recovery_grows_with_what_is_trained_at_once(tmp_path):
    def memory(size):
        text = TABLE1.replace("lora]", f"{{name: lora, micro_batch: {size}}}]")
        return alone(one(tmp_path, "llama-7b Vector 25% of structures + lora", text=text)).memory

    weights = 2 * 5_422_977_024
    assert (memory(8) - weights) / (memory(4) - weights) == pytest.approx(2, rel=0.1)


def test_a_text_has_no_more_windows_than_there_are(tmp_path):
    whole, many = (work(tmp_path, "llama-7b: ptb", f"evaluate.windows={limit}") for limit in ("null", 10**6))
    assert whole == many
    assert work(tmp_path, "llama-7b: wikitext2").flops / whole.flops == pytest.approx(3, rel=0.01)


def test_methods_differ_as_their_statistics_do(tmp_path):
    names = ("Magnitude", "Vector", "LLM-Pruner-E1", "LLM-Pruner-E2")
    found = {name: work(tmp_path, f"llama-7b {name} 25% of structures") for name in names}
    assert found["Magnitude"].flops == 0 < found["Magnitude"].bytes
    assert found["Vector"].flops == found["LLM-Pruner-E1"].flops == found["LLM-Pruner-E2"].flops
    assert found["LLM-Pruner-E2"].bytes > 2 * found["LLM-Pruner-E1"].bytes


def test_passes_that_a_decision_makes_itself_count(tmp_path):
    """MoreauPruner takes E1's statistics in each of its steps; GPrune-LLM a pass forward."""
    text = TABLE1.replace(
        "methods: [", "methods: [gprune-llm, wanda, moreau, {name: moreau, label: Short, parameters: {steps: 2}}, "
    )
    names = ("MoreauPruner", "Short", "LLM-Pruner-E1", "GPrune-LLM", "Wanda")
    flops = {name: work(tmp_path, f"llama-7b {name} 25% of structures", text=text).flops for name in names}
    assert flops["MoreauPruner"] == pytest.approx(10 * flops["LLM-Pruner-E1"])
    assert flops["Short"] == pytest.approx(2 * flops["LLM-Pruner-E1"])
    assert flops["GPrune-LLM"] == pytest.approx(flops["Wanda"], rel=0.01)


def test_pruned_is_cheaper_than_dense_and_an_adapter_costs_something(tmp_path):
    dense, cut, tuned = (work(tmp_path, f"{model}: ptb") for model in ("llama-7b", PRUNED, f"{PRUNED} + lora"))
    assert cut.flops / dense.flops == pytest.approx(5_422_977_024 / 6_738_415_616, rel=0.01)
    assert cut.flops < tuned.flops < 1.1 * cut.flops and cut.bytes < tuned.bytes


def test_writing_token_by_token_reads_the_weights_for_each(tmp_path):
    spent = work(tmp_path, "llama-7b: text after a prompt")
    assert spent.bytes == pytest.approx(64 * 13.5e9, rel=0.1)


def test_what_does_not_fit_is_told(tmp_path):
    stage, weights = one(tmp_path, PRUNED), 2 * CATALOGUE["llama-7b"].parameters
    memory = alone(stage).memory
    assert weights < memory < 1.5 * weights
    assert not estimates([stage], Outcome({}), device()).misfits
    (line,) = estimates([stage], Outcome({}), device(memory=8 * GIB)).misfits
    assert line.startswith(f"{PRUNED}: needs {memory / GIB:.2f} GiB of 8.00 GiB, {memory / GIB - 8:.2f} GiB too much")
    assert alone(one(tmp_path, PRUNED, "calibration.samples=40")).memory > memory


# What is known already


def made(stage, seconds, directory=Path("nowhere"), cpu=None) -> Result:
    record = {"key": stage.key, "seconds": seconds, "environment": {"cpu": cpu or describe_machine()["cpu"]}}
    return Result(stage, "cached", artifact=Artifact(directory, record))


def test_a_model_is_loaded_once_for_the_stages_behind_one_another(tmp_path):
    first, second = [stage for stage in stages(tmp_path) if stage.label in ("llama-7b: wikitext2", "llama-7b: ptb")]
    together = estimates([first, second], Outcome({}), device()).stages[second.key]
    assert isinstance(together, Estimate)
    loading = Work(read=2 * 6_738_415_616, bytes=4 * 6_738_415_616)
    assert alone(second).seconds - together.seconds == pytest.approx(device().rates("bfloat16").seconds(loading))


def test_what_was_measured_corrects_others_of_its_kind(tmp_path):
    queue = [stage for stage in stages(tmp_path) if stage.kind in ("model", "perplexity", "prune")]
    before = estimates(queue, Outcome({}), device())
    seen = [stage for stage in queue if stage.kind == "perplexity"][:3]
    times = dict(zip(seen, (2, 3, 100), strict=True))
    results = {
        stage.key: made(stage, times[stage] * before.stages[stage.key].seconds) for stage in seen
    }  # their median is 3
    after = estimates(queue, Outcome(results), device())
    for stage in queue:
        factor = 3 if stage.kind == "perplexity" else 1
        assert after.stages[stage.key].seconds == pytest.approx(factor * before.stages[stage.key].seconds)
    todo = [stage for stage in queue if stage not in seen]
    assert after.seconds == pytest.approx(sum(after.stages[stage.key].seconds for stage in todo))
    assert "perplexity 3.00" in after.basis
    elsewhere = {stage.key: made(stage, 1e6, cpu="another") for stage in seen}
    assert estimates(queue, Outcome(elsewhere), device()).stages == before.stages


def test_what_takes_no_time_by_itself_corrects_nothing(tmp_path):
    """A plan is looked up in a moment, with the model at hand; without it, it is the model that takes the time."""
    queue = stages(tmp_path)
    found = estimates(queue, Outcome({}), device()).stages
    lookups = [stage for stage in queue if stage.kind == "prune-found" and found[stage.key].seconds < 1e-3]
    assert lookups
    seen = Outcome({stage.key: made(stage, 0.4) for stage in lookups})
    assert estimates(queue, seen, device()).corrections == {}


def test_a_model_that_was_never_fetched_is_unknown_until_it_is(tmp_path):
    queue = stages(tmp_path, TABLE1.replace("llama-7b", "someone/model"))
    assert set(estimates(queue, Outcome({}), device()).stages.values()) == {"unknown until fetched"}
    folder = tmp_path / "fetched"
    folder.mkdir()
    outcome = Outcome({queue[0].key: made(queue[0], 1.0, folder)})

    def found(config):
        (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
        return list(estimates(queue, outcome, device()).stages.values())

    config = dict(CATALOGUE["llama-7b"].config)
    ours = list(estimates(stages(tmp_path), Outcome({}), device()).stages.values())
    assert found(config | {"dtype": "bfloat16"})[1:] == ours[1:]
    assert set(found("{")) == {"unknown until fetched"}
    for odd in ({"hidden_size": "wide"}, {"model_type": "another"}, {"num_attention_heads": 0}, {"dtype": "float0"}):
        assert all(str(one).startswith("not estimated") for one in found(config | odd)), odd


def test_a_local_folders_config_is_read(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**CATALOGUE["tiny"].config, "torch_dtype": "bfloat16"}))
    stage = stages(tmp_path, TABLE1.replace("llama-7b", str(folder)))[1]
    model = model_of(stage, Outcome({}))
    assert model is not None
    assert (model.parameters, model.dtype) == (CATALOGUE["tiny"].parameters, "bfloat16")


def test_many_samples_cost_what_they_would_if_all_were_counted(monkeypatch):
    model, needs = ModelCost(CATALOGUE["tiny"].config, "float32"), (First(), Second())
    few = model.collected(needs, 40, 32, activations=2**40)
    monkeypatch.setattr(cost, "COUNTED", 10**6)
    whole = model.collected(needs, 40, 32, activations=2**40)
    assert few.work.flops == pytest.approx(whole.work.flops, rel=1e-6)
    assert few.memory == pytest.approx(whole.memory, rel=0.02)


def test_files_here_are_sized(tmp_path, monkeypatch):
    path = tmp_path / "own.txt"
    path.write_text("x" * 40_000)
    assert sizes.file_size({"path": str(path), "field": "text"}) == 40_000
    hub = {"id": "some/set", "configuration": None, "split": "train", "field": "text", "revision": None}
    monkeypatch.setenv("REPRODUCER_MIRROR", str(tmp_path))
    assert sizes.file_size(hub) is None
    mirrored = tmp_path / "some" / "set" / "default"
    mirrored.mkdir(parents=True)
    (mirrored / "train.jsonl").write_text("y" * 8_000)
    assert sizes.file_size(hub) == 8_000
    model = ModelCost(CATALOGUE["tiny"].config, "float32")
    text = SimpleNamespace(name="some/set", source=hub)
    assert model.window_tokens([text], 100, None) == 2000 and model.window_tokens([text, text], 100, 3) == 600
    assert sizes.task_size("boolq", hub, 100)[0] == 100 and sizes.task_size("boolq", hub, 10**6)[0] == 3270
    assert sizes.task_size("some-task", hub, None)[0] == 40  # four sequences of 200 characters an item


def test_the_device_is_measured_once(monkeypatch):
    here = Device.named("cpu")
    assert here.memory > GIB and not here.measured
    rates = here.rates("float32")
    assert rates.flops > 1e7 and rates.bytes > 1e7 and rates.calls > 100
    monkeypatch.setattr(here, "measure", lambda dtype: pytest.fail("measured twice"))
    assert here.rates("float32") is rates


@pytest.mark.mirror
def test_sizes_written_down_are_those_of_the_mirror():
    from reproducer.data.tasks import resolve_task
    from reproducer.data.text import load_text

    for name, characters in sizes.TEXTS.items() - {("c4", sizes.TEXTS["c4"])}:  # a mirror may not have it
        for role in ("report", "search"):
            assert len(load_text(name, role).joined()) == pytest.approx(characters, rel=0.3), (name, role)
    for name, (items, *_) in sizes.TASKS.items():
        assert len(resolve_task(name).rows()) == items, name
