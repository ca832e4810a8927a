"""Results as a run would hand them over, with invented numbers."""

import math
import random
from typing import Any

METHODS = {
    "magnitude": "Magnitude",
    "vector": "Vector",
    "llm-pruner-e1": "LLM-Pruner-E1",
    "llm-pruner-e2": "LLM-Pruner-E2",
    "adapruner": "AdaPruner",
}
QUICKSTART = [
    ("python_topics_ppl", "Python topics", "perplexity", False, None),
    ("python_docstrings_ppl", "Docstrings", "perplexity", False, None),
    ("quiz_acc", "Quiz", "accuracy", True, "acc"),
]
TASKS = ["boolq", "piqa", "hellaswag", "winogrande", "arc_easy", "arc_challenge", "openbookqa"]
TASK_LABELS = ["BoolQ", "PIQA", "HellaSwag", "WinoGrande", "ARC-e", "ARC-c", "OBQA"]
TABLE1 = [
    ("wikitext2_ppl", "WikiText2", "perplexity", False, None),
    ("ptb_ppl", "PTB", "perplexity", False, None),
    *((f"{t}_acc", label, "accuracy", True, "acc_norm") for t, label in zip(TASKS, TASK_LABELS, strict=True)),
    ("average_acc", "Average", "accuracy", True, None),
]
CHOICES = {
    "Weights": "dequantised from 4-bit Q4_1: every row starts from the same rounded weights",
    "Perplexity": "passages joined by two newlines, cut into windows of 128 tokens, the rest dropped",
    "Search space": "α₁, α₂ ∈ [0, 1]; second-order factors 0, 1e5, 1e6, 1e7 or alone; c ∈ {1e-2, 1e-3}; f = 1e-4",
    "Texts": "python-topics and python-docstrings; calibration, search and report share no passage",
    "Seeds": "0",
}
DAMAGE = {"dense": 1.0, "magnitude": 28.0, "vector": 3.6, "llm-pruner-e1": 3.1, "llm-pruner-e2": 2.7, "adapruner": 2.3}


def metrics(columns: list[tuple]) -> list[dict[str, Any]]:
    names = ("key", "label", "kind", "higher_is_better", "score")
    return [dict(zip(names, column, strict=True)) for column in columns]


def row(
    method: str,
    values: dict[str, float | None],
    *,
    label: str | None = None,
    model: str = "smollm2-135m",
    ratio: float | None = 0.20,
    structure_ratio: float | None = None,
    recovery: str = "none",
    seed: int = 0,
    **more: Any,
) -> dict[str, Any]:
    dense = method == "dense"
    found = {
        "model": model,
        "method": method,
        "label": label or ("SmolLM2-135M" if dense else METHODS[method]),
        "ratio": 0 if dense else ratio,
        "structure_ratio": None if dense else structure_ratio,
        "recovery": recovery,
        "seed": seed,
        "status": "done",
        "error": None,
        "metrics": values,
        "params": 134_515_008 if dense else 107_724_096,
        "params_removed": 0.0 if dense else 0.19916,
        "seconds": 21.4 if dense else 48.7,
        "peak_memory_bytes": 734_003_200,
        "stages": {
            "model": "3f9c1d20ab47e6518c02",
            "plan": "b04d77e1920c5aa3f1e8",
            "perplexity": "99ac01e5d27b4f3380de",
        },
        "search_objective": None,
    }
    return found | more


def failed(method: str, columns: list[dict[str, Any]], error: str, **more: Any) -> dict[str, Any]:
    nothing = {"params": None, "params_removed": None, "seconds": None, "peak_memory_bytes": None, "stages": {}}
    return row(method, {m["key"]: None for m in columns}, **more, status="failed", error=error, **nothing)


