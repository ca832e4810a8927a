"""What each command does, once its arguments are read."""

from __future__ import annotations

import importlib.metadata
import sys
import tempfile
from argparse import Namespace
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tabulate import tabulate

from reproducer.baseline import by_name, differences_from, other_data, read_baseline
from reproducer.errors import UserError
from reproducer.exporting import recipe
from reproducer.exporting.folder import check_new
from reproducer.methods.registry import METHODS
from reproducer.models.catalogue import CATALOGUE
from reproducer.models.export.formats import writer
from reproducer.queue import (
    Monitor,
    Outcome,
    Progress,
    Remote,
    Result,
    Stage,
    Store,
    check_shared,
    console_progress,
    duration,
    engine_named,
    fetch,
    fitting_slots,
    survey,
)
from reproducer.queue import run as run_queue
from reproducer.queue.engines.local import WORKER_MEMORY
from reproducer.queue.files import tree_bytes
from reproducer.spec import Document, Spec, load
from reproducer.spec.profiles import find_profile
from reproducer.stages.collect import collect, columns_of, settled_rows
from reproducer.stages.document import expand_all
from reproducer.stages.expand import Expansion, Row, expand
from reproducer.stages.results import Results
from reproducer.watching import find_stage, holder_cells, log_text, watch

PACKAGES = ("reproducer", "torch", "transformers", "optuna", "peft", "datasets", "lm-eval", "tokenizers", "numpy")
DONE, FAILED = 0, 1
SMALLER = ("small", "tiny")  # profiles of this repository's specs
LARGE = 10**9  # parameters of a model whose stages are estimated before they run
LONG = 24 * 3600  # seconds of work that a user may want to hear of before they begin


def run(given: Namespace) -> int:
    """Run a spec and render its report."""
    expansion = _load(given)
    if given.dry_run:
        print(_queue(expansion, Store(given.store), given.devices, given.on, given.offload))
        return DONE
    if given.on is not None:
        raise UserError("--on plans for devices that are not here", "add --dry-run")
    return _finish(expansion, _run(expansion, given, given.out / expansion.spec.name), given)[0]


def report(given: Namespace) -> int:
    """Render from the store, running nothing."""
    expansion = _load(given)
    _check_folder(given.out / expansion.spec.name)
    store = _store(given)
    _fetch(expansion, store, None)
    return _finish(expansion, survey(expansion.stages, store), given)[0]


def status(given: Namespace) -> int:
    """What of a spec is done."""
    expansion = _load(given)
    store = _store(given)
    if given.watch:
        watch(expansion.spec.name, expansion.stages, store)
        return DONE
    outcome = survey(expansion.stages, store, _surveyed(expansion, ("auto",)))
    there = store.remote.keys() if store.remote else set()
    at_work = {stage.key: holder for stage, holder in Monitor(expansion.stages, store).look().running}
    lines = []
    for key, result in outcome.results.items():
        holder = at_work.get(key)
        what = ("running", ", ".join(filter(None, holder_cells(holder)))) if holder else (result.status, result.message)
        what = ("remote", "") if what == ("missing", "") and key in there else what
        lines.append((what[0], key[:12], result.stage.kind, result.stage.label, what[1]))
    print(tabulate(lines, headers=["status", "key", "stage", "of", ""], tablefmt="plain", disable_numparse=True))
    print(f"\n{expansion.spec.name}: {len(expansion.rows)} rows, {len(outcome.results)} stages: {_counts(outcome)}")
    return DONE


def logs(given: Namespace) -> int:
    """What a stage has said, printed and logged."""
    stage = find_stage(_load(given).stages, given.stage)
    print(log_text(Store(given.store), stage), end="")
    return DONE


def check(given: Namespace) -> int:
    """Run a spec and compare its rows with a committed results.json."""
    baseline = read_baseline(given.against)
    expansion = _load(given)
    code, results = _finish(expansion, _run(expansion, given, given.out / expansion.spec.name), given)
    differences = differences_from(baseline, results, given.tolerance)
    for line in differences:
        print(f"differs  {line}", file=sys.stderr)
    if differences and (others := other_data(baseline, results)):
        python = baseline.environment.get("python")
        made = f" (the baseline's Python is {python})" if python else ""
        print(
            f"other data than the baseline's was read: {', '.join(others)}. Built-in texts are the running Python's "
            f"own documentation, another in each version{made}; numbers on other data differ.",
            file=sys.stderr,
        )
    if not differences:
        print(f"all {len(by_name(baseline.rows))} rows agree with {given.against} within {given.tolerance:g}")
    return FAILED if differences else code


