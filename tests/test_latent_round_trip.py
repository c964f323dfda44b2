"""A latent is perceived as the picture that it decodes to, but for what the VAE loses on the way."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tiny
import torch
import torch.nn.functional as F
from script import load_script
from torch import Tensor

from diffusion_perception.core.backbone import Context
from diffusion_perception.core.pipeline import Perceiver, predict, predict_latent
from diffusion_perception.core.recipe import Recipe
from diffusion_perception.trainer.host import DiffusersBackbone


class KeepingPixels:
    """A VAE that writes the four numbers of a cell into pixels of it, and loses only what is rounded away."""

    scaling_factor = 1.0

    def __init__(self, step: float) -> None:
        self.step = step
        """Of the levels that a pixel may have; 0 loses nothing."""

    def decode(self, latent: Tensor) -> Tensor:
        cells = F.pad(latent / 8, (0, 0, 0, 0, 0, 3 * 64 - latent.shape[1]))
        pixels = F.pixel_shuffle(cells, 8)
        return (pixels / self.step).round() * self.step if self.step else pixels

    def encode(self, image: Tensor) -> Tensor:
        return F.pixel_unshuffle(image, 8)[:, :4] * 8


def perceiver(step: float) -> Perceiver:
    """Tiny networks; of the VAE's decoder, which shows the answer, nothing is left out."""
    plain = tiny.perceiver(Recipe("depth", base="custom", resolution=0, resize="marigold"))

    class Both(KeepingPixels):
        def decode(self, latent: Tensor) -> Tensor:
            assert plain.autoencoder is not None
            return plain.autoencoder.decode(latent)

    return replace(plain, autoencoder=Both(step))


def sampled(height: int = 8, width: int = 12) -> Tensor:
    return torch.randn(1, 4, height, width, generator=torch.Generator().manual_seed(3)).clamp(-3, 3)


def seen_both_ways(step: float) -> tuple[Tensor, Tensor, float]:
    """The map of a latent, the map of its picture, and how far off the latent is that the picture is encoded to."""
    model, latent = perceiver(step), sampled()
    picture = KeepingPixels(step).decode(latent) / 2 + 0.5
    lost = KeepingPixels(step).encode(picture * 2 - 1) - latent
    return predict_latent(model, latent).values, predict(model, picture).values, lost.abs().max().item()


@torch.inference_mode()
def test_where_the_vae_loses_nothing_both_maps_are_the_same():
    of_latent, of_picture, lost = seen_both_ways(0)
    assert lost < 1e-6
    assert (of_latent - of_picture).abs().max() < 1e-5


@torch.inference_mode()
def test_the_maps_differ_in_proportion_to_what_the_vae_loses():
    differences = []
    for step in (2**-9, 2**-7, 2**-5):
        of_latent, of_picture, lost = seen_both_ways(step)
        assert lost == pytest.approx(step * 4, rel=0.1)
        differences.append((of_latent - of_picture).abs().mean().item() / lost)
    assert max(differences) < 3 * min(differences)
    assert max(differences) < 0.5


@torch.inference_mode()
def test_the_map_of_a_picture_is_to_the_bit_that_of_the_latent_it_is_encoded_to():
    trips = load_script("benchmarks/latent_round_trip.py")
    for seed, resize in enumerate(("marigold", "genpercept")):
        model = tiny.perceiver(Recipe("depth", base="custom", resize=resize))
        model = replace(model, backbone=DiffusersBackbone(tiny.unet(seed=seed)), context=Context(tiny.context(seed)))
        found = trips.round_trip(model, sampled(5 + seed, 7))
        assert found.unexplained == 0
        assert found.latent_error > 0
        assert found.map_error > 0


def test_the_figures_of_a_checkpoint_are_printed(tmp_path, capsys):
    trips = load_script("benchmarks/latent_round_trip.py")
    model = tiny.write_genpercept(tmp_path / "model", ["unet_depth_v2"])
    image = tiny.save_picture(tmp_path / "photo.png", 37, 50)
    (found,) = trips.main(["--model", str(model), "--task", "depth", str(image)])
    assert found.unexplained == 0
    assert "photo.png" in capsys.readouterr().out.splitlines()[-1]
