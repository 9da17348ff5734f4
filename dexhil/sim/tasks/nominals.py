"""Model parameters that a task randomises, kept with the values they were compiled with."""

import mujoco
import numpy as np

Rows = dict[str, np.ndarray]  # model field -> row indices


class Nominals:
    """Compiled values of chosen rows of model arrays, taken before any change; `restore` writes them back."""

    def __init__(self, model: mujoco.MjModel, rows: Rows) -> None:
        self.model = model
        self._scratch = mujoco.MjData(model)
        self._saved = {field: (index, getattr(model, field)[index].copy()) for field, index in rows.items()}

    def restore(self) -> None:
        """Writes every saved value back."""
        for field, (index, values) in self._saved.items():
            getattr(self.model, field)[index] = values

    def scale(self, field: str, factor: float | np.ndarray) -> None:
        """Sets the rows of `field` to nominal times `factor`."""
        index, values = self._saved[field]
        getattr(self.model, field)[index] = values * factor

    def derive(self) -> None:
        """Recomputes what the model derives from masses and lengths. Call after changing them."""
        mujoco.mj_setConst(self.model, self._scratch)


def rows_with_prefix(model: mujoco.MjModel, kind: str, prefix: str) -> np.ndarray:
    """Ids of the "body", "geom" or "jnt" objects whose name starts with `prefix`."""
    count = getattr(model, f"n{kind}")
    accessor = {"body": model.body, "geom": model.geom, "jnt": model.joint}[kind]
    return np.array([i for i in range(count) if accessor(i).name.startswith(prefix)], int)


def bvh_rows(model: mujoco.MjModel, bodies: np.ndarray) -> np.ndarray:
    """Rows of the bounding-volume tree that belong to `bodies`."""
    spans = [np.arange(model.body_bvhadr[b], model.body_bvhadr[b] + model.body_bvhnum[b]) for b in bodies]
    return np.concatenate([np.zeros(0, int), *spans])
