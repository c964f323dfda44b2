"""What Blender's own interpreter runs: `python blender_script.py FOLDER` renders the job in FOLDER.

It stands alone: only bpy and numpy are there. Maps that must be exact (depth, normal, object) come from a pass of their
own, one sample at pixel centres without a lens; alpha from another in which all but the subjects is held out.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import bpy  # type: ignore
import numpy as np
from mathutils import Matrix  # type: ignore

UP = np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]], float)
"""From y up to Blender's z up."""


def main(folder: Path) -> None:
    job = json.loads((folder / "job.json").read_text())
    bpy.ops.wm.read_factory_settings(use_empty=True)
    scene = bpy.context.scene
    build(scene, job, folder)
    settle(scene, job)
    for view in job["views"]:
        arrays = render(scene, job, view, folder)
        partial = folder / f"partial{view['number']:03d}.npz"
        np.savez(partial, **arrays)  # type: ignore
        os.replace(partial, folder / f"view{view['number']:03d}.npz")


def build(scene: Any, job: dict[str, Any], folder: Path) -> None:
    """Objects, light and camera."""
    materials: dict[str, Any] = {}
    with np.load(folder / "meshes.npz") as meshes:
        for number, entry in enumerate(job["objects"]):
            mesh = _make_mesh(
                f"object{number}", *(meshes[f"{k}{number}"] for k in ("positions", "normals", "uv", "faces"))
            )
            thing = bpy.data.objects.new(mesh.name, mesh)
            scene.collection.objects.link(thing)
            thing.pass_index = number + 1
            key = json.dumps([entry["look"], entry.get("emission")], sort_keys=True)
            if key not in materials:
                materials[key] = _make_material(entry["look"], entry.get("emission"))
            mesh.materials.append(materials[key])
            if entry.get("hair"):
                _grow_hair(thing, entry["hair"], entry["look"]["colour"])
    _make_world(scene, job)
    camera = bpy.data.objects.new("camera", bpy.data.cameras.new("camera"))
    scene.collection.objects.link(camera)
    scene.camera = camera


def _make_mesh(name: str, positions: np.ndarray, normals: np.ndarray, uv: np.ndarray, faces: np.ndarray) -> Any:
    mesh = bpy.data.meshes.new(name)
    mesh.from_pydata((positions @ UP.T).tolist(), [], faces.astype(int).tolist())
    layer = mesh.uv_layers.new(name="uv")
    layer.data.foreach_set("uv", np.ascontiguousarray(uv[faces.ravel().astype(int)], np.float32).ravel())
    mesh.polygons.foreach_set("use_smooth", np.ones(len(mesh.polygons), bool))
    mesh.validate()
    if len(mesh.vertices) == len(normals):
        mesh.normals_split_custom_set_from_vertices((normals @ UP.T).tolist())
    return mesh


def _make_material(look: dict[str, Any], emission: list[float] | None) -> Any:
    material = bpy.data.materials.new("material")
    material.use_nodes = True
    nodes, links = material.node_tree.nodes, material.node_tree.links
    surface = nodes["Principled BSDF"]
    surface.inputs["Base Color"].default_value = (*(linear(value) for value in look["colour"]), 1)
    surface.inputs["Roughness"].default_value = 0.75 - 0.55 * look["gloss"]
    surface.inputs["Specular IOR Level"].default_value = 0.1 + 0.5 * look["gloss"]
    if look["texture"]:
        picture = nodes.new("ShaderNodeTexImage")
        picture.image = bpy.data.images.load(look["texture"], check_existing=True)
        links.new(picture.outputs["Color"], surface.inputs["Base Color"])
        if look["cutout"]:
            alpha = nodes.new("ShaderNodeTexImage")
            alpha.image = bpy.data.images.load(look["cutout"], check_existing=True)
            if alpha.image.depth in (32, 64, 128):
                links.new(alpha.outputs["Alpha"], surface.inputs["Alpha"])
    if look["glass"]:
        surface.inputs["Base Color"].default_value = (0.95, 0.97, 0.97, 1)
        surface.inputs["Transmission Weight"].default_value = 1.0
        surface.inputs["Roughness"].default_value = 0.0
        surface.inputs["IOR"].default_value = 1.45
    if emission:
        surface.inputs["Emission Color"].default_value = (*(value / max(emission) for value in emission), 1)
        surface.inputs["Emission Strength"].default_value = max(emission)
    return material


