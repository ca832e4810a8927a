"""Classes of pruned models: the family's own behind `PrunedLayers`, the same in the package as in an exported folder.

transformers is imported by functions only: importing its Auto classes imports this module.
"""

from __future__ import annotations

import importlib.metadata
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, StrictUndefined

from reproducer.models.architecture import family_of
from reproducer.models.declaration import Architecture
from reproducer.models.export.pruned import PrunedLayers
from reproducer.models.families import FAMILIES, PRUNED

MODULE = "modeling_pruned"  # of an exported folder; transformers spells it so
COUNTED = {"queries": "heads", "groups": "key_value_heads"}  # others by the name of their kind


class Classes(NamedTuple):
    """The classes of a family's pruned models."""

    config: Any
    model: Any


@cache
def config_class(model_type: str) -> Any:
    """The configuration of pruned models of a family, by the family's own `model_type`."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING, AutoConfig

    base: Any = CONFIG_MAPPING[model_type]
    name = f"Pruned{base.__name__}"
    created: Any = type(name, (_Known, base), {"model_type": PRUNED + model_type, "__module__": __name__})
    AutoConfig.register(created.model_type, created, exist_ok=True)
    return globals().setdefault(name, created)  # so that pickle finds it


@cache
def classes(model_type: str) -> Classes:
    """Both classes, by the family's own `model_type`."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    config = config_class(model_type)
    base: Any = MODEL_FOR_CAUSAL_LM_MAPPING[config.__mro__[2]]
    attributes = {"config_class": config, "__module__": __name__, **layout(family_of(config))}
    created = type(f"Pruned{base.__name__}", (PrunedLayers, base), attributes)
    return Classes(config, globals().setdefault(created.__name__, created))


class _Known:
    """A configuration whose model transformers' Auto classes find; classes of models are made when they are needed."""

    model_type: str

    def __post_init__(self, **more: Any) -> None:
        from transformers import AutoModelForCausalLM

        super().__post_init__(**more)  # type: ignore[misc]
        created = classes(self.model_type.removeprefix(PRUNED))
        AutoModelForCausalLM.register(created.config, created.model, exist_ok=True)


def __getattr__(name: str) -> Any:
    """For pickle, in a process that has not made the class yet."""
    for model_type in (model_type for family in FAMILIES for model_type in family.model_types):
        for created in classes(model_type) if name.startswith("Pruned") else ():
            if created.__name__ == name:
                return created
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


def layout(architecture: Architecture) -> dict[str, Any]:
    """What `PrunedLayers` has to know of a family."""
    linears: dict[str, tuple[int, dict[str, int]]] = {}
    for kind in architecture.kinds:
        counted = {"query": "heads", "key_value": "key_value_heads", "fused": "heads", "single": kind.name}
        for member in kind.members:
            _, counts = linears.setdefault(member.module, (member.axis, {}))
            name = counted[member.vectors]
            counts[name] = counts.get(name, 0) + (3 if member.vectors == "fused" else 1)
    return {
        "decoder_layers": architecture.layers,
        "head_dim": f"{architecture.attention}.{architecture.head_dim}",
        "linears": linears,
        "norms": {
            norm.module: "heads" if norm.vectors == "query" else "key_value_heads"
            for kind in architecture.kinds
            for norm in kind.norms
        },
        "attributes": {
            f"{width.module}.{width.attribute}": COUNTED.get(width.counts, width.counts)
            for width in architecture.widths
        },
    }


def source(model_type: str) -> str:
    """The text of an exported folder's module with both classes."""
    created, folder = classes(model_type), Path(__file__).parent
    # the words of a template are the package's own, and so is what goes into it
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True)
    template = environment.from_string((folder / "modelling.py.j2").read_text(encoding="utf-8"))
    return template.render(
        version=importlib.metadata.version("reproducer"),
        source=(folder / "pruned.py").read_text(encoding="utf-8").strip(),
        base_config=created.config.__mro__[2].__name__,
        base_model=created.model.__mro__[2].__name__,
        config=created.config.__name__,
        model=created.model.__name__,
        model_type=created.config.model_type,
        layout=layout(family_of(created.config)),
    )
