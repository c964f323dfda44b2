"""A training run in a process of its own: `python train_process.py CONFIG.toml`."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from diffusion_perception.trainer.config import read
from diffusion_perception.trainer.train import run

if __name__ == "__main__":
    torch.set_num_threads(1)
    run(read(Path(sys.argv[1])))
