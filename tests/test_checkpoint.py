"""Every layout opens to its own weights and nobody else's; what cannot be used says so in one sentence."""

from __future__ import annotations

import json
import shutil
from ast import literal_eval
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from diffusion_perception.core.checkpoints import own_file, tensors
from diffusion_perception.core.checkpoints.checkpoint import Checkpoint, open_all, open_checkpoint
from diffusion_perception.core.checkpoints.context import as_context, prompt_tokens, read_context
from diffusion_perception.core.checkpoints.describe import describe
from diffusion_perception.core.checkpoints.networks import unet_folders
from diffusion_perception.core.checkpoints.tensors import CheckpointError
from diffusion_perception.core.errors import UserError
from diffusion_perception.core.recipe import KEY, Recipe
from diffusion_perception.trainer.host import load_perceiver, load_unet, load_vae

MODELS = (
    "unet_depth_v2",
    "unet_disparity_v2",
    "unet_dis_v1",
    "unet_dis_v2",
    "unet_matting_v2",
    "unet_normal_v2",
    "unet_seg_v2",
)
SEED = {name: seed for seed, name in enumerate(MODELS)}
"""Which random network lies in which folder of the fixture."""


def refusal(call, *arguments, **more) -> str:
    """The one sentence that a person reads."""
    with pytest.raises(CheckpointError) as error:
        call(*arguments, **more)
    sentence = str(error.value)
    assert "\n" not in sentence
    assert sentence.endswith(".")
    return sentence


def holds(checkpoint: Checkpoint, seed: int, in_channels: int = 4) -> bool:
    """Whether its UNet is the random network of that seed, tensor by tensor."""
    loaded = load_unet(checkpoint.unet, checkpoint.architecture).state_dict()
    expected = tiny.unet(in_channels, seed=seed).state_dict()
    return set(loaded) == set(expected) and all(torch.equal(loaded[name], expected[name]) for name in expected)


def holds_vae(checkpoint: Checkpoint) -> bool:
    assert checkpoint.vae is not None
    assert checkpoint.vae_architecture is not None
    loaded = load_vae(checkpoint.vae, checkpoint.vae_architecture).state_dict()
    return all(torch.equal(loaded[name], tensor) for name, tensor in tiny.vae().state_dict().items())


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> Path:
    """The whole of genpercept-models."""
    folder = tiny.write_genpercept(tmp_path_factory.mktemp("hub") / "genpercept-models", MODELS)
    tiny.write_headless(folder / "unet_disparity_dpt_head_v2", seed=7)
    return tiny.write_head(folder)


@pytest.fixture
def single(tmp_path) -> Path:
    """A repository of one task."""
    return tiny.write_genpercept(tmp_path / "genpercept-depth", ["unet_depth_v2"])


@pytest.fixture(scope="session")
def own(tmp_path_factory) -> Path:
    """The project's own file with two tasks."""
    path = tmp_path_factory.mktemp("own") / "mine.safetensors"
    return tiny.write_own(path, [Recipe("depth", base="custom"), Recipe("normal", base="custom", seed=3)])


# GenPercept


@pytest.mark.parametrize(
    ("task", "folder"),
    [
        ("depth", "unet_depth_v2"),
        ("disparity", "unet_disparity_v2"),
        ("normal", "unet_normal_v2"),
        ("matte", "unet_matting_v2"),
        ("seg", "unet_seg_v2"),
        ("dis", "unet_dis_v2"),
    ],
)
def test_each_task_of_the_whole_repository_opens_its_own_network(models, task, folder):
    checkpoint = open_checkpoint(models, task=task)
    assert checkpoint.path.name == folder
    assert holds(checkpoint, SEED[folder])
    assert holds_vae(checkpoint)
    assert checkpoint.context is not None
    assert torch.equal(checkpoint.context.tokens, tiny.context())
    assert checkpoint.recipe.family == "genpercept"


def test_several_tasks_and_none_chosen_are_listed(models):
    sentence = refusal(open_checkpoint, models)
    assert "genpercept-models holds several tasks (depth, disparity, mask, matte, normal, segmentation)" in sentence
    assert "name one of them" in sentence