def search(trials: int = 24, seed: int = 0) -> dict[str, Any]:
    random.seed(seed)
    baselines = {"Magnitude": 1795.2, "Vector": 238.4, "LLM-Pruner-E1": 231.0, "LLM-Pruner-E2": 177.3}
    made = []
    for number in range(trials):
        start = list(baselines.items())[1:]
        name, value = start[number] if number < 3 else (None, 150 + 160 * random.random() ** 2 - 0.6 * number)
        state = "complete"
        if number in (9, 15):
            value, state = None, "fail" if number == 9 else "pruned"
        made.append(
            {
                "number": number,
                "value": value,
                "state": state,
                "params": {"alpha_1": 0.3, "alpha_2": 0.9},
                "baseline": name,
                "seconds": 9.7,
                "partial": 260.0 if state == "pruned" else None,
            }
        )
    top = min((t for t in made if t["value"] is not None), key=lambda t: t["value"])
    texts = [
        "The following sections describe the standard types that are built into the interpreter.",
        "A mapping object maps hashable values to arbitrary objects. Mappings are mutable objects. There is currently "
        "only one standard mapping type, the dictionary.",
        "Naming and binding: names refer to objects, and names are introduced by name binding operations.",
    ]
    return {
        "model": "smollm2-135m",
        "label": "AdaPruner",
        "ratio": 0.20,
        "seed": seed,
        "objective": "mean perplexity of the pruned, untuned model on python-topics and python-docstrings",
        "split": "search",
        "trials": made,
        "candidates": [{"label": label, "value": value} for label, value in baselines.items()],
        "best": {
            "label": "AdaPruner",
            "number": top["number"],
            "value": top["value"],
            "params": {"alpha_1": 0.2817, "alpha_2": 0.9023, "coarse_second": 1e6, "fine_second": 1e7, 
                       "coarse_scale": 0.01, "fine_scale": 1e-4},
            "samples": [{"index": 17 * (i + 1), "text": text} for i, text in enumerate(texts)],
        },
        "seconds": 233.0,
    }  # fmt: skip


def quickstart() -> dict[str, Any]:
    columns = metrics(QUICKSTART)
    found = search()
    objectives = {c["label"]: c["value"] for c in found["candidates"]} | {"AdaPruner": found["best"]["value"]}
    random.seed(1)
    rows = []
    for method, damage in DAMAGE.items():
        right = {"dense": 41, "magnitude": 19, "vector": 28, "llm-pruner-e1": 30, "llm-pruner-e2": 30, "adapruner": 35}
        chosen = set(random.sample(range(72), right[method]))
        values = {
            "python_topics_ppl": 31.2475 * damage,
            "python_docstrings_ppl": 24.118 * damage**0.9,
            "quiz_acc": right[method] / 72,
        }
        items = [{"id": i, "acc": float(i in chosen), "acc_norm": None} for i in range(72)]
        losses = {"python_topics": [3.4 + 0.3 * damage**0.5 + random.gauss(0, 0.4) for _ in range(60)]}
        label = METHODS.get(method)
        rows.append(
            row(
                method,
                values,
                search_objective=objectives.get(label or ""),
                items={"quiz": items},
                window_losses=losses,
            )
        )
    return {
        "spec": {
            "name": "quickstart",
            "title": "Five ways to prune SmolLM2-135M by a fifth",
            "reproduces": None,
            "models": [{"name": "smollm2-135m"}],
            "seeds": [0],
        },
        "profile": [],
        "environment": {
            "python": "3.11.9",
            "platform": "Linux x86_64",
            "cpu": "an ordinary processor",
            "cores": 2,
            "device": "cpu",
            "packages": {"torch": "2.13.0", "transformers": "5.23.0", "optuna": "5.0.0", "numpy": "2.4.6"},
        },
        "metrics": columns,
        "rows": rows,
        "searches": [found],
        "choices": [{"topic": topic, "text": text} for topic, text in CHOICES.items()],
        "paper": None,
    }


def table1(
    model: str = "llama-7b", seeds: tuple[int, ...] = (0,), structure_ratio: float | None = 0.25
) -> dict[str, Any]:
    """Rows of Table 1 without LoRAShear and MoreauPruner, `model` in LLaMA-7B's place."""
    columns = metrics(TABLE1)
    results = quickstart() | {"metrics": columns, "rows": [], "searches": []}
    results["spec"] = {"name": "table1", "title": "Structured pruning at 20 %", "reproduces": {"table": 1}}
    random.seed(2)
    for recovery in ("none", "lora"):
        for method, damage in DAMAGE.items():
            if method == "dense" and recovery == "lora":
                continue
            for seed in seeds:
                harm = damage ** (0.5 if recovery == "lora" else 1.0) + 0.02 * random.random()
                harm = 1.0 if method == "dense" else harm
                values: dict[str, float | None] = {"wikitext2_ppl": 12.9 * harm, "ptb_ppl": 22.8 * harm**1.1}
                values |= {f"{task}_acc": 0.3 + 0.4 / harm**0.4 for task in TASKS}
                values["average_acc"] = sum(values[f"{task}_acc"] or 0 for task in TASKS) / len(TASKS)
                ratio = None if structure_ratio else 0.20
                label = model if method == "dense" else None
                results["rows"].append(
                    row(
                        method,
                        values,
                        label=label,
                        model=model,
                        ratio=ratio,
                        structure_ratio=structure_ratio,
                        recovery=recovery,
                        seed=seed,
                    )
                )
    return results


