"""Adapters of every spelling read alike, and what cannot be used is refused in a sentence."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_adapters import (
    DELTAS,
    KINDS,
    LAYOUT,
    ONLY_ATTENTION,
    SPELLED,
    assert_same,
    call,
    fixed,
    kohya,
    ldm,
    random_adapter,
    random_delta,
    saved,
    spelled,
)
from torch import Tensor, nn

from diffusion_perception.core.checkpoints import fingerprint as prints
from diffusion_perception.core.checkpoints.adapter_file import is_adapter, read_adapter
from diffusion_perception.core.checkpoints.adapter_names import SPELLINGS
from diffusion_perception.core.checkpoints.adapters import merge
from diffusion_perception.core.checkpoints.attachment import Adapted
from diffusion_perception.core.checkpoints.tensors import CheckpointError
from diffusion_perception.trainer.host import DiffusersBackbone


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
@pytest.mark.parametrize("spelling", SPELLED)
def test_every_spelling_reads_back_to_the_same_adapter(tmp_path, spelling, suffix):
    picks = KINDS["attention"] if spelling in ONLY_ATTENTION else DELTAS["whole weights"]
    adapter = random_adapter(tiny.unet(generation=1), picks)
    path = saved(tmp_path / f"pytorch_lora_weights{suffix}", spelled(adapter, spelling))
    assert_same(read_adapter(tmp_path, LAYOUT), adapter)
    assert is_adapter(path)


@pytest.mark.parametrize("spelling", sorted(SPELLED.keys() - set(ONLY_ATTENTION)))
def test_alpha_over_rank_is_the_scale(tmp_path, spelling):
    adapter = random_adapter(tiny.unet(), KINDS["attention"], rank=4)
    path = saved(tmp_path / "lora.safetensors", spelled(adapter, spelling, alpha=2.0))
    read = read_adapter(path, LAYOUT)
    assert {part.scale for part in read.parts.values()} == {0.5}
    assert (read.rank, read.alpha) == (4, 2.0)


@settings(max_examples=25)
@given(rank=st.integers(1, 9), alpha=st.floats(0.01, 512))
def test_any_alpha_scales_as_kohya_says(tmp_path_factory, rank, alpha):
    path = tmp_path_factory.mktemp("kohya") / "lora.safetensors"
    layer = "lora_unet_conv_in"
    down, up = fixed(rank, 4, 3, 3), fixed(32, rank, 1, 1)
    tensors = {f"{layer}.lora_down.weight": down, f"{layer}.lora_up.weight": up, f"{layer}.alpha": torch.tensor(alpha)}
    part = read_adapter(saved(path, tensors)).parts["conv_in"]
    expected = torch.einsum("or,rikl->oikl", up[:, :, 0, 0], down) * alpha / rank
    assert torch.allclose(part.difference(), expected, rtol=1e-4, atol=1e-5)


def test_convolutions_may_be_spelled_as_matrices_or_as_convolutions(tmp_path):
    name, down, up = "lora_unet_mid_block_attentions_0_proj_in", fixed(2, 64), fixed(64, 2)
    flat = {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
    square = {key: tensor[..., None, None] for key, tensor in flat.items()}
    one, other = saved(tmp_path / "a.safetensors", flat), saved(tmp_path / "b.safetensors", square)
    assert_same(read_adapter(one), read_adapter(other))


def test_a_tucker_convolution_is_the_three_convolutions_in_a_row(tmp_path):
    name = "lora_unet_down_blocks_0_resnets_0_conv1"
    down, middle, up = fixed(2, 32, 1, 1), fixed(2, 2, 3, 3), fixed(32, 2, 1, 1)
    tensors = {f"{name}.lora_down.weight": down, f"{name}.lora_mid.weight": middle, f"{name}.lora_up.weight": up}
    part = read_adapter(saved(tmp_path / "locon.safetensors", tensors)).parts["down_blocks.0.resnets.0.conv1"]
    x = fixed(1, 32, 6, 6, scale=1.0)
    conv = nn.functional.conv2d
    expected = conv(conv(conv(x, down), middle, padding=1), up)
    assert (conv(x, part.difference(), padding=1) - expected).abs().max() < 1e-5


DIFFERENCES = {
    "kohya": (kohya, "{}.diff", "{}.diff_b"),
    "lycoris norms": (kohya, "{}.w_norm", "{}.b_norm"),
    "comfyui": (lambda name: f"diffusion_model.{ldm(name)}", "{}.diff", "{}.diff_b"),
}


@pytest.mark.parametrize("spelling", DIFFERENCES)
def test_differences_read_back(tmp_path, spelling):
    rename, weight, bias = DIFFERENCES[spelling]
    adapter = random_delta(tiny.unet(), lambda name, layer: True)
    tensors = {}
    for name, part in adapter.parts.items():
        tensors[weight.format(rename(name))] = part.weight
        if part.bias is not None:
            tensors[bias.format(rename(name))] = part.bias
    assert_same(read_adapter(saved(tmp_path / "diff.safetensors", tensors), LAYOUT), adapter)


PREFIXES = {
    **{
        prefix: (lambda name, prefix=prefix: prefix + name)
        for prefix in (
            "", "unet.", "module.", "diffusion_model.", "model.diffusion_model.", "base_model.model.",
            "base_model.model.unet.", "module.unet.", "module.base_model.model.", "unet.base_model.model.",
        )
    },
    **{
        prefix: (lambda name, prefix=prefix: prefix + name.replace(".", "_"))
        for prefix in ("lora_unet_", "lycoris_", "module.lora_unet_", "base_model.model.lycoris_")
    },
}  # fmt: skip
PAIRS = {
    "kohya": ("{}.lora_down.weight", "{}.lora_up.weight"),
    "old processors": ("{}_lora.down.weight", "{}_lora.up.weight"),
    "lora": ("{}.lora.down.weight", "{}.lora.up.weight"),
    "lora_layer": ("{}.lora_layer.down.weight", "{}.lora_layer.up.weight"),
    "lora_linear_layer": ("{}.lora_linear_layer.down.weight", "{}.lora_linear_layer.up.weight"),
    "peft": ("{}.lora_A.weight", "{}.lora_B.weight"),
    "peft, named": ("{}.lora_A.mine.weight", "{}.lora_B.mine.weight"),
    "kohya's differences": ("{}.diff", "{}.diff_b"),
    "lycoris's differences": ("{}.w_norm", "{}.b_norm"),
    "a whole layer": ("{}.weight", "{}.bias"),
    "a layer under peft": ("{}.base_layer.weight", "{}.base_layer.bias"),
}
LAYER = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
LDM_LAYER = "input_blocks.3.1.transformer_blocks.0.attn1.to_q"
"""The same in a network of one residual block a level."""


@pytest.mark.parametrize("layer", [LAYER, LDM_LAYER])
@pytest.mark.parametrize("pair", PAIRS)
def test_every_prefix_goes_with_every_ending_or_is_refused_in_a_sentence(tmp_path, pair, layer):
    for number, write in enumerate(PREFIXES.values()):
        first, second = (ending.format(write(layer)) for ending in PAIRS[pair])
        down, up = fixed(2, 64), fixed(64) if "diff" in pair else fixed(64, 2)
        path = saved(tmp_path / f"{number}.safetensors", {first: down, second: up})
        if pair.startswith("a "):
            refused(path, "2 of its 2 tensors")
            continue
        read = read_adapter(path, LAYOUT)
        assert read.parts.keys() == {LAYER}
        (part,) = read.parts.values()
        told = (part.weight, part.bias) if "diff" in pair else (part.down, part.up)
        assert torch.equal(told[0], down)
        assert torch.equal(told[1], up)
        assert read.spelling in SPELLINGS


@pytest.mark.parametrize(
    ("key", "spelling"),
    [
        (f"unet.{LAYER}.lora_{{}}.weight", "kohya"),
        (f"module.lora_unet_{LAYER.replace('.', '_')}.lora_{{}}.weight", "kohya"),
        (f"model.diffusion_model.{LDM_LAYER}.lora_{{}}.weight", "comfyui"),
        (f"unet.{LAYER.replace('to_q', 'processor.to_q')}_lora.{{}}.weight", "diffusers processors"),
    ],
)
def test_a_mixture_is_called_by_what_tells_most(tmp_path, key, spelling):
    tensors = {key.format("down"): fixed(2, 64), key.format("up"): fixed(64, 2)}
    assert read_adapter(saved(tmp_path / "mixed.safetensors", tensors), LAYOUT).spelling == spelling


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize("alpha", [None, 1.5])
def test_an_adapter_of_eight_bits_is_its_copy_in_half_precision(tmp_path, dtype, alpha):
    tensors = spelled(random_adapter(tiny.unet(), DELTAS["whole weights"]), "kohya", alpha)
    small = {name: tensor if name.endswith("alpha") else tensor.to(dtype) for name, tensor in tensors.items()}
    half = {name: tensor if name.endswith("alpha") else tensor.half() for name, tensor in small.items()}
    read = read_adapter(saved(tmp_path / "small.safetensors", small), LAYOUT)
    copy_of_it = read_adapter(saved(tmp_path / "half.safetensors", half), LAYOUT)
    assert_same(read, copy_of_it)
    seen, expected = (call(Adapted(DiffusersBackbone(tiny.unet()), each)) for each in (read, copy_of_it))
    assert torch.equal(seen, expected)
    one, other = (merge(each, tiny.unet().state_dict()) for each in (read, copy_of_it))
    assert all(torch.equal(one[name], other[name]) for name in other)


@pytest.mark.parametrize("factor", ["scale_weight", "weight_scale"])
@pytest.mark.parametrize("rows", [False, True])
def test_a_scaled_adapter_of_eight_bits_is_what_its_numbers_stand_for(tmp_path, factor, rows):
    name = f"unet.{LAYER}"
    down, up = (fixed(*shape, scale=1.0).to(torch.float8_e4m3fn) for shape in ((2, 64), (64, 2)))
    factors = torch.tensor([[0.5], [0.01]]), torch.linspace(0.001, 1, 64)
    factors = factors if rows else (torch.tensor(0.01), torch.tensor([0.3]))
    tensors = {"scaled_fp8": torch.empty(0, dtype=torch.float8_e4m3fn)}
    for ending, tensor, scale in zip(("down", "up"), (down, up), factors):
        tensors |= {f"{name}.lora_{ending}.weight": tensor, f"{name}.lora_{ending}.{factor}": scale}
    (part,) = read_adapter(saved(tmp_path / "scaled.safetensors", tensors)).parts.values()
    stood_for = [
        tensor.float().numpy() * np.reshape(scale.numpy(), (-1, 1)) for tensor, scale in zip((down, up), factors)
    ]
    assert np.allclose(part.difference().numpy(), stood_for[1] @ stood_for[0], rtol=1e-5, atol=1e-6)


def peft_unet(alpha: float = 6.0, **config):
    """A tiny network that peft has wrapped, its adapter not zero."""
    from peft import LoraConfig

    network = copy.deepcopy(tiny.unet())
    targets = ["to_q", "to_k", "to_v", "to_out.0", "conv1", "proj_in"]
    config = {"r": 3, "lora_alpha": alpha, "init_lora_weights": "gaussian", **config}
    network.add_adapter(LoraConfig(target_modules=targets, **config))
    for name, parameter in network.named_parameters():
        if "lora_B" in name:
            parameter.data = fixed(*parameter.shape)
    return network.requires_grad_(False)


def save_diffusers_pipeline(network, folder: Path) -> Path:
    """As the text-to-image training script of diffusers saves it."""
    from diffusers import StableDiffusionPipeline
    from diffusers.training_utils import _collate_lora_metadata
    from diffusers.utils.state_dict_utils import convert_state_dict_to_diffusers
    from peft import get_peft_model_state_dict

    layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(network))
    metadata = _collate_lora_metadata({"unet": network})
    StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=layers, **metadata)
    return folder


def save_diffusers_adapter(network, folder: Path) -> Path:
    network.save_lora_adapter(folder, adapter_name="default")
    return folder


def save_peft(network, folder: Path) -> Path:
    """As peft saves a model that it wrapped itself."""
    from peft import get_peft_model_state_dict

    tensors = {f"base_model.model.{name}": tensor for name, tensor in get_peft_model_state_dict(network).items()}
    saved(folder / "adapter_model.safetensors", tensors)
    (folder / "adapter_config.json").write_text(json.dumps(network.peft_config["default"].to_dict(), default=list))
    return folder


def save_genpercept(network, folder: Path) -> Path:
    """As GenPercept's LoRA runs are: the whole wrapped network; its alpha is its rank, and is written nowhere."""
    saved(folder / "unet" / "diffusion_pytorch_model.safetensors", network.state_dict())
    return folder


