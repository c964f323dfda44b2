"""How small an adapter of a fine-tune may be: rank -> error of the output, size of the file, energy kept.

    python benchmarks/extract_rank.py --base sd21.safetensors --model unet_depth_v2 --task depth photo1.jpg photo2.jpg
    python benchmarks/extract_rank.py --base base --model tuned --ranks 4 16 64 --resolution 256 --json curve.json *.jpg

Rank `base` is the base without an adapter, `full` keeps every difference whole. The error is of what `predict` gives,
against the fine-tune's own answer: the mean difference, and the root of the mean square relative to the answer's own
spread. Energy is the share of the squared weight differences that the low-rank layers keep, on average and at least.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from diffusion_perception.core.backbone import Backbone
from diffusion_perception.core.checkpoints.adapter_file import write_adapter
from diffusion_perception.core.checkpoints.adapters import Adapter, LowRank
from diffusion_perception.core.checkpoints.attachment import Adapted
from diffusion_perception.core.checkpoints.bases import one_by_one
from diffusion_perception.core.checkpoints.checkpoint import open_checkpoint
from diffusion_perception.core.checkpoints.extract import Extracted, Source, extract_ranks
from diffusion_perception.core.checkpoints.networks import open_networks
from diffusion_perception.core.pipeline import Perceiver, predict
from diffusion_perception.trainer.host import DiffusersBackbone, load_chosen, load_unet
from diffusion_perception.trainer.model_choice import ModelChoice
from diffusion_perception.trainer.perceiver import read_upright

RANKS = (4, 8, 16, 32, 64, 128, 256)
DTYPES = {"fp16": torch.float16, "fp32": torch.float32}


@dataclass(frozen=True)
class Row:
    """One point of the curve."""

    rank: str
    megabytes: float
    mean_error: float
    relative_error: float
    mean_energy: float
    least_energy: float


def _predictions(perceiver: Perceiver, images: Sequence[Tensor], resolution: int) -> list[Tensor]:
    with torch.inference_mode():
        return [predict(perceiver, image, resolution=resolution).values for image in images]


def errors(found: Sequence[Tensor], expected: Sequence[Tensor]) -> tuple[float, float]:
    """The mean difference, and the root mean square one in units of the answer's standard deviation."""
    one, other = (torch.cat([values.flatten() for values in maps]) for maps in (found, expected))
    return (one - other).abs().mean().item(), ((one - other).square().mean().sqrt() / other.std()).item()


def _size_of(adapter: Adapter) -> float:
    """Of its file, in megabytes."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "adapter.safetensors"
        write_adapter(path, adapter)
        return path.stat().st_size / 1e6


def row(rank: str, extracted: Sequence[Extracted], found: Sequence[Tensor], expected: Sequence[Tensor]) -> Row:
    low = [energy for _, part, energy in extracted if isinstance(part, LowRank)] or [1.0]
    adapter = _adapter_of(extracted)
    return Row(rank, _size_of(adapter), *errors(found, expected), sum(low) / len(low), min(low))


def _adapter_of(extracted: Sequence[Extracted]) -> Adapter:
    return Adapter(Path("extracted"), {layer: part for layer, part, _ in extracted})


def curve(arguments: argparse.Namespace) -> list[Row]:
    """A row for the base, for each rank, and for all differences whole."""
    base = open_networks(arguments.base)
    checkpoint = open_checkpoint(arguments.model, arguments.family, arguments.task)
    images = [read_upright(path) for path in arguments.images]
    choice = ModelChoice(arguments.model, context=arguments.context)
    perceiver: Perceiver = load_chosen(choice, checkpoint, None, "cpu")
    expected = _predictions(perceiver, images, arguments.resolution)
    # the fine-tune's UNet is no longer needed: two of SD2.1's size are 7 GB
    backbone: Backbone = DiffusersBackbone(load_unet(base.unet, base.architecture))
    perceiver = replace(perceiver, backbone=backbone)
    tuned, start = (Source(one_by_one(weights), weights.shapes) for weights in (checkpoint.unet, base.unet))
    ranks = [*arguments.ranks, None]
    layers = list(extract_ranks(tuned, start, ranks, DTYPES[arguments.dtype]))
    plain = (
        errors(_predictions(perceiver, images, arguments.resolution), expected) if _same_input(layers) else (0.0, 0.0)
    )
    rows = [Row("base", 0.0, *plain, 0.0, 0.0)]
    _print_row(rows[0])
    for rank in ranks:
        extracted = [layer[rank] for layer in layers]
        adapted = replace(perceiver, backbone=Adapted(backbone, _adapter_of(extracted)))
        found = _predictions(adapted, images, arguments.resolution)
        rows.append(row("full" if rank is None else str(rank), extracted, found, expected))
        _print_row(rows[-1])
    return rows


def _same_input(layers: Sequence[dict[int | None, Extracted]]) -> bool:
    """Whether the base can be shown what the fine-tune is shown: not if its conv_in is narrower."""
    shapes = [part.shape for layer in layers for name, part, _ in layer.values() if name == "conv_in"]
    return all(shape is None or shape[1] == 4 for shape in shapes)


def _print_row(row: Row) -> None:
    print(
        f"{row.rank:>5} {row.megabytes:9.1f} {row.mean_error:11.5f} {row.relative_error:11.2%} "
        f"{row.mean_energy:9.2%} {row.least_energy:9.2%}",
        flush=True,
    )


def main(words: Sequence[str] | None = None) -> list[Row]:
    """Print the curve; and write it, if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    parser.add_argument("--base", type=Path, required=True, help="the Stable Diffusion model that it was trained from")
    parser.add_argument("--model", type=Path, required=True, help="the fine-tuned checkpoint, file or folder")
    parser.add_argument("--family", default="auto")
    parser.add_argument("--task", default="")
    parser.add_argument("--context", default="", metavar="FILE[:KEY]", help="text embedding, if none came with it")
    parser.add_argument("--resolution", type=int, default=-1, help="-1 as trained, 0 the image's own, or pixels")
    parser.add_argument("--ranks", type=int, nargs="+", default=list(RANKS))
    parser.add_argument("--dtype", choices=list(DTYPES), default="fp16", help="precision that the adapter is stored in")
    parser.add_argument("--json", type=Path, help="file to write the curve to")
    arguments = parser.parse_args(words)
    print(f"{'rank':>5} {'MB':>9} {'mean error':>11} {'relative':>11} {'energy':>9} {'least':>9}")
    rows = curve(arguments)
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(each) for each in rows], indent=1) + "\n", encoding="utf-8")
    return rows


if __name__ == "__main__":
    main()
