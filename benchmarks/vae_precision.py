"""What the VAE's precision and its tiles cost: errors of the starter and of golden weights, and the peak of memory.

    python benchmarks/vae_precision.py [--golden FOLDER] [--side 640]

Everything runs in a real ComfyUI on the CPU, each mode in a process of its own, on one thread. Half precision is what
"as the host runs it" means on most cards; a CPU's host says float32, so the host's own --bf16-vae asks for it (float16,
which few CPUs can compute, takes minutes a picture). Tiles come where memory does not suffice: the VAE is made to raise
the host's error for all that is larger than a tile. The starter is measured on held-out views against their truth,
golden weights against the authors' output, each at its own size; then the first of them enlarged to --side, for which
the authors left no output. A peak is what the process has resident at most during one call on such a picture, over what
it had before (Linux).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.numpy import load_file
from torch import Tensor

ROOT = Path(__file__).absolute().parents[1]
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "tests" / "host")]

import comfyui_host  # noqa: E402
from inside_host import InsideHost  # noqa: E402
from test_golden_nodes import FOLDERS, TASKS, overrides  # noqa: E402

from diffusion_perception.core.checkpoints.checkpoint import open_all  # noqa: E402
from diffusion_perception.core.measure.metrics import METRICS  # noqa: E402
from diffusion_perception.core.recipe import Recipe  # noqa: E402
from diffusion_perception.trainer.config import Config, Source  # noqa: E402
from diffusion_perception.trainer.data.augment import Augmentation  # noqa: E402
from diffusion_perception.trainer.data.batches import Feed  # noqa: E402
from diffusion_perception.trainer.data.feeds import feed  # noqa: E402
from diffusion_perception.trainer.data.published import open_dataset  # noqa: E402
from diffusion_perception.trainer.data.records import Sample  # noqa: E402
from diffusion_perception.trainer.perceiver import read_upright  # noqa: E402
from diffusion_perception.trainer.scoring import score  # noqa: E402

STARTER = ROOT / "weights" / "starter.safetensors"
VIEWS = ROOT / "tests" / "data" / "scenes"
HELD_OUT = ("test", "val")
GOLDEN = (*FOLDERS, "marigold_depth_v1_1", "marigold_normals_v1_1")
# on a busy machine a second thread mostly waits for the first
os.environ.setdefault("OMP_NUM_THREADS", "1")
AS_TRAINED, OWN = -1, 0
"""Resolutions."""
CELLS = "metric (mean / largest difference from full)"


@dataclass(frozen=True)
class Mode:
    """How the VAE is run."""

    name: str
    arguments: tuple[str, ...] = ()
    """ComfyUI's, beside --cpu."""
    precision: str = "full"
    """vae_precision."""
    fits: int = 0
    """Side, in latent cells, of the largest square that memory is said to suffice for; 0 if for all."""


MODES = (
    Mode("full"),
    Mode("bfloat16", ("--bf16-vae",), "as the host runs it"),
    Mode("tiles of 512", fits=64),
    Mode("tiles of 256", fits=32),
)


@dataclass(frozen=True)
class Case:
    """What one call perceives, and how far off its values are."""

    model: str
    """The name of its file or folder."""
    pictures: np.ndarray
    """(B, 3, H, W) float32 in [0, 1], sRGB."""
    task: str
    measure: Callable[[np.ndarray], float] | None = None
    """Values (B, H, W, C) -> the metric; None where nothing is known to be right."""
    resolution: int = AS_TRAINED
    overrides: str = ""
    noise: np.ndarray | None = None


@dataclass(frozen=True)
class Row:
    """A line of the tables: values that are measured together."""

    title: str
    metric: str
    cases: list[Case] = field(default_factory=list)


# Inside the host: what these need they import themselves


