"""Own file: the project's one layout on disk, for networks, adapters and light halves alike; its reader and writer.

A safetensors file. Header: `diffusion_perception.recipe`, a JSON list of recipes, and a field of KEYS for each part.
Tensors: `unet.*` and `vae.*` under diffusers names, `adapter.<layer>.*` as adapter_file has them, `head.<name>.*`,
`decoder.<name>.*` and `encoder.<name>.*` of light halves, `context.<recipe>`, and `context.<recipe>.negative` for
guidance.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..backbone import Context, Shapes
from ..errors import UserError
from ..recipe import KEY, Recipe, from_header, to_header
from ..tiny_vae import Role
from .architecture import UNetArchitecture, VAEArchitecture
from .context import as_context
from .tensors import CheckpointError, Weights, as_network, header_object, read, read_header, save_tensors, shown, strip

KEYS = {part: KEY.replace(".recipe", f".{part}") for part in ("unet", "vae", "head", "adapter", "light", "latents")}
"""{part: its header field}. Of unet, vae and head the config; of an adapter the manifest; `light` lists the roles in a
file of light halves alone, and `latents` is the fingerprint of the VAE between whose latents and pictures they are."""
Stored = Mapping[Role, Mapping[str, Mapping[str, Tensor]]]
"""{role: {name: tensors}} of light halves."""


@dataclass(frozen=True)
class OwnFile:
    """What the header of one file says."""

    path: Path
    metadata: Mapping[str, str]
    shapes: Shapes
    """{name in the file: shape}"""

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        """CheckpointError if they are damaged."""
        try:
            return tuple(from_header(dict(self.metadata), shown(self.path)))
        except UserError as error:
            raise CheckpointError(str(error)) from None

    def says(self, part: str) -> bool:
        """Whether the header has the field of a part."""
        return KEYS[part] in self.metadata

    def field(self, part: str) -> dict[str, Any]:
        """What that field says, {} where there is none. CheckpointError if it is damaged."""
        return header_object(self.metadata, KEYS[part], self.path)

    def part(self, prefix: str) -> Weights:
        """The tensors under a prefix, by the names behind it."""
        return as_network((self.path,), self.shapes, strip(list(self.shapes), prefix))

    def head(self, recipe: Recipe) -> Weights | None:
        """The head that a recipe names. CheckpointError if the file lacks it."""
        return self._named("head", recipe.head, "head", recipe)

    def light(self, role: Role, recipe: Recipe) -> Weights | None:
        """The light half that a recipe names. CheckpointError if the file lacks it."""
        return self._named(role, getattr(recipe, role), f"light {role}", recipe)

    def _named(self, prefix: str, name: str, what: str, recipe: Recipe) -> Weights | None:
        found = self.part(f"{prefix}.{name}.") if name else None
        if found is not None and not found.shapes:
            raise CheckpointError(
                f"{self.path.name} lacks the {what} {name!r} that its recipe {recipe.id} names: export it again."
            )
        return found

    def context(self, recipe: Recipe, architecture: UNetArchitecture) -> Context | None:
        """A recipe's own text context."""
        return self._context(recipe.id, architecture)

    def negative(self, recipe: Recipe, architecture: UNetArchitecture) -> Context | None:
        """What its guidance moves away from."""
        return self._context(f"{recipe.id}.negative", architecture)

    def _context(self, name: str, architecture: UNetArchitecture) -> Context | None:
        name = f"context.{name}"
        return as_context(read(self.path, {name: name})[name], architecture, self.path) if name in self.shapes else None


def read_own(path: Path) -> OwnFile | None:
    """The header of one of the project's files, which is opened once for it; None for any other."""
    if path.suffix == ".bin":
        return None
    metadata, shapes = read_header(path)
    return OwnFile(path, metadata, shapes) if KEY in metadata else None


def write_own(
    path: Path,
    recipes: Sequence[Recipe],
    *,
    unet: tuple[UNetArchitecture, Mapping[str, Tensor]] | None = None,
    vae: tuple[VAEArchitecture, Mapping[str, Tensor]] | None = None,
    adapter: tuple[Mapping[str, object], Mapping[str, Tensor]] | None = None,
    heads: Mapping[str, Mapping[str, Tensor]] | None = None,
    light: Stored | None = None,
    contexts: Mapping[str, Tensor] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write one, whole or not at all.

    adapter: its manifest, and {layer.kind: tensor}; heads: {name: tensors}; light: the halves that recipes name;
    contexts: {recipe id, or that with .negative: (1, L, D)}; metadata: further header fields, such as modelspec.*.
    UserError if two recipes have one id, or a context belongs to none of them.
    """
    _check_names(recipes, contexts or {})
    groups = {
        "unet": unet[1] if unet else {},
        "vae": vae[1] if vae else {},
        "adapter": adapter[1] if adapter else {},
        **{f"head.{name}": tensors for name, tensors in (heads or {}).items()},
        **{f"{role}.{name}": tensors for role, held in (light or {}).items() for name, tensors in held.items()},
        # a copy each: recipes may share one, and the format refuses tensors that share memory
        "context": {name: tensor.clone() for name, tensor in (contexts or {}).items()},
    }
    said: dict[str, object] = {name: part[0].config() for name, part in (("unet", unet), ("vae", vae)) if part}
    if adapter:
        said["adapter"] = adapter[0]
    if light and not unet and not adapter:
        said["light"] = sorted(light)
    fields = {KEYS[part]: json.dumps(value) for part, value in said.items()}
    tensors = {f"{group}.{name}": tensor for group, held in groups.items() for name, tensor in held.items()}
    save_tensors(path, tensors, {**to_header(recipes), **fields, "format": "pt", **(metadata or {})})


def _check_names(recipes: Sequence[Recipe], contexts: Mapping[str, Tensor]) -> None:
    """UserError unless recipes and contexts can be told apart."""
    ids = [recipe.id for recipe in recipes]
    if len(set(ids)) < len(ids) or not {name.removesuffix(".negative") for name in contexts} <= set(ids):
        raise UserError(f"Recipes {', '.join(ids)} need a name of their own each, and contexts must bear one of them.")
