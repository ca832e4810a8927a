"""Next-token losses that never hold the logits of a whole batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from reproducer.models.architecture import family_of

LOGITS_AT_ONCE = 2**24  # elements of one chunk of logits: 64 MiB in fp32, 340 tokens of a 49,152-word vocabulary
CACHE_BYTES = 2**21  # of them in float32, that a CPU works on at once: what leaves its cache takes three times as long
SCORED_TOKENS = 1024  # tokens of a batch of a task, whose logits exist together: those that predict an answer


def next_token_losses(model: nn.Module, hidden: Tensor, labels: Tensor, chunk_tokens: int | None = None) -> Tensor:
    """`token_losses` with `model`'s own head, its scaling and soft-capping of the logits included.

    Args:
        model: a causal language model of a declared family, also with adapters in it.
        hidden: [batch, length, width], what its decoder returns as `last_hidden_state`.
        labels: LongTensor [batch, length], the input ids themselves (the shift happens here); -100 is ignored.
        chunk_tokens: rows of logits held at once; by default about 64 MiB of them.
    """
    config: Any = model.config
    family = family_of(config)
    divisor = getattr(config, family.logit_divisor) if family.logit_divisor else 1.0
    cap = getattr(config, family.logit_cap, None) if family.logit_cap else None  # the first Gemma has none
    return token_losses(hidden, family.head_of(model), labels, chunk_tokens, divisor, cap)


def token_losses(
    hidden: Tensor,
    head: nn.Linear,
    labels: Tensor,
    chunk_tokens: int | None = None,
    divisor: float = 1.0,
    cap: float | None = None,
) -> Tensor:
    """Cross-entropy of every next token, from the hidden states behind the model's final norm.

    The logits are made and dropped chunk by chunk. Differentiable with respect to `hidden`: its gradient is
    formed in the same visit to a chunk, so nothing is computed twice and memory stays that of one chunk. The
    head counts as frozen and receives no gradient.

    Args:
        hidden: [batch, length, width], any floating dtype, *after* the final norm.
        head: the language-model head, `vocabulary` x `width`.
        labels: LongTensor [batch, length], the input ids themselves (the shift happens here); -100 is ignored.
        chunk_tokens: rows of logits held at once; by default about 64 MiB of them.
        divisor: of the head's output (Granite's `logits_scaling`).
        cap: c of a final c·tanh(logits / c) (Gemma 2's `final_logit_softcapping`).

    Returns:
        float32 (float64 for a float64 model) [batch, length - 1]; position t holds the loss of token t + 1,
        0 where its label is -100.
    """
    rows = hidden[:, :-1].reshape(-1, hidden.shape[-1])
    targets = labels[:, 1:].reshape(-1).to(rows.device)
    chunk = chunk_tokens or max(1, LOGITS_AT_ONCE // head.weight.shape[0])
    bias = None if head.bias is None else head.bias.detach()
    losses = _HeadCrossEntropy.apply(rows, head.weight.detach(), bias, targets, chunk, divisor, cap)
    return losses.view(hidden.shape[0], hidden.shape[1] - 1)


class _HeadCrossEntropy(torch.autograd.Function):
    """Cross-entropy of capped, scaled `rows @ weight.T + bias`; d loss / d rows is ready when the forward pass ends."""

    @staticmethod
    def forward(
        ctx,
        rows: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        chunk: int,
        divisor: float,
        cap: float | None,
    ) -> Tensor:
        wide = torch.float64 if rows.dtype == torch.float64 else torch.float32
        losses = torch.zeros(rows.shape[0], dtype=wide, device=rows.device)
        gradient = torch.empty_like(rows) if ctx.needs_input_grad[0] else None
        row_bytes = weight.shape[0] * wide.itemsize
        group = max(1, CACHE_BYTES // row_bytes) if rows.device.type == "cpu" else chunk
        for start in range(0, rows.shape[0], chunk):
            part = slice(start, start + chunk)
            counted = targets[part] >= 0
            index = targets[part].clamp(min=0).unsqueeze(1)
            logits = nn.functional.linear(rows[part], weight, bias)
            of_part = losses[part].split(group)
            for scores, own, loss in zip(logits.split(group), index.split(group), of_part, strict=True):
                values = scores.to(wide)
                if divisor != 1:
                    values = values / divisor
                if cap is not None:
                    values = torch.tanh(values / cap).mul_(cap)
                log_probabilities = torch.log_softmax(values, dim=-1)
                loss.copy_(log_probabilities.gather(1, own).squeeze(1).neg_())
                if gradient is None:
                    continue
                surplus = log_probabilities.exp_().scatter_add_(1, own, torch.full_like(own, -1, dtype=wide))
                if cap is not None:  # the derivative of c·tanh(x / c) is 1 - tanh²(x / c)
                    surplus.mul_(1 - (values / cap).square_())
                if divisor != 1:
                    surplus.div_(divisor)
                scores.copy_(surplus)  # in the logits' place
            losses[part].mul_(counted)
            if gradient is not None:
                gradient[part] = (logits @ weight) * counted.unsqueeze(1)
            del logits  # before the next chunk's are made
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return losses

    @staticmethod
    def backward(ctx, upstream: Tensor) -> tuple:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream.unsqueeze(1).to(gradient.dtype), None, None, None, None, None, None
