"""Captions: each picture's text is encoded once, by the base's own encoder, and told with that picture alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import runs
import tiny
import torch

from diffusion_perception.trainer.captions import Captions, encoder_beside
from diffusion_perception.trainer.checks import check_said
from diffusion_perception.trainer.config import Base, ConfigError, Source
from diffusion_perception.trainer.data.batches import Batches
from diffusion_perception.trainer.data.captions import captions_of
from diffusion_perception.trainer.data.feeds import open_feeds
from diffusion_perception.trainer.data.published import open_dataset
from diffusion_perception.trainer.data.truth import DatasetError
from diffusion_perception.trainer.loop import fit
from diffusion_perception.trainer.train import prepare

TEXTS = ("a b c", "c", "b b", "a")


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """Stable Diffusion in diffusers layout, as small as it gets, with a text encoder that knows three words."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    folder = tmp_path_factory.mktemp("sd")
    torch.manual_seed(0)
    vocabulary = {"a</w>": 0, "b</w>": 1, "c</w>": 2, "<|endoftext|>": 3, "<|startoftext|>": 4}
    config = CLIPTextConfig(
        vocab_size=5, hidden_size=tiny.WIDTH, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        bos_token_id=4, eos_token_id=3,
    )  # fmt: skip
    CLIPTextModel(config).save_pretrained(folder / "text_encoder")
    CLIPTokenizer(vocab=vocabulary, merges=[]).save_pretrained(folder / "tokenizer")
    tiny.write(folder / "unet", tiny.unet())
    runs.write_vae(folder / "vae")
    tiny.write_context(folder, torch.randn(1, 77, tiny.WIDTH))
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("balls")
    runs.write_balls(folder / "train", len(TEXTS))
    lines = [f"{index:03}.png\t{text}" for index, text in enumerate(TEXTS)]
    (folder / "train/prompts.txt").write_text("\n".join(lines) + "\n\n")
    return folder


def captioned(root: Path, base: Path, out: Path, **settings):
    table = {
        "out": str(out),
        "base": {"architecture": "", "path": str(base), "vae": ""},
        "network": {"tokens": 77},
        "data": [{"root": str(root / "train"), "captions": "prompts.txt"}],
        "augment": {"flip": 0.0},
    }
    return runs.config(root, **{**table, **settings})


def test_every_picture_is_told_its_own_text_as_transformers_encodes_it(root, base, tmp_path):
    from transformers import CLIPTextModel, CLIPTokenizer

    run = prepare(captioned(root, base, tmp_path / "run"))
    batch = next(batch for batch in (run.data[number] for number in range(4)) if len(set(batch.prompts)) > 1)
    expected = [TEXTS[int(Path(mark.record.picture).stem)] for mark in batch.marks]
    assert list(batch.prompts) == expected
    tokens = CLIPTokenizer.from_pretrained(base / "tokenizer")(expected, padding="max_length", max_length=77)
    with torch.no_grad():
        embedded = CLIPTextModel.from_pretrained(base / "text_encoder")(torch.tensor(tokens["input_ids"]))[0]
    assert torch.allclose(run.learner.told(batch), embedded, atol=2e-3)  # kept in half precision


def test_a_run_with_captions_learns_and_encodes_nothing_twice(root, base, tmp_path, monkeypatch):
    run = prepare(captioned(root, base, tmp_path / "run"))
    fit(run)
    assert (tmp_path / "run/last.safetensors").is_file()
    assert len(list((tmp_path / "run/captions").rglob("*.npy"))) == len(TEXTS)
    monkeypatch.setattr("diffusion_perception.trainer.captions.open_text_encoder", None)
    captions = Captions(tmp_path / "run/captions", encoder_beside(Base(str(base))))
    captions.make(TEXTS, torch.device("cpu"))
    assert captions(TEXTS[:2]).shape == (2, 77, tiny.WIDTH)


def test_a_long_text_is_cut_off_and_keeps_its_end(base, tmp_path):
    captions = Captions(tmp_path, encoder_beside(Base(str(base))))
    captions.make(["a " * 75, "a " * 90], torch.device("cpu"))
    one, other = captions(["a " * 75, "a " * 90])
    assert torch.equal(one, other)


def test_rows_of_dmps_and_of_labels_files_are_read(root, tmp_path):
    records = open_dataset("folder", "depth", root=str(root / "train"))
    for name, text in (("file_name", "text"), ("image", "prompt")):
        rows = [json.dumps({name: f"images/{index:03}.png", text: words}) for index, words in enumerate(TEXTS)]
        (tmp_path / "rows.jsonl").write_text("\n".join(rows))
        found = captions_of(Source(str(root / "train"), captions=str(tmp_path / "rows.jsonl")), records)
        assert list(found.values()) == list(TEXTS)


WRONG = {
    "a picture without a text": ("000.png\ta\n", "has no text for 3 of 4 pictures of balls, such as images/001.png"),
    "a line without a tab": ("000.png a\n", "line 1: expected a file name, a tab and a text."),
}


@pytest.mark.parametrize(("text", "sentence"), WRONG.values(), ids=WRONG)
def test_a_wrong_file_of_captions_is_refused_in_one_sentence(root, tmp_path, text, sentence):
    (tmp_path / "wrong.txt").write_text(text)
    with pytest.raises(DatasetError, match=sentence):
        open_feeds(runs.config(root, data=[{"root": str(root / "train"), "captions": str(tmp_path / "wrong.txt")}]), "")


def test_a_missing_or_broken_file_of_captions_is_named(root, tmp_path):
    records = open_dataset("folder", "depth", root=str(root / "train"))
    with pytest.raises(DatasetError, match=r"There is no file of captions none.txt, neither in"):
        captions_of(Source(str(root / "train"), captions="none.txt"), records)
    (tmp_path / "rows.jsonl").write_text('{"file_name": "a.png"}\n')
    with pytest.raises(DatasetError, match="line 1: expected a JSON object with file_name or image"):
        captions_of(Source(str(root / "train"), captions=str(tmp_path / "rows.jsonl")), records)


IMPOSSIBLE = {
    "few tokens": ({"network": {"tokens": 2}}, "network.tokens = 2: set network.tokens = 77"),
    "a learnt context": ({"network": {"tokens": 77, "learn_context": "yes"}}, "stand in the place of a context"),
}


@pytest.mark.parametrize(("settings", "sentence"), IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_captions_that_cannot_be_told_are_refused(root, base, tmp_path, settings, sentence):
    with pytest.raises(ConfigError, match=sentence):
        check_said(captioned(root, base, tmp_path, **settings))


def test_captions_need_an_encoder_and_a_tokenizer_beside_the_base(tmp_path):
    with pytest.raises(ConfigError, match="name a folder in diffusers layout, with text_encoder/ and tokenizer/"):
        encoder_beside(Base(str(tiny.write_stable_diffusion(tmp_path / "sd.safetensors"))))


def test_pictures_without_captions_have_no_prompts(root):
    feeds, _ = open_feeds(runs.config(root), "custom")
    assert Batches(feeds, 2, 1, 0)[0].prompts == ()
