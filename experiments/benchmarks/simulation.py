"""Speed of the simulated rig on one core: scripted episodes with two cameras rendered per control step.

    python experiments/benchmarks/simulation.py --out FILE.json [--episodes 5] [--image-size 64]

Writes per task {"x_real_time", "episode_cpu_s" (a 6 s episode), "ms" per control step:
{"physics", "cameras", "operator"}}. All are CPU times of this process: a busy machine distorts them less.
"""

import time

from dexhil.sim.operator import ScriptedOperator
from dexhil.sim.rig import SimRig
from experiments.benchmarks.result import machine, parser, write_result

EPISODE_S = 6.0
PARTS = ("operator", "physics", "cameras")


def time_task(rig: SimRig, task: str, episodes: int) -> dict[str, object]:
    """CPU time per control step of `episodes` whole episodes of EPISODE_S."""
    rig.reset(task=task, seed=0)  # compiles the scene, opens the renderers
    spent = dict.fromkeys(PARTS, 0.0)
    steps = round(EPISODE_S * rig.control_hz)
    for seed in range(episodes):
        rig.reset(task=task, seed=seed)
        operator = ScriptedOperator(rig, seed=seed)
        for _ in range(steps):
            began = time.process_time()
            action = operator.act()
            decided = time.process_time()
            rig.apply(action)
            stepped = time.process_time()
            rig.observe()
            times = (decided - began, stepped - decided, time.process_time() - stepped)
            spent = {part: spent[part] + seconds for part, seconds in zip(PARTS, times, strict=True)}
    per_step = {part: 1e3 * seconds / (episodes * steps) for part, seconds in spent.items()}
    episode_cpu_s = sum(spent.values()) / episodes
    return {"x_real_time": EPISODE_S / episode_cpu_s, "episode_cpu_s": episode_cpu_s, "ms": per_step}


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--episodes", type=int, default=5)
    arguments.add_argument("--image-size", type=int, default=64)
    options = arguments.parse_args()
    rig = SimRig(image_size=options.image_size)
    result = {
        "benchmark": "simulation",
        "machine": machine(),
        "image_size": options.image_size,
        "cameras": list(rig.cameras),
        "tasks": {task: time_task(rig, task, options.episodes) for task in rig.tasks},
    }
    write_result(options.out, result)


if __name__ == "__main__":
    main()
