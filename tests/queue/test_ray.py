"""The engine `ray` on a cluster of three nodes, each with processes of its own. Skipped where Ray is not installed."""

import json
import os
import signal

import psutil
import pytest
from engine_contract import EngineContract, until
from queue_stages import PLANS, SPEC, Wait, artifact_of, text

from reproducer.cli import main
from reproducer.errors import UserError
from reproducer.queue import Progress, Store, run
from reproducer.queue.engines import ray as engines_ray
from tests.ray_cluster import add_node, start_cluster

ray = pytest.importorskip("ray", reason="the extra [ray] is not installed")


@pytest.fixture(scope="module")
def cluster():
    """A head that runs nothing, and two nodes of one processor; this process is a driver."""
    made = start_cluster()
    ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.fixture
def engine(cluster, monkeypatch):
    monkeypatch.setattr(engines_ray, "GRACE_SECONDS", 1.0)  # Ray wakes nobody up to break off: what sleeps is killed
    monkeypatch.setattr(engines_ray, "TAKEN_ALONG", ("QUEUE_",))
    made = engines_ray.Ray(2)
    yield made
    made.close()


class TestRay(EngineContract):
    pass


def node_of(cluster, pid):
    """The node that a worker belongs to."""
    parent = psutil.Process(pid).ppid()
    return next(
        node for node in cluster.worker_nodes
        if parent in [one.process.pid for several in node.all_processes.values() for one in several]
    )  # fmt: skip


def test_what_ran_on_a_lost_node_runs_on_another(cluster, engine, store, log, tmp_path, monkeypatch):
    monkeypatch.setenv("QUEUE_GO", str(tmp_path / "go"))
    said, removed = [], []

    class Display(Progress):
        def show(self, text):
            said.append(text)

        def update(self, stage, done, total, text=""):
            if not removed:
                removed.append(node_of(cluster, int(log()[0].split()[-1])))
                cluster.remove_node(removed[0], allow_graceful=False)
            if len(log()) == 2:
                (tmp_path / "go").touch()

    try:
        outcome = run([text("after", a=Wait(label="the long one"))], store, engine, progress=Display())
    finally:
        add_node(cluster)
    assert (
        outcome.counts == {"done": 2} and "the long one: the process that ran it was killed; it is tried again" in said
    )
    first = int(log()[0].split()[-1])
    until(lambda: not psutil.pid_exists(first))
    assert "['partial']" not in "".join(log()), "the folder was empty again"


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_outlives_a_driver_that_is_ended(cluster, bench, how):
    process = bench.start("waits", slots=2, engine=f"ray:{cluster.address}")
    bench.until(lambda: len(bench.log()) == 2)
    workers = [psutil.Process(int(line.split()[-1])) for line in bench.log()]
    process.send_signal(how)
    process.communicate(timeout=60)
    psutil.wait_procs(workers, timeout=60)
    assert not any(worker.is_running() for worker in workers)
    if how == signal.SIGTERM:
        assert process.returncode == 128 + how and bench.log().count("broken off") == 2
    bench.go.touch()
    assert "{'done': 2}" in bench.finish(bench.start("waits", slots=2, engine=f"ray:{cluster.address}"))
    store = Store(bench.root)
    assert all(artifact_of(store, stage) for stage in PLANS["waits"]())


def test_a_spec_on_a_cluster_gives_the_rows_of_a_local_run(cluster, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spec.yaml").write_text(SPEC)
    found = []
    for place in (["--engine", f"ray:{cluster.address}"], []):
        name = place[1][:3] if place else "local"
        assert main(["spec.yaml", "--store", f"store-{name}", "--out", f"out-{name}", *place]) == 0
        rows = json.loads((tmp_path / f"out-{name}/small-run/results.json").read_text())["rows"]
        found.append([(row["label"], row["status"], row["metrics"], row["stages"]) for row in rows])
    assert found[0] == found[1] and len(found[0]) == 2
    assert capsys.readouterr().out.count("(4 done)") == 2
    hosts = [path.read_text() for path in (tmp_path / "store-ray/logs").iterdir()]
    assert len(hosts) == 4 and not any(f"process {os.getpid()}\n" in text for text in hosts)


def test_devices_and_addresses_that_are_not_there(cluster, monkeypatch):
    with pytest.raises(UserError, match="--device cuda: no node of the Ray cluster has a GPU"):
        engines_ray.Ray(device="cuda")
    with pytest.raises(UserError, match="Ray says which GPU"):
        engines_ray.Ray(device="cuda:0,cuda:1")
    assert ray.is_initialized(), "a cluster that was joined before is not left"


def test_resources(cluster, monkeypatch):
    nodes = [{"CPU": 16.0, "memory": 5e9}, {"CPU": 64.0, "GPU": 8.0, "memory": 9e9}, {"CPU": 1.0}]
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": node} for node in nodes])
    everything, few, cpu = engines_ray.Ray(), engines_ray.Ray(3), engines_ray.Ray(device="cpu")
    assert everything.devices == ("cuda",) and everything.slots == 8 and few.slots == 3
    assert cpu.devices == ("cpu",) and cpu.slots == 16 + 64 + 1
    del nodes[2]
    assert engines_ray.Ray(device="cpu").slots == 4 + 16, "√n of n processors each"
    assert engines_ray.Ray(5, device="cpu").slots == 5
    nodes.clear()
    everything._looked = 0.0
    assert everything.slots == 0, "until one joins"
