"""Colour, metric depth and temperature of what rays met."""

import numpy as np
from jaxtyping import Bool, Float

from imagebind_jax.inputs.world import materials
from imagebind_jax.inputs.world.geometry import EPS
from imagebind_jax.inputs.world.ray_casting import (
    FAR,
    FIRST_ITEM,
    FLOOR,
    SKY,
    Hits,
    cast_rays,
    light_visibility,
    nearest_hit,
    normals,
    rotate_yaw,
    to_local,
)
from imagebind_jax.inputs.world.scene import Camera, Scene


def render_depth(hits: Hits, camera: Camera, size: int) -> Float[np.ndarray, "h w"]:
    """Metres along the optical axis, at most FAR."""
    forward = camera.axes()[:, 2].astype(np.float32)
    axial = sum(f * d for f, d in zip(forward, hits.direction, strict=True))
    return np.minimum(hits.distance * axial, np.float32(FAR)).reshape(size, size)


def render_temperature(hits: Hits, scene: Scene, size: int) -> Float[np.ndarray, "h w"]:
    """Degrees Celsius as a thermal camera without blur or noise would read them."""
    ambient, point = scene.ambient, hits.point
    warmth = np.full(hits.distance.shape, ambient, np.float32)
    ground = hits.thing == FLOOR
    item = scene.items[0]
    if item.position[2] == 0:  # the floor takes some of the warmth of what stands on it
        near = np.exp(-(point[0, ground] ** 2 + point[1, ground] ** 2) / np.float32(0.5))
        warmth[ground] = scene.floor.temperature + 0.15 * near * (
            item.temperature - scene.floor.temperature
        )
    else:
        warmth[ground] = scene.floor.temperature
    for index, item in enumerate(scene.items):
        mine = hits.thing == FIRST_ITEM + index
        normal = normals(item, point[:, mine], hits.solid[mine])
        facing = np.abs((normal * hits.direction[:, mine]).sum(axis=0))
        # Surfaces seen at a slant emit less and mirror the surroundings more.
        emission = 0.80 + 0.20 * np.sqrt(facing)
        warmth[mine] = ambient + emission * (item.temperature - ambient)
    return warmth.reshape(size, size)


