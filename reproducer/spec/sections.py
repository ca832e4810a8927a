"""The sections of a spec: one frozen pydantic model each, unknown keys refused."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from reproducer.spec.values import (
    Count,
    Layers,
    Name,
    NonEmpty,
    OneOrMore,
    Plain,
    Positive,
    Ratio,
    Tokens,
    chained,
    mistake,
)


class Section(BaseModel):
    """Frozen; unknown keys, values of another type, NaN and infinity are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Named(Section):
    """An entry of a list for which its bare name may stand."""

    name: Name

    @model_validator(mode="before")
    @classmethod
    def _bare_name(cls, data: Any) -> Any:
        return {"name": data} if isinstance(data, str) else data


class RecoverySpec(Named):
    """Fine-tuning after pruning: its kind, and keys that the kind knows. `none` is the absence of one."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Plain] = Field(init=False)

    @property
    def parameters(self) -> dict[str, Any]:
        """Everything but the name, as written."""
        return self.model_extra or {}


def _no_none(chain: list[RecoverySpec]) -> list[RecoverySpec]:
    if len(chain) > 1 and any(recovery.name == "none" for recovery in chain):
        raise mistake("'none' is the absence of a recovery; it cannot stand before or after another one")
    return chain


Chain = Annotated[OneOrMore[RecoverySpec], AfterValidator(_no_none)]
"""Recoveries of one row, one after the other."""
ChainName = Annotated[Name, BeforeValidator(lambda value: chained(value) if isinstance(value, list) else value)]

EXCLUSIVE = {"ratio": "structure_ratio", "structure_ratio": "ratio"}
"""Two keys of which an override gives one: it then takes the place of the other."""


class PruneSpec(Section):
    """How much is pruned, and where. Exactly one of `ratio` and `structure_ratio` is a list, the other None.

    `steps` reaches the ratio in so many equal cuts, each decided on the smaller model; `resample` takes other samples
    each time.
    """

    ratio: NonEmpty[Ratio] | None = None
    structure_ratio: NonEmpty[Ratio] | None = None
    layers: Layers | None = None
    scope: Literal["local", "global", "parameters", "uniform"] = "local"
    heads: Literal["auto", "local", "pooled"] = "auto"
    round_to: Count = 1
    steps: Annotated[int, Field(gt=0, le=1000)] = 1
    resample: bool = False

    @model_validator(mode="before")
    @classmethod
    def _default_ratio(cls, data: Any) -> Any:
        given = [key for key in EXCLUSIVE if isinstance(data, dict) and key in data]
        if given and all(data[key] is None for key in given):
            empty = mistake("is empty; give it a fraction such as 0.20, or leave the key out")
            raise ValidationError.from_exception_data("", [{"type": empty, "loc": (given[0],), "input": None}])
        return data if given or not isinstance(data, dict) else {**data, "ratio": [0.20]}

    @field_validator("structure_ratio")
    @classmethod
    def _one_of_two(cls, value: list[float] | None, info: ValidationInfo) -> list[float] | None:
        if value is not None and info.data.get("ratio") is not None:
            raise mistake(
                "cannot stand beside 'ratio'; keep 'ratio' (of all parameters) or 'structure_ratio' (of each layer)"
            )
        return value


class CalibrationSpec(Section):
    """The texts that importance is estimated on: `samples` passages of `length` tokens out of the pool.

    Attributes:
        dataset: one text, or several to mix; None: the default of whoever calibrates.
        split: of the texts: `calibration`, whole passages, cut; or `search`, the windows that a search measures on.
        shares: of the samples, one a text, with the sum 1; None: equal ones.
        pool: samples are drawn from so many passages or windows; None: from all.
    """

    dataset: NonEmpty[Name] | None = None
    split: Literal["calibration", "search"] = "calibration"
    shares: list[Positive] | None = None
    samples: Count = 10
    length: Tokens = 128
    pool: Count | None = None

    @model_validator(mode="after")
    def _shares_fit(self) -> Self:
        if self.shares is None:
            return self
        texts = len(self.dataset or [""])
        if len(self.shares) != texts:
            raise mistake(f"{len(self.shares)} shares for {texts} text{'s' * (texts > 1)}; give each text its share")
        if not math.isclose(total := sum(self.shares), 1, abs_tol=1e-6):
            better = ", ".join(f"{share / total:.4g}" for share in self.shares)
            raise mistake(f"the shares add up to {total:.6g}, not to 1; in this proportion: [{better}]")
        return self

    @field_validator("pool")
    @classmethod
    def _enough(cls, pool: int | None, info: ValidationInfo) -> int | None:
        samples = info.data.get("samples", 0)
        if pool is not None and pool < samples:
            raise mistake(f"a pool of {pool} passages cannot give {samples} samples; make it {samples} or more")
        return pool
