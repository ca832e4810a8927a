import pytest

from reproducer.reporting.searches import searches_section
from reproducer.reporting.sections import failures, headline, results_table
from reproducer.reporting.summary import deviation, groups, other_text, perplexity_text, seconds_text
from reproducer.reporting.tables import Cell, Table, best, markdown, tex

from . import fake


def shown(*values: float | None) -> list[tuple[float, str] | None]:
    return [None if value is None else (value, perplexity_text(value)) for value in values]


def test_best_follows_the_direction():
    assert best(shown(3.0, 1.0, 2.0), higher_is_better=False) == {1}
    assert best(shown(3.0, 1.0, 2.0), higher_is_better=True) == {0}


def test_ties_are_what_the_reader_cannot_tell_apart():
    assert best(shown(1.2341, 1.2339, 1.24), higher_is_better=False) == {0, 1}  # both read 1.23
    assert best(shown(1.2349, 1.2351, 1.26), higher_is_better=False) == {0}  # 1.23 and 1.24


def test_missing_cells_and_single_cells_are_not_best():
    assert best(shown(None, 5.0, None), higher_is_better=False) == set()
    assert best(shown(None, 5.0, 4.0), higher_is_better=False) == {2}
    assert best(shown(None, None), higher_is_better=False) == set()


def column(table: Table, header: str) -> list[Cell]:
    return [row[table.headers.index(header)] for row in table.rows]


def test_arrows_tell_the_direction_of_each_metric():
    headers = results_table(fake.quickstart()).headers
    assert {"Python topics↓", "Docstrings↓", "Quiz↑", "Search obj.↓"} <= set(headers)


def test_bold_leaves_out_dense_and_starts_again_in_every_block():
    table = results_table(fake.table1())
    methods = [cell.text for cell in column(table, "Method")]
    for header in ("WikiText2↓", "BoolQ↑"):
        bold = [method for method, cell in zip(methods, column(table, header), strict=True) if cell.bold]
        assert bold == [
            "AdaPruner",
            "AdaPruner",
        ]  # once without, once with tuning; never the dense row, which is better
    assert len(table.rules) == 2


def test_a_ratio_is_a_block_of_its_own():
    results = fake.quickstart()
    worse = [
        fake.row(m, {k: (v or 0) * 0.9 for k, v in row["metrics"].items()}, ratio=0.5)
        for row in results["rows"]
        if (m := row["method"]) != "dense"
    ]
    table = results_table(results | {"rows": results["rows"] + worse})
    assert sum(cell.bold for cell in column(table, "Quiz↑")) == 2


def test_failed_and_missing_cells_read_so():
    results = fake.quickstart()
    results["rows"][3] = fake.failed("llm-pruner-e1", results["metrics"], "boom | <b>")
    results["rows"][4] = results["rows"][4] | {"status": "missing", "metrics": {}}
    results["rows"][5]["metrics"]["quiz_acc"] = None
    quiz = [cell.text for cell in column(results_table(results), "Quiz↑")]
    assert quiz[3:] == ["failed", "–", "–"]
    assert [f["error"] for f in failures(results)] == ["boom | <b>", "not run"]
    assert "4 of 6 rows done, 1 failed" in headline(results)[0]


def test_seeds_are_brought_together_as_mean_and_sample_deviation():
    results = fake.quickstart()
    rows = [fake.row("vector", {"quiz_acc": value}, seed=i) for i, value in enumerate((0.2, 0.3, 0.7))]
    (line,) = groups(rows)
    assert deviation(line.values("quiz_acc")) == pytest.approx(((0.2**2 + 0.1**2 + 0.3**2) / 2) ** 0.5)
    table = results_table(results | {"rows": rows})
    assert column(table, "Quiz↑")[0].text == "40.00 ± 26.46"


def test_a_search_that_found_nothing_is_said_to_have():
    results = fake.quickstart()
    search = results["searches"][0]
    search["best"] = None
    search["trials"] = [trial | {"value": None, "state": "fail"} for trial in search["trials"]]
    assert "found no configuration" in headline(results)[1]
    (section,) = searches_section(results["searches"])["details"]
    assert [cell.text for cell in section["candidates"].rows[-1]] == ["AdaPruner", "failed", None, None]


def test_a_baseline_that_wins_its_search_shares_the_first_place():
    results = fake.quickstart()
    search = results["searches"][0]
    search["best"] |= {"label": "LLM-Pruner-E2", "number": 2, "value": 177.3}
    assert "no trial was better" in headline(results)[1]
    rows = searches_section(results["searches"])["details"][0]["candidates"].rows
    assert [row[0].text for row in rows if row[1].bold] == ["AdaPruner", "LLM-Pruner-E2"]


def test_a_seed_that_failed_is_said_beside_the_label():
    results = fake.quickstart()
    rows = [fake.row("vector", {"quiz_acc": 0.5}), fake.failed("vector", results["metrics"], "boom", seed=1)]
    table = results_table(results | {"rows": rows})
    assert column(table, "Method")[0].text == "Vector (1 of 2 seeds)"
    assert column(table, "Quiz↑")[0].text == "50.00"


def test_two_tables_look_the_same_in_both_formats():
    table = Table(["a_b", "x↓"], "lr")
    table.add("m|n", Cell("1.00", bold=True))
    table.rule()
    table.add(None, "")
    assert markdown(table).splitlines()[2].replace(" ", "") == r"|m\|n|**1.00**|"
    assert r"m\textbar{}n & \textbf{1.00} \\" in tex(table)
    assert tex(table).count("\\midrule") == 2
    with pytest.raises(ValueError, match="3 cells for 2 columns"):
        table.add("1", "2", "3")


@pytest.mark.parametrize(
    ("value", "text"),
    [(12.624, "12.62"), (999.994, "999.99"), (999.996, "1000.0"), (1022.1, "1022.1"), (3456789.0, "3.46e6")],
)
def test_perplexities_read_as_the_paper_prints_them(value, text):
    assert perplexity_text(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(6.738, "6.74"), (425.119, "425.12"), (12892.61, "12892.6"), (0.0034567, "0.003457")]
)
def test_other_numbers_keep_digits_that_tell_something(value, text):
    assert other_text(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.004, "4 ms"), (59.94, "59.9 s"), (59.96, "1 min 00 s"), (233, "3 min 53 s"),
     (3599.6, "1 h 00 min"), (9000, "2 h 30 min")],
)  # fmt: skip
def test_times(seconds, text):
    assert seconds_text(seconds) == text
