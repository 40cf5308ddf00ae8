"""A policy that fails or is too slow once it drives is replaced by the one before, in the very same decision."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marlgpt_policy.policy.onnx_policy import PolicyError, PolicyLate, PolicyOutput
from marlgpt_policy.policy.policy_swap import PROBATION, SLOW_DECISIONS, SLOWER, PolicySwap

OBSERVED = (np.zeros((3, 4), np.float32), np.ones((3, 4), bool), np.ones((3, 20), bool))


class Clock:
    """Stands still until a policy takes its time."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def stub(name, clock=None, seconds=0.0, fails=False, late=False):
    """A policy that takes so many seconds, fails as a broken file does, or is too late."""

    def answer(values, valid, mask):
        if clock:
            clock.now += policy.seconds
        if policy.late:
            raise PolicyLate(f"policy {name}: no answer within 40 ms")
        if policy.fails:
            raise PolicyError(f"policy {name}: non-finite logits")
        logits = np.full((len(values), 20), float(len(name)), np.float32)
        return PolicyOutput(logits, logits, logits[:, :5])

    class Stub(SimpleNamespace):
        def __call__(self, *observed):
            return answer(*observed)

        def check(self):
            if self.fails:
                raise PolicyError(f"policy {name}: no answer within 2 s")

        def close(self):
            self.alive = False

    policy = Stub(
        name=name, path=name, seconds=seconds, fails=fails, late=late, sha256=name * 2, provider="CPU", alive=True
    )  # fmt: skip
    return policy


def shortest(values, valid, mask):
    """A stand-in that says that it was asked."""
    return PolicyOutput(*(np.full((len(values), 20), -1.0, np.float32),) * 3)


def test_a_policy_that_fails_hands_the_same_decision_to_the_one_before():
    told = []
    swap = PolicySwap(stub("old"), 0.05, lambda failed, reason: told.append((failed, reason)))
    swap.swap(stub("newer", fails=True))
    assert swap.name == "newer"
    output = swap(*OBSERVED)
    assert (output.logits == len("old")).all() and swap.name == "old" and swap.sha256 == "oldold"
    assert swap.rollbacks == 1 and "non-finite" in swap.reason
    assert told == [("newer", swap.reason)] and swap.previous is None


def test_without_a_policy_before_the_failure_is_the_callers():
    swap = PolicySwap(stub("only", fails=True), 0.05)
    with pytest.raises(PolicyError, match="non-finite"):
        swap(*OBSERVED)
    assert swap.rollbacks == 0


def test_one_that_fails_late_is_rolled_back_too():
    swap, late = PolicySwap(stub("old"), 0.05), stub("late")
    swap.swap(late)
    for _ in range(2 * PROBATION):
        swap(*OBSERVED)
    late.fails = True
    assert (swap(*OBSERVED).logits == len("old")).all() and swap.rollbacks == 1


@settings(max_examples=60, deadline=None)
@given(
    usual=st.floats(0.001, 0.5), slowest=st.floats(0.01, 0.2), factor=st.floats(0.1, 10),
    late=st.integers(0, PROBATION),
)  # fmt: skip
def test_slow_means_slower_than_the_period_and_than_before(usual, slowest, factor, late):
    clock = Clock()
    swap = PolicySwap(stub("old", clock, usual), slowest, clock=clock)
    for _ in range(10):
        swap(*OBSERVED)
    new = stub("new", clock, usual)
    swap.swap(new)
    for _ in range(late):
        swap(*OBSERVED)
    new.seconds = usual * factor
    limit = max(slowest, SLOWER * usual)
    if abs(new.seconds - limit) < 1e-6:
        return
    for _ in range(SLOW_DECISIONS):
        swap(*OBSERVED)
    slow = new.seconds > limit and late + SLOW_DECISIONS <= PROBATION
    assert swap.name == ("old" if slow else "new") and swap.rollbacks == int(slow)
    if slow:
        assert "took too long" in swap.reason


