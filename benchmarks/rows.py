"""Rows: the tables of GenPercept and DMP as data: what each row trains, how it is run, and what was published."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from diffusion_perception.trainer.recipes.preset import over


@dataclass(frozen=True)
class Training:
    """One call of the trainer."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    """Of a config, laid over what all have in common."""
    base: str = "generative"
    """The training that it starts from; empty is an untrained UNet."""
    share: int = 1
    """One of so many training pictures is seen."""
    own_vae: bool = False
    """The preparation's VAE, which saw the training rooms alone, though another was given for all."""
    network: str = ""
    """What learns in the UNet's place, untrained: a row of backbones.NETWORKS."""


@dataclass(frozen=True)
class Row:
    """One line of a table."""

    title: str
    run: str
    """A row of TRAININGS, or what is measured without one, a row of tables.GUESSES."""
    overrides: str = ""
    """FIELD=VALUE ... of its recipe: how the same weights are run."""
    published: tuple[str, ...] = ()
    """As printed in the paper, in the order of the table's columns."""


@dataclass(frozen=True)
class Table:
    """Rows, and which of the published figures says their order."""

    title: str
    source: str
    task: str
    rows: tuple[Row, ...]
    published: tuple[str, ...] = ()
    """Columns of the paper."""
    ordered_by: int = 0
    """The published column by which pairs of rows are compared: less is better if it is of our first metric."""
    note: str = ""


def _blended(beta_start: float, beta_end: float) -> dict[str, Any]:
    """Ten deterministic steps from the image, GenPercept's rgb blending."""
    recipe = {"paradigm": "deterministic", "steps": 10, "beta_start": beta_start, "beta_end": beta_end}
    return {"recipe": recipe}


def told(timestep: int) -> dict[str, Any]:
    """The network is told this timestep in training and after it."""
    return {"objective": {"timesteps": "fixed"}, "recipe": {"timestep": timestep}}


STOCHASTIC = {
    "objective": {"noise": "pyramid"},
    "recipe": {"paradigm": "stochastic", "steps": 10, "beta_start": 0.00085, "beta_end": 0.012},
}
PIXEL = {"objective": {"loss": "pixel", "pixel_losses": {"depth": ["mse"]}}}
DPT = over(PIXEL, {"network": {"head": "dpt_head_identity", "head_width": 32}})
FROZEN = {"network": {"unet": "frozen"}}
SCORES = {
    "tasks": ["segmentation"],
    "objective": {"loss": "pixel"},
    "network": {"head": "upernet", "head_width": 32},
}
"""A score for each class."""
LORA = {"network": {"unet": "lora", "rank": 16}, "optimiser": {"lr": 2e-3}}
WIDE = over(LORA, {"network": {"lora_layers": ["to_q", "to_k", "to_v", "to_out.0", "conv1", "conv2"]}})
"""Beside convolutions as well: attention is a small part of a small network."""


def dmp(prediction_type: str, adapter: Mapping[str, Any] = WIDE) -> dict[str, Any]:
    """DMP's five steps for normals."""
    recipe = {
        "paradigm": "deterministic",
        "steps": 5,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "final": "previous",
        "prediction_type": prediction_type,
    }
    return over(adapter, {"tasks": ["normal"], "recipe": recipe})


TRAININGS: dict[str, Training] = {
    "one-step": Training(),
    "one-step-seed-1": Training({"seed": 1}),
    "one-step-seed-2": Training({"seed": 2}),
    "deterministic": Training(_blended(0.00085, 0.012)),
    "stochastic": Training(STOCHASTIC),
    "beta-0.0034": Training(_blended(0.0034, 0.048)),
    "beta-0.136": Training(_blended(0.136, 0.192)),
    "beta-0.544": Training(_blended(0.544, 0.768)),
    "timestep-1": Training(told(1)),
    "timestep-500": Training(told(500)),
    "timestep-900": Training(told(900)),
    "scratch": Training(base=""),
    "albedo": Training({"tasks": ["albedo"]}, base=""),
    "after-albedo": Training(base="albedo"),
    "dpt": Training(DPT),
    "decoder": Training(over(PIXEL, {"network": {"decoder": True}})),
    "frozen-dpt": Training(over(DPT, FROZEN)),
    "frozen-dpt-after-albedo": Training(over(DPT, FROZEN), base="albedo"),
    "lora": Training(LORA),
    "wide-lora": Training(WIDE),
    "own-vae": Training(own_vae=True),
    **{f"data-{share}": Training(share=share) for share in (2, 4, 8, 16, 32, 64, 128)},
    "normal-v": Training(dmp("v_prediction")),
    "normal-x": Training(dmp("epsilon")),
    "normal-y": Training(dmp("sample")),
    "normal-one-step": Training(over(WIDE, {"tasks": ["normal"]})),
    "normal-v-full": Training(dmp("v_prediction", {})),
    "normal-one-step-full": Training({"tasks": ["normal"]}),
    "pixart": Training(told(999), base="", network="pixart"),
    "scratch-dpt": Training(DPT, base=""),
    "dinov2-dpt": Training(DPT, base="", network="dinov2-dpt"),
    "upernet": Training(SCORES),
    "frozen-upernet": Training(over(SCORES, FROZEN)),
    "scratch-upernet": Training(SCORES, base=""),
    "dinov2-upernet": Training(SCORES, base="", network="dinov2-upernet"),
    "frozen-dinov2-upernet": Training(over(SCORES, FROZEN), base="", network="dinov2-upernet"),
}
"""`one-step` is GenPercept's baseline: the whole UNet, the loss between latents, random timesteps, one pass."""

