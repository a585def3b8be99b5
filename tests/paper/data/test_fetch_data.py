"""The script says where the data lie, or in one line why they cannot be had."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from rais.paper import data

SCRIPT = Path(__file__).parents[3] / "scripts" / "fetch_data.py"


@pytest.fixture
def main(monkeypatch, tmp_path):
    split = data.Split(torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64))

    def unavailable(path):
        raise data.DataUnavailable("the mirror is down: wait")

    toys = {name: data.Dataset(name, split, split.first(2), 1) for name in ("digits", "mnist")}
    readers = {name: lambda path, toy=toy: toy for name, toy in toys.items()}
    monkeypatch.setattr(data, "DATA_SETS", {**readers, "broken": unavailable})
    monkeypatch.setenv("RAIS_DATA", str(tmp_path))
    spec = importlib.util.spec_from_file_location("fetch_data", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script.main


def test_prints_where_a_data_set_lies(main, tmp_path, capsys):
    assert main(["mnist"]) == 0
    assert capsys.readouterr() == (f"mnist: 3 training and 2 test images, {tmp_path}/MNIST/raw\n", "")


def test_fetches_all_when_none_is_named_and_goes_on_after_a_failure(main, capsys):
    assert main([]) == 1
    out, err = capsys.readouterr()
    assert [line.split(":")[0] for line in out.splitlines()] == ["digits", "mnist"]
    assert err == "broken: the mirror is down: wait\n"


def test_unknown_name_is_refused_before_anything_is_fetched(main, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["mnist", "minst"])
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert out == "" and "unknown data set 'minst': choose from broken, digits, mnist" in err
