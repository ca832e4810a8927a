"""Counting the tokens that a model is given, forward and backward."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from reproducer.models.architecture import architecture_of

if TYPE_CHECKING:
    from torch import nn


@dataclass
class Tokens:
    """Tokens that passed a decoder layer, forward and backward, summed over the layers.

    Divided by the number of layers they are tokens that passed the whole model: a pass that ends half way counts half.
    """

    forward: int = 0
    backward: int = 0


@contextmanager
def counting(model: nn.Module, tokens: Tokens) -> Iterator[Tokens]:
    """Add to `tokens` whatever runs through decoder layers of `model`'s kind inside, through copies and cut ones too.

    What a backward pass computes again counts again; padding counts. Passes of other threads count, too.
    """
    from torch.nn.modules.module import register_module_forward_hook

    kinds = {type(layer) for layer in architecture_of(model).decoder_layers(model)}

    def passed(module: nn.Module, arguments: Any, output: Any) -> None:
        if type(module) not in kinds:
            return
        hidden = output[0] if isinstance(output, tuple) else output
        count = hidden.shape[:-1].numel()
        tokens.forward += count
        if hidden.requires_grad:

            def back(gradient: Any) -> None:
                tokens.backward += count

            hidden.register_hook(back)

    handle = register_module_forward_hook(passed)
    try:
        yield tokens
    finally:
        handle.remove()
