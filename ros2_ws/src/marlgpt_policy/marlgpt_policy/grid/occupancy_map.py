"""Occupancy maps: from map_server files and OccupancyGrid messages, and back."""

from __future__ import annotations

import math
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as short
from typing import Any

import numpy as np
import yaml
from PIL import Image

from marlgpt_policy.grid.geometry import tilt_of, yaw_of

LARGEST_IMAGE = 64_000_000
"""Pixels; a larger image is refused before it is decoded."""

LARGEST_SETTINGS = 65_536
"""Bytes of a map's YAML file."""

BAND = 1_000_000
"""Pixels of an image that are converted at a time: brightness takes 8 to 40 bytes each."""

RESOLUTIONS = (1e-3, 10.0)
"""Metres: the finest and the coarsest pixel of a map."""

FARTHEST = 1e6
"""Metres from the frame's origin beyond which a map's origin is a mistake."""

OCCUPIED_FROM = 65
"""Occupancy (0..100) from which a pixel is an obstacle, as map_saver's `occupied_thresh`."""

FREE_UP_TO = 25
"""Occupancy (0..100) up to which a pixel is free; anything between both bounds is unknown."""

LARGEST_TILT = 1e-3
"""Rad; a map origin tilted by more is not planar."""

MODES = ("trinary", "scale", "raw")


class MapError(ValueError):
    """A map cannot be used; the message names the file or field and what to do about it."""


