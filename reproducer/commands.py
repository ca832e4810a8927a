"""What each command does, once its arguments are read."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from tabulate import tabulate

from reproducer.baseline import by_name, differences_from, other_data, read_baseline
from reproducer.devices import surveyed_device
from reproducer.errors import UserError
from reproducer.exporting import recipe
from reproducer.exporting.folder import check_new
from reproducer.methods.registry import METHODS
from reproducer.models.catalogue import CATALOGUE
from reproducer.models.export.formats import writer
from reproducer.options import Options
from reproducer.planning import queue_text, rest_text
from reproducer.queue import Outcome, Result, Store, console_progress, follow, survey
from reproducer.running import check_folder, fetch, remote_of, run_stages, unwritable
from reproducer.spec import Document, Spec, load
from reproducer.stages.collect import collect
from reproducer.stages.document import expand_all
from reproducer.stages.expand import Expansion, Row, expand
from reproducer.stages.known import Known
from reproducer.stages.results import Results
from reproducer.watching import find_stage, holder_text, log_text

DONE, FAILED = 0, 1
REASON = 90  # characters of a mistake in a list


def run(options: Options) -> int:
    """Run a spec and render its report."""
    expansion = _load(options)
    if options.dry_run:
        print(queue_text(expansion, Store(options.store), options.devices, options.on))
        return DONE
    if options.on is not None:
        raise UserError("--on plans for devices that are not here", "add --dry-run")
    return _finish(expansion, run_stages(expansion, options, options.out / expansion.spec.name), options)[0]


def report(options: Options) -> int:
    """Render from the store, running nothing."""
    expansion = _load(options)
    check_folder(options.out / expansion.spec.name)
    store = Store(options.store)
    fetch(expansion, store, remote_of(options), None)
    outcome = survey(expansion.stages, store)
    for result in _failed(outcome):
        print(f"failed  {result.stage.label}: {result.message}", file=sys.stderr)
    return _finish(expansion, outcome, options)[0]


def status(options: Options) -> int:
    """What of a spec is done."""
    expansion = _load(options)
    store = Store(options.store)
    if options.watch:
        follow(expansion.stages, store, console_progress())
        return DONE
    outcome = survey(expansion.stages, store, surveyed_device(expansion, ("auto",)))
    remote = remote_of(options)
    there = remote.keys() if remote else set()
    lines = []
    for key, result in outcome.results.items():
        holder = None if result.artifact else store.holder(result.stage)
        what = ("running", holder_text(holder)) if holder else (result.status, result.message)
        what = ("remote", "") if what == ("missing", "") and key in there else what
        lines.append((what[0], key[:12], result.stage.kind, result.stage.label, what[1]))
    print(tabulate(lines, headers=["status", "key", "stage", "of", ""], tablefmt="plain", disable_numparse=True))
    print(f"\n{expansion.spec.name}: {len(expansion.rows)} rows, {len(outcome.results)} stages: {_counts(outcome)}")
    return DONE


def logs(options: Options) -> int:
    """What a stage has said, printed and logged."""
    stage = find_stage(_load(options).stages, options.stage)
    print(log_text(Store(options.store), stage), end="")
    return DONE


def check(options: Options) -> int:
    """Run a spec and compare its rows with a committed results.json."""
    baseline = read_baseline(options.against)
    expansion = _load(options)
    code, results = _finish(expansion, run_stages(expansion, options, options.out / expansion.spec.name), options)
    differences = differences_from(baseline, results, options.tolerance)
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
        print(f"all {len(by_name(baseline.rows))} rows agree with {options.against} within {options.tolerance:g}")
    return FAILED if differences else code


def export(options: Options) -> int:
    """Write a row's model, or that of a folder, to a new folder that other programs load."""
    from reproducer.exporting.model import export_folder
    from reproducer.exporting.rows import check_made, find_row

    if options.spec.is_dir():
        _check_target(options)
        target = options.directory.expanduser()
        folder = export_folder(options.spec, target, format=options.format, type=options.quantize, name=options.push)
        _hand_over(options, folder, f"the model of {options.spec}")
        return DONE
    expansion = _load(options)
    row = find_row(expansion, options)
    _check_target(options)
    store = Store(options.store)
    fetch(expansion, store, remote_of(options), None)
    outcome = survey(expansion.stages, store)
    check_made(expansion, outcome, row)  # before everything else is read
    _deliver(options, expansion, outcome, row, collect(expansion, outcome, _command(options)), {})
    return DONE


