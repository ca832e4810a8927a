"""Exported folders of every family, read by transformers in a process that cannot import this package."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import reproducer
from reproducer.models.architecture import architecture_of, layer_shape
from reproducer.pruning.plan import Plan, units_of
from tests.families import SIX, ZOO, family_model, layers_of, random_kept
from tests.helpers import logits, tokens

IDS = tokens(2, 9)


def plan_of(model, kept, **more):
    by_kind = {kind: {index: of[kind] for index, of in kept.items() if kind in of} for kind in ("heads", "channels")}
    return Plan(units_of(model, architecture_of(model)), by_kind, method="random", **more)


def uneven(model):
    """Without its first layer; the others differ in width, and one has a bias where the family has none."""
    architecture = architecture_of(model)
    name = f"{architecture.layers}.2.{architecture.output('channels')}.bias"
    bias = torch.linspace(-1, 1, layer_shape(layers_of(model)[2], architecture).hidden)
    kept = {1: {"heads": [0], "channels": [1, 2, 5]}, 2: random_kept(model, seed=3)[2]}
    return plan_of(model, kept, tensors={name: bias}, removed_layers=[0])


def uniform(model):
    """Without its first layer, and the same number of channels in the others."""
    return plan_of(model, {index: {"channels": list(range(9))} for index in (1, 2)}, removed_layers=[0])


def fewer_heads(model):
    """The same number of heads in every layer: half of them, which divides the hidden size where the whole does."""
    half = layer_shape(layers_of(model)[0], architecture_of(model)).groups // 2 or 1
    return plan_of(model, {index: {"heads": list(range(half))} for index in range(3)})


CUTS = (uneven, uniform, fewer_heads)
CASES = {f"{name} {make.__name__}".replace(" ", "-"): (name, make) for name in SIX for make in CUTS}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """{case: (our model, what the other process found, its config.json, its folder)}."""
    root = tmp_path_factory.mktemp("exported")
    folders = root / "folders"
    ours = {}
    models = {name: family_model(name, **ZOO[name], dtype=torch.float32) for name in SIX}
    for case, (name, make) in CASES.items():
        model, plan = models[name], make(models[name])
        reproducer.export(model, plan, folders / case)
        ours[case] = plan.apply(model)
    save_file({"ids": IDS}, folders / "ids.safetensors")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HOME": str(root / "home"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    script = Path(__file__).with_name("fresh_process.py")
    done = subprocess.run(
        [sys.executable, str(script), str(folders)], cwd=root, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = load_file(folders / "found.safetensors")
    return {
        case: (
            model,
            {name.removeprefix(f"{case}."): value for name, value in found.items() if name.startswith(f"{case}.")},
            json.loads((folders / case / "config.json").read_text()),
            folders / case,
        )
        for case, model in ours.items()
    }


@pytest.mark.parametrize("case", CASES)
def test_the_same_logits_and_the_same_words(exported, case):
    model, found, _, _ = exported[case]
    assert torch.allclose(found["logits"], logits(model, IDS), rtol=1e-5, atol=1e-5)
    if "written" not in found:  # with the family's own classes
        return
    written = model.generate(
        IDS, attention_mask=torch.ones_like(IDS), max_new_tokens=8, do_sample=False, pad_token_id=0, use_cache=True
    )
    assert torch.equal(found["written"], written)
    assert torch.equal(found["padded"], written)


# A number of heads that its own configuration cannot say: its head width is hidden / heads, or a norm spans all heads.
OWN_HEADS = ("gpt_neox", "opt", "olmo2", "olmo3")


@pytest.mark.parametrize("case", CASES)
def test_uniform_models_need_no_code(exported, case):
    name, make = CASES[case]
    model_type = name.split()[0]
    _, _, config, folder = exported[case]
    plain = make is uniform or (make is fewer_heads and model_type not in OWN_HEADS)
    assert config["model_type"] == (model_type if plain else f"pruned_{model_type}")
    assert ("auto_map" in config) == (folder / "modeling_pruned.py").is_file() == (not plain)


def test_a_norm_over_all_heads_keeps_its_epsilon(exported):
    """Of a quarter of the heads it is four times as large, and no other norm's changes."""
    _, _, config, _ = exported["olmo2-uneven"]
    assert config["rms_norm_eps"] == 0.1
    assert config["layer_widths"][0]["norm_epsilons"]["self_attn.q_norm"] == pytest.approx(0.4)