class PlainLoader(yaml.SafeLoader):
    """Without aliases, of which a few lines can make billions of values; a map has no use for them."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """As the base class; ``YAMLError`` at an alias."""
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not read; write the value out")
        return super().compose_node(parent, index)


@dataclass(frozen=True, eq=False)
class OccupancyMap:
    """A pixel map with row 0 at the bottom, as in `nav_msgs/OccupancyGrid`.

    Attributes:
        occupied: bool[H, W], obstacles; kept as a read-only copy.
        unknown: bool[H, W], never observed; disjoint from `occupied`. Free is neither of both.
        resolution: edge of a pixel, m.
        origin: (x, y, yaw) in m and rad, the pose in `frame_id` of the lower left corner of pixel (0, 0).
        frame_id: name of the fixed frame.
    """

    occupied: np.ndarray
    unknown: np.ndarray
    resolution: float
    origin: tuple[float, float, float]
    frame_id: str = "map"

    def __post_init__(self) -> None:
        """Check shapes and numbers.

        Raises:
            MapError: if an array is not bool[H, W] with H, W >= 1, a pixel is both occupied and unknown,
                or the resolution or origin is out of range.
        """
        for name in ("occupied", "unknown"):
            array = np.array(getattr(self, name), order="C")
            if array.dtype != np.bool_ or array.ndim != 2 or array.size == 0:
                shape = list(array.shape)
                raise MapError(f"{name} must be bool[H, W] with at least one pixel, got {array.dtype}{shape}")
            array.flags.writeable = False
            object.__setattr__(self, name, array)
        if self.occupied.shape != self.unknown.shape:
            raise MapError(f"occupied is {self.occupied.shape} but unknown is {self.unknown.shape} pixels")
        if np.any(self.occupied & self.unknown):
            raise MapError("a pixel cannot be occupied and unknown at once; clear one of both")
        _check_place(self.resolution, self.origin, "resolution", "origin")
        object.__setattr__(self, "resolution", float(self.resolution))
        object.__setattr__(self, "origin", tuple(float(value) for value in self.origin))

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        return self.occupied.shape


def load_map_yaml(path: str | Path) -> OccupancyMap:
    """Read a map in map_server's YAML + image format (PGM P2/P5 or PNG, alpha as map_server treats it).

    Modes follow nav2_map_server: `trinary` averages alpha into the brightness, `scale` makes pixels that are
    not opaque unknown, `raw` takes the pixel value 0..100 as occupancy. Values between `FREE_UP_TO` and
    `OCCUPIED_FROM`, which `scale` and `raw` can give, become unknown.

    Raises:
        MapError: naming the file, the key and the fix, for anything missing, corrupt or out of range.
    """
    path = Path(path)
    settings = _read_settings(path)
    image = settings.get("image")
    if not isinstance(image, str) or not image:
        raise MapError(
            f"{path}: 'image' must name the image file, got {short(image)}; add e.g. 'image: map.pgm'"
        )
    resolution = _number(path, settings, "resolution", "metres per pixel, e.g. 0.05")
    occupied_thresh = _threshold(path, settings, "occupied_thresh", 0.65)
    free_thresh = _threshold(path, settings, "free_thresh", 0.25)
    if free_thresh >= occupied_thresh:
        raise MapError(
            f"{path}: 'free_thresh' ({free_thresh}) must be below 'occupied_thresh' ({occupied_thresh}); "
            "common values are 0.25 and 0.65"
        )
    mode = settings.get("mode", "trinary")
    if mode not in MODES:
        raise MapError(f"{path}: 'mode' must be one of {', '.join(MODES)}, got {short(mode)}")
    negate = _negate(path, settings)
    origin = _origin(path, settings)
    _check_place(resolution, origin, f"{path}: 'resolution'", f"{path}: 'origin'")
    rules = _Rules(mode, negate, occupied_thresh, free_thresh)
    return _classified(_read_image(path.parent / image, path, rules)[::-1], resolution, origin, "map")


@dataclass(frozen=True)
class _Rules:
    """What map_server makes of a pixel."""

    mode: str
    negate: bool
    occupied_thresh: float
    free_thresh: float

    def occupancy(self, shade: np.ndarray, alpha: np.ndarray | None) -> np.ndarray:
        """float64[H, W], 0..100 or -1 for unknown, of brightness and alpha float64[H, W] in 0..1."""
        if self.mode == "raw":
            data = np.rint(shade * 255.0)
            data[data > 100] = -1
            return data
        if self.mode == "trinary" and alpha is not None:
            shade = (3.0 * shade + alpha) / 4.0  # map_server averages red, green, blue and alpha
        occupied = shade if self.negate else 1.0 - shade
        data = np.full(shape=shade.shape, fill_value=-1.0)
        if self.mode == "scale":
            data = np.rint((occupied - self.free_thresh) / (self.occupied_thresh - self.free_thresh) * 100.0)
        data[occupied > self.occupied_thresh] = 100
        data[occupied < self.free_thresh] = 0
        if self.mode == "scale" and alpha is not None:
            data[alpha < 1.0] = -1
        return data


def from_occupancy_grid(msg: Any) -> OccupancyMap:
    """Convert a `nav_msgs/OccupancyGrid` (or anything with its fields).

    Args:
        msg: `data` int8[width * height] with 0..100 and -1 for unknown, `info.width`, `info.height`,
            `info.resolution` in m, `info.origin` a pose in `header.frame_id`.

    Returns:
        The map; values up to `FREE_UP_TO` are free, from `OCCUPIED_FROM` occupied, between them unknown.

    Raises:
        MapError: naming the field, if sizes disagree, a value is outside -1..100, the resolution or the
            origin is not finite, or the origin is tilted.
    """
    info = msg.info
    width, height = int(info.width), int(info.height)
    data = np.asarray(msg.data)
    if width < 1 or height < 1 or width * height > LARGEST_IMAGE:
        raise MapError(
            f"OccupancyGrid info: {width} x {height} pixels; need 1 to {LARGEST_IMAGE}. Is the map published?"
        )
    if data.ndim != 1 or data.size != width * height:
        raise MapError(
            f"OccupancyGrid data holds {data.size} values but info.width * info.height is "
            f"{width} * {height} = {width * height}"
        )
    right = (data >= -1) & (data <= 100)
    if not right.all():
        wrong = int(np.argmin(right))
        raise MapError(f"OccupancyGrid data[{wrong}] is {data[wrong]}; values are -1 (unknown) or 0..100")
    resolution = float(info.resolution)
    position, orientation = info.origin.position, info.origin.orientation
    x, y = float(position.x), float(position.y)
    where = "OccupancyGrid info"
    _check_place(resolution, (x, y, 0.0), f"{where}.resolution", f"{where}.origin.position")
    quaternion = (orientation.x, orientation.y, orientation.z, orientation.w)
    try:
        yaw, tilt = yaw_of(quaternion), tilt_of(quaternion)
    except ValueError as error:
        raise MapError(f"OccupancyGrid info.origin.orientation: {error}") from error
    if tilt > LARGEST_TILT:
        raise MapError(
            f"OccupancyGrid info.origin.orientation tilts the map by {math.degrees(tilt):.1f} degrees; "
            "only a rotation about z is possible"
        )
    frame_id = getattr(getattr(msg, "header", None), "frame_id", "") or "map"
    return _classified(data.reshape(height, width), resolution, (x, y, yaw), frame_id)


def to_occupancy_data(occupancy_map: OccupancyMap) -> np.ndarray:
    """Return int8[H * W] for `nav_msgs/OccupancyGrid.data`: 0 free, 100 occupied, -1 unknown."""
    data = np.zeros(occupancy_map.shape, dtype=np.int8)
    data[occupancy_map.occupied] = 100
    data[occupancy_map.unknown] = -1
    return data.ravel()


def save_map_yaml(occupancy_map: OccupancyMap, path: str | Path) -> Path:
    """Write the map as YAML at `path` and PGM (P5, trinary) beside it with the same stem.

    Returns:
        The path of the PGM.

    Raises:
        MapError: if `path` does not end in .yaml or .yml, or its folder does not exist.
    """
    path = Path(path)
    if path.suffix not in (".yaml", ".yml"):
        raise MapError(f"{path}: a map file ends in .yaml or .yml")
    if not path.parent.is_dir():
        raise MapError(f"{path}: the folder {path.parent} does not exist; create it first")
    pixels = np.full(occupancy_map.shape, 254, dtype=np.uint8)
    pixels[occupancy_map.occupied] = 0
    pixels[occupancy_map.unknown] = 205
    image = path.with_suffix(".pgm")
    Image.fromarray(np.ascontiguousarray(pixels[::-1])).save(image, format="PPM")
    settings = {
        "image": image.name,
        "mode": "trinary",
        "resolution": occupancy_map.resolution,
        "origin": list(occupancy_map.origin),
        "negate": 0,
        "occupied_thresh": 0.65,
        # 205 is an occupancy of 0.1961: with map_saver's 0.25 unknown pixels would come back as free.
        "free_thresh": 0.196,
    }
    path.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    return image


def _classified(
    data: np.ndarray, resolution: float, origin: tuple[float, float, float], frame_id: str
) -> OccupancyMap:
    occupied = data >= OCCUPIED_FROM
    unknown = (data < 0) | (data > FREE_UP_TO)
    unknown &= ~occupied
    return OccupancyMap(occupied, unknown, resolution, origin, frame_id)


def _check_place(
    resolution: float, origin: tuple[float, float, float], resolution_name: str, origin_name: str
) -> None:
    """Raise ``MapError``, naming what was given, if a map cannot have this resolution or origin."""
    low, high = RESOLUTIONS
    if not low <= resolution <= high:  # NaN fails as well
        raise MapError(f"{resolution_name} must be {low:g} to {high:g} m per pixel, got {resolution:g}")
    if len(origin) != 3 or not all(math.isfinite(value) for value in origin):
        raise MapError(f"{origin_name} must be three finite numbers (x, y, yaw), got {origin}")
    if max(map(abs, origin)) > FARTHEST:
        raise MapError(f"{origin_name} must be within {FARTHEST:.0f} m (and rad), got {origin}")


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        if path.exists() and not path.is_file():
            raise MapError(f"{path}: is no file; give the path of a map_server YAML file")
        with open(path, "rb") as file:
            content = file.read(LARGEST_SETTINGS + 1)
        if len(content) > LARGEST_SETTINGS:
            raise MapError(
                f"{path}: has more than {LARGEST_SETTINGS} bytes; give the YAML file, not the image"
            )
        text = content.decode("utf-8")
    except MapError:
        raise
    except FileNotFoundError:
        raise MapError(f"{path}: no such map file; give the path of a map_server YAML file") from None
    except (OSError, ValueError) as error:
        raise MapError(
            f"{path}: cannot be read as text ({error}); give the YAML file, not the image"
        ) from error
    try:
        settings = yaml.load(text, PlainLoader)
    except Exception as error:  # besides YAMLError whatever dates, numbers and deep nesting raise
        raise MapError(f"{path}: is not valid YAML: {error}") from error
    if not isinstance(settings, dict):
        raise MapError(f"{path}: must hold 'key: value' lines (image, resolution, origin, ...)")
    return settings


def _as_float(value: Any) -> float:
    """Return a finite float or NaN; strings too, because YAML 1.1 reads 5e-2 as one."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return math.nan
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return math.nan
    return number if math.isfinite(number) else math.nan