def test_a_task_that_none_of_them_has_is_refused_with_what_there_is(models):
    sentence = refusal(open_checkpoint, models, task="albedo")
    assert "genpercept-models holds nothing for albedo, only " in sentence
    assert "unet_depth_v2" in sentence


@pytest.mark.parametrize(
    ("family", "task", "folder"),
    [
        ("genpercept-v1", "mask", "unet_dis_v1"),
        ("genpercept", "mask", "unet_dis_v2"),
        ("genpercept-dpt", "disparity", "unet_disparity_dpt_head_v2"),
        ("genpercept", "disparity", "unet_disparity_v2"),
    ],
)
def test_a_named_family_picks_the_network_that_was_trained_for_it(models, family, task, folder):
    checkpoint = open_checkpoint(models, family, task)
    assert checkpoint.path.name == folder
    assert checkpoint.recipe.family == family


@pytest.mark.parametrize("folder", ["unet_dis_v1", "unet_dis_v2"])
def test_one_folder_of_the_repository_opens_alone_with_what_lies_beside_it(models, folder):
    checkpoint = open_checkpoint(models / folder)
    assert holds(checkpoint, SEED[folder])
    assert holds_vae(checkpoint)
    assert checkpoint.recipe.task == "mask"


def test_a_repository_of_one_task_needs_no_task(single):
    checkpoint = open_checkpoint(single)
    assert checkpoint.recipe.task == "depth"
    assert holds(checkpoint, 0)
    assert load_perceiver(checkpoint).context.tokens.shape == (1, 2, tiny.WIDTH)


def test_a_path_may_be_written_in_any_way(single, monkeypatch):
    monkeypatch.chdir(single / "unet_depth_v2")
    assert all(holds(open_checkpoint(Path(path)), 0) for path in (".", "..", "../unet_depth_v2/"))
    monkeypatch.chdir(single)
    assert open_checkpoint(Path("unet_depth_v2")).vae is not None


def test_a_bare_unet_folder_opens_without_a_vae(tmp_path):
    folder = tiny.write(tmp_path / "unet_depth_v2", tiny.unet())
    checkpoint = open_checkpoint(folder)
    assert checkpoint.vae is None
    assert checkpoint.context is None
    assert "comes without a text context" in (sentence := refusal(load_perceiver, checkpoint))
    assert "put empty_text_embed.safetensors or a text_encoder/ folder beside it, or give --context FILE" in sentence
    tiny.write_context(tmp_path)
    sentence = refusal(load_perceiver, open_checkpoint(folder))
    assert f"{tmp_path.name}/unet_depth_v2 comes without a VAE: put a vae/ folder beside it" in sentence


def test_the_dpt_head_opens_with_the_unet_that_has_no_output(models):
    checkpoint = open_checkpoint(models / "unet_disparity_dpt_head_v2")
    assert checkpoint.recipe.head == "dpt_head_identity"
    assert checkpoint.head is not None
    head = checkpoint.head.load()
    assert all(torch.equal(head[name], tensor) for name, tensor in tiny.dpt_head().state_dict().items())
    assert load_perceiver(checkpoint).head is not None


def test_a_unet_trained_for_a_head_is_not_run_without_it(models, tmp_path):
    folder = shutil.copytree(models / "unet_disparity_dpt_head_v2", tmp_path / "hub" / "unet_disparity_dpt_head_v2")
    expected = (
        "hub/unet_disparity_dpt_head_v2 was trained for a head: run it as genpercept-dpt, with dpt_head_identity/"
    )
    assert expected in refusal(open_checkpoint, folder)
    tiny.write(folder, tiny.unet())  # even where it has an output layer
    assert expected in refusal(open_checkpoint, folder)


def test_the_disparity_of_a_repository_without_its_head_still_opens(tmp_path):
    folder = tiny.write_genpercept(tmp_path / "hub", ["unet_disparity_v2"])
    tiny.write_headless(folder / "unet_disparity_dpt_head_v2", seed=7)
    assert holds(open_checkpoint(folder, task="disparity"), 0)


