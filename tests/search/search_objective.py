"""A search objective that costs nothing, for processes of its own too."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import dataclass, field
from pathlib import Path

import torch

from reproducer.methods.adapruner import adapruner
from reproducer.search.objective import Measurement
from reproducer.search.settings import SearchSettings
from reproducer.search.study import search

MARK = "SEARCH_TEST_MARK"  # names the file that another process makes when it has started


class Plan:
    def __init__(self, text):
        self.text = text

    def save(self, path):
        path.write_text(self.text)


@dataclass
class Objective:
    """A bowl over the samples and the metric's parameters; `magnitude` has the value it is given.

    It is measured in two windows, and stopped behind the first if that is `hopeless` above the best one's.
    """

    magnitude: float = 1e6
    dies_at: int | None = None
    killed_at: int | None = None
    hopeless: float = 5.0
    evaluated: int = 0
    stopped: int = 0
    sample_tokens: int = 0
    text_tokens: int = 0
    pool: torch.Tensor = field(default_factory=lambda: torch.arange(20)[:, None])
    texts: dict[str, torch.Tensor] = field(default_factory=lambda: {"text": torch.zeros(1, 1)})
    model: torch.nn.Module = field(default_factory=lambda: torch.nn.Linear(1, 1))

    def spent(self):
        tokens = {"sample_tokens": self.sample_tokens, "text_tokens": self.text_tokens}
        return {**tokens, "forward_tokens": 2 * self.sample_tokens, "backward_tokens": self.sample_tokens / 2}

    def expect(self, needs):
        pass

    def prepare(self, passages, progress):
        self.sample_tokens += len(passages)

    def statistics(self, samples, needs):
        return {}

    def plan(self, method, parameters, samples, seed=0):
        self.sample_tokens += len(samples)
        return Plan(json.dumps([method.name, list(samples), dict(parameters)], sort_keys=True))

    def measure(self, plan, best_losses=None, chance=0.2):
        self.evaluated += 1
        if self.evaluated == self.dies_at:
            raise KeyboardInterrupt
        if self.evaluated == self.killed_at:
            os.kill(os.getpid(), signal.SIGKILL)
        self.text_tokens += 1
        value = self.bowl(*json.loads(plan.text))
        if best_losses is not None and value > best_losses[0] + self.hopeless:
            self.stopped += 1
            return Measurement(value - 0.5, [value], True, value)
        self.text_tokens += 1
        return Measurement(value, [value], False, value)

    def value(self, plan):
        return self.measure(plan).value

    def bowl(self, method, samples, settings):
        if method == "magnitude":
            return self.magnitude
        if not settings:
            return 40 + sum(samples)  # a baseline beside the space
        second = {"only": 3.0, 0.0: 9.0}.get(settings["fine_second"], 1.0)
        return 50 + sum((index - 7) ** 2 for index in samples) / 10 + second + abs(settings["alpha1"] - 0.3)


def build():
    Path(os.environ[MARK]).touch()
    return Objective()


def build_mortal():
    Path(os.environ[MARK]).touch()
    return Objective(killed_at=2)


BASE = {"trials": 14, "stop": False, "offered": 0}
MIXTURES = [0.0, 1e5, 1e6, 1e7, "only"]  # so that the space holds all baselines but magnitude
DRAW = (1, 5, 9)


def run(
    objective, directory, *, space=None, method=adapruner, seed=3, engine=None, build=None,
    progress=lambda done, total, text: None, **keys,
):  # fmt: skip
    """A search with `BASE` and these settings."""
    whole = {"fine_second": MIXTURES} if method is adapruner else {}
    space, settings = space or method.space(**whole), SearchSettings(**{**BASE, **keys})
    options = {
        "seed": seed,
        "text": lambda index: f"passage {index}",
        "engine": engine,
        "build": build,
        "progress": progress,
    }
    return search(objective, method, space, settings, DRAW, directory, **options)
