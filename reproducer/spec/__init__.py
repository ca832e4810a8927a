"""Specs: what a person asks for, as data."""

from reproducer.spec.load import load_spec
from reproducer.spec.models import MethodSpec, ModelSpec, Spec
from reproducer.spec.origins import SpecError
from reproducer.spec.sections import CalibrationSpec, EvaluateSpec, PruneSpec, RecoverySpec, SearchSpec, SpaceSpec

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
