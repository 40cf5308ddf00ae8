"""Draw the moving picture of the README: a seeded run of the demo's fleet in its warehouse, in one process.

Usage: ``.venv/bin/python benchmarks/draw_demo.py --out docs/figures/demo.gif``
"""

from __future__ import annotations

import argparse
import collections
import math
import sys
from pathlib import Path

import numpy as np
from figure_style import COLOURS, FAINT, INK, PANEL, PAPER
from marlgpt_policy import POGEMA_LAYOUT, FleetConfig, OccupancyMap, OnnxPolicy, shipped_policy
from marlgpt_sim.maps.warehouse import warehouse_map
from marlgpt_sim.world.closed_loop import ClosedLoop
from PIL import Image, ImageDraw, ImageFont

SMOOTH = 3
"""Pixels are drawn so many times finer and then averaged."""
FOOT = 20
"""Height of the line of text below the map, in pixels."""
TRAIL = 4.0
"""Simulated seconds of each robot's way that stay visible."""


def main() -> int:
    """Simulate, draw a frame every ``speed / rate`` seconds, and write one GIF."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/figures/demo.gif"), help="animation to write")
    parser.add_argument("--robots", type=int, default=32, help="robots in the warehouse")
    parser.add_argument("--seed", type=int, default=1, help="of starts and goals")
    parser.add_argument("--skip", type=float, default=10.0, help="simulated seconds before the first frame")
    parser.add_argument("--seconds", type=float, default=40.0, help="simulated seconds that are shown")
    parser.add_argument("--speed", type=float, default=4.0, help="times real time")
    parser.add_argument("--rate", type=float, default=12.5, help="frames per second")
    parser.add_argument("--width", type=int, default=720, help="width of the picture, pixels")
    args = parser.parse_args()

    floor = warehouse_map()
    policy = OnnxPolicy(shipped_policy(), POGEMA_LAYOUT)
    loop = ClosedLoop(floor, args.robots, policy, FleetConfig(seed=args.seed, latency=0.2), seed=args.seed)
    loop.run(args.skip)
    begun = loop.fleet.goals_reached.sum()
    view, frames = View(floor, args.width, loop.world.radii), []
    ways = collections.deque(maxlen=round(TRAIL * args.rate / args.speed))
    for k in range(round(args.seconds * args.rate / args.speed)):
        reached = loop.fleet.goals_reached.sum() - begun
        contacts = loop.world.robot_contacts + loop.world.wall_contacts
        seconds = k * args.speed / args.rate
        text = (
            f"{args.robots} robots, {args.speed:g} x real time   {seconds:4.1f} s   goals reached {reached}"
            f"   contacts {contacts}"
        )
        ways.append(loop.world.poses[:, :2].copy())
        frames.append(view.frame(loop, np.array(ways), text))
        loop.run((k + 1) * args.speed / args.rate + args.skip - loop.time)
        print(f"\r{k + 1} frames", end="", file=sys.stderr)
    print(file=sys.stderr)
    palette = view.palette()
    frames = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    frames[0].save(
        args.out, save_all=True, append_images=frames[1:], duration=round(1000 / args.rate), loop=0, optimize=True
    )  # fmt: skip
    print(f"{args.out}: {len(frames)} frames, {args.out.stat().st_size / 1e6:.2f} MB")
    return 0


class View:
    """Frames of one map: walls, robots with heading, the way that each has come, and a ring where it goes."""

    def __init__(self, floor: OccupancyMap, width: int, radii: np.ndarray) -> None:
        """Draw what does not change."""
        rows, columns = floor.shape
        self.scale = SMOOTH * width / (columns * floor.resolution)
        self.origin, self.radii = floor.origin, radii
        self.size = (width, round(width * rows / columns))
        large = (self.size[0] * SMOOTH, self.size[1] * SMOOTH)
        walls = Image.fromarray((floor.occupied[::-1] * 255).astype(np.uint8)).resize(large)
        self.base = Image.new("RGB", large, PAPER)
        self.base.paste(Image.new("RGB", large, "#52606d"), mask=walls)
        self.font = ImageFont.load_default(size=11)

    def pixel(self, x: float, y: float) -> tuple[float, float]:
        """Where a place in the map frame (m) lies in the fine picture."""
        return (x - self.origin[0]) * self.scale, self.base.height - (y - self.origin[1]) * self.scale

    def frame(self, loop: ClosedLoop, ways: np.ndarray, text: str) -> Image.Image:
        """The fleet as it is now, after ``ways`` float[k, n, 2] (m), with a line of text below."""
        picture = self.base.copy()
        draw = ImageDraw.Draw(picture)
        goals, grid = loop.fleet.goals, loop.grid
        for i, way in enumerate(ways.swapaxes(0, 1)):
            colour = COLOURS[i % len(COLOURS)]
            if len(way) > 1:
                draw.line([self.pixel(*place) for place in way], fill=mixed(colour, 0.4), width=8)
            if goals[i, 0] >= 0:
                self._disc(draw, self.pixel(*grid.centre(goals[i])), 0.7 * self.radii[i], None, colour)
        for i, (x, y, yaw) in enumerate(loop.world.poses):
            u, v = self.pixel(x, y)
            self._disc(draw, (u, v), self.radii[i], COLOURS[i % len(COLOURS)], INK)
            nose = self.radii[i] * self.scale
            draw.line([(u, v), (u + nose * math.cos(yaw), v - nose * math.sin(yaw))], fill=PAPER, width=4)
        whole = Image.new("RGB", (self.size[0], self.size[1] + FOOT), PANEL)
        whole.paste(picture.resize(self.size, Image.Resampling.BOX))
        ImageDraw.Draw(whole).text((8, self.size[1] + 3), text, fill=INK, font=self.font)
        return whole

    def _disc(self, draw: ImageDraw.ImageDraw, at: tuple, radius: float, fill: str | None, line: str) -> None:
        r = radius * self.scale
        draw.ellipse([at[0] - r, at[1] - r, at[0] + r, at[1] + r], fill=fill, outline=line, width=3)

    def palette(self) -> Image.Image:
        """The colours of all frames: those drawn and what lies between them."""
        colours = [PAPER, PANEL, INK, FAINT, "#52606d", mixed("#52606d", 0.5)]
        for colour in COLOURS:
            colours += [mixed(colour, share) for share in (1.0, 0.65, 0.3, 0.15)]
            colours.append(mixed(colour, 0.6, INK))
        flat = [int(c[k : k + 2], 16) for c in colours for k in (1, 3, 5)]
        palette = Image.new("P", (1, 1))
        palette.putpalette(flat + flat[:3] * (256 - len(colours)))
        return palette


def mixed(colour: str, share: float, other: str = PAPER) -> str:
    """``share`` of one colour and the rest of another one."""
    parts = [(int(colour[k : k + 2], 16), int(other[k : k + 2], 16)) for k in (1, 3, 5)]
    return "#" + "".join(f"{round(share * a + (1 - share) * b):02x}" for a, b in parts)


if __name__ == "__main__":
    sys.exit(main())
