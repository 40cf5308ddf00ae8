"""Loss terms: their formulas on hand-made numbers, and nothing leaks from padding or forbidden moves."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from marlgpt_policy.encoders.token_layout import POGEMA_LAYOUT as LAYOUT
from marlgpt_training.dataloader.sample_stream import SampleStream
from marlgpt_training.dataloader.sampling import SamplingConfig
from marlgpt_training.model import losses
from marlgpt_training.model.losses import LossConfig, Objective
from marlgpt_training.model.model import MASKED, MarlGpt, ModelConfig

ALL = LossConfig(bc=1.0, td=1.0, conservative=0.5, advantage=0.3)
MASK = torch.tensor([[True, True, False, True], [True, False, False, False]])


def test_behaviour_cloning_is_cross_entropy_and_ignores_what_cannot_be_a_label():
    logits = torch.tensor([[1.0, 2.0, MASKED, 0.0]]).repeat(3, 1)
    mask = MASK[:1].repeat(3, 1)
    found = losses.behaviour_cloning(logits, torch.tensor([1, -1, 2]), mask)
    expected = -np.log(np.exp(2) / (np.exp(1) + np.exp(2) + 1))
    assert found.tolist() == pytest.approx([expected, 0, 0], abs=1e-6)


def test_policy_value_averages_over_allowed_moves():
    logits = torch.tensor([[0.0, np.log(2.0), 5.0, 0.0], [1.0, 9.0, 9.0, 9.0]])
    q = torch.tensor([[1.0, 2.0, 1e6, 3.0], [0.5, 1e6, -1e6, 7.0]])
    assert losses.policy_value(logits, q, MASK).tolist() == pytest.approx([(1 + 4 + 3) / 4, 0.5])


def test_td_target_stops_at_an_end():
    y = losses.td_target(torch.tensor([1.0, 1.0]), torch.tensor([0.9, 0.0]), torch.tensor([2.0, 2.0]))
    assert y.tolist() == pytest.approx([2.8, 1.0])


def test_temporal_difference_looks_at_the_executed_move_only():
    bins = torch.linspace(0, 1, 3)
    logits = torch.zeros(1, 2, 3)
    logits[0, 1] = torch.tensor([0.0, 1.0, 2.0])
    found = losses.temporal_difference(logits, torch.tensor([1]), torch.tensor([0.25]), bins, "two-hot")
    logs = torch.log_softmax(logits[0, 1], 0)
    assert float(found) == pytest.approx(-0.5 * float(logs[0] + logs[1]), abs=1e-6)
    logits[0, 0] = torch.tensor([50.0, -50.0, 3.0])
    again = losses.temporal_difference(logits, torch.tensor([1]), torch.tensor([0.25]), bins, "two-hot")
    assert torch.equal(found, again)


@given(value=st.floats(-1, 3), low=st.floats(-2, 0), width=st.floats(0.5, 4), count=st.integers(2, 40))
@settings(max_examples=60, deadline=None)
def test_value_distributions_sum_to_one_and_mean_the_value(value, low, width, count):
    bins = torch.linspace(low, low + width, count)
    clipped = min(max(value, low), low + width)
    two_hot = losses.two_hot(torch.tensor([value]), bins)
    assert float(two_hot.sum()) == pytest.approx(1, abs=1e-5) and (two_hot >= 0).all()
    assert int((two_hot > 0).sum()) <= 2
    assert float((two_hot * bins).sum()) == pytest.approx(clipped, abs=1e-4 * max(1, width))
    gauss = losses.hl_gauss(torch.tensor([value]), bins)
    assert float(gauss.sum()) == pytest.approx(1, abs=1e-5) and (gauss >= -1e-7).all()
    step = width / (count - 1)
    if low + 3 * step < clipped < low + width - 3 * step:  # away from the ends, where the tail is cut off
        assert float((gauss * bins).sum()) == pytest.approx(clipped, abs=0.02 * step + 1e-4)


def test_conservative_term_is_small_where_the_data_move_is_best():
    q = torch.tensor([[0.0, 9.0, 1e6, 0.0], [2.0, 1e6, 1e6, 1e6]])
    found = losses.conservative(q, torch.tensor([1, 0]), MASK)
    assert found.tolist() == pytest.approx([np.log(np.exp(9) + 2) - 9, 0.0], abs=1e-5)
    worse = losses.conservative(q, torch.tensor([0, 0]), MASK)
    assert float(worse[0]) > 8.9


def test_conservative_term_leaves_out_moves_that_were_forbidden_or_are_unknown():
    q = torch.randn(2, 4, requires_grad=True)
    found = losses.conservative(q, torch.tensor([2, -1]), MASK)
    found.sum().backward()
    assert found.tolist() == [0, 0] and not q.grad.any()


@pytest.mark.parametrize("move", [4, 7, -1])
def test_executed_moves_that_the_mask_forbids_count_in_no_term(batch, move):
    """A blocked move, one that the game does not have, or none: as if the sample were not there."""
    objective, tensors = build(), batch.tensors("cpu")
    tensors["action"][::2] = move
    if 0 <= move < 5:
        tensors["mask"][::2, move] = False
        tensors["label"][::2] = -1
    rest = {name: tensor[1::2] for name, tensor in tensors.items()}
    for name in ("td", "conservative", "advantage"):
        found, expected = objective(tensors)[1][name], objective(rest)[1][name]
        assert float(found) == pytest.approx(float(expected), rel=1e-5) and float(expected) > 0, name


@pytest.mark.parametrize("reading", ["entity", "scalar"])
def test_nan_in_invalid_values_changes_neither_loss_nor_gradient(batch, reading):
    objective, tensors = build(reading), batch.tensors("cpu")
    total, _ = objective(tensors)
    total.backward()
    before = gradients(objective)
    for prefix in ("", "next_"):
        tensors[f"{prefix}values"][~tensors[f"{prefix}valid"]] = float("nan")
    objective.zero_grad()
    again, _ = objective(tensors)
    again.backward()
    assert torch.equal(again, total)
    for name, gradient in gradients(objective).items():
        assert torch.equal(gradient, before[name]), name


def test_advantage_weights_are_exponential_clipped_and_without_gradient():
    logits = torch.zeros(1, 4, requires_grad=True)
    q = torch.tensor([[1.0, 0.0, 5.0, 0.5]], requires_grad=True)
    mean = 0.5
    found = losses.advantage_weighted(logits, q, torch.tensor([0]), MASK[:1], beta=0.5, clip=20)
    uniform = float(np.log(4))  # the mask of this test's logits is applied by the model, not here
    assert float(found.detach()) == pytest.approx(np.exp((1 - mean) / 0.5) * uniform, abs=1e-5)
    found.sum().backward()
    assert q.grad is None and logits.grad.abs().sum() > 0
    clipped = losses.advantage_weighted(logits, 100 * q, torch.tensor([0]), MASK[:1], beta=0.5, clip=20)
    assert float(clipped.detach()) == pytest.approx(20 * uniform, abs=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bc": -1.0}, "'bc' is -1.0"),
        ({"td": float("nan")}, "'td' is nan"),
        ({"bc": 0.0}, "all loss weights are 0"),
        ({"target": "mean"}, "choose two-hot or hl-gauss"),
        ({"gamma": 1.0}, "gamma"),
        ({"td_steps": 0}, "td_steps"),
        ({"beta": 0.0}, "beta"),
    ],
)
def test_impossible_settings_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        LossConfig(**change)


@pytest.fixture(scope="module")
def batch(shard):
    drawing = SamplingConfig(transitions=True, td_steps=2)
    return SampleStream(shard.parent, 0, drawing=drawing).next(48)


def build(reading="entity", config=ALL):
    torch.manual_seed(3)
    model = MarlGpt(ModelConfig(width=32, heads=2, shared=1, reading=reading, value_range=(0.0, 2.0)), LAYOUT)
    target = MarlGpt(model.config, LAYOUT)
    for network in (model, target):
        for parameter in network.parameters():
            parameter.data.mul_(6 if parameter.dim() >= 2 else 1)
    return Objective(model, config, target)


def gradients(objective):
    return {n: p.grad.clone() for n, p in objective.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("reading", ["entity", "scalar"])
def test_padding_and_forbidden_moves_leak_into_no_term(batch, reading):
    """Garbage in padded values and in the heads' rows of forbidden moves changes neither loss nor gradient."""
    objective = build(reading)
    clean = batch.tensors("cpu")
    total, terms = objective(clean)
    total.backward()
    before = gradients(objective)
    assert set(terms) == {"bc", "td", "conservative", "advantage", "hits", "labelled"}
    assert all(float(terms[name]) > 0 for name in losses.TERMS)

    dirty = {name: tensor.clone() for name, tensor in clean.items()}
    for prefix in ("", "next_"):
        padded = ~dirty[f"{prefix}valid"]
        dirty[f"{prefix}values"][padded] = 123.0
    model = objective.model
    objective.zero_grad()
    with torch.no_grad():  # moves 5..19 do not exist in POGEMA: their outputs must not matter
        for network in (model, objective.target):
            network.actor_head.weight[5:] = 77.0
            network.critic_head.weight[5 * model.config.bins :] = -55.0
    again, terms_again = objective(dirty)
    again.backward()
    assert {n: float(v) for n, v in terms_again.items()} == {n: float(v) for n, v in terms.items()}
    for name, gradient in gradients(objective).items():
        torch.testing.assert_close(gradient, before[name], msg=name)
    assert (before["actor_head.weight"][5:] == 0).all()
    assert (before["critic_head.weight"][5 * model.config.bins :] == 0).all()


