"""What was published of each preset's training, written down from the authors' configs, code and papers.

    python tests/published_recipes.py            # writes docs/recipes.md

test_published_recipes.py holds the presets to this table: what differs has a reason here, and nothing else has.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffusion_perception.trainer.config import Config, read
from diffusion_perception.trainer.data.feeds import recipe_for
from diffusion_perception.trainer.objective import terms_of
from diffusion_perception.trainer.presets import PRESETS
from diffusion_perception.trainer.resolved import target_of

DOCUMENT = Path(__file__).absolute().parents[1] / "docs/recipes.md"


@dataclass(frozen=True)
class Published:
    """One training run."""

    source: str
    """Where it is written."""
    says: Mapping[str, Any]
    """{field of `settled`: the published value}; what is not here is not said there."""
    differs: Mapping[str, str] = field(default_factory=dict)
    """{field: why the preset has another value}"""
    beside: tuple[str, ...] = ()
    """What else is not the same, or not known."""


def like(row: Published, source: str, *, but: Mapping[str, str] | None = None, **says: Any) -> Published:
    """Another run that is the same but for what is said here; `but`: what differs there, None for what row.differs."""
    named = {key.replace("_", " "): value for key, value in says.items() if key != "beside"}
    differs = row.differs if but is None else but
    return Published(source, {**row.says, **named}, differs, says.get("beside", row.beside))


FROZEN = "the frozen networks stay in single precision: more memory, not more wrong"
GENPERCEPT = Published(
    "GenPercept, config/main_paper",
    {
        "learns": "UNet",
        "head": "",
        "size": "768x768",
        "at once": 4,
        "a step": 32,
        "steps": 30_000,
        "precision": "fp16",
        "frozen": "fp16",
        "optimiser": "adam",
        "rate": 3e-5,
        "rate of what decodes": 0.0,
        "weight decay": 0.0,
        "largest gradient": 0.0,
        "average": 0.0,
        "schedule": "exponential",
        "warm-up": 100,
        "decay ends at": 25_000,
        "last rate": 0.01,
        "timesteps": "random",
        "noise": "",
        "tokens": 2,
        "flip": 0.5,
        "picture's filter": "nearest-exact",
        "seed": 2024,
        "run as": "one-step, 1 step",
        "betas": "1 to 1",
        "datasets": "hypersim 0.9, vkitti 0.1 at 352x1216",
    },
    {"frozen": FROZEN},
)
STREETS_NORMALS = (
    "Virtual KITTI is published without normals, and how GenPercept made them is not said: the reader makes them of "
    "its depth as E2E-FT does.",
)
DEPTH = like(
    GENPERCEPT,
    "GenPercept, config/main_paper, depth",
    task="depth",
    size="480x640",
    at_once=8,
    losses="mse, ssi x0.5, vertical-gradient x2",
    target="quantile",
)
DISPARITY_RANGE = (
    "The published code stretches disparity between the smallest of all pixels, valid or not, and the largest "
    "valid one; "
    "here both ends are of valid pixels.",
)
DISPARITY = like(
    DEPTH, "GenPercept, config/main_paper, disparity", task="disparity", size="768x768", at_once=4, target="min-max",
    beside=DISPARITY_RANGE,
)  # fmt: skip
NORMAL = like(
    GENPERCEPT,
    "GenPercept, config/main_paper, normal",
    task="normal",
    losses="angular",
    beside=STREETS_NORMALS,
)
MASK = like(
    GENPERCEPT, "GenPercept, config/main_paper, dis", task="mask", losses="mse", target="whole", datasets="dis5k"
)
MATTE = like(MASK, "GenPercept, config/main_paper, matting", task="matte", datasets="p3m10k")
COLOURS = like(MASK, "GenPercept, config/main_paper, seg", task="segmentation", datasets="hypersim")
BASELINE = like(
    DEPTH, "GenPercept, config/ablation, baseline", at_once=16, losses="latent-mse",
)  # fmt: skip
TWO = like(BASELINE, "GenPercept, config/ablation", at_once=2)
SMALL_CARD = {"size": "480x640", "at_once": 2, "losses": "latent-mse"}
DPT = {"head": "dpt_head_identity", "rate_of_what_decodes": 3e-5}
RUN_FROM_NOISE = {"noise": "pyramid 0.9, annealed", "betas": "0.00085 to 0.012"}

SAID_LITTLE = ("What the paper does not say is as in the code that came later.",)
FIRST = Published(
    "GenPercept, arXiv 2403.06090 v1, sec. 3",
    {
        "learns": "UNet",
        "size": "768x768",
        "a step": 16,
        "rate": 3e-5,
        "schedule": "linear",
        "run as": "one-step, 1 step",
        "tokens": 77,
    },
    beside=SAID_LITTLE,
)

MARIGOLD = Published(
    "Marigold, config/train_marigold_depth.yaml, src/trainer/marigold_depth_trainer.py",
    {
        **GENPERCEPT.says,
        "task": "depth",
        "size": "480x640",
        "at once": 2,
        "precision": "no",
        "frozen": "fp32",
        "losses": "latent-mse",
        "target": "quantile",
        "noise": "pyramid 0.9, annealed",
        "run as": "stochastic, 4 steps",
        "betas": "0.00085 to 0.012, zero at the end",
    },
    beside=(
        "Marigold leaves out frames of Hypersim whose depth is not whole (filename_list_train_filtered.txt); "
        "the reader "
        "takes all of the split.",
    ),
)
E2E = Published(
    "E2E-FT, training/train.py, training/scripts, training/dataloaders/load.py",
    {
        "learns": "UNet",
        "head": "",
        "task": "depth",
        "size": "480x640",
        "at once": 2,
        "a step": 32,
        "steps": 20_000,
        "precision": "no",
        "frozen": "fp32",
        "optimiser": "adamw",
        "rate": 3e-5,
        "weight decay": 0.01,
        "largest gradient": 1.0,
        "average": 0.0,
        "schedule": "exponential",
        "warm-up": 100,
        "decay ends at": 20_000,
        "last rate": 0.01,
        "losses": "ssi",
        "timesteps": "final",
        "noise": "zeros",
        "tokens": 77,
        "flip": 0.5,
        "picture's filter": "bilinear",
        "target": "quantile",
        "run as": "stochastic, 1 step",
        "betas": "0.00085 to 0.012",
        "datasets": "hypersim 0.9, vkitti 0.1 at 352x1216",
    },
    beside=(
        "The loss is the same but for its unit: there residuals count in metres, here as shares of each picture's own "
        "range, so that far rooms and streets do not outweigh near ones.",
        "The decoded picture is cut off at -1 and 1 before the loss there, and not here.",
        "No seed is set there.",
    ),
)

DMP = Published(
    "DMP, train.py and its scripts",
    {
        "learns": "LoRA 4 of to_q, to_k, to_v, to_out.0",
        "head": "",
        "task": "normal",
        "size": "512x512",
        "at once": 8,
        "a step": 8,
        "steps": 50_000,
        "precision": "fp16",
        "frozen": "fp16",
        "optimiser": "adamw",
        "rate": 1e-4,
        "weight decay": 0.01,
        "largest gradient": 1.0,
        "average": 0.0,
        "schedule": "cosine",
        "warm-up": 0,
        "last rate": 0.0,
        "losses": "latent-mse",
        "timesteps": "random",
        "noise": "",
        "tokens": 77,
        "latents": "drawn",
        "captions": "",
        "flip": 0.0,
        "seed": 42,
        "predicts": "v_prediction",
        "run as": "deterministic, 5 steps",
        "betas": "0.00085 to 0.012",
    },
    {"frozen": FROZEN},
)
IN_DMP: dict[str, dict[str, Any]] = {
    "normal": {},
    "depth": {"flip": 0.5, "target": "metric", "units": 8.0},
    "albedo": {"flip": 0.5, "target": "unit"},
    "shading": {"flip": 0.5, "target": "unit"},
    "segmentation": {"flip": 0.5, "target": "unit"},
}
TOLD = (
    "There a picture is run with a caption of its own and guidance 2, against the empty prompt; the file that "
    "is trained "
    "here is run with the empty prompt, unless --context and --negative-context say otherwise.",
)

PUBLISHED: dict[str, Published] = {
    "genpercept-depth": DEPTH,
    "genpercept-disparity": DISPARITY,
    "genpercept-disparity-dpt": like(DISPARITY, "GenPercept, config/main_paper, disparity, DPT", at_once=8, **DPT),
    "genpercept-normal": NORMAL,
    "genpercept-mask": MASK,
    "genpercept-matte": MATTE,
    "genpercept-segmentation": COLOURS,
    "genpercept-both": like(MASK, "GenPercept, config/others, dis", losses="latent-mse, mse"),
    "genpercept-both-normal": like(NORMAL, "GenPercept, config/others, normal", losses="latent-mse, angular"),
    "genpercept-both-matte": like(MATTE, "GenPercept, config/others, matting", losses="latent-mse, mse"),
    "genpercept-4090-depth": like(DEPTH, "GenPercept, config/train_with_4090, depth", **SMALL_CARD),
    "genpercept-4090-disparity": like(DISPARITY, "GenPercept, config/train_with_4090, disparity", **SMALL_CARD),
    "genpercept-4090-disparity-dpt": like(
        DISPARITY, "GenPercept, config/train_with_4090, disparity, DPT", size="480x640", at_once=1, **DPT
    ),
    "genpercept-4090-normal": like(NORMAL, "GenPercept, config/train_with_4090, normal", **SMALL_CARD),
    "genpercept-4090-mask": like(MASK, "GenPercept, config/train_with_4090, dis", **SMALL_CARD),
    "genpercept-4090-matte": like(MATTE, "GenPercept, config/train_with_4090, matting", **SMALL_CARD),
    "genpercept-4090-segmentation": like(COLOURS, "GenPercept, config/train_with_4090, seg", **SMALL_CARD),
    "genpercept-v1-depth": like(
        FIRST,
        "GenPercept, arXiv 2403.06090 v1, sec. 3.1",
        task="depth",
        head="dpt_head_identity",
        losses="vnl, hdn, mse, l1",
        but={
            "losses": "factors are not said: 1, and 0.5 for HDN, as in the code; nor is which of HDN's ways: it is by "
            "ranges of depth, and hdn-space is another"
        },
        datasets="hypersim 0.9, vkitti 0.1 at 352x1216",
        beside=(
            *SAID_LITTLE,
            "How Hypersim and Virtual KITTI are mixed is as in the code.",
        ),
    ),
    "genpercept-v1-normal": like(
        FIRST, "GenPercept, arXiv 2403.06090 v1, sec. 3.1", task="normal", losses="latent-mse", datasets="hypersim"
    ),
    "genpercept-v1-mask": like(
        FIRST,
        "GenPercept, arXiv 2403.06090 v1, sec. 3.2",
        task="mask",
        steps=30_000,
        a_step=32,
        datasets="dis5k",
        beside=(*SAID_LITTLE, "The loss is not said: between latents, as for normals."),
    ),
    "genpercept-v1-matte": like(
        FIRST,
        "GenPercept, arXiv 2403.06090 v1, sec. 3.3",
        task="matte",
        steps=20_000,
        a_step=32,
        run_as="deterministic, 51 steps",
        datasets="p3m10k",
        beside=(
            *SAID_LITTLE,
            "The paper says 1000 steps of DDPM in training and 51 of DDIM after it, and neither schedule nor what is "
            "blended: Stable Diffusion's betas and the picture, as in sec. 2.2.",
            "After it values above 0.95 become 1 and those below 0.1 become 0 there; here they stay.",
        ),
    ),
    "genpercept-v1-segmentation": like(
        FIRST,
        "GenPercept, arXiv 2403.06090 v1, sec. 3.2",
        task="segmentation",
        losses="latent-mse",
        datasets="hypersim",
        beside=(
            *SAID_LITTLE,
            "Size, batch and rate are those of its other tasks; colours are NYU40's, for its own are not said.",
        ),
    ),
    "genpercept-v1-segmentation-upernet": like(
        FIRST,
        "GenPercept, arXiv 2403.06090 v1, sec. 3.2",
        task="segmentation",
        head="upernet",
        datasets="hypersim",
        losses="cross-entropy",
        beside=(
            *SAID_LITTLE,
            "base.path is to name the first stage's file. The UNet learns on, as in the table's better row (FT).",
        ),
    ),
    "genpercept-v1-keypoints": like(
        FIRST,
        "GenPercept, arXiv 2403.06090 v1, sec. 3.4",
        task="keypoints",
        size="not said",
        head="vitpose_classic",
        losses="heatmaps",
        datasets="coco-keypoints",
        but={"size": "crops of 1024x768, as SDPose has them on the same network"},
        beside=(
            *SAID_LITTLE,
            "15,000 samples of COCO's training set are learnt there, and which is not said; here all of it.",
        ),
    ),
    "genpercept-latent": BASELINE,
    "genpercept-pixel": like(TWO, "GenPercept, config/ablation/components, pixel mse", at_once=8, losses="mse"),
    "genpercept-fixed-timestep": like(TWO, "GenPercept, config/ablation/timesteps, 1", timesteps="fixed"),
    "genpercept-lora": like(
        TWO, "GenPercept, config/ablation/lora, rank 16", learns="LoRA 16 of to_q, to_k, to_v, to_out.0"
    ),
    "genpercept-dpt": like(TWO, "GenPercept, config/ablation/components, DPT", at_once=16, losses="mse", **DPT),
    "genpercept-frozen": like(
        TWO, "GenPercept, config/ablation/lora, freeze_unet", learns="the head alone", losses="mse", **DPT
    ),
    "genpercept-scratch": like(
        TWO,
        "GenPercept, config/ablation/components, unet_from_scratch",
        beside=("The first paper trains it for 200,000 steps.",),
    ),
    "genpercept-encoder": like(
        FIRST,
        "GenPercept, arXiv 2403.06090 v1, sec. 4 and Table 9, row 4",
        task="depth",
        losses="latent-mse",
        datasets="hypersim",
        beside=(
            *SAID_LITTLE,
            "base.vae is to name a VAE that learnt Hypersim alone: the preset vae on the run's data makes a small one. "
            "What theirs was trained with is not said.",
        ),
    ),
    "genpercept-decoder": like(
        TWO,
        "GenPercept, config/ablation/components, vae_decoder_from_scratch",
        at_once=4,
        learns="UNet, the VAE's decoder",
        losses="mse",
        rate_of_what_decodes=3e-5,
        beside=("As released, the decoder begins with its pretrained weights in spite of the config's name.",),
    ),
    "genpercept-blending": like(
        TWO,
        "GenPercept, config/ablation/beta_values, rgb_blending",
        run_as="deterministic, 10 steps",
        betas="0.00085 to 0.012",
    ),
    "marigold-depth": like(
        TWO,
        "GenPercept, config/ablation/beta_values, wo_rgb_blending",
        run_as="stochastic, 10 steps",
        **RUN_FROM_NOISE,
        beside=("The noise is brought to a deviation of 1 picture by picture, there over the batch.",),
    ),
    "marigold-v1-1-depth": MARIGOLD,
    "marigold-v1-1-normal": like(
        MARIGOLD,
        "Marigold, config/train_marigold_normals.yaml",
        task="normal",
        target="unit",
        rate=6e-5,
        jitter=0.3,
        blur=0.3,
        datasets="hypersim 0.5, interiorverse 0.49, sintel-normals 0.01",
        beside=(
            "Pictures are blurred by motion too there (0.3 of them, 11 pixels), and not here; only Hypersim's are "
            "blurred there, and here all.",
            "Cells without truth count in the loss there, and not here; of Sintel they do, as facing the camera.",
            "Frames of Hypersim and InteriorVerse whose normals are not whole are left out there, and here only where "
            "they have none. InteriorVerse's light becomes sRGB here, and there its power of 1/2.2.",
            "Normals are resized smoothly there, by nearest pixels here.",
        ),
    ),
    "e2e-ft-depth": E2E,
    "e2e-ft-normal": like(
        E2E,
        "E2E-FT, training/train.py, training/scripts",
        task="normal",
        losses="angular",
        target="unit",
        beside=(
            "Virtual KITTI's normals are made of its depth by the same method (D2NT, version 3), with rays through the "
            "pixels' centres; there they are a pixel off, and the normals are read in 8 bits.",
            "The prediction is brought to length 1 before the loss there; the angle does not depend on it.",
            "Normals are resized smoothly there, by nearest pixels here.",
            "No seed is set there.",
        ),
    ),
    **{f"dmp-{task}": like(DMP, "DMP, train.py --disable_prompts", task=task, **own) for task, own in IN_DMP.items()},
    **{
        f"dmp-{task}-captions": like(DMP, "DMP, train.py", task=task, **own, captions="metadata.jsonl", beside=TOLD)
        for task, own in IN_DMP.items()
    },
    "dmp-x": like(DMP, "DMP, Table 4, x", predicts="epsilon"),
    "dmp-y": like(DMP, "DMP, Table 4, y", predicts="sample"),
}
OWN = ("light-decoder", "light-encoder", "vae")
"""This project's."""


