import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from reproducer.errors import UserError
from reproducer.evaluation.perplexity import perplexity
from tests.families import SIX, family_model
from tests.helpers import examples


def by_full_logits(model, windows):
    """Every logit of every window at once, the loss by torch's cross-entropy: nats of every predicted token."""
    with torch.no_grad():
        logits = model(windows).logits[:, :-1].double()
    return F.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten(), reduction="none").view(len(windows), -1)


@pytest.fixture(scope="module")
def wide(model):
    """In float64: what is computed in another order comes out the same, rounding far below any mistake."""
    return copy.deepcopy(model).double()


def random_windows(count, length, seed=0, vocabulary=257):
    return torch.from_numpy(np.random.default_rng(seed).integers(vocabulary, size=(count, length)))


@given(count=st.integers(1, 9), length=st.integers(2, 33), batch=st.integers(1, 150), seed=st.integers(0, 99))
@examples(20)
def test_equals_full_logits(wide, count, length, batch, seed):
    windows = random_windows(count, length, seed)
    result = perplexity(wide, windows, batch_tokens=batch)
    nats = by_full_logits(wide, windows)
    assert result.value == pytest.approx(nats.mean().exp().item(), rel=1e-9)
    assert result.nll_per_window == pytest.approx(nats.mean(dim=1).tolist(), rel=1e-9)
    assert result.tokens == nats.numel()


@pytest.mark.parametrize("family", SIX)
def test_equals_the_models_own_loss_in_every_family(family):
    """Scaled embeddings, learned positions, soft-capped and scaled logits are the model's own."""
    model = family_model(family)
    windows = random_windows(3, 20, vocabulary=model.config.vocab_size)
    with torch.no_grad():
        logits = model(windows).logits.double()[:, :-1]
        own = F.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten()).item()
    assert math.log(perplexity(model, windows, batch_tokens=40).value) == pytest.approx(own, rel=1e-9)


def test_batches_do_not_change_the_value_and_report_progress(wide):
    windows = random_windows(7, 16)
    seen = []
    result = perplexity(wide, windows, batch_tokens=3 * 16 + 5, progress=lambda *step: seen.append(step))
    assert seen == [(3, 7), (6, 7), (7, 7)]
    assert result.value == pytest.approx(perplexity(wide, windows, batch_tokens=10**6).value, rel=1e-9)


def test_refusals(model, make_model):
    short = make_model(max_position_embeddings=16)
    assert perplexity(short, random_windows(1, 16)).tokens == 15
    with pytest.raises(UserError, match=r"17 tokens.*context of 16"):
        perplexity(short, random_windows(1, 17))
    with pytest.raises(UserError, match="no window"):
        perplexity(model, random_windows(0, 16))
    with pytest.raises(UserError, match="seq_len is 1"):
        perplexity(model, random_windows(3, 1))


def test_non_finite_loss_names_its_window(model):
    broken = copy.deepcopy(model)
    broken.model.embed_tokens.weight = torch.nn.Parameter(broken.model.embed_tokens.weight.clone())
    with torch.no_grad():
        broken.model.embed_tokens.weight[9] = math.nan
    windows = torch.full((5, 6), 3)
    windows[3, 2] = 9
    with pytest.raises(UserError, match=r"window 3 .of 5.* is nan"):
        perplexity(broken, windows, batch_tokens=12)
