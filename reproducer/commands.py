"""What each command does, once its arguments are read."""

from __future__ import annotations

import importlib.metadata
import json
import math
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

from tabulate import tabulate

from reproducer.errors import UserError
from reproducer.methods import registry
from reproducer.models.catalogue import CATALOGUE
from reproducer.queue import Outcome, Store, console_progress, duration, survey
from reproducer.queue import run as run_queue
from reproducer.spec import Spec, load_spec
from reproducer.stages.handlers import handlers_for
from reproducer.stages.rows import TIMED, Expansion, expand

PACKAGES = ("reproducer", "torch", "transformers", "optuna", "peft", "datasets", "lm-eval", "tokenizers", "numpy")
DONE, FAILED = 0, 1


def run(given: Namespace) -> int:
    """Run a spec and render its report."""
    spec, expansion = _load(given)
    if given.dry_run:
        print(_queue(expansion, Store(given.store), given.device))
        return DONE
    return _finish(spec, expansion, _run(expansion, given), given)[0]


def report(given: Namespace) -> int:
    """Render from the store, running nothing."""
    spec, expansion = _load(given)
    outcome = survey(expansion.stages, Store(given.store))
    return _finish(spec, expansion, outcome, given)[0]


def status(given: Namespace) -> int:
    """What of a spec is done."""
    spec, expansion = _load(given)
    timed = any(stage.kind == "efficiency" for stage in expansion.stages)  # a time holds for its device
    device = _device("auto") if timed else "cpu"
    outcome = survey(expansion.stages, Store(given.store), handlers_for(device))
    lines = [
        (result.status, result.stage.kind, result.stage.label, result.message) for result in outcome.results.values()
    ]
    print(tabulate(lines, headers=["status", "stage", "of", ""], tablefmt="plain"))
    counts = ", ".join(f"{count} {name}" for name, count in sorted(outcome.counts.items()))
    print(f"\n{spec.name}: {len(expansion.rows)} rows, {len(outcome.results)} stages: {counts}")
    return DONE


