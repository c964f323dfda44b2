"""The papers' tables in miniature: each row one run of the trainer, on the same rooms, network and budget.

    python benchmarks/tables.py --data ROOMS --out runs/tables          # about an hour of one core
    python benchmarks/tables.py --data ROOMS --out runs/tables-full --full     # larger and longer: for a GPU
    python benchmarks/tables.py ... --tables data betas                  # some tables, rows.TABLES
    python benchmarks/tables.py ... --only one-step scratch              # some runs, rows.TRAININGS

ROOMS is what `diffusion-perception scenes` renders: a folder with train/ and test/ in it. Rows are data, see rows.py.
A finished run leaves OUT/results/<run>.json and is not repeated; one that was killed goes on, but for the second
preparation below, which begins anew. The tables are printed,
and written to OUT/tables.md, beside the published figures, of which only the order can be compared; progress goes to
OUT/log.txt.

Before the rows come two preparations, shared by all: a small VAE, trained on the training rooms by the trainer; and
what stands for Stable Diffusion, a small UNet that learnt to make latents of those rooms out of noise.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import multiprocessing
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import backbones
import cv2
import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel
from rows import TABLES, TRAININGS, Row, Table, Training, over
from safetensors.torch import save_file
from torch import Tensor

from diffusion_perception.core.checkpoints.architecture import UNetArchitecture
from diffusion_perception.core.diffusion import PARAMETERISATIONS, TRAIN_STEPS, alpha_bars
from diffusion_perception.core.generations import HeadRule
from diffusion_perception.core.measure.metrics import METRICS
from diffusion_perception.core.pipeline import Perceiver, predict
from diffusion_perception.core.recipe import Recipe
from diffusion_perception.trainer import train
from diffusion_perception.trainer.base import open_vae, untrained
from diffusion_perception.trainer.config import Config, build
from diffusion_perception.trainer.data.arrays import READERS
from diffusion_perception.trainer.data.augment import Augmentation
from diffusion_perception.trainer.data.batches import Feed
from diffusion_perception.trainer.data.published import open_dataset
from diffusion_perception.trainer.data.records import Records, Sample, list_files
from diffusion_perception.trainer.data.targets import options_for
from diffusion_perception.trainer.host import device_named, load_vae, open_perceiver
from diffusion_perception.trainer.journal import Diverged
from diffusion_perception.trainer.scoring import score

KINDS = ("images", "depth", "normal", "albedo", "segmentation")
"""Folders of the rooms that the tables read."""
VAE, GENERATIVE = "vae", "generative"
"""The preparations."""
OWN_VAE = "{out}/runs/vae/vae"
"""What the first one leaves."""
TOKENS, HEAD_DIM = 2, 32
CHUNK = 16
"""Pictures at once where nothing learns."""
METRICS_OF = {"depth": ("abs-rel", "delta1"), "normal": ("mean-angle-per-image",), "segmentation": ("miou",)}


@dataclass(frozen=True)
class Scale:
    """How large everything is."""

    size: int
    widths: tuple[int, int, int, int]
    layers: int
    context_dim: int
    vae_widths: tuple[int, int, int, int]
    vae_crop: int
    samples: int
    """That each row sees."""
    vae_samples: int
    """Each an image and a target."""
    base_samples: int
    """Latents that the generative UNet sees."""
    batch_size: int
    lr: float
    workers: int


SCALES = {
    "miniature": Scale(128, (32, 64, 96, 128), 1, 64, (64, 64, 64, 64), 64, 2_400, 4_000, 16_000, 8, 1e-3, 0),
    "full": Scale(256, (64, 128, 256, 256), 2, 256, (64, 64, 128, 128), 128, 80_000, 160_000, 800_000, 16, 5e-4, 4),
}


@dataclass(frozen=True)
class Plan:
    """What this call works on."""

    data: Path
    out: Path
    scale: Scale
    device: str
    steps: int
    """Of every run, for a quick look; 0 is what the samples ask for."""
    vae: str
    """A trained one in place of the preparation's."""

    @property
    def rooms(self) -> Path:
        return self.out / "data"

    @property
    def precision(self) -> str:
        """bf16, but where it would take hours."""
        return "no" if train.emulates_bf16(torch.device(self.device).type) else "bf16"

    def steps_for(self, samples: int) -> int:
        return self.steps or max(samples // self.scale.batch_size, 1)


# What a run is told


def _settings_of(plan: Plan, name: str) -> dict[str, Any]:
    """Its whole config, {out} in place of the folder, so that results outlast a move."""
    if name == VAE:
        return _vae_settings(plan)
    scale, row = plan.scale, TRAININGS[name]
    train_set: dict[str, Any] = {"root": "{out}/data/train"}
    if row.share > 1:
        train_set["settings"] = {"names": f"{{out}}/names/{row.share}.txt"}
    common = {
        "out": f"{{out}}/runs/{name}",
        "tasks": ["depth"],
        "size": [scale.size, scale.size],
        "steps": plan.steps_for(scale.samples),
        "batch_size": scale.batch_size,
        "precision": plan.precision,
        "workers": plan.scale.workers,
        "cache_latents": True,
        "estimate": False,
        "validate_every": 0,
        "log_every": 50,
        "base": _base_settings(plan, row),
        "network": {"tokens": TOKENS},
        "optimiser": {"lr": scale.lr, "schedule": "cosine", "warmup": 20, "final_ratio": 0.02, "max_norm": 1.0},
        "data": [train_set],
    }
    return over(common, row.settings)


def _base_settings(plan: Plan, row: Training) -> dict[str, Any]:
    """What it starts from; the VAE is the same for all but rows of an own one."""
    if row.base == GENERATIVE:
        own = {"vae": OWN_VAE} if row.own_vae else {}
        return {"path": f"{{out}}/{GENERATIVE}", **own}
    if row.base:
        return {"path": f"{{out}}/runs/{row.base}/last.safetensors"}
    scale = plan.scale
    shape = {
        "widths": list(scale.widths),
        "layers": scale.layers,
        "head_dim": HEAD_DIM,
        "context_dim": scale.context_dim,
    }
    return {**shape, "vae": _vae_folder(plan)}


def _vae_folder(plan: Plan) -> str:
    return plan.vae or OWN_VAE


def _vae_settings(plan: Plan) -> dict[str, Any]:
    """Of the VAE: pictures, and those of the tasks that the tables learn."""
    scale = plan.scale
    return {
        "preset": "vae",
        "learn": "vae",
        "out": "{out}/runs/vae",
        "tasks": ["depth", "normal", "albedo"],
        "size": [scale.vae_crop, scale.vae_crop],
        "steps": plan.steps_for(scale.vae_samples),
        "batch_size": scale.batch_size,
        "precision": plan.precision,
        "workers": plan.scale.workers,
        "estimate": False,
        "validate_every": 0,
        "augment": {"flip": 0.5, "shape": "crop", "least_crop": scale.vae_crop / scale.size},
        "autoencoder": {"vae_widths": list(scale.vae_widths)},
        "optimiser": {"lr": 1e-3, "schedule": "cosine", "warmup": 50, "final_ratio": 0.02, "max_norm": 1.0},
        "data": [{"root": "{out}/data/train"}],
    }


def _located(settings: Any, out: Path) -> Any:
    """Settings with {out} filled in."""
    if isinstance(settings, Mapping):
        return {key: _located(value, out) for key, value in settings.items()}
    if isinstance(settings, list):
        return [_located(value, out) for value in settings]
    return settings.replace("{out}", str(out)) if isinstance(settings, str) else settings


# In which order


def before(plan: Plan, name: str) -> tuple[str, ...]:
    """What must be finished first."""
    if name == VAE:
        return ()
    vae = () if plan.vae and not (name in TRAININGS and TRAININGS[name].own_vae) else (VAE,)
    base = TRAININGS[name].base if name in TRAININGS else ""
    return (*vae, *([base] if base else []))


def _depth_of(plan: Plan, name: str) -> int:
    return 1 + max((_depth_of(plan, earlier) for earlier in before(plan, name)), default=-1)


def _waves(plan: Plan, names: Iterable[str]) -> Iterator[list[str]]:
    """The runs and all that they need, in groups whose members need nothing of each other."""
    needed: dict[str, int] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop(0)
        if name not in needed:
            needed[name] = _depth_of(plan, name)
            waiting += before(plan, name)
    for depth in sorted(set(needed.values())):
        yield [name for name in needed if needed[name] == depth]


def _digest(plan: Plan, name: str) -> str:
    """Of everything that its result depends on."""
    settings = _settings_of(plan, name) if name in (VAE, *TRAININGS) else {**vars(plan.scale), "name": name}
    about = [settings, plan.steps, len(_names_of(plan)), *(_digest(plan, earlier) for earlier in before(plan, name))]
    if name in TRAININGS and TRAININGS[name].network:
        about.append(TRAININGS[name].network)
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]