@pytest.mark.parametrize(
    ("save", "alpha"),
    [(save_diffusers_pipeline, 6.0), (save_diffusers_adapter, 6.0), (save_peft, 6.0), (save_genpercept, 3.0)],
)
def test_what_diffusers_and_peft_write_predicts_as_they_do(tmp_path, save, alpha):
    wrapped = peft_unet(alpha)
    adapter = read_adapter(save(wrapped, tmp_path / "run"), LAYOUT)
    found = call(Adapted(DiffusersBackbone(tiny.unet()), adapter))
    with torch.no_grad():
        assert (found - call(DiffusersBackbone(wrapped))).abs().max() < 1e-5


def test_pefts_rank_stabilised_and_patterned_alphas_count(tmp_path):
    wrapped = peft_unet(0.5, use_rslora=True, alpha_pattern={"to_q": 2.0})
    adapter = read_adapter(save_peft(wrapped, tmp_path), LAYOUT)
    with torch.no_grad():
        expected = call(DiffusersBackbone(wrapped))
    assert (call(Adapted(DiffusersBackbone(tiny.unet()), adapter)) - expected).abs().max() < 1e-5


def test_a_run_that_saved_its_base_along_tells_which_it_was(tmp_path):
    adapter = read_adapter(save_genpercept(peft_unet(3.0), tmp_path), LAYOUT)
    assert adapter.spelling == "peft with its base"
    own, other = (prints.fingerprint(tiny.unet(seed=seed).state_dict().__getitem__) for seed in (0, 1))
    assert adapter.notes(own) == []
    assert "another" in adapter.notes(other)[0]


