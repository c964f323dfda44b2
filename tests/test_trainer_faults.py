"""The faults that people met in training, each with the right value beside it."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest
import runs
import torch
from PIL import Image
from safetensors.torch import load_file

from diffusion_perception.core.checkpoints.tensors import read_metadata
from diffusion_perception.core.texts import read_text
from diffusion_perception.core.whole_file import UnwritableError, whole_file
from diffusion_perception.trainer import lock, state
from diffusion_perception.trainer.cli import main
from diffusion_perception.trainer.config import ConfigError, read, to_toml
from diffusion_perception.trainer.data.published import open_dataset
from diffusion_perception.trainer.data.truth import Depth, Disparity
from diffusion_perception.trainer.loop import fit
from diffusion_perception.trainer.train import prepare
from diffusion_perception.trainer.train import run as train


@pytest.fixture
def root(tmp_path):
    return runs.write_root(tmp_path / "root", held_out=2)


def trained(root, out, **settings):
    train(runs.config(root, out=str(out), **settings))
    return load_file(out / "last.safetensors")


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def later(file):
    """As a tool would leave it that writes the file anew."""
    os.utime(file, ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns + 10**9))


# Kept latents


def inverted(root, kind):
    for file in sorted((root / "train" / kind).glob("*.png")):
        Image.fromarray(255 - np.asarray(Image.open(file))).save(file)
        later(file)


KEPT = {"cache_latents": True, "augment": {"flip": 0.0}, "steps": 4}


@pytest.mark.parametrize("kind", ["images", "mask"])
@pytest.mark.parametrize("loss", ["latent", "both"])
def test_kept_latents_of_changed_files_are_made_anew_and_counted(root, tmp_path, caplog, kind, loss):
    settings = {**KEPT, "tasks": ["mask"], "objective": {"loss": loss}}
    before = trained(root, tmp_path / "run", **settings)
    inverted(root, kind)
    after = trained(root, tmp_path / "run", resume=False, **settings)
    afresh = trained(root, tmp_path / "fresh", **settings)
    assert same(after, afresh)
    assert not same(after, before)
    # both latents hang on the picture, whose transparency says where truth holds; the target's alone on the mask
    said = {"images": "16 of 16 latents made anew", "mask": "8 of 16 latents made anew"}[kind]
    assert any(said in record.getMessage() for record in caplog.records)


def test_an_added_picture_that_sorts_first_shifts_no_latent(root, tmp_path):
    settings = {**KEPT, "objective": {"loss": "pixel"}}
    trained(root, tmp_path / "run", **settings)
    for kind in ("images", "depth"):
        (first, *_) = sorted((root / "train" / kind).iterdir())
        first.with_name(f"00-new{first.suffix}").write_bytes(sorted((root / "val" / kind).iterdir())[0].read_bytes())
    made = prepare(runs.config(root, out=str(tmp_path / "run"), resume=False, **settings))
    for batch in (made.data[number] for number in range(4)):
        for purpose, pictures in (("image", batch.image), ("target", batch.target)):
            with torch.no_grad():
                true = made.learner.encode_anew(pictures, batch, purpose)
                assert torch.allclose(made.learner.encode(pictures, batch, purpose), true, atol=1e-4)


def test_another_meaning_of_the_same_files_is_another_latent(root, tmp_path):
    settings = {**KEPT, "tasks": ["mask"]}
    trained(root, tmp_path / "run", **settings)
    description = root / "train" / "dataset.toml"
    description.write_text(f"{description.read_text()}[mask]\ninvert = true\n")
    after = trained(root, tmp_path / "run", resume=False, **settings)
    assert same(after, trained(root, tmp_path / "fresh", **settings))


def test_a_run_that_goes_on_says_that_its_data_changed(root, tmp_path, caplog):
    trained(root, tmp_path / "run")
    file = sorted((root / "train" / "depth").iterdir())[0]
    later(file)
    prepare(runs.config(root, out=str(tmp_path / "run"), steps=4))
    assert "1 of 8 records are new or changed" in " ".join(record.getMessage() for record in caplog.records)


# Folders of runs


def test_a_refused_run_leaves_a_good_ones_config(root, tmp_path):
    trained(root, tmp_path / "run")
    files = {file: file.read_bytes() for file in (tmp_path / "run").iterdir() if file.is_file()}
    with pytest.raises(ConfigError, match="other settings"):
        train(runs.config(root, out=str(tmp_path / "run"), optimiser={"lr": 5e-3}))
    assert {file: file.read_bytes() for file in files} == files


def test_fewer_steps_than_were_done_are_refused_and_as_many_are_said(root, tmp_path, capsys):
    trained(root, tmp_path / "run", steps=4)
    with pytest.raises(ConfigError, match="is at step 4 already, and steps = 2"):
        train(runs.config(root, out=str(tmp_path / "run"), steps=2))
    train(runs.config(root, out=str(tmp_path / "run"), steps=4))
    assert "is already at step 4 of 4" in capsys.readouterr().err
    notes = json.loads(read_metadata(tmp_path / "run" / "last.safetensors")["diffusion_perception.training"])
    assert notes == {"step": 4}


@pytest.mark.parametrize("own", [True, False])
def test_bf16_that_the_processor_emulates_is_said(root, tmp_path, capsys, monkeypatch, own_precision, own):
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: own)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    train(runs.config(root, out=str(tmp_path / "run"), steps=1, precision="bf16"))
    assert ('many times slower than precision = "no"' in capsys.readouterr().err) is not own


HOLDER = """
import sys
from pathlib import Path
from diffusion_perception.trainer import lock
lock.hold(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_a_second_run_in_a_folder_is_refused_until_the_first_ends_however_it_ends(tmp_path):
    first = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert first.stdout is not None
    assert first.stdout.readline() == "held\n"
    with pytest.raises(lock.InUse, match=rf"is being trained into by process {first.pid} on .*another `out`"):
        lock.hold(tmp_path)
    first.kill()
    first.communicate()
    lock.hold(tmp_path)
    lock.hold(tmp_path)
    lock.release(tmp_path)


def test_a_run_with_a_rate_that_ends_says_how_one_is_made_longer(root, tmp_path):
    settings = {"optimiser": {"schedule": "cosine"}}
    trained(root, tmp_path / "run", **settings)
    with pytest.raises(ConfigError, match=r"steps = 4.*cosine rate ends.*decay_steps set from the start"):
        prepare(runs.config(root, out=str(tmp_path / "run"), steps=4, **settings))


@pytest.mark.parametrize("content", [b"", b"garbage", None], ids=["empty", "garbage", "cut"])
def test_a_damaged_state_is_named(root, tmp_path, content):
    trained(root, tmp_path / "run")
    file = tmp_path / "run" / state.FILE
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2] if content is None else content)
    with pytest.raises(ConfigError, match=r"state\.pt is damaged .*resume = false"):
        train(runs.config(root, out=str(tmp_path / "run"), steps=4))


