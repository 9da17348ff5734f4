"""Options of the hardware commands: what contradicts itself is refused before a device or a policy is touched."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dexhil.config import ConfigError, read_config_file
from hardware.runtime.options import evaluate, load_rig_config, policy_factory
from hardware.runtime.rig import make_rig

CONFIG = "hardware/configs/fr3_dexhand021.py"
COMMAND = [sys.executable, "-m", "hardware.eval", "--config", CONFIG, "--checkpoint", "/nowhere"]


def load(*argv: str):
    return load_rig_config(["--config", CONFIG, *argv], evaluate())


@pytest.mark.parametrize("override", ["operator.driver=keyboard", "arm.host=10.0.0.1"])
def test_a_device_named_beside_the_simulator_is_refused(override: str):
    with pytest.raises(ConfigError, match=rf"--config.devices.{override.split('=')[0]}: --rig sim takes"):
        load("--checkpoint", "x", "--rig", "sim", f"--config.devices.{override}")
    config, _ = load("--checkpoint", "x", f"--config.devices.{override}")
    assert config.devices.cameras


@pytest.mark.parametrize(
    ("argv", "match"),
    [
        (("--server", "ws://h:1", "--step", "3"), "--step 3: a step is of a --checkpoint"),
        (("--checkpoint", "x", "--key-file", "k"), "--key-file k: a key is for a --server"),
    ],
)
def test_options_that_contradict_each_other_are_refused(argv: tuple[str, ...], match: str):
    config, options = load(*argv)
    with pytest.raises(ConfigError, match=match):
        policy_factory(options, config)


@pytest.mark.parametrize(
    ("argv", "match"),
    [
        (("--checkpoint", "x", "--server", "ws://h:1"), "not allowed with argument"),
        (("--rig", "sim"), "one of the arguments --checkpoint --server is required"),
        (("--checkpoint", "x", "--rig", "toy"), "invalid choice: 'toy'"),
    ],
)
def test_whose_policy_acts_on_what_is_said_once(argv: tuple[str, ...], match: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        load(*argv)
    assert match in capsys.readouterr().err


@pytest.mark.parametrize("argv", [("--trials", "0"), ("--trials", "1.5"), ("--minutes", "-1"), ("--minutes", "nan")])
def test_a_number_of_nothing_is_refused(argv: tuple[str, str], capsys: pytest.CaptureFixture[str]):
    from hardware.eval import main

    with pytest.raises(SystemExit):
        main(["--config", CONFIG, "--checkpoint", "x", *argv])
    assert f"above 0, got '{argv[1]}'" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [("--episodes", "-2"), ("--round", "0")])
def test_a_collection_of_nothing_is_refused(argv: tuple[str, str], capsys: pytest.CaptureFixture[str], tmp_path: Path):
    from hardware.collect import main

    with pytest.raises(SystemExit):
        main(["--config", CONFIG, "--out", str(tmp_path), *argv])
    assert f"above 0, got '{argv[1]}'" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="--round 2: a round needs a policy"):
        main(["--config", CONFIG, "--out", str(tmp_path), "--round", "2"])


def test_the_key_comes_from_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "key").write_text("k" * 20)
    config, options = load("--server", "ws://h:1", "--key-file", str(tmp_path / "key"))
    factory = policy_factory(options, config)
    assert factory is not None
    assert factory.args == ("ws://h:1", "k" * 20)  # pyright: ignore[reportFunctionMemberAccess]
    monkeypatch.setenv("DEXHIL_API_KEY", "short")
    with pytest.raises(ValueError, match="DEXHIL_API_KEY: expected a key of at least"):
        policy_factory(load("--server", "ws://h:1")[1], config)


@pytest.mark.parametrize("rate", [0.0, -30.0, float("nan"), 1e6])
def test_a_rate_that_no_loop_has_is_refused(rate: float):
    config = read_config_file(Path(CONFIG), "debug")
    config.rates.arm_hz = rate
    with pytest.raises(ConfigError, match=r"rates.arm_hz .*: expected (more than 0|a finite number)"):
        make_rig(config, "sim").control(config, None)


@pytest.mark.parametrize("command", ["eval", "collect", "check", "calibrate"])
@pytest.mark.parametrize(("argument", "status"), [("--help", 0), ("--no-such-flag", 2)])
def test_help_and_wrong_flags_load_neither_jax_nor_a_device(command: str, argument: str, status: int):
    heavy = {"jax", "mujoco", "scipy", "cv2", "imageio", "matplotlib", "websockets"}
    call = [sys.executable, "-X", "importtime", f"hardware/{command}.py", argument]
    done = subprocess.run(call, capture_output=True, text=True)
    assert done.returncode == status
    assert "usage:" in done.stdout + done.stderr
    assert not {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()} & heavy


def test_ctrl_c_ends_a_command_with_130_and_the_report_of_what_was_done(tmp_path: Path):
    call = [
        sys.executable, "hardware/collect.py", f"--config={CONFIG}", "--rig=sim", "--config.preset=debug",
        "--episodes=2", f"--out={tmp_path}", "--config.sim.watchdog_min_s=5", "--config.episode.max_seconds=60",
    ]  # fmt: skip
    process = subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    said = next(line for line in process.stdout if "begins" in line or "error" in line)
    assert "begins" in said
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=120)
    assert process.returncode == 130, rest
    assert "ending this episode" in rest
    assert (tmp_path / "report.json").is_file()
    assert not (tmp_path / "rlds").exists()
