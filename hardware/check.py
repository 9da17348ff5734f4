"""Before work: every device, its rate and latency, calibration, limits, disk. Says what is wrong and what to do.

    python hardware/check.py --config hardware/configs/fr3_dexhand021.py [--rig sim] [--out data/lab]

Nothing moves. Exit status 0 where all is well, 1 where something is not, 2 where the config itself cannot be used.
"""

from dexhil.start import begin
from hardware.runtime import options as command_options

if __name__ == "__main__":
    begin(command_options.check())

import dataclasses
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dexhil.commands import run_command
from dexhil.config import Config, ConfigError
from dexhil.control.guard import CAUSES, depths
from dexhil.control.safety import SafetySettings
from dexhil.robots.spec import RobotSpec
from dexhil.schema import ARM_DOF
from hardware.devices.base import Device, DeviceError, Stamped
from hardware.runtime.options import load_rig_config
from hardware.runtime.rig import ROLES, Rig, cube_to_ee, make_rig, safety_settings
from hardware.runtime.watch import too_old

WATCH_S = 2.0  # that each device is listened to
SLOW = 0.8  # of the promised rate is too slow
FREE_GB = 20.0
DISK_MB, DISK_MB_PER_S = 32, 20.0


@dataclasses.dataclass(frozen=True)
class Finding:
    """One line of the check. ok: None where it could not be tried."""

    what: str
    ok: bool | None
    said: str


def main(argv: Sequence[str]) -> None:
    config, options = load_rig_config(argv, command_options.check())
    findings = []
    for finding in check(config, options.rig, options.out):
        mark = {True: "ok  ", False: "FAIL", None: "?   "}[finding.ok]
        print(f"{mark}  {finding.what:<18} {finding.said}", flush=True)
        findings.append(finding)
    wrong = sum(finding.ok is not True for finding in findings)
    print(f"{len(findings) - wrong} of {len(findings)} checks are well" + ("" if wrong else ": ready to work"))
    if wrong:
        sys.exit(1)


def check(config: Config, kind: str, out: Path) -> Iterator[Finding]:
    """All findings, as they come. Raises ConfigError where the config cannot be used at all."""
    rig = make_rig(config, kind)
    yield from check_config(config, rig)
    yield from check_disk(out)
    settings = safety_settings(config, simulated=rig.world is not None)
    named = {role: rig.devices[role] for role in ROLES}
    named |= {f"camera {name}": camera for name, camera in rig.devices["cameras"].items()}
    connected = {}
    try:
        for role, device in named.items():
            finding = tried(role, lambda device=device: _connect(device))
            yield finding
            if finding.ok:
                connected[role] = device
        if rig.world is not None:
            rig.world.reset(config.rig.tasks[0], 0)
        for role, device in connected.items():
            yield listen(role, device, settings, may_be_still=role in ("tracker", "glove", "operator"))
        yield from check_robot(rig.spec, connected, settings)
    finally:
        for device in named.values():
            device.stop()


def check_config(config: Config, rig: Rig) -> Iterator[Finding]:
    """Calibration and retargeter."""
    yield tried("calibration", lambda: _calibration(config))
    yield tried("retargeter", lambda: _retargeter(config, rig))


def _calibration(config: Config) -> str:
    pose = cube_to_ee(config.teleop.calibration)
    if not config.teleop.calibration:
        return "none: the cube is taken to be held like the end effector (teleop.calibration is empty)"
    return f"cube to end effector {np.linalg.norm(pose[:3]):.3f} m apart"


def _retargeter(config: Config, rig: Rig) -> str:
    found = rig.retargeter(config)
    if found is None:
        return "none: the glove gives hand joints itself"
    return f"{config.teleop.retargeter}, for {found.model.hand.name}"


def tried(what: str, call: Callable[[], str]) -> Finding:
    """A finding of a check that says what is well, or raises."""
    try:
        return Finding(what, True, call())
    except (ValueError, OSError) as error:
        return Finding(what, False, str(error))


