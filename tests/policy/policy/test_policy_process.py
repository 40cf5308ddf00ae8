"""A policy in a process of its own: the same answers, and nothing that a file does is waited for longer than agreed."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from bad_policies import GOAL_COLUMN, GOAL_ROW, endless_load, endless_on_observations, endless_towards
from fleet_bench import write_policy
from marlgpt_policy.encoders.token_layout import POGEMA_LAYOUT
from marlgpt_policy.policy.onnx_policy import OnnxPolicy, PolicyError, PolicyLate
from marlgpt_policy.policy.policy_process import LEAST_ROWS, PolicyProcess
from marlgpt_policy.policy.probes import SIDE, sample
from marlgpt_policy.policy.shipped_files import shipped_policy

CPU = ("CPUExecutionProvider",)
HARM = (0, -4)
"""Rows and columns to the goal that the bad policies act up for."""


def start(path, **options):
    return PolicyProcess(path, POGEMA_LAYOUT, CPU, 1, **options)


def observed(robots=3, harmful=False, seed=0):
    """Observations of robots, of whose goals one lies where the bad policies act up, or none."""
    values, valid, mask = (array.copy() for array in sample(None, max(2, robots), seed)[1])
    values[:, GOAL_ROW] = 0.5
    if harmful:
        values[0, [GOAL_ROW, GOAL_COLUMN]] = np.array(HARM) / 20
    return values[:robots], valid[:robots], mask[:robots]


def ended(pid):
    """Whether a process is gone, or only waits to be noticed."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] in "ZX"
    except FileNotFoundError:
        return True


def assert_ends(pid, seconds=5.0):
    end = time.monotonic() + seconds
    while not ended(pid):
        assert time.monotonic() < end, f"process {pid} goes on"
        time.sleep(0.01)


@pytest.mark.parametrize("robots", [0, 1, 7, LEAST_ROWS, LEAST_ROWS + 1, 200, 3])
def test_answers_are_those_of_the_same_file_in_this_process_bit_by_bit(shipped, robots):
    direct, process = shipped
    batch = sample(None, robots, seed=robots)[1] if robots > 1 else observed(robots)
    for name in ("logits", "q", "probabilities"):
        here, there = getattr(direct(*batch), name), getattr(process(*batch), name)
        assert here.dtype == there.dtype and here.shape == there.shape and (here == there).all()
    assert (process.sha256, process.provider, process.metadata, process.name) == (
        direct.sha256, direct.provider, direct.metadata, direct.name,
    )  # fmt: skip


@pytest.fixture(scope="module")
def shipped():
    process = start(shipped_policy(), wait=10.0).wait_loaded(30)
    yield OnnxPolicy(shipped_policy(), POGEMA_LAYOUT, CPU, 1), process
    process.close()


def test_a_load_that_never_ends_is_ended(tmp_path):
    policy = start(endless_load(tmp_path / "endless.onnx"))
    begun = time.monotonic()
    with pytest.raises(
        PolicyError, match=r"endless\.onnx: loading it and a first inference took longer than 1 s"
    ):
        policy.wait_loaded(1.0)
    assert time.monotonic() - begun < 2.0 and not policy.alive
    assert_ends(policy.pid)


def test_a_model_that_answers_zeros_only_is_found_out_by_what_robots_see(tmp_path):
    policy = start(endless_on_observations(tmp_path / "sly.onnx")).wait_loaded(30)
    with pytest.raises(
        PolicyError, match=r"sly\.onnx: trying it out on observations took longer than 0\.5 s"
    ):
        policy.try_out(sample(None, 16), 0.5)
    assert_ends(policy.pid)


