"""predict(): the only inference path, from image to raw values; denoise() is its differentiable inner half."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .backbone import Autoencoder, Backbone, Context, Features, Head
from .diffusion import PARADIGMS, Guided, Tick
from .ensemble import MERGES
from .errors import UserError
from .image import CELL, Fit, all_finite, fit, resize
from .perception_map import PerceptionMap
from .recipe import Recipe
from .shortcuts import where_they_suit


@dataclass(frozen=True)
class Perceiver:
    """One recipe with everything that it needs to run."""

    recipe: Recipe
    backbone: Backbone
    context: Context
    """Of the empty prompt, or of any other; the recipe says how many of its tokens are used."""
    autoencoder: Autoencoder | None = None
    head: Head | None = None
    negative: Context | None = None
    """What guidance moves away from; needed where guidance_scale is not 1."""
    siblings: tuple[Recipe, ...] = ()
    """Recipes that read other targets of the same passes."""

    def needs_autoencoder(self) -> Autoencoder:
        """The VAE. UserError where there is none."""
        if self.autoencoder is None:
            raise UserError("The checkpoint brings no VAE of its own: connect a Stable Diffusion 1.x or 2.x VAE.")
        return self.autoencoder


def predict(
    perceiver: Perceiver,
    image: Tensor,
    *,
    resolution: int = -1,
    batch_size: int = 1,
    noise: Tensor | None = None,
    step_noise: Tensor | None = None,
    tick: Tick = lambda: None,
) -> PerceptionMap:
    """Image (B, 3, H, W) in [0, 1] -> its PerceptionMap, values (B, H, W, C) on the CPU.

    resolution: -1 as trained, 0 the image's own, else pixels of the edge that the recipe's resize rule speaks of.
    batch_size: images, or members of an ensemble, per pass of the networks; above 1 the last bits may differ.
    noise: initial latents (ensemble_size, C, h, w) in place of the seeded ones, C = 4 for each latent that the network
    predicts; step_noise: (steps - 1, ensemble_size, C, h, w), what LCM adds after each step but the last. Both are the
    same for every image.
    tick: called `passes()` times.
    """
    check_image(image)
    wanted = wanted_resolution(perceiver.recipe, resolution)
    autoencoder = perceiver.needs_autoencoder()
    gathered = Gathered(len(image))
    with by_shortcuts(perceiver.recipe):
        for chunk in image.split(batch_size):
            picture, fitted = fit(as_trained(chunk, perceiver.recipe), wanted, perceiver.recipe.rule)
            latent = autoencoder.encode(picture)
            tick()
            gathered.add(perceive(perceiver, latent, fitted, batch_size, Noise(noise, step_noise), tick))
    return gathered.map(perceiver.recipe)


def by_shortcuts(*recipes: Recipe) -> AbstractContextManager[None]:
    """By less arithmetic, if each answer comes of one pass; what comes of several is followed digit by digit."""
    return where_they_suit(all(PARADIGMS[recipe.paradigm].one_pass and members(recipe) == 1 for recipe in recipes))


def as_trained(image: Tensor, recipe: Recipe) -> Tensor:
    """Image (B, 3, H, W) in [0, 1] -> the picture in [-1, 1] as the network was trained on, in linear light or not."""
    # contiguous: on channels-last memory PyTorch's group norm loses a digit (measured: 2e-4 in a depth of 0..1)
    levels = image.contiguous().float()
    return (levels if recipe.input_gamma == 1 else levels**recipe.input_gamma) * 2 - 1


def predict_latent(
    perceiver: Perceiver, latent: Tensor, *, batch_size: int = 1, noise: Tensor | None = None, tick: Tick = lambda: None
) -> PerceptionMap:
    """Scaled latent (B, 4, h, w) -> the PerceptionMap of the image it stands for, values (B, 8h, 8w, C)."""
    check_latent(latent)
    check_sees_latents(perceiver.recipe)
    size = (latent.shape[-2] * CELL, latent.shape[-1] * CELL)
    fitted = Fit(perceiver.recipe.rule, size, size)
    gathered = Gathered(len(latent))
    with by_shortcuts(perceiver.recipe):
        for chunk in latent.split(batch_size):
            seen = chunk.contiguous().float()
            gathered.add(perceive(perceiver, seen, fitted, batch_size, Noise(noise), tick))
    return gathered.map(perceiver.recipe)


def wanted_resolution(recipe: Recipe, resolution: int) -> int:
    """What predict() means by its resolution."""
    if not -1 <= resolution <= 16384:
        raise UserError(f"resolution={resolution} is not -1 (as trained), 0 (the image's own) or 1..16384 pixels.")
    return recipe.resolution if resolution == -1 else resolution


def passes(recipe: Recipe, images: int, batch_size: int, encode: bool = True) -> int:
    """How often predict() (or, without encode, predict_latent()) ticks."""
    per_chunk = [chunk * members(recipe) for chunk in chunks(images, batch_size)]
    return sum((-(-jobs // batch_size)) * (recipe.steps + 1) + encode for jobs in per_chunk)


def chunks(images: int, batch_size: int) -> list[int]:
    """How many images each pass of the VAE takes."""
    return [min(batch_size, images - start) for start in range(0, images, batch_size)]


def _draws_noise(recipe: Recipe) -> bool:
    """Whether two seeds give two predictions."""
    return PARADIGMS[recipe.paradigm].draws_noise and recipe.noise == "gaussian"


def members(recipe: Recipe) -> int:
    """Predictions per image: more than one only where they can differ."""
    return recipe.ensemble_size if _draws_noise(recipe) else 1


class Noise(NamedTuple):
    """What a stochastic prediction is given in place of random numbers, C channels for all that it predicts."""

    initial: Tensor | None = None
    """(members, C, h, w)."""
    steps: Tensor | None = None
    """(steps - 1, members, C, h, w): what LCM adds after each step but the last."""


Values = tuple[Tensor, Tensor | None]
"""(B, H, W, C) and, where it is known, their uncertainty (B, H, W)."""


def perceive(perceiver: Perceiver, latent: Tensor, fitted: Fit, batch_size: int, noise: Noise, tick: Tick) -> Values:
    """Image latents (B, 4, h, w) of one chunk -> values at the images' own size."""
    recipe, count = perceiver.recipe, members(perceiver.recipe)
    codec = recipe.target_codec()
    latents = latent.repeat_interleave(count, 0)
    noises = initial_noise(latent, recipe, noise)
    decoded = []
    for index in range(0, len(latents), batch_size):
        part = slice(index, index + batch_size)
        picture = decode(perceiver, latents[part], None if noises is None else noises[part], tick)
        decoded.append(crop(codec.decode(picture), fitted))
        tick()
    values, uncertainty = merge_members(torch.cat(decoded), count, recipe)
    values, doubt = codec.settle(values, replace(fitted, colours=codec.colours).restore)
    if uncertainty is not None:
        doubt = fitted.restore(uncertainty)
    return values.movedim(1, -1).contiguous().cpu(), None if doubt is None else doubt[:, 0].cpu()


