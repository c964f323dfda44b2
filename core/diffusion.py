"""Diffusion as perception uses it: schedules, parameterisations, and the paradigms of the GenPercept paper."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from .backbone import Backbone, Context, Features
from .errors import UserError

if TYPE_CHECKING:  # a recipe names its paradigm, so it is recipe.py that imports this file
    from .recipe import Recipe

TRAIN_STEPS = 1000

Number = float | Tensor
Tick = Callable[[], None]
"""Called after every pass of the network: progress, and the place where a cancel is raised."""


@lru_cache(maxsize=32)
@torch.inference_mode(False)  # what is kept may be used in training later
def alpha_bars(beta_start: float, beta_end: float, zero_snr: bool = False) -> Tensor:
    """Cumulative signal power (1000,) of the scaled-linear schedule, on the CPU.

    zero_snr rescales it so that the last is exactly 0 (Lin et al. 2024, "Common Diffusion Noise Schedules and Sample
    Steps are Flawed", alg. 1). In single precision and in this order on purpose: so the networks were trained, and an
    ensemble turns the last bit of its members into another map.
    """
    betas = torch.linspace(beta_start**0.5, beta_end**0.5, TRAIN_STEPS, dtype=torch.float32, device="cpu") ** 2
    bars = torch.cumprod(1 - betas, 0)
    if not zero_snr or bars[0] == bars[-1]:
        return bars
    roots = bars.sqrt()
    scaled = ((roots - roots[-1]) * (roots[0] / (roots[0] - roots[-1]))) ** 2
    ratios = torch.cat([scaled[:1], scaled[1:] / scaled[:-1]]).nan_to_num(0)
    return torch.cumprod(1 - (1 - ratios), 0)


class Parameterisation(NamedTuple):
    """What a network's output means. a is alpha-bar; noisy = sqrt(a) sample + sqrt(1 - a) noise.

    In the deterministic paradigm the image latent stands in the noise's place.
    """

    sample: Callable[[Tensor, Tensor, Number], Tensor]
    """(output, noisy, a) -> the sample it implies"""
    noise: Callable[[Tensor, Tensor, Number], Tensor]
    """(output, noisy, a) -> the noise it implies"""
    target: Callable[[Tensor, Tensor, Number], Tensor]
    """(sample, noise, a) -> the output to train towards"""


PARAMETERISATIONS: dict[str, Parameterisation] = {
    # Salimans & Ho 2022, "Progressive Distillation": v = sqrt(a) noise - sqrt(1 - a) sample
    "v_prediction": Parameterisation(
        sample=lambda v, noisy, a: a**0.5 * noisy - (1 - a) ** 0.5 * v,
        noise=lambda v, noisy, a: a**0.5 * v + (1 - a) ** 0.5 * noisy,
        target=lambda sample, noise, a: a**0.5 * noise - (1 - a) ** 0.5 * sample,
    ),
    "epsilon": Parameterisation(
        sample=lambda noise, noisy, a: (noisy - (1 - a) ** 0.5 * noise) / a**0.5,
        noise=lambda noise, noisy, a: noise,
        target=lambda sample, noise, a: noise,
    ),
    "sample": Parameterisation(
        sample=lambda sample, noisy, a: sample,
        noise=lambda sample, noisy, a: (noisy - a**0.5 * sample) / (1 - a) ** 0.5,
        target=lambda sample, noise, a: sample,
    ),
}


def to_sample(output: Tensor, noisy: Tensor, alpha_bar: Number, prediction_type: str) -> Tensor:
    """The clean latent that a network's output implies; alpha_bar a number, or (B, 1, 1, 1).

    UserError for epsilon where alpha_bar is 0: noise alone says nothing of a sample that left no trace.
    """
    if prediction_type == "epsilon" and _lacks_signal(alpha_bar):
        raise UserError(
            "prediction_type=epsilon needs a schedule that leaves some signal: set beta_start and beta_end below 1 and "
            "zero_snr=false."
        )
    return PARAMETERISATIONS[prediction_type].sample(output, noisy, alpha_bar)


def _lacks_signal(alpha_bar: Number) -> bool:
    """Whether a signal power is 0, of any sample where there are several."""
    return bool((alpha_bar <= 0).any()) if isinstance(alpha_bar, Tensor) else alpha_bar <= 0


def to_noise(output: Tensor, noisy: Tensor, alpha_bar: Number, prediction_type: str) -> Tensor:
    """The noise (or image latent) that a network's output implies."""
    return PARAMETERISATIONS[prediction_type].noise(output, noisy, alpha_bar)


class Step(NamedTuple):
    """One step down the schedule: the timestep that the network is told, and the signal power before and after."""

    timestep: int
    alpha_bar: Tensor
    alpha_bar_next: Tensor


def steps(recipe: Recipe) -> Iterator[Step]:
    """The DDIM steps of a recipe, noisiest first (Song et al. 2021, eta = 0; spacings of Lin et al. 2024, table 2)."""
    bars = alpha_bars(recipe.beta_start, recipe.beta_end, recipe.zero_snr)
    stride = TRAIN_STEPS // recipe.steps
    for timestep in timesteps(recipe):
        below = timestep - stride
        last = bars.new_ones(()) if recipe.final_alpha_one else bars[0]
        yield Step(timestep, bars[timestep], bars[below] if below >= 0 else last)


def timesteps(recipe: Recipe) -> list[int]:
    """What the network is told, noisiest first: leading 901, 801 ... 1 or trailing 999, 899 ... 99 for ten steps."""
    count = recipe.steps
    if recipe.spacing == "trailing":
        return [min(round(TRAIN_STEPS - i * TRAIN_STEPS / count), TRAIN_STEPS) - 1 for i in range(count)]
    stride = TRAIN_STEPS // count
    return [min(i * stride + recipe.steps_offset, TRAIN_STEPS - 1) for i in reversed(range(count))]


# Paradigms: how they are run


def _one_step(
    net: Backbone, image: Tensor, noise: Tensor | None, context: Context, recipe: Recipe, tick: Tick
) -> Tensor:
    """GenPercept: the image latent in, the target's latent out, one pass (GenPercept, sec. 3.4)."""
    alpha_bar = alpha_bars(recipe.beta_start, recipe.beta_end, recipe.zero_snr)[recipe.timestep]
    output = call(net, image, recipe.timestep, context)
    tick()
    return to_sample(output, image, alpha_bar, recipe.prediction_type)


def deterministic(
    net: Backbone, image: Tensor, noise: Tensor | None, context: Context, recipe: Recipe, tick: Tick
) -> Tensor:
    """DMP: the target is blended with the image instead of noise, and walked back from the image (DMP, eq. 3-4)."""

    def output(latent: Tensor, timestep: int) -> Tensor:
        return call(net, latent, timestep, context)

    kept = image if recipe.keep_image and recipe.prediction_type != "epsilon" else None
    return ddim(output, image, recipe, tick, kept)


def stochastic(
    net: Backbone, image: Tensor, noise: Tensor | None, context: Context, recipe: Recipe, tick: Tick
) -> Tensor:
    """Marigold: from noise to the target, the image latent beside it at every step (Ke et al. 2024, sec. 3.2)."""
    if noise is None:
        raise UserError("The stochastic paradigm starts from noise; none was given.")

    def output(latent: Tensor, timestep: int) -> Tensor:
        return call(net, beside(image, latent, recipe), timestep, context)

    return SAMPLERS[recipe.sampler](output, noise, recipe, tick)


def beside(image: Tensor, target: Tensor, recipe: Recipe) -> Tensor:
    """Image latent and noisy target in one input."""
    return torch.cat([image, target] if recipe.order == "image-first" else [target, image], 1)


def ddim(
    output: Callable[[Tensor, int], Tensor], start: Tensor, recipe: Recipe, tick: Tick, kept: Tensor | None = None
) -> Tensor:
    """Walk `start` down the schedule; `kept`, if given, stands in the place of the estimated noise."""
    latent = sample = start
    for timestep, alpha_bar, alpha_bar_next in steps(recipe):
        prediction = output(latent, timestep)
        sample = to_sample(prediction, latent, alpha_bar, recipe.prediction_type)
        noise = kept if kept is not None else to_noise(prediction, latent, alpha_bar, recipe.prediction_type)
        latent = alpha_bar_next**0.5 * sample + (1 - alpha_bar_next) ** 0.5 * noise
        tick()
    return sample if recipe.final == "sample" else latent


def lcm(output: Callable[[Tensor, int], Tensor], start: Tensor, recipe: Recipe, tick: Tick) -> Tensor:
    """The steps of a latent consistency model (Luo et al. 2023, alg. 3); start (B, steps, C, h, w): the first noise,
    then what is added after each step but the last."""
    bars = alpha_bars(recipe.beta_start, recipe.beta_end, recipe.zero_snr)
    latent, *fresh = start.unbind(1)
    told = _consistency_timesteps(recipe)
    for index, timestep in enumerate(told):
        alpha_bar = bars[timestep]
        sample = to_sample(output(latent, timestep), latent, alpha_bar, recipe.prediction_type)
        # the boundary condition with sigma_data 0.5: at timestep 0 the input itself
        scaled = recipe.timestep_scaling * timestep
        skip, out = 0.25 / (scaled**2 + 0.25), scaled / (scaled**2 + 0.25) ** 0.5
        latent = out * sample + skip * latent
        if index < len(told) - 1:
            below = bars[told[index + 1]]
            latent = below**0.5 * latent + (1 - below) ** 0.5 * fresh[index]
        tick()
    return latent


def _consistency_timesteps(recipe: Recipe) -> list[int]:
    """Of the teacher's timesteps, noisiest first, as many as there are steps, evenly: 999, 759, 499, 259 for four."""
    if recipe.steps > recipe.original_steps:
        raise UserError(f"steps={recipe.steps} are more than the {recipe.original_steps} that its teacher takes.")
    stride = TRAIN_STEPS // recipe.original_steps
    grid = [stride * (index + 1) - 1 for index in reversed(range(recipe.original_steps))]
    return [grid[index * recipe.original_steps // recipe.steps] for index in range(recipe.steps)]


SAMPLERS: dict[str, Callable[[Callable[[Tensor, int], Tensor], Tensor, Recipe, Tick], Tensor]] = {
    "ddim": ddim,
    "lcm": lcm,
}
"""What a recipe's `sampler` may name."""


def call(net: Backbone, latent: Tensor, timestep: int, context: Context) -> Tensor:
    """One pass at one timestep for the whole batch. UserError if the network is made for another input."""
    if latent.shape[1] != net.in_channels:
        raise UserError(
            f"The network takes {net.in_channels} input channels and its paradigm gives it {latent.shape[1]}: "
            f"there are {_suited_networks()}."
        )
    return net(latent, latent.new_full((latent.shape[0],), timestep), context.expand(latent.shape[0]))


def _suited_networks() -> str:
    """Which paradigms are for which networks, in words."""
    named: dict[int, list[str]] = {}
    for name, row in PARADIGMS.items():
        named.setdefault(row.channels, []).append(name)
    return ", ".join(f"{' and '.join(names)} for networks with {channels}" for channels, names in named.items())


# Paradigms: how they are taught


class Question(NamedTuple):
    """What the network is shown in training, and the latent that its answer should make."""

    shown: Tensor
    """(B, 4 or 8, h, w)."""
    noisy: Tensor
    """(B, 4, h, w): what the answer is understood against."""
    alpha_bar: Tensor
    """(B, 1, 1, 1)."""
    target: Tensor | None
    """(B, 4, h, w): the output to train towards; None where the sample itself is compared."""


def _ask_one_step(image: Tensor, sample: Tensor, noise: Tensor | None, alpha_bar: Tensor, recipe: Recipe) -> Question:
    """GenPercept: the image latent alone. It stands where inference puts it, whatever timestep is told."""
    bar = alpha_bars(recipe.beta_start, recipe.beta_end, recipe.zero_snr)[recipe.timestep].to(image)
    return Question(image, image, bar.expand_as(alpha_bar), None)


def _ask_deterministic(
    image: Tensor, sample: Tensor, noise: Tensor | None, alpha_bar: Tensor, recipe: Recipe
) -> Question:
    """DMP: the target blended with the image latent (DMP, eq. 2)."""
    noisy = alpha_bar**0.5 * sample + (1 - alpha_bar) ** 0.5 * image
    target = PARAMETERISATIONS[recipe.prediction_type].target(sample, image, alpha_bar)
    return Question(noisy, noisy, alpha_bar, target)


def _ask_stochastic(image: Tensor, sample: Tensor, noise: Tensor | None, alpha_bar: Tensor, recipe: Recipe) -> Question:
    """Marigold: the target blended with noise, the image latent before it. E2E-FT: zeros in the noise's place, and
    nothing of the target, as it is run; understood at its first step, whatever timestep is told."""
    if recipe.noise == "zeros":
        nothing, bar = torch.zeros_like(sample), next(steps(recipe)).alpha_bar.to(image)
        return Question(beside(image, nothing, recipe), nothing, bar.expand_as(alpha_bar), None)
    assert noise is not None
    noisy = alpha_bar**0.5 * sample + (1 - alpha_bar) ** 0.5 * noise
    target = PARAMETERISATIONS[recipe.prediction_type].target(sample, noise, alpha_bar)
    return Question(beside(image, noisy, recipe), noisy, alpha_bar, target)


class Paradigm(NamedTuple):
    """A row: how a target is predicted from an image latent, and how a network learns to."""

    run: Callable[[Backbone, Tensor, Tensor | None, Context, Recipe, Tick], Tensor]
    """(network, image latents (B, 4, h, w), noise, context, recipe, tick) -> the target's latents; ticks every pass."""
    ask: Callable[[Tensor, Tensor, Tensor | None, Tensor, Recipe], Question]
    """(image latents, the target's, noise, alpha-bars (B, 1, 1, 1), recipe) -> what a network in training is asked."""
    channels: int = 4
    """Of the network's input: 4 is one latent, 8 has the image latent before another."""
    draws_noise: bool = False
    """It begins with noise, so that members of an ensemble differ."""
    one_pass: bool = False
    """The network sees the image latent alone, once, at the recipe's timestep: what heads read and tasks can share."""
    shows_target: bool = True
    """In training; epsilon cannot be learnt without it, as nothing of the target is left in what is shown."""


PARADIGMS: dict[str, Paradigm] = {
    "one-step": Paradigm(_one_step, _ask_one_step, one_pass=True, shows_target=False),
    "deterministic": Paradigm(deterministic, _ask_deterministic),
    "stochastic": Paradigm(stochastic, _ask_stochastic, channels=8, draws_noise=True),
}
"""What a recipe's `paradigm` may name."""


class Guided:
    """A backbone under classifier-free guidance: negative + scale (positive - negative), both in one batch.

    The order in the batch is [positive, negative], as DMP's published code has it.
    """

    def __init__(self, net: Backbone, negative: Context, scale: float) -> None:
        self.net, self.negative, self.scale = net, negative, scale
        self.in_channels = net.in_channels

    def __call__(self, latent: Tensor, timestep: Tensor, context: Context) -> Tensor:
        both = context.cat(self.negative.expand(latent.shape[0]))
        positive, negative = self.net(latent.repeat(2, 1, 1, 1), timestep.repeat(2), both).chunk(2)
        return negative + self.scale * (positive - negative)

    def features(self, latent: Tensor, timestep: Tensor, context: Context) -> Features:
        raise UserError("A head reads one pass of the network; guidance_scale must be 1 for it.")

    def modules(self) -> dict[str, torch.nn.Module]:
        return self.net.modules()
