"""What holds NaN or overflows is told by what it is, and never becomes a picture."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from diffusion_perception.core.backbone import Context
from diffusion_perception.core.checkpoints.adapter_file import read_adapter
from diffusion_perception.core.checkpoints.adapters import Adapter, Delta
from diffusion_perception.core.checkpoints.attachment import Adapted
from diffusion_perception.core.checkpoints.tensors import CheckpointError
from diffusion_perception.core.errors import UserError
from diffusion_perception.core.heads.table import untrained_head
from diffusion_perception.core.multitask import predict_latent_tasks, predict_tasks
from diffusion_perception.core.pipeline import Perceiver, predict, predict_latent
from diffusion_perception.core.pose import predict_people
from diffusion_perception.core.recipe import Recipe
from diffusion_perception.trainer.cli import main
from diffusion_perception.trainer.host import DiffusersAutoencoder, DiffusersBackbone, DiffusersHead

DEPTH = Recipe("depth", base="custom", resolution=48)
FACES = Recipe("keypoints", base="custom", resolution=64, head="vitpose_simple")
WEIGHTS = r"gives no numbers: its weights hold NaN; get the file again\.$"
VAE = r"gives no numbers: the weights of its VAE hold NaN, or overflow in half precision"


def spoiled(network: nn.Module, name: str, value: float = math.nan, count: int = 100) -> nn.Module:
    """A copy with some numbers of one weight that are none."""
    network = copy.deepcopy(network)
    with torch.no_grad():
        dict(network.named_parameters())[name].view(-1)[:count] = value
    return network


def bad_unet(value: float = math.nan, count: int = 100) -> DiffusersBackbone:
    return DiffusersBackbone(spoiled(tiny.unet(), "mid_block.resnets.0.conv1.weight", value, count))


def bad_vae(name: str) -> DiffusersAutoencoder:
    return DiffusersAutoencoder(spoiled(tiny.vae(), name))


def overflowing() -> DiffusersBackbone:
    """Weights that are numbers, and results that are too large for any."""
    network = copy.deepcopy(tiny.unet())
    with torch.no_grad():
        for layer in (network.conv_in, network.conv_norm_out, network.conv_out):
            layer.weight.fill_(1e38)
    return DiffusersBackbone(network)


def with_bad_adapter() -> Adapted:
    weight = torch.full((32, 4, 3, 3), torch.nan)
    return Adapted(DiffusersBackbone(tiny.unet()), Adapter(Path("x"), {"conv_in": Delta(weight)}))


def head(spoil: bool = False) -> DiffusersHead:
    torch.manual_seed(5)
    made = untrained_head("vitpose_simple", (32, 64, 64, 64), 32, FACES.channels)
    return DiffusersHead(spoiled(made, "final_layer.weight") if spoil else made)


KINDS: dict[str, tuple[Callable[[], dict], str]] = {
    "the UNet's weights": (lambda: {"backbone": bad_unet()}, WEIGHTS),
    "one of them": (lambda: {"backbone": bad_unet(count=1)}, WEIGHTS),
    "infinite ones": (lambda: {"backbone": bad_unet(math.inf)}, WEIGHTS),
    "the encoder": (lambda: {"autoencoder": bad_vae("encoder.conv_in.weight")}, VAE),
    "the decoder": (lambda: {"autoencoder": bad_vae("decoder.conv_out.weight")}, VAE),
    "the text context": (lambda: {"context": Context(tiny.context() * torch.nan)}, "its text context holds NaN"),
    "numbers too large": (lambda: {"backbone": overflowing()}, "overflow in the precision that it runs in"),
    "an adapter": (lambda: {"backbone": with_bad_adapter()}, "gives no numbers"),
}


@pytest.mark.parametrize(("parts", "reason"), KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("paradigm", ["one-step", "deterministic", "stochastic"])
def test_every_paradigm_tells_what_gives_no_numbers(parts, reason, paradigm):
    channels = 8 if paradigm == "stochastic" else 4
    made = parts()
    if channels == 8 and "backbone" in made:
        made = {"backbone": DiffusersBackbone(spoiled(tiny.unet(8), "mid_block.resnets.0.conv1.weight"))}
        reason = WEIGHTS
    recipe = replace(DEPTH, paradigm=paradigm, steps=1 if paradigm == "one-step" else 2)
    perceiver = replace(tiny.perceiver(recipe, channels), **made)
    with torch.inference_mode(), pytest.raises(UserError, match=f"^depth .*{reason}"):
        predict(perceiver, tiny.picture(40, 56))


TASKS = ["depth", "disparity", "normal", "mask", "matte", "segmentation", "albedo", "shading"]


@pytest.mark.parametrize("task", TASKS)
def test_every_task_does(task):
    perceiver = replace(tiny.perceiver(Recipe(task, base="custom", resolution=48)), backbone=bad_unet())
    with torch.inference_mode(), pytest.raises(UserError, match=WEIGHTS):
        predict(perceiver, tiny.picture(40, 56))


def ways() -> dict[str, Callable[[Perceiver], object]]:
    other = tiny.perceiver(replace(DEPTH, name="other"))
    latent, image = torch.randn(1, 4, 6, 6), tiny.picture(40, 56)
    return {
        "a latent": lambda bad: predict_latent(bad, latent),
        "several tasks": lambda bad: predict_tasks([bad, replace(bad, recipe=other.recipe)], image),
        "several tasks of a latent": lambda bad: predict_latent_tasks([bad, replace(bad, recipe=other.recipe)], latent),
        "a batch": lambda bad: predict(bad, image.expand(3, -1, -1, -1), batch_size=2),
        "an ensemble": lambda bad: predict(replace(bad, recipe=replace(bad.recipe, ensemble_size=3)), image),
    }


@pytest.mark.parametrize("way", ways().values(), ids=ways())
def test_every_way_in_does(way):
    with torch.inference_mode(), pytest.raises(UserError, match=WEIGHTS):
        way(replace(tiny.perceiver(DEPTH), backbone=bad_unet()))


@pytest.mark.parametrize("call", [predict_latent, lambda p, latent: predict_latent_tasks([p], latent)])
def test_a_latent_that_holds_none_is_not_blamed_on_the_model(call):
    with torch.inference_mode(), pytest.raises(UserError, match="^The latent holds NaN"):
        call(tiny.perceiver(DEPTH), torch.full((1, 4, 6, 6), torch.inf))


PEOPLE = {
    "the head": (lambda: {"head": head(spoil=True)}, "the weights of its head hold NaN"),
    "the UNet": (lambda: {"head": head(), "backbone": bad_unet()}, WEIGHTS),
    "the encoder": (lambda: {"head": head(), "autoencoder": bad_vae("encoder.conv_in.weight")}, VAE),
}


@pytest.mark.parametrize(("parts", "reason"), PEOPLE.values(), ids=PEOPLE)
def test_poses_do(parts, reason):
    perceiver = replace(tiny.perceiver(FACES), **parts())
    with torch.inference_mode(), pytest.raises(UserError, match=reason):
        predict_people(perceiver, tiny.picture(40, 56))


def test_half_precision_that_overflows_is_told():
    network = copy.deepcopy(tiny.unet()).to(torch.bfloat16)
    with torch.no_grad():
        for layer in (network.conv_in, network.conv_norm_out, network.conv_out):
            layer.weight.fill_(1e38)
    perceiver = replace(tiny.perceiver(DEPTH), backbone=DiffusersBackbone(network))
    with torch.inference_mode(), pytest.raises(UserError, match=r"overflow in the precision .* take a wider one"):
        predict(perceiver, tiny.picture(40, 56))


def test_a_sound_model_is_not_told():
    with torch.inference_mode():
        assert predict(tiny.perceiver(DEPTH), tiny.picture(40, 56)).values.isfinite().all()


# On disk


def spoil_file(path: Path, name: str, value: float = math.nan) -> None:
    with safe_open(path, "pt") as held:
        metadata = held.metadata()
    tensors: dict[str, Tensor] = load_file(path)
    tensors[name].view(-1)[:1] = value
    save_file(tensors, path, metadata)


@pytest.mark.parametrize(
    "name", ["unet.mid_block.resnets.0.conv1.weight", "vae.decoder.conv_out.bias", "context.depth"]
)
def test_the_command_ends_with_2_and_writes_nothing(tmp_path, capsys, name):
    model = tiny.write_own(tmp_path / "x.safetensors", [DEPTH])
    spoil_file(model, name)
    image, out = tiny.save_picture(tmp_path / "a.png", 40, 56), tmp_path / "out"
    assert main(["predict", "--model", str(model), "--out", str(out), str(image)]) == 2
    told = capsys.readouterr().err.strip().splitlines()[-1]
    named = "x.safetensors" if name.startswith("context") else "depth"
    assert told.startswith(f"diffusion-perception: {named} gives no numbers")
    assert not list(out.glob("*"))


LAYER = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("spoil", ["lora_A", "lora_B"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_an_adapter_that_holds_none_is_refused_when_it_is_read(tmp_path, spoil, value, dtype):
    tensors = {f"unet.{LAYER}.{name}.weight": torch.ones(4, 4, dtype=dtype) for name in ("lora_A", "lora_B")}
    tensors[f"unet.{LAYER}.{spoil}.weight"][1, 2] = value
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match=rf"^x.safetensors gives no numbers: .*{LAYER} .*get the file again\.$"):
        read_adapter(tmp_path / "x.safetensors")


def test_an_alpha_that_is_no_number_is_refused_too(tmp_path):
    tensors = {f"unet.{LAYER}.{name}.weight": torch.ones(4, 4) for name in ("lora_down", "lora_up")}
    save_file({**tensors, f"unet.{LAYER}.alpha": torch.tensor(np.nan)}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="gives no numbers"):
        read_adapter(tmp_path / "x.safetensors")


def exported(capsys, *words: object) -> str:
    """What a command says that must fail, and write nothing."""
    out = Path(str(words[-1]))
    assert main([str(word) for word in words]) == 2
    assert not out.exists()
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert "Traceback" not in told
    return told


@pytest.mark.parametrize("name", ["unet.mid_block.resnets.0.conv1.weight", "vae.decoder.conv_out.bias"])
@pytest.mark.parametrize(("value", "reason"), [(math.nan, "gives no numbers"), (1e30, "too large for")])
def test_export_stores_nothing_that_is_no_number(tmp_path, capsys, name, value, reason):
    model = tiny.write_own(tmp_path / "x.safetensors", [DEPTH])
    spoil_file(model, name, value)
    told = exported(capsys, "export", "--model", model, "--out", tmp_path / "new.safetensors")
    assert reason in told


@pytest.mark.parametrize("spoil", ["tuned", "base"])
@pytest.mark.parametrize("name", ["mid_block.resnets.0.conv1.weight", "conv_in.weight", "conv_out.bias"])
def test_extract_stores_nothing_that_is_no_number(tmp_path, capsys, spoil, name):
    places = {"tuned": tiny.write_own(tmp_path / "tuned.safetensors", [DEPTH])}
    places["base"] = tiny.write_own(tmp_path / "base.safetensors", [DEPTH])
    spoil_file(places[spoil], f"unet.{name}")
    words = ("extract", "--model", places["tuned"], "--base", places["base"], "--rank", 2)
    told = exported(capsys, *words, "--out", tmp_path / "new.safetensors")
    assert f"{name} gives no numbers" in told


def test_a_text_context_that_holds_none_is_refused_when_it_is_read(tmp_path, capsys):
    model = tiny.write_own(tmp_path / "x.safetensors", [DEPTH])
    np.save(tmp_path / "bad.npy", np.full((1, 2, tiny.WIDTH), np.nan, np.float32))
    image = tiny.save_picture(tmp_path / "a.png", 40, 56)
    words = ["predict", "--model", model, "--context", tmp_path / "bad.npy", image, "--out", tmp_path / "out"]
    assert "bad.npy gives no numbers: its text context holds NaN" in exported(capsys, *words)
