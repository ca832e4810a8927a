"""Offloaded layers give the numbers of resident ones, bit by bit, and one at a time is on the device.

The device of these tests is the host; what is brought to it is a copy all the same. `two_devices` has another one.
"""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef

from reproducer import prune
from reproducer.evaluation.perplexity import perplexity
from reproducer.methods.adapruner import adapruner
from reproducer.models import offload as offloading
from reproducer.models.architecture import architecture_of
from reproducer.models.load import load_model
from reproducer.models.offload import at_hand, offload, waits
from reproducer.models.random_weights import write_seed
from reproducer.models.walk import LayerWalk
from reproducer.pruning.allocation import Allocation
from reproducer.pruning.collect import Limits, collect
from reproducer.pruning.plan import fingerprint
from reproducer.pruning.statistics import Element, First, InputSquare, InputVariance, Power, Second
from reproducer.search.objective import Objective
from reproducer.search.settings import SearchSettings
from reproducer.search.study import search
from tests.families import family_model
from tests.helpers import tokens

FAMILIES = ["llama grouped tied", "phi3 grouped tied", "opt", "gpt_neox"]
WANTED = (Power(), InputSquare(), InputVariance(), First(), Second(), Element(1.0))
LAYERS = 5
ROOT = Path(__file__).parents[2]


def layers_of(model):
    return architecture_of(model).decoder_layers(model)


@pytest.fixture(params=FAMILIES)
def pair(request):
    """A model, and one with the same weights of which the last two of five layers stay on the device."""
    model = family_model(request.param, layers=LAYERS, dtype=torch.float32)
    other = copy.deepcopy(model)
    offload(other, "cpu", 2)
    assert [waits(layer) for layer in layers_of(other)] == [True] * 3 + [False] * 2
    return model, other


@pytest.fixture
def device(monkeypatch):
    """What is on the device of layers that wait: asked for after every copy, and whenever else a test likes."""
    return Device(monkeypatch)


class Device:
    """Attributes: most, of the layers' weights that were there at once, as a number of whole layers; copies made."""

    def __init__(self, monkeypatch):
        self.most, self.copies, self._there = 0.0, 0, []
        copied = offloading._copied

        def watched(weight, device):
            made = copied(weight, device)
            assert made.data_ptr() != weight.data_ptr()
            self._there.append((StorageWeakRef(made.untyped_storage()), made.nbytes))
            self.copies += 1
            self.most = max(self.most, self.bytes)
            return made

        monkeypatch.setattr(offloading, "_copied", watched)

    @property
    def bytes(self):
        return sum(size for storage, size in self._there if not storage.expired())


def size(layer):
    return sum(weight.nbytes for weight in layer.parameters())


def test_logits_losses_and_cached_generation_are_the_same(pair, device):
    model, other = pair
    ids = tokens(4, 12)
    homes = {name: weight.data_ptr() for name, weight in other.named_parameters()}
    with torch.no_grad():
        assert torch.equal(other(ids, use_cache=False).logits, model(ids, use_cache=False).logits)
        written = []
        for one in (model, other):
            cache = one(ids[:, :-2], use_cache=True).past_key_values
            for place in (-2, -1):
                step = one(ids[:, place : place + 1 or None], past_key_values=cache, use_cache=True)
            written.append(step.logits)
        assert torch.equal(*written)
    assert perplexity(other, ids, batch_tokens=24) == perplexity(model, ids, batch_tokens=24)
    assert device.most == size(layers_of(model)[0]), "one layer at a time"
    assert device.bytes == 0
    assert {name: weight.data_ptr() for name, weight in other.named_parameters()} == homes
    assert fingerprint(other) == fingerprint(model)


