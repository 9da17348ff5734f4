"""Settings: declared once, checked before anything starts, shown with their meaning."""

from __future__ import annotations

import ast
import dataclasses
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from data_pipeline.config import DataConfig
from dexhil.config import Section, as_config, check_config, load_config, read_config_file, read_section, show_keys
from dexhil.evaluation.config import PersonConfig
from dexhil.rig import RigConfig
from dexhil.settings import ConfigError, Settings, from_values, meanings
from dexhil.start import command_parser
from dexhil.training.config import TrainConfig

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = [path for path in sorted(ROOT.glob("*/configs/*.py")) if path.stem != "__init__"]
FREE = {"preset", "seed", "devices"}  # of a whole config; drivers take what they are given
LOCAL = {"name", "seed", "path", "port", "host", "width", "steps"}  # names that mean another thing in every function


def sections(config: Section, prefix: str = "") -> dict[str, Section]:
    found = {}
    for name, value in config.items():
        if hasattr(value, "items") and name not in FREE:
            found[prefix + name] = value
            found |= sections(value, f"{prefix}{name}.")  # pyright: ignore[reportArgumentType]
    return found


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_section_of_every_config_is_made_from_a_dataclass(path: Path) -> None:
    for preset in ("default", "debug"):
        config = read_config_file(path, preset)
        for name, section in sections(config).items():
            if name == "rig.instructions":
                continue
            assert isinstance(section, Section), f"{path}: {name} is declared in the file"
            assert set(section) == {field.name for field in dataclasses.fields(section.kind)}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_setting_has_a_meaning_or_a_name_that_says_it(path: Path) -> None:
    for section in sections(read_config_file(path)).values():
        if isinstance(section, Section) and issubclass(section.kind, Settings):
            assert set(meanings(section.kind)) == set(section)


def declarations(root: Path) -> list[tuple[str, str]]:
    """(place, setting) of every class field and parameter with a literal default, in all packages."""
    found = []
    for package in ("dexhil", "data_pipeline", "hardware", "experiments"):
        for path in (root / package).rglob("*.py"):
            if path.parent.name == "benchmarks":  # what they compare, they say themselves
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ClassDef):
                    fields = [item for item in node.body if isinstance(item, ast.AnnAssign) and item.value]
                    found += [
                        (f"{path.relative_to(root)}:{node.name}", field.target.id)
                        for field in fields
                        if isinstance(field.target, ast.Name) and _is_literal(field.value)
                    ]
    return found


def _is_literal(node: ast.expr | None) -> bool:
    try:
        return node is not None and ast.literal_eval(node) is not None
    except ValueError:
        return False


def twice(found: list[tuple[str, str]], settings: dict[str, set[str]]) -> list[str]:
    """Settings that a class of the same part declares besides the dataclass; settings: part -> its setting names."""
    return sorted(
        f"{place}.{name}"
        for place, name in found
        for part, names in settings.items()
        if name in names and part in place and name not in LOCAL
    )


# Where a second declaration of a part's settings would stand, and the dataclass that declares them.
PARTS = {
    "dexhil/sim/": ("dexhil/rig.py", RigConfig, "dexhil/evaluation/config.py", PersonConfig),
    "dexhil/training/": ("dexhil/training/config.py", TrainConfig),
    "data_pipeline/": ("data_pipeline/config.py", DataConfig),
    "experiments/": ("dexhil/training/config.py", TrainConfig),
}


def names_of(part: str) -> set[str]:
    kinds = [kind for kind in PARTS[part] if isinstance(kind, type)]
    return {field.name for kind in kinds for field in dataclasses.fields(kind)}


def test_settings_declared_twice_are_none() -> None:
    declaring = {place for entry in PARTS.values() for place in entry if isinstance(place, str)}
    found = [pair for pair in declarations(ROOT) if pair[0].partition(":")[0] not in declaring]
    assert twice(found, {part: names_of(part) for part in PARTS}) == [
        "data_pipeline/mapping.py:Mapping.robot"  # of a data set that does not say it itself
    ]


