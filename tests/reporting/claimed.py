"""Results in which claims are true, false or open by construction."""

import random
from collections.abc import Mapping, Sequence
from math import exp

from reproducer.stages.results import Results
from tests.reporting.fake import TABLE1, TASKS, change, quickstart, row, search

LABELS = {"w/o D": "adapruner", "w/o I1": "adapruner", "w/o I2": "adapruner", "w/o unified": "adapruner"}
NAMES = {
    "Magnitude": "magnitude", "Vector": "vector", "LLM-Pruner-E1": "llm-pruner-e1", "LLM-Pruner-E2": "llm-pruner-e2",
    "LoRAShear": "lorashear", "MoreauPruner": "moreau", "AdaPruner": "adapruner",
    "AdaPruner, local search": "adapruner",
}  # fmt: skip


def run(
    right: Mapping[str, float],
    seeds: Sequence[int] = range(5),
    recovery: str = "none",
    loss: Mapping[str, float] | None = None,
    items: int = 80,
    spread: float = 0.01,
    item: Mapping[str, int] | None = None,
    mode: str = "paper",
) -> Results:
    """Rows of Table 1's labels on SmolLM2-135M, which stands for LLaMA-7B.

    Args:
        right: by label the chance that an item is right; the dense row has `dense`.
        loss: by label the mean loss of a window; by default it falls with `right`.
        spread: standard deviation over seeds of that chance, and of the loss.
    """
    draw = random.Random(7)
    hardness = {task: [draw.random() for _ in range(items)] for task in TASKS}
    windows = [draw.gauss(0, 0.3) for _ in range(32)]
    rows = []
    for label, chance in right.items():
        dense = label == "dense"
        for seed in list(seeds)[:1] if dense else seeds:
            luck = 0 if dense else draw.gauss(0, spread)
            scored = {
                task: [
                    {"id": i, "scores": {"acc_norm": float(hard + draw.gauss(0, 0.05) < chance + luck)}}
                    for i, hard in enumerate(of)
                ]
                for task, of in hardness.items()
            }
            mean = (loss or {}).get(label, 6 - 2 * chance) - luck
            losses = {
                key: [mean + window + draw.gauss(0, 0.02) for window in windows] for key in ("wikitext2_ppl", "ptb_ppl")
            }
            metrics = {key: exp(sum(of) / len(of)) for key, of in losses.items()}
            metrics |= {
                f"{task}_acc": sum(one["scores"]["acc_norm"] for one in of) / items for task, of in scored.items()
            }
            metrics["average_acc"] = sum(metrics[f"{task}_acc"] for task in TASKS) / len(TASKS)
            facts = {
                "label": "SmolLM2-135M" if dense else label,
                "seed": seed,
                "items": scored,
                "window_losses": losses,
            }
            method = "dense" if dense else NAMES.get(label) or LABELS[label]
            rows.append(row(method, metrics, recovery="none" if dense else recovery, **facts))
    own = [label for label in right if (NAMES | LABELS).get(label) == "adapruner"]
    settings = search().settings | {"mode": mode, "sampler": "tpe"}
    searches = [
        search(8, seed, label=label, settings=settings if label != "AdaPruner, local search" else search().settings)
        for label in own
        for seed in seeds
    ]
    model = change(quickstart().models[0], stands_for="llama-7b")
    spec = {"name": "table1", "title": "A run", "reproduces": dict(item or {"table": 1}), "prune": {"ratio": [0.2]}}
    return quickstart(spec=spec, columns=TABLE1, rows=rows, searches=searches, models=[model])


BASELINES = {
    "Magnitude": 0.4, "Vector": 0.5, "LLM-Pruner-E1": 0.55, "LLM-Pruner-E2": 0.56, "MoreauPruner": 0.55,
}  # fmt: skip
