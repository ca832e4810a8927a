"""How much is cut where: counts, ratios, rankings and what cannot be had."""

import functools
import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, LlamaConfig

from reproducer import Plan
from reproducer.errors import UserError
from reproducer.models.architecture import architecture_of, layer_shape, parameter_count
from reproducer.pruning.allocation import allocate, check_reachable
from reproducer.pruning.cut import Cut, default_layers
from reproducer.pruning.plan import units_of
from tests.helpers import decoder_layers, examples, rand


@functools.cache
def on_meta(**settings):
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(LlamaConfig(**settings))


def layered(layers=6, heads=6, groups=6, hidden=48, head_dim=8, channels=100, vocab=40):
    return on_meta(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=channels,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=groups,
        head_dim=head_dim,
    )


# SmolLM2-135M's shape (grouped), and a multi-head one of the same size.
SHAPES = {
    "grouped": {
        "vocab_size": 49152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "tie_word_embeddings": True,
    },
    "multi-head": {
        "vocab_size": 32000,
        "hidden_size": 768,
        "intermediate_size": 2048,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
    },
}


def noise(model, layers, seed=0, levels=None):
    """Random scores, of layers of very different scale; with `levels` whole numbers, so that many tie."""
    generator = np.random.default_rng(seed)
    scores = {}
    for index in layers:
        shape = layer_shape(decoder_layers(model)[index], architecture_of(model))
        scale = 1.0 if levels else float(10 ** (4 * generator.random() - 2))
        scores[index] = {}
        for kind in ("heads", "channels"):
            values = rand(shape.counts[kind], seed=generator)
            scores[index][kind] = (values * levels).floor() if levels else values * scale
    return scores


def cut(model, scores, **settings):
    kept = allocate(model, architecture_of(model), scores, Cut(**settings))
    for kind in ("heads", "channels"):
        assert kept[kind].keys() == scores.keys()
        for index, units in kept[kind].items():
            assert units and units == sorted(set(units))
            assert units[0] >= 0 and units[-1] < len(scores[index][kind])
    return kept


def cut_or_keep(model, scores, **settings):
    """`cut`, or all units where that is refused because nothing would go."""
    try:
        return cut(model, scores, **settings)
    except UserError as error:
        assert "removes nothing" in str(error)
        return {kind: {i: list(range(len(of[kind]))) for i, of in scores.items()} for kind in ("heads", "channels")}


def removed(kept, scores, kind):
    return {index: len(scores[index][kind]) - len(units) for index, units in kept[kind].items()}


def share_removed(model, kept):
    plan = Plan(units_of(model, architecture_of(model)), kept)
    return plan.parameters_removed(model) / parameter_count(model)


def assert_lowest_go(kept, values):
    """Within a layer, and first of equals the first: nothing that stays is below anything that goes."""
    for index, units in kept.items():
        ordered = sorted(range(len(values[index])), key=lambda unit: (float(values[index][unit]), unit))
        assert sorted(ordered[len(ordered) - len(units) :]) == units


RATIOS = st.floats(0.001, 0.999)


@examples(40)
@given(
    heads=st.integers(1, 9),
    layers=st.integers(1, 5),
    channels=st.integers(3, 70),
    ratio=st.one_of(RATIOS, st.sampled_from([0.1, 0.2, 0.25, 0.3, 0.5, 0.7])),
    seed=st.integers(0, 99),
    levels=st.sampled_from([None, 1, 3]),
)
def test_local_cuts_take_the_floor_and_the_lowest(heads, layers, channels, ratio, seed, levels):
    model = layered(layers=layers, heads=heads, groups=heads, hidden=8 * heads, channels=channels)
    scores = noise(model, range(layers), seed, levels)
    kept = cut_or_keep(model, scores, structure_ratio=ratio)
    for kind, count in (("heads", heads), ("channels", channels)):
        exact = math.floor(ratio * count + 1e-9)  # 0.3 of ten are three
        assert set(removed(kept, scores, kind).values()) == {min(exact, count - 1)}
        assert_lowest_go(kept[kind], {index: scores[index][kind] for index in scores})


@examples(40)
@given(
    groups=st.integers(1, 4),
    layers=st.integers(1, 7),
    ratio=st.one_of(RATIOS, st.sampled_from([0.25, 0.5])),
    seed=st.integers(0, 99),
    levels=st.sampled_from([None, 1, 3]),
    heads=st.sampled_from(["auto", "pooled"]),
    scope=st.sampled_from(["local", "global"]),
)
def test_groups_are_pooled_and_a_group_stays_in_every_layer(groups, layers, ratio, seed, levels, heads, scope):
    model = layered(layers=layers, heads=2 * groups, groups=groups, hidden=8 * groups)
    scores = noise(model, range(layers), seed, levels)
    kept = cut_or_keep(model, scores, structure_ratio=ratio, heads=heads, scope=scope)
    total = groups * layers
    assert sum(removed(kept, scores, "heads").values()) == min(math.floor(ratio * total + 1e-9), total - layers)
    of_kind = {index: scores[index]["heads"].double() for index in scores}
    assert_lowest_go(kept["heads"], of_kind)
    # What goes has a smaller share of its layer (globally: a smaller score) than what stays, the last one aside.
    if scope == "local":
        of_kind = {index: values / (values.sum() or 1.0) for index, values in of_kind.items()}
    gone = [float(of_kind[i][u]) for i in of_kind for u in range(groups) if u not in kept["heads"][i]]
    stayed = [sorted(float(of_kind[i][u]) for u in kept["heads"][i])[:-1] for i in of_kind]
    spared = [value for values in stayed for value in values]
    if gone and spared:
        assert max(gone) <= min(spared) + 1e-12


