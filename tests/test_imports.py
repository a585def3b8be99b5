"""The import rules of the package, and what its files must not name.

Every file of src/rais is read, not run: each of its import statements counts, inside functions and for type checking
too. Each rule is also shown to bite, on a small package made for the purpose. What `import rais` loads is seen in a
fresh interpreter.

    library   rng ─► sampling  gradnorm ─► gain ─► loop        batch_norm
    paper     settings ─► data  models ─► training ─► records        figures ◄─ analysis ◄─ records
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]

HYDRA = ("hydra", "omegaconf")
PAPER_ONLY = ("rais.paper", *HYDRA, "wandb", "pandas", "matplotlib", "torchvision")
MIRROR = "rais.paper.records.mirror"
DRAWING = ("rais.paper.analysis", "rais.paper.figures")


class Import(NamedTuple):
    name: str  # of a module, or of something in a module
    at_import: bool  # False inside a function: imported when it is called


class Package(NamedTuple):
    """What each module imports: `outside` by any name, `inside` by the modules of the package that are meant."""

    outside: dict[str, list[Import]]
    inside: dict[str, set[str]]

    def reached(self, module: str) -> dict[str, str]:
        """Every module that `module` imports, directly or through others, and the one it is imported by."""
        by: dict[str, str] = {}
        waiting = [module]
        while waiting:
            here = waiting.pop()
            for there in sorted(self.inside[here] - {module, *by}):
                by[there] = here
                waiting.append(there)
        return by


def is_within(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def imported(source: str, module: str, *, is_package: bool = False) -> Iterator[Import]:
    """Everything that `source` imports by its full name: of `from a import b` both a and a.b."""
    tree = ast.parse(source)
    lazy = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, id(node) not in lazy) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = module.split(".") if is_package else module.split(".")[:-1]
            base = parts[: len(parts) + 1 - node.level] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            yield Import(origin, id(node) not in lazy)
            yield from (Import(f"{origin}.{alias.name}", id(node) not in lazy) for alias in node.names)


def read(root: Path) -> Package:
    """The imports of every file below `root`, a folder that bears the package's name."""
    files = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root.parent).with_suffix("").parts
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    outside: dict[str, list[Import]] = {}
    inside: dict[str, set[str]] = {}
    for module, path in files.items():
        found = list(imported(path.read_text(encoding="utf-8"), module, is_package=path.name == "__init__.py"))
        outside[module] = found
        names = {i.name for i in found}
        # `from rais import rng` means the module rais.rng, not what rais/__init__.py holds.
        is_origin = {name for name in names if any(n in files and n.rpartition(".")[0] == name for n in names)}
        others = {n for n in names if n not in files and n.rpartition(".")[0] in files}  # names in a module
        inside[module] = (names & set(files)) - is_origin | {n.rpartition(".")[0] for n in others}
    return Package(outside, inside)


def direct(package: Package, forbidden: tuple[str, ...], *, of: Callable[[str], bool]) -> set[str]:
    """ "module imports name" for every import of something `forbidden` by the modules that `of` holds for."""
    return {
        f"{module} imports {name}"
        for module in package.outside
        if of(module)
        for name in {i.name for i in package.outside[module]}
        for top in forbidden
        if is_within(name, top)
    }


def reaching(package: Package, forbidden: tuple[str, ...], *, of: tuple[str, ...]) -> set[str]:
    """ "module reaches other, imported by a third" where a module within `of` comes to know something `forbidden`."""
    found = set()
    for module in package.inside:
        if is_within(module, *of):
            by = {module: module, **package.reached(module)}
            for here in by:
                names = {i.name for i in package.outside[here]}
                for top in sorted({top for top in forbidden for name in names if is_within(name, top)}):
                    found.add(f"{module} reaches {top}, imported by {here}")
    return found


# --- the rules ---


def the_library_knows_neither_the_paper_nor_its_tools(package: Package) -> set[str]:
    return direct(package, PAPER_ONLY, of=lambda module: not is_within(module, "rais.paper"))


def analysis_and_figures_know_neither_torch_nor_training(package: Package) -> set[str]:
    return reaching(package, ("torch", "torchvision", "rais.paper.training"), of=DRAWING)


def training_and_records_reach_neither_analysis_nor_figures(package: Package) -> set[str]:
    return reaching(package, DRAWING, of=("rais.paper.training", "rais.paper.records"))


def only_the_settings_know_hydra(package: Package) -> set[str]:
    return direct(package, HYDRA, of=lambda module: not is_within(module, "rais.paper.settings"))


def only_the_mirror_knows_wandb_and_not_before_it_is_asked_for(package: Package) -> set[str]:
    early = any(i.at_import and is_within(i.name, "wandb") for i in package.outside.get(MIRROR, []))
    others = direct(package, ("wandb",), of=lambda module: module != MIRROR)
    return others | ({f"{MIRROR} imports wandb outside of a function"} if early else set())


def no_modules_import_each_other_in_a_circle(package: Package) -> set[str]:
    reached = {module: set(package.reached(module)) for module in package.inside}
    return {f"{a} and {b} import each other" for a in reached for b in reached[a] if a < b and a in reached[b]}


def part(module: str) -> str:
    """The folder, or the single file, of the diagram above that `module` belongs to."""
    return ".".join(module.split(".")[: 3 if is_within(module, "rais.paper") else 2])


