"""Whatever lies in a model folder: what is a model is offered, what is none is not, and nothing takes the pack down."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import save_file

from diffusion_perception.core.checkpoints.adapter_file import read_adapter
from diffusion_perception.core.checkpoints.checkpoint import open_checkpoint
from diffusion_perception.core.checkpoints.library import MOST_FOLDERS, Library, contents
from diffusion_perception.core.checkpoints.tensors import CheckpointError
from diffusion_perception.core.errors import UserError
from diffusion_perception.core.recipe import Recipe

INDEX = "diffusion_pytorch_model.safetensors.index.json"
HTML = b"<!DOCTYPE html><html><body>Sign in</body></html>"


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> Path:
    return tiny.write_own(tmp_path_factory.mktemp("own") / "own.safetensors", [Recipe("depth", base="custom")])


@pytest.fixture
def models(tmp_path, own) -> Path:
    """A folder with one model in it."""
    folder = tmp_path / "perception"
    folder.mkdir()
    shutil.copy(own, folder / "good.safetensors")
    return folder


def library(*folders: Path) -> Library:
    return Library(lambda: list(folders), "models/perception")


def unet_folder(folder: Path) -> Path:
    (folder / "unet").mkdir(parents=True)
    return folder / "unet"


def lora() -> dict[str, torch.Tensor]:
    layer = "lora_unet_down_blocks_0_attentions_0_proj_in"
    return {f"{layer}.lora_down.weight": torch.ones(2, 32), f"{layer}.lora_up.weight": torch.ones(32, 2)}


def dangling(folder: Path) -> None:
    (folder / "dead.safetensors").symlink_to("/mnt/none/x.safetensors")
    (folder / "dead folder").symlink_to("/mnt/none")
    (folder / "repo").mkdir()
    (folder / "repo" / "unet").symlink_to("/mnt/none/unet")


def circle(folder: Path) -> None:
    (folder / "a.safetensors").symlink_to(folder / "b.safetensors")
    (folder / "b.safetensors").symlink_to(folder / "a.safetensors")
    (folder / "self").symlink_to(folder / "self")


def links_to_itself(folder: Path) -> None:
    (folder / "loop").symlink_to(folder)
    (folder / "sub").mkdir()
    for name in ("one", "two"):
        (folder / "sub" / name).symlink_to(folder)


def pipes(folder: Path) -> None:
    os.mkfifo(folder / "pipe.safetensors")
    os.mkfifo(unet_folder(folder / "repo") / "diffusion_pytorch_model.safetensors")
    os.mkfifo(unet_folder(folder / "other") / INDEX)


def folders_named_like_files(folder: Path) -> None:
    (folder / "empty.safetensors").mkdir()
    (unet_folder(folder / "repo") / "diffusion_pytorch_model.safetensors").mkdir()
    (unet_folder(folder / "other") / INDEX).mkdir()


def parts_of_models(folder: Path) -> None:
    """Halves, text encoders, contexts and texts: none of them is a model by itself."""
    tiny.write(folder / "repo" / "vae", tiny.vae())
    tiny.write_context(folder)
    save_file({"text_model.final_layer_norm.weight": torch.ones(8)}, folder / "clip.safetensors")
    save_file(tiny.ldm_vae(tiny.vae()), folder / "vae.safetensors")
    save_file({}, folder / "nothing.safetensors")
    (folder / "._good.safetensors").write_bytes(b"\0\5\26\7")
    (folder / "good.safetensors.part").write_bytes(b"x")
    (folder / "readme.txt").write_text("x")
    (folder / ".cache").mkdir()
    shutil.copy(folder / "good.safetensors", folder / ".cache" / "x.safetensors")


def too_deep(folder: Path) -> None:
    """A path that is longer than the system takes."""
    deep = os.open(folder, os.O_RDONLY)
    for _ in range(30):
        os.mkdir("d" * 200, dir_fd=deep)
        inner = os.open("d" * 200, os.O_RDONLY, dir_fd=deep)
        os.close(deep)
        deep = inner
    os.close(deep)


HARMLESS = [dangling, circle, links_to_itself, pipes, folders_named_like_files, parts_of_models, too_deep]


@pytest.mark.parametrize("litter", HARMLESS, ids=lambda litter: litter.__name__)
def test_what_is_no_model_is_not_offered_and_what_is_one_still_is(models, litter):
    litter(models)
    held = library(models)
    assert held.choices() == ["good.safetensors"]
    assert held.choices(adapters=True) == [held.nothing]


DAMAGED = {
    "no bytes": b"",
    "a web page": HTML,
    "a list": b"[1, 2]",
    "another text": "{}".encode("utf-16"),
    "bytes": bytes(range(256)),
    "a nest without end": b"[" * 200_000,
    "a number without end": b'{"weight_map": ' + b"1" * 10_000 + b"}",
    "no files": b'{"weight_map": {}}',
    "files that are none": b'{"weight_map": {"conv_in.weight": 3}}',
    "files that are not there": b'{"weight_map": {"conv_in.weight": "gone.safetensors"}}',
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_index_hides_nothing_else_and_whoever_chooses_it_is_told(models, content):
    (unet_folder(models / "x") / INDEX).write_bytes(content)
    held = library(models)
    assert held.choices() == ["good.safetensors", "x"]
    assert held.choices(adapters=True) == [held.nothing]
    for name in ("x", "x/unet"):
        with pytest.raises(CheckpointError) as refusal:
            open_checkpoint(held.resolve(name))
        assert "\n" not in str(refusal.value)
        assert "safetensors" in str(refusal.value)


HALF = {"no bytes": 0, "its first bytes": 5, "its header": 200, "half of it": -1}


@pytest.mark.parametrize("kept", HALF.values(), ids=HALF)
def test_a_file_that_is_still_being_written_is_offered_and_refused(models, kept):
    data = (models / "good.safetensors").read_bytes()
    (models / "half.safetensors").write_bytes(data[: kept if kept >= 0 else len(data) // 2])
    held = library(models)
    assert held.choices() == ["good.safetensors", "half.safetensors"]
    with pytest.raises(CheckpointError, match=r"half.safetensors is not a whole .safetensors file .*again\.$"):
        open_checkpoint(held.resolve("half.safetensors"))
    (models / "half.safetensors").write_bytes(data)
    assert open_checkpoint(held.resolve("half.safetensors")).recipe.task == "depth"


def test_a_web_page_named_like_a_model_is_refused_by_what_it_is_not(models):
    (models / "page.safetensors").write_bytes(HTML)
    (models / "page.bin").write_bytes(HTML)
    unet = unet_folder(models / "page")
    (unet / "diffusion_pytorch_model.bin").write_bytes(HTML)
    held = library(models)
    assert held.choices() == ["good.safetensors", "page", "page.safetensors"]
    for name in held.choices()[1:]:
        with pytest.raises(CheckpointError, match="not whole|not a whole"):
            open_checkpoint(held.resolve(name))


NOT_THERE = {
    "a pipe": lambda folder: os.mkfifo(folder / "x.safetensors"),
    "an empty folder": lambda folder: (folder / "x.safetensors").mkdir(),
    "a link to nowhere": lambda folder: (folder / "x.safetensors").symlink_to("/mnt/none"),
    "a link to itself": lambda folder: (folder / "x.safetensors").symlink_to(folder / "x.safetensors"),
    "nothing": lambda folder: None,
}


@pytest.mark.parametrize("make", NOT_THERE.values(), ids=NOT_THERE)
@pytest.mark.parametrize("adapters", [False, True])
def test_what_is_chosen_all_the_same_gets_one_sentence(models, make, adapters):
    make(models)
    read = read_adapter if adapters else open_checkpoint
    with pytest.raises(UserError) as refusal:
        read(library(models).resolve("x.safetensors", adapters))
    assert "x.safetensors" in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", ["n" * 300 + ".safetensors", "a\0b", "good.safetensors/x", "\udcff.safetensors"])
def test_a_name_that_no_file_can_have_is_told(models, name):
    with pytest.raises(CheckpointError, match="put it there, or choose a checkpoint"):
        library(models).resolve(name)


@contextmanager
def unprivileged() -> Iterator[None]:
    """As a user who may not look into the folders of others."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="rights are another thing on this system")
def test_closed_folders_and_files_hide_nothing_else(own):
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        folder.chmod(0o755)
        for name in ("good", "closed file", "closed/inner", "repo/unet/diffusion_pytorch_model"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(own, folder / f"{name}.safetensors")
        for path, mode in ((folder / "good.safetensors", 0o644), (folder / "repo", 0o755)):
            path.chmod(mode)
        (folder / "link").symlink_to(folder / "closed" / "inner.safetensors")
        for name in ("closed file.safetensors", "closed", "repo/unet"):
            (folder / name).chmod(0)
        with unprivileged():
            held = library(folder, folder / "closed", folder / "good.safetensors")
            assert held.choices() == ["closed file.safetensors", "good.safetensors"]
            assert held.choices(adapters=True) == [held.nothing]
            assert contents(folder)
            for name in ("closed file.safetensors", "closed", "repo"):
                with pytest.raises(CheckpointError) as refusal:
                    open_checkpoint(held.resolve(name))
                assert "\n" not in str(refusal.value)
            with pytest.raises(CheckpointError, match="There is no 'closed/inner.safetensors'"):
                held.resolve("closed/inner.safetensors")
        for name in ("closed file.safetensors", "closed", "repo/unet"):
            (folder / name).chmod(0o755)


def test_a_link_to_a_whole_disk_does_not_hang(models):
    (models / "disk").symlink_to("/")
    assert "good.safetensors" in library(models).choices()
    assert 0 < len({Path(file).parent for file, _ in contents(models)}) <= MOST_FOLDERS


# What a person would call a model


def test_links_to_models_elsewhere_are_offered_and_folders_once_under_their_own_name(models, tmp_path, own):
    away = tiny.write_genpercept(tmp_path / "away", ["unet"])
    (models / "aaa").symlink_to(models / "zoo")
    (models / "zoo").mkdir()
    (models / "zoo" / "back").symlink_to(models)
    (models / "zoo" / "file.safetensors").symlink_to(own)
    (models / "linked").symlink_to(away)
    tiny.write_json(models / "gp" / "model_index.json", {"_class_name": "GenPerceptPipeline"})
    (models / "gp" / "unet").symlink_to(away / "unet")
    held = library(models)
    assert held.choices() == ["good.safetensors", "gp", "linked", "zoo/file.safetensors"]
    for name in ("gp", "gp/unet"):  # which workflows may hold that were saved when it was offered too
        assert open_checkpoint(held.resolve(name), task="depth").unet.files[0].is_file()


def test_of_several_networks_in_one_folder_each_is_offered_too(models):
    several = ["unet_depth_v2", "unet_normal_v1"]
    tiny.write_genpercept(models / "hub", several)
    assert library(models).choices() == ["good.safetensors", "hub", *(f"hub/{name}" for name in several)]


def test_a_model_beside_a_model_is_offered_too(models, own):
    """A folder with a file that is called as in repositories, an adapter, and folders below them."""
    (models / "mine" / "deep").mkdir(parents=True)
    for name in ("mine/model", "mine/second", "mine/deep/third", "FOURTH"):
        shutil.copy(own, models / f"{name}.safetensors")
    (models / "FOURTH.safetensors").rename(models / "FOURTH.SAFETENSORS")
    (models / "loras" / "more").mkdir(parents=True)
    save_file(lora(), models / "loras" / "only.safetensors")
    save_file(lora(), models / "loras" / "more" / "deep.safetensors")
    shutil.copy(own, models / "loras" / "more" / "network.safetensors")
    held = library(models)
    assert held.choices() == [
        "FOURTH.SAFETENSORS", "good.safetensors", "loras/more/network.safetensors", "mine",
        "mine/deep/third.safetensors", "mine/second.safetensors",
    ]  # fmt: skip
    assert held.choices(adapters=True) == ["loras", "loras/more/deep.safetensors"]
    for name in held.choices():
        assert open_checkpoint(held.resolve(name)).recipe.task == "depth"


FOREIGN = {
    "Flux": "transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight",
    "LoHa": "lora_unet_down_blocks_0_attentions_0_proj_in.hada_w1_a",
    "DoRA": "lora_unet_down_blocks_0_attentions_0_proj_in.dora_scale",
    "text encoder": "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight",
    "SDXL": "lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight",
}


@pytest.mark.parametrize(("kind", "key"), FOREIGN.items(), ids=FOREIGN)
def test_adapters_that_cannot_be_run_are_offered_as_adapters_and_refused_by_what_they_are(models, kind, key):
    save_file({key: torch.ones(4, 4)}, models / "x.safetensors")
    held = library(models)
    assert held.choices(adapters=True) == ["x.safetensors"]
    assert held.choices() == ["good.safetensors"]
    with pytest.raises(CheckpointError, match=kind):
        read_adapter(held.resolve("x.safetensors"))


def test_a_file_that_vanishes_and_a_folder_that_does_are_no_longer_offered(models):
    tiny.write_genpercept(models / "hub", ["unet"])
    held = library(models)
    assert held.choices() == ["good.safetensors", "hub"]
    shutil.rmtree(models / "hub")
    assert held.choices() == ["good.safetensors"]
    (models / "good.safetensors").unlink()
    assert held.choices() == [held.nothing]
    models.rmdir()
    assert held.choices() == [held.nothing]
    assert contents(models / "good.safetensors") == contents(models / "good.safetensors")


# A replaced file is noticed


def linked_folder(models: Path, away: Path) -> tuple[Path, Path]:
    away.mkdir()
    (away / "weights.safetensors").write_bytes(b"x")
    (models / "gp").mkdir()
    (models / "gp" / "unet").symlink_to(away)
    return models / "gp", away / "weights.safetensors"


def linked_file(models: Path, away: Path) -> tuple[Path, Path]:
    away.write_bytes(b"x")
    (models / "file.safetensors").symlink_to(away)
    return models / "file.safetensors", away


def linked_twice(models: Path, away: Path) -> tuple[Path, Path]:
    folder, file = linked_folder(models, away)
    (models / "again").symlink_to(folder)
    (away / "round").symlink_to(models)
    return models / "again", file


def one_of_many(models: Path, away: Path) -> tuple[Path, Path]:
    for number in range(3):
        (models / f"diffusion_pytorch_model-0000{number}-of-00003.safetensors").write_bytes(b"x")
    return models, models / "diffusion_pytorch_model-00001-of-00003.safetensors"


def text_beside_a_file(models: Path, away: Path) -> tuple[Path, Path]:
    return models / "good.safetensors", tiny.write_context(models)


def vae_beside_a_unet(models: Path, away: Path) -> tuple[Path, Path]:
    tiny.write_genpercept(models / "gp", ["unet_depth_v2"])
    return models / "gp" / "unet_depth_v2", models / "gp" / "vae" / tiny.WEIGHTS


WAYS = [linked_folder, linked_file, linked_twice, one_of_many, text_beside_a_file, vae_beside_a_unet]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_a_replaced_file_is_noticed_however_it_is_linked(models, tmp_path, way):
    chosen, file = way(models, tmp_path / "away")
    before = contents(chosen)
    assert contents(chosen) == before
    status = file.stat()
    file.rename(tmp_path / "old")
    (tmp_path / "new").write_bytes(b"\1" * status.st_size)
    os.utime(tmp_path / "new", ns=(status.st_atime_ns, status.st_mtime_ns))  # as copies keep them
    (tmp_path / "new").rename(file)
    assert contents(chosen) != before


def test_a_link_that_is_led_elsewhere_is_noticed(models, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).write_bytes(b"same")
        os.utime(tmp_path / name, ns=(5, 5))
    link = models / "x.safetensors"
    link.symlink_to(tmp_path / "one")
    before = contents(link)
    link.unlink()
    link.symlink_to(tmp_path / "two")
    assert contents(link) != before


def test_the_kind_of_a_folder_follows_its_file(models):
    """An adapter whose folder keeps its time of change becomes a network."""
    folder = models / "x" / "unet"
    folder.mkdir(parents=True)
    save_file(lora(), folder / "diffusion_pytorch_model.safetensors")
    held = library(models)
    assert held.choices(adapters=True)[0] == "x"
    tiny.write(folder, tiny.unet())
    assert held.choices() == ["good.safetensors", "x"]
    assert json.loads((folder / "config.json").read_text())


def test_a_widget_begins_with_what_opens_and_does_not_fall_over_what_is_taken_away(tmp_path, monkeypatch):
    (tmp_path / "a.safetensors").write_bytes(b"no model")
    tiny.write_own(tmp_path / "b.safetensors", [Recipe("depth", base="custom")])
    library = Library(lambda: [tmp_path], "models/perception")
    assert library.runnable() == "b.safetensors"
    seen = library.choices()
    monkeypatch.setattr(Library, "choices", lambda self, adapters=False: ["gone.safetensors", *seen])
    assert library.runnable() == "b.safetensors"
    (tmp_path / "b.safetensors").unlink()
    assert library.runnable() == "gone.safetensors"
