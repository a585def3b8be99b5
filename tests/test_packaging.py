"""pyproject.toml, the lock and environment.yml say the same, and so do the other files about the package.

The lock has one exact version of everything that any extra needs, each within its bounds, and environment.yml
installs from the lock. The Makefile is asked for its help, its refusals and what it would remove.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from rais.paper import figures

tomllib = pytest.importorskip("tomllib", reason="the lock is for Python 3.11 and newer")
lowest = pytest.importorskip("lowest")

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
PROJECT: dict[str, Any] = tomllib.loads(PYPROJECT)["project"]


def yaml(name: str) -> dict[str, Any]:
    loaded = OmegaConf.to_container(OmegaConf.create((ROOT / name).read_text(encoding="utf-8")))
    assert isinstance(loaded, dict)
    return loaded


def bounds() -> dict[str, Requirement]:
    """Every dependency, and those of the extras that the lock is for."""
    extras = [PROJECT["optional-dependencies"][extra] for extra in lowest.EXTRAS]
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in extra)]
    return {canonicalize_name(r.name): r for r in map(Requirement, lines)}


def lock_entries() -> list[str]:
    """One text a package: its version, its marker and its hashes."""
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    kept = "\n".join(line for line in lines if line and not line.startswith("#"))
    return kept.replace("\\\n", " ").splitlines()


def lock_requirements() -> list[Requirement]:
    return [Requirement(entry.partition(" --hash")[0].strip()) for entry in lock_entries()]


def locked() -> dict[str, Version]:
    return {canonicalize_name(r.name): Version(str(r.specifier).removeprefix("==")) for r in lock_requirements()}


def test_every_entry_of_the_lock_is_one_exact_version_with_hashes() -> None:
    exact = re.compile(r"[\w.-]+==[\w.]+( ; [^;]+?)?\s+(--hash=sha256:[0-9a-f]{64}\s*)+")
    assert [entry for entry in lock_entries() if not exact.fullmatch(entry)] == []
    assert len(locked()) == len(lock_entries()), "a package is listed twice"
    assert "index" not in "\n".join(lock_entries()), "pip is set up by who uses it"


def test_gpu_libraries_of_linux_are_asked_for_there_only() -> None:
    gpu = [r for r in lock_requirements() if r.name.startswith(("nvidia-", "cuda-")) or r.name == "triton"]
    assert gpu and not [r.name for r in gpu if r.marker is None or r.marker.evaluate({"sys_platform": "darwin"})]
    assert all(r.marker.evaluate({"sys_platform": "linux", "platform_machine": "x86_64"}) for r in gpu if r.marker)


def test_no_text_sends_anyone_to_the_other_project_of_the_name() -> None:
    """On the package index `rais` is a stranger's: texts that say `pip install` name this one, or a clone."""
    stranger = re.compile("pip" + r" install[^\n]*['\" =]rais(?![\w-])")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    texts = [name for name in listed.split("\0") if name.endswith((".py", ".md", ".toml", ".yml", ".yaml", "Makefile"))]
    found = [name for name in texts if stranger.search((ROOT / name).read_text(encoding="utf-8"))]
    assert found == [] and PROJECT["name"] == "rais-sgd"


def test_lowest_versions_are_the_lower_bounds() -> None:
    found = {canonicalize_name(r.name): str(r.specifier) for r in map(Requirement, lowest.lowest(PYPROJECT))}
    assert found == {
        name: next(f"=={s.version}" for s in r.specifier if s.operator == ">=") for name, r in bounds().items()
    }


@pytest.mark.parametrize("name", sorted(bounds()))
def test_locked_version_is_within_the_bounds(name: str) -> None:
    assert name in locked(), f"{name} is in pyproject.toml and not in requirements.lock"
    assert locked()[name] in bounds()[name].specifier


def test_every_dependency_has_a_lower_and_upper_bound_or_is_a_tool() -> None:
    operators = {name: {s.operator for s in r.specifier} for name, r in bounds().items()}
    assert [n for n, found in operators.items() if not ({">=", "<"} <= found or n == "packaging")] == []


def test_core_is_torch_and_arrays_only() -> None:
    assert {canonicalize_name(Requirement(line).name) for line in PROJECT["dependencies"]} == {
        "torch",
        "numpy",
        "scipy",
    }


def test_environment_installs_the_lock_and_this_package() -> None:
    environment = yaml("environment.yml")
    assert environment["name"] == PROJECT["name"]
    python = next(d for d in environment["dependencies"] if isinstance(d, str) and d.startswith("python="))
    assert Version(python.removeprefix("python=")) >= Version("3.11"), "the lock needs Python 3.11"
    assert python.removeprefix("python=") in str(PROJECT["classifiers"])
    pip = next(d["pip"] for d in environment["dependencies"] if isinstance(d, dict))
    assert pip == ["-r requirements.lock"], "pip takes nothing without a hash beside a lock that has them"
    others = {d.split("=")[0] for d in environment["dependencies"] if isinstance(d, str)}
    assert others == {"python", "pip"}, "anything else could differ from the lock"


def test_citation_names_this_version_and_the_paper() -> None:
    citation = yaml("CITATION.cff")
    assert str(citation["version"]) == PROJECT["version"]
    assert f'__version__ = "{PROJECT["version"]}"' in (ROOT / "src/rais/__init__.py").read_text(encoding="utf-8")
    assert citation["license"] == PROJECT["license"] == "MIT"
    paper = citation["preferred-citation"]
    assert paper["title"] == "Training Deep Models Faster with Robust, Approximate Importance Sampling"
    assert [a["family-names"] for a in paper["authors"]] == ["Johnson", "Guestrin"]


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    outer = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")
    env = {name: value for name, value in os.environ.items() if name not in outer}
    return subprocess.run(["make", *arguments], cwd=ROOT, env=env, capture_output=True, text=True, check=False)


def test_help_lists_every_target_and_is_the_default() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert phony
    listed = make()
    assert listed.returncode == 0, listed.stderr
    assert listed.stdout == make("help").stdout
    targets = re.findall(r"^  ([\w.-]+) ", listed.stdout, re.MULTILINE)
    assert targets == re.sub(r"curves .* outliers", "curves..outliers", phony.group(1)).split()


def test_every_figure_has_a_target() -> None:
    for name in figures.FIGURES:
        assert f"scripts/plot.py --records results/records --out results {name}\n" in make("--dry-run", name).stdout


def test_clean_keeps_records_also_those_of_runs_that_nobody_committed() -> None:
    removes = make("--dry-run", "clean").stdout
    assert ".pytest_cache" in removes and "results" not in removes


def test_setup_refuses_an_old_python_with_the_cure(tmp_path: Path) -> None:
    old = tmp_path / "python3"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    asked = make(f"PYTHON={old}", f"VENV={tmp_path / 'venv'}", "setup")
    assert asked.returncode != 0
    assert "Python 3.11 or newer" in asked.stdout and "PYTHON=" in asked.stdout
    assert not (tmp_path / "venv").exists()


def test_files_that_the_makefile_and_ci_call_exist() -> None:
    called = re.findall(r"scripts/\w+\.py", (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert called and [name for name in called if not (ROOT / name).is_file()] == []
    ci = ROOT / ".ci" / "run"
    assert os.access(ci, os.X_OK)
    assert ["make lint", "make types", "make test", "make notebooks-check"] == re.findall(
        r"^make .*$", ci.read_text(), re.MULTILINE
    )
