"""A model in memory -> a GGUF file that llama.cpp loads."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter, LlamaFileType
from torch import Tensor
from torch.nn import functional

from reproducer.errors import UserError
from reproducer.files import replacing
from reproducer.models.architecture import LayerShape, architecture_of, layer_shape
from reproducer.models.families import PRUNED
from reproducer.models.gguf.tokenizer import add_tokenizer
from reproducer.models.gguf.types import BLOCK, FileType, file_type, fitting, stored
from reproducer.models.tokenizer import load_tokenizer, within

MODEL_TYPES = ("llama", "mistral", "qwen2")  # the last: with biases, which `llama` has a place for

# Modules of a decoder layer, and what llama.cpp calls them.
LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


@dataclass(frozen=True)
class Written:
    """What a file holds.

    Attributes:
        architecture: llama.cpp's name: `llama`, or `deci` where layers differ in their widths.
        padded: layers whose feed-forward width was filled up with zero channels, to a multiple of a block.
        matrices: how many there are of each type.
    """

    architecture: str
    padded: int
    matrices: dict[str, int]


@dataclass(frozen=True)
class _Entry:
    """A tensor of the file: its name, shape and type there, and what makes its float32 values when it is written."""

    name: str
    shape: tuple[int, ...]
    kind: GGMLQuantizationType
    values: Callable[[], np.ndarray]

    @property
    def bytes(self) -> int:
        numbers, size = GGML_QUANT_SIZES[self.kind]
        return math.prod(self.shape) // numbers * size

    def stored(self) -> np.ndarray:
        values = self.values()
        if not np.isfinite(values).all():
            raise UserError(f"the model's {self.name} holds values that are no finite numbers")
        return stored(values, self.kind)


def write_gguf(model: Any, tokenizer: str | Path, path: str | Path, type: str = "f16") -> Written:
    """Write a model, dense or pruned, as a GGUF file for llama.cpp.

    Layers of one shape make llama.cpp's `llama` architecture, others its `deci`, which has numbers of heads, of
    key-value heads and of feed-forward channels for each layer. In a quantised file, feed-forward widths are
    filled up with zero channels, which change no result, to multiples of 32; a matrix whose rows still do not fit a
    type gets the one that llama.cpp's own quantizer takes in its place. Biases and norms are float32.

    Args:
        model: a causal language model of transformers as `Plan.apply` returns it; adapters merged.
        tokenizer: a folder with the tokenizer's files.
        path: of the file, which appears when it is complete; one that is there is replaced.
        type: f32, f16, bf16, q8_0, or one of those that llama.cpp quantises itself: q6_k, q5_k_m, q4_k_m.

    Raises:
        UserError: an unknown type, a model or tokenizer that llama.cpp cannot carry, weights that are no numbers or
            beyond the type's range; or a type that needs a package which is not installed.
        OSError: the disk is full, say. Nothing is left at `path` then.
    """
    chosen, path = file_type(type), Path(path)
    architecture = architecture_of(_carried(model))
    shapes = [layer_shape(layer, architecture) for layer in architecture.decoder_layers(model)]
    widths = [_filled(shape.channels, chosen) for shape in shapes]
    entries = list(_entries(model, shapes, widths, chosen))
    rows = model.get_input_embeddings().num_embeddings
    with (
        replacing(path, shared=True) as part,
        closing(GGUFWriter(part, "llama" if len(set(shapes)) == 1 else "deci")) as writer,
    ):
        _add_settings(writer, model.config, shapes, widths, chosen)
        add_tokenizer(writer, within(load_tokenizer(Path(tokenizer)), rows), rows)
        for entry in entries:
            writer.add_tensor_info(entry.name, entry.shape, np.dtype(np.float32), entry.bytes, raw_dtype=entry.kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for entry in entries:
            writer.write_tensor_data(entry.stored())
    kinds = [entry.kind.name.lower() for entry in entries if len(entry.shape) > 1]
    padded = sum(width != shape.channels for width, shape in zip(widths, shapes, strict=True))
    return Written(writer.arch, padded, {kind: kinds.count(kind) for kind in sorted(set(kinds))})


def _carried(model: Any) -> Any:
    """The model, if llama.cpp's `llama` computes what it does."""
    config = model.config
    refused = None
    model_type = config.model_type.removeprefix(PRUNED)
    if model_type not in MODEL_TYPES:
        refused = f"it is of type '{model_type}'; written are {', '.join(MODEL_TYPES)}"
    elif config.hidden_act != "silu":
        refused = f"its activation is {config.hidden_act}, not silu"
    elif config.rope_parameters["rope_type"] == "dynamic":
        refused = "its rotary embeddings change with the length of a text (rope_type dynamic)"
    elif getattr(model.model.rotary_emb, "attention_scaling", 1.0) != 1.0:
        refused = f"its rotary embeddings (rope_type {config.rope_parameters['rope_type']}) scale the attention"
    if refused:
        raise UserError(f"this model cannot be written for llama.cpp's llama architecture: {refused}")
    return model


