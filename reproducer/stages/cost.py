"""What a stage will take, told before anything runs: time and memory, from counting operations.

Nothing is derived from an architecture. Models of two and of three decoder layers are made of the config on the meta
device, whose tensors have shapes and no values, and the functions that a stage calls are called there too, under a mode
that counts what they do. The difference between the two models is a layer; the rest is what every model has once.
A device's rates are measured in a moment, and what the store has measured of the same kind of stage corrects the time.
"""

from __future__ import annotations

import copy
import json
import math
import os
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from reproducer.errors import UserError
from reproducer.models.catalogue import CATALOGUE
from reproducer.models.fetch import recipe
from reproducer.models.load import locate
from reproducer.queue import Outcome, Stage, describe_machine
from reproducer.stages.base import OnModel

if TYPE_CHECKING:
    from reproducer.pruning.statistics import Statistic
    from reproducer.recovery.registry import Recovery

PROBE_SECONDS = 0.05
TINY = 1e-3  # seconds: what takes less is mere bookkeeping, whatever it is
HEAP = 2.0  # the C library's, seen in processes that trained, searched and pruned: what is freed in between has gaps
READING, FETCHING = 1e9, 5e7  # bytes a second from a disk, and from a hub or a package registry
CHARACTERS_PER_TOKEN = 4.0  # LLaMA's tokenizer makes a token of 3.8 characters of WikiText2, SmolLM2's of 4.2
ANSWERED = 0.5  # of the tokens of an instruction: its answer, which is learnt
# Characters of texts, and items, sequences an item, characters of a sequence and the share of its tokens whose logits
# are needed of tasks, counted once: a data set that is not here yet cannot be asked.
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
    """What has to be done.

    Attributes:
        flops: of products, a multiply-add being two.
        bytes: read and written by all operations.
        pages: the part of it that is written to new tensors of `LARGE` and more, whose pages are new each time.
        ops: operations called, however small.
        read, fetched: bytes from the disk, and from the network.
    """

    flops: float = 0.0
    bytes: float = 0.0
    pages: float = 0.0
    ops: float = 0.0
    read: float = 0.0
    fetched: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(self)))

    def __mul__(self, times: float) -> Work:
        return Work(*(getattr(self, one.name) * times for one in fields(self)))


@dataclass(frozen=True)
class Cost:
    """Work, and the most bytes held at once beside the model; of two in a row the work adds up, and `held` does too.

    Attributes:
        held: bytes that stay to the end of the stage.
    """

    work: Work = Work()
    memory: float = 0.0
    held: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        memory = max(self.memory, self.held + other.memory)
        return Cost(self.work + other.work, memory, self.held + other.held)

    def __mul__(self, times: float) -> Cost:
        return replace(self, work=self.work * times)

    def holding(self, held: float) -> Cost:
        """With so many bytes beside it that stay."""
        return Cost(self.work, self.memory + held, self.held + held)


