"""A model taken layer by layer: the caller holds the hidden states and decides what runs on them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from reproducer.errors import UserError
from reproducer.models.architecture import architecture_of
from reproducer.models.loss import next_token_losses

Change = Callable[[Tensor], Tensor]
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
    """Stands where a decoder layer stands: keeps how the model calls it, and answers with what it is told to."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self._layer = [layer]  # in a list: the layer must not become a submodule
        self.arguments: dict[str, Any] = {}
        self.received: Tensor | None = None
        self.answer: Tensor | None = None

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self._layer[0], name)

    def forward(self, hidden: Tensor, **arguments: Any) -> Tensor:
        self.arguments, self.received = arguments, hidden
        return hidden if self.answer is None else self.answer


class LayerWalk:
    """Runs the decoder layers of a causal language model one at a time on unpadded sequences of one length.

    What lies in front of the first layer and behind the last one (scaled embeddings, learned positions, projections,
    the final norm), position embeddings and attention masks are those of the model's own forward pass, in which
    recorders stand in place of the layers; no model code is repeated here.

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
        self.model = model
        self.architecture = architecture_of(model)
        self.layers = self.architecture.decoder_layers(model)
        self.device = self.architecture.head_of(model).weight.device
        recorders = [_Recorder(layer) for layer in self.layers]
        with torch.no_grad():
            self._decoder(recorders)(input_ids=self._blank(1, length), use_cache=False)
        self._arguments = [recorder.arguments for recorder in recorders]
        self._between = _Recorder(self.layers[0])
        self._around = self._decoder([self._between])  # all of the decoder but its layers

    def embed(self, ids: Tensor) -> Tensor:
        """Hidden states [batch, length, width] in front of the first layer, of token ids [batch, length]."""
        self._around(input_ids=ids.to(self.device), use_cache=False)
        hidden, self._between.received = self._between.received, None
        assert hidden is not None
        return hidden

    def run(self, index: int, hidden: Tensor, layer: Callable[..., Any] | None = None) -> Tensor:
        """Decoder layer `index` (or `layer` in its place) on hidden states [batch, length, width]."""
        arguments = tree_map(
            lambda value: value.to(hidden.device) if isinstance(value, Tensor) else value, self._arguments[index]
        )
        output = (layer or self.layers[index])(hidden, **arguments)
        return output[0] if isinstance(output, tuple) else output

    def finish(self, hidden: Tensor) -> Tensor:
        """What the head sees [batch, length, width of the head], from the hidden states behind the last layer."""
        self._between.answer = hidden
        try:
            return self._around(input_ids=self._blank(*hidden.shape[:2]), use_cache=False).last_hidden_state
        finally:
            self._between.received = self._between.answer = None

    def losses(self, hidden: Tensor, ids: Tensor) -> Tensor:
        """Next-token losses [batch, length - 1] from the hidden states behind the last layer."""
        return next_token_losses(self.model, self.finish(hidden), ids)

    def changed_losses(self, ids: Tensor, changes: Mapping[int, Mapping[str, Change]]) -> dict[str, float]:
        """The sum of the next-token losses of `ids` [samples, length] with each change alone, by its name.

        What lies below a change runs once for all of them.

        Args:
            changes: {layer: {name: what runs in its place, on hidden states [batch, length, width]}}.
        """
        losses = {name: 0.0 for of_layer in changes.values() for name in of_layer}
        with torch.no_grad():
            for batch in ids.split(max(1, BATCH_TOKENS // ids.shape[1])):
                below = self.embed(batch)
                for index in range(max(changes) + 1):
                    for name, change in changes.get(index, {}).items():
                        hidden = change(below)
                        for above in range(index + 1, len(self.layers)):
                            hidden = self.run(above, hidden)
                        losses[name] += float(self.losses(hidden, batch).double().sum())
                    below = self.run(index, below)
        return losses

    def _decoder(self, layers: list[_Recorder]) -> nn.Module:
        """The model's decoder on a shallow copy that has these layers."""
        decoder = copy.copy(self.architecture.decoder_of(self.model))
        decoder._modules = {**decoder._modules, "layers": nn.ModuleList(layers)}
        decoder.training = False  # whatever the model's mode was when the walk was made
        return decoder

    def _blank(self, batch: int, length: int) -> Tensor:
        return torch.zeros(batch, length, dtype=torch.long, device=self.device)