def decode(perceiver: Perceiver, latent: Tensor, noise: Tensor | None, tick: Tick) -> Tensor:
    """Image latents -> the target's picture (B, 3, 8h, 8w), or whatever the head gives."""
    _check_numbers(perceiver, VAE, latent)
    if perceiver.head is not None:
        seen = features(perceiver, latent, tick)
        _check_numbers(perceiver, NETWORK, *seen)
        picture = _at_size(perceiver.head(seen), latent, perceiver.recipe.rule.multiple)
        _check_numbers(perceiver, HEAD, picture)
        return picture
    answer = denoise(perceiver, latent, noise, tick)
    _check_numbers(perceiver, NETWORK, answer)
    picture = perceiver.needs_autoencoder().decode(answer)
    _check_numbers(perceiver, VAE, picture)
    channel = perceiver.recipe.channel
    return picture if channel < 0 else picture[:, channel : channel + 1]


NETWORK, HEAD, VAE = "network", "head", "VAE"


def _check_numbers(perceiver: Perceiver, part: str, *given: Tensor) -> None:
    """UserError, which says why, if what a part of a model gave is not all finite."""
    if all(bool(tensor.isfinite().all()) for tensor in given):
        return
    named = perceiver.recipe.id
    if part != NETWORK:
        raise UserError(
            f"{named} gives no numbers: the weights of its {part} hold NaN, or overflow in half precision; get the "
            "file again, or take full precision."
        )
    if not perceiver.context.tokens.isfinite().all():
        raise UserError(f"{named} gives no numbers: its text context holds NaN; get the file again, or give another.")
    if not all(map(_holds_numbers, perceiver.backbone.modules().values())):
        raise UserError(f"{named} gives no numbers: its weights hold NaN; get the file again.")
    raise UserError(
        f"{named} gives no numbers: they overflow in the precision that it runs in; take a wider one (fp32, or bf16)."
    )


