"""A one-step prediction in ComfyUI and by `predict`, beside plain calls of diffusers with the same weights.

    python benchmarks/speed.py --out benchmarks/results/speed-cpu.json --picture docs/speed.svg
    python benchmarks/speed.py --gpu --size 768 --out benchmarks/results/speed-gpu.json

Random half-precision weights of SD2.1's size are written once, into --weights, in diffusers' layout, and read by all.
Each run is a process of its own: it loads, then predicts one depth for every case, stage by stage; runs of the three
alternate, so that whatever else the machine does weighs on all alike. On a CPU its own time is counted (user and
system), which does not grow while others have it. Ratios are taken round by round, to the same case by diffusers where
it has that, else to its full prediction; medians of them count. Depths of the full case are compared: all three must
have computed the same.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import date
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any
from xml.sax.saxutils import escape

ROOT = Path(__file__).absolute().parents[1]
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "tests" / "host"), str(ROOT / "tests"), str(ROOT / "benchmarks")]

import numpy as np  # noqa: E402
import torch  # noqa: E402

MODEL = "sd21-genpercept"
CASES = (
    "full", "warm", "batch 2", "latent", "light decoder", "both light", "latent and light decoder", "3 tasks",
    "3 tasks, light",
)  # fmt: skip
"""What is predicted: the first is a process's first. Diffusers has the first three alone."""
SINGLE = {"3 tasks": "full", "3 tasks, light": "light decoder"}
"""{what shares an encode: a third of what it is beside}"""
STAGES = ("encode", "UNet", "decode")


# What is measured. `Meter`, `cases` and what they call also travel to the host's Python, as text: imports are inside.


