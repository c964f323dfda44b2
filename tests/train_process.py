"""A training run in a process of its own: `python train_process.py CONFIG.toml`.

START_METHOD says how its workers start: Windows and macOS spawn them.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from pathlib import Path

import torch

from diffusion_perception.trainer.config import read
from diffusion_perception.trainer.train import run

if __name__ == "__main__":
    multiprocessing.set_start_method(os.environ.get("START_METHOD"))
    torch.set_num_threads(1)
    run(read(Path(sys.argv[1])))
