"""What AdaPruner's result costs: `python -m tests.benchmarks.search MODEL_FOLDER`.

* textbook: ten prunes by second-order scores as LLM-Pruner makes them, each N + 1 backward passes with weight-sized
  gradients over ten samples of 128 tokens;
* paper: a search of 150 trials in `mode: paper`;
* default: a search in `mode: default`, of as many trials as `--trials` says.

Both searches start from the same pool and measure on the same texts; a round is one seed. Each part runs in a process
of its own, in turns. Seconds are those of the work, with the model loaded; memory is the peak of the process. With
fewer than 150 trials in paper mode its seconds are extrapolated, and its objective is that of the trials that ran.

The default mode's model says what it expects of every candidate before that is measured. How far the two agree is told
by Spearman's correlation of their differences from the best candidate so far, over the candidates of all rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tabulate import tabulate

PAPER_TRIALS = 150
PRUNES, SAMPLES, LENGTH = 10, 10, 128
PARTS = ("textbook", "paper", "default")


def load(given: argparse.Namespace) -> tuple[Any, Any, dict[str, Any]]:
    """Model, pool and search texts."""
    import torch

    from reproducer.data.pool import calibration_pool
    from reproducer.data.text import load_text, windows
    from reproducer.models.load import load_model

    torch.set_num_threads(given.threads)
    model, tokenizer = load_model(given.model, given.dtype)
    pool = calibration_pool(load_text(given.calibration, "calibration"), tokenizer, LENGTH)
    texts = {name: windows(load_text(name, "search"), tokenizer, LENGTH, given.windows) for name in given.texts}
    return model, pool, texts


def textbook(model: Any, pool: Any, seed: int) -> None:
    """Ten prunes: the diagonal of the Fisher information from N passes, the mean gradient from one more."""
    import torch

    from reproducer.methods.registry import METHODS
    from reproducer.models.architecture import architecture_of, linear_at
    from reproducer.pruning.scoring import structure_scores
    from reproducer.pruning.statistics import Second

    architecture = architecture_of(model)
    rule: Any = METHODS.get("llm-pruner-e2").make()
    model.requires_grad_()
    for draw in range(PRUNES):
        ids = pool.ids[pool.draw(SAMPLES, PRUNES * seed + draw)]
        squares: dict[str, torch.Tensor] = {}
        for sample in [*ids.split(1), ids]:
            model.zero_grad()
            model(sample, labels=sample, use_cache=False).loss.backward()
            if len(sample) == 1:
                for name, parameter in model.named_parameters():
                    square = squares.setdefault(name, torch.zeros_like(parameter))
                    square.addcmul_(parameter.grad, parameter.grad, value=1 / len(ids))
        statistics: Any = {}
        with torch.no_grad():
            for index, layer in enumerate(architecture.decoder_layers(model)):
                statistics[index] = {}
                for path, axis in architecture.modules().items():
                    weight = linear_at(layer, path).weight
                    square = squares[f"{architecture.layers}.{index}.{path}.weight"]
                    statistics[index][path] = {Second(): (weight.square() * square).float().sum(1 - axis)}
        structure_scores(model, architecture, statistics, rule.score, torch.Generator())
    model.zero_grad()


def run_search(
    model: Any, pool: Any, texts: dict[str, Any], mode: str, trials: int, seed: int
) -> tuple[Any, list[tuple[float, float]]]:
    """A search; returns its record, and what its model expected of candidates beside what they were."""
    from reproducer.methods.registry import METHODS
    from reproducer.pruning.cut import Cut
    from reproducer.search.journal import open_study
    from reproducer.search.objective import Objective
    from reproducer.search.settings import SearchSettings
    from reproducer.search.study import search

    method = METHODS.get("adapruner")
    assert method.space is not None
    space = method.space.published() if mode == "paper" else {}
    objective = Objective(model, pool.ids, texts, None, Cut(ratio=0.2))
    settings = SearchSettings(mode=mode, trials=trials)
    with tempfile.TemporaryDirectory() as folder:
        record = search(
            objective,
            method,
            method.space.model_validate(space),
            settings,
            pool.draw(SAMPLES, seed),
            Path(folder),
            seed=seed,
        )
        return record, foreseen(open_study(Path(folder), "joint"), settings)


def foreseen(study: Any, settings: Any) -> list[tuple[float, float]]:
    """Of every candidate that a model chose, what it was expected to be and what it was, as differences of the
    objective's logarithm from the best candidate's before it."""
    import numpy as np
    from optuna.trial import TrialState

    from reproducer.search.surrogate import features, predict

    if settings.sampler != "local":
        return []
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    trials = [trial for trial in trials if trial.state == TrialState.COMPLETE or "estimate" in trial.user_attrs]
    whole = np.array([trial.state == TrialState.COMPLETE for trial in trials])
    told = [trial.value if trial.state == TrialState.COMPLETE else trial.user_attrs["estimate"] for trial in trials]
    values = np.log(told)
    found = []
    for place in range(settings.start, len(trials)):
        rows = features([trial.params for trial in trials[: place + 1]], trials[0].distributions, alike=True)
        expected = float(predict(rows[:-1], values[:place], rows[-1:])[0])
        best = values[:place][whole[:place]].min()
        found.append((expected - best, float(values[place] - best)))
    return found


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """One part of one round, in this process."""
    import resource

    model, pool, texts = load(given)
    record: Any = None
    pairs: list[tuple[float, float]] = []
    began = time.perf_counter()
    if given.part == "textbook":
        textbook(model, pool, given.seed)
    else:
        trials = given.paper_trials if given.part == "paper" else given.trials
        record, pairs = run_search(model, pool, texts, given.part, trials, given.seed)
    seconds = time.perf_counter() - began
    if given.part == "paper" and record is not None:  # what it takes before the first trial it takes once
        seconds += record.costs.seconds * (PAPER_TRIALS / given.paper_trials - 1)
    return {
        "part": given.part,
        "seed": given.seed,
        "seconds": seconds,
        "objective": record.best.value if record is not None else None,
        "expected and found": pairs,
        "mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def apart(given: argparse.Namespace, part: str, seed: int) -> dict[str, Any]:
    """The same in a fresh process."""
    command = [sys.executable, "-m", "tests.benchmarks.search", given.model, "--part", part, "--seed", str(seed)]
    for name in ("dtype", "threads", "calibration", "windows", "trials", "paper_trials"):
        command += [f"--{name.replace('_', '-')}", str(getattr(given, name))]
    command += ["--texts", *given.texts]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="a folder as `save_pretrained` writes it")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--windows", type=int, default=16, help="search windows a text")
    parser.add_argument("--calibration", default="python-topics", help="the text that samples are chosen from")
    parser.add_argument("--texts", nargs="+", default=["python-topics", "python-docstrings"], help="to search on")
    parser.add_argument("--trials", type=int, default=60, help="of the default mode")
    parser.add_argument("--paper-trials", type=int, default=PAPER_TRIALS, help="fewer: seconds are extrapolated")
    parser.add_argument("--rounds", type=int, default=3, help="seeds")
    parser.add_argument("--part", choices=PARTS, help="this one alone, in this process")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if given.part:
        print(json.dumps(measure(given)))
        return
    from scipy.stats import spearmanr

    found: dict[str, list[dict[str, Any]]] = {part: [] for part in PARTS}
    for seed in range(given.rounds):
        for part in PARTS:
            found[part].append(apart(given, part, seed))
            told = {name: value for name, value in found[part][-1].items() if name != "expected and found"}
            print(f"round {seed + 1}: {told}", flush=True)
    base = [one["seconds"] for one in found["textbook"]]
    rows = []
    for part, ones in found.items():
        seconds = [one["seconds"] for one in ones]
        ratio = statistics.median(own / of for own, of in zip(seconds, base, strict=True))
        values = [one["objective"] for one in ones if one["objective"] is not None]
        mean = statistics.mean(values) if values else None
        rows.append((part, statistics.median(seconds), ratio, mean, max(one["mib"] for one in ones)))
    print(tabulate(rows, headers=["", "median s", "/ textbook", "mean objective", "peak MiB"], floatfmt=".2f"))
    extrapolated = f", extrapolated from {given.paper_trials}" if given.paper_trials != PAPER_TRIALS else ""
    print(
        f"\n{platform.machine()}, {given.dtype}, {given.threads} threads; paper: {PAPER_TRIALS} trials{extrapolated};"
    )
    count = len(given.texts) * given.windows
    print(f"default: {given.trials} trials; samples from {given.calibration}, {count} windows of {LENGTH} tokens")
    pairs = [pair for one in found["default"] for pair in one["expected and found"]]
    correlation = float(spearmanr(*zip(*pairs, strict=True)).statistic)
    print(f"what the model expected of {len(pairs)} candidates: correlation {correlation:.2f}")


if __name__ == "__main__":
    main()