def _number(path: Path, settings: dict[str, Any], key: str, hint: str) -> float:
    if key not in settings:
        raise MapError(f"{path}: '{key}' is missing; add it ({hint})")
    number = _as_float(settings[key])
    if math.isnan(number):
        raise MapError(f"{path}: '{key}' must be a finite number ({hint}), got {short(settings[key])}")
    return number


def _threshold(path: Path, settings: dict[str, Any], key: str, usual: float) -> float:
    value = _number(path, settings, key, f"between 0 and 1, usually {usual}")
    if not 0.0 <= value <= 1.0:
        raise MapError(f"{path}: '{key}' must lie between 0 and 1 (usually {usual}), got {value}")
    return value


def _negate(path: Path, settings: dict[str, Any]) -> bool:
    if "negate" not in settings:
        raise MapError(f"{path}: 'negate' is missing; add 'negate: 0' if dark pixels are obstacles")
    if settings["negate"] not in (0, 1):
        raise MapError(f"{path}: 'negate' must be 0 or 1, got {short(settings['negate'])}")
    return bool(settings["negate"])


def _origin(path: Path, settings: dict[str, Any]) -> tuple[float, float, float]:
    value = settings.get("origin")
    numbers = [_as_float(part) for part in value] if isinstance(value, list) else []
    if len(numbers) != 3 or any(math.isnan(number) for number in numbers):
        raise MapError(f"{path}: 'origin' must be three finite numbers [x, y, yaw], got {short(value)}")
    return numbers[0], numbers[1], numbers[2]


