"""Configs: `get_config(preset)` files, typed overrides on the command line, errors that name the nearest key.

    --config experiments/configs/NAME.py [--config.preset=quick] [--config.a.b=value …]

The preset is applied first and the overrides after it, whatever their order. An override takes the type of the value
that it replaces; tuples are written `1,2` or `(1, 2)`. A section that `as_config` made of a part's dataclass knows it:
it takes no other key, and its values are checked before anything starts.
"""

import argparse
import ast
import dataclasses
import difflib
import importlib.util
import linecache
import re
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias, TypeVar

from ml_collections import ConfigDict

from dexhil.names import did_you_mean
from dexhil.settings import ConfigError, from_values, meanings
from dexhil.start import CommandParser, command_parser, split_overrides

Config: TypeAlias = Any  # a ConfigDict; its keys exist at run time only, so a type checker cannot know them
Made = TypeVar("Made")

PRESETS = ("default", "quick", "debug")
CONFIG_FOLDER = Path(__file__).resolve().parents[1] / "experiments" / "configs"

_BRACKETED = re.compile(r"\([^()]*\)|\[[^\[\]]*\]")  # not a path such as (a)/b
_ELEMENT = re.compile(r"""\s*(?:'[^']*'|"[^"]*")\s*(?=,|$)|[^,]+""")
_BOOLS = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}


class Section(ConfigDict):
    """A part of a config with the dataclass that declares it."""

    kind: type

    def __init__(self, settings: Any) -> None:
        values = {field.name: _plain(getattr(settings, field.name)) for field in dataclasses.fields(settings)}
        super().__init__(values)
        object.__setattr__(self, "kind", type(settings))


def as_config(settings: Any) -> Config:
    """The section of a dataclass, with a section for each one in it."""
    return Section(settings)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return Section(value)
    if isinstance(value, Mapping):
        return ConfigDict(value)
    return tuple(value.tolist()) if hasattr(value, "tolist") else value


def read_section(config: Config, key: str, kind: type[Made]) -> Made:
    """The dataclass of the config's section with the dotted `key`. Raises ConfigError without it, and as it is made."""
    for name in key.split("."):
        if name not in config:
            raise ConfigError(f"the config has no section {key!r}, which this command needs; see {CONFIG_FOLDER}")
        config = config[name]
    return from_values(kind, config.to_dict(), key)


def check_config(config: Config, prefix: str = "") -> None:
    """Raises ConfigError, with the key, where a section's dataclass refuses a value."""
    for name, value in config.items():
        if isinstance(value, Section):
            from_values(value.kind, value.to_dict(), prefix + name)
        elif isinstance(value, ConfigDict):
            check_config(value, f"{prefix}{name}.")


def show_keys(argv: Sequence[str], parser: argparse.ArgumentParser) -> str:
    """Every key of the command's config, its value and what it means, one a line."""
    arguments = [argument for argument in argv if argument != "--keys"]
    overrides, rest = split_overrides(arguments)
    named = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    named.add_argument("--config", default=parser.get_default("config"))
    path = named.parse_known_args(rest)[0].config
    if path is None:
        raise ConfigError("--keys: say which config with --config FILE")
    config = read_config_file(Path(path), overrides.get("preset", "default"))
    rows = [
        (f"--config.{key}={value!r}", meanings(section.kind).get(name, "") if isinstance(section, Section) else "")
        for key, value, section, name in _leaves(config)
    ]
    width = min(50, max(len(left) for left, _ in rows))
    return "".join(f"{left:<{width}}  {meaning}".rstrip() + "\n" for left, meaning in rows)


def load_config(
    argv: Sequence[str],
    parser: CommandParser | None = None,
    workdir: Callable[[argparse.Namespace], Path] = lambda options: Path("runs") / Path(options.config).stem,
) -> tuple[Config, argparse.Namespace]:
    """The locked config and the other options; `workdir(options)` where --workdir is not given. Raises ConfigError."""
    parser = parser or command_parser("")
    parser.argv = argv
    overrides, rest = split_overrides(argv)
    options = parser.parse_args(rest)
    if options.workdir is None:
        options.workdir = workdir(options)
    config = read_config_file(Path(options.config), overrides.pop("preset", "default"))
    for key, text in overrides.items():
        override(config, key, text)
    if missing := [name for name in parser.needs if name not in config]:
        raise ConfigError(
            f"--config {options.config}: has no section {missing[0]!r}, which this command needs; start from "
            f"{parser.get_default('config') or 'a file of hardware/configs'}"
        )
    check_config(config)
    return config.lock(), options