def test_a_damaged_head_is_refused_with_what_is_wrong(models, tmp_path):
    folder = shutil.copytree(models / "unet_disparity_dpt_head_v2", tmp_path / "unet_disparity_dpt_head_v2")
    (tmp_path / "dpt_head_identity").mkdir()
    save_file({"x": torch.ones(1)}, tmp_path / "dpt_head_identity" / "model.safetensors")
    tiny.write(tmp_path / "vae", tiny.vae())
    tiny.write_context(tmp_path)
    with pytest.raises(ValueError, match="The weights of dpt_head_identity lack"):
        load_perceiver(open_checkpoint(folder))


def test_the_layout_of_v1_is_read_with_its_77_tokens(tmp_path):
    folder = tmp_path / "weights" / "v1"
    for seed, name in enumerate(("unet_depth_v1", "unet_normal_v1", "unet_dis_v1")):
        tiny.write(folder / name, tiny.unet(seed=seed))
    tiny.write(folder / "vae", tiny.vae(), dtype=torch.float16)
    tokens = tiny.context(tokens=77)[0].half().numpy()
    np.save(folder / "empty_text_embed.npy", tokens)
    checkpoint = open_checkpoint(folder, task="normal")
    assert holds(checkpoint, 1)
    assert checkpoint.recipe.family == "genpercept-v1"
    assert checkpoint.context is not None
    assert np.array_equal(checkpoint.context.tokens[0].numpy(), tokens.astype(np.float32))


def test_the_layout_of_the_experiments_is_read_where_family_and_task_are_named(tmp_path):
    folder = tmp_path / "genpercept_sd21_depth_lr3e-5"
    tiny.write(folder / "unet", tiny.unet(seed=1))
    tiny.write(folder / "vae", tiny.vae())
    sentence = refusal(open_checkpoint, folder)
    assert (
        "genpercept_sd21_depth_lr3e-5/unet is a UNet with 4 input channels and nothing beside it says how it was"
        in sentence
    )
    assert "name its family and task" in sentence
    assert holds(open_checkpoint(folder, "genpercept"), 1)  # the folder says the task
    tiny.write_head(folder)
    checkpoint = open_checkpoint(folder)
    assert (checkpoint.recipe.family, checkpoint.recipe.task) == ("genpercept-dpt", "depth")


def test_a_decoder_trained_beside_a_unet_is_used_in_the_vae(tmp_path):
    folder = tmp_path / "vae_decoder_run"
    tiny.write(folder / "unet", tiny.unet())
    trained = tiny.vae(seed=9)
    for part, module in (("vae_decoder", trained.decoder), ("vae_post_quant_conv", trained.post_quant_conv)):
        (folder / part).mkdir()
        save_file(module.state_dict(), folder / part / "model.safetensors")
    sentence = refusal(open_checkpoint, folder, "genpercept", "depth")
    assert "vae_decoder/model.safetensors is a decoder without its encoder: put the vae/" in sentence
    tiny.write(folder / "vae", tiny.vae())
    checkpoint = open_checkpoint(folder, "genpercept", "depth")
    assert checkpoint.vae is not None
    assert checkpoint.vae_architecture is not None
    loaded = load_vae(checkpoint.vae, checkpoint.vae_architecture).state_dict()
    for name, tensor in loaded.items():
        source = trained if name.startswith(("decoder.", "post_quant_conv.")) else tiny.vae()
        assert torch.equal(tensor, source.state_dict()[name]), name


# Never another model's weights


def test_a_damaged_network_does_not_make_room_for_its_older_version(models, tmp_path):
    folder = shutil.copytree(models, tmp_path / "hub")
    file = folder / "unet_dis_v2" / tiny.WEIGHTS
    file.write_bytes(file.read_bytes()[:-100])
    sentence = refusal(open_checkpoint, folder, task="mask")
    assert "hub/unet_dis_v2/diffusion_pytorch_model.safetensors is not a whole .safetensors file" in sentence
    assert holds(open_checkpoint(folder, task="depth"), SEED["unet_depth_v2"])  # which the damage does not concern


def test_a_network_that_was_not_downloaded_does_not_make_room_for_its_older_version(models, tmp_path):
    folder = shutil.copytree(models, tmp_path / "hub")
    (folder / "unet_dis_v2" / tiny.WEIGHTS).unlink()
    sentence = refusal(open_checkpoint, folder, task="mask")
    assert "hub/unet_dis_v2 holds no weights: expected diffusion_pytorch_model.safetensors in it" in sentence


