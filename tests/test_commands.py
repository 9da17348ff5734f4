"""Configs and overrides, the work directory of a run, progress lines, clean stops."""

from __future__ import annotations

import importlib.metadata
import io
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from dexhil import commands
from dexhil.commands import ConfigError, Run, command_parser, load_config, progress, run_command, stop_requested
from dexhil.config import changed_keys, override, read_config_file
from dexhil.progress import format_seconds

CONFIG = """
from ml_collections import ConfigDict

def get_config(preset="default"):
    steps = {"default": 1000, "quick": 100, "debug": 2}[preset]
    return ConfigDict(dict(
        seed=0,
        note=None,
        tasks=("plush", "tissue"),
        free=(),
        optimizer=dict(learning_rate=1e-3, bf16=False, steps=steps, name="adamw", betas=(0.9, 0.99)),
        model=dict(width=64),
    ))
"""


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.py"
    path.write_text(CONFIG)
    return path


def test_the_file_gives_its_defaults_and_a_locked_config(config_file: Path):
    config, options = load_config(["--config", str(config_file)])
    assert config.optimizer.steps == 1000
    assert config.preset == "default"
    assert options.workdir == Path("runs/tiny")
    with pytest.raises(AttributeError):
        config.optimizer.stpes = 3


def test_the_preset_comes_first_whatever_the_order(config_file: Path):
    arguments = ["--config.optimizer.steps=7", "--config", str(config_file), "--config.preset=quick"]
    assert load_config(arguments)[0].optimizer.steps == 7
    assert load_config(["--config", str(config_file), "--config.preset", "debug"])[0].optimizer.steps == 2


@pytest.mark.parametrize(
    ("text", "key", "expected"),
    [
        ("3", "seed", 3),
        ("1e3", "seed", 1000),
        ("-5", "seed", -5),
        ("3", "optimizer.learning_rate", 3.0),
        ("1e-4", "optimizer.learning_rate", 1e-4),
        ("true", "optimizer.bf16", True),
        ("No", "optimizer.bf16", False),
        ("sgd", "optimizer.name", "sgd"),
        ("3", "optimizer.name", "3"),
        ("plush", "tasks", ("plush",)),
        ("a,b,c", "tasks", ("a", "b", "c")),
        ("('a', 'b')", "tasks", ("a", "b")),
        ("()", "tasks", ()),
        ("[1, 0.5]", "optimizer.betas", (1.0, 0.5)),
        ("1,x", "free", (1, "x")),
        ("a(1)/b", "tasks", ("a(1)/b",)),
        ("(a)/b(c)", "tasks", ("(a)/b(c)",)),
        ("data/run(1)", "tasks", ("data/run(1)",)),
        ("[x]/y,z]", "tasks", ("[x]/y", "z]")),
        ("'a,b/c', d", "tasks", ("a,b/c", "d")),
        (str(["a,b/c", "d(1)"]), "tasks", ("a,b/c", "d(1)")),
        (str(["it's, (here)"]), "tasks", ("it's, (here)",)),
        ("it's,that's", "tasks", ("it's", "that's")),
        ("hello", "note", "hello"),
        ("4", "note", 4),
    ],
)
def test_an_override_takes_the_type_of_what_it_replaces(config_file: Path, text: str, key: str, expected: object):
    config, _ = load_config(["--config", str(config_file), f"--config.{key}={text}"])
    value = config
    for name in key.split("."):
        value = value[name]
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--config.optimizer.lerning_rate=1"],
            r"no such key; nearest: --config\.optimizer\.learning_rate \(now 0\.001",
        ),
        (["--config.width=1"], r"nearest: --config\.model\.width \(now 64\)"),
        (["--config.optimizer=1"], r"is a section, not a value; its keys: optimizer\.betas, "),
        (["--config.seed=x"], r"--config\.seed=x: expected int such as 0"),
        (["--config.seed=0.5"], r"expected int such as 0"),
        (["--config.seed=inf"], r"expected int such as 0"),
        (["--config.optimizer.bf16=maybe"], r"expected bool such as False"),
        (["--config.optimizer.betas=0.9,x"], r"expected tuple such as \(0\.9, 0\.99\)"),
        (["--config.preset=quik"], r"preset=quik: expected one of default, quick, debug; did you mean 'quick'\?"),
        (["--config.seed"], r"--config\.seed: needs a value"),
        (["--config.seed", "--workdir", "x"], r"--config\.seed: needs a value"),
    ],
)
def test_what_does_not_fit_is_named_with_the_remedy(config_file: Path, arguments: list[str], message: str):
    with pytest.raises(ConfigError, match=message):
        load_config(["--config", str(config_file), *arguments])


