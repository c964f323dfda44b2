"""Sets: what `evaluate` and `check` are asked to read, `NAME:FOLDER,KEY=VALUE,...` or a plain folder's path."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core.errors import UserError, meant
from ...core.recipe import Recipe
from ..config import Config, Source
from ..data.archives import missing_archive
from ..data.augment import Augmentation
from ..data.batches import Feed
from ..data.feeds import feed
from ..data.people import People
from ..data.published import DATASETS, open_dataset
from ..data.records import Records
from ..data.truth import DatasetError, NoTruth

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]


@dataclass(frozen=True)
class NamedSet:
    """A dataset, as it was asked for."""

    text: str
    reader: str
    """A row of DATASETS."""
    root: str
    settings: Mapping[str, Any]

    def open(self, task: str) -> Records[Any]:
        """Its truth of a task. DatasetError if it has none, or says which files are missing and where they are from."""
        if not Path(self.root).exists():
            raise DatasetError(f"There is no folder {self.root}.{missing_archive(self.reader, self.settings)}")
        try:
            return open_dataset(self.reader, task, root=self.root, **self.settings)
        except NoTruth:
            raise
        except DatasetError as error:
            raise DatasetError(f"{error}{missing_archive(self.reader, self.settings)}") from None


def set_named(text: str) -> NamedSet:
    """UserError for what names no reader and no folder."""
    if Path(text).is_dir():
        return NamedSet(text, "folder", text, {})
    name, colon, rest = text.partition(":")
    if not colon or name not in DATASETS:
        if colon and not Path(text).exists() and len(name) > 1:  # C: is a drive
            hint = meant(name, DATASETS, "take one of {known}.")
            raise UserError(f"{text}: there is no reader {name!r}: {hint}")
        name, rest = "folder", text
    root, *settings = rest.split(",")
    return NamedSet(text, name, str(Path(root).expanduser()), dict(_setting(text, each) for each in settings))


def _setting(text: str, assignment: str) -> tuple[str, Any]:
    """KEY=VALUE, the value as TOML reads it or, failing that, a text; of several with + between them a tuple."""
    key, equals, value = assignment.partition("=")
    if not equals or not key:
        raise UserError(f"{text}: {assignment!r} is no KEY=VALUE.")
    values = [_plain_value(part) for part in value.split("+")]
    return key, tuple(values) if len(values) > 1 else values[0]


def _plain_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except ValueError:
        return text


def feed_of(named: NamedSet, records: Records[Any], recipe: Recipe) -> Feed:
    """The set as it measures a recipe: whole pictures, nothing random; people in crops of the recipe's size."""
    if isinstance(records, People):
        records = records.at((recipe.resolution, round(recipe.resolution * recipe.aspect)))
    return feed(Config(), recipe, Source(named.root), records, Augmentation())
