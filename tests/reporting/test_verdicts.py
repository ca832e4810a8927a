"""Verdicts on results in which a claim is true, false or open by construction."""

import math
import random
from dataclasses import fields
from functools import cache

import pytest

from reproducer.paper import RowRef, load_item, paper
from reproducer.reporting.bootstrap import holm
from reproducer.reporting.deviations import deviations
from reproducer.reporting.verdicts import Verdict, verdicts
from reproducer.stages.results import Results
from tests.reporting.claimed import BASELINES, run
from tests.reporting.fake import change, convergence, quickstart

GOOD = {"dense": 0.7, **BASELINES, "AdaPruner": 0.69}
BAD = {"dense": 0.7, **BASELINES, "AdaPruner": 0.46}


@cache
def good() -> dict[str, Verdict]:
    return judged(run(GOOD))


def judged(results: Results) -> dict[str, Verdict]:
    return {one.claim: one for one in verdicts(results, paper())}


def test_a_claim_that_is_true_is_supported():
    found = good()
    accuracy, perplexity = found["untuned-accuracy"], found["untuned-perplexity"]
    for one in (accuracy, perplexity, found["untuned-over-llm-pruner"], found["untuned-retains-93"]):
        assert (one.outcome, one.reason, one.seeds, one.needs) == ("supported", None, 5, None)
        assert one.p <= one.p_holm < 0.05 and one.on == "SmolLM2-135M"
    assert accuracy.low > 0 and accuracy.unit == "points" and accuracy.favourable == "higher"
    assert perplexity.high < 0 and perplexity.unit == "per cent" and perplexity.favourable == "lower"
    rivals = ["LLM-Pruner-E1", "LLM-Pruner-E2", "Magnitude", "MoreauPruner", "Vector"]
    assert sorted(e.baseline for e in accuracy.evidence) == rivals and len(perplexity.evidence) == 2 * len(rivals)
    assert accuracy.ours == accuracy.evidence[0].ours and accuracy.evidence[0].baseline not in ("Magnitude", "Vector")
    assert found["untuned-retains-93"].ours == pytest.approx(100 * 0.69 / 0.7, abs=3)


def test_the_effect_is_that_of_the_rows():
    results = run(GOOD)
    one = good()["untuned-over-llm-pruner"]
    means = {
        label: sum(row.metrics["average_acc"] for row in results.rows if row.label == label) / 5
        for label in ("AdaPruner", "LLM-Pruner-E2")
    }
    assert one.ours == pytest.approx(100 * (means["AdaPruner"] - means["LLM-Pruner-E2"]))
    printed = [RowRef("table1", "none", label).row().metrics["average_acc"] for label in means]
    assert one.paper == pytest.approx(printed[0] - printed[1])
    evidence = next(e for e in good()["untuned-perplexity"].evidence if e.baseline == "Vector")
    logs = {
        label: [math.log(row.metrics[evidence.columns[0]]) for row in results.rows if row.label == label]
        for label in ("AdaPruner", "Vector")
    }
    change = math.exp(sum(logs["AdaPruner"]) / 5 - sum(logs["Vector"]) / 5)
    assert evidence.ours == pytest.approx(100 * (change - 1))


def test_a_claim_that_is_false_is_contradicted():
    found = judged(run(BAD))
    for key in ("untuned-accuracy", "untuned-perplexity", "untuned-over-llm-pruner", "untuned-retains-93"):
        assert found[key].outcome == "contradicted", key
        assert found[key].p_holm < 0.05 and found[key].evidence[0].baseline not in ("Magnitude", "Vector")
    assert found["untuned-accuracy"].high < 0


def test_too_few_seeds_are_inconclusive_and_say_what_it_takes():
    found = judged(run(GOOD, seeds=range(3)))
    one = found["untuned-accuracy"]
    assert (one.outcome, one.reason, one.seeds, one.seeds_needed) == ("inconclusive", "few seeds", 3, 5)
    assert one.p is one.p_holm is None and one.low < one.ours < one.high and one.detectable > 0
    assert one.needs.seeds == 5
    alone = judged(run(GOOD, seeds=[0]))["untuned-accuracy"]
    assert alone.outcome == "inconclusive" and all(
        e.conditional and e.interval.low < e.interval.high for e in alone.evidence
    )


def test_tuned_rows_need_three_seeds():
    found = judged(run(GOOD | {"LoRAShear": 0.5}, seeds=range(3), recovery="lora", spread=0.003, items=200))
    assert (found["tuned-accuracy"].outcome, found["tuned-accuracy"].seeds_needed) == ("supported", 3)
    assert found["untuned-accuracy"].outcome == "not tested"


