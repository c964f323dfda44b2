"""PerceptionModel: the networks of a run, asked about a batch."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn

from ...core.backbone import Context
from ...core.codecs import reduce_channels
from ...core.diffusion import PARADIGMS, to_sample
from ...core.measure.losses import at_least_float32
from ...core.pipeline import Perceiver
from ...core.recipe import Recipe
from .. import objective
from ..captions import Captions
from ..config import Objective as Settings
from ..data.batches import Batch
from ..host import DiffusersAutoencoder, DiffusersBackbone, DiffusersHead
from ..latents import Latents
from ..learner import Counted
from ..noise import draw_timesteps, source


class PerceptionModel(nn.Module):
    """One UNet for all tasks of a run; called with a batch it gives what its losses sum up to."""

    def __init__(
        self,
        unet: UNet2DConditionModel,
        vae: AutoencoderKL,
        contexts: Mapping[str, Tensor],
        recipes: Mapping[str, Recipe],
        settings: Settings,
        head: nn.Module | None = None,
        latents: Latents | None = None,
        captions: Captions | None = None,
    ) -> None:
        """contexts: (1, L, D) for each task, all of one length; latents: where they are kept, if they are; captions:
        what knows the pictures' texts, if they have any."""
        super().__init__()
        self.latents, self.captions = latents, captions
        self.unet, self.vae, self.head = unet, vae, head
        self.recipes, self.settings = dict(recipes), settings
        self.tasks = tuple(recipes)
        # one weight for all tasks: every process uses it in every pass, whatever task that is for
        self.contexts = nn.Parameter(torch.cat([contexts[task] for task in self.tasks]), requires_grad=False)
        self.terms = {task: objective.terms_of(recipe, settings) for task, recipe in recipes.items()}

    def forward(self, batch: Batch) -> Tensor:
        """What each entry of each loss sums up to, differentiable: (N,)."""
        terms = self.terms[batch.task]
        return objective.totals(self.answers(batch, {term.space for term in terms}), batch, terms)

    def answers(self, batch: Batch, spaces: set[str]) -> Mapping[str, objective.Answer]:
        """To one question about each picture, in the spaces that are asked for: `latent`, and others by a picture."""
        recipe = self.recipes[batch.task]
        timesteps = draw_timesteps(batch.seeds, recipe, self.settings)
        tokens = self.told(batch)
        image = self.encode(batch.image, batch, "image")
        truth = objective.true_picture(batch)
        if self.head is not None:
            return {"picture": objective.Answer(self.read_head(image, timesteps, tokens, truth.shape[-2:]), truth)}
        needs_target = "latent" in spaces or PARADIGMS[recipe.paradigm].shows_target
        sample = self.encode(batch.target, batch, "target") if needs_target else image
        question = objective.ask(image, sample, timesteps, batch.seeds, recipe, self.settings)
        output = at_least_float32(self.output(question.shown, timesteps, tokens))
        guess = to_sample(output, question.noisy, question.alpha_bar, recipe.prediction_type)
        compared = (guess, sample) if question.target is None else (output, question.target)
        found = {"latent": objective.Answer(*compared)}
        if spaces - {"latent"}:
            found["picture"] = objective.Answer(reduce_channels(self.decode(guess), recipe.row.channels), truth)
        return found

    def weights(self, batch: Batch) -> Counted:
        """What those entries are to be divided by."""
        return objective.weights(batch, self.terms[batch.task])

    @property
    def dtype(self) -> torch.dtype:
        """In which losses are computed."""
        return self.contexts.dtype

    def tokens(self, task: str, count: int) -> Tensor:
        """A task's context for a batch, (B, L, D)."""
        return self.contexts[self.tasks.index(task)].expand(count, -1, -1)

    def told(self, batch: Batch) -> Tensor:
        """The context of each picture of a batch, (B, L, D): its caption, or its task's."""
        if batch.prompts and self.captions is not None:
            return self.captions(batch.prompts).to(self.contexts)
        return self.tokens(batch.task, len(batch))

    def output(self, shown: Tensor, timesteps: Tensor, tokens: Tensor) -> Tensor:
        """One pass of the UNet, in its own precision."""
        timesteps = timesteps.to(shown.device)
        return self.unet(shown.to(self.unet.dtype), timesteps, tokens.to(self.unet.dtype), return_dict=False)[0]

    def encode(self, picture: Tensor, batch: Batch, purpose: str) -> Tensor:
        """Pictures -> scaled latents: the posterior's mean, or drawn from it where the settings say so."""
        # without weights that learn there is nothing to remember for the way back
        learns = any(weight.requires_grad for weight in self.vae.quant_conv.parameters())
        with torch.set_grad_enabled(torch.is_grad_enabled() and learns):
            return self.encode_known(picture, batch, purpose)

    def encode_known(self, picture: Tensor, batch: Batch, purpose: str) -> Tensor:
        if self.latents is None or not batch.marks:
            return self.encode_anew(picture, batch, purpose)
        names, stamps = zip(*(mark.of(purpose, batch.task) for mark in batch.marks))
        return self.latents.encode(picture, names, lambda unknown: self.encode_anew(unknown, batch, purpose), stamps)

    def encode_anew(self, picture: Tensor, batch: Batch, purpose: str) -> Tensor:
        posterior = self.vae.encode(picture.to(self.vae.dtype)).latent_dist
        latent = at_least_float32(posterior.mean)
        if self.settings.sample_latents:
            sources = [source(seed, purpose) for seed in batch.seeds.tolist()]
            draws = [torch.randn(latent.shape[1:], generator=source) for source in sources]
            latent = latent + at_least_float32(posterior.std) * torch.stack(draws).to(latent)
        return latent * self.vae.config.scaling_factor

    def decode(self, latent: Tensor) -> Tensor:
        """Scaled latents -> pictures (B, 3, 8h, 8w), not clamped; gradients flow through."""
        scaled = latent / self.vae.config.scaling_factor
        return at_least_float32(self.vae.decode(scaled.to(self.vae.dtype), return_dict=False)[0])

    def read_head(self, latent: Tensor, timesteps: Tensor, tokens: Tensor, size: torch.Size) -> Tensor:
        """What the head makes of the UNet's features, at the pictures' size."""
        assert self.head is not None
        features: list[Tensor] = []
        hooks = [
            block.register_forward_hook(lambda module, inputs, output: features.append(at_least_float32(output)))
            for block in self.unet.up_blocks
        ]
        try:
            self.output(latent, timesteps, tokens)
        finally:
            for hook in hooks:
                hook.remove()
        picture = at_least_float32(self.head(tuple(features)))
        if picture.shape[-2:] == size:
            return picture
        return F.interpolate(picture, size, mode="bilinear", align_corners=False)

    def learning(self) -> dict[str, nn.Parameter]:
        """The weights that move, by name."""
        return {name: weight for name, weight in self.named_parameters() if weight.requires_grad}

    def perceiver(self, task: str) -> Perceiver:
        """What is run in inference, on the very same weights."""
        index = self.tasks.index(task)
        return Perceiver(
            recipe=self.recipes[task],
            backbone=DiffusersBackbone(self.unet),
            context=Context(self.contexts[index : index + 1].detach()),
            autoencoder=DiffusersAutoencoder(self.vae),
            head=None if self.head is None else DiffusersHead(self.head),
        )
