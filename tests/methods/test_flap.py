"""FLAP: its metric and its biases against what the inputs themselves give, and what a cut may not depend on."""

import pytest
import torch

from reproducer import prune
from reproducer.methods.flap import flap
from reproducer.methods.prune import decide
from reproducer.methods.registry import Request
from reproducer.pruning.collect import collect
from reproducer.pruning.cut import Cut
from reproducer.pruning.statistics import InputMean, InputVariance
from reproducer.spec import SpecError, load_spec
from reproducer.stages.expand import expand
from tests.families import family_model, layers_of
from tests.helpers import tokens
from tests.methods.inputs import ends, inputs_of

SHAPES = {
    "llama": {"heads": 6, "groups": 3, "hidden": 36},
    "llama biased": {"attention_bias": True, "mlp_bias": True},
    "phi3": {"heads": 6, "groups": 3, "hidden": 48},
    "opt": {},
    "gpt_neox": {},
}


def model_of(kind, **more):
    return family_model(kind, **SHAPES[kind], **more)


def standardised(values):
    return (values - values.mean()) / values.std()


def metric_by_hand(metric, weight, inputs):
    variance = ((inputs - inputs.mean(0)) ** 2).mean(0)
    return {
        "wifv": variance * (weight**2).sum(0),
        "ifv": variance,
        "wifn": (weight.abs() * inputs.norm(dim=0)).mean(0),
    }[metric]


@pytest.mark.parametrize("metric", ["wifv", "ifv", "wifn"])
@pytest.mark.parametrize("kind", ["llama", "phi3", "opt"])
def test_scores_by_hand(kind, metric):
    model, ids = model_of(kind), tokens(4, 9)
    plan = prune(model, "flap", ids, structure_ratio=0.4, layers=[1, 2], metric=metric)
    for layer in (1, 2):
        for units, path in ends(model).items():
            weight = layers_of(model)[layer].get_submodule(path).weight.detach()
            values = metric_by_hand(metric, weight, inputs_of(model, ids, layer, path))
            values = standardised(values**2 if units == "heads" else values)
            found = plan.scores[layer][units]
            torch.testing.assert_close(found, values.view(len(found), -1).mean(1), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("kind", SHAPES)
def test_compensated_projections_have_the_mean_output_of_the_whole_ones(kind, dtype, tolerance):
    model, ids = model_of(kind, dtype=dtype), tokens(4, 9)
    plan = prune(model, "flap", ids, structure_ratio=0.4, layers=[0, 1, 2])
    smaller, removed = plan.apply(model), 0
    for layer in range(3):
        for units, path in ends(model).items():
            inputs = inputs_of(model, ids, layer, path)
            kept = plan.kept_heads[layer] if units == "heads" else plan.kept_channels[layer]
            width = inputs.shape[1] // plan.units[layer][units]
            columns = [unit * width + place for unit in kept for place in range(width)]
            removed += inputs.shape[1] - len(columns)
            whole, cut = (layers_of(one)[layer].get_submodule(path) for one in (model, smaller))
            with torch.no_grad():
                expected, found = whole(inputs).mean(0), cut(inputs[:, columns]).mean(0)
            scale = (whole.weight.abs() @ inputs.abs().mean(0)).max().item()
            torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * scale)
    assert removed > 0


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_the_ranking_does_not_depend_on_the_scale_of_a_layers_activations(layer):
    """Scaled by a power of two, numbers are the same but for their exponents."""
    model, ids, cut = model_of("llama"), tokens(4, 9), Cut(structure_ratio=0.4)
    statistics = collect(model, ids, range(3), flap.make().needs)
    request = Request(model, flap, cut, ids=ids, layers=range(3), statistics=statistics)
    expected = decide(request)
    for path in ends(model).values():
        statistics[layer][path][InputVariance()] *= 64
        statistics[layer][path][InputMean()] *= 8
    found = decide(request)
    assert (found.kept_heads, found.kept_channels) == (expected.kept_heads, expected.kept_channels)
    assert any(not torch.equal(found.tensors[name], tensor) for name, tensor in expected.tensors.items())


# What is refused.


SPEC = """\
name: x
models: [tiny]
methods: [vector, {name: flap%s}]
prune: {ratio: 0.2}
calibration:
  dataset: python-topics
  samples: %d
evaluate: {perplexity: [python-topics]}
"""


@pytest.mark.parametrize(
    ("own", "samples", "place"),
    [
        ("", 1, "x.yaml:7: calibration.samples: flap needs 2 samples or more, not 1"),
        (", calibration: {samples: 1}", 10, "x.yaml:3: methods[1].calibration.samples: flap needs 2 samples or more"),
        (", calibration: {samples: 2}", 1, None),
    ],
)
def test_a_single_sample_is_refused_where_a_spec_asks_for_it(own, samples, place, tmp_path):
    (tmp_path / "x.yaml").write_text(SPEC % (own, samples))
    spec = load_spec(tmp_path / "x.yaml")
    if place is None:
        expand(spec)
        return
    with pytest.raises(SpecError) as caught:
        expand(spec)
    assert place in str(caught.value)
