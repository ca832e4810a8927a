"""Statistics of single calibration passages, from which those of every set of passages are formed.

What is a mean over the samples is collected once a passage: in memory for the trials of a search, and in files for all
stages that prune the same layers of the same model, whatever their seeds, specs and processes.
"""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from reproducer.files import replacing
from reproducer.models.tokens import Tokens
from reproducer.pruning.collect import Limits, Progress, collect
from reproducer.pruning.statistics import Statistic, Statistics

log = logging.getLogger(__name__)

KEPT_BYTES = 2**31  # of statistics of single passages in memory

Collect = Callable[[Sequence[int], Iterable[Statistic]], Statistics]


class PassageFiles:
    """A folder of statistics of single passages of one model and set of layers, a file a passage.

    A file appears whole or not at all, so that processes may share the folder; one that is damaged counts as missing.
    It holds what it took to collect too: a passage that is found here counts as what it would have cost.

    Args:
        folder: made when the first file is written.
        tokens: the user's count of what goes through the model, to which the tokens of passages that are read are
            added.

    Attributes:
        reused: passages that were read.
    """

    def __init__(self, folder: Path, tokens: Tokens) -> None:
        self.folder, self.tokens, self.reused = folder, tokens, 0

    def read(self, ids: Tensor, wanted: Iterable[Statistic]) -> Statistics | None:
        """What is known of the passage `ids` [length], each statistic [vectors]; None if anything wanted is missing."""
        names = {repr(statistic): statistic for statistic in wanted}
        found: Statistics = {}
        try:
            with safe_open(self._path(ids), framework="pt") as file:
                metadata, tensors = file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError):
            return None
        if metadata.get("digest") != _digest(tensors):
            return None
        for name, tensor in tensors.items():
            layer, module, statistic = name.split("/", 2)
            if statistic in names:
                found.setdefault(int(layer), {}).setdefault(module, {})[names[statistic]] = tensor
        if not found or any(set(names.values()) != set(known) for of in found.values() for known in of.values()):
            return None
        self.tokens.forward += int(metadata["forward"])
        self.tokens.backward += int(metadata["backward"])
        self.reused += 1
        return found

    def write(self, ids: Tensor, statistics: Statistics, tokens: Tokens) -> None:
        """Keep the statistics of the passage `ids`, and the tokens that it took; without room for it, go on."""
        tensors = {
            f"{layer}/{module}/{statistic!r}": values.contiguous()
            for layer, modules in statistics.items()
            for module, of_module in modules.items()
            for statistic, values in of_module.items()
        }
        metadata = {"digest": _digest(tensors), "forward": str(tokens.forward), "backward": str(tokens.backward)}
        path = self._path(ids)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with replacing(path, shared=True) as part:
                save_file(tensors, part, metadata=metadata)
        except (OSError, SafetensorError) as error:
            log.warning("statistics of a passage could not be kept for other stages: %s", error)

    def _path(self, ids: Tensor) -> Path:
        return self.folder / f"{hashlib.sha256(ids.cpu().numpy().tobytes()).hexdigest()[:20]}.safetensors"


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].numpy().tobytes())
    return digest.hexdigest()


