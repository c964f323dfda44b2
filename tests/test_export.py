"""`export` and `extract` write files that predict as what they were made of."""

from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from diffusion_perception.core.checkpoints.adapter_file import describe_adapter, read_adapter, write_adapter
from diffusion_perception.core.checkpoints.adapters import Adapter, Delta, LowRank
from diffusion_perception.core.checkpoints.checkpoint import open_checkpoint
from diffusion_perception.core.checkpoints.extract import Source, extract, truncate, weight_difference
from diffusion_perception.core.checkpoints.tensors import CheckpointError
from diffusion_perception.core.heads.table import untrained_head
from diffusion_perception.core.recipe import Recipe
from diffusion_perception.trainer.cli import main


def run(*arguments: object) -> None:
    """A command that must succeed."""
    assert main([str(argument) for argument in arguments]) == 0


def fails(capsys, *arguments: object) -> str:
    """What a command says that must fail; it says it in one line."""
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as exit:
        code = exit.code
    assert code == 2
    written = capsys.readouterr().err.strip().splitlines()
    told = [line for line in written if line.startswith("diffusion-perception")]
    assert told == written[-1:]
    return told[0]


def fine_tune(network: nn.Module, amount: float = 0.02) -> nn.Module:
    """Every weight of it moved a little; norms and biases too."""
    tuned = copy.deepcopy(network)
    generator = torch.Generator().manual_seed(9)
    for parameter in tuned.parameters():
        parameter += torch.randn(parameter.shape, generator=generator) * amount
    return tuned


def write_base(folder: Path) -> Path:
    tiny.write(folder / "unet", tiny.unet())
    tiny.write(folder / "vae", tiny.vae())
    tiny.write_context(folder)
    return folder


def write_tuned(folder: Path, amount: float = 0.02) -> Path:
    """A GenPercept checkpoint that was fine-tuned from the base."""
    tiny.write_genpercept(folder, [])
    tiny.write(folder / "unet_normal_v2", fine_tune(tiny.unet(), amount))
    return folder


