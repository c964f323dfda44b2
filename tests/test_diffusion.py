"""Schedules and steps are those of diffusers' DDIM, and the paradigms those of the papers."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from diffusers import DDIMScheduler
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from diffusion_perception.core.backbone import Context
from diffusion_perception.core.diffusion import (
    PARADIGMS,
    PARAMETERISATIONS,
    TRAIN_STEPS,
    Guided,
    alpha_bars,
    call,
    steps,
    timesteps,
    to_noise,
    to_sample,
)
from diffusion_perception.core.recipe import Recipe

BETAS = [(0.0002125, 0.003), (0.00085, 0.012), (0.0034, 0.048), (0.136, 0.192)]
TYPES = tuple(PARAMETERISATIONS)


def scheduler(recipe: Recipe) -> DDIMScheduler:
    """diffusers' scheduler for a recipe."""
    return DDIMScheduler(
        beta_start=recipe.beta_start,
        beta_end=recipe.beta_end,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=recipe.final_alpha_one,
        steps_offset=recipe.steps_offset,
        prediction_type=recipe.prediction_type,
        timestep_spacing=recipe.spacing,
        rescale_betas_zero_snr=recipe.zero_snr,
    )


def latent(seed: int = 0, batch: int = 2, channels: int = 4) -> Tensor:
    return torch.randn(batch, channels, 5, 6, generator=torch.Generator().manual_seed(seed))


class Linear:
    """A backbone whose output can be written down: a mix of its input's channels, the timestep and the context."""

    def __init__(self, in_channels: int = 4) -> None:
        self.in_channels = in_channels
        self.calls: list[tuple[Tensor, Tensor, Context]] = []
        self.mix = torch.randn(4, in_channels, generator=torch.Generator().manual_seed(9)) / in_channels

    def __call__(self, latent: Tensor, timestep: Tensor, context: Context) -> Tensor:
        self.calls.append((latent, timestep, context))
        told = timestep.view(-1, 1, 1, 1) / 1000 + context.tokens.mean((1, 2)).view(-1, 1, 1, 1)
        return torch.einsum("oc,bchw->bohw", self.mix, latent) + told

    def features(self, latent: Tensor, timestep: Tensor, context: Context) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        raise NotImplementedError

    def modules(self) -> dict[str, torch.nn.Module]:
        return {}


CONTEXT = Context(torch.full((1, 2, 3), 0.1))


def run(recipe: Recipe, image: Tensor, noise: Tensor | None = None, net: Linear | None = None) -> Tensor:
    net = net or Linear(8 if recipe.paradigm == "stochastic" else 4)
    return PARADIGMS[recipe.paradigm].run(net, image, noise, CONTEXT, recipe, lambda: None)


# Schedules


# in single precision diffusers has lost the signal of the strongest schedule halfway, and divides by it to rescale
@pytest.mark.parametrize(("betas", "zero_snr"), [*((b, False) for b in BETAS), *((b, True) for b in BETAS[:3])])
def test_signal_powers_are_those_of_diffusers_to_the_last_bit(betas, zero_snr):
    recipe = Recipe("depth", beta_start=betas[0], beta_end=betas[1], zero_snr=zero_snr)
    assert torch.equal(alpha_bars(*betas, zero_snr), scheduler(recipe).alphas_cumprod)


def test_signal_powers_are_those_that_the_authors_code_printed():
    published = {(0.00085, 0.012): (0.9983, 0.893, 0.275, 0.0140, 0.00466), (0.136, 0.192): (0.7465, 2e-7, 6e-36, 0, 0)}
    for betas, expected in published.items():
        seen = alpha_bars(*betas)[[1, 101, 501, 901, 999]].tolist()
        assert all(math.isclose(a, b, rel_tol=0.2, abs_tol=1e-40) or abs(a - b) < 5e-4 for a, b in zip(seen, expected))


def test_betas_of_one_leave_no_signal_and_no_nan():
    for zero_snr in (False, True):
        assert torch.equal(alpha_bars(1.0, 1.0, zero_snr), torch.zeros(TRAIN_STEPS))
    assert torch.isfinite(alpha_bars(0.136, 0.192, zero_snr=True)).all()


def test_a_schedule_first_used_without_gradients_can_be_trained_with():
    with torch.inference_mode():
        bars = alpha_bars(0.00011, 0.0123)
    sample = latent().requires_grad_()
    to_sample(sample, latent(1), bars[3], "v_prediction").sum().backward()
    assert sample.grad is not None


def test_zero_snr_ends_in_exactly_no_signal():
    assert alpha_bars(0.00085, 0.012, zero_snr=True)[-1] == 0


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 10, 20, 50, 200])
def test_timesteps_are_those_of_diffusers(spacing, count):
    recipe = Recipe("depth", paradigm="stochastic", steps=count, spacing=spacing)
    theirs = scheduler(recipe)
    theirs.set_timesteps(count)
    assert timesteps(recipe) == theirs.timesteps.tolist()[:count]