@examples(25)
@given(ratio=RATIOS, seed=st.integers(0, 99), levels=st.sampled_from([None, 3]))
def test_global_cuts_rank_all_layers_together(ratio, seed, levels):
    model = layered(channels=30)
    layers = range(1, 6)
    scores = noise(model, layers, seed, levels)
    kept = cut_or_keep(model, scores, structure_ratio=ratio, scope="global")
    for kind, count in (("heads", 6), ("channels", 30)):
        total = len(layers) * count
        gone = removed(kept, scores, kind)
        assert sum(gone.values()) == min(math.floor(ratio * total + 1e-9), total - len(layers))
        values = {index: scores[index][kind] for index in layers}
        assert_lowest_go(kept[kind], values)
        out = [float(values[i][u]) for i in layers for u in range(count) if u not in kept[kind][i]]
        spared = [v for i in layers for v in sorted(float(values[i][u]) for u in kept[kind][i])[:-1]]
        if out and spared:
            assert max(out) <= min(spared)


@examples(25)
@given(ratio=st.floats(0.05, 0.6), seed=st.integers(0, 99))
def test_cuts_by_parameter_take_what_is_worth_least_for_its_size(ratio, seed):
    """Of all kinds and layers; but for the last unit, and a head that is larger than what is still to go."""
    model = layered(channels=300)
    scores = noise(model, range(6), seed)
    kept = cut(model, scores, structure_ratio=ratio, scope="parameters")
    assert abs(share_removed(model, kept) - share_removed(model, cut(model, scores, structure_ratio=ratio))) <= 0.005
    size = {"heads": 4 * 8 * 48, "channels": 3 * 48}
    worth = {kind: {i: (scores[i][kind].double() / size[kind]).tolist() for i in scores} for kind in size}
    out = [
        worth[kind][i][u] for kind in size for i in scores for u in set(range(len(worth[kind][i]))) - set(kept[kind][i])
    ]
    spared = [v for i in scores for v in sorted(worth["channels"][i][u] for u in kept["channels"][i])[:-1]]
    # at most one unit goes out of turn: the one that brings the cut nearest to its size
    assert sorted(out)[-2] <= min(spared)


def test_a_cut_by_parameter_that_removes_nothing_is_refused():
    model = layered()
    for settings in ({"ratio": 1e-6}, {"structure_ratio": 1e-3}):
        with pytest.raises(UserError, match="removes nothing from layers 0 to 5"):
            cut(model, noise(model, range(6)), **settings, scope="parameters")


def test_auto_pools_grouped_models_only():
    for groups, expected in ((6, "local"), (3, "pooled")):
        model = layered(groups=groups)
        scores = noise(model, range(6))
        auto = cut(model, scores, structure_ratio=0.4)
        assert auto == cut(model, scores, structure_ratio=0.4, heads=expected)
        assert auto != cut(model, scores, structure_ratio=0.4, heads={"local": "pooled", "pooled": "local"}[expected])


# The ratio of all parameters.


@examples(20)
@given(
    shape=st.sampled_from(sorted(SHAPES)),
    ratio=st.floats(0.01, 0.4),
    scope=st.sampled_from(["local", "global", "parameters"]),
    heads=st.sampled_from(["auto", "pooled"]),
    round_to=st.sampled_from([1, 8, 64]),
    seed=st.integers(0, 9),
)
def test_a_ratio_of_all_parameters_is_reached(shape, ratio, scope, heads, round_to, seed):
    assume(shape == "grouped" or scope != "local" or heads == "pooled")
    model = on_meta(**SHAPES[shape])
    scores = noise(model, range(3 if shape == "grouped" else 1, model.config.num_hidden_layers), seed)
    kept = cut(model, scores, ratio=ratio, scope=scope, heads=heads, round_to=round_to)
    assert abs(share_removed(model, kept) - ratio) <= 0.005
    assert all(len(units) % round_to == 0 for units in kept["channels"].values())


@pytest.mark.parametrize("percent", [3, 8, 13, 19, 26, 39])
def test_a_ratio_is_reached_where_all_layers_lose_heads_at_once(percent):
    """Twelve heads a layer: one more head from each layer is 1.5 % of the model; channels make up for the rest."""
    model = on_meta(**SHAPES["multi-head"])
    kept = cut(model, noise(model, range(2, 10)), ratio=percent / 100)
    assert abs(share_removed(model, kept) - percent / 100) <= 0.005