def export(given: Namespace) -> int:
    """Write a row's model to a folder that other programs load."""
    from reproducer.exporting.rows import check_made, find_row

    expansion = _load(given)
    row = find_row(expansion, given)
    _check_target(given)
    store = _store(given)
    _fetch(expansion, store, None)
    outcome = survey(expansion.stages, store)
    check_made(expansion, outcome, row)  # before everything else is read
    _deliver(given, expansion, outcome, row, {})
    return DONE


def prune(given: Namespace) -> int:
    """Prune a model by the recipe, measure it before and after, and write the smaller one to a folder."""
    _check_target(given)
    _find_modules(given.spec)
    settings = recipe.settings(
        given.model,
        ratio=given.ratio,
        method=given.method,
        calibration=given.calibration,
        samples=given.samples,
        recover=given.recover,
        seed=given.seed,
    )
    expansion = expand(recipe.spec_of(settings))
    outcome = _run(expansion, given, None)
    if _told_failures(outcome):
        return FAILED
    _deliver(given, expansion, outcome, expansion.rows[-1], {recipe.FILE: recipe.text_of(settings)})
    return DONE


def _check_target(given: Namespace) -> None:
    """UserError for a folder that is taken, or a name or type that there is not, before anything runs."""
    check_new(given.directory.expanduser())
    writer(given.format, given.quantize)
    if given.push is not None:
        from reproducer.exporting.push import check_repository

        check_repository(given.push)


def _deliver(given: Namespace, expansion: Expansion, outcome: Outcome, row: Row, files: Mapping[str, str]) -> None:
    """Write a row's model, say what it is, and push it where that is asked for."""
    from reproducer.exporting.push import push
    from reproducer.exporting.rows import export_row, row_name, shrunk

    results = collect(expansion, outcome, _command(given))
    folder = export_row(
        expansion,
        outcome,
        row,
        results,
        given.directory.expanduser().absolute(),
        format=given.format,
        type=given.quantize,
        name=given.push,
        files=files,
    )
    print(f"{row_name(row)}: {shrunk(results, row)}\nwritten to {given.directory}; its README.md says how to load it")
    if given.push is not None:
        print(f"pushed to {push(folder, given.push)}")


def clean(given: Namespace) -> int:
    """Remove stages of the store that none of the given specs needs."""
    needed: set[str] = set()
    for path in given.specs:
        _find_modules(path)
        for profile in [(), *((name,) for name in given.profile), tuple(given.profile)]:
            for overrides in ((), given.overrides) if given.overrides else ((),):
                needed |= {stage.key for stage in expand_all(load(path, profile, overrides)).stages}
    removed = Store(given.store).clean(needed)
    for name, size in removed.items():
        print(f"{size / 2**20:9.1f} MiB  {name}")
    print(f"{len(removed)} items, {sum(removed.values()) / 2**20:.1f} MiB removed; {len(needed)} stages are needed")
    return DONE


def methods(given: Namespace) -> int:
    """List the pruning methods."""
    lines = []
    for method in METHODS.all().values():
        parameters = ", ".join(f"{name}={value}" for name, value in method.parameters.items())
        lines.append((method.name, method.label, method.summary, parameters, method.source))
    print(tabulate(lines, headers=["name", "label", "what it does", "parameters", "source"], tablefmt="simple"))
    return DONE


def models(given: Namespace) -> int:
    """List the model catalogue."""
    lines = [(name, entry.label, entry.describe(), entry.dtype, entry.notes) for name, entry in CATALOGUE.items()]
    headers = ["name", "label", "source", "dtype", "notes"]
    print(tabulate(lines, headers=headers, tablefmt="simple", maxcolwidths=[None, None, 50, None, 60]))
    print("\nA spec may also name any hub id (organisation/name) or a local folder.")
    return DONE