def _holds_numbers(layer: nn.Module) -> bool:
    """Whether all of a layer's weights are finite, as far as they can be looked at where they are."""
    weights = (
        weight for weight in layer.parameters(recurse=False) if weight.is_floating_point() and not weight.is_meta
    )
    # isfinite knows no numbers of 8 bits
    return all(bool((w.float() if w.element_size() == 1 else w).isfinite().all()) for w in weights)


def _at_size(picture: Tensor, latent: Tensor, multiple: int) -> Tensor:
    """What a head gave, at the picture's size if padding has to be cut off; else as it is, to be resized only once."""
    size = (latent.shape[-2] * CELL, latent.shape[-1] * CELL)
    return resize(picture, size, "bilinear", False) if multiple > 1 else picture


def denoise(perceiver: Perceiver, latent: Tensor, noise: Tensor | None = None, tick: Tick = lambda: None) -> Tensor:
    """Image latents (B, 4, h, w) -> the target's latents, along the recipe's paradigm. Differentiable."""
    recipe = perceiver.recipe
    context = perceiver.context.first(recipe.tokens)
    answer = PARADIGMS[recipe.paradigm].run(guided(perceiver), latent, noise, context, recipe, tick)
    return answer.chunk(recipe.targets, 1)[recipe.target]


def guided(perceiver: Perceiver) -> Backbone:
    """The network, under classifier-free guidance where the recipe asks for it."""
    scale, negative = perceiver.recipe.guidance_scale, perceiver.negative
    if scale == 1:
        return perceiver.backbone
    if negative is None:
        raise UserError(f"guidance_scale={scale:g} needs a negative context: give one, or set guidance_scale=1.")
    return Guided(perceiver.backbone, negative.first(perceiver.recipe.tokens), scale)


def features(perceiver: Perceiver, latent: Tensor, tick: Tick) -> Features:
    """What the four up blocks make of the image latent at the recipe's timestep."""
    batch = latent.shape[0]
    timestep = latent.new_full((batch,), perceiver.recipe.timestep)
    context = perceiver.context.first(perceiver.recipe.tokens).expand(batch)
    result = guided(perceiver).features(latent, timestep, context)
    tick()
    return result


def initial_noise(latent: Tensor, recipe: Recipe, given: Noise) -> Tensor | None:
    """Noise (B * E, C, h, w), or with LCM (B * E, steps, C, h, w); None where the paradigm takes none.

    Every image starts from the same draws, so a batch equals its images one by one.
    """
    if not PARADIGMS[recipe.paradigm].draws_noise:
        return None
    channels = latent.shape[1] * recipe.targets
    shape = (members(recipe), channels, *latent.shape[2:])
    draw = torch.Generator().manual_seed(recipe.seed)
    initial = _given_or_drawn("Initial noise", given.initial, shape, draw if recipe.noise == "gaussian" else None)
    count = recipe.steps - 1 if recipe.sampler == "lcm" else 0
    if count or given.steps is not None:
        added = _given_or_drawn("Step noise", given.steps, (count, *shape), draw)
        initial = torch.cat([initial[None], added])
    if recipe.sampler == "lcm":
        initial = initial.reshape(recipe.steps, *shape).movedim(0, 1)
    return initial.to(latent).repeat(latent.shape[0], *(1,) * (initial.ndim - 1))


