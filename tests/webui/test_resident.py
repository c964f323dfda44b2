"""Tests of webui/resident.py on networks of AUTOMATIC1111's WebUI: the loaded model perceives and stays as it is."""

from __future__ import annotations

import copy
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch
from tiny_adapters import KINDS, low_rank
from torch import nn

from diffusion_perception.core.backbone import Context
from diffusion_perception.core.checkpoints.adapter_file import write_adapter
from diffusion_perception.core.checkpoints.adapters import Adapter
from diffusion_perception.core.checkpoints.attachment import Adapted
from diffusion_perception.core.checkpoints.tensors import CheckpointError
from diffusion_perception.core.checkpoints.tiny_vae_file import Held
from diffusion_perception.core.pipeline import Perceiver, predict, predict_latent
from diffusion_perception.core.recipe import Recipe
from diffusion_perception.trainer.host import DiffusersAutoencoder, DiffusersBackbone

RECIPE = Recipe("depth", base="custom", resolution=64)
PROMPT = tiny.context(7, 77)


class Wrapper(nn.Module):
    """What the host calls its UNet through."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.diffusion_model = network
        self.called = 0

    def forward(self, x, t, c_crossattn):
        self.called += 1
        return self.diffusion_model(x, t, context=torch.cat(c_crossattn, 1))


class Posterior:
    def __init__(self, mean: torch.Tensor) -> None:
        self.mean = mean

    def mode(self) -> torch.Tensor:
        return self.mean


def adapter_for(network, tmp_path, name: str = "adapter") -> Adapter:
    """A file of low-rank parts beside every Linear, and what it holds."""
    layers = DiffusersBackbone(network).modules()
    parts = {name: low_rank(layer) for name, layer in layers.items() if KINDS["every Linear"](name, layer)}
    adapter = Adapter(tmp_path / "perception" / f"{name}.safetensors", parts, base="custom", recipes=(RECIPE,))
    write_adapter(adapter.path, adapter)
    return adapter


@pytest.fixture
def model(ldm, monkeypatch):
    """A model that the host has loaded: of SD 1's kind, its VAE in half precision."""
    from modules import devices, shared

    monkeypatch.setattr(devices, "dtype_unet", torch.float32)
    unet, autoencoder = tiny.unet(generation=1), tiny.vae()
    network = ldm.load_backbone(Held.of(unet.state_dict()), tiny.unet_architecture(unet)).network
    vae = ldm.load_autoencoder(Held.of(autoencoder.state_dict()), tiny.vae_architecture(autoencoder)).network.half()
    mean = vae.encode
    vae.encode = lambda image: Posterior(mean(image))
    prompts = []
    made = SimpleNamespace(
        model=Wrapper(network),
        first_stage_model=vae,
        scale_factor=0.18215,
        lowvram=False,
        prompts=prompts,
        get_learned_conditioning=lambda texts: prompts.append((texts, dict(shared.opts.data))) or PROMPT.clone(),
    )
    monkeypatch.setattr(shared, "sd_model", made)
    return made


def states(model) -> dict[str, torch.Tensor]:
    """All weights as they are now."""
    networks = {"unet": model.model.diffusion_model, "vae": model.first_stage_model}
    return {
        f"{part}.{name}": t.clone() for part, network in networks.items() for name, t in network.state_dict().items()
    }


def is_as(model, before: dict[str, torch.Tensor]) -> bool:
    now = states(model)
    same = all(now[name].dtype == before[name].dtype and torch.equal(now[name], before[name]) for name in before)
    hooks = [layer for layer in model.model.modules() if layer._forward_hooks or layer._forward_pre_hooks]
    replaced = [layer for layer in model.model.modules() if {"forward", "_forward"} & {*vars(layer)}]
    return same and now.keys() == before.keys() and not hooks and not replaced


def expected_of(adapter: Adapter) -> Perceiver:
    """By diffusers, with what half precision leaves of the VAE."""
    vae = copy.deepcopy(tiny.vae()).half().float()
    net = Adapted(DiffusersBackbone(tiny.unet(generation=1)), adapter)
    return Perceiver(RECIPE, net, Context(PROMPT), DiffusersAutoencoder(vae))


def the_choice(ldm, name: str = "adapter"):
    from diffusion_perception.webui.models import choices

    (choice,) = [one for one in choices(ldm.LIBRARY) if one.name == name]
    return choice


