"""The sections on budget, generations and settings."""

from reproducer.reporting.generations import lines_of

from . import fake
from .reading import html, latex, markdown, section_of, tables


def test_the_budget_tells_what_was_spent():
    results = fake.measured(fake.table1(), 3)
    (times,) = tables(results, "Budget")
    *kinds, total = ([*line.values()] for line in times)
    assert total == ["all", "111", "2 h 34 min"] and len(kinds) == 6
    assert "clock" not in markdown(results)
    assert "on the clock" in markdown(fake.change(results, wall_seconds=5000.0))
    rounded = results.seconds - 100  # 111 stages, their ends known to the second
    assert "clock" not in markdown(fake.change(results, wall_seconds=rounded))
    assert section_of(markdown(fake.quickstart()), "Budget") == ""


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
    recovery = "rank 8, targets {q\\_proj, v\\_proj}; 5 runs of 40 steps, 640 examples seen in each."
    assert f"- **Recovery LoRA**: {recovery}" in text
    assert "BoolQ (acc, 100 items, 100 at most)" in text and "Read: WikiText2, 64 windows (64 at most)" in text
    assert "the pool holds 2,171 passages" in text
    assert "- **Seeds**: 0, 1." in text
    assert "over 1 × 64 random tokens; the median of 20 passes after 3" in text
    assert "- **Times on a GPU**: First to third quartile of the passes: llama-7b 100 to 200 ms." in text


def test_all_formats_say_the_same():
    results = fake.measured(fake.table1("smollm2-135m", structure_ratio=None), 3)
    text, tex, page = markdown(results), latex(results), html(results)
    for sentence in ("the order of the methods, and what pruning did to each model", "each stage counted once"):
        assert sentence in text and sentence in tex and sentence in page
    assert text.count("\n## ") == tex.count("\\section*{") == page.count("<h2 ")
    assert text.count("\n### ") == tex.count("\\subsection*{") == page.count("<h3 ")
