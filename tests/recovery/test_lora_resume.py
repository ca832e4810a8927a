"""Interruptions: a killed run goes on to the same bits; a garbled checkpoint is named and left aside."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from lora_cases import NINE_STEPS, contents, job, lora, uneven_llama

from reproducer.models import training

SETTINGS = NINE_STEPS["lora"]

CHILD = """
import sys, time
from pathlib import Path
import torch
sys.path.insert(0, sys.argv[1])
torch.set_num_threads(1)
from lora_cases import NINE_STEPS, job
from reproducer.models import training

training.CHECKPOINT_SECONDS = 0
slow = lambda *call: time.sleep(0.05)
NINE_STEPS[sys.argv[3]].train(job(Path(sys.argv[2]), seed=1, progress=slow))
"""


@pytest.fixture(autouse=True)
def a_checkpoint_a_step(monkeypatch):
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0)


def train(directory: Path, stop_behind: int | None = None, settings=SETTINGS, model=None):
    """`stop_behind` interrupts in the middle of the step that follows."""
    said: list[str] = []

    def progress(done: float, total: float, text: str) -> None:
        if stop_behind is not None and done > stop_behind:
            raise KeyboardInterrupt

    try:
        losses = settings.train(job(directory, 1, model, progress=progress, say=said.append))
    except KeyboardInterrupt:
        losses = None
    return losses, said


def steps_kept(directory: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step-")) for path in (directory / "checkpoints").iterdir())


@pytest.fixture(scope="module", params=NINE_STEPS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def left(kind, tmp_path_factory):
    """What an unbroken run of the kind leaves."""
    directory = tmp_path_factory.mktemp(kind)
    NINE_STEPS[kind].train(job(directory, seed=1))
    return contents(directory)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    directory = tmp_path_factory.mktemp("unbroken")
    SETTINGS.train(job(directory, seed=1))
    return contents(directory)


def test_a_run_killed_with_sigkill_ends_with_the_same_bits(tmp_path, kind, left):
    here = str(Path(__file__).parent)
    child = subprocess.Popen([sys.executable, "-c", CHILD, here, str(tmp_path), kind])
    try:
        while child.poll() is None and not list(tmp_path.glob("checkpoints/step-00000003/state.json")):
            time.sleep(0.005)
    finally:
        os.kill(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL, "the child must die in the middle of training"
    assert {path.name for path in tmp_path.iterdir()} <= {"checkpoints", "passages.json"}
    assert steps_kept(tmp_path)[-1] in range(3, 8)
    started = []
    NINE_STEPS[kind].train(job(tmp_path, 1, progress=lambda *call: started.append(call[0])))
    assert started[0] >= 3, "the run must go on, not start again"
    assert contents(tmp_path) == left


@pytest.mark.parametrize("behind", [1, 5, 8])
def test_an_interrupted_run_ends_with_the_same_bits(tmp_path, kind, left, behind):
    """Two interruptions, in one epoch, across epochs and phases; the caller's random numbers make no difference."""
    settings = NINE_STEPS[kind]
    train(tmp_path, stop_behind=behind, settings=settings)
    torch.manual_seed(99)
    assert steps_kept(tmp_path)[-1] == behind
    train(tmp_path, stop_behind=min(behind + 2, 8), settings=settings)
    losses, said = train(tmp_path, settings=settings)
    assert contents(tmp_path) == left
    assert said == [] and [entry["step"] for entry in losses] == list(range(1, 10))


def test_several_threads_end_with_the_same_bits_too(tmp_path):
    """As short as can be: where other processes keep the cores busy, threads wait long for each other."""
    threads = torch.get_num_threads()
    short = lora(dropout=0.2, steps=2, warmup_steps=0, batch=2, targets=["v_proj", "down_proj"])
    torch.set_num_threads(2)
    try:
        train(tmp_path / "whole", settings=short)
        train(tmp_path / "interrupted", settings=short, stop_behind=1)
        train(tmp_path / "interrupted", settings=short)
    finally:
        torch.set_num_threads(threads)
    assert contents(tmp_path / "interrupted") == contents(tmp_path / "whole")


def garble(path: Path, how: str) -> None:
    if how == "flipped bit":
        content = bytearray(path.read_bytes())
        content[-3] ^= 1
        path.write_bytes(content)
    elif how == "cut short":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    else:
        path.unlink()


@pytest.mark.parametrize(
    ("file", "how"),
    [("state.safetensors", "flipped bit"), ("state.safetensors", "missing"), ("state.json", "cut short")],
)
def test_a_garbled_checkpoint_is_named_and_the_one_before_is_used(tmp_path, unbroken, file, how):
    train(tmp_path, stop_behind=4)
    assert steps_kept(tmp_path) == [3, 4]
    garble(tmp_path / "checkpoints" / "step-00000004" / file, how)
    _, said = train(tmp_path)
    assert "step-00000004 is not used" in said[0] and file in said[0]
    assert said[1:] == ["training goes on from step 3"]
    assert contents(tmp_path) == unbroken


def test_without_a_usable_checkpoint_training_starts_again_and_says_so(tmp_path, unbroken):
    train(tmp_path, stop_behind=4)
    for path in tmp_path.glob("checkpoints/*/state.safetensors"):
        garble(path, "flipped bit")
    _, said = train(tmp_path)
    assert len(said) == 3 and "starts from the beginning" in said[-1]
    assert contents(tmp_path) == unbroken


@pytest.mark.parametrize("change", ["settings", "weights"])
def test_checkpoints_of_another_run_are_not_continued(tmp_path, kind, left, change):
    settings = NINE_STEPS[kind]
    other = settings.model_copy(update={"learning_rate": 5e-3}) if change == "settings" else settings
    train(tmp_path, stop_behind=4, settings=other, model=uneven_llama(seed=int(change == "weights")))
    _, said = train(tmp_path, settings=settings)
    assert "other settings, data or weights" in said[0] and "starts from the beginning" in said[-1]
    assert contents(tmp_path) == left