def test_another_task_than_the_checkpoint_was_trained_for_is_refused(single, own):
    sentence = refusal(open_checkpoint, single, task="normal")
    assert (
        "genpercept-depth/unet_depth_v2 cannot be used as GenPercept v2: it was trained for depth, not for normal"
        in sentence
    )
    sentence = refusal(open_checkpoint, own, task="mask")
    assert "mine.safetensors was trained for depth, normal, not for mask: name one of these" in sentence


def test_a_folder_without_a_unet_says_what_was_expected(tmp_path):
    (tmp_path / "models").mkdir()
    sentence = refusal(open_checkpoint, tmp_path / "models")
    assert (
        "models holds no UNet: expected unet/, unet_<task>_v2/ or diffusion_pytorch_model.safetensors in it" in sentence
    )


def test_a_path_that_is_not_there_is_named(tmp_path):
    assert "There is no file" in refusal(open_checkpoint, tmp_path / "x.safetensors")
    assert "There is no file" in refusal(open_checkpoint, tmp_path / "x")


def test_missing_misshapen_and_unknown_tensors_are_counted_and_one_is_named(single):
    file = single / "unet_depth_v2" / tiny.WEIGHTS
    tensors = load_file(file)
    del tensors["mid_block.resnets.1.conv2.bias"]
    tensors["mid_block.resnets.1.conv1.bias"] = torch.zeros(3)
    tensors["further.weight"] = torch.zeros(3)
    save_file(tensors, file)
    sentence = refusal(load_perceiver, open_checkpoint(single))
    assert "genpercept-depth/unet_depth_v2/diffusion_pytorch_model.safetensors does not fit" in sentence
    assert "2 weights are missing or misshapen, 1 are unknown (mid_block.resnets.1.conv1.bias ...)" in sentence
    assert "download or export it again" in sentence


def test_a_damaged_config_is_named(single):
    (single / "unet_depth_v2" / "config.json").write_text("{")
    assert "genpercept-depth/unet_depth_v2/config.json is not readable JSON" in refusal(open_checkpoint, single)


def test_a_config_of_another_kind_of_unet_is_refused(single):
    tiny.write_json(single / "unet_depth_v2" / "config.json", {"act_fn": "gelu"})
    assert "unet_depth_v2 cannot be used: its config says act_fn='gelu'" in refusal(open_checkpoint, single)


def test_a_vae_of_another_kind_is_refused(single):
    save_file({"encoder.conv_in.weight": torch.ones(1)}, single / "vae" / tiny.WEIGHTS)
    sentence = refusal(open_checkpoint, single)
    assert "cannot be used as a VAE: expected a Stable Diffusion VAE with 4 latent channels, found none" in sentence


@pytest.mark.parametrize("family", ["auto", "genpercept"])
def test_an_inpainting_unet_is_refused(tmp_path, family):
    folder = tiny.write(tmp_path / "unet_depth_v2", tiny.unet(9))
    sentence = refusal(open_checkpoint, folder, family)
    assert "9 input channels" in sentence
    assert ("to inpaint, a UNet with" if family == "auto" else "where 4 are expected") in sentence


def test_an_sdxl_unet_is_refused(tmp_path):
    tensors = {**tiny.unet().state_dict(), "add_embedding.linear_1.weight": torch.ones(1)}
    save_file(tensors, tmp_path / "sdxl_depth.safetensors")
    sentence = refusal(open_checkpoint, tmp_path / "sdxl_depth.safetensors")
    assert (
        "sdxl_depth.safetensors cannot be used: it holds an SDXL UNet; this version runs SD 1.x and SD 2.x" in sentence
    )


def test_a_unet_that_predicts_more_than_a_latent_is_refused(single):
    file = single / "unet_depth_v2" / tiny.WEIGHTS
    tensors = load_file(file)
    tensors["conv_out.weight"] = torch.zeros(12, 32, 3, 3)
    save_file(tensors, file)
    assert "its UNet has 12 output channels, expected are 4" in refusal(open_checkpoint, single)


