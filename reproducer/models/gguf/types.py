"""File types of llama.cpp: how each matrix of a model is stored, and the storing itself."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from reproducer.errors import UserError, nearest

if TYPE_CHECKING:
    import numpy as np
    from gguf import GGMLQuantizationType

BLOCK = 32  # numbers that share a scale in the simplest of the quantised types; 256 in those whose name ends in _K
INSTALL = "pip install xllamacpp"


@dataclass(frozen=True)
class FileType:
    """A file type; types of matrices have the names that the package gguf gives them.

    The mixes are those of llama.cpp's own llama-quantize (https://github.com/ggml-org/llama.cpp).

    Attributes:
        file: what the package gguf calls the whole.
        matrix: of a matrix that is none of these two:
        better: of value and down projections in the first and last eighth of the layers and every third between them.
        output: of the matrix that makes logits; the embeddings, where they are tied to it.
    """

    file: str
    matrix: str
    better: str
    output: str

    @property
    def quantised(self) -> bool:
        return self.matrix[0] == "Q"

    def of_layer(self, name: str, index: int, layers: int) -> str:
        """The type of a matrix, by its name in llama.cpp such as `attn_v`, in layer `index`."""
        eighth = layers // 8
        chosen = index < eighth or index >= 7 * layers // 8 or (index - eighth) % 3 == 2
        return self.better if chosen and name in ("attn_v", "ffn_down") else self.matrix


def _same(file: str, matrix: str) -> FileType:
    return FileType(file, matrix, matrix, matrix)


TYPES = {
    "f32": _same("ALL_F32", "F32"),
    "f16": _same("MOSTLY_F16", "F16"),
    "bf16": _same("MOSTLY_BF16", "BF16"),
    "q8_0": _same("MOSTLY_Q8_0", "Q8_0"),
    "q6_k": _same("MOSTLY_Q6_K", "Q6_K"),
    "q5_k_m": FileType("MOSTLY_Q5_K_M", "Q5_K", "Q6_K", "Q6_K"),
    "q4_k_m": FileType("MOSTLY_Q4_K_M", "Q4_K", "Q6_K", "Q6_K"),
}
# What llama.cpp takes for rows that are no multiple of a block: of 256 numbers, then of 32.
INSTEAD = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}


def file_type(name: str) -> FileType:
    """UserError: llama.cpp has no such type, or it is none that is written here."""
    if name not in TYPES:
        raise UserError(f"'{name}' is no type of GGUF files that is written here", nearest(name, TYPES))
    return TYPES[name]


def fitting(kind: str, columns: int) -> GGMLQuantizationType:
    """The type for rows of so many columns: `kind`, or what llama.cpp takes in its place where it does not fit."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    for name in (kind, INSTEAD.get(kind, kind), "F16"):
        candidate = GGMLQuantizationType[name]
        if columns % GGML_QUANT_SIZES[candidate][0] == 0:
            return candidate
    raise AssertionError("F16 fits any row")


def stored(matrix: np.ndarray, kind: GGMLQuantizationType) -> np.ndarray:
    """A float32 matrix [rows, columns] as the file holds it.

    Raises:
        UserError: a number is beyond the type's range, or what quantises it is not installed.
    """
    import numpy as np
    from gguf import GGMLQuantizationType
    from gguf.quants import quantize

    if kind.name.endswith("_K"):
        return _by_llama_cpp(matrix, kind)
    if kind == GGMLQuantizationType.F16 and np.abs(matrix).max(initial=0) > np.finfo(np.float16).max:
        raise UserError("a weight is beyond float16's range", "write the type bf16 or f32")
    return quantize(matrix, kind)


def _by_llama_cpp(matrix: np.ndarray, kind: GGMLQuantizationType) -> np.ndarray:
    import numpy as np
    from gguf import quant_shape_to_byte_shape

    source = np.ascontiguousarray(matrix, dtype=np.float32)
    target = np.empty(quant_shape_to_byte_shape(source.shape, kind), dtype=np.uint8)
    rows, columns = source.shape
    size = _quantizer()(kind.value, source.ctypes.data, target.ctypes.data, 0, rows, columns, None)
    assert size == target.nbytes
    return target


@cache
def _quantizer() -> Any:
    """ggml_quantize_chunk(type, source, target, start, rows, columns, importance) -> bytes, out of xllamacpp's library.

    That package has no function for it in Python; the symbol is part of ggml's public interface.
    """
    try:
        from xllamacpp import xllamacpp

        function = ctypes.CDLL(xllamacpp.__file__).ggml_quantize_chunk
    except (ImportError, OSError, AttributeError) as error:
        message = (
            f"types of GGUF whose name has a _k are written by llama.cpp's own quantizer, which is not here: {error}"
        )
        raise UserError(message, f"{INSTALL}, or write the type q8_0, f16, bf16 or f32") from None
    number, pointer = ctypes.c_int64, ctypes.c_void_p
    function.argtypes = [ctypes.c_int, pointer, pointer, number, number, number, pointer]
    function.restype = ctypes.c_size_t
    return function
