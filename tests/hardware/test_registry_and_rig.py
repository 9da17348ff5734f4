"""Configs to devices: drivers by name, nested devices, calibration files, limits; and what is said of mistakes."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict

from dexhil.config import Config, ConfigError, read_config_file
from dexhil.retargeting import network
from dexhil.retargeting.hand import simulated_dexhand021
from dexhil.retargeting.runtime import Model, save
from dexhil.robots.poses import IDENTITY
from dexhil.robots.spec import FR3_DEXHAND021 as SPEC
from hardware.check import check_config, check_disk, listen, tried
from hardware.devices.base import DeviceError
from hardware.devices.registry import DRIVERS, make_device
from hardware.runtime.options import check, load_rig_config
from hardware.runtime.rig import cube_to_ee, make_rig, safety_settings
from tests.hardware.fakes import SETTINGS, FakeDevice

CONFIGS = sorted(Path("hardware/configs").glob("*.py"))


class Plain:
    """A driver with settings of every kind."""

    def __init__(self, *, host: str, rate: float = 1.0, camera: Any = None, bus: Any = None) -> None:
        if rate <= 0:
            raise ValueError(f"rate {rate}: expected more than 0")
        self.host, self.camera, self.bus = host, camera, bus


@pytest.fixture
def of_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DRIVERS, "plain", f"{__name__}:Plain")
    monkeypatch.setitem(DRIVERS, "missing", "no_such_package.module:Device")


@pytest.mark.usefixtures("of_the_test")
def test_a_device_is_made_with_its_settings_and_a_device_inside_it():
    inner = {"driver": "plain", "host": "camera"}
    made = make_device({"driver": "plain", "host": "a", "camera": inner, "bus": {"channel": "can0"}}, "arm")
    assert (made.host, made.camera.host, made.bus) == ("a", "camera", {"channel": "can0"})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"driver": "plian", "host": "a"}, r"devices.arm.driver: 'plian'.*did you mean 'plain'"),
        ({"host": "a"}, "devices.arm.driver: ''"),
        ({"driver": "plain", "hots": "a"}, r"takes no 'hots'.*did you mean 'host'"),
        ({"driver": "plain"}, "missing 1 required keyword-only argument: 'host'"),
        ({"driver": "plain", "host": "a", "rate": 0.0}, "expected more than 0"),
        ({"driver": "missing"}, "needs the package 'no_such_package'"),
    ],
)
@pytest.mark.usefixtures("of_the_test")
def test_what_cannot_be_made_is_named(settings: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        make_device(settings, "arm")


@pytest.mark.parametrize("name", DRIVERS)
def test_every_driver_of_the_registry_is_there(name: str):
    """Drivers import their packages only when they are opened, so that this needs none of them."""
    import importlib

    module, _, attribute = DRIVERS[name].partition(":")
    if "gamepad" in name:
        pytest.importorskip("pygame")
    assert callable(getattr(importlib.import_module(module), attribute))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
@pytest.mark.parametrize("preset", ["default", "quick", "debug"])
def test_every_config_describes_a_rig_that_the_simulator_can_stand_in_for(path: Path, preset: str):
    config = read_config_file(path, preset)
    rig = make_rig(config, "sim")
    control = rig.control(config, None)
    assert set(control.cameras) == set(config.rig.cameras)
    for section in (config.devices.arm, config.devices.hand, config.devices.operator, config.devices.tracker):
        assert section.driver in DRIVERS


def test_rates_that_one_loop_cannot_serve_are_named():
    config = read_config_file(CONFIGS[0])
    config.rates.arm_hz = 40.0
    with pytest.raises(ConfigError, match="hand_hz 90 must be a multiple of arm_hz 40"):
        make_rig(config, "sim").control(config, None)


@pytest.mark.parametrize("rate", ["policy_hz", "arm_hz", "hand_hz"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_rates_that_are_none_are_named(rate: str, value: float):
    config = read_config_file(CONFIGS[0])
    config.rates[rate] = value
    with pytest.raises(ConfigError, match=rf"rates\.{rate} .*: expected (more than 0|a finite number)"):
        make_rig(config, "sim")


@pytest.mark.parametrize(
    ("name", "value"),
    [("arm_acceleration", 0.0), ("hand_jerk", -1.0), ("velocity_fraction", 1.1), ("velocity_fraction", -0.1),
     ("watchdog_periods", 0.0), ("soft_start_s", -1.0), ("position_margin", float("nan"))],
)  # fmt: skip
def test_limits_that_are_none_are_named(name: str, value: float):
    config = read_config_file(CONFIGS[0])
    config.safety[name] = value
    with pytest.raises(
        ConfigError, match=rf"safety\.{name} .*: expected (more than 0|0 or more|a fraction|a finite number)"
    ):
        safety_settings(config)


def real(**devices: dict[str, Any]) -> Config:
    """The config of the paper's rig with other devices."""
    config = read_config_file(Path("hardware/configs/fr3_dexhand021.py"))
    for role, settings in ({"operator": {"driver": "keyboard"}} | devices).items():
        config.devices[role] = ConfigDict(settings)
    return config