def test_a_planted_second_declaration_is_found(tmp_path: Path) -> None:
    (tmp_path / "dexhil" / "training").mkdir(parents=True)
    text = "import dataclasses\n@dataclasses.dataclass\nclass Other:\n    learning_rate: float = 1e-3\n"
    (tmp_path / "dexhil" / "training" / "other.py").write_text(text)
    found = twice(declarations(tmp_path), {"dexhil/training/": names_of("dexhil/training/")})
    assert found == ["dexhil/training/other.py:Other.learning_rate"]


def test_a_dataclass_becomes_a_section_and_comes_back() -> None:
    train = TrainConfig(learning_rate=0.5, freeze=("img",))
    config = as_config(train)
    assert config.lora.scale == 1.0
    assert from_values(TrainConfig, config.to_dict(), "train") == train


SIM, HIL, FR3 = ("experiments/configs/sim.py", "experiments/configs/hil_sim.py", "hardware/configs/fr3_dexhand021.py")


@pytest.mark.parametrize(
    ("path", "change", "message"),
    [
        (SIM, "rig.control_hz=0", r"rig\.control_hz 0\.0: expected more than 0"),
        (SIM, "rig.control_hz=nan", r"rig\.control_hz nan: expected a finite number"),
        (SIM, "rig.difficulty=1.5", r"rig\.difficulty 1\.5: expected a fraction from 0 to 1"),
        (SIM, "rig.tasks=", r"rig\.tasks \(\): expected at least one"),
        (SIM, "train.batch_size=0", r"train\.batch_size 0: expected at least 1"),
        (SIM, "train.log_every=0", r"train\.log_every 0: expected at least 1"),
        (SIM, "train.lora.lm_rank=-1", r"train\.lora\.lm_rank -1: expected 0 or more"),
        (SIM, "train.optimizer=adam", r"train\.optimizer 'adam' is not known; did you mean 'adamw'"),
        (SIM, "train.warmup_steps=2500", r"train\.warmup_steps 2500: expected fewer than steps = 2500"),
        (SIM, "eval.trials=-1", r"eval\.trials -1: expected 0 or more"),
        (SIM, "eval.handover=swap", r"eval\.handover 'swap' is not known"),
        (SIM, "data.success=yes", r"data\.success"),
        (SIM, "data.heldout_fraction=1", r"data\.heldout_fraction 1\.0: expected 0 or more and below 1"),
        (SIM, "data.mixture.p_star=2", r"data\.mixture: mixture p_star: expected 0 < p_star < 1"),
        (SIM, "online.person.reaction_s=0.5,0.2", r"online\.person\.reaction_s .*expected the shorter time first"),
        (SIM, "online.person.reaction_s=0.5", r"online\.person\.reaction_s .*expected 2 values"),
        (HIL, "hil.round_warmup_steps=1000", r"hil\.round_warmup_steps 1000: expected fewer than round_steps = 1000"),
        (FR3, "rates.arm_hz=0", r"rates\.arm_hz 0\.0: expected more than 0 and at most 1000 per s"),
        (FR3, "rates.arm_hz=-30", r"rates\.arm_hz -30\.0: expected more than 0"),
        (FR3, "rates.arm_hz=40", r"rates\.hand_hz 90 must be a multiple of arm_hz 40"),
        (FR3, "episode.trials=0", r"episode\.trials 0: expected at least 1"),
        (FR3, "safety.velocity_fraction=1.5", r"safety\.velocity_fraction 1\.5: expected a fraction"),
        (FR3, "policy.execute_steps=0", r"policy\.execute_steps 0: expected at least 1"),
        (FR3, "sim.person.hand_back=2", r"sim\.person\.hand_back 2\.0: expected a fraction"),
    ],
)
def test_a_value_that_cannot_work_is_refused_with_its_key(path: str, change: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config([f"--config={path}", f"--config.{change}"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config(preset:\n", r"line 1 is no Python"),
        ("import nothing_of_this_name\n", r"line 1 \(import nothing.*ModuleNotFoundError"),
        ("def get_config(preset):\n    return {}['rig']\n", r"line 2 \(return .*KeyError: 'rig'"),
        (
            "def get_config(preset):\n    return helper()\ndef helper():\n    return {}['rig']\n",
            r"line 4 \(return .*KeyError: 'rig'",
        ),
        ("def get_config(preset):\n    return 3\n", r"get_config\(\) gives 3; expected a ConfigDict"),
        (
            "from experiments.configs import sim\ndef get_config(preset):\n"
            "    config = sim.get_config(preset)\n    config.train.steps = 'many'\n    return config\n",
            r"line 4 \(config\.train\.steps = .many.\)",
        ),
    ],
)
def test_what_a_config_file_does_wrong_is_named_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_config_file(tmp_path / "mine.py")


def test_a_missing_section_is_named(tmp_path: Path) -> None:
    text = "from ml_collections import ConfigDict\ndef get_config(preset):\n    return ConfigDict({'seed': 0})\n"
    (tmp_path / "mine.py").write_text(text)
    parser = command_parser("Trains.", config=SIM, needs=("data", "train"))
    with pytest.raises(ConfigError, match=r"has no section 'data', which this command needs; start from .*sim\.py"):
        load_config([f"--config={tmp_path / 'mine.py'}"], parser)
    with pytest.raises(ConfigError, match="has no section 'rig'"):
        read_section(read_config_file(tmp_path / "mine.py"), "rig", RigConfig)


def test_a_section_takes_no_other_key() -> None:
    with pytest.raises(ConfigError, match=r"rig\.dificulty: there is no such setting; did you mean 'difficulty'"):
        from_values(RigConfig, {"dificulty": 0.5}, "rig")


def test_a_truth_value_is_no_number() -> None:
    with pytest.raises(ConfigError, match=r"rig\.image_size True: expected int"):
        from_values(RigConfig, {"image_size": True}, "rig")


def test_lists_of_a_written_config_come_back_as_tuples() -> None:
    assert from_values(RigConfig, {"tasks": ["plush"]}, "rig") == RigConfig(tasks=("plush",))


def test_sections_inside_a_plain_section_are_checked_too() -> None:
    rig = as_config(RigConfig())
    rig.image_size = 0
    config = ConfigDict({"lab": ConfigDict({"rig": rig})})
    with pytest.raises(ConfigError, match=r"lab\.rig\.image_size 0: expected at least 1"):
        check_config(config)


def test_a_meaning_may_stand_above_its_setting() -> None:
    assert meanings(TrainConfig)["freeze"].startswith("Paths that are not trained")


def test_the_keys_of_a_config_are_shown_with_value_and_meaning() -> None:
    shown = show_keys(["--keys"], command_parser("Trains.", config=SIM)).splitlines()
    (line,) = [line for line in shown if line.startswith("--config.eval.max_seconds=")]
    assert line.split("  ", 1)[0] == "--config.eval.max_seconds=0.0"
    assert "then a trial has failed; 0: the task's own limit" in line


COMMANDS = ("train", "eval", "online", "hil", "collect", "sweep", "retarget", "serve")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_loads_nothing_heavy(command: str) -> None:
    call = [sys.executable, "-X", "importtime", f"experiments/{command}.py", "--help"]
    done = subprocess.run(call, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0
    assert "usage:" in done.stdout
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not loaded & {"jax", "tensorflow", "mujoco", "flax"}


@pytest.mark.parametrize(("option", "status"), [("--help", 0), ("--nonsense", 2)])
@pytest.mark.parametrize("command", ["build", "repair"])
def test_a_data_command_judges_its_arguments_first(command: str, option: str, status: int) -> None:
    call = [sys.executable, "-X", "importtime", "-m", f"data_pipeline.{command}", option]
    done = subprocess.run(call, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == status
    assert "usage:" in done.stdout + done.stderr
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not loaded & {"jax", "tensorflow", "tensorflow_datasets", "mujoco", "flax"}


def test_a_wrong_key_ends_a_command_before_anything_heavy_is_loaded() -> None:
    call = [sys.executable, "-X", "importtime", "experiments/train.py", "--config.train.batch_size=0"]
    done = subprocess.run(call, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2
    assert "error: train.batch_size 0: expected at least 1" in done.stderr
    assert "Traceback" not in done.stderr
    assert not {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()} & {"jax", "tensorflow"}


def test_ctrl_c_while_modules_load_ends_a_command_without_a_word(tmp_path: Path) -> None:
    script = tmp_path / "command.py"
    script.write_text(
        "from dexhil.start import begin, command_parser\n"
        f"begin(command_parser('Loads.', config={str(ROOT / SIM)!r}))\n"
        "print('loading', flush=True)\nimport time\ntime.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "loading\n"
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (130, "")
