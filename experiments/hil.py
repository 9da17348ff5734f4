"""Human-in-the-loop rounds in one command: warm-up, then deploy, correct, aggregate, train and score, for every arm.

    python experiments/hil.py --config experiments/configs/hil_sim.py [--config.preset=quick] [--workdir runs/NAME]

    WORKDIR/demonstrations/roundR          round 0: the warm-up's; later ones: the offline arm's
    WORKDIR/warmup                         the policy that every arm starts from
    WORKDIR/ARM/roundR/online, …/train     the arm's supervised rollouts, and the policy trained with them

Every part is a command of its own (collect.py, online.py, train.py) in a folder of its own, and finished parts are
kept: the same command again goes on where it was, in the middle of a part too; more arms may be named then.
report.html grows with every part.
"""

from dexhil.start import begin
from experiments import options as command_options

if __name__ == "__main__":
    begin(command_options.hil())

import dataclasses
import functools
import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from data_pipeline.mixture import MixtureConfig
from dexhil.commands import (
    ConfigError,
    Run,
    load_config,
    read_metrics,
    refuse_other_config,
    run_command,
    stop_requested,
)
from dexhil.config import Config
from dexhil.episodes.recorder import list_episodes, read_facts
from dexhil.evaluation.study import WARMUP, Cell, Demonstrations, Study, study_results, visible
from dexhil.fit import Interface, check_kinematics, known_joint_names
from dexhil.models.config import get_model_config
from dexhil.names import check_known
from dexhil.progress import format_seconds
from dexhil.reports.study import write_study_report
from dexhil.start import split_overrides
from dexhil.training.checkpoints import load_meta
from experiments.arms import Arm, get_arm
from experiments.collect import demonstration_rig
from experiments.eval import check_acts
from experiments.launchers import LOG, Part, launch_local, run_parts
from experiments.online import load_retargeter, read_online
from experiments.rigs import make_rig

SEEDS_PER_ROUND = 10_000  # so that no two rounds share a start
# In the folder of a study that was begun. Not hil.jobs: with a core each the sums of a training differ in the last bit.
MAY_CHANGE = ("hil.arms", "collect.workers", "eval.workers", "eval.videos_per_task", "online.videos_per_task")


def main(argv: Sequence[str]) -> None:
    config, options = load_config(argv, command_options.hil())
    arms = {name: get_arm(name) for name in config.hil.arms}
    check_settings(config, arms)
    refuse_other_config(options.workdir, config, matters=lambda key: key not in MAY_CHANGE)
    overrides = [f"--config.{key}={value}" for key, value in split_overrides(argv)[0].items()]
    run = Run(options.workdir, "hil", config)
    first, chains = plan(config, run.workdir, arms, (f"--config={options.config}", *overrides))
    environment, alone = dict(os.environ), config.hil.jobs == 1
    if not alone:  # a core each
        environment |= {"XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false", "OMP_NUM_THREADS": "1"}
    launch = functools.partial(launch_local, environment=environment, shown=alone)
    with stop_requested("the running parts save and stop") as stopping:
        log = StudyLog(run, config, [*first, *(part for chain in chains.values() for part in chain)], stopping)
        watched = {"started": log.started, "ended": log.ended}
        run_parts([first], launch, stopping, **watched)
        if not log.errors:
            run_parts(chains.values(), launch, stopping, workers=config.hil.jobs, **watched)
    if log.errors:
        raise ConfigError(log.errors[0])
    if log.unfinished:
        print("stopped; the same command goes on from there")
        raise KeyboardInterrupt
    print_table(log.report())
    print(f"report: {run.workdir / 'report.html'}")


def check_settings(config: Config, arms: dict[str, Arm]) -> None:
    """What only a later part reads is checked before the first. Raises ConfigError or ValueError."""
    make_rig(demonstration_rig(config)).close()
    load_retargeter(config.online.person.retargeter)
    check_policy(config)
    if config.online.tasks:
        raise ConfigError(
            "online.tasks: a study supervises every task of the rig; for one alone see experiments/arms.py"
        )
    for name, arm in arms.items():
        check_mixture(config, name, arm)
        for task in arm.tasks:
            check_known(f"task of arm {name!r}", task, config.rig.tasks)
        if (times := config.hil.arms.count(name)) > 1:
            raise ConfigError(f"hil.arms: {name!r} is named {times} times; name every arm once")


