"""Expansion is pure, its keys stable, and a wrong name is told with its line."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from reproducer.spec import SpecError, load_spec
from reproducer.stages.expand import expand

HEAVY = ("torch", "transformers", "optuna", "peft", "lm_eval", "datasets", "pandas", "matplotlib")

BASE = """\
name: base
models: [tiny]
methods: [magnitude, vector, adapruner]
prune: {ratio: 0.20}
calibration: {dataset: python-topics}
evaluate: {perplexity: [python-topics, python-docstrings], tasks: [quiz]}
"""


def keys(spec):
    return {(row.label, role): stage.key for row in expand(spec).rows for role, stage in row.stages.items()}


def load(tmp_path, text, *overrides, name="spec.yaml"):
    path = tmp_path / name
    path.write_text(text)
    return load_spec(path, (), overrides)


def changed(before, after):
    return {name for name in before if before[name] != after.get(name)}


def test_a_method_has_rows_with_the_recoveries_that_it_names(tmp_path):
    text = BASE.replace("vector", "{name: vector, recovery: [lora]}") + "recovery: [none, lora]\n"
    rows = [(row.label, row.recovery) for row in expand(load(tmp_path, text)).rows[1:]]
    assert rows == [("Magnitude", "none"), ("AdaPruner", "none"), ("Magnitude", "lora"), ("Vector", "lora"),
                    ("AdaPruner", "lora")]  # fmt: skip
    alone = [row.label for row in expand(load(tmp_path, text, "recovery=[none]")).rows[1:]]
    assert alone == ["Magnitude", "AdaPruner"]
    with pytest.raises(SpecError, match=r"spec.yaml:3.*lorra.*lora"):
        expand(load(tmp_path, text.replace("recovery: [lora]}", "recovery: [lorra]}")))


def test_keys_are_the_same_in_another_process_and_nothing_is_loaded(tmp_path):
    spec = load(tmp_path, BASE)
    program = (
        "import json, sys; from reproducer.spec import load_spec; from reproducer.stages.expand import expand;"
        f"stages = expand(load_spec({str(tmp_path / 'spec.yaml')!r})).stages;"
        f"heavy = [name for name in {HEAVY} if name in sys.modules];"
        "print(json.dumps([heavy, [stage.key for stage in stages]]))"
    )
    for seed in ("1", "2"):  # of sets and of strings' hashes
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        shown = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, env=environment).stdout
        assert json.loads(shown) == [[], [stage.key for stage in expand(spec).stages]]


def test_a_title_or_a_label_changes_no_key(tmp_path):
    spec = load(tmp_path, BASE)
    relabelled = load(tmp_path, BASE, "title=other", "methods.0={name: magnitude, label: Size}", name="b.yaml")
    assert list(keys(spec).values()) == list(keys(relabelled).values())


def test_a_changed_setting_changes_what_depends_on_it_and_nothing_else(tmp_path):
    before = keys(load(tmp_path, BASE))
    labels = {"Magnitude", "Vector", "AdaPruner"}
    measures = {"python_topics_ppl", "python_docstrings_ppl", "quiz_acc"}

    after = keys(load(tmp_path, BASE, "search.trials=7"))
    assert changed(before, after) == {("AdaPruner", role) for role in {"search", "plan", *measures}}

    after = keys(load(tmp_path, BASE, "calibration.samples=7"))
    assert changed(before, after) == {
        (label, role) for label, role in before if label in {"Vector", "AdaPruner"} and role != "model"
    }

    after = keys(load(tmp_path, BASE, "prune.ratio=0.3"))
    assert changed(before, after) == {(label, role) for label, role in before if label in labels and role != "model"}

    after = keys(load(tmp_path, BASE, "evaluate.limit=5"))
    assert changed(before, after) == {(label, "quiz_acc") for label, _ in before}

    for limit in ("{quiz: 5}", "{quiz: 5, boolq: 7}", "{default: 5}"):
        assert keys(load(tmp_path, BASE, f"evaluate.limit={limit}")) == after

    after = keys(load(tmp_path, BASE, "methods.0={name: magnitude, parameters: {p: 1}}"))
    assert changed(before, after) == {
        (label, role) for label, role in before if label == "Magnitude" and role != "model"
    }

    after = keys(load(tmp_path, BASE, "methods.1={name: vector, calibration: {samples: 7}}"))
    assert changed(before, after) == {(label, role) for label, role in before if label == "Vector" and role != "model"}

    after = keys(load(tmp_path, BASE, "models.0.dtype=float64"))
    assert changed(before, after) == {name for name in before if name[1] != "model"}


def test_limits_by_task(tmp_path):
    text = BASE.replace("tasks: [quiz]", "tasks: [quiz, boolq, piqa], limit: {boolq: 5, piqa: null, default: 7}")

    def limits(*overrides):
        stages = expand(load(tmp_path, text, *overrides)).rows[0].stages
        return [stages[f"{task}_acc"].limit for task in ("quiz", "boolq", "piqa")]

    assert limits() == [7, 5, None]
    assert limits("evaluate.limit.quiz=9") == [9, 5, None]
    assert limits("evaluate.limit={sciq: 3}") == [7, 5, None]  # laid over, and of a task that is not measured
    assert limits("evaluate.limit=4") == [4, 4, 4]
    assert limits("evaluate.limit=null") == [None, None, None]
    bare = text.replace(", default: 7", "")
    assert expand(load(tmp_path, bare)).rows[0].stages["quiz_acc"].limit is None
    before, after = keys(load(tmp_path, text)), keys(load(tmp_path, text, "evaluate.limit.boolq=6"))
    assert changed(before, after) == {(label, "boolq_acc") for label, role in before if role == "boolq_acc"}


def test_methods_that_draw_nothing_share_a_plan_over_seeds(tmp_path):
    rows = expand(load(tmp_path, BASE, "seeds=[0, 1]")).rows
    plans = {label: {row.stages["plan"].key for row in rows if row.label == label} for label in ("Magnitude", "Vector")}
    assert len(plans["Magnitude"]) == 1 and len(plans["Vector"]) == 2


def test_rows_come_in_the_order_of_the_spec(tmp_path):
    rows = expand(load(tmp_path, BASE, "prune.ratio=[0.2, 0.3]", "recovery=[none, lora]")).rows
    assert [(row.ratio, row.recovery, row.label) for row in rows][:5] == [
        (0.0, "none", "Tiny"),
        (0.2, "none", "Magnitude"),
        (0.2, "none", "Vector"),
        (0.2, "none", "AdaPruner"),
        (0.2, "lora", "Magnitude"),
    ]
    assert len(rows) == 1 + 2 * 2 * 3


def test_entries_of_one_model_are_rows_of_their_own(tmp_path):
    """Else a report would take them for seeds of one row, and give their mean."""
    several = "[tiny, {name: tiny, dtype: bfloat16, label: in half}, {name: tiny-gqa, label: other}]"
    rows = expand(load(tmp_path, BASE.replace("[tiny]", several))).rows
    assert list(dict.fromkeys(row.model for row in rows)) == ["tiny", "in half", "tiny-gqa"]
    assert len({(row.model, row.label, row.ratio) for row in rows}) == len(rows)


def test_the_search_scores_the_baselines_that_it_is_given_whatever_rows_stand_beside_it(tmp_path):
    """Else tables with different rivals could not share a search."""
    searches = [
        next(row.stages["search"] for row in expand(load(tmp_path, text)).rows if "search" in row.stages)
        for text in (BASE, BASE.replace("[magnitude,", "[random, wanda,"), BASE + "search: {baselines: [wanda]}\n")
    ]
    assert searches[0].baselines == ["magnitude", "vector", "llm-pruner-e1", "llm-pruner-e2"]
    assert searches[0].key == searches[1].key != searches[2].key and searches[2].baselines == ["wanda"]


@pytest.mark.parametrize(
    ("line", "wrong", "message"),
    [
        ("methods: [magnitude, vector, adapruner]", "methods: [magnitude, vectr]", "spec.yaml:3: .*vectr.*'vector'"),
        ("models: [tiny]", "models: [smollm-135m]", "spec.yaml:2: .*smollm-135m.*'smollm2-135m'"),
        ("tasks: [quiz]", "tasks: [quizz]", "spec.yaml:6: .*quizz.*'quiz'"),
        ("dataset: python-topics", "dataset: python-topic", "spec.yaml:5: .*python-topic.*'python-topics'"),
        ("dataset: python-topics", "dataset: wikitext2", "spec.yaml:5: .*cannot serve for calibration"),
        ("[python-topics, python-docstrings]", "[python-topics, wikitex2]", "spec.yaml:6: .*wikitex2.*'wikitext2'"),
        ("[magnitude,", "[{name: magnitude, parameters: {pp: 1}},", "spec.yaml:3: .*no parameter 'pp'"),
        (
            "prune: {ratio: 0.20}",
            "search: {baselines: [vectr]}",
            "spec.yaml:4: search.baselines\\[0\\]: .*vectr.*'vector'",
        ),
        (
            "prune: {ratio: 0.20}",
            "search: {baselines: [adapruner]}",
            "spec.yaml:4: search.baselines.*it is searched itself",
        ),
        ("prune: {ratio: 0.20}", "search: {texts: wikitex2}", "spec.yaml:4: search.texts: .*wikitex2.*'wikitext2'"),
        ("prune: {ratio: 0.20}", "search: {space: {alpha: 1}}", "spec.yaml:4: search.space: .*'alpha'.*'alpha_max'"),
        (
            "prune: {ratio: 0.20}",
            "search: {transfer: {model: tinny}}",
            "spec.yaml:4: search.transfer.model: .*tinny.*'tiny'",
        ),
        ("prune: {ratio: 0.20}", "recovery: [lorra]", "spec.yaml:4: recovery\\[0\\].*lorra.*'lora'"),
        ("prune: {ratio: 0.20}", "recovery: [{name: lora, rnk: 4}]", "spec.yaml:4: recovery\\[0\\]: .*'rnk'.*'rank'"),
        ("tasks: [quiz]", "taks: [quiz]", "spec.yaml:6: evaluate: unknown key 'taks'; did you mean 'tasks'"),
        ("tasks: [quiz]", "tasks: [{name: quiz, metric: acc_nrm}]", "spec.yaml:6: evaluate.tasks.*acc_nrm.*'acc_norm'"),
        ("[quiz]", "[quiz], limit: {quizz: 4}", "spec.yaml:6: evaluate.limit.quizz: .*no task 'quizz'.*'quiz'"),
        ("[quiz]", "[quiz], limit: {quiz: many}", "spec.yaml:6: evaluate.limit.quiz: should be a whole number"),
        ("prune: {ratio: 0.20}", "search: {sampler: tpe, start: 4}", "spec.yaml:4: search.start: .*sampler local"),
    ],
)
def test_a_wrong_name_is_told_with_its_line_and_the_nearest(tmp_path, line, wrong, message):
    assert line in BASE
    spec = load(tmp_path, BASE.replace(line, wrong))
    with pytest.raises(SpecError, match=message):
        expand(spec).check_cuts()


def test_a_mistake_in_a_methods_own_settings_is_told_where_it_stands(tmp_path):
    """And not at the section of the spec that it changes."""
    before, after = BASE.split("methods: [magnitude, vector, adapruner]\n")
    for own, message in {
        "search: {baselines: [vectr]}": r"search.baselines\[0\]: unknown method 'vectr'",
        "search: {texts: wikitex2}": r"search.texts: unknown text 'wikitex2'",
        "search: {trails: 3}": "search: unknown key 'trails'",
        "calibration: {dataset: python-topic}": "calibration.dataset: unknown text 'python-topic'",
    }.items():
        methods = f"methods:\n  - magnitude\n  - {{name: adapruner, {own}}}\nsearch: {{baselines: [vector]}}\n"
        with pytest.raises(SpecError, match=rf"spec.yaml:5: methods\[1\].{message}"):
            expand(load(tmp_path, before + methods + after))
