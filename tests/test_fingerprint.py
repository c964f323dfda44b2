"""A fingerprint knows the same weights in another precision, and other weights for what they are."""

from __future__ import annotations

import json

import pytest
import tiny
import torch
from tiny_adapters import adapter_of

from diffusion_perception.core import fingerprint as prints
from diffusion_perception.core.bases import one_by_one, open_base


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_same_weights_match_in_any_precision(dtype):
    tensors = tiny.unet().state_dict()
    rounded = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    one, other = prints.fingerprint(tensors.__getitem__), prints.fingerprint(rounded.__getitem__)
    assert prints.matches(one, other)
    assert prints.matches(json.loads(json.dumps(one)), other)


def test_another_network_or_a_fine_tune_does_not_match():
    tensors = tiny.unet().state_dict()
    one = prints.fingerprint(tensors.__getitem__)
    tuned = {name: tensor * 1.02 for name, tensor in tensors.items()}
    assert not prints.matches(one, prints.fingerprint(tuned.__getitem__))
    assert not prints.matches(one, prints.fingerprint(tiny.unet(seed=1).state_dict().__getitem__))
    assert not prints.matches(one, {})


def test_a_fingerprint_of_weights_on_disk_is_that_of_the_network(tmp_path):
    tiny.write(tmp_path / "unet", tiny.unet(), dtype=torch.float16)
    base = open_base(tmp_path)
    found = prints.fingerprint(one_by_one(base.unet))
    assert len(found) > 5
    assert prints.matches(found, prints.fingerprint(tiny.unet().state_dict().__getitem__))


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.int8])
def test_weights_of_8_bits_are_left_out_for_they_are_no_longer_the_checkpoints(dtype):
    tensors = tiny.unet().state_dict()
    held = {name: tensor if name.startswith("conv_in") else tensor.to(dtype) for name, tensor in tensors.items()}
    found = prints.fingerprint(held.__getitem__)
    assert list(found) == ["conv_in.weight"]
    assert prints.matches(found, prints.fingerprint(tensors.__getitem__))


def test_an_adapter_says_when_it_cannot_be_told_what_checkpoint_it_sits_on():
    own = prints.fingerprint(tiny.unet().state_dict().__getitem__)
    (note,) = adapter_of({}, base="sd15", fingerprint=own).notes({})
    assert "cannot be told" in note
    assert "8 bits" in note
    assert "another" not in note
