"""A pruned model for the rest of the world: out of Python, out of the store, or in one step from a model's name."""
