"""A fleet made of plain objects, and a view's server around it, for tests of the view without ROS."""

from __future__ import annotations

import time
from types import SimpleNamespace as Thing

import numpy as np
from marlgpt_policy.grid.occupancy_map import OccupancyMap
from marlgpt_sim.view.access import Access
from marlgpt_sim.view.picture import Picture
from marlgpt_sim.view.server import ViewServer

CELL = 0.7
ROWS, COLS = 16, 20


def pose(x, y, yaw=0.0):
    q = Thing(x=0.0, y=0.0, z=float(np.sin(yaw / 2)), w=float(np.cos(yaw / 2)))
    return Thing(position=Thing(x=x, y=y, z=0.0), orientation=q)


def robot(name, x=0.0, y=0.0, **changes):
    cell = dict(row=1, col=2, target_row=1, target_col=3, goal_row=8, goal_col=6)
    known = dict(
        name=name, status=3, pose=pose(x, y), pose_age=0.05, goals_reached=0, vetoes=0, detail="", **cell
    )
    return Thing(**(known | changes))


def state(robots, t=1.0, **changes):
    header = Thing(stamp=Thing(sec=int(t), nanosec=round(t % 1 * 1e9)), frame_id="map")
    known = dict(
        header=header, step=int(10 * t), stopped=False, provider="CPU", policy="tiny", robots=robots, decisions=1,
        vetoes=0, goals_reached=0, rejected_messages=0,
    )  # fmt: skip
    return Thing(**(known | changes))


def grid():
    free = np.ones((ROWS, COLS), bool)
    free[3:6, 4:9] = False
    return Thing(rows=ROWS, cols=COLS, cell_size=CELL, origin=pose(0.0, 0.0), free=free.ravel().tolist())


def a_map():
    """A hall around the grid, 15 m x 12.2 m, walls of 0.1 m."""
    occupied = np.zeros((122, 150), bool)
    occupied[[0, -1], :] = occupied[:, [0, -1]] = True
    return OccupancyMap(occupied, np.zeros_like(occupied), 0.1, (-0.8, -11.4, 0.0))


class Bench:
    """A server on a free port; what is commanded is noted, and answered as `answer` says."""

    def __init__(self, robots=("a", "b"), access=None, rate=30.0, port=0):
        self.picture = Picture(time.monotonic, 0.22)
        self.picture.set_map(a_map())
        self.picture.set_grid(grid())
        self.names, self.t, self.done, self.logged = list(robots), 1.0, [], []
        self.answer = lambda command: (True, f"{command.kind} done")
        self.server = ViewServer(
            self.picture, self.execute, access or Access(token="x" * 16), port, rate, log=self.logged.append
        )
        self.move()
        self.server.start()

    async def execute(self, command):
        self.done.append(command)
        return self.answer(command)

    def move(self, **changes):
        """The next state, a second later; robots stand in rows and go round in small circles."""
        self.t += 1.0
        places = [
            (0.7 * (i % COLS) + 0.1 * np.cos(self.t), -0.7 * (i // COLS) + 0.1 * np.sin(self.t))
            for i in range(len(self.names))
        ]
        robots = [robot(name, float(x), float(y)) for name, (x, y) in zip(self.names, places, strict=True)]
        self.picture.set_state(state(robots, self.t, **changes))

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server.port}"

    def close(self):
        self.server.stop()
