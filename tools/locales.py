"""Translations: `locales.py write` writes the English ones as the nodes say them, and says what the others lack."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import comfyui_host
from comfyui_server import PACK, Server

LOCALES = PACK / "locales"
ENGLISH = "en"
TRANSLATED = ("zh", "ja", "ko")
OURS = "DiffusionPerception"
FILES = ("nodeDefs", "main")
"""What ComfyUI reads of a language: its nodes, and here, of all else that its editor has words for, the categories."""

Texts = dict[str, str]
"""The words of a language, by where they stand: nodeDefs/<node id>/inputs/<input>/tooltip. No word is an empty one."""


def english(schemas: Mapping[str, Any]) -> Texts:
    """The words of the nodes as a host tells them. The editor has no place for the texts of choices, nor for types."""
    ours = {name: schema for name, schema in sorted(schemas.items()) if name.startswith(OURS)}
    found = {f"nodeDefs/{name}/{place}": text for name, schema in ours.items() for place, text in words(schema)}
    parts = sorted({part for schema in ours.values() for part in schema["category"].split("/")})
    found |= {f"main/nodeCategories/{part}": part for part in parts}
    return {place: text for place, text in found.items() if text}


def words(schema: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(place, text) of one node."""
    yield "display_name", schema["display_name"]
    yield "description", schema["description"]
    inputs = {**schema["input"].get("required", {}), **schema["input"].get("optional", {})}
    for key, (_, *rest) in inputs.items():
        settings = rest[0] if rest else {}
        key = key.replace(".", "_")  # as the editor looks it up
        yield f"inputs/{key}/name", settings.get("display_name") or key
        yield f"inputs/{key}/tooltip", settings.get("tooltip") or ""
    for number, (name, tooltip) in enumerate(zip(schema["output_name"], schema["output_tooltips"])):
        yield f"outputs/{number}/name", name
        yield f"outputs/{number}/tooltip", tooltip or ""


def read(language: str) -> Texts:
    """A language's words; of its files that are not there, none."""
    paths = {file: LOCALES / language / f"{file}.json" for file in FILES}
    nested = {file: json.loads(path.read_text("utf-8")) for file, path in paths.items() if path.exists()}
    return dict(flat(nested))


def flat(nested: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(place, text) of all that is in a tree."""
    for key, value in nested.items():
        if isinstance(value, str):
            yield key, value
        else:
            yield from ((f"{key}/{rest}", text) for rest, text in flat(value))


def write(language: str, texts: Texts) -> None:
    """A language's files, in the order of the texts."""
    tree: dict[str, Any] = {}
    for place, text in texts.items():
        *stems, leaf = place.split("/")
        at = tree
        for stem in stems:
            at = at.setdefault(stem, {})
        at[leaf] = text
    (LOCALES / language).mkdir(parents=True, exist_ok=True)
    for file, held in tree.items():
        path = LOCALES / language / f"{file}.json"
        path.write_text(json.dumps(held, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def differing(texts: Texts, translated: Texts, language: str) -> list[str]:
    """What keeps a translation from being whole, a sentence each."""
    lacking = [f"locales/{language} lacks {place}: {text}" for place, text in texts.items() if place not in translated]
    return lacking + [f"locales/{language} has {place}, which English has not" for place in translated.keys() - texts]


def renewed(texts: Texts, before: Texts, translated: Texts) -> Texts:
    """A translation after English changed: gone where it did; taken from where the same words are translated."""
    # what was translated before the English was written is taken for its translation
    kept = {
        place: text for place, text in translated.items() if texts.get(place) == before.get(place, texts.get(place))
    }
    known = {before[place]: text for place, text in translated.items() if place in before}
    return {place: kept.get(place) or known[text] for place, text in texts.items() if place in kept or text in known}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=("write", "missing"), help="write: with a ComfyUI; missing: only compare")
    writes = parser.parse_args().command == "write"
    before = read(ENGLISH)
    texts = asked() if writes else before
    for language in TRANSLATED:
        translated = read(language)
        now = renewed(texts, before, translated)
        for fault in differing(texts, now if writes else translated, language):
            print(fault)
        for place in sorted(texts.keys() & translated.keys() - now.keys()):
            print(f"{place} was {before[place]!r}, and {translated[place]!r}")
        if writes:
            write(language, now)
    if writes:
        write(ENGLISH, texts)


def asked() -> Texts:
    """The English words, from a ComfyUI that is started for it."""
    with tempfile.TemporaryDirectory() as base, Server(comfyui_host.install(), Path(base)) as server:
        return english(server.object_info())


if __name__ == "__main__":
    main()