class PassageStatistics:
    """Additive statistics of single passages, the ones used last within `limit` bytes.

    Args:
        pool: LongTensor [passages, length].
        together: passages to collect at once. One at a time makes the numbers independent of what is known already.
        limit: bytes to keep in memory.
        files: shared with other stages, if there are any.

    Attributes:
        watched: the statistics that are collected of a passage that is new.
    """

    def __init__(self, pool: Tensor, together: int, limit: int, files: PassageFiles | None = None) -> None:
        self._pool, self._files = pool, files
        self._together, self._limit = together, limit
        self.watched: set[Statistic] = set()
        self._rows: OrderedDict[int, Tensor] = OrderedDict()  # passage -> all its statistics, side by side
        self._layout: list[tuple[int, str, Statistic, int]] = []  # its parts: layer, module, statistic, vectors

    @property
    def nbytes(self) -> int:
        return sum(row.nbytes for row in self._rows.values())

    def watch(self, wanted: Iterable[Statistic]) -> None:
        """Collect these too from now on; passages that are known without them are forgotten."""
        if not (wanted := set(wanted)) <= self.watched:
            self.watched |= wanted
            self._rows.clear()

    def known(self, samples: Sequence[int], statistic: Statistic) -> bool:
        """Whether this statistic of each of these samples is in memory."""
        return statistic in self.watched and all(index in self._rows for index in samples)

    def mean(self, samples: Sequence[int], wanted: Iterable[Statistic], collect: Collect) -> Statistics:
        """Statistics of these samples as a set; a passage that occurs twice counts twice.

        Args:
            collect: statistics of passages that are new, with a first axis for the passages (`per_sample`).
        """
        wanted = set(wanted)
        self.watch(wanted)
        missing = [index for index in dict.fromkeys(samples) if index not in self._rows and not self._read(index)]
        for start in range(0, len(missing), self._together):
            self._add(missing[start : start + self._together], collect)
        for index in samples:
            self._rows.move_to_end(index)
        means = torch.stack([self._rows[index] for index in samples]).mean(0)
        while self.nbytes > self._limit:
            self._rows.popitem(last=False)
        found: Statistics = {}
        parts = means.split([vectors for *_, vectors in self._layout])
        for (layer, module, statistic, _), part in zip(self._layout, parts, strict=True):
            if statistic in wanted:
                found.setdefault(layer, {}).setdefault(module, {})[statistic] = part
        return found

    def _read(self, index: int) -> bool:
        """Take a passage from the files, if it is there."""
        known = self._files.read(self._pool[index], self.watched) if self._files else None
        if known is not None:
            self._keep(index, known)
        return known is not None

    def _add(self, passages: Sequence[int], collect: Collect) -> None:
        before = replace(self._files.tokens) if self._files else Tokens()
        apart = collect(passages, self.watched)
        for place, index in enumerate(passages):
            of_passage = {
                layer: {module: {one: values[place] for one, values in of.items()} for module, of in modules.items()}
                for layer, modules in apart.items()
            }
            self._keep(index, of_passage)
            if self._files is not None:
                now = self._files.tokens
                forward, backward = now.forward - before.forward, now.backward - before.backward
                spent = Tokens(forward // len(passages), backward // len(passages))
                self._files.write(self._pool[index], of_passage, spent)

    def _keep(self, index: int, statistics: Statistics) -> None:
        parts = [
            (layer, module, statistic, values)
            for layer, modules in sorted(statistics.items())
            for module, of_module in sorted(modules.items())
            for statistic, values in sorted(of_module.items(), key=lambda item: repr(item[0]))
        ]
        self._layout = [(layer, module, statistic, len(values)) for layer, module, statistic, values in parts]
        self._rows[index] = torch.cat([values for *_, values in parts])


def collect_by_passage(
    model: nn.Module,
    ids: Tensor,
    layers: Sequence[int],
    wanted: Iterable[Statistic],
    limits: Limits | None,
    files: PassageFiles,
    progress: Progress,
) -> Statistics:
    """Additive statistics of samples `ids` [samples, length], from what is known already, as `collect` gives them."""
    passages = PassageStatistics(ids, together(model, len(ids)), KEPT_BYTES, files)

    def apart(samples: Sequence[int], watched: Iterable[Statistic]) -> Statistics:
        found = collect(model, ids[list(samples)], layers, watched, limits, per_sample=True)
        progress(max(samples) + 1, len(ids))
        return found

    return passages.mean(range(len(ids)), wanted, apart)


def together(model: nn.Module, samples: int) -> int:
    """Passages to collect at once.

    A processor gains nothing from several, and one by one the numbers do not depend on what is known already.
    """
    return 1 if next(model.parameters()).device.type == "cpu" else samples
