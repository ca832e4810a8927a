"""Per-sample weight gradients, formed a chunk of vectors at a time, reduced to one number a vector, and dropped."""

from __future__ import annotations

import torch
from torch import Tensor

from reproducer.pruning.statistics import GradientStatistic, Statistic, Terms


def reduce_gradients(
    weight: Tensor, left: Tensor, right: Tensor, wanted: set[GradientStatistic], chunk: int, per_sample: bool = False
) -> dict[Statistic, Tensor]:
    """Reduce per-sample weight gradients `left_jᵀ right_j` to one number a vector, a chunk of vectors at a time.

    Args:
        weight: [vectors, length of a vector].
        left: [samples, tokens, vectors], the factor on the vectors' side (rows: output gradients, columns: inputs).
        right: [samples, tokens, length], the other factor.
        wanted: the statistics to reduce to.
        chunk: bytes of one gradient chunk in the accumulation dtype.
        per_sample: one number a vector and sample, [samples, vectors], in place of [vectors].
    """
    vectors, length = weight.shape
    wide = torch.promote_types(weight.dtype, torch.float32)
    shape = (len(left), vectors) if per_sample else (vectors,)
    results: dict[Statistic, Tensor] = {
        statistic: torch.empty(shape, dtype=wide, device=weight.device) for statistic in sorted(wanted, key=repr)
    }
    size = max(1, chunk // (length * wide.itemsize))
    for start in range(0, vectors, size):
        part = slice(start, min(start + size, vectors))
        rows, columns = weight[part].to(wide).contiguous(), left[..., part]
        samples = 1 if per_sample else len(columns)
        sets = zip(columns.split(samples), right.split(samples), strict=True)
        reduced = [_reduce_chunk(rows, of_left, of_right, wanted) for of_left, of_right in sets]
        for statistic, values in results.items():
            values[..., part] = torch.stack([of_set[statistic] for of_set in reduced]).view_as(values[..., part])
    return {statistic: values.cpu() for statistic, values in results.items()}


def _reduce_chunk(
    weight: Tensor, left: Tensor, right: Tensor, wanted: set[GradientStatistic]
) -> dict[Statistic, Tensor]:
    samples = left.shape[0]
    needed = set().union(*(statistic.needs() for statistic in wanted))
    terms = Terms()
    if needed <= {"s1", "sum_s1"}:  # the mean gradient alone: one product over the tokens of all samples
        terms.s1 = (left.flatten(0, 1).T @ right.flatten(0, 1)).to(weight.dtype).mul_(weight).div_(samples)
    else:
        if "s1" in needed or {"s2", "sum_s1"} <= needed:
            terms.s1 = torch.zeros_like(weight)
        if "s2" in needed:
            terms.s2 = torch.zeros_like(weight)
        first, second = weight.new_zeros(2, weight.shape[0])
        for sample_left, sample_right in zip(left, right, strict=True):
            gradient = (sample_left.T @ sample_right).to(weight.dtype)  # g_j
            if terms.s1 is not None:
                terms.s1 += gradient
            if terms.s2 is not None:
                terms.s2.addcmul_(gradient, gradient)
                continue
            gradient.mul_(weight)
            second += torch.linalg.vector_norm(gradient, dim=1).square_()
            if "sum_s1" in needed and terms.s1 is None:
                first += gradient.sum(dim=1)
        if terms.s1 is not None:
            terms.s1.mul_(weight).div_(samples)
        else:
            terms.sum_s1 = first / samples
        if terms.s2 is not None:
            terms.s2.mul_(weight).mul_(weight).div_(samples)
        else:
            terms.sum_s2 = second / samples
    if terms.s1 is not None and "sum_s1" in needed:
        terms.sum_s1 = terms.s1.sum(dim=1)
    if terms.s2 is not None and "sum_s2" in needed:
        terms.sum_s2 = terms.s2.sum(dim=1)
    return {statistic: statistic.of(terms) for statistic in wanted}
