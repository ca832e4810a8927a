"""What another process without this package makes of exported folders. Run as a script: FOLDER, with the folders in it.

Writes FOLDER/found.safetensors: of each model its logits; of one with a module of its own what it writes greedily with
a cache, and what it writes where the beginning of the batch is padding.
"""

import sys
from pathlib import Path

sys.modules["reproducer"] = None  # type: ignore[assignment]  # an import of it is an error

import torch  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402

root = Path(sys.argv[1])
ids = load_file(root / "ids.safetensors")["ids"]
found = {}
for folder in sorted(path for path in root.iterdir() if path.is_dir()):
    trust = (folder / "modeling_pruned.py").is_file()
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=trust, dtype=torch.float32).eval()
    with torch.no_grad():
        found[f"{folder.name}.logits"] = model(ids).logits.contiguous()
    if not trust:
        continue
    settings = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "use_cache": True}
    found[f"{folder.name}.written"] = model.generate(ids, attention_mask=torch.ones_like(ids), **settings)
    padded = torch.cat([torch.zeros_like(ids[:, :3]), ids], dim=1)
    mask = torch.cat([torch.zeros_like(ids[:, :3]), torch.ones_like(ids)], dim=1)
    found[f"{folder.name}.padded"] = model.generate(padded, attention_mask=mask, **settings)[:, 3:].contiguous()
save_file(found, root / "found.safetensors")
