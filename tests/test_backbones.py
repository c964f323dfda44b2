"""The papers' other networks: what the benchmarks make of them is what their own libraries say, and they learn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import backbones
import pytest
import runs
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import DPTForDepthEstimation, DPTImageProcessor

from diffusion_perception.core.recipe import Recipe
from diffusion_perception.trainer.base import open_vae
from diffusion_perception.trainer.config import Config, build
from diffusion_perception.trainer.data.batches import Batches
from diffusion_perception.trainer.data.feeds import open_feeds
from diffusion_perception.trainer.host import load_vae

SCENES = Path(__file__).absolute().parent / "data/scenes/train"


def config(place: Path, **settings: Any) -> Config:
    """A run on rendered rooms, with a small VAE."""
    base = {"widths": [32, 32, 32, 32], "layers": 1, "head_dim": 32, "context_dim": 32, "vae": str(place / "vae")}
    common = {
        "out": str(place / "run"), "tasks": ["depth"], "size": [64, 64], "steps": 2, "batch_size": 2, "precision": "no",
        "device": "cpu", "base": base, "network": {"tokens": 2}, "data": [{"root": str(SCENES)}], "validate_every": 0,
    }  # fmt: skip
    return build(Config, {**common, **settings}, "")


HEADED = {"objective": {"loss": "pixel", "pixel_losses": {"depth": ["mse"]}}}
SETTINGS: dict[str, dict[str, Any]] = {
    "pixart": {"objective": {"timesteps": "fixed"}, "recipe": {"timestep": 999}},
    "dinov2-dpt": {**HEADED, "network": {"head": "dpt_head_identity", "head_width": 32}},
    "dinov2-upernet": {
        "tasks": ["segmentation"],
        "objective": {"loss": "pixel"},
        "network": {"head": "upernet", "head_width": 32},
    },
}


@pytest.fixture
def place(tmp_path) -> Path:
    torch.manual_seed(0)
    runs.write_vae(tmp_path / "vae")
    return tmp_path


@pytest.fixture
def image() -> Tensor:
    """No square, of whole patches, and of whole levels, as GenPercept's rule of sizes has them."""
    return torch.randint(256, (2, 3, 48, 64), generator=torch.Generator().manual_seed(1)) / 255


def stirred(network: nn.Module) -> nn.Module:
    """With every weight away from the zeros that some begin with."""
    draw = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for weight in network.parameters():
            weight += 0.05 * torch.randn(weight.shape, generator=draw)
    return network.eval()


@torch.no_grad()
def test_pixart_predicts_by_one_step_what_diffusers_own_transformer_says(place, image):
    recipe = Recipe("depth", timestep=999, tokens=2, resolution=0)
    made = backbones.NETWORKS["pixart"](config(place), recipe)
    transformer: Any = stirred(made.kept).transformer
    found = made.values(image)
    vae = load_vae(*open_vae(place / "vae"))
    latent = vae.encode(image * 2 - 1).latent_dist.mean * vae.config.scaling_factor
    nothing = torch.zeros(2, 2, 32)
    output = transformer(latent, encoder_hidden_states=nothing, timestep=torch.tensor([999, 999])).sample
    v, _ = output.chunk(2, 1)
    # beta is 1, so that alpha is 0 and the target -v
    picture = vae.decode(-v / vae.config.scaling_factor).sample
    expected = (picture.mean(1, keepdim=True).clamp(-1, 1) + 1) / 2
    assert expected.std() > 1e-3
    assert (found - expected).abs().max() < 1e-5


def test_pixart_takes_latents_of_odd_sizes(place):
    network = stirred(backbones.pixart_of(config(place)))
    answer = network(torch.randn(1, 4, 7, 5), torch.tensor([999]), torch.zeros(1, 2, 32))[0]
    assert answer.shape == (1, 4, 7, 5)


