"""Specs: what a person asks for, as data. What owners of open sections build their own models from is here too."""

from reproducer.spec.load import Document, load, load_spec
from reproducer.spec.models import MethodSpec, ModelSpec, Spec
from reproducer.spec.origins import Loc, SpecError
from reproducer.spec.sections import CalibrationSpec, Named, PruneSpec, RecoverySpec, Section
from reproducer.spec.values import (
    Count,
    Label,
    Layers,
    Listed,
    Name,
    NonEmpty,
    Parameter,
    Plain,
    Positive,
    Ratio,
    Seed,
    Text,
    Tokens,
    mistake,
    said,
)

__all__ = [
    "CalibrationSpec",
    "Count",
    "Document",
    "Label",
    "Layers",
    "Listed",
    "Loc",
    "MethodSpec",
    "ModelSpec",
    "Name",
    "Named",
    "NonEmpty",
    "Parameter",
    "Plain",
    "Positive",
    "PruneSpec",
    "Ratio",
    "RecoverySpec",
    "Section",
    "Seed",
    "Spec",
    "SpecError",
    "Text",
    "Tokens",
    "load",
    "load_spec",
    "mistake",
    "said",
]
