"""How much faster than real time the whole graph runs: simulated over wall seconds of the demo.

The baseline is real time itself (1.0). Each run is the demo with its processes talking over DDS; the bag holds
the aggregated topics.

    .venv/bin/python benchmarks/bench_real_time.py --robots 16 64 --seconds 30 --json out/bench/real_time.json
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path


def main() -> int:
    """Run the demo per robot count and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--robots", type=int, nargs="+", default=[16, 64], help="robot counts")
    parser.add_argument("--seconds", type=float, default=30.0, help="simulated seconds per run")
    parser.add_argument("--json", type=Path, help="file for the results")
    args = parser.parse_args()
    results = {}
    command = str(Path(sys.executable).with_name("marlgpt"))
    for robots in args.robots:
        with tempfile.TemporaryDirectory() as folder:
            options = [
                "--robots",
                str(robots),
                "--duration",
                str(args.seconds),
                "--record",
                "fleet",
                "--out",
                folder,
            ]
            done = subprocess.run([command, "demo", *options], capture_output=True, text=True, timeout=600)
            if done.returncode not in (0, 3):
                print(done.stdout + done.stderr, file=sys.stderr)
                return 1
            summary = json.loads((Path(folder) / "summary.json").read_text())
        ratio = summary["sim_seconds"] / summary["wall_seconds"]
        results[robots] = {"times_real_time": round(ratio, 2), **summary}
        print(
            f"{robots:4d} robots: {ratio:.2f} x real time, contacts {summary['robot_contacts']}", flush=True
        )
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(results, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
