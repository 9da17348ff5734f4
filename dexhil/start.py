"""The first lines of a command: its options are read before JAX, TensorFlow or MuJoCo load. Standard library only.

from dexhil.start import begin, command_parser
PARSER = command_parser("Trains a policy.", config="experiments/configs/sim.py")
if __name__ == "__main__":
    begin(PARSER)                # --help, --keys, what cannot be used, and Ctrl-C end here
import jax
"""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from dexhil.settings import ConfigError


class _ShowKeys(argparse.Action):
    """--keys: every key of the config with its default and meaning; the command ends there, as with --help."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from dexhil.config import show_keys

        print(show_keys(parser.argv if isinstance(parser, CommandParser) else sys.argv[1:], parser), end="")
        parser.exit()


class CommandParser(argparse.ArgumentParser):
    """Knows the arguments that it reads, overrides of the config included."""

    argv: Sequence[str] = ()
    needs: Sequence[str] = ()


def command_parser(description: str, *, config: str | None = None, needs: Sequence[str] = ()) -> CommandParser:
    """Parser with --config, --keys and --workdir. config: the default file. needs: sections that must be there."""
    parser = CommandParser(description=description, allow_abbrev=False)
    parser.needs = needs
    parser.add_argument("--config", default=config, required=config is None, help="a get_config() file")
    parser.add_argument("--keys", nargs=0, action=_ShowKeys, help="show the keys of the config and end")
    parser.add_argument("--workdir", type=Path, help="where the run writes")
    parser.epilog = "Override any config value with --config.KEY=VALUE; --config.preset is default, quick or debug."
    return parser


def begin(parser: argparse.ArgumentParser) -> None:
    """Judges the process's arguments before the rest of a command is imported; Ctrl-C ends it at once, status 130."""
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    try:
        if isinstance(parser, CommandParser):
            from dexhil.config import load_config

            load_config(sys.argv[1:], parser)
        else:
            parser.parse_args()
    except (ValueError, OSError) as error:
        fail(error)


def fail(error: Exception) -> None:
    """One line on stderr and exit status 2; with DEXHIL_TRACEBACK the error as it is."""
    if os.environ.get("DEXHIL_TRACEBACK"):
        raise error
    print(f"error: {error}\n(DEXHIL_TRACEBACK=1 shows where it was raised)", file=sys.stderr)
    sys.exit(2)


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
