"""Tensors are read from every layout by their diffusers names, and nothing but tensors is read."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import save_file

from diffusion_perception.core.checkpoints import tensors as tensor_files
from diffusion_perception.core.checkpoints.tensors import (
    CheckpointError,
    find_files,
    network,
    pick_unet,
    pick_vae,
    read_metadata,
    read_object,
    read_shapes,
    shown,
)


def equal(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return set(left) == set(right) and all(torch.equal(left[name], right[name]) for name in left)


def refusal(reads, *arguments) -> str:
    """The one sentence that a person reads."""
    with pytest.raises(CheckpointError) as error:
        reads(*arguments)
    sentence = str(error.value)
    assert "\n" not in sentence
    assert len(sentence) < 400
    return sentence


@pytest.fixture(scope="module")
def unet() -> dict[str, torch.Tensor]:
    return tiny.unet().state_dict()


@pytest.fixture(scope="module")
def vae() -> dict[str, torch.Tensor]:
    return tiny.vae().state_dict()


# Names


@pytest.mark.parametrize("prefix", ["", "unet.", "diffusion_model.", "model.diffusion_model."])
def test_a_unet_is_found_under_every_prefix(tmp_path, unet, prefix):
    file = tmp_path / "x.safetensors"
    save_file({prefix + name: tensor for name, tensor in unet.items()}, file)
    assert equal(network((file,), pick_unet).load(), unet)


@pytest.mark.parametrize("prefix", ["", "vae.", "first_stage_model."])
def test_a_vae_is_found_under_every_prefix(tmp_path, vae, prefix):
    file = tmp_path / "x.safetensors"
    save_file({prefix + name: tensor for name, tensor in vae.items()}, file)
    assert equal(network((file,), pick_vae).load(), vae)


def test_both_are_found_in_one_file_under_stable_diffusions_own_names(tmp_path, unet, vae):
    file = tiny.write_ldm(tmp_path / "sd.safetensors", torch.float32)
    assert equal(network((file,), pick_unet).load(), unet)
    assert equal(network((file,), pick_vae).load(), vae)


def test_a_file_of_one_network_does_not_hold_the_other(tmp_path, unet, vae):
    save_file(unet, tmp_path / "unet.safetensors")
    save_file(vae, tmp_path / "vae.safetensors")
    assert network((tmp_path / "unet.safetensors",), pick_vae).shapes == {}
    assert network((tmp_path / "vae.safetensors",), pick_unet).shapes == {}


def test_losses_that_a_vaes_training_left_are_passed_over(tmp_path, vae):
    file = tmp_path / "vae.safetensors"
    save_file({**tiny.ldm_vae(tiny.vae()), "first_stage_model.loss.logvar": torch.ones(1)}, file)
    assert equal(network((file,), pick_vae).load(), vae)


def test_a_name_that_stable_diffusion_does_not_have_is_kept(tmp_path):
    """Dropping it would run another network than the one that was trained."""
    file = tmp_path / "sd.safetensors"
    save_file({**tiny.ldm(tiny.unet()), "model.diffusion_model.fftblock.weight": torch.ones(2)}, file)
    assert "fftblock.weight" in network((file,), pick_unet).shapes


def test_the_vaes_attention_is_read_in_its_old_spelling_too(tmp_path, vae):
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = dict(vae)
    for name in vae:
        for new, spelling in old.items():
            if f"attentions.0.{new}." in name:
                renamed[name.replace(new, spelling)] = renamed.pop(name)
    save_file(renamed, tmp_path / "vae.safetensors")
    assert equal(network((tmp_path / "vae.safetensors",), pick_vae).load(), vae)


# Files


def test_half_precision_stays_as_it_is_on_disk(tmp_path, unet):
    tiny.write(tmp_path, tiny.unet(), dtype=torch.float16)
    loaded = network(find_files(tmp_path), pick_unet).load()
    assert equal(loaded, {name: tensor.half() for name, tensor in unet.items()})


def test_shapes_are_known_without_reading_a_tensor(tmp_path, unet):
    """The header is enough: everything behind it may be garbage of the right length."""
    file = tmp_path / "x.safetensors"
    save_file(unet, file)
    content = bytearray(file.read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    content[start:] = bytes(len(content) - start)
    file.write_bytes(content)
    assert network((file,), pick_unet).shapes == tiny.shapes(unet)


def write_shards(folder: Path, tensors: dict[str, torch.Tensor]) -> Path:
    names = sorted(tensors)
    halves = {f"diffusion_pytorch_model-0000{i + 1}-of-00002.safetensors": names[i::2] for i in range(2)}
    for file, part in halves.items():
        save_file({name: tensors[name] for name in part}, folder / file)
    listed = {name: file for file, part in halves.items() for name in part}
    return tiny.write_json(folder / f"{tiny.WEIGHTS}.index.json", {"weight_map": listed})


def test_shards_are_read_as_one(tmp_path, unet):
    write_shards(tmp_path, unet)
    assert equal(network(find_files(tmp_path), pick_unet).load(), unet)


def test_a_missing_shard_is_named(tmp_path, unet):
    write_shards(tmp_path, unet)
    (tmp_path / "diffusion_pytorch_model-00002-of-00002.safetensors").unlink()
    assert "There is no file" in (sentence := refusal(network, find_files(tmp_path), pick_unet))
    assert "00002-of-00002" in sentence


@pytest.mark.parametrize("content", ["{}", '{"weight_map": 3}', '{"weight_map": {"a": 1}}'])
def test_an_index_that_lists_nothing_is_refused(tmp_path, content):
    (tmp_path / f"{tiny.WEIGHTS}.index.json").write_text(content)
    assert "lists no weight files: get the file again" in refusal(find_files, tmp_path)


def test_an_index_cannot_lead_out_of_its_folder(tmp_path):
    folder = tmp_path / "inner"
    tiny.write_json(
        folder / f"{tiny.WEIGHTS}.index.json", {"weight_map": {"a": "../../etc/passwd", "b": "/etc/passwd"}}
    )
    assert find_files(folder) == (folder / "passwd",)


def test_safetensors_come_before_pickles_whatever_they_are_called(tmp_path):
    (tmp_path / "diffusion_pytorch_model.bin").touch()
    (tmp_path / "diffusion_pytorch_model.fp16.safetensors").touch()
    assert find_files(tmp_path) == (tmp_path / "diffusion_pytorch_model.fp16.safetensors",)
    (tmp_path / tiny.WEIGHTS).touch()
    assert find_files(tmp_path) == (tmp_path / tiny.WEIGHTS,)


def test_a_folder_without_weights_has_none(tmp_path):
    (tmp_path / "readme.txt").touch()
    assert find_files(tmp_path) == ()
    assert find_files(tmp_path / "missing") == ()


# Pickles


class Evil:
    """What a malicious pickle holds: something to call when it is opened."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return (Path.touch, (self.target,))


