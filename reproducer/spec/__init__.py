"""Specs: what a person asks for, as data."""

from reproducer.spec.load import load_spec
from reproducer.spec.models import (
    CalibrationSpec,
    EvaluateSpec,
    MethodSpec,
    ModelSpec,
    PruneSpec,
    RecoverySpec,
    SearchSpec,
    SpaceSpec,
    Spec,
)
from reproducer.spec.origins import SpecError

__all__ = [
    "CalibrationSpec",
    "EvaluateSpec",
    "MethodSpec",
    "ModelSpec",
    "PruneSpec",
    "RecoverySpec",
    "SearchSpec",
    "SpaceSpec",
    "Spec",
    "SpecError",
    "load_spec",
]
