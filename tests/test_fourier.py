"""DepthMaster's Fourier block: its formula by NumPy, its place in a diffusers UNet, and its authors' own answers."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from torch import Tensor

from diffusion_perception.core.backbone import Context
from diffusion_perception.core.checkpoints.architecture import UNetArchitecture
from diffusion_perception.core.checkpoints.checkpoint import Checkpoint, open_checkpoint
from diffusion_perception.core.checkpoints.context import read_context
from diffusion_perception.core.checkpoints.networks import as_unet, find_vae
from diffusion_perception.core.checkpoints.tensors import CheckpointError, find_files, network, pick_unet, read_object
from diffusion_perception.core.errors import UserError
from diffusion_perception.core.fourier import FourierBlock
from diffusion_perception.core.pipeline import predict
from diffusion_perception.core.recipe import Recipe
from diffusion_perception.trainer.host import DiffusersBackbone, load_perceiver, load_unet

WIDTH = 64
"""Of the deepest level of tiny.unet()."""


def random_block(width: int, seed: int = 0) -> FourierBlock:
    """Its norm random too, so that none can be lost."""
    torch.manual_seed(seed)
    block = FourierBlock(width).eval().requires_grad_(False)
    block.norm.weight.normal_(1, 0.3)
    block.norm.bias.normal_(0, 0.3)
    return block


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def convolved(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """(C, h, w) -> (D, h, w), zeros around it."""
    reach = weight.shape[-1] // 2
    padded = np.pad(x, ((0, 0), (reach, reach), (reach, reach)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, weight.shape[-2:], (1, 2))
    return np.einsum("chwij,dcij->dhw", windows, weight) + bias[:, None, None]


def by_formula(weights: dict[str, np.ndarray], h: np.ndarray) -> np.ndarray:
    """The block in double precision; amplitude and phase from whole spectra, of which the first half is convolved."""

    def conv(name: str, x: np.ndarray) -> np.ndarray:
        return convolved(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    height, width = h.shape[1:]
    groups = h.reshape(8, -1)
    normal = (groups - groups.mean(1, keepdims=True)) / np.sqrt(groups.var(1, keepdims=True) + 1e-5)
    x = normal.reshape(h.shape) * weights["norm.weight"][:, None, None] + weights["norm.bias"][:, None, None]
    f = silu(conv("conv_f1", x))
    spectrum = np.fft.fft2(f, norm="ortho")
    # real bins are those that a real map makes their own mirror image
    mirrored = np.roll(spectrum[:, ::-1, ::-1], (1, 1), (1, 2))
    spectrum = (spectrum + mirrored.conj()) / 2
    rows, columns = real_bins(height, width)
    spectrum.imag[:, rows, columns] = 0.0
    half = spectrum[:, :, : width // 2 + 1]
    made = silu(conv("conv_f2", np.abs(half))) * np.exp(1j * silu(conv("conv_f4", np.angle(half))))
    y = conv("conv_f3", np.fft.irfft2(made, s=(height, width), norm="ortho") + f)
    s = conv("conv_s2", silu(conv("conv_s1", x))) + x
    return conv("fuse", np.concatenate([s, y]))


def real_bins(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies that equal their own negatives."""
    rows, columns = (np.array([k for k in range(n) if (2 * k) % n == 0]) for n in (height, width))
    return tuple(np.ix_(rows, columns))  # pyright: ignore[reportReturnType]


@pytest.mark.parametrize("size", [(7, 5), (5, 8), (12, 3), (6, 6), (1, 9), (3, 1)])
def test_the_block_is_the_papers_formula(size):
    block = random_block(16)
    h = torch.randn(2, 16, *size, generator=torch.Generator().manual_seed(sum(size)))
    weights = {name: tensor.double().numpy() for name, tensor in block.state_dict().items()}
    expected = np.stack([by_formula(weights, item) for item in h.double().numpy()])
    assert np.abs(block(h).numpy() - expected).max() <= 1e-5


def test_half_precision_takes_sizes_whose_transform_it_lacks():
    block, h = random_block(16), torch.randn(1, 16, 7, 5, generator=torch.Generator().manual_seed(0))
    seen = deepcopy(block).bfloat16()(h.bfloat16())
    assert seen.dtype == torch.bfloat16
    assert seen.isfinite().all()


def tensors() -> dict[str, Tensor]:
    block = {f"fftblock.{name}": tensor for name, tensor in random_block(WIDTH, 5).state_dict().items()}
    return {**tiny.unet().state_dict(), **block}


def architecture() -> UNetArchitecture:
    return UNetArchitecture.from_weights(tiny.shapes(tensors())).with_config(tiny.unet().config)