@pytest.mark.parametrize("limits", [Limits(), Limits(activations=0, chunk=2**10)], ids=["kept", "computed again"])
@pytest.mark.parametrize("per_sample", [False, True])
def test_statistics_are_the_same_and_take_one_layer_at_a_time(pair, device, limits, per_sample):
    layer = layers_of(pair[0])[0]
    ids, wanted = tokens(3, 10), [one for one in WANTED if one.additive] if per_sample else WANTED
    found = [collect(one, ids, range(1, LAYERS), wanted, limits, per_sample=per_sample) for one in pair]
    for index, modules in found[0].items():
        for path, values in modules.items():
            for statistic, value in values.items():
                assert torch.equal(found[1][index][path][statistic], value), (index, path, statistic)
    assert found[1].keys() == found[0].keys()
    assert 0 < device.most <= size(layer)
    assert device.bytes == 0
    # forward through three layers, and through two of them again when the backward pass gets there
    assert device.copies == 5 * len(list(layer.parameters()))
    forward = [collect(one, ids, [2], [InputSquare()])[2] for one in pair]
    for path in set(forward[0]) & {"self_attn.o_proj", "self_attn.out_proj", "attention.dense"}:
        assert torch.equal(*(found[path][InputSquare()] for found in forward))


def test_a_graph_through_offloaded_layers_reaches_their_weights(pair, device):
    model, other = pair
    ids = tokens(2, 9)
    for one in pair:
        one(ids, labels=ids).loss.backward()
    assert device.bytes == 0
    for (name, weight), twin in zip(model.named_parameters(), other.parameters(), strict=True):
        assert weight.grad is not None and torch.equal(twin.grad, weight.grad), name


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("magnitude", {}),
        ("llm-pruner-mix", {}),
        ("wanda", {}),
        ("flap", {}),
        ("saap", {}),
        ("gprune-llm", {}),
        ("moreau", {"steps": 2, "noise": 0.1}),
        ("shortened-llama", {}),
        ("llm-pruner-e2", {"in_steps": 2}),
    ],
)
def test_methods_make_the_same_plans(method, settings):
    model = family_model("llama grouped tied", layers=LAYERS, dtype=torch.float32)
    other = copy.deepcopy(model)
    offload(other, "cpu", 2)
    ids = tokens(3, 10)
    plans = [prune(one, method, ids, ratio=0.2, layers=range(1, 5), **settings) for one in (model, other)]
    assert plans[0] == plans[1] and plans[0].base == plans[1].base
    for index, of_layer in plans[0].scores.items():
        for kind, scores in of_layer.items():
            assert torch.equal(plans[1].scores[index][kind], scores)


def test_a_plan_cuts_layers_where_they_wait(pair, device):
    model, other = pair
    ids = tokens(2, 9)
    plan = prune(model, "vector", ids, ratio=0.25, layers=range(1, 5))
    smaller = plan.apply(model)
    with torch.no_grad():
        expected = smaller(ids, use_cache=False).logits
        apart = plan.apply(other)
        assert torch.equal(apart(ids, use_cache=False).logits, expected)
        walk = LayerWalk(other, 9)
        hidden = walk.embed(ids)
        for index, layer in enumerate(walk.layers):
            hidden = walk.run(index, hidden, plan.layer(index, layer, walk.architecture))
        assert torch.equal(walk.finish(hidden), architecture_of(smaller).decoder_of(smaller)(ids).last_hidden_state)
        plan.apply_(other)
        assert torch.equal(other(ids, use_cache=False).logits, expected)
    assert waits(layers_of(other)[1]) and waits(layers_of(apart)[1])
    for layer, cut in zip(layers_of(other), layers_of(smaller), strict=True):
        assert size(layer) == size(cut)
    assert device.bytes == 0