def perceive(precision: str, fits: int, cases: list[dict[str, Any]], side: int, **arrays: Any) -> dict[str, Any]:
    """The values of each case; by models the peaks of the VAE's halves on side x side pixels; what the VAEs said."""
    import torch

    from diffusion_perception.core.pipeline import predict
    from diffusion_perception.nodes.load import LoadModel
    from diffusion_perception.nodes.notes import noted
    from diffusion_perception.nodes.perceive import prepared

    found, highest, said = {}, {}, []
    noted.set(said)
    for index, case in enumerate(cases):
        loaded = LoadModel.execute(case["model"], "auto", case["task"], case["overrides"]).result[0]
        perceiver = prepared(loaded, None, precision)
        _fill_memory(perceiver.autoencoder.vae.first_stage_model, fits)
        pictures, noise = torch.from_numpy(arrays[f"pictures_{index}"]), arrays.get(f"noise_{index}")
        if case["model"] not in highest:
            probe = torch.nn.functional.interpolate(pictures[:1] * 2 - 1, (side, side), mode="bilinear")
            highest[case["model"]] = peaks(perceiver.autoencoder, probe)
        noise = None if noise is None else torch.from_numpy(noise)
        found[f"values_{index}"] = predict(perceiver, pictures, resolution=case["resolution"], noise=noise).values
    return {**found, "peaks": highest, "said": said}


def _fill_memory(network: Any, fits: int) -> None:
    """The host's error of a full device comes for all that has more latent cells than fits x fits."""
    import comfy.model_management as management

    def limited(half: str, cells: int) -> None:
        compute = getattr(network, half)

        def attempt(given: Any) -> Any:
            if given.shape[-2] * given.shape[-1] > cells:
                raise management.OOM_EXCEPTION("Allocation on device")
            return compute(given)

        setattr(network, half, attempt)

    if fits and "encode" not in vars(network):  # tasks of one file share it
        limited("encode", (fits * 8) ** 2)
        limited("decode", fits**2)


