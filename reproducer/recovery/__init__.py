"""LoRA fine-tuning of a pruned model through peft."""
