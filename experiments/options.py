"""The options of every command of this folder; loads nothing heavy, so that --help comes at once."""

import argparse
from pathlib import Path
from typing import get_args

from dexhil.control.executor import RtcChoice
from dexhil.serving.keys import VARIABLE
from dexhil.start import CommandParser, command_parser

CONFIGS = Path("experiments/configs")
SIM, HIL, RETARGET = (str(CONFIGS / name) for name in ("sim.py", "hil_sim.py", "retarget.py"))


def train() -> CommandParser:
    return command_parser("Trains a policy on RLDS data.", config=SIM, needs=("data", "model", "train"))


def evaluate() -> CommandParser:
    parser = command_parser("Scores a checkpoint in paired trials.", config=SIM, needs=("rig", "eval"))
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--checkpoint", type=Path, help="workdir of a training run")
    source.add_argument("--server", help=f"ws:// address of a policy server; its key in the variable {VARIABLE}")
    add_step(parser)
    parser.add_argument("--trials", type=count, help="per task (default: eval.trials of the config)")
    parser.add_argument("--against", type=Path, help="folder of an earlier run, to compare with pair by pair")
    return parser


def online() -> CommandParser:
    parser = command_parser(
        "Records supervised rollouts, builds their data set.",
        config=SIM,
        needs=("rig", "collect", "data", "eval", "online"),
    )
    parser.add_argument("--checkpoint", type=Path, required=True, help="workdir of a training run")
    parser.add_argument("--episodes", type=count, default=20, help="corrected episodes, spread evenly over the tasks")
    parser.add_argument("--round", type=natural, default=1, help="number of the round")
    parser.add_argument("--out", type=Path, required=True, help="folder of the episodes and the data set")
    return parser


def collect() -> CommandParser:
    parser = command_parser("Records demonstrations and builds their data set.", config=SIM, needs=("rig", "collect"))
    parser.add_argument("--episodes", type=count, default=60, help="successful episodes, spread evenly over the tasks")
    parser.add_argument("--round", type=natural, default=0, help="number of the round; 0: the warm-up")
    parser.add_argument("--out", type=Path, required=True, help="folder of the episodes and the data set")
    return parser


def hil() -> CommandParser:
    needs = ("rig", "collect", "data", "model", "train", "eval", "online", "hil")
    return command_parser("Runs a human-in-the-loop study.", config=HIL, needs=needs)


def sweep() -> CommandParser:
    parser = command_parser("Trains one policy per point of a sweep.", config=SIM, needs=("data", "model", "train"))
    parser.add_argument("--sweep", type=Path, required=True, help="a get_sweep() file")
    parser.add_argument("--launcher", choices=("local", "slurm"), default="local")
    parser.add_argument("--workers", type=count, help="trials at once (default: 1; on Slurm, all)")
    slurm = "option of sbatch such as partition=gpu or time=240 (minutes); repeat it for more"
    parser.add_argument("--slurm", metavar="KEY=VALUE", action="append", default=[], help=slurm)
    return parser


def retarget() -> CommandParser:
    needs = ("hand", "data", "train")
    parser = command_parser("Trains a hand retargeter and scores it.", config=RETARGET, needs=needs)
    parser.add_argument("--view", type=Path, help="play this recording through the trained retargeter of --workdir")
    parser.add_argument("--port", type=int, default=8080, help="of the view's page on this machine")
    parser.add_argument("--record", type=Path, help="record a person's hand into this .npy file")
    parser.add_argument("--stream", default="tcp://localhost:8765", help="ZMQ publisher of float32 [21, 3], m")
    parser.add_argument("--seconds", type=float, default=180.0, help="of a recording; Ctrl-C ends it too")
    return parser


def serve() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Serves a checkpoint over websockets.", allow_abbrev=False)
    parser.add_argument("--checkpoint", type=Path, required=True, help="workdir of a training run")
    add_step(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; beyond this machine with a key only")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one")
    parser.add_argument("--key-file", type=Path, help=f"file with the API key (default: the variable {VARIABLE})")
    rtc = "real-time chunking, for requests with a prefix (default: trained where the checkpoint is, else guided)"
    parser.add_argument("--rtc", choices=get_args(RtcChoice), default="auto", help=rtc)
    parser.add_argument("--workdir", type=Path, help="where the run writes (default: CHECKPOINT/serve)")
    return parser


def add_step(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--step", type=natural, help="step of the checkpoint (default: the newest)")


def count(text: str) -> int:
    """A whole number of at least 1, for argparse."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected at least 1")
    return int(text)


def natural(text: str) -> int:
    """A whole number of at least 0, for argparse."""
    if int(text) < 0:
        raise argparse.ArgumentTypeError(f"{text}: expected 0 or more")
    return int(text)
