"""Configs: `get_config(preset)` files, typed overrides on the command line, errors that name the nearest key.

    --config experiments/configs/NAME.py [--config.preset=quick] [--config.a.b=value …]

The preset is applied first and the overrides after it, whatever their order. An override takes the type of the value
that it replaces; tuples are written `1,2` or `(1, 2)`.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import importlib.util
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

from ml_collections import ConfigDict

Config: TypeAlias = Any  # a ConfigDict; its keys exist at run time only, so a type checker cannot know them

PRESETS = ("default", "quick", "debug")
CONFIG_FOLDER = Path(__file__).resolve().parents[1] / "experiments" / "configs"

_BRACKETED = re.compile(r"\([^()]*\)|\[[^\[\]]*\]")  # not a path such as (a)/b
_ELEMENT = re.compile(r"""\s*(?:'[^']*'|"[^"]*")\s*(?=,|$)|[^,]+""")
_BOOLS = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}


class ConfigError(ValueError):
    """A config file, key or value that cannot be used; the message names it and the remedy."""


def command_parser(description: str, *, config: str | None = None) -> argparse.ArgumentParser:
    """Parser with the options that every command has, --config and --workdir. config: the default file."""
    parser = argparse.ArgumentParser(description=description, allow_abbrev=False)
    parser.add_argument("--config", default=config, required=config is None, help="a get_config() file")
    parser.add_argument("--workdir", type=Path, help="where the run writes")
    parser.epilog = (
        "Override any value of the config with --config.KEY=VALUE; --config.preset is default, quick or debug."
    )
    return parser


def default_workdir(options: argparse.Namespace) -> Path:
    """runs/ and the config's name."""
    return Path("runs") / Path(options.config).stem


def load_config(
    argv: Sequence[str],
    parser: argparse.ArgumentParser | None = None,
    workdir: Callable[[argparse.Namespace], Path] = default_workdir,
) -> tuple[Config, argparse.Namespace]:
    """The locked config and the command's other options; `workdir(options)` where --workdir was not given.

    Raises ConfigError on a missing file, an unknown preset or key, and a value that does not fit its key's type.
    """
    overrides, rest = split_overrides(argv)
    options = (parser or command_parser("")).parse_args(rest)
    if options.workdir is None:
        options.workdir = workdir(options)
    config = read_config_file(Path(options.config), overrides.pop("preset", "default"))
    for key, text in overrides.items():
        override(config, key, text)
    return config.lock(), options


def read_config_file(path: Path, preset: str = "default") -> Config:
    """`get_config(preset)` of the file, with `preset` among its keys. Raises ConfigError."""
    module = _load_module(path)
    presets = getattr(module, "PRESETS", PRESETS)
    if preset not in presets:
        raise ConfigError(f"--config.preset={preset}: expected one of {', '.join(presets)}{_nearest(preset, presets)}")
    config: Config = ConfigDict(module.get_config(preset))
    with config.unlocked():
        config.preset = preset
    return config


def override(config: Config, key: str, text: str) -> None:
    """Sets the dotted `key` to `text` read as the type of its present value. Raises ConfigError."""
    leaves = dict(_leaves(config))
    if key not in leaves:
        raise ConfigError(_unknown_key(key, leaves))
    *sections, name = key.split(".")
    holder = config
    for section in sections:
        holder = holder[section]
    try:
        value = _parse(text, leaves[key], holder.get_type(name))
    except ValueError:
        expected = f"{holder.get_type(name).__name__} such as {leaves[key]!r}"
        raise ConfigError(f"--config.{key}={text}: expected {expected}") from None
    holder[name] = value


def changed_keys(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Dotted keys whose values differ between two nested dicts, or that only one of them has."""
    old, new = dict(_leaves(before)), dict(_leaves(after))
    return sorted(key for key in old.keys() | new.keys() if old.get(key, ...) != new.get(key, ...))


def split_overrides(argv: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Separates `--config.key=value` and `--config.key value` from all other arguments."""
    overrides: dict[str, str] = {}
    rest: list[str] = []
    arguments = iter(argv)
    for argument in arguments:
        if not argument.startswith("--config."):
            rest.append(argument)
            continue
        key, equals, value = argument.removeprefix("--config.").partition("=")
        if not equals:
            value = next(arguments, "--")
        if not equals and value.startswith("--"):
            raise ConfigError(f"--config.{key}: needs a value; write --config.{key}=VALUE")
        overrides[key] = value
    return overrides, rest


def _load_module(path: Path) -> ModuleType:
    if not path.is_file():
        folder = path.parent if any(path.parent.glob("*.py")) and path.parent != Path() else CONFIG_FOLDER
        names = [name.stem for name in sorted(folder.glob("*.py")) if name.stem != "__init__"]
        available = f"available in {folder}: {', '.join(names)}" if names else "give the path of a get_config() file"
        raise ConfigError(f"--config {path}: no such file{_nearest(path.stem, names)}; {available}")
    spec = importlib.util.spec_from_file_location(f"config_file_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"--config {path}: expected a Python file (.py) with a function get_config(preset)")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise ConfigError(f"--config {path}: the file has no function get_config(preset); every config defines it")
    return module


def _leaves(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of everything that is not a section."""
    for name, value in config.items():
        if isinstance(value, (ConfigDict, dict)):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _unknown_key(key: str, leaves: dict[str, Any]) -> str:
    below = [leaf for leaf in leaves if leaf.startswith(key + ".")]
    if below:
        return f"--config.{key}: is a section, not a value; its keys: {', '.join(below)}"
    same_name = [leaf for leaf in leaves if leaf.rpartition(".")[2] == key.rpartition(".")[2]]
    close = same_name or difflib.get_close_matches(key, leaves, n=1, cutoff=0.0)
    hint = f"nearest: --config.{close[0]} (now {leaves[close[0]]!r})" if close else "the config has no keys"
    return f"--config.{key}: the config has no such key; {hint}"


def _nearest(name: str, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _parse(text: str, current: Any, kind: type) -> Any:
    """`text` as a value of `kind`. Raises ValueError."""
    if issubclass(kind, (tuple, list)):
        return kind(_parse_element(part, current) for part in _elements(text))
    if kind is bool:
        if text.lower() not in _BOOLS:
            raise ValueError(text)
        return _BOOLS[text.lower()]
    if kind is int:
        return _parse_int(text)
    if kind in (float, str):
        return kind(text)
    return _literal(text)


def _parse_int(text: str) -> int:
    """Also reads 1e4, as long as it is whole."""
    try:
        return int(text)
    except ValueError:
        number = float(text)
        if not number.is_integer():
            raise
        return int(number)


def _elements(text: str) -> list[str]:
    """What stands between commas, outside of quotes; brackets around the whole are optional."""
    text = text.strip()
    bracketed = _BRACKETED.fullmatch(text) or (text[:1] in ("(", "[") and isinstance(_literal(text), (tuple, list)))
    parts = _ELEMENT.findall(text[1:-1] if bracketed else text)
    return [part.strip().strip("'\"") for part in parts if part.strip()]


def _parse_element(text: str, current: Sequence[Any]) -> Any:
    """An element takes the type that all present elements share; an empty tuple says nothing about it."""
    kinds = {type(value) for value in current}
    return _parse(text, None, kinds.pop()) if len(kinds) == 1 else _literal(text)


def _literal(text: str) -> Any:
    """A Python literal where it is one, else the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