@pytest.mark.parametrize("driver", ["leap", "inspire"])
def test_a_hand_of_another_robot_is_refused_when_the_rig_is_made(driver: str):
    message = (
        rf"devices\.hand: driver '{driver}' moves .*; fr3_dexhand021 has thumb_rotation, thumb_mcp, .* in this order"
    )
    with pytest.raises(ConfigError, match=message):
        make_rig(real(hand={"driver": driver, "port": "/dev/ttyUSB0"}), "real")


@pytest.mark.parametrize(("role", "joints"), [("arm", slice(7)), ("hand", slice(7, None))])
def test_an_actuator_with_its_joints_in_another_order_is_refused(
    role: str, joints: slice, monkeypatch: pytest.MonkeyPatch
):
    make_rig(real(), "real")
    monkeypatch.setitem(DRIVERS, "other", f"{__name__}:Other")
    monkeypatch.setattr(Other, "joint_names", SPEC.joint_names[joints][::-1])
    with pytest.raises(ConfigError, match=rf"devices\.{role}: driver 'other' moves {SPEC.joint_names[joints][-1]}, .*"):
        make_rig(real(**{role: {"driver": "other"}}), "real")
    monkeypatch.setattr(Other, "joint_names", ())
    with pytest.raises(ConfigError, match=rf"devices\.{role}: driver 'other' moves no joints"):
        make_rig(real(**{role: {"driver": "other"}}), "real")


class Other:
    """An actuator of somebody else's."""

    joint_names: tuple[str, ...] = ()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"driver": "opencv_camera", "source": 0, "fps": 0}, r"devices\.arm\.fps: expected a number above 0, got 0"),
        (
            {"driver": "fr3", "host": "a", "period_s": -0.01},
            r"devices\.arm\.period_s: expected a number above 0, got -0.01",
        ),
        (
            {"driver": "geort_glove", "address": "localhost"},
            "'geort_glove': address 'localhost': expected one such as tcp",
        ),
        ({"driver": "manus", "address": "tcp://glove:99999"}, "address 'tcp://glove:99999'.* a port of 1 to 65535"),
    ],
)
def test_settings_that_no_device_can_have_are_named(settings: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        make_device(settings, "arm")


def test_key_points_need_a_retargeter_and_joints_need_none(tmp_path: Path):
    config = real()
    rig = make_rig(config, "real")
    with pytest.raises(
        ConfigError, match=r"teleop\.retargeter is empty, but the glove gives key points, so that nobody"
    ):
        rig.control(config, None)
    findings = {finding.what: finding for finding in check_config(config, rig)}
    assert findings["retargeter"].ok is False
    assert "experiments/retarget.py" in findings["retargeter"].said
    hand, path = simulated_dexhand021(), tmp_path / "r.npz"
    save(Model(hand, network.init(np.random.default_rng(0), hand, 4), {}), path)
    config.teleop.retargeter = str(path)
    assert rig.retargeter(config) is not None
    rig.devices["glove"] = FakeDevice("triggers", SPEC.home[7:])
    with pytest.raises(ConfigError, match=r"teleop\.retargeter .*r\.npz: the glove gives hand joints, leave it empty"):
        rig.retargeter(config)


def test_a_retargeter_of_another_hand_is_refused(tmp_path: Path):
    config, hand, path = real(), simulated_dexhand021(), tmp_path / "r.npz"
    hand = dataclasses.replace(hand, motor_names=hand.motor_names[::-1])
    save(Model(hand, network.init(np.random.default_rng(0), hand, 4), {}), path)
    config.teleop.retargeter = str(path)
    with pytest.raises(
        ConfigError, match=r"teleop\.retargeter .*r\.npz: .*motors are little_pip, .* has 12: thumb_rot"
    ):
        make_rig(config, "real").retargeter(config)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ConfigError, match=r"teleop\.retargeter .*r\.npz: expected a retargeter's .* damaged"):
        make_rig(config, "real").retargeter(config)