def specs(given: Namespace) -> int:
    """List the specs of a folder: what each is, and what of it the store holds."""
    if not given.folder.is_dir():
        raise UserError(f"there is no folder {given.folder}", "name the folder that holds the specs")
    lines = []
    for path in sorted(given.folder.glob("*.yaml")):
        _find_modules(path)
        loaded = load(path, given.profile, given.overrides)
        expansion = expand_all(loaded)
        outcome = survey(expansion.stages, Store(given.store))  # what is read from outside is not looked at
        made = sum(outcome[stage].artifact is not None for stage in expansion.stages)
        rest = [_rest(expansion, outcome)] if given.estimate else []
        lines.append([path, _reproduced(loaded), len(expansion.rows), len(expansion.stages), made, *rest, loaded.title])
    headers = ["spec", "reproduces", "rows", "stages", "in the store", *["the rest"] * given.estimate, "title"]
    print(tabulate(lines, headers=headers, tablefmt="simple"))
    profiles = sorted(path.stem for path in (given.folder / "profiles").glob("*.yaml"))
    print(f"\nprofiles: {', '.join(profiles) or 'none'}")
    return DONE


def _reproduced(loaded: Spec | Document) -> str:
    """`Table 1`; of a document how many specs it includes."""
    if isinstance(loaded, Spec):
        return " ".join(f"{kind.title()} {number}" for kind, number in (loaded.reproduces or {}).items())
    return f"{len(loaded.specs)} specs"


def _rest(expansion: Expansion, outcome: Outcome) -> str:
    """How long the stages that are not in the store would take on this machine."""
    from reproducer.stages.estimates import Device, Estimate, estimates

    todo = [stage for stage in expansion.stages if outcome[stage].artifact is None]
    if not todo:
        return "nothing"
    found = estimates(expansion.stages, outcome, Device.named(_devices(("auto",))[0]))
    known = sum(isinstance(found.stages[stage.key], Estimate) for stage in todo)
    return f"{'about' if known == len(todo) else 'at least'} {duration(found.seconds)}"


def audit(given: Namespace) -> int:
    """Recompute what the paper derives from its own tables."""
    from reproducer.paper.audit import checks, other_slips, slips

    wrong = slips()
    print(
        f"{len(checks())} numbers that the paper derives from its own tables, recomputed; {len(wrong)} do not add up:"
    )
    for one in wrong:
        print(f"\n{one.where}: {one.what}\n  printed {one.printed}, should be {one.right}\n  {one.arithmetic}")
    print("\nWhat else is wrong in its text, which no arithmetic finds:")
    for other in other_slips():
        place = ", ".join(f"{name} {value}" for name, value in other.slip.where.items())
        print(f"\n{other.item}{f' ({place})' if place else ''}")
        if other.slip.printed is not None:
            print(f"  printed: {other.slip.printed}")
        print(f"  {other.slip.why}")
    return DONE


def _find_modules(spec: Path) -> None:
    """Let Python find the modules that a spec names as `module:attribute`: in its folder and in this one."""
    for folder in (Path(), spec.parent):
        if (path := str(folder.resolve())) not in sys.path:
            sys.path.insert(0, path)


def _load(given: Namespace) -> Expansion:
    _find_modules(given.spec)
    return expand_all(load(given.spec, given.profile, given.overrides))


def _store(given: Namespace) -> Store:
    return Store(given.store, Remote(given.remote) if given.remote is not None else None)


def _fetch(expansion: Expansion, store: Store, device: str | None) -> None:
    """Bring into the store what the remote has of it, if there is one."""
    if store.remote is not None:
        fetched = fetch(expansion.stages, store, store.remote, device, print)
        size = sum(tree_bytes(artifact.directory) for artifact in fetched) / 2**20
        print(f"fetched {len(fetched)} of {len(expansion.stages)} stages ({size:.1f} MiB) from {store.remote.url}")