def test_the_loaded_model_perceives_and_is_the_same_afterwards(ldm, model, tmp_path):
    from diffusion_perception.webui.work import perceive, perceive_latent

    adapter = adapter_for(tiny.unet(generation=1), tmp_path)
    before = states(model)
    picture = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)
    choice = the_choice(ldm)
    assert choice.adapter
    map = ldm.in_turn(lambda: perceive(ldm.MODELS.perceiver(choice), picture))
    latent = torch.randn(1, 4, 5, 7, generator=torch.Generator().manual_seed(0))
    of_latent = ldm.in_turn(lambda: perceive_latent(ldm.MODELS.perceiver(choice), latent.half()))
    with torch.no_grad():
        image = torch.from_numpy(picture).float().movedim(-1, 0)[None] / 255
        assert (map.values - predict(expected_of(adapter), image).values).abs().max() < 5e-4
        of_it = predict_latent(expected_of(adapter), latent.half().float())
        assert (of_latent.values - of_it.values).abs().max() < 1e-4
    assert model.model.called == 2
    assert is_as(model, before)
    assert not any(parameter.is_inference() for parameter in model.model.parameters())


def test_it_is_the_same_where_the_work_failed(ldm, model, tmp_path):
    from diffusion_perception.webui.work import perceive

    adapter_for(tiny.unet(generation=1), tmp_path)
    before = states(model)
    perceiver, picture = ldm.MODELS.perceiver(the_choice(ldm)), np.zeros((64, 64, 3), np.uint8)

    def fails(*given):
        raise ZeroDivisionError

    for layer in (model.model.diffusion_model.out[2], model.first_stage_model.decoder.conv_out):
        hook = layer.register_forward_hook(fails)
        with pytest.raises(ZeroDivisionError):
            ldm.in_turn(lambda: perceive(perceiver, picture))
        hook.remove()
        assert is_as(model, before)


def test_what_an_extension_put_into_its_way_is_left_out_and_left_there(ldm, model, tmp_path):
    from diffusion_perception.webui.work import perceive

    adapter_for(tiny.unet(generation=1), tmp_path)

    def controlled(*given, **named):
        raise AssertionError("a ControlNet was asked")

    network = model.model.diffusion_model
    network.forward = controlled
    ldm.in_turn(lambda: perceive(ldm.MODELS.perceiver(the_choice(ldm)), np.zeros((64, 64, 3), np.uint8)))
    assert vars(network)["forward"] is controlled


def test_tokens_that_the_host_merges_are_not_merged_in_a_map(ldm, model, tmp_path):
    """As tomesd does: each block becomes one of a class that derives from its own, for as long as it is switched on."""
    from diffusion_perception.webui.work import perceive_latent

    adapter_for(tiny.unet(generation=1), tmp_path)
    latent = torch.randn(1, 4, 5, 7, generator=torch.Generator().manual_seed(0))

    def answer():
        return ldm.in_turn(lambda: perceive_latent(ldm.MODELS.perceiver(the_choice(ldm)), latent)).values

    expected = answer()

    def merged(block, x, context=None):
        raise AssertionError("tokens were merged")

    blocks = [block for block in model.model.modules() if isinstance(block, ldm.BasicTransformerBlock)]
    for block in blocks:
        block.__class__ = type("ToMeBlock", (type(block),), {"_forward": merged})
    assert torch.equal(answer(), expected)
    assert {type(block).__name__ for block in blocks} == {"ToMeBlock"}
    assert not [block for block in blocks if "_forward" in vars(block)]


@pytest.mark.parametrize("chosen", [None, 2])
def test_a_prompt_is_read_from_the_last_layer_whichever_is_chosen(ldm, model, tmp_path, chosen):
    from modules import shared

    shared.opts.data = {} if chosen is None else {ldm.CLIP_SKIP: chosen}
    before = dict(shared.opts.data)
    adapter_for(tiny.unet(generation=1), tmp_path)
    perceiver = ldm.MODELS.perceiver(the_choice(ldm))
    assert torch.equal(perceiver.context.tokens, PROMPT)
    assert model.prompts == [([""], {ldm.CLIP_SKIP: 1})]
    assert shared.opts.data == before


