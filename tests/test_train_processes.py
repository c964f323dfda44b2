"""Runs of several processes, and runs that are killed: the weights come out as those of one unbroken run."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import runs
import torch
from safetensors.torch import load_file

from diffusion_perception.trainer.config import Config, to_toml
from diffusion_perception.trainer.train import run

SCRIPT = Path(__file__).with_name("train_process.py")
SIZE = 64
"""Below this the deepest level of a network is a single cell, whose norms amplify rounding without bound."""
ALONE = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("balls")
    runs.write_balls(folder / "train", 8, holes=True, size=SIZE)
    runs.write_vae(folder / "vae")
    return folder


def begin(config: Config, **environment: str) -> subprocess.Popen[str]:
    """Start a run, not waiting for it."""
    folder = Path(config.out)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "asked.toml"
    file.write_text(to_toml(config))
    return subprocess.Popen(
        [sys.executable, SCRIPT, file], env={**os.environ, **ALONE, **environment}, stderr=subprocess.PIPE, text=True
    )


def end(process: subprocess.Popen[str]) -> None:
    """Wait for a run to succeed."""
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said


def weights(config: Config) -> dict[str, torch.Tensor]:
    return torch.load(Path(config.out) / "state.pt", weights_only=True)["weights"]


def difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max((one[name] - other[name]).abs().max().item() for name in one)


def free_port() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


def test_two_processes_reach_the_weights_of_one_with_the_doubled_batch(root, own_precision):
    """In float64, with several tasks and losses, accumulation, clipping, and valid masks unequal between the two."""
    settings = {
        "tasks": ["depth", "normal"],
        "steps": 4,
        "accumulation": 2,
        "precision": "fp64",
        "size": [SIZE, SIZE],
        "optimiser": {"lr": 1e-5, "max_norm": 0.5, "warmup": 2, "schedule": "cosine", "ema": 0.9},
        "objective": {"loss": "both"},
    }
    one = runs.config(root, out=str(root / "one"), batch_size=2, **settings)
    two = runs.config(root, out=str(root / "two"), batch_size=1, **settings)
    port = free_port()
    ranks = [
        begin(two, RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
        for rank in range(2)
    ]
    run(one)
    for process in ranks:
        end(process)
    assert difference(weights(one), weights(two)) < 1e-9


def test_a_run_killed_at_a_random_step_resumes_to_the_same_weights(root, own_precision):
    settings = {
        "tasks": ["depth", "mask"],
        "size": [SIZE, SIZE],
        "steps": 9,
        "save_every": 1,
        "optimiser": {"lr": 1e-3, "ema": 0.9, "schedule": "linear", "warmup": 3},
    }
    whole, broken = (runs.config(root, out=str(root / name), **settings) for name in ("whole", "broken"))
    run(whole)
    process = begin(broken)
    state = Path(broken.out) / "state.pt"
    chosen = int.from_bytes(os.urandom(1), "big") % 6 + 1
    while process.poll() is None and saved_steps(state) < chosen:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert 1 <= saved_steps(state) < 9
    end(begin(broken))
    assert difference(weights(whole), weights(broken)) == 0
    files = [load_file(Path(config.out) / "last.safetensors") for config in (whole, broken)]
    assert difference(*files) == 0


def saved_steps(state: Path) -> int:
    return torch.load(state, weights_only=True)["step"] if state.is_file() else 0


@pytest.mark.parametrize("unet", ["lora", "full"])
def test_half_precision_trains_validates_and_writes(root, own_precision, unet):
    """bf16, with what does not learn kept in it too."""
    network = {"unet": unet, "frozen_precision": "bf16"}
    config = runs.config(
        root,
        out=str(root / f"half-{unet}"),
        precision="bf16",
        network=network,
        objective={"loss": "both"},
        validation=[{"root": str(root / "train")}],
    )
    run(config)
    assert all(weight.dtype == torch.float32 for weight in weights(config).values())
    assert (Path(config.out) / "best.safetensors").is_file()


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_workers_may_be_started_as_windows_and_macos_do(root, own_precision, method):
    settings = {"tasks": ["depth", "normal"], "steps": 2, "size": [SIZE, SIZE], "save_every": 1}
    alone = runs.config(root, out=str(root / f"no workers, {method}"), **settings)
    shared = runs.config(root, out=str(root / method), workers=1, **settings)
    run(alone)
    end(begin(shared, START_METHOD=method))
    assert difference(weights(alone), weights(shared)) == 0
