"""Random SIGKILLs of parents, workers and nodes: `python -m tests.benchmarks.faults --kills 200`.

A spec is run again and again, in turns on these set-ups: `local` (two worker processes), `two` (two runs on one store),
`ray` (a cluster of a head and two nodes, each with processes of its own), `apart` (two runs with a store each, and an
object store between them) and `ray-apart` (the cluster, each node with a store of its own, and an object store). At
random moments something is killed: a parent, that is a run or Ray's driver; a worker; a node with all its processes; or
a machine, that is a run with its store. While no run uses a store, a file of a finished stage is damaged there now and
then. A parent is started again, a node is replaced. After each end of a parent, and of a run, this must hold, or the
script says what does not and ends with 1:

- the rows are those of one unbroken local run;
- no stage is finished twice, but for those that were damaged, or made from what was; with an object store, none at all;
- every artifact is whole, every damage was noticed, and no work and no note is left;
- nothing that the killed parent had started is alive, 60 seconds later at most.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import psutil
from tabulate import tabulate

from reproducer.queue import Store, topological
from reproducer.queue.remote import LEASE_SECONDS
from reproducer.spec import load
from reproducer.stages.document import expand_all
from tests.ray_cluster import add_node, start_cluster
from tests.s3_server import BUCKET, s3_server

ROOT = Path(__file__).parents[2]
END_SECONDS = 60.0  # within which what a killed parent had started ends
WORKERS = 2  # killed of one parent: a stage whose process is killed three times is taken to want too much memory
DAMAGE = 0.5  # how often something is damaged while no run is there
MARK = "REPRODUCER_FAULTS"  # names the set-up in the environment of all that it starts


class Setup:
    """Runs on one store, and what of them can be killed."""

    name, parents, victims = "local", 1, ("parent", "worker")
    arguments: tuple[str, ...] = ("--jobs", "2")
    makes_again = True  # what was damaged
    rest = 0.0  # seconds between two kills of parents, at least

    def __init__(self, given: argparse.Namespace, folder: Path, random: Random) -> None:
        self.given, self.folder, self.random = given, folder, random
        self.mark = uuid.uuid4().hex
        self.variables: dict[str, str] = {}
        self.processes: list[subprocess.Popen[bytes]] = []

    def store(self, number: int) -> Store:
        """That of a parent."""
        return Store(self.folder / "store")

    def start(self, number: int) -> subprocess.Popen[bytes]:
        """A parent."""
        out = self.folder / f"out-{number}"
        options = [*spec_options(self.given), "--store", str(self.store(number).root), "--out", str(out)]
        options += self.arguments
        log = (self.folder / f"said-{number}.log").open("ab")
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), MARK: self.mark, **self.variables}
        command = [sys.executable, "-m", "reproducer.cli", "run", *options]
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)

    def begin(self) -> None:
        """Start a round, in an empty folder."""
        self.processes = [self.start(number) for number in range(self.parents)]

    def kill(self, kind: str) -> bool:
        """Kill one of a kind; false where there is none now."""
        if kind == "parent":
            self.kill_parent()
            return True
        return self.kill_process(self.workers())

    def kill_parent(self) -> int:
        number = self.random.choice([n for n, one in enumerate(self.processes) if one.poll() is None])
        self.processes[number].kill()
        self.processes[number].wait()
        return number

    def kill_process(self, found: list[psutil.Process]) -> bool:
        try:
            self.random.choice(found).kill()
        except (IndexError, psutil.NoSuchProcess):
            return False
        return True

    def stores(self) -> dict[Path, Store]:
        """Those of all parents, by folder; some may share one."""
        return {store.root: store for store in map(self.store, range(self.parents))}

    def unused(self) -> list[Store]:
        """The stores that no living run uses."""
        living = {self.store(n).root for n, one in enumerate(self.processes) if one.poll() is None}
        return [store for root, store in self.stores().items() if root not in living]

    def workers(self) -> list[psutil.Process]:
        living = [one.pid for one in self.processes if one.poll() is None]
        return [one for pid in living for one in children(pid) if "spawn_main" in command_of(one)]

    def alive(self) -> list[str]:
        """What is there although its parent is not."""
        own = {one.pid for one in self.processes}
        found = [one for one in psutil.process_iter() if one.pid not in own and self._is_marked(one)]
        return [f"{one.pid} {command_of(one)}" for one in found if not own & ancestors(one)]

    def _is_marked(self, process: psutil.Process) -> bool:
        try:
            return process.environ().get(MARK) == self.mark and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False

    def close(self) -> None:
        for one in self.processes:
            if one.poll() is None:
                one.kill()
                one.wait()


class Two(Setup):
    name, parents, victims, arguments = "two runs", 2, ("parent",), ()


class ObjectStore(Setup):
    """An object store behind the stores, another one each round. What it has is not made again."""

    makes_again = False

    def __init__(self, given: argparse.Namespace, folder: Path, random: Random) -> None:
        super().__init__(given, folder, random)
        self._closing = contextlib.ExitStack()
        self.variables |= self._closing.enter_context(s3_server())
        self._options = self.arguments

    def begin(self) -> None:
        self.arguments = (*self._options, "--remote", f"s3://{BUCKET}/{uuid.uuid4().hex}")
        super().begin()

    def close(self) -> None:
        super().close()
        self._closing.close()


class Apart(ObjectStore):
    name, parents, victims, arguments = "two machines", 2, ("parent", "machine"), ()

    def store(self, number: int) -> Store:
        return Store(self.folder / f"store-{number}")

    def kill(self, kind: str) -> bool:
        lost = self.store(self.kill_parent()).root
        if kind == "machine" and lost.exists():
            kept = self.folder / f"lost-{uuid.uuid4().hex}"  # what is known of it
            kept.mkdir()
            (lost / "logs").rename(kept / "logs")
            shutil.rmtree(lost)
        return True


class OnRay(Setup):
    name, victims = "ray", ("parent", "worker", "node")

    def __init__(self, given: argparse.Namespace, folder: Path, random: Random) -> None:
        super().__init__(given, folder, random)
        self._cluster = start_cluster()
        self.arguments = ("--engine", "ray")
        self.variables["RAY_ADDRESS"] = self._cluster.address

    def kill(self, kind: str) -> bool:
        if kind != "node":
            return super().kill(kind)
        node = self.random.choice(sorted(self._cluster.worker_nodes, key=lambda node: node.unique_id))
        self._cluster.remove_node(node, allow_graceful=False)
        add_node(self._cluster)
        return True

    def workers(self) -> list[psutil.Process]:
        raylets = [one.process.pid for node in self._cluster.worker_nodes
                   for several in node.all_processes.values() for one in several]  # fmt: skip
        return [one for pid in raylets for one in children(pid) if command_of(one).startswith("ray::_call")]

    def alive(self) -> list[str]:
        found = [one for one in psutil.process_iter() if command_of(one).startswith("ray::_call")]
        living = any(one.poll() is None for one in self.processes)
        return super().alive() + ([] if living else [f"{one.pid} {command_of(one)}" for one in found])

    def close(self) -> None:
        super().close()
        self._cluster.shutdown()


class OnRayApart(ObjectStore, OnRay):
    name = "ray, a store each"
    rest = 1.5 * LEASE_SECONDS  # what a killed driver held is taken over only by one that lives for a lease

    def __init__(self, given: argparse.Namespace, folder: Path, random: Random) -> None:
        super().__init__(given, folder, random)
        self._options = ("--engine", "tests.ray_nodes:RayNodes")


SETUPS: dict[str, type[Setup]] = {
    "local": Setup, "two": Two, "ray": OnRay, "apart": Apart, "ray-apart": OnRayApart,
}  # fmt: skip


def children(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return []


def ancestors(process: psutil.Process) -> set[int]:
    try:
        return {one.pid for one in process.parents()}
    except psutil.Error:
        return set()


def command_of(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def spec_options(given: argparse.Namespace) -> list[str]:
    profiles = [part for name in given.profile for part in ("--profile", name)]
    return [given.spec, *profiles, *(part for text in given.set for part in ("--set", text))]


class Faults:
    """The rounds of one set-up, what was killed, and what did not hold."""

    def __init__(self, setup: Setup, stages: list[Any], rows: list[Any]) -> None:
        self.setup, self.stages, self.rows = setup, stages, rows
        self.killed: Counter[str] = Counter()
        self.damaged: Counter[tuple[Path, str]] = Counter()  # by store and key, in this round
        self.rounds = self.noticed = 0
        self.slowest = 0.0
        self.wrong: list[str] = []

    def run(self, kills: int, window: float) -> None:
        """Until so many were killed and the last round is through; kills are up to `window` seconds apart."""
        random, setup = self.setup.random, self.setup
        workers, parent = 0, -math.inf
        setup.begin()
        while not self.wrong:
            deadline = time.monotonic() + (random.uniform(0.2, window) if self.killed.total() < kills else 3600.0)
            while time.monotonic() < deadline and any(one.poll() is None for one in setup.processes):
                time.sleep(0.1)
            if all(one.poll() is not None for one in setup.processes):
                self.end_round()
                if self.killed.total() >= kills or self.wrong:
                    return
                setup.begin()
            elif self.killed.total() < kills:
                kind = random.choice(setup.victims)
                if kind == "parent" and time.monotonic() - parent < setup.rest:
                    continue
                if (kind != "worker" or workers < WORKERS) and setup.kill(kind):
                    self.killed[kind] += 1
                    workers += kind == "worker"
                    self.say(f"killed a {kind}")
                    if kind in ("parent", "machine"):
                        self.after_parent()
                        workers, parent = 0, time.monotonic()
            else:
                self.wrong.append("a run did not end within an hour")

    def after_parent(self) -> None:
        """What a parent had started ends; then it is started again."""
        began = time.monotonic()
        while (left := self.setup.alive()) and time.monotonic() - began < END_SECONDS:
            time.sleep(0.1)
        self.slowest = max(self.slowest, time.monotonic() - began)
        if left:
            self.wrong.append(f"alive {END_SECONDS:.0f} s after its parent: {left}")
        for store in self.setup.unused():
            if not store.root.exists():  # it went with its machine
                self.damaged = Counter({one: n for one, n in self.damaged.items() if one[0] != store.root})
            elif self.setup.random.random() < DAMAGE:
                self.damage(store)
        for number, one in enumerate(self.setup.processes):
            if one.returncode == -signal.SIGKILL:
                self.setup.processes[number] = self.setup.start(number)

    def damage(self, store: Store) -> None:
        """Change a byte of a finished stage's file, or cut it short."""
        random = self.setup.random
        intact = [stage for stage in self.stages if self.unnoticed(store.root, stage) == 0]
        finished = [(stage, found) for stage in intact if (found := store.read(stage))]
        files = [(stage, found.directory / name) for stage, found in finished for name in found.record["files"]]
        files = [(stage, path) for stage, path in files if path.stat().st_size]
        if files:
            stage, path = random.choice(files)
            content = bytearray(path.read_bytes())
            content[random.randrange(len(content))] ^= 0xFF
            path.write_bytes(content if random.random() < 0.5 else content[:-1])
            self.damaged[store.root, stage.key] += 1
            self.say(f"damaged {path.relative_to(store.root)}")

    def unnoticed(self, root: Path, stage: Any) -> int:
        """Damages in a store that no run has found yet."""
        return self.damaged[root, stage.key] - len(list((root / "corrupt").glob(f"{stage.key}-*")))

    def end_round(self) -> None:
        """What holds of a store and of reports when all runs have ended."""
        setup, stores, wrong = self.setup, self.setup.stores(), self.wrong
        self.rounds += 1
        for number, one in enumerate(setup.processes):
            if one.returncode != 0:
                said = (setup.folder / f"said-{number}.log").read_text(errors="replace")
                wrong.append(f"a run ended with {one.returncode}: {said[-2000:]}")
                return
            if rows_in(setup.folder / f"out-{number}") != self.rows:
                wrong.append("the rows are not those of the unbroken run")
        for stage in self.stages:
            logs = [path.read_text(errors="replace") for path in setup.folder.glob(f"*/logs/{stage.key}.log")]
            done = sum(len(re.findall(r"^\S+ \S+  done in ", said, re.MULTILINE)) for said in logs)
            damaged = sum(self.damaged[root, one.key] for root in stores for one in topological([stage]))
            if done > 1 + damaged * setup.makes_again:
                wrong.append(f"{stage} was finished {done} times, it and what it is made from damaged {damaged} times")
            for root, store in stores.items():
                if store.artifact(stage) is None:
                    wrong.append(f"no whole artifact of {stage} in {root.name}")
                if self.unnoticed(root, stage) > 0:
                    wrong.append(f"a damage of {stage} in {root.name} was not noticed")
        patterns = ("work/*", "locks/*.[!l]*")
        left = [str(path) for root in stores for pattern in patterns for path in root.glob(pattern)]
        if left or setup.alive():
            wrong.append(f"left behind: {left} {setup.alive()}")
        self.noticed += self.damaged.total()
        self.say(f"round {self.rounds} is through, {self.killed.total()} kills so far")
        self.damaged.clear()
        if not wrong:
            for path in setup.folder.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def say(self, text: str) -> None:
        print(f"{self.setup.name}: {text}", flush=True)


