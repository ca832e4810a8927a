"""What a stage will take, told before anything runs: time and memory, from counting operations.

Nothing is derived from an architecture. Models of two and of three decoder layers are made of the config on the meta
device, whose tensors have shapes and no values, and the functions that a stage calls are called there too. What differs
between the two is a layer; the rest is what every model has once. A device's rates are measured in a moment, and what
the store has measured of the same kind of stage corrects the time.
"""

from __future__ import annotations

import copy
import json
import math
import os
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, field, fields, replace
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from reproducer.models.catalogue import CATALOGUE
from reproducer.models.fetch import recipe
from reproducer.models.load import locate
from reproducer.queue import Outcome, Stage, describe_machine
from reproducer.stages.base import OnModel

if TYPE_CHECKING:
    from reproducer.pruning.statistics import Statistic

DEPTHS = 2, 3  # layers of the models that are counted on; in a first layer less is held than in others
PROBE_SECONDS = 0.05  # that a rate is measured for
READING, FETCHING = 1e9, 5e7  # bytes a second from a disk, and from a hub or a package registry
HEAP = 1.75  # of the C library, seen in processes that trained, searched and pruned: what is freed in between has gaps
LEAST = 1e-3  # seconds: what takes less is bookkeeping
CHARACTERS_PER_TOKEN = 4.0  # LLaMA's tokenizer makes a token of 3.8 characters of WikiText2, SmolLM2's of 4.2
ANSWERED = 0.5  # of the tokens of an instruction: its answer, which is learnt

# Sizes of data sets, counted once: one that is not here yet cannot be asked. Characters of texts; of tasks items,
# sequences an item, characters of one (padding included), and the share of its tokens whose logits are needed.
TEXTS = {"wikitext2": 1.2e6, "ptb": 0.4e6, "python-topics": 5e4, "python-docstrings": 6e4}
TASKS = {
    "boolq": (3270, 1, 600, 0.05),
    "piqa": (1838, 2, 155, 0.8),
    "hellaswag": (10042, 4, 280, 0.55),
    "winogrande": (1267, 2, 95, 0.6),
    "arc_easy": (2376, 3.3, 135, 0.4),
    "arc_challenge": (1172, 3.7, 160, 0.4),
    "openbookqa": (500, 3, 65, 0.7),
    "quiz": (112, 1.5, 70, 0.4),
}
INSTRUCTIONS = {"alpaca": 52_002, "builtin-instructions": 64}
INSTRUCTION = 510  # characters of one, in the prompt's format
OTHER_TEXT, OTHER_TASK, OTHER_INSTRUCTIONS = 1e6, (2000, 4, 200, 0.6), 50_000

Head = Literal["losses", "logits", "none"]


@dataclass(frozen=True)
class Work:
    """Operations (see `evaluation.operations`), and bytes from the disk and from the network."""

    flops: float = 0.0
    bytes: float = 0.0
    calls: float = 0.0
    read: float = 0.0
    fetched: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(*(one + another for one, another in zip(astuple(self), astuple(other), strict=True)))

    def __mul__(self, times: float) -> Work:
        return Work(*(times * one for one in astuple(self)))


@dataclass(frozen=True)
class Cost:
    """Work, and the most bytes at once beside the model's; of two in a row the work adds up."""

    work: Work = Work()
    memory: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.work + other.work, max(self.memory, other.memory))

    def __mul__(self, times: float) -> Cost:
        return Cost(self.work * times, self.memory)


