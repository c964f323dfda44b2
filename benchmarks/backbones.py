"""Backbones: the networks that GenPercept holds against Stable Diffusion's UNet, on diffusers' and transformers' own
classes, with the trainer's data, losses and loop.

PixArt-alpha's transformer (Chen et al. 2023) stands where the UNet stands, and core predicts with it as with any other
(Table 10). DINOv2 (Oquab et al. 2024) reads pictures in place of latents, under a DPT or an UPerNet (Tables 11 and 3).
All begin untrained, in sizes near those of the tables' UNets. Rows of rows.TRAININGS name them; tables.py runs them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers import PixArtTransformer2DModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    Dinov2Config,
    DPTConfig,
    DPTForDepthEstimation,
    UperNetConfig,
    UperNetForSemanticSegmentation,
)

from diffusion_perception.core.display.colour import palette_named
from diffusion_perception.core.image import fit as fitted_image
from diffusion_perception.core.measure.losses import at_least_float32
from diffusion_perception.core.pipeline import as_trained, crop, predict
from diffusion_perception.core.recipe import Recipe
from diffusion_perception.trainer import objective
from diffusion_perception.trainer.base import open_vae
from diffusion_perception.trainer.config import Config
from diffusion_perception.trainer.data.batches import Batch, Batches
from diffusion_perception.trainer.data.feeds import open_feeds
from diffusion_perception.trainer.host import load_vae
from diffusion_perception.trainer.journal import Journal
from diffusion_perception.trainer.latents import Latents
from diffusion_perception.trainer.learner import Counted
from diffusion_perception.trainer.loop import Run, fit
from diffusion_perception.trainer.optimiser import OPTIMISERS, Average
from diffusion_perception.trainer.runs.perception import PerceptionModel

PATCH = 8
"""Pixels along a side of what DINOv2 reads at once: its published 14 leave little of miniature pictures."""
LATENT_PATCH = 2
WIDER = 6
"""So much wider, and deeper, than the UNet's first level is a transformer of about as many weights."""
MEAN = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
DEVIATION = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
"""Of ImageNet's colours, which DINOv2's pictures are brought to."""


# PixArt-alpha


class Pixart(nn.Module):
    """PixArt-alpha's transformer, called as a UNet is."""

    def __init__(self, transformer: PixArtTransformer2DModel) -> None:
        super().__init__()
        self.transformer = transformer
        self.config = transformer.config

    @property
    def dtype(self) -> torch.dtype:
        return self.transformer.dtype

    @property
    def device(self) -> torch.device:
        return self.transformer.device

    def forward(
        self, latent: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, return_dict: bool = False, **others: Any
    ) -> tuple[Tensor]:
        """Latents (B, 4, h, w), timesteps (B,), tokens (B, L, D) -> its prediction (B, 4, h, w), in a tuple.

        The other four channels are the variance of a step, which one step has no use for. Odd sizes are padded.
        """
        height, width = latent.shape[-2:]
        whole = F.pad(latent, (0, width % LATENT_PATCH, 0, height % LATENT_PATCH), mode="replicate")
        answer = self.transformer(whole, encoder_hidden_states, timestep, return_dict=False)[0]
        return (answer[:, : latent.shape[1], :height, :width],)


def pixart_of(config: Config) -> Pixart:
    """Untrained."""
    base = config.base
    width = WIDER * base.widths[0]
    return Pixart(
        PixArtTransformer2DModel(
            num_attention_heads=width // base.head_dim,
            attention_head_dim=base.head_dim,
            num_layers=WIDER * base.layers,
            cross_attention_dim=width,
            caption_channels=base.context_dim,
            sample_size=config.size[0] // 8,
            use_additional_conditions=False,
        )
    )


# DINOv2


