"""Next-token losses that never hold the logits of a whole batch, or of the whole vocabulary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from reproducer.models.architecture import family_of

# Rows (tokens) and columns (words) of logits that exist together. A CPU multiplies by a few thousand words at a time in
# up to half the time that it takes for all of 49,152; a GPU wants more work at once.
CPU_BLOCK = (1024, 4096)
GPU_BLOCK = (2048, 8192)
CACHE_BYTES = 2**21  # of them in float32, that a CPU works on at once: what leaves its cache takes three times as long
SCORED_TOKENS = 1024  # tokens of a batch of a task, whose logits exist together: those that predict an answer


def next_token_losses(model: nn.Module, hidden: Tensor, labels: Tensor) -> Tensor:
    """`token_losses` with `model`'s own head, its scaling and soft-capping of the logits included.

    Args:
        model: a causal language model of a declared family, also with adapters in it.
        hidden: [batch, length, width], what its decoder returns as `last_hidden_state`.
        labels: LongTensor [batch, length], the input ids themselves (the shift happens here); -100 is ignored.
    """
    config: Any = model.config
    family = family_of(config)
    divisor = getattr(config, family.logit_divisor) if family.logit_divisor else 1.0
    cap = getattr(config, family.logit_cap, None) if family.logit_cap else None  # the first Gemma has none
    return token_losses(hidden, family.head_of(model), labels, divisor, cap)


def text_losses(model: nn.Module, ids: Tensor) -> Tensor:
    """Next-token losses [batch, length - 1] of token ids [batch, length], on any device, by a pass of `model`."""
    family = family_of(model.config)
    ids = ids.to(family.head_of(model).weight.device)
    hidden = family.decoder_of(model)(input_ids=ids, use_cache=False).last_hidden_state
    return next_token_losses(model, hidden, ids)


def token_losses(
    hidden: Tensor, head: nn.Linear, labels: Tensor, divisor: float = 1.0, cap: float | None = None
) -> Tensor:
    """Cross-entropy of every next token, from the hidden states behind the model's final norm.

    The logits are made and dropped block by block. Differentiable with respect to `hidden`: its gradient is
    formed in the same visit to a block, so nothing is computed twice and memory stays that of one block. The
    head counts as frozen and receives no gradient.

    Args:
        hidden: [batch, length, width], any floating dtype, *after* the final norm.
        head: the language-model head, `vocabulary` x `width`.
        labels: LongTensor [batch, length], the input ids themselves (the shift happens here); -100 is ignored.
        divisor: of the head's output (Granite's `logits_scaling`).
        cap: c of a final c·tanh(logits / c) (Gemma 2's `final_logit_softcapping`).

    Returns:
        float32 (float64 for a float64 model) [batch, length - 1]; position t holds the loss of token t + 1,
        0 where its label is -100.
    """
    rows = hidden[:, :-1].reshape(-1, hidden.shape[-1])
    targets = labels[:, 1:].reshape(-1).to(rows.device)
    bias = None if head.bias is None else head.bias.detach()
    losses = _HeadCrossEntropy.apply(rows, head.weight.detach(), bias, targets, divisor, cap)
    return losses.view(hidden.shape[0], hidden.shape[1] - 1)


class _HeadCrossEntropy(torch.autograd.Function):
    """Cross-entropy of capped, scaled `rows @ weight.T + bias`; d loss / d rows is ready when the forward pass ends."""

    @staticmethod
    def forward(
        ctx, rows: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, divisor: float, cap: float | None
    ) -> Tensor:
        at_once, columns = CPU_BLOCK if rows.device.type == "cpu" else GPU_BLOCK
        head = _Head(weight, bias, divisor, cap, columns)
        parts = zip(rows.split(at_once), targets.split(at_once), strict=True)
        results = [head.cross_entropy(*part, ctx.needs_input_grad[0]) for part in parts]
        losses, gradients = zip(*results, strict=True)
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(torch.cat(gradients))
        return torch.cat(losses)

    @staticmethod
    def backward(ctx, upstream: Tensor) -> tuple:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream.unsqueeze(1).to(gradient.dtype), None, None, None, None, None


@dataclass(frozen=True)
class _Head:
    """A head whose logits are taken some columns at a time.

    Let z be the logits of a row, t its target and R = log Σ exp(z_v) over all words v but t. The loss is
    log(1 + exp(R - z_t)); with p the softmax over the words but t, its gradient is sigmoid(R - z_t)·(Σ p_v·w_v - w_t).
    R and the mean Σ p_v·w_v of a block are joined with those of the blocks before. The target is kept apart because
    next to a probability of nearly 1 nothing would be left of the other words in bfloat16.
    """

    weight: Tensor
    bias: Tensor | None
    divisor: float
    cap: float | None
    columns: int

    def cross_entropy(self, rows: Tensor, targets: Tensor, with_gradient: bool) -> tuple[Tensor, Tensor | None]:
        """Losses [rows] in float32 or float64, and their gradients [rows, width] in the dtype of `rows`."""
        wide = torch.promote_types(rows.dtype, torch.float32)
        targets = targets.unsqueeze(1)
        counted, targets = targets >= 0, targets.clamp(min=0)
        none = torch.finfo(wide).min / 4  # the logit of a word that has no part; minus infinity would leave no softmax
        others = rows.new_full(targets.shape, none, dtype=wide)
        own, own_slope = torch.zeros_like(others), torch.ones_like(others)
        mean = torch.zeros_like(rows, dtype=wide) if with_gradient else None
        cached = CACHE_BYTES // (self.columns * wide.itemsize)
        group = max(1, cached if rows.device.type == "cpu" else len(rows))
        for start in range(0, self.weight.shape[0], self.columns):
            of_block = slice(start, start + self.columns)
            weight = self.weight[of_block]
            logits = nn.functional.linear(rows, weight, None if self.bias is None else self.bias[of_block])
            here = (targets >= start) & (targets < start + len(weight))
            place = (targets - start).clamp(0, len(weight) - 1)
            of_others = torch.empty_like(others)
            for first in range(0, len(rows), group):
                part = slice(first, first + group)
                values, slope = self._scaled(logits[part].to(wide), with_gradient)
                at, picked = place[part], values.gather(1, place[part])
                own[part] = torch.where(here[part], picked, own[part])
                values.scatter_(1, at, picked.masked_fill_(here[part], none))
                of_others[part] = torch.logsumexp(values, dim=1, keepdim=True)
                if mean is None:
                    continue
                shares = torch.softmax(values, dim=1)
                if slope is not None:
                    own_slope[part] = torch.where(here[part], slope.gather(1, at), own_slope[part])
                    shares.mul_(slope)
                logits[part] = shares
            joined = torch.logaddexp(others, of_others)
            if mean is not None:
                mean.mul_((others - joined).exp_()).add_((of_others - joined).exp_() * (logits @ weight))
            others = joined
            del logits  # before the next block's are made
        gap = (others - own).masked_fill_(own == torch.inf, torch.nan)  # else an infinite target would be a sure one
        losses = (torch.logaddexp(gap, torch.zeros_like(gap)) * counted).squeeze(1)
        if mean is None:
            return losses, None
        mean.sub_(own_slope * self.weight[targets.squeeze(1)])
        return losses, mean.mul_(torch.sigmoid(gap) / self.divisor * counted).to(rows.dtype)

    def _scaled(self, values: Tensor, with_slope: bool) -> tuple[Tensor, Tensor | None]:
        """Scaled and capped logits, in place, and, where they are capped, the slope of the cap."""
        if self.divisor != 1:
            values.div_(self.divisor)
        if self.cap is None:
            return values, None
        values.div_(self.cap).tanh_()
        slope = 1 - values.square() if with_slope else None  # of c·tanh(x / c): 1 - tanh²(x / c)
        return values.mul_(self.cap), slope
