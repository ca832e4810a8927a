"""Time and extra memory of the one-pass statistics against plain autograd: `python -m tests.benchmarks.statistics`.

On one model and one batch (134 million random fp32 weights, 12 layers of 768 with 12 heads each, 10 samples of 128
tokens, layers 2 to 9 scored):

* E1 and E2: the package's scores of these criteria;
* plain: one forward and one backward pass of the batch by autograd, all weights' gradients, nothing scored;
* textbook: second-order scores by N + 1 backward passes, with `.grad` and an accumulated copy of the squared
  gradients as large as the weights, and E2 read off them.

Every variant runs in processes of its own, in turns, so that a disturbance of the machine meets all of them. A process
first does its work on a tiny model (imports, threads), then once for memory and then a few times against the clock.
Memory is the peak of the process's resident set (VmHWM, reset before the run; Linux only) above what it was before.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

SAMPLES, LENGTH = 10, 128
MODEL = {
    "vocab_size": 32000,
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_key_value_heads": 12,
    "tie_word_embeddings": False,
}
LAYERS = range(2, 10)
TINY = {**MODEL, "vocab_size": 64, "hidden_size": 48, "intermediate_size": 64}

Work = Callable[[Any, Any], Any]  # (model, ids) -> {layer: {"heads": [units], "channels": [units]}}, or None


def ours(method: str) -> Work:
    import torch

    from reproducer.methods.registry import METHODS
    from reproducer.models.architecture import architecture_of
    from reproducer.pruning.collect import collect
    from reproducer.pruning.scoring import structure_scores

    def work(model, ids):
        rule: Any = METHODS.get(method).make()
        statistics = collect(model, ids, LAYERS, rule.needs)
        return structure_scores(model, architecture_of(model), statistics, rule.score, torch.Generator())

    return work


def plain(model: Any, ids: Any) -> None:
    model.zero_grad()
    model(ids, labels=ids, use_cache=False).loss.backward()


def textbook(model: Any, ids: Any) -> dict:
    import torch

    squares: dict[str, Any] = {}
    for sample in ids:
        plain(model, sample[None])
        for name, parameter in model.named_parameters():
            if name not in squares:
                squares[name] = torch.zeros_like(parameter)
            squares[name].addcmul_(parameter.grad, parameter.grad, value=1 / len(ids))
    plain(model, ids)  # the first-order part, which mixed criteria need beside the squares
    head_dim = model.config.hidden_size // model.config.num_attention_heads
    scores = {}
    with torch.no_grad():
        for index in LAYERS:
            layer, prefix = model.model.layers[index], f"model.layers.{index}"
            heads = channels = 0
            for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
                salience = getattr(layer.self_attn, name).weight ** 2 * squares[f"{prefix}.self_attn.{name}.weight"]
                heads = heads + salience.sum(0 if name == "o_proj" else 1).view(-1, head_dim).sum(1)
            for name in ("gate_proj", "up_proj", "down_proj"):
                salience = getattr(layer.mlp, name).weight ** 2 * squares[f"{prefix}.mlp.{name}.weight"]
                channels = channels + salience.sum(0 if name == "down_proj" else 1)
            scores[index] = {"heads": heads, "channels": channels}
    return scores


VARIANTS: dict[str, Callable[[], Work]] = {
    "plain": lambda: plain,
    "textbook": lambda: textbook,
    "E1": lambda: ours("llm-pruner-e1"),
    "E2": lambda: ours("llm-pruner-e2"),
}
# What is asked of ours: (variant, measure, of which variant, at most).
LIMITS = (
    ("E1", "seconds", "plain", 1.1),
    ("E2", "seconds", "plain", 1.5),
    ("E2", "seconds", "textbook", 0.6),
    ("E1", "bytes", "textbook", 0.4),
    ("E2", "bytes", "textbook", 0.4),
)


def build(settings: dict[str, Any]) -> tuple[Any, Any]:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**settings)).eval()
    return model, torch.randint(settings["vocab_size"], (SAMPLES, LENGTH))


def resident(field: str) -> int:
    """VmRSS or VmHWM of this process in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def peak_of(work: Callable[[], Any]) -> int:
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is resident now
    before = resident("VmRSS")
    work()
    return resident("VmHWM") - before