def test_a_batch_may_be_cut_in_any_way(batch):
    objective = build()
    whole, terms = objective(batch.tensors("cpu"))
    parts = [
        objective(batch.take(piece).tensors("cpu")) for piece in np.array_split(np.arange(len(batch)), 5)
    ]
    assert float(sum(total for total, _ in parts)) == pytest.approx(float(whole), rel=1e-5)
    for name, value in terms.items():
        assert float(sum(found[name] for _, found in parts)) == pytest.approx(float(value), rel=1e-5)


def test_terms_can_be_switched_off_and_then_cost_and_train_nothing(batch):
    objective = build(config=LossConfig())
    total, terms = objective(batch.tensors("cpu"))
    total.backward()
    assert set(terms) == {"bc", "hits", "labelled"}
    assert not any("critic" in name for name in gradients(objective))
    critic_only = build(config=LossConfig(bc=0.0, td=1.0))
    total, terms = critic_only(batch.tensors("cpu"))
    total.backward()
    assert "bc" not in terms and not any("actor" in name for name in gradients(critic_only))
    assert any("critic_head" in name for name in gradients(critic_only))


def test_weights_scale_the_sum_and_the_target_network_gets_no_gradient(batch):
    objective = build()
    total, terms = objective(batch.tensors("cpu"))
    expected = sum(getattr(ALL, name) * float(terms[name]) for name in losses.TERMS)
    assert float(total) == pytest.approx(expected, rel=1e-5)
    total.backward()
    assert all(p.grad is None for p in objective.target.parameters())
    assert "target" not in dict(objective.named_modules())


def test_critic_learns_the_values_of_a_small_chain():
    """TD with a moving target converges to the discounted returns of a two-step chain."""
    bins = torch.linspace(0, 2, 20)
    table = torch.zeros(3, 1, 20, requires_grad=True)  # states 0 -> 1 -> end, reward 1 at the end
    optimiser = torch.optim.Adam([table], lr=0.3)
    action, reward = torch.zeros(2, dtype=torch.long), torch.tensor([0.0, 1.0])
    bootstrap = torch.tensor([0.9, 0.0])
    for _ in range(200):
        q = (table.softmax(-1) * bins).sum(-1)[:, 0].detach()
        y = losses.td_target(reward, bootstrap, q[1:])
        loss = losses.temporal_difference(table[:2], action, y, bins, "hl-gauss").sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    q = (table.softmax(-1) * bins).sum(-1)[:, 0]
    assert q[:2].tolist() == pytest.approx([0.9, 1.0], abs=0.05)


def test_loss_settings_are_plain_values():
    assert dataclasses.asdict(ALL)["td"] == 1.0 and not LossConfig().uses_critic and ALL.uses_critic
