"""Specs: what a person asks for, as data. What owners of open sections build their own models from is here too."""

from reproducer.spec.load import Document, load, load_spec
from reproducer.spec.models import MethodSpec, ModelSpec, Spec
from reproducer.spec.origins import Loc, SpecError
from reproducer.spec.sections import CalibrationSpec, Named, PruneSpec, RecoverySpec, Section
from reproducer.spec.values import (
    Count,
    Label,
    Listed,
    Name,
    NonEmpty,
    Positive,
    Ratio,
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
    "Listed",
    "Loc",
    "MethodSpec",
    "ModelSpec",
    "Name",
    "Named",
    "NonEmpty",
    "Positive",
    "PruneSpec",
    "Ratio",
    "RecoverySpec",
    "Section",
    "Spec",
    "SpecError",
    "Text",
    "Tokens",
    "load",
    "load_spec",
    "mistake",
    "said",
]
