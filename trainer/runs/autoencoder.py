"""VAE: train a small autoencoder of Stable Diffusion's kind on pictures and on the pictures of their targets."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from ...core.checkpoints.architecture import VAEArchitecture
from ...core.checkpoints.tensors import save_tensors
from ...core.generations import LATENT
from ...core.image import CELL
from ...core.measure.losses import LOSSES, Reduction, at_least_float32, widest_on
from ...core.whole_file import write_whole
from ..config import Autoencoder as Settings
from ..config import Config
from ..data.batches import Batch, Feed, in_order
from ..learner import Counted, Passes
from ..noise import source

QUIET = -6.0
"""Logarithm of the variance that latents begin with."""


class AutoencoderModel(nn.Module):
    """A VAE that learns; called with a batch it gives what its losses sum up to."""

    def __init__(self, vae: AutoencoderKL, settings: Settings) -> None:
        super().__init__()
        self.vae, self.settings = vae, settings

    @property
    def dtype(self) -> torch.dtype:
        return self.vae.dtype

    def learning(self) -> dict[str, nn.Parameter]:
        return {name: weight for name, weight in self.named_parameters() if weight.requires_grad}

    def weights(self, batch: Batch) -> Counted:
        pictures, valid = _pictures_and_targets(batch)
        counted = [LOSSES[name].weight(pictures, valid) for name in ("l1", "gradient")]
        cells = pictures.shape[-2] // CELL * (pictures.shape[-1] // CELL)
        counted.append(torch.tensor([len(pictures) * LATENT * cells], device=pictures.device))
        factors = (self.settings.l1, self.settings.gradient, self.settings.kl)
        parts = [torch.full_like(part, factor, dtype=widest_on(part.device)) for part, factor in zip(counted, factors)]
        return Counted(torch.cat(counted), torch.cat(parts))

    def forward(self, batch: Batch) -> Tensor:
        pictures, valid = _pictures_and_targets(batch)
        posterior = self.vae.encode(pictures.to(self.vae.dtype)).latent_dist
        mean, log_variance = at_least_float32(posterior.mean), at_least_float32(posterior.logvar)
        latent = mean + (log_variance / 2).exp() * _draws(batch, mean)
        made = at_least_float32(self.vae.decode(latent.to(self.vae.dtype), return_dict=False)[0])
        found = [LOSSES[name](made, pictures, valid) for name in ("l1", "gradient")]
        return torch.cat([*(reduction.total for reduction in found), _divergence(mean, log_variance)])


def _pictures_and_targets(batch: Batch) -> tuple[Tensor, Tensor]:
    """Pictures (2B, 3, H, W) in [-1, 1]: the images, and then their targets where these are valid."""
    return torch.cat([batch.image, batch.target]), torch.cat([torch.ones_like(batch.valid), batch.valid])


def _draws(batch: Batch, like: Tensor) -> Tensor:
    """Normal noise for the latents, each picture's from its own seed."""
    sources = [source(seed, purpose) for purpose in ("image", "target") for seed in batch.seeds.tolist()]
    return torch.stack([torch.randn(like.shape[1:], generator=random) for random in sources]).to(like)


def _divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Sum of KL(posterior || N(0, 1)) over latent values, (1,)."""
    return (mean.square() + log_variance.exp() - 1 - log_variance).sum()[None] / 2


def untrained_vae(settings: Settings) -> AutoencoderKL:
    """A VAE whose latents begin with little noise, so that the decoder sees its pictures from the first step."""
    vae = AutoencoderKL.from_config(VAEArchitecture(settings.vae_widths, settings.vae_layers, 1.0).config())
    with torch.no_grad():
        vae.quant_conv.weight[LATENT:] = 0
        vae.quant_conv.bias[LATENT:] = QUIET
    return vae


class AutoencoderValidator:
    """Measures a VAE on held-out batches, and writes it as a folder that base.vae can name."""

    def __init__(
        self,
        config: Config,
        model: AutoencoderModel,
        feeds: list[Feed],
        held_out: bool,
        device: torch.device,
        passes: Passes = nullcontext,
    ) -> None:
        """feeds: what it looks at; held_out: whether the run does not learn from that."""
        self.config, self.model, self.feeds, self.held_out = config, model, feeds, held_out
        self.device, self.passes = device, passes
        self.named: set[str] = set()

    @torch.no_grad()
    def measure(self, done: int, main: bool) -> dict[str, float]:
        if not self.held_out or not main:
            return {}
        found = {name: Reduction(torch.zeros(1), torch.zeros(1, dtype=torch.int64)) for name in ("l1", "mse")}
        for batch in self.batches():
            pictures, valid = _pictures_and_targets(batch)
            with self.passes():
                made = self.model.vae(pictures, return_dict=False)[0].float().clamp(-1, 1)
            for name in found:
                reduction = LOSSES[name](made, pictures, valid)
                found[name] += Reduction(reduction.total.cpu(), reduction.weight.cpu())
        l1, mse = (reduction.mean().item() for reduction in found.values())
        return {"l1": l1 / 2, "psnr": -10 * math.log10(max(mse / 4, 1e-12)), "score": l1}

    def batches(self) -> Iterator[Batch]:
        config = self.config
        for batch in in_order(self.feeds, config.batch_size, config.validation_images or 100, config.seed, self.named):
            yield batch.to(self.device)

    @torch.no_grad()
    def write(self, name: str, notes: Mapping[str, object]) -> Path:
        """`last` is vae/, with the factor that brings its latents to a deviation of 1; others stand beside it."""
        folder = Path(self.config.out) / ("vae" if name == "last" else f"vae_{name}")
        folder.mkdir(parents=True, exist_ok=True)
        shape = VAEArchitecture(
            self.config.autoencoder.vae_widths, self.config.autoencoder.vae_layers, 1 / self.deviation()
        )
        weights = {key: weight.detach().cpu() for key, weight in self.model.vae.state_dict().items()}
        file = folder / "diffusion_pytorch_model.safetensors"
        config = json.dumps({"_class_name": "AutoencoderKL", **shape.config()}, indent=2)
        write_whole(folder / "config.json", config.encode())
        save_tensors(file, weights, {"format": "pt"})
        return folder

    def deviation(self) -> float:
        """Of latents, over the pictures that are looked at."""
        means = [
            self.model.vae.encode(_pictures_and_targets(batch)[0]).latent_dist.mean.flatten()
            for batch in self.batches()
        ]
        return max(torch.cat(means).std().item(), 1e-6)
