"""What saved files and people's scripts hold of the project, read from today's code.

Node schemas have a contract of their own, tests/host/contract.json.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import tomllib
import torch
from accelerate import Accelerator
from PIL import Image
from safetensors import safe_open
from torch import nn

from diffusion_perception.core.checkpoints.adapter_file import write_adapter
from diffusion_perception.core.checkpoints.adapter_names import SPELLINGS
from diffusion_perception.core.checkpoints.adapters import Adapter, Delta, LowRank
from diffusion_perception.core.checkpoints.architecture import UNetArchitecture, VAEArchitecture
from diffusion_perception.core.checkpoints.families import FAMILIES
from diffusion_perception.core.checkpoints.modelspec import modelspec
from diffusion_perception.core.checkpoints.own_file import KEYS, Stored, write_own
from diffusion_perception.core.checkpoints.tiny_vae_file import ENCODER
from diffusion_perception.core.codecs import CODECS
from diffusion_perception.core.diffusion import PARADIGMS, PARAMETERISATIONS
from diffusion_perception.core.display.colour import PALETTES
from diffusion_perception.core.ensemble import MERGES
from diffusion_perception.core.heads.table import HEADS
from diffusion_perception.core.image import RESIZE_RULES
from diffusion_perception.core.measure.align import ALIGNMENTS
from diffusion_perception.core.measure.losses import LOSSES
from diffusion_perception.core.measure.metrics import METRICS
from diffusion_perception.core.perception_map import Axis
from diffusion_perception.core.recipe import CHOICES, KEY, Recipe
from diffusion_perception.core.skeletons import SKELETONS
from diffusion_perception.core.tasks import TASKS
from diffusion_perception.trainer.cli import parser
from diffusion_perception.trainer.config import Config, to_toml
from diffusion_perception.trainer.data.published import DATASETS
from diffusion_perception.trainer.data.tasks import TASK_DATA
from diffusion_perception.trainer.evaluation.contenders import baseline
from diffusion_perception.trainer.evaluation.results import COLUMNS, OF_PICTURES, Result, as_json
from diffusion_perception.trainer.evaluation.sets import feed_of, set_named
from diffusion_perception.trainer.journal import Journal
from diffusion_perception.trainer.optimiser import DECAYS, OPTIMISERS, Average
from diffusion_perception.trainer.presets import PRESETS
from diffusion_perception.trainer.runs import written
from diffusion_perception.trainer.scoring import Sums
from diffusion_perception.trainer.state import save

HERE = Path(__file__).absolute().parent


def contracts() -> dict[str, Callable[[], dict[str, Any]]]:
    """File's name -> what it should hold."""
    named = {"commands": commands, "config": config, "recipe": recipe, "rows": rows, "files": files, "run": run}
    return {**named, "evaluation": evaluation}


def plain(value: Any) -> Any:
    """As JSON would give it back."""
    return json.loads(json.dumps(value, default=str))


# Commands


def commands() -> dict[str, Any]:
    """{command: {argument: its flags, default, choices ...}}"""
    (verbs,) = (action for action in parser()._actions if isinstance(action.choices, dict))
    assert isinstance(verbs.choices, dict)
    return {name: dict(map(argument, verb._actions)) for name, verb in verbs.choices.items()}


def argument(action: argparse.Action) -> tuple[str, dict[str, Any]]:
    """Its name, and what a script that uses it relies on."""
    about = {
        "flags": action.option_strings,
        "default": None if action.default == argparse.SUPPRESS else action.default,
        "choices": list(action.choices) if action.choices else None,
        "values": action.nargs,
        "required": action.required,
    }
    return action.dest, plain({name: value for name, value in about.items() if value not in (None, [])})


# What configs and headers say


def described(cls: type) -> Iterator[tuple[str, dict[str, Any]]]:
    """(field, default and choices) of a dataclass."""
    hints = get_type_hints(cls)
    for row in fields(cls):
        default = row.default_factory() if row.default_factory is not MISSING else row.default
        choices = {"choices": list(get_args(hints[row.name]))} if get_origin(hints[row.name]) is Literal else {}
        yield row.name, plain({**({} if default is MISSING else {"default": default}), **choices})


def config(cls: type = Config) -> dict[str, Any]:
    """Every key of a training config with its default; sections within."""
    hints = get_type_hints(cls)
    sections = {name: config(hint) for name, hint in hints.items() if is_dataclass(hint)}
    (source,) = {get_args(hint)[0] for name, hint in hints.items() if name == "data"} or {None}
    return {**dict(described(cls)), **sections, **({"data": config(source)} if source else {})}


def recipe() -> dict[str, Any]:
    """Every field of a recipe with its default, and what may stand in it."""
    return {name: {**row, **allowed(name)} for name, row in described(Recipe)}


def allowed(field: str) -> dict[str, Any]:
    choices = {**CHOICES, "axes": get_args(Axis)}
    return {"choices": list(choices[field])} if field in choices else {}


# Names of rows


OF_TASK = ("channels", "codec", "head_codec", "near", "socket", "aliases")
"""What of a task decides how its saved files are read."""


def rows() -> dict[str, Any]:
    """The names that files, configs and graphs call rows of tables by."""
    named: dict[str, Iterable[str]] = {
        "alignments": ALIGNMENTS, "codecs": CODECS, "datasets": DATASETS, "families": FAMILIES, "heads": HEADS,
        "heads to train": HEADS, "losses": LOSSES, "merges": MERGES, "metrics": METRICS, "optimisers": OPTIMISERS,
        "palettes": PALETTES, "paradigms": PARADIGMS, "prediction types": PARAMETERISATIONS, "presets": PRESETS,
        "resize rules": RESIZE_RULES, "schedules": DECAYS, "spellings": list(SPELLINGS),
    }  # fmt: skip
    return {
        **{table: sorted(names) for table, names in named.items()},
        "skeletons": {name: ",".join(skeleton.names) for name, skeleton in SKELETONS.items()},
        "tasks": {name: plain({column: getattr(task, column) for column in OF_TASK}) for name, task in TASKS.items()},
    }


