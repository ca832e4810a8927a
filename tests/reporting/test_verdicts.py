"""Verdicts on results in which a claim is true, false or open by construction."""

import math
from functools import cache

import pytest

from reproducer.paper.claims import RowRef, paper
from reproducer.reporting.bootstrap import holm
from reproducer.reporting.runs import Run
from reproducer.reporting.verdicts import Verdict, verdicts
from reproducer.stages.results import Results
from tests.reporting.claimed import BASELINES, run
from tests.reporting.fake import change, convergence, quickstart

GOOD = {"dense": 0.7, **BASELINES, "AdaPruner": 0.69}
BAD = {"dense": 0.7, **BASELINES, "AdaPruner": 0.46}
ABLATED = {"dense": 0.7, "AdaPruner": 0.66, "w/o D": 0.3, "w/o I1": 0.5, "w/o I2": 0.5, "w/o unified": 0.66}


@cache
def good() -> dict[str, Verdict]:
    return judged(run(GOOD))


def judged(results: Results) -> dict[str, Verdict]:
    return {one.claim.id: one for one in verdicts(results, paper())}


def test_a_claim_that_is_true_is_supported():
    found = good()
    accuracy, perplexity = found["untuned-accuracy"], found["untuned-perplexity"]
    for one in (accuracy, perplexity, found["untuned-over-llm-pruner"], found["untuned-retains-93"]):
        assert (one.outcome, one.reason, len(one.worst.seeds)) == ("supported", None, 5)
        assert one.p <= one.p_holm < 0.05
    assert accuracy.worst.interval.low > 0 and (accuracy.ruled.unit, accuracy.ruled.favourable) == ("points", "higher")
    assert perplexity.worst.interval.high < 0 and perplexity.ruled.unit == "per cent"
    rivals = ["LLM-Pruner-E1", "LLM-Pruner-E2", "Magnitude", "MoreauPruner", "Vector"]
    assert sorted(e.baseline for e in accuracy.evidence) == rivals and len(perplexity.evidence) == 2 * len(rivals)
    assert accuracy.worst.baseline not in ("Magnitude", "Vector")
    assert found["untuned-retains-93"].worst.ours == pytest.approx(100 * 0.69 / 0.7, abs=3)


def test_the_effect_is_that_of_the_rows():
    results = run(GOOD)
    one = good()["untuned-over-llm-pruner"]
    means = {
        label: sum(row.metrics["average_acc"] for row in results.rows if row.label == label) / 5
        for label in ("AdaPruner", "LLM-Pruner-E2")
    }
    assert one.worst.ours == pytest.approx(100 * (means["AdaPruner"] - means["LLM-Pruner-E2"]))
    printed = [RowRef("table1", "none", label).row().metrics["average_acc"] for label in means]
    assert one.paper == pytest.approx(printed[0] - printed[1])
    evidence = next(e for e in good()["untuned-perplexity"].evidence if (e.baseline, e.measure) == ("Vector", "PTB"))
    logs = {
        label: [math.log(row.metrics["ptb_ppl"]) for row in results.rows if row.label == label]
        for label in ("AdaPruner", "Vector")
    }
    assert evidence.ours == pytest.approx(100 * math.expm1(sum(logs["AdaPruner"]) / 5 - sum(logs["Vector"]) / 5))


def test_a_claim_that_is_false_is_contradicted():
    found = judged(run(BAD))
    for key in ("untuned-accuracy", "untuned-perplexity", "untuned-over-llm-pruner", "untuned-retains-93"):
        assert found[key].outcome == "contradicted", key
        assert found[key].p_holm < 0.05 and found[key].worst.baseline not in ("Magnitude", "Vector")
    assert found["untuned-accuracy"].worst.interval.high < 0


def test_too_few_seeds_are_inconclusive():
    one = judged(run(GOOD, seeds=range(3)))["untuned-accuracy"]
    assert (one.outcome, one.reason, len(one.worst.seeds), one.seeds_needed) == ("inconclusive", "few seeds", 3, 5)
    assert one.p is one.p_holm is None and one.worst.interval.detectable > 0 and one.agreeing == 0
    alone = judged(run(GOOD, seeds=[0]))["untuned-accuracy"]
    assert alone.outcome == "inconclusive"
    assert all(e.interval.low < e.interval.high for e in alone.evidence), "of items, for that one model"


def test_tuned_rows_need_three_seeds():
    found = judged(run(GOOD | {"LoRAShear": 0.5}, seeds=range(3), recovery="lora", spread=0.003, items=200))
    assert (found["tuned-accuracy"].outcome, found["tuned-accuracy"].seeds_needed) == ("supported", 3)
    assert found["untuned-accuracy"].outcome == "not tested"


def test_what_is_within_the_noise_is_inconclusive_with_the_smallest_effect_that_was_in_reach():
    one = judged(run(GOOD | {"AdaPruner": 0.58}, spread=0.06))["untuned-over-llm-pruner"]
    assert (one.outcome, one.reason) == ("inconclusive", "interval")
    interval = one.worst.interval
    assert interval.low < 0 < interval.high and one.p_holm > 0.05
    assert interval.detectable > (interval.high - interval.low) / 2


