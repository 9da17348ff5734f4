"""Checkpoints: everything that a run needs to go on, or a robot to act, in one atomic directory per step.

<run>/checkpoints/<step>/train: trained parameters, optimiser state and step; ema: all parameters as a policy loads
them, averages and frozen ones (a run without averages keeps its parameters here alone); meta: `CheckpointMeta`;
checksums.json: size and CRC of every file. A step becomes visible by one rename, so a killed save leaves the earlier
ones. What was saved on one mesh, by any number of processes, loads on every other.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import hashlib
import json
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from dexhil.fit import Interface
from dexhil.models.config import VLAConfig
from dexhil.models.trees import Params, select
from dexhil.training.partition import path_name
from dexhil.training.sharding import place_like
from dexhil.training.step import TrainState, policy_params
from dexhil.transforms.normalization import Normalization

CHECKPOINTS = "checkpoints"
_ITEMS = ("train", "ema", "meta")
_CHECKSUMS = "checksums.json"
_OTHER_STEP = "Expected the files as they were saved; use another step, or delete this one to go on from the one before"


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged or made for something else; the message says what to do."""


@dataclasses.dataclass(frozen=True)
class CheckpointMeta:
    """What a checkpoint says about itself.

    Attributes:
        robot: spec name.
        control_hz: 1/s, of the actions in a chunk.
        tokenizer: SentencePiece model bytes.
        config: of the run, plain JSON.
        lineage: data sets, parent checkpoint and code version, plain JSON.
        joint_names: of the recorded action, in order; () where not known.
    """

    robot: str
    control_hz: float
    model: VLAConfig
    normalization: Normalization
    tokenizer: bytes
    config: Mapping[str, Any]
    lineage: Mapping[str, Any]
    joint_names: tuple[str, ...] = ()

    @property
    def interface(self) -> Interface:
        """What a rig must have for this checkpoint, see `fit.check_fits`."""
        model, widths = self.model, self.normalization.recorded_dims
        return Interface(
            self.robot, self.joint_names, model.cameras, model.image_size, self.control_hz, widths["state"],
            widths["actions"],
        )  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        return vars(self) | {
            "model": self.model.to_dict(),
            "normalization": self.normalization.to_json(),
            "normalization_hash": self.normalization.hash(),
            "tokenizer": base64.b64encode(self.tokenizer).decode(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> CheckpointMeta:
        """Raises CheckpointError on a missing fact."""
        names = [field.name for field in dataclasses.fields(cls)]
        if missing := [name for name in names if name != "joint_names" and data.get(name) is None]:
            raise CheckpointError(f"checkpoint: says nothing about {', '.join(missing)}; train it again")
        read = {
            "model": VLAConfig.from_dict(data["model"]),
            "normalization": Normalization.from_json(data["normalization"]),
            "tokenizer": base64.b64decode(data["tokenizer"]),
            "joint_names": tuple(data.get("joint_names", ())),
        }
        return cls(**{name: read[name] if name in read else data[name] for name in names})


def check_compatible(
    meta: CheckpointMeta, *, robot: str, action_space: str, model: VLAConfig, control_hz: float
) -> None:
    """Raises CheckpointError on the first fact that differs; model.max_tokens may, no parameter depends on it."""
    wanted, found = dataclasses.replace(model, max_tokens=meta.model.max_tokens).to_dict(), meta.model.to_dict()
    facts = [("robot", robot, meta.robot), ("control_hz", control_hz, meta.control_hz)]
    facts += [("action_space", action_space, meta.normalization.action_space)]
    facts += [(f"model.{name}", wanted[name], found[name]) for name in ("action_dim", "state_dim", *wanted)]
    for name, want, got in facts:
        if want != got:
            raise CheckpointError(
                f"{name}: the checkpoint has {got!r}, the configuration {want!r}; "
                "use a checkpoint of this robot and model, change the configuration, or start in a new workdir"
            )


class Checkpoints:
    """The newest `keep` checkpoints of the run in `directory`. Saving returns at once and writes in the background."""

    def __init__(self, directory: str | Path, keep: int = 2) -> None:
        self._root = Path(directory).resolve() / CHECKPOINTS
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            cleanup_tmp_directories=True,
            async_options=ocp.AsyncOptions(post_finalization_callback=lambda: _write_checksums(self._root)),
        )
        self._manager = ocp.CheckpointManager(self._root, options=options)

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_: object) -> None:
        self.wait()
        self._manager.close()

    def steps(self) -> list[int]:
        """Steps that are complete, oldest first."""
        return sorted(self._manager.all_steps())

    def save(self, state: TrainState, meta: CheckpointMeta) -> None:
        """Starts saving `state` under its step, if it is not there yet. Errors of an earlier save surface here."""
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        train = {"opt_state": state.opt_state, "step": state.step}
        if state.ema_params is not None:
            train["params"] = state.params
        self._manager.save(
            step,
            args=ocp.args.Composite(
                train=ocp.args.StandardSave(train),
                ema=ocp.args.StandardSave(policy_params(state)),
                meta=ocp.args.JsonSave(meta.to_json()),
            ),
        )

    def wait(self) -> None:
        """Until what was saved is on disk; raises what went wrong there."""
        self._manager.wait_until_finished()


