"""Tasks of the simulated rig: the objects on the table, how a reset varies them, and what counts as success."""

from dexhil.names import check_known
from dexhil.sim.tasks.base import PlushState, Task, TissueState, check_difficulty
from dexhil.sim.tasks.plush import PlushTask
from dexhil.sim.tasks.tissue import TissueTask

__all__ = [
    "PlushState",
    "PlushTask",
    "Task",
    "TissueState",
    "TissueTask",
    "check_difficulty",
    "make_task",
    "task_names",
]

_TASKS: dict[str, type[Task]] = {task.name: task for task in (PlushTask, TissueTask)}


def task_names() -> tuple[str, ...]:
    """Names that `make_task` takes."""
    return tuple(_TASKS)


def make_task(name: str) -> Task:
    """A new task called `name`. Raises ValueError with the nearest name where there is none."""
    check_known("task", name, _TASKS)
    return _TASKS[name]()
