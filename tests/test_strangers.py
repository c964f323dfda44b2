"""Published models that this version does not run are refused by what they are, and their brothers are not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import tiny
import torch
from safetensors.torch import save_file
from torch import Tensor

from diffusion_perception.core.checkpoints.adapter_file import read_adapter
from diffusion_perception.core.checkpoints.checkpoint import open_checkpoint
from diffusion_perception.core.checkpoints.library import Library
from diffusion_perception.core.checkpoints.networks import open_networks
from diffusion_perception.core.checkpoints.strangers import STRANGERS
from diffusion_perception.core.checkpoints.tensors import CheckpointError
from diffusion_perception.trainer.cli import main

Tensors = dict[str, Tensor]


def unet(channels: int = 4, **more: tuple[int, ...]) -> Tensors:
    return {**tiny.unet(channels).state_dict(), **held(more)}


def held(shapes: dict[str, tuple[int, ...]]) -> Tensors:
    return {name: torch.zeros(shape) for name, shape in shapes.items()}


def names(*listed: str) -> Tensors:
    return held(dict.fromkeys(listed, (2, 2)))


def wide(channels: int, out: int) -> Tensors:
    """A UNet with other ends."""
    return unet(channels, **{"conv_out.weight": (out, 32, 3, 3)})


def ldm(channels: int, *more: str) -> Tensors:
    return {**tiny.ldm(tiny.unet(channels)), **names(*more)}


class Told(NamedTuple):
    """A published model: its tensors, what lies around them, and words of its refusal."""

    word: str
    tensors: Tensors
    index: dict[str, Any] | None = None
    config: dict[str, Any] | None = None
    beside: str = ""
    place: str = "hub"
    folder: str = "unet"


LABELS = {"class_embedding.linear_1.weight": (128, 4)}
ATTENTION = "down_blocks.0.attentions.0.transformer_blocks.0"
PERCEIVING = {
    "SDMatte": Told(
        "is SDMatte,", unet(8, **{"aux_conv_in.weight": (64, 4, 3, 3), "bbox_embedding.linear_1.weight": (8, 8)})
    ),
    "LiteSDMatte": Told("is SDMatte,", unet(8, **{"point_embedding.linear_1.weight": (8, 8)})),
    "DiffDIS": Told(
        "is DiffDIS,", unet(8, **LABELS, **{"rgb_proj.0.weight": (8, 8, 3, 3), "rgb_conv.0.0.weight": (8, 4, 3, 3)})
    ),
    "DiffDIS by its config": Told("is DiffDIS,", unet(8, **LABELS), config={"mid_extra_cross": True, "use_swci": True}),
    "LBM": Told("latent bridge matching", names("denoiser.conv_in.weight", "vae.vae_model.encoder.conv_in.weight")),
    "IDArb": Told("is IDArb,", unet(8, **{f"{ATTENTION}.attn_mv.to_q.weight": (32, 32)})),
    "IDArb by its config": Told("is IDArb,", unet(8), config={"_class_name": "UNetDR2DConditionModel"}),
    "GeoWizard v1": Told("is GeoWizard,", unet(8, **{"class_embedding.linear_1.weight": (128, 10)})),
    "GeoWizard v2": Told("is GeoWizard,", unet(8, **LABELS), folder="unet_v2"),
    "GeoWizard by its index": Told(
        "is GeoWizard,", unet(8, **LABELS), {"_class_name": "DepthNormalEstimationPipeline"}
    ),
    "YOSO": Told("YOSO", unet(), {"_class_name": "YOSONormalsPipeline"}, beside="controlnet"),
    "StableNormal": Told("StableNormal", unet(), {"_class_name": "StableNormalPipeline", "controlnet": ["a", "b"]}),
    "StableDelight": Told("StableDelight", unet(), {"_class_name": "YosoDelightPipeline"}, beside="controlnet"),
    "Jasmine": Told("is Jasmine,", unet(8), {"_class_name": "MarigoldPipeline"}, beside="gru"),
    "Jasmine in one file": Told("is Jasmine,", unet(8, **{"gru.convz1.weight": (64, 128, 1, 5)})),
    "RollingDepth": Told("is RollingDepth,", unet(8), {"_class_name": "RollingDepthPipeline"}),
    "See-through": Told("is See-through's", unet(8), {"_class_name": "MarigoldDepthPipeline", "vae": ["a", "b"]}),
    "DepthFM": Told("is DepthFM,", {**ldm(8), "noising_step": torch.zeros(1)}),
    "Kocsis": Told("is Kocsis'", wide(11, 8)),
    "DepthLab": Told("is DepthLab,", wide(12, 4)),
    "IntrinsicAnything": Told("is IntrinsicAnything,", ldm(8, "cond_stage_model.model.visual.conv1.weight")),
}
MAKING = {
    "ControlNet": Told("is a ControlNet,", unet(4, **{"controlnet_cond_embedding.conv_in.weight": (16, 3, 3, 3)})),
    "ControlNet by LDM's names": Told(
        "is a ControlNet,", names("control_model.input_blocks.0.0.weight", "control_model.zero_convs.0.0.weight")
    ),
    "ControlNet of FLUX": Told(
        "is a ControlNet,", names("controlnet_blocks.0.weight", "transformer_blocks.0.attn.to_q.weight")
    ),
    "T2I adapter": Told("is a T2I adapter,", names("conv_in.weight", "body.0.block1.weight", "body.0.block2.weight")),
    "T2I adapter of diffusers": Told(
        "is a T2I adapter,", names("adapter.conv_in.weight", "adapter.body.0.resnets.0.block1.weight")
    ),
    "IP-Adapter": Told("is an IP-Adapter,", names("image_proj.proj.weight", "ip_adapter.1.to_k_ip.weight")),
    "motion module": Told(
        "is a motion module", names("down_blocks.0.motion_modules.0.temporal_transformer.norm.weight")
    ),
    "SVD": Told(
        "is a Stable Video Diffusion",
        unet(8, **{"down_blocks.0.attentions.0.temporal_transformer_blocks.0.norm_in.weight": (8,)}),
    ),
    "FLUX": Told(
        "is a FLUX",
        names(
            "model.diffusion_model.double_blocks.0.img_attn.qkv.weight",
            "model.diffusion_model.single_blocks.0.linear1.weight",
        ),
    ),
    "FLUX of diffusers": Told(
        "is a FLUX", names("single_transformer_blocks.0.attn.to_q.weight", "transformer_blocks.0.attn.to_q.weight")
    ),
    "SD3": Told("is a Stable Diffusion 3", names("model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight")),
    "SD3 of diffusers": Told(
        "is a Stable Diffusion 3",
        names("transformer_blocks.0.norm1_context.linear.weight", "transformer_blocks.0.attn.to_q.weight"),
    ),
    "Qwen-Image": Told(
        "Qwen-Image", names("transformer_blocks.0.img_mod.1.weight", "transformer_blocks.0.attn.to_q.weight")
    ),
    "Wan": Told("is a Wan,", names("blocks.0.self_attn.q.weight", "patch_embedding.weight")),
    "SDXL": Told("SDXL", unet(4, **{"add_embedding.linear_1.weight": (8, 8)})),
    "upscaler": Told("is an upscaler,", names("model.0.weight", "model.1.sub.0.RDB1.conv1.0.weight")),
    "TAESD": Told("is TAESD", names("0.weight", "1.conv.0.weight", "1.conv.2.weight")),
    "TAESD of diffusers": Told("is TAESD", names("encoder.layers.0.weight", "encoder.layers.1.conv.0.weight")),
    "VAE": Told("is a VAE alone", tiny.vae().state_dict()),
    "VAE by LDM's names": Told("is a VAE alone", tiny.ldm_vae(tiny.vae())),
    "embedding": Told("is a textual inversion,", held({"emb_params": (2, 768)})),
    "embedding of diffusers": Told("is a textual inversion,", held({"<cat>": (768,)})),
    "embedding of SDXL": Told("is a textual inversion,", held({"clip_l": (1, 768), "clip_g": (1, 1280)})),
    "CLIP": Told("is a text encoder,", names("text_model.encoder.layers.0.mlp.fc1.weight")),
    "OpenCLIP": Told("is a text encoder,", names("transformer.resblocks.0.attn.in_proj_weight", "ln_final.weight")),
    "T5": Told("is a text encoder,", names("encoder.block.0.layer.0.SelfAttention.q.weight")),
    "LoRA": Told("is an adapter,", names("lora_unet_mid_block_attentions_0_proj_in.lora_down.weight")),
    "LoRA of FLUX": Told("is an adapter for Flux,", names("lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight")),
    "InstructPix2Pix": Told("is InstructPix2Pix,", unet(8), {"_class_name": "StableDiffusionInstructPix2PixPipeline"}),
    "SD of diffusers": Told("is plain Stable Diffusion", unet(), {"_class_name": "StableDiffusionPipeline"}),
    "SD in one file": Told(
        "is plain Stable Diffusion", ldm(4, "cond_stage_model.transformer.text_model.final_layer_norm.weight")
    ),
    "InstructPix2Pix in one file": Told(
        "is InstructPix2Pix,", ldm(8, "cond_stage_model.transformer.text_model.final_layer_norm.weight")
    ),
    "depth to image": Told("after depth", unet(5)),
    "x4 upscaler": Told("to upscale", unet(7)),
    "inpainting": Told("to inpaint", unet(9), {"_class_name": "StableDiffusionInpaintPipeline"}),
}
TOLD = {**PERCEIVING, **MAKING}
PLAIN = ("plain Stable", "InstructPix2Pix", "after depth", "to upscale", "to inpaint")


def lay(root: Path, told: Told, name: str = tiny.WEIGHTS) -> Path:
    """As its publisher does, in a folder."""
    unet_folder = root / told.place / told.folder
    unet_folder.mkdir(parents=True)
    tensors = {key: tensor.contiguous() for key, tensor in told.tensors.items()}
    torch.save(tensors, unet_folder / name) if name.endswith(".bin") else save_file(tensors, unet_folder / name)
    if told.index:
        tiny.write_json(root / told.place / "model_index.json", told.index)
    if told.config:
        tiny.write_json(unet_folder / "config.json", told.config)
    if told.beside:
        (root / told.place / told.beside).mkdir()
    return root / told.place


def refusal(call: Callable[..., Any], *arguments: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        call(*arguments)
    said = str(caught.value)
    assert said.endswith(".")
    assert "\n" not in said
    assert ": " in said  # after which it says what to do
    return said


@pytest.mark.parametrize("told", TOLD.values(), ids=TOLD)
def test_a_folder_is_refused_by_what_it_is(tmp_path, told):
    assert told.word in refusal(open_checkpoint, lay(tmp_path, told))


IN_ONE_FILE = {name: told for name, told in TOLD.items() if not (told.index or told.config or told.folder != "unet")}


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
@pytest.mark.parametrize("told", IN_ONE_FILE.values(), ids=IN_ONE_FILE)
def test_a_file_is_refused_by_what_it_is(tmp_path, told, suffix):
    path = tmp_path / f"model{suffix}"
    tensors = {key: tensor.contiguous() for key, tensor in told.tensors.items()}
    torch.save(tensors, path) if suffix == ".bin" else save_file(tensors, path)
    assert told.word in refusal(open_checkpoint, path)
    if not any(word in told.word for word in PLAIN):
        assert told.word in refusal(open_networks, path)


def test_every_row_is_told_by_a_model_here():
    titles = [row.title for row in STRANGERS if not row.title.startswith("an adapter for")]
    assert [title for title in titles if not any(told.word in f"is {title}, which" for told in TOLD.values())] == []


# Brothers, which must not be taken for strangers


BROTHERS = {
    "Marigold": Told("", unet(8), {"_class_name": "MarigoldDepthPipeline", "unet": ["a", "b"], "vae": ["a", "b"]}),
    "Marigold's first index": Told("", unet(8), {"_class_name": "MarigoldPipeline"}),
    "Marigold IID, appearance": Told("", wide(12, 8), {"_class_name": "MarigoldIntrinsicsPipeline"}),
    "Marigold IID, lighting": Told("", wide(16, 12), {"_class_name": "MarigoldIntrinsicsPipeline"}),
    "E2E-FT": Told("", unet(8), {"_class_name": "StableDiffusionPipeline"}),
    "Lotus-G": Told("", unet(8, **LABELS), {"_class_name": "LotusGPipeline"}),
    "Lotus-D": Told("", unet(4, **LABELS), {"_class_name": "DirectRegressionPipeline"}),
    "DepthMaster": Told("", unet(4, **{"fftblock.norm.weight": (64,)}), {"_class_name": "MarigoldPipeline"}),
    "RGB-X": Told("", unet(8), {"_class_name": "StableDiffusionAOVMatEstPipeline"}),
    "SDPose": Told("", unet(4, **LABELS), beside="decoder"),
    "SDPose in one file": Told("", ldm(4, "model.diffusion_model.heatmap_head.conv_layers.0.weight")),
    "GenPercept": Told("", unet(), {"_class_name": "GenPerceptPipeline"}, folder="unet_depth_v2"),
    "a UNet by LDM's names": Told("", ldm(4)),
    "a torn UNet": Told("", {name: tensor for name, tensor in unet().items() if not name.startswith("conv_in")}),
}


@pytest.mark.parametrize("told", BROTHERS.values(), ids=BROTHERS)
def test_a_brother_is_not_taken_for_a_stranger(tmp_path, told):
    said = ""
    try:
        open_checkpoint(lay(tmp_path, told))
    except CheckpointError as error:
        said = str(error)  # of a family that may not be run yet
    assert not any(f"is {row.title}, which" in said for row in STRANGERS), said
    assert "does not perceive" not in said


def test_genpercept_still_opens(tmp_path):
    assert open_checkpoint(lay(tmp_path, BROTHERS["GenPercept"])).recipe.family == "genpercept"


def test_plain_stable_diffusion_stays_a_base(tmp_path):
    for name in ("SD of diffusers", "InstructPix2Pix"):
        assert open_networks(lay(tmp_path / name, TOLD[name])).unet.shapes


# Where nothing can be opened, and the other doors


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("SDMatte.pth", "SDMatte"),
        ("LiteSDMatte.pth", "SDMatte"),
        ("depthfm-v1.ckpt", "DepthFM"),
        ("iid_e250.pth", "Kocsis"),
    ],
)
def test_a_pickle_is_refused_by_its_name_before_anybody_converts_it(tmp_path, capsys, name, word):
    (tmp_path / name).write_bytes(b"x")
    for opened in (tmp_path / name, tmp_path):
        assert f"is {word}" in refusal(open_checkpoint, opened)
    assert main(["info", str(tmp_path / name)]) == 2
    assert f"is {word}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("pipeline", "word"),
    [("FluxPipeline", "FLUX"), ("StableDiffusion3Pipeline", "Diffusion 3"), ("WanPipeline", "Wan")],
)
def test_a_repository_without_a_unet_is_told_by_its_index(tmp_path, pipeline, word):
    tiny.write_json(tmp_path / "model_index.json", {"_class_name": pipeline})
    (tmp_path / "transformer").mkdir()
    assert word in refusal(open_checkpoint, tmp_path)
    assert word in refusal(open_networks, tmp_path)


def test_info_says_the_same_sentence(tmp_path, capsys):
    path = lay(tmp_path, TOLD["ControlNet"])
    assert main(["info", str(path)]) == 2
    assert refusal(open_checkpoint, path) in capsys.readouterr().err


def test_a_library_offers_what_people_take_for_a_checkpoint_and_no_parts(tmp_path):
    for name in ("LBM", "FLUX", "VAE", "CLIP"):
        save_file(TOLD[name].tensors, tmp_path / f"{name}.safetensors")
    assert Library(lambda: [tmp_path], "x").choices() == ["FLUX.safetensors", "LBM.safetensors"]


NO_ADAPTERS = ("ControlNet by LDM's names", "IP-Adapter", "VAE", "embedding", "CLIP", "FLUX", "T2I adapter", "TAESD")


@pytest.mark.parametrize("name", NO_ADAPTERS)
def test_what_is_no_adapter_is_told_where_one_is_wanted(tmp_path, name):
    save_file(TOLD[name].tensors, tmp_path / "x.safetensors")
    assert TOLD[name].word in refusal(read_adapter, tmp_path / "x.safetensors")


ADAPTERS = {
    "lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight": "adapter for Flux",
    "transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight": "adapter for Flux",
    "lora_unet_joint_blocks_0_x_block_attn_qkv.lora_down.weight": "adapter for Stable Diffusion 3",
    "diffusion_model.blocks.0.self_attn.q.lora_A.weight": "Wan",
    "lora_unet_blocks_0_self_attn_q.lora_down.weight": "Wan",
    "transformer_blocks.10.img_mlp.net.2.lora_A.weight": "Qwen-Image",
    "lora_unet_input_blocks_4_1_transformer_blocks_1_attn1_to_q.lora_down.weight": "adapter for SDXL",
    "down_blocks.0.motion_modules.0.proj.lora_A.weight": "AnimateDiff",
    "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": "text encoder alone",
    "lora_unet_conv_in.hada_w1_a": "LoHa",
    "lora_unet_conv_in.lokr_w1": "LoKr",
    "lora_unet_conv_in.oft_blocks": "OFT",
    "lora_unet_conv_in.a1.weight": "GLoRA",
    "lora_unet_conv_in.on_input": "IA3",
    "base_model.model.conv_in.vera_lambda_b": "VeRA",
}


@pytest.mark.parametrize(("key", "word"), ADAPTERS.items(), ids=ADAPTERS)
def test_an_adapter_for_others_or_of_another_kind_is_told(tmp_path, key, word):
    save_file(names(key), tmp_path / "x.safetensors")
    assert word in refusal(read_adapter, tmp_path / "x.safetensors")
