"""Settings are declared once: a dataclass of their part, unit and meaning in a comment, range in the type."""

import dataclasses
import functools
import inspect
import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

from dexhil.names import check_known, did_you_mean

Made = TypeVar("Made")


class ConfigError(ValueError):
    """A config file, key or value that cannot be used; the message names it and the remedy."""


class Bound(NamedTuple):
    """What a number must be, in words and as a test."""

    words: str
    holds: Callable[[float], bool]


Positive = Annotated[float, Bound("more than 0", lambda value: value > 0)]
NotNegative = Annotated[float, Bound("0 or more", lambda value: value >= 0)]
Fraction = Annotated[float, Bound("a fraction from 0 to 1", lambda value: 0 <= value <= 1)]
BelowOne = Annotated[float, Bound("0 or more and below 1", lambda value: 0 <= value < 1)]
Count = Annotated[int, Bound("at least 1", lambda value: value >= 1)]
Natural = Annotated[int, Bound("0 or more", lambda value: value >= 0)]


@dataclasses.dataclass(frozen=True)
class Settings:
    """Base of a part's settings. Raises ValueError, beginning with the setting's name, where a value does not fit."""

    def __post_init__(self) -> None:
        for name, hint in hints(type(self)).items():
            _check(name, getattr(self, name), hint)


@functools.cache
def hints(kind: type) -> dict[str, Any]:
    """Type of every field of a dataclass, ranges included."""
    types = get_type_hints(kind, include_extras=True)
    return {field.name: types[field.name] for field in dataclasses.fields(kind)}


@functools.cache
def meanings(kind: type) -> dict[str, str]:
    """The comment behind every field of a dataclass, or above it."""
    found: dict[str, str] = {}
    for part in reversed([part for part in kind.__mro__ if dataclasses.is_dataclass(part)]):
        above: list[str] = []
        for line in textwrap.dedent(inspect.getsource(part)).splitlines():
            code, _, comment = line.partition("#")
            name = code.partition(":")[0].strip()
            if not code.strip():
                above.append(comment.strip())
                continue
            if name in hints(kind):
                found[name] = " ".join([*above, comment.strip()]).strip()
            above = []
    return found


def from_values(kind: type[Made], values: Mapping[str, Any], key: str) -> Made:
    """The dataclass of a config's section, nested ones included. key: the section's. Raises ConfigError."""
    types, made = hints(kind), {}
    for name, value in values.items():
        if name not in types:
            raise ConfigError(f"{key}.{name}: there is no such setting{did_you_mean(name, types)}")
        if dataclasses.is_dataclass(types[name]) and isinstance(value, Mapping):
            made[name] = from_values(types[name], value, f"{key}.{name}")
        else:
            made[name] = _tuples(value)
    try:
        return kind(**made)
    except (ValueError, TypeError) as error:
        named = str(error).partition(" ")[0].rstrip(":") in types
        raise ConfigError(f"{key}{'.' if named else ': '}{error}") from None


def _check(name: str, value: Any, hint: Any) -> None:
    bounds: Sequence[Bound] = ()
    if get_origin(hint) is Annotated:
        hint, *bounds = get_args(hint)
    if get_origin(hint) is Literal:
        check_known(name, value, get_args(hint))
    elif get_origin(hint) is tuple:
        _check_tuple(name, value, get_args(hint))
    elif inspect.isclass(hint):
        kinds = (int, float) if hint is float else hint
        if not isinstance(value, kinds) or (isinstance(value, bool) and hint is not bool):
            raise ValueError(f"{name} {value!r}: expected {hint.__name__}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name} {value!r}: expected a finite number")
    for bound in bounds:
        if not bound.holds(value):
            raise ValueError(f"{name} {value!r}: expected {bound.words}")


def _check_tuple(name: str, values: Any, kinds: tuple[Any, ...]) -> None:
    if not isinstance(values, (tuple, list)):
        raise ValueError(f"{name} {values!r}: expected several values, such as (…, …)")
    if kinds[-1:] == (...,):
        kinds = kinds[:1] * len(values)
    if len(values) != len(kinds):
        raise ValueError(f"{name} {values!r}: expected {len(kinds)} values")
    for value, kind in zip(values, kinds, strict=True):
        _check(name, value, kind)


def _tuples(value: Any) -> Any:
    """JSON has no tuples."""
    return tuple(map(_tuples, value)) if isinstance(value, (list, tuple)) else value
