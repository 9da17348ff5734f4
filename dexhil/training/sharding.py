"""Arrays over devices: a mesh (data, fsdp), where every array lives, and the average that is kept on the host.

A batch is split over all devices. Parameters and optimiser state are split over `fsdp` and repeated over `data`; XLA
gathers a layer's weights where it needs them and scatters its gradients. One device is a mesh of one.
"""

from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

MIN_SHARDED = 2**18  # elements; below, a copy on every device is cheaper than gathering it
AXES = ("data", "fsdp")


def make_mesh(fsdp: int = 1, devices: Any = None) -> Mesh:
    """All devices by process; `fsdp` neighbours share a copy. Raises ValueError where it does not divide them."""
    devices = np.array(jax.devices() if devices is None else devices)
    if fsdp < 1 or devices.size % fsdp:
        raise ValueError(
            f"train.mesh.fsdp: {fsdp} does not divide the {devices.size} devices ({devices.flat[0].device_kind}); "
            "expected a divisor, or hide devices (CUDA_VISIBLE_DEVICES)"
        )
    return Mesh(devices.reshape(-1, fsdp), AXES, axis_types=(AxisType.Auto,) * 2)


def parameter_spec(shape: tuple[int, ...], fsdp: int, min_size: int = MIN_SHARDED) -> PartitionSpec:
    """The largest axis that `fsdp` divides, of several the last; small arrays and those without one are repeated."""
    fitting = [axis for axis, size in enumerate(shape) if size % fsdp == 0]
    if fsdp == 1 or not fitting or np.prod(shape) < min_size:
        return PartitionSpec()
    axis = max(fitting, key=lambda axis: (shape[axis], axis))
    return PartitionSpec(*[None] * axis, "fsdp")


def parameter_shardings(mesh: Mesh, tree: Any, min_size: int = MIN_SHARDED) -> Any:
    """A NamedSharding for every leaf of `tree`, arrays or shapes: parameters, optimiser state, a whole train state."""
    fsdp = mesh.shape["fsdp"]
    return jax.tree.map(lambda leaf: NamedSharding(mesh, parameter_spec(leaf.shape, fsdp, min_size)), tree)


def place(tree: Any, shardings: Any) -> Any:
    """`tree`, the same on every process, on the devices that `shardings` says; what is there already is not copied."""
    return jax.tree.map(_place, tree, shardings)


def place_like(tree: Any, like: Any) -> Any:
    """`tree` with the types and on the devices of `like`; the result shares no buffer with `tree`."""
    return jax.tree.map(lambda leaf, wanted: _place(leaf.astype(wanted.dtype), wanted.sharding, False), tree, like)


def _place(leaf: Any, sharding: jax.sharding.Sharding, may_alias: bool = True) -> jax.Array:
    if sharding.is_fully_addressable:
        return jax.device_put(leaf, sharding, may_alias=may_alias)
    values = np.asarray(leaf)
    return jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])


def place_batch(mesh: Mesh, batch: Any) -> Any:
    """A batch over all devices, from this process's part [B / processes, ...]. Raises ValueError unless B fits."""
    sharding = NamedSharding(mesh, PartitionSpec(AXES))
    rows = {len(leaf) * jax.process_count() for leaf in jax.tree.leaves(batch)}
    if any(size % mesh.size for size in rows):
        raise ValueError(f"batch_size {max(rows)}: the {mesh.size} devices do not divide it; choose a multiple")
    if mesh.size == 1 or jax.process_count() == 1:
        return jax.device_put(batch, sharding)
    return jax.tree.map(lambda leaf: jax.make_array_from_process_local_data(sharding, leaf), batch)


def to_host(tree: Any) -> Any:
    """The same arrays, with the same splitting, in the host's memory."""
    return jax.tree.map(lambda leaf: jax.device_put(leaf, leaf.sharding.with_memory_kind("pinned_host")), tree)


def to_device(tree: Any) -> Any:
    """Arrays of `to_host` back on their devices; those that are there already stay."""
    return jax.tree.map(lambda leaf: jax.device_put(leaf, leaf.sharding.with_memory_kind("device")), tree)