def _run(expansion: Expansion, given: Namespace, folder: Path | None) -> Outcome:
    """Bring every stage to an artifact; what cannot work is told before the first one runs, or a folder is made.

    Args:
        folder: of the report; None: there will be none.
    """
    store = _store(given)
    surveyed = _surveyed(expansion, given.devices)
    _fetch(expansion, store, surveyed)
    outcome = survey(expansion.stages, store, surveyed)
    unshared = outcome.results.keys() - store.remote.keys() if store.remote else ()
    if outcome.ok and not unshared:  # nothing to compute: torch need not even be imported
        _check_folder(folder)
        return outcome
    factory, options = engine_named(given.engine)
    elsewhere = getattr(factory, "elsewhere", False)
    devices = ("cpu",) if elsewhere else _devices(given.devices)
    if given.offload and not elsewhere:
        _check_offload(devices)
    expansion.check_cuts()
    _check_folder(folder)
    store.prepare()
    todo = [stage for stage in expansion.stages if outcome[stage].artifact is None]
    memory = _announce(expansion, todo, outcome, devices[0], given, here=not elsewhere)
    if elsewhere:
        engine: Any = factory(given.jobs or 0, device=",".join(given.devices), **options)
        devices = engine.devices
        memory = memory if devices == ("cpu",) else {}  # on a GPU it is the GPU's
        try:
            if given.offload:
                _check_offload(devices)
            if store.remote is None:
                check_shared(store, engine)
        except BaseException:
            engine.close()
            raise
    else:
        largest = max(memory.values(), default=WORKER_MEMORY)
        slots = fitting_slots(devices, largest) if given.jobs == 0 else max(given.jobs or 1, len(devices))
        engine = factory(min(slots, max(1, len(todo))))
    return run_queue(
        expansion.stages,
        store,
        engine,
        devices,
        progress=(progress := console_progress()),
        environment={"packages": _packages(), "device": ",".join(devices)},
        settled=partial(_say_rows, expansion, progress),
        memory={stage.key: max(memory.get(stage.key, 0), WORKER_MEMORY) for stage in todo} if elsewhere else None,
        offload=given.offload,
    )


def _say_rows(expansion: Expansion, progress: Progress, stage: Stage, results: Mapping[str, Result]) -> None:
    """Show the rows that have ended with `stage`."""
    if rows := settled_rows(expansion, stage, results):
        from reproducer.reporting import row_line

        for row in rows:
            progress.say(row_line(row, columns_of(expansion)))


def _check_folder(folder: Path | None) -> None:
    """UserError unless a report can be written to `folder`, which need not be there yet."""
    if folder is None:
        return
    try:
        made = folder.expanduser()
        made.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=made, prefix=".", suffix=".results.json"):
            pass
    except (OSError, RuntimeError, ValueError) as error:
        raise _unwritable(folder, error) from None


def _unwritable(folder: Path, error: Exception) -> UserError:
    where = getattr(error, "filename2", None) or getattr(error, "filename", None) or folder
    reason = getattr(error, "strerror", None) or error
    return UserError(f"the report cannot be written to {where}: {reason}", "choose another --out")


def _announce(
    expansion: Expansion, todo: list[Stage], outcome: Outcome, device: str, given: Namespace, here: bool
) -> dict[str, int]:
    """Say what a long run needs, before it starts. Returns bytes that stages will hold, by key, as far as is known.

    Args:
        here: it runs on `device`, and not on other machines.

    Small models are not worth the seconds that an estimate takes.

    Raises:
        UserError: a stage does not fit, and is none that can offload.
    """
    large = any((model.entry.parameters or LARGE) >= LARGE for model in expansion.found.models)
    if not large and given.jobs != 0 and not given.offload:
        return {}
    from reproducer.stages.estimates import Device, Estimate, estimates, misfit

    at = Device.named(device)
    at.offload = given.offload and here
    found = estimates(expansion.stages, outcome, at)
    for stage in todo if at.offload else ():
        one, why = found.stages[stage.key], getattr(stage, "whole", "")
        if why and isinstance(one, Estimate) and one.memory > at.memory:
            raise UserError(f"{stage.label}: {misfit(stage, one, at)}", "leave it out of the spec, or --offload")
    if large and here and (found.seconds > LONG or found.misfits):
        lines = [f"{expansion.spec.name}: {len(todo)} stages to run, about {duration(found.seconds)} on this device"]
        lines += [f"from the network: {', '.join(needed)}"] if (needed := expansion.needs(todo)) else []
        lines += [f"too large for it: {found.misfits[0]}"] if found.misfits else []
        others = [name for name in SMALLER if name not in given.profile and _is_profile(name, given.spec)]
        lines += [f"smaller versions of this spec: --profile {' or --profile '.join(others)}"] if others else []
        print("\n  ".join(lines))
    return {key: int(one.memory) for key, one in found.stages.items() if isinstance(one, Estimate)}


def _is_profile(name: str, spec: Path) -> bool:
    try:
        return find_profile(name, spec).is_file()
    except UserError:
        return False


