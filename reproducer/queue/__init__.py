"""The graph of stages, the artifact store, locks and executors; knows no stage by name.

outcome = run(stages, {"kind": Handler(version=1, run=work)}, Store("store"), progress=console_progress())
outcome[stage].artifact.directory
"""

from reproducer.queue.artifact import Artifact, Failure
from reproducer.queue.executor import run
from reproducer.queue.handler import Context, Handler
from reproducer.queue.machine import describe_machine
from reproducer.queue.outcome import Outcome, Result, survey
from reproducer.queue.progress import LiveProgress, PlainProgress, Progress, console_progress, duration
from reproducer.queue.stage import Stage, canonical, topological
from reproducer.queue.store import Store

__all__ = [
    "Artifact",
    "Context",
    "Failure",
    "Handler",
    "LiveProgress",
    "Outcome",
    "PlainProgress",
    "Progress",
    "Result",
    "Stage",
    "Store",
    "canonical",
    "console_progress",
    "describe_machine",
    "duration",
    "run",
    "survey",
    "topological",
]