def test_rows_that_are_missing_leave_a_claim_open_or_untested():
    found = judged(run({label: GOOD[label] for label in ("dense", "LLM-Pruner-E2", "AdaPruner")}))
    assert found["untuned-over-llm-pruner"].outcome == "supported"
    part = found["untuned-accuracy"]
    assert (part.outcome, part.reason) == ("inconclusive", "some rows")
    assert [one.name for one in part.ruled.missing] == ["Magnitude", "Vector", "LLM-Pruner-E1", "MoreauPruner"]
    assert {one.where for one in part.ruled.missing} == {"Table 1, untuned"}
    none = found["tuned-over-lorashear"]
    assert (none.outcome, none.reason, none.worst) == ("not tested", "no rows", None)
    assert none.paper == pytest.approx(2.2443)
    worse = judged(run({"dense": 0.7, "LLM-Pruner-E2": 0.6, "AdaPruner": 0.45}))["untuned-accuracy"]
    assert worse.outcome == "contradicted"  # that takes no more than one


def test_a_search_of_our_own_is_not_the_papers_row():
    one = judged(run(GOOD, mode="default"))["untuned-accuracy"]
    assert (one.outcome, one.reason) == ("not tested", "not the paper's row")
    both = judged(run(GOOD | {"AdaPruner": 0.46, "AdaPruner, local search": 0.69}))["untuned-accuracy"]
    assert both.outcome == "contradicted" and all(e.row == "AdaPruner" for e in both.evidence)


def test_claims_of_tuned_ablations_are_tried_on_untuned_rows_and_say_so():
    found = judged(run(ABLATED | {"w/o I2": 0.85}, item={"table": 2}, spread=0.005))
    assert found["data-search"].outcome == "supported" and found["search-matters"].outcome == "contradicted"
    assert found["joint"].outcome == "inconclusive"
    assert found["data-search-every-task"].outcome == "supported"
    assert all(found[key].ruled.stand_in and found[key].seeds_needed == 5 for key in ("data-search", "joint"))


def test_tuned_rows_that_have_not_run_leave_a_claim_to_the_untuned_ones():
    untuned = run(ABLATED, item={"table": 2}, spread=0.005)
    tuned = run(ABLATED, item={"table": 2}, spread=0.005, recovery="lora", seeds=range(3))
    waiting = [
        change(row, status="missing", metrics=dict.fromkeys(row.metrics), items={}, window_losses={})
        for row in tuned.rows
        if row.method != "dense"
    ]
    done = [row for row in tuned.rows if row.method != "dense"]
    one = judged(change(untuned, rows=untuned.rows + waiting))["search-matters"]
    assert (one.outcome, {e.recovery for e in one.evidence}) == ("supported", {"none"})
    some = [*done[:3], *waiting[3:]]  # of one method alone: nothing to hold it against
    assert judged(change(untuned, rows=untuned.rows + some))["search-matters"].outcome == "supported"
    both = judged(change(untuned, rows=untuned.rows + done))["search-matters"]
    assert {e.recovery for e in both.evidence} == {"lora"}
    alone = judged(change(untuned, rows=[row for row in untuned.rows if row.method == "dense"] + waiting))
    assert (alone["search-matters"].outcome, alone["search-matters"].reason) == ("not tested", "not run")


def test_of_several_comparisons_it_is_counted_how_they_came_out():
    one = judged(run(GOOD | {"AdaPruner": 0.58, "LLM-Pruner-E2": 0.58}, spread=0.02))["untuned-accuracy"]
    assert one.outcome == "inconclusive"
    assert 0 < one.agreeing == sum(e.p < 0.05 and e.favour > 0 for e in one.evidence) < len(one.evidence)


def test_most_tasks():
    tuned = run(GOOD | {"LoRAShear": 0.5}, seeds=range(3), recovery="lora")
    one = judged(tuned)["most-tasks"]
    assert one.outcome == "supported" and one.worst.ours == 100 and one.ruled.threshold == 50
    assert all(0 <= e.interval.low <= e.interval.high <= 100 for e in one.evidence)
    wins = {e.baseline: e.paper for e in one.evidence}  # MoreauPruner is better on WinoGrande and OpenbookQA
    assert wins == pytest.approx({"LoRAShear": 600 / 7, "MoreauPruner": 500 / 7})
    close = judged(run(GOOD | {"AdaPruner": 0.6, "LoRAShear": 0.6}, seeds=range(3), recovery="lora", spread=0.1))
    assert close["most-tasks"].outcome == "inconclusive"


def test_rows_without_items_are_paired_by_their_metrics():
    """As those of a baseline from another report."""
    results = run(GOOD)
    bare = change(results, rows=[change(row, items={}, window_losses={}) for row in results.rows])
    assert judged(bare)["untuned-accuracy"].outcome == "supported"