def test_a_search_has_the_same_record(tmp_path, device):
    model = family_model("llama grouped tied", layers=LAYERS, dtype=torch.float32, vocab_size=97)
    other = copy.deepcopy(model)
    offload(other, "cpu", 2)
    pool, texts = tokens(12, 10, 97, seed=1), {"a": tokens(9, 8, 97, seed=2), "b": tokens(8, 8, 97, seed=3)}
    records = []
    for name, one in (("resident", model), ("offloaded", other)):
        objective = Objective(one, pool, texts, range(1, 5), Allocation(ratio=0.2), passages=tmp_path / f"{name} files")
        (tmp_path / name).mkdir()
        found = search(
            objective,
            adapruner,
            adapruner.space(),
            SearchSettings(trials=6, start=3, offered=4, baselines=["flap", "llm-pruner-e2", "shortened-llama"]),
            (1, 5, 9),
            tmp_path / name,
            seed=3,
            text=lambda index: f"passage {index}",
        )
        told = found.model_dump()
        # a layer that is computed again for the backward pass counts again
        spent = {key: told["costs"].pop(key) for key in ("seconds", "forward_tokens")}
        assert spent["forward_tokens"] > 0
        records.append({**told, "trials": [{**trial, "seconds": None} for trial in told["trials"]]})
    assert records[0] == records[1]
    assert (tmp_path / "resident" / "plan.safetensors").read_bytes() == (
        tmp_path / "offloaded" / "plan.safetensors"
    ).read_bytes()
    # the layer, and on the device a slice of it, which the slice's own pass copies
    assert device.most <= 2 * size(layers_of(model)[0]) and device.bytes == 0


def test_a_layer_at_hand_is_brought_once(pair, device):
    _, other = pair
    layer, last = layers_of(other)[0], layers_of(other)[-1]
    walk, count = LayerWalk(other, 6), len(list(layer.parameters()))
    hidden = walk.embed(tokens(2, 6))
    with torch.no_grad(), at_hand(layer), at_hand(last):
        for _ in range(3):
            walk.run(0, hidden)
            walk.run(LAYERS - 1, hidden)
        assert device.copies == count and device.bytes == size(layer)
    assert device.bytes == 0


def test_a_pass_that_fails_leaves_the_weights_at_home(pair, device):
    _, other = pair
    layer = layers_of(other)[0]
    homes = [weight.data_ptr() for weight in layer.parameters()]
    with pytest.raises((RuntimeError, ValueError, TypeError)):
        layer(torch.zeros(1, 2, 7))
    assert [weight.data_ptr() for weight in layer.parameters()] == homes and not offloading._visits

    def full(weight, device):
        raise torch.OutOfMemoryError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(offloading, "_copied", full)
        with pytest.raises(torch.OutOfMemoryError):
            other(tokens(1, 4))
        with pytest.raises(torch.OutOfMemoryError), at_hand(layer):
            pass
    assert [weight.data_ptr() for weight in layer.parameters()] == homes and not offloading._visits
    assert other(tokens(1, 4)).logits.isfinite().all()


def test_what_stays_may_change(pair, device):
    model, other = pair
    ids = tokens(1, 8)
    with torch.no_grad():
        expected = model(ids).logits
        for resident, there in ((0, 0), (LAYERS, LAYERS), (4, 4), (1, 1), (99, LAYERS)):
            offload(other, "cpu", resident)
            assert [waits(layer) for layer in layers_of(other)] == [True] * (LAYERS - there) + [False] * there
            before = device.copies
            assert torch.equal(other(ids).logits, expected)
            weights = sum(len(list(layer.parameters())) for layer in layers_of(other)[: LAYERS - there])
            assert device.copies - before == weights


def test_drawn_weights_are_the_same_wherever_they_lie(tmp_path):
    config = family_model("llama").config.to_dict()
    write_seed(config, 3, tmp_path)
    (here, _), (host, _) = load_model(tmp_path), load_model(tmp_path, on_host=True)
    assert fingerprint(here) == fingerprint(host)


def test_nothing_mixes_the_device_and_the_host():
    """On a device that is another one than the host, as a GPU is: every operation looks where its tensors are."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-m", "tests.models.two_devices"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