def _filled(channels: int, chosen: FileType) -> int:
    return -(-channels // BLOCK) * BLOCK if chosen.quantised else channels


def _add_settings(
    writer: GGUFWriter, config: Any, shapes: list[LayerShape], widths: list[int], chosen: FileType
) -> None:
    heads = [shape.groups * shape.queries_per_group for shape in shapes]
    groups = [shape.groups for shape in shapes]
    even = writer.arch == "llama"
    window = getattr(config, "sliding_window", None)  # within it the attention is the usual one
    writer.add_type("model")
    writer.add_block_count(len(shapes))
    writer.add_context_length(min(config.max_position_embeddings, window or config.max_position_embeddings))
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(widths[0] if even else widths)
    writer.add_head_count(heads[0] if even else heads)
    writer.add_head_count_kv(groups[0] if even else groups)
    writer.add_key_length(shapes[0].head_dim)
    writer.add_value_length(shapes[0].head_dim)
    writer.add_rope_dimension_count(shapes[0].head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_file_type(LlamaFileType[chosen.file])
    if chosen.quantised:
        writer.add_quantization_version(2)


def _entries(model: Any, shapes: list[LayerShape], widths: list[int], chosen: FileType) -> Iterator[_Entry]:
    embeddings, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    tied = head is embeddings
    known = {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"}
    yield _entry("token_embd.weight", embeddings, chosen.output if tied else chosen.matrix)
    yield _entry("output_norm.weight", model.model.norm.weight, chosen.matrix)
    if not tied:
        yield _entry("output.weight", head, chosen.output)
    factors = _frequency_factors(model, shapes[0].head_dim)
    if factors is not None:
        yield _entry("rope_freqs.weight", factors, chosen.matrix)
    for index, (layer, shape, width) in enumerate(zip(model.model.layers, shapes, widths, strict=True)):
        for path, name in LAYER.items():
            kind = chosen.of_layer(name, index, len(shapes))
            change = _changes(shape, width).get(name)
            for leaf, parameter in layer.get_submodule(path).named_parameters():
                known.add(f"model.layers.{index}.{path}.{leaf}")
                yield _entry(f"blk.{index}.{name}.{leaf}", parameter, kind, change)
    unknown = [name for name, _ in model.named_parameters() if name not in known]
    if unknown:
        raise UserError(f"llama.cpp's llama architecture has no place for {unknown[0]}")


def _entry(name: str, tensor: Tensor, kind: str, change: Callable[[Tensor], Tensor] | None = None) -> _Entry:
    """A tensor as it is, or changed; vectors are float32 in every file."""
    changed = change or (lambda tensor: tensor)
    shape = tuple(changed(tensor.detach().to("meta")).shape)
    fitted = fitting(kind, shape[-1]) if len(shape) > 1 else GGMLQuantizationType.F32
    return _Entry(name, shape, fitted, lambda: changed(tensor.detach().to("cpu", torch.float32)).contiguous().numpy())


def _changes(shape: LayerShape, width: int) -> dict[str, Callable[[Tensor], Tensor]]:
    """What becomes of the modules of a layer that are not written as they are."""
    heads, more = shape.groups * shape.queries_per_group, width - shape.channels

    def columns(tensor: Tensor) -> Tensor:
        return functional.pad(tensor, (0, more)) if tensor.dim() == 2 else tensor

    def rows(tensor: Tensor) -> Tensor:
        return functional.pad(tensor, (0, 0, 0, more) if tensor.dim() == 2 else (0, more))

    return {
        "attn_q": partial(_interleaved, heads=heads),
        "attn_k": partial(_interleaved, heads=shape.groups),
        "ffn_gate": rows,
        "ffn_up": rows,
        "ffn_down": columns,
    }


def _interleaved(tensor: Tensor, heads: int) -> Tensor:
    """Rows of queries or keys in the order in which llama.cpp rotates them.

    transformers turns row i of a head with row i + d/2, llama.cpp row 2i with row 2i + 1.
    """
    return tensor.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)


def _frequency_factors(model: Any, head_dim: int) -> Tensor | None:
    """By what the model divides the usual frequencies of its rotary embeddings; None where it does not."""
    theta = model.config.rope_parameters["rope_theta"]
    usual = theta ** -(torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    factors = usual / model.model.rotary_emb.inv_freq.detach().to("cpu", torch.float64)
    return None if torch.allclose(factors, torch.ones_like(factors), rtol=1e-5) else factors