# Disks


@pytest.fixture
def small_disk():
    """No file may be longer than 64 kB: what a full disk does, without one."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_is_said_with_the_file_and_what_was_kept_and_nothing_partial_stays(tmp_path, small_disk):
    file = tmp_path / "state.pt"
    for said in ("", "; the one from before was kept"):
        with pytest.raises(
            UnwritableError, match=rf"Could not write .*state\.pt \(.*MiB free\){said}: free some space"
        ):
            state.write_whole(file, {"weights": torch.zeros(10**5)})
        assert [path.name for path in tmp_path.iterdir()] == [file.name] * file.exists()
        state.write_whole(file, {"weights": torch.zeros(3)})
    assert torch.equal(torch.load(file)["weights"], torch.zeros(3))


def test_what_is_written_whole_is_left_alone_by_other_faults(tmp_path):
    def writing():
        with whole_file(tmp_path / "a") as partial:
            partial.write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        writing()
    assert list(tmp_path.iterdir()) == []


# Signals


def begin(root, out, **settings):
    settings = {"steps": 10_000, "workers": 1, "log_every": 1000, "save_every": 5000, **settings}
    file = root / "asked.toml"
    file.write_text(to_toml(runs.config(root, out=str(out), **settings)))
    words = [sys.executable, "-m", "diffusion_perception.trainer", "train", str(file)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TQDM_MININTERVAL": "0"}
    return subprocess.Popen(words, stderr=subprocess.PIPE, env=environment, start_new_session=True)


def wait_for_steps(process, count):
    """Until the bar shows that many, or more: it does not show every step."""
    said = b""
    while not any(int(step) >= count for step in re.findall(rb" (\d+)/10000", said)):
        part = os.read(process.stderr.fileno(), 4096)
        assert part, said.decode()
        said += part


ENDS = {
    "perception": {},
    "vae": {"learn": "vae", "base": {"architecture": "", "vae": ""}, "autoencoder": {"vae_widths": [32] * 4}},
    "decoder": {"learn": "decoder", "base": {"architecture": ""}, "light": {"light_blocks": [1, 1, 1]}},
}


@pytest.mark.parametrize(
    ("kind", "number"), [("perception", signal.SIGINT), *((kind, signal.SIGTERM) for kind in ENDS)]
)
def test_a_signal_ends_a_run_with_everything_saved_and_says_how_to_go_on(root, tmp_path, kind, number):
    process = begin(root, tmp_path / "run", **ENDS[kind])
    wait_for_steps(process, 3)
    os.killpg(process.pid, number)  # as a terminal does: the processes that read pictures get it too
    _, said = process.communicate(timeout=120)
    step = torch.load(tmp_path / "run" / state.FILE)["step"]
    assert step >= 3
    assert f"stopped at step {step} of 10000;".encode() in said
    assert b"the same command goes on from there" in said
    assert process.returncode == 128 + number
    assert b"Traceback" not in said
    if kind != "vae":
        notes = json.loads(read_metadata(tmp_path / "run" / "last.safetensors")["diffusion_perception.training"])
        assert notes == {"step": step}
    else:
        assert (tmp_path / "run" / "vae" / "diffusion_pytorch_model.safetensors").is_file()


def test_an_ended_run_goes_on_to_the_weights_of_an_unbroken_one(root, tmp_path):
    process = begin(root, tmp_path / "run")
    wait_for_steps(process, 2)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    step = torch.load(tmp_path / "run" / state.FILE)["step"]
    settings = {"workers": 0, "log_every": 1000, "save_every": 5000, "steps": step + 2}
    assert same(trained(root, tmp_path / "run", **settings), trained(root, tmp_path / "whole", **settings))


def test_a_loss_that_is_no_number_says_what_was_saved(root, tmp_path):
    for steps, said in ((0, "no state had been saved yet"), (2, "the state of step 2 was kept")):
        if steps:
            trained(root, tmp_path / "run", steps=steps)
        made = prepare(runs.config(root, out=str(tmp_path / "run"), steps=4))
        with torch.no_grad():
            made.learner.unet.conv_out.weight.fill_(torch.inf)
        with pytest.raises(ValueError, match=said):
            fit(made)


# Settings


IDLE = {
    "losses between pictures": ("[objective.pixel_losses]\nmask = ['dice']", "objective.pixel_losses = {...} has no"),
    "a misspelt loss": ("[objective.pixel_losses]\nmask = ['dicee']", "did you mean 'dice'"),
    "a task that is not learnt": ("[objective.task_weights]\ndepth = 2.0", "objective.task_weights.depth has no"),
    "turns of one task": ("turns = {mask = 2}", "turns = {...} has no effect here: it needs several tasks"),
    "rank of a full network": ("[network]\nrank = 4", "network.rank = 4 has no effect here: it needs network.unet"),
    "width of no head": ("[network]\nhead_width = 32", "it needs network.head"),
    "decay of a constant rate": ("[optimiser]\nfinal_ratio = 0.1", "optimiser.schedule"),
    "rate of no context": ("[optimiser]\ncontext_lr = 1e-3", "contexts that learn"),
    "noise of one step": ("[objective]\nnoise = 'gaussian'", 'recipe.paradigm = "stochastic"'),
    "a VAE that is not learnt": ("[autoencoder]\nkl = 1e-5", 'learn = "vae"'),
    "a light half that is not learnt": ("[light]\nlight_width = 32", 'learn = "decoder"'),
    "jitter that never comes": ("[augment]\nbrightness = 0.5", "augment.jitter above 0"),
    "a size of augmentation": ("[augment]\nsize = [64, 64]", "augment.size has no effect"),
    "a misspelt augmentation": ("[augment]\nflipp = 0.5", "did you mean 'augment.flip'"),
    "quantiles of a mask": ("[target]\nquantiles = [0.1, 0.9]", "target.quantiles has no effect on mask"),
    "a misspelt architecture": ("[base]\narchitecture = 'tinyy'", "did you mean 'tiny'"),
    "layers of a named network": ("[base]\narchitecture = 'tiny'\nlayers = 1", "base.layers = 1 has no effect"),
}


@pytest.mark.parametrize(("text", "said"), IDLE.values(), ids=IDLE)
@pytest.mark.parametrize("printed", [True, False])
def test_a_setting_without_effect_is_refused_by_train_and_where_it_is_printed(tmp_path, capsys, text, said, printed):
    file = tmp_path / "config.toml"
    base = "" if "[base]" in text else "[base]\narchitecture = 'tiny'\n"
    file.write_text(f"tasks = ['mask']\n{text}\n{base}[[data]]\nroot = '{tmp_path}'\n")
    assert main(["train", str(file), *["--print-config"][:printed]]) == 2
    assert said in capsys.readouterr().err


def test_what_a_preset_brings_may_be_without_effect(capsys):
    words = ["train", "--preset", "genpercept-depth", "--loss", "latent", "--print-config"]
    assert main(words) == 0


def test_the_printed_config_shows_every_default_and_reads_as_the_same(tmp_path, capsys):
    assert main(["train", "--tasks", "depth,mask", "--print-config"]) == 0
    out = capsys.readouterr().out
    for line in ("least_crop = 1.0", 'curve = "linear"', 'paradigm = "one-step"', "depth = 1", "depth = 1.0"):
        assert f"# {line}\n" in out
    assert "\n[turns]\n# depth = 1\n" in out
    assert "\n[objective.pixel_losses]\n# depth = [" in out
    (tmp_path / "printed.toml").write_text(out)
    assert read(tmp_path / "printed.toml") == read(None, {"tasks": "depth,mask"})


def test_a_folder_that_is_not_there_is_told_before_another_is_read(root, tmp_path, capsys, caplog):
    (root / "train" / "images" / "000.png").unlink()
    words = ["--data", str(root / "train"), "--data", str(tmp_path / "nowhere"), "--base.architecture", "tiny"]
    assert main(["train", "--tasks", "depth", *words]) == 2
    assert "There is no folder" in capsys.readouterr().err
    assert not caplog.records


# Texts


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_texts_are_read_in_the_encodings_that_editors_save_them_in(tmp_path, encoding):
    (tmp_path / "a.toml").write_bytes('title = "模型é"\r\nsteps = 3\r\n'.encode(encoding))
    assert read_text(tmp_path / "a.toml") == 'title = "模型é"\nsteps = 3\n'
    assert (read(tmp_path / "a.toml").title, read(tmp_path / "a.toml").steps) == ("模型é", 3)


def test_a_text_of_no_known_encoding_is_said_without_jargon(tmp_path):
    (tmp_path / "a.toml").write_bytes('steps = 3\ntitle = "é"\n'.encode("cp1252"))
    with pytest.raises(ConfigError, match="see line 2: save it as UTF-8"):
        read(tmp_path / "a.toml")


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8"])
def test_a_console_of_few_letters_gets_all_that_is_said(tmp_path, encoding):
    (tmp_path / "a.toml").write_text('title = "模型é"\n', "utf-8")
    words = [sys.executable, "-m", "diffusion_perception.trainer", "train", str(tmp_path / "a.toml"), "--print-config"]
    found = subprocess.run(words, capture_output=True, env={**os.environ, "PYTHONIOENCODING": encoding}, check=True)
    assert b'title = "' in found.stdout


# Truth


@pytest.mark.parametrize("background", [1e10, 65504.0, np.inf])
def test_a_background_of_a_depth_file_is_not_measured(background):
    depth = (2 + np.arange(64, dtype=np.float32) / 16)[None].repeat(64, 0)
    depth[:20] = background
    _, known = Depth().decode(depth)
    assert known.mean() == 44 / 64
    assert Depth(far=1e6).decode(np.full((1, 1), 2e4, np.float32))[1].all()
    assert Depth(unit="relative").decode(np.full((1, 1), 2e4, np.float32))[1].all()


def test_disparity_that_is_stored_with_an_offset_is_brought_back():
    true = np.array([[0.0, 0.5, 2.25, 7.0]])
    values, _ = Disparity(unit=1 / 256, offset=1).decode((true * 256 + 1).astype(np.uint16))
    assert np.array_equal(values, true)


def test_rotated_bits_are_turned_back():
    """As SUN RGB-D's own code reads them: bitor(bitshift(d, -3), bitshift(d, 13)) of 16 bits."""
    metres = np.array([[0, 1, 1234, 8191, 65535]], np.uint16)
    stored = np.array([[(int(v) << 3 | int(v) >> 13) & 0xFFFF for v in metres[0]]], np.uint16)
    values, known = Depth(unit="mm", rotated=3).decode(stored)
    assert np.allclose(values, metres / 1000)
    assert known.tolist() == [[False, True, True, True, True]]