def test_a_weight_is_told_as_it_was_before_the_users_loras(ldm, model):
    backbone = ldm.resident().backbone
    name = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
    layer = backbone.modules()[name]
    before = layer.weight.detach().clone()
    assert torch.equal(backbone.weight(f"{name}.weight"), before)
    layer.network_weights_backup = before
    with torch.no_grad():
        layer.weight.add_(1)
    assert torch.equal(backbone.weight(f"{name}.weight"), before)
    with pytest.raises(KeyError):
        backbone.weight("nowhere.weight")


def test_a_model_in_eight_bits_perceives_and_what_it_is_cannot_be_told(ldm, model, tmp_path, monkeypatch, caplog):
    """As the WebUI keeps one: Linear and convolutions in 8 bits, which its autocast widens for each call."""
    from modules import devices

    from diffusion_perception.webui.work import perceive

    adapter = replace(adapter_for(tiny.unet(generation=1), tmp_path), fingerprint={"conv_in.weight": [0.0] * 40})
    write_adapter(adapter.path, adapter)
    monkeypatch.setattr(devices, "dtype_unet", torch.bfloat16)
    for layer in model.model.diffusion_model.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            layer.to(torch.float8_e4m3fn)
    before = states(model)
    picture = np.zeros((64, 64, 3), np.uint8)
    map = ldm.in_turn(lambda: perceive(ldm.MODELS.perceiver(the_choice(ldm)), picture))
    assert map.values.isfinite().all()
    assert is_as(model, before)
    assert "whether it is this one cannot be told, for the weights are kept in 8 bits" in caplog.text


def sdxl(model) -> None:
    for name, layer in model.model.diffusion_model.named_modules():
        if name.endswith(("attn2.to_k", "attn2.to_v")):
            layer.in_features = 2048


def inpainting(model) -> None:
    model.model.diffusion_model.input_blocks[0][0].in_channels = 9


def transformer(model) -> None:
    model.model.diffusion_model = nn.Linear(1, 1)


def tensorrt(model) -> None:
    from modules import sd_unet

    sd_unet.current_unet = object()


def nothing(model) -> None:
    from modules import shared

    shared.sd_model = None


REFUSED = {
    sdxl: r"the loaded model is SDXL \(2048-wide text\): load the model that it was made for",
    inpainting: r"The loaded model is an inpainting model \(9 input channels\): load an ordinary checkpoint\.",
    transformer: r"The loaded model is SimpleNamespace, not a Stable Diffusion UNet: load an SD 1\.x",
    tensorrt: r"Another engine \(SD Unet in the WebUI's settings, such as TensorRT\).*: choose None there\.",
    nothing: r"The WebUI has loaded no model for the adapter to run on: choose an SD 1\.x or 2\.x checkpoint",
}


@pytest.mark.parametrize("kind", REFUSED, ids=lambda kind: kind.__name__)
def test_a_model_that_cannot_perceive_is_told_in_a_sentence(ldm, model, tmp_path, kind):
    adapter_for(tiny.unet(generation=1), tmp_path)
    kind(model)
    with pytest.raises(CheckpointError, match=REFUSED[kind]) as told:
        ldm.MODELS.perceiver(the_choice(ldm))
    assert "\n" not in str(told.value)


def test_preprocessors_leave_adapters_to_others_where_a_generation_may_be_running(ldm, model, tmp_path):
    import scripts.supported_preprocessor  # noqa: F401 - as the host has executed it

    from diffusion_perception.webui.extras import offered
    from diffusion_perception.webui.preprocessors import offer, registry

    adapter_for(tiny.unet(generation=1), tmp_path)
    offer()
    assert not [name for name in registry().held[0] if name.endswith(" adapter")]
    assert "depth: adapter" in offered()


def test_a_lora_that_does_not_say_what_it_perceives_is_not_offered(ldm, tmp_path, caplog):
    from safetensors.torch import save_file

    from diffusion_perception.webui.models import choices

    layer = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
    tensors = {f"{layer}.lora_down.weight": torch.zeros(2, 64), f"{layer}.lora_up.weight": torch.zeros(64, 2)}
    save_file(tensors, tmp_path / "perception" / "pictures.safetensors")
    assert not [choice for choice in choices(ldm.LIBRARY) if choice.file == "pictures.safetensors"]
    (said,) = [record.getMessage() for record in caplog.records if "pictures" in record.getMessage()]
    assert said.startswith("pictures.safetensors is not offered: pictures.safetensors does not say how it was trained")
