"""Weights: the tensors of one network in files of any supported layout, always handed out under diffusers names."""

from __future__ import annotations

import math
import mmap
import os
import pickle
import re
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .. import plain_files
from ..backbone import Shapes
from ..errors import UserError
from ..plain_files import parse_json
from ..whole_file import whole_file
from . import ldm_names
from .published import where

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
"""Precisions that files are written in, as configs and commands call them."""
STEMS = ("diffusion_pytorch_model", "diffusion_pytorch_model.fp16", "model", "model.fp16", "pytorch_model")
EVERYBODYS = re.compile(
    r"unet.*|vae.*|scheduler.*|text_encoder|tokenizer|dpt_head.*|empty_text_embed.*|pytorch_lora_weights.*|\w+\.json"
    r"|((diffusion_)?pytorch_|adapter_)?model[.-].*"
)
"""Names that stand in every repository."""


class CheckpointError(UserError):
    """A file or folder that cannot be used, in one sentence for the person who chose it."""


def shown(path: Path) -> str:
    """A path as a person tells it from others: marigold-depth/unet, not just unet."""
    name = path.name
    while EVERYBODYS.fullmatch(path.name) and path.parent.name:
        path = path.parent
        name = f"{path.name}/{name}"
    return name


@dataclass(frozen=True)
class Weights:
    """One network's tensors, still on disk."""

    files: tuple[Path, ...]
    names: dict[str, str]
    """{name in the file: name in the network}"""
    shapes: dict[str, tuple[int, ...]]
    """{name in the network: shape}"""

    @property
    def path(self) -> Path:
        return self.files[0]

    def load(self, dtype: torch.dtype | None = None, copy: bool = False) -> dict[str, Tensor]:
        """{name in the network: tensor}, in the files' own dtype or another. CheckpointError if a file is damaged.

        copy: in memory of their own also where they could stay in the file, which is open as long as any of them lives.
        """
        tensors = {}
        for file in self.files:
            tensors |= read(file, self.names, dtype, copy)
        packed = next((name for name, tensor in tensors.items() if tensor.dtype in (torch.int8, torch.uint8)), "")
        if packed:
            raise CheckpointError(
                f"{shown(self.path)} keeps {packed} as whole numbers: get the fp16 file of the model."
            )
        renamed = {self.names[name]: tensor for name, tensor in tensors.items()}
        return {name: tensor.reshape(self.shapes[name]) for name, tensor in renamed.items()}

    def outlines(self) -> dict[str, Tensor]:
        """The same without numbers: shapes and dtypes alone, of which little is read."""
        found = {}
        for file in self.files:
            held = unpickle(file) if file.suffix == ".bin" else _lazily(file, list(self.names))
            found |= {self.names[name]: tensor.to("meta") for name, tensor in held.items() if name in self.names}
        return found


def find_files(folder: Path, stems: tuple[str, ...] = STEMS) -> tuple[Path, ...]:
    """The weight files of a network's folder: safetensors, sharded or not, before .bin. Empty if there are none."""
    for stem in stems:
        index = folder / f"{stem}.safetensors.index.json"
        if os.path.isfile(index):
            return _shards(index)
        if os.path.isfile(folder / f"{stem}.safetensors"):
            return (folder / f"{stem}.safetensors",)
    return next(((file,) for stem in stems if os.path.isfile(file := folder / f"{stem}.bin")), ())


def _shards(index: Path) -> tuple[Path, ...]:
    """The files that an index of shards names, all beside it."""
    listed = read_object(index).get("weight_map")
    if not isinstance(listed, dict) or not listed or not all(isinstance(name, str) for name in listed.values()):
        raise CheckpointError(f"{shown(index)} lists no weight files: get the file again.")
    return tuple(index.parent / name for name in sorted({Path(name).name for name in listed.values()}))


def network(files: tuple[Path, ...], renaming: Callable[[list[str]], dict[str, str]]) -> Weights:
    """The network that `renaming` (names in the files -> {name: name in the network}) picks out of files."""
    shapes: dict[str, tuple[int, ...]] = {}
    for file in files:
        shapes |= read_shapes(file)
    return as_network(files, shapes, renaming(list(shapes)))


def as_network(files: tuple[Path, ...], shapes: Shapes, names: dict[str, str]) -> Weights:
    """The network of these tensors. shapes: {name in the files: shape}; names: {name in the files: in the network}."""
    return Weights(files, names, {new: _network_shape(new, shapes[old]) for old, new in names.items()})


def _network_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """A VAE's attention is 1x1 convolutions in LDM files and Linears in diffusers': the same numbers."""
    is_vae_attention = "mid_block.attentions.0.to_" in name and name.startswith(("encoder.", "decoder."))
    return shape[:2] if is_vae_attention else shape