def refused(path: Path, *words: str) -> None:
    """One sentence that holds these words."""
    with pytest.raises(CheckpointError) as caught:
        read_adapter(path)
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert message.endswith(".")
    assert "\n" not in message


REFUSED = {
    "Flux": ({"transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight": (2, 8)}, ["Flux"]),
    "SDXL": ({"lora_unet_input_blocks_4_1_transformer_blocks_1_attn1_to_q.lora_down.weight": (2, 8)}, ["SDXL"]),
    "SDXL's second text encoder": ({"lora_te2_text_model_x.lora_down.weight": (2, 8)}, ["SDXL"]),
    "LoHa": ({"lora_unet_conv_in.hada_w1_a": (2, 8)}, ["LoHa"]),
    "DoRA": ({"unet.conv_in.lora_A.weight": (2, 4), "unet.conv_in.lora_magnitude_vector": (4,)}, ["DoRA"]),
    "another network": ({"encoder.layer.0.lora_A.weight": (2, 4)}, ["1 of its 1", "encoder.layer.0"]),
    "one key too many": (
        {"unet.conv_in.lora_A.weight": (2, 4, 3, 3), "unet.conv_in.lora_B.weight": (32, 2, 1, 1), "unet.foo": (1,)},
        ["1 of its 3", "unet.foo"],
    ),
    "half a pair": ({"unet.conv_in.lora_A.weight": (2, 4, 3, 3)}, ["conv_in", "down"]),
    "matrices that do not multiply": (
        {"unet.conv_in.lora_A.weight": (2, 4, 3, 3), "unet.conv_in.lora_B.weight": (32, 3, 1, 1)},
        ["conv_in", "(32, 3, 1, 1)"],
    ),
    "two adapters": (
        {f"unet.conv_in.lora_{m}.{n}.weight": (2, 2) for m in "AB" for n in ("one", "two")},
        ["several adapters"],
    ),
    "a whole UNet": ({"conv_in.weight": (32, 4, 3, 3), "conv_in.bias": (32,)}, ["whole UNet", "extract"]),
    "nothing": ({}, ["empty"]),
    "strengths of several numbers": (
        {
            "unet.conv_in.lora_A.weight": (2, 4, 3, 3),
            "unet.conv_in.lora_B.weight": (32, 2, 1, 1),
            "unet.conv_in.alpha": (3,),
        },
        ["conv_in", "one number"],
    ),
    "numbers for matrices": ({"unet.conv_in.lora_A.weight": (), "unet.conv_in.lora_B.weight": ()}, ["do not multiply"]),
    "a middle that does not fit": (
        {
            "unet.conv_in.lora_down.weight": (2, 4, 1, 1),
            "unet.conv_in.lora_mid.weight": (3, 2, 3, 3),
            "unet.conv_in.lora_up.weight": (32, 2, 1, 1),
        },
        ["do not multiply"],
    ),
    "factors for other rows": (
        {
            "unet.conv_in.lora_down.weight": (2, 4),
            "unet.conv_in.lora_down.scale_weight": (5,),
            "unet.conv_in.lora_up.weight": (32, 2),
        },
        ["5 factors"],
    ),
}
HEADERS = ("null", "{bad", "[1]", '{"unet.lora_alpha": "much"}', '{"lora_alpha": 2, "alpha_pattern": [1]}')


