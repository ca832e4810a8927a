"""Models that have something to lose, and the texts that they have learned."""

import numpy as np
import torch

from tests.helpers import logits, rand, tokens


def own_text(model, samples=24, length=16, seed=0):
    """Samples [samples, length] drawn from the model's own distribution: no other model predicts them better."""
    generator = np.random.default_rng(seed)
    ids = tokens(samples, 1, model.config.vocab_size, generator)
    for _ in range(length - 1):
        probabilities = torch.softmax(logits(model, ids)[:, -1].double(), -1)
        drawn = probabilities.cumsum(-1) < rand(samples, 1, seed=generator, dtype=torch.float64)
        ids = torch.cat([ids, drawn.sum(-1, keepdim=True).clamp(max=model.config.vocab_size - 1)], 1)
    return ids


def overfitted(model, ids, steps=60, rate=3e-3):
    """The model, trained on `ids` in place."""
    model.train().requires_grad_()
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    for _ in range(steps):
        optimizer.zero_grad()
        model(ids, labels=ids, use_cache=False).loss.backward()
        optimizer.step()
    return model.eval().requires_grad_(False)


def loss(model, ids):
    """Mean next-token loss."""
    with torch.no_grad():
        return model(ids, labels=ids, use_cache=False).loss.item()