def test_a_missing_config_file_lists_those_that_exist(config_file: Path):
    with pytest.raises(ConfigError, match=r"no such file; did you mean 'tiny'\?; available in .*: tiny"):
        load_config(["--config", str(config_file.with_name("tinny.py"))])


def test_a_config_file_needs_get_config(tmp_path: Path):
    (tmp_path / "empty.py").write_text("x = 1")
    with pytest.raises(ConfigError, match=r"has no function get_config\(preset\)"):
        read_config_file(tmp_path / "empty.py")


def test_options_of_the_command_are_parsed_beside_the_config(config_file: Path):
    parser = command_parser("Scores a policy.", config=str(config_file))
    parser.add_argument("--trials", type=int, default=20)
    config, options = load_config(["--trials", "3", "--config.seed=4"], parser)
    assert (options.trials, config.seed) == (3, 4)


def test_changed_keys_are_dotted(config_file: Path):
    before, after = read_config_file(config_file), read_config_file(config_file)
    override(after, "model.width", "32")
    assert changed_keys(before.to_dict(), after.to_dict()) == ["model.width"]


HOLD = """
import sys
from pathlib import Path
from dexhil.commands import Run
from ml_collections import ConfigDict
run = Run(Path(sys.argv[1]), "train", ConfigDict({"seed": 0}))
print("in", flush=True)
sys.stdin.read()
"""


def test_a_folder_has_one_process_at_a_time(tmp_path: Path, config_file: Path):
    """The second writes nothing; what was killed holds nothing; the same process may go on in its own."""
    config, _ = load_config(["--config", str(config_file)])
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "in\n"
        before = (tmp_path / "config.json").read_bytes()
        with pytest.raises(ConfigError, match=rf"process {other.pid} is at work in it; wait until it ends or stop it"):
            Run(tmp_path, "train", config)
        assert (tmp_path / "config.json").read_bytes() == before
        other.kill()
    first = Run(tmp_path, "train", config)
    second = Run(tmp_path, "train", config)
    assert (tmp_path / "run.lock").read_text() == f"{os.getpid()}\n"
    assert first.workdir == second.workdir


def test_a_run_leaves_config_metrics_and_report(tmp_path: Path, config_file: Path):
    config, _ = load_config(["--config", str(config_file)])
    run = Run(tmp_path / "run", "train", config)
    run.log(1, {"loss": np.float32(0.5), "bad": float("nan")})
    report = run.report({"steps": np.int64(1), "rates": np.arange(2)}, lineage={"datasets": [Path("a")]})
    assert json.loads((run.workdir / "config.json").read_text())["tasks"] == ["plush", "tissue"]
    (line,) = commands.read_metrics(run.workdir)
    assert (line["step"], line["loss"], line["bad"]) == (1, 0.5, None)
    assert json.loads((run.workdir / "report.json").read_text()) == report
    assert set(report) == {"command", "invocation", "config", "code_version", "seconds", "lineage", "results"}
    assert report["results"] == {"steps": 1, "rates": [0, 1]}
    assert report["lineage"] == {"datasets": ["a"]}
    assert not list(run.workdir.glob("*.partial"))
    assert not list(run.workdir.glob("*.tmp"))


def test_resuming_drops_later_steps_and_a_torn_last_line(tmp_path: Path):
    run = Run(tmp_path, "train", {})
    for step in range(5):
        run.log(step, {"loss": 1.0 / (step + 1)})
    with run.metrics_path.open("a") as file:
        file.write('{"step": 5, "lo')
    again = Run(tmp_path, "train", {})
    again.resume(2)
    again.log(3, {"loss": 9.0})
    assert [line["step"] for line in commands.read_metrics(tmp_path)] == [0, 1, 2, 3]
    again.resume(0)
    assert commands.read_metrics(tmp_path) == []