SHARES = {"alpha1": 0.31, "coarse_second": 0.22, "fine_second": 0.12} | {f"sample_{i}": 0.035 for i in range(10)}
COSTS = {"trials": 24, "stopped": 1, "seconds": 233.0, "sample_tokens": 30_720, "text_tokens": 98_304}


def training(steps: int, start: float, seed: int = 0) -> list[dict[str, Any]]:
    random.seed(seed)
    return [
        {
            "step": i + 1,
            "loss": 1.4 + (start - 1.4) * math.exp(-4 * i / steps) + random.gauss(0, 0.08),
            "learning_rate": 5e-4 * (1 - i / steps),
            "examples": 16 * (i + 1),
        }
        for i in range(steps)
    ]


def budget() -> dict[str, Any]:
    kinds = {"model": (1, 1.2), "search": (1, 2400.0), "prune": (5, 61.0), "recovery": (5, 2900.0)}
    kinds |= {"perplexity": (22, 800.0), "zeroshot": (77, 3100.0)}
    lora = {"dataset": "alpaca", "limit": 40, "epochs": 2, "rows": None, "steps": 40, "batch": 16, "examples": 640}
    text = {"limit": 64, "windows": 64, "seq_len": 128, "tokens": 64 * 128}
    seconds = sum(spent for _, spent in kinds.values())
    return {
        "tasks": [{"label": label, "limit": 100, "items": 100} for label in TASK_LABELS],
        "texts": [text | {"label": "WikiText2"}, text | {"label": "PTB"}],
        "recovery": [lora | {"runs": 5}],
        "searches": [{"trials": 60, "windows": 16, "seq_len": 128, "texts": 2, "runs": 1}],
        "calibration": [{"dataset": "gutenberg", "samples": 10, "length": 128, "limit": None, "pool": 2171}],
        "stages": [{"kind": kind, "stages": n, "done": n, "seconds": spent} for kind, (n, spent) in kinds.items()],
        "seconds": seconds,
        "wall_seconds": seconds,
    }


def measured(results: dict[str, Any], items: int = 100) -> dict[str, Any]:
    """`results` of `table1` with items, losses of windows, fine-tuning, generations, a search and a budget."""
    found = results | {"searches": [search() | {"importances": SHARES, "costs": COSTS}], "budget": budget()}
    for number, line in enumerate(found["rows"]):
        damage = DAMAGE[line["method"]]
        random.seed(number)
        line["items"] = {}
        for task in TASKS:
            right = line["metrics"][f"{task}_acc"]
            scores = [int(random.random() < right) for _ in range(items)]
            line["items"][task] = [{"id": i, "acc": score, "acc_norm": score} for i, score in enumerate(scores)]
        for key in ("wikitext2_ppl", "ptb_ppl"):
            losses = [math.log(line["metrics"][key]) + random.gauss(0, 0.3) for _ in range(64)]
            line.setdefault("window_losses", {})[key] = losses
        if line["recovery"] == "lora":
            line["training"] = training(40, 1.6 + 0.4 * damage**0.5, number)
        prompt = "The universe is the entirety of space, time, matter, and energy that exists."
        text = " It is large.\n\n# 1. *All* of it\n" + "and so on " * int(damage)
        line["generations"] = [{"prompt": prompt, "text": text}]
    return found


def convergence(seeds: int = 3, trials: int = 60) -> dict[str, Any]:
    """Searches of Figure 4: TPE and random search, alike but for sampler and seed."""
    results = quickstart()
    results["spec"] = {"name": "figure4", "title": "Bayesian optimisation", "reproduces": {"figure": 4}}
    results["searches"] = []
    for label, sampler, gain in (("TPE", "tpe", 0.9), ("random search", "random", 0.45)):
        for seed in range(seeds):
            one = search(trials, 10 * seed + (sampler == "tpe"))
            for trial in one["trials"]:
                if trial["value"] is not None and not trial["baseline"]:
                    trial["value"] = 175 - gain * trial["number"] + random.expovariate(1 / 40)
            best = min((t for t in one["trials"] if t["value"] is not None), key=lambda t: t["value"])
            one["best"] |= {"value": best["value"], "number": best["number"]}
            settings = {"sampler": sampler, "data": "search", "order": "joint", "windows": 16, "seed": seed}
            results["searches"].append(one | {"label": label, "costs": COSTS, "importances": SHARES} | settings)
    return results