def test_a_pickle_of_tensors_is_read_without_running_code(tmp_path, unet):
    file = tmp_path / "diffusion_pytorch_model.bin"
    torch.save(unet, file)
    assert equal(network((file,), pick_unet).load(), unet)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("old_format", [False, True])
def test_a_malicious_pickle_does_not_run(tmp_path, old_format):
    file, ran = tmp_path / "x.bin", tmp_path / "ran"
    evil = {"conv_in.weight": Evil(ran)}
    if old_format:
        file.write_bytes(pickle.dumps(evil))
    else:
        torch.save(evil, file)
    assert "holds something other than tensors, or is not whole" in refusal(read_shapes, file)
    assert not ran.exists()


def test_pickles_are_refused_where_pytorch_cannot_read_them_safely(tmp_path, unet, monkeypatch):
    file = tmp_path / "x.bin"
    torch.save(unet, file)
    monkeypatch.setattr(tensor_files, "torch_version", lambda: (2, 5))
    sentence = refusal(read_shapes, file)
    assert "x.bin is a pickle" in sentence
    assert "update PyTorch to 2.6 or convert the file to .safetensors" in sentence


def test_the_version_of_pytorch_is_read_whatever_follows_it(monkeypatch):
    for text, version in [("2.13.0+cpu", (2, 13)), ("2.6.0a0+git1234", (2, 6)), ("2.5", (2, 5))]:
        monkeypatch.setattr(torch, "__version__", text)
        assert tensor_files.torch_version() == version


@pytest.mark.parametrize("content", [{"state_dict": {"a": 1}}, [1, 2], {"a": torch.ones(1), "epoch": 3}])
def test_a_pickle_of_other_things_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "x.bin")
    assert "x.bin holds no plain dictionary of tensors: get a .safetensors file" in refusal(
        read_shapes, tmp_path / "x.bin"
    )


@pytest.mark.parametrize("length", [0, 1, 10, 1000, -1, -1000])
def test_a_truncated_pickle_is_refused(tmp_path, length):
    file = tmp_path / "x.bin"
    torch.save({"a": torch.ones(1000)}, file)
    file.write_bytes(file.read_bytes()[:length])
    assert "is not whole" in refusal(read_shapes, file)


@pytest.mark.parametrize("name", ["model.ckpt", "model.pt", "model.pth"])
def test_other_pickles_are_refused_by_their_name(tmp_path, name):
    (tmp_path / name).write_bytes(b"x")
    sentence = refusal(read_shapes, tmp_path / name)
    assert f"{name} is a pickle, which can run code: convert it to .safetensors" in sentence


# Damage


