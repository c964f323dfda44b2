"""Tests of webui/ldm.py: the networks of AUTOMATIC1111's WebUI answer as diffusers' do, whatever else it runs.

The networks are the real ones, out of a package that holds them; the WebUI around them is a stand-in.
"""

from __future__ import annotations

import copy
import sys

import numpy as np
import pytest
import tiny
import torch
from tiny_adapters import kinds_of_adapters
from torch import nn

from diffusion_perception.core.backbone import Context
from diffusion_perception.core.checkpoints.attachment import Adapted
from diffusion_perception.core.checkpoints.checkpoint import open_checkpoint
from diffusion_perception.core.display.picture import ready
from diffusion_perception.core.errors import UserError
from diffusion_perception.core.pipeline import predict
from diffusion_perception.core.recipe import Recipe
from diffusion_perception.trainer.host import DiffusersAutoencoder, DiffusersBackbone, open_perceiver


def parts(tmp_path, generation: int = 2, **network):
    """A checkpoint of tiny networks on disk."""
    unet = tiny.unet(generation=generation, **network)
    path = tmp_path / f"{generation}.safetensors"
    held = (tiny.unet_architecture(unet), unet.state_dict())
    return open_checkpoint(tiny.write_own(path, [Recipe("depth", base="custom")], unet=held))


def asked(channels: int = 4, height: int = 5, width: int = 7):
    """Two latents of a size that halves unevenly, at two timesteps, under one context."""
    latent = torch.randn(2, channels, height, width, generator=torch.Generator().manual_seed(3))
    return latent, torch.tensor([801.0, 3.0]), Context(tiny.context()).expand(2)


@pytest.fixture
def hostile(ldm, monkeypatch):
    """What a running WebUI puts into its networks' classes: an engine, hypernetworks, half precision for times."""
    from ldm.modules import attention
    from ldm.modules.diffusionmodules import openaimodel

    def not_ours(*given, **named):
        raise AssertionError("the user's own computation was asked")

    monkeypatch.setattr(openaimodel.UNetModel, "forward", not_ours)
    monkeypatch.setattr(openaimodel, "timestep_embedding", not_ours)
    monkeypatch.setattr(attention.CrossAttention, "forward", not_ours)
    return ldm


@pytest.mark.parametrize("generation", [1, 2])
@pytest.mark.parametrize("channels", [4, 8])
def test_a_network_answers_as_diffusers_does_at_any_size(hostile, tmp_path, generation, channels):
    unet = tiny.unet(channels, generation=generation)
    held = (tiny.unet_architecture(unet), unet.state_dict())
    path = tiny.write_own(tmp_path / "own.safetensors", [Recipe("depth", base="custom")], unet=held)
    found = open_checkpoint(path)
    backbone = hostile.LdmHost().backbone(found.unet, found.architecture)
    assert backbone.in_channels == channels
    given = asked(channels)
    with torch.no_grad():
        answer, expected = backbone(*given), DiffusersBackbone(unet)(*given)
        features = zip(backbone.features(*given), DiffusersBackbone(unet).features(*given))
    assert answer.dtype == torch.float32
    assert (answer - expected).abs().max() < 1e-5
    for feature, same in features:
        assert feature.shape == same.shape
        assert (feature - same).abs().max() < 1e-4


def test_layers_go_by_their_diffusers_names_and_adapters_run_beside_them(hostile, tmp_path):
    found = parts(tmp_path)
    backbone = hostile.LdmHost().backbone(found.unet, found.architecture)
    assert backbone.modules().keys() == DiffusersBackbone(tiny.unet()).modules().keys()
    adapter = kinds_of_adapters(tiny.unet())["everything at once"]
    with torch.no_grad():
        given = asked(8)
        expected = Adapted(DiffusersBackbone(tiny.unet()), adapter)(*given)
        assert (Adapted(backbone, adapter)(*given) - expected).abs().max() < 1e-4


def test_a_vae_answers_as_diffusers_does(ldm, tmp_path):
    found = parts(tmp_path)
    vae, same = ldm.LdmHost().autoencoder(found.vae, found.vae_architecture), DiffusersAutoencoder(tiny.vae())
    image = tiny.picture(40, 56) * 2 - 1
    with torch.no_grad():
        latent = vae.encode(image)
        assert torch.equal(latent, vae.encode(image))
        assert (latent - same.encode(image)).abs().max() < 1e-4
        assert (vae.decode(latent * 9) - same.decode(latent * 9)).abs().max() < 1e-4
        assert vae.decode(latent * 9).abs().max() > 1  # nothing is clamped


def test_networks_of_one_file_are_loaded_once(ldm, tmp_path):
    found, host = parts(tmp_path), ldm.LdmHost()
    assert host.backbone(found.unet, found.architecture) is host.backbone(found.unet, found.architecture)


