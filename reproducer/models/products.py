"""Matrix products in bfloat16 and float16 on processors that have no instructions for them.

torch multiplies such matrices there without its fast kernels, at a sixth of the speed of float32 or less, and at an
eighteenth where gradients are asked for (SmolLM2-135M on a processor with AVX2). Inside `wide_products` factors are
widened to float32, which loses nothing, multiplied, and the product is rounded once: what the instructions do too.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

NARROW = (torch.bfloat16, torch.float16)
aten = torch.ops.aten
ATTENTION = aten._scaled_dot_product_flash_attention_for_cpu.default
PRODUCTS = frozenset(
    {
        aten.mm.default,
        aten.addmm.default,
        aten.bmm.default,
        aten.baddbmm.default,
        aten.linear.default,  # it and matmul come undivided in inference mode
        aten.matmul.default,
        ATTENTION,
        aten._scaled_dot_product_flash_attention_for_cpu_backward.default,
    }
)


def wide_products(dtype: torch.dtype, device: torch.device) -> AbstractContextManager[object]:
    """Inside, this thread's products of matrices in `dtype` are formed in float32 and rounded, if that is needed here.

    It is where `device` is a processor that multiplies them slowly. Backward passes that are run inside form theirs so
    too, hooks and recomputed parts included.
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


class WideProducts(TorchDispatchMode):
    """Forms products of narrow factors in float32; whatever else is called stays as it is."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        narrow = _narrow_dtype(args) if func in PRODUCTS else None
        if narrow is None:
            return func(*args, **kwargs)
        product = func(*tree_map(_wide, args), **tree_map(_wide, kwargs))
        if func is ATTENTION:
            return product[0].to(narrow), product[1]  # the logarithms of its sums are float32 in any case
        return tree_map(lambda each: each.to(narrow) if isinstance(each, Tensor) else each, product)


def _narrow_dtype(args: Any) -> torch.dtype | None:
    """The narrow dtype of the factors; None where they are wide, or differ, which torch refuses.

    A sixth argument is what attention's backward pass has kept in float32.
    """
    dtypes = {each.dtype for each in args[:5] if isinstance(each, Tensor)}
    dtype = dtypes.pop()
    return dtype if dtype in NARROW and not dtypes else None


def _wide(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.dtype in NARROW else value
