import copy
import json
import logging
import math

import datasets
import lm_eval
import pytest
import torch
from peft import LoraConfig, get_peft_model
from tokenizers.processors import TemplateProcessing

from reproducer.data.files import DataError
from reproducer.data.sources import Rows
from reproducer.data.tasks import TASKS, Task, TaskSpec, resolve_task
from reproducer.errors import UserError
from reproducer.evaluation.generation import generate
from reproducer.evaluation.harness import TaskOnRows
from reproducer.evaluation.zeroshot import zeroshot
from tests.evaluation.plain_lm_eval import assert_same, plain_lm_eval
from tests.families import SIX, family_model

PUBLISHED = sorted(set(TASKS) - {"quiz"})
QUIZ = TASKS["quiz"]
CLOSE = 1e-3  # nats: likelihoods of up to a hundred bytes in float32, each of some 5 nats, right to 1e-6 or so


def given(task, words, right=1):
    """A row of `task` in the shape that its data set has on the hub, of made-up text; `right`: 0 or 1, the answer."""
    first, second, third, fourth = words
    lettered = {"text": list(words), "label": ["A", "B", "C", "D"]}
    return {
        "boolq": {"passage": f"{first} {second}.", "question": f"is {third} {fourth}", "idx": 0, "label": right},
        "piqa": {"goal": first, "sol1": second, "sol2": f"{third} {fourth}", "label": right},
        "hellaswag": {
            "ind": 4,
            "activity_label": first,
            "ctx_a": f"{second} [title] sits.",
            "ctx_b": third,
            "endings": [f"{word} [step] on it" for word in words],
            "label": str(right),
        },
        "winogrande": {
            "sentence": f"{first} met _ by the {second}.",
            "option1": third,
            "option2": fourth,
            "answer": str(right + 1),
        },
        "arc_easy": {"id": "e", "question": first, "choices": lettered, "answerKey": "AB"[right]},
        "arc_challenge": {"id": "c", "question": second, "choices": lettered, "answerKey": "AB"[right]},
        "openbookqa": {"id": "o", "question_stem": third, "choices": lettered, "answerKey": "AB"[right]},
    }[task]


ROWS = [
    ("A cat", "drinks café au lait", "the sun", "sleeps until the evening comes"),
    ("Rain", "wet", "it", "a very long umbrella indeed"),
    ("Stone and glass", "breaks", "never", "gold"),
    ("She", "wrote a letter to the editor", "read", "threw"),
    ("Nine", "ten", "eleven and a half", "twelve"),
]


@pytest.fixture
def use_rows(monkeypatch):
    """Gives a task the rows that it would have read."""

    def use(rows):
        monkeypatch.setattr(Task, "rows", lambda self: Rows(rows, "path", "own.jsonl", ""))

    return use


CHOICES = {
    "boolq": lambda row: ["no", "yes"],
    "piqa": lambda row: [row["sol1"], row["sol2"]],
    "hellaswag": lambda row: [ending.replace(" [step]", "") for ending in row["endings"]],  # lm-eval drops brackets
    "winogrande": lambda row: [row["option1"], row["option2"]],
    "arc_easy": lambda row: row["choices"]["text"],
    "arc_challenge": lambda row: row["choices"]["text"],
    "openbookqa": lambda row: row["choices"]["text"],
}
ANSWERS = [1, 0, 0, 1, 0]


def likelihood(model, tokenizer, prompt, answer):
    """Of the answer's bytes after the prompt's, in nats: a pass of its own, in float64."""
    start, rest = tokenizer(prompt).input_ids, tokenizer(answer).input_ids
    ids = torch.tensor([start + rest])
    with torch.no_grad():
        nats = torch.log_softmax(model(ids).logits[0, :-1], dim=-1)
    return nats.gather(1, ids[0, 1:, None])[len(start) - 1 :].sum().item()