def measure(variant: str, threads: int, repeats: int) -> dict[str, Any]:
    """One process's part: memory of the first run, times of the others, and scores for comparison."""
    import torch

    torch.set_num_threads(threads)
    work = VARIANTS[variant]()
    work(*build(TINY))
    model, ids = build(MODEL)
    peak = peak_of(lambda: work(model, ids))
    seconds, scores = [], None
    for _ in range(repeats):
        model.zero_grad()
        start = time.perf_counter()
        scores = work(model, ids)
        seconds.append(time.perf_counter() - start)
    listed = scores and {str(i): {kind: v.tolist() for kind, v in of.items()} for i, of in scores.items()}
    return {"seconds": min(seconds), "bytes": peak, "scores": listed, "torch": torch.__version__}


def in_fresh_process(variant: str, threads: int, repeats: int) -> dict[str, Any]:
    arguments = ["--variant", variant, "--threads", str(threads), "--repeats", str(repeats)]
    command = [sys.executable, "-m", "tests.benchmarks.statistics", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def difference(ours: dict, theirs: dict) -> float:
    """Largest relative difference of two variants' scores."""
    pairs = (
        (a, b)
        for layer, kinds in theirs.items()
        for kind, values in kinds.items()
        for a, b in zip(ours[layer][kind], values, strict=True)
    )
    return max(abs(a - b) / b for a, b in pairs)


def best(results: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The fastest of the times, and the middle one of the peaks, of several processes."""
    results = list(results)
    peaks = sorted(result["bytes"] for result in results)
    return {
        **results[-1],
        "seconds": min(result["seconds"] for result in results),
        "bytes": peaks[len(peaks) // 2],
    }


def report(found: dict[str, dict[str, Any]]) -> str:
    from tabulate import tabulate

    rows = [
        [
            name,
            f"{of['seconds']:.2f}",
            f"{of['bytes'] / 2**20:.0f}",
            *(f"{of['seconds'] / found[other]['seconds']:.2f}" for other in ("plain", "textbook")),
            f"{of['bytes'] / found['textbook']['bytes']:.2f}",
        ]
        for name, of in found.items()
    ]
    headers = ["variant", "seconds", "extra MiB", "time / plain", "time / textbook", "memory / textbook"]
    lines = [tabulate(rows, headers, tablefmt="github", disable_numparse=True), ""]
    for variant, quantity, other, most in LIMITS:
        ratio = found[variant][quantity] / found[other][quantity]
        verdict = "ok" if ratio <= most else "MISSED"
        lines.append(f"{variant} {quantity}: {ratio:.2f} of {other}'s, at most {most}: {verdict}")
    apart = difference(found["E2"]["scores"], found["textbook"]["scores"])
    lines.append(f"E2 scores differ from the textbook's by {apart:.0e} of their value at the most")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Time and memory of the one-pass statistics against plain autograd.")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3, help="timed runs a process")
    parser.add_argument("--rounds", type=int, default=3, help="processes a variant, in turns")
    parser.add_argument("--variant", choices=VARIANTS, help="measure one variant in this process, print JSON")
    options = parser.parse_args()
    if options.variant:
        print(json.dumps(measure(options.variant, options.threads, options.repeats)))
        return
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in VARIANTS}
    for turn in range(options.rounds):
        for name, results in found.items():
            results.append(in_fresh_process(name, options.threads, options.repeats))
            last = results[-1]
            print(f"round {turn + 1}: {name} {last['seconds']:.2f} s, {last['bytes'] / 2**20:.0f} MiB", flush=True)
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    machine, version = platform.processor() or platform.machine(), found["E1"][0]["torch"]
    print(f"\n{machine}, {options.threads} threads, torch {version}, load of the machine {load}\n")
    print(report({name: best(results) for name, results in found.items()}))


if __name__ == "__main__":
    main()
