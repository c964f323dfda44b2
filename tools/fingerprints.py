"""SHA-256 of what the project computes: run it before and after a change that must change nothing, and compare.

    python tools/fingerprints.py [--golden FOLDER] > before.txt

A line an answer: the papers' golden cases, the starter's tasks on a picture that this tool paints (PNG and JPEG), what
old files answer and what a stored run learns when it goes on. Where a command refuses, the line says so. Everything
goes through the command line, so that the same tool runs on any commit. Numbers are those of one machine.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).absolute().parents[1]
GOLDEN = Path(os.environ.get("GOLDEN_DIR", ROOT.parent / "shared" / "golden"))
STARTER = ROOT / "weights" / "starter.safetensors"
STARTED = ("depth", "normal", "mask", "segmentation", "albedo")
FILES = ROOT / "tests" / "contracts" / "files"
SETTINGS = ("steps", "ensemble_size")
"""What a golden case says under the name of a recipe's field."""


def main() -> None:
    """Print a line for every answer."""
    import torch

    reader = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    reader.add_argument("--golden", type=Path, default=GOLDEN, help="folder of the golden vectors")
    golden = reader.parse_args().golden.absolute()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for part in (_golden_cases(golden), starter(), _old_files()):
            for name, digest in part:
                print(digest, name, flush=True)


def answers(name: str, words: list[str]) -> Iterator[tuple[str, str]]:
    """What `predict` writes under these words, file by file, or its refusal."""
    out = Path(hashlib.sha256(repr(words).encode()).hexdigest()[:16])
    refusal = _said_by(["predict", "--device", "cpu", "--out", str(out), *words])
    if refusal:
        yield name, f"refused {hashlib.sha256(refusal.encode()).hexdigest()[:12]}"
    for file in sorted((*out.glob("*.npy"), *out.glob("*.json"))):
        yield f"{name} {file.name}", _digest_of(file)


def _said_by(words: list[str]) -> str:
    """What a command says where it refuses, without the paths; nothing where it does not."""
    from diffusion_perception.trainer.cli import main as command

    errors = io.StringIO()
    with contextlib.redirect_stderr(errors):
        try:
            code = command(words)
        except SystemExit as end:
            code = end.code
    return "" if code == 0 else errors.getvalue().splitlines()[-1].replace(str(ROOT), "")


def _digest_of(file: Path) -> str:
    """Of raw values; of the whole file where it is none of numpy's."""
    content = np.load(file).tobytes() if file.suffix == ".npy" else file.read_bytes()
    return hashlib.sha256(content).hexdigest()


def _digest_of_weights(file: Path) -> str:
    """Of the tensors by their names: the header's fields stand in another order each time that it is written."""
    from safetensors.numpy import load_file

    digest = hashlib.sha256()
    for name, tensor in sorted(load_file(file).items()):
        digest.update(name.encode() + tensor.tobytes())
    return digest.hexdigest()


# Golden cases


def _golden_cases(root: Path) -> Iterator[tuple[str, str]]:
    """Every case's command once; those that differ in what only a test can set are one."""
    for file in sorted(root.glob("*/cases.json")):
        held = json.loads(file.read_text("utf-8"))
        cases = held["cases"] if isinstance(held, dict) else held
        commands = {tuple(words): None for case in cases for words in _words_of(case, file.parent)}
        for words in commands:
            short = " ".join(word.replace(f"{file.parent}/", "") for word in words[2:] if word != str(file.parent))
            yield from answers(f"{file.parent.name}: {short}", list(words))


def _words_of(case: dict, folder: Path) -> Iterator[list[str]]:
    """The arguments of `predict` for a case, one list a target."""
    if "lora" in case:
        yield adapted(case, folder)
        return
    sets = [f"{name}={case[name]}" for name in SETTINGS if case.get(name, 1) != 1]
    if "betas" in case:
        start, end = case["betas"]
        sets = ["paradigm=deterministic", f"steps={case['steps']}", f"beta_start={start}", f"beta_end={end}"]
    if "fix_timesteps" in case:
        sets = [f"timestep={case['fix_timesteps']}"]
    settings = [word for change in sets for word in ("--set", change)]
    for task in case.get("targets", [case.get("mode", "keypoints")]):
        place = ["--model", str(folder), "--task", task, "--resolution", str(case.get("processing_res", -1))]
        yield [*place, *settings, str(folder / f"{case['image']}.png")]


def adapted(case: dict, folder: Path) -> list[str]:
    """Those of one of DMP's, which are adapters."""
    sets = [
        f"steps={case['steps']}",
        f"prediction_type={case['pred']}",
        f"keep_image={str(case['oracle']).lower()}",
        f"guidance_scale={case['gs'] if case['prompts'] else 1}",
        f"target_scale={case['scale']}",
    ]
    place = ["--base", str(folder), "--adapter", str(folder / case["lora"]), "--resolution", "0"]
    texts = f"{folder}/text_embeds.safetensors"
    text = ["--context", f"{texts}:{'prompt_embed' if case['prompts'] else 'empty_text_embed'}"]
    text += ["--negative-context", f"{texts}:empty_text_embed"] if case["prompts"] else []
    task = ["--task", "depth" if case["mode"] == "F" else "albedo"]
    return [*place, *text, *task, *(word for change in sets for word in ("--set", change)), str(folder / "image.png")]


# What the project brings


def starter() -> Iterator[tuple[str, str]]:
    """Its tasks on a painted picture, without and with loss."""
    rows, columns = np.mgrid[:192, :256]
    waves = np.stack([rows * 4 // 3, columns, (rows // 16 + columns // 16) % 2 * 200], -1).astype(np.uint8)
    for name in ("picture.png", "picture.jpg"):
        Image.fromarray(waves).save(name)
        for task in STARTED:
            yield from answers(f"starter: {task} {name}", ["--model", str(STARTER), "--task", task, name])


def _old_files() -> Iterator[tuple[str, str]]:
    """What the files of older commits answer, and the weights of a run that goes on."""
    start = Path.cwd()
    for archive in sorted(FILES.glob("*.tar.xz")):
        place = start / archive.name.partition(".")[0]
        with tarfile.open(archive) as tar:
            tar.extractall(place, filter="data")
        os.chdir(place)
        for name, words in json.loads(Path("answers.json").read_text("utf-8")).items():
            yield from answers(f"{place.name}: {name}", [*words, "picture.png"])
        refusal = _said_by(["train", "run/config.toml", "--steps", "4"])
        yield f"{place.name}: a run that went on", refusal or _digest_of_weights(Path("run/last.safetensors"))
        os.chdir(start)


if __name__ == "__main__":
    main()