def test_slow_ones_among_fast_ones_are_forgiven():
    clock = Clock()
    swap, new = PolicySwap(stub("old", clock, 0.001), 0.05, clock=clock), stub("new", clock)
    swap(*OBSERVED)
    swap.swap(new)
    for k in range(100):
        new.seconds = 0.001 if k % SLOW_DECISIONS == 0 else 1.0
        swap(*OBSERVED)
    assert swap.name == "new" and swap.rollbacks == 0


def test_a_decision_for_nobody_says_nothing_of_speed():
    clock = Clock()
    swap = PolicySwap(stub("old", clock, 0.001), 0.05, clock=clock)
    swap.swap(stub("new", clock, 9.0))
    for _ in range(20):
        swap(*(array[:0] for array in OBSERVED))
    assert swap.name == "new"


def test_a_late_decision_is_taken_by_the_stand_in_and_the_policy_stays():
    late = stub("late", late=True)
    swap = PolicySwap(late, 0.05, stand_in=shortest)
    for k in range(2 * SLOW_DECISIONS):  # there is none to go back to
        assert (swap(*OBSERVED).logits == -1).all() and swap.late == k + 1
    late.late = False
    assert (swap(*OBSERVED).logits == len("late")).all() and swap.rollbacks == 0


def test_one_that_is_late_again_and_again_is_rolled_back_and_ended():
    told, new = [], stub("new", late=True)
    swap = PolicySwap(stub("old"), 0.05, lambda *what: told.append(what), stand_in=shortest)
    swap.swap(new)
    for _ in range(SLOW_DECISIONS):
        assert (swap(*OBSERVED).logits == -1).all() and swap.name == ("new" if not told else "old")
    assert told == [("new", swap.reason)] and "no answer in time" in swap.reason
    assert not new.alive and (swap(*OBSERVED).logits == len("old")).all()


def test_after_the_probation_only_silence_is_a_reason_to_go_back():
    new = stub("new")
    swap = PolicySwap(stub("old"), 0.05, stand_in=shortest)
    swap.swap(new)
    for _ in range(PROBATION):
        swap(*OBSERVED)
    new.late = True
    for _ in range(3 * SLOW_DECISIONS):
        swap(*OBSERVED)
    assert swap.name == "new"
    new.fails, new.late = True, False  # as a process that was ended, because it did not answer for long
    assert (swap(*OBSERVED).logits == len("old")).all() and swap.rollbacks == 1


def test_policies_that_are_not_gone_back_to_any_more_are_ended():
    policies = [stub(name) for name in ("first", "second", "third")]
    swap = PolicySwap(policies[0], 0.05)
    swap.swap(policies[1])
    assert [policy.alive for policy in policies] == [True] * 3
    swap.swap(policies[2])
    assert [policy.alive for policy in policies] == [False, True, True]
    swap.close()
    assert not any(policy.alive for policy in policies)


def test_a_policy_that_was_ended_is_not_gone_back_to():
    dead, new = stub("dead"), stub("new")
    dead.alive = False
    swap = PolicySwap(dead, 0.05)
    swap.swap(new)
    assert swap.previous is None
    new.fails = True
    with pytest.raises(PolicyError, match="non-finite"):
        swap(*OBSERVED)


def test_the_last_observations_are_kept_to_try_the_next_policy_out_on():
    swap = PolicySwap(stub("only"), 0.05)
    for k in range(9):
        swap(np.full((k, 4), k, np.float32), np.ones((k, 4), bool), np.ones((k, 20), bool))
    assert [len(values) for values, _, _ in swap.recent] == [5, 6, 7, 8]


def test_a_stuck_policy_is_found_out_while_nobody_asks_it():
    old, new = stub("old"), stub("new")
    swap = PolicySwap(old, 0.05)
    swap.swap(new)
    swap.watch()
    assert swap.name == "new"
    new.fails = True
    swap.watch()
    assert swap.name == "old" and "no answer within 2 s" in swap.reason and not new.alive
    old.fails = True
    swap.watch()  # there is none to go back to: the next decision tells
    assert swap.rollbacks == 1