def test_a_file_that_holds_no_unet_is_refused(tmp_path):
    save_file({"a": torch.ones(1)}, tmp_path / "x.safetensors")
    sentence = refusal(open_checkpoint, tmp_path / "x.safetensors")
    assert "x.safetensors cannot be used: expected the weights of a Stable Diffusion UNet" in sentence


def test_pickles_open_only_where_they_are_safe(tmp_path, monkeypatch):
    folder = tiny.write(tmp_path / "unet_depth_v2", tiny.unet())
    (folder / tiny.WEIGHTS).unlink()
    torch.save(tiny.unet().state_dict(), folder / "diffusion_pytorch_model.bin")
    assert holds(open_checkpoint(folder), 0)
    monkeypatch.setattr(tensors, "torch_version", lambda: (2, 5))
    assert "is a pickle, and this PyTorch" in refusal(open_checkpoint, folder)


# Marigold


def test_a_marigold_repository_is_read_with_its_configs(tmp_path):
    folder = tiny.write_marigold(tmp_path / "marigold-normals", tiny.marigold("normals", {"use_full_z_range": False}))
    checkpoint = open_checkpoint(folder)
    assert (checkpoint.recipe.family, checkpoint.recipe.task, checkpoint.recipe.codec) == (
        "marigold",
        "normal",
        "half-sphere",
    )
    assert checkpoint.recipe.steps == 4
    assert holds(checkpoint, 4, in_channels=8)
    assert checkpoint.architecture.heads == (1, 2, 2, 2)


def test_a_marigold_with_a_scheduler_that_is_not_run_is_refused(tmp_path):
    folder = tiny.write_marigold(tmp_path / "marigold-depth", tiny.marigold())
    file = folder / "scheduler" / "scheduler_config.json"
    tiny.write_json(file, {**json.loads(file.read_text()), "_class_name": "UniPCMultistepScheduler"})
    sentence = refusal(open_checkpoint, folder)
    assert "marigold-depth/unet cannot be used as Marigold (depth, normals): its scheduler says" in sentence
    assert "_class_name=UniPCMultistepScheduler; this version runs Marigold with DDIMScheduler or LCM" in sentence


# Single files


def test_a_whole_stable_diffusion_checkpoint_opens_where_family_and_task_are_named(tmp_path):
    path = tiny.write_ldm(tmp_path / "my-finetune.safetensors", torch.float32)
    tiny.write_context(tmp_path)
    assert "my-finetune.safetensors is plain Stable Diffusion, a UNet with 4 input channels" in refusal(
        open_checkpoint, path
    )
    assert "nothing in it says its task" in refusal(open_checkpoint, path, "genpercept")
    checkpoint = open_checkpoint(path, "genpercept", "depth")
    assert checkpoint.recipe.base == "custom"
    unet = load_unet(checkpoint.unet, replace(checkpoint.architecture, heads=(1, 2, 2, 2))).state_dict()
    assert all(torch.equal(unet[name], tensor) for name, tensor in tiny.unet().state_dict().items())
    assert holds_vae(checkpoint)
    assert checkpoint.context is not None


def test_a_single_file_takes_what_it_lacks_from_beside_it(tmp_path):
    tiny.write(tmp_path, tiny.unet(), "unet_depth_v2.safetensors")
    path = tmp_path / "unet_depth_v2.safetensors"
    assert open_checkpoint(path).vae is None
    tiny.write(tmp_path / "vae", tiny.vae())
    tiny.write_context(tmp_path)
    checkpoint = open_checkpoint(path)
    assert checkpoint.recipe.task == "depth"
    assert holds_vae(checkpoint)
    assert checkpoint.context is not None


# The project's own file