def check_disk(out: Path) -> Iterator[Finding]:
    """Room and speed where episodes go."""
    folder = next(path for path in (out.absolute(), *out.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(folder).free / 1e9
    enough = free > FREE_GB
    yield Finding(
        "disk, room", enough, f"{free:.0f} GB free at {folder}" + ("" if enough else f"; make it {FREE_GB:.0f}")
    )
    yield tried("disk, speed", lambda: _disk_speed(folder))


def _disk_speed(folder: Path) -> str:
    path, data = folder / f".dexhil-check-{os.getpid()}", os.urandom(1 << 20)
    began = time.monotonic()
    try:
        with path.open("wb") as file:
            for _ in range(DISK_MB):
                file.write(data)
            os.fsync(file.fileno())
    finally:
        path.unlink(missing_ok=True)
    speed = DISK_MB / (time.monotonic() - began)
    if speed < DISK_MB_PER_S:
        raise OSError(f"writes {speed:.0f} MB/s at {folder}, recording wants {DISK_MB_PER_S:.0f}; use a faster disk")
    return f"{speed:.0f} MB/s at {folder}"


def _connect(device: Device[Any]) -> str:
    began = time.monotonic()
    device.connect()
    health = device.health()
    if not health.ok:
        raise DeviceError(health.message)
    return f"connected in {time.monotonic() - began:.1f} s"


def listen(role: str, device: Device[Any], settings: SafetySettings, *, may_be_still: bool) -> Finding:
    """Rate, latency and the longest pause of a device's readings over WATCH_S."""
    readings: list[Stamped[Any]] = []
    until = time.monotonic() + WATCH_S
    while time.monotonic() < until:
        reading = device.read()
        if reading is not None and (not readings or reading.seq != readings[-1].seq):
            readings.append(reading)
        time.sleep(min(device.period_s / 4, 0.005))
    fault = too_old(device.read(), device.period_s, time.monotonic(), settings)
    return Finding(f"{role}, rate", *_judge(readings, device.period_s, fault, may_be_still))


def _judge(readings: list[Stamped[Any]], period_s: float, fault: str, may_be_still: bool) -> tuple[bool | None, str]:
    if len(readings) < 2:
        said = f"one reading in {WATCH_S:.0f} s at most" + (f"; {fault}" if fault else "")
        return None if may_be_still else False, said
    count = readings[-1].seq - readings[0].seq
    hz = count / max(readings[-1].t_received - readings[0].t_received, 1e-9)
    latency = 1e3 * float(np.median([reading.t_received - reading.t_device for reading in readings]))
    said = f"{hz:.1f} Hz (promised {1 / period_s:.1f}), {latency:.1f} ms from device to here"
    if fault:
        return False, f"{said}; {fault}"
    if hz < SLOW / period_s:
        return False, f"{said}: too slow; look at its cable, its load and period_s in the config"
    return True, said


def check_robot(spec: RobotSpec, connected: dict[str, Any], settings: SafetySettings) -> Iterator[Finding]:
    """Whether arm and hand are inside their limits, and where they stand is allowed."""
    arm, hand = (connected[role].read() if role in connected else None for role in ("arm", "hand"))
    if arm is None or hand is None:
        yield Finding("limits", None, "not tried: arm or hand is not connected, or gives no reading")
        return
    q = np.concatenate([np.asarray(arm.value.q, float), np.asarray(hand.value, float)])
    yield tried("limits", lambda: _inside(q, spec))
    deep = depths(q[:ARM_DOF], q[ARM_DOF:], settings.box)
    worst = int(np.argmax(deep))
    clear = bool(deep[worst] <= 0)
    said = "clear" if clear else "too far; move the arm by hand, or correct safety.box"
    yield Finding("where it stands", clear, f"{CAUSES[worst]}: {1e3 * abs(deep[worst]):.0f} mm {said}")


def _inside(q: np.ndarray, spec: RobotSpec) -> str:
    if q.shape != spec.lower.shape:
        raise ConfigError(f"arm and hand give {len(q)} joints, {spec.name} has {spec.action_dim}; check rig.robot")
    beyond = np.maximum(spec.lower - q, q - spec.upper)
    worst = int(np.argmax(beyond))
    if beyond[worst] > 0.02:
        raise ConfigError(
            f"{spec.joint_names[worst]} is at {q[worst]:.3f} rad, limits {spec.lower[worst]:.3f} to "
            f"{spec.upper[worst]:.3f}; check its zero, or move it by hand"
        )
    return f"every joint within its limits, the nearest end {-beyond[worst]:.2f} rad away"


if __name__ == "__main__":
    run_command(main)
