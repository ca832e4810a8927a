"""A row of a spec, out of the store: found by what a person calls it, and exported."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reproducer.errors import UserError, nearest
from reproducer.exporting.folder import check_new
from reproducer.options import Options
from reproducer.queue import Artifact, Outcome, Result
from reproducer.reporting.card import Origin, form_of
from reproducer.reporting.numbers import cut, tuning
from reproducer.stages.base import PLAN, Edit, apply_edits
from reproducer.stages.expand import Expansion, Row
from reproducer.stages.resolve import DENSE
from reproducer.stages.results import Results
from reproducer.stages.results import Row as MeasuredRow


def find_row(expansion: Expansion, wanted: Options) -> Row:
    """The row with the label (or the method), and with whatever else of `wanted` is not None.

    Args:
        wanted: row, model, ratio, seed and recovery, as the command line has them.

    Raises:
        UserError: there is none, or more than one; says which there are.
    """
    if not wanted.row:
        there = ", ".join(dict.fromkeys(row.label for row in expansion.rows))
        raise UserError("which row is to be exported?", f"name it with --row; {expansion.spec.name} has: {there}")
    labelled = [row for row in expansion.rows if row.label == wanted.row]
    labelled = labelled or [row for row in expansion.rows if row.method == wanted.row]
    if not labelled:
        labels = list(dict.fromkeys(row.label for row in expansion.rows))
        raise UserError(f"{expansion.spec.name} has no row '{wanted.row}'", nearest(wanted.row, labels))
    fitting = [row for row in labelled if _fits(row, wanted)]
    if not fitting:
        message = f"no row '{wanted.row}' of {expansion.spec.name} is like that"
        raise UserError(message, f"there are:\n{_listed(labelled)}")
    if len(fitting) > 1:
        hint = f"choose one with --model, --ratio, --recovery or --seed:\n{_listed(fitting)}"
        raise UserError(f"{len(fitting)} rows of {expansion.spec.name} are called '{wanted.row}'", hint)
    return fitting[0]


def _fits(row: Row, wanted: Options) -> bool:
    ratio = row.ratio if row.ratio is not None else row.structure_ratio or 0.0
    return (
        (wanted.model is None or wanted.model == row.model)
        and (wanted.ratio is None or math.isclose(wanted.ratio, ratio, abs_tol=1e-9))
        and (wanted.seed is None or wanted.seed == row.seed)
        and (wanted.recovery is None or wanted.recovery in (row.recovery, row.recovery_label))
    )


def row_name(row: Row) -> str:
    """For a person."""
    return f"{row.model}, {row.label}" + (
        "" if row.method == DENSE else f", {cut(row)}, {tuning(row)}, seed {row.seed}"
    )


def shrunk(results: Results, row: Row) -> str:
    """What a model had before and has now, for a person."""
    dense = next(other for other in results.rows if other.model == row.model and other.method == DENSE)
    now = result_of(results, row)
    parts = [f"{dense.params:,} parameters before, {now.params:,} now"] if dense.params and now.params else []
    for column in results.columns:
        before, after = (result.metrics.get(column.key) for result in (dense, now))
        if column.kind == "perplexity" and before is not None and after is not None:
            form = form_of(column)
            parts.append(f"perplexity of {column.label} {form(before)} before, {form(after)} now")
    return "; ".join(parts)


def result_of(results: Results, row: Row) -> MeasuredRow:
    """What results.json has of a row."""
    keys = {role: stage.key for role, stage in row.stages.items()}
    return next(result for result in results.rows if result.stages == keys)


def _listed(rows: Sequence[Row]) -> str:
    return "\n".join(f"  {row_name(row)}" for row in rows)


def check_made(expansion: Expansion, outcome: Outcome, row: Row) -> dict[str, Artifact]:
    """The artifacts of the row's base model and of the edits made to it, by role.

    Raises:
        UserError: one of them failed or has not run; says which rows could be exported.
    """

    def results_of(row: Row) -> dict[str, Result]:
        return {
            role: outcome[stage] for role, stage in row.stages.items() if role == "model" or isinstance(stage, Edit)
        }

    artifacts = {}
    for role, result in results_of(row).items():
        if result.artifact is None:
            ready = [other for other in expansion.rows if all(made.artifact for made in results_of(other).values())]
            failed = result.status in ("failed", "blocked")
            message = f"the row '{row_name(row)}' " + (f"failed: {result.message}" if failed else "is not in the store")
            hint = f"rows that are:\n{_listed(ready)}" if ready else "run the spec first, with the same --store"
            raise UserError(message, hint)
        artifacts[role] = result.artifact
    return artifacts


def export_row(
    expansion: Expansion,
    outcome: Outcome,
    row: Row,
    results: Results,
    directory: Path,
    *,
    format: str = "hf",
    type: str | None = None,
    name: str | None = None,
    files: Mapping[str, str] | None = None,
) -> Path:
    """Write the model of a row, its edits merged into its weights, to a new folder.

    Args:
        results: of the whole spec, for the card.
        name: what the card calls the model by; None: the folder's name.
        format, type: as in `export`.
        files: further ones, text by name.

    Raises:
        UserError: the row is not in the store, or the folder cannot be written.
    """
    from reproducer.exporting.base import base_of_entry
    from reproducer.exporting.model import card_of, write
    from reproducer.models.load import load_model
    from reproducer.pruning.plan import Plan

    folders = {role: artifact.directory for role, artifact in check_made(expansion, outcome, row).items()}
    check_new(directory)
    model = next(other for other in expansion.resolved.models if other.name == row.model)
    cut_model: Any
    cut_model, tokenizer = load_model(folders["model"], model.state.dtype)
    plan = Plan.load(folders["plan"] / PLAN) if "plan" in folders else None
    if plan is not None:
        plan.check_base(cut_model)
    base = base_of_entry(model.entry, folders["model"])
    card = card_of(cut_model, plan, base, format, name or directory.name, type)
    cut_model = apply_edits(cut_model, row.state.edits, folders, merge=True)
    origin = Origin(results, result_of(results, row))
    return write(cut_model, plan, directory, card, tokenizer=tokenizer, origin=origin, files=files)