def test_a_claim_about_300_trials_is_not_tested_with_60():
    found = judged(convergence(seeds=5, trials=60))
    for key in ("tpe-sooner", "tpe-better"):
        assert (found[key].outcome, found[key].reason) == ("not tested", "few trials")
        assert [one.name for one in found[key].ruled.missing] == ["59 trials"]  # one failed


def searched(seeds: int, trials: int, settled: dict[str, tuple[int, float]]) -> Results:
    """Searches that fall to a value of their own until a trial, by label, and find nothing better after it."""
    made = []
    for one in convergence(seeds, trials).searches:
        last, best = settled[one.label]
        values = [best + max(last + one.seed - t.number, 0) for t in one.trials]
        history = [change(t, value=v, state="complete", baseline=None) for t, v in zip(one.trials, values, strict=True)]
        made.append(change(one, trials=history))
    return change(convergence(1, 4), searches=made)


def test_searches_of_300_trials():
    true = judged(searched(5, 300, {"TPE": (100, 150.0), "random search": (280, 160.0)}))
    for key in ("tpe-sooner", "tpe-better"):
        assert (true[key].outcome, len(true[key].worst.seeds)) == ("supported", 5)
    assert true["tpe-sooner"].worst.ours > 0 and true["tpe-sooner"].paper == 0  # below 150 trials
    assert true["tpe-better"].worst.ours == pytest.approx(100 * (150 / 160 - 1))
    false = judged(searched(5, 300, {"TPE": (280, 160.0), "random search": (100, 150.0)}))
    assert false["tpe-sooner"].outcome == false["tpe-better"].outcome == "contradicted"
    few = judged(searched(2, 300, {"TPE": (100, 150.0), "random search": (280, 160.0)}))
    assert (few["tpe-better"].outcome, few["tpe-better"].reason) == ("inconclusive", "few seeds")


def test_rows_that_share_a_search_have_it_under_either_label():
    """In a document the search of Figure 4's TPE may be that of Table 1's AdaPruner."""
    results = run({"dense": 0.7, "AdaPruner": 0.6, "w/o D": 0.6, "Vector": 0.5}, seeds=(0, 1), items=5)
    own = [search for search in results.searches if search.label == "AdaPruner"]
    rows = [
        change(row, stages={"search": f"s{row.seed}"}) if row.method == "adapruner" else row for row in results.rows
    ]
    found = Run(change(results, rows=rows, searches=own))
    assert found.searches("w/o D") == found.searches("AdaPruner") and {*found.searches("w/o D")} == {0, 1}
    assert found.searches("Vector") == {}


def test_spreads_over_draws():
    labels = {"dense": 0.7, "Vector": 0.5, "LLM-Pruner-E1": 0.5, "LLM-Pruner-E2": 0.5}
    wide = judged(run(labels, item={"figure": 1}, spread=0.2))["draws-differ"]
    assert wide.outcome == "supported" and wide.worst.interval.low > 1 and wide.ruled.unit == "per cent"
    narrow = judged(run(labels, item={"figure": 1}, spread=0.0002))["draws-differ"]
    assert narrow.outcome == "contradicted" and narrow.worst.interval.high < 1
    alike = judged(run(labels, item={"figure": 1}, spread=0.1))["metrics-differ"]
    assert alike.outcome == "inconclusive" and alike.worst.ours > 1


def test_what_no_run_decides_is_not_tested_and_says_why():
    for number, keys in ((10, ["generations"]), (9, ["fewer-parameters", "fewer-operations", "twice-as-fast"])):
        found = judged(change(quickstart(), spec={"name": "t", "title": "", "reproduces": {"table": number}}))
        for key in keys:
            assert (found[key].outcome, found[key].reason) == ("not tested", "untestable")
            assert found[key].claim.untestable
    assert all((claim.rule == "none") == (claim.untestable is not None) for claim in paper().claims)


def test_holm_is_over_the_claims_of_the_report():
    found = [one for one in good().values() if one.p is not None]
    assert len(found) > 3
    assert [one.p_holm for one in found] == holm([one.p for one in found])
    for one in found:
        assert one.p_holm >= one.p and (one.outcome in ("supported", "contradicted")) == (one.p_holm < 0.05)


def test_every_claim_has_a_verdict_in_its_items_report():
    seen = set()
    for item in {key for claim in paper().claims for key in claim.items}:
        kind = "table" if item.startswith("table") else "figure"
        results = run(GOOD, item={kind: int(item.removeprefix(kind))}, seeds=range(2), items=20)
        found = verdicts(results, paper())
        assert [one.claim for one in found] == [claim for claim in paper().claims if item in claim.items]
        assert [one.number for one in found] == [*range(1, len(found) + 1)]
        seen |= {one.claim.id for one in found}
        assert all((one.reason is None) == (one.outcome in ("supported", "contradicted")) for one in found)
    assert seen == {claim.id for claim in paper().claims}