def test_what_is_within_the_noise_is_inconclusive_with_the_smallest_effect_that_was_in_reach():
    one = judged(run(GOOD | {"AdaPruner": 0.58}, spread=0.06))["untuned-over-llm-pruner"]
    assert (one.outcome, one.reason) == ("inconclusive", "interval")
    assert one.low < 0 < one.high and one.p_holm > 0.05
    assert one.detectable > (one.high - one.low) / 2
    assert one.needs is None


def test_rows_that_are_missing_leave_a_claim_open_or_untested():
    found = judged(run({label: GOOD[label] for label in ("dense", "LLM-Pruner-E2", "AdaPruner")}))
    assert found["untuned-over-llm-pruner"].outcome == "supported"
    part = found["untuned-accuracy"]
    assert (part.outcome, part.reason) == ("inconclusive", "some rows")
    assert [one.name for one in part.missing] == ["Magnitude", "Vector", "LLM-Pruner-E1", "MoreauPruner"]
    assert {one.where for one in part.missing} == {"Table 1, untuned"}
    none = found["tuned-over-lorashear"]
    assert (none.outcome, none.reason, none.ours, none.on) == ("not tested", "no rows", None, None)
    assert none.paper == pytest.approx(2.2443)
    worse = judged(run({"dense": 0.7, "LLM-Pruner-E2": 0.6, "AdaPruner": 0.45}))["untuned-accuracy"]
    assert worse.outcome == "contradicted"  # that takes no more than one


def test_a_search_of_our_own_is_not_the_papers_row():
    found = judged(run(GOOD, mode="default"))
    assert (found["untuned-accuracy"].outcome, found["untuned-accuracy"].reason) == (
        "not tested",
        "not the paper's row",
    )
    beside = judged(run(GOOD | {"AdaPruner": 0.46, "AdaPruner, local search": 0.69}))
    assert beside["untuned-accuracy"].outcome == "contradicted"
    assert all(e.row == "AdaPruner" for e in beside["untuned-accuracy"].evidence)


def test_claims_of_tuned_ablations_are_tried_on_untuned_rows_and_say_so():
    right = {"dense": 0.7, "AdaPruner": 0.66, "w/o D": 0.3, "w/o I1": 0.5, "w/o I2": 0.85, "w/o unified": 0.66}
    found = judged(run(right, item={"table": 2}, spread=0.005))
    assert found["data-search"].outcome == "supported" and found["search-matters"].outcome == "contradicted"
    assert found["joint"].outcome == "inconclusive"
    assert found["data-search-every-task"].outcome == "supported"
    for key in ("data-search", "joint"):
        assert [(c.paper, c.ours) for c in found[key].conditions if c.topic == "recovery"] == [("LoRA", "none")]
        assert found[key].seeds_needed == 5


def test_tuned_rows_that_have_not_run_leave_a_claim_to_the_untuned_ones():
    right = {"dense": 0.7, "AdaPruner": 0.66, "w/o D": 0.3, "w/o I1": 0.5, "w/o I2": 0.5, "w/o unified": 0.66}
    untuned = run(right, item={"table": 2}, spread=0.005)
    tuned = run(right, item={"table": 2}, spread=0.005, recovery="lora", seeds=range(3))
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


def test_the_papers_average_is_told_over_the_tasks_of_ours_too():
    results = run(GOOD)
    one = judged(results)["untuned-over-llm-pruner"]
    assert one.paper_alike is None, "all seven"
    kept = ["piqa_acc", "arc_easy_acc"]
    models = [change(model, averaged=kept) for model in results.models]
    found = judged(change(results, models=models))
    ours, theirs, dense = (
        sum(next(row for row in load_item("table1").rows if row.label == label).metrics[key] for key in kept) / 2
        for label in ("AdaPruner", "LLM-Pruner-E2", "LLaMA-7B")
    )
    assert found["untuned-over-llm-pruner"].paper == one.paper
    assert found["untuned-over-llm-pruner"].paper_alike == pytest.approx(ours - theirs, abs=2e-4)
    assert found["untuned-retains-93"].paper_alike == pytest.approx(100 * ours / dense, abs=1e-3)


def test_of_several_comparisons_it_is_counted_how_they_came_out():
    open_ = judged(run(GOOD | {"AdaPruner": 0.58, "LLM-Pruner-E2": 0.58}, spread=0.02))["untuned-accuracy"]
    assert open_.outcome == "inconclusive" and 0 < open_.favoured < len(open_.evidence)
    assert (open_.favoured, open_.opposed) == tuple(
        sum(e.p < 0.05 and side * e.favour > 0 for e in open_.evidence) for side in (1, -1)
    )
    assert judged(run(BAD))["untuned-accuracy"].opposed > 0
    few = judged(run(GOOD, seeds=range(3)))["untuned-accuracy"]
    assert (few.favoured, few.opposed) == (0, 0), "three untuned seeds are too few to count"


