"""Which code made a record: this project's commit, or unknown with the reason."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from rais.paper.records import environment


def git(folder: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    subprocess.run(["git", "-C", folder, *identity, *arguments], check=True, capture_output=True)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout in miniature that the package seems to lie in."""
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    root = tmp_path / "outer" / "project"
    (root / "src" / "rais").mkdir(parents=True)
    (root / "src" / "rais" / "__init__.py").write_text("")
    return root


def commit_of(root: Path) -> str:
    return subprocess.run(["git", "-C", root, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()


def test_the_commit_and_whether_tracked_files_differ(project: Path) -> None:
    git(project, "init")
    git(project, "add", "-A")
    git(project, "commit", "-m", "first")
    known = environment.code_version(project)
    assert known == {"commit": commit_of(project), "dirty": False, "commit_unknown": ""}
    (project / "src" / "rais" / "__init__.py").write_text("changed = True")
    assert environment.code_version(project)["dirty"] is True


def test_below_another_checkout_its_commit_is_not_ours(project: Path) -> None:
    outer = project.parent
    git(outer, "init")
    (outer / "theirs").write_text("")
    git(outer, "add", "theirs")
    git(outer, "commit", "-m", "theirs")
    unknown = environment.code_version(project)
    assert unknown["commit"] is None and unknown["dirty"] is None
    assert f"lies below another checkout, {outer}" in unknown["commit_unknown"]
    git(outer, "add", "-A")
    assert environment.code_version(project)["commit"] is None, "a vendored copy has the commit of its host"


def test_files_that_this_checkout_does_not_track(project: Path) -> None:
    git(project, "init")
    git(project, "commit", "--allow-empty", "-m", "empty")
    assert "is no checkout of this project" in environment.code_version(project)["commit_unknown"]


def test_without_a_checkout_and_without_git(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "is no checkout of this project" in environment.code_version(project)["commit_unknown"]
    monkeypatch.setenv("PATH", "")
    assert "git cannot be asked" in environment.code_version(project)["commit_unknown"]


def test_unknown_ownership_names_the_cure_that_helps(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git(project, "init")
    git(project, "add", "-A")
    git(project, "commit", "-m", "first")
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(project.parent / "config"))
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", os.devnull)
    unknown = environment.code_version(project)
    cure = f"git config --global --add safe.directory {project}"
    assert unknown["dirty"] is None and unknown["commit_unknown"].endswith(cure)
    subprocess.run(cure.split(), check=True)
    assert environment.code_version(project)["commit"] == commit_of(project)


def test_any_change_of_the_package_is_another_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1")
    monkeypatch.setattr(environment, "PACKAGE", tmp_path)
    first = environment.code_digest()
    (tmp_path / "a.py").write_text("x = 2")
    second = environment.code_digest()
    (tmp_path / "a.py").rename(tmp_path / "b.py")
    assert len({first, second, environment.code_digest()}) == 3
