import math
import random
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reproducer.reporting.numbers import p_value
from reproducer.reporting.significance import mcnemar_p, mean_difference, paired_tests, wilcoxon_p

from . import fake
from .reading import markdown, section_of, tables
from .test_majority import rated, with_margins


@given(st.integers(0, 30), st.integers(0, 30))
def test_mcnemar_is_the_binomial_sign_test(better, worse):
    n = better + worse
    tail = sum(math.comb(n, k) for k in range(min(better, worse) + 1)) / 2**n
    assert mcnemar_p(better, worse) == pytest.approx(min(1.0, 2 * tail))


def test_wilcoxon_is_the_share_of_sign_patterns_as_extreme():
    a, b = [1.0, 2.5, 3.1, 4.4, 0.3, 7.0], [0.9, 2.0, 3.4, 3.0, 0.1, 4.0]
    differences = [x - y for x, y in zip(a, b, strict=True)]
    order = sorted(range(6), key=lambda i: abs(differences[i]))
    ranks = [order.index(i) + 1 for i in range(6)]

    def extreme(signs):
        return abs(sum(r for r, s in zip(ranks, signs, strict=True) if s > 0) - sum(ranks) / 2)

    observed = extreme(differences)
    share = sum(extreme(signs) >= observed for signs in product((-1, 1), repeat=6)) / 2**6
    assert wilcoxon_p(a, b) == pytest.approx(share)
    assert wilcoxon_p(a, a) == 1.0


def results(scores: dict[str, dict[str, list[float]]], score="acc", kind="accuracy"):
    """`scores`: method -> task -> the score of each item."""
    tasks = list(next(iter(scores.values())))
    columns = [fake.change(fake.acc(task, task.upper(), score), kind=kind) for task in tasks]
    rows = [
        fake.row(m, {}, items={t: [{"id": i, "scores": {score: c}} for i, c in enumerate(s)] for t, s in of.items()})
        for m, of in scores.items()
    ]
    return fake.quickstart(columns=columns, rows=rows, searches=[])


def bits(text: str) -> list[float]:
    return [float(character) for character in text]


def test_counts_pool_and_holm():
    found = results(
        {
            "vector": {"a": bits("0000000001"), "b": bits("0101010101")},
            "magnitude": {"a": bits("0000000000"), "b": bits("0000000000")},
            "adapruner": {"a": bits("1111111110"), "b": bits("0101010111")},
        }
    )
    tests = {(t.baseline, t.measure): t for t in paired_tests(found)}
    assert {key[1]: (t.better, t.worse, t.n) for key, t in tests.items() if key[0] == "Vector"} == {
        "a_acc": (9, 1, 10), "b_acc": (1, 0, 10), None: (10, 1, 20),
    }  # fmt: skip
    single = sorted((t for key, t in tests.items() if key[1] is not None), key=lambda t: t.p)
    running = 0.0
    for rank, test in enumerate(single):  # Holm: the k-th smallest of m times m - k, never falling
        running = max(running, min(1.0, (len(single) - rank) * test.p))
        assert test.p_holm == pytest.approx(running)
    pooled = [t for key, t in tests.items() if key[1] is None]
    assert len(pooled) == 2
    assert min(t.p_holm for t in pooled) == pytest.approx(2 * min(t.p for t in pooled))


def test_the_metric_of_the_column_decides_what_is_right():
    found = results({"vector": {"a": bits("00")}, "adapruner": {"a": bits("11")}})
    rows = [
        fake.change(row, items={"a": [{"id": i.id, "scores": i.scores | {"acc_norm": 1.0}} for i in row.items["a"]]})
        for row in found.rows
    ]
    columns = [fake.change(found.columns[0], score="acc_norm")]
    assert [(t.better, t.worse) for t in paired_tests(fake.change(found, rows=rows, columns=columns))] == [(0, 0)]


def test_scores_that_are_not_right_or_wrong_are_ranked_and_not_pooled():
    scores = {"vector": [0.0, 0.5, 0.25, 0.5], "adapruner": [1.0, 0.75, 0.5, 0.0]}
    tasks = {m: {"a": s, "b": bits("0101")} for m, s in scores.items()}
    tests = {t.measure: t for t in paired_tests(results(tasks, "f1", "other"))}
    assert (tests["a_acc"].better, tests["a_acc"].worse) == (3, 1)
    assert tests["a_acc"].p == wilcoxon_p(scores["adapruner"], scores["vector"])
    assert set(tests) == {"a_acc", "b_acc"}


def test_a_score_of_which_less_is_better():
    found = results({"vector": {"a": [2.0, 3.0]}, "adapruner": {"a": [1.0, 5.0]}}, "ter", "other")
    found = fake.change(found, columns=[fake.change(found.columns[0], higher_is_better=False)])
    assert [(t.better, t.worse, t.n) for t in paired_tests(found)] == [(1, 1, 2)]


def test_items_are_paired_by_id_and_other_items_are_not_compared():
    found = results({"vector": {"a": bits("0011")}, "adapruner": {"a": bits("0011")}})
    turned = [*reversed(found.rows[1].items["a"])]
    found = fake.change(found, rows=[found.rows[0], fake.change(found.rows[1], items={"a": turned})])
    assert [(t.n, t.better, t.worse) for t in paired_tests(found)] == [(4, 0, 0)]
    other = [fake.change(turned[0], id=99), *turned[1:]]
    found = fake.change(found, rows=[found.rows[0], fake.change(found.rows[1], items={"a": other})])
    (test,) = paired_tests(found)
    assert test.n == 0 and test.p is None and test.p_holm is None
    ((line,),) = tables(found, "Tests within one pruned model")
    assert line["Pairs"] == "not the same items"