def test_most_tasks():
    tuned = run(GOOD | {"LoRAShear": 0.5}, seeds=range(3), recovery="lora")
    one = judged(tuned)["most-tasks"]
    assert one.outcome == "supported" and one.ours == 100 and one.threshold == 50
    assert all(0 <= e.interval.low <= e.interval.high <= 100 for e in one.evidence)
    close = judged(run(GOOD | {"AdaPruner": 0.6, "LoRAShear": 0.6}, seeds=range(3), recovery="lora", spread=0.1))
    assert all(0 <= e.interval.low <= e.interval.high <= 100 for e in close["most-tasks"].evidence)
    wins = {e.baseline: e.paper for e in one.evidence}  # MoreauPruner is better on WinoGrande and OpenbookQA
    assert wins == pytest.approx({"LoRAShear": 600 / 7, "MoreauPruner": 500 / 7})


def test_accuracies_without_any_item_are_compared_by_seed():
    results = run(GOOD)
    bare = change(results, rows=[change(row, items={}, window_losses={}) for row in results.rows])
    one = judged(bare)["untuned-accuracy"]
    assert one.outcome == "supported" and all(e.items == 0 for e in one.evidence)


def test_a_claim_about_300_trials_is_not_tested_with_60():
    found = judged(convergence(seeds=5, trials=60))
    for key in ("tpe-sooner", "tpe-better"):
        assert (found[key].outcome, found[key].reason, [one.name for one in found[key].missing]) == (
            "not tested",
            "few trials",
            ["59 trials"],  # one failed
        )
        assert found[key].needs.trials == 300


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
        assert (true[key].outcome, true[key].seeds) == ("supported", 5)
    assert true["tpe-sooner"].evidence[0].ours > 0 and true["tpe-sooner"].paper == 0  # below 150 trials
    assert true["tpe-better"].ours == pytest.approx(100 * (150 / 160 - 1))
    false = judged(searched(5, 300, {"TPE": (280, 160.0), "random search": (100, 150.0)}))
    assert false["tpe-sooner"].outcome == false["tpe-better"].outcome == "contradicted"
    few = judged(searched(2, 300, {"TPE": (100, 150.0), "random search": (280, 160.0)}))
    assert (few["tpe-better"].outcome, few["tpe-better"].reason) == ("inconclusive", "few seeds")


def test_spreads_over_draws():
    labels = {"dense": 0.7, "Vector": 0.5, "LLM-Pruner-E1": 0.5, "LLM-Pruner-E2": 0.5}
    wide = judged(run(labels, item={"figure": 1}, spread=0.2))["draws-differ"]
    assert wide.outcome == "supported" and wide.low > 1 and wide.unit == "per cent"
    narrow = judged(run(labels, item={"figure": 1}, spread=0.0002))["draws-differ"]
    assert narrow.outcome == "contradicted" and narrow.high < 1
    alike = judged(run(labels, item={"figure": 1}, spread=0.1))["metrics-differ"]
    assert alike.outcome == "inconclusive" and alike.ours > 1


def sized(params: float, macs: float, seconds: float, by_layer: bool = True) -> Results:
    """A run with the sizes and times of a pruned row called otherwise than the paper's, beside rows without."""
    results = run(GOOD, seeds=[0], items=10, item={"table": 9})
    draw = random.Random(3)

    def measured(row, label, shares):
        values = {key: whole * share for (key, whole), share in zip(WHOLE.items(), shares, strict=True)}
        times = [values["latency_seconds"] * draw.uniform(0.98, 1.02) for _ in range(20)]
        latency = {"device": "a machine", "seconds": times, "quartiles": (times[0], times[1])}
        return change(row, label=label, metrics=row.metrics | values, latency=latency)

    dense, other = results.rows[0], results.rows[1]
    rows = [measured(dense, dense.label, (1, 1, 1)), *results.rows[1:]]
    cut = {"ratio": None, "structure_ratio": 0.25} if by_layer else {}
    rows.append(change(measured(other, "any method", (params, macs, seconds)), **cut))
    columns = [*results.columns, *({**FREE, "key": key, "label": key, "timed": key.startswith("lat")} for key in WHOLE)]
    return change(results, rows=rows, columns=columns)


WHOLE = {"params_billion": 0.135, "macs_giga": 8.5, "latency_seconds": 0.2}
FREE = {"kind": "other", "higher_is_better": False}


