"""Output folders: only what this project made is changed, by one process at a time."""

import json
import os
import signal
import socket
import subprocess
import sys

import pytest
from marlgpt_sim.runs import output_folder as output
from marlgpt_sim.runs.output_folder import (
    LOCK,
    MARKER,
    FolderError,
    FolderInUseError,
    check_output_file,
    claim_folder,
    output_folder,
    remove_from,
)

HOLD = """
import sys, time
from marlgpt_sim.runs.output_folder import output_folder
with output_folder(sys.argv[1], "demo"):
    print("in", flush=True)
    time.sleep(600)
"""


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# Claims -------------------------------------------------------------------------------------------------


def test_a_new_or_empty_folder_is_claimed_and_taken_again(tmp_path):
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "new" / "deep", tmp_path / "empty"):
        for _ in range(2):
            with output_folder(folder, "demo"):
                (folder / "result").write_text("x")
        assert json.loads((folder / MARKER).read_text())["kind"] == "demo"
        assert sorted(p.name for p in folder.iterdir()) == [MARKER, LOCK, "result"]


def test_a_foreign_folder_is_refused_unchanged_with_the_remedy(tmp_path):
    folder = tmp_path / "mine"
    (folder / "logs").mkdir(parents=True)
    for name in ("a.txt", "b.txt", "c.txt", "logs/d.txt"):
        (folder / name).write_text(name)
    before = contents(folder)
    with pytest.raises(FolderError, match=r"mine: holds a.txt, b.txt, c.txt and 1 more.*touch '.*\.marlgpt'"):
        claim_folder(folder, "demo")
    assert contents(folder) == before
    (folder / MARKER).touch()  # the remedy
    claim_folder(folder, "demo")
    assert json.loads((folder / MARKER).read_text())["kind"] == "demo"
    assert {p: b for p, b in contents(folder).items() if p.name != MARKER} == before


def test_a_folder_of_another_command_is_refused(tmp_path):
    claim_folder(tmp_path / "x", "trajectory store")
    with pytest.raises(FolderError, match="another purpose \\(trajectory store\\)"):
        claim_folder(tmp_path / "x", "demo")


def test_a_folder_of_an_older_version_is_known_by_what_it_holds(tmp_path):
    (tmp_path / "state").write_text("ours")
    with pytest.raises(FolderError):
        claim_folder(tmp_path, "training run", lambda folder: False)
    claim_folder(tmp_path, "training run", lambda folder: (folder / "state").exists())
    claim_folder(tmp_path, "training run")


@pytest.mark.parametrize("text", ["mine", "[]", '{"project": "other", "kind": "demo"}', "[" * 100_000])
def test_a_marker_that_is_not_ours_is_no_permission(tmp_path, text):
    (tmp_path / MARKER).write_text(text)
    with pytest.raises(FolderError, match="damaged or not of this project"):
        claim_folder(tmp_path, "demo")
    assert (tmp_path / MARKER).read_text() == text


def test_a_file_in_the_place_of_a_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(FolderError, match="is a file; name a folder"):
        claim_folder(tmp_path / "file", "demo")


def test_only_marked_folders_are_emptied_and_links_are_not_followed(tmp_path):
    precious, ours = tmp_path / "precious", tmp_path / "ours"
    precious.mkdir()
    (precious / "a").write_text("a")
    with pytest.raises(FolderError, match="has no file"):
        remove_from(precious, ["a"])
    claim_folder(ours, "demo")
    (ours / "bag").symlink_to(precious)
    (ours / "logs").mkdir()
    (ours / "logs" / "x").write_text("x")
    (ours / "notes").write_text("of the user")
    remove_from(ours, ["bag", "logs", "missing"])
    assert sorted(p.name for p in ours.iterdir()) == [MARKER, "notes"]
    assert (precious / "a").read_text() == "a"


# Files --------------------------------------------------------------------------------------------------


def test_a_file_is_overwritten_only_if_it_is_of_the_kind_that_comes(tmp_path):
    path = tmp_path / "out.json"
    check_output_file(path, b'"ours"')
    path.touch()
    check_output_file(path, b'"ours"')
    path.write_text('{"ours": 1}')
    check_output_file(path, b'"ours"')
    path.write_text("mine")
    with pytest.raises(FolderError, match="--json .*out.json: exists and was not written by this command"):
        check_output_file(path, b'"ours"', option="--json")
    with pytest.raises(FolderError, match="is a folder; name a file"):
        check_output_file(tmp_path, b"x")
    check_output_file("/dev/null", b"x")


# Locks --------------------------------------------------------------------------------------------------


def holder(folder):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "in\n"
    return process


def test_a_second_process_is_refused_and_a_killed_one_does_not_block(tmp_path):
    folder = tmp_path / "run"
    first = holder(folder)
    try:
        with (
            pytest.raises(FolderInUseError) as refused,
            output_folder(folder, "demo"),
        ):
            pytest.fail("two processes write one folder")
        text = str(refused.value)
        assert f"process {first.pid} on {socket.gethostname()}" in text and " since 20" in text
        assert str(folder) in text
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait(20)
    with output_folder(folder, "demo"):
        assert json.loads((folder / LOCK).read_text())["pid"] == os.getpid()
        with pytest.raises(FolderInUseError, match=f"process {os.getpid()}"), output_folder(folder, "demo"):
            pass
    with holder(folder) as third:
        third.kill()


def test_an_error_gives_the_folder_back(tmp_path):
    with pytest.raises(KeyError), output_folder(tmp_path / "x", "demo"):
        raise KeyError
    with output_folder(tmp_path / "x", "demo"):
        pass


def test_a_file_system_without_locks_is_an_error_that_says_so(tmp_path, monkeypatch):
    def no_locks(self):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(output.FileLock, "acquire", no_locks)
    with pytest.raises(OSError, match="cannot be locked: Function not implemented"):
        with output_folder(tmp_path, "demo"):
            pass
