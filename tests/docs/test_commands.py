"""Commands in the documentation: all of them parse, those that take seconds run, as they are printed."""

import contextlib
import functools
import importlib
import importlib.util
import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, os.path.dirname(__file__))
from pages import PAGES, ROOT, Block, blocks

SHELL = ("bash", "sh", "console", "")
LAUNCH = {name: ROOT / f"ros2_ws/src/{name}/launch" for name in ("marlgpt_policy", "marlgpt_sim")}


def commands(block: Block) -> list[list[str]]:
    """The words of each command of a block; comments left out, continued lines joined, `~` for variables."""
    text = re.sub(r"\\\n\s*", " ", block.text)
    found = []
    for line in text.splitlines():
        with contextlib.suppress(ValueError):  # a quotation over several lines: ros2 topic pub and the like
            words = shlex.split(line, comments=True)
            while words and re.fullmatch(r"\w+=\S*", words[0]):
                words = words[1:]
            if words:
                found.append(words)
    return found


def every_command() -> list[tuple[str, list[str]]]:
    """(place, words) of each command of each page."""
    found = [block for page in PAGES if page.exists() for block in blocks(page, *SHELL)]
    return [(block.where, words) for block in found for words in commands(block)]


def of(program: str) -> list[pytest.param]:
    return [
        pytest.param(words, id=f"{where} {' '.join(words)[:60]}")
        for where, words in every_command()
        if words[0] == program
    ]


@functools.cache
def entry(name: str):
    """The module behind `marlgpt NAME`."""
    from marlgpt_training.cli import COMMANDS

    assert name in COMMANDS, f"there is no `marlgpt {name}`"
    return importlib.import_module(COMMANDS[name][0])


def parse(name: str, words: list[str]) -> str:
    """What the real parser of `marlgpt NAME` says to these words; empty if it takes them."""
    import tyro

    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            tyro.cli(entry(name).Args, prog=f"marlgpt {name}", args=words)
    except SystemExit as end:
        return "" if end.code in (0, None) else said.getvalue() or str(end)
    return ""


def test_commands_are_written_so_that_they_are_found() -> None:
    wrong = [
        f"{where}: {' '.join(words)}"
        for where, words in every_command()
        if words[0] == "marlgpt" and "/models/" not in where  # the model card is written by a command
    ]
    assert not wrong, f"`marlgpt` is in .venv/bin and not on the PATH: {wrong}"
    wrong = [f"{where}: {' '.join(w)}" for where, w in every_command() if w[0] in ("python", "pip")]
    assert not wrong, f"this project's Python is .venv/bin/python: {wrong}"


@pytest.mark.parametrize("words", of(".venv/bin/marlgpt") + of("marlgpt"))
def test_marlgpt_commands_parse(words: list[str]) -> None:
    words = [word for word in words[1:] if word != "&"]
    if words == ["--help"]:
        return
    assert parse(words[0], words[1:]) == ""


@pytest.mark.parametrize("name", ["map", "robots", "demo", "export"])
def test_a_wrong_option_is_found(name: str) -> None:
    assert parse(name, ["--no-such-option", "1"])


def test_options_named_in_sentences_exist() -> None:
    wrong = []
    for page in PAGES:
        prose = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        for quoted in re.findall(r"`(?:\.venv/bin/)?marlgpt ([a-z][^`]*)`", prose):
            name, *rest = quoted.split()
            fields = options(name)
            wrong += [
                f"{page.name}: marlgpt {name} {word}"
                for word in rest
                if word.startswith("--") and word[2:].split("=")[0] not in fields
            ]
    assert not wrong


@functools.cache
def options(name: str) -> set[str]:
    """Names of the options of `marlgpt NAME`, from its own help."""
    import tyro

    said = io.StringIO()
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(said):
        tyro.cli(entry(name).Args, prog=f"marlgpt {name}", args=["--help"])
    return set(re.findall(r"--([a-z0-9.-]+)", said.getvalue()))


@pytest.mark.parametrize(
    "words",
    [p for p in of("ros2") if p.values[0][1] == "launch" and p.values[0][2].startswith("marlgpt")],
)
def test_launch_files_and_their_arguments_exist(words: list[str]) -> None:
    package, name, *arguments = words[2:]
    path = LAUNCH[package] / name
    assert path.is_file(), f"{package} has no launch file {name}"
    text = path.read_text()
    if package == "marlgpt_sim":  # arguments that several share, or pass on
        text += (ROOT / "ros2_ws/src/marlgpt_sim/marlgpt_sim/launch_support.py").read_text()
    for argument in arguments:
        if argument == "--show-args":
            continue
        key = argument.split(":=")[0]
        assert ":=" in argument and f'"{key}"' in text, f"{name} has no argument {key}"


@pytest.mark.parametrize("words", of("make"))
def test_make_targets_and_variables_exist(words: list[str]) -> None:
    makefile = (ROOT / "Makefile").read_text() + (ROOT / ".ci/setup.sh").read_text()
    for word in words[1:]:
        name, _, value = word.partition("=")
        assert re.search(rf"^{name}:" if not value else rf"\b{name}\b", makefile, re.MULTILINE), word


@pytest.mark.parametrize("words", of(".venv/bin/python"))
def test_scripts_and_modules_exist_and_have_these_options(words: list[str]) -> None:
    if words[1] == "-m":
        found = importlib.util.find_spec(words[2])
        assert found is not None
        path = Path(found.origin)
    else:
        path = ROOT / words[1]
    if path.is_file() and path.is_relative_to(ROOT):
        texts = path.read_text() + (ROOT / "benchmarks/common.py").read_text()
        for option in (w.split("=")[0] for w in words if w.startswith("--") and w != "--ros-args"):
            assert f'"{option}"' in texts, f"{words[1]} has no option {option}"
    else:
        pages = "".join(page.read_text() for page in PAGES)
        assert f"# {path.name}\n" in pages or path.is_file(), f"{path} does not exist, and no page prints it"


