"""What a least-squares repair gives back: `python -m tests.benchmarks.repair MODEL_FOLDER CASE…` (needs the mirror).

Each case cuts a model by LLM-Pruner-E2 or OBS-Fisher, repairs it, and measures perplexity on 64 windows of 128 tokens
of the report's texts and of two texts that neither the cut nor the repair has seen. A line of JSON is printed for each.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import torch

from reproducer import prune
from reproducer.data.pool import Mix, calibration_pool, window_pool
from reproducer.data.text import load_text, windows
from reproducer.models.load import load_model
from reproducer.models.loss import next_token_losses
from reproducer.models.walk import LayerWalk
from reproducer.pruning.repaired import repaired

LENGTH, WINDOWS, SAMPLES = 128, 64, 32
MEASURED = ("wikitext2", "ptb", "python-topics", "python-docstrings")
DOMAIN, BOOKS = ("wikitext2", "ptb"), ("gutenberg",)
E2, FISHER = "llm-pruner-e2", "obs-fisher"
# method, ratio, steps, scope, texts, samples of the repair (0: none)
CASES: dict[str, tuple[str, float, int, str, tuple[str, ...], int]] = {
    "20": (E2, 0.2, 1, "local", DOMAIN, 0),
    "20-repaired": (E2, 0.2, 1, "local", DOMAIN, 256),
    "20-global": (E2, 0.2, 1, "global", DOMAIN, 1024),
    "20-steps": (E2, 0.2, 4, "local", DOMAIN, 512),
    "20-parameters": (E2, 0.2, 1, "parameters", DOMAIN, 256),
    "20-fisher": (FISHER, 0.2, 1, "global", DOMAIN, 256),
    "20-books-fisher": (FISHER, 0.2, 1, "global", BOOKS, 512),
    "20-books": (E2, 0.2, 1, "local", BOOKS, 512),
    "50": (E2, 0.5, 4, "local", DOMAIN, 0),
    "50-repaired": (E2, 0.5, 4, "local", DOMAIN, 512),
}


def samples(tokenizer: Any, texts: tuple[str, ...], count: int, seed: int) -> torch.Tensor:
    """[count, LENGTH]: windows of the texts' part for searches, or passages of texts for calibration."""
    pools = [
        window_pool(load_text(name, "search"), tokenizer, LENGTH)
        if texts == DOMAIN
        else calibration_pool(load_text(name, "calibration"), tokenizer, LENGTH, 2 * count)
        for name in texts
    ]
    mix = Mix(pools, [1 / len(pools)] * len(pools))
    return mix.ids[mix.draw(count, seed)]


def perplexity(model: Any, tokenizer: Any, text: str) -> float:
    ids = windows(load_text(text, "report"), tokenizer, LENGTH, WINDOWS)
    walk, losses = LayerWalk(model, LENGTH), []
    with torch.no_grad():
        for batch in ids.split(16):
            hidden = walk.embed(batch)
            for index in range(len(walk.layers)):
                hidden = walk.run(index, hidden)
            losses.append(next_token_losses(model, walk.finish(hidden), batch).double())
    return torch.cat(losses).mean().exp().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("cases", nargs="*", choices=[*CASES, []], help=f"of {', '.join(CASES)}; none: all")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    model, tokenizer = load_model(options.model, options.dtype)
    for case in options.cases or CASES:
        method, ratio, steps, scope, texts, count = CASES[case]
        ids = samples(tokenizer, texts, steps * SAMPLES, options.seed)
        ids = ids.unflatten(0, (SAMPLES, steps)).transpose(0, 1) if steps > 1 else ids
        started = time.perf_counter()
        plan = prune(
            model,
            method,
            ids,
            ratio=ratio,
            in_steps=steps,
            scope=scope,
            seed=options.seed,  # type: ignore[arg-type]
        )
        cut = time.perf_counter()
        if count:
            plan = repaired(plan, model, samples(tokenizer, texts, count, options.seed))
        seconds = {"cut": round(cut - started), "repair": round(time.perf_counter() - cut)}
        smaller = plan.apply(model)
        measured = {text: round(perplexity(smaller, tokenizer, text), 2) for text in MEASURED}
        mean = round(sum(measured[text] for text in DOMAIN) / len(DOMAIN), 2)
        print(json.dumps({"case": case, "mean": mean, **measured, "seconds": seconds}), flush=True)


if __name__ == "__main__":
    main()
