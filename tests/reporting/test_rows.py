import pytest

from reproducer.reporting.latex import tabular
from reproducer.reporting.numbers import effect, other, perplexity, plus_minus, ranged, seconds, setting
from reproducer.reporting.rows import blocks, lines
from reproducer.reporting.tables import Cell, Table

from . import fake


def test_lines_and_blocks_keep_the_order_of_the_rows():
    rows = fake.table1(seeds=(0, 1)).rows
    found = lines([*reversed(rows)])
    backwards = [*reversed(fake.DAMAGE)]
    assert [line.method for line in found] == [*backwards[:5], *backwards]
    assert [len(block) for block in blocks(found)] == [5, 5, 1]
    assert lines([]) == []


def test_equal_means_are_a_tie_whatever_the_order_of_the_seeds():
    """A sum's last digit depends on its order; which row is best must not."""
    given = {"vector": (0.1, 0.2, 0.3), "magnitude": (0.3, 0.2, 0.1)}
    assert sum(given["vector"]) != sum(given["magnitude"])
    rows = [fake.row(method, {"m": v}, seed=seed) for method, of in given.items() for seed, v in enumerate(of)]
    assert [line.mean["m"] for line in lines(rows)] == [0.2, 0.2]


def test_means_are_over_finished_seeds_or_of_what_was_measured():
    rows = [fake.row("vector", {"m": value}, seed=seed) for seed, value in enumerate((1.0, 3.0, 9.0))]
    failed = [fake.change(row, status="failed") for row in rows]
    (line,) = lines([*rows[:2], failed[2]])
    assert (line.status, line.done, line.mean["m"]) == ("done", rows[:2], 2.0)
    (line,) = lines(failed[:2])
    assert (line.status, line.done, line.mean["m"]) == ("failed", [], 2.0)


def test_two_tables_look_the_same_in_both_formats():
    table = Table(["a_b", "x↓"], "lr", repeated=1)
    table.add(["m|n", Cell("1.00", bold=True)])
    table.add(["m|n", "2"])
    table.rule()
    table.add(["m|n", None])
    assert [line.replace(" ", "") for line in table.markdown().splitlines()[2:]] == [
        r"|m\|n|**1.00**|", "||2|", r"|m\|n|–|",
    ]  # fmt: skip
    assert r"m\textbar{}n & \textbf{1.00} \\" in tabular(table.markdown())
    assert tabular(table.markdown()).count("\\midrule") == 2
    with pytest.raises(ValueError, match="3 cells for 2 columns"):
        table.add(["1", "2", "3"])


@pytest.mark.parametrize(
    ("write", "values"),
    [
        (perplexity, {12.624: "12.62", 999.994: "999.99", 999.996: "1000.0", 1022.1: "1022.1", 3456789.0: "3.46e6"}),
        (other, {6.738: "6.74", 12892.61: "12892.6", 0.0034567: "0.003457"}),
        (seconds, {0.004: "4 ms", 59.94: "59.9 s", 59.96: "1 min 00 s", 233: "3 min 53 s", 3599.6: "1 h 00 min"}),
        (setting, {1e-5: "1e-5", 2.5e7: "2.5e7", 100000: "100000", 0.3: "0.3", None: "none"}),
    ],
)
def test_numbers_read_so(write, values):
    assert {value: write(value) for value in values} == values


def test_settings():
    assert setting([0.0, 1e5, "only"]) == "{0, 1e5, only}" and setting({"low": 0.0, "high": 1}) == "[0, 1]"
    assert setting({"a": 1, "b": True}) == "a 1, b yes"


@pytest.mark.parametrize(
    ("value", "half", "text"),
    [(187.96, 62.6, "188 ± 63"), (12.624, 0.0351, "12.624 ± 0.035"), (7710.9, 320.4, "7711 ± 320"), (0.5, 0.0, "0.500"),
     (64.04, None, "64.0"), (12.6249, None, "12.6"), (1234.5, None, "1234"), (-0.0004, 0.3, "0.00 ± 0.30"),
     (3.5e6, 2e5, "3.50e6 ± 200000"), (-0.123, 0.04, "−0.123 ± 0.040")],
)  # fmt: skip
def test_digits_reach_as_far_as_the_interval_lets_them_tell_something(value, half, text):
    assert plus_minus(value, half) == text


@pytest.mark.parametrize(
    ("shown", "text"),
    [(ranged(-10.31, -14.02, -6.61, "per cent"), "−10.3% [−14.0, −6.6]"),
     (ranged(96.1, 93.0, 99.2, "per cent", False), "96.1% [93.0, 99.2]"),
     (ranged(1.31, 1.2, 1.45, "times"), "×1.31 [1.20, 1.45]"), (ranged(3.0, None, None, "points"), "+3 points"),
     (effect(0.0, "points"), "0 points"), (effect(-150.0, "trials"), "−150 trials"), (effect(None, "trials"), None)],
)  # fmt: skip
def test_effects_have_their_unit_and_their_sign(shown, text):
    assert shown == text