@pytest.mark.parametrize("option", ["--config.devices.operator.driver=keyboard", "--config.devices.arm.host=10.0.0.1"])
def test_devices_that_the_simulator_would_replace_are_refused(option: str):
    argv = ["--config=hardware/configs/fr3_dexhand021.py", option]
    load_rig_config([*argv, "--rig=real"], check())
    with pytest.raises(ConfigError, match=f"{option.split('=')[0]}: --rig sim takes the simulator"):
        load_rig_config([*argv, "--rig=sim"], check())


def test_a_box_without_inside_and_a_task_without_words_are_named():
    config = read_config_file(CONFIGS[0])
    config.safety.box.lower = (1.0, 0.0, 0.0)
    with pytest.raises(ConfigError, match=r"safety\.box: expected lower below upper"):
        safety_settings(config)
    config.rig.tasks = ("plush", "pour")
    with pytest.raises(ConfigError, match=r"rig\.instructions: none for task 'pour'"):
        make_rig(config, "sim")


def test_a_calibration_file_is_read_and_a_bad_one_named(tmp_path: Path):
    np.testing.assert_array_equal(cube_to_ee(""), IDENTITY)
    path = tmp_path / "cube.json"
    with pytest.raises(ConfigError, match="expected JSON with 'cube_to_ee'"):
        cube_to_ee(str(path))
    path.write_text(json.dumps({"cube_to_ee": [0, 0, 0.1, 2, 0, 0, 0]}))
    with pytest.raises(ConfigError, match="unit quaternion"):
        cube_to_ee(str(path))
    path.write_text(json.dumps({"cube_to_ee": [0, 0, 0.1, 1, 0, 0, 0]}))
    assert cube_to_ee(str(path))[2] == 0.1


def test_the_check_tells_a_silent_device_from_a_good_one(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("hardware.check.WATCH_S", 0.3)
    device = FakeDevice("d435", np.zeros((8, 8, 3), np.uint8), period_s=1 / 20)
    good = listen("camera", device, SETTINGS, may_be_still=False)
    assert good.ok
    assert "promised 20.0" in good.said
    device.read()
    device.alive = False
    bad = listen("camera", device, SETTINGS, may_be_still=False)
    assert bad.ok is False


def test_a_failed_check_is_a_finding_with_its_remedy():
    def fails() -> str:
        raise DeviceError("arm: no route to host; check the cable")

    assert tried("arm", fails).said == "arm: no route to host; check the cable"
    assert tried("arm", fails).ok is False
    assert tried("arm", lambda: "fine").ok


def test_the_disk_is_looked_at_where_episodes_will_go(tmp_path: Path):
    room, speed = check_disk(tmp_path / "not" / "yet" / "there")
    assert str(tmp_path) in room.said
    assert "MB/s" in speed.said
    assert not list(tmp_path.iterdir())