def pick_unet(names: list[str]) -> dict[str, str]:
    """The UNet among a file's tensors, under whichever prefix and spelling; empty if there is none."""
    for prefix in ldm_names.UNET_PREFIXES:
        inner = {name: key for name, key in strip(names, prefix).items() if not key.startswith(INNER_HEAD)}
        if "conv_in.weight" in inner.values():
            return inner
        if "input_blocks.0.0.weight" in inner.values():
            renamed = ldm_names.unet_to_diffusers(inner.values())
            # a name that Stable Diffusion does not have stays, so that it is told and not dropped
            return {name: renamed.get(ldm, ldm) for name, ldm in inner.items()}
    return {}


INNER_HEAD = "heatmap_head."
"""Where ComfyUI's checkpoints have a head among the tensors of a UNet."""


def pick_head(names: list[str]) -> dict[str, str]:
    """That head; empty if there is none."""
    found = (strip(names, prefix + INNER_HEAD) for prefix in ldm_names.UNET_PREFIXES)
    return next(filter(None, found), {})


def pick_vae(names: list[str]) -> dict[str, str]:
    """The VAE among a file's tensors, likewise; its training left losses in some files, which are passed over."""
    for prefix in ldm_names.VAE_PREFIXES:
        inner = strip(names, prefix)
        if "decoder.up_blocks.0.resnets.0.norm1.weight" in inner.values():
            return {name: ldm_names.modern(key) for name, key in inner.items()}
        if "decoder.up.0.block.0.norm1.weight" in inner.values():
            renamed = ldm_names.vae_to_diffusers(inner.values())
            return {name: renamed[ldm] for name, ldm in inner.items() if ldm in renamed}
    return {}


QUANTISED = (
    (re.compile(r"bitsandbytes__|\.(absmax|quant_map|nested_absmax|SCB|weight_format)$"), "bitsandbytes"),
    (re.compile(r"(^|\.)(scaled_fp8|scale_weight|weight_scale|scale_input|input_scale|comfy_quant)$"), "scaled fp8"),
    (re.compile(r"\.weight(\._(data|scale|shift|zeropoint)|_qtype)$"), "quanto"),
    (re.compile(r"\.(wscales|smooth_orig|proj_down)$"), "SVDQuant"),
    (re.compile(r"\.(qweight|qzeros|g_idx)$"), "GPTQ or AWQ"),
)
"""Names of what stands beside packed weights, and who packs so."""


def quantised(names: Iterable[str]) -> str:
    """Who packed the weights of a network with these names into fewer bits, "" if nobody did."""
    held = list(names)
    return next((packer for pattern, packer in QUANTISED if any(map(pattern.search, held))), "")


def strip(names: list[str], prefix: str) -> dict[str, str]:
    """{name: name without the prefix} of those that have it."""
    return {name: name[len(prefix) :] for name in names if name.startswith(prefix)}


def read(file: Path, wanted: dict[str, str], dtype: torch.dtype | None = None, copy: bool = False) -> dict[str, Tensor]:
    """The wanted tensors of one file."""
    if file.suffix == ".bin":
        return {name: brought(tensor, dtype, copy) for name, tensor in unpickle(file).items() if name in wanted}
    with opened(file) as tensors:
        names = [name for name in tensors.keys() if name in wanted]  # noqa: SIM118
    found: dict[str, Tensor] = {}
    for start in range(0, len(names), AT_ONCE):
        # opened anew: what was read of a file stays in memory for as long as it is open
        part = _lazily(file, names[start : start + AT_ONCE])
        found |= {name: aligned(brought(part.pop(name), dtype, copy)) for name in list(part)}
    return found


AT_ONCE = 50
"""Tensors of a file that is then given back."""


def _lazily(file: Path, names: list[str]) -> dict[str, Tensor]:
    """Tensors that are read when they are looked at."""
    with opened(file) as tensors:
        held = set(tensors.keys())
        return {name: tensors.get_tensor(name) for name in names if name in held}


def brought(tensor: Tensor, dtype: torch.dtype | None, copy: bool) -> Tensor:
    """In this precision, if it is a number with a fraction."""
    wanted = dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
    return _small_pages(tensor.shape, wanted).copy_(tensor) if copy or wanted != tensor.dtype else tensor