@pytest.mark.parametrize("header", HEADERS)
def test_a_damaged_header_is_told_with_the_files_name(tmp_path, header):
    tensors = spelled(random_adapter(tiny.unet(), KINDS["attention"]), "diffusers")
    refused(saved(tmp_path / "torn.safetensors", tensors, {"lora_adapter_metadata": header}), "torn.safetensors")


@pytest.mark.parametrize("header", ["null", "{bad", "[1]"])
def test_a_damaged_header_of_our_own_is_told_with_the_files_name(tmp_path, header):
    metadata = {"diffusion_perception.recipe": '[{"task": "depth"}]', "diffusion_perception.adapter": header}
    tensors = {"adapter.conv_in.bias": torch.ones(32)}
    refused(saved(tmp_path / "torn.safetensors", tensors, metadata), "torn.safetensors")


def lora_of(layer: str = LAYER) -> dict[str, Tensor]:
    return {
        f"base_model.model.{layer}.lora_A.weight": fixed(2, 64),
        f"base_model.model.{layer}.lora_B.weight": fixed(64, 2),
    }


TRAINED_WHOLE = {
    "modules_to_save": {"conv_in.weight": (32, 4, 3, 3), "conv_in.bias": (32,)},
    "the way out": {"conv_out.weight": (4, 32, 3, 3), "conv_out.bias": (4,)},
    "several": {
        "conv_in.weight": (32, 4, 3, 3),
        "conv_out.weight": (4, 32, 3, 3),
        "time_embedding.linear_1.weight": (8, 8),
    },
    "a norm": {"conv_norm_out.weight": (32,)},
    "as peft holds them": {
        "conv_in.modules_to_save.default.weight": (32, 4, 3, 3),
        "conv_in.original_module.weight": (32, 4, 3, 3),
    },
    "of an inner layer": {"mid_block.resnets.0.conv1.modules_to_save.default.weight": (64, 64, 3, 3)},
    "every bias": {"conv_in.bias": (32,), "conv_out.bias": (4,), f"{LAYER}.bias": (64,)},
    "numbered as LDM": {"input_blocks.0.0.weight": (32, 4, 3, 3)},
}