def check_policy(config: Config) -> None:
    """Raises ConfigError where the policy that the study starts from, or trains, cannot act on its rig."""
    if config.train.init_from:
        meta = load_meta(config.train.init_from)
        check_acts(config, meta.interface, meta.model)
        return
    data = config.data
    check_kinematics(data.robot, data.action_space)
    names, width = known_joint_names(data.robot, data.action_dim), data.action_dim
    interface = Interface(data.robot, names, tuple(data.cameras), data.image_size, data.control_hz, width, width)
    model = dataclasses.replace(
        get_model_config(config.model.name), chunk=data.chunk, rtc_max_delay=config.train.rtc_max_delay
    )
    check_acts(config, interface, model)


def check_mixture(config: Config, name: str, arm: Arm) -> None:
    """Raises ValueError where the arm's weights do not suit the study's numbers of episodes."""
    MixtureConfig(arm.mode, arm.p_star or config.data.mixture.p_star)
    if arm.mode == "sirius" and config.hil.demonstrations > config.hil.per_round:
        raise ConfigError(
            f"hil.demonstrations {config.hil.demonstrations}: arm {name!r} needs no more of them than hil.per_round "
            f"{config.hil.per_round}, or its weights become negative in round 1; take fewer, or another arm"
        )


def plan(
    config: Config, root: Path, arms: dict[str, Arm], shared: tuple[str, ...]
) -> tuple[list[Part], dict[str, list[Part]]]:
    """The parts in order: those that all arms need, and each arm's own."""
    offline = any(not arm.online for arm in arms.values())
    rounds = range(1, config.hil.rounds + 1)
    first = []
    for number in (0, *(rounds if offline else ())):
        arguments = recording(config, "collect", number, config.rig.tasks, demos(root, number), shared)
        first.append(Part(f"round {number}: demonstrations", "collect.py", demos(root, number), arguments))
    data = (f"--config.data.paths={[str(demos(root, 0) / 'rlds')]}", f"--config.data.cache_dir={root / 'cache'}")
    first.append(Part("warm-up: training and scoring", "train.py", root / WARMUP, (*shared, *data)))
    chains = {name: arm_parts(config, root, name, arm, rounds, shared) for name, arm in arms.items()}
    return first, chains


def arm_parts(
    config: Config, root: Path, name: str, arm: Arm, rounds: Sequence[int], shared: tuple[str, ...]
) -> list[Part]:
    """Rollouts and training of every round (DexHiL eq. 8, 9, 12)."""
    parts, data = [], [demos(root, 0) / "rlds"]
    for number in rounds:
        parent = policy(root, name, number - 1)
        if arm.online:
            out, tasks = root / name / f"round{number}" / "online", arm.tasks or config.rig.tasks
            given = (*shared, f"--checkpoint={parent}", f"--config.online.tasks={','.join(tasks)}")
            arguments = recording(config, "online", number, tasks, out, given)
            parts.append(Part(f"{name}, round {number}: supervised rollouts", "online.py", out, arguments))
        else:
            out = demos(root, number)
        data.append(out / "rlds")
        arguments = (
            *shared,
            f"--config.data.paths={list(map(str, data))}",
            f"--config.data.cache_dir={root / 'cache'}",
            f"--config.data.filter={arm.filter}",
            f"--config.data.mixture.mode={arm.mode}",
            f"--config.data.mixture.p_star={arm.p_star or config.data.mixture.p_star}",
            f"--config.train.init_from={parent}",
            f"--config.train.steps={config.hil.round_steps}",
            f"--config.train.learning_rate={config.hil.round_learning_rate}",
            f"--config.train.warmup_steps={config.hil.round_warmup_steps}",
            f"--config.eval.trials={config.hil.final_trials if number == rounds[-1] else config.eval.trials}",
        )
        folder = policy(root, name, number)
        parts.append(Part(f"{name}, round {number}: training and scoring", "train.py", folder, arguments))
    return parts


def recording(
    config: Config, section: str, number: int, tasks: Sequence[str], out: Path, arguments: Sequence[str]
) -> tuple[str, ...]:
    """Arguments of a command that records round `number`, 0 the warm-up, with the settings of `section`."""
    per_task = config.hil.per_round if number else config.hil.demonstrations
    first_seed = config[section].first_seed + number * SEEDS_PER_ROUND
    return (
        *arguments,
        f"--config.{section}.first_seed={first_seed}",
        f"--episodes={per_task * len(tasks)}",
        f"--round={number}",
        f"--out={out}",
    )


def demos(root: Path, number: int) -> Path:
    return root / "demonstrations" / f"round{number}"