def test_the_own_file_opens_as_it_was_written(tmp_path):
    recipes = [
        Recipe("depth", name="indoor", base="custom", family="genpercept", seed=2),
        Recipe("disparity", base="custom", head="dpt_head_identity", codec="min-max"),
        Recipe("normal", base="custom", axes=("right", "up", "back")),
    ]
    shared = tiny.context(7, tokens=77)
    path = tiny.write_own(
        tmp_path / "mine.safetensors", recipes, heads={"dpt_head_identity": tiny.dpt_head().state_dict()},
        contexts={"indoor": tiny.context(5), "disparity": shared, "normal": shared},
        metadata={"modelspec.title": "Mine"},
    )  # fmt: skip
    found = open_all(path)
    assert [checkpoint.recipe for checkpoint in found] == recipes
    assert all(holds(checkpoint, 0) and holds_vae(checkpoint) for checkpoint in found)
    assert all(checkpoint.architecture == tiny.unet_architecture(tiny.unet()) for checkpoint in found)
    indoor, disparity, normal = found
    assert indoor.context is not None
    assert torch.equal(indoor.context.tokens, tiny.context(5))
    assert normal.context is not None
    assert torch.equal(normal.context.tokens, shared)
    assert (indoor.head, normal.head) == (None, None)
    assert disparity.head is not None
    assert set(disparity.head.shapes) == set(tiny.dpt_head().state_dict())
    assert open_checkpoint(path, task="indoor").recipe == indoor.recipe
    assert open_checkpoint(path, task="normals").recipe == normal.recipe
    assert tensors.read_metadata(path)["modelspec.title"] == "Mine"


def test_recipes_that_nothing_tells_apart_are_not_written(tmp_path):
    with pytest.raises(ValueError, match="Recipes depth, depth need a name of their own each"):
        tiny.write_own(tmp_path / "x.safetensors", [Recipe("depth"), Recipe("depth")])
    with pytest.raises(ValueError, match="contexts must bear one of them"):
        tiny.write_own(tmp_path / "x.safetensors", [Recipe("depth")], contexts={"normal": tiny.context()})


def test_two_recipes_of_one_task_are_told_apart_by_their_names(tmp_path):
    recipes = [Recipe("depth", name="indoor", base="custom"), Recipe("depth", name="outdoor", base="custom")]
    path = tiny.write_own(tmp_path / "mine.safetensors", recipes)
    assert "mine.safetensors holds several tasks (indoor, outdoor): name one of them" in refusal(
        open_checkpoint, path, task="depth"
    )
    assert open_checkpoint(path, task="outdoor").recipe.name == "outdoor"


