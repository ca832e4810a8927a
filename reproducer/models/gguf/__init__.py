"""Models as llama.cpp's GGUF files."""

from reproducer.models.gguf.types import TYPES
from reproducer.models.gguf.writer import Written, write_gguf

__all__ = ["TYPES", "Written", "write_gguf"]
