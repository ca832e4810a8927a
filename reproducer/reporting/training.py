"""How fine-tuning went: the losses at its beginning and its end."""

from collections.abc import Mapping, Sequence
from typing import Any

from reproducer.reporting.summary import mean, ratio_text
from reproducer.reporting.tables import Table

ENDS = 10  # steps at the beginning and at the end that are averaged, or a third of all


def training_section(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """`sentence` and `table` of the rows that were trained; None without one."""
    trained = [row for row in rows if row.get("training")]
    if not trained:
        return None
    models, seeds = (len({row[name] for row in trained}) > 1 for name in ("model", "seed"))
    headers = ["Model"] * models + ["Ratio", "Method"] + ["Seed"] * seeds
    table = Table([*headers, "First loss", "Last loss", "Steps", "Examples"], "l" * len(headers) + "rrrr")
    last = None
    for row in trained:
        ratio = ratio_text(row.get("ratio"), row.get("structure_ratio"))
        if (row["model"], ratio) != last:
            table.rule()
        last = (row["model"], ratio)
        losses = [point["loss"] for point in row["training"]]
        count = ends(len(losses))
        head = [row["model"]] * models + [ratio, row["label"]] + [str(row["seed"])] * seeds
        first, end = (f"{mean(part):.3f}" for part in (losses[:count], losses[-count:]))
        table.add(*head, first, end, f"{row['training'][-1]['step']:,}", f"{row['training'][-1]['examples']:,}")
    sentence = (
        f"Mean cross-entropy, in nats, of the response tokens of a step’s batch; first and last are means over "
        f"{ENDS} steps, or a third of them where there are fewer than {3 * ENDS}."
    )
    return {"sentence": sentence, "table": table}


def ends(steps: int) -> int:
    """How many steps at either end are averaged: never so many that the two ends meet, but for a single step."""
    return max(1, min(ENDS, steps // 3))
