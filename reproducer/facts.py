"""The base of what the program writes down as JSON: typed facts."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator


class Facts(BaseModel):
    """Frozen; unknown keys, NaN and infinity are refused: JSON cannot hold the latter two.

    Lone surrogates, which no file in UTF-8 can hold, become U+FFFD.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _without_surrogates(cls, data: Any) -> Any:
        return _encodable(data)


def _encodable(data: Any) -> Any:
    if isinstance(data, str):
        return data if data.isascii() else data.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(data, dict):
        return {_encodable(key): _encodable(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_encodable(value) for value in data]
    return data
