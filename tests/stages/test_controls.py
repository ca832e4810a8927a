"""Controls: the rows and columns that a word in a spec adds."""

from __future__ import annotations

import pytest

from reproducer.spec import SpecError, load_spec
from reproducer.stages.expand import expand

SEARCHED = ", {name: adapruner, label: Ours, search: {trials: 7, sampler: tpe}}"
SPEC = """\
name: own
models: [tiny]
methods: [llm-pruner-e2, {name: adapruner, label: Ours, search: {trials: 7, sampler: tpe}}]
prune: {ratio: 0.20}
calibration: {dataset: python-topics, samples: 4, length: 64}
search: {windows: 6}
evaluate: {perplexity: [python-topics, python-docstrings], seq_len: 64}
controls: [same-information, same-compute, unseen-text]
"""


def rows(tmp_path, text=SPEC, profile=("tiny",)):
    path = tmp_path / "own.yaml"
    path.write_text(text)
    return {row.label: row for row in expand(load_spec(path, profile)).rows}


def test_each_control_adds_its_rows_and_they_say_so(tmp_path):
    found = rows(tmp_path)
    assert {label: row.control for label, row in found.items() if row.control} == {
        "E1 on the search's texts": "same-information",
        "E2 on the search's texts": "same-information",
        "Ours over the search's texts": "same-information",
        "E2, 28 samples": "same-compute",
        "E2, best of 7 draws": "same-compute",
    }
    assert list(found)[:3] == ["Tiny", "LLM-Pruner-E2", "Ours"], "the rows of the spec stand first"


def test_the_same_information_is_the_windows_that_the_search_measures_on(tmp_path):
    found = rows(tmp_path)
    searched = found["Ours"].stages["search"]
    for label in ("E1 on the search's texts", "E2 on the search's texts"):
        calibration = found[label].stages["plan"].calibration
        assert list(calibration.texts) == searched.texts and calibration.shares == (0.5, 0.5)
        assert calibration.pool == len(searched.texts) * searched.settings.windows
    own = found["Ours over the search's texts"].stages["search"]
    assert own.calibration == calibration and own.settings == searched.settings and own.texts == searched.texts


def test_the_same_compute_is_as_many_samples_or_as_many_draws(tmp_path):
    found = rows(tmp_path)
    assert found["E2, 28 samples"].stages["plan"].calibration.samples == 7 * 4
    drawn = found["E2, best of 7 draws"].stages["search"]
    assert (drawn.settings.trials, drawn.settings.sampler, drawn.settings.stop) == (7, "random", False)
    assert drawn.texts == found["Ours"].stages["search"].texts


def test_what_rows_saw(tmp_path):
    found = rows(tmp_path)

    def saw(label):
        return [(sight.dataset, sight.split, sight.purpose, sight.samples) for sight in found[label].saw]

    books = ("python-topics", "calibration", "calibration", 4)
    searched = [(name, "search", "search", None) for name in ("python-topics", "python-docstrings")]
    assert saw("Tiny") == [] and saw("LLM-Pruner-E2") == [books]
    assert saw("Ours") == [books, *searched]
    shared = [(name, "search", "calibration", 2) for name in ("python-topics", "python-docstrings")]
    assert saw("E2 on the search's texts") == shared
    assert saw("Ours over the search's texts") == [*shared, *searched]
    steps = "{name: llm-pruner-e2, label: steps, prune: {steps: 3, resample: true}}"
    found = rows(tmp_path, SPEC.replace("llm-pruner-e2,", f"llm-pruner-e2, {steps},"))
    assert saw("steps") == [(*books[:3], 3 * 4)], "each step has samples of its own"


def test_the_unseen_text_is_a_column_that_no_search_measures_on(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text(SPEC)
    expansion = expand(load_spec(path, ("tiny",)))
    assert [(column.key, column.unseen) for column in expansion.columns] == [
        ("python_topics_ppl", False),
        ("python_docstrings_ppl", False),
        ("python_packages_ppl", True),
    ]
    search = expansion.rows[2].stages["search"]
    assert [text.name for text in search.texts] == ["python-topics", "python-docstrings"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("same-compute", "same-computer"),
         "own.yaml:8: controls[1]: unknown control 'same-computer'; did you mean 'same-compute'?"),
        ((SEARCHED, ""), "no method of this spec is searched"),
        (("{windows: 6}", "{split: report}"), "would calibrate on the rows that the report measures on"),
    ],
)  # fmt: skip
def test_controls_that_cannot_be(tmp_path, change, message):
    with pytest.raises(SpecError) as caught:
        rows(tmp_path, SPEC.replace(*change))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("calibration", "message"),
    [
        ("{dataset: [python-topics, python-docstrings], shares: [0.5, 0.6]}",
         "own.yaml:5: calibration: the shares add up to 1.1, not to 1; in this proportion: [0.4545, 0.5455]"),
        ("{dataset: [python-topics, python-docstrings], shares: [1.0]}",
         "1 shares for 2 texts; give each text its share"),
        ("{dataset: [python-topics, wikitext2]}",
         "own.yaml:5: calibration.dataset[1]: text 'wikitext2' cannot serve for calibration"),
        ("{dataset: python-topics, samples: 20, pool: 30}", None),
    ],
)  # fmt: skip
def test_mixes_that_cannot_be(tmp_path, calibration, message):
    text = SPEC.replace("{dataset: python-topics, samples: 4, length: 64}", calibration).replace("controls", "# ")
    if message is None:
        text = text.replace("{ratio: 0.20}", "{ratio: 0.20, steps: 2, resample: true}").replace(
            ", {name: adapruner, label: Ours, search: {trials: 7, sampler: tpe}}", ""
        )
        message = "2 steps with 20 samples each need 40 of them; the pool has 30"
    path = tmp_path / "own.yaml"
    path.write_text(text)
    with pytest.raises(SpecError) as caught:
        expand(load_spec(path)).check_cuts()
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ("[adapruner]", "adapruner is searched for one cut, not for 3 steps"),
        ("[{name: magnitude, prune: {steps: 400, ratio: 0.2}}]", "take fewer steps"),
    ],
)
def test_steps_that_cannot_be(tmp_path, methods, message):
    path = tmp_path / "own.yaml"
    path.write_text(f"name: own\nmodels: [tiny]\nmethods: {methods}\nprune: {{ratio: 0.2, steps: 3}}\n")
    with pytest.raises(SpecError) as caught:
        expand(load_spec(path, ("tiny",))).check_cuts()
    assert message in str(caught.value) and "own.yaml:" in str(caught.value)


def test_a_file_that_is_calibrated_on_and_measured_is_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("words\n\n" * 9)
    text = SPEC.replace("python-topics, samples", f"{tmp_path / 'mine.txt'}, samples").replace(
        "perplexity: [python-topics", f"perplexity: [{tmp_path / 'mine.txt'}"
    )
    with pytest.raises(SpecError, match="would be calibrated on the same rows that the report measures on"):
        rows(tmp_path, text.replace("controls", "# "), ())
