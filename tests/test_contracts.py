"""What saved files and scripts hold of the project stays: flags, header fields, tensors' names, rows. It only grows."""

from __future__ import annotations

import json

import pytest
from append_only import lost
from script import load_script

contract = load_script("tests/contracts/contract.py")
CONTRACTS = contract.contracts()


def kept(name: str) -> dict:
    return json.loads((contract.HERE / f"{name}.json").read_text("utf-8"))


@pytest.mark.parametrize("name", CONTRACTS)
def test_nothing_that_saved_files_or_scripts_hold_is_gone_or_another(name):
    assert lost(kept(name), CONTRACTS[name](), name) == [], "saved files and scripts hold this: append only"


@pytest.mark.parametrize("name", CONTRACTS)
def test_the_contracts_know_everything_that_there_is(name):
    faults = lost(CONTRACTS[name](), kept(name), name)
    assert faults == [], "add what is new to the contracts: python tests/contracts/amend.py"


def test_a_flag_that_is_gone_and_a_default_that_is_another_are_seen():
    held = kept("commands")
    without = {**held, "predict": {name: row for name, row in held["predict"].items() if name != "resolution"}}
    assert lost(held, without, "commands") == ["commands.predict.resolution is gone"]
    other = {**held["predict"], "resolution": {**held["predict"]["resolution"], "default": 0}}
    (fault,) = lost(held, {**held, "predict": other}, "commands")
    assert fault == "commands.predict.resolution.default is 0, and was -1"