@pytest.mark.parametrize("scope", ["local", "global"])
def test_an_unreachable_ratio_says_how_much_can_be_had(scope):
    model = on_meta(**SHAPES["multi-head"])
    scores = noise(model, [4, 5])
    most = share_removed(model, cut(model, scores, structure_ratio=0.9999, scope=scope))
    with pytest.raises(UserError, match=rf"0\.3 cannot be reached.*4 to 5.*{most:.1%}"):
        cut(model, scores, ratio=0.3, scope=scope)


@pytest.mark.parametrize("settings", [{"ratio": 0.2}, {"structure_ratio": 0.25}], ids=str)
@pytest.mark.parametrize("scope", ["local", "global"])
@pytest.mark.parametrize("step", [2, 16, 64, 128])
def test_channels_are_multiples_and_their_sum_is_kept(settings, scope, step):
    model = on_meta(**SHAPES["grouped"])
    scores = noise(model, range(4, 28))
    rounded = cut(model, scores, **settings, scope=scope, round_to=step)
    widths = [len(units) for units in rounded["channels"].values()]
    assert all(width % step == 0 and width > 0 for width in widths)
    assert_lowest_go(rounded["channels"], {index: scores[index]["channels"] for index in scores})
    exact = cut(model, scores, **settings, scope=scope)
    if "ratio" in settings:
        assert abs(share_removed(model, rounded) - settings["ratio"]) <= 0.005
    else:
        assert abs(sum(widths) - sum(map(len, exact["channels"].values()))) <= step / 2
        assert rounded["heads"] == exact["heads"]
    for index, units in rounded["channels"].items():
        if scope == "local":
            assert abs(len(units) - len(exact["channels"][index])) < 2 * step


def test_rounding_gives_the_spare_blocks_to_the_layers_that_need_them():
    model = layered(layers=2, channels=16)
    flat, steep = torch.ones(16), torch.arange(16.0) ** 4
    scores = {i: {"heads": torch.ones(6), "channels": values} for i, values in enumerate((flat, steep))}
    kept = cut(model, scores, structure_ratio=0.375, round_to=4)  # ten stay of each, in blocks 8 + 12
    assert {index: len(units) for index, units in kept["channels"].items()} == {0: 12, 1: 8}


@pytest.mark.parametrize("step", [128, 1000])
def test_rounding_to_more_than_there_is(step):
    model = layered(channels=100)
    with pytest.raises(UserError, match=f"round_to is {step}.*100 channels"):
        cut(model, noise(model, range(6)), structure_ratio=0.25, round_to=step)


# LLM-Pruner's protocol on LLaMA-7B: numbers that were published.


# Settings that cannot be.


WRONG = [
    *(
        ({name: value}, "between 0 and 1")
        for name in ("ratio", "structure_ratio")
        for value in (0, 1.0, -0.1, math.nan)
    ),
    ({}, "exactly one"),
    ({"ratio": 0.2, "structure_ratio": 0.25}, "exactly one"),
    ({"ratio": 0.2, "scope": "everywhere"}, "scope 'everywhere'.*\n.*local, global"),
    ({"ratio": 0.2, "heads": "none"}, "heads 'none'.*\n.*auto, local, pooled"),
    ({"ratio": 0.2, "round_to": 0}, "round_to is 0"),
]


@pytest.mark.parametrize(("settings", "message"), WRONG, ids=str)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(UserError, match=message):
        Cut(**settings)


# What can be told before scores are known.


@examples(60)
@given(
    ratio=st.one_of(st.floats(1e-4, 0.9), st.sampled_from([1e-300, 0.5, 0.999])),
    structural=st.booleans(),
    groups=st.sampled_from([2, 3, 6]),
    scope=st.sampled_from(["local", "global", "uniform"]),
    heads=st.sampled_from(["auto", "local", "pooled"]),
    round_to=st.sampled_from([1, 8, 200]),
    layers=st.sampled_from([None, [1], [0, 2, 3]]),
    seed=st.integers(0, 99),
)
def test_what_is_refused_for_any_scores_is_refused_before(
    ratio, structural, groups, scope, heads, round_to, layers, seed
):
    """And nothing else: where layers are alike, a cut that is not refused before is never refused."""
    model = layered(layers=4, groups=groups)
    settings = Cut(**{"structure_ratio" if structural else "ratio": ratio}, scope=scope, heads=heads, round_to=round_to)
    scores = noise(model, default_layers(4) if layers is None else layers, seed)
    said = []
    for refuse in (
        lambda: check_reachable(model, layers, settings),
        lambda: allocate(model, architecture_of(model), scores, settings),
    ):
        try:
            refuse()
            said.append(None)
        except UserError as error:
            said.append(str(error))
    if scope == "global" and round_to > 1:  # depends on scores
        assert said[0] is None or said[0] == said[1]
    else:
        assert said[0] == said[1]
