"""Models as llama.cpp's GGUF files."""