def rows_in(folder: Path) -> list[Any]:
    """What does not depend on time, of a report's rows."""
    [path] = folder.glob("*/results.json")
    names = ("model", "method", "label", "ratio", "recovery", "seed", "status", "metrics", "params", "stages")
    return [{name: row[name] for name in names} for row in json.loads(path.read_text())["rows"]]


@contextlib.contextmanager
def made(setup: type[Setup], given: argparse.Namespace, folder: Path, random: Random) -> Iterator[Setup]:
    folder.mkdir()
    one = setup(given, folder, random)
    try:
        yield one
    finally:
        one.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="in all set-ups together")
    parser.add_argument("--setups", default=",".join(SETUPS), help=f"some of {','.join(SETUPS)}")
    parser.add_argument("--spec", default="specs/table1.yaml")
    parser.add_argument("--profile", action="append", default=[], help="default: tiny")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--window", type=float, default=20.0, help="most seconds between two kills")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="for stores and reports; default: a temporary one")
    given = parser.parse_args()
    given.profile = given.profile or ["tiny"]
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        base = (given.folder or Path(temporary)).resolve()
        stages = expand_all(load(ROOT / given.spec, given.profile, given.set)).stages
        with made(Setup, given, base / "unbroken", Random(0)) as unbroken:
            unbroken.arguments = ()
            unbroken.begin()
            if unbroken.processes[0].wait() != 0:
                sys.exit((unbroken.folder / "said-0.log").read_text(errors="replace"))
            rows = rows_in(unbroken.folder / "out-0")
        print(f"unbroken: {len(rows)} rows of {len(stages)} stages, {time.monotonic() - began:.0f} s", flush=True)
        names, lines, wrong = given.setups.split(","), [], []
        for place, name in enumerate(names):
            random = Random(f"{given.seed} {name}")
            kills = given.kills // len(names) + (place < given.kills % len(names))
            with made(SETUPS[name], given, base / name, random) as setup:
                faults = Faults(setup, stages, rows)
                faults.run(kills, given.window)
            killed = ", ".join(f"{count} × {kind}" for kind, count in sorted(faults.killed.items()))
            held = "no" if faults.wrong else "yes"
            lines.append((setup.name, killed, faults.rounds, faults.noticed, f"{faults.slowest:.1f}", held))
            wrong += [f"{setup.name}: {one}" for one in faults.wrong]
    headers = ["set-up", "killed", "runs through", "damages noticed", "s until children ended", "all held"]
    print(f"\n{tabulate(lines, headers=headers, tablefmt='github')}\n")
    print(f"{given.spec}, {' '.join(given.profile)}: {len(rows)} rows of {len(stages)} stages; seed {given.seed}; "
          f"{platform.machine()}, Python {platform.python_version()}; {time.monotonic() - began:.0f} s")  # fmt: skip
    if wrong:
        sys.exit("\n".join(["", "what did not hold:", *wrong]))


if __name__ == "__main__":
    main()