def test_timesteps_are_those_of_the_papers():
    def told(spacing, count):
        return timesteps(Recipe("depth", paradigm="stochastic", steps=count, spacing=spacing))

    assert told("leading", 1) == [1]
    assert told("leading", 4) == [751, 501, 251, 1]
    assert told("leading", 5) == [801, 601, 401, 201, 1]
    assert told("leading", 10) == list(range(901, 0, -100))
    assert told("trailing", 1) == [999]
    assert told("trailing", 4) == [999, 749, 499, 249]


@given(count=st.integers(1, 1000), spacing=st.sampled_from(["leading", "trailing"]), offset=st.integers(0, 5))
def test_timesteps_always_lie_in_the_schedule_and_fall(count, spacing, offset):
    told = timesteps(Recipe("depth", paradigm="stochastic", steps=count, spacing=spacing, steps_offset=offset))
    assert len(told) == count
    assert all(0 <= step < TRAIN_STEPS for step in told)
    assert told == sorted(told, reverse=True)


EVERY_STEP = [
    combination
    for combination in itertools.product(TYPES, ("leading", "trailing"), (False, True), (False, True), (1, 4, 10))
    if combination[:3] != ("epsilon", "trailing", True)  # noise alone says nothing of a sample that left no trace
]


@pytest.mark.parametrize(("prediction_type", "spacing", "zero_snr", "final_alpha_one", "count"), EVERY_STEP)
def test_every_step_is_that_of_diffusers_to_the_last_bit(prediction_type, spacing, zero_snr, final_alpha_one, count):
    recipe = Recipe(
        "depth", paradigm="stochastic", steps=count, beta_start=0.00085, beta_end=0.012, zero_snr=zero_snr,
        spacing=spacing, final_alpha_one=final_alpha_one, prediction_type=prediction_type,
    )  # fmt: skip
    theirs = scheduler(recipe)
    theirs.set_timesteps(count)
    for step in steps(recipe):
        noisy, output = latent(step.timestep), latent(step.timestep + 1)
        expected = theirs.step(output, step.timestep, noisy)
        sample = to_sample(output, noisy, step.alpha_bar, prediction_type)
        noise = to_noise(output, noisy, step.alpha_bar, prediction_type)
        after = step.alpha_bar_next
        assert torch.equal(sample, expected.pred_original_sample)
        assert torch.equal(after**0.5 * sample + (1 - after) ** 0.5 * noise, expected.prev_sample)


# Parameterisations


@given(a=st.floats(0.05, 0.95), seed=st.integers(0, 10**6), kind=st.sampled_from(TYPES))
def test_the_target_of_training_leads_back_to_sample_and_noise(a, seed, kind):
    sample, noise = latent(seed), latent(seed + 1)
    noisy = a**0.5 * sample + (1 - a) ** 0.5 * noise
    output = PARAMETERISATIONS[kind].target(sample, noise, a)
    assert_close(to_sample(output, noisy, a, kind), sample, atol=1e-4, rtol=1e-4)
    assert_close(to_noise(output, noisy, a, kind), noise, atol=1e-4, rtol=1e-4)


def test_a_signal_power_for_every_sample_is_taken_too():
    a = torch.tensor([0.2, 0.8]).view(2, 1, 1, 1)
    sample, noise = latent(0), latent(1)
    noisy = a**0.5 * sample + (1 - a) ** 0.5 * noise
    for kind, row in PARAMETERISATIONS.items():
        assert_close(to_sample(row.target(sample, noise, a), noisy, a, kind), sample, atol=1e-5, rtol=1e-4)


def test_without_any_signal_the_sample_is_exactly_minus_the_velocity():
    velocity, noisy = latent(0), latent(1)
    assert torch.equal(to_sample(velocity, noisy, 0.0, "v_prediction"), -velocity)
    assert torch.equal(to_noise(velocity, noisy, 0.0, "v_prediction"), noisy)


def test_noise_predicted_where_no_signal_is_left_is_refused():
    with pytest.raises(ValueError, match="prediction_type=epsilon needs a schedule that leaves some signal"):
        run(Recipe("depth", prediction_type="epsilon"), latent())


# Paradigms


def test_one_step_is_minus_what_the_network_says():
    image, net = latent(), Linear()
    out = run(Recipe("depth", timestep=500), image, net=net)
    ((seen, told, context),) = net.calls
    assert seen is image
    assert told.tolist() == [500, 500]
    assert context.tokens.shape == (2, 2, 3)
    assert torch.equal(out, -Linear()(image, told, context))


@pytest.mark.parametrize("count", [2, 5, 10])
def test_at_beta_one_the_last_of_many_steps_is_the_one_step(count):
    """Nothing moves where no signal is left: each step looks at the image itself (GenPercept, eq. 6 with abar = 0)."""
    image = latent()
    many = run(Recipe("depth", paradigm="deterministic", steps=count), image)
    assert torch.equal(many, run(Recipe("depth"), image))