def peaks(autoencoder: Any, picture: Any) -> dict[str, float]:
    """{half: MiB} resident at most while it runs, over what was resident before."""
    import ctypes
    from pathlib import Path

    def resident(key: str) -> float:
        (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
        return int(line.split()[1]) / 1024

    autoencoder.decode(autoencoder.encode(picture[..., :64, :64].contiguous()))  # what is made only once
    found, given = {}, picture
    for half in ("encode", "decode"):
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before = resident("VmRSS")
        given = getattr(autoencoder, half)(given)
        found[half] = resident("VmHWM") - before
    return found


# What is perceived


def _starter_rows(side: int) -> Iterator[Row]:
    """A row a task: its first metric on the held-out views, as trained or enlarged (side is not 0)."""
    for checkpoint in open_all(STARTER):
        recipe = checkpoint.recipe
        views = list(enlarged_views(recipe, side) if side else held_out(recipe))
        pictures = torch.stack([sample.image for sample, _ in views]).numpy()
        metric = METRICS[recipe.row.metrics[0]]
        measure = _of_truth(metric.name, views)
        case = Case(STARTER.name, pictures, recipe.row.name, measure, OWN if side else AS_TRAINED)
        name = f"{metric.title} {metric.unit} ".replace(" deg", "°").rstrip()
        yield Row(f"starter, {recipe.row.name}", f"{name} {'↑' if metric.higher else '↓'}", [case])


def enlarged_views(recipe: Recipe, side: int) -> Iterator[tuple[Sample, Feed]]:
    """The first only: a large picture takes a while."""
    sample, source = next(held_out(recipe))
    yield _enlarged(sample, side), source


def held_out(recipe: Recipe) -> Iterator[tuple[Sample, Feed]]:
    for split in HELD_OUT:
        root = str(VIEWS / split)
        records = open_dataset("folder", recipe.row.name, root=root)
        source = feed(Config(), recipe, Source(root), records, Augmentation())
        yield from ((records[index], source) for index in range(len(records)))


def _enlarged(sample: Sample, side: int) -> Sample:
    """The picture smoothly, the truth by the nearest pixel."""
    target = F.interpolate(sample.target[None], (side, side), mode="nearest-exact")[0]
    valid = F.interpolate(sample.valid[None].float(), (side, side), mode="nearest-exact")[0] > 0
    return replace(sample, image=_larger(sample.image[None], side)[0], target=target, valid=valid)


def _larger(pictures: Tensor, side: int) -> Tensor:
    return F.interpolate(pictures, (side, side), mode="bicubic", antialias=True).clamp(0, 1)


def _of_truth(metric: str, views: Sequence[tuple[Sample, Feed]]) -> Callable[[np.ndarray], float]:
    def measure(values: np.ndarray) -> float:
        maps = torch.from_numpy(values).movedim(-1, 1).split(1)
        return score([metric], ((map, *view) for map, view in zip(maps, views)))[metric]

    return measure


def _golden_row(folder: Path, side: int) -> Row:
    """Every case of one prediction against the authors' output; or its first picture of each task, enlarged."""
    held = json.loads((folder / "cases.json").read_text("utf-8"))
    listed = held["cases"] if isinstance(held, dict) else held
    # no ensembles, whose alignment turns rounding into more, and no resamplers that recipes do not have
    cases = [case for case in listed if case.get("ensemble_size", 1) == 1 and "resample_method" not in " ".join(case)]
    if side:
        first = {case["mode"]: case for case in reversed(cases)}
        return Row(folder.name, "", [_enlarged_case(folder, case, side) for case in first.values()])
    with np.load(folder / "expected.npz") as expected:
        return Row(folder.name, "mean error ↓", [_golden_case(folder, case, expected[case["name"]]) for case in cases])


def _golden_case(folder: Path, case: dict[str, Any], expected: np.ndarray) -> Case:
    noise = load_file(folder / "latents.safetensors")[case["latents"]] if "latents" in case else None
    picture = read_upright(folder / f"{case['image']}.png").numpy()
    return Case(
        folder.name, picture, _task_of(case), of_authors(expected), case["processing_res"], settings(case), noise
    )


def _enlarged_case(folder: Path, case: dict[str, Any], side: int) -> Case:
    picture = _larger(read_upright(folder / f"{case['image']}.png"), side).numpy()
    return Case(folder.name, picture, _task_of(case), None, OWN, settings(case))


def _task_of(case: dict[str, Any]) -> str:
    mode: str = case["mode"]
    return TASKS.get(mode, mode)


def settings(case: dict[str, Any]) -> str:
    """Overrides of the recipe, of both kinds of folders."""
    steps = f"steps={case['steps']}" if "steps" in case and "betas" not in case else ""
    codec = "" if case.get("use_full_z_range", True) else "codec=half-sphere"
    return f"{overrides(case)} {steps} {codec} seed=0"


def of_authors(expected: np.ndarray) -> Callable[[np.ndarray], float]:
    return lambda values: float(np.abs(values.reshape(expected.shape) - expected).mean())


# Running and telling


def run(inside: InsideHost, mode: Mode, cases: list[Case], side: int) -> dict[str, Any]:
    """One process: the values of all cases in turn, the peaks of each model's VAE. SystemExit if no tiles came."""
    arrays: dict[str, Any] = {f"pictures_{index}": case.pictures for index, case in enumerate(cases)}
    arrays |= {f"noise_{index}": case.noise for index, case in enumerate(cases) if case.noise is not None}
    told = [{name: getattr(case, name) for name in ("model", "task", "overrides", "resolution")} for case in cases]
    found = inside(
        perceive, _fill_memory, peaks,
        host_arguments=("--cpu", *mode.arguments), timeout=3600.0,
        precision=mode.precision, fits=mode.fits, cases=told, side=side, **arrays,
    )  # fmt: skip
    if mode.fits and not all(mode.name in note for note in found["said"] or [""]):
        raise SystemExit(f"Not everything was taken in {mode.name}: {found['said']}")
    return found


def cell(row: Row, values: list[np.ndarray], full: list[np.ndarray]) -> str:
    """The metric, then mean and largest difference from full precision."""
    known = [case.measure(seen) for case, seen in zip(row.cases, values) if case.measure is not None]
    metric = f"{np.mean(known):.4g}" if known else ""
    apart = np.concatenate([np.abs(one - other).ravel() for one, other in zip(values, full)])
    differs = f"({apart.mean():.2g} / {apart.max():.2g})" if values is not full else ""
    return f"{metric} {differs}".strip() or "–"


def _by_rows(rows: list[Row], found: dict[str, Any]) -> list[list[np.ndarray]]:
    """Each row's values, as its cases stand."""
    values = iter([found[f"values_{index}"] for index in range(sum(len(row.cases) for row in rows))])
    return [[next(values) for _ in row.cases] for row in rows]


def _cells_of(rows: list[Row], results: list[list[list[np.ndarray]]]) -> list[list[str]]:
    """A line a row: its title and metric, then a cell for each mode, of which the first is full precision."""
    return [
        [row.title, row.metric, *(cell(row, values[index], results[0][index]) for values in results)]
        for index, row in enumerate(rows)
    ]


def _peak_lines(peaks_of_modes: list[dict[str, dict[str, float]]]) -> list[list[str]]:
    """A line a model."""
    return [
        [Path(model).stem, "MiB", *("{encode:.0f} / {decode:.0f}".format(**each[model]) for each in peaks_of_modes)]
        for model in peaks_of_modes[0]
    ]


def table(title: str, lines: list[list[str]]) -> str:
    """Markdown: a column a mode."""
    heads = ["weights", "metric", *(mode.name for mode in MODES)][: len(lines[0])]
    joined = [f"| {' | '.join(line)} |" for line in (heads, ["---"] * len(heads), *lines)]
    return "\n".join([f"{title}:\n", *joined, ""])


def _rows_of(golden: Path | None, side: int) -> list[Row]:
    """Of all weights, at their own size (side is 0) or enlarged."""
    return [*_starter_rows(side), *(_golden_row(golden.absolute() / name, side) for name in GOLDEN if golden)]


def main() -> None:
    """Print the three tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--golden", type=Path, help="folder of the golden vectors; without it the starter alone")
    parser.add_argument("--side", type=int, default=640, help="pixels of the enlarged pictures; more than a tile")
    chosen = parser.parse_args()
    own, large = _rows_of(chosen.golden, 0), _rows_of(chosen.golden, chosen.side)
    own_values, large_values, highest = [], [], []
    with tempfile.TemporaryDirectory() as base:
        inside = InsideHost(comfyui_host.install(), Path(base))
        _furnish(inside, chosen.golden)
        for mode in MODES:
            rows = large if mode.fits else own + large  # at their own size none is larger than a tile
            found = run(inside, mode, [case for row in rows for case in row.cases], chosen.side)
            values = _by_rows(rows, found)
            own_values += [] if mode.fits else [values[: len(own)]]
            large_values.append(values[-len(large) :])
            highest.append(found["peaks"])
            print(mode.name, found["peaks"], file=sys.stderr, flush=True)
    size = f"{chosen.side}x{chosen.side}"
    print(table(f"At their own size, {CELLS}", _cells_of(own, own_values)))
    print(table(f"Enlarged to {size}, {CELLS}", _cells_of(large, large_values)))
    print(table(f"Peak of encode / of decode at {size}", _peak_lines(highest)))


def _furnish(inside: InsideHost, golden: Path | None) -> None:
    """Put the weights where LoadModel looks."""
    place = inside.base / "models" / "perception"
    place.mkdir(parents=True, exist_ok=True)
    for path in (STARTER, *(golden.absolute() / name for name in GOLDEN if golden)):
        (place / path.name).symlink_to(path)


if __name__ == "__main__":
    main()
