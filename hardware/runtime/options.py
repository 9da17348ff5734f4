"""Options that hardware/eval.py and hardware/collect.py share. Light: `--help` needs no device and no JAX."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dexhil.config import Config, ConfigError, load_config
from dexhil.start import CommandParser, command_parser, split_overrides

RIGS = ("real", "sim")


def rig_parser(description: str, *, policy: bool) -> CommandParser:
    """Whose policy acts on which rig. policy: one is required."""
    parser = command_parser(description)
    source = parser.add_mutually_exclusive_group(required=policy)
    source.add_argument("--checkpoint", type=Path, help="workdir of a training run: its policy, on this machine")
    source.add_argument("--server", help="ws:// address of a policy server: the policy on another machine")
    parser.add_argument("--step", type=int, help="step of the checkpoint (default: the newest)")
    parser.add_argument("--key-file", type=Path, help="file with the server's key (default: variable DEXHIL_API_KEY)")
    add_rig_option(parser)
    return parser


def add_rig_option(parser: argparse.ArgumentParser) -> None:
    """--rig, which every hardware command has."""
    parser.add_argument(
        "--rig", default="real", choices=RIGS, help="real, or sim: the simulator in real time (default: real)"
    )


def above_zero(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    """For `add_argument(type=…)`: an int or float above 0."""

    def read(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = 0
        if not value > 0:
            what = "whole number" if kind is int else "number"
            raise argparse.ArgumentTypeError(f"expected a {what} above 0, got {text!r}")
        return value

    return read


def load_rig_config(argv: Sequence[str], parser: CommandParser, **defaults: Any) -> tuple[Config, argparse.Namespace]:
    """As `load_config`. Raises ConfigError where options contradict each other."""
    config, options = load_config(argv, parser, **defaults)
    devices = [key for key in split_overrides(argv)[0] if key.split(".")[0] == "devices"]
    if options.rig == "sim" and devices:
        raise ConfigError(
            f"--config.{devices[0]}: --rig sim takes the simulator in the place of every device and of the person; "
            f"leave it out, or take --rig real"
        )
    if getattr(options, "step", None) is not None and options.checkpoint is None:
        raise ConfigError(f"--step {options.step}: a step is of a --checkpoint; a server has chosen its own")
    if getattr(options, "key_file", None) is not None and options.server is None:
        raise ConfigError(f"--key-file {options.key_file}: a key is for a --server")
    return config, options


def policy_factory(options: argparse.Namespace, config: Config) -> Callable[[], Any] | None:
    """What makes the policy, in a process of its own; None without one. Raises ValueError or OSError for a bad key."""
    from dexhil.control.executor import ExecutorConfig
    from dexhil.serving.keys import read_key
    from hardware.runtime.policy_process import checkpoint_policy, server_policy

    if options.server:
        return server_policy(options.server, read_key(options.key_file))
    if options.checkpoint is None:
        return None
    return checkpoint_policy(options.checkpoint.resolve(), options.step, ExecutorConfig.of(config.policy).policy_rtc)
