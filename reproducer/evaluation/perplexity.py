"""Perplexity on windows of tokens, as LLM-Pruner measures it: the exponential of the mean next-token loss."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from reproducer.errors import UserError
from reproducer.evaluation.checks import check_context, not_finite
from reproducer.evaluation.measured import PerplexityResult
from reproducer.models.loss import text_losses
from reproducer.models.walk import BATCH_TOKENS, frozen


def perplexity(
    model, windows: Tensor, batch_tokens: int = BATCH_TOKENS, progress: Callable[[int, int], None] | None = None
) -> PerplexityResult:
    """Perplexity of a causal language model; each window is scored on its own, its first token only as context.

    Args:
        model: a transformers causal language model of a declared family, pruned or not; left in the mode it was in.
        windows: LongTensor [windows, length], length at least 2.
        batch_tokens: tokens a forward pass, rounded down to whole windows (at least one). Logits exist for a
            few hundred tokens at a time, however large the batch (`reproducer.models.loss`).
        progress: called with (windows done, windows in all) after every batch.

    Raises:
        UserError: no windows, a window longer than the model's context, or a loss that is not finite.
    """
    count, length = windows.shape
    if count == 0:
        raise UserError("no window of text to measure perplexity on", "use a longer text or a smaller seq_len")
    if length < 2:
        raise UserError(f"seq_len is {length}, which leaves no token to predict", "use at least 2")
    check_context(model, length, "seq_len")
    step = max(1, batch_tokens // length)
    nll: list[float] = []
    with frozen(model), torch.no_grad():
        for start in range(0, count, step):
            nll += text_losses(model, windows[start : start + step]).double().mean(dim=1).tolist()
            for window in range(start, len(nll)):
                if not math.isfinite(nll[window]):
                    problem = f"the loss of window {window} (of {count}, counted from 0) is {nll[window]}"
                    raise not_finite(problem, model)
            if progress is not None:
                progress(len(nll), count)
    mean = torch.tensor(math.fsum(nll) / count, dtype=torch.float64)  # its exp is inf, not an error, beyond 709
    return PerplexityResult(value=mean.exp().item(), nll_per_window=nll, tokens=count * (length - 1))
