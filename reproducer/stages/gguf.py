"""Size, perplexity and speed of a model in llama.cpp, quantised or not."""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import BrokenExecutor, Future
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar, Self

from pydantic import Field

from reproducer.errors import UserError
from reproducer.evaluation.measured import Gguf
from reproducer.models.gguf.types import file_type
from reproducer.queue import Context
from reproducer.spec import Count, NonEmpty, Section, Spec, Text, Tokens
from reproducer.spec.origins import Loc
from reproducer.stages.base import ModelState, TextSource, write_result
from reproducer.stages.cost import Cost, ModelShape
from reproducer.stages.measure import Measure, register
from reproducer.stages.perplexity import TEXTS


class GgufKeys(Section):
    """Perplexity over the first `windows` of the spec's first text, and `repeats` of a timed prompt and continuation.

    `types` are llama.cpp's; `prefill` tokens are read, then `decode` written one by one.
    """

    types: NonEmpty[Text] = Field(default_factory=lambda: ["f16", "q8_0", "q4_k_m"])
    windows: Count = 20
    prefill: Tokens = 256
    decode: Count = 64
    repeats: Count = 5


@register
class MeasureGguf(Measure):
    """The model as a GGUF file of one type, in llama.cpp on the CPU; the file itself is not kept."""

    kind: ClassVar[str] = "gguf"
    of_device: ClassVar[bool] = True
    Result: ClassVar = Gguf

    type: str
    text: TextSource
    seq_len: int
    windows: int
    prefill: int
    decode: int
    repeats: int

    class Keys(Section):
        """`gguf` None: not measured."""

        gguf: GgufKeys | None = None

    @classmethod
    def lengths(cls, evaluate: Any) -> Sequence[tuple[Loc, int]]:
        return [(("gguf", "prefill"), evaluate.gguf.prefill + evaluate.gguf.decode)] if evaluate.gguf else []

    @classmethod
    def stages_for(cls, evaluate: Any, spec: Spec, state: ModelState) -> Sequence[Self]:
        if evaluate.gguf is None:
            return []
        name = (evaluate.perplexity or [spec.substitute("datasets", TEXTS[0])])[0]
        settings = evaluate.gguf.model_dump(exclude={"types"})
        with spec.at(("evaluate", "gguf")):
            text = TextSource.of(name, "report")
        for index, given in enumerate(evaluate.gguf.types):
            with spec.at(("evaluate", "gguf", "types", index)):
                file_type(given)
        return [
            cls(
                **state.fields,
                **settings,
                type=given,
                text=text,
                seq_len=evaluate.seq_len,
                label=f"{state.label}: {given} in llama.cpp",
            )
            for given in evaluate.gguf.types
        ]

    @property
    def role(self) -> str:
        return f"gguf_{self.type}"

    def fingerprints(self, device: str) -> dict[str, str]:
        """llama.cpp computes on the CPU, whatever the device of the run."""
        return {**self.text.fingerprints(), **super().fingerprints("cpu")}

    def run(self, context: Context) -> None:
        import torch

        from reproducer.data.text import windows
        from reproducer.evaluation import llama_cpp
        from reproducer.models.gguf.writer import write_gguf
        from reproducer.models.load import locate

        engine = llama_cpp.version()  # not installed: said before anything is computed
        model, tokenizer = self.load(context, merge=True)
        ids = windows(self.text.load(), tokenizer, self.seq_len, self.windows).tolist()
        prompt = [token for window in ids for token in window]
        prompt = (prompt * math.ceil(self.prefill / len(prompt)))[: self.prefill]
        threads, total = torch.get_num_threads(), len(ids) + self.repeats + 1
        losses, speeds = [], []
        with tempfile.TemporaryDirectory(dir=context.directory) as scratch:
            path = Path(scratch) / "model.gguf"
            written = write_gguf(model, locate(context.inputs["model"]), path, self.type)
            opened = (str(path), max(self.seq_len, self.prefill + self.decode + 1), threads)
            process = context.engine(1)  # of its own: what llama.cpp cannot do, it may end its process for
            for done, window in enumerate(ids, 1):
                losses.append(_of(process.submit(llama_cpp.losses, *opened, window)))
                context.progress(done, total, self.text.name)
            for done in range(len(ids), total):
                speeds.append(_of(process.submit(llama_cpp.speed, *opened, prompt, self.decode)))
                context.progress(done + 1, total, "timed")
            size = path.stat().st_size
        speeds = speeds[1:]  # the first warms up
        mean = fmean(loss for window in losses for loss in window)
        if mean > math.log(sys.float_info.max):  # llama.cpp's probabilities are float32, and 0 below 1e-45
            raise UserError(
                f"in llama.cpp as {self.type} the model gives tokens of {self.text.name} no probability at all"
            )
        write_result(
            context,
            Gguf(
                type=self.type,
                architecture=written.architecture,
                matrices=written.matrices,
                padded=written.padded,
                bytes=size,
                text=self.text.name,
                windows=len(ids),
                perplexity=math.exp(mean),
                prefill_tokens=self.prefill,
                decode_tokens=self.decode,
                prefill=[speed[0] for speed in speeds],
                decode=[speed[1] for speed in speeds],
                threads=threads,
                engine=engine,
            ),
        )

    def cost(self, model: ModelShape) -> Cost:
        times, tokens = 1 + self.repeats, model.window_tokens([self.text], self.seq_len, self.windows)
        read = model.passes(self.prefill * times, self.prefill, scored=0)
        return read + model.written(tokens + self.decode * times)


def _of(future: Future[Any]) -> Any:
    try:
        return future.result()
    except BrokenExecutor:
        raise UserError("llama.cpp has ended its own process; see what it printed above") from None