def find_step(directory: str | Path, step: int | None = None) -> Path:
    """Directory of `step`, by default the newest, of the run in `directory`.

    Raises:
        CheckpointError: there is none.
    """
    root = Path(directory).resolve() / CHECKPOINTS
    if not root.is_dir():
        raise CheckpointError(f"{directory}: no folder {CHECKPOINTS!r} there; expected the workdir of a training run")
    steps = sorted(int(path.name) for path in root.iterdir() if path.is_dir() and path.name.isdigit())
    if not steps:
        raise CheckpointError(f"{root}: holds no complete checkpoint; train again, with a shorter save interval")
    if step is not None and step not in steps:
        raise CheckpointError(f"{root}: no checkpoint of step {step}; the steps there are {steps}")
    return root / str(steps[-1] if step is None else step)


def fingerprint(path: Path) -> str:
    """A hash of all files of the checkpoint `path`, wherever it lies; `find_step` gives the path."""
    return hashlib.sha256((path / _CHECKSUMS).read_bytes()).hexdigest()[:16]


def load_meta(directory: str | Path, step: int | None = None) -> CheckpointMeta:
    """Facts of a checkpoint, without its arrays.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    path = find_step(directory, step)
    verify(path, "meta")
    return CheckpointMeta.from_json(json.loads((path / "meta" / "metadata").read_text()))


def load_train_state(directory: str | Path, like: TrainState, step: int | None = None) -> TrainState:
    """The state at a checkpoint, bit for bit, placed as `like` is. Call `check_compatible` first.

    Averages begin anew, from the parameters, where the checkpoint has none.
    """
    path = find_step(directory, step)
    wanted = {"params": like.params, "opt_state": like.opt_state, "step": like.step}
    train = _restore(path, "train", lambda saved: _abstract({name: wanted[name] for name in saved}, saved))
    policy = policy_params(like)
    policy = _restore(path, "ema", lambda saved: _abstract(policy, saved))
    frozen, latest = select(policy, like.frozen), select(policy, like.params)
    if like.ema_params is None:
        return TrainState(ema_params=None, frozen=frozen, **{"params": latest, **train})
    if "params" not in train:
        train["params"] = place_like(latest, like.params)
    return TrainState(ema_params=latest, frozen=frozen, **train)


def load_ema_params(directory: str | Path, step: int | None = None) -> Params:
    """All parameters as a policy uses them, on this process's first device, whatever they were trained on."""
    place = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

    def on_device(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)

    return _restore(find_step(directory, step), "ema", lambda saved: jax.tree.map(on_device, saved))


def _abstract(wanted: Any, saved: Any) -> Any:
    wants, shapes = (
        {path_name(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
        for tree in (wanted, saved)
    )
    for name in [*wants, *shapes]:
        got, want = (table.get(name, "nothing") for table in (shapes, wants))
        if got != want:
            raise CheckpointError(
                f"{name}: the checkpoint has {got}, the configuration needs {want}; "
                "use the model, the freezing and the optimizer it was trained with, or start in a new workdir"
            )
    return jax.tree.map(ocp.utils.to_shape_dtype_struct, wanted)


def _restore(path: Path, item: str, make_target: Callable[[Any], Any]) -> Any:
    verify(path, item)
    with contextlib.closing(ocp.StandardCheckpointHandler()) as handler:
        place = epath.Path(path / item)
        target = make_target(handler.metadata(place).tree)
        return handler.restore(place, args=ocp.args.StandardRestore(target))


def _fingerprint(file: Path) -> list[int]:
    content = file.read_bytes()
    return [len(content), zlib.crc32(content)]


def _write_checksums(root: Path) -> None:
    """For every checkpoint that has none yet: the one being saved, before its rename makes it visible."""
    for path in root.iterdir():
        if (path / _CHECKSUMS).exists() or not all((path / item).is_dir() for item in _ITEMS):
            continue
        files = [file for item in _ITEMS for file in sorted((path / item).rglob("*")) if file.is_file()]
        table = {str(file.relative_to(path)): _fingerprint(file) for file in files}
        (path / _CHECKSUMS).write_text(json.dumps(table))


def verify(path: Path, item: str) -> None:
    """Raises CheckpointError on a file of `item` ("train", "ema", "meta") that is missing or not what was written."""
    try:
        table = json.loads((path / _CHECKSUMS).read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: damaged, {_CHECKSUMS} cannot be read ({error}). {_OTHER_STEP}") from error
    for name in (name for name in table if name.startswith(f"{item}/")):
        if not (path / name).is_file():
            raise CheckpointError(f"{path}: damaged, {name} is missing. {_OTHER_STEP}")
        (got_size, got_crc), (size, crc) = _fingerprint(path / name), table[name]
        if (got_size, got_crc) != (size, crc):
            raise CheckpointError(
                f"{path}: damaged, {name} has {got_size} bytes and CRC {got_crc}, not {size} and {crc}. {_OTHER_STEP}"
            )
