"""Stages for the tests of the queue, importable by other processes; what they do is logged to $QUEUE_LOG."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from reproducer.errors import UserError
from reproducer.queue import Artifact, Context, Stage, Store, survey

held: list[object] = []

# a spec for the commands, of four stages
SPEC = """\
name: small-run
models: [tiny-gqa]
methods: [magnitude]
prune: {ratio: 0.20, layers: [1, 5]}
evaluate: {perplexity: [python-topics], seq_len: 32, windows: 4}
"""


def log(line: str) -> None:
    """Append a line at once, whoever else writes."""
    if path := os.environ.get("QUEUE_LOG"):
        with open(path, "a", encoding="utf-8") as stream:
            stream.write(line + "\n")


class Step(Stage):
    """Parameters and inputs for all."""

    n: int = 0
    a: Stage | None = None
    b: Stage | None = None
    c: Stage | None = None
    d: Stage | None = None
    e: Stage | None = None


class Write(Step):
    """Writes the text given, after what the inputs hold."""

    kind = "write"
    text: str = ""
    seconds: float = 0.0

    def run(self, context: Context) -> None:
        log(f"write {self.label}")
        time.sleep(self.seconds)
        folders = [context.inputs[name] for name in sorted(context.inputs)]
        texts = [path.read_text() for folder in folders for path in sorted(folder.glob("*.txt"))]
        (context.directory / "out.txt").write_text("".join(texts) + self.text)


class Span(Step):
    """Logs when it begins and when it ends."""

    kind = "span"
    seconds: float = 0.1

    def run(self, context: Context) -> None:
        log(f"begin {self.label}")
        time.sleep(self.seconds)
        log(f"end {self.label}")


class Timed(Span):
    kind = "timed"
    timed = True


class Wait(Step):
    """Not resumable: leaves a partial file, then waits for the file `go` in $QUEUE_GO. Holds a lock."""

    kind = "wait"

    def run(self, context: Context) -> None:
        held.append(multiprocessing.get_context("spawn").RLock())
        left = sorted(path.name for path in context.directory.iterdir())
        context.progress(1, 4, "half asleep")
        (context.directory / "partial").write_text("half")
        go = Path(os.environ["QUEUE_GO"])
        try:  # from here on a test may send a signal
            log(f"wait {self.label} {left} {context.device} {os.getpid()}")
            while not go.exists():
                time.sleep(0.01)
        except KeyboardInterrupt:
            log("broken off")
            raise
        (context.directory / "partial").rename(context.directory / "out.txt")


class Steps(Step):
    """Resumable: one line a step in steps.txt; stops before `hold` until the file $QUEUE_GO is there."""

    kind = "steps"
    resumable = True
    steps: int
    hold: int | None = None

    def run(self, context: Context) -> None:
        path = context.directory / "steps.txt"
        done = len(path.read_text().splitlines()) if path.exists() else 0
        log(f"from {done}")
        if done == 0:
            context.record("began", "once")
        for step in range(done, self.steps):
            while step == self.hold and not Path(os.environ["QUEUE_GO"]).exists():
                log("holding")
                time.sleep(0.02)
            with path.open("a") as stream:
                stream.write(f"{step}\n")
            log(f"step {step}")
            context.progress(step + 1, self.steps)


class Mistake(Step):
    """Fails with what the user can mend."""

    kind = "mistake"

    def run(self, context: Context) -> None:
        raise UserError("the pool is too small", hint="ask for fewer samples")


class Crash(Step):
    """Fails with a bug."""

    kind = "crash"

    def run(self, context: Context) -> None:
        (context.directory / "half").write_text("half")
        raise ZeroDivisionError("a bug\nwith a second line")


class Lost(Step):
    """Kills its process, as the system does when memory runs out, the first `times` times."""

    kind = "lost"
    resumable = True
    times: int

    def run(self, context: Context) -> None:
        tries = context.directory / "out.txt"
        before = tries.read_text() if tries.exists() else ""
        log(f"lost {self.label} {os.getpid()}")
        tries.write_text(before + "x")
        if len(before) < self.times:
            os.kill(os.getpid(), signal.SIGKILL)


def square(value: int) -> tuple[int, int]:
    """A call for a stage's own workers."""
    log(f"square {os.getpid()}")
    return value**2, os.getpid()


def sleep_long(number: int) -> None:
    """A call that ends only if it is broken off."""
    log(f"asleep {os.getpid()}")
    time.sleep(600)


class Leave(Step):
    """Fails while processes of its own are at work."""

    kind = "leave"

    def run(self, context: Context) -> None:
        engine = context.engine(2)
        for number in range(2):
            engine.submit(sleep_long, number)
        while not Path(os.environ["QUEUE_GO"]).exists():
            time.sleep(0.01)
        raise UserError("left")


def kind(
    name: str,
    run: Callable[[Context], object] = lambda context: None,
    fingerprints: Callable[[str], dict[str, str]] = lambda device: {},
    **more: Any,
) -> type[Step]:
    """A kind of stage that does what a test wants."""
    methods = {"run": lambda self, context: run(context), "fingerprints": lambda self, device: fingerprints(device)}
    return type(name, (Step,), {"__module__": __name__, "kind": name, **methods, **more})


def artifact_of(store: Store, stage: Stage) -> Artifact | None:
    """The stage's artifact, verified; None if it, or one it was made from, is missing or damaged."""
    return survey([stage], store)[stage].artifact


def text(content: object, label: str = "", **inputs: Stage) -> Stage:
    """A `Write` stage."""
    return Write(text=str(content), label=label or str(content), **inputs)


def graph() -> list[Stage]:
    """Twelve slow stages in a few layers, for several processes to share."""
    roots = [Write(text=f"r{index}", seconds=0.05, label=f"r{index}") for index in range(6)]
    middle = [Write(seconds=0.05, a=roots[index], b=roots[index + 1], label=f"m{index}") for index in range(5)]
    return [Write(**dict(zip("abcde", middle, strict=True)), label="top")]


PLANS: dict[str, Callable[[], list[Stage]]] = {
    "waits": lambda: [Wait(n=n, label=f"wait {n}") for n in range(2)],
    "graph": graph,
    "wait": lambda: [text("after", a=Wait(a=text("first"), label="the long one"))],
    "steps": lambda: [text("end", a=Steps(steps=5, hold=3, label="counter"))],
    "lost": lambda: [text("end", a=Lost(times=2, label="twice")), text("never", b=Lost(times=9, label="always"))],
    "leave": lambda: [Leave()],
}

if __name__ == "__main__":  # STORE PLAN SLOTS ENGINE: a run in a process of its own, for others to watch and kill
    import sys

    from queue_stages import PLANS as plans  # under the name that other processes know the classes by

    from reproducer.errors import UserError as Wrong
    from reproducer.queue import console_progress, engine_named, exit_code, interruptible, run
    from reproducer.queue.engines import ray

    print("ready", flush=True)
    sys.stdin.readline()  # a test that wants several to begin together holds them here
    with interruptible():
        try:
            factory, options = engine_named(sys.argv[4])
            ray.TAKEN_ALONG = ("QUEUE_",)
            engine = factory(int(sys.argv[3]), **options)
            devices = ["cpu:0", "cpu:1"]
            outcome = run(plans[sys.argv[2]](), Store(sys.argv[1]), engine, devices, progress=console_progress())
            print(dict(outcome.counts))
        except KeyboardInterrupt as error:
            print("interrupted", flush=True)
            sys.exit(exit_code(error))
        except Wrong as error:
            sys.exit(str(error))