def read_config_file(path: Path, preset: str = "default") -> Config:
    """`get_config(preset)` of the file, with `preset` among its keys. Raises ConfigError."""
    module = _load_module(path)
    presets = getattr(module, "PRESETS", PRESETS)
    if preset not in presets:
        raise ConfigError(
            f"--config.preset={preset}: expected one of {', '.join(presets)}{did_you_mean(preset, presets)}"
        )
    config: Config = _call(path, lambda: module.get_config(preset))
    if not isinstance(config, (ConfigDict, Mapping)):
        raise ConfigError(f"--config {path}: get_config() gives {config!r}; expected a ConfigDict")
    config = config if isinstance(config, ConfigDict) else ConfigDict(config)
    with config.unlocked():
        config.preset = preset
    return config


def override(config: Config, key: str, text: str) -> None:
    """Sets the dotted `key` to `text` read as the type of its present value. Raises ConfigError."""
    leaves = {leaf: (value, section, name) for leaf, value, section, name in _leaves(config)}
    if key not in leaves:
        raise ConfigError(_unknown_key(key, {leaf: value for leaf, (value, _, _) in leaves.items()}))
    value, section, name = leaves[key]
    kind = section.get_type(name)
    try:
        section[name] = _parse(text, value, kind)
    except (ValueError, KeyError):
        raise ConfigError(f"--config.{key}={text}: expected {kind.__name__} such as {value!r}") from None


def changed_keys(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Dotted keys whose values differ between two nested dicts, or that only one of them has."""
    old, new = ({key: value for key, value, *_ in _leaves(config)} for config in (before, after))
    return sorted(key for key in old.keys() | new.keys() if old.get(key, ...) != new.get(key, ...))


def _load_module(path: Path) -> ModuleType:
    if not path.is_file():
        folder = path.parent if any(path.parent.glob("*.py")) and path.parent != Path() else CONFIG_FOLDER
        names = [name.stem for name in sorted(folder.glob("*.py")) if name.stem != "__init__"]
        available = f"available in {folder}: {', '.join(names)}" if names else "give the path of a get_config() file"
        raise ConfigError(f"--config {path}: no such file{did_you_mean(path.stem, names)}; {available}")
    spec = importlib.util.spec_from_file_location(f"config_file_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"--config {path}: expected a Python file (.py) with a function get_config(preset)")
    module = importlib.util.module_from_spec(spec)
    loader = spec.loader
    _call(path, lambda: loader.exec_module(module))
    if not hasattr(module, "get_config"):
        raise ConfigError(f"--config {path}: the file has no function get_config(preset); every config defines it")
    return module


def _call(path: Path, work: Callable[[], Any]) -> Any:
    try:
        return work()
    except ConfigError:
        raise
    except SyntaxError as error:
        raise ConfigError(f"--config {path}: line {error.lineno} is no Python: {error.msg}") from None
    except Exception as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        where = f"line {lines[-1]} ({linecache.getline(str(path), lines[-1] or 0).strip()}): " if lines else ""
        raise ConfigError(f"--config {path}: {where}{type(error).__name__}: {error}".splitlines()[0]) from None


def _leaves(config: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any, str]]:
    """(dotted key, value, its section, its name there) of everything that is not a section."""
    for name, value in config.items():
        if isinstance(value, (ConfigDict, dict)):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value, config, name


def _unknown_key(key: str, leaves: dict[str, Any]) -> str:
    below = [leaf for leaf in leaves if leaf.startswith(key + ".")]
    if below:
        return f"--config.{key}: is a section, not a value; its keys: {', '.join(below)}"
    same_name = [leaf for leaf in leaves if leaf.rpartition(".")[2] == key.rpartition(".")[2]]
    close = same_name or difflib.get_close_matches(key, leaves, n=1, cutoff=0.0)
    hint = f"nearest: --config.{close[0]} (now {leaves[close[0]]!r})" if close else "the config has no keys"
    return f"--config.{key}: the config has no such key; {hint}"


def _parse(text: str, current: Any, kind: type) -> Any:
    """`text` as a value of `kind`, a tuple's elements as their common type; raises ValueError or KeyError."""
    if issubclass(kind, (tuple, list)):
        kinds = {type(value) for value in current}
        element = kinds.pop() if len(kinds) == 1 else object
        return kind(_parse(part, None, element) for part in _elements(text))
    if kind is bool:
        return _BOOLS[text.lower()]
    if kind is int:
        try:
            return int(text)
        except ValueError:
            if not float(text).is_integer():  # 1e4 is
                raise
            return int(float(text))
    return kind(text) if kind in (float, str) else _literal(text)


def _elements(text: str) -> list[str]:
    """What stands between commas, outside of quotes; brackets around the whole are optional."""
    text = text.strip()
    bracketed = _BRACKETED.fullmatch(text) or (text[:1] in ("(", "[") and isinstance(_literal(text), (tuple, list)))
    parts = _ELEMENT.findall(text[1:-1] if bracketed else text)
    return [part.strip().strip("'\"") for part in parts if part.strip()]


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
