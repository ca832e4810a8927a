"""What goes into the output and down projections, taken without the package."""

import torch

from tests.families import layers_of

ENDS = {
    "opt": {"heads": "self_attn.out_proj", "channels": "fc2"},
    "gpt_neox": {"heads": "attention.dense", "channels": "mlp.dense_4h_to_h"},
    None: {"heads": "self_attn.o_proj", "channels": "mlp.down_proj"},
}


def ends(model):
    """{kind: path of the projection that its units feed}."""
    return ENDS.get(model.config.model_type, ENDS[None])


def inputs_of(model, ids, layer, path):
    """What goes into a module of a layer, [tokens, features]."""
    found = []
    module = layers_of(model)[layer].get_submodule(path)
    hook = module.register_forward_pre_hook(lambda _, arguments: found.append(arguments[0].detach().flatten(0, -2)))
    with torch.no_grad():
        model(ids, use_cache=False)
    hook.remove()
    return found[0]