def test_the_header_is_enough_to_know_what_an_own_file_holds(own, tmp_path):
    """Everything behind it may be garbage of the right length."""
    content = bytearray(own.read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    content[start:] = bytes(len(content) - start)
    (tmp_path / "mine.safetensors").write_bytes(content)
    assert [checkpoint.recipe.task for checkpoint in open_all(tmp_path / "mine.safetensors")] == ["depth", "normal"]


def test_an_own_file_without_vae_and_context_takes_those_beside_it(tmp_path):
    path = tiny.write_own(tmp_path / "mine.safetensors", [Recipe("depth", base="custom")], vae=None, contexts=None)
    assert open_checkpoint(path).vae is None
    tiny.write(tmp_path / "vae", tiny.vae())
    tiny.write_context(tmp_path)
    checkpoint = open_checkpoint(path)
    assert holds_vae(checkpoint)
    assert checkpoint.context is not None


def test_an_own_file_that_lacks_its_head_says_so(tmp_path):
    path = tiny.write_own(tmp_path / "mine.safetensors", [Recipe("disparity", base="custom", head="dpt_head_identity")])
    sentence = refusal(open_checkpoint, path)
    assert (
        "mine.safetensors lacks the head 'dpt_head_identity' that its recipe disparity names: export it again"
        in sentence
    )


def rewrite_header(path: Path, **changed: str) -> Path:
    metadata = {**tensors.read_metadata(path), **changed}
    save_file(load_file(path), path, metadata=metadata)
    return path


def test_a_recipe_of_a_newer_version_asks_for_an_update(tmp_path, own):
    path = rewrite_header(shutil.copy(own, tmp_path / "mine.safetensors"), **{KEY: '[{"task": "depth", "warp": 1}]'})
    assert (
        "mine.safetensors has a recipe that this version cannot read (unknown fields warp): update the pack"
        in refusal(open_all, path)
    )


def test_a_damaged_header_is_told(tmp_path, own):
    path = rewrite_header(shutil.copy(own, tmp_path / "mine.safetensors"), **{"diffusion_perception.unet": "{"})
    assert "mine.safetensors has a damaged header" in refusal(open_all, path)


# Text contexts


def test_a_context_of_another_width_is_refused(single):
    tiny.write_context(single, tiny.context(width=48))
    sentence = refusal(open_checkpoint, single)
    assert "genpercept-depth/empty_text_embed.safetensors holds a text context of shape (1, 2, 48)" in sentence
    assert "this network reads (1, tokens, 64): give the embedding of its own text encoder" in sentence


def test_a_context_of_two_dimensions_is_one_of_three(tmp_path):
    np.save(tmp_path / "x.npy", np.ones((77, 64), np.float16))
    tokens = read_context(tmp_path / "x.npy")
    assert (tokens.shape, tokens.dtype) == ((1, 77, 64), torch.float32)


@pytest.mark.parametrize("shape", [(64,), (2, 2, 64), (1, 1, 2, 64)])
def test_a_context_of_any_other_shape_is_refused(shape):
    architecture = tiny.unet_architecture(tiny.unet())
    assert "x.npy holds a text context of shape" in refusal(as_context, torch.ones(shape), architecture, Path("x.npy"))


def test_a_pickled_array_is_refused_and_not_run(tmp_path):
    ran = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return (Path.touch, (ran,))

    np.save(tmp_path / "x.npy", np.array([Evil()]), allow_pickle=True)
    assert "x.npy is not a plain .npy array" in refusal(read_context, tmp_path / "x.npy")
    assert not ran.exists()


def test_one_of_several_contexts_is_chosen_by_its_key(tmp_path):
    path = tmp_path / "contexts.safetensors"
    save_file({"empty": tiny.context(1), "depth": tiny.context(2)}, path)
    assert torch.equal(read_context(path, "depth"), tiny.context(2))
    for key in ("", "normal"):
        assert "contexts.safetensors holds depth, empty: name one as contexts.safetensors:KEY" in refusal(
            read_context, path, key
        )


@pytest.mark.parametrize("layout", ["vocab.json", "tokenizer.json"])
def test_the_empty_prompt_is_spelt_as_the_tokenizer_spells_it(tmp_path, layout):
    vocabulary = {"<|startoftext|>": 4, "<|endoftext|>": 3}
    content = vocabulary if layout == "vocab.json" else {"model": {"vocab": vocabulary}}
    tiny.write_json(tmp_path / "tokenizer" / layout, content)
    assert prompt_tokens(tmp_path / "text_encoder", []) == [4, 3]


@pytest.mark.parametrize(
    ("files", "pad"),
    [
        ({}, 3),
        ({"special_tokens_map.json": {"pad_token": "!"}, "tokenizer_config.json": {"pad_token": "<|endoftext|>"}}, 0),
        ({"special_tokens_map.json": {"pad_token": {"content": "!"}}}, 0),
        ({"tokenizer_config.json": {"pad_token": "!"}}, 0),
    ],
)
def test_a_padded_empty_prompt_has_77_tokens_of_its_generation(tmp_path, files, pad):
    vocabulary = {"!": 0, "<|startoftext|>": 4, "<|endoftext|>": 3}
    for name, content in {"vocab.json": vocabulary, **files}.items():
        tiny.write_json(tmp_path / "tokenizer" / name, content)
    assert prompt_tokens(tmp_path / "text_encoder", [], padded=True) == [4, 3, *[pad] * 75]


def test_the_empty_prompt_is_clips_where_there_is_no_tokenizer(tmp_path):
    assert prompt_tokens(tmp_path / "text_encoder", []) == [49406, 49407]


# What a person may want to know


def test_describing_says_everything(own, models):
    described = describe(own)
    assert [row["recipe"]["task"] for row in described["checkpoints"]] == ["depth", "normal"]
    row = described["checkpoints"][0]
    assert row["parameters"] == sum(tensor.numel() for tensor in tiny.unet().state_dict().values())
    assert (row["input channels"], row["context width"], row["context"]) == (4, 64, "(1, 2, 64)")
    json.dumps(described)
    whole = {row["from"]: row.get("id") for row in describe(models)["checkpoints"]}
    assert whole["genpercept-models/unet_dis_v1"] == whole["genpercept-models/unet_dis_v2"] == "mask"


def test_describing_says_what_is_known_where_the_task_is_not(tmp_path):
    folder = tmp_path / "mine"
    tiny.write_genpercept(folder, ["unet"])
    (row,) = describe(folder)["checkpoints"]
    assert row["from"] == "mine/unet"
    assert (row["input channels"], row["context width"]) == (4, 64)
    assert "nothing in it says its task: name one of depth" in row["problem"]
    (row,) = describe(folder, task="depth")["checkpoints"]
    assert "problem" not in row


def test_describing_a_plain_stable_diffusion_file_says_what_is_missing(tmp_path):
    path = tiny.write_ldm(tmp_path / "sd.safetensors")
    (row,) = describe(path)["checkpoints"]
    assert "name its family and task" in row["problem"]


def test_describing_says_what_tells_a_vae_s_latents_wherever_it_lies(own, tmp_path):
    alone = tiny.write(tmp_path / "alone" / "vae", tiny.vae())
    save_file(tiny.ldm_vae(tiny.vae()), tmp_path / "vae.safetensors")
    whole = tiny.write_ldm(tmp_path / "sd.safetensors")
    hub = tiny.write_genpercept(tmp_path / "hub", ["unet"])
    told = [describe(path)["vae"] for path in (alone, alone.parent, alone / tiny.WEIGHTS, tmp_path / "vae.safetensors")]
    rows = [row for path in (own, whole, hub) for row in describe(path)["checkpoints"]]
    (line,) = {row["latents"] for row in (*told, *rows)}
    assert told[0]["parameters"] == sum(tensor.numel() for tensor in tiny.vae().state_dict().values())
    values = literal_eval(line)
    tensors = tiny.vae().state_dict()
    assert {"encoder.conv_in.weight", "encoder.conv_out.weight", "quant_conv.weight"} < values.keys()
    for name, found in values.items():
        assert np.allclose([found[0], found[-1]], tensors[name].flatten()[[0, -1]], rtol=1e-3)


def test_describing_a_vae_of_another_kind_is_refused(tmp_path):
    tensors = dict(tiny.vae().state_dict())
    tensors["post_quant_conv.weight"] = torch.zeros(16, 16, 1, 1)
    save_file(tensors, tmp_path / "ae.safetensors")
    assert "ae.safetensors cannot be used as a VAE: expected" in refusal(describe, tmp_path / "ae.safetensors")


def test_describing_what_cannot_be_read_is_refused(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"x" * 100)
    assert "is not a whole .safetensors file" in refusal(describe, tmp_path / "x.safetensors")


def test_the_folders_of_networks_are_found_in_order(models, tmp_path):
    assert [folder.name for folder in unet_folders(models)] == sorted([*MODELS, "unet_disparity_dpt_head_v2"])
    assert unet_folders(models / "unet_depth_v2") == [models / "unet_depth_v2"]
    (tmp_path / "unet").mkdir()
    assert unet_folders(tmp_path) == []


def test_an_own_file_s_header_is_read_once(monkeypatch, own):
    """What comes after it is the text context, which is read at once."""
    paths, opened = [], tensors.opened
    monkeypatch.setattr(tensors, "opened", lambda path: paths.append(path) or opened(path))
    headers, read = [], tensors.read_header
    monkeypatch.setattr(own_file, "read_header", lambda path: headers.append(path) or read(path))
    open_checkpoint(own, task="depth")
    assert headers == [own]
    assert len(paths) <= 4


def test_a_negative_context_belongs_to_its_recipe_and_comes_back(tmp_path):
    recipe = Recipe("depth", base="custom", guidance_scale=2.0)
    contexts = {"depth": tiny.context(1), "depth.negative": tiny.context(2)}
    path = tiny.write_own(tmp_path / "guided.safetensors", [recipe], contexts=contexts)
    file, checkpoint = own_file.read_own(path), open_checkpoint(path)
    assert torch.equal(file.negative(recipe, checkpoint.architecture).tokens, contexts["depth.negative"])
    assert torch.equal(checkpoint.context.tokens, contexts["depth"])
    with pytest.raises(UserError, match="contexts must bear one of them"):
        tiny.write_own(tmp_path / "no.safetensors", [recipe], contexts={"normal.negative": tiny.context(2)})
