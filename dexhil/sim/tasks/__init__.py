"""Tasks of the simulated rig: the objects on the table, how a reset varies them, and what counts as success."""

from __future__ import annotations

import difflib

from dexhil.sim.tasks.base import FIDELITIES, PlushState, Task, TissueState, check_difficulty, check_fidelity
from dexhil.sim.tasks.plush import PlushTask
from dexhil.sim.tasks.tissue import TissueTask

__all__ = [
    "FIDELITIES",
    "PlushState",
    "PlushTask",
    "Task",
    "TissueState",
    "TissueTask",
    "check_difficulty",
    "check_fidelity",
    "make_task",
    "task_names",
]

_TASKS: dict[str, type[PlushTask] | type[TissueTask]] = {task.name: task for task in (PlushTask, TissueTask)}


def task_names() -> tuple[str, ...]:
    """Names that `make_task` takes."""
    return tuple(_TASKS)


def make_task(name: str) -> Task:
    """A new task called `name`. Raises ValueError with the nearest name where there is none."""
    if name in _TASKS:
        return _TASKS[name]()
    nearest = difflib.get_close_matches(str(name), _TASKS, n=1, cutoff=0.0)[0]
    raise ValueError(f"task {name!r} is not known; did you mean {nearest!r}? Known tasks: {sorted(_TASKS)}")