# COCO


def coco(tmp_path, change):
    """Four pictures with a person of three keypoints each, as an exporter would write them, and one change of that."""
    (tmp_path / "pictures").mkdir()
    for number in range(4):
        Image.new("RGB", (64, 48)).save(tmp_path / "pictures" / f"{number}.png")
    table = {
        "images": [{"id": number, "file_name": f"{number}.png"} for number in range(4)],
        "annotations": [
            {
                **{"id": number, "image_id": number, "bbox": [4, 4, 40, 30], "area": 900.0, "category_id": 1},
                "keypoints": [10, 10, 2, 20, 12, 2, 30, 20, 1],
            }
            for number in range(4)
        ],
        "categories": [{"id": 1, "name": "fish", "keypoints": ["nose", "fin", "tail"], "skeleton": [[1, 2], [2, 3]]}],
    }
    change(table)
    (tmp_path / "people.json").write_text(json.dumps(table), "utf-8-sig")
    return open_dataset("coco-keypoints", "keypoints", root=tmp_path, annotations="people.json", images="pictures")


ODD = {
    "a null box": (lambda t: t["annotations"][0].update(bbox=None), 3),
    "a box that is no number": (lambda t: t["annotations"][0].update(bbox=[float("nan"), 4, 40, 30]), 3),
    "a null area": (lambda t: t["annotations"][0].update(area=None), 4),
    "an area that is no number": (lambda t: t["annotations"][0].update(area=float("nan")), 4),
    "null keypoints": (lambda t: t["annotations"][0].update(keypoints=None), 3),
    "a null number of keypoints": (lambda t: t["annotations"][0].update(num_keypoints=None), 4),
    "a picture without a name": (lambda t: t["images"][0].pop("file_name"), 3),
    "a picture without an id": (lambda t: t["images"][0].pop("id"), 3),
    "a path of another disk": (lambda t: t["images"][0].update(file_name="D:\\set\\0.png"), 4),
    "a folder before the name": (lambda t: t["images"][0].update(file_name="pictures/0.png"), 4),
}


