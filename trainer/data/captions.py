"""Captions of a dataset: which text is told with which picture."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from ...core.errors import UserError
from ...core.plain_files import parse_json
from ..config import Source
from .arrays import READERS
from .records import Records, read_lines
from .truth import DatasetError

NAMES, TEXTS = ("file_name", "image", "picture"), ("text", "prompt")
"""Keys of a row of JSON: DMP's metadata.jsonl and `label`'s provenance.jsonl."""


def captions_of(source: Source, records: Records[Any]) -> dict[str, str]:
    """{name of a record's picture: its text}. DatasetError if the file names none for a picture."""
    path = _captions_file(source)
    listed = {_key_of(name): text for name, text in _read_captions(path)}
    by_file = {PurePosixPath(key).name: text for key, text in listed.items()}
    found, missing = {}, []
    for name in dict.fromkeys(records.made_of(record).name for record in records.records):
        text = listed.get(_key_of(name), by_file.get(PurePosixPath(_key_of(name)).name))
        if text is None:
            missing.append(name)
        else:
            found[name] = text
    if missing:
        raise DatasetError(
            f"{path} has no text for {len(missing)} of {len(missing) + len(found)} pictures of {records.name}, such as "
            f"{missing[0]}: add it, or leave captions out."
        )
    return found


def _captions_file(source: Source) -> Path:
    """As named, or in the dataset's root. DatasetError if there is none."""
    places = (Path(source.root) / source.captions, Path(source.captions))
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise DatasetError(f"There is no file of captions {source.captions}, neither in {source.root} nor here.")
    return found


def _key_of(name: str) -> str:
    """A picture's name without its ending, if that is one of pictures', whatever folders' slashes are like."""
    path = PurePosixPath(name.replace("\\", "/"))
    return (path.with_suffix("") if path.suffix.lower() in READERS else path).as_posix()


def _read_captions(path: Path) -> Iterator[tuple[str, str]]:
    """(file name, text) of every line. DatasetError names the first line that is neither."""
    row = _named_caption if path.suffix == ".jsonl" else _from_tabs
    for number, line in enumerate(read_lines(path), 1):
        if line.strip():
            yield row(line, f"{path}, line {number}")


def _from_tabs(line: str, where: str) -> tuple[str, str]:
    """`file name<TAB>text`."""
    name, tab, text = line.partition("\t")
    if not tab or not name.strip():
        raise DatasetError(f"{where}: expected a file name, a tab and a text.")
    return name.strip(), text.strip()


def _named_caption(line: str, where: str) -> tuple[str, str]:
    """A row of NAMES and TEXTS."""
    try:
        row = parse_json(line)
        name = next(row[key] for key in NAMES if key in row)
        return str(name), str(next(row[key] for key in TEXTS if key in row))
    except (UserError, StopIteration, LookupError, TypeError):
        raise DatasetError(
            f"{where}: expected a JSON object with {' or '.join(NAMES)}, and {' or '.join(TEXTS)}."
        ) from None
