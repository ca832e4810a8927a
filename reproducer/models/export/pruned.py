"""A causal language model of a known family whose layers differ in width.

The numbers of config.json are the family's own, from before the cut. Beside them stand

    layer_widths   for each layer its attention heads, key-value heads and MLP channels; where a norm spans all heads
                   (OLMo 2), its epsilon, which grows as the norm shrinks
    added_biases   linear layers with a bias that the family does not have

Everything but these widths, the forward pass above all, is the family's.
"""

from operator import attrgetter

from torch import nn


class LayerConfig:
    """The model's configuration as one module sees it: with numbers of its own, and else the model's, also later on."""

    def __init__(self, config, **own):
        known = vars(config) if isinstance(config, LayerConfig) else {"_config": config}
        self.__dict__.update({**known, **own})

    def __getattr__(self, name):
        if name == "_config":  # not yet there, while this is being copied
            raise AttributeError(name)
        return getattr(self._config, name)


class PrunedLayers(nn.Module):
    """In front of a family's class: what its constructor has made is narrowed to the widths of the configuration.

    Attributes:
        decoder_layers: where the layers are.
        head_dim: the attribute of a layer that has the width of a head.
        linears: linear layers of a layer: the axis of the weight that is narrowed, and how many of its vectors belong
            to a unit of each kind (to an attention or key-value head, times the width of a head).
        norms: norms over all heads together, and which heads.
        attributes: attributes of a layer from which a forward pass reads a width, and what they count.
    """

    decoder_layers: str
    head_dim: str
    linears: dict
    norms: dict
    attributes: dict

    def __init__(self, config, *inputs, **kwargs):
        super().__init__(config, *inputs, **kwargs)
        for layer, widths in zip(self.get_submodule(self.decoder_layers), config.layer_widths, strict=True):
            self._narrow(layer, widths)
        for path in config.added_biases:
            linear = self.get_submodule(path)
            linear.bias = nn.Parameter(linear.weight.new_zeros(linear.out_features))

    def _narrow(self, layer, widths):
        head_dim = attrgetter(self.head_dim)(layer)
        for path, (axis, counts) in self.linears.items():
            count = sum(
                number * widths[kind] * (head_dim if kind in ("heads", "key_value_heads") else 1)
                for kind, number in counts.items()
            )
            linear = layer.get_submodule(path)
            linear.weight = nn.Parameter(linear.weight.detach().narrow(axis, 0, count).clone())
            if axis == 1:
                linear.in_features = count
            else:
                linear.out_features = count
                if linear.bias is not None:
                    linear.bias = nn.Parameter(linear.bias.detach()[:count].clone())
        for path, counted in self.norms.items():
            norm = layer.get_submodule(path)
            norm.weight = nn.Parameter(norm.weight.detach()[: head_dim * widths[counted]].clone())
            norm.variance_epsilon = widths["norm_epsilons"][path]
        for path, counted in self.attributes.items():
            owner, _, name = path.rpartition(".")
            if owner.endswith(".config"):  # which all layers share
                module = layer.get_submodule(owner.removesuffix(".config"))
                module.config = LayerConfig(module.config, **{name: widths[counted]})
            else:
                setattr(layer.get_submodule(owner), name, widths[counted])