def render_color(
    hits: Hits, scene: Scene, camera: Camera, size: int, antialias: bool
) -> Float[np.ndarray, "h w 3"]:
    """Display-referred colour in 0..1; `antialias` casts four more rays where things meet."""
    image = _shade(hits, scene)
    if antialias:
        edge = np.flatnonzero(_edges(hits, size))
        corners = np.array([[-0.25, -0.25], [0.25, -0.25], [-0.25, 0.25], [0.25, 0.25]]).T
        pixels = (np.stack([edge % size, edge // size])[:, :, None] + corners[:, None]).reshape(
            2, -1
        )
        fine = _shade(cast_rays(scene, camera, size, pixels), scene)
        image[:, edge] = fine.reshape(3, -1, 4).mean(axis=-1)
    return np.sqrt(np.clip(image, 0, 1)).T.reshape(size, size, 3)


def _edges(hits: Hits, size: int) -> Bool[np.ndarray, " n"]:
    label = (hits.thing * 8 + hits.solid).reshape(size, size)
    edge = np.zeros((size, size), bool)
    for axis in (0, 1):
        differs = np.diff(label, axis=axis) != 0
        edge |= np.pad(differs, [(1, 0) if a == axis else (0, 0) for a in (0, 1)])
        edge |= np.pad(differs, [(0, 1) if a == axis else (0, 0) for a in (0, 1)])
    return edge.ravel()


def _shade(hits: Hits, scene: Scene, through: bool = True) -> Float[np.ndarray, "3 n"]:
    """Linear colour of what the rays meet."""
    point, seen = hits.point, hits.thing != SKY
    normal = np.zeros(point.shape, np.float32)
    base = np.zeros(point.shape, np.float32)
    gloss = np.zeros((4, point.shape[1]), np.float32)
    ground = hits.thing == FLOOR
    normal[2, ground] = 1
    base[:, ground] = _floor(scene, point[:, ground], hits.distance[ground])
    for index, item in enumerate(scene.items):
        mine = np.flatnonzero(hits.thing == FIRST_ITEM + index)
        if len(mine) == 0:
            continue
        normal[:, mine] = normals(item, point[:, mine], hits.solid[mine])
        base[:, mine] = materials.albedo(
            item.look, to_local(item, point[:, mine]), item.color, item.phase
        )
        gloss[:, mine] = np.array(materials.GLOSS[item.look], np.float32)[:, None]

    light = scene.light
    towards = np.array(light.direction, np.float32)[:, None]
    slant = np.maximum((normal * towards).sum(axis=0), 0)
    bright = np.flatnonzero(slant > 0)
    lamplight = np.zeros(slant.shape, np.float32)
    lamplight[bright] = light_visibility(
        scene, point[:, bright] + 30 * EPS * normal[:, bright], towards
    )
    lamp = np.array(light.color, np.float32)[:, None]
    glow = light.ambient * (0.65 + 0.35 * normal[2])
    glow = glow * _contact(scene, point, ground)
    image = base * (glow + slant * lamplight * lamp)

    shiny = np.flatnonzero(gloss[3] > 0)
    heading, facing = hits.direction[:, shiny], normal[:, shiny]
    cosine = -(heading * facing).sum(axis=0)
    mirror = heading + 2 * cosine * facing
    strength, exponent, straight, grazing = gloss[:, shiny]
    spot = np.maximum((mirror * towards).sum(axis=0), 0) ** exponent
    fresnel = straight + (grazing - straight) * (1 - np.clip(cosine, 0, 1)) ** 3
    behind = image[:, shiny]
    clear = [k for k, item in enumerate(scene.items) if item.look == "glass"] if through else []
    for index in clear:
        pane = hits.thing[shiny] == FIRST_ITEM + index
        rays = heading[:, pane] - np.float32(0.10) * facing[:, pane]  # bent a little
        rays = rays / np.sqrt((rays * rays).sum(axis=0))
        beyond = Hits(hits.origin, rays, *nearest_hit(scene, hits.origin, rays, skip=index))
        tint = np.array([[0.40], [0.85], [0.58]], np.float32)
        behind[:, pane] = 0.35 * behind[:, pane] + tint * _shade(beyond, scene, through=False)
    image[:, shiny] = (
        behind * (1 - fresnel)
        + fresnel * _surroundings(scene, mirror)
        + strength * spot * lamplight[shiny] * lamp
    )
    sky = np.flatnonzero(~seen)
    image[:, sky] = _surroundings(scene, hits.direction[:, sky])
    return image


def _floor(scene: Scene, point, distance) -> Float[np.ndarray, "3 n"]:
    floor = scene.floor
    x, y, _ = rotate_yaw(point, floor.yaw, 1 / floor.tile)
    odd = (np.floor(x) + np.floor(y)) % 2
    blur = np.clip(distance / 12, 0, 1)  # tiles finer than pixels would flicker
    mix = odd + (0.5 - odd) * blur
    one, two = (np.array(c, np.float32)[:, None] ** 2 for c in floor.colors)
    image = one + (two - one) * mix
    haze = np.clip(distance / 40, 0, 1)
    return image + (np.array(scene.light.horizon, np.float32)[:, None] ** 2 - image) * haze


def _contact(scene: Scene, point, ground) -> Float[np.ndarray, " n"]:
    """The corner between a thing and the floor gets less of the glow."""
    glow = np.ones(point.shape[1], np.float32)
    raised = scene.items[0].position[2] > 0  # on a pedestal, which comes next
    for item in scene.items[1:2] if raised else scene.items[: scene.objects]:
        reach = np.float32(0.55 * item.scale)
        x, y = np.array(item.position[:2], np.float32)
        near = ((point[0] - x) ** 2 + (point[1] - y) ** 2) / (reach * reach)
        glow *= 1 - np.where(ground, 0.6 * np.exp(-near), 0).astype(np.float32)
    return glow


def _surroundings(scene: Scene, direction) -> Float[np.ndarray, "3 n"]:
    """The backdrop in a direction: horizon to zenith, and the floor's colour below."""
    light = scene.light
    horizon = np.array(light.horizon, np.float32)[:, None] ** 2
    zenith = np.array(light.zenith, np.float32)[:, None] ** 2
    floor = np.array(scene.floor.colors, np.float32).mean(axis=0)[:, None] ** 2
    up = np.clip(direction[2] * 1.6, 0, 1)
    below = np.clip(-direction[2] * 6, 0, 1)
    return horizon + (zenith - horizon) * up + (0.7 * floor - horizon) * below
