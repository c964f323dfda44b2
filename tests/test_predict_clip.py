"""`predict` of folders and videos: each frame as by itself, and pictures by one range of the whole clip."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import OpenEXR
import pytest
import tiny
import torch
from PIL import Image

from diffusion_perception.core.display.steady import steadied
from diffusion_perception.core.perception_map import Convention, PerceptionMap
from diffusion_perception.core.pipeline import predict
from diffusion_perception.core.recipe import Recipe
from diffusion_perception.trainer.cli import main
from diffusion_perception.trainer.clips import clip_at, film, frame_colours
from diffusion_perception.trainer.predict_clip import predict_clip

HEIGHT, WIDTH, FRAMES = 40, 56, 4


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A checkpoint of depth, one of masks, a folder of frames and the same frames as a video without loss."""
    folder = tmp_path_factory.mktemp("place")
    for task in ("depth", "mask"):
        tiny.write_own(folder / f"{task}.safetensors", [Recipe(task, base="custom", resolution=48)])
    (folder / "frames").mkdir()
    for number in range(FRAMES):
        tiny.save_picture(folder / "frames" / f"shot{number + 8}.png", HEIGHT, WIDTH, seed=number)
    (folder / "frames" / "notes.txt").write_text("none of them")
    with av.open(str(folder / "shot.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=Fraction(30000, 1001))
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "bgr0"
        for number in range(FRAMES):
            levels = np.asarray(Image.open(folder / "frames" / f"shot{number + 8}.png"))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(levels, "rgb24")))
        container.mux(stream.encode(None))
    return folder


@pytest.fixture
def run(place, monkeypatch, capfd):
    monkeypatch.chdir(place)

    def run(*words: str) -> tuple[int, str]:
        code = main(["predict", *words])
        return code, capfd.readouterr().err

    return run


def nearness(depths: np.ndarray) -> np.ndarray:
    """Near is 255, by one range of all frames; of depths in 0..1 whose near end is low."""
    return np.round((depths.max() - depths) / (depths.max() - depths.min()) * 255)


def test_each_frame_of_a_folder_is_what_it_is_alone_and_its_picture_is_by_the_clips_range(run, place, tmp_path):
    assert run("--model", "depth.safetensors", "--out", str(tmp_path / "clip"), "frames")[0] == 0
    alone = [f"frames/shot{number}.png" for number in (8, 9, 10, 11)]
    assert run("--model", "depth.safetensors", "--out", str(tmp_path / "alone"), *alone)[0] == 0
    names = [f"shot{number}" for number in (8, 9, 10, 11)]
    depths = np.stack([np.load(tmp_path / "clip" / f"{name}.npy") for name in names])
    assert np.array_equal(depths, np.stack([np.load(tmp_path / "alone" / f"{name}.npy") for name in names]))
    pictures = np.stack([np.asarray(Image.open(tmp_path / "clip" / f"{name}.png"))[..., 0] for name in names])
    assert np.abs(pictures - nearness(depths)).max() <= 1
    assert len(list((tmp_path / "clip").iterdir())) == 2 * FRAMES


def test_frames_come_by_the_numbers_in_their_names(place):
    assert [name for name, _ in clip_at(place / "frames").frames()] == ["shot8", "shot9", "shot10", "shot11"]


def test_a_video_gives_what_its_frames_give_and_a_video_to_look_at(run, place, tmp_path):
    assert run("--model", "depth.safetensors", "--out", str(tmp_path / "clip"), "frames")[0] == 0
    assert run("--model", "depth.safetensors", "--out", str(tmp_path), "shot.mkv", "--format", "exr")[0] == 0
    numbered = [tmp_path / "shot" / f"shot.{number:04}.exr" for number in range(1, FRAMES + 1)]
    assert sorted((tmp_path / "shot").iterdir()) == numbered
    depths = np.stack([np.load(tmp_path / "clip" / f"shot{number}.npy") for number in (8, 9, 10, 11)])
    read = [OpenEXR.File(str(path)).channels()["Y"].pixels for path in numbered]
    assert np.array_equal(np.stack(read), depths)
    with av.open(str(tmp_path / "shot.mp4")) as container:
        (stream,) = container.streams.video
        assert stream.average_rate == Fraction(30000, 1001)
        shown = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)])
    assert shown.shape == (FRAMES, HEIGHT, WIDTH, 3)
    # H.264 loses a little of pictures that are noise
    assert np.abs(shown[..., 0] - nearness(depths)).mean() < 6
    assert np.abs(shown.max(-1).astype(int) - shown.min(-1)).mean() < 3


@pytest.mark.parametrize("size", [(32, 48), (33, 47)])
def test_a_film_shows_its_colours_whoever_plays_it(tmp_path, size):
    """Read back by FFmpeg as the header says: a matrix or range that was not written would turn the colours."""
    patches = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.7, 0.2], [0.1, 0.2, 0.9], [0.5, 0.5, 0.5]])
    with film(tmp_path / "film.mp4", Fraction(25)) as add:
        for patch in patches:
            add(patch.expand(*size, 3))
    with av.open(str(tmp_path / "film.mp4")) as container:
        frames = list(container.decode(video=0))
    assert {(frame.colorspace, frame.color_range) for frame in frames} == {(1, 1)}
    for patch, frame in zip(patches, frames, strict=True):
        assert (frame_colours(frame).mean((0, 2, 3)) - patch).abs().max() < 0.02