@pytest.mark.parametrize("task", ["depth", "normal", "matte"])
def test_a_file_of_the_user_answers_as_predict_does(hostile, tmp_path, task):
    from diffusion_perception.webui.models import choices
    from diffusion_perception.webui.work import controlnet_picture, perceive

    picture = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)
    own = open_perceiver(tmp_path / "perception" / "own.safetensors", task=task, device="cpu")
    image = torch.from_numpy(picture).float().movedim(-1, 0)[None] / 255
    with torch.inference_mode():
        expected = predict(own, image)
    (choice,) = [one for one in choices(hostile.LIBRARY) if one.task == task and not one.is_demo]
    map = hostile.in_turn(lambda: perceive(hostile.MODELS.perceiver(choice), picture))
    assert (map.values - expected.values).abs().max() < 1e-4
    assert np.abs(controlnet_picture(map) - ready(expected)[0][0].numpy() * 255).max() <= 0.51


def test_a_vae_in_half_precision_computes_in_single_and_is_the_same_afterwards(ldm):
    network = copy.deepcopy(tiny.vae()).half()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}

    def unchanged() -> bool:
        now = network.state_dict()
        return all(now[name].dtype == torch.float16 and torch.equal(now[name], before[name]) for name in before)

    with ldm.in_single_precision(network):
        assert {tensor.dtype for tensor in network.parameters()} == {torch.float32}
    assert unchanged()
    with pytest.raises(ZeroDivisionError), ldm.in_single_precision(network):
        raise ZeroDivisionError
    assert unchanged()
    assert not any(parameter.is_inference() for parameter in network.parameters())


class Moved(nn.Module):
    """Where it was sent."""

    def __init__(self) -> None:
        super().__init__()
        self.places: list[object] = []

    def to(self, place):
        self.places.append(place)
        return self


def test_networks_leave_the_card_when_the_work_is_done_or_failed(ldm, monkeypatch):
    from modules import devices, shared

    monkeypatch.setattr(devices, "device", "card")
    monkeypatch.setattr(devices, "cpu", "home")
    one, other = Moved(), Moved()

    def work(fails: bool = False) -> None:
        for network in (one, one, other):
            assert ldm.loaded(network) == "card"
        if fails:
            raise ZeroDivisionError

    ldm.in_turn(work)
    assert one.places == other.places == ["card", "home"]
    with pytest.raises(ZeroDivisionError):
        ldm.in_turn(lambda: work(fails=True))
    assert one.places == other.places == ["card", "home"] * 2
    # where memory is saved there is room for one
    monkeypatch.setattr(shared.cmd_opts, "medvram", True)
    ldm.in_turn(lambda: (work(), ldm.loaded(one)))
    assert one.places[4:] == ["card", "home"] * 2
    assert other.places[4:] == ["card", "home"]


def test_a_full_card_is_told_in_a_sentence(ldm):
    def full() -> None:
        raise torch.cuda.OutOfMemoryError

    with pytest.raises(UserError, match="There is not enough memory on the card: choose a smaller picture"):
        ldm.in_turn(full)


def test_what_a_network_computes_in(ldm, monkeypatch):
    from modules import devices

    kinds = [tiny.unet_architecture(tiny.unet(generation=generation)) for generation in (1, 2)]
    assert [ldm.compute_dtype(kind) for kind in kinds] == [torch.float32] * 2  # a CPU is slower in half
    monkeypatch.setattr(devices, "device", torch.device("cuda"))
    assert [ldm.compute_dtype(kind) for kind in kinds] == [torch.float16, torch.float32]
    monkeypatch.setattr(devices, "dtype_unet", torch.float32)
    assert [ldm.compute_dtype(kind) for kind in kinds] == [torch.float32] * 2


@pytest.fixture
def controlnet(ldm):
    """What sd-webui-controlnet lists."""
    import scripts.supported_preprocessor  # noqa: F401 - as the host has executed it

    from diffusion_perception.webui.preprocessors import offer

    offer()
    return sys.modules["scripts.supported_preprocessor"].Preprocessor


def test_controlnet_lists_each_recipe_of_each_file_once_however_often_it_is_offered(controlnet):
    from diffusion_perception.webui.preprocessors import offer

    names = list(controlnet.all_processors)
    assert {"depth_perception own", "normal_perception own", "matte_perception own"} < {*names}
    assert controlnet.all_processors["normal_perception own"].tags == ["NormalMap"]
    offer()
    assert list(controlnet.all_processors) == list(controlnet.all_processors_by_name) == names


def test_an_answer_of_another_file_is_another(controlnet, tmp_path):
    one = controlnet.all_processors["depth_perception own"]
    before = hash(one)
    assert hash(one) == before
    assert one == controlnet.all_processors_by_name["depth_perception own"]
    tiny.write_own(tmp_path / "perception" / "own.safetensors", [Recipe("depth", base="custom")])
    assert hash(one) != before
    (tmp_path / "perception" / "own.safetensors").unlink()
    assert isinstance(hash(one), int)


def test_a_preprocessor_answers_as_in_forge(controlnet, tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)
    perceiver = open_perceiver(tmp_path / "perception" / "own.safetensors", task="depth", device="cpu")
    image = torch.from_numpy(picture).float().movedim(-1, 0)[None] / 255
    with torch.inference_mode():
        expected = ready(predict(perceiver, image))[0][0].numpy() * 255
    given = controlnet.all_processors["depth_perception own"](picture, resolution=512, slider_1=-1, low_vram=False)
    assert np.abs(given - expected).max() <= 0.51


def test_without_controlnet_nothing_is_offered(ldm):
    from diffusion_perception.webui.preprocessors import offer, registry

    assert registry() is None
    offer()
