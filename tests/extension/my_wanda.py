"""A method that reads activations: Wanda (Sun et al. 2023, https://arxiv.org/abs/2306.11695) for heads and channels.

A spec names it as `my_wanda:my_wanda` when this file lies in the spec's folder; in Python:

    prune(model, "my_wanda:my_wanda", ids, structure_ratio=0.25)
"""

from reproducer.methods.registry import Rule, register
from reproducer.pruning.statistics import InputNorm, Power


@register("my-wanda", label="My Wanda", source="https://arxiv.org/abs/2306.11695")
def my_wanda(p: float = 1) -> Rule:
    """`‖x_j‖₂ · Σ_i |W_ij|^p` of each input j of the output and the down projection."""
    weights, inputs = Power(p), InputNorm()

    def score(vectors, generator):
        """From one weight's statistics, a number a column each, to a score a column; higher is kept."""
        return vectors[weights] * vectors[inputs]

    # A head's score is the sum over its inputs of the output projection: members of other weights take no part.
    return Rule(needs=(weights, inputs), score=score, members="outputs")
