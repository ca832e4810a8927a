"""Handlers for the tests of the queue, importable by other processes; what they do is logged to $QUEUE_LOG."""

import multiprocessing
import os
import time
from pathlib import Path

from reproducer.errors import UserError
from reproducer.queue import Context, Handler, Stage

held: list[object] = []


def log(line: str) -> None:
    """Append a line at once, whoever else writes."""
    if path := os.environ.get("QUEUE_LOG"):
        with open(path, "a", encoding="utf-8") as stream:
            stream.write(line + "\n")


def write(context: Context) -> None:
    """Write the text given, after what the inputs hold."""
    log(f"write {context.stage.label}")
    time.sleep(context.params.get("seconds", 0))
    folders = [context.inputs[name] for name in sorted(context.inputs)]
    texts = [path.read_text() for folder in folders for path in sorted(folder.glob("*.txt"))]
    (context.directory / "out.txt").write_text("".join(texts) + str(context.params.get("text", "")))


def wait(context: Context) -> None:
    """Not resumable: leaves a partial file, then waits for the file `go` in $QUEUE_GO. Holds a lock."""
    held.append(multiprocessing.get_context("spawn").RLock())
    left = sorted(path.name for path in context.directory.iterdir())
    log(f"wait {context.stage.label} {left} {os.getpid()}")
    (context.directory / "partial").write_text("half")
    go = Path(os.environ["QUEUE_GO"])
    while not go.exists():
        time.sleep(0.01)
    (context.directory / "partial").rename(context.directory / "out.txt")


def count(context: Context) -> None:
    """Resumable: one line a step in steps.txt; stops before `hold` until the file $QUEUE_GO is there."""
    path = context.directory / "steps.txt"
    done = len(path.read_text().splitlines()) if path.exists() else 0
    log(f"count from {done}")
    if done == 0:
        context.record("began", "once")
    for step in range(done, context.params["steps"]):
        while step == context.params.get("hold") and not Path(os.environ["QUEUE_GO"]).exists():
            log("holding")
            time.sleep(0.02)
        with path.open("a") as stream:
            stream.write(f"{step}\n")
        log(f"step {step}")
        context.progress(step + 1, context.params["steps"])


def mistake(context: Context) -> None:
    """Fails with what the user can mend."""
    raise UserError("the pool is too small", hint="ask for fewer samples")


def crash(context: Context) -> None:
    """Fails with a bug."""
    (context.directory / "half").write_text("half")
    raise ZeroDivisionError("a bug\nwith a second line")


HANDLERS = {
    "write": Handler(version=1, run=write),
    "wait": Handler(version=1, run=wait),
    "count": Handler(version=1, run=count, resumable=True),
    "mistake": Handler(version=1, run=mistake),
    "crash": Handler(version=1, run=crash),
}


def text(content: object, label: str = "", **inputs: Stage) -> Stage:
    """A `write` stage."""
    return Stage("write", 1, {"text": content}, inputs, label or str(content))


def graph() -> list[Stage]:
    """Twelve slow stages in a few layers, for several processes to share."""
    roots = [Stage("write", 1, {"text": f"r{index}", "seconds": 0.05}, label=f"r{index}") for index in range(6)]
    middle = [
        Stage("write", 1, {"seconds": 0.05}, {"a": roots[index], "b": roots[index + 1]}, f"m{index}")
        for index in range(5)
    ]
    return [Stage("write", 1, {}, {f"i{index}": stage for index, stage in enumerate(middle)}, "top")]


PLANS = {
    "waits": lambda: [Stage("wait", 1, {"n": n}, {}, f"wait {n}") for n in range(2)],
    "graph": graph,
    "wait": lambda: [text("after", before=Stage("wait", 1, {}, {"first": text("first")}, "the long one"))],
    "count": lambda: [text("end", label="end", counted=Stage("count", 1, {"steps": 5, "hold": 3}, {}, "counter"))],
}

if __name__ == "__main__":  # STORE PLAN [JOBS]: a run in a process of its own, for others to watch and kill
    import sys

    from reproducer.queue import PlainProgress, Store, run

    print("ready", flush=True)
    sys.stdin.readline()  # a test that wants several to begin together holds them here
    outcome = run(
        PLANS[sys.argv[2]](),
        "queue_handlers:HANDLERS",
        Store(sys.argv[1]),
        jobs=int(sys.argv[3]) if len(sys.argv) > 3 else 1,
        progress=PlainProgress(),
    )
    print(dict(outcome.counts))
