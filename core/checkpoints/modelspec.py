"""Modelspec: the header fields by which other programs describe a model (Stability AI's model metadata standard)."""

from __future__ import annotations

from collections.abc import Mapping

from ..generations import GENERATIONS


def modelspec(base: str, kind: str, fields: Mapping[str, str | None], unknown: str = "") -> dict[str, str]:
    """Fields for a file's header: the architecture, and `fields`, without those that are None.

    base: as Recipe.base; kind: "", or /lora for an adapter; unknown: what a base of no generation is called there.
    """
    architecture = GENERATIONS[base].modelspec if base in GENERATIONS else unknown
    said = {**fields, "architecture": f"{architecture}{kind}" if architecture else None}
    return {f"modelspec.{name}": value for name, value in said.items() if value is not None}