def test_lower_window_losses_are_better():
    found = fake.quickstart(
        searches=[],
        rows=[
            fake.row("vector", {}, window_losses={"python_topics_ppl": [3.0, 3.1, 3.2]}),
            fake.row("adapruner", {}, window_losses={"python_topics_ppl": [2.0, 2.1, 3.3]}),
        ],
    )
    (test,) = paired_tests(found)
    assert (test.better, test.worse, test.family) == (2, 1, "windows")
    assert test.p == wilcoxon_p([2.0, 2.1, 3.3], [3.0, 3.1, 3.2])


def test_several_seeds_are_not_tested():
    assert paired_tests(fake.measured(fake.table1(seeds=(0, 1)), 3)) == []


def test_without_items_there_is_no_section():
    assert section_of(markdown(fake.table1()), "Tests within one pruned model") == ""


def test_seven_tasks_stay_legible():
    found = fake.measured(fake.table1())
    pooled, texts, single = tables(found, "Tests within one pruned model")
    assert len(pooled) == 2 * 4 and len(texts) == 2 * 4 * 2 and len(single) == 2 * 4
    assert list(single[0])[2:] == list(fake.TASKS.values())
    tests = {(t.recovery, t.baseline, t.measure): t for t in paired_tests(found)}
    for recovery, line in (("none", single[0]), ("lora", single[4])):
        test = tests[recovery, "Magnitude", "boolq_acc"]
        cell = line["BoolQ"].strip("*")
        assert cell.startswith(f"{test.better} : {test.worse} (")
        assert line["BoolQ"].endswith(f"({p_value(test.p_holm)})") and "**" not in line["BoolQ"]
    assert [line["On"] for line in texts[:2]] == ["WikiText2", "PTB"]


def test_the_mean_difference_is_that_of_the_paired_t_test_and_near_a_bootstraps():
    from scipy.stats import bootstrap, ttest_rel

    draw = random.Random(3)
    a = [draw.expovariate(1) for _ in range(200)]
    b = [0.5 * x + draw.gauss(0.3, 0.7) for x in a]
    mean, half, p = mean_difference(a, b)
    theirs = ttest_rel(a, b)
    assert p == pytest.approx(theirs.pvalue)
    assert (mean - half, mean + half) == pytest.approx(tuple(theirs.confidence_interval(0.95)))
    differences = [x - y for x, y in zip(a, b, strict=True)]
    drawn = bootstrap([differences], lambda x, axis: x.mean(axis=axis), n_resamples=2000, rng=0).confidence_interval
    # 2000 draws: an end of theirs is a quantile with a standard error of 0.06 of the mean's, half is 1.97 of these
    assert (drawn.low, drawn.high) == pytest.approx((mean - half, mean + half), abs=0.2 * half)
    assert mean_difference([1.0, 2.0], [1.0, 2.0]) == (0.0, 0.0, 1.0)
    assert mean_difference([1.5, 2.5], [1.0, 2.0]) == (0.5, 0.0, 0.0)


def test_margins_are_paired_by_item_and_a_family_of_their_own():
    found = with_margins(fake.measured(fake.table1(), 40))
    tests = paired_tests(found)
    margins = [test for test in tests if test.family == "margins"]
    assert len(margins) == 2 * 4 * 7
    assert [t for t in tests if t.family != "margins"] == paired_tests(fake.measured(fake.table1(), 40))
    one = next(t for t in margins if (t.baseline, t.measure, t.recovery) == ("Vector", "piqa_margin", "none"))
    scores = {
        row.method: {item.id: item.scores["margin"] for item in row.items["piqa"]}
        for row in found.rows
        if row.recovery == "none"
    }
    differences = [scores["adapruner"][i] - scores["vector"][i] for i in range(40)]
    assert one.n == 40 and one.difference == pytest.approx(sum(differences) / 40)
    assert (one.better, one.worse) == (sum(d > 0 for d in differences), sum(d < 0 for d in differences))
    least = min((t for t in margins if t.recovery == "none"), key=lambda t: t.p)
    assert least.p_holm == pytest.approx(min(1.0, 4 * 7 * least.p))
    *_, shown = tables(found, "Tests within one pruned model")
    line = next(line for line in shown if line["Against"] == "Vector")
    sign = "+" if one.difference > 0 else ""
    shown = f"{one.difference:.2f}".replace("-0.00", "0.00").replace("-", "−")
    assert line["PIQA"] == f"{sign}{shown} ± {one.half:.2f}"
    assert "**" not in line["PIQA"], "a test within one pruned model is never in bold"
    assert "95% interval" in section_of(markdown(found), "Tests within one pruned model")


def test_one_item_has_no_interval():
    found = with_margins(fake.measured(fake.table1(), 1))
    margins = [test for test in paired_tests(found) if test.family == "margins"]
    assert {(t.n, t.p, t.difference) for t in margins} == {(1, None, None)}
    assert {line["PIQA"] for line in tables(found, "Tests within one pruned model")[-1]} == {"–"}


def test_all_tasks_together_are_those_of_the_average():
    found = fake.measured(fake.table1(), 40)
    whole = [t for t in paired_tests(found) if t.family == "pooled"]
    found = rated(left_out=["boolq", "piqa"], results=found)
    fewer = [t for t in paired_tests(found) if t.family == "pooled"]
    assert ({t.n for t in whole}, {t.n for t in fewer}) == ({7 * 40}, {5 * 40})
    assert "The tasks of the average together:" in markdown(found) and "All tasks together:" not in markdown(found)
