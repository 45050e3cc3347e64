"""Configuration against its schema: a dataclass says which keys there are, of what type and within what limits."""

import difflib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, cast

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException

from artgate.errors import UserError

Schema = TypeVar("Schema")


def validated(schema: type[Schema], cfg: Mapping[Any, Any] | DictConfig, group: str = "") -> Schema:
    """`cfg` as an instance of the dataclass `schema`; its `__post_init__` checks the limits.

    group: where `cfg` lies in the whole configuration, named in front of the keys in messages; "" for the root.
    Raises UserError for an unknown key, a wrong type or a value left out.
    """
    try:
        # Interpolations reach across the whole configuration: they are resolved while `cfg` still hangs in it.
        values = OmegaConf.to_container(cfg, resolve=True) if isinstance(cfg, DictConfig) else cfg
        _check_parts(schema, cast(Mapping[Any, Any], values), group)
        merged = OmegaConf.merge(OmegaConf.structured(schema), cast(Any, values))
        return cast(Schema, OmegaConf.to_object(merged))
    except ConfigKeyError as error:
        raise UserError(_unknown_key(schema, error, group)) from None
    except MissingMandatoryValue as error:
        raise UserError(f"{_key(error, group)} has no value: give {_key(error, group)}=…") from None
    except OmegaConfBaseException as error:
        raise UserError(f"{_key(error, group)}{_explained(error)}") from None


def _check_parts(schema: type[Any], values: Mapping[Any, Any], group: str) -> None:
    """Refuse one value where there is a mapping of settings; OmegaConf would not say where."""
    for part in fields(schema):
        value = values.get(part.name, MISSING)
        if is_dataclass(part.type) and value != MISSING and not (isinstance(value, Mapping) or is_dataclass(value)):
            key = f"{group}.{part.name}" if group else part.name
            known = _keys(cast(type[Any], part.type), f"{key}.")
            raise UserError(f"{key} {value!r} is one value, and {key} has several: give {', '.join(known)}")


def _explained(error: OmegaConfBaseException) -> str:
    told = str(error).splitlines()[0]
    return " is no list: give one in brackets, as [a,b]" if "is not a ListConfig" in told else f": {told}"


def _key(error: OmegaConfBaseException, group: str) -> str:
    return ".".join(part for part in (group, error.full_key or "") if part)


def _unknown_key(schema: type[Any], error: ConfigKeyError, group: str) -> str:
    known = _keys(schema, f"{group}." if group else "")
    close = difflib.get_close_matches(_key(error, group), known, n=1)
    cure = f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"
    return f"{_key(error, group)} is not a setting: {cure}"


def _keys(schema: type[Any], prefix: str) -> list[str]:
    keys = []
    for field in fields(schema):
        keys.append(f"{prefix}{field.name}")
        if is_dataclass(field.type):
            keys += _keys(cast(type[Any], field.type), f"{prefix}{field.name}.")
    return keys