def own_file(path) -> Checkpoint:
    tiny.write_own(path, [Recipe("disparity", base="custom", tokens=2)], unet=(architecture(), tensors()))
    return open_checkpoint(path)


def inputs() -> tuple[Tensor, Tensor, Context]:
    latent = torch.randn(2, 4, 13, 21, generator=torch.Generator().manual_seed(1))
    return latent, torch.tensor([1.0, 501.0]), Context(tiny.context().expand(2, -1, -1))


def hooked(latent: Tensor, timestep: Tensor, context: Context) -> Tensor:
    """diffusers' own UNet, what its up blocks begin with replaced by hand."""
    unet, block = deepcopy(tiny.unet()), random_block(WIDTH, 5)

    def before(module, arguments, named):
        return arguments, {**named, "hidden_states": block(named["hidden_states"])}

    unet.up_blocks[0].register_forward_pre_hook(before, with_kwargs=True)
    return unet(latent, timestep, context.tokens, return_dict=False)[0]


def test_a_file_with_the_block_runs_with_it_between_mid_and_up_blocks(tmp_path):
    checkpoint = own_file(tmp_path / "own.safetensors")
    assert checkpoint.architecture.fourier
    assert checkpoint.architecture == architecture()
    unet = load_unet(checkpoint.unet, checkpoint.architecture)
    backbone = DiffusersBackbone(unet)
    expected = hooked(*inputs())
    assert torch.allclose(backbone(*inputs()), expected, atol=1e-6)
    assert not torch.allclose(DiffusersBackbone(tiny.unet())(*inputs()), expected, atol=1e-3)
    assert {f"fftblock.{name}" for name in ("norm", "conv_f3", "fuse")} <= backbone.modules().keys()
    copied = deepcopy(unet)
    copied.fftblock.fuse.weight.zero_()
    assert not torch.equal(DiffusersBackbone(copied)(*inputs()), expected)
    assert torch.allclose(backbone(*inputs()), expected, atol=1e-6)


def test_gradients_reach_all_of_the_block(tmp_path):
    checkpoint = own_file(tmp_path / "own.safetensors")
    unet = load_unet(checkpoint.unet, checkpoint.architecture).requires_grad_(True)
    latent, timestep, context = inputs()
    unet(latent, timestep, context.tokens, return_dict=False)[0].square().mean().backward()
    gradients = {name: weight.grad for name, weight in unet.named_parameters() if name.startswith("fftblock.")}
    assert len(gradients) == 16
    assert all(grad is not None and grad.isfinite().all() and grad.any() for grad in gradients.values())


def test_a_file_that_lost_its_block_or_a_part_of_it_is_refused(tmp_path):
    plain = UNetArchitecture.from_weights(tiny.shapes(tiny.unet().state_dict()))
    with pytest.raises(UserError, match=r"says that it has a Fourier block, but no fftblock\.\*"):
        plain.with_config(architecture().config())
    whole = own_file(tmp_path / "own.safetensors")
    torn = replace(whole.unet, names={k: v for k, v in whole.unet.names.items() if "fftblock.fuse" not in v})
    with pytest.raises(CheckpointError, match=r"2 weights are missing or misshapen, 0 are unknown \(fftblock\.fuse"):
        load_unet(torn, whole.architecture)


def golden_checkpoint(folder) -> Checkpoint:
    unet, shape = as_unet(
        network(find_files(folder / "unet"), pick_unet), read_object(folder / "unet" / "config.json"), folder
    )
    recipe = Recipe("disparity", timestep=1, prediction_type="sample", tokens=2, resize="genpercept")
    context = Context(read_context(folder / "empty_text_embed.safetensors"))
    return Checkpoint(folder, unet, shape, *find_vae((folder,)), context, recipe=recipe)


def test_the_authors_own_answers_come_out(golden):
    folder = golden / "depthmaster"
    perceiver, expected, worst = load_perceiver(golden_checkpoint(folder)), np.load(folder / "expected.npz"), {}
    for case in json.loads((folder / "cases.json").read_text())["cases"]:
        pixels = np.array(Image.open(folder / f"{case['image']}.png").convert("RGB"))
        image = torch.from_numpy(pixels).movedim(-1, 0)[None] / 255
        recipe = replace(perceiver.recipe, resolution=case["processing_res"])
        with torch.inference_mode():
            seen = predict(replace(perceiver, recipe=recipe), image).values.squeeze().numpy()
        worst[case["name"]] = float(np.abs(seen - expected[case["name"]]).max())
    assert set(worst) == set(expected.files)
    assert max(worst.values()) <= 1e-4, worst