def check(given: Namespace) -> int:
    """Run a spec and compare its rows with a committed results.json."""
    try:
        baseline = json.loads(given.against.read_text(encoding="utf-8"))
        known = {_name(row): row["metrics"] for row in baseline["rows"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"the baseline {given.against} cannot be read: {error}") from None
    spec, expansion = _load(given)
    code, results = _finish(spec, expansion, _run(expansion, given), given)
    measured = {_name(row): row["metrics"] for row in results["rows"]}
    differences = [f"{name}: not in this run" for name in known if name not in measured]
    differences += [f"{name}: not in the baseline" for name in measured if name not in known]
    for name in known.keys() & measured.keys():
        for metric in sorted((known[name].keys() | measured[name].keys()) - set(TIMED)):
            before, now = known[name].get(metric), measured[name].get(metric)
            if before is None or now is None or not math.isclose(before, now, rel_tol=given.tolerance):
                differences.append(f"{name}: {metric} was {before}, is {now}")
    for line in differences:
        print(f"differs  {line}", file=sys.stderr)
    if not differences:
        print(f"all {len(known)} rows agree with {given.against} within {given.tolerance:g}")
    return FAILED if differences else code


def clean(given: Namespace) -> int:
    """Remove stages of the store that none of the given specs needs."""
    needed: set[str] = set()
    for path in given.specs:
        for profile in [(), *((name,) for name in given.profile)]:
            needed |= {stage.key for stage in expand(load_spec(path, profile)).stages}
    removed = Store(given.store).clean(needed)
    for name, size in removed.items():
        print(f"{size / 2**20:9.1f} MiB  {name}")
    print(f"{len(removed)} items, {sum(removed.values()) / 2**20:.1f} MiB removed; {len(needed)} stages are needed")
    return DONE


def methods(given: Namespace) -> int:
    """List the pruning methods."""
    lines = []
    for method in registry.methods().values():
        parameters = ", ".join(f"{name}={value}" for name, value in method.parameters.items())
        lines.append((method.name, method.label, method.summary, parameters, method.source))
    print(tabulate(lines, headers=["name", "label", "score of a vector", "parameters", "source"], tablefmt="simple"))
    return DONE


def models(given: Namespace) -> int:
    """List the model catalogue."""
    lines = [(name, entry.label, entry.describe(), entry.dtype, entry.notes) for name, entry in CATALOGUE.items()]
    headers = ["name", "label", "source", "dtype", "notes"]
    print(tabulate(lines, headers=headers, tablefmt="simple", maxcolwidths=[None, None, 50, None, 60]))
    print("\nA spec may also name any hub id (organisation/name) or a local folder.")
    return DONE


def specs(given: Namespace) -> int:
    """List the specs of a folder."""
    if not given.folder.is_dir():
        raise UserError(f"there is no folder {given.folder}", "name the folder that holds the specs")
    lines = []
    for path in sorted(given.folder.glob("*.yaml")):
        spec = load_spec(path)
        item = " ".join(f"{kind.title()} {number}" for kind, number in (spec.reproduces or {}).items())
        lines.append((path, item, spec.title))
    print(tabulate(lines, headers=["spec", "reproduces", "title"], tablefmt="simple"))
    profiles = sorted(path.stem for path in (given.folder / "profiles").glob("*.yaml"))
    print(f"\nprofiles: {', '.join(profiles) or 'none'}")
    return DONE


def _load(given: Namespace) -> tuple[Spec, Expansion]:
    spec = load_spec(given.spec, given.profile, given.overrides)
    return spec, expand(spec)


def _run(expansion: Expansion, given: Namespace) -> Outcome:
    if given.jobs < 1:
        raise UserError(f"--jobs {given.jobs}: at least one stage has to run at once")
    outcome = survey(expansion.stages, Store(given.store), handlers_for("cpu"))
    if outcome.ok:  # nothing to compute: torch need not even be imported
        return outcome
    device = _device(given.device)
    return run_queue(
        expansion.stages,
        f"reproducer.stages.handlers:{device}",
        Store(given.store),
        jobs=given.jobs,
        progress=console_progress(),
        environment={"packages": _packages(), "device": device},
    )


def _finish(spec: Spec, expansion: Expansion, outcome: Outcome, given: Namespace) -> tuple[int, dict[str, Any]]:
    from reproducer.reporting import render
    from reproducer.stages.results import collect

    results = {**collect(spec, expansion, outcome), "command": _command(given)}
    written = render(results, given.out / spec.name)
    failed = [result for result in outcome.results.values() if result.status == "failed"]
    for result in failed:
        print(f"failed  {result.stage.label}: {result.message}", file=sys.stderr)
    counts = ", ".join(f"{count} {name}" for name, count in sorted(outcome.counts.items()))
    print(f"{spec.name}: {len(expansion.rows)} rows from {len(outcome.results)} stages ({counts})")
    print(f"report: {next(path for path in written if path.name == 'report.md')}")
    return FAILED if failed else DONE, results


def _command(given: Namespace) -> list[str]:
    """The command that makes this report again."""
    path = given.spec if not given.spec.is_absolute() else Path(given.spec.name)
    options = [*(("--profile", name) for name in given.profile), *(("--set", text) for text in given.overrides)]
    return ["reproduce", str(path), *(part for option in options for part in option)]


def _queue(expansion: Expansion, store: Store, device: str) -> str:
    """The queue as `--dry-run` prints it. Nothing is loaded; torch is there to measure the device, if work is left."""
    outcome = survey(expansion.stages, store)
    cells = {stage.key: [stage.key[:12], stage.kind, stage.label, "in the store"] for stage in expansion.stages}
    todo = [stage for stage in expansion.stages if outcome[stage].status != "cached"]
    summary = f"{len(expansion.rows)} rows, {len(cells)} stages, {len(todo)} to run"
    if todo:
        from reproducer.stages.device import this_device
        from reproducer.stages.estimates import Estimate, basis, estimate, memory_text

        here, total, unknown = this_device(_device(device)), 0.0, 0
        fetched = {key: one.artifact.directory for key, one in outcome.results.items() if one.artifact is not None}
        for key, one in estimate(todo, here, fetched).items():
            if isinstance(one, Estimate):
                memory = memory_text(one.memory) if one.memory else ""
                cells[key][3:] = [f"about {duration(one.seconds)}", memory, one.misfit(here)]
                total += one.seconds
            else:
                cells[key][3:] = [one]
                unknown += 1
        summary += f", {'at least' if unknown else 'about'} {duration(total)}\n\n{basis(here)}"
    table = tabulate(list(cells.values()), headers=["key", "stage", "of", "time", "memory", ""], tablefmt="simple")
    return f"{table}\n\n{summary}"


def _name(row: dict[str, Any]) -> str:
    cut = row.get("ratio") if row.get("ratio") is not None else f"{row.get('structure_ratio')} of structures"
    return f"{row['model']} {row['label']} at {cut}, recovery {row['recovery']}, seed {row['seed']}"


def _device(name: str) -> str:
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name} cannot be used: {str(error).splitlines()[0]}") from None
    return name


def _packages() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in PACKAGES}