def no_parts_import_each_other_in_a_circle(package: Package) -> set[str]:
    inside: dict[str, set[str]] = {}
    for module, others in package.inside.items():
        inside.setdefault(part(module), set()).update(part(other) for other in others)
    parts = Package({}, {here: others - {here} for here, others in inside.items()})
    return no_modules_import_each_other_in_a_circle(parts)


RULES = [
    the_library_knows_neither_the_paper_nor_its_tools,
    analysis_and_figures_know_neither_torch_nor_training,
    training_and_records_reach_neither_analysis_nor_figures,
    only_the_settings_know_hydra,
    only_the_mirror_knows_wandb_and_not_before_it_is_asked_for,
    no_modules_import_each_other_in_a_circle,
    no_parts_import_each_other_in_a_circle,
]


@pytest.fixture(scope="module")
def rais() -> Package:
    return read(ROOT / "src" / "rais")


@pytest.mark.parametrize("rule", RULES)
def test_rule_is_kept(rule: Callable[[Package], set[str]], rais: Package) -> None:
    assert not sorted(rule(rais))


def test_every_part_that_the_rules_name_is_there(rais: Package) -> None:
    named = {"rais.paper.settings", "rais.paper.training", "rais.paper.records", MIRROR, *DRAWING}
    assert not named - set(rais.inside), "the import rules name modules that are gone"


# --- each rule bites ---

SOUND = {
    "__init__.py": "from rais.sampling import RAIS",
    "rng.py": "import torch",
    "sampling/__init__.py": "from rais.sampling.rais import RAIS",
    "sampling/rais.py": "from rais import rng",
    "paper/__init__.py": "",
    "paper/settings/__init__.py": "from omegaconf import OmegaConf\nfrom rais import RAIS",
    "paper/training/__init__.py": "from rais.paper.settings import Settings\nfrom rais.paper.records import write",
    "paper/records/__init__.py": "",
    "paper/records/write.py": "import pandas",
    "paper/records/mirror.py": "def start():\n    import wandb",
    "paper/analysis/__init__.py": "from rais.paper.records import write",
    "paper/figures/__init__.py": "import matplotlib\nfrom rais.paper import analysis",
}


def made(folder: Path, files: dict[str, str]) -> Package:
    for name, source in files.items():
        path = folder / "rais" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")
    return read(folder / "rais")


@pytest.mark.parametrize("rule", RULES)
def test_sound_package_keeps_every_rule(rule: Callable[[Package], set[str]], tmp_path: Path) -> None:
    assert not rule(made(tmp_path, SOUND))


CHECKING = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    "
BREAKS = [
    (RULES[0], "rng.py", "import pandas as pd"),
    (RULES[0], "rng.py", "from rais.paper.settings import Settings"),
    (RULES[0], "sampling/rais.py", "def f():\n    from ..paper import training"),
    (RULES[0], "sampling/rais.py", "import matplotlib.pyplot"),
    (RULES[0], "rng.py", "import torchvision.transforms"),
    (RULES[1], "paper/analysis/__init__.py", "from torch import Tensor"),
    (RULES[1], "paper/figures/__init__.py", "from rais.paper.training import train"),
    (RULES[1], "paper/records/write.py", "import torch"),
    (RULES[2], "paper/training/__init__.py", "from rais.paper.figures import draw"),
    (RULES[2], "paper/records/mirror.py", "def f():\n    from rais.paper import analysis"),
    (RULES[2], "paper/settings/__init__.py", "import rais.paper.analysis"),
    (RULES[3], "paper/training/__init__.py", "from hydra import compose"),
    (RULES[3], "sampling/rais.py", "import omegaconf"),
    (RULES[4], "paper/records/write.py", "def f():\n    import wandb"),
    (RULES[4], "paper/records/mirror.py", "import wandb"),
    (RULES[5], "sampling/rais.py", "from rais.sampling import RAIS"),
    (RULES[5], "rng.py", CHECKING + "from rais.sampling.rais import RAIS"),
    (RULES[6], "paper/settings/__init__.py", CHECKING + "from rais.paper.training import loop"),
    (RULES[6], "rng.py", "def f():\n    from rais import sampling"),
]


@pytest.mark.parametrize(("rule", "name", "source"), BREAKS)
def test_rule_bites(rule: Callable[[Package], set[str]], name: str, source: str, tmp_path: Path) -> None:
    assert rule(made(tmp_path, {**SOUND, name: source}))


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
    assert dict(imported("from . import c", "rais.sampling", is_package=True)) == {
        "rais.sampling": True,
        "rais.sampling.c": True,
    }


def test_examples_know_the_library_alone() -> None:
    for path in sorted((ROOT / "examples").glob("*.py")):
        names = {name for name, _ in imported(path.read_text(encoding="utf-8"), path.stem)}
        assert not [name for name in names if is_within(name, *PAPER_ONLY)], path.name


def test_importing_the_package_or_its_data_loads_nothing_heavy() -> None:
    heavy = {"hydra", "omegaconf", "wandb", "matplotlib", "pandas", "sklearn", "torchvision", "cvxpy"}
    code = (
        f"import sys, rais; print(sorted({heavy!r} & set(sys.modules)));"
        "import rais.paper.data; print(sorted({'sklearn', 'torchvision'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.splitlines() == ["[]", "[]"]


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
