"""The import rule of the package, and what its files must not name.

Each part of src/rais is read, not run: every import statement in it, inside functions too, is held against
the modules that this part may not know. What `import rais` loads is seen in a fresh interpreter.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "rais"

HYDRA = ("hydra", "omegaconf")
TRAINING = ("rais.paper.training", "rais.paper.settings", "rais.paper.records.write")
FORBIDDEN = {
    "rng.py": (*HYDRA, "wandb", "rais.paper"),
    "batch_norm.py": (*HYDRA, "wandb", "rais.paper"),
    "sampling": (*HYDRA, "wandb", "rais.paper"),
    "gradnorm": (*HYDRA, "wandb", "rais.paper"),
    "gain": (*HYDRA, "wandb", "rais.paper"),
    "loop": (*HYDRA, "wandb", "rais.paper"),
    "paper/figures": ("torch", "torchvision", *HYDRA, "wandb", *TRAINING),
    "paper/analysis": ("torch", "torchvision", *HYDRA, "wandb", *TRAINING),
    "paper/records/read.py": ("torch", "torchvision", *HYDRA, "wandb", *TRAINING),
}


def imported(source: str, module: str) -> Iterator[tuple[str, bool]]:
    """The full name of everything that `source` imports, and whether that happens at the module's import."""
    tree = ast.parse(source)
    lazy = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) not in lazy) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = module.split(".")[: -node.level] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            yield origin, id(node) not in lazy
            yield from ((f"{origin}.{alias.name}", id(node) not in lazy) for alias in node.names)


def modules(part: str) -> list[Path]:
    path = PACKAGE / part
    return [path] if path.is_file() else sorted(path.rglob("*.py"))


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)


def is_within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def violations(path: Path, forbidden: tuple[str, ...]) -> list[str]:
    names = {name for name, _ in imported(path.read_text(encoding="utf-8"), dotted(path))}
    return [f"{path.relative_to(ROOT)}: {n}" for n in sorted(names) for f in forbidden if is_within(n, f)]


@pytest.mark.parametrize("part", FORBIDDEN)
def test_part_keeps_the_import_rule(part: str) -> None:
    paths = modules(part)
    assert paths, f"src/rais/{part} is gone: the import rule names it"
    assert not [found for path in paths for found in violations(path, FORBIDDEN[part])]


def test_only_the_settings_know_hydra() -> None:
    paths = [path for path in modules(".") if path.parent.name != "settings"]
    assert not [found for path in paths for found in violations(path, HYDRA)]


def test_only_the_records_know_wandb_and_not_before_it_is_asked_for() -> None:
    for path in modules("."):
        when = [now for n, now in imported(path.read_text(encoding="utf-8"), dotted(path)) if is_within(n, "wandb")]
        assert not when or path.parent.name == "records", f"{path.relative_to(ROOT)} knows wandb"
        assert not any(when), f"{path.relative_to(ROOT)} imports wandb outside of a function"


def test_reader_of_imports_sees_every_form() -> None:
    source = "import a.b\nfrom . import c\nfrom ..d import e\ndef f():\n    from g import h\n"
    assert dict(imported(source, "rais.sampling.rais")) == {
        "a.b": True,
        "rais.sampling": True,
        "rais.sampling.c": True,
        "rais.d": True,
        "rais.d.e": True,
        "g": False,
        "g.h": False,
    }


def test_import_of_the_package_loads_nothing_heavy() -> None:
    heavy = {"hydra", "omegaconf", "wandb", "matplotlib", "pandas", "sklearn", "torchvision", "cvxpy"}
    code = f"import sys, rais; print(*sorted({heavy!r} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not found


def committed_texts() -> Iterator[tuple[str, str]]:
    """Path and text of every text file that git holds or would add."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs a git checkout")
    for name in filter(None, listed.split("\0")):
        path = ROOT / name
        if not path.is_file():
            continue
        try:
            yield name, path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue


# Spelled in pieces, so that this file passes its own test.
MACHINE_PATH = re.compile("(?<![\\w.~$}])/" + "(home|work|root|Users|opt)" + "/\\w")
REGISTRY = re.compile(
    "(https?|file)://\\S*" + "(py" + "pi|simple/|files\\.python" + "hosted|registry|conda\\.anaconda)"
)


def test_committed_files_name_no_machine_and_no_registry() -> None:
    found = [
        f"{name}: {match.group()}"
        for name, text in committed_texts()
        for pattern in (MACHINE_PATH, REGISTRY)
        for match in pattern.finditer(text)
    ]
    assert not found


def test_pattern_of_machine_paths_bites() -> None:
    assert MACHINE_PATH.search('"' + "/wo" + 'rk/main/results"')
    assert MACHINE_PATH.search("runs: " + "/ho" + "me/someone/runs")
    assert not MACHINE_PATH.search("results{0}/x and ~/.cache/rais and ${{root}}{0}/x".format("/wo" + "rk"))
    assert REGISTRY.search("https://" + "py" + "pi.org/simple/torch")
