"""Whatever comes into a map input, a node does its work or says in one sentence what it wants, and what to connect."""

from __future__ import annotations

from typing import Any

import pytest

READERS = {
    "depth": "Render Depth",
    "disparity": "Render Depth",
    "normal": "Render Normal",
    "segmentation": "Render Segmentation",
    "keypoints": "Render Skeleton",
}
"""The node that each map is sent to where it is wrong."""
TAKES = {
    "DepthToImage": {"depth", "disparity"},
    "NormalToImage": {"normal"},
    "SegmentationToImage": {"segmentation"},
    "MaskFromMap": {"depth", "disparity", "mask", "matte", "segmentation"},
    "MatteCutout": {"mask", "matte"},
    "PoseFromMap": {"keypoints"},
    "DepthToNormal": {"depth", "disparity"},
    "CombineNormals": {"normal"},
    "RotateNormals": {"normal"},
    "Relight": {"normal"},
    "Fog": {"depth", "disparity"},
    "FocusMask": {"depth", "disparity"},
    "RefineMask": {"mask", "matte"},
    "SaveMap": None,
    "PreviewMap": None,
    "DepthToMesh": {"depth", "disparity"},
}
"""The maps that each node takes; None: all."""


def tried() -> dict[str, Any]:
    """Under `found` {node: {what came: "" or what was said}}, under `noted` the same of what was noted."""
    import inspect

    import torch

    from diffusion_perception.core.perception_map import Convention, PerceptionMap
    from diffusion_perception.core.skeletons import SKELETONS
    from diffusion_perception.core.tasks import TASKS
    from diffusion_perception.nodes import compare, composite, haze, normals, notes, pose, refine, relight, render, save

    sizes = {"normal": 3, "segmentation": 3, "albedo": 3, "shading": 3, "residual": 3, "irradiance": 3}
    conventions = {
        "depth": Convention(near="low"),
        "disparity": Convention(near="high"),
        "normal": Convention(axes=("right", "up", "back")),
        "segmentation": Convention(palette="rooms"),
        "keypoints": Convention(skeleton=SKELETONS["coco-17"]),
    }
    channels = {"keypoints": 17}

    def made(task: str, count: int = 1) -> PerceptionMap:
        values = torch.rand(count, 24, 32, channels.get(task, sizes.get(task, 1)))
        return PerceptionMap(task, values, conventions.get(task, Convention()))

    given = {task: made(task) for task in TASKS}
    given |= {f"empty {task}": made(task, 0) for task in TASKS}
    photo = torch.rand(1, 24, 32, 3, generator=torch.Generator().manual_seed(1))
    given |= {
        "nothing": None,
        "photo": photo,
        "gray": photo[..., :1].expand(-1, -1, -1, 3),
        "mask of it": photo[..., 0],
    }
    given |= {
        "empty image": photo[:0],
        "nan image": torch.full((1, 24, 32, 3), torch.nan),
        "rgba": torch.rand(1, 24, 32, 4),
    }
    given |= {"two channels": torch.rand(1, 24, 32, 2)}

    def defaults(node) -> dict:
        schema = node.define_schema()
        held = {each.id: getattr(each, "default", None) for each in schema.inputs if hasattr(each, "default")}
        wanted = inspect.signature(node.execute).parameters
        more = {"classes": "1"} if "classes" in held else {}
        more |= {"detail": given["normal"]} if "detail" in wanted.keys() - held else {}
        more |= {"image": torch.rand(1, 24, 32, 3)} if "image" in wanted else {}
        return {key: value for key, value in held.items() if value is not None and key in wanted} | more

    def run(node, map) -> tuple[str, str]:
        noted = []
        heard, notes.host.say = notes.host.say, noted.append
        try:
            node.execute(map=map, **defaults(node))
            return "", " ".join(noted)
        except ValueError as error:
            return str(error), " ".join(noted)
        except Exception as error:  # noqa: BLE001 what no person should see
            return f"RAW {type(error).__name__}: {error}", ""
        finally:
            notes.host.say = heard

    found, noted = {}, {}
    modules = (render, normals, relight, haze, refine, composite)
    nodes = [node for module in modules for node in module.NODES]
    for node in (*nodes, pose.PoseFromMap, save.SaveMap, save.DepthToMesh, compare.PreviewMap):
        name = node.__name__
        images = name != "PoseFromMap"  # whose socket takes none
        came = {what: map for what, map in given.items() if images or not isinstance(map, torch.Tensor)}
        answers = {what: run(node, map) for what, map in came.items()}
        found[name] = {what: said for what, (said, _) in answers.items()}
        noted[name] = {what: words for what, (_, words) in answers.items()}
    return {"tasks": list(TASKS), "found": found, "noted": noted}


@pytest.fixture(scope="module")
def answers(inside_host):
    return inside_host(tried)


def test_no_raw_error_and_no_second_line_comes_of_anything(answers):
    raw = {
        f"{node} of {what}": said
        for node, row in answers["found"].items()
        for what, said in row.items()
        if said.startswith("RAW") or "\n" in said
    }
    assert raw == {}
    assert len(answers["found"]) == len(TAKES)


@pytest.mark.parametrize("node", TAKES)
def test_a_map_that_a_node_takes_is_taken_and_another_is_sent_to_the_node_that_reads_it(answers, node):
    taken = TAKES[node] if TAKES[node] is not None else set(answers["tasks"])
    for task in answers["tasks"]:
        said = answers["found"][node][task]
        if task in taken:
            assert said == "", task
            continue
        assert said.startswith(f"A map of {task} came where one of "), task
        assert f"connect it to {READERS[task]}" in said if task in READERS else said.endswith("Load Perception Model.")


@pytest.mark.parametrize("node", TAKES)
def test_nothing_and_emptiness_are_told_what_to_do(answers, node):
    found = answers["found"][node]
    assert found["nothing"].startswith("No map came")
    for task in TAKES[node] or answers["tasks"]:
        assert "empty" in found[f"empty {task}"], task
    if "empty image" in found:
        assert found["empty image"].startswith("The image is empty")
        assert "NaN or infinite" in found["nan image"]
        assert "expected pictures of 1, 3 or 4 channels" in found["two channels"]


DOUBTED = {
    "DepthToImage": "is gray: connect a photo to Perceive",
    "RotateNormals": "does not look like normals: connect a photo to Perceive",
    "Relight": "does not look like normals: connect a photo to Perceive",
    "NormalToImage": "does not look like normals: connect a photo to Perceive",
    "SegmentationToImage": "none of the palette ade20k: connect a photo to Perceive",
    "MaskFromMap": "is gray: connect a photo to Perceive",
    "MatteCutout": "is gray: connect a photo to Perceive",
    "DepthToMesh": "is gray: connect a photo to Perceive",
}


@pytest.mark.parametrize("node", DOUBTED)
def test_a_photo_in_place_of_a_map_is_doubted(answers, node):
    assert answers["found"][node]["photo"] == ""
    assert DOUBTED[node] in answers["noted"][node]["photo"]
    for what in ("gray", "mask of it"):
        assert "gray: connect" not in answers["noted"][node][what]