def _finish(expansion: Expansion, outcome: Outcome, given: Namespace) -> tuple[int, Results]:
    from reproducer.reporting import render, summary

    results = collect(expansion, outcome, _command(given))
    folder = given.out / expansion.spec.name
    try:
        written = render(results, folder.expanduser())
    except OSError as error:
        raise _unwritable(folder, error) from error
    failed = _told_failures(outcome)
    print(f"\n{summary(results)}")
    print(f"{expansion.spec.name}: {len(expansion.rows)} rows from {len(outcome.results)} stages ({_counts(outcome)})")
    for name in ("report.md", "report.html"):
        print(f"report: {next(path for path in written if path.name == name)}")
    return FAILED if failed else DONE, results


def _told_failures(outcome: Outcome) -> list[Result]:
    """The stages that failed, each printed."""
    failed = [result for result in outcome.results.values() if result.status == "failed"]
    for result in failed:
        print(f"failed  {result.stage.label}: {result.message}", file=sys.stderr)
    return failed


def _queue(
    expansion: Expansion, store: Store, devices: tuple[str, ...], on: tuple[int, str] | None, offload: bool
) -> str:
    """The queue as `--dry-run` prints it; the device is measured if work is left.

    Args:
        on: instead of a device of this machine, so many of the table's.
        offload: layers that do not fit are in host memory.
    """
    outcome = survey(expansion.stages, store)
    todo = [stage for stage in expansion.stages if outcome[stage].artifact is None]
    lines = {stage.key: [stage.key[:12], stage.kind, stage.label, "in the store"] for stage in expansion.stages}
    summary = f"{len(expansion.rows)} rows, {len(lines)} stages, {len(todo)} to run"
    if todo:
        from reproducer.stages.estimates import Device, Estimate, estimates, memory_text
        from reproducer.stages.schedule import device_named, schedule_text

        expansion.check_cuts()
        here = Device.named(_devices(devices)[0]) if on is None else device_named(on[1], on[0])
        here.offload = offload
        if offload and here.is_host:
            raise _no_offload()
        found = estimates(expansion.stages, outcome, here)
        known = [one for stage in todo if isinstance(one := found.stages[stage.key], Estimate)]
        for stage in todo:
            match found.stages[stage.key]:
                case Estimate(seconds, memory):
                    more = f"{memory_text(memory - here.memory)} too much" if memory > here.memory else ""
                    lines[stage.key][3:] = [f"about {duration(seconds)}", memory_text(memory), more]
                case why:
                    lines[stage.key][3:] = [why]
        share = "about" if len(known) == len(todo) else "at least"
        summary += f", {share} {duration(found.seconds)}"
        if found.misfits:
            summary += f"\nToo large for it: {found.misfits[0]}"
        summary += f"\n\n{found.basis}"
        if on is not None:
            summary += f"\n\n{schedule_text(expansion.stages, outcome, here, on[0], found)}"
    table = tabulate(list(lines.values()), headers=["key", "stage", "of", "time", "memory", ""], tablefmt="simple")
    return f"{table}\n\n{summary}"


def _counts(outcome: Outcome) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(outcome.counts.items()))


def _command(given: Namespace) -> list[str]:
    """The command that makes this report again."""
    path = given.spec if not given.spec.is_absolute() else Path(given.spec.name)
    options = [*(("--profile", name) for name in given.profile), *(("--set", text) for text in given.overrides)]
    return ["reproduce", str(path), *(part for option in options for part in option)]


def _packages() -> dict[str, str]:
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def _surveyed(expansion: Expansion, names: tuple[str, ...]) -> str:
    """The device whose results a survey takes: times hold for one alone, and nothing else asks for torch."""
    return _devices(names)[0] if any(column.timed for column in expansion.columns) else "cpu"


def _check_offload(devices: Sequence[str]) -> None:
    """UserError unless stages run on GPUs alone."""
    if any(device.partition(":")[0] == "cpu" for device in devices):
        raise _no_offload()


def _no_offload() -> UserError:
    message = "--offload is for GPUs: what a processor computes with lies in host memory already"
    return UserError(message, "leave --offload out")


def _devices(names: tuple[str, ...]) -> tuple[str, ...]:
    """Devices as torch calls them; `auto` is every GPU, or the processor. UserError for one that is not there."""
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    found: list[str] = []
    for name in names:
        if name == "auto":
            found += [f"cuda:{number}" for number in range(gpus)] if gpus > 1 else ["cuda" if gpus else "cpu"]
            continue
        if name.startswith("cuda") and int(name.partition(":")[2] or 0) >= gpus:
            raise UserError(f"--device {name}: torch sees {gpus or 'no'} GPUs", "take cpu, or leave --device out")
        found.append(name)
    return tuple(found)
