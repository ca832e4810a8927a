"""The graph of stages, the artifact store, locks and engines; knows no kind of stage by name.

class Count(Stage):
    kind = "count"
    to: int

    def run(self, context: Context) -> None:
        (context.directory / "numbers.txt").write_text(str(list(range(self.to))))

outcome = run([Count(to=3)], Store("store"), progress=console_progress())
outcome[Count(to=3)].artifact.directory
"""

from reproducer.queue.artifact import Artifact, Failure
from reproducer.queue.context import Context
from reproducer.queue.engines import ENGINES, Engine, engine_named
from reproducer.queue.engines.local import fitting_slots
from reproducer.queue.locks import Holder
from reproducer.queue.machine import describe_machine
from reproducer.queue.outcome import Outcome, Result, survey
from reproducer.queue.progress import LiveProgress, Progress, console_progress, duration
from reproducer.queue.remote import Remote
from reproducer.queue.scheduler import run
from reproducer.queue.signals import Interrupted, exit_code, interruptible
from reproducer.queue.simulate import critical_path, makespan, simulate
from reproducer.queue.stage import Stage, canonical, topological
from reproducer.queue.store import Store
from reproducer.queue.watch import follow

__all__ = [
    "ENGINES",
    "Artifact",
    "Context",
    "Engine",
    "Failure",
    "Holder",
    "Interrupted",
    "LiveProgress",
    "Outcome",
    "Progress",
    "Remote",
    "Result",
    "Stage",
    "Store",
    "canonical",
    "console_progress",
    "critical_path",
    "describe_machine",
    "duration",
    "engine_named",
    "exit_code",
    "fitting_slots",
    "follow",
    "interruptible",
    "makespan",
    "run",
    "simulate",
    "survey",
    "topological",
]