@pytest.mark.parametrize("name", PUBLISHED)
def test_items_equal_plain_lm_eval_and_margins_own_passes(name, model, tokenizer, use_rows, monkeypatch):
    """Prompts are those that plain lm-eval sends; likelihoods, lengths and answers are computed here."""
    rows = [given(name, words, right) for words, right in zip(ROWS, ANSWERS, strict=True)]
    use_rows(rows)
    task, double = TASKS[name], copy.deepcopy(model).double()
    result = zeroshot(model, tokenizer, task, batch_tokens=150)
    samples, means = plain_lm_eval(monkeypatch, model, tokenizer, task, rows)
    assert_same(result, samples, means)
    assert len(result.items) == len(samples) == len(rows)
    assert result.shown == task.metric
    for item, sample, row, right in zip(result.items, samples, rows, ANSWERS, strict=True):
        nats = [likelihood(double, tokenizer, *arguments) for arguments in sample["arguments"]]
        if task.metric == "acc_norm":
            nats = [value / len(choice) for value, choice in zip(nats, CHOICES[name](row), strict=True)]
        expected = nats.pop(right) - max(nats)
        assert item.scores["margin"] == pytest.approx(expected, abs=CLOSE)
        assert (item.scores["margin"] > 0) == item.scores[task.metric]
    margins = [item.scores["margin"] for item in result.items]
    assert result.scores["margin"] == pytest.approx(sum(margins) / len(margins))
    assert result.stderr["margin"] == pytest.approx(torch.tensor(margins).std().item() / len(margins) ** 0.5)
    assert result.majority == ANSWERS.count(0) / len(ANSWERS)


@pytest.mark.parametrize("family", [*SIX, "llama adapted"])
def test_every_family_has_the_likelihoods_of_its_own_passes(family, tokenizer):
    """Whatever a family does to its logits, and with adapters; several rows a batch, answers of several lengths."""
    model = family_model(family, vocab_size=257, max_position_embeddings=256)
    if family == "llama adapted":
        model = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "lm_head"], init_lora_weights=False))
    result = zeroshot(model.eval(), tokenizer, QUIZ, limit=6, batch_tokens=200)
    for item, row in zip(result.items, QUIZ.rows().rows, strict=False):
        prompt = f"Question: {row['question']}\nAnswer:"
        nats = [likelihood(model, tokenizer, prompt, f" {choice}") for choice in row["choices"]]
        expected = nats.pop(row["answer"]) - max(nats)
        assert item.scores["margin"] == pytest.approx(expected, abs=1e-9)  # float64, a hundred nats at most


def test_a_task_of_ones_own_is_a_file_of_questions(tokenizer, model, tmp_path):
    """Any number of choices; its scores are those of the likeliest choice, and its name is the file's."""
    rows = [
        {"question": "Two and two?", "choices": ["four", "five", "six"], "answer": 0},
        {"question": "Is snow warm?", "choices": ["yes", "no"], "answer": 1},
        {"question": "Which is a fruit?", "choices": ["stone", "plum", "iron", "rope", "sand"], "answer": 1},
    ]
    path = tmp_path / "my-questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    task = resolve_task(str(path))
    result = zeroshot(model, tokenizer, task)
    assert (task.name, task.label, result.task, result.shown) == (*["my-questions"] * 3, "acc")
    for item, row in zip(result.items, rows, strict=True):
        prompt = f"Question: {row['question']}\nAnswer:"
        nats = [likelihood(model, tokenizer, prompt, f" {choice}") for choice in row["choices"]]
        right = nats.pop(row["answer"])
        assert item.scores["margin"] == pytest.approx(right - max(nats), rel=1e-5, abs=1e-4)
        assert item.scores["acc"] == (right > max(nats))


def test_items_with_several_right_choices_or_none(monkeypatch):
    row = {"question": "?", "choices": ["a", "bbé", "c", "dddd"], "answer": 0}
    task = TaskOnRows(resolve_task("quiz"), Rows([row], "path", "own.jsonl", ""), None)
    likelihoods = [-4.0, -6.0, -1.0, -8.0]

    def margins(target, metric="acc"):
        monkeypatch.setattr(task, "doc_to_target", lambda _: target)
        return task.margin(row, likelihoods, metric)

    assert margins(0) == -3.0
    assert margins([0, 2]) == -1.0 + 6.0  # the best right one against the best wrong one
    assert margins("bbé") == -6.0 + 1.0
    assert margins("bbé", "acc_norm") == -2.0 + 1.0  # characters, as lm-eval divides
    assert margins("bbé", "acc_bytes") == -1.5 + 1.0
    assert margins([0, 1, 2, 3]) is margins(9) is margins("nothing of these") is margins(-1) is None
    monkeypatch.setattr(task, "doc_to_target", lambda _: [1, 3, 7])
    assert task.right(row) == {1, 3}
    row["choices"] = ["", *row["choices"][1:]]
    with pytest.warns(RuntimeWarning):
        assert margins(0, "acc_norm") is None