def _read_image(path: Path, yaml_path: Path, rules: _Rules) -> np.ndarray:
    """Return occupancy int8[H, W], row 0 at the top."""
    if not os.path.isfile(path):  # Path.is_file raises for names that are too long
        raise MapError(
            f"{yaml_path}: 'image' names {path}, which does not exist; paths start at the YAML file"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path, formats=("PPM", "PNG", "BMP")) as image:
                if image.width * image.height > LARGEST_IMAGE:
                    raise _too_large(path, f"{image.width} x {image.height} pixels")
                image.load()
                data = np.empty((image.height, image.width), dtype=np.int8)
                rows = max(1, BAND // image.width)
                for top in range(0, image.height, rows):
                    part = image.crop((0, top, image.width, min(top + rows, image.height)))
                    data[top : top + rows] = rules.occupancy(*_brightness(part))
                return data
    except MapError:
        raise
    except Image.DecompressionBombError as error:
        raise _too_large(path, "too many pixels") from error
    except Exception as error:  # Pillow raises many types for damaged files; every one means the same here
        raise MapError(
            f"{path}: cannot be decoded as PGM or PNG ({error}); it may be truncated, save the map again"
        ) from error


def _too_large(path: Path, size: str) -> MapError:
    return MapError(f"{path}: {size}; the limit is {LARGEST_IMAGE} pixels, crop the map or use a coarser one")


def _brightness(image: Image.Image) -> tuple[np.ndarray, np.ndarray | None]:
    """Return brightness float64[H, W] in 0..1, and alpha float64[H, W] or None."""
    if image.mode.startswith("I"):  # 16 bit grey; Pillow scales a PGM's own maximum to 65535
        return np.asarray(image, dtype=np.float64) / 65535.0, None
    has_alpha = image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info
    pixels = np.asarray(image.convert("RGBA" if has_alpha else "RGB"), dtype=np.float64) / 255.0
    return pixels[..., :3].mean(axis=-1), pixels[..., 3] if has_alpha else None
