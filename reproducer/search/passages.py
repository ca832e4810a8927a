"""Statistics of single pool passages, from which those of every set of passages are formed without another pass."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from reproducer.pruning.statistics import ADDITIVE, Statistic, Statistics

ORDER = sorted(ADDITIVE, key=repr)


class PassageStatistics:
    """Keeps `First` and `Second` of passages, the ones used last within `limit` bytes.

    Args:
        together: passages to collect at once. One at a time makes the numbers independent of what is known already.
        limit: bytes to keep.
    """

    def __init__(self, together: int, limit: int) -> None:
        self._together, self._limit = together, limit
        self._rows: OrderedDict[int, Tensor] = OrderedDict()  # passage -> [statistics, vectors of all members]
        self._layout: list[tuple[int, str, int]] = []  # layer, member module, its vectors

    @property
    def nbytes(self) -> int:
        return sum(rows.nbytes for rows in self._rows.values())

    def mean(
        self, samples: Sequence[int], wanted: Iterable[Statistic], collect: Callable[[Sequence[int]], Statistics]
    ) -> Statistics:
        """Statistics of these samples as a set; a passage that occurs twice counts twice.

        Args:
            collect: statistics of passages that are new, with a first axis for the passages (`per_sample`).
        """
        missing = [index for index in dict.fromkeys(samples) if index not in self._rows]
        for start in range(0, len(missing), self._together):
            passages = missing[start : start + self._together]
            self._add(passages, collect(passages))
        for index in samples:
            self._rows.move_to_end(index)
        means = torch.stack([self._rows[index] for index in samples]).mean(0)
        while self.nbytes > self._limit:
            self._rows.popitem(last=False)
        found: Statistics = {}
        places = [(place, statistic) for place, statistic in enumerate(ORDER) if statistic in set(wanted)]
        parts = means.split([vectors for *_, vectors in self._layout], dim=1)
        for (layer, module, _), part in zip(self._layout, parts, strict=True):
            found.setdefault(layer, {})[module] = {statistic: part[place] for place, statistic in places}
        return found

    def _add(self, passages: Sequence[int], apart: Statistics) -> None:
        members = [(layer, module, found) for layer, of_layer in apart.items() for module, found in of_layer.items()]
        self._layout = [(layer, module, found[ORDER[0]].shape[1]) for layer, module, found in members]
        rows = [torch.cat([found[statistic] for *_, found in members], dim=1) for statistic in ORDER]
        for index, row in zip(passages, torch.stack(rows, dim=1), strict=True):
            self._rows[index] = row.clone()  # a view would keep the rows of all