def test_a_decision_that_never_comes_is_late_and_then_given_up(tmp_path):
    policy = start(endless_towards(tmp_path / "stuck.onnx", *HARM), wait=0.04, give_up=0.3).wait_loaded(30)
    policy.try_out(sample(None, 16), 30)
    policy(*observed())
    begun = time.monotonic()
    with pytest.raises(PolicyLate, match="no answer within 40 ms"):
        policy(*observed(harmful=True))
    assert 0.04 <= time.monotonic() - begun < 0.2
    with pytest.raises(PolicyLate, match="no answer for"):  # nothing else is asked, and nobody waits
        policy(*observed())
    time.sleep(0.35)
    with pytest.raises(PolicyError, match=r"no answer within 0\.3 s, its process was ended"):
        policy(*observed())
    assert not policy.alive
    assert_ends(policy.pid)
    with pytest.raises(PolicyError, match="load a policy with fleet/load_policy"):
        policy(*observed())


def test_an_answer_that_comes_too_late_is_thrown_away(tmp_path):
    """The next one asked for is that of its own observations."""
    path = endless_towards(tmp_path / "slow.onnx", *HARM, many=200_000)
    direct, policy = (
        OnnxPolicy(path, POGEMA_LAYOUT, CPU, 1),
        start(path, wait=0.02, give_up=60).wait_loaded(30),
    )
    late, answered = 0, None
    with pytest.raises(PolicyLate):
        policy(*observed(harmful=True))
    end = time.monotonic() + 30
    while answered is None and time.monotonic() < end:
        try:
            answered = policy(*observed(seed=1))
        except PolicyLate:
            late += 1
            time.sleep(0.01)
    assert answered is not None and late
    assert (answered.logits == direct(*observed(seed=1)).logits).all()
    assert not (answered.logits == direct(*observed()).logits).all()
    policy.close()


@pytest.mark.parametrize("how", [signal.SIGSEGV, signal.SIGKILL])
def test_a_process_that_ends_by_itself_is_reported_and_not_waited_for(tmp_path, how):
    policy = start(write_policy(tmp_path / "good.onnx")).wait_loaded(30)
    os.kill(policy.pid, how)
    assert_ends(policy.pid)
    begun = time.monotonic()
    with pytest.raises(PolicyError, match=f"good.onnx: its process ended by {how.name}"):
        policy(*observed())
    assert time.monotonic() - begun < 0.5 and not policy.alive


def test_what_a_file_is_refused_for_is_told(tmp_path):
    for path, reason in ((tmp_path / "none.onnx", "no such file"), (tmp_path / "bad.onnx", "not a model")):
        (tmp_path / "bad.onnx").write_bytes(b"no model at all")
        policy = start(path)
        with pytest.raises(PolicyError, match=f"{path.name}: .*{reason}"):
            policy.wait_loaded(30)
        assert_ends(policy.pid)


def test_processes_end_with_the_one_that_started_them_even_if_a_model_never_returns(tmp_path):
    path = endless_load(tmp_path / "endless.onnx")
    code = f"""if True:
        import sys, time
        sys.path[:0] = {sys.path!r}
        from marlgpt_policy.encoders.token_layout import POGEMA_LAYOUT
        from marlgpt_policy.policy.policy_process import PolicyProcess
        policy = PolicyProcess({str(path)!r}, POGEMA_LAYOUT, {CPU!r}, 1)
        print(policy.pid, flush=True)
        time.sleep(600)
    """
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    with parent:
        pid = int(parent.stdout.readline())
        time.sleep(1.5)  # until it multiplies
        assert not ended(pid)
        parent.kill()
    assert_ends(pid)


def test_samples_are_observations_of_the_map_at_hand():
    moves = np.zeros((3, 60, 5), dtype=bool)
    assert sample(moves, 4) == []
    moves[1, :, 0], moves[1, 1:, 3], moves[1, :-1, 4] = True, True, True  # a corridor
    one, all_ = sample(moves, 4)
    assert len(one[0]) == 1 and len(all_[0]) == 4
    assert not all_[2][:, 1:3].any() and all_[2][:, 0].all(), "nobody leaves the corridor"
    assert len(sample(moves, 100)[1][0]) == SIDE // 2
    assert [len(batch[0]) for batch in sample(None, 128)] == [1, 128]
