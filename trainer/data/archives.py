"""Archives: where the published sets are had, how large they are, and how many pictures they hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MARIGOLD = "https://share.phys.ethz.ch/~pf/bingkedata/marigold/evaluation_dataset"
MARIGOLD_TRAINING = "https://share.phys.ethz.ch/~pf/bingkedata/marigold/marigold_normals"
MARIGOLD_NORMALS = f"{MARIGOLD_TRAINING}/evaluation_dataset.zip"


PARTS = ("list", "scenes", "names")
"""Settings of readers that choose some of a set."""


@dataclass(frozen=True)
class Archive:
    """One published set."""

    file: str
    """What is to be fetched and unpacked."""
    address: str
    size: str = ""
    """In words, where it is known."""
    count: int = 0
    """Pictures with truth in it, where one number is published."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """The same by split; the first one is what is read where none is named."""

    def of(self, settings: Mapping[str, Any]) -> int:
        """How many pictures these settings of its reader should find; 0 where nobody has said it, or a part is asked
        for."""
        if any(settings.get(name) for name in PARTS):
            return 0
        if not self.counts:
            return self.count
        return self.counts.get(str(settings.get("split") or next(iter(self.counts))), 0)

    def said(self) -> str:
        """A sentence on where it is had."""
        return f"Get {self.file}{f' ({self.size})' if self.size else ''} from {self.address} and unpack it there."


ARCHIVES: dict[str, Archive] = {
    "nyuv2": Archive("nyu_labeled_extracted.tar", f"{MARIGOLD}/nyuv2", "about 1 GB", 654),
    "kitti": Archive("kitti_eigen_split_test.tar", f"{MARIGOLD}/kitti", "about 0.7 GB", 652),
    "eth3d": Archive("eth3d.tar", f"{MARIGOLD}/eth3d", "about 13 GB", 454),
    "scannet": Archive("scannet_val_sampled_800_1.tar", f"{MARIGOLD}/scannet", "about 0.1 GB", 800),
    "diode": Archive("diode_val.tar", f"{MARIGOLD}/diode", "about 3 GB", 771),
    "dsine": Archive("dsine_eval.zip", "https://github.com/baegwangbin/DSINE (its README has the link)", "about 22 GB"),
    "marigold-normals": Archive("evaluation_dataset.zip", MARIGOLD_NORMALS),
    "sintel-normals": Archive("sintel.zip", f"{MARIGOLD_TRAINING}/sintel.zip"),
    "framenet": Archive(
        "scannet-frames, a zip a scene", "https://github.com/hjwdzh/FrameNet (src/data/download.sh has the links)"
    ),
    "nyu-normals": Archive(
        "nyu_normals_gt.zip and nyu_depth_v2_labeled.mat",
        "https://www.inf.ethz.ch/personal/ladickyl and https://cs.nyu.edu/~silberman/datasets/nyu_depth_v2.html",
        "the pictures 2.8 GB",
        counts={"test": 654, "train": 795},
    ),
    "dis5k": Archive(
        "DIS5K.zip",
        "https://github.com/xuebinqin/DIS (its README has the link)",
        counts={"DIS-TR": 3000, "DIS-VD": 470, **dict.fromkeys(("DIS-TE1", "DIS-TE2", "DIS-TE3", "DIS-TE4"), 500)},
    ),
    "p3m10k": Archive(
        "P3M-10k.zip",
        "https://github.com/JizhiziLi/P3M (its README has the link)",
        counts={"train": 9421, "P3M-500-P": 500, "P3M-500-NP": 500},
    ),
    "aim500": Archive("AIM-500.zip", "https://github.com/JizhiziLi/AIM (its README has the link)", count=500),
    "ade20k": Archive(
        "ADEChallengeData2016.zip",
        "http://data.csail.mit.edu/places/ADEchallenge",
        "about 1 GB",
        counts={"validation": 2000, "training": 20210},
    ),
    "interiorverse": Archive("scenes_85", "https://interiorverse.github.io (after a request)"),
    "iiw": Archive("iiw-dataset.zip", "http://opensurfaces.cs.cornell.edu/publications/intrinsic", count=5230),
    "coco-keypoints": Archive(
        "val2017.zip and annotations_trainval2017.zip", "https://cocodataset.org/#download", "1 GB and 241 MB"
    ),
    "hypersim": Archive("ai_*.zip", "https://github.com/apple/ml-hypersim", "1.9 TB in all, a file a scene"),
    "vkitti": Archive(
        "vkitti_2.0.3_rgb.tar and vkitti_2.0.3_depth.tar", "https://europe.naverlabs.com (virtual-kitti-2)"
    ),
}
"""By reader, rows of trainer.data.published.DATASETS."""


def missing_archive(reader: str, settings: Mapping[str, Any]) -> str:
    """What a person is told besides, of a set that is not there or not whole; nothing of a set of their own."""
    if reader not in ARCHIVES:
        return ""
    count = ARCHIVES[reader].of(settings)
    return f" {ARCHIVES[reader].said()}{f' It holds {count} pictures with truth.' if count else ''}"


def lacking(reader: str, settings: Mapping[str, Any], found: int) -> str:
    """A sentence on a set that has another number of pictures than was published; empty if it has not."""
    published = ARCHIVES[reader].of(settings) if reader in ARCHIVES else 0
    if not published or found == published:
        return ""
    return f"{found} of {published} published pictures are there.{missing_archive(reader, settings)}"
