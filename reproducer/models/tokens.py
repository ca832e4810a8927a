"""Tokens that were spent on a model."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Tokens:
    """How many tokens passed through a model.

    Attributes:
        forward: tokens of forward passes.
        backward: tokens of backward passes.
    """

    forward: int = 0
    backward: int = 0
