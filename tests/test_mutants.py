"""A small fault anywhere in the samplers, the gain ratio, the norms, the measure or the records fails a test."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mutants import MUTANTS, Mutant

ROOT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package, in front of the installed one."""
    copy = tmp_path_factory.mktemp("source")
    shutil.copytree(ROOT / "src" / "rais", copy / "rais", ignore=shutil.ignore_patterns("__pycache__"))
    return copy


def run(source: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(source)}
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=env, capture_output=True, text=True, timeout=600, check=False
    )


def test_the_copy_is_what_is_tested(source):
    found = run(source, "-c", "import rais; print(rais.__file__)").stdout
    assert Path(found.strip()) == source / "rais" / "__init__.py"


@pytest.mark.parametrize("mutant", MUTANTS, ids=[f"{k} {mutant.file}" for k, mutant in enumerate(MUTANTS)])
def test_a_test_fails(mutant: Mutant, source: Path):
    path = source / "rais" / mutant.file
    whole, written = path.read_text(encoding="utf-8"), path.stat().st_mtime_ns
    assert whole.count(mutant.before) == 1
    path.write_text(whole.replace(mutant.before, mutant.after), encoding="utf-8")
    try:
        done = run(
            source, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *(f"tests/{t}" for t in mutant.tests.split())
        )
    finally:
        path.write_text(whole, encoding="utf-8")
        os.utime(path, ns=(written, written))  # so that what numba compiled of it stays valid
    assert done.returncode == 1, f"{mutant.name} survived:\n{done.stdout[-2000:]}{done.stderr[-1000:]}"