def policy(root: Path, arm: str, number: int) -> Path:
    """Workdir of the policy after round `number` of an arm; round 0 is the warm-up."""
    return root / arm / f"round{number}" / "train" if number else root / WARMUP


class StudyLog:
    """Tells what runs and how much is left, rewrites the study's report after each part, and keeps what failed."""

    def __init__(self, run: Run, config: Config, parts: Sequence[Part], stopping: Callable[[], bool]) -> None:
        self._run, self._config, self._parts, self._stopping = run, config, parts, stopping
        self._done_here, self._began = 0, time.monotonic()
        self.errors: list[str] = []

    @property
    def unfinished(self) -> int:
        return sum(not part.finished for part in self._parts)

    def started(self, part: Part) -> None:
        """Which part this is, and how long the rest takes at the pace so far."""
        pace = (time.monotonic() - self._began) / max(self._done_here, 1)
        left = f", about {format_seconds(self.unfinished * pace)} left" if self._done_here else ""
        number = len(self._parts) - self.unfinished + 1
        print(f"\n== part {number} of {len(self._parts)}{left}: {part.title}", flush=True)

    def ended(self, part: Part, status: int | None) -> None:
        if part.finished:
            self._done_here += 1
            self.report()
        elif not self._stopping():
            where = "above" if self._config.hil.jobs == 1 else f"in {part.folder / LOG}"
            self.errors.append(
                f"{part.title} failed with exit status {status}; its message is {where}. Finished parts are "
                f"kept and the same command goes on. The part alone: {shlex.join(['python', *part.command[1:]])}"
            )
            print(f"{part.title}: failed; other arms go on", file=sys.stderr, flush=True)

    def report(self) -> dict[str, Any]:
        """Writes report.json and report.html of what is finished."""
        study = read_study(self._config, self._run.workdir)
        lineage = {"parts": [str(part.folder) for part in self._parts if part.finished]}
        report = self._run.report(study_results(study), lineage=lineage)
        write_study_report(self._run.workdir, report, study)
        return report


def read_study(config: Config, root: Path) -> Study:
    """What is finished of the study under `root`."""
    rounds = range(1, config.hil.rounds + 1)
    cells, online, new_demonstrations, drift = read_cell(root, WARMUP, 0), [], read_demos(root, WARMUP, 0), []
    for name in config.hil.arms:
        for number in rounds:
            cells += (found := read_cell(root, name, number))
            drift += [{"arm": name, "round": number, **row} for cell in found for row in cell.lineage.get("drift", ())]
            online += read_online(root / name / f"round{number}" / "online", name, number)
            new_demonstrations += [] if get_arm(name).online else read_demos(root, name, number)
    return Study(
        tuple(config.rig.tasks), tuple(config.hil.arms), tuple(cells), tuple(online), tuple(new_demonstrations),
        tuple(drift),
    )  # fmt: skip


def read_cell(root: Path, arm: str, number: int) -> list[Cell]:
    """The policy of an arm and round, [] while it is not finished."""
    folder = policy(root, arm, number)
    if not (folder / "report.json").is_file():
        return []
    report = json.loads((folder / "report.json").read_text())
    lineage, outcomes = report["lineage"], report["results"].get("outcomes", {})
    return [Cell(arm, number, outcomes, read_metrics(folder), lineage["data"]["mixture"], lineage)]


def read_demos(root: Path, arm: str, number: int) -> list[Demonstrations]:
    """How many demonstrations of a round were made, and how long a person needs for them."""
    folder = demos(root, number)
    if not (folder / "report.json").is_file():
        return []
    facts = [read_facts(path) for path in list_episodes(folder / "episodes")]
    steps = [raw["num_steps"] for metadata, raw in facts if metadata.success == 1]
    control_hz = json.loads((folder / "config.json").read_text())["rig"]["control_hz"]
    return [Demonstrations(arm, number, len(steps), sum(steps) / control_hz)]


def print_table(report: dict[str, Any]) -> None:
    """The study in a few lines."""
    results = report["results"]
    print(f"\n{'arm':<14} mean success over the tasks: warm-up, round 1, …")
    for arm, scores in results["arms"].items():
        print(f"{arm:<14} " + "  ".join(f"{score['mean_rate']:>5.0%}" for score in scores))
    for name, difference in results["differences"].items():
        low, high = difference["interval"]
        print(f"{name}: {100 * difference['mean']:+.0f} points (95 %: {100 * low:+.0f} to {100 * high:+.0f})")
    if results["differences"]:
        print(visible(results["trials_needed"]))


if __name__ == "__main__":
    run_command(main)
