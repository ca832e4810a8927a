"""What `reproduce status` and `reproduce logs` show of a stage."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime

from reproducer.errors import UserError
from reproducer.queue import Holder, Stage, Store, duration

KEY_DIGITS = 4  # of a key, at least, that name a stage


def holder_text(holder: Holder) -> str:
    """Where a stage runs, since when, and how far it is."""
    since = datetime.fromisoformat(holder.since)
    ago = max(0.0, (datetime.now().astimezone() - since).total_seconds())
    text = f"{holder.host}, {holder.device}, process {holder.pid}, {since:%H:%M:%S} ({duration(ago)})"
    done, total, note = holder.progress or (0.0, 0.0, "")
    share = f"{done / total:.0%}" if total > 0 else ""
    return ", ".join(filter(None, (text, share, note)))


def find_stage(stages: Iterable[Stage], wanted: str) -> Stage:
    """The stage whose key begins so, whose label it is, or whose kind and label have all its words in any order.

    Raises:
        UserError: there is none, or several.
    """
    known = list(stages)
    fitting = [stage for stage in known if len(wanted) >= KEY_DIGITS and stage.key.startswith(wanted)]
    fitting = fitting or [stage for stage in known if wanted in (stage.label, f"{stage.kind} {stage.label}")]
    words = [re.compile(rf"\b{re.escape(word)}", re.IGNORECASE) for word in wanted.split()]
    names = {stage: f"{stage.kind} {stage.label}" for stage in known}
    fitting = fitting or [stage for stage in known if words and all(word.search(names[stage]) for word in words)]
    if len(fitting) == 1:
        return fitting[0]
    listed = "\n".join(f"  {stage.key[:12]}  {stage.kind}  {stage.label}" for stage in fitting[:10])
    if fitting:
        raise UserError(f"'{wanted}' fits {len(fitting)} stages", f"name one by its key:\n{listed}")
    raise UserError(f"the spec has no stage '{wanted}'", "`reproduce status SPEC` lists them with their keys")


def log_text(store: Store, stage: Stage) -> str:
    """All that attempts at a stage have said, printed and logged. UserError: it has not run in this store."""
    try:
        return store.log_path(stage).read_text(encoding="utf-8", errors="replace")
    except OSError:
        raise UserError(f"{stage.kind} '{stage.label}' has not run in the store {store.root}") from None
