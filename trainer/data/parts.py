"""Parts: which of a dataset's records are learnt and which are held out, where no dataset is named for that."""

from __future__ import annotations

import hashlib
import logging
from pathlib import PurePosixPath
from typing import Any

from .records import Records
from .truth import DatasetError

log = logging.getLogger(__name__)

BITS = 32


def split_off(records: Records[Any], share: float) -> tuple[Records[Any], Records[Any] | None]:
    """What is learnt and what is held out; None where share is 0.

    Pictures of one folder, such as a scene's, are never on both sides; where all lie in one, each stands for itself. A
    name decides alone: another picture more moves none from one side to the other. DatasetError if there is but one.
    """
    if not share:
        return records, None
    groups = _folders_of(records)
    if len(groups) < 2:
        raise DatasetError(
            f"{records.name} has one picture and cannot be parted by validation_share: name another dataset as "
            "[[validation]]."
        )
    drawn = sorted(groups, key=_place_of)
    chosen = [group for group in drawn if _place_of(group) < share * 2**BITS] or drawn[:1]
    chosen = chosen[:-1] if len(chosen) == len(groups) else chosen
    held_out = {index for group in chosen for index in groups[group]}
    log.warning("%s: %d of %d records are held out (validation_share)", records.name, len(held_out), len(records))
    return records.only(i for i in range(len(records)) if i not in held_out), records.only(sorted(held_out))


def _folders_of(records: Records[Any]) -> dict[str, list[int]]:
    """{the first folder in which names differ, or the picture itself: indices}"""
    names = [PurePosixPath(records.made_of(record).name).parts for record in records.records]
    depth = next((level for level, parts in enumerate(zip(*names)) if len(set(parts)) > 1), min(map(len, names)))
    groups: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        groups.setdefault("/".join(name[: depth + 1]), []).append(index)
    return groups


def _place_of(group: str) -> int:
    """A number below 2 ** BITS, the same every time."""
    return int.from_bytes(hashlib.blake2b(group.encode(), digest_size=BITS // 8).digest(), "big")