def test_batches_of_one_equal_plain_lm_eval_in_bfloat16(model, tokenizer, use_rows, monkeypatch):
    half = copy.deepcopy(model).to(torch.bfloat16)
    rows = [given("hellaswag", words) for words in ROWS]
    use_rows(datasets.Dataset.from_list(rows))  # as they come from the hub
    task = TASKS["hellaswag"]
    result = zeroshot(half, tokenizer, task, limit=4, batch_tokens=1)
    assert_same(result, *plain_lm_eval(monkeypatch, half, tokenizer, task, rows, limit=4))


# Tasks beside the catalogue: choices, an answer's likelihood, written answers; functions of lm-eval's own modules.
OTHERS = {
    "sciq": [
        {"support": words[0], "question": words[1], "correct_answer": "b"}
        | {f"distractor{n}": f"{words[2]} {n}" for n in (1, 2, 3)}
        for words in ROWS
    ],
    "copa": [
        {"premise": f"{a}.", "choice1": b, "choice2": c, "question": "cause", "label": n % 2, "idx": n}
        for n, (a, b, c, _) in enumerate(ROWS)
    ],
    "lambada_openai": [{"text": " ".join(words)} for words in ROWS],
    "gsm8k": [{"question": words[1], "answer": f"{words[0]} #### {n}"} for n, words in enumerate(ROWS)],
    "triviaqa": [{"question": words[1], "answer": {"aliases": ["a", "é", ""]}} for words in ROWS],
    "gpqa_main_zeroshot": [
        {"Question": a, "Correct Answer": b} | {f"Incorrect Answer {n}": f"{c} {n}" for n in (1, 2, 3)}
        for a, b, c, _ in ROWS
    ],
}


@pytest.mark.parametrize("name", OTHERS)
def test_any_other_task_equals_plain_lm_eval(name, model, tokenizer, monkeypatch, tmp_path):
    """Random draws in a task's own code too: gpqa shuffles its choices."""
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in OTHERS[name]))
    result = zeroshot(model, tokenizer, resolve_task(TaskSpec(name=name, data=str(path))), limit=3, batch_tokens=150)
    assert len(result.items) == 3
    task = resolve_task(name)
    assert_same(result, *plain_lm_eval(monkeypatch, model, tokenizer, task, OTHERS[name], limit=3))
    margin = {"margin": True} if name in ("sciq", "copa", "gpqa_main_zeroshot") else {}
    assert (result.shown, result.higher_is_better) == (task.metric, {**task.metrics, **margin})
    assert (result.majority is not None) == task.choices == bool(margin)


def putting(tokenizer, around):
    """The tokenizer with its special token around a text."""
    tokenizer = copy.deepcopy(tokenizer)
    processor = TemplateProcessing(single=around, special_tokens=[("<s>", 0)])
    tokenizer.backend_tokenizer.post_processor = processor
    return tokenizer


@pytest.mark.parametrize("name", ["quiz", "gsm8k"])
def test_a_token_that_a_tokenizer_puts_behind_a_text_is_no_answer(name, model, tokenizer, tmp_path):
    """Its own lm-eval would drop an answer's first token, and let a generation go on behind the end."""
    entry = TaskSpec(name=name)
    if name != "quiz":
        (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in OTHERS[name]))
        entry = TaskSpec(name=name, data=str(tmp_path / "own.jsonl"))
    closed, opened = (
        zeroshot(model, putting(tokenizer, around), resolve_task(entry), limit=2) for around in ("<s> $A <s>", "<s> $A")
    )
    assert closed == opened
    written = [generate(model, putting(tokenizer, around), "Why", 4) for around in ("<s> $A <s>", "<s> $A")]
    assert written[0] == written[1]


def test_rows_that_do_not_suit_a_task(model, tokenizer, tmp_path):
    path = tmp_path / "own.jsonl"
    task = TaskSpec(name="copa", data=str(path))
    path.write_text('{"question": "why"}\n')
    message = r"(?s)a row of .*own\.jsonl does not suit lm-eval's task copa: KeyError.*has the fields question"
    with pytest.raises(UserError, match=message):
        zeroshot(model, tokenizer, resolve_task(task))
    path.write_text(json.dumps(OTHERS["copa"][0]) + "\n" + json.dumps(OTHERS["copa"][0] | {"label": "one"}) + "\n")
    with pytest.raises(DataError, match=r"own\.jsonl: the rows are no table"):
        zeroshot(model, tokenizer, resolve_task(task))


