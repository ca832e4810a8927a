"""The base of what the program writes down as JSON: typed facts."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from reproducer.errors import UserError

M = TypeVar("M", bound=BaseModel)


class Facts(BaseModel):
    """Frozen; unknown keys, NaN and infinity are refused: JSON cannot hold the latter two.

    Lone surrogates, which no file in UTF-8 can hold, become U+FFFD.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _without_surrogates(cls, data: Any) -> Any:
        return _encodable(data)


def read_results(kind: type[M], path: Path, name: str, strict: bool = False) -> M:
    """A results.json as `kind`, which may be a part of what it holds.

    Args:
        name: of the file in errors.

    Raises:
        UserError: it cannot be read, or holds something else; tells where.
    """
    try:
        return kind.model_validate_json(path.expanduser().read_bytes(), strict=strict)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise UserError(f"{name} is no results.json: {place}: {first['msg']}") from None
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{name} cannot be read: {error}", "name the results.json of a finished run") from None


def _encodable(data: Any) -> Any:
    if isinstance(data, str):
        return data if data.isascii() else data.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(data, dict):
        return {_encodable(key): _encodable(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_encodable(value) for value in data]
    return data
