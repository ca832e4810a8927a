"""What cutting a model has changed, as a table for a person, and what would be better where it has cost too much."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tabulate import tabulate

from reproducer.evaluation.measured import Generation, Speed
from reproducer.reporting.card import form_of
from reproducer.reporting.numbers import short
from reproducer.stages.results import Column, Results, Row

WORSE = 1.3  # times the perplexity, or ...
LOST = 0.3  # ... of an accuracy above chance: more than this is told
# Of 8 bits alone: SmolLM2-135M in llama.cpp, from reports/deploy-small.
BITS_SIZE, BITS_PERPLEXITY = 0.53, 1.01
WEIGHTS = ("*.safetensors", "*.bin", "*.gguf")
WIDTH, CELL = 100, 46  # characters of a line, and of one of what a model wrote


@dataclass(frozen=True)
class Comparison:
    """The unpruned and the pruned row of a run, and the bytes of the weights of either, as they lie on the disk."""

    results: Results
    dense: Row
    pruned: Row
    bytes: tuple[int, int]

    @property
    def times(self) -> dict[str, float]:
        """How many times the perplexity of each text is now, by its label."""
        return {column.label: after / before for column, before, after in self._measured("perplexity")}

    @property
    def smaller(self) -> float:
        """The share of the file's size that is left."""
        before, after = self.bytes
        return after / before if before else (self.pruned.params or 0) / (self.dense.params or 1)

    def _measured(self, kind: str) -> Iterator[tuple[Column, float, float]]:
        for column in self.results.columns:
            before, after = (row.metrics.get(column.key) for row in (self.dense, self.pruned))
            if column.kind == kind and before is not None and after is not None:
                yield column, before, after

    def table(self) -> str:
        """Size, quality and speed before and after, and what both write after the same prompts."""
        lines = [_line("parameters", self.dense.params or 0, self.pruned.params or 0, "{:,.0f}")]
        if all(self.bytes):
            lines.append(_line("file size, MB", self.bytes[0] / 1e6, self.bytes[1] / 1e6, "{:,.1f}"))
        for column, before, after in self._measured("perplexity"):
            form = form_of(column)
            text = f"perplexity of {column.label}{self._seen(column)}"
            lines.append((text, form(before), form(after), f"{after / before:.2f} times"))
        for column, before, after in self._measured("accuracy"):
            form = form_of(column)
            lines.append(
                (f"accuracy in {column.label}, %", form(before), form(after), f"{100 * (after - before):+.1f}")
            )
        speeds = [row.of_kind(Speed).get("speed") for row in (self.dense, self.pruned)]
        if speeds[0] and speeds[1]:
            for name, did in (("prefill", "read"), ("decode", "written")):
                tokens = [s.batch * getattr(s, f"{name}_tokens") / median(getattr(s, name)) for s in speeds if s]
                lines.append(_line(f"tokens {did} a second", tokens[0], tokens[1], "{:,.1f}"))
        table = tabulate(
            lines, headers=["", "before", "after", ""], colalign=("left", *3 * ("right",)), disable_numparse=True
        )
        return f"{table}\n\n{self._written()}" if self._written() else table

    def _seen(self, column: Column) -> str:
        """Whether a text is of a data set that was calibrated on."""
        names = [sight.dataset.partition("?")[0] for sight in self.pruned.saw]
        return " (kept back from the calibration)" if str(column.source).partition("?")[0] in names else ""

    def _written(self) -> str:
        """What both models write after the same prompts, side by side."""
        before, after = (row.of_kind(Generation) for row in (self.dense, self.pruned))
        lines = []
        for name in [name for name in before if name in after]:
            texts = [textwrap.fill(" ".join(of[name].text.split()), CELL) for of in (before, after)]
            lines.append((textwrap.fill(before[name].prompt, CELL // 2), *texts))
        return (
            tabulate(lines, headers=["after the words", "it wrote before", "and writes now"], tablefmt="simple")
            if lines
            else ""
        )

    def collapsed(self) -> list[str]:
        """What has become much worse."""
        worse = [
            f"perplexity of {name} is {times:.2f} times what it was"
            for name, times in self.times.items()
            if times > WORSE
        ]
        tasks = {task.label: task.majority or 0.0 for task in self.results.tasks}
        for column, before, after in self._measured("accuracy"):
            chance = tasks.get(column.label, 0.0)
            if before > chance and after - chance < (1 - LOST) * (before - chance):
                worse.append(f"accuracy in {column.label} fell from {short(before)} to {short(after)}")
        return worse

    def advice(self, again: Sequence[str], quantise: Sequence[str] | None) -> str:
        """A warning where quality has collapsed, and the hint that 8 bits are better where they are.

        Args:
            again: the command that recovers the cut model; quantise: the one that writes the unpruned one in 8 bits,
                None where the weights are few-bit ones already.
        """
        parts = []
        if worse := self.collapsed():
            text = f"WARNING: {'; '.join(worse)}. Expect wrong and broken answers. The cut is kept; training mends it:"
            parts.append(f"{textwrap.fill(text, WIDTH)}\n    {shlex.join(again)}")
        if quantise and self.smaller > BITS_SIZE and any(times > BITS_PERPLEXITY for times in self.times.values()):
            text = f"For a smaller file alone, 8 bits are better: about {BITS_PERPLEXITY} times the perplexity at "
            text += f"{short(BITS_SIZE)} of the size of 16 bits (SmolLM2-135M in llama.cpp):"
            parts.append(f"{textwrap.fill(text, WIDTH)}\n    {shlex.join(quantise)}")
        return "\n\n".join(parts)


def measures_table(results: Results) -> str:
    """What was measured of models, a row each."""
    columns = [column for column in results.columns if not column.is_margin]
    lines = []
    for row in results.rows:
        values = [(row.metrics.get(column.key), form_of(column)) for column in columns]
        cells = ["–" if value is None else form(value) for value, form in values]
        lines.append([row.model, f"{row.params:,}" if row.params else "–", *cells])
    headers = ["model", "parameters", *(column.label for column in columns)]
    return tabulate(lines, headers=headers, disable_numparse=True, colalign=("left", *len(headers[1:]) * ("right",)))


def weights_bytes(folder: Path) -> int:
    """Bytes of the weights' files in a folder; 0 where there are none."""
    return sum(path.stat().st_size for pattern in WEIGHTS for path in folder.glob(pattern))


def _line(name: str, before: float, after: float, form: str) -> tuple[str, str, str, str]:
    return name, form.format(before), form.format(after), f"{100 * after / before:.0f}%" if before else ""
