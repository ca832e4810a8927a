"""What a model writes after a prompt (Table 10)."""

from __future__ import annotations

import torch

from reproducer.errors import UserError
from reproducer.evaluation.checks import check_context, not_finite
from reproducer.models.walk import frozen
from reproducer.tokenizing import opened


def generate(model, tokenizer, prompt: str, max_new_tokens: int = 64) -> str:
    """The greedy continuation of `prompt`, without the prompt itself.

    The likeliest token at every step and nothing else: a sampling temperature or repetition penalty that a
    model's `generation_config.json` may carry plays no part, so dense and pruned models are comparable.

    Args:
        model: a transformers causal language model, pruned or not; left in the mode it was in.
        tokenizer: the model's tokenizer; what it puts before a text goes in, and its end token stops early.
        prompt: at least one token long.
        max_new_tokens: tokens written at most.

    Raises:
        UserError: an empty prompt, prompt and continuation longer than the model's context, non-finite logits.
    """
    step = torch.tensor([opened(tokenizer)(prompt)["input_ids"]], dtype=torch.long, device=model.device)
    length = step.shape[1]
    if length == 0:
        raise UserError("the prompt to generate from is empty", "give at least one word")
    name = f"a prompt of {length} tokens with {max_new_tokens} written after it"
    check_context(model, length + max_new_tokens, name, "shorten the prompt")
    written: list[int] = []
    cache = None
    with frozen(model), torch.no_grad():
        while len(written) < max_new_tokens:
            output = model(input_ids=step, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache, logits = output.past_key_values, output.logits[0, -1]
            if not torch.isfinite(logits).all():
                raise not_finite(f"the model's logits are not finite after {len(written)} new tokens", model)
            step = logits.argmax().view(1, 1)
            if step.item() == tokenizer.eos_token_id:
                break
            written.append(int(step.item()))
    return tokenizer.decode(written, skip_special_tokens=True)