class Dinov2(nn.Module):
    """DINOv2 under a head of transformers', as the trainer's loop asks for it: a Learner."""

    def __init__(
        self, network: nn.Module, read: Callable[[Any, Tensor], Tensor], recipe: Recipe, config: Config
    ) -> None:
        """read: (network, pixels) -> what the recipe's codec is to be compared with, of any size."""
        super().__init__()
        self.network, self.read = network, read
        self.terms = objective.terms_of(recipe, config.objective)
        if config.network.unet == "frozen":
            cast(nn.Module, network.backbone).requires_grad_(False)

    def forward(self, batch: Batch) -> Tensor:
        truth = objective.true_picture(batch)
        answer = objective.Answer(self.picture(batch.image), truth)
        return objective.totals({"picture": answer}, batch, self.terms)

    def picture(self, image: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [-1, 1] -> what the head makes of them, (B, C, H, W)."""
        pixels = (image / 2 + 0.5 - MEAN.to(image)) / DEVIATION.to(image)
        height, width = image.shape[-2:]
        whole = (-(-height // PATCH) * PATCH, -(-width // PATCH) * PATCH)
        if whole != (height, width):
            pixels = F.interpolate(pixels, whole, mode="bilinear", antialias=True)
        answer = at_least_float32(self.read(self.network, pixels))
        return F.interpolate(answer, (height, width), mode="bilinear")

    def weights(self, batch: Batch) -> Counted:
        return objective.weights(batch, self.terms)

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    def learning(self) -> dict[str, nn.Parameter]:
        return {name: weight for name, weight in self.named_parameters() if weight.requires_grad}

    def values(self, recipe: Recipe, image: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] -> values (B, C, H, W), as core.pipeline makes them of a head's picture."""
        picture, fitted = fitted_image(as_trained(image, recipe), recipe.resolution, recipe.rule)
        codec = recipe.target_codec()
        decoded = crop(codec.decode(self.picture(picture)), fitted)
        return codec.settle(decoded, replace(fitted, colours=codec.colours).restore)[0]


def _features_of(config: Config, reshaped: bool) -> Dinov2Config:
    """An untrained DINOv2 that is read at each quarter of its depth."""
    width, layers = WIDER * config.base.widths[0], WIDER * config.base.layers
    return Dinov2Config(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=width // config.base.head_dim,
        image_size=config.size[0],
        patch_size=PATCH,
        out_indices=[-(-layers * quarter // 4) for quarter in (1, 2, 3, 4)],
        reshape_hidden_states=reshaped,
    )


def _depth_of(config: Config) -> DPTForDepthEstimation:
    """DINOv2 + DPT. Its last ReLU is left out, as GenPercept leaves it out of the head on its UNet: nothing learns
    where it gives 0."""
    shape = DPTConfig(
        backbone_config=_features_of(config, False),
        neck_hidden_sizes=list(config.base.widths),
        fusion_hidden_size=config.network.head_width,
    )
    network = DPTForDepthEstimation(shape)
    network.head.head[-1] = nn.Identity()
    return network


def _classes_of(config: Config, count: int) -> UperNetForSemanticSegmentation:
    """DINOv2 + UPerNet."""
    shape = UperNetConfig(
        backbone_config=_features_of(config, True),
        hidden_size=config.network.head_width,
        use_auxiliary_head=False,
        num_labels=count,
    )
    return UperNetForSemanticSegmentation(shape)


# What is trained, and how it is asked


@dataclass(frozen=True)
class Made:
    """A network as it learns, as it is kept, and as it predicts."""

    learner: nn.Module
    """See trainer.learner.Learner."""
    kept: nn.Module
    """Whose weights are written."""
    recipe: Recipe
    values: Callable[[Tensor], Tensor]
    """Images (B, 3, H, W) in [0, 1] -> values (B, C, H, W)."""


def _made_pixart(config: Config, recipe: Recipe) -> Made:
    vae = load_vae(*open_vae(Path(config.base.vae))).requires_grad_(False)
    network, nothing = pixart_of(config), torch.zeros(1, config.network.tokens, config.base.context_dim)
    known = Latents.of_run(config, config.precision, [recipe], vae)
    model = PerceptionModel(
        cast(Any, network), vae, {recipe.id: nothing}, {recipe.id: recipe}, config.objective, latents=known
    )

    def values(image: Tensor) -> Tensor:
        return predict(model.perceiver(recipe.id), image, batch_size=len(image)).values.movedim(-1, 1)

    return Made(model, network, recipe, values)


def _made_dinov2(learner: Dinov2, recipe: Recipe) -> Made:
    return Made(learner, learner.network, recipe, lambda image: learner.values(recipe, image))


def _made_depth(config: Config, recipe: Recipe) -> Made:
    return _made_dinov2(Dinov2(_depth_of(config), _depth, recipe, config), recipe)


def _depth(network: DPTForDepthEstimation, pixels: Tensor) -> Tensor:
    """A picture (B, 1, H', W') that runs from -1 where the network gives 0 to 1 where it gives 1."""
    return 2 * network(pixels).predicted_depth[:, None] - 1


def _made_classes(config: Config, recipe: Recipe) -> Made:
    count = len(palette_named(recipe.palette).classes)
    return _made_dinov2(Dinov2(_classes_of(config, count), _scores, recipe, config), recipe)


def _scores(network: UperNetForSemanticSegmentation, pixels: Tensor) -> Tensor:
    """Of each class, (B, classes, H', W')."""
    return network(pixels).logits


NETWORKS: Mapping[str, Callable[[Config, Recipe], Made]] = {
    "pixart": _made_pixart,
    "dinov2-dpt": _made_depth,
    "dinov2-upernet": _made_classes,
}
"""What a row of rows.TRAININGS may name in the UNet's place."""
FILE = "last.safetensors"


@dataclass(frozen=True)
class Writer:
    """Writes a run's weights, and measures nothing on the way."""

    kept: nn.Module
    out: Path

    def measure(self, done: int, main: bool) -> dict[str, float]:
        return {}

    def write(self, name: str, notes: Mapping[str, object]) -> Path:
        path = self.out / f"{name}.safetensors"
        save_file({key: value.contiguous().cpu() for key, value in self.kept.state_dict().items()}, path)
        return path


def learn(config: Config, name: str) -> None:
    """Train a row of NETWORKS by the trainer's loop, from its beginning; the weights lie in config.out."""
    set_seed(config.seed)
    accelerator = Accelerator(mixed_precision=config.precision, cpu=config.device == "cpu")
    feeds, _ = open_feeds(config, "custom")
    made, out = NETWORKS[name](config, feeds[0].recipe), Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    learner: Any = made.learner.to(accelerator.device)
    optimiser = OPTIMISERS[config.optimiser.name](list(_groups(learner, config)), config.optimiser)
    model, optimiser = accelerator.prepare(learner, optimiser)
    batches = Batches(feeds, config.batch_size, config.steps * config.accumulation, config.seed)
    average, journal = Average(learner.learning(), config.optimiser.ema), Journal(out, True)
    fit(Run(config, accelerator, learner, model, optimiser, average, batches, Writer(made.kept, out), journal))


def _groups(learner: Any, config: Config) -> Iterator[dict[str, Any]]:
    """All at one rate; matrices decay, as in the trainer."""
    rate, learning = config.optimiser.lr, list(learner.learning().values())
    for decay, weights in (
        (config.optimiser.weight_decay, [weight for weight in learning if weight.ndim > 1]),
        (0.0, [weight for weight in learning if weight.ndim <= 1]),
    ):
        yield {"params": weights, "lr": rate, "peak": rate, "weight_decay": decay}


def opened(config: Config, name: str) -> Made:
    """What a run of `learn` left, on the config's device."""
    feeds, _ = open_feeds(config, "custom")
    made = NETWORKS[name](config, feeds[0].recipe)
    made.kept.load_state_dict(load_file(Path(config.out) / FILE))
    made.learner.to(config.device).eval()
    return made
