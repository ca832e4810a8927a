"""Declarative batch reproducer for structured pruning of large language models."""
