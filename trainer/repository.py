"""Repository: a checkpoint as a folder in diffusers layout, with a card, which diffusers and this project load."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import diffusers
from torch import Tensor

from ..core.checkpoints.architecture import UNetArchitecture, VAEArchitecture
from ..core.checkpoints.recipes_beside import write_recipes
from ..core.checkpoints.tensors import save_tensors
from ..core.errors import UserError
from ..core.recipe import DEFAULTS, Recipe
from ..core.whole_file import write_whole
from .host import make_unet

Named = Mapping[str, Tensor]
WEIGHTS = "diffusion_pytorch_model.safetensors"
HEAD = "model.safetensors"
CARD = "README.md"


def check_folder(out: Path) -> None:
    """UserError unless it can be made, or is empty."""
    if out.suffix == ".safetensors":
        raise UserError(f"--out {out} is named as a file: the diffusers layout is a folder, name one.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out {out} is there already: name a folder that is new or empty.")


def write_repository(
    out: Path,
    recipes: Sequence[Recipe],
    *,
    unet: tuple[UNetArchitecture, Named],
    vae: tuple[VAEArchitecture, Named] | None,
    heads: Mapping[str, Named],
    contexts: Named,
) -> None:
    """The networks by their folders, how they are run, and a card with the SHA-256 of every file.

    UserError for networks that diffusers has no class for.
    """
    if unet[0].fourier:
        raise UserError("This network has a Fourier block, which diffusers knows none of: export it as one file.")
    network = _make_unet_config(unet[0])
    _write_weights(out / "unet", network, unet[1])
    if vae is not None:
        _write_weights(out / "vae", {"_class_name": "AutoencoderKL", **_vae_config(vae[0])}, vae[1])
    for name, tensors in heads.items():
        (out / name).mkdir(parents=True)
        save_tensors(out / name / HEAD, tensors, {"format": "pt"})
    (out / "scheduler").mkdir()
    _write_sorted_json(out / "scheduler" / "scheduler_config.json", _scheduler_of(recipes[0]))
    write_recipes(out, recipes, contexts)
    write_whole(out / CARD, card(out, recipes).encode())


def _make_unet_config(architecture: UNetArchitecture) -> dict[str, Any]:
    """In full, as diffusers writes it."""
    import torch

    with torch.device("meta"):
        return _config_of(make_unet(architecture))


def _vae_config(architecture: VAEArchitecture) -> dict[str, Any]:
    import torch

    with torch.device("meta"):
        return _config_of(diffusers.AutoencoderKL.from_config(architecture.config()))


def _config_of(network: Any) -> dict[str, Any]:
    return json.loads(network.to_json_string())


def _write_weights(folder: Path, config: Mapping[str, Any], tensors: Named) -> None:
    folder.mkdir(parents=True)
    _write_sorted_json(folder / "config.json", config)
    save_tensors(folder / WEIGHTS, tensors, {"format": "pt"})


def _write_sorted_json(path: Path, table: Mapping[str, Any]) -> None:
    write_whole(path, (json.dumps(table, indent=2, sort_keys=True) + "\n").encode())


def _scheduler_of(recipe: Recipe) -> dict[str, Any]:
    """DDIM's, or LCM's, as the recipe is run."""
    return {
        "_class_name": {"ddim": "DDIMScheduler", "lcm": "LCMScheduler"}[recipe.sampler],
        "_diffusers_version": diffusers.__version__,
        "num_train_timesteps": 1000,
        "beta_start": recipe.beta_start,
        "beta_end": recipe.beta_end,
        "beta_schedule": "scaled_linear",
        "prediction_type": recipe.prediction_type,
        "timestep_spacing": recipe.spacing,
        "steps_offset": recipe.steps_offset,
        "set_alpha_to_one": recipe.final_alpha_one,
        "rescale_betas_zero_snr": recipe.zero_snr,
        "clip_sample": False,
    }


def card(out: Path, recipes: Sequence[Recipe]) -> str:
    """What a person, and a hub, read first."""
    first = recipes[0]
    front = {"license": _hub_licence(first.licence), "library_name": "diffusers", "tags": tags(recipes)}
    lines = ["---", *(f"{key}: {json.dumps(value)}" for key, value in front.items()), "---", "", f"# {out.name}", ""]
    lines += [f"Predicts {', '.join(recipe.row.title.lower() for recipe in recipes)}, by Diffusion Perception.", ""]
    lines += [f"- Licence: {first.licence or 'not said'}", f"- Learnt from: {first.data or 'not said'}", ""]
    lines += [
        "```",
        f"diffusion-perception predict --model {out.name} --task {first.id} --out maps photo.jpg",
        "```",
        "",
    ]
    lines += ["In diffusers:", "", "```python", *_in_diffusers(out), "```", ""]
    for recipe in recipes:
        lines += [f"## {recipe.id}", "", *(f"- {key}: {json.dumps(value)}" for key, value in _unusual(recipe)), ""]
    lines += ["## SHA-256", "", "```", *_hashes(out), "```", ""]
    return "\n".join(lines)


def _hub_licence(text: str) -> str:
    """As the hub spells it; its word for all others is other."""
    known = {
        "apache-2.0",
        "mit",
        "cc0-1.0",
        "cc-by-4.0",
        "cc-by-nc-4.0",
        "cc-by-sa-4.0",
        "bsd-2-clause",
        "bsd-3-clause",
    }
    return text.lower() if text.lower() in known else "other"


def tags(recipes: Sequence[Recipe]) -> list[str]:
    return ["diffusion-perception", *dict.fromkeys(recipe.task for recipe in recipes)]


def _in_diffusers(out: Path) -> Iterator[str]:
    """How its parts are opened."""
    parts = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL"}
    there = {name: kind for name, kind in parts.items() if (out / name).is_dir()}
    yield f"from diffusers import {', '.join(sorted(there.values()))}"
    yield ""
    for name, kind in there.items():
        yield f'{name} = {kind}.from_pretrained("{out.name}", subfolder="{name}")'


def _unusual(recipe: Recipe) -> Iterator[tuple[str, Any]]:
    """What is not as in every recipe, and the size."""
    for key, value in asdict(recipe).items():
        if key in ("task", "resolution") or value != DEFAULTS[key]:
            yield key, value


def _hashes(out: Path) -> Iterator[str]:
    """A line a file, as sha256sum reads them."""
    for file in sorted(path for path in out.rglob("*") if path.is_file() and path.name != CARD):
        yield f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.relative_to(out).as_posix()}"