@pytest.mark.parametrize("further", TRAINED_WHOLE.values(), ids=TRAINED_WHOLE)
def test_layers_that_were_trained_whole_are_never_dropped(tmp_path, further):
    whole = {f"base_model.model.{name}": fixed(*shape) for name, shape in further.items()}
    path = saved(tmp_path / "adapter_model.safetensors", {**lora_of(), **whole})
    (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": 2, "modules_to_save": ["conv_in"]}))
    refused(path, "trained whole", "merge_and_unload", next(iter(whole)))


def test_what_pefts_modules_to_save_writes_is_refused(tmp_path):
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=4, target_modules=["to_q"], modules_to_save=["conv_in"])
    wrapped = get_peft_model(copy.deepcopy(tiny.unet()), config)  # pyright: ignore[reportArgumentType]
    wrapped.save_pretrained(tmp_path / "run")
    refused(tmp_path / "run", "trained whole", "conv_in")


@pytest.mark.parametrize("alpha", ["NaN", "Infinity", '"16"', "[4]", '{"a": 1}'])
def test_an_alpha_that_is_no_number_is_told(tmp_path, alpha):
    path = saved(tmp_path / "adapter_model.safetensors", lora_of())
    (tmp_path / "adapter_config.json").write_text(f'{{"lora_alpha": {alpha}}}')
    refused(path, "alphas are no numbers")


