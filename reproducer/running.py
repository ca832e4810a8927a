"""From a spec's stages to their artifacts: what is told first, where they run, and rows as they end."""

from __future__ import annotations

import importlib.metadata
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from reproducer.devices import devices_named, surveyed_device
from reproducer.errors import UserError
from reproducer.files import tree_bytes
from reproducer.options import Options
from reproducer.queue import (
    Outcome,
    Progress,
    Remote,
    Result,
    Stage,
    Store,
    console_progress,
    duration,
    engine_named,
    fitting_slots,
    survey,
)
from reproducer.queue import run as run_queue
from reproducer.queue.engines.local import WORKER_MEMORY
from reproducer.spec.profiles import find_profile
from reproducer.stages.collect import columns_of, settled_rows
from reproducer.stages.expand import Expansion

PACKAGES = ("reproducer", "torch", "transformers", "optuna", "peft", "datasets", "lm-eval", "tokenizers", "numpy")
SMALLER = ("small", "tiny")  # profiles of this repository's specs
LARGE = 10**9  # parameters of a model whose stages are estimated before they run
LONG = 24 * 3600  # seconds of work that a user may want to hear of before they begin


def remote_of(options: Options) -> Remote | None:
    """The remote that the command line names, if any."""
    return None if options.remote is None else Remote(options.remote)


def fetch(expansion: Expansion, store: Store, remote: Remote | None, device: str | None) -> None:
    """Bring into the store what the remote has of it, if there is one."""
    if remote is not None:
        fetched = remote.fetch(expansion.stages, store, device, print)
        size = sum(tree_bytes(artifact.directory) for artifact in fetched) / 2**20
        print(f"fetched {len(fetched)} of {len(expansion.stages)} stages ({size:.1f} MiB) from {remote.url}")


def run_stages(expansion: Expansion, options: Options, folder: Path | None) -> Outcome:
    """Bring every stage to an artifact; what cannot work is told before the first one runs, or a folder is made.

    Args:
        folder: of the report; None: there will be none.
    """
    store, remote = Store(options.store), remote_of(options)
    surveyed = surveyed_device(expansion, options.devices)
    fetch(expansion, store, remote, surveyed)
    outcome = survey(expansion.stages, store, surveyed)
    if remote is not None:
        keys = remote.keys()
        for key, result in outcome.results.items():
            if result.artifact is not None and key not in keys:
                remote.store(result.artifact)
    if outcome.ok:  # nothing to compute: torch need not even be imported
        check_folder(folder)
        return outcome
    todo = [stage for stage in expansion.stages if outcome[stage].artifact is None]
    # at once: what follows imports torch, which takes seconds
    print(f"{expansion.spec.name}: {len(expansion.rows)} rows, {len(todo)} stages to run", flush=True)
    factory, address = engine_named(options.engine)
    elsewhere = getattr(factory, "elsewhere", False)
    devices = ("cpu",) if elsewhere else devices_named(options.devices)
    expansion.check_cuts()
    check_folder(folder)
    store.prepare()
    if not elsewhere and expansion.known.results is not None:
        _check_known(expansion, todo, surveyed)
    memory = _announce(expansion, todo, outcome, devices[0], options, here=not elsewhere)
    if elsewhere:
        engine: Any = factory(options.jobs or 0, device=",".join(options.devices), **address)
        devices = engine.devices
        memory = memory if devices == ("cpu",) else {}  # on a GPU it is the GPU's
    else:
        largest = max(memory.values(), default=WORKER_MEMORY)
        slots = fitting_slots(devices, largest) if options.jobs == 0 else max(options.jobs or 1, len(devices))
        engine = factory(min(slots, max(1, len(todo))))
    return run_queue(
        expansion.stages,
        store,
        engine,
        devices,
        progress=(progress := console_progress()),
        environment={"packages": _packages(), "device": ",".join(devices)},
        settled=partial(_settled, expansion, remote, progress),
        memory={stage.key: max(memory.get(stage.key, 0), WORKER_MEMORY) for stage in todo} if elsewhere else None,
    )


def _check_known(expansion: Expansion, todo: list[Stage], device: str) -> None:
    """UserError if other data would be read than known rows were measured on: before hours are spent on the rest."""
    for stage in todo:
        try:
            read = stage.fingerprints(device)
        except UserError:  # what is not there fails its stage alone
            continue
        expansion.known.check({name: digest for name, digest in read.items() if name != "device"})


def _settled(
    expansion: Expansion, remote: Remote | None, progress: Progress, stage: Stage, results: Mapping[str, Result]
) -> None:
    """Store at the remote what a stage has made, and show the rows that have ended with it."""
    artifact = results[stage.key].artifact
    if remote is not None and artifact is not None:
        try:
            remote.store(artifact)
        except UserError as error:  # no reason to end a run: the next one stores it
            progress.say(f"{stage.label}: not stored at the remote: {error}")
    if rows := settled_rows(expansion, stage, results):
        from reproducer.reporting import row_line

        for row in rows:
            progress.say(row_line(row, columns_of(expansion)))


def check_folder(folder: Path | None) -> None:
    """UserError unless a report can be written to `folder`, which need not be there yet."""
    if folder is None:
        return
    try:
        made = folder.expanduser()
        made.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=made, prefix=".", suffix=".results.json"):
            pass
    except (OSError, RuntimeError, ValueError) as error:
        raise unwritable(folder, error) from None


def unwritable(folder: Path, error: Exception) -> UserError:
    where = getattr(error, "filename2", None) or getattr(error, "filename", None) or folder
    reason = getattr(error, "strerror", None) or error
    return UserError(f"the report cannot be written to {where}: {reason}", "choose another --out")


def _announce(
    expansion: Expansion, todo: list[Stage], outcome: Outcome, device: str, options: Options, here: bool
) -> dict[str, int]:
    """Say what a long run needs, before it starts. Returns bytes that stages will hold, by key, as far as is known.

    Args:
        here: it runs on `device`, and not on other machines.

    Small models are not worth the seconds that an estimate takes.
    """
    large = any((model.entry.parameters or LARGE) >= LARGE for model in expansion.resolved.models)
    if not large and options.jobs != 0:
        return {}
    from reproducer.stages.estimates import Device, Estimate, estimates

    found = estimates(expansion.stages, outcome, Device.named(device))
    if large and here and (found.seconds > LONG or found.misfits):
        lines = [f"{expansion.spec.name}: {len(todo)} stages to run, about {duration(found.seconds)} on this device"]
        lines += [f"from the network: {', '.join(needed)}"] if (needed := expansion.needs(todo)) else []
        lines += [f"too large for it: {found.misfits[0]}"] if found.misfits else []
        others = [name for name in SMALLER if name not in options.profile and _is_profile(name, options.spec)]
        lines += [f"smaller versions of this spec: --profile {' or --profile '.join(others)}"] if others else []
        print("\n  ".join(lines))
    return {key: int(one.memory) for key, one in found.stages.items() if isinstance(one, Estimate)}


def _is_profile(name: str, spec: Path) -> bool:
    try:
        return find_profile(name, spec).is_file()
    except UserError:
        return False


def _packages() -> dict[str, str]:
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions
