"""Segmentation end to end, as colours and as class scores: from a training run to the mask of a class by its name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import runs
import tiny
import torch
from safetensors import safe_open

from diffusion_perception.core.backbone import Features
from diffusion_perception.core.checkpoints.checkpoint import open_checkpoint
from diffusion_perception.core.display.map_files import FORMATS, pages
from diffusion_perception.core.display.picture import classes_of, palette_of
from diffusion_perception.core.display.selection import Selection, select
from diffusion_perception.core.perception_map import PerceptionMap
from diffusion_perception.core.pipeline import predict
from diffusion_perception.core.recipe import Recipe
from diffusion_perception.trainer import base
from diffusion_perception.trainer.config import ConfigError, merged
from diffusion_perception.trainer.data.arrays import read_array
from diffusion_perception.trainer.host import load_perceiver
from diffusion_perception.trainer.loop import fit
from diffusion_perception.trainer.train import prepare

STEPS = 30
COLOURS = {"objective": {"loss": "pixel"}}
HEADS = {
    name: {"objective": {"loss": "pixel"}, "network": {"head": name, "head_width": 32}} for name in ("upernet", "plain")
}
VARIANTS = {"colours": COLOURS, **HEADS}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return runs.write_root(tmp_path_factory.mktemp("balls"))


@pytest.fixture
def patches(monkeypatch):
    """An autoencoder that needs no training; what is then written cannot be read without it."""
    monkeypatch.setattr(base, "load_vae", lambda *parts: runs.PatchVAE())


def config(root, out: Path, **settings):
    below = {
        "out": str(out),
        "tasks": ["segmentation"],
        "steps": STEPS,
        "save_every": 1000,
        "validation": [{"root": str(root / "val")}],
        "optimiser": {"lr": 3e-3},
    }
    return runs.config(root, **merged(below, settings))


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_short_run_lowers_the_loss_and_raises_the_miou(root, tmp_path, patches, variant):
    run = prepare(config(root, tmp_path / "run", **VARIANTS[variant]))
    before = run.evaluator.measure(0, True)
    fit(run)
    after = run.evaluator.measure(STEPS, True)
    assert after["segmentation/loss"] < 0.6 * before["segmentation/loss"]
    assert after["segmentation/miou"] > max(before["segmentation/miou"], 0.5)


# What was trained, from its file


@pytest.fixture(scope="module")
def trained(root, tmp_path_factory):
    """The file of each variant after two steps with a real VAE; the head starts where the colour maps ended."""
    folder = tmp_path_factory.mktemp("trained")
    fit(prepare(config(root, folder / "colours", steps=2, **COLOURS)))
    files = {"colours": folder / "colours" / "last.safetensors"}
    start = {"base": {"architecture": "", "vae": "", "path": str(files["colours"])}}
    fit(prepare(config(root, folder / "upernet", steps=2, **merged(HEADS["upernet"], start))))
    return {**files, "upernet": folder / "upernet" / "last.safetensors"}


def tensors(path: Path, part: str) -> dict[str, torch.Tensor]:
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys() if name.startswith(part)}  # noqa: SIM118


def test_a_head_is_trained_after_a_stage_of_colour_maps(root, trained, tmp_path):
    settings = {"base": {"architecture": "", "vae": "", "path": str(trained["colours"])}, "network": {"unet": "frozen"}}
    run = prepare(config(root, tmp_path / "run", **merged(HEADS["upernet"], settings)))
    model = run.learner
    for part, network in (("unet.", model.unet), ("vae.", model.vae)):
        kept = tensors(trained["colours"], part)
        assert all(torch.equal(kept[f"{part}{name}"], tensor) for name, tensor in network.state_dict().items())
    # what weights do not show: 32 channels a head, where Stable Diffusion 2 has 64
    assert list(model.unet.config.attention_head_dim) == [1, 2, 2, 2]
    assert model.vae.config.scaling_factor == 1.0
    assert {name.split(".")[0] for name in model.learning()} == {"head"}


def test_the_file_of_a_head_says_how_it_is_run_and_which_classes_there_are(trained):
    recipe = open_checkpoint(trained["upernet"]).recipe
    assert (recipe.head, recipe.codec, recipe.palette) == ("upernet", "class-scores", "202060 wall, F0C030 ball")
    assert open_checkpoint(trained["colours"]).recipe.palette == recipe.palette
    assert {name.split(".")[1] for name in tensors(trained["upernet"], "head.")} == {"upernet"}


@pytest.fixture(params=["colours", "upernet"])
def seen(request, trained):
    """What a file says of a picture of odd size."""
    perceiver = load_perceiver(open_checkpoint(trained[request.param]))
    with torch.inference_mode():
        return predict(perceiver, tiny.picture(45, 61))


def test_colours_and_class_numbers_are_read_alike(seen):
    palette = palette_of(seen)
    assert palette.classes == ("wall", "ball")
    found = classes_of(seen, palette)
    assert found.index.shape == found.clearness.shape == (1, 45, 61)
    assert set(found.index.unique().tolist()) <= {0, 1}
    assert ((found.clearness >= 0) & (found.clearness <= 1)).all()
    masks = [select(seen, Selection(classes=name)) for name in ("wall", "Ball", "0")]
    assert torch.equal(masks[0] + masks[1], torch.ones(1, 45, 61))
    assert torch.equal(masks[0], masks[2])
    colours = found.picture().flatten(0, 2).unique(dim=0) * 255
    assert {tuple(colour) for colour in colours.int().tolist()} <= {(32, 32, 96), (240, 192, 48)}


def test_predict_writes_class_numbers_and_a_picture_in_their_colours(trained, tmp_path):
    from diffusion_perception.trainer.cli import main

    picture = tiny.save_picture(tmp_path / "a.png", 45, 61)
    assert main(["predict", "--model", str(trained["upernet"]), "--out", str(tmp_path / "out"), str(picture)]) == 0
    numbers = np.load(tmp_path / "out" / "a.npy")
    shown = (read_array(tmp_path / "out" / "a.png")).astype(int)
    assert numbers.shape == (45, 61)
    assert set(np.unique(numbers)) <= {0, 1}
    assert np.array_equal(shown, np.array([[32, 32, 96], [240, 192, 48]])[numbers.astype(int)])


# What a dataset's classes become


def described(root: Path, classes: str, more: str = "") -> Path:
    """The balls again, with other names for their classes."""
    runs.write_balls(root, 2)
    text = (root / "dataset.toml").read_text()
    (root / "dataset.toml").write_text(text.replace('classes = ["wall", "ball"]', f"classes = {classes}{more}"))
    return root


def feed_of(root, tmp_path, classes, **recipe):
    data = described(tmp_path / "data", classes)
    run = prepare(config(root, tmp_path / "run", data=[{"root": str(data)}], recipe=recipe, **HEADS["plain"]))
    return run.data.feeds[0]


def test_classes_go_by_name_and_those_that_are_not_asked_for_are_no_truth(root, tmp_path):
    feed = feed_of(root, tmp_path, '["Chair", "unicorn"]', palette="furniture")
    whole = feed.records[0].target
    batch = feed.sample(0, np.random.default_rng(0))[0]
    assert set(whole.unique().tolist()) == {0, 1}
    assert batch.target[batch.valid].unique().tolist() == [4]
    assert 0 < batch.valid.float().mean() < 1


def test_a_dataset_with_none_of_the_classes_is_refused(root, tmp_path):
    with pytest.raises(ValueError, match="balls has none of the classes of the recipe's palette: its own are gnu, yak"):
        feed_of(root, tmp_path, '["gnu", "yak"]', palette="furniture")


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (merged(COLOURS, {"objective": {"pixel_losses": {"segmentation": ["cross-entropy"]}}}), "set network.head = "),
        (merged(HEADS["plain"], {"objective": {"pixel_losses": {"segmentation": ["mse"]}}}), "by cross-entropy and by"),
        ({**HEADS["plain"], "objective": {"loss": "latent"}}, 'set objective.loss = "pixel"'),
        ({"objective": {"loss": "pixel"}, "network": {"head": "upernt"}}, "did you mean 'upernet'"),
        (merged(COLOURS, {"recipe": {"codec": "class-scores"}}), "this checkpoint has none"),
    ],
)
def test_what_cannot_be_learnt_is_refused_in_one_sentence(root, tmp_path, settings, sentence):
    from diffusion_perception.trainer.train import run

    with pytest.raises(ConfigError, match=sentence) as refused:
        run(config(root, tmp_path / "run", **settings))
    assert "\n" not in str(refused.value)


def test_labels_change_their_size_by_nearest_whatever_the_config_says(root, tmp_path):
    settings = merged(HEADS["plain"], {"augment": {"target_filter": "bilinear"}, "size": [40, 56]})
    feed = prepare(config(root, tmp_path / "run", **settings)).data.feeds[0]
    target = feed.sample(0, np.random.default_rng(0))[0].target
    assert target.shape == (1, 40, 56)
    assert target.unique().tolist() == [0, 1]


# What the recipe and the saved files say


def test_class_scores_need_a_head():
    assert Recipe("segmentation", head="upernet", codec="class-scores").convention().classes
    assert not Recipe("segmentation").convention().classes
    with pytest.raises(ValueError, match="codec=class-scores reads what a head predicts"):
        Recipe("segmentation", codec="class-scores")


def test_a_saved_map_of_class_numbers_holds_them_as_they_are(tmp_path):
    values = torch.tensor([0.0, 7.0, 15.0]).view(1, 1, 3, 1)
    convention = Recipe("segmentation", head="plain", codec="class-scores", palette="furniture").convention()
    (page,) = pages(PerceptionMap("segmentation", values, convention))
    (tmp_path / "a.png").write_bytes(FORMATS["png16"].encode(page, ()))
    assert read_array(tmp_path / "a.png").tolist() == [[0, 7, 15]]
    assert page.meaning["holds"] == "class numbers"
    assert page.meaning["palette"] == "furniture"


def test_padding_is_cut_off_what_a_head_gives_at_a_quarter_of_the_size():
    """Marigold's rule pads to whole latent cells; a head's map has no pixels of the picture to cut."""

    class Columns:
        """Scores of class 1 grow from left to right, so that it begins in the middle of the padded picture."""

        def __call__(self, features: Features) -> torch.Tensor:
            height, width = (2 * side for side in features[-1].shape[-2:])
            ramp = torch.linspace(-1, 1, width).expand(1, 1, height, width)
            return torch.cat([torch.zeros_like(ramp), ramp * 20], 1)

    recipe = Recipe("segmentation", head="plain", codec="class-scores", resize="marigold", resolution=0)
    seen = predict(tiny.perceiver(recipe, head=Columns()), tiny.picture(64, 65))
    assert seen.values[0, :, :, 0].sum(-1).unique().tolist() == [65 - 72 / 2]