# Files


def files() -> dict[str, Any]:
    """Header fields and tensors' names of one file of each kind, of one weight a network; and all fields."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file.safetensors"
        kinds = {name: {**write(path), **header_and_tensors(path)} for name, write in WRITERS.items()}
    return {
        **kinds,
        "fields": sorted([KEY, written.NOTES, *KEYS.values()]),
    }


def header_and_tensors(path: Path) -> dict[str, Any]:
    with safe_open(path, "pt") as file:
        return {"header": sorted(file.metadata()), "tensors": sorted(file.keys())}


UNET = UNetArchitecture(4, 4, (32, 32), 1, (True, False), (1, 1), 64, True)
VAE = VAEArchitecture((32, 32), 1)
RECIPES = (Recipe("depth", base="sd21", licence="CC0-1.0"), Recipe("normal", "tilted", base="sd21"))


def one() -> dict[str, torch.Tensor]:
    """A network of one weight; the format refuses tensors that share memory."""
    return {"WEIGHT": torch.zeros(1)}


def halves() -> Stored:
    return {"decoder": {"half": one()}, "encoder": {"half": one()}}


def checkpoint(path: Path) -> dict[str, Any]:
    about = {**modelspec(RECIPES, UNET.base, size=(512, 512)), written.NOTES: "{}"}
    contexts = {recipe.id: torch.zeros(1, 2, 64) for recipe in RECIPES}
    write_own(
        path,
        RECIPES,
        unet=(UNET, one()),
        vae=(VAE, one()),
        heads={"NAME": one()},
        light=halves(),
        contexts=contexts,
        metadata=about,
    )
    return {"unet": sorted(UNET.config()), "vae": sorted(VAE.config())}


def adapter(path: Path) -> dict[str, Any]:
    parts = {
        "LOW": LowRank(torch.zeros(1, 4), torch.zeros(4, 1), 0.5, torch.zeros(4)),
        "WHOLE": Delta(torch.zeros(4, 4), torch.zeros(4)),
    }
    contexts = {"depth": torch.zeros(1, 2, 64), "depth.negative": torch.zeros(1, 2, 64)}
    about = modelspec(RECIPES[:1], "sd21", title=path.stem, adapter=True)
    held = Adapter(path, parts, base="sd21", recipes=RECIPES[:1], licence="CC0-1.0", data="noise")
    write_adapter(path, held, {"NAME": one()}, contexts, about, halves())
    with safe_open(path, "pt") as file:
        return {"adapter": sorted(json.loads(file.metadata()["diffusion_perception.adapter"]))}


def light(path: Path) -> dict[str, Any]:
    write_own(path, RECIPES, light=halves(), metadata={KEYS["latents"]: "{}"})
    return {"told by": sorted(ENCODER)}


WRITERS: dict[str, Callable[[Path], dict[str, Any]]] = {"checkpoint": checkpoint, "adapter": adapter, "light": light}


def run() -> dict[str, Any]:
    """What lies in the folder of a run: keys of its state, of its log's lines, tables of its config."""
    with tempfile.TemporaryDirectory() as folder:
        save_state(Path(folder) / "state.pt")
        write_log(Path(folder))
        state = torch.load(Path(folder) / "state.pt", weights_only=True)
        lines = [json.loads(line) for line in (Path(folder) / "log.jsonl").read_text("utf-8").splitlines()]
    return {
        "state.pt": sorted(state),
        "state.pt random": sorted(state["random"]),
        "log.jsonl": sorted({key for line in lines for key in line}),
        "config.toml": sorted(tomllib.loads(to_toml(Config()))),
    }


# What `evaluate` writes


def evaluation() -> dict[str, Any]:
    """Columns of its CSV files, keys of its JSON, and what each task's figures are called."""
    compared = {name: {row.name: list(row.metrics) for row in data.compared()} for name, data in TASK_DATA.items()}
    keys = next(iter(as_json([nothing_measured()])["results"]))
    return {
        "evaluation.csv": list(COLUMNS),
        "pictures.csv": list(OF_PICTURES),
        "evaluation.json": sorted(keys),
        "comparisons": compared,
    }


def nothing_measured() -> Result:
    """Of a set without pictures."""
    guess = next(baseline("constant"))
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "images").mkdir()
        (Path(folder) / "depth").mkdir()
        Image.new("L", (8, 8), 9).save(Path(folder) / "images/a.png")
        Image.new("I;16", (8, 8), 9).save(Path(folder) / "depth/a.png")
        (Path(folder) / "dataset.toml").write_text('[depth]\nunit = "mm"\n')
        feed = feed_of(set_named(folder), set_named(folder).open("depth"), guess.recipe)
    return Result(guess, "folder", feed, feed.data.compared()[0], [], Sums())


def save_state(path: Path) -> None:
    network = nn.Linear(1, 1)
    learning = dict(network.named_parameters())
    save(path, Config(), 1, learning, torch.optim.Adam(learning.values()), Average(learning, 0.5), {}, {})


def write_log(folder: Path) -> None:
    journal = Journal(folder, True)
    journal.note("depth", torch.ones(1))
    journal.write(Accelerator(cpu=True), 1, 0.1, 0)
    journal.validation(1, {"score": 0.0})
    journal.close()