@dataclass(frozen=True)
class ModelCost:
    """A model as a stage finds it, and what it costs to have something go through it.

    Attributes:
        config: what its config.json holds, `model_type` included.
        dtype: of weights and computation, as torch calls it.
        kept: the share of its decoder layers' weights that is left, taken to be the same in every layer.
        recovery: the kind and settings of what was learnt since.
        characters: of a token.
    """

    config: Mapping[str, Any]
    dtype: str
    kept: float = 1.0
    recovery: Any = None
    characters: float = CHARACTERS_PER_TOKEN

    @property
    def layers(self) -> int:
        return self._small.layers

    @property
    def parameters(self) -> float:
        """All that are left, tied embeddings counted once."""
        return self._small.rest + self.layers * self._small.layer * self.kept

    @property
    def weights(self) -> float:
        """Bytes of them."""
        return self.parameters * _item(self.dtype)

    def dense(self) -> Self:
        """The model before anything was cut or learnt."""
        return replace(self, kept=1.0, recovery=None)

    def cut(self, cut: Any) -> Self:
        """What a stage's cut (`ratio`, `structure_ratio`, `indices`) leaves; heads and channels not rounded."""
        if cut.ratio is not None:
            removed = cut.ratio * self.dense().parameters / (self.layers * self._small.layer)
        else:
            removed = cut.structure_ratio * len(self._pruned(cut)) / self.layers
        return replace(self, kept=max(0.0, 1 - removed))

    def first(self, cut: Any) -> int:
        """Index of the first layer that a cut prunes."""
        return min(self._pruned(cut).start, self.layers - 1)

    def _pruned(self, cut: Any) -> range:
        from reproducer.pruning.allocation import default_layers

        return default_layers(self.layers) if cut.indices is None else cut.indices

    def tokens(self, characters: float) -> float:
        return characters / self.characters

    def window_tokens(self, texts: Iterable[Any], length: int, limit: int | None) -> float:
        """Tokens of all windows of texts (each with `name` and `source`), or of the first so many of each."""
        total = 0.0
        for text in texts:
            size = TEXTS.get(text.name) or file_size(text.source) or OTHER_TEXT
            count = max(1, int(self.tokens(size) // length))
            total += length * min(count, limit or count)
        return total

    def loading(self) -> Cost:
        """Reading the dense weights; where they are of another dtype in the file, both are there for a moment."""
        dense, stored = self.dense(), self.config.get("dtype") or self.config.get("torch_dtype") or self.dtype
        size = dense.parameters * _item(stored)
        beside = 0.0 if stored == self.dtype else size
        return Cost(Work(read=size, bytes=size + dense.weights), dense.weights - self.weights + beside)

    def passes(
        self, tokens: float, length: float, batch: float, head: Head, layers: int | None = None, scored: float = 1.0
    ) -> Cost:
        """Forward passes of `tokens` in sequences of `length`, `batch` tokens at once.

        Args:
            head: losses, made chunk by chunk; or log-probabilities of the vocabulary, all at once.
            layers: so many decoder layers alone.
            scored: the share of positions that get log-probabilities.
        """
        length = max(1, math.ceil(length))
        rows = max(1, min(int(batch // length), math.ceil(tokens / length)))
        once = self._counted(_pass, rows, length, head, max(1, round(scored * length)), layers=layers)
        return once * (tokens / (rows * length))

    def collected(
        self,
        needs: Iterable[Statistic],
        samples: int,
        length: int,
        first: int = 0,
        below: bool = True,
        per_sample: bool = False,
        activations: float | None = None,
    ) -> Cost:
        """The statistics of the layers from `first` on, as `pruning.statistics.collect` takes them.

        Args:
            below: hidden states below the first layer have to be computed too.
            per_sample: of every sample alone.
            activations: bytes kept for the backward pass; None: the default.
        """
        from reproducer.pruning.statistics import ACTIVATION_BYTES, GradientStatistic, WeightStatistic

        needs = tuple(sorted(needs, key=repr))
        counted = partial(self._counted, _collected, needs, samples, length, per_sample)
        cost, one = counted(layers=self.layers - first), counted(layers=1)
        limit = ACTIVATION_BYTES if activations is None else activations
        if any(isinstance(need, GradientStatistic) for need in needs) and (graphs := cost.memory - one.memory) > limit:
            again = self.passes(samples * length, length, samples * length, "none", self.layers - first)
            # layers that do not fit run forward twice
            cost = Cost(cost.work + again.work * (1 - limit / graphs), one.memory + limit)
        if below and first and not all(isinstance(need, WeightStatistic) for need in needs):
            cost += self.passes(samples * length, length, samples * length, "none", first)
        return cost

    def training(self, recovery: Any) -> Cost:
        """Fine-tuning by a kind of recovery with the settings of `InstructionTuning`."""
        source = recovery.sources()["dataset"]
        rows = INSTRUCTIONS.get(recovery.dataset) or (file_size(source) or 0) // INSTRUCTION or OTHER_INSTRUCTIONS
        steps = math.ceil(recovery.epochs * min(rows, recovery.examples or rows) / recovery.batch)
        examples = recovery.batch * min(steps, recovery.steps or steps)
        usual = min(recovery.cutoff, math.ceil(self.tokens(INSTRUCTION)))
        counted = partial(replace(self, recovery=recovery)._counted, _training, recovery.micro_batch)
        longest = counted(min(recovery.cutoff, 4 * usual))  # of the examples that come together
        return Cost(counted(usual).work * (examples / recovery.micro_batch), longest.memory)

    def sliced(self, layers: int) -> Cost:
        """What is left of so many layers, copied, one after the other."""
        size = self.kept * self._small.layer * _item(self.dtype)
        return Cost(Work(bytes=2 * layers * size), size)

    def hidden(self, tokens: float) -> float:
        """Bytes of the hidden states between two layers."""
        return tokens * self._small.width * _item(self.dtype)

    def _counted(self, function: Callable[..., Any], *sizes: Any, layers: int | None = None) -> Cost:
        """What a function does on so many layers (None: all), from what it does on two and on three."""
        number, total = self.layers if layers is None else layers, {}
        two, three = self._small.count(function, sizes)
        for one in fields(two):
            less, more = getattr(two, one.name), getattr(three, one.name)
            layer = max(0.0, more - less)
            share = 1.0 if one.name == "calls" else self.kept
            total[one.name] = max(0.0, less - DEPTHS[0] * layer) + number * layer * share
        return Cost(Work(total["flops"], total["bytes"], total["calls"]), total["memory"])

    @property
    def _small(self) -> _Small:
        recovery = self.recovery and (type(self.recovery), self.recovery.model_dump_json())
        return _small(json.dumps(dict(self.config), sort_keys=True), self.dtype, recovery)


class _Small:
    """Models of `DEPTHS` layers on the meta device, and what was counted on them.

    Attributes:
        layers: of the whole model.
        width: of its hidden states.
        rest, layer: parameters outside of the decoder layers, and of one.
    """

    def __init__(self, config: Mapping[str, Any], dtype: str, recovery: Any) -> None:
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM

        from reproducer.models.quiet import quiet

        options = {name: value for name, value in config.items() if name not in ("dtype", "torch_dtype")}
        whole = AutoConfig.for_model(**options).get_text_config()
        self.layers, self.width = whole.num_hidden_layers, whole.hidden_size
        self._models: list[Any] = []
        for number in DEPTHS:
            cut = copy.deepcopy(whole)
            for name, value in vars(whole).items():
                if isinstance(value, list) and len(value) == self.layers:  # an entry a layer
                    setattr(cut, name, value[:number])
            cut.num_hidden_layers = number
            with quiet(), torch.device("meta"):
                self._models.append(AutoModelForCausalLM.from_config(cut, dtype=getattr(torch, dtype)).eval())
        two, three = (sum(weight.numel() for weight in model.parameters()) for model in self._models)
        self.rest, self.layer = two - DEPTHS[0] * (three - two), three - two
        if recovery is not None:
            with torch.device("meta"):
                self._models = [recovery.adapted(model) for model in self._models]
        self.count = lru_cache(maxsize=None)(self._count)

    def _count(self, function: Callable[..., Any], sizes: tuple[Any, ...]) -> list[Any]:
        from reproducer.evaluation.operations import count

        return [count(partial(function, model, *sizes)) for model in self._models]


@cache
def _small(config: str, dtype: str, recovery: tuple[type[Any], str] | None) -> _Small:
    return _Small(json.loads(config), dtype, recovery and recovery[0].model_validate_json(recovery[1]))


def _pass(model: Any, rows: int, length: int, head: Head, positions: int) -> None:
    import torch

    from reproducer.models.architecture import family_of
    from reproducer.models.loss import next_token_losses

    family, ids = family_of(model.config), torch.zeros(rows, length, dtype=torch.long)
    with torch.no_grad():
        hidden = family.decoder_of(model)(input_ids=ids, use_cache=False).last_hidden_state
        if head == "losses":
            next_token_losses(model, hidden, ids)
        if head == "logits":
            torch.log_softmax(family.head_of(model)(hidden[:, -positions:]), dim=-1).argmax(dim=-1)


def _collected(model: Any, needs: Sequence[Statistic], samples: int, length: int, per_sample: bool) -> None:
    import torch

    from reproducer.pruning.statistics import Limits, collect

    limits = Limits(activations=2**62, chunk=2**24)  # larger chunks, fewer calls to count: the traffic is the same
    ids = torch.zeros(samples, length, dtype=torch.long)
    collect(model, ids, range(model.config.num_hidden_layers), needs, limits, per_sample=per_sample)


def _training(model: Any, rows: int, length: int) -> None:
    import torch

    from reproducer.models.architecture import family_of
    from reproducer.models.loss import next_token_losses

    ids = torch.zeros(rows, length, dtype=torch.long)
    hidden = family_of(model.config).decoder_of(model.train())(input_ids=ids, use_cache=False).last_hidden_state
    learnt = slice(int((1 - ANSWERED) * length), None)
    next_token_losses(model, hidden[:, learnt], ids[:, learnt]).sum().backward()
    model.zero_grad()


def _item(dtype: str) -> int:
    """Bytes of a number."""
    import torch

    return getattr(torch, dtype).itemsize


def file_size(source: Mapping[str, Any]) -> int | None:
    """Bytes of the file that a data source is, given or in the mirror, uncompressed; None: it is no file here."""
    from reproducer.data.sources import MIRROR

    if "path" in source:
        stem = source["path"]
    else:
        stem = Path(os.environ.get(MIRROR, ""), source["id"], source["configuration"] or "default", source["split"])
    for path in (Path(f"{stem}{ending}") for ending in ("", ".jsonl", ".jsonl.gz")):
        if path.is_file():
            return path.stat().st_size * (3 if path.suffix == ".gz" else 1)  # text is compressed to about a third
    return None


def task_size(name: str, source: Mapping[str, Any], limit: int | None) -> tuple[float, float, float]:
    """Sequences of a task's first `limit` items, characters of one, and the share of its logits that is needed."""
    items, sequences, characters, scored = TASKS.get(name, OTHER_TASK)
    if name not in TASKS and (size := file_size(source)):
        items = max(1, int(size // (sequences * characters)))
    return min(items, limit or items) * sequences, characters, scored


@dataclass(frozen=True)
class Estimate:
    """Of one stage: wall time, and the most bytes that it holds at once, model included and libraries not."""

    seconds: float
    memory: float


@dataclass(frozen=True)
class Estimates:
    """Of a list of stages, run one after the other.

    Attributes:
        stages: by key; or why there is none.
        seconds: of those that have no result yet and can be told.
        misfits: a line for every such stage that needs more memory than there is.
        basis: what the estimates rest on, for a reader.
    """

    stages: Mapping[str, Estimate | str]
    seconds: float
    misfits: Sequence[str]
    basis: str


def estimates(stages: Sequence[Stage], outcome: Outcome, device: Device) -> Estimates:
    """What stages take, those that have a result already correcting the times of others of their kind.

    Memory is not corrected: how much a process grew says little where the stage before left a model or free pages.
    """
    raw: dict[str, Estimate | str] = {}
    loaded: tuple[str, ...] = ()
    ratios: dict[str, list[float]] = {}
    made = {key: result.artifact for key, result in outcome.results.items() if result.artifact is not None}
    for stage in stages:
        try:
            raw[stage.key], loaded = _estimate(stage, outcome, device, loaded)
        except NotImplementedError:
            raw[stage.key] = "not estimated"
        except Exception as error:  # whatever transformers makes of a config; a run will say it in full
            raw[stage.key] = f"not estimated: {str(error).partition(chr(10))[0] or type(error).__name__}"
        found, artifact = raw[stage.key], made.get(stage.key)
        here = artifact is not None and artifact.record["environment"].get("cpu") == describe_machine()["cpu"]
        if artifact is not None and here and isinstance(found, Estimate):
            ratios.setdefault(stage.kind, []).append(artifact.seconds / max(found.seconds, LEAST))
    corrections = {kind: statistics.median(seen) for kind, seen in ratios.items()}
    corrected: dict[str, Estimate | str] = dict(raw)
    total, misfits = 0.0, []
    for stage in stages:
        if isinstance(one := raw[stage.key], Estimate):
            one = replace(one, seconds=one.seconds * corrections.get(stage.kind, 1.0))
            corrected[stage.key] = one
            if stage.key not in made:
                total += one.seconds
                if one.memory > device.memory:
                    misfits.append(f"{stage.label} needs {memory_text(one.memory)} of {memory_text(device.memory)}")
    return Estimates(corrected, total, misfits, _basis(device, corrections))


def _estimate(
    stage: Any, outcome: Outcome, device: Device, loaded: tuple[str, ...]
) -> tuple[Estimate | str, tuple[str, ...]]:
    """Of a stage, when the model made of the stages `loaded` is in memory; and of which stages the model then is."""
    if (model := model_of(stage, outcome)) is None:
        return "unknown until fetched", loaded
    cost = stage.cost(model)
    work, memory = cost.work, cost.memory
    if isinstance(stage, OnModel):
        memory = model.weights + device.heap * cost.memory
        parts = tuple(part.key for part in (stage.model, stage.plan, stage.recovery) if part is not None)
        if parts != loaded:
            loading, loaded = model.loading(), parts
            work, memory = work + loading.work, max(memory, model.weights + loading.memory)
    return Estimate(device.rates(model.dtype).seconds(work), memory), loaded


def model_of(stage: Any, outcome: Outcome) -> ModelCost | None:
    """The model that a stage works on or provides; None where its config is not known before it is fetched."""
    base = getattr(stage, "model", stage)
    while (config := _config(base, outcome)) is None and "model" in base.inputs:
        base = base.inputs["model"]  # a derived model has its base's widths
    if config is None:
        return None
    dtype = getattr(stage, "dtype", "auto")
    if dtype == "auto":
        dtype = config.get("dtype") or config.get("torch_dtype") or "float32"
    bytewise = getattr(base, "recipe", {}).get("source") in ("random", "drawn")
    found = ModelCost(config, dtype, characters=1.0 if bytewise else CHARACTERS_PER_TOKEN)
    if (plan := getattr(stage, "plan", None)) is not None:
        found = found.cut(getattr(plan, "cut", None) or plan.search.cut)  # a plan as found has its search's
    recovery = getattr(stage, "recovery", None)
    return found if recovery is None else replace(found, recovery=recovery.how)


def _config(model: Stage, outcome: Outcome) -> Mapping[str, Any] | None:
    given: Mapping[str, Any] = getattr(model, "recipe", {})
    if "config" in given:
        return given["config"]
    result = outcome.results.get(model.key)
    try:
        folder = locate(result.artifact.directory) if result and result.artifact else Path(given.get("path", ""))
        return json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return next((entry.config for entry in CATALOGUE.values() if entry.config and recipe(entry) == given), None)


def _basis(device: Device, corrections: Mapping[str, float]) -> str:
    rates = "; ".join(
        f"{one.flops / 1e12:.3g} TFLOP/s and {one.bytes / 1e9:.3g} GB/s in {dtype}"
        for dtype, one in sorted(device.measured.items())
    )
    lines = [
        f"Estimates for {device.label} ({memory_text(device.memory)} of memory), one stage at a time, nothing else "
        "running.",
        f"Counted on one decoder layer, at rates measured just now: {rates or 'none'}.",
        f"Assumed: the usual sizes of data sets, {CHARACTERS_PER_TOKEN:.0f} characters a token, "
        f"{FETCHING / 1e6:.0f} MB/s of downloads, {READING / 1e9:.0f} GB/s from the disk.",
    ]
    if corrections:
        seen = ", ".join(f"{kind} {ratio:.2f}" for kind, ratio in sorted(corrections.items()))
        lines.append(f"Times are corrected by what took longer or shorter in the store: {seen}.")
    return "\n".join(lines)


def memory_text(size: float) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


@dataclass(frozen=True)
class Rates:
    """Of one dtype, a second: operations of a square product, bytes read and written, calls of small operations."""

    flops: float
    bytes: float
    calls: float

    def seconds(self, work: Work) -> float:
        computing = work.flops / self.flops + work.bytes / self.bytes + work.calls / self.calls
        return computing + work.read / READING + work.fetched / FETCHING


@dataclass
class Device:
    """What there is to compute on. Rates are measured when they are first asked for.

    Attributes:
        memory: bytes.
        heap: how much of it is taken for each byte that tensors of changing sizes fill.
    """

    label: str
    memory: int
    measure: Callable[[str], Rates]
    heap: float = 1.0
    measured: dict[str, Rates] = field(default_factory=dict)

    @classmethod
    def named(cls, name: str) -> Self:
        """The device that torch calls so."""
        import psutil
        import torch

        if torch.device(name).type == "cuda":
            properties = torch.cuda.get_device_properties(name)
            return cls(properties.name, properties.total_memory, partial(_rates, name))
        label = f"{describe_machine()['cpu']}, {torch.get_num_threads()} threads"
        return cls(label, psutil.virtual_memory().total, partial(_rates, name), HEAP)

    def rates(self, dtype: str) -> Rates:
        if dtype not in self.measured:
            self.measured[dtype] = self.measure(dtype)
        return self.measured[dtype]


def _rates(name: str, dtype: str) -> Rates:
    """Measured in about half a second."""
    import torch
    from torch.nn.functional import linear, silu

    options: Any = {"device": name, "dtype": getattr(torch, dtype)}
    flops, size, least = 0.0, 256, 0.0
    while least < 0.03 and size <= 8192:  # from small to large: a dtype without fast products must not take minutes
        left, right = torch.ones(2, size, size, **options)
        least = _best(partial(linear, left, right), name)
        flops, size = max(flops, 2 * size**3 / least), 2 * size
    values = torch.ones(2**26 if name.startswith("cuda") else 2**21, **options)  # as large as a model's, out of caches
    moved = _best(lambda: silu(values) * values, name)
    small = torch.ones(8, 8, **options)
    called = _best(lambda: [linear(small, small).view(64) for _ in range(100)], name)
    return Rates(flops, 5 * values.nbytes / moved, 300 / called)  # transposed, multiplied, viewed


def _best(call: Callable[[], object], name: str) -> float:
    """Least seconds of a call, on a CPU at most what it takes one thread: what else runs can only make it slower."""
    import torch

    if torch.device(name).type == "cuda":
        return _least(call, time.perf_counter, partial(torch.cuda.synchronize, name))
    threads, together = torch.get_num_threads(), _least(call, time.perf_counter)
    try:  # on a busy machine threads wait for each other
        torch.set_num_threads(1)
        return min(together, _least(call, time.thread_time))
    finally:
        torch.set_num_threads(threads)


def _least(call: Callable[[], object], clock: Callable[[], float], wait: Callable[[], None] = lambda: None) -> float:
    least, end = math.inf, time.perf_counter() + PROBE_SECONDS
    while time.perf_counter() < end or least == math.inf:
        began = clock()
        call()
        wait()
        least = min(least, max(clock() - began, 1e-9))
    return least
