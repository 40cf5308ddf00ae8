"""A picture of a map with its grid: for checking by eye what the robots can reach."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from marlgpt_policy.grid.geometry import rotate
from marlgpt_policy.grid.nav_grid import NavGrid
from marlgpt_policy.grid.occupancy_map import OccupancyMap

LONGEST_SIDE = 1600
"""Pixels of the finished picture, aimed at; the map is enlarged by a whole number."""

COLOURS = {
    "floor": (250, 250, 247),
    "unknown": (214, 218, 224),
    "wall": (38, 43, 51),
    "main": (31, 119, 180),
    "isolated": (235, 120, 30),
    "robot": (26, 152, 80),
    "goal": (190, 30, 110),
    "text": (40, 44, 52),
    "frame": (170, 176, 184),
}


def draw_grid(
    occupancy_map: OccupancyMap,
    grid: NavGrid,
    path: str | Path,
    robots: np.ndarray | None = None,
    goals: np.ndarray | None = None,
    radii: Sequence[float] | None = None,
    names: Sequence[str] | None = None,
) -> None:
    """Write a PNG of the map, the grid's cells and edges, and optionally robots and their goals.

    Args:
        occupancy_map: the map; drawn along its own pixel axes.
        grid: the grid; its largest component is blue, cut-off cells are orange.
        path: the PNG to write.
        robots: float[n, 2] or float[n, 3], positions (x, y) in m and, if given, yaw in rad; map frame.
        goals: float[m, 2], positions in m, map frame; goal i is joined to robot i by a thin line.
        radii: of each robot, m; by default all are drawn in the size that fits the cells.
        names: of each robot, written beside it.

    Raises:
        ValueError: if robots, goals, radii or names have another shape.
        OSError: if the file cannot be written.
    """
    robots = _points(robots, "robots", (2, 3))
    goals = _points(goals, "goals", (2,))
    for key, values in (("radii", radii), ("names", names)):
        if values is not None and len(values) != len(robots):
            raise ValueError(f"{key} are {len(values)}, robots {len(robots)}")
    height, width = occupancy_map.shape
    crop = _interesting(occupancy_map, grid)
    enlarge = max(1, min(10, LONGEST_SIDE // max(crop[2] - crop[0], crop[3] - crop[1])))
    smooth = 2 if enlarge > 1 else 1  # drawn larger, then reduced: smooth lines
    canvas = _base(occupancy_map, enlarge * smooth, crop)
    draw = ImageDraw.Draw(canvas)
    scale = enlarge * smooth / occupancy_map.resolution

    def pixel(xy: np.ndarray) -> np.ndarray:
        local = rotate(np.asarray(xy)[..., :2] - occupancy_map.origin[:2], -occupancy_map.origin[2])
        flipped = np.stack([local[..., 0], height * occupancy_map.resolution - local[..., 1]], axis=-1)
        return flipped * scale - np.array(crop[:2]) * enlarge * smooth

    _draw_cells(draw, grid, pixel, scale)
    radii = [0.34 * grid.cell_size] * len(robots) if radii is None else radii
    _draw_agents(draw, grid, pixel, scale, robots, goals, radii)
    _draw_names(draw, grid, pixel, scale, robots, radii, names or ())
    if smooth > 1:
        canvas = canvas.resize((canvas.width // smooth, canvas.height // smooth), Image.Resampling.LANCZOS)
    counts = (len(robots), len(goals))
    _with_legend(canvas, grid, counts, enlarge / occupancy_map.resolution).save(
        path, format="PNG", pnginfo=_signature()
    )


def _signature() -> PngInfo:
    """Says which program drew a picture, by which commands know that they may draw it anew."""
    info = PngInfo()
    info.add_text("Software", "marlgpt")
    return info


def _points(values: np.ndarray | None, name: str, widths: tuple[int, ...]) -> np.ndarray:
    if values is None:
        return np.zeros((0, widths[0]))
    points = np.asarray(values, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] not in widths:
        raise ValueError(
            f"{name} must be float[n, {' or '.join(map(str, widths))}], got {list(points.shape)}"
        )
    return points


def _interesting(occupancy_map: OccupancyMap, grid: NavGrid) -> tuple[int, int, int, int]:
    """Return left, top, right, bottom in image pixels around everything that is not unknown."""
    known = ~occupancy_map.unknown[::-1]
    if not known.any():
        return 0, 0, known.shape[1], known.shape[0]
    rows, columns = np.flatnonzero(known.any(axis=1)), np.flatnonzero(known.any(axis=0))
    border = max(4, int(0.5 * grid.cell_size / occupancy_map.resolution))
    return (
        max(0, int(columns[0]) - border),
        max(0, int(rows[0]) - border),
        min(known.shape[1], int(columns[-1]) + 1 + border),
        min(known.shape[0], int(rows[-1]) + 1 + border),
    )


def _base(occupancy_map: OccupancyMap, enlarge: int, crop: tuple[int, int, int, int]) -> Image.Image:
    colours = np.full((*occupancy_map.shape, 3), COLOURS["floor"], dtype=np.uint8)
    colours[occupancy_map.unknown] = COLOURS["unknown"]
    colours[occupancy_map.occupied] = COLOURS["wall"]
    image = Image.fromarray(np.ascontiguousarray(colours[::-1])).crop(crop)
    return image.resize((image.width * enlarge, image.height * enlarge), Image.Resampling.NEAREST)


def _mixed(colour: tuple[int, int, int], share: float) -> tuple[int, ...]:
    """Return the colour laid over the floor with the given opacity."""
    return tuple(round(share * c + (1 - share) * f) for c, f in zip(colour, COLOURS["floor"], strict=True))


def _draw_cells(draw: ImageDraw.ImageDraw, grid: NavGrid, pixel, scale: float) -> None:
    dot = max(1.5, 0.11 * grid.cell_size * scale)
    line = max(1, round(0.06 * grid.cell_size * scale))
    colour = {cell: COLOURS["main" if grid.components[cell] == 0 else "isolated"] for cell in _cells(grid)}
    at = {cell: pixel(grid.centre(np.array(cell))) for cell in colour}
    for (r, c), middle in at.items():
        for move, near in ((2, (r + 1, c)), (4, (r, c + 1))):
            if grid.moves[r, c, move]:
                draw.line([*middle, *at[near]], fill=_mixed(colour[r, c], 0.45), width=line)
    for cell, middle in at.items():
        draw.ellipse([*(middle - dot), *(middle + dot)], fill=colour[cell])


def _cells(grid: NavGrid) -> list[tuple[int, int]]:
    return [(int(r), int(c)) for r, c in np.argwhere(grid.free)]


def _draw_agents(
    draw: ImageDraw.ImageDraw,
    grid: NavGrid,
    pixel,
    scale: float,
    robots: np.ndarray,
    goals: np.ndarray,
    radii: Sequence[float],
) -> None:
    size = 0.34 * grid.cell_size * scale
    line = max(1, round(0.07 * grid.cell_size * scale))
    robots_at, goals_at = pixel(robots), pixel(goals)
    for start, end in zip(robots_at, goals_at, strict=False):
        draw.line([*start, *end], fill=_mixed(COLOURS["goal"], 0.35), width=max(1, line // 2))
    for middle in goals_at:
        draw.rectangle([*(middle - 0.8 * size), *(middle + 0.8 * size)], outline=COLOURS["goal"], width=line)
    for robot, middle, radius in zip(robots, robots_at, radii, strict=True):
        size = radius * scale
        box = [*(middle - size), *(middle + size)]
        draw.ellipse(box, fill=COLOURS["robot"], outline=(255, 255, 255), width=max(1, line // 2))
        if len(robot) == 3:
            nose = pixel(robot[:2] + rotate(np.array([size / scale, 0.0]), robot[2]))
            draw.line([*middle, *nose], fill=(255, 255, 255), width=line)


def _draw_names(
    draw: ImageDraw.ImageDraw, grid: NavGrid, pixel, scale: float, robots: np.ndarray, radii: Sequence[float],
    names: Sequence[str],
) -> None:  # fmt: skip
    font = _font(max(12, round(0.35 * grid.cell_size * scale)))
    for robot, radius, name in zip(robots, radii, names, strict=False):
        x, y = pixel(robot[:2])
        x += radius * scale + 0.05 * grid.cell_size * scale
        back = draw.textbbox((x, y), name, font=font, anchor="lm")
        draw.rectangle(back, fill=COLOURS["floor"])
        draw.text((x, y), name, fill=COLOURS["text"], font=font, anchor="lm")


def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    try:
        return ImageFont.load_default(size=size)
    except TypeError:  # Pillow before 10.1 has one small built-in font
        return ImageFont.load_default()


def _with_legend(
    picture: Image.Image, grid: NavGrid, counts: tuple[int, int], pixels_per_metre: float
) -> Image.Image:
    main = int(np.count_nonzero(grid.components == 0))
    cut_off = int(np.count_nonzero(grid.components > 0))
    edges = int(np.count_nonzero(grid.moves[..., 1:])) // 2
    entries = [
        ("main", f"largest component: {main} cells"),
        ("isolated", f"cut off: {cut_off} cells, {max(0, int(grid.components.max()))} components"),
        ("wall", "obstacle"),
        ("unknown", "unknown"),
    ]
    entries += [("robot", f"robots: {counts[0]}")] if counts[0] else []
    entries += [("goal", f"goals: {counts[1]}")] if counts[1] else []
    title = f"cell {grid.cell_size:.3f} m, {edges} edges"
    font, swatch, gap, row = _font(17), 15, 26, 34
    pad = 16
    ruler = ImageDraw.Draw(picture)
    places, x, y = [], pad, 0
    for text in [title, *(text for _, text in entries), "2 m"]:
        extra = 2 * pixels_per_metre if text == "2 m" else 0 if text == title else swatch
        width = extra + 8 + ruler.textlength(text, font=font)
        if x > pad and x + width > max(picture.width, 480) - pad:
            x, y = pad, y + row
        places.append((x, y))
        x += width + gap
    canvas = Image.new("RGB", (max(picture.width, 480), picture.height + y + row + pad), (255, 255, 255))
    canvas.paste(picture, ((canvas.width - picture.width) // 2, 0))
    draw = ImageDraw.Draw(canvas)
    top = picture.height + pad // 2
    draw.line([0, picture.height, canvas.width, picture.height], fill=COLOURS["frame"], width=1)
    draw.text((places[0][0], top + places[0][1] + 7), title, fill=COLOURS["text"], font=font)
    for (name, text), (x, y) in zip(entries, places[1:-1], strict=True):
        box = [x, top + y + 10, x + swatch, top + y + 10 + swatch]
        shape = draw.rectangle if name in ("wall", "unknown") else draw.ellipse
        if name == "goal":
            draw.rectangle(box, outline=COLOURS[name], width=3)
        else:
            shape(box, fill=COLOURS[name])
        draw.text((x + swatch + 8, top + y + 7), text, fill=COLOURS["text"], font=font)
    x, y = places[-1]
    draw.line([x, top + y + 18, x + 2 * pixels_per_metre, top + y + 18], fill=COLOURS["text"], width=3)
    draw.text((x + 2 * pixels_per_metre + 8, top + y + 7), "2 m", fill=COLOURS["text"], font=font)
    return canvas
