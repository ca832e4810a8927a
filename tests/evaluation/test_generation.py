import copy
import math

import pytest
import torch

from reproducer.errors import UserError
from reproducer.evaluation.generation import generate
from tests.families import SIX, family_model

PROMPT = "The universe is"


def likeliest_without_cache(model, tokenizer, prompt, count):
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    length = ids.shape[1]
    for _ in range(count):
        with torch.no_grad():
            token = model(ids, use_cache=False).logits[0, -1].argmax()
        if token == tokenizer.eos_token_id:
            break
        ids = torch.cat([ids, token.view(1, 1)], dim=1)
    return tokenizer.decode(ids[0, length:], skip_special_tokens=True)


@pytest.mark.parametrize("family", SIX)
def test_every_family_with_its_cache(family, tokenizer):
    """In float64, so that no two tokens tie but for rounding."""
    model = family_model(family, vocab_size=257)
    text = generate(model, tokenizer, PROMPT, max_new_tokens=12)
    assert text == likeliest_without_cache(model, tokenizer, PROMPT, 12)


def test_equals_transformers_greedy_but_ignores_shipped_sampling(model, tokenizer):
    ids = tokenizer(PROMPT, return_tensors="pt").input_ids
    theirs = model.generate(ids, do_sample=False, max_new_tokens=16, pad_token_id=0)[0, ids.shape[1] :]
    text = tokenizer.decode(theirs, skip_special_tokens=True)
    assert generate(model, tokenizer, PROMPT, 16) == text
    shipped = copy.deepcopy(model)
    shipped.generation_config.do_sample = True
    shipped.generation_config.repetition_penalty = 5.0
    assert generate(shipped, tokenizer, PROMPT, 16) == text


def test_stops_at_the_end_token(model, tokenizer):
    ender = copy.deepcopy(model)
    with torch.no_grad():  # a head that prefers token 0, the end token, whatever it reads
        ender.lm_head.weight = torch.nn.Parameter(torch.zeros_like(ender.lm_head.weight))
    assert generate(ender, tokenizer, PROMPT, 20) == ""


def test_refusals(make_model, model, tokenizer):
    with pytest.raises(UserError, match="context of 16"):
        generate(make_model(max_position_embeddings=16), tokenizer, PROMPT, 10)
    with pytest.raises(UserError, match="empty"):
        generate(model, tokenizer, "")
    broken = copy.deepcopy(model)
    with torch.no_grad():
        broken.model.norm.weight[0] = math.nan
    with pytest.raises(UserError, match="not finite after 0 new tokens"):
        generate(broken, tokenizer, PROMPT)
