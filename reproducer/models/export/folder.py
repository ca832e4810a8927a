"""A pruned model as a folder that transformers' `from_pretrained` reads: what its config.json has to say."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from reproducer.errors import UserError
from reproducer.models.architecture import family_of, layer_shape
from reproducer.models.declaration import Architecture
from reproducer.models.export.classes import MODULE, classes, source
from reproducer.models.families import PRUNED
from reproducer.models.load import let_save
from reproducer.models.quiet import quiet

OURS = ("layer_widths", "added_biases", "auto_map")
STATES = ("training", "gradient_checkpointing")  # attributes of modules that are no part of a model


class SavesWidths:
    """Behind a class of transformers: `save_pretrained` writes a folder that `from_pretrained` can read."""

    _auto_class = None  # the module of the widths is written here, also for a class that came with a folder

    def save_pretrained(self, save_directory: Any, is_main_process: bool = True, **more: Any) -> None:
        """As transformers'. UserError for what no configuration can say, and for `push_to_hub=True`."""
        if more.get("push_to_hub"):  # it would upload before the widths are written
            message = "save_pretrained of a cut model writes a folder and does not upload it"
            raise UserError(message, "call model.push_to_hub(REPOSITORY), or hand the folder to `hf upload`")
        if (generation := getattr(self, "generation_config", None)) is not None:
            let_save(generation)
        config = described(self)
        if config.model_type.startswith(PRUNED):  # what transformers renames in files of the family, it does not here
            more["save_original_format"] = False
        super().save_pretrained(save_directory, is_main_process=is_main_process, **more)  # type: ignore[misc]
        if is_main_process and not getattr(self, "_hf_peft_config_loaded", False):
            _write_config(config, Path(save_directory))

    def __reduce_ex__(self, protocol: Any) -> Any:  # pickle cannot find a class that is made while it runs
        created: Any = super().__reduce_ex__(protocol)
        return (_made_again, (type(self).__mro__[2],), *created[2:])


def saves_widths(model: nn.Module) -> nn.Module:
    """Give a cut model of transformers, in place, a `save_pretrained` that says how wide its layers are."""
    if hasattr(model, "save_pretrained") and not isinstance(model, SavesWidths):
        created: Any = type(model)
        model.__class__ = _saving(created)
    return model


@cache
def _saving(base: Any) -> Any:
    return type(base.__name__, (SavesWidths, base), {"__module__": base.__module__})


def _made_again(base: Any) -> Any:
    created = _saving(base)
    return created.__new__(created)


def _write_config(config: Any, directory: Path) -> None:
    """Write config.json and, where it tells of layers that differ in width, the module that builds them."""
    module = directory / f"{MODULE}.py"
    if config.model_type.startswith(PRUNED):
        module.write_text(source(config.model_type.removeprefix(PRUNED)), encoding="utf-8")
    else:
        module.unlink(missing_ok=True)
    config.save_pretrained(directory)


def described(model: Any) -> Any:
    """The configuration that a cut model is built from: its family's own where that can say all, else a pruned one's.

    Raises:
        UserError: the model has something that neither can say.
    """
    architecture = family_of(model.config)
    plain = model.config.model_type.removeprefix(PRUNED)
    settings = {name: value for name, value in model.config.to_dict().items() if name not in OURS}
    settings |= {"dtype": str(model.dtype).removeprefix("torch."), "model_type": plain}
    own = type(model.config) if plain == model.config.model_type else classes(plain).config.__mro__[2]
    built_as = classes(plain).model.__mro__[2]
    try:
        config = own(**{**settings, **_numbers(model, architecture), "architectures": [built_as.__name__]})
        if _difference(model, config, built_as, architecture) is None:
            return config
    except Exception:  # a family's configuration or its modules may refuse numbers of heads, each in its own way
        pass
    config_class, model_class = classes(plain)
    config = config_class(
        **{
            **settings,
            "model_type": PRUNED + plain,
            "architectures": [model_class.__name__],
            "auto_map": {
                "AutoConfig": f"{MODULE}.{config_class.__name__}",
                "AutoModelForCausalLM": f"{MODULE}.{model_class.__name__}",
            },
            "layer_widths": [_widths(layer, architecture) for layer in architecture.decoder_layers(model)],
            "added_biases": _added_biases(model, built_as, own(**settings)),
        }
    )
    if (differs := _difference(model, config, model_class, architecture)) is not None:
        raise UserError(
            f"this {plain} model cannot be written as a folder of transformers: {differs}",
            "what can be said are the widths of each layer, whole layers that are gone, and biases of linear layers",
        )
    return config


def _numbers(model: Any, architecture: Architecture) -> dict[str, Any]:
    """The family's own numbers as the first layer has them."""
    shape = layer_shape(architecture.decoder_layers(model)[0], architecture)
    heads = shape.groups * shape.queries_per_group
    numbers = {"num_attention_heads": heads}
    if hasattr(model.config, "num_key_value_heads"):
        numbers["num_key_value_heads"] = shape.groups
    if hasattr(model.config, "head_dim") or heads * shape.head_dim != shape.hidden:
        numbers["head_dim"] = shape.head_dim
    name = "ffn_dim" if hasattr(model.config, "ffn_dim") else "intermediate_size"
    return {**numbers, name: shape.channels}


def _widths(layer: nn.Module, architecture: Architecture) -> dict[str, Any]:
    shape = layer_shape(layer, architecture)
    widths: dict[str, Any] = {
        "heads": shape.groups * shape.queries_per_group,
        "key_value_heads": shape.groups,
        **{kind.name: shape.counts[kind.name] for kind in architecture.kinds if not kind.attends},
    }
    declared = [norm for kind in architecture.kinds for norm in kind.norms]
    if declared:
        norms: dict[str, Any] = {norm.module: layer.get_submodule(norm.module) for norm in declared}
        widths["norm_epsilons"] = {name: norm.variance_epsilon for name, norm in norms.items()}
    return widths


def _added_biases(model: Any, family: Any, config: Any) -> list[str]:
    """Linear layers with a bias where the family's own class has none."""
    plain = {name for name, module in _built(family, config).named_modules() if getattr(module, "bias", 0) is None}
    return [
        name
        for name, module in model.named_modules()
        if name in plain and isinstance(module, nn.Linear) and module.bias is not None
    ]


def _difference(model: Any, config: Any, made_as: Any, architecture: Architecture) -> str | None:
    """What sets `model` apart from one that is built from `config`, weights aside; None: nothing."""
    twin = _built(made_as, config)
    ours, theirs = ({name: tuple(t.shape) for name, t in each.state_dict().items()} for each in (model, twin))
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            return f"{name} is {ours.get(name, 'not there')}, from its configuration {theirs.get(name, 'not there')}"
    layers = zip(*(architecture.decoder_layers(each).named_modules() for each in (model, twin)), strict=True)
    for (name, module), (_, other) in layers:
        for attribute, value in _settings(other).items():
            own_value = _settings(module).get(attribute)
            if own_value != value:
                return f"layer {name} has {attribute} {own_value}, from its configuration {value}"
    return None


def _settings(module: nn.Module) -> dict[str, Any]:
    """Numbers and words that a module keeps, such as an epsilon, a window or its place in the cache."""
    return {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, int | float | str | None) and not name.startswith("_") and name not in STATES
    }


def _built(made_as: Any, config: Any) -> Any:
    """A model without weights."""
    with quiet(), torch.device("meta"):
        return made_as(copy.deepcopy(config))