def settled(name: str) -> dict[str, Any]:
    """A preset's settings as they are resolved, field by field."""
    config = read(None, {"preset": name})
    (task,) = config.tasks
    recipe, optimiser, rows = recipe_for(task, config, "sd21"), config.optimiser, PRESETS[name].data
    return {
        "task": task,
        "learns": learns(config),
        "head": config.network.head,
        "size": size_text(config.size),
        "at once": config.batch_size,
        "a step": config.batch_size * config.accumulation,
        "steps": config.steps,
        "precision": config.precision,
        "frozen": config.network.frozen_precision,
        "optimiser": optimiser.name,
        "rate": optimiser.lr,
        "rate of what decodes": optimiser.decoder_lr,
        "weight decay": optimiser.weight_decay,
        "largest gradient": optimiser.max_norm,
        "average": optimiser.ema,
        "schedule": optimiser.schedule,
        "warm-up": optimiser.warmup,
        "decay ends at": optimiser.decay_steps or config.steps,
        "last rate": optimiser.final_ratio,
        "losses": ", ".join(weighted(term.name, term.factor) for term in terms_of(recipe, config.objective)),
        "timesteps": config.objective.timesteps,
        "noise": noise_of(config, recipe),
        "latents": "drawn" if config.objective.sample_latents else "means",
        "tokens": config.network.tokens,
        "captions": next((row["captions"] for row in rows if "captions" in row), ""),
        "flip": config.augment.get("flip", 0.0),
        "jitter": config.augment.get("jitter", 0.0),
        "blur": config.augment.get("blur", 0.0),
        "picture's filter": config.augment.get("image_filter", "bilinear"),
        "target": {**target_of(task, config), **config.target_fields(task)}["span"],
        "units": recipe.target_scale,
        "predicts": recipe.prediction_type,
        "run as": f"{recipe.paradigm}, {recipe.steps} step{'s' if recipe.steps > 1 else ''}",
        "betas": f"{recipe.beta_start:g} to {recipe.beta_end:g}{', zero at the end' if recipe.zero_snr else ''}",
        "seed": config.seed,
        "datasets": ", ".join(dataset_text(row) for row in rows if "reader" in row),
    }


