import math
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reproducer.reporting.chance import significance_section
from reproducer.reporting.significance import POOLED, mcnemar_p, paired_tests, wilcoxon_p

from . import fake


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


def results(right: dict[str, dict[str, str]]):
    """`right`: method -> task -> one character an item, 1 for right."""
    found = fake.quickstart()
    tasks, rows = list(next(iter(right.values()))), []
    found["metrics"] = fake.metrics([(f"{task}_acc", task.upper(), "accuracy", True, "acc") for task in tasks])
    for method, of in right.items():
        items = {t: [{"id": i, "acc": float(c), "acc_norm": None} for i, c in enumerate(s)] for t, s in of.items()}
        rows.append(fake.row(method, {}, items=items))
    found["rows"] = rows
    return found


def test_counts_pool_and_holm():
    found = results(
        {
            "vector": {"a": "0000000001", "b": "0101010101"},
            "magnitude": {"a": "0000000000", "b": "0000000000"},
            "adapruner": {"a": "1111111110", "b": "0101010111"},
        }
    )
    tests = {(t.baseline, t.measure): t for t in paired_tests(found)}
    assert [(t.better, t.worse, t.n) for k, t in tests.items() if k[0] == "Vector"] == [
        (9, 1, 10),
        (1, 0, 10),
        (10, 1, 20),
    ]
    single = sorted((t for k, t in tests.items() if k[1] != POOLED), key=lambda t: t.p)
    running = 0.0
    for rank, test in enumerate(single):  # Holm: the k-th smallest of m times m - k, never falling
        running = max(running, min(1.0, (len(single) - rank) * test.p))
        assert test.p_holm == pytest.approx(running)
    pooled = [t for k, t in tests.items() if k[1] == POOLED]
    assert len(pooled) == 2
    assert min(t.p_holm for t in pooled) == pytest.approx(2 * min(t.p for t in pooled))


def test_the_metric_of_the_column_decides_what_is_right():
    found = results({"vector": {"a": "00"}, "adapruner": {"a": "11"}})
    found["metrics"][0]["score"] = "acc_norm"
    for row in found["rows"]:
        for item in row["items"]["a"]:
            item["acc_norm"] = 1.0
    assert [(t.better, t.worse) for t in paired_tests(found)] == [(0, 0)]


def test_items_are_paired_by_id_and_other_items_are_not_compared():
    found = results({"vector": {"a": "0011"}, "adapruner": {"a": "0011"}})
    found["rows"][1]["items"]["a"].reverse()
    assert [(t.n, t.better, t.worse) for t in paired_tests(found)] == [(4, 0, 0)]
    found["rows"][1]["items"]["a"][0]["id"] = 99
    (test,) = paired_tests(found)
    assert test.n == 0 and math.isnan(test.p) and math.isnan(test.p_holm)
    ((_, table),) = significance_section(found)["tables"]
    assert "not the same items" in [cell.text for cell in table.rows[0]]


def test_lower_window_losses_are_better():
    found = results({"vector": {}, "adapruner": {}})
    found["rows"][0]["window_losses"] = {"t": [3.0, 3.1, 3.2]}
    found["rows"][1]["window_losses"] = {"t": [2.0, 2.1, 3.3]}
    (test,) = paired_tests(found)
    assert (test.better, test.worse, test.test) == (2, 1, "Wilcoxon signed-rank")


def test_several_seeds_are_not_tested():
    found = fake.table1(seeds=(0, 1))
    assert paired_tests(found) == []
    assert "standard deviation" in significance_section(found)["sentences"][0]


def test_without_items_there_is_no_section():
    assert significance_section(fake.table1()) is None


def test_seven_tasks_stay_legible():
    found = fake.measured(fake.table1())
    section = significance_section(found)
    (first, pooled), (_, texts), (_, single) = section["tables"]
    assert first.startswith("All tasks together")
    assert len(pooled.rows) == 2 * 4 and len(texts.rows) == 2 * 4 * 2 and len(single.rows) == 2 * 4
    assert single.headers[2:] == fake.TASK_LABELS and len(pooled.rules) == 1
    tests = {(t.recovery, t.baseline, t.measure): t for t in paired_tests(found)}
    test = tests["none", "Magnitude", "boolq"]
    cell = single.rows[0][2]
    assert cell.text.startswith(f"{test.better} : {test.worse} (") and cell.bold == (test.p_holm < 0.05)
    assert [row[2].text for row in texts.rows[:2]] == ["WikiText2", "PTB"]