def predicted(tmp_path: Path, *arguments: object) -> np.ndarray:
    """What `predict` makes of one picture."""
    image = tiny.save_picture(tmp_path / "photo.png", 64, 96)
    out = tmp_path / "out"
    run("predict", *arguments, "--resolution", 0, "--device", "cpu", "--out", out, image)
    return np.load(out / "photo.npy")


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return write_base(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture(scope="module")
def tuned(tmp_path_factory) -> Path:
    return write_tuned(tmp_path_factory.mktemp("models") / "tuned")


# extract


def source(tensors: dict[str, Tensor]) -> Source:
    return Source(tensors.__getitem__, tiny.shapes(tensors))


@pytest.mark.parametrize("rank", ["full", "4096"])
def test_extracting_at_full_rank_reproduces_the_fine_tune(tmp_path, base, tuned, rank):
    adapter = tmp_path / "adapter.safetensors"
    run("extract", "--model", tuned, "--base", base, "--rank", rank, "--dtype", "fp32", "--out", adapter)
    expected = predicted(tmp_path, "--model", tuned)
    found = predicted(tmp_path, "--adapter", adapter, "--base", base)
    assert np.abs(found - expected).max() < 1e-4
    before = predicted(tmp_path, "--model", base, "--family", "genpercept", "--task", "normal")
    assert np.abs(before - expected).max() > 0.01


def test_a_higher_rank_keeps_more_energy_and_errs_less(tmp_path, base, tuned):
    expected = predicted(tmp_path, "--model", tuned)
    errors, energies = [], []
    for rank in (2, 8, 32):
        adapter = tmp_path / f"rank{rank}.safetensors"
        run("extract", "--model", tuned, "--base", base, "--rank", rank, "--dtype", "fp32", "--out", adapter)
        errors.append(np.abs(predicted(tmp_path, "--adapter", adapter, "--base", base) - expected).mean())
        networks = source(fine_tune(tiny.unet()).state_dict()), source(tiny.unet().state_dict())
        energies.append(np.mean([energy for _, part, energy in extract(*networks, rank) if isinstance(part, LowRank)]))
    assert errors == sorted(errors, reverse=True)
    assert energies == sorted(energies)


def test_extract_reports_every_layer_and_says_what_it_wrote(tmp_path, base, tuned, capsys):
    adapter = tmp_path / "adapter.safetensors"
    said = ("--licence", "MIT", "--data", "rooms")
    run("extract", "--model", tuned, "--base", base, "--rank", 4, *said, "--out", adapter)
    lines = capsys.readouterr().out.splitlines()
    read = read_adapter(adapter)
    assert sum(line.endswith(name) for line in lines for name in read.parts) == len(read.parts)
    assert "low-rank layers" in lines[-2]
    assert str(adapter) in lines[-1]
    told = describe_adapter(adapter)
    assert (told["licence"], told["data"], told["rank"], told["base"]) == ("MIT", "rooms", 4, "custom")
    assert told["recipes"][0] | {"task": "normal", "family": "genpercept", "licence": "MIT"} == told["recipes"][0]
    assert load_file(adapter)["context.normal"].shape == (1, 2, tiny.WIDTH)
    with safe_open(adapter, "pt") as file:
        assert file.metadata()["modelspec.license"] == "MIT"


def test_norms_and_biases_are_kept_whole_and_thin_layers_are_low_rank(base, tuned):
    networks = source(fine_tune(tiny.unet()).state_dict()), source(tiny.unet().state_dict())
    parts = {layer: part for layer, part, _ in extract(*networks, 4)}
    assert isinstance(parts["conv_norm_out"], Delta)
    assert isinstance(parts["conv_in"], Delta)
    convolution = parts["mid_block.resnets.0.conv1"]
    assert isinstance(convolution, LowRank)
    assert convolution.down.shape == (4, 64, 3, 3)
    assert convolution.bias is not None


def test_what_the_fine_tune_left_alone_is_left_out(base):
    tensors = tiny.unet().state_dict()
    name = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    changed = {**tensors, f"{name}.weight": tensors[f"{name}.weight"] * 1.5}
    assert [layer for layer, _, _ in extract(source(changed), source(tensors), 4)] == [name]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rounding_to_half_precision_is_no_training(dtype):
    tensors = tiny.unet().state_dict()
    rounded = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    assert not list(extract(source(rounded), source(tensors), 4))
    assert not list(extract(source(tensors), source(rounded), 4))


def test_a_small_change_is_training_even_beside_rounding():
    old = torch.linspace(-1, 1, 64).reshape(8, 8)
    new = (old * 1.01).half()
    assert weight_difference(source({"x.weight": new}), source({"x.weight": old}), "x.weight") is not None


def test_a_widened_conv_in_is_extracted_and_runs(tmp_path, base):
    network = tiny.unet()
    wide = copy.deepcopy(tiny.unet(8, seed=4))
    changed = {"conv_in.weight": wide.conv_in.weight.clone(), "conv_in.bias": network.conv_in.bias + 0.1}
    wide.load_state_dict({**network.state_dict(), **changed})
    pipeline = tiny.marigold()
    pipeline.register_modules(unet=wide)
    folder = tiny.write_marigold(tmp_path / "marigold-depth", pipeline)
    adapter = tmp_path / "wide.safetensors"
    run("extract", "--model", folder, "--base", base, "--rank", 4, "--dtype", "fp32", "--out", adapter)
    read = read_adapter(adapter)
    assert read.parts.keys() == {"conv_in"}
    assert read.in_channels == 8
    expected = predicted(tmp_path, "--model", folder, "--set", "seed=3")
    found = predicted(tmp_path, "--adapter", adapter, "--base", base, "--set", "seed=3")
    assert np.abs(found - expected).max() < 1e-4


def test_a_head_travels_with_the_adapter(tmp_path, base):
    folder = tiny.write_genpercept(tmp_path / "head", [])
    tuned = tiny.write(folder / "unet", fine_tune(tiny.unet()))
    weights = tuned / tiny.WEIGHTS
    way_out = ("conv_out", "conv_norm_out")
    save_file({name: tensor for name, tensor in load_file(weights).items() if not name.startswith(way_out)}, weights)
    tiny.write_head(folder)
    adapter = tmp_path / "head.safetensors"
    model = ("--model", folder, "--task", "disparity")
    run("extract", *model, "--base", base, "--rank", "full", "--dtype", "fp32", "--out", adapter)
    found = predicted(tmp_path, "--adapter", adapter, "--base", base)
    assert np.abs(found - predicted(tmp_path, *model)).max() < 1e-4


def test_a_decoder_that_was_trained_along_is_told(tmp_path, base, capsys):
    folder = write_tuned(tmp_path / "tuned")
    arguments = ("extract", "--model", folder, "--base", base, "--rank", 4, "--out", tmp_path / "x.safetensors")
    run(*arguments)
    assert "Its VAE" not in capsys.readouterr().out
    tiny.write(folder / "vae", tiny.vae(seed=5))
    run(*arguments)
    assert "Its VAE decodes otherwise" in capsys.readouterr().out.splitlines()[-1]


def test_the_wrong_base_is_told(tmp_path, base, capsys):
    other = tmp_path / "other"
    tiny.write(other / "unet_normal_v2", tiny.unet(context=32))
    tiny.write(other / "vae", tiny.vae())
    tiny.write_context(other, tiny.context(width=32))
    message = fails(capsys, "extract", "--model", other, "--base", base, "--out", tmp_path / "x.safetensors")
    assert "did not start from this base" in message


def test_a_model_that_is_its_base_leaves_nothing_to_extract(tmp_path, base, capsys):
    same = tiny.write_genpercept(tmp_path / "same", ["unet_normal_v2"])
    message = fails(capsys, "extract", "--model", same, "--base", base, "--out", tmp_path / "x.safetensors")
    assert "nothing to extract" in message


@given(rows=st.integers(2, 12), columns=st.integers(2, 12), rank=st.integers(1, 12), seed=st.integers(0, 99))
def test_truncation_is_the_best_of_its_rank(rows, columns, rank, seed):
    rank = min(rank, rows, columns)
    matrix = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    down, up, energy = truncate(matrix, rank)
    left, values, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    best = left[:, :rank] * values[:rank] @ right[:rank]
    assert (up @ down - best).abs().max() < 1e-4
    assert energy == pytest.approx((values[:rank].square().sum() / values.square().sum()).item(), abs=1e-6)
    assert up.norm() == pytest.approx(down.norm().item(), rel=1e-3)


def test_a_matrix_of_lower_rank_is_truncated_without_noise():
    thin = torch.ones(6, 1) @ torch.arange(5.0)[None]
    down, up, energy = truncate(thin, 4)
    assert torch.isfinite(down).all()
    assert (up @ down - thin).abs().max() < 1e-5
    assert energy == pytest.approx(1)


# export


def header(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return file.metadata()


@pytest.mark.parametrize(("dtype", "error"), [("fp32", 1e-6), ("fp16", 0.02)])
def test_an_exported_checkpoint_predicts_the_same(tmp_path, tuned, dtype, error):
    out = tmp_path / "normals.safetensors"
    run("export", "--model", tuned, "--dtype", dtype, "--licence", "Apache-2.0", "--out", out)
    assert np.abs(predicted(tmp_path, "--model", out) - predicted(tmp_path, "--model", tuned)).max() <= error
    assert open_checkpoint(out).recipe.licence == "Apache-2.0"
    assert header(out)["modelspec.title"] == "normals"
    assert {tensor.dtype for name, tensor in load_file(out).items() if name.startswith("unet.")} == {
        {"fp32": torch.float32, "fp16": torch.float16}[dtype]
    }


def test_an_own_file_of_several_tasks_keeps_them_all(tmp_path):
    recipes = [Recipe("depth", tokens=2), Recipe("normal", tokens=2)]
    tiny.write_own(tmp_path / "both.safetensors", recipes)
    run("export", "--model", tmp_path / "both.safetensors", "--out", tmp_path / "again.safetensors")
    for task in ("depth", "normal"):
        assert open_checkpoint(tmp_path / "again.safetensors", task=task).recipe.task == task
    one, other = (load_file(tmp_path / name) for name in ("both.safetensors", "again.safetensors"))
    assert all(torch.equal(one[f"context.{task}"], other[f"context.{task}"]) for task in ("depth", "normal"))


def write_lora(folder: Path) -> Path:
    """A LoRA as diffusers 0.20 wrote it."""
    folder.mkdir(parents=True)
    name = "mid_block.attentions.0.transformer_blocks.0.attn{}.processor.to_{}_lora"
    tensors = {}
    for attention, projection, width in ((1, "q", 64), (2, "k", tiny.WIDTH), (1, "out", 64)):
        layer = name.format(attention, projection)
        tensors[f"{layer}.down.weight"] = torch.randn(4, width, generator=torch.Generator().manual_seed(1)) / 4
        tensors[f"{layer}.up.weight"] = torch.randn(64, 4, generator=torch.Generator().manual_seed(2)) / 4
    save_file(tensors, folder / "pytorch_lora_weights.safetensors")
    return folder


def test_an_exported_adapter_predicts_the_same_and_needs_no_names(tmp_path, base):
    lora = write_lora(tmp_path / "depth-hypersim-notext")
    out = tmp_path / "dmp.safetensors"
    run("export", "--adapter", lora, "--base", base, "--dtype", "fp32", "--out", out)
    expected = predicted(tmp_path, "--adapter", lora, "--base", base)
    assert np.abs(predicted(tmp_path, "--adapter", out, "--base", base) - expected).max() < 1e-6
    told = describe_adapter(out)
    assert told["recipes"][0]["family"] == "dmp"
    assert told["fingerprint"] == "of the checkpoint it was trained on"


def test_a_merged_export_predicts_the_same(tmp_path, base):
    lora = write_lora(tmp_path / "depth-hypersim-notext")
    out = tmp_path / "merged.safetensors"
    run("export", "--adapter", lora, "--base", base, "--merge", "--dtype", "fp32", "--out", out)
    expected = predicted(tmp_path, "--adapter", lora, "--base", base)
    assert np.abs(predicted(tmp_path, "--model", out) - expected).max() < 1e-4 * 8


def test_a_prompted_adapter_keeps_the_empty_prompt_to_contrast(tmp_path, base):
    lora = write_lora(tmp_path / "albedo-bedroom")
    out = tmp_path / "albedo.safetensors"
    run("export", "--adapter", lora, "--base", base, "--out", out)
    held = load_file(out)
    assert "context.albedo" not in held
    assert torch.equal(held["context.albedo.negative"], tiny.context())
    prompt = tmp_path / "prompt.safetensors"
    save_file({"a": tiny.context(7)}, prompt)
    negative = tmp_path / "negative.safetensors"
    save_file({"b": tiny.context()}, negative)
    (base_without := tmp_path / "bare").mkdir()
    for part in ("unet", "vae"):
        (base_without / part).symlink_to(base / part)
    common = ("--adapter", lora, "--base", base_without, "--context", prompt)
    expected = predicted(tmp_path, *common, "--negative-context", f"{negative}:b")
    found = predicted(tmp_path, "--adapter", out, "--base", base_without, "--context", f"{prompt}:a")
    assert np.abs(found - expected).max() < 0.01  # stored in half precision


def test_another_fine_tune_of_the_base_runs_and_is_told(tmp_path, base, caplog):
    lora = write_lora(tmp_path / "depth-hypersim-notext")
    out = tmp_path / "dmp.safetensors"
    run("export", "--adapter", lora, "--base", base, "--out", out)
    predicted(tmp_path, "--adapter", out, "--base", base)
    assert not caplog.messages
    other = write_base(tmp_path / "other")
    tiny.write(other / "unet", fine_tune(tiny.unet(), 0.05))
    predicted(tmp_path, "--adapter", out, "--base", other)
    assert "was trained on another" in caplog.messages[0]


def test_text_encoder_weights_need_a_context_of_that_encoder(tmp_path, base, capsys):
    key = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
    ours = {f"{key}.lora_down.weight": torch.ones(2, 64), f"{key}.lora_up.weight": torch.ones(64, 2)}
    lora = tmp_path / "lora.safetensors"
    save_file({**ours, "lora_te_text_model_x.lora_down.weight": torch.ones(2, 2)}, lora)
    image = tiny.save_picture(tmp_path / "a.png", 64, 64)
    arguments = ("predict", "--adapter", lora, "--base", base, "--family", "genpercept", "--task", "depth")
    arguments += ("--resolution", 0, "--device", "cpu", "--out", tmp_path / "o")
    assert "also adapts the text encoder (1 tensors)" in fails(capsys, *arguments, image)
    run(*arguments, "--context", base / "empty_text_embed.safetensors", image)


def test_info_describes_adapters_and_checkpoints(tmp_path, base, capsys):
    lora = write_lora(tmp_path / "depth-hypersim-notext")
    run("info", lora)
    assert json.loads(capsys.readouterr().out)["rank"] == 4
    run("info", base / "unet", "--family", "genpercept", "--task", "depth")
    assert "rank" not in json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["predict", "--adapter", "x", "--out", "o", "i.png"], "--adapter and --base go together"),
        (["predict", "--model", "m", "--adapter", "x", "--out", "o", "i.png"], "not allowed with argument"),
        (["export", "--model", "m", "--out", "file.bin"], "not named .safetensors"),
        (["extract", "--model", "m", "--base", "b", "--rank", "no", "--out", "x.safetensors"], "positive number"),
        (["export", "--adapter", "absent.safetensors", "--base", "absent", "--out", "x.safetensors"], "absent"),
    ],
)
def test_arguments_that_do_not_go_together_are_told_in_a_line(tmp_path, monkeypatch, capsys, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    assert sentence in fails(capsys, *arguments)


def test_an_adapter_in_the_models_place_is_told(tmp_path, base, capsys):
    lora = write_lora(tmp_path / "depth-hypersim-notext")
    out = tmp_path / "dmp.safetensors"
    run("export", "--adapter", lora, "--base", base, "--out", out)
    rest = ("--out", tmp_path / "maps", tiny.save_picture(tmp_path / "a.png", 64, 64))
    assert "is an adapter, which needs a base" in fails(capsys, "predict", "--model", out, *rest)
    assert "is a whole UNet" in fails(capsys, "predict", "--adapter", base / "unet", "--base", base, *rest)


def test_a_file_is_not_written_over_itself(tmp_path, base, capsys):
    path = tmp_path / "own.safetensors"
    tiny.write_own(path, [Recipe("depth", tokens=2)])
    assert "is the file that is read" in fails(capsys, "export", "--model", path, "--out", path)


def test_networks_of_another_shape_are_not_subtracted():
    one, other = tiny.unet().state_dict(), tiny.unet(context=32).state_dict()
    with pytest.raises(CheckpointError, match=r"have no match of their shape \(down_blocks"):
        list(extract(source(one), source(other), 4))


def test_the_command_line_predicts_dmp_as_its_authors_do(tmp_path, golden):
    folder = golden / "dmp_lora"
    texts = folder / "text_embeds.safetensors"
    run(
        "predict", "--adapter", folder / "lora_full_attention" / "pytorch_lora_weights.bin", "--base", folder,
        "--task", "albedo", "--set", "guidance_scale=2", "--context", f"{texts}:prompt_embed",
        "--negative-context", f"{texts}:empty_text_embed", "--resolution", 0, "--device", "cpu",
        "--out", tmp_path, folder / "image.png",
    )  # fmt: skip
    expected = np.load(folder / "expected.npz")["full_attention/rgb_v_5_prompt_guidance2/output"]
    assert np.abs((np.load(tmp_path / "image.npy") * 255).round() - expected).max() <= 1


# other layouts


@pytest.fixture
def own(tmp_path) -> Path:
    """Two recipes on one network."""
    recipes = [
        Recipe("depth", base="custom", resolution=48, licence="MIT", data="rooms"),
        Recipe("normal", name="tilted", base="custom", resolution=64, axes=("left", "up", "back")),
    ]
    return tiny.write_own(tmp_path / "own.safetensors", recipes)


@pytest.mark.parametrize("task", ["depth", "tilted"])
def test_a_folder_in_diffusers_layout_predicts_to_the_last_bit_as_the_file_it_was_made_of(tmp_path, own, task):
    run("export", "--model", own, "--layout", "diffusers", "--dtype", "fp32", "--out", tmp_path / "folder")
    expected = predicted(tmp_path, "--model", own, "--task", task)
    assert np.array_equal(predicted(tmp_path, "--model", tmp_path / "folder", "--task", task), expected)
    # and back
    run("export", "--model", tmp_path / "folder", "--dtype", "fp32", "--out", tmp_path / "back.safetensors")
    first, last = (load_file(path) for path in (own, tmp_path / "back.safetensors"))
    assert first.keys() == last.keys()
    assert all(torch.equal(first[name], last[name]) for name in first)
    found = [open_checkpoint(path, task=task).recipe for path in (own, tmp_path / "back.safetensors")]
    assert found[0] == found[1]


def test_diffusers_opens_every_part_of_such_a_folder(tmp_path, own):
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

    run("export", "--model", own, "--layout", "diffusers", "--dtype", "fp32", "--out", tmp_path / "folder")
    tensors = load_file(own)
    for name, kind in (("unet", UNet2DConditionModel), ("vae", AutoencoderKL)):
        state = kind.from_pretrained(tmp_path / "folder", subfolder=name, local_files_only=True).state_dict()
        assert {f"{name}.{key}" for key in state} == {key for key in tensors if key.startswith(f"{name}.")}
        assert all(torch.equal(tensor, tensors[f"{name}.{key}"]) for key, tensor in state.items())
    latent, told = torch.randn(1, 4, 8, 8), tensors["context.depth"]
    network = UNet2DConditionModel.from_pretrained(tmp_path / "folder", subfolder="unet").eval()
    with torch.no_grad():
        expected = tiny.unet().eval()(latent, 1, told).sample
        assert (network(latent, 1, told).sample - expected).abs().max() < 5e-5
    scheduler = DDIMScheduler.from_pretrained(tmp_path / "folder", subfolder="scheduler")
    assert (scheduler.config.beta_start, scheduler.config.prediction_type) == (1.0, "v_prediction")


def test_its_card_names_licence_data_and_the_hash_of_every_file(tmp_path, own):
    folder = tmp_path / "folder"
    run("export", "--model", own, "--layout", "diffusers", "--out", folder)
    text = (folder / "README.md").read_text("utf-8")
    assert text.startswith('---\nlicense: "mit"\n')
    assert "- Learnt from: rooms" in text
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {"README.md"}
    lines = [line.split("  ") for line in text.splitlines()]
    said = {line[1]: line[0] for line in lines if len(line[0]) == 64}
    assert said == {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in files}


def test_a_head_and_a_negative_context_go_along(tmp_path):
    recipes = [Recipe("depth", base="custom", resolution=48, head="plain", codec="min-max")]
    head = untrained_head("plain", tiny.unet().config.block_out_channels, 8, 1)
    contexts = {"depth": tiny.context(0)}
    own = tiny.write_own(tmp_path / "head.safetensors", recipes, heads={"plain": head.state_dict()}, contexts=contexts)
    run("export", "--model", own, "--layout", "diffusers", "--dtype", "fp32", "--out", tmp_path / "folder")
    expected = predicted(tmp_path, "--model", own)
    assert np.array_equal(predicted(tmp_path, "--model", tmp_path / "folder"), expected)


REFUSED = [
    (("--layout", "diffusers"), "file.safetensors", "named as a file"),
    (("--layout", "diffusers"), "full", "is there already"),
    (("--layout", "kohya"), "file.safetensors", "give --adapter"),
    (("--layout", "diffusers", "--decoder", "x.safetensors"), "folder", "no place for light halves"),
]


@pytest.mark.parametrize(("words", "out", "sentence"), REFUSED)
def test_what_a_layout_cannot_be_written_as_is_said(tmp_path, own, capsys, words, out, sentence):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/x").touch()
    assert sentence in fails(capsys, "export", "--model", own, *words, "--out", tmp_path / out)


def write_low_rank(path: Path, *, plain: bool = True) -> Path:
    """An adapter of attention; with differences of a norm and a bias beside it unless it is plain."""
    generator = torch.Generator().manual_seed(3)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) * 0.1

    width = tiny.unet().config.block_out_channels[0]
    layer = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
    parts: dict[str, LowRank | Delta] = {
        f"{layer}.{name}": LowRank(drawn(4, width), drawn(width, 4), scale=0.5) for name in ("to_q", "to_v", "to_out.0")
    }
    convolution = tuple(tiny.unet().mid_block.resnets[0].conv1.weight.shape)
    parts["mid_block.resnets.0.conv1"] = LowRank(drawn(4, *convolution[1:]), drawn(convolution[0], 4), scale=2.0)
    if not plain:
        parts["conv_norm_out"] = Delta(drawn(width), drawn(width))
    recipes = (Recipe("normal", base="custom", family="genpercept", tokens=2),)
    write_adapter(path, Adapter(path, parts, "own", base="custom", recipes=recipes))
    return path