def test_sizes_are_counted_and_times_are_of_one_machine():
    found = judged(sized(0.804, 0.80, 0.45))
    assert [found[key].outcome for key in ("fewer-parameters", "fewer-operations", "twice-as-fast")] == [
        "supported"
    ] * 3
    assert found["fewer-parameters"].ours == pytest.approx(19.6) and found["fewer-parameters"].p is None
    assert found["fewer-parameters"].paper == pytest.approx(100 * (1 - 5.42 / 6.74))
    faster = found["twice-as-fast"]
    assert faster.unit == "times" and 1.75 < faster.low < faster.ours < faster.high and faster.seeds_needed == 1
    assert [c.ours for c in faster.conditions if c.topic == "device"] == ["a machine"]
    results = sized(0.804, 0.80, 0.45)
    random_ = change(results.models[0], name="drawn", label="Random weights")
    rows = [change(row, model="drawn") if row.latency else row for row in results.rows]
    models = [*results.models, change(random_, stands_for="llama-7b")]
    assert judged(change(results, rows=rows, models=models))["twice-as-fast"].on == "Random weights"
    found = judged(sized(0.70, 0.95, 0.9))
    assert {found[key].outcome for key in ("fewer-parameters", "fewer-operations", "twice-as-fast")} == {"contradicted"}
    found = judged(sized(0.804, 0.80, 0.45, by_layer=False))
    assert (found["fewer-parameters"].outcome, found["fewer-parameters"].reason) == ("not tested", "set")
    assert found["fewer-operations"].outcome == "supported", "that is found, whatever was asked for"


def test_what_people_have_to_judge_is_not_tested():
    found = judged(change(quickstart(), spec={"name": "t", "title": "", "reproduces": {"table": 10}}))
    assert (found["generations"].outcome, found["generations"].reason) == ("not tested", "people")


def test_a_spec_that_reproduces_nothing_has_no_verdicts():
    assert verdicts(quickstart(), paper()) == []


def test_holm_is_over_the_claims_of_the_report():
    found = [one for one in good().values() if one.p is not None]
    assert len(found) > 3
    assert [one.p_holm for one in found] == holm([one.p for one in found])
    for one in found:
        assert one.p_holm >= one.p and (one.outcome in ("supported", "contradicted")) == (one.p_holm < 0.05)


def test_the_same_results_give_the_same_verdicts_to_the_last_digit():
    results = run(GOOD)
    again = Results.model_validate_json(results.to_json())
    assert verdicts(again, paper()) == list(good().values())
    assert deviations(results, paper()) == deviations(again, paper())


def test_every_claim_has_a_verdict_in_its_items_report():
    seen = set()
    for item in {key for claim in paper().claims for key in claim.items}:
        kind = "table" if item.startswith("table") else "figure"
        results = run(GOOD, item={kind: int(item.removeprefix(kind))}, seeds=range(2), items=20)
        found = verdicts(results, paper())
        assert [one.claim for one in found] == [claim.id for claim in paper().claims if item in claim.items]
        seen |= {one.claim for one in found}
        for one in found:
            assert all(value == value for f in fields(one) if isinstance(value := getattr(one, f.name), float))
            assert (one.reason is None) == (one.outcome in ("supported", "contradicted"))
    assert seen == {claim.id for claim in paper().claims}


def test_deviations_have_both_sides_and_leave_out_what_agrees():
    results = run(GOOD)
    found = {one.topic: one for one in deviations(results, paper())}
    assert found["model"].ours == "SmolLM2-135M, 135 million parameters"
    assert (
        "4-bit" in found["weights"].ours and found["cut"].paper == "25% of each pruned layer, 19.6% of all parameters"
    )
    assert (found["trials"].paper, found["trials"].ours) == ("150 or fewer (Figure 4)", "8")
    assert found["seeds"].ours == "0, 1, 2, 3, 4" and "sampler" not in found
    cut = {"layers": [3, 4, 5], "of": 30, "heads": 0.3, "channels": 0.243}
    told = change(results, rows=[change(row, reached=cut if row.method != "dense" else None) for row in results.rows])
    layers = {one.topic: one.ours for one in deviations(told, paper())}
    assert (layers["cut"], layers["layers"]) == ("24.3% of each pruned layer, 19.9% of all parameters", "3 to 5 of 30")
    conditions = {one.topic for one in good()["untuned-accuracy"].conditions}
    assert {"model", "weights", "cut", "trials"} <= conditions and "learning_rate" not in conditions
    same = change(results, models=[change(results.models[0], name="llama-7b", label="LLaMA-7B", stands_for=None)])
    assert "trials" in {one.topic for one in deviations(same, paper())}


def test_claims_rest_on_rows_and_columns_that_the_paper_has():
    for claim in paper().claims:
        assert claim.text.endswith(".") and claim.quote
        for item in claim.items:
            load_item(item)
        if claim.rule in ("converges", "finds"):
            continue
        for ref, other in claim.pairs if claim.rule in ("better", "most") else [(ref, ref) for ref in claim.rows]:
            assert ref.row() and other.row()
