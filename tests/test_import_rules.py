"""Who may import whom. The rules are data; the last tests plant violations to show that the check can fail."""

from __future__ import annotations

import ast
import dataclasses
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("dexhil", "data_pipeline", "hardware", "experiments")
NUMPY_LEVEL_MODULES = (
    *("dexhil.schema", "dexhil.names", "dexhil.settings"),
    *("dexhil.robots", "dexhil.control", "dexhil.transforms"),
)
NUMPY_LEVEL = {"numpy", "scipy", "simplejpeg", "ml_collections", *NUMPY_LEVEL_MODULES, *sys.stdlib_module_names}
TENSORFLOW = {"tensorflow", "tensorflow_datasets", "tensorflow_metadata", "keras"}
PLAIN_JAX_FREE = (
    *("dexhil.episodes.recorder", "dexhil.commands"),
    *("dexhil.serving.client", "dexhil.serving.codec", "dexhil.serving.keys", "dexhil.serving.messages"),
)


@dataclasses.dataclass(frozen=True)
class Import:
    """`module` imports `target` (dotted names)."""

    module: str
    target: str


@dataclasses.dataclass(frozen=True)
class Rule:
    """No import for which `broken` holds. `reason` is what the failing test prints."""

    reason: str
    broken: Callable[[Import], bool]


def within(name: str, *packages: str) -> bool:
    """Whether a dotted name is one of `packages` or lies inside one."""
    return any(name == package or name.startswith(package + ".") for package in packages)


RULES = (
    Rule(
        "schema, names, robots, control and transforms import numpy-level packages only",
        lambda i: within(i.module, *NUMPY_LEVEL_MODULES) and not within(i.target, *NUMPY_LEVEL),
    ),
    Rule(
        "dexhil never imports data_pipeline, hardware or experiments",
        lambda i: within(i.module, "dexhil") and within(i.target, "data_pipeline", "hardware", "experiments"),
    ),
    Rule(
        "TensorFlow lives in data_pipeline only",
        lambda i: not within(i.module, "data_pipeline") and within(i.target, *TENSORFLOW),
    ),
    Rule(
        "data_pipeline and hardware never import each other",
        lambda i: (
            (within(i.module, "data_pipeline") and within(i.target, "hardware"))
            or (within(i.module, "hardware") and within(i.target, "data_pipeline"))
        ),
    ),
    Rule(
        "nobody imports experiments", lambda i: not within(i.module, "experiments") and within(i.target, "experiments")
    ),
    Rule("only dexhil.sim imports MuJoCo", lambda i: not within(i.module, "dexhil.sim") and within(i.target, "mujoco")),
)


def module_name(path: Path, root: Path) -> str:
    """dexhil/sim/__init__.py -> dexhil.sim"""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path, root: Path) -> Iterator[Import]:
    """Every import in the file, those inside functions too. `from a import b` counts as a and as a.b."""
    module = module_name(path, root)
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(), filename=str(path))):
        if isinstance(node, ast.Import):
            yield from (Import(module, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")
            base = ".".join(parents[: len(parents) - node.level + 1]) if node.level else ""
            origin = ".".join(part for part in (base, node.module) if part)
            # `from dexhil import names` imports dexhil.names; the bare package only where nothing below it is named
            yield from (Import(module, f"{origin}.{alias.name}") for alias in node.names)


def violations(root: Path) -> list[str]:
    """One line for each import that breaks a rule, in all packages under `root`."""
    paths = [path for package in PACKAGES for path in sorted((root / package).rglob("*.py"))]
    found = (imported for path in paths for imported in imports_of(path, root))
    return [f"{i.module} imports {i.target}: {rule.reason}" for i in found for rule in RULES if rule.broken(i)]


def test_the_import_rules_hold():
    assert violations(ROOT) == []


@pytest.mark.parametrize(
    ("path", "source", "reason"),
    [
        ("dexhil/schema.py", "import jax", "numpy-level"),
        ("dexhil/robots/spec.py", "from dexhil.models import vla", "numpy-level"),
        ("dexhil/control/executor.py", "from dexhil.policy import Policy", "numpy-level"),
        ("dexhil/transforms/normalization.py", "def f():\n    import tensorflow as tf", "numpy-level"),
        ("dexhil/policy.py", "from data_pipeline.loader import Loader", "dexhil never imports"),
        ("dexhil/sim/rig.py", "import hardware", "dexhil never imports"),
        ("dexhil/models/vla.py", "import tensorflow_datasets as tfds", "TensorFlow lives"),
        ("experiments/train.py", "import tensorflow", "TensorFlow lives"),
        ("data_pipeline/build.py", "from hardware import safety", "never import each other"),
        ("hardware/loop.py", "import data_pipeline.mapping", "never import each other"),
        ("dexhil/reports/evaluation.py", "from experiments.train import main", "nobody imports experiments"),
        ("dexhil/evaluation/rollout.py", "import mujoco.viewer", "only dexhil.sim"),
        ("dexhil/evaluation/rollout.py", "from mujoco import MjModel", "only dexhil.sim"),
        ("data_pipeline/nested/a.py", "from ...hardware import x", "never import each other"),
    ],
)
def test_a_planted_violation_is_found(tmp_path: Path, path: str, source: str, reason: str):
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_text(source)
    assert any(reason in line for line in violations(tmp_path))


def test_allowed_imports_pass(tmp_path: Path):
    (tmp_path / "dexhil/sim").mkdir(parents=True)
    (tmp_path / "dexhil/sim/rig.py").write_text(
        "import mujoco\nfrom dexhil.schema import Step\nfrom ..robots.spec import FR3"
    )
    (tmp_path / "dexhil/schema.py").write_text("import numpy as np\nimport dataclasses\nfrom dexhil import robots")
    assert violations(tmp_path) == []


def test_what_a_robot_pc_loads_brings_no_jax_and_no_tensorflow():
    rooms = [module_name(path, ROOT) for path in sorted((ROOT / "dexhil").rglob("*.py"))]
    existing = [name for name in rooms if within(name, *NUMPY_LEVEL_MODULES, *PLAIN_JAX_FREE)]
    code = f"""
import importlib, sys
for name in {existing!r}:
    importlib.import_module(name)
    for heavy in ("jax", "flax", "tensorflow", "mujoco"):
        assert heavy not in sys.modules, f"{{name}} loads {{heavy}}"
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
