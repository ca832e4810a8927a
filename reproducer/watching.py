"""What `reproduce status --watch` and `reproduce logs` show."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import TextIO

from tabulate import tabulate

from reproducer.errors import UserError
from reproducer.queue import Holder, Monitor, Stage, Standing, Store, duration

WATCH_SECONDS = 2.0
LEAST = 4  # characters of a key that name a stage
CLEAR = "\x1b[H\x1b[2J"


def watch(name: str, stages: Iterable[Stage], store: Store, stream: TextIO | None = None) -> None:
    """Show how stages stand, again and again, until all are done: redrawn on a terminal, else when it has changed."""
    stream = stream or sys.stdout
    monitor, shown = Monitor(stages, store), None
    while True:
        standing = monitor.look()
        key = standing.states
        if stream.isatty():
            print(f"{CLEAR}{standing_text(name, standing)}", file=stream, flush=True)
        elif key != shown:
            print(f"{standing_text(name, standing)}\n", file=stream, flush=True)
        if standing.count("done") == len(standing.states):
            return
        shown = key
        time.sleep(WATCH_SECONDS)


def standing_text(name: str, standing: Standing, now: Callable[[], datetime] = datetime.now) -> str:
    """What runs where and since when, what failed and why, and the time left."""
    running, failed = standing.running, standing.failed
    line = f"{name}: {standing.count('done')} of {len(standing.states)} stages done, {len(running)} running"
    line += f", {len(failed)} failed" if failed else ""
    if standing.left is not None and running:
        left, whole = standing.left
        workers = f"{len(running)} workers" if len(running) > 1 else "1 worker"
        line += f"; {'about' if whole else 'at least'} {duration(left)} left with {workers}"
    parts = [line]
    if running:
        lines = [(stage.label, *holder_cells(holder, now)) for stage, holder in running]
        parts.append(tabulate(lines, headers=["running", "on", "since", "how far"], tablefmt="plain"))
    for stage, failure in failed:
        parts.append(
            f"failed at {failure.when}: {stage.label}\n    {failure.message.replace(chr(10), chr(10) + '    ')}"
        )
    if failed:
        parts.append(f"`reproduce logs SPEC {failed[0][0].key[:12]}` shows all that the first of them printed")
    return "\n\n".join(parts)


def holder_cells(holder: Holder, now: Callable[[], datetime] = datetime.now) -> tuple[str, str, str]:
    """Where a stage runs, since when, and how far it is."""
    since = datetime.fromisoformat(holder.since)
    ago = max(0.0, (now().astimezone() - since).total_seconds())
    far = ""
    if holder.progress is not None:
        done, total, text = holder.progress
        far = f"{done / total:.0%} {text}".rstrip() if total > 0 else text
    return f"{holder.host}, {holder.device}, process {holder.pid}", f"{since:%H:%M:%S} ({duration(ago)})", far


def find_stage(stages: Iterable[Stage], wanted: str) -> Stage:
    """The stage whose key begins so, or whose kind and label, or label, it is.

    Raises:
        UserError: there is none, or several.
    """
    known = list(stages)
    found = [stage for stage in known if len(wanted) >= LEAST and stage.key.startswith(wanted)]
    found = found or [stage for stage in known if wanted in (stage.label, f"{stage.kind} {stage.label}")]
    found = found or [stage for stage in known if wanted.lower() in f"{stage.kind} {stage.label}".lower()]
    if len(found) == 1:
        return found[0]
    listed = "\n".join(f"  {stage.key[:12]}  {stage.kind}  {stage.label}" for stage in found[:10])
    if found:
        raise UserError(f"'{wanted}' fits {len(found)} stages", f"name one by its key:\n{listed}")
    raise UserError(f"the spec has no stage '{wanted}'", "`reproduce status SPEC` lists them with their keys")


def log_text(store: Store, stage: Stage) -> str:
    """All that attempts at a stage have said, printed and logged. UserError: it has not run in this store."""
    path: Path = store.log_path(stage)
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        raise UserError(f"{stage.kind} '{stage.label}' has not run in the store {store.root}") from None