def test_seconds_go_on_from_the_earlier_run(tmp_path: Path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "seconds": 100.0}\n')
    run = Run(tmp_path, "train", {})
    run.resume(1)
    assert run.seconds >= 100.0


def test_a_changed_config_is_said_when_a_run_continues(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    Run(tmp_path, "train", {"a": {"b": 1}, "c": (1, 2)})
    Run(tmp_path, "train", {"a": {"b": 1}, "c": (1, 2)})
    assert capsys.readouterr().err == ""
    Run(tmp_path, "train", {"a": {"b": 2}, "c": (1, 2)})
    assert "config differs from the earlier run's in a.b" in capsys.readouterr().err


def test_code_version_falls_back_to_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(commands, "REPOSITORY", tmp_path)
    assert commands.code_version() == importlib.metadata.version("dexhil")


def test_code_version_says_dirty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(commands, "REPOSITORY", tmp_path)
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    (tmp_path / "file").write_text("1")
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "x"]):
        subprocess.run([*git, *arguments], check=True)
    assert not commands.code_version().endswith("-dirty")
    (tmp_path / "file").write_text("2")
    assert commands.code_version().endswith("-dirty")


def test_bad_input_becomes_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("DEXHIL_TRACEBACK", raising=False)

    def main(_: object) -> None:
        raise ConfigError("--config.x: the config has no such key")

    with pytest.raises(SystemExit) as stopped:
        run_command(main)
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith("error: --config.x: the config has no such key\n")


def test_ctrl_c_ends_with_its_own_status() -> None:
    def main(_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as stopped:
        run_command(main)
    assert stopped.value.code == 130


def test_plain_progress_has_percent_rate_and_time_left():
    out = io.StringIO()
    with progress(10, "training", start=5, stream=out, interval_s=0.0) as shown:
        shown.update(6, loss=0.31234, phase="warm")
    assert out.getvalue().startswith("training  6/10 (60 %)  ")
    assert "/s  left " in out.getvalue()
    assert out.getvalue().endswith("loss 0.312  phase warm\n")


def test_plain_progress_is_sparse_and_ends_with_the_last_state():
    out = io.StringIO()
    with progress(100, "building", stream=out, interval_s=60.0) as shown:
        for done in range(1, 101):
            shown.update(done)
    assert out.getvalue().count("\n") == 1
    assert out.getvalue().startswith("building  100/100 (100 %)")


def test_a_terminal_gets_a_bar():
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    out = Terminal()
    with progress(10, "training", stream=out) as shown:
        shown.update(10, loss=0.5)
    assert "training" in out.getvalue()
    assert "10/10" in out.getvalue()


@pytest.mark.parametrize(("seconds", "text"), [(9.4, "9s"), (75, "1m15s"), (3 * 3600 + 125, "3h02m"), (59.7, "1m00s")])
def test_format_seconds(seconds: float, text: str):
    assert format_seconds(seconds) == text


def test_the_first_interrupt_asks_and_the_second_aborts(capsys: pytest.CaptureFixture[str]):
    before = signal.getsignal(signal.SIGINT)
    with stop_requested() as asked:
        assert not asked()
        signal.raise_signal(signal.SIGINT)
        assert asked()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
    assert "once more aborts" in capsys.readouterr().err


def test_outside_the_main_thread_nothing_is_asked():
    answers = []

    def work() -> None:
        with stop_requested() as asked:
            answers.append(asked())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert answers == [False]


def test_a_second_process_loads_what_the_first_one_compiled(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import jax\n"
        "from dexhil.commands import run_command\n"
        "jax.monitoring.register_event_listener(lambda event, **_: print(event))\n"
        "run_command(lambda argv: jax.jit(lambda x: x + 1)(1))\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != commands.COMPILED}
    environment |= {"XDG_CACHE_HOME": str(tmp_path), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    events = [
        subprocess.run([sys.executable, script], env=environment, check=True, capture_output=True, text=True).stdout
        for _ in range(2)
    ]
    assert ["/jax/compilation_cache/cache_hits" in seen for seen in events] == [False, True]
    assert list((tmp_path / "dexhil" / "compiled").iterdir())