DEPTH_COLUMNS = ("NYU AbsRel", "NYU δ1", "KITTI AbsRel", "KITTI δ1")
BASELINE = ("0.059", "0.958", "0.140", "0.809")

TABLES: dict[str, Table] = {
    "floor": Table(
        "What frames the tables of depth",
        "no paper",
        "depth",
        (
            Row("the same depth everywhere", "constant"),
            Row("depth by the image row", "image-row"),
            Row("the truth through the VAE and back", "vae-alone"),
            Row("one-step, another seed", "one-step-seed-1"),
            Row("one-step, a third seed", "one-step-seed-2"),
        ),
        note="No row can be better than the VAE's own way there and back. How far the seeds of one-step (next table) "
        "lie apart is what differences below are to be held against.",
    ),
    "paradigms": Table(
        "One pass, deterministic steps, stochastic steps",
        "GenPercept, Table 7",
        "depth",
        (
            Row(
                "stochastic, 10 steps, ensemble of 10",
                "stochastic",
                "ensemble_size=10",
                ("0.078", "0.929", "0.185", "0.719"),
            ),
            Row("stochastic, 10 steps", "stochastic", "", ("0.078", "0.929", "0.191", "0.698")),
            Row("deterministic, 10 steps", "deterministic", "", ("failed", "failed", "0.310", "0.528")),
            Row("one-step", "one-step", "", BASELINE),
        ),
        DEPTH_COLUMNS,
        2,
    ),
    "betas": Table(
        "How much of the image is blended in, (beta_start, beta_end) of ten deterministic steps",
        "GenPercept, Table 8",
        "depth",
        (
            Row("(0.00085, 0.012)", "deterministic", "", ("failed", "failed", "0.310", "0.528")),
            Row("(0.0034, 0.048)", "beta-0.0034", "", ("0.078", "0.935", "0.190", "0.702")),
            Row("(0.136, 0.192)", "beta-0.136", "", ("0.068", "0.949", "0.168", "0.751")),
            Row("(0.544, 0.768)", "beta-0.544", "", ("0.064", "0.954", "0.142", "0.811")),
            Row("(1, 1), which is one-step", "one-step", "", BASELINE),
        ),
        DEPTH_COLUMNS,
        2,
    ),
    "timesteps": Table(
        "What a one-step network is told",
        "GenPercept's configs ablation/timesteps",
        "depth",
        (
            Row("any in training, then 1", "one-step"),
            Row("any in training, then 500", "one-step", "timestep=500"),
            Row("any in training, then 999", "one-step", "timestep=999"),
            Row("1 in training and then", "timestep-1"),
            Row("500 in training and then", "timestep-500"),
            Row("900 in training and then", "timestep-900"),
        ),
        note="The paper's text has no figures for these.",
    ),
    "components": Table(
        "What is trained, and from what",
        "GenPercept, Table 9",
        "depth",
        (
            Row("UNet first trained generatively: one-step", "one-step", "", BASELINE),
            Row("untrained UNet", "scratch", "", ("0.162", "0.782", "0.326", "0.517")),
            Row("UNet + DPT head", "dpt", "", ("0.058", "0.960", "0.166", "0.747")),
            Row("a VAE trained on the training set alone + UNet", "own-vae", "", ("0.073", "0.940", "0.205", "0.671")),
            Row("frozen UNet + DPT head", "frozen-dpt", "", ("0.104", "0.899", "0.330", "0.442")),
            Row("UNet + the VAE's decoder, loss between pictures", "decoder"),
            Row("UNet first trained on albedo", "after-albedo"),
            Row("frozen UNet first trained on albedo + DPT head", "frozen-dpt-after-albedo"),
            Row("LoRA, rank 16, attention", "lora"),
            Row("LoRA, rank 16, attention and convolutions", "wide-lora"),
        ),
        DEPTH_COLUMNS,
        2,
        note="The VAE that saw nothing but the training set is the preparation's: another row than the first where all "
        "others have a VAE that was given (--vae).",
    ),
    "data": Table(
        "Amount of training data, the same number of steps",
        "GenPercept, Table 12",
        "depth",
        (
            Row("1/1", "one-step", "", BASELINE),
            Row("1/2", "data-2", "", ("0.060", "0.959", "0.161", "0.754")),
            Row("1/4", "data-4", "", ("0.064", "0.953", "0.175", "0.720")),
            Row("1/8", "data-8", "", ("0.067", "0.951", "0.192", "0.672")),
            Row("1/16", "data-16", "", ("0.071", "0.946", "0.225", "0.592")),
            Row("1/32", "data-32", "", ("0.077", "0.934", "0.259", "0.525")),
            Row("1/64", "data-64", "", ("0.086", "0.923", "0.295", "0.479")),
            Row("1/128", "data-128", "", ("0.106", "0.890", "0.335", "0.422")),
        ),
        DEPTH_COLUMNS,
        2,
    ),
    "parameterisations": Table(
        "What the network predicts, LoRA, five steps",
        "DMP, Table 4",
        "normal",
        (
            Row("the image, x", "normal-x", "", ("0.0736", "0.1629")),
            Row("the target, y", "normal-y", "", ("0.0590", "0.1291")),
            Row("v", "normal-v", "", ("0.0514", "0.1156")),
        ),
        ("L1 in domain", "Ang in domain"),
        1,
        note="DMP measures angles between colours, in radians.",
    ),
    "steps": Table(
        "Number of steps, and a LoRA trained for a single one",
        "DMP, Fig. 7",
        "normal",
        (
            Row("towards the camera everywhere", "towards-camera"),
            Row("the truth through the VAE and back", "vae-alone"),
            *(Row(f"LoRA, v, {n} steps", "normal-v", f"steps={n}" if n != 5 else "") for n in (1, 2, 3, 5, 10, 20, 50)),
            Row("LoRA, single-step training", "normal-one-step"),
            Row("whole UNet, v, 5 steps", "normal-v-full"),
            Row("whole UNet, single-step training", "normal-one-step-full"),
        ),
        note="A plot without figures: five steps balance speed and accuracy there, and single-step training is "
        "competitive on pictures like those it learnt from.",
    ),
    "transformer": Table(
        "A transformer in the UNet's place",
        "GenPercept, Table 10",
        "depth",
        (
            Row("untrained UNet: one-step", "scratch", "", ("0.060", "0.956", "0.145", "0.799")),
            Row("untrained PixArt-α: one-step, timestep 999", "pixart", "", ("0.082", "0.924", "0.213", "0.648")),
        ),
        DEPTH_COLUMNS,
        2,
        note="Published figures are of Stable Diffusion 2.1 and of PixArt-α as they were trained on pictures; here "
        "neither has seen any before. What the published networks are told as their timestep is not said there.",
    ),
    "dinov2": Table(
        "DINOv2 in the UNet's place, under a DPT head",
        "GenPercept, Table 11",
        "depth",
        (
            Row("UNet + DPT head", "dpt", "", ("0.058", "0.960", "0.166", "0.747")),
            Row("untrained UNet + DPT head", "scratch-dpt"),
            Row("untrained DINOv2 + DPT head", "dinov2-dpt", "", ("0.050", "0.969", "0.185", "0.696")),
        ),
        DEPTH_COLUMNS,
        2,
        note="The published DINOv2 is its giant, trained on 142 million pictures; here it has seen none before.",
    ),
    "classes": Table(
        "Classes by an UPerNet on the UNet, and on DINOv2",
        "GenPercept, Table 3",
        "segmentation",
        (
            Row("frozen UNet", "frozen-upernet", "", ("46.0", "34.1")),
            Row("UNet", "upernet", "", ("52.9", "38.3")),
            Row("untrained UNet", "scratch-upernet"),
            Row("frozen, untrained DINOv2", "frozen-dinov2-upernet", "", ("51.5", "37.1")),
            Row("untrained DINOv2", "dinov2-upernet", "", ("58.6", "41.2")),
        ),
        ("Hypersim mIoU", "ADE20K mIoU"),
        note="The paper's UNet learns colours first, which is left out here; its DINOv2 is the giant.",
    ),
}
