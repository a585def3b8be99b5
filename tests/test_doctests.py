"""The examples in the library's docstrings run, and every public class has one."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil

import pytest

import rais

WINGS = ("rng", "batch_norm", "sampling", "gradnorm", "gain", "loop")
MODULES = sorted(
    module.name for module in pkgutil.walk_packages(rais.__path__, "rais.") if module.name.split(".")[1] in WINGS
)


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_a_module_run(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


@pytest.mark.parametrize("name", [name for name in rais.__all__ if inspect.isclass(getattr(rais, name))])
def test_a_public_class_has_an_example(name: str) -> None:
    shown = getattr(rais, name)
    assert ">>>" in (shown.__doc__ or "") or inspect.isabstract(shown), f"rais.{name} shows no use"