def _given_or_drawn(what: str, given: Tensor | None, shape: tuple[int, ...], draw: torch.Generator | None) -> Tensor:
    """What was given, if it is of this shape; else as much from a generator, or zeros. UserError for other shapes."""
    if given is None:
        # LCM's authors draw after each step, which gives the same numbers in the same order
        return torch.zeros(shape) if draw is None else torch.randn(shape, generator=draw)
    if given.shape != shape:
        raise UserError(f"{what} of shape {tuple(given.shape)} was given; this image needs {shape}.")
    return given.float().cpu()


def crop(values: Tensor, fitted: Fit) -> Tensor:
    """Without the padding, which must not take part in an ensemble's alignment."""
    return values[..., : fitted.inner[0], : fitted.inner[1]] if fitted.rule.multiple > 1 else values


def merge_members(values: Tensor, count: int, recipe: Recipe) -> tuple[Tensor, Tensor | None]:
    """(B * E, C, H, W) -> (B, C, H, W) and the uncertainty (B, 1, H, W) of more than one member."""
    if count == 1:
        return values, None
    merged, uncertainty = zip(*(MERGES[recipe.merge](group, recipe.ensemble_edge) for group in values.split(count)))
    return torch.cat(merged), torch.cat(uncertainty)


class Gathered:
    """The values of a batch, each chunk's written to its place as it comes, so that those of a video are held once."""

    def __init__(self, count: int) -> None:
        """count: images of the batch."""
        self.count, self.there = count, 0
        self.values: Values | None = None

    def add(self, part: Values) -> None:
        """The next images'."""
        images, _ = part
        if self.values is None:
            # of one chunk they are what was made
            self.values = part if len(images) == self.count else (self._room(part[0]), self._room(part[1]))
        place = slice(self.there, self.there + len(images))
        for held, new in zip(self.values, part):
            if held is not None and new is not None and held is not new:
                held[place] = new
        self.there = place.stop

    def _room(self, part: Tensor | None) -> Any:
        return None if part is None else part.new_empty(self.count, *part.shape[1:])

    def map(self, recipe: Recipe) -> PerceptionMap:
        """All of it."""
        assert self.values is not None
        values, uncertainty = self.values
        return PerceptionMap(recipe.row.name, values, recipe.convention(), recipe.id, uncertainty=uncertainty)


def check_image(image: Tensor) -> None:
    """UserError, in one sentence, for what no network can make sense of."""
    if image.ndim != 4 or image.shape[1] != 3:
        raise UserError(f"Expected images of shape (B, 3, H, W), got {tuple(image.shape)}.")
    if image.shape[0] == 0:
        raise UserError("The batch of images is empty: give at least one image.")
    if min(image.shape[-2:]) < 16:
        height, width = image.shape[-2:]
        raise UserError(f"The image is {width}x{height} pixels; the smallest that can be perceived is 16x16.")
    if not all_finite(image):
        raise UserError("The image holds NaN or infinite pixels: repair the node that made it.")


def check_sees_latents(recipe: Recipe) -> None:
    """UserError for a network that was trained on other pictures than latents stand for."""
    if recipe.input_gamma != 1:
        raise UserError(
            f"{recipe.id} perceives pictures in linear light, which latents do not stand for: decode the latent and "
            "perceive the picture."
        )


def check_latent(latent: Tensor) -> None:
    """UserError for latents that hold no numbers."""
    if not all_finite(latent):
        raise UserError("The latent holds NaN or infinite values: repair the node that made it.")
