"""What decoding and encoding again costs: a map of a latent beside the map of the picture that it decodes to.

    python benchmarks/latent_round_trip.py --model weights/starter.safetensors --task depth --resolution 256 *.jpg

The latents are those of the pictures. The map of a decoded latent differs from the map of the latent itself by what the
VAE lost on the way, and by nothing else: the map of the latent that the decoded picture is encoded to is bit-identical
to the picture's. Errors of latents are root mean squares relative to the latent's; of maps, in the maps' own units.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from diffusion_perception.core.image import fit
from diffusion_perception.core.pipeline import Perceiver, predict, predict_latent
from diffusion_perception.trainer.host import open_perceiver
from diffusion_perception.trainer.perceiver import read_upright

CELL = 8
"""Pixels along a side of what a latent's cell stands for."""


@dataclass(frozen=True)
class RoundTrip:
    """Of one latent."""

    latent_error: float
    """of the latent that comes back, relative"""
    map_error: float
    """between the map of the latent and the map of its picture, on average"""
    unexplained: float
    """between the map of the latent that comes back and the map of the picture, at most"""


@torch.inference_mode()
def round_trip(perceiver: Perceiver, latent: Tensor) -> RoundTrip:
    """latent: scaled, (1, 4, h, w)."""
    autoencoder = perceiver.needs_autoencoder()
    picture = (autoencoder.decode(latent) / 2 + 0.5).clamp(0, 1)
    # as predict() shows it to the VAE, which for some recipes means 8-bit levels
    back = autoencoder.encode(fit(picture * 2 - 1, 0, perceiver.recipe.rule)[0])
    of_latent, of_back = (predict_latent(perceiver, each).values for each in (latent, back))
    of_picture = predict(perceiver, picture, resolution=0).values
    lost = (back - latent).square().mean().sqrt() / latent.square().mean().sqrt()
    return RoundTrip(
        lost.item(), (of_picture - of_latent).abs().mean().item(), (of_picture - of_back).abs().max().item()
    )


def _latent_of(perceiver: Perceiver, path: Path, resolution: int) -> Tensor:
    """Of a picture whose sides are cut to whole cells."""
    image = read_upright(path)
    picture, _ = fit(image * 2 - 1, resolution, perceiver.recipe.rule)
    height, width = (side // CELL * CELL for side in picture.shape[-2:])
    return perceiver.needs_autoencoder().encode(picture[..., :height, :width].contiguous())


def main(words: Sequence[str] | None = None) -> list[RoundTrip]:
    """Print a line a picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--family", default="auto")
    parser.add_argument("--task", default="")
    parser.add_argument("--context", default="", metavar="FILE[:KEY]", help="text embedding, if none came with it")
    parser.add_argument("--resolution", type=int, default=0, help="of the pictures: 0 their own, or pixels")
    arguments = parser.parse_args(words)
    perceiver = open_perceiver(
        arguments.model, task=arguments.task, family=arguments.family, context=arguments.context, device="cpu"
    )
    print(f"{'latent':>9} {'map':>9} {'unexplained':>12}")
    found = []
    for path in arguments.images:
        with torch.inference_mode():
            latent = _latent_of(perceiver, path, arguments.resolution)
        found.append(round_trip(perceiver, latent))
        print(f"{found[-1].latent_error:9.2%} {found[-1].map_error:9.5f} {found[-1].unexplained:12.1e}  {path.name}")
    return found


if __name__ == "__main__":
    main()