def test_your_robots_runs_as_printed(tmp_path: Path) -> None:
    """Sections 3, 5 and 6 of your-robots.md: map, robots file and dry run on the map that comes with the project."""
    page = ROOT / "docs/your-robots.md"
    described = next(b for b in blocks(page, "yaml") if b.text.startswith("map_frame"))
    (tmp_path / "my_robots.yaml").write_text(described.text)
    maps = ROOT / "ros2_ws/src/marlgpt_sim/maps"
    (tmp_path / "my_map.yaml").write_text((maps / "warehouse.yaml").read_text())
    (tmp_path / "warehouse.pgm").write_bytes((maps / "warehouse.pgm").read_bytes())
    (tmp_path / ".venv").symlink_to(Path(sys.prefix))
    said = {}
    for block in blocks(page, "bash"):
        for words in commands(block):
            if words[:2] in ([".venv/bin/marlgpt", "map"], [".venv/bin/marlgpt", "robots"]):
                done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
                assert done.returncode == 0, f"{block.where}: {' '.join(words)}\n{done.stdout}{done.stderr}"
                said[words[1]] = done.stdout
    assert {"map", "robots"} == set(said)
    assert (tmp_path / "my_grid.png").stat().st_size and (tmp_path / "my_robots.png").stat().st_size
    assert "all fits" in said["robots"]


def test_goals_of_your_robots_are_free_cells_of_the_shipped_map() -> None:
    import numpy as np
    from marlgpt_policy import build_grid, load_map_yaml

    grid = build_grid(load_map_yaml(ROOT / "ros2_ws/src/marlgpt_sim/maps/warehouse.yaml"), 0.19, 0.10)
    text = (ROOT / "docs/your-robots.md").read_text()
    goals = re.findall(r"position: \{x: ([-\d.]+), y: ([-\d.]+)\}", text)
    assert goals
    for goal in goals:
        cell = grid.cell_of(np.array(goal, dtype=float))
        assert grid.components[tuple(cell)] == 0, f"goal {goal} is no cell of the largest connected part"


@pytest.mark.parametrize(
    "words", [p for p in of("ros2") if p.values[0][1] == "run" and p.values[0][2].startswith("marlgpt")]
)
def test_executables_of_our_packages_exist(words: list[str]) -> None:
    package, name = words[2:4]
    setup = (ROOT / f"ros2_ws/src/{package}/setup.py").read_text()
    assert re.search(rf"\b{name}\b", setup), f"ros2 run {package} {name}: setup.py has no such executable"


def test_types_of_messages_in_commands_exist() -> None:
    text = "".join(block.text for page in PAGES for block in blocks(page, *SHELL))
    named = set(re.findall(r"\bmarlgpt_msgs/(msg|srv|action)/(\w+)", text))
    assert named
    missing = [f"{k}/{n}" for k, n in named if not (ROOT / f"ros2_ws/src/marlgpt_msgs/{k}/{n}.{k}").is_file()]
    assert not missing


def test_maps_and_worlds_are_written_as_printed(tmp_path: Path) -> None:
    """The map of fine-tuning.md and the command of gazebo.md that needs no ROS."""
    from marlgpt_policy import load_map_yaml

    (tmp_path / ".venv").symlink_to(Path(sys.prefix))
    (tmp_path / "out").mkdir()  # by the command before it on that page
    halls = next(w for where, w in every_command() if "fine-tuning" in where and "two_halls" in " ".join(w))
    done = subprocess.run(halls, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (tmp_path / "my_map.yaml").write_text((tmp_path / halls[-1]).read_text())
    image = load_map_yaml(tmp_path / halls[-1])
    for path in (tmp_path / halls[-1]).parent.glob("*.pgm"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert image.occupied.any()
    (quoted,) = re.findall(r"`marlgpt (gazebo --map [^`]+)`", (ROOT / "docs/gazebo.md").read_text())
    words = [".venv/bin/marlgpt", *quoted.split()]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "out/gazebo/world.sdf").is_file()


def test_python_of_faults_runs_as_printed() -> None:
    """The few lines of faults.md, with a world and a fleet as they say."""
    from marlgpt_policy.policy.stand_in import shortest_ways
    from marlgpt_sim.maps.two_halls import two_halls_map
    from marlgpt_sim.world.closed_loop import ClosedLoop
    from marlgpt_sim.world.fault_config import FaultConfig
    from marlgpt_sim.world.faults import Faults

    loop = ClosedLoop(two_halls_map(), 4, shortest_ways)
    (block,) = blocks(ROOT / "docs/faults.md", "python")
    names = {"world": loop.world, "fleet": loop.fleet, "Faults": Faults, "FaultConfig": FaultConfig}
    exec(block.text, names)
    assert names["faults"].counts["stall"] == (1, 1) and loop.world.time > 0.0
    assert loop.fleet.seen.all()


def test_numbers_of_the_readme_are_measured_ones() -> None:
    found = re.search(r"\*\*Measured\*\*(.*?)\n\n", (ROOT / "README.md").read_text(), re.DOTALL)
    measured = found[1].replace("\n", " ")
    found = re.findall(r"[\d.]+ \[[\d.]+, [\d.]+\]", measured)
    results = (ROOT / "docs/results.md").read_text()
    assert len(found) >= 3
    assert not [estimate for estimate in found if estimate not in results]
