"""A model taken layer by layer: the caller holds the hidden states and decides what runs on them."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn

from reproducer.errors import UserError
from reproducer.models.architecture import architecture_of
from reproducer.models.loss import token_losses

BATCH_TOKENS = 2048  # tokens that run through a layer at once where only losses are wanted


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Evaluation mode and no parameter gradients inside; every module's mode and every flag as before afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        model.eval()
        for parameter, _ in flags:
            parameter.requires_grad_(False)
        yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


class _Recorder(nn.Module):
    """Stands where a decoder layer stands and keeps the arguments that the model would have called it with."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self._layer = [layer]  # in a list: the layer must not become a submodule
        self.arguments: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self._layer[0], name)

    def forward(self, hidden: Tensor, **arguments: Any) -> Tensor:
        self.arguments = arguments
        return hidden


class LayerWalk:
    """Runs the decoder layers of a causal language model one at a time on unpadded sequences of one length.

    Position embeddings and attention masks are those that the model's own forward pass makes; no model code is
    repeated here.

    Args:
        model: a model of a declared architecture.
        length: tokens a sequence.

    Raises:
        UserError: the sequences are longer than the model's context.
    """

    def __init__(self, model: nn.Module, length: int) -> None:
        limit = getattr(model.config, "max_position_embeddings", None)
        if limit is not None and length > limit:
            raise UserError(f"sequences of {length} tokens are longer than the model's context of {limit}")
        self.architecture = architecture_of(model)
        self.layers = self.architecture.decoder_layers(model)
        self.norm: nn.Module = attrgetter(self.architecture.norm)(model)
        self.head: nn.Linear = attrgetter(self.architecture.head)(model)
        self._embedding: nn.Module = attrgetter(self.architecture.embedding)(model)
        self.device = self.head.weight.device
        # The decoder's own forward pass on a shallow copy whose layers only record how they are called.
        decoder = copy.copy(attrgetter(self.architecture.decoder)(model))
        decoder._modules = dict(decoder._modules)
        recorders = [_Recorder(layer) for layer in self.layers]
        decoder._modules["layers"] = nn.ModuleList(recorders)
        with torch.no_grad():
            decoder(input_ids=torch.zeros(1, length, dtype=torch.long, device=self.device), use_cache=False)
        self._arguments = [recorder.arguments for recorder in recorders]

    def embed(self, ids: Tensor) -> Tensor:
        """Token embeddings of `ids` [batch, length] as [batch, length, width]."""
        return self._embedding(ids.to(self.device))

    def run(self, index: int, hidden: Tensor, layer: nn.Module | None = None) -> Tensor:
        """Decoder layer `index` (or `layer` in its place) on hidden states [batch, length, width]."""
        output = (layer or self.layers[index])(hidden, **self._arguments[index])
        return output[0] if isinstance(output, tuple) else output

    def losses(self, hidden: Tensor, ids: Tensor) -> Tensor:
        """Next-token losses [batch, length - 1] from the hidden states behind the last layer."""
        return token_losses(self.norm(hidden), self.head, ids)