def prune(options: Options) -> int:
    """Prune a model by the recipe, measure it before and after, and write the smaller one to a folder."""
    from reproducer.exporting.before_after import Comparison, weights_bytes
    from reproducer.exporting.rehearsal import rehearse
    from reproducer.exporting.rows import check_made, result_of, row_name
    from reproducer.models.load import locate

    _check_target(options)
    _find_modules(options.spec)
    names = ("ratio", "method", "uniform", "calibration", "samples", "recover", "recover_steps", "recover_data")
    asked = {name: getattr(options, name) for name in (*names, "evaluate", "seed")}
    asked["recover"] = options.recover if options.recover is None else options.recover or ("lora",)
    settings = recipe.settings(options.model or "", **{key: value for key, value in asked.items() if value is not None})
    expansion = expand(recipe.spec_of(settings))
    rehearse(expansion.resolved.models[0].entry, options.format, options.quantize)
    row, store = expansion.rows[-1], Store(options.store)
    if "recovery" in row.stages:
        print(f"{row_name(row)}: {rest_text(expansion, survey(expansion.stages, store))} on this machine")
    outcome = run_stages(expansion, options, None)
    if _failed(outcome):
        return FAILED
    made = options.directory.expanduser().absolute() / recipe.FILE
    command = ["reproduce", str(made) if options.push is None else recipe.FILE]  # others have no such path
    results = collect(expansion, outcome, command)
    folder = _deliver(options, expansion, outcome, row, results, {recipe.FILE: recipe.text_of(settings)})
    base = locate(check_made(expansion, outcome, row)["model"].directory)
    sizes = weights_bytes(base), weights_bytes(folder)
    comparison = Comparison(results, result_of(results, expansion.rows[0]), result_of(results, row), sizes)
    print(f"\n{comparison.table()}")
    target = str(options.directory)
    steps = 4 * (options.recover_steps or recipe.TUNING["steps"])
    more = [*([] if options.recover else ["--recover", "lora"]), "--recover-steps", f"{steps:.0f}"]
    again = ["reproduce", *(word if word != target else f"{word}-tuned" for word in options.arguments), *more]
    eight = ["reproduce", "export", str(base), f"{target}-8bit", "--format", "gguf", "--quantize", "q8_0"]
    print()
    print(comparison.advice(again, eight if options.quantize in (None, "f16", "bf16", "f32") else None))
    return DONE


def evaluate(options: Options) -> int:
    """Measure models as they are: a row each."""
    from reproducer.exporting.before_after import measures_table

    _find_modules(options.spec)
    texts = options.perplexity if options.perplexity or options.tasks else recipe.MEASURED
    expansion = expand(recipe.measuring(options.models, texts, options.tasks, options.limit))
    outcome = run_stages(expansion, options, None)
    print(f"\n{measures_table(collect(expansion, outcome))}")
    return FAILED if _failed(outcome) else DONE


def _check_target(options: Options) -> None:
    """UserError for a folder that is taken, or a name or type that there is not, before anything runs."""
    check_new(options.directory.expanduser())
    writer(options.format, options.quantize)
    if options.push is not None:
        from reproducer.exporting.push import check_repository

        check_repository(options.push)


