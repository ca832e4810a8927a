"""What `prune` leaves as it was, what it refuses, and that every registered method goes through it."""

import re

import pytest
import torch

from reproducer import prune
from reproducer.errors import UserError
from reproducer.methods.prune import decide
from reproducer.methods.registry import METHODS, Request
from reproducer.pruning.collect import collect
from reproducer.pruning.cut import Cut
from tests.helpers import decoder_layers, tiny, tokens

SIMPLE = {"random", "magnitude", "vector", "llm-pruner-e1", "llm-pruner-e2", "llm-pruner-mix", "adapruner"}


# The model stays as it was.


def test_training_mode_does_not_change_scores():
    model, ids = tiny(attention_dropout=0.5), tokens(3, 6)
    expected = prune(model, "llm-pruner-e2", ids, structure_ratio=0.25)
    model.train()
    model.activation_checkpointing_enable()
    found = prune(model, "llm-pruner-e2", ids, structure_ratio=0.25)
    assert found == expected
    for index, kinds in expected.scores.items():
        assert all(torch.equal(values, found.scores[index][kind]) for kind, values in kinds.items())


# Every method.


def test_one_pass_for_all_methods():
    """Statistics that were collected for all of them together give each the plan that it gets alone."""
    model, ids, cut = tiny("qwen2", groups=2, layers=4), tokens(4, 8), Cut(structure_ratio=0.4)
    names = [*sorted(SIMPLE), "tests.extension.my_wanda:my_wanda", "tests.extension.my_bias:my_bias"]
    rules = {name: METHODS.get(name).make() for name in names}
    together = collect(model, ids, [1, 2], {statistic for rule in rules.values() for statistic in rule.needs})
    for name in names:
        plan = decide(Request(model, METHODS.get(name), cut, ids=ids, layers=[1, 2], seed=3, statistics=together))
        alone = prune(model, name, ids, structure_ratio=0.4, layers=[1, 2], seed=3)
        assert plan.tensors.keys() == alone.tensors.keys()
        plan.tensors = alone.tensors  # a bias may be rounded otherwise
        assert plan == alone


# What is refused.


@pytest.mark.parametrize(
    ("method", "parameter", "hint"),
    [("adapruner", "alpha3", "alpha"), ("magnitude", "power", "choose one of: p"), ("vector", "alpha1", "none")],
)
def test_an_unknown_parameter(method, parameter, hint):
    with pytest.raises(UserError, match=rf"'{method}' has no parameter '{parameter}'\n.*{hint}"):
        prune(tiny(), method, tokens(2, 5), structure_ratio=0.25, **{parameter: 1})


@pytest.mark.parametrize("layers", [[3], [-1], range(1, 4), [], range(10, 20)], ids=str)
def test_layers_out_of_range(layers):
    with pytest.raises(UserError, match="layers 0 to 2"):
        prune(tiny(), "magnitude", structure_ratio=0.25, layers=layers)


def test_layers_in_any_order_and_by_default():
    model = tiny(layers=16)
    assert prune(model, "magnitude", structure_ratio=0.25).layers == list(range(2, 15))
    for layers in ([5, 3, 4], (3, 4, 5, 5), range(3, 6)):
        assert prune(model, "magnitude", structure_ratio=0.25, layers=layers).layers == [3, 4, 5]


@pytest.mark.parametrize(
    ("calibration", "message"),
    [
        (None, "needs calibration samples"),
        (tokens(2, 5).int(), "int32"),
        (tokens(2, 5).float(), "float32"),
        (tokens(2, 5)[0], r"shape \(5,\)"),
        (tokens(2, 1), r"shape \(2, 1\)"),
        (tokens(0, 5), r"shape \(0, 5\)"),
        (tokens(2, 5) + 57, "vocabulary of 61"),
        (tokens(2, 5) - 61, "vocabulary of 61"),
        (tokens(2, 65), "limit is 64"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_calibration_that_does_not_fit(calibration, message):
    with pytest.raises(UserError, match=message):
        prune(tiny(), "vector", calibration, structure_ratio=0.25)


def whole_numbers(model):
    linear = decoder_layers(model)[1].mlp.up_proj
    linear.weight = torch.nn.Parameter(torch.zeros(24, 32, dtype=torch.int8), requires_grad=False)


QUANTISED = {
    "by its weights": (whole_numbers, r"quantised: model\.layers\.1\.mlp\.up_proj\.weight is int8"),
    "eight bits of floating point": (
        lambda model: decoder_layers(model)[1].mlp.up_proj.to(torch.float8_e4m3fn),
        r"up_proj\.weight is float8_e4m3fn",
    ),
}


@pytest.mark.parametrize("how", QUANTISED)
@pytest.mark.parametrize("method", ["vector", "ddp"])
def test_a_method_that_needs_gradients_refuses_a_quantised_model(method, how):
    model = tiny()
    change, told = QUANTISED[how]
    change(model)
    with pytest.raises(UserError) as refused:
        prune(model, method, tokens(2, 6), structure_ratio=0.25, layers=[1])
    first, hint = str(refused.value).split("\n")
    assert re.search(rf"^method '{method}' needs gradients of floating-point weights; .*{told}", first)
    assert "load the model unquantised" in hint


def test_a_setting_that_is_left_over_makes_no_model_quantised():
    model = tiny()
    plain = prune(model, "vector", tokens(2, 6), structure_ratio=0.25, layers=[1])
    model.config.quantization_config, model.hf_quantizer = {"quant_method": "gptq", "bits": 3}, object()
    assert prune(model, "vector", tokens(2, 6), structure_ratio=0.25, layers=[1]) == plain


@pytest.mark.parametrize("wrong", [{"input_ids": tokens(2, 6)}, "a text", [[1, 2, 3]], tokens(2, 6).numpy()])
def test_samples_that_are_no_tensor_are_told(wrong):
    with pytest.raises(UserError, match=r"calibration is a \w+(.|\n)*LongTensor \[samples, length\](.|\n)*input_ids"):
        prune(tiny(), "vector", wrong, structure_ratio=0.25, layers=[1])
