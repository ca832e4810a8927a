"""Group-wise quantisation and its layer, against what is computed group by group without them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from reproducer.recovery.training.groups import GroupedLinear, Layout, grouped
from tests.helpers import examples


@st.composite
def weights(draw):
    shape = draw(st.integers(1, 5)), draw(st.integers(1, 40))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    weight = torch.randn(shape, generator=generator, dtype=torch.float64) * 10.0 ** draw(st.integers(-6, 6))
    weight[:, ::7] *= 30  # outliers, which widen the steps of their groups
    return weight, draw(st.integers(2, 8)), draw(st.integers(2, 12))


def in_groups(weight: torch.Tensor, group: int) -> list[torch.Tensor]:
    """The groups of a row-major weight, one by one: [group] each, the last of a row shorter."""
    return [part for row in weight for part in row.split(group)]


@examples(200)
@given(case=weights())
def test_no_weight_moves_by_more_than_half_a_step(case):
    """The nearest of 2^bits equally spaced levels from the least to the greatest weight of each group."""
    weight, bits, group = case
    quantised = grouped(weight, bits, group).weight()
    for before, after in zip(in_groups(weight, group), in_groups(quantised, group), strict=True):
        levels = torch.linspace(before.min().item(), before.max().item(), 2**bits, dtype=torch.float64)
        rounding = 1e-14 * before.abs().max()
        half = (before.max() - before.min()) / (2**bits - 1) / 2
        assert ((after - before).abs() <= half + rounding).all()
        assert ((after[:, None] - levels).abs().amin(1) <= rounding).all()
        assert after.min() == before.min() and (before.max() - after.max()).abs() <= rounding


@pytest.mark.parametrize("inputs", [24, 26, 5])
@pytest.mark.parametrize("bias", [True, False])
def test_the_layer_is_the_quantised_weight_with_one_number_added_to_each_group(inputs, bias):
    generator = torch.Generator().manual_seed(1)
    linear = nn.Linear(inputs, 7, bias=bias, dtype=torch.float64)
    layer = GroupedLinear(linear, Layout(bits=3, group=8, scale=1.7), rank=3, dropout=0.0)
    x = torch.randn(2, 4, inputs, generator=generator, dtype=torch.float64)
    weight = grouped(linear.weight, 3, 8).weight()
    torch.testing.assert_close(layer(x), nn.functional.linear(x, weight, linear.bias), rtol=0, atol=0)
    with torch.no_grad():
        layer.lora_B.normal_(generator=generator)
    product = 1.7 * layer.lora_B @ layer.lora_A
    for column in range(inputs):
        weight[:, column] += product[:, column // 8].detach()
    torch.testing.assert_close(layer(x), nn.functional.linear(x, weight, linear.bias), rtol=1e-12, atol=1e-12)
