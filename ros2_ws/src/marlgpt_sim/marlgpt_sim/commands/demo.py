"""The demo: simulator, map, task source and fleet node as ROS 2 processes, watched until the time is over.

Writes ``summary.json``, ``report.html``, ``picture.png``, the MCAP ``bag`` and the processes' logs. The part
that talks ROS is in :mod:`marlgpt_sim.nodes.demo_monitor`.
"""

from __future__ import annotations

import json
import os
import sys

from marlgpt_sim.runs.demo_plan import Args, Plan, parameter_files, plan
from marlgpt_sim.runs.node_processes import Processes
from marlgpt_sim.runs.output_folder import output_folder, remove_from
from marlgpt_sim.runs.report import RunTrace, picture, write_report

RESULTS = ("bag", "logs", "summary.json", "report.html", "picture.png")
"""What a demo leaves in its folder."""


def main(args: Args) -> int:
    """Run the demo; 0 if no robot touched anything, 3 if one did, 1 if it could not run."""
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    # Two demos, or a demo and a real fleet, must not hear each other.
    domain = os.environ.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 100))
    run = plan(args)
    with output_folder(args.out, "demo"):
        remove_from(args.out, RESULTS)
        return drive(run, domain)


def drive(run: Plan, domain: str) -> int:
    """Start the nodes, watch them until the time is over, write the results; the exit status."""
    from marlgpt_sim.nodes.demo_monitor import watch

    args = run.args

    rows, cols = run.grid.free.shape
    print(
        f"{args.map.name}: {rows} x {cols} cells of {run.grid.cell_size:.2f} m, {args.robots} robots "
        f"of {run.args.radius} m radius, policy {run.policy.name}, {args.duration:.0f} simulated seconds "
        f"(ROS_DOMAIN_ID={domain})"
    )
    everything = args.record == "all" or (args.record == "auto" and args.robots <= 32)
    try:
        with Processes(parameter_files(run, args.out / "logs"), args.out / "logs") as processes:
            trace, summary = watch(run, processes, args.out / "bag", everything)
    except RuntimeError as error:
        print(f"marlgpt demo: {error}", file=sys.stderr)
        return 1
    return finish(run, trace, summary)


def finish(run: Plan, trace: RunTrace, summary: dict) -> int:
    """Write and print the results."""
    out = run.args.out
    (out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    write_report(trace, out / "report.html")
    picture(trace, out / "picture.png")
    width = max(map(len, summary))
    for key, value in summary.items():
        print(f"{key:<{width}}  {value}")
    print(f"written to {out}: summary.json, report.html, picture.png, bag, logs")
    contacts = summary["robot_contacts"] + summary["wall_contacts"]
    if contacts:
        print(f"{contacts} contacts: this must not happen; please report {out}", file=sys.stderr)
    return 3 if contacts else 0
