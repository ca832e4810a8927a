"""What a run would do: the queue that `--dry-run` prints, and how long the rest of a spec takes."""

from __future__ import annotations

from tabulate import tabulate

from reproducer.devices import devices_named
from reproducer.queue import Outcome, Store, duration, survey
from reproducer.stages.expand import Expansion


def queue_text(expansion: Expansion, store: Store, devices: tuple[str, ...], on: tuple[int, str] | None) -> str:
    """The queue as `--dry-run` prints it; the device is measured if work is left.

    Args:
        on: instead of a device of this machine, so many of the table's.
    """
    outcome = survey(expansion.stages, store)
    todo = [stage for stage in expansion.stages if outcome[stage].artifact is None]
    lines = {stage.key: [stage.key[:12], stage.kind, stage.label, "in the store"] for stage in expansion.stages}
    summary = f"{len(expansion.rows)} rows, {len(lines)} stages, {len(todo)} to run"
    if todo:
        from reproducer.stages.estimates import Device, Estimate, estimates, memory_text
        from reproducer.stages.schedule import device_named, schedule_text

        expansion.check_cuts()
        here = Device.named(devices_named(devices)[0]) if on is None else device_named(on[1])
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
            summary += f"\n\n{schedule_text(todo, here, on[0], found)}"
    table = tabulate(list(lines.values()), headers=["key", "stage", "of", "time", "memory", ""], tablefmt="simple")
    return f"{table}\n\n{summary}"


def rest_text(expansion: Expansion, outcome: Outcome) -> str:
    """How long the stages that are not in the store would take on this machine."""
    from reproducer.stages.estimates import Device, Estimate, estimates

    todo = [stage for stage in expansion.stages if outcome[stage].artifact is None]
    if not todo:
        return "nothing"
    found = estimates(expansion.stages, outcome, Device.named(devices_named(("auto",))[0]))
    known = sum(isinstance(found.stages[stage.key], Estimate) for stage in todo)
    return f"{'about' if known == len(todo) else 'at least'} {duration(found.seconds)}"
