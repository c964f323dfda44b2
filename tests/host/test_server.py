"""The server boots with the pack in it, and what the other tests of this folder stand on works."""

from __future__ import annotations

import numpy as np
import pytest
from comfyui_server import PACK, PACK_NAME, GraphRejected, Interrupted, NodeFailed, ServerDied, make_base
from inside_host import FailedInside
from PIL import Image

RED = 0xFF0000


def empty_image(width: int, height: int, batch_size: int = 1) -> dict:
    """A stock node that needs no weights."""
    inputs = {"width": width, "height": height, "batch_size": batch_size, "color": RED}
    return {"class_type": "EmptyImage", "inputs": inputs}


def saved_image(prefix: str, width: int = 24) -> dict:
    """A stock graph that saves one picture."""
    saving = {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": prefix}}
    return {"1": empty_image(width, 16), "2": saving}


def slow_chain(length: int) -> dict:
    """A stock graph of nodes that take a second or so each."""
    graph = {"0": empty_image(2048, 2048, 4)}
    for link in range(length):
        inputs = {"image": [str(link), 0], "upscale_method": "lanczos", "scale_by": 1.01}
        graph[str(link + 1)] = {"class_type": "ImageScaleBy", "inputs": inputs}
    return graph | {"end": {"class_type": "PreviewImage", "inputs": {"images": [str(length), 0]}}}


def pack_ids():
    import asyncio

    import diffusion_perception

    async def listed():
        return await (await diffusion_perception.comfy_entrypoint()).get_node_list()

    return {"ids": [node.GET_SCHEMA().node_id for node in asyncio.run(listed())]}


def test_the_server_boots_and_no_import_fails(comfyui):
    assert comfyui.alive
    assert "(IMPORT FAILED)" not in comfyui.log  # so ComfyUI says it of custom nodes; its own audio nodes may fail
    assert "Error while calling comfy_entrypoint" not in comfyui.log


def test_every_node_of_the_pack_is_listed(comfyui, inside_host):
    ids = inside_host(pack_ids)["ids"]
    info = comfyui.object_info()
    assert ids
    assert [node for node in ids if node not in info] == []
    assert {info[node]["python_module"] for node in ids} == {f"custom_nodes.{PACK_NAME}"}
    assert all(node.startswith("DiffusionPerception") for node in ids)


def test_a_stock_graph_executes(comfyui):
    result = comfyui.submit(saved_image("stock/red"))
    (file,) = result.files("2")
    picture = np.asarray(Image.open(file))
    assert file.parent == comfyui.output / "stock"
    assert picture.shape == (16, 24, 3)
    assert (picture == [255, 0, 0]).all()
    assert result.executed == ["1", "2"]


def test_an_unchanged_graph_executes_nothing_until_the_outputs_are_freed(comfyui):
    graph = saved_image("stock/again", width=32)
    first = comfyui.submit(graph)
    again = comfyui.submit(graph)
    comfyui.free()
    after_freeing = comfyui.submit(graph)
    assert first.executed == after_freeing.executed == ["1", "2"]
    assert again.executed == []
    assert again.cached == {"1", "2"}
    assert again.files("2") == first.files("2")


def test_a_refused_graph_says_why(comfyui):
    graph = {"1": empty_image(0, 16), "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}}
    with pytest.raises(GraphRejected, match="EmptyImage 1: Value 0 smaller than min") as refusal:
        comfyui.submit(graph)
    assert refusal.value.node_errors["1"]["errors"][0]["type"] == "value_smaller_than_min"


def test_an_unknown_node_is_refused(comfyui):
    with pytest.raises(GraphRejected, match="NoSuchNode"):
        comfyui.submit({"1": {"class_type": "NoSuchNode", "inputs": {}}})


def test_a_failing_node_says_why_and_the_server_lives(comfyui):
    (comfyui.input / "broken.png").write_bytes(b"no picture")
    loading = {"class_type": "LoadImage", "inputs": {"image": "broken.png"}}
    with pytest.raises(NodeFailed, match="cannot identify image file") as failure:
        comfyui.submit({"7": loading, "8": {"class_type": "PreviewImage", "inputs": {"images": ["7", 0]}}})
    assert (failure.value.node_id, failure.value.node_type) == ("7", "LoadImage")
    assert failure.value.exception_type == "PIL.UnidentifiedImageError"
    assert comfyui.alive


def test_a_run_can_be_interrupted_and_the_server_lives(comfyui):
    prompt_id = comfyui.start(slow_chain(8))
    comfyui.wait_for_event(prompt_id, "executing", "1")
    comfyui.interrupt(prompt_id)
    with pytest.raises(Interrupted):
        comfyui.wait(prompt_id)
    assert comfyui.alive


def test_a_server_that_cannot_boot_says_its_last_words(start_comfyui):
    with pytest.raises(ServerDied, match="unrecognized arguments: --no-such-flag"):
        start_comfyui("--no-such-flag")


def test_a_base_directory_can_be_made_twice_and_its_link_mended(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    make_base(tmp_path / "base", pack=elsewhere)
    for _ in range(2):
        base = make_base(tmp_path / "base")
        assert (base / "custom_nodes" / PACK_NAME).samefile(PACK)


def twice(values):
    return values * 2


def doubled(values, name, folder):
    import torch
    from comfy.model_management import get_torch_device

    device = get_torch_device()
    return {"doubled": twice(torch.from_numpy(values)), "name": name, "folder": folder, "device": device.type}


def test_a_function_runs_inside_the_host(inside_host, tmp_path):
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    result = inside_host(doubled, twice, values=values, name="x", folder=tmp_path)
    assert (result["doubled"] == values * 2).all()
    assert result["doubled"].dtype == np.float32
    assert (result["name"], result["folder"], result["device"]) == ("x", str(tmp_path), "cpu")


def executed_graph(graph):
    from host_process import execute

    executor = execute(graph)
    return {"success": executor.success, "outputs": executor.history_result["outputs"]}


def test_a_graph_runs_inside_the_host(inside_host):
    result = inside_host(executed_graph, graph=saved_image("inside"))
    assert result["success"]
    assert (inside_host.base / "output" / result["outputs"]["2"]["images"][0]["filename"]).is_file()


def failing():
    raise LookupError("nothing here")


def test_an_error_inside_the_host_comes_back(inside_host):
    with pytest.raises(FailedInside, match="nothing here") as failure:
        inside_host(failing)
    assert failure.value.exception_type == "LookupError"
    assert "in failing" in str(failure.value.__cause__)