def _deliver(
    options: Options, expansion: Expansion, outcome: Outcome, row: Row, results: Results, files: Mapping[str, str]
) -> Path:
    """Write a row's model, say what it is, and push it where that is asked for."""
    from reproducer.exporting.rows import export_row, row_name, shrunk

    folder = export_row(
        expansion,
        outcome,
        row,
        results,
        options.directory.expanduser().absolute(),
        format=options.format,
        type=options.quantize,
        name=options.push,
        files=files,
    )
    _hand_over(options, folder, f"{row_name(row)}: {shrunk(results, row)}")
    return folder


def _hand_over(options: Options, folder: Path, what: str) -> None:
    """Say where a model was written, and push it where that is asked for."""
    print(f"{what}\nwritten to {options.directory}; its README.md says how to load it")
    if options.push is not None:
        from reproducer.exporting.push import push

        print(f"pushed to {push(folder, options.push)}")


def clean(options: Options) -> int:
    """Remove stages of the store that none of the options specs needs."""
    needed: set[str] = set()
    for path in options.specs:
        _find_modules(path)
        for profile in [(), *((name,) for name in options.profile), tuple(options.profile)]:
            for overrides in ((), options.overrides) if options.overrides else ((),):
                needed |= {stage.key for stage in expand_all(load(path, profile, overrides)).stages}
    removed = Store(options.store).clean(needed)
    for name, size in removed.items():
        print(f"{size / 2**20:9.1f} MiB  {name}")
    print(f"{len(removed)} items, {sum(removed.values()) / 2**20:.1f} MiB removed; {len(needed)} stages are needed")
    return DONE


def methods(options: Options) -> int:
    """List the pruning methods, and the recoveries."""
    from reproducer.recovery.registry import RECOVERIES

    found = [(one.name, one.label, one.summary, one.parameters, one.source) for one in METHODS.all().values()]
    _print_kinds(found)
    print("\nRecoveries, in a spec's `recovery` and behind `--recover`:\n")
    found = []
    for kind in RECOVERIES.all().values():
        parameters = {name: field.default for name, field in kind.model_fields.items()}
        found.append((kind.name, kind.label, (kind.__doc__ or "").partition("\n")[0], parameters, kind.source))
    _print_kinds(found)
    return DONE


def _print_kinds(kinds: Iterable[tuple[str, str, str, Mapping[str, object], str]]) -> None:
    lines = [
        (name, label, does, ", ".join(f"{key}={value}" for key, value in parameters.items()), source)
        for name, label, does, parameters, source in kinds
    ]
    headers = ["name", "label", "what it does", "parameters", "source"]
    print(tabulate(lines, headers=headers, tablefmt="simple", maxcolwidths=[None, None, 40, 60, None]))


def models(options: Options) -> int:
    """List the model catalogue."""
    lines = [(name, entry.label, entry.describe(), entry.dtype, entry.notes) for name, entry in CATALOGUE.items()]
    headers = ["name", "label", "source", "dtype", "notes"]
    print(tabulate(lines, headers=headers, tablefmt="simple", maxcolwidths=[None, None, 50, None, 60]))
    print("\nA spec may also name any hub id (organisation/name) or a local folder.")
    return DONE


def specs(options: Options) -> int:
    """List the specs of a folder: what each is, and what of it the store holds."""
    if not options.folder.is_dir():
        raise UserError(f"there is no folder {options.folder}", "name the folder that holds the specs")
    lines = []
    for path in sorted(options.folder.glob("*.yaml")):
        _find_modules(path)
        try:
            loaded = load(path, options.profile, options.overrides)
            expansion = expand_all(loaded)
        except UserError as error:  # one file that is no spec, or a wrong one, does not hide the others
            reason = textwrap.shorten(error.message, REASON)
            lines.append([path, "cannot be read", "", "", "", *[""] * options.estimate, reason])
            continue
        outcome = survey(expansion.stages, Store(options.store))  # what is read from outside is not looked at
        made = sum(outcome[stage].artifact is not None for stage in expansion.stages)
        rest = [rest_text(expansion, outcome)] if options.estimate else []
        lines.append([path, _reproduced(loaded), len(expansion.rows), len(expansion.stages), made, *rest, loaded.title])
    headers = ["spec", "reproduces", "rows", "stages", "in the store", *["the rest"] * options.estimate, "title"]
    print(tabulate(lines, headers=headers, tablefmt="simple"))
    profiles = sorted(path.stem for path in (options.folder / "profiles").glob("*.yaml"))
    print(f"\nprofiles: {', '.join(profiles) or 'none'}")
    return DONE


