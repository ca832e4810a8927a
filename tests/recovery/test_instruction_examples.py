"""Rows as tokens: what is prompt, what is cut, what is dropped."""

from __future__ import annotations

from lora_cases import PAIRS, ROWS, word_tokenizer
from tokenizers.processors import TemplateProcessing

from reproducer.data.chat import format_prompt
from reproducer.recovery.training.examples import padded, tokenised


def test_only_the_response_and_the_end_token_are_learned():
    tokenizer = word_tokenizer()
    examples, dropped = tokenised(PAIRS, tokenizer, 200)
    assert dropped == 0
    for row, example in zip(ROWS, examples, strict=True):
        prompt, response = format_prompt(row)
        assert example.ids[: example.prompt] == tokenizer(prompt)["input_ids"]
        assert example.ids[example.prompt :] == [*tokenizer(response)["input_ids"], tokenizer.eos_token_id]


def test_long_rows_are_cut_and_rows_without_response_are_dropped():
    tokenizer = word_tokenizer()
    wholes, _ = tokenised(PAIRS, tokenizer, 10_000)
    for cutoff in range(min(w.prompt for w in wholes), max(len(w.ids) for w in wholes) + 2):
        examples, dropped = tokenised(PAIRS, tokenizer, cutoff)
        kept = [whole for whole in wholes if whole.prompt < cutoff]
        assert dropped == len(wholes) - len(kept)
        for example, whole in zip(examples, kept, strict=True):
            assert example.ids == whole.ids[:cutoff] and example.prompt == whole.prompt
            assert example.targets == min(len(whole.ids), cutoff) - whole.prompt > 0


def test_a_tokenizer_that_closes_sequences_itself_gives_one_end_token():
    plain, closing = word_tokenizer(), word_tokenizer()
    end = closing.eos_token_id
    closing.backend_tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", end)])
    assert closing("Blue")["input_ids"][-1] == end
    assert tokenised(PAIRS, closing, 200) == tokenised(PAIRS, plain, 200)


def test_a_tokenizer_that_opens_sequences_keeps_its_first_token():
    opening = word_tokenizer()
    opening.backend_tokenizer.post_processor = TemplateProcessing(single="<unk> $A", special_tokens=[("<unk>", 0)])
    examples, plain = tokenised(PAIRS, opening, 200)[0], tokenised(PAIRS, word_tokenizer(), 200)[0]
    assert [example.ids for example in examples] == [[0, *example.ids] for example in plain]
    assert [example.targets for example in examples] == [example.targets for example in plain]


def test_padding_is_on_the_right_and_never_learned():
    examples, _ = tokenised(PAIRS, word_tokenizer(), 200)
    ids, labels = padded(examples)
    assert ids.shape == labels.shape == (len(examples), max(len(example.ids) for example in examples))
    for row, example in enumerate(examples):
        assert ids[row].tolist() == example.ids + [0] * (ids.shape[1] - len(example.ids))
        assert (labels[row] >= 0).sum() == example.targets
        assert labels[row, labels[row] >= 0].tolist() == example.ids[example.prompt :]
