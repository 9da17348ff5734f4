"""The set-up files agree with each other and hold for every machine."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
REQUIREMENT = re.compile(r"^([a-z0-9-]+)(?:\[[a-z0-9,]+\])?==(\S+)\s*(?:#.*)?$")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def pinned(text: str) -> dict[str, str]:
    """{package: version} of the lines of a requirements-NAME.txt; fails on a line that does not pin."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    matches = [(line, REQUIREMENT.match(line)) for line in lines]
    assert [line for line, match in matches if match is None] == [], "every requirement is pinned with =="
    return {match[1]: match[2] for _, match in matches if match}


def locked(text: str) -> dict[str, str]:
    """{block of the lock: its text}, by `package==version`."""
    blocks = re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)[1:]
    return {re.split(r"[\s;]", block, maxsplit=1)[0]: block for block in blocks}


@pytest.fixture(scope="module")
def lock() -> dict[str, str]:
    return locked((ROOT / "requirements.txt").read_text())


def test_the_lock_holds_every_declared_dependency_at_a_version_that_is_allowed(lock: dict[str, str]):
    extras = PROJECT["project"]["optional-dependencies"]
    declared = [*PROJECT["project"]["dependencies"], *(r for n, group in extras.items() if n != "slurm" for r in group)]
    versions = {name.split("==")[0]: Version(name.split("==")[1]) for name in lock}
    for requirement in map(Requirement, declared):
        assert requirement.name in versions, "run `make lock`"
        assert versions[requirement.name] in requirement.specifier, "run `make lock`"


def test_everything_locked_has_a_hash(lock: dict[str, str]):
    assert [name for name, block in lock.items() if "--hash=sha256:" not in block] == []


OPTIONAL = sorted(ROOT.glob("requirements-*.txt"))


@pytest.mark.parametrize("path", OPTIONAL, ids=lambda path: path.name)
def test_optional_packages_are_pinned_and_leave_the_locked_ones_alone(path: Path, lock: dict[str, str]):
    both = {block.split("==")[0] for block in lock} & pinned(path.read_text()).keys()
    assert both == set(), "it would replace what the lock holds"
    assert all("#" in line for line in path.read_text().splitlines() if "==" in line), "say why it is there"


@pytest.mark.parametrize("name", ["requirements.txt", "Makefile", "pyproject.toml", *(path.name for path in OPTIONAL)])
def test_no_index_and_no_address_is_prescribed(name: str):
    text = (ROOT / name).read_text()
    found = re.findall(r"https?://|file:|--(?:extra-)?index-url\b|--find-links\b", text.replace("--no-emit-", ""))
    assert found == [], "where packages come from is the machine's business (pip.conf)"


def test_no_path_of_one_machine_in_any_file():
    absolute = re.compile("/" + "(?:work|root|home)/")
    folders = ("dexhil", "data_pipeline", "hardware", "experiments", "third_party", "tests")
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in {".py", ".md", ".j2"}]
    paths += [ROOT / name for name in ("Makefile", "README.md", "pyproject.toml", ".ci/run", "requirements.txt")]
    assert [str(path) for path in paths if absolute.search(path.read_text())] == []


def test_demo_and_test_set_up_first():
    for target in ("demo", "test"):
        plan = subprocess.run(["make", "-np", target], capture_output=True, text=True, cwd=ROOT, check=True).stdout
        assert re.search(rf"^{target}: setup\b", plan, re.MULTILINE)
    for target in ("check", "test", "docs"):
        assert f"make {target}" in (ROOT / ".ci/run").read_text()
    assert os.access(ROOT / ".ci/run", os.X_OK)


def test_licence_and_package_data():
    assert PROJECT["project"]["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text()
    for package, patterns in PROJECT["tool"]["setuptools"]["package-data"].items():
        folder = ROOT / package.replace(".", "/")
        assert all(list(folder.glob(pattern)) for pattern in patterns), f"{package}: package data {patterns} not found"
