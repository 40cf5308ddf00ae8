"""A slice of the soak in every test run: new seeds each time, beside fixed ones that everybody sees alike.

In CI the new ones follow from the commit: each change gets its own, and one that failed fails again until it is mended.
A failure prints the seeds and the commands that replay them. ``SOAK_SEED`` pins the fresh campaign's seed,
``SOAK_HOURS`` its robot-hours.
"""

import json
import os
import subprocess
import time
from pathlib import Path

import pytest
from marlgpt_sim.commands import soak

HOURS = float(os.environ.get("SOAK_HOURS", "30"))
WORKERS = min(2, os.cpu_count() or 1)
MINUTES = 6.0


def campaign(out, seed, hours):
    """Run a campaign; its exit status, summary and what it printed about failures."""
    options = soak.Args(hours=hours, seed=seed, minutes=MINUTES, workers=WORKERS, out=out, cut_down_for=20.0)
    status = soak.main(options)
    return status, json.loads((out / "summary.json").read_text())


def check(status, summary, seed, out):
    runs = [json.loads(file.read_text()) for file in (out / "runs").glob("*.json")]
    failures = "\n".join(soak.failure_text(run) for run in runs if run["failure"])
    inputs = "\n".join(f"{file}:\n{file.read_text()}" for file in (out / "failures").glob("*.json"))
    again = f"campaign of seed {seed}; SOAK_SEED={seed} repeats it"
    assert status == 0, f"{again}:\n{failures}\n{inputs}\n{summary['never_seen']}"


def fresh_seed():
    """Seed of a campaign that nobody has run: pinned, or of this commit in CI, or from the clock."""
    if "SOAK_SEED" in os.environ:
        return int(os.environ["SOAK_SEED"])
    if os.environ.get("CI"):
        command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
        commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
        if commit:
            return int(commit[:7], 16)
    return time.time_ns() // 1_000_000 % 1_000_000_000


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_fresh_slice_of_the_soak(tmp_path):
    seed = fresh_seed()
    status, summary = campaign(tmp_path / "soak", seed, HOURS)
    check(status, summary, seed, tmp_path / "soak")
    assert summary["robot_hours"] >= HOURS and summary["goals"]["reached"] > 0


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_fixed_slice_of_the_soak(tmp_path):
    status, summary = campaign(tmp_path / "soak", 20_001, HOURS / 3)
    check(status, summary, 20_001, tmp_path / "soak")
    assert sum(summary["faults"].values()) > 100
