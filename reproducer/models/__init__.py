"""The model catalogue, loading, and which structures an architecture couples."""