def test_frames_of_ten_bits_keep_them(tmp_path):
    ramp = np.linspace(0, 65535, 64).round().astype(np.uint16)
    levels = np.repeat(np.repeat(ramp[None, :, None], 32, 0), 3, 2)
    with av.open(str(tmp_path / "deep.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=24)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "gbrp10le"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(levels, "rgb48le").reformat(format="gbrp10le")))
        container.mux(stream.encode(None))
    ((_, frame),) = clip_at(tmp_path / "deep.mkv").frames()
    assert np.abs(frame[0, 0, 0].numpy() - ramp / 65535).max() < 1 / 1023
    assert len(frame.unique()) > 60


# Steadying


def flickering() -> list[torch.Tensor]:
    """(1, H, W, 1) each: one scene, with a scale and shift of each frame, some of it beyond 0..1 once it is steady."""
    still = torch.linspace(0.1, 0.9, HEIGHT * WIDTH).view(1, HEIGHT, WIDTH, 1)
    return [still * scale + shift for scale, shift in ((1.0, 0.1), (0.6, 0.3), (0.8, 0.0), (0.5, 0.2))]


@pytest.mark.parametrize("format", ["npy", "exr"])
def test_a_steady_clip_is_what_the_whole_batch_becomes(place, tmp_path, format):
    frames, near = flickering(), Convention(near="low")
    given = iter(frames)
    predict_clip(
        lambda picture: PerceptionMap("depth", next(given), near), clip_at(place / "frames"), tmp_path, format, 0.95
    )
    wanted, _ = steadied(PerceptionMap("depth", torch.cat(frames), near), 0.95)
    assert wanted.values.max() <= 1
    for number, values in zip((8, 9, 10, 11), wanted.values[..., 0].numpy()):
        path = tmp_path / f"shot{number}.{format}"
        read = np.load(path) if format == "npy" else OpenEXR.File(str(path)).channels()["Y"].pixels
        assert np.abs(read - values).max() < 1e-6
    pictures = [np.asarray(Image.open(tmp_path / f"shot{number}.png"))[..., 0] for number in (8, 9, 10, 11)]
    assert np.abs(np.stack(pictures) - nearness(wanted.values[..., 0].numpy())).max() <= 1
    assert len(list(tmp_path.iterdir())) == 2 * FRAMES


def test_steady_blend_and_tile_change_a_clip(run, tmp_path):
    """Of one picture in a light that changes."""
    picture = np.asarray(Image.open(tiny.save_picture(tmp_path / "one.png", HEIGHT, WIDTH)))
    (tmp_path / "still").mkdir()
    for number in range(3):
        Image.fromarray(picture // 2 + np.uint8(number)).save(tmp_path / "still" / f"{number}.png")
    words = ["--model", "depth.safetensors", str(tmp_path / "still"), "--out"]
    kinds = {"plain": [], "steady": ["--steady", "0.9"], "blend": ["--blend", "0.5"], "tile": ["--tile", "32"]}
    read = {}
    for kind, more in kinds.items():
        assert run(*words, str(tmp_path / kind), *more)[0] == 0
        read[kind] = np.load(tmp_path / kind / "2.npy")
    assert [kind for kind in kinds if np.array_equal(read["plain"], read[kind])] == ["plain"]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--model", "mask.safetensors", "frames", "--steady", "0.5"], "--steady is for depth or disparity"),
        (["--model", "depth.safetensors", "frames/shot8.png", "--steady", "0.5"], "are for folders of frames and"),
        (["--model", "depth.safetensors", "frames", "--steady", "2"], "expected strength from 0 to 1"),
        (["--model", "depth.safetensors", "frames", "--blend", "1"], "blend=1 is not from 0 to below 1"),
        (["--model", "depth.safetensors", "frames/shot8.png", "--tile", "5"], "tile=5 is not between"),
        (
            ["--model", "depth.safetensors", "frames/shot8.png", "--tile", "64", "--noise", "noise.npy"],
            "leave --tile out",
        ),
        (["--model", "depth.safetensors", "empty"], "has no pictures"),
        (["--model", "depth.safetensors", "broken.mp4"], "is not a video that can be read"),
        (["--model", "depth.safetensors", "away.mp4"], "There is no image away.mp4"),
        (["--model", "depth.safetensors", "frames", "frames/shot8.png"], "Several images are called 'shot8'"),
    ],
)
def test_bad_input_is_told_in_one_line(run, place, tmp_path, words, reason):
    (place / "empty").mkdir(exist_ok=True)
    (place / "broken.mp4").write_bytes(b"no video at all")
    np.save(place / "noise.npy", np.zeros((1, 4, 8, 8), np.float32))
    code, said = run(*words, "--out", str(tmp_path / "out"))
    assert code == 2
    assert reason in said
    assert len(said.strip().splitlines()) == 1


def test_nothing_is_written_over_the_frames(run, place):
    code, said = run("--model", "depth.safetensors", "frames", "--out", "frames")
    assert code == 2
    assert "would be written over" in said


def test_what_was_seen_is_kept_if_the_rest_is_cancelled(place, tmp_path):
    checkpoint = tiny.perceiver(Recipe("depth", resolution=48))
    seen = []

    def see(picture):
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(1)
        with torch.no_grad():
            return predict(checkpoint, picture)

    with pytest.raises(KeyboardInterrupt):
        predict_clip(see, clip_at(place / "frames"), tmp_path, "exr", 0.0)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["shot8.exr", "shot9.exr"]
