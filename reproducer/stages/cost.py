"""What a stage costs: operations, traffic and memory, counted before anything runs.

Nothing is derived from an architecture. Models of two and of three decoder layers are made of the config on the meta
device, whose tensors have shapes and no values, and the functions that a stage calls are called there too. What differs
between the two is a layer; the rest is what every model has once. What a device makes of it is for `estimates`.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields, replace
from functools import cache, cached_property, lru_cache, partial
from typing import TYPE_CHECKING, Any, Literal, Self

from reproducer.data.sizes import INSTRUCTION, instruction_rows, text_size

if TYPE_CHECKING:
    from reproducer.pruning.statistics import Statistic

DEPTHS = 2, 3  # layers of the models that are counted on; in a first layer less is held than in others
COUNTED = 8  # samples whose statistics are counted; of more the count itself would take minutes
CHARACTERS_PER_TOKEN = 4.0  # LLaMA's tokenizer makes a token of 3.8 characters of WikiText2, SmolLM2's of 4.2
ANSWERED = 0.5  # of the tokens of an instruction: its answer, which is learnt

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
            size = text_size(text.name, text.source)
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
        """The statistics of the layers from `first` on, as `pruning.collect.collect` takes them.

        Args:
            below: hidden states below the first layer have to be computed too.
            per_sample: of every sample alone.
            activations: bytes kept for the backward pass; None: the default.
        """
        from reproducer.pruning.collect import ACTIVATION_BYTES
        from reproducer.pruning.statistics import GradientStatistic, WeightStatistic

        needs = tuple(sorted(needs, key=repr))
        counted = partial(self._of_samples, needs, samples, length, per_sample)
        cost, one = counted(layers=self.layers - first), counted(layers=1)
        limit = ACTIVATION_BYTES if activations is None else activations
        if any(isinstance(need, GradientStatistic) for need in needs) and (graphs := cost.memory - one.memory) > limit:
            again = self.passes(samples * length, length, samples * length, "none", self.layers - first)
            # layers that do not fit run forward twice
            cost = Cost(cost.work + again.work * (1 - limit / graphs), one.memory + limit)
        if below and first and not all(isinstance(need, WeightStatistic) for need in needs):
            cost += self.passes(samples * length, length, samples * length, "none", first)
        return cost

    def learning(self, forward: float, both: float, batch: int, length: int) -> Cost:
        """What a method learns beside frozen weights: a backward pass is taken to cost two forward ones.

        Args:
            forward, both: sequences of `length` tokens that go forward alone, and forward and backward.
            batch: of the latter, at once.
        """
        from reproducer.models.walk import BATCH_TOKENS
        from reproducer.pruning.statistics import First

        tokens = (forward + 3 * both) * length
        held = self.collected((First(),), batch, length, activations=2**62)
        return Cost(self.passes(tokens, length, BATCH_TOKENS, "losses").work, held.memory)

    def _of_samples(
        self, needs: tuple[Statistic, ...], samples: int, length: int, per_sample: bool, layers: int
    ) -> Cost:
        """What `collect` does for so many samples; beyond `COUNTED` each further one takes what the last ones took."""

        def counted(number: int) -> Cost:
            return self._counted(_collected, needs, number, length, per_sample, layers=layers)

        if samples <= COUNTED:
            return counted(samples)
        half, whole = counted(COUNTED // 2), counted(COUNTED)
        more = (samples - COUNTED) / (COUNTED - COUNTED // 2)
        return Cost(
            whole.work + (whole.work + half.work * -1) * more, whole.memory + (whole.memory - half.memory) * more
        )

    def training(self, recovery: Any) -> Cost:
        """Fine-tuning by a kind of recovery with the settings of `InstructionTuning`."""
        source = recovery.sources()["dataset"]
        rows = instruction_rows(recovery.dataset, source)
        steps = math.ceil(recovery.epochs * min(rows, recovery.examples or rows) / recovery.batch)
        examples = recovery.batch * min(steps, recovery.steps or steps)
        usual = min(recovery.cutoff, math.ceil(self.tokens(INSTRUCTION)))
        counted = partial(replace(self, recovery=recovery)._counted, _training, recovery.micro_batch)
        longest = counted(min(recovery.cutoff, 4 * usual))  # of the examples that come together
        cost = Cost(counted(usual).work * (examples / recovery.micro_batch), longest.memory)
        if (text := recovery.text_passes()) is not None:
            one = counted(text.length, 1.0)
            cost += self._compared(text.compared, text.length)
            cost += Cost(one.work * (text.learned / recovery.micro_batch), one.memory)
        return cost

    def _compared(self, passages: int, length: int) -> Cost:
        """Losses of passages, also the dense model's, which is loaded beside the model."""
        from reproducer.models.walk import BATCH_TOKENS

        dense = self.dense()
        passed = partial(ModelCost.passes, tokens=passages * length, length=length, batch=BATCH_TOKENS, head="losses")
        beside = dense.loading() + passed(dense)
        return passed(self) + Cost(beside.work, dense.weights + beside.memory)

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

    @cached_property  # asked for at every turn
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
            torch.log_softmax(family.head_of(model)(hidden[:, -positions:].flatten(0, 1)), dim=-1).amax(dim=-1)


def _collected(model: Any, needs: Sequence[Statistic], samples: int, length: int, per_sample: bool) -> None:
    import torch

    from reproducer.pruning.collect import Limits, collect

    limits = Limits(activations=2**62, chunk=2**26)  # larger chunks, fewer calls to count: the traffic is the same
    ids = torch.zeros(samples, length, dtype=torch.long)
    collect(model, ids, range(model.config.num_hidden_layers), needs, limits, per_sample=per_sample)


def _training(model: Any, rows: int, length: int, answered: float = ANSWERED) -> None:
    import torch

    from reproducer.models.architecture import family_of
    from reproducer.models.loss import next_token_losses

    ids = torch.zeros(rows, length, dtype=torch.long)
    hidden = family_of(model.config).decoder_of(model.train())(input_ids=ids, use_cache=False).last_hidden_state
    learnt = slice(int((1 - answered) * length), None)
    next_token_losses(model, hidden[:, learnt], ids[:, learnt]).sum().backward()
    model.zero_grad()


def _item(dtype: str) -> int:
    """Bytes of a number."""
    import torch

    return getattr(torch, dtype).itemsize
