"""Plain mappings (from YAML or ``--set``) -> frozen dataclasses, checked: every error names the field, the value and
the rule.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import math
import types
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from xlm.errors import ConfigError

T = TypeVar("T")


def read_recipe(path: str | Path) -> dict[str, Any]:
    """The fields of a recipe file.

    Raises:
        ConfigError: it cannot be read, or is no mapping.
    """
    import yaml

    try:
        values = yaml.safe_load(Path(path).read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"recipe {path}: cannot be read: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"recipe {path}: not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"recipe {path}: it must hold a mapping of fields, not {type(values).__name__}")
    return values


def bounded(
    default: Any = dataclasses.MISSING,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
) -> Any:
    """A dataclass field of a number that must be >= ``low``, <= ``high`` and > ``above``."""
    return dataclasses.field(default=default, metadata={"low": low, "high": high, "above": above})


def build(cls: type[T], values: object, path: str = "") -> T:
    """An instance of the dataclass ``cls`` from a mapping. Unknown, missing, mistyped and out-of-range fields are
    ``ConfigError``s.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{path or 'recipe'} is {_show(values)}: it must be a mapping of fields")
    fields = {field.name: field for field in dataclasses.fields(cast(Any, cls))}
    hints = get_type_hints(cls)
    for name in values:
        if name not in fields:
            near = difflib.get_close_matches(str(name), fields, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            own = [one for one in fields if one in inspect.get_annotations(cls)]  # before those of its base
            listed = ", ".join([*own, *(one for one in fields if one not in own)])
            raise ConfigError(f"{_join(path, name)} = {_show(values[name])} is not a known field ({listed}){hint}")
    made: dict[str, Any] = {}
    for name, field in fields.items():
        at = _join(path, name)
        if name in values:
            made[name] = _convert(hints[name], values[name], at)
            _check_range(made[name], field.metadata, at)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{at} is missing: the recipe must give it")
    return cls(**made)


def set_value(values: dict[str, Any], assignment: str, parse) -> None:
    """Apply one ``a.b.c=value`` to nested mappings, in place; ``parse`` reads the value (YAML)."""
    key, sign, text = assignment.partition("=")
    if not sign or not key.strip():
        raise ConfigError(f"--set {assignment!r}: it must read field.field=value")
    *parents, last = key.strip().split(".")
    for parent in parents:
        inner = values.setdefault(parent, {})
        if inner is None:
            inner = values[parent] = {}
        if not isinstance(inner, dict):
            raise ConfigError(f"--set {assignment!r}: {parent} is {_show(inner)}, not a mapping of fields")
        values = inner
    values[last] = parse(text)


def _convert(hint: Any, value: Any, at: str) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        errors = []
        for option in (arg for arg in args if arg is not type(None)):
            try:
                return _convert(option, value, at)
            except ConfigError as error:
                errors.append(error)
        raise errors[0]
    if origin is Literal:
        if value not in args or isinstance(value, bool) != any(value is arg for arg in args if isinstance(arg, bool)):
            raise ConfigError(f"{at} = {_show(value)}: it must be one of {', '.join(map(str, args))}")
        return value
    if dataclasses.is_dataclass(hint):
        return build(cast(type, hint), value, at)
    if origin is list or origin is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{at} = {_show(value)}: it must be a list")
        if origin is tuple and args[-1] is not Ellipsis and len(value) != len(args):
            raise ConfigError(f"{at} = {_show(value)}: it must have exactly {len(args)} entries")
        inner = args if origin is tuple and args[-1] is not Ellipsis else (args[0],) * len(value)
        return origin(
            _convert(kind, item, f"{at}[{i}]") for i, (kind, item) in enumerate(zip(inner, value, strict=True))
        )
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{at} = {_show(value)}: it must be a mapping")
        return {str(key): _convert(args[1], item, _join(at, key)) for key, item in value.items()}
    return _scalar(hint, value, at)


def _scalar(hint: type, value: Any, at: str) -> Any:
    if hint is float:
        if isinstance(value, str):  # YAML 1.1 reads 1e-3 as text
            with suppress(ValueError):
                value = float(value)
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
    elif hint is int:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    elif isinstance(value, hint):
        return value
    name = {int: "a whole number", float: "a finite number", str: "text", bool: "true or false"}[hint]
    raise ConfigError(f"{at} = {_show(value)}: it must be {name}")


def _check_range(value: Any, rule: Mapping[str, Any], at: str) -> None:
    if not rule or value is None:
        return
    for one in value if isinstance(value, list | tuple) else (value,):
        if (low := rule.get("low")) is not None and one < low:
            raise ConfigError(f"{at} = {_show(one)}: it must be at least {low}")
        if (high := rule.get("high")) is not None and one > high:
            raise ConfigError(f"{at} = {_show(one)}: it must be at most {high}")
        if (above := rule.get("above")) is not None and one <= above:
            raise ConfigError(f"{at} = {_show(one)}: it must be greater than {above}")


def _join(path: str, name: object) -> str:
    return f"{path}.{name}" if path else str(name)


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