@pytest.mark.parametrize(("change", "count"), ODD.values(), ids=ODD)
def test_an_odd_row_of_a_coco_file_is_skipped_and_the_rest_is_learnt(tmp_path, change, count):
    records = coco(tmp_path, change)
    assert len(records) == count
    assert records[0].target.shape[0] == 3


@pytest.mark.parametrize("limbs", [[[0, 1], [1, 2]], None, [[1, 9]], "1-2"])
def test_limbs_that_cannot_be_drawn_keep_nobody_from_learning(tmp_path, limbs):
    records = coco(tmp_path, lambda table: table["categories"][0].update(skeleton=limbs))
    assert (len(records), records.skeleton.names, records.skeleton.limbs) == (4, ("nose", "fin", "tail"), ())


def test_two_processes_end_after_the_same_step_whichever_of_them_is_asked(root, tmp_path):
    file = root / "asked.toml"
    settings = {"steps": 10_000, "log_every": 1000, "save_every": 5000}
    file.write_text(to_toml(runs.config(root, out=str(tmp_path / "run"), **settings)))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    launch = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true"}
    words = [sys.executable, "-m", "diffusion_perception.trainer", "train", str(file)]
    ranks = [
        subprocess.Popen(
            words,
            stderr=subprocess.PIPE,
            env={**os.environ, **launch, "RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
        )
        for rank in range(2)
    ]
    wait_for_steps(ranks[0], 3)
    ranks[1].send_signal(signal.SIGTERM)
    said = [process.communicate(timeout=120)[1] for process in ranks]
    step = torch.load(tmp_path / "run" / state.FILE)["step"]
    assert all(f"stopped at step {step} of 10000".encode() in words for words in said)
    assert [process.returncode for process in ranks] == [128 + signal.SIGTERM] * 2