def processed(image: Tensor) -> Tensor:
    """As transformers' processor brings colours in [0, 1] to DINOv2."""
    processor = DPTImageProcessor(
        do_resize=False, do_rescale=False, image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225]
    )
    return processor(list(image), return_tensors="pt", input_data_format="channels_first")["pixel_values"]


@torch.no_grad()
def test_dinov2_under_dpt_says_what_transformers_says_before_its_last_relu(place, image):
    settings = config(place, **SETTINGS["dinov2-dpt"])
    made = backbones.NETWORKS["dinov2-dpt"](
        settings, Recipe("depth", head="dpt_head_identity", codec="min-max", resolution=0)
    )
    whole = DPTForDepthEstimation(stirred(made.kept).config).eval()
    whole.load_state_dict(made.kept.state_dict())
    shown: list[Tensor] = []
    whole.head.head[-1].register_forward_pre_hook(lambda layer, inputs: shown.append(inputs[0]))
    said = whole(processed(image)).predicted_depth
    assert torch.equal(shown[0].relu()[:, 0], said)
    expected = F.interpolate(shown[0], image.shape[-2:], mode="bilinear")
    assert expected.std() > 1e-3
    assert (made.learner.picture(image * 2 - 1) - (2 * expected - 1)).abs().max() < 1e-5
    low, high = (expected.amin((1, 2, 3), keepdim=True), expected.amax((1, 2, 3), keepdim=True))
    assert (made.values(image) - (expected - low) / (high - low)).abs().max() < 1e-4


@torch.no_grad()
def test_dinov2_under_upernet_names_the_classes_that_transformers_names(place, image):
    settings = config(place, **SETTINGS["dinov2-upernet"])
    recipe = Recipe("segmentation", head="upernet", codec="class-scores", palette="furniture", resolution=0)
    made = backbones.NETWORKS["dinov2-upernet"](settings, recipe)
    logits = stirred(made.kept)(pixel_values=processed(image)).logits
    assert (made.learner.picture(image * 2 - 1) - logits).abs().max() < 1e-5
    first, second = logits.topk(2, 1).values.unbind(1)
    sure = first - second > 1e-4
    assert sure.float().mean() > 0.95
    assert torch.equal(made.values(image)[:, 0][sure], logits.argmax(1).float()[sure])


@pytest.mark.parametrize("name", SETTINGS)
def test_the_error_falls(place, name):
    settings = config(place, **SETTINGS[name], size=[32, 32])
    feeds, _ = open_feeds(settings, "custom")
    torch.manual_seed(0)
    learner: Any = backbones.NETWORKS[name](settings, feeds[0].recipe).learner.train()
    batch = Batches(feeds, 2, 1, 0)[0]
    counted = learner.weights(batch)
    optimiser = torch.optim.AdamW(learner.learning().values(), 1e-3)
    losses = []
    for _ in range(40):
        loss = (learner(batch) * counted.factor / counted.weight.clamp(min=1)).sum()
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0], losses


def test_what_was_learnt_by_the_trainers_loop_is_opened_again(place, image):
    settings = config(place, **SETTINGS["dinov2-dpt"], optimiser={"lr": 1e-3})
    backbones.learn(settings, "dinov2-dpt")
    made = backbones.opened(settings, "dinov2-dpt")
    assert made.values(image).shape == (2, 1, 48, 64)
    kept = load_file(place / "run/last.safetensors")
    assert all(torch.equal(kept[name], weight) for name, weight in made.kept.state_dict().items())


def test_a_frozen_dinov2_keeps_its_weights(place):
    settings = config(place, **{**SETTINGS["dinov2-upernet"], "network": {"head": "upernet", "unet": "frozen"}})
    made = backbones.NETWORKS["dinov2-upernet"](settings, Recipe("segmentation", palette="furniture"))
    learner: Any = made.learner
    assert learner.learning()
    assert not [name for name in learner.learning() if "backbone" in name]
