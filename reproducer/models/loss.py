"""Next-token losses that never hold the logits of a whole batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

LOGITS_AT_ONCE = 2**24  # elements of one chunk of logits: 64 MiB in fp32, 340 tokens of a 49,152-word vocabulary
SCORED_TOKENS = 1024  # tokens of a batch of a task, whose logits exist together: lm-eval looks at all of them


def token_losses(hidden: Tensor, head: nn.Linear, labels: Tensor, chunk_tokens: int | None = None) -> Tensor:
    """Cross-entropy of every next token, from the hidden states behind the model's final norm.

    The logits are made and dropped chunk by chunk. Differentiable with respect to `hidden`: its gradient is
    formed in the same visit to a chunk, so nothing is computed twice and memory stays that of one chunk. The
    head counts as frozen and receives no gradient.

    Args:
        hidden: [batch, length, width], any floating dtype, *after* the final norm.
        head: the language-model head, `vocabulary` x `width`.
        labels: LongTensor [batch, length], the input ids themselves (the shift happens here); -100 is ignored.
        chunk_tokens: rows of logits held at once; by default about 64 MiB of them.

    Returns:
        float32 (float64 for a float64 model) [batch, length - 1]; position t holds the loss of token t + 1,
        0 where its label is -100.
    """
    rows = hidden[:, :-1].reshape(-1, hidden.shape[-1])
    targets = labels[:, 1:].reshape(-1).to(rows.device)
    chunk = chunk_tokens or max(1, LOGITS_AT_ONCE // head.weight.shape[0])
    bias = None if head.bias is None else head.bias.detach()
    losses = _HeadCrossEntropy.apply(rows, head.weight.detach(), bias, targets, chunk)
    return losses.view(hidden.shape[0], hidden.shape[1] - 1)


class _HeadCrossEntropy(torch.autograd.Function):
    """Cross-entropy of `rows @ weight.T + bias`; d loss / d rows is ready when the forward pass ends."""

    @staticmethod
    def forward(ctx, rows: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, chunk: int) -> Tensor:
        wide = torch.float64 if rows.dtype == torch.float64 else torch.float32
        losses = torch.zeros(rows.shape[0], dtype=wide, device=rows.device)
        gradient = torch.empty_like(rows) if ctx.needs_input_grad[0] else None
        for start in range(0, rows.shape[0], chunk):
            part = slice(start, start + chunk)
            counted = targets[part] >= 0
            index = targets[part].clamp(min=0).unsqueeze(1)
            logits = nn.functional.linear(rows[part], weight, bias).to(wide)
            normaliser = torch.logsumexp(logits, dim=-1, keepdim=True)
            losses[part] = (normaliser - logits.gather(1, index)).squeeze(1) * counted
            if gradient is not None:
                surplus = logits.sub_(normaliser).exp_()  # the probabilities, in the logits' place
                surplus.scatter_add_(1, index, torch.full_like(index, -1, dtype=wide))
                gradient[part] = (surplus.to(weight.dtype) @ weight) * counted.unsqueeze(1)
                del surplus
            del logits  # before the next chunk's are made
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return losses

    @staticmethod
    def backward(ctx, upstream: Tensor) -> tuple:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream.unsqueeze(1).to(gradient.dtype), None, None, None, None