def linear(value: float) -> float:
    """sRGB to linear light."""
    return value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4


def _grow_hair(thing: Any, style: dict[str, float], colour: list[float]) -> None:
    """Strands on a scalp, drawn down by their weight."""
    strand = bpy.data.materials.new("hair")
    strand.use_nodes = True
    nodes = strand.node_tree.nodes
    shader = nodes.new("ShaderNodeBsdfHairPrincipled")
    shader.parametrization = "COLOR"
    shader.inputs["Color"].default_value = (*(linear(value) for value in colour), 1)
    strand.node_tree.links.new(shader.outputs[0], nodes["Material Output"].inputs["Surface"])
    thing.data.materials.append(strand)
    modifier = thing.modifiers.new("hair", "PARTICLE_SYSTEM")
    system = modifier.particle_system
    system.seed = int(style["seed"])
    hair = system.settings
    hair.type = "HAIR"
    hair.count = 5000
    hair.hair_step = 5
    hair.render_step = 4
    hair.display_step = 4
    hair.use_advanced_hair = True
    hair.emit_from = "FACE"
    hair.normal_factor = style["length"] * 0.12
    hair.object_align_factor = (0.0, 0.0, -style["length"] * 0.2)
    hair.brownian_factor = style["wild"]
    hair.hair_length = style["length"]
    hair.root_radius = 0.6
    hair.tip_radius = 0.05
    hair.radius_scale = 0.0012
    hair.material = 2


def _make_world(scene: Any, job: dict[str, Any]) -> None:
    world = bpy.data.worlds.new("world")
    scene.world = world
    world.use_nodes = True
    nodes, links = world.node_tree.nodes, world.node_tree.links
    picture = nodes.new("ShaderNodeTexEnvironment")
    picture.image = bpy.data.images.load(job["environment"])
    place = nodes.new("ShaderNodeMapping")
    place.inputs["Rotation"].default_value = (0, 0, job["environment_yaw"])
    where = nodes.new("ShaderNodeTexCoord")
    links.new(where.outputs["Generated"], place.inputs["Vector"])
    links.new(place.outputs["Vector"], picture.inputs["Vector"])
    links.new(picture.outputs["Color"], nodes["Background"].inputs["Color"])
    nodes["Background"].inputs["Strength"].default_value = job["environment_gain"]
    # the importance map of the sky would take longer than the picture
    world.cycles.sampling_method = "MANUAL"
    world.cycles.sample_map_resolution = 256


def settle(scene: Any, job: dict[str, Any]) -> None:
    """Engine and passes that do not change from view to view."""
    scene.render.engine = "CYCLES"
    scene.cycles.device = "CPU"
    scene.cycles.use_denoising = True
    scene.cycles.denoiser = "OPENIMAGEDENOISE"
    scene.cycles.use_adaptive_sampling = False
    scene.cycles.max_bounces = 8
    scene.cycles.sample_clamp_indirect = 8.0
    scene.cycles_curves.shape = "RIBBONS"
    scene.render.resolution_x, scene.render.resolution_y = job["size"]
    scene.render.resolution_percentage = 100
    scene.render.use_persistent_data = True
    scene.view_settings.view_transform = "Raw"
    layer = scene.view_layers[0]
    layer.use_pass_z = layer.use_pass_normal = layer.use_pass_object_index = layer.use_pass_diffuse_color = True


