"""Training on instructions: examples, the run with its checkpoints, LoRA adapters."""