@pytest.mark.parametrize("final", ["sample", "previous"])
@pytest.mark.parametrize("kind", TYPES)
def test_deterministic_steps_are_ddim_from_the_image(kind, final):
    image = latent()
    recipe = Recipe(
        "depth",
        paradigm="deterministic",
        steps=5,
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type=kind,
        final=final,
    )
    theirs, x, net = scheduler(recipe), image, Linear()
    theirs.set_timesteps(5)
    sample = x
    for t in theirs.timesteps:
        x, sample = theirs.step(net(x, t.expand(2), CONTEXT), int(t), x, return_dict=False)
    expected = x if final == "previous" else sample
    assert_close(run(recipe, image), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["v_prediction", "sample"])
def test_keeping_the_image_is_equation_4_of_dmp(kind):
    """y_(t-1) = sqrt(abar_(t-1)) y + sqrt(1 - abar_(t-1)) x, with the true image latent x at every step."""
    x, net = latent(), Linear()
    bars = alpha_bars(0.00085, 0.012)
    y_t = x
    for t in (801, 601, 401, 201, 1):
        a = bars[t].item()
        output = net(y_t, torch.full((2,), t), CONTEXT)
        y = a**0.5 * y_t - (1 - a) ** 0.5 * output if kind == "v_prediction" else output
        after = bars[max(t - 200, 0)].item()
        y_t = after**0.5 * y + (1 - after) ** 0.5 * x
    recipe = Recipe(
        "depth", paradigm="deterministic", steps=5, beta_start=0.00085, beta_end=0.012, prediction_type=kind,
        keep_image=True, final="previous",
    )  # fmt: skip
    assert_close(run(recipe, x), y_t, atol=1e-5, rtol=1e-5)


def test_keeping_the_image_changes_nothing_for_a_network_that_predicts_it():
    recipe = Recipe(
        "depth", paradigm="deterministic", steps=4, beta_start=0.00085, beta_end=0.012, prediction_type="epsilon"
    )
    assert torch.equal(run(recipe.override(["keep_image=true"]), latent()), run(recipe, latent()))


def test_stochastic_puts_the_image_first_and_the_target_second():
    image, noise, net = latent(0), latent(1), Linear(8)
    run(Recipe("depth", paradigm="stochastic", beta_start=0.00085, beta_end=0.012), image, noise, net)
    ((seen, _, _),) = net.calls
    assert torch.equal(seen, torch.cat([image, noise], 1))


def test_stochastic_without_noise_is_refused():
    with pytest.raises(ValueError, match="starts from noise; none was given"):
        run(Recipe("depth", paradigm="stochastic"), latent())


@pytest.mark.parametrize(("paradigm", "channels"), [("one-step", 8), ("deterministic", 9), ("stochastic", 4)])
def test_a_network_made_for_another_paradigm_is_refused(paradigm, channels):
    with pytest.raises(
        ValueError, match=f"takes {channels} input channels .* one-step and deterministic .* stochastic"
    ):
        run(Recipe("depth", paradigm=paradigm), latent(), latent(1), Linear(channels))


@pytest.mark.parametrize("paradigm", PARADIGMS)
def test_every_pass_of_the_network_ticks_once(paradigm):
    ticks = []
    net = Linear(8 if paradigm == "stochastic" else 4)
    recipe = Recipe("depth", paradigm=paradigm, steps=1 if paradigm == "one-step" else 6)
    PARADIGMS[paradigm].run(net, latent(), latent(1), CONTEXT, recipe, lambda: ticks.append(1))
    assert len(ticks) == len(net.calls) == recipe.steps


# Guidance


def test_guidance_moves_from_the_negative_context_towards_the_positive():
    net, latents, told = Linear(), latent(), torch.tensor([5, 5])
    positive, negative = Context(torch.full((1, 2, 3), 0.1)), Context(torch.full((1, 2, 3), -0.7))
    guided = call(Guided(net, negative, 2.5), latents, 5, positive)
    ((seen, _, context),) = net.calls
    assert torch.equal(seen, torch.cat([latents, latents]))
    assert torch.equal(context.tokens[:2], positive.tokens.expand(2, -1, -1))
    assert torch.equal(context.tokens[2:], negative.tokens.expand(2, -1, -1))
    with_, without = (Linear()(latents, told, part.expand(2)) for part in (positive, negative))
    assert_close(guided, without + 2.5 * (with_ - without))


def test_guidance_between_contexts_of_different_lengths_is_refused():
    guided = Guided(Linear(), Context(torch.zeros(1, 77, 3)), 2.0)
    with pytest.raises(ValueError, match="2 tokens of width 3, the negative context 77 of width 3"):
        call(guided, latent(), 1, CONTEXT)


def test_a_head_is_not_guided():
    with pytest.raises(ValueError, match="guidance_scale must be 1"):
        Guided(Linear(), CONTEXT, 2.0).features(latent(), torch.ones(2), CONTEXT)
