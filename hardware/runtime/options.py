"""The options of the commands of hardware/. Light: `--help` and what cannot be used need no device and no JAX."""

import argparse
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dexhil.config import Config, ConfigError, load_config
from dexhil.start import CommandParser, command_parser, split_overrides

RIGS = ("real", "sim")
SIZE = (1280, 720)  # px, of a camera that sees the cube


def evaluate() -> CommandParser:
    parser = _policy_parser("Scores a policy on a robot, with takeovers allowed.", required=True)
    parser.add_argument("--trials", type=above_zero(int), help="per task (default: episode.trials of the config)")
    parser.add_argument("--minutes", type=above_zero(float), help="trials for so long, instead of a number of them")
    return parser


def collect() -> CommandParser:
    parser = _policy_parser("Records demonstrations or an online round on a robot, builds their data set.")
    parser.add_argument("--round", type=above_zero(int), help="number of the round (default: 1), with a policy")
    parser.add_argument(
        "--episodes", type=above_zero(int), default=20, help="episodes that count, spread evenly over the tasks"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the episodes and the data set")
    return parser


def check() -> CommandParser:
    parser = _rig_parser("Checks a rig before work; nothing moves.")
    parser.add_argument("--out", type=Path, default=Path("data"), help="folder that episodes will be recorded under")
    return parser


def calibrate() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Calibrates a cell; each step writes a file.", allow_abbrev=False)
    steps = parser.add_subparsers(dest="step", required=True)
    sheet = steps.add_parser("sheet", help="the cube's faces, to print")
    camera = steps.add_parser("camera", help="intrinsics from a RealSense")
    record = steps.add_parser("record", help="pairs of poses, moving the arm")
    hand_eye = steps.add_parser("hand-eye", help="where camera, cube and hand are")
    for step in (sheet, camera, record, hand_eye):
        step.add_argument("--out", type=Path, required=True)
    for step in (camera, record):
        step.add_argument("--serial")
        step.add_argument("--size", type=int, nargs=2, default=SIZE, metavar=("WIDTH", "HEIGHT"))
    camera.add_argument("--file", type=Path, help="a recording (.db3) instead of a camera")
    record.add_argument("--host", required=True, help="of the FR3")
    record.add_argument("--intrinsics", type=Path, required=True)
    record.add_argument("--poses", type=int, default=15)
    hand_eye.add_argument("--pairs", type=Path, required=True)
    return parser


def _rig_parser(description: str) -> CommandParser:
    parser = command_parser(description)
    parser.add_argument("--rig", default="real", choices=RIGS, help="real, or the simulator in real time")
    return parser


def _policy_parser(description: str, *, required: bool = False) -> CommandParser:
    parser = _rig_parser(description)
    source = parser.add_mutually_exclusive_group(required=required)
    source.add_argument("--checkpoint", type=Path, help="workdir of a training run: its policy, on this machine")
    source.add_argument("--server", help="ws:// address of a policy server: the policy on another machine")
    parser.add_argument("--step", type=int, help="step of the checkpoint (default: the newest)")
    parser.add_argument("--key-file", type=Path, help="file with the server's key (default: variable DEXHIL_API_KEY)")
    return parser


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


def load_rig_config(argv: Sequence[str], parser: CommandParser) -> tuple[Config, argparse.Namespace]:
    """As `load_config`. Raises ConfigError where a device is named beside the simulator."""
    config, options = load_config(argv, parser)
    devices = [key for key in split_overrides(argv)[0] if key.split(".")[0] == "devices"]
    if options.rig == "sim" and devices:
        raise ConfigError(
            f"--config.{devices[0]}: --rig sim takes the simulator in the place of every device and of the person; "
            f"leave it out, or take --rig real"
        )
    return config, options


def policy_factory(options: argparse.Namespace, config: Config) -> Callable[[], Any] | None:
    """What makes the policy, in a process of its own; None without one. Raises ConfigError where options contradict
    each other, ValueError or OSError for a bad key.
    """
    from dexhil.control.executor import ExecutorConfig
    from dexhil.serving.keys import read_key
    from hardware.runtime.policy_process import connect, load_checkpoint

    if options.step is not None and options.checkpoint is None:
        raise ConfigError(f"--step {options.step}: a step is of a --checkpoint; a server has chosen its own")
    if options.key_file is not None and options.server is None:
        raise ConfigError(f"--key-file {options.key_file}: a key is for a --server")
    if options.server:
        return functools.partial(connect, options.server, read_key(options.key_file))
    if options.checkpoint is None:
        return None
    rtc = ExecutorConfig.of(config.policy).policy_rtc
    return functools.partial(load_checkpoint, options.checkpoint.resolve(), options.step, rtc)
