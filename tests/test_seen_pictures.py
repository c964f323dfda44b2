"""Pictures that were encoded are found again by their content, and only a few of them are kept."""

from __future__ import annotations

import gc

import pytest
import torch
from torch import nn

from diffusion_perception.core import seen_pictures
from diffusion_perception.core.seen_pictures import PICTURES, SeenPictures

PICTURE, LATENT = torch.rand(1, 3, 16, 24), torch.rand(1, 4, 2, 3)


@pytest.fixture
def network() -> nn.Module:
    return nn.Identity()


def test_the_same_picture_is_found_whoever_brings_it(network):
    seen = SeenPictures()
    seen.keep(network, "full", PICTURE, LATENT)
    found = seen.latent(network, "full", PICTURE.clone())
    assert found is not None
    assert torch.equal(found, LATENT)


def test_another_picture_network_or_precision_is_not(network):
    seen = SeenPictures()
    seen.keep(network, "full", PICTURE, LATENT)
    almost = PICTURE.clone()
    almost[0, 2, 15, 23] += 2**-20
    assert seen.latent(network, "full", almost) is None
    assert seen.latent(network, "full", PICTURE[..., :16]) is None
    assert seen.latent(network, "half", PICTURE) is None
    assert seen.latent(nn.Identity(), "full", PICTURE) is None


def test_the_oldest_leaves(network):
    seen = SeenPictures()
    for number in range(PICTURES + 1):
        seen.keep(network, "full", PICTURE + number, LATENT)
    assert len(seen.held) == PICTURES
    assert seen.latent(network, "full", PICTURE) is None
    assert seen.latent(network, "full", PICTURE + PICTURES) is not None


def test_large_pictures_and_those_of_networks_that_are_gone_are_not_kept(network, monkeypatch):
    seen = SeenPictures()
    gone = nn.Identity()
    seen.keep(gone, "full", PICTURE, LATENT)
    del gone
    gc.collect()
    seen.keep(network, "full", PICTURE, LATENT)
    assert len(seen.held) == 1
    monkeypatch.setattr(seen_pictures, "LARGEST", PICTURE.nbytes - 1)
    seen.keep(network, "full", PICTURE + 1, LATENT)
    assert seen.latent(network, "full", PICTURE + 1) is None