def learns(config: Config) -> str:
    network = config.network
    unet = {
        "full": "UNet", "lora": f"LoRA {network.rank} of {', '.join(network.lora_layers)}", "frozen": "the head alone",
    }[network.unet]  # fmt: skip
    return f"{unet}, the VAE's decoder" if network.decoder else unet


def weighted(name: str, factor: float) -> str:
    return name if factor == 1 else f"{name} x{factor:g}"


def noise_of(config: Config, recipe: Any) -> str:
    """What stands beside the picture, or in its place."""
    if recipe.paradigm != "stochastic" or recipe.noise == "zeros":
        return "zeros" if recipe.paradigm == "stochastic" else ""
    settings = config.objective
    return f"{settings.noise} {settings.pyramid_strength:g}{', annealed' if settings.annealed else ''}"


def size_text(size: Any) -> str:
    return f"{size[0]}x{size[1]}"


def dataset_text(row: Mapping[str, Any]) -> str:
    weight = f" {row['weight']:g}" if "weight" in row else ""
    return f"{row['reader']}{weight}{' at ' + size_text(row['size']) if 'size' in row else ''}"


# The document

HEAD = """\
# The papers' recipes

Each preset of `diffusion-perception train`, field by field: what it resolves to, and what was published. `train
--presets` lists them, `train --preset NAME --write-config FILE` writes a config to begin with, `train --preset NAME
--print-config` shows everything. Where a preset is nearly another one, only what differs from that stands here.

A dash stands for what was not published; what is none or 0 in both is left out. Losses are those of
`core/measure/losses.py`, datasets the readers': `hypersim 0.9, vkitti 0.1 at 352x1216` are nine batches in ten of the
first, and one of the second in a size of its own. A preset says that of any `[[data]]` with that reader.

`python tests/published_recipes.py` writes this page, and a test holds the presets to it. None of the presets has been
run to its end here: the page shows what the recipes are, not what they reach.
"""
NEAR = 8
"""So many rows may differ where a preset is said to be as another."""
USUAL = {"latents": "means", "units": 1.0, "predicts": "v_prediction"}
"""What is left out where nothing else is said."""
Lines = dict[str, str]
"""{field: its row of a table}"""


