"""Matrix products in bfloat16 and float16 on processors that have no instructions for them.

torch multiplies such matrices there without its fast kernels, at a sixth of the speed of float32 or less, and at an
eighteenth where gradients are asked for (SmolLM2-135M on a processor with AVX2). Inside `wide_products` factors are
widened to float32, which loses nothing, multiplied, and the product is rounded once: what the instructions do too.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

NARROW = (torch.bfloat16, torch.float16)
LINEAR = nn.functional.linear
PRODUCTS: frozenset[Callable[..., Any]] = frozenset(
    {
        torch.matmul,
        torch.mm,
        torch.bmm,
        torch.Tensor.matmul,
        torch.Tensor.__matmul__,
        torch.Tensor.mm,
        torch.Tensor.bmm,
        nn.functional.scaled_dot_product_attention,
    }
)


def wide_products(dtype: torch.dtype, device: torch.device) -> AbstractContextManager[object]:
    """Inside, this thread's products of matrices in `dtype` are formed in float32 and rounded, if that is needed here.

    It is where `device` is a processor that multiplies them slowly. Gradients are formed so too, those of first order.
    """
    if device.type == "cpu" and dtype in NARROW and not has_fast_products(dtype):
        return WideProducts()
    return nullcontext()


def has_fast_products(dtype: torch.dtype) -> bool:
    """Whether torch has fast kernels for this narrow dtype on this processor: those of oneDNN."""
    if not torch.backends.mkldnn.is_available():
        return False
    kernels = torch.ops.mkldnn
    asked = {torch.bfloat16: "_is_mkldnn_bf16_supported", torch.float16: "_is_mkldnn_fp16_supported"}[dtype]
    return bool(getattr(kernels, asked)())


class WideProducts(TorchFunctionMode):
    """Forms products of narrow factors in float32; whatever else is called stays as it is."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not LINEAR and func not in PRODUCTS:
            return func(*args, **kwargs)
        dtypes = {leaf.dtype for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)} - {torch.bool}
        narrow = dtypes.pop() if len(dtypes) == 1 else None
        if narrow not in NARROW or "out" in kwargs:
            return func(*args, **kwargs)
        if func is LINEAR:
            return _linear(*args, **kwargs)
        return func(*tree_map(_wide, args), **tree_map(_wide, kwargs)).to(narrow)


def _wide(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.dtype in NARROW else value


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return _Linear.apply(input, weight, bias)


class _Linear(torch.autograd.Function):
    """`input @ weight.T + bias`; keeps the narrow factors for the backward pass, no wide copy of the weight."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(input, weight)
        return LINEAR(input.float(), weight.float(), _wide(bias)).to(input.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        input, weight = ctx.saved_tensors
        of_input, of_weight, of_bias = ctx.needs_input_grad
        wide = gradient.float()
        rows = wide.flatten(0, -2)
        return (
            (wide @ weight.float()).to(input.dtype) if of_input else None,
            (rows.T @ input.float().flatten(0, -2)).to(weight.dtype) if of_weight else None,
            rows.sum(0).to(weight.dtype) if of_bias else None,
        )