def test_matrices_of_whole_numbers_are_refused(tmp_path):
    tensors = spelled(random_adapter(tiny.unet(), KINDS["attention"]), "diffusers")
    whole = {name: tensor.to(torch.int8) for name, tensor in tensors.items()}
    refused(saved(tmp_path / "int8.safetensors", whole), "int8", "get it as fp16")


@pytest.mark.parametrize("case", REFUSED)
def test_adapters_that_cannot_be_used_are_refused_in_a_sentence(tmp_path, case):
    shapes, words = REFUSED[case]
    refused(saved(tmp_path / "lora.safetensors", {name: torch.ones(shape) for name, shape in shapes.items()}), *words)


def test_a_file_that_is_none_is_refused(tmp_path):
    (tmp_path / "lora.safetensors").write_bytes(b"not a file of tensors")
    refused(tmp_path / "lora.safetensors", "lora.safetensors")
    refused(tmp_path / "absent.safetensors", "absent.safetensors")


def test_a_folder_must_hold_one_adapter(tmp_path):
    refused(tmp_path, "none")
    for name in ("a", "b"):
        saved(tmp_path / f"{name}.safetensors", {"x": torch.ones(1)})
    refused(tmp_path, "a.safetensors, b.safetensors")


def test_text_encoder_weights_are_counted_and_told(tmp_path):
    adapter = random_adapter(tiny.unet(), KINDS["attention"])
    tensors = {**spelled(adapter, "kohya"), "lora_te_text_model_encoder_x.lora_up.weight": torch.ones(2, 2)}
    read = read_adapter(saved(tmp_path / "lora.safetensors", tensors), LAYOUT)
    assert_same(read, adapter)
    assert read.text_encoder == 1
    assert "text encoder (1 tensors)" in read.notes({})[0]


def test_an_adapter_of_peft_without_its_config_says_that_its_strength_is_unknown(tmp_path):
    file = save_peft(peft_unet(), tmp_path) / "adapter_model.safetensors"
    assert read_adapter(file, LAYOUT).notes({}) == []
    (tmp_path / "adapter_config.json").unlink()
    (note,) = read_adapter(file, LAYOUT).notes({})
    assert "adapter_config.json" in note
    assert "lora_alpha" in note
    other = file.rename(tmp_path / "depth.safetensors")
    assert read_adapter(other, LAYOUT).notes({}) == []  # kohya's convention: without an alpha it is the rank
