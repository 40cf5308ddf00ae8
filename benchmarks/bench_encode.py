"""Agent observations per second of the numba encoder on one core, 64 robots, against vectorised NumPy."""

from __future__ import annotations

import sys

import numpy as np
from common import finish, numpy_encode, options, progress, scene, timed
from marlgpt_policy.encoders import pogema

ROBOTS = 64
FLOOR = 100_000


def main() -> int:
    args = options(__doc__)
    env = scene(ROBOTS)
    inputs = (env.fields, env.cells, env.goals, env.history, env.moves)
    pairs = zip(pogema.encode(*inputs), numpy_encode(*inputs), strict=True)
    for name, (ours, plain) in zip(("values", "valid", "mask"), pairs, strict=True):
        if not np.array_equal(ours, plain):
            print(f"the two encoders disagree on {name}", file=sys.stderr)
            return 1
    progress("numba encoder ...")
    wall, cpu = ROBOTS / np.median(timed(lambda: pogema.encode(*inputs), 4.0), axis=0)
    progress("NumPy encoder ...")
    plain = ROBOTS / np.median(timed(lambda: numpy_encode(*inputs), 4.0), axis=0)[0]
    progress("")
    met = bool(wall >= FLOOR)
    print(f"{ROBOTS} robots: {wall:,.0f} agent observations/s, NumPy {plain:,.0f}: {wall / plain:.1f} times")
    print(f"floor of {FLOOR:,} observations/s on one core: {'met' if met else 'NOT met'}")
    results = {"observations_per_s": wall, "observations_per_cpu_s": cpu, "baseline_per_s": plain}
    results |= {"ratio": wall / plain, "floor_met": met}
    finish(args, "encode", results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
