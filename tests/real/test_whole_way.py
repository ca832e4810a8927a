"""The whole way on SmolLM2-135M: prune, load, train by peft, merge, export, chat in llama.cpp. Minutes on one core."""

import json

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

import reproducer
from reproducer.cli import main
from reproducer.data.pool import calibration_pool
from reproducer.data.text import load_text, windows
from reproducer.evaluation.perplexity import perplexity
from reproducer.models.load import load_model
from tests.models.test_gguf import served

pytestmark = pytest.mark.slow
MESSAGES = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.mark.parametrize("scope", ["local", "uniform"])
def test_from_a_model_to_a_chat(smollm2_folder, scope, tmp_path):
    pytest.importorskip("xllamacpp", reason="llama.cpp comes with the package xllamacpp")
    from reproducer.evaluation.llama_cpp import LlamaCpp

    dense, tokenizer = load_model(smollm2_folder, "float32")
    ids = calibration_pool(load_text("python-topics", "calibration"), tokenizer, 128).ids[:8]
    how = {"ratio": 0.1} | ({"scope": "uniform", "round_to": 64} if scope == "uniform" else {})
    plan = reproducer.prune(dense, "llm-pruner-e2", ids, **how)
    reproducer.export(dense, plan, tmp_path / "cut", tokenizer=tokenizer)
    config = json.loads((tmp_path / "cut/config.json").read_text())
    assert config["model_type"] == ("llama" if scope == "uniform" else "pruned_llama")

    cut = AutoModelForCausalLM.from_pretrained(tmp_path / "cut")
    held = windows(load_text("python-packages", "report"), tokenizer, 128, 16)
    before = perplexity(cut, held).value
    adapted = get_peft_model(cut, LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM"))
    optimizer = torch.optim.AdamW((weight for weight in adapted.parameters() if weight.requires_grad), lr=5e-4)
    for sample in ids.split(2) * 2:
        optimizer.zero_grad()
        adapted(sample, labels=sample).loss.backward()
        optimizer.step()
    merged = adapted.merge_and_unload().eval()
    merged.save_pretrained(tmp_path / "trained")
    AutoTokenizer.from_pretrained(tmp_path / "cut").save_pretrained(tmp_path / "trained")
    after = perplexity(load_model(tmp_path / "trained")[0], held).value
    assert after < before

    for target, options in (("hf", []), ("gguf", ["--format", "gguf", "--quantize", "q4_k_m"])):
        assert main(["export", str(tmp_path / "trained"), str(tmp_path / target), *options]) == 0
        assert "Cut before: llm-pruner-e2, " in (tmp_path / target / "README.md").read_text()
    assert perplexity(AutoModelForCausalLM.from_pretrained(tmp_path / "hf").eval(), held).value == after
    llama = LlamaCpp(tmp_path / "gguf/model-q4_k_m.gguf", 256)
    losses = [loss for window in held[:2].tolist() for loss in llama.losses(window)]
    assert torch.tensor(losses).mean().exp().item() == pytest.approx(perplexity(merged, held[:2]).value, rel=0.3)
    prompt = served(llama, "apply-template", messages=MESSAGES)["prompt"]
    assert prompt == tokenizer.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True)
    answer = served(llama, "v1/chat/completions", messages=MESSAGES, max_tokens=8)
    assert answer["choices"][0]["message"]["content"].strip()
