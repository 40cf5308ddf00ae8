"""No command changes what is not the project's: every command with an output, on a folder full of foreign files."""

import dataclasses
import importlib
import subprocess
import sys
import typing
from pathlib import Path

import numpy as np
import pytest
from marlgpt_policy.policy.shipped_files import shipped_file
from marlgpt_sim.runs.output_folder import LOCK, MARKER
from marlgpt_training import cli
from marlgpt_training.store.grid_episode import Episode
from marlgpt_training.store.shards import write_shard

FOREIGN = (
    "CARD.md", "README.md", "avg_throughput.png", "bag/bag_0.mcap", "bag/metadata.yaml", "best.safetensors",
    "bridge.yaml", "broken.onnx", "dagger/dagger-0-000001.parquet", "evaluation.jsonl", "final.safetensors",
    "finetune/run.json", "imported/x.parquet", "lns-0-00000.parquet", "log.jsonl", "logs/simulator.log",
    "metadata.yaml", "original/original-0-00000.parquet", "picture.png", "policy.onnx", "report.html", "robots.yaml",
    "run.json", "run/state.pt", "runs/00000.json", "session.json", "session/metadata.yaml", "state.pt",
    "student.safetensors", "summary.json", "swap/summary.json", "tensorboard/events", "thesis.txt", "two_halls.pgm",
    "two_halls.yaml", "world.sdf", "x-00000.parquet", "x_0.mcap",
)  # fmt: skip
"""Names that commands write, and one that none does."""

FOLDERS = {
    "demo": ("demo", ["--robots", "2", "--duration", "1"]),
    "collect": ("trajectory store", ["--shards", "1", "--episodes", "1", "--workers", "1"]),
    "train": (
        "training run",
        ["--store", "STORE", "--steps", "1", "--dagger-workers", "0", "--device", "cpu"],
    ),
    "finetune": ("fine-tuning", ["--store", "STORE", "--steps", "1", "--device", "cpu"]),
    "record-expert": ("recording", ["--robots", "2", "--minutes", "0.01"]),
    "retrain-demo": ("retraining loop", ["--robots", "2", "--minutes", "0.01", "--steps", "1"]),
    "import-dataset": ("trajectory store", ["--files", "missing.arrow"]),
    "import-bag": ("trajectory store", ["--bag", "missing"]),
    "soak": ("soak", ["--hours", "0.01", "--workers", "1"]),
    "gazebo": ("Gazebo world", ["--robots", "2"]),
}
"""Commands with an output folder: what it is marked as, and options; STORE is a small store."""

FILES = {
    "curve": ("--out", ["RUN"]),
    "critic": ("--out", ["--store", "STORE"]),
    "export": ("--out", ["--checkpoint", "missing.safetensors"]),
    "evaluate": (
        "--json",
        ["--policy", "pibt", "--count", "1", "--agents", "2", "--steps", "1", "--workers", "1"],
    ),
    "import-bag": ("--report", ["--bag", "missing", "--out", "NEW"]),
    "import-checkpoint": ("--out", ["--published", "missing.pt"]),
    "model-card": ("--out", ["--policy", "missing.onnx", "--evaluations", "missing.json"]),
    "map": ("--out", ["--map", "MAP"]),
    "robots": ("--out", ["--file", "ROBOTS", "--map", "MAP"]),
}
"""Commands with an output file: the option that names it, and others."""

READ_ONLY = ("view",)
"""Commands without an output."""

MAP = shipped_file("marlgpt_sim", "maps/warehouse.yaml")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """What options stand for."""
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "new").mkdir()
    free = np.ones((4, 6), dtype=bool)
    moves = np.zeros((20, 2), dtype=np.int8)
    goals = np.array([(0, 0, 0, 5), (0, 1, 3, 0), (5, 0, 3, 5), (5, 1, 0, 0)], dtype=np.int16)
    episode = Episode(
        free, np.array([[0, 0], [3, 5]], np.int16), goals, moves, moves, np.zeros((20, 2), np.float16), False, "bag",
        "hall", 1, {"lifelong": True},
    )  # fmt: skip
    write_shard(folder / "store" / "a.parquet", [episode, episode])
    (folder / "run").mkdir()
    (folder / "run" / "log.jsonl").write_text('{"step": 1, "samples": 1, "loss": 1.0, "accuracy": 0.5}\n')
    (folder / "robots.yaml").write_text(
        "map_frame: map\ndefaults: {radius: 0.22, drive: differential}\nrobots: [{name: a}]\n"
    )
    return {
        "STORE": str(folder / "store"), "RUN": str(folder / "run"), "MAP": str(MAP), "NEW": str(folder / "new"),
        "ROBOTS": str(folder / "robots.yaml"),
    }  # fmt: skip


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def fill(folder):
    for name in FOREIGN:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"precious {name}")
    return contents(folder)


def call(command, options, inputs):
    return cli.main([command, *(inputs.get(option, option) for option in options)])


def outputs(command):
    """Options of a command whose name says that it writes there."""
    arguments = importlib.import_module(cli.COMMANDS[command][0]).Args
    types = typing.get_type_hints(arguments)
    names = {field.name for field in dataclasses.fields(arguments)}
    return {name for name in names & {"out", "json", "plots", "report"} if types[name] in (Path, Path | None)}


def test_every_command_is_in_a_table():
    for command in cli.COMMANDS:
        assert command in READ_ONLY or command in FOLDERS or command in FILES, command
        assert outputs(command) or command in READ_ONLY, command