@dataclass(frozen=True)
class ModelCost:
    """A model as a stage finds it, and what it costs to have something go through it.

    Attributes:
        config: what its config.json holds, `model_type` included.
        dtype: of weights and computation, as torch calls it.
        kept: the share of its decoder layers' weights that is left, the same in every layer.
        recovery: what was learnt since, where its kind adds something that runs.
        characters: of a token.
    """

    config: Mapping[str, Any]
    dtype: str
    kept: float = 1.0
    recovery: Recovery | None = None
    characters: float = CHARACTERS_PER_TOKEN

    @classmethod
    def of(cls, config: Mapping[str, Any], dtype: str, **options: Any) -> Self:
        """With the config's own dtype for `auto`."""
        return cls(config, (stored(config) or "float32") if dtype == "auto" else dtype, **options)

    # Sizes

    @property
    def layers(self) -> int:
        return _models(self).layers

    @property
    def parameters(self) -> float:
        """All that are left, tied embeddings counted once."""
        rest, layer = _models(self).parameters
        return rest + self.layers * layer * self.kept

    @property
    def weights(self) -> float:
        """Bytes of them."""
        return self.parameters * self._item

    @property
    def _item(self) -> int:
        import torch

        return getattr(torch, self.dtype).itemsize

    def tokens(self, characters: float) -> float:
        return characters / self.characters

    def window_tokens(self, texts: Iterable[Mapping[str, Any]], length: int, limit: int | None) -> float:
        """Tokens of all windows of texts (each with `name` and `source`), or of the first so many of each."""
        total = 0.0
        for text in texts:
            size = TEXTS.get(text["name"]) or file_size(text["source"]) or OTHER_TEXT
            count = max(1, int(self.tokens(size) // length))
            total += length * min(count, limit or count)
        return total

    def dense(self) -> Self:
        """The model before anything was cut or learnt."""
        return replace(self, kept=1.0, recovery=None)

    def cut(self, cut: Any) -> Self:
        """What a stage's cut (`ratio`, `structure_ratio`, `indices`) leaves; heads and channels not rounded."""
        _, layer = _models(self).parameters
        if cut.ratio is not None:
            removed = cut.ratio * self.dense().parameters / (self.layers * layer)
        else:
            removed = (cut.structure_ratio or 0.0) * len(self._pruned(cut)) / self.layers
        return replace(self, kept=max(0.0, 1 - removed))

    def first(self, cut: Any) -> int:
        """Index of the first layer that a cut prunes."""
        return min(self._pruned(cut).start, self.layers - 1)

    def _pruned(self, cut: Any) -> range:
        from reproducer.pruning.allocation import default_layers

        return default_layers(self.layers) if cut.indices is None else cut.indices

    # What stages do

    def loading(self) -> Cost:
        """Reading the dense weights; where they are of another dtype in the file, both are there for a moment."""
        import torch

        whole = self.dense()
        size = getattr(torch, stored(self.config) or self.dtype).itemsize * whole.parameters
        beside = size if size != whole.weights else 0.0
        return Cost(Work(read=size, bytes=size + whole.weights), whole.weights - self.weights + beside)

    def passes(
        self,
        tokens: float,
        length: float,
        batch: float,
        head: Head = "losses",
        layers: int | None = None,
        scored: float = 1.0,
    ) -> Cost:
        """Forward passes of `tokens` in sequences of `length`, `batch` tokens at once.

        Args:
            head: losses, made chunk by chunk; or log-probabilities of the vocabulary, all at once.
            layers: so many decoder layers alone.
            scored: the share of positions that get log-probabilities.
        """
        length = max(1, math.ceil(length))
        rows = max(1, min(int(batch // length), math.ceil(tokens / length)))
        positions = max(1, round(scored * length))
        once = self._counted("passes", rows, length, head, positions, layers=layers)
        return once * (tokens / (rows * length))

    def collected(
        self,
        needs: Iterable[Statistic],
        samples: int,
        length: int,
        first: int,
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
        from reproducer.pruning.statistics import ACTIVATION_BYTES, GradientStatistic, InputStatistic

        needs, upper = tuple(sorted(needs, key=repr)), self.layers - first
        cost = self._counted("collected", needs, samples, length, per_sample, layers=upper)
        backward = any(isinstance(one, GradientStatistic) for one in needs)
        if not backward and not any(isinstance(one, InputStatistic) for one in needs):
            return cost
        tokens = samples * length
        forward = self.passes(tokens, length, tokens, "none", upper)
        limit = ACTIVATION_BYTES if activations is None else activations
        graph = self._counted("collected", needs, samples, length, per_sample, layers=1).memory
        graphs = cost.memory - graph  # of all layers but the one that is worked on
        if backward and graphs > limit:  # layers that do not fit run forward twice
            cost = replace(cost, work=cost.work + forward.work * (1 - limit / graphs), memory=graph + limit)
        return cost + self.passes(tokens, length, tokens, "none", first) if below and first else cost

    def training(self, recovery: Any) -> Cost:
        """Fine-tuning on instructions by a kind with the settings of `InstructionTuning`."""
        source = recovery.sources()["dataset"]
        rows = INSTRUCTIONS.get(recovery.dataset) or (file_size(source) or 0) // INSTRUCTION or OTHER_INSTRUCTIONS
        steps = math.ceil(recovery.epochs * min(rows, recovery.examples or rows) / recovery.batch)
        examples = recovery.batch * min(steps, recovery.steps or steps)
        model, together = replace(self, recovery=recovery), recovery.micro_batch
        usual = min(recovery.cutoff, math.ceil(self.tokens(INSTRUCTION)))
        once = model._counted("training", together, usual)
        longest = model._counted("training", together, min(recovery.cutoff, 4 * usual)).memory
        moments = 2 * once.held  # of what is learnt, whose gradients are left
        return replace(once * (examples / together), memory=longest + moments)

    def generation(self, prompt: float, written: int) -> Cost:
        """A prompt and so many tokens behind it, one by one."""
        return self.passes(prompt, prompt, prompt, "none") + self.passes(written, 1, 1, "logits")

    def hidden(self, tokens: float) -> float:
        """Bytes of the hidden states between two layers."""
        return tokens * _models(self).width * self._item

    def sliced(self, layers: int) -> Cost:
        """What is left of so many layers, copied, one after the other."""
        size = self.kept * _models(self).parameters[1] * self._item
        return Cost(Work(bytes=2 * layers * size), size)

    def _counted(self, function: str, *sizes: Any, layers: int | None = None) -> Cost:
        """What one of `FUNCTIONS` does on so many layers (None: all), from what it does on two and on three."""
        number = self.layers if layers is None else layers
        total = []
        for index, (less, more) in enumerate(zip(*_models(self).count(function, sizes), strict=True)):
            layer = max(0.0, more - less)
            rest = max(0.0, less - DEPTHS[0] * layer)
            total.append(rest + number * layer * (1.0 if index == OPS else self.kept))
        return Cost(Work(*total[:4]), *total[4:])


def stored(config: Mapping[str, Any]) -> str | None:
    """The dtype of the weight files; None: the config does not say."""
    return config.get("dtype") or config.get("torch_dtype")


def file_size(source: Mapping[str, Any]) -> int | None:
    """Bytes of the file that a data source is, given or in the mirror, uncompressed; None: it is no file here."""
    from reproducer.data.sources import MIRROR

    if path := source.get("path"):
        candidates = [Path(path)]
    else:
        stem = Path(os.environ.get(MIRROR, ""), source["id"], source["configuration"] or "default", source["split"])
        candidates = [stem.with_name(f"{stem.name}{ending}") for ending in (".jsonl", ".jsonl.gz")]
    for path in candidates:
        if path.is_file():
            return path.stat().st_size * (3 if path.suffix == ".gz" else 1)  # text is compressed to about a third
    return None


def task_size(name: str, source: Mapping[str, Any], limit: int | None) -> tuple[float, float, float]:
    """Sequences of a task's first `limit` items, characters of one, and the share of its logits that is needed."""
    items, sequences, characters, scored = TASKS.get(name, OTHER_TASK)
    if name not in TASKS and (size := file_size(source)):
        items = max(1, int(size // (sequences * characters)))
    return min(items, limit or items) * sequences, characters, scored


# Counting

LARGE = 2**25  # bytes from which on the C library asks the system for every tensor's memory anew
OPS = 3  # place of the number of operations in a count
DEPTHS = 2, 3  # layers of the models; in the first layer less is held than in others


def _passes(model: Any, rows: int, length: int, head: Head, positions: int) -> Any:
    import torch

    from reproducer.models.architecture import family_of
    from reproducer.models.loss import next_token_losses

    family, ids = family_of(model.config), torch.zeros(rows, length, dtype=torch.long)
    with torch.no_grad():
        hidden = family.decoder_of(model)(input_ids=ids, use_cache=False).last_hidden_state
        if head == "losses":
            return next_token_losses(model, hidden, ids)
        if head == "logits":
            return torch.log_softmax(family.head_of(model)(hidden[:, -positions:]), dim=-1).argmax(dim=-1)
    return None


def _collected(model: Any, needs: Sequence[Statistic], samples: int, length: int, per_sample: bool) -> Any:
    import torch

    from reproducer.pruning.statistics import Limits, collect

    limits = Limits(activations=2**62, chunk=2**24)  # larger chunks, fewer calls to count: the traffic is the same
    ids = torch.zeros(samples, length, dtype=torch.long)
    return collect(model, ids, range(model.config.num_hidden_layers), needs, limits, per_sample=per_sample)


def _training(model: Any, rows: int, length: int) -> None:
    import torch

    from reproducer.models.architecture import family_of
    from reproducer.models.loss import next_token_losses

    ids = torch.zeros(rows, length, dtype=torch.long)
    hidden = family_of(model.config).decoder_of(model.train())(input_ids=ids, use_cache=False).last_hidden_state
    learnt = slice(int((1 - ANSWERED) * length), None)
    next_token_losses(model, hidden[:, learnt], ids[:, learnt]).sum().backward()


FUNCTIONS: Mapping[str, Callable[..., Any]] = {"passes": _passes, "collected": _collected, "training": _training}


class _Models:
    """Models of so many layers as `DEPTHS` says, on the meta device, and what was counted on them."""

    def __init__(self, config: Mapping[str, Any], dtype: str, recovery: Recovery | None) -> None:
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM

        from reproducer.models.quiet import quiet

        options = {name: value for name, value in config.items() if name not in ("dtype", "torch_dtype")}
        whole = AutoConfig.for_model(**copy.deepcopy(options)).get_text_config()
        self.layers: int = whole.num_hidden_layers
        self.width: int = whole.hidden_size
        self.models: list[Any] = []
        for number in DEPTHS:
            cut = copy.deepcopy(whole)
            for name, value in vars(whole).items():  # some have a list with an entry a layer
                if isinstance(value, list) and len(value) == self.layers:
                    setattr(cut, name, value[:number])
            cut.num_hidden_layers = number
            with quiet(), torch.device("meta"):
                model = AutoModelForCausalLM.from_config(cut, dtype=getattr(torch, dtype)).eval()
            self.models.append(model)
        two, three = (sum(weight.numel() for weight in model.parameters()) for model in self.models)
        self.parameters = two - DEPTHS[0] * (three - two), three - two  # outside of the layers, and of one
        if recovery is not None:
            with torch.device("meta"):
                self.models = [recovery.adapted(model) for model in self.models]
        self._counts: dict[str, list[tuple[float, ...]]] = {}

    def count(self, function: str, sizes: tuple[Any, ...]) -> list[tuple[float, ...]]:
        """Of each: flops, bytes, pages, ops, and the bytes made at most at once and left at the end."""
        name = repr((function, sizes))
        if name not in self._counts:
            self._counts[name] = [count(partial(FUNCTIONS[function], model, *sizes)) for model in self.models]
            for model in self.models:
                model.zero_grad()
        return self._counts[name]


_known: dict[tuple[str, str, str], _Models] = {}


def _models(model: ModelCost) -> _Models:
    key = json.dumps(dict(model.config), sort_keys=True), model.dtype, repr(model.recovery)
    if key not in _known:
        _known[key] = _Models(model.config, model.dtype, model.recovery)
    return _known[key]


def count(run: Callable[[], Any]) -> tuple[float, ...]:
    """What `run` does with tensors of the meta device: flops, bytes, pages, ops, most bytes made, bytes left."""
    import weakref

    import torch
    from torch import Tensor, nn
    from torch.overrides import TorchFunctionMode
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves
    from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

    aten = torch.ops.aten
    attention = aten._scaled_dot_product_flash_attention_for_cpu
    backward = aten._scaled_dot_product_flash_attention_for_cpu_backward

    class Counter(TorchDispatchMode):
        flops = bytes = pages = ops = now = peak = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is aten._local_scalar_dense.default:
                return True  # whatever a program asks its values, they are finite
            kwargs = dict(kwargs or {})
            if "device" in kwargs:
                kwargs["device"] = torch.device("meta")
            made = func(*args, **kwargs)
            inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
            storages = [tensor.untyped_storage() for tensor in inputs]
            written = 0
            for output in (leaf for leaf in tree_leaves(made) if isinstance(leaf, Tensor)):
                storage = output.untyped_storage()
                if all(storage is not other for other in storages):  # else it is a view, or was written over
                    written += output.nbytes
                    self.pages += storage.nbytes() if storage.nbytes() >= LARGE else 0
                    self.now += storage.nbytes()
                    weakref.finalize(storage, self.freed, storage.nbytes())
                elif func._schema.is_mutable:
                    written += output.nbytes
            self.ops += 1
            self.peak = max(self.peak, self.now)
            if written and func._overloadpacket is not aten.empty:
                self.bytes += written + sum(tensor.nbytes for tensor in inputs)
            if func._overloadpacket is attention:
                self.flops += sdpa_flop_count(*(tensor.shape for tensor in args[:3]))
            elif func._overloadpacket is backward:
                self.flops += sdpa_backward_flop_count(*(tensor.shape for tensor in args[:4]))
            elif func._overloadpacket in flop_registry:
                self.flops += flop_registry[func._overloadpacket](*args, **kwargs, out_val=made)
            return made

        def freed(self, size: int) -> None:
            self.now -= size

    class Attention(TorchFunctionMode):
        """As devices do it, without the scores of all pairs, which torch writes out on the meta device alone."""

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is not nn.functional.scaled_dot_product_attention:
                return func(*args, **(kwargs or {}))
            query, *others = args[:3]
            shared = [one.repeat_interleave(query.shape[1] // one.shape[1], 1) for one in others]
            return attention(query, *shared)[0]

    with torch.device("meta"), Attention(), Counter() as counted:
        left = run()
    found = counted.flops, counted.bytes, counted.pages, counted.ops, counted.peak, counted.now
    del left
    return found


# Stages


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
        misfits: a line for every stage that needs more memory than there is.
        basis: what the estimates rest on, for a reader.
    """

    stages: Mapping[str, Estimate | str]
    seconds: float
    misfits: Sequence[str]
    basis: str


def estimates(stages: Sequence[Stage], outcome: Outcome, device: Device) -> Estimates:
    """What stages take, those that have a result already correcting the others of their kind.

    Memory is not corrected: a process's growth says little where a model or free pages are left from the stage before.
    """
    raw: dict[str, tuple[float, float] | str] = {}
    loaded: tuple[str, ...] = ()
    ratios: dict[str, list[float]] = {}
    for stage in stages:
        try:
            if (model := model_of(stage, outcome)) is None:
                raw[stage.key] = "unknown until fetched"
                continue
            cost: Cost = stage.cost(model)  # type: ignore[attr-defined]
            work, memory = cost.work, device.heap * cost.memory
            if isinstance(stage, OnModel):
                memory += model.weights
                parts = tuple(one.key for one in (stage.model, stage.plan, stage.recovery) if one is not None)
                if parts != loaded:  # else the model is still there from the stage before
                    loading = model.loading()
                    work, memory = work + loading.work, max(memory, model.weights + loading.memory)
                loaded = parts
            seconds = device.rates(model.dtype).seconds(work)
        except NotImplementedError:
            raw[stage.key] = "not estimated"
            continue
        except Exception as error:  # whatever transformers makes of a config; the run itself will say it in full
            raw[stage.key] = f"not estimated: {str(error).partition(chr(10))[0] or type(error).__name__}"
            continue
        raw[stage.key] = seconds, memory
        made = outcome[stage].artifact if stage.key in outcome.results else None
        if made is not None and made.record["environment"].get("cpu") == describe_machine()["cpu"]:
            ratios.setdefault(stage.kind, []).append(made.seconds / max(seconds, TINY))
    corrections = {kind: statistics.median(seen) for kind, seen in ratios.items()}
    found: dict[str, Estimate | str] = {}
    for stage in stages:
        told, factor = raw[stage.key], corrections.get(stage.kind, 1.0)
        found[stage.key] = told if isinstance(told, str) else Estimate(told[0] * factor, told[1])
    todo = [stage for stage in stages if stage.key not in outcome.results or outcome[stage].artifact is None]
    known = [(stage, one) for stage in todo if isinstance(one := found[stage.key], Estimate)]
    misfits = [
        f"{stage.label} needs {memory_text(one.memory)} of {memory_text(device.memory)}"
        for stage, one in known
        if one.memory > device.memory
    ]
    total = sum(one.seconds for _, one in known)
    return Estimates(found, total, misfits, _basis(device, corrections))


def model_of(stage: Stage, outcome: Outcome) -> ModelCost | None:
    """The model that a stage works on or provides; None where its config is not known before it is fetched."""
    base = getattr(stage, "model", stage)
    while (config := _config(base, outcome)) is None and "model" in base.inputs:
        base = base.inputs["model"]  # a derived model has its base's widths
    if config is None:
        return None
    own = getattr(base, "recipe", {}).get("source") in ("random", "drawn")
    found = ModelCost.of(config, getattr(stage, "dtype", "auto"), characters=1.0 if own else CHARACTERS_PER_TOKEN)
    if (plan := getattr(stage, "plan", None)) is not None:
        found = found.cut(getattr(plan, "cut", None) or plan.search.cut)  # one as found has its search's
    recovery = getattr(stage, "recovery", None)
    return found if recovery is None else replace(found, recovery=recovery.how)


def _config(model: Stage, outcome: Outcome) -> Mapping[str, Any] | None:
    given: Mapping[str, Any] = getattr(model, "recipe", {})
    if "config" in given:
        return given["config"]
    made = outcome[model].artifact if model.key in outcome.results else None
    try:
        folder = locate(made.directory) if made else Path(given.get("path", ""))
        return json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, UserError):
        return next((one.config for one in CATALOGUE.values() if one.config and recipe(one) == given), None)


def _basis(device: Device, corrections: Mapping[str, float]) -> str:
    rates = "; ".join(
        f"{one.flops / 1e12:.3g} TFLOP/s and {one.bytes / 1e9:.3g} GB/s in {dtype}"
        for dtype, one in sorted(device.measured.items())
    )
    seen = ", ".join(f"{kind} {ratio:.2f}" for kind, ratio in sorted(corrections.items()))
    return (
        f"Estimates for {device.label} ({memory_text(device.memory)} of memory), one stage at a time, nothing else "
        f"running.\nCounted on one decoder layer, at rates measured just now: {rates or 'none'}.\n"
        + (
            f"Times of what is in the store, as shares of their estimates, by which others are corrected: {seen}.\n"
            if seen
            else ""
        )
        + f"Assumed: the usual sizes of data sets, {CHARACTERS_PER_TOKEN:.0f} characters a token, "
        f"{FETCHING / 1e6:.0f} MB/s of downloads, {READING / 1e9:.0f} GB/s from the disk."
    )


def memory_text(size: float) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


# The device


@dataclass(frozen=True)
class Rates:
    """Of one dtype, a second: operations of a square product, bytes read and written, new bytes, small operations."""

    flops: float
    bytes: float
    pages: float
    ops: float

    def seconds(self, work: Work) -> float:
        return (
            work.flops / self.flops
            + work.bytes / self.bytes
            + work.pages / self.pages
            + work.ops / self.ops
            + work.read / READING
            + work.fetched / FETCHING
        )


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
            return cls(properties.name, properties.total_memory, partial(measured_rates, name))
        label = f"{describe_machine()['cpu']}, {torch.get_num_threads()} threads"
        return cls(label, psutil.virtual_memory().total, partial(measured_rates, name), HEAP)

    def rates(self, dtype: str) -> Rates:
        if dtype not in self.measured:
            self.measured[dtype] = self.measure(dtype)
        return self.measured[dtype]


def measured_rates(name: str, dtype: str) -> Rates:
    """The best of about half a second, so that what else runs plays as little part as it can."""
    import torch

    kind, options = getattr(torch, dtype), {"device": name, "dtype": getattr(torch, dtype)}
    flops, size, least = 0.0, 256, 0.0
    while least < 0.03 and size <= 8192:  # from small to large: a dtype without fast products must not take minutes
        left, right = torch.ones(2, size, size, **options)
        least = _best(partial(torch.nn.functional.linear, left, right), name)
        flops, size = max(flops, 2 * size**3 / least), 2 * size
    values = torch.ones(2**26 if torch.device(name).type == "cuda" else 2**21, **options)  # out of a cache's reach
    moved = 5 * values.nbytes / _best(lambda: torch.nn.functional.silu(values) * values, name)
    size = 2 * LARGE // kind.itemsize
    again = torch.empty(size, **options)
    new = _best(lambda: torch.empty(size, **options).fill_(1), name) - _best(lambda: again.fill_(1), name)
    with torch.no_grad():
        small = torch.nn.Linear(8, 8, **options)
        inputs = torch.ones(8, 8, **options)
        called = 3 / _best(lambda: small(inputs).view(64), name)  # transposed, multiplied, viewed
    return Rates(flops, moved, 2 * LARGE / max(new, 1e-9), called)


def _best(call: Callable[[], object], name: str) -> float:
    """Least seconds of a call, on a CPU at least what it takes one thread: what else runs can only make it slower."""
    import torch

    if torch.device(name).type == "cuda":
        return _least(call, time.perf_counter, partial(torch.cuda.synchronize, name))
    threads, together = torch.get_num_threads(), _least(call, time.perf_counter)
    try:  # threads wait for each other on a busy machine
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
        least = min(least, clock() - began)
    return least
