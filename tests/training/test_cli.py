"""The ``marlgpt`` command: help, exit codes, messages."""

import re
import subprocess
import sys

import pytest
from marlgpt_training import cli


def test_bare_command_and_help_list_all_commands(capsys):
    assert cli.main([]) == 2
    bare = capsys.readouterr().out
    for flag in ("-h", "--help"):
        assert cli.main([flag]) == 0
        assert capsys.readouterr().out == bare
    listed = re.findall(r"^  (\S+)  +\S", bare, flags=re.M)
    assert listed == list(cli.COMMANDS)
    assert {"demo", "collect", "train", "evaluate", "export", "map"} <= set(listed)


def test_unknown_command(capsys):
    assert cli.main(["fly"]) == 2
    said = capsys.readouterr()
    assert "marlgpt: unknown command 'fly'" in said.err and "  train" in said.err and not said.out


@pytest.mark.parametrize("command", ["collect", "train", "evaluate", "export"])
def test_help_of_a_command_lists_its_options(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main([command, "--help"])
    said = capsys.readouterr().out
    assert stopped.value.code == 0 and f"marlgpt {command}" in said and "(default: " in said


@pytest.mark.parametrize("extra", [["--steps", "many"], ["--no-such-option", "1"]])
def test_wrong_option_exits_2(extra, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["train", *extra])
    assert stopped.value.code == 2
    assert extra[0] in capsys.readouterr().err


def test_bad_input_exits_1_with_the_message(tmp_path, capsys):
    assert (
        cli.main(["export", "--checkpoint", str(tmp_path / "no.safetensors"), "--out", str(tmp_path / "a")])
        == 1
    )
    said = capsys.readouterr().err
    assert said.startswith("marlgpt export: ") and "no.safetensors: not a readable checkpoint" in said
    empty = ["--store", str(tmp_path / "empty"), "--out", str(tmp_path / "run"), "--device", "cpu"]
    assert cli.main(["train", *empty]) == 1
    expected = f"marlgpt train: {tmp_path / 'empty'}: no readable shard. Run marlgpt collect first.\n"
    assert capsys.readouterr().err == expected
    assert cli.main(["train", *empty, "--preset", "huge"]) == 1
    expected = "marlgpt train: unknown preset 'huge'; choose one of paper, small, tiny\n"
    assert capsys.readouterr().err == expected


def test_real_process_collects_and_refuses(tmp_path):
    command = [sys.executable, "-m", "marlgpt_training.cli", "collect", "--out", str(tmp_path)]
    small = ["--shards", "1", "--episodes", "1", "--steps", "3", "--workers", "1"]
    done = subprocess.run([*command, *small], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "1 shards" in done.stdout and (tmp_path / "lns-0-00000.parquet").is_file()
    refused = subprocess.run([*command, "--expert", "cbs"], capture_output=True, text=True, timeout=120)
    assert refused.returncode == 1 and "--expert cbs: choose lns or pibt" in refused.stderr