# What was found


def result(plan: Plan, name: str) -> dict[str, Any]:
    """What a finished run left; empty if there is none, or one of other settings."""
    file = plan.out / "results" / f"{name}.json"
    found = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    return found if found.get("digest") == _digest(plan, name) else {}


def keep(plan: Plan, name: str, found: Mapping[str, Any]) -> None:
    file = plan.out / "results" / f"{name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.partial")
    partial.write_text(json.dumps({**found, "digest": _digest(plan, name)}, indent=2) + "\n", "utf-8")
    partial.replace(file)


def wanted(name: str) -> list[tuple[str, str]]:
    """(task, overrides) under which the tables look at a run."""
    rows = [(table.task, row.overrides) for table in TABLES.values() for row in table.rows if row.run == name]
    return list(dict.fromkeys(rows))


def _looked_at(task: str, overrides: str) -> str:
    """The name of one such look."""
    return f"{task} {overrides}".strip()


# Preparations


def prepare(plan: Plan) -> None:
    """The rooms at the tables' size, and which pictures the smaller shares see."""
    for split in ("train", "test"):
        _shrink(plan.data / split, plan.rooms / split, plan.scale.size)
    names = _names_of(plan)
    order = np.random.default_rng(0).permutation(len(names))
    folder = plan.out / "names"
    folder.mkdir(parents=True, exist_ok=True)
    for share in {row.share for row in TRAININGS.values()}:
        chosen = sorted(names[i] for i in order[: max(len(names) // share, 1)])
        (folder / f"{share}.txt").write_text("\n".join(chosen) + "\n", "utf-8")


def _names_of(plan: Plan) -> list[str]:
    return sorted(path.stem for path in (plan.rooms / "train" / "images").iterdir())


def _shrink(rooms: Path, copy: Path, size: int) -> None:
    """A copy whose pictures have no longer edge than `size`, so that each is read a few times faster. Made once: rooms
    that are rendered later do not change a table that has begun."""
    if copy.is_dir():
        return
    partial = copy.with_name(f".{copy.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    files = {kind: list_files(rooms / kind, READERS)[0] for kind in KINDS}
    # rooms may still be in the making: what is whole has every kind
    stems = [stem for stem in files["images"] if all(stem in files[kind] for kind in KINDS)]
    if not stems:
        raise SystemExit(
            f"{rooms} holds no rooms with {', '.join(KINDS)}: render some with `diffusion-perception scenes`."
        )
    for kind in KINDS:
        (partial / kind).mkdir(parents=True)
        for stem in stems:
            picture = cv2.imread(str(rooms / files[kind][stem]), cv2.IMREAD_UNCHANGED)
            assert picture is not None
            cv2.imwrite(str(partial / kind / f"{stem}.png"), _shrunk(picture, size, kind))
    shutil.copy(rooms / "dataset.toml", partial)
    partial.rename(copy)


def _shrunk(picture: np.ndarray, size: int, kind: str) -> np.ndarray:
    """Images by area; truth by picking pixels, as the trainer does."""
    share = size / max(picture.shape[:2])
    if share >= 1:
        return picture
    height, width = (round(length * share) for length in picture.shape[:2])
    way = cv2.INTER_AREA if kind == "images" else cv2.INTER_NEAREST_EXACT
    return cv2.resize(picture, (width, height), interpolation=way)


def _pretrain(plan: Plan) -> None:
    """A UNet that learns to make the training pictures' latents out of noise, as Stable Diffusion did of the world's:
    v-prediction on its schedule. Written in diffusers layout, its VAE and an empty prompt beside it."""
    scale = plan.scale
    torch.manual_seed(0)
    vae = _opened_vae(plan)
    unet = UNet2DConditionModel.from_config(_shape_of(scale).config()).to(plan.device)
    context = torch.randn(1, TOKENS, scale.context_dim)
    latents, bars, v = _latents_of(plan, vae), alpha_bars(0.00085, 0.012), PARAMETERISATIONS["v_prediction"]
    optimiser = torch.optim.AdamW(unet.parameters(), lr=scale.lr)
    batch, steps = 2 * scale.batch_size, plan.steps or scale.base_samples // (2 * scale.batch_size)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = scale.lr * min(1, step / 20) * (1 + math.cos(math.pi * step / steps)) / 2
        sample = latents[torch.randint(len(latents), (batch,))].to(plan.device)
        timestep = torch.randint(TRAIN_STEPS, (batch,))
        bar, noise = bars[timestep].view(-1, 1, 1, 1).to(sample), torch.randn_like(sample)
        noisy = bar**0.5 * sample + (1 - bar) ** 0.5 * noise
        with torch.autocast(torch.device(plan.device).type, torch.bfloat16, enabled=plan.precision == "bf16"):
            output = unet(noisy, timestep.to(plan.device), context.expand(batch, -1, -1).to(plan.device)).sample
        F.mse_loss(output.float(), v.target(sample, noise, bar)).backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
    folder = plan.out / GENERATIVE
    unet.save_pretrained(folder / "unet")
    vae.save_pretrained(folder / "vae")
    save_file({"empty_text_embed": context}, folder / "empty_text_embed.safetensors")


def _shape_of(scale: Scale) -> UNetArchitecture:
    return untrained(scale.widths, scale.layers, scale.context_dim, HeadRule(width=HEAD_DIM))


def _opened_vae(plan: Plan) -> AutoencoderKL:
    return load_vae(*open_vae(Path(_located(_vae_folder(plan), plan.out)))).to(plan.device)


@torch.inference_mode()
def _latents_of(plan: Plan, vae: AutoencoderKL) -> Tensor:
    """Of every training picture, and of its mirror image."""
    latents = []
    samples = list(open_dataset("folder", "depth", root=plan.rooms / "train"))  # pyright: ignore[reportArgumentType]
    for first in range(0, len(samples), CHUNK):
        pictures = torch.stack([sample.image for sample in samples[first : first + CHUNK]])
        pictures = F.interpolate(pictures, (plan.scale.size,) * 2, mode="bilinear", antialias=True) * 2 - 1
        both = torch.cat([pictures, pictures.flip(-1)]).to(plan.device)
        latents.append(vae.encode(both).latent_dist.mean.cpu() * vae.config.scaling_factor)
    return torch.cat(latents).clone()


# Runs


def _complete(plan: Plan, name: str, threads: int) -> str:
    """Train and measure, unless that is done; what there is to say about it."""
    torch.set_num_threads(threads)
    found = result(plan, name)
    looks = [look for look in wanted(name) if _looked_at(*look) not in found.get("measured", {})]
    if "failed" in found or (found and not looks):
        return f"{name}: done before"
    if not found:
        try:
            found = {**_timed(plan, name), "measured": {}}
        except Diverged as fault:
            keep(plan, name, {"failed": str(fault)})
            return f"{name}: {fault}"
    found["measured"] |= {_looked_at(*look): measure(plan, name, *look) for look in looks}
    keep(plan, name, found)
    (plan.out / "runs" / name / "state.pt").unlink(missing_ok=True)
    shown = "; ".join(f"{how}: {_figures(metrics)}" for how, metrics in found["measured"].items())
    return f"{name}: {found['seconds']:.0f} s ({found['cpu_seconds']:.0f} s of one core) {shown}"


def _timed(plan: Plan, name: str) -> dict[str, Any]:
    """Train; how long it took."""
    start, worked = time.monotonic(), time.process_time()
    if name == GENERATIVE:
        _pretrain(plan)
    elif name not in GUESSES:
        learn(plan, name)
    taken, worked = time.monotonic() - start, time.process_time() - worked
    return {"seconds": round(taken, 1), "cpu_seconds": round(worked, 1)}


def learn(plan: Plan, name: str) -> None:
    """One call of the trainer."""
    config = _config_of(plan, name)
    out, told = Path(config.out), plan.out / "runs" / f"{name}.digest"
    if not told.is_file() or told.read_text("utf-8") != _digest(plan, name):
        shutil.rmtree(out, ignore_errors=True)  # of other settings
        out.mkdir(parents=True)
        told.write_text(_digest(plan, name), "utf-8")
    if config.cache_latents:
        # a picture has one latent, whichever run asks for it
        shared = plan.out / "latents"
        shared.mkdir(exist_ok=True)
        if not (out / "latents").is_symlink():
            (out / "latents").symlink_to(shared.resolve(), target_is_directory=True)
    if name in TRAININGS and TRAININGS[name].network:
        backbones.learn(config, TRAININGS[name].network)
    else:
        train.run(config)


def _config_of(plan: Plan, name: str) -> Config:
    settings = _located(_settings_of(plan, name), plan.out)
    return build(Config, {**settings, "device": torch.device(plan.device).type}, "")


def _figures(found: Mapping[str, float]) -> str:
    return ", ".join(f"{METRICS[name].title} {value:.4g}" for name, value in found.items())


# Measuring


@torch.inference_mode()
def measure(plan: Plan, name: str, task: str, overrides: str) -> dict[str, float]:
    """The metrics of a run's weights, run as the overrides say, over all held-out pictures."""
    records = open_dataset("folder", task, root=plan.rooms / "test")
    if name in GUESSES:
        recipe, vae = replace(Recipe(task), axes=records.convention.axes), _opened_vae(plan)
        feed = Feed(records, recipe, options_for(recipe), Augmentation())
        return _scored(((GUESSES[name](sample, feed, vae), sample) for sample in _all_of(records)), feed)
    recipe, predicts = opened(plan, name, overrides)
    feed = Feed(records, recipe, options_for(recipe), Augmentation())
    return _scored(_predictions(plan, predicts, records), feed)


Predicts = Callable[[Tensor], Tensor]
"""Images (B, 3, H, W) in [0, 1] -> values (B, C, H, W)."""


def opened(plan: Plan, name: str, overrides: str) -> tuple[Recipe, Predicts]:
    """The recipe of a run, and what predicts by its weights."""
    if TRAININGS[name].network:
        made = backbones.opened(_config_of(plan, name), TRAININGS[name].network)
        return made.recipe, made.values
    perceiver = _perceiver_of(plan, name, overrides)
    return perceiver.recipe, lambda images: predict(perceiver, images, batch_size=CHUNK).values.movedim(-1, 1)


def _perceiver_of(plan: Plan, name: str, overrides: str) -> Perceiver:
    """The weights as `predict` opens them."""
    file = plan.out / "runs" / name / "last.safetensors"
    lora = TRAININGS[name].settings.get("network", {}).get("unet") == "lora"
    base = _located(_base_settings(plan, TRAININGS[name])["path"], plan.out) if lora else ""
    return open_perceiver(file, base=base, overrides=overrides.split(), device=plan.device)


def _all_of(records: Records[Any]) -> Iterator[Sample]:
    return (records[index] for index in range(len(records)))


def _predictions(plan: Plan, predicts: Predicts, records: Records[Any]) -> Iterator[tuple[Tensor, Sample]]:
    """What is predicted of each picture, (1, C, H, W), and its truth."""
    samples = list(_all_of(records))
    for first in range(0, len(samples), CHUNK):
        chunk = samples[first : first + CHUNK]
        images = torch.stack([sample.image for sample in chunk]).to(plan.device)
        yield from zip(predicts(images).cpu().split(1), chunk)


def _scored(pairs: Iterable[tuple[Tensor, Sample]], feed: Feed) -> dict[str, float]:
    """The mean over pictures of each metric; depth is brought to the truth by least squares, picture by picture."""
    names = METRICS_OF.get(feed.recipe.row.name, ())
    return score(names, ((values, sample, feed) for values, sample in pairs))


Guess = Callable[[Sample, Feed, AutoencoderKL], Tensor]
"""A prediction (1, C, H, W) that no training is needed for."""


def constant(sample: Sample, feed: Feed, vae: AutoencoderKL) -> Tensor:
    return torch.full_like(sample.target[None], 0.5)


def _image_row(sample: Sample, feed: Feed, vae: AutoencoderKL) -> Tensor:
    """Far above, near below."""
    height, width = sample.target.shape[-2:]
    return torch.linspace(1, 0, height)[None, None, :, None].expand(1, 1, height, width)


def _towards_camera(sample: Sample, feed: Feed, vae: AutoencoderKL) -> Tensor:
    """Along the third of the axes right, up, back."""
    return torch.tensor([0.5, 0.5, 1.0])[None, :, None, None].expand(1, 3, *sample.target.shape[-2:])


def _vae_alone(sample: Sample, feed: Feed, vae: AutoencoderKL) -> Tensor:
    """The truth, encoded and decoded."""
    codec = feed.recipe.target_codec()
    values, _ = feed.supervision.normalise(sample)
    picture = codec.encode(values[None]).to(vae.device)
    return codec.decode(vae.decode(vae.encode(picture).latent_dist.mean, return_dict=False)[0]).cpu()


GUESSES: dict[str, Guess] = {
    "constant": constant,
    "image-row": _image_row,
    "towards-camera": _towards_camera,
    "vae-alone": _vae_alone,
}


# The tables


def _report(plan: Plan) -> str:
    """All that has been measured, as markdown."""
    parts = ["# The papers' tables in miniature", about(plan), *(shown(plan, table) for table in TABLES.values())]
    return "\n\n".join(parts) + "\n"


def about(plan: Plan) -> str:
    scale, views = plan.scale, len(_names_of(plan))
    held_out = len(list((plan.rooms / "test" / "images").iterdir()))
    weights = sum(weight.numel() for weight in UNet2DConditionModel.from_config(_shape_of(scale).config()).parameters())
    return (
        f"{scale.size}x{scale.size} pixels; a UNet of {weights / 1e6:.1f} M weights, widths {scale.widths}; "
        f"{plan.steps_for(scale.samples)} steps of {scale.batch_size} pictures a run; {views} training views, "
        f"{held_out} held-out views of other rooms. Depth is aligned by least squares, picture by picture. Published "
        "figures are of other networks, data and pictures: only their order can be compared."
    )


def shown(plan: Plan, table: Table) -> str:
    metrics = METRICS_OF[table.task]
    heads = ["", *(_headed(name) for name in metrics), *(f"published: {name}" for name in table.published)]
    lines = [f"## {table.title} ({table.source})", "", _markdown(heads), _markdown(["---"] * len(heads))]
    for row in table.rows:
        found = measured(plan, table, row)
        lacking = "failed" if "failed" in result(plan, row.run) else "–"
        ours = [f"{found[name]:.3f}" if name in found else lacking for name in metrics]
        published = [*row.published, *["–"] * (len(table.published) - len(row.published))]
        lines.append(_markdown([row.title, *ours, *published]))
    return "\n".join([*lines, *([""] if table.note or table.published else []), *said(plan, table)])


def _markdown(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _headed(metric: str) -> str:
    row = METRICS[metric]
    return f"{row.title} {'↑' if row.higher else '↓'}"


def measured(plan: Plan, table: Table, row: Row) -> dict[str, float]:
    return result(plan, row.run).get("measured", {}).get(_looked_at(table.task, row.overrides), {})


def said(plan: Plan, table: Table) -> Iterator[str]:
    """The note, and how many pairs of rows come out in the published order."""
    if table.note:
        yield table.note
    metric = METRICS_OF[table.task][0]
    pairs = [
        (measured(plan, table, row)[metric], float(row.published[table.ordered_by]))
        for row in table.rows
        if row.published and metric in measured(plan, table, row)
    ]
    # rows of the same published figure have no order
    compared = [(a, b) for a, b in combinations(pairs, 2) if a[1] != b[1]]
    if compared:
        same = sum((a[0] < b[0]) == (a[1] < b[1]) for a, b in compared)
        column = table.published[table.ordered_by]
        yield f"{same} of {len(compared)} pairs of rows lie in the published order (by {column})."


# The command


def chosen(tables: list[str], only: list[str]) -> list[str]:
    """The runs of these tables, or those named. Ends the program for what does not exist."""
    for name, known in (*((name, TABLES) for name in tables), *((name, (*TRAININGS, *GUESSES)) for name in only)):
        if name not in known:
            raise SystemExit(f"There is no {name!r}: take of {', '.join(known)}.")
    rows = [row.run for name in tables or TABLES for row in TABLES[name].rows]
    return only or list(dict.fromkeys(rows))


def _run_all(plan: Plan, names: list[str], jobs: int, threads: int) -> None:
    """Every run and what it needs; what is independent side by side."""
    if jobs == 1:
        for name in (name for wave in _waves(plan, names) for name in wave):
            print(_complete(plan, name, threads), flush=True)
        return
    log = (plan.out / "log.txt",)
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _said_elsewhere, log) as pool:
        for wave in _waves(plan, names):
            # a run that has nothing beside it takes all cores
            each = max(threads // min(jobs, len(wave)), 1)
            for line in pool.map(_complete, [plan] * len(wave), wave, [each] * len(wave)):
                print(line, flush=True)


def _said_elsewhere(log: Path) -> None:
    """What this process says of its progress goes into a file: several bars at once would write over each other."""
    with log.open("a", encoding="utf-8") as file:
        os.dup2(file.fileno(), sys.stderr.fileno())


def main(argv: list[str] | None = None) -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--data", type=Path, required=True, help="rendered rooms: a folder with train/ and test/")
    arguments.add_argument("--out", type=Path, default=Path("runs/tables"), help="for everything that is made")
    arguments.add_argument("--full", action="store_true", help="larger and longer")
    arguments.add_argument("--tables", nargs="*", default=[], metavar="TABLE", help=f"of {', '.join(TABLES)}")
    arguments.add_argument("--only", nargs="*", default=[], metavar="RUN", help="single rows of rows.TRAININGS")
    arguments.add_argument(
        "--jobs", type=int, default=0, help="runs side by side; one a thread if left out, on a GPU 1"
    )
    arguments.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="that all of them share")
    arguments.add_argument("--steps", type=int, default=0, help="of every run, for a quick look")
    arguments.add_argument("--vae", default="", help="a trained VAE, file or folder, in place of the small one")
    arguments.add_argument("--device", default="", help="cpu or cuda; the best there is if left out")
    said = arguments.parse_args(argv)
    device = device_named(said.device)
    scale = SCALES["full" if said.full else "miniature"]
    plan = Plan(
        said.data.resolve(), said.out.resolve(), scale, device, said.steps, said.vae and str(Path(said.vae).resolve())
    )
    plan.out.mkdir(parents=True, exist_ok=True)
    prepare(plan)
    # small networks gain little from a second core: better a run on each
    jobs = said.jobs or (said.threads if device == "cpu" else 1)
    _run_all(plan, chosen(said.tables, said.only), jobs, said.threads)
    text = _report(plan)
    (plan.out / "tables.md").write_text(text, "utf-8")
    print(text)


if __name__ == "__main__":
    main()