class Meter:
    """Seconds of one process by stage, by its own clock on a CPU, by the wall's on a GPU."""

    def __init__(self, gpu: bool) -> None:
        self.gpu, self.stages = gpu, {}

    def now(self) -> tuple[float, float]:
        """Seconds that count, and on the wall."""
        import time

        import torch

        if self.gpu:
            torch.cuda.synchronize()
        return (time.perf_counter() if self.gpu else time.process_time()), time.perf_counter()

    def watch(self, kind: Any, method: str, stage: str) -> None:
        """Count what a method of a class takes as a stage."""
        plain = getattr(kind, method)

        def timed(*given: Any, **named: Any) -> Any:
            start = self.now()[0]
            try:
                return plain(*given, **named)
            finally:
                self.stages[stage] = self.stages.get(stage, 0.0) + self.now()[0] - start

        setattr(kind, method, timed)

    def measure(self, function: Any) -> tuple[dict[str, Any], Any]:
        """What a call takes: seconds, on the wall too, by stage, and MiB resident at most in this process meanwhile."""
        from pathlib import Path

        import torch

        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        if self.gpu:
            torch.cuda.reset_peak_memory_stats()
        self.stages = {}
        start, wall = self.now()
        result = function()
        end, wall_end = self.now()
        (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
        peak = torch.cuda.max_memory_allocated() / 2**20 if self.gpu else int(line.split()[1]) / 1024
        return {"s": end - start, "wall": wall_end - wall, "MiB": peak, "stages": dict(self.stages)}, result


def cases(perceiver: Any, light: Any, size: int, wanted: list[str], meter: Any) -> dict[str, Any]:
    """This project's cases; light(role) makes a half. Gives figures by case, and the depth of the full one."""
    from dataclasses import replace

    import torch

    from diffusion_perception.core.halves import with_light
    from diffusion_perception.core.multitask import predict_tasks
    from diffusion_perception.core.pipeline import predict, predict_latent

    pictures = torch.randint(256, (2, 3, size, size), generator=torch.Generator().manual_seed(0)) / 255
    picture = pictures[:1]
    latent = torch.randn(1, 4, size // 8, size // 8, generator=torch.Generator().manual_seed(0))
    dimmed, both = (
        with_light(perceiver, None, light("decoder")),
        with_light(perceiver, light("encoder"), light("decoder")),
    )

    def tasks(of: Any) -> Any:
        recipes = [replace(of.recipe, task=task) for task in ("depth", "disparity", "matte")]
        return predict_tasks([replace(of, recipe=recipe) for recipe in recipes], picture, resolution=0)

    calls = {
        "full": lambda: predict(perceiver, picture, resolution=0),
        "warm": lambda: predict(perceiver, picture, resolution=0),
        "batch 2": lambda: predict(perceiver, pictures, resolution=0, batch_size=2),
        "latent": lambda: predict_latent(perceiver, latent),
        "light decoder": lambda: predict(dimmed, picture, resolution=0),
        "both light": lambda: predict(both, picture, resolution=0),
        "latent and light decoder": lambda: predict_latent(dimmed, latent),
        "3 tasks": lambda: tasks(perceiver),
        "3 tasks, light": lambda: tasks(dimmed),
    }
    found: dict[str, Any] = {}
    for name in wanted:
        found[name], result = meter.measure(calls[name])
        if name == "full":
            found["values"] = result.values[0, ..., 0]
    return found


def _by_comfyui(model: str, size: int, wanted: list[str], threads: int, gpu: bool) -> dict[str, Any]:
    """This project's nodes in the real host."""
    import torch

    from diffusion_perception.core.checkpoints.tiny_vae_file import Held
    from diffusion_perception.core.tiny_vae import untrained
    from diffusion_perception.nodes import host
    from diffusion_perception.nodes.load import LoadModel

    torch.set_num_threads(threads)
    meter = Meter(gpu)
    meter.watch(host.HostBackbone, "__call__", "UNet")
    meter.watch(host.HostAutoencoder, "encode", "encode")
    meter.watch(host.HostAutoencoder, "decode", "decode")
    host.SEEN.keep = lambda *given: None  # every case encodes for itself
    loading, result = meter.measure(lambda: LoadModel.execute(model, "auto", "depth", "").result)

    def light(role: Any) -> Any:
        return host.HostLight(Held.of(untrained(role, 3, 64, (4, 4, 3)).state_dict()))

    return {"load": loading, **cases(result[0], light, size, wanted, meter)}


def _by_predict(folder: Path, size: int, wanted: list[str], threads: int, gpu: bool) -> dict[str, Any]:
    """This project's own path, as the command `predict` runs."""
    torch.set_num_threads(threads)
    from diffusion_perception.core.tiny_vae import untrained
    from diffusion_perception.trainer import host

    device, meter = "cuda" if gpu else "cpu", Meter(gpu)
    meter.watch(host.DiffusersBackbone, "__call__", "UNet")
    meter.watch(host.DiffusersAutoencoder, "encode", "encode")
    meter.watch(host.DiffusersAutoencoder, "decode", "decode")
    with torch.inference_mode():
        loading, perceiver = meter.measure(lambda: host.open_perceiver(folder, device=device))

        def light(role: Any) -> Any:
            return untrained(role, 3, 64, (4, 4, 3)).eval().to(device)

        return {"load": loading, **cases(perceiver, light, size, wanted, meter)}


def _by_diffusers(folder: Path, size: int, wanted: list[str], threads: int, gpu: bool) -> dict[str, Any]:
    """The same arithmetic by plain calls of diffusers."""
    torch.set_num_threads(threads)
    from diffusers import AutoencoderKL, UNet2DConditionModel

    device, dtype, meter = "cuda" if gpu else "cpu", torch.bfloat16 if gpu else torch.float32, Meter(gpu)
    counts = {"full": 1, "warm": 1, "batch 2": 2}
    kinds = {"unet_depth_v2": UNet2DConditionModel, "vae": AutoencoderKL}

    def load() -> list[Any]:
        given = {"torch_dtype": dtype, "local_files_only": True}
        return [kind.from_pretrained(folder, subfolder=name, **given).to(device) for name, kind in kinds.items()]

    loading, (unet, vae) = meter.measure(load)
    meter.watch(vae, "encode", "encode")
    meter.watch(vae, "decode", "decode")
    meter.watch(unet, "forward", "UNet")
    drawn = torch.randint(256, (2, 3, size, size), generator=torch.Generator().manual_seed(0)) / 255
    pictures = drawn.to(device, dtype)
    tokens = torch.from_numpy(np.load(folder / "empty_text_embed.npy")).to(device, dtype)
    scale = vae.config.scaling_factor

    def predicted(count: int) -> torch.Tensor:
        latent = vae.encode(pictures[:count] * 2 - 1).latent_dist.mode() * scale
        # GenPercept predicts minus the sample, at timestep 1
        given = {"encoder_hidden_states": tokens.expand(count, -1, -1), "return_dict": False}
        answer = -unet(latent, torch.ones(count, device=device), **given)[0]
        return (vae.decode(answer / scale, return_dict=False)[0].float().mean(1).clamp(-1, 1).cpu() + 1) / 2

    found: dict[str, Any] = {"load": loading}
    with torch.inference_mode():
        for case in (case for case in wanted if case in counts):
            found[case], values = meter.measure(partial(predicted, counts[case]))
            if case == "full":
                found["values"] = values[0]
    return found


BY: dict[str, Callable[..., dict[str, Any]]] = {"predict": _by_predict, "diffusers": _by_diffusers}


# The runs


def write(folder: Path) -> None:
    """A repository as GenPercept's, of random weights."""
    if (folder / "vae").exists():
        return
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from loading import UNET, VAE
    from test_real_size import write_sd21

    write_sd21(folder, 4)
    for name, kind, shape in (
        ("unet_depth_v2", UNet2DConditionModel, UNET | {"in_channels": 4}),
        ("vae", AutoencoderKL, VAE),
    ):
        kind.from_config(shape).save_config(folder / name)
    tokens = np.random.default_rng(0).standard_normal((1, 2, 1024))
    np.save(folder / "empty_text_embed.npy", tokens.astype(np.float32))


def _in_a_process(name: str, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """A run of `BY` in a Python of its own."""
    with tempfile.TemporaryDirectory() as kept:
        told = json.dumps([str(folder), arguments.size, arguments.cases, arguments.threads, arguments.gpu])
        words = [sys.executable, __file__, "--run", name, told, str(Path(kept) / "values.npy")]
        said = subprocess.run(words, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
        return json.loads(said) | {"values": np.load(Path(kept) / "values.npy")}


def run(arguments: argparse.Namespace, told: Callable[[dict[str, list[dict[str, Any]]]], None]) -> None:
    """All rounds of all three; what was found so far is told after each round, so that one may stop there."""
    import comfyui_host
    from inside_host import InsideHost

    found: dict[str, list[dict[str, Any]]] = {"diffusers": [], "ComfyUI": [], "predict": []}
    with tempfile.TemporaryDirectory() as base:
        inside = InsideHost(comfyui_host.install(), Path(base))
        folder = arguments.weights.absolute() / MODEL
        write(folder)
        (inside.base / "models" / "perception").mkdir(parents=True, exist_ok=True)
        (inside.base / "models" / "perception" / MODEL).symlink_to(folder)
        flags = () if arguments.gpu else ("--cpu",)
        how = {"size": arguments.size, "wanted": arguments.cases, "threads": arguments.threads, "gpu": arguments.gpu}
        for number in range(arguments.rounds):
            for name in arguments.by:
                if name == "ComfyUI":
                    measured = inside(_by_comfyui, Meter, cases, host_arguments=flags, model=MODEL, timeout=7200, **how)
                else:
                    measured = _in_a_process(name, folder, arguments)
                found[name].append(measured)
                print(f"round {number + 1}: {name} {measured['full']['s']:.2f} s", file=sys.stderr, flush=True)
            told({name: runs for name, runs in found.items() if runs})


# What is told


def rows(found: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """A row for each case and each of the three: medians, and the ratio to diffusers of the same round."""
    listed = []
    for name, runs in found.items():
        for case in ("load", *CASES):
            held = [run[case] for run in runs if case in run]
            if not held:
                continue
            base = [run.get(case, run["full"]) for run in found.get("diffusers", runs)]
            listed.append(
                {
                    "by": name,
                    "case": case,
                    **{unit: round(median(each[unit] for each in held), 3) for unit in ("s", "wall", "MiB")},
                    "ratio": round(median(mine["s"] / other["s"] for mine, other in zip(held, base)), 3),
                    "memory": round(median(mine["MiB"] / other["MiB"] for mine, other in zip(held, base)), 3),
                    "stages": {
                        stage: round(median(each["stages"].get(stage, 0.0) for each in held), 3) for stage in STAGES
                    },
                    "runs": [round(each["s"], 3) for each in held],
                }
            )
    return listed


def shared(listed: list[dict[str, Any]], case: str, single: str) -> dict[str, float]:
    """What three tasks from one encode take of three predictions, by who predicts."""
    s = {(row["by"], row["case"]): row["s"] for row in listed}
    return {by: s[by, case] / (3 * s[by, single]) for by, name in s if name == case and (by, single) in s}


def apart(found: dict[str, list[dict[str, Any]]]) -> dict[str, float]:
    """How far the depths of the full case are from those by diffusers, at most."""
    right = found["diffusers"][0]["values"] if "diffusers" in found else None
    return {} if right is None else {
        name: float(np.abs(runs[0]["values"] - right).max()) for name, runs in found.items() if name != "diffusers"
    }  # fmt: skip


def machine(arguments: argparse.Namespace) -> dict[str, Any]:
    """What it was measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    return {
        "date": date.today().isoformat(),
        "processor": model or platform.processor(),
        "avx512": "avx512f" in flags,
        "cores": os.cpu_count(),
        "threads": arguments.threads,
        "gpu": torch.cuda.get_device_name() if arguments.gpu else "",
        "torch": torch.__version__,
        "size": arguments.size,
    }


def table(listed: list[dict[str, Any]]) -> str:
    """In Markdown."""
    head = ["case", "by", "s", "ratio", *STAGES, "MiB", "ratio of memory"]
    lines = ["| " + " | ".join(head) + " |", "| --- " * len(head) + "|"]
    for case in ("load", *CASES):
        for row in (row for row in listed if row["case"] == case):
            stages = [f"{row['stages'][stage]:.1f}" if row["stages"][stage] else "" for stage in STAGES]
            cells = [case, row["by"], f"{row['s']:.1f}", f"{row['ratio']:.2f}", *stages, f"{row['MiB']:.0f}"]
            lines.append("| " + " | ".join([*cells, f"{row['memory']:.2f}"]) + " |")
    return "\n".join(lines)


COLOURS = {"diffusers": "#9a9a9a", "ComfyUI": "#2f6db5", "predict": "#e08a1e"}


def picture(listed: list[dict[str, Any]], told: dict[str, Any]) -> str:
    """Bars of the time of each case, as an SVG."""
    bars = [row for case in CASES for row in listed if row["case"] == case]
    longest, parts, y, before = max(row["ratio"] for row in bars), [], 42, ""
    for row in bars:
        y += 12 if row["case"] != before else 0
        label = row["case"] if row["case"] != before else ""
        before, width = row["case"], row["ratio"] / longest * 420
        parts.append(
            f'<text x="178" y="{y + 11}" text-anchor="end">{label}</text>'
            f'<rect x="186" y="{y}" width="{width:.1f}" height="14" rx="2" fill="{COLOURS[row["by"]]}"/>'
            f'<text x="{190 + width:.1f}" y="{y + 11}">{row["ratio"]:.2f} {row["by"]}</text>'
        )
        y += 17
    on = told["gpu"] or f"{told['processor']}, {told['threads']} thread{'s' if told['threads'] > 1 else ''}"
    title = f"Time of a {told['size']}x{told['size']} prediction, SD2.1 size; diffusers = 1 ({on})"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="720" height="{y + 14}" viewBox="0 0 720 {y + 14}" '
        'font-family="sans-serif" font-size="12" fill="#333"><rect width="100%" height="100%" fill="#fff"/>'
        f'<text x="12" y="26" font-size="14">{escape(title)}</text>{"".join(parts)}</svg>\n'
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, default=Path("runs/speed"), help="folder for the random weights, 2 GB")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="of each process; one is counted most surely")
    parser.add_argument("--cases", type=lambda text: text.split(","), default=list(CASES), help="separated by commas")
    parser.add_argument("--by", type=lambda text: text.split(","), default=["diffusers", "ComfyUI", "predict"])
    parser.add_argument("--gpu", action="store_true", help="bf16 by diffusers, as the host chooses in ComfyUI")
    parser.add_argument("--out", type=Path, help="JSON file")
    parser.add_argument("--picture", type=Path, help="SVG file")
    parser.add_argument("--draw", type=Path, help="draw the picture of a JSON file and measure nothing")
    parser.add_argument("--run", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        name, told, kept = arguments.run
        folder, *others = json.loads(told)
        measured = BY[name](Path(folder), *others)
        np.save(kept, np.asarray(measured.pop("values")))
        print(json.dumps(measured))
        return
    if arguments.draw:
        show(json.loads(arguments.draw.read_text()), arguments)
        return
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    run(arguments, lambda found: show(held(found, arguments), arguments))


def held(found: dict[str, list[dict[str, Any]]], arguments: argparse.Namespace) -> dict[str, Any]:
    """What the JSON file holds."""
    rounds = max(map(len, found.values()))
    return {"machine": machine(arguments) | {"rounds": rounds}, "apart": apart(found), "rows": rows(found)}


def show(figures: dict[str, Any], arguments: argparse.Namespace) -> None:
    """Print them, and write the files that are asked for."""
    print(table(figures["rows"]))
    for case, single in SINGLE.items():
        for by, seconds in shared(figures["rows"], case, single).items():
            print(f"{case}: {seconds:.2f} of three single predictions ({by})")
    print(f"depths differ from those by diffusers by at most {figures['apart']}", flush=True)
    if arguments.out:
        arguments.out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    if arguments.picture:
        arguments.picture.write_text(picture(figures["rows"], figures["machine"]), encoding="utf-8")


if __name__ == "__main__":
    main()
