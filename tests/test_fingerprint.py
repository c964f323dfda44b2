"""A fingerprint knows the same weights in another precision, and other weights for what they are."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_adapters import adapter_of

from diffusion_perception.core.checkpoints import fingerprint as prints
from diffusion_perception.core.checkpoints.bases import one_by_one
from diffusion_perception.core.checkpoints.networks import open_networks


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
    base = open_networks(tmp_path)
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


# How far apart


FEW = st.lists(st.floats(-100, 100, width=16), min_size=4, max_size=4)
PRINTS = st.dictionaries(st.sampled_from("abcdef"), FEW, min_size=1)


def random_print(seed, names="abcdefg", size=40):
    random = np.random.default_rng(seed)
    return {name: random.normal(size=size) for name in names}


def told(values):
    return {name: list(value) for name, value in values.items()}


@pytest.mark.parametrize("share", [0.003, 0.02, 0.1, 0.3])
def test_noise_of_a_share_of_the_weights_size_is_that_far_away(share):
    one, noise = random_print(0), random_print(1)
    other = {
        name: value + share * noise[name] * np.linalg.norm(value) / np.linalg.norm(noise[name])
        for name, value in one.items()
    }
    # relative to the larger of the two, which has grown by the noise
    assert prints.distance(told(one), told(other)) == pytest.approx(share, rel=0.1)
    assert prints.matches(told(one), told(other)) == (share < prints.TOLERANCE)


@pytest.mark.parametrize("seed", range(1, 9))
def test_weights_that_have_nothing_in_common_are_about_the_square_root_of_two_apart(seed):
    for size in (0.2, 1, 5):
        # |a - b|^2 is |a|^2 + |b|^2 where they stand at right angles, as many values nearly do and 40 roughly
        expected = np.hypot(1, min(size, 1 / size))
        for values, off in ((4000, 0.05), (prints.VALUES, 0.25)):
            one = random_print(0, size=values)
            other = {name: size * value for name, value in random_print(seed, size=values).items()}
            assert prints.distance(told(one), told(other)) == pytest.approx(expected, abs=off)


def test_a_tensor_that_is_nearly_zero_neither_parts_nor_joins_two_networks():
    one, noise = random_print(0), random_print(1)
    dead = {**one, "c": one["c"] * 1e-6}, {**one, "c": noise["c"] * 1e-6}
    assert prints.distance(told(dead[0]), told(dead[1])) <= 1e-3
    assert prints.matches(told(dead[0]), told(dead[1]))
    strange = {**noise, "c": one["c"] * 1e-6}
    assert prints.distance(told(dead[0]), told(strange)) > 1
    assert not prints.matches(told(dead[0]), told(one))


def test_two_that_share_no_tensor_cannot_be_compared():
    assert prints.distance(told(random_print(0, "ab")), told(random_print(0, "cd"))) is None
    assert prints.distance({}, {}) is None
    assert not prints.matches({}, {})
    longer = {"b": [1.0] * 3}
    assert prints.distance({"a": [1.0, 2.0], "b": [1.0] * 2}, {"a": [1.0, 2.0], **longer}) == 0


@given(PRINTS, PRINTS)
@settings(max_examples=100, deadline=None)
def test_distance_is_symmetric_and_zero_to_itself_and_matches_is_a_threshold_of_it(one, other):
    apart = prints.distance(one, other)
    assert prints.distance(other, one) == (apart if apart is None else pytest.approx(apart))  # sums in another order
    assert prints.distance(one, one) == 0
    assert prints.matches(one, one)
    if apart is None:
        assert not one.keys() & other.keys()
    else:
        assert 0 <= apart <= 2
        assert not prints.matches(one, other) or apart <= prints.TOLERANCE
