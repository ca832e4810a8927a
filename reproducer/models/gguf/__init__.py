"""Models as llama.cpp's GGUF files."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reproducer.models.gguf.writer import Written, write_gguf

__all__ = ["Written", "write_gguf"]


def __getattr__(name: str) -> Any:
    """What writes files needs torch, which those who only look up a type should not load."""
    if name in __all__:
        from reproducer.models.gguf import writer

        return getattr(writer, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