@pytest.mark.parametrize(("layout", "spelling"), [("diffusers", "peft"), ("kohya", "kohya")])
def test_a_lora_in_others_names_predicts_as_before(tmp_path, base, layout, spelling):
    adapter, out = write_low_rank(tmp_path / "adapter.safetensors"), tmp_path / f"{layout}.safetensors"
    words = ("--layout", layout, "--dtype", "fp32", "--out", out)
    run("export", "--adapter", adapter, "--base", base, *words)
    expected = predicted(tmp_path, "--adapter", adapter, "--base", base)
    given = ("--family", "genpercept", "--task", "normal")
    assert np.array_equal(predicted(tmp_path, "--adapter", out, "--base", base, *given), expected)
    assert read_adapter(out).spelling == spelling


def test_diffusers_loads_its_lora_and_makes_of_it_what_is_made_here(tmp_path, base):
    adapter, out = write_low_rank(tmp_path / "adapter.safetensors"), tmp_path / "diffusers.safetensors"
    run("export", "--adapter", adapter, "--base", base, "--layout", "diffusers", "--dtype", "fp32", "--out", out)
    network = copy.deepcopy(tiny.unet()).eval()
    merged = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    for layer, part in read_adapter(adapter).parts.items():
        merged[f"{layer}.weight"] += part.difference()
    held = load_file(out)
    alphas = {name: tensor.item() for name, tensor in held.items() if name.endswith(".alpha")}
    tensors = {name: tensor for name, tensor in held.items() if name not in alphas}
    network.load_lora_adapter(tensors, network_alphas=alphas, prefix="unet")
    latent, told = torch.randn(1, 4, 8, 8), tiny.context(0)
    other = copy.deepcopy(tiny.unet()).eval()
    before = other(latent, 1, told).sample
    other.load_state_dict(merged)
    with torch.no_grad():
        found, expected = network(latent, 1, told).sample, other(latent, 1, told).sample
    assert (found - expected).abs().max() < 5e-5
    assert (before - expected).abs().max() > 1e-3


def test_what_is_no_lora_has_names_in_kohyas_alone(tmp_path, base, capsys):
    adapter, out = write_low_rank(tmp_path / "adapter.safetensors", plain=False), tmp_path / "other.safetensors"
    words = ("export", "--adapter", adapter, "--base", base, "--dtype", "fp32", "--out", out, "--layout")
    assert "are no plain LoRA" in fails(capsys, *words, "diffusers")
    run(*words, "kohya")
    expected = predicted(tmp_path, "--adapter", adapter, "--base", base)
    given = ("--family", "genpercept", "--task", "normal")
    assert np.array_equal(predicted(tmp_path, "--adapter", out, "--base", base, *given), expected)