@pytest.mark.parametrize("command", FOLDERS)
def test_a_foreign_folder_survives_byte_for_byte(command, tmp_path, inputs, capsys):
    folder = tmp_path / "x"
    before = fill(folder)
    assert call(command, [*FOLDERS[command][1], "--out", str(folder)], inputs) == 1
    said = capsys.readouterr().err
    assert (
        f"{folder}: holds " in said and "name another folder" in said and f"touch '{folder / MARKER}'" in said
    )
    assert contents(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_pictures_of_an_evaluation_go_into_no_foreign_folder(tmp_path, inputs, capsys):
    before = fill(tmp_path)
    assert call("evaluate", [*FILES["evaluate"][1], "--plots", str(tmp_path)], inputs) == 1
    assert "--plots" in capsys.readouterr().err and contents(tmp_path) == before


@pytest.mark.parametrize("command", FILES)
def test_a_foreign_file_survives_byte_for_byte(command, tmp_path, inputs, capsys):
    path = tmp_path / "precious.png"
    before = fill(tmp_path)
    for content in (b"\x89PNG\r\n\x1a\n of the user", b"{}", b"precious"):
        path.write_bytes(content)
        option, options = FILES[command]
        assert call(command, [*options, option, str(path)], inputs) == 1
        assert f"{path}: exists and was not written by this command" in capsys.readouterr().err
        assert contents(tmp_path) == {**before, Path(path.name): content}


@pytest.mark.parametrize("command", ["curve", "evaluate", "import-bag", "map", "robots"])
def test_what_a_command_wrote_it_may_write_again(command, tmp_path, inputs):
    path = tmp_path / "mine"
    option, options = FILES[command]
    codes = [call(command, [*options, option, str(path)], inputs) for _ in range(2)]
    assert codes[0] == codes[1] and path.stat().st_size


def test_the_note_beside_a_recording_survives(tmp_path, inputs, capsys):
    (tmp_path / "x.json").write_text("precious")
    options = [*FOLDERS["record-expert"][1], "--out", str(tmp_path / "x")]
    assert call("record-expert", options, inputs) == 1
    assert "x.json: exists" in capsys.readouterr().err and contents(tmp_path) == {Path("x.json"): b"precious"}


def test_a_recording_replaces_its_own_bag_and_nothing_else(tmp_path, inputs):
    out = tmp_path / "x"
    options = [*FOLDERS["record-expert"][1], "--out", str(out)]
    assert call("record-expert", options, inputs) == 0
    (out / "notes.txt").write_text("precious")
    assert call("record-expert", options, inputs) == 0
    assert sorted(p.name for p in out.iterdir()) == [MARKER, LOCK, "metadata.yaml", "notes.txt", "x_0.mcap"]


# Older versions -----------------------------------------------------------------------------------------


def test_a_store_and_a_run_of_an_older_version_are_gone_on_with(tmp_path, inputs):
    store, run = tmp_path / "store", tmp_path / "run"
    collect = ["--shards", "1", "--episodes", "1", "--steps", "8", "--workers", "1", "--out", str(store)]
    train = [*FOLDERS["train"][1], "--batch", "8", "--parts", "1", "--evaluate-every", "0", "--dagger-games"]
    train = [*train, "pogema", "--preset", "tiny", "--out", str(run)]
    for command, options, folder in (("collect", collect, store), ("train", train, run)):
        assert call(command, options, inputs) == 0
        (folder / MARKER).unlink()
        assert call(command, options, inputs) == 0
        assert (folder / MARKER).exists()


def test_a_store_with_a_foreign_shard_or_card_is_foreign(tmp_path, inputs, capsys):
    options = FOLDERS["collect"][1]
    for name in ("b.parquet", "CARD.md"):
        store = tmp_path / name
        assert call("collect", [*options, "--steps", "8", "--out", str(store)], inputs) == 0
        (store / MARKER).unlink()
        (store / name).write_text("precious")
        assert call("collect", [*options, "--steps", "8", "--seed", "1", "--out", str(store)], inputs) == 1
        assert (store / name).read_text() == "precious"
    capsys.readouterr()


# Two processes ------------------------------------------------------------------------------------------

HOLD = """
import contextlib, sys, time
from marlgpt_sim.runs.output_folder import output_folder
with contextlib.ExitStack() as stack:
    for pair in sys.argv[1:]:
        folder, kind = pair.split("=")
        stack.enter_context(output_folder(folder, kind))
    print("in", flush=True)
    time.sleep(600)
"""
LOCKED = [command for command in FOLDERS if command != "gazebo"]  # three small files, written at once


@pytest.fixture(scope="module")
def held(tmp_path_factory):
    """A process that writes a folder for every command; the folders and the process."""
    base = tmp_path_factory.mktemp("held")
    pairs = [f"{base / command}={FOLDERS[command][0]}" for command in LOCKED]
    process = subprocess.Popen([sys.executable, "-c", HOLD, *pairs], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "in\n"
    yield base, process
    process.kill()
    process.wait(20)


@pytest.mark.parametrize("command", LOCKED)
def test_a_folder_that_another_process_writes_is_refused(command, held, inputs, capsys):
    base, process = held
    folder = base / command
    before = contents(folder)
    assert call(command, [*FOLDERS[command][1], "--out", str(folder)], inputs) == 1
    said = capsys.readouterr().err
    assert f"process {process.pid} on " in said and "since 20" in said and str(folder) in said
    assert contents(folder) == before
