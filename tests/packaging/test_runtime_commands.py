"""The commands of the run time where neither PyTorch nor the training package is installed."""

import json
import subprocess
import sys

import pytest
from marlgpt_policy.policy.shipped_files import shipped_file
from marlgpt_sim.commands import cli
from packaging_builds import MISSING, environment, without_training

RUN = """
import io, json, sys
from contextlib import redirect_stderr, redirect_stdout
from marlgpt_sim.commands.cli import main
found = []
for arguments in json.loads(sys.argv[1]):
    said = io.StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        try:
            code = main(arguments)
        except SystemExit as stopped:
            code = stopped.code
    found.append((code, said.getvalue()))
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Run command lines of `marlgpt` in one process without training: (exit code, what it printed) of each."""
    folder = without_training(tmp_path_factory.mktemp("commands") / "missing")

    def call(*lines):
        packages = [shipped_file(name, name).parent for name in ("marlgpt_policy", "marlgpt_sim")]
        done = subprocess.run(
            [sys.executable, "-c", RUN, json.dumps([list(map(str, line)) for line in lines])],
            env=environment(folder, *packages),
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return call


def test_only_commands_that_can_run_are_listed(run):
    (code, usage), (unknown, said) = run(["--help"], ["train"])
    assert code == 0
    assert [line.split()[0] for line in usage.splitlines() if line.startswith("  ")] == list(cli.COMMANDS)
    assert set(cli.COMMANDS) == {"demo", "gazebo", "map", "robots", "soak", "view"}
    assert unknown == 2 and "unknown command 'train'" in said


def test_every_command_shows_its_options(run):
    found = run(*([name, "--help"] for name in cli.COMMANDS))
    for name, (code, said) in zip(cli.COMMANDS, found, strict=True):
        assert code == 0 and f"marlgpt {name}" in said, said


def test_commands_work_on_the_shipped_map_and_robots(run, tmp_path):
    world, robots = shipped_file("marlgpt_sim", "maps/warehouse.yaml"), tmp_path / "robots.yaml"
    robots.write_text("robots: [alice, bob]\n")
    found = run(
        ["map", "--map", world, "--out", tmp_path / "map.png"],
        ["robots", "--file", robots, "--map", world, "--out", tmp_path / "robots.png"],
        ["gazebo", "--robots", 3, "--out", tmp_path / "gazebo"],
        ["map", "--map", tmp_path / "none.yaml"],
    )
    assert [code for code, _ in found] == [0, 0, 0, 1], found
    assert "connected parts" in found[0][1] and "2 robots" in found[1][1]
    for name in ("map.png", "robots.png", "gazebo/world.sdf", "gazebo/bridge.yaml", "gazebo/robots.yaml"):
        assert (tmp_path / name).stat().st_size > 100
    assert "none.yaml" in found[3][1]


def test_training_without_its_packages_says_what_to_install(tmp_path):
    """The wheel holds the training package, but PyTorch comes with the extra."""
    folder = without_training(tmp_path / "missing")
    (folder / "marlgpt_training.py").unlink()
    done = subprocess.run(
        [sys.executable, "-m", "marlgpt_training.cli", "export", "--help"],
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert any(f"No module named '{name}'" in done.stderr for name in MISSING)
    assert 'pip install "marlgpt-ros2[training]"' in done.stderr