def test_written_answers_longer_than_the_context_or_not_finite(model, make_model, tokenizer, tmp_path):
    path = tmp_path / "own.jsonl"
    path.write_text(json.dumps(OTHERS["gsm8k"][0]) + "\n")
    task = resolve_task(TaskSpec(name="gsm8k", data=str(path)))
    with pytest.raises(UserError, match=r"item 0 of gsm8k is \d+ tokens long and 256 more .* context of 256"):
        zeroshot(make_model(max_position_embeddings=256), tokenizer, task)
    broken = copy.deepcopy(model)
    with torch.no_grad():
        broken.model.norm.weight[0] = math.nan
    with pytest.raises(UserError, match="gsm8k: the logits of an answer are not finite"):
        zeroshot(broken, tokenizer, task)


def assert_alike(result, other):
    """The same items right and wrong, with the same margins but for the rounding of other shapes of products."""
    for item, same in zip(result.items, other.items, strict=True):
        one, two = dict(item.scores), dict(same.scores)
        assert one.pop("margin") == pytest.approx(two.pop("margin"), abs=CLOSE)
        assert one == two


def test_batches_keep_to_the_token_budget(model, tokenizer, use_rows, monkeypatch):
    use_rows([{"question": "why " * n, "choices": ["so", "because", "not"], "answer": 0} for n in range(1, 40)])
    shapes = []
    forward = type(model).forward

    def spy(self, input_ids, **rest):
        shapes.append(tuple(input_ids.shape))
        return forward(self, input_ids, **rest)

    monkeypatch.setattr(type(model), "forward", spy)
    progress = []
    zeroshot(model, tokenizer, QUIZ, batch_tokens=100, progress=lambda *step: progress.append(step))
    assert all(rows == 1 or rows * width <= 100 for rows, width in shapes)
    assert any(rows > 1 for rows, _ in shapes) and any(width > 100 for _, width in shapes)
    assert all((rows + 1) * width > 100 for rows, width in shapes[:-1])  # and none is smaller than it must be
    assert progress == [(done, 3 * 39) for done in range(1, 3 * 39 + 1)]


def test_logits_exist_only_where_answers_are_read(model, tokenizer, use_rows, monkeypatch):
    choices = ["so", "because", "never mind"]
    use_rows([{"question": "why " * n, "choices": choices, "answer": 0} for n in range(1, 9)])
    positions = []
    linear = torch.nn.functional.linear

    def spy(x, weight, bias=None):
        if weight.shape[0] == tokenizer.vocab_size:
            positions.append(x.numel() // x.shape[-1])
        return linear(x, weight, bias)

    monkeypatch.setattr(torch.nn.functional, "linear", spy)
    one_by_one = zeroshot(model, tokenizer, QUIZ, batch_tokens=1)
    assert sum(positions) == 8 * sum(len(f" {choice}") for choice in choices)  # a token a byte
    assert_alike(zeroshot(model, tokenizer, QUIZ, batch_tokens=200), one_by_one)


def test_leaves_model_tokenizer_and_loggers_as_they_were(model, tokenizer, capfd):
    trained = copy.deepcopy(model).to(torch.bfloat16).train()
    level, tqdm = logging.getLogger("lm_eval").level, lm_eval.api.task.tqdm
    result = zeroshot(trained, tokenizer, QUIZ, limit=5)
    assert len(result.items) == 5
    assert trained.training and trained.model.layers[0].training
    assert all(parameter.requires_grad for parameter in trained.parameters())
    assert tokenizer.pad_token_id is None
    assert (logging.getLogger("lm_eval").level, lm_eval.api.task.tqdm) == (level, tqdm)
    assert capfd.readouterr() == ("", "")


def test_refusals(model, make_model, tokenizer, use_rows):
    with pytest.raises(UserError, match="limit is 0"):
        zeroshot(model, tokenizer, QUIZ, limit=0)
    mute = copy.deepcopy(tokenizer)
    mute.bos_token = mute.eos_token = None
    with pytest.raises(UserError, match="neither a beginning-of-sequence nor"):
        zeroshot(model, mute, QUIZ, limit=2)
    broken = copy.deepcopy(model)
    with torch.no_grad():
        broken.model.norm.weight[0] = math.nan
    with pytest.raises(UserError, match="item 0 of quiz: the likelihood of an answer is nan"):
        zeroshot(broken, tokenizer, QUIZ, limit=2)

    row = {"question": "?", "choices": ["yes", "no"], "answer": 0}  # "Question: ?\nAnswer:" and " yes": 23 bytes
    use_rows([row, row | {"question": "??"}])
    with pytest.raises(UserError, match="item 1 of quiz is 23 tokens long, more than the model's context of 22"):
        zeroshot(make_model(max_position_embeddings=22), tokenizer, QUIZ)
    use_rows([row, row])
    assert len(zeroshot(make_model(max_position_embeddings=22), tokenizer, QUIZ).items) == 2