def render(scene: Any, job: dict[str, Any], view: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The arrays of one view, in the axes of the job."""
    _aim(scene, view)
    focus = _set_lens(scene, view, job)
    cycles = scene.cycles
    cycles.seed = view["number"]
    cycles.samples, cycles.use_denoising, cycles.max_bounces, cycles.filter_width = job["samples"], True, 8, 1.0
    light = passes(scene, folder, {"image": "Image", "albedo": "DiffCol"})
    matte = _coverage(scene, job, folder)
    scene.camera.data.dof.use_dof = False
    cycles.samples, cycles.use_denoising, cycles.max_bounces, cycles.filter_width = 1, False, 0, 0.01
    truth = passes(scene, folder, {"depth": "Depth", "normal": "Normal", "index": "IndexOB"})
    return {
        "image": light["image"][..., :3],
        "albedo": light["albedo"][..., :3],
        "depth": truth["depth"][..., 0],
        "normal": truth["normal"][..., :3] @ UP,
        "index": truth["index"][..., 0],
        "matte": matte,
        "focus": np.float32(focus),
    }


def _aim(scene: Any, view: dict[str, Any]) -> None:
    pose = np.array(view["pose"])
    turned = np.eye(4)
    turned[:3, :3] = UP @ pose[:3, :3] @ np.diag([1, -1, -1])  # Blender's camera looks along -z with +y up
    turned[:3, 3] = UP @ pose[:3, 3]
    scene.camera.matrix_world = Matrix(turned.tolist())
    lens = scene.camera.data
    lens.sensor_fit = "HORIZONTAL"
    lens.angle = float(np.radians(view["fov_deg"]))
    lens.clip_start, lens.clip_end = 0.01, 1000.0
    bpy.context.view_layer.update()


def _set_lens(scene: Any, view: dict[str, Any], job: dict[str, Any]) -> float:
    """Focus on a subject if one is in the picture, else on the middle; 0 where all is sharp."""
    dof = scene.camera.data.dof
    dof.use_dof = view["lens"] is not None
    if view["lens"] is None:
        return 0.0
    graph = bpy.context.evaluated_depsgraph_get()
    world = np.array(scene.camera.matrix_world)
    spread = np.tan(np.radians(view["fov_deg"]) / 2)
    subjects, middle = [], 3.0
    for x in np.linspace(-0.8, 0.8, 17):
        for y in np.linspace(-0.8, 0.8, 17):
            direction = world[:3, :3] @ np.array([x * spread, y * spread * job["size"][1] / job["size"][0], -1.0])
            hit, point, _, _, thing, _ = scene.ray_cast(graph, world[:3, 3].tolist(), direction.tolist())
            if hit:
                z = float((world[:3, 3] - np.array(point)) @ world[:3, 2])
                if job["objects"][thing.pass_index - 1]["subject"]:
                    subjects.append(z)
                if abs(x) + abs(y) < 1e-6:
                    middle = z
    dof.focus_distance = float(np.median(subjects)) if len(subjects) > 3 else middle
    dof.aperture_fstop = view["lens"]["f_number"]
    return dof.focus_distance


def _coverage(scene: Any, job: dict[str, Any], folder: Path) -> np.ndarray:
    """Alpha of the subjects as the lens sees them, hair by hair."""
    things = [thing for thing in scene.objects if thing.type == "MESH"]
    subjects = [thing for thing in things if job["objects"][thing.pass_index - 1]["subject"]]
    if not subjects:
        return np.zeros(job["size"][::-1], np.float32)
    held = [thing for thing in things if thing not in subjects]
    cycles = scene.cycles
    cycles.samples, cycles.use_denoising, cycles.max_bounces = job["matte_samples"], False, 0
    scene.render.film_transparent = True
    for thing in held:
        thing.is_holdout = True
    alpha = passes(scene, folder, {"alpha": "Alpha"})["alpha"][..., 0]
    for thing in held:
        thing.is_holdout = False
    scene.render.film_transparent = False
    return alpha


def passes(scene: Any, folder: Path, wanted: dict[str, str]) -> dict[str, np.ndarray]:
    """Render and read the wanted passes as arrays (H, W, C), first row on top."""
    scene.use_nodes = True
    tree = scene.node_tree
    tree.nodes.clear()
    layers, out = tree.nodes.new("CompositorNodeRLayers"), tree.nodes.new("CompositorNodeOutputFile")
    out.base_path = str(folder)
    out.format.file_format = "OPEN_EXR"
    out.format.color_mode, out.format.color_depth = "RGBA", "32"
    out.file_slots.clear()
    for name, source in wanted.items():
        out.file_slots.new(f"pass-{name}-")
        tree.links.new(layers.outputs[source], out.inputs[-1])
    bpy.ops.render.render(write_still=False)
    return {name: _read_picture(next(folder.glob(f"pass-{name}-*.exr"))) for name in wanted}


def _read_picture(path: Path) -> np.ndarray:
    picture = bpy.data.images.load(str(path))
    picture.colorspace_settings.name = "Non-Color"
    width, height = picture.size
    values = np.empty(width * height * picture.channels, np.float32)
    picture.pixels.foreach_get(values)
    channels = picture.channels
    bpy.data.images.remove(picture)
    path.unlink()
    return values.reshape(height, width, channels)[::-1]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