def document() -> str:
    """docs/recipes.md."""
    done: dict[str, Lines] = {}
    lines = [HEAD]
    for name in PUBLISHED:
        lines += page(name, done)
        done[name] = rows_of(name)
    return "\n".join([*lines, *own_presets()]) + "\n"


def page(name: str, done: Mapping[str, Lines]) -> Iterator[str]:
    """The section of one preset, after those that are done."""
    rows, row = rows_of(name), PUBLISHED[name]
    apart = {other: {key: rows.get(key, gone(key)) for key in changed(rows, said)} for other, said in done.items()}
    near = min(apart, key=lambda other: len(apart[other]), default="")
    short = near and len(apart[near]) <= NEAR
    yield from (f"## {name}", "", f"{PRESETS[name].title}. Published in: {row.source}.", "")
    if short:
        yield from (f"As `{near}`, but:" if apart[near] else f"As `{near}`.", "")
    shown = apart[near] if short else rows
    if shown:
        yield from ("| | here | published | |", "|---|---|---|---|", *shown.values(), "")
    if row.beside:
        yield from (*(f"- {sentence}" for sentence in row.beside), "")


def rows_of(name: str) -> Lines:
    """Everything that is said of a preset, or here of it."""
    row, found = PUBLISHED[name], {}
    for key, value in settled(name).items():
        said = row.says.get(key, USUAL.get(key, ""))
        if (value, said) not in (("", ""), (0, 0), (0, "")) and (key in row.says or value != USUAL.get(key)):
            published = text(row.says[key]) if key in row.says else "–"
            found[key] = f"| {key} | {text(value)} | {published} | {row.differs.get(key, '')} |"
    return found


def changed(rows: Lines, others: Lines) -> list[str]:
    """Fields whose rows are not the same."""
    return [key for key in {**rows, **others} if rows.get(key) != others.get(key)]


def gone(key: str) -> str:
    """The row of a field that another preset has, and this one not."""
    return f"| {key} | none | – | |"


def text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value) if value != "" else "none"


def own_presets() -> Iterator[str]:
    """What is nobody else's."""
    yield from ("## This project's own", "", *(f"- `{name}`: {PRESETS[name].title}" for name in OWN))


if __name__ == "__main__":
    DOCUMENT.write_text(document(), "utf-8")
    sys.stdout.write(f"{DOCUMENT}\n")