def _reproduced(loaded: Spec | Document) -> str:
    """`Table 1`; of a document how many specs it includes."""
    if isinstance(loaded, Spec):
        return " ".join(f"{kind.title()} {number}" for kind, number in (loaded.reproduces or {}).items())
    return f"{len(loaded.specs)} specs"


def audit(options: Options) -> int:
    """Recompute what the paper derives from its own tables."""
    from reproducer.paper.audit import checks, other_slips, slips

    wrong = slips()
    print(
        f"{len(checks())} numbers that the paper derives from its own tables, recomputed; {len(wrong)} do not add up:"
    )
    for one in wrong:
        print(f"\n{one.where}: {one.what}\n  printed {one.printed}, should be {one.right}\n  {one.arithmetic}")
    print("\nWhat else is wrong in its text, which no arithmetic finds:")
    for item, slip in other_slips():
        place = ", ".join(f"{name} {value}" for name, value in slip.where.items())
        print(f"\n{item}{f' ({place})' if place else ''}")
        if slip.printed is not None:
            print(f"  printed: {slip.printed}")
        print(f"  {slip.why}")
    return DONE


def _find_modules(spec: Path) -> None:
    """Let Python find the modules that a spec names as `module:attribute`: in its folder and in this one."""
    for folder in (Path(), spec.parent):
        if (path := str(folder.resolve())) not in sys.path:
            sys.path.insert(0, path)


def _load(options: Options) -> Expansion:
    _find_modules(options.spec)
    expansion = expand_all(load(options.spec, options.profile, options.overrides))
    if (path := getattr(options, "known", None)) is None:  # of the commands that render a report
        return expansion
    known = Known.read(path)
    taken = sum(not known.missing(row) for row in expansion.rows)
    print(f"{taken} of {len(expansion.rows)} rows are taken from {path}")
    return replace(expansion, known=known)


def _finish(expansion: Expansion, outcome: Outcome, options: Options) -> tuple[int, Results]:
    from reproducer.reporting import render, summary

    results = collect(expansion, outcome, _command(options))
    folder = options.out / expansion.spec.name
    try:
        written = render(results, folder.expanduser())
    except OSError as error:
        raise unwritable(folder, error) from error
    print(f"\n{summary(results)}")
    count = sum(row.earlier is not None for row in results.rows)
    rows = f"{len(expansion.rows)} rows{f' ({count} taken over)' if count else ''}"
    print(f"{expansion.spec.name}: {rows} from {len(outcome.results)} stages ({_counts(outcome) or 'none to run'})")
    for name in ("report.md", "report.html"):
        print(f"report: {next(path for path in written if path.name == name)}")
    return FAILED if _failed(outcome) else DONE, results


def _failed(outcome: Outcome) -> list[Result]:
    """The stages that failed; a run has told why of each when it ended."""
    return [result for result in outcome.results.values() if result.status == "failed"]


def _counts(outcome: Outcome) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(outcome.counts.items()))


def _command(options: Options) -> list[str]:
    """The command that makes this report again."""
    path = options.spec if not options.spec.is_absolute() else Path(options.spec.name)
    settings = [*(("--profile", name) for name in options.profile), *(("--set", text) for text in options.overrides)]
    return ["reproduce", str(path), *(part for setting in settings for part in setting)]
