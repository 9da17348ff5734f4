"""How often the scripted operator succeeds, over seeded trials of every task.

    python experiments/benchmarks/scripted_operator.py --out FILE.json [--trials 100] [--difficulty 0.5] [--workers 2]
        [--retargeter runs/retarget/retargeter.npz]     # the same trials through the whole teleoperation chain too

Writes per task {"successes", "trials", "rate", "interval" (95 %, Wilson), "seconds" (median and 90 % of the successes),
"first_try" (rate of successes without a second attempt), "failures" {category: count}}: "tasks" when the intent is
executed directly, "chain" through cube, glove key points, retargeter, anchored mapping and inverse kinematics.
"""

import collections
import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from dexhil.control.takeover import Inputs, Mode, advance, executed, start
from dexhil.evaluation.intervals import wilson
from dexhil.retargeting.runtime import Model, load
from dexhil.sim.operator import ScriptedOperator
from dexhil.sim.rig import SimRig
from dexhil.sim.teleoperation import Devices
from dexhil.workers import worker_pool
from experiments.benchmarks.result import parser, write_result


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One trial. seconds: simulated. failure: category, "" on success. attempts: how often the hand began to close."""

    seconds: float
    failure: str
    attempts: int


@functools.cache
def make_rig(difficulty: float) -> SimRig:
    return SimRig(difficulty=difficulty, cameras=())


load_once = functools.cache(load)


def run_trial(task: str, difficulty: float, retargeter: Path | None, seed: int) -> Outcome:
    """Runs the operator until success or the task's horizon."""
    rig = make_rig(difficulty)
    rig.reset(task=task, seed=seed)
    operator, attempts, phase = ScriptedOperator(rig, seed=seed), 0, ""
    act = operator.act if retargeter is None else through_devices(rig, operator, load_once(retargeter), seed)
    while rig.time < rig.horizon_s and not rig.success():
        rig.apply(act())
        attempts += operator.strategy.phase == "close" != phase
        phase = operator.strategy.phase
    return Outcome(rig.time, rig.failure(), attempts)


def through_devices(rig: SimRig, operator: ScriptedOperator, model: Model, seed: int) -> Callable[[], np.ndarray]:
    """The operator teleoperates the robot: one command [A] rad per call."""
    devices, state = Devices(np.random.default_rng(seed), model, rig.control_hz), start(rig.command)

    def act() -> np.ndarray:
        nonlocal state
        intent = operator.think() if state.mode is Mode.HUMAN else operator.intent  # hands hold still at the takeover
        inputs = Inputs(engage=True, human=devices.show(intent), policy_action=None)
        state, decision = advance(executed(state, rig.command), inputs, rig.spec, devices.cube_to_ee)
        return decision.command

    return act


def summarise(outcomes: Sequence[Outcome]) -> dict[str, object]:
    """The figures of one task."""
    won = [outcome for outcome in outcomes if not outcome.failure]
    median, late = np.percentile([outcome.seconds for outcome in won], [50, 90]) if won else (np.nan, np.nan)
    return {
        "successes": len(won),
        "trials": len(outcomes),
        "rate": len(won) / len(outcomes),
        "interval": list(wilson(len(won), len(outcomes))),
        "first_try": sum(outcome.attempts == 1 for outcome in won) / len(outcomes),
        "seconds": {"median": float(median), "p90": float(late)},
        "failures": dict(collections.Counter(outcome.failure for outcome in outcomes if outcome.failure)),
    }


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--trials", type=int, default=100)
    arguments.add_argument("--difficulty", type=float, default=0.5)
    arguments.add_argument("--workers", type=int, default=2)
    arguments.add_argument("--retargeter", type=Path, help="file of experiments/retarget.py for the simulated hand")
    options = arguments.parse_args()
    ways: dict[str, Path | None] = {"tasks": None, **({"chain": options.retargeter} if options.retargeter else {})}
    tasks, seeds = make_rig(options.difficulty).tasks, range(options.trials)
    with worker_pool(options.workers) as pool:
        scores = {
            way: {
                task: summarise(list(pool.map(functools.partial(run_trial, task, options.difficulty, file), seeds)))
                for task in tasks
            }
            for way, file in ways.items()
        }
    result = {"benchmark": "operator", "difficulty": options.difficulty, **scores}
    write_result(options.out, result)


if __name__ == "__main__":
    main()