@pytest.mark.parametrize("length", [0, 4, 8, 100, -1, -100000])
def test_a_truncated_file_is_refused_before_anything_is_loaded(tmp_path, unet, length):
    file = tmp_path / "cut.safetensors"
    save_file(unet, file)
    file.write_bytes(file.read_bytes()[:length])
    sentence = refusal(read_shapes, file)
    assert "cut.safetensors is not a whole .safetensors file" in sentence
    assert "download or export it again" in sentence


def test_a_picture_renamed_to_safetensors_is_refused(tmp_path):
    tiny.save_picture(tmp_path / "x.png", 20, 20).rename(tmp_path / "x.safetensors")
    assert "x.safetensors is not a whole .safetensors file" in refusal(read_metadata, tmp_path / "x.safetensors")


def test_a_missing_file_is_named(tmp_path):
    assert f"There is no file {tmp_path / 'x.safetensors'}: check the path" in refusal(
        read_shapes, tmp_path / "x.safetensors"
    )


@pytest.mark.parametrize("content", ["{", "", "[1]", "3", "\xff"])
def test_damaged_json_is_refused(tmp_path, content):
    file = tmp_path / "unet" / "config.json"
    file.parent.mkdir()
    file.write_bytes(content.encode("latin-1"))
    assert f"{tmp_path.name}/unet/config.json" in (sentence := refusal(read_object, file))
    assert "get the file again" in sentence


def test_a_json_that_is_not_there_is_empty(tmp_path):
    assert read_object(tmp_path / "config.json") == {}


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/models/my-depth/unet", "my-depth/unet"),
        (
            "/models/my-depth/unet/diffusion_pytorch_model.safetensors",
            "my-depth/unet/diffusion_pytorch_model.safetensors",
        ),
        ("/models/genpercept/unet_depth_v2", "genpercept/unet_depth_v2"),
        ("/models/mine.safetensors", "mine.safetensors"),
        ("/models/perception", "perception"),
        ("/unet", "unet"),
    ],
)
def test_a_path_is_shown_from_the_first_name_that_tells_it_from_others(path, name):
    assert shown(Path(path)) == name


def test_json_of_every_kind_is_named_by_its_repository(tmp_path):
    for name in ("model_index.json", "scheduler/scheduler_config.json", "vae/config.json"):
        file = tmp_path / "repo" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("{")
        assert refusal(read_object, file).startswith(f"repo/{name} is not readable JSON")


@pytest.mark.parametrize("padding", range(0, 64, 8))
def test_tensors_lie_the_same_in_memory_however_long_the_header_is(tmp_path, padding):
    tensors = {"a": torch.rand(3, 5), "b": torch.rand(7), "c": torch.rand(4, 4)}
    save_file(tensors, tmp_path / "file.safetensors", {"note": "x" * padding})
    found = tensor_files.read(tmp_path / "file.safetensors", {name: name for name in tensors})
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
    assert all(tensor.data_ptr() % 64 == 0 for tensor in found.values())


def test_weights_come_in_the_precision_that_is_asked_for_and_in_memory_of_their_own(tmp_path):
    numbers = {f"layer.{number}.weight": torch.randn(7, 5).half() for number in range(120)}
    numbers |= {"layer.0.bias": torch.randn(7), "position": torch.arange(3)}
    save_file(numbers, tmp_path / "some.safetensors")
    weights = network((tmp_path / "some.safetensors",), lambda names: {name: name for name in names})
    outlines = weights.outlines()
    assert {name: (tensor.shape, tensor.dtype) for name, tensor in outlines.items()} == {
        name: (tensor.shape, tensor.dtype) for name, tensor in numbers.items()
    }
    assert all(tensor.is_meta for tensor in outlines.values())
    loaded = weights.load(torch.float32, copy=True)
    assert list(loaded) == list(weights.load())
    (tmp_path / "some.safetensors").write_bytes(b"\xff" * 64)  # nothing may lean on the file any more
    for name, tensor in loaded.items():
        assert tensor.dtype == (torch.int64 if name == "position" else torch.float32)
        assert torch.equal(tensor, numbers[name].to(tensor.dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_weights_are_the_same_numbers_where_pytorch_is_told_to_take_large_pages(tmp_path, monkeypatch, dtype):
    held = {"a": torch.randn(3, 5).half(), "b": torch.zeros(0, 4).half(), "c": torch.tensor(2.0).half()}
    save_file(held, tmp_path / "w.safetensors")
    weights = network((tmp_path / "w.safetensors",), tensor_files.keep)
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "1")
    for loaded in (weights.load(dtype), weights.load(dtype, copy=True)):
        assert equal(loaded, {name: tensor.to(dtype) for name, tensor in held.items()})
        assert all(tensor.dtype == dtype for tensor in loaded.values())
    assert equal(weights.load(copy=True), held)