def _small_pages(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """A tensor with nothing in it yet, in memory of small pages also where PyTorch is told to take large ones.

    Those serve what is made and dropped in every call; gigabytes of weights, which come once, take three times as long
    to be given in them (measured where memory was nearly all in use).
    """
    size = math.prod(shape) * dtype.itemsize
    if not size or os.environ.get("THP_MEM_ALLOC_ENABLE") != "1" or not hasattr(mmap, "MAP_ANONYMOUS"):
        return torch.empty(tuple(shape), dtype=dtype)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(memory, dtype=dtype).view(tuple(shape))


ALIGNMENT = 64
"""Bytes: what PyTorch allocates by, and its kernels are written for."""


def aligned(tensor: Tensor) -> Tensor:
    """The tensor, copied if it lies askew in its file and is computed with as it is.

    Where it lies depends on the length of the header, and on some processors sums over askew numbers go in another
    order: the same weights would differ by 1e-5 from one file to the next.
    """
    askew = tensor.dtype == torch.float32 and tensor.data_ptr() % ALIGNMENT
    return tensor.clone() if askew else tensor


def read_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """{name: shape}; of safetensors only the header is read."""
    if file.suffix == ".bin":
        return {name: tuple(tensor.shape) for name, tensor in unpickle(file).items()}
    return read_header(file)[1]


def read_header(file: Path) -> tuple[dict[str, str], dict[str, tuple[int, ...]]]:
    """A safetensors file's metadata, and {name: shape}."""
    with opened(file) as tensors:
        shapes = {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
        return tensors.metadata() or {}, shapes


def read_metadata(file: Path) -> dict[str, str]:
    """The safetensors header's metadata; a pickle has none."""
    if file.suffix == ".bin":
        return {}
    with opened(file) as tensors:
        return tensors.metadata() or {}


def stored(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor in the precision it is to be stored in. CheckpointError if that makes it no number, or it was none."""
    made = tensor.to(dtype)
    if made.isfinite().all():
        return made
    if tensor.isfinite().all():
        raise CheckpointError(f"{name} has numbers that are too large for {dtype}: store it as bf16 or fp32.")
    raise CheckpointError(f"{name} gives no numbers: it holds NaN; get the file again.")


def save_tensors(path: Path, tensors: Mapping[str, Tensor], header: dict[str, str]) -> None:
    """Write a .safetensors file, whole or not at all. UnwritableError if there is no room or no right."""
    with whole_file(path) as partial:
        save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, partial, metadata=header)


def header_object(metadata: Mapping[str, str], key: str, file: Path) -> dict[str, Any]:
    """The JSON object in a field of a file's metadata, {} where there is none. CheckpointError if it is damaged."""
    try:
        content = parse_json(metadata.get(key, "{}"))
    except UserError as error:
        raise CheckpointError(f"{shown(file)} has a damaged header ({error}): export or download it again.") from None
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{shown(file)} has a damaged header ({key} is no JSON object): export or download it again."
        )
    return content


def opened(file: Path) -> safe_open:
    """An open safetensors file. CheckpointError if it is none, or not whole."""
    _check_exists(file)
    if file.suffix in (".pt", ".pth", ".ckpt"):
        raise CheckpointError(f"{shown(file)} is a pickle, which can run code: convert it to .safetensors first.")
    if _starts_with(file, b"GGUF"):
        raise CheckpointError(f"{shown(file)} is quantised (GGUF); get the fp16 file of the same model.")
    try:
        return safe_open(file, framework="pt")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{shown(file)} is not a whole .safetensors file ({error}): download or export it again."
        ) from None


def _starts_with(file: Path, magic: bytes) -> bool:
    """Whether a file does; what cannot be read does not."""
    try:
        with file.open("rb") as held:
            return held.read(len(magic)) == magic
    except OSError:
        return False


def unpickle(file: Path) -> dict[str, Tensor]:
    """The tensors of a .bin file, by the loader that runs no code."""
    _check_exists(file)
    if torch_version() < (2, 6):
        raise CheckpointError(
            f"{shown(file)} is a pickle, and this PyTorch ({torch.__version__}) cannot read it safely: "
            "update PyTorch to 2.6 or convert the file to .safetensors."
        )
    try:
        tensors = torch.load(file, map_location="cpu", weights_only=True)
    except UNREADABLE:
        raise CheckpointError(
            f"{shown(file)} holds something other than tensors, or is not whole: it was not opened; "
            "get a .safetensors file."
        ) from None
    if not isinstance(tensors, dict) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise CheckpointError(f"{shown(file)} holds no plain dictionary of tensors: get a .safetensors file.")
    return tensors


UNREADABLE = (
    pickle.UnpicklingError, BadZipFile, EOFError, OSError, RuntimeError, ValueError, LookupError, TypeError,
    AttributeError, AssertionError, OverflowError, MemoryError, struct.error,
)  # fmt: skip
"""What torch.load raises on files that are damaged, or that ask for more than tensors."""


def torch_version() -> tuple[int, int]:
    """(2, 6) of 2.6.0+cpu."""
    major, minor = re.findall(r"\d+", torch.__version__)[:2]
    return int(major), int(minor)


def _check_exists(file: Path) -> None:
    if not os.path.isfile(file):
        known = where(file.name, file.parent.as_posix())
        raise CheckpointError(f"There is no file {file}: check the path" + (f", or {known}." if known else "."))


def read_object(file: Path) -> dict[str, Any]:
    """A JSON object, {} where there is no such file. CheckpointError if it is damaged."""
    if not os.path.isfile(file):
        return {}
    try:
        content = plain_files.read_json(file)
    except OSError as error:
        raise CheckpointError(f"{shown(file)} cannot be read ({error.strerror or error}): check its rights.") from None
    except UserError as error:
        raise CheckpointError(f"{shown(file)} is not readable JSON ({error}): get the file again.") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{shown(file)} holds no JSON object: get the file again.")
    return content


def keep(names: list[str]) -> dict[str, str]:
    """A renaming that renames nothing."""
    return {name: name for name in names}
