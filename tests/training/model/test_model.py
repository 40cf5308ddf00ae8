"""The model: sizes, masks, padding, and that its shortcuts change nothing."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from marlgpt_policy.encoders.registry import layout_named
from marlgpt_policy.encoders.token_layout import ATTRIBUTES, POGEMA_LAYOUT, TokenLayout
from marlgpt_training.dataloader.sample_stream import SampleStream
from marlgpt_training.dataloader.samples import expand
from marlgpt_training.model.checkpoint import torch_forward
from marlgpt_training.model.losses import LossConfig, Objective
from marlgpt_training.model.model import (
    ENVIRONMENTS,
    MASKED,
    PRESETS,
    READINGS,
    Block,
    EntityEmbedding,
    MarlGpt,
    ModelConfig,
    ScalarEmbedding,
    preset,
)
from torch.nn import functional as F

L = len(POGEMA_LAYOUT)
SHAPES = {"scalar": (L, 32), "entity": (14, 32)}


def inputs(n=5, seed=0):
    """Random values with marks, holes (never the environment token) and action masks."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(n, L, generator=generator) * 2 - 1
    marks = torch.rand(n, L, generator=generator)
    values[marks < 0.1], values[marks > 0.95] = -2.0, 2.0
    valid = torch.rand(n, L, generator=generator) < 0.7
    valid[:, -1] = True
    mask = torch.zeros(n, 20, dtype=torch.bool)
    mask[:, 0] = True
    mask[:, 1:5] = torch.rand(n, 4, generator=generator) < 0.6
    return values, valid, mask


@pytest.fixture(scope="module")
def real(shard):
    """Real observations: values, valid, mask."""
    samples = SampleStream(shard.parent, 0).next(40)
    packed, masks = samples.packed, samples.masks
    values, valid = (torch.from_numpy(a) for a in expand(packed))
    mask = torch.zeros(len(values), 20, dtype=torch.bool)
    mask[:, :5] = torch.from_numpy(masks)
    return values, valid, mask


def test_paper_preset_has_the_papers_size():
    assert MarlGpt(preset("paper", "scalar"), POGEMA_LAYOUT).parameters_count() == 7_232_256


def test_presets_are_copies_with_the_reading_asked_for():
    mine = preset("tiny", "scalar")
    mine.width = 1
    assert PRESETS["tiny"].width == preset("tiny").width == 128
    assert preset("tiny").reading == "entity" and preset("small", "scalar").reading == "scalar"
    restored = ModelConfig(**{**mine.to_dict(), "value_range": (0.0, 1.0)})
    assert restored == mine


def test_unknown_preset_reading_and_uneven_heads():
    with pytest.raises(ValueError, match="'huge'; choose one of paper, small, tiny"):
        preset("huge")
    with pytest.raises(ValueError, match="unknown reading 'words'; choose scalar or entity"):
        MarlGpt(ModelConfig(32, 2, 1, "words"), POGEMA_LAYOUT)
    with pytest.raises(ValueError, match="width 32 is not a multiple of 3 heads"):
        MarlGpt(ModelConfig(32, 3, 1), POGEMA_LAYOUT)


@pytest.mark.parametrize("reading", READINGS)
def test_shapes(small_model, reading):
    values, valid, mask = inputs()
    model = small_model(reading)
    tokens, keys = model.embed(values, valid)
    assert tokens.shape == (5, *SHAPES[reading]) and keys.shape == tokens.shape[:2]
    assert keys[:, -1].all()
    logits, q = model(values, valid, mask)
    assert logits.shape == q.shape == (5, 20)
    assert model.critic(*model.trunk_forward(values, valid)).shape == (5, 20, 20)
    assert ((q >= 0) & (q <= 1)).all()


@pytest.mark.parametrize("reading", READINGS)
@given(seed=st.integers(0, 10**6))
@settings(max_examples=10, deadline=None)
def test_masked_actions_and_only_they_are_at_the_mark(small_model, reading, seed):
    values, valid, mask = inputs(4, seed)
    logits, _ = small_model(reading)(values, valid, mask)
    assert (logits[~mask] == MASKED).all() and (logits[mask].abs() < 1e3).all()
    open_logits, _ = small_model(reading)(values, valid, torch.ones_like(mask))
    assert torch.equal(open_logits[mask], logits[mask])


@pytest.mark.parametrize("reading", READINGS)
@given(
    seed=st.integers(0, 10**6),
    fill=st.floats(-1e4, 1e4, width=32) | st.sampled_from([float("nan"), float("inf"), float("-inf")]),
)
@settings(max_examples=10, deadline=None)
def test_padding_never_changes_the_output(small_model, reading, seed, fill):
    values, valid, mask = inputs(3, seed)
    other = torch.where(valid, values, torch.tensor(fill))
    model = small_model(reading)
    for one, two in zip(model(values, valid, mask), model(other, valid, mask), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("reading", READINGS)
def test_every_valid_value_can_change_the_output(small_model, reading):
    """Nothing is silently dropped: the gradient reaches every value of the layout."""
    values = (torch.rand(8, L) * 1.6 - 0.8).requires_grad_()
    logits, _ = small_model(reading)(
        values, torch.ones(8, L, dtype=torch.bool), torch.ones(8, 20, dtype=torch.bool)
    )
    logits.square().sum().backward()
    assert (values.grad.abs().sum(dim=0) > 0).all()


@pytest.mark.parametrize("reading", READINGS)
def test_one_robot_does_not_depend_on_the_rest_of_the_batch(small_model, reading):
    values, valid, mask = inputs(6)
    model = small_model(reading)
    whole = model(values, valid, mask)[0]
    alone = torch.cat([model(values[i : i + 1], valid[i : i + 1], mask[i : i + 1])[0] for i in range(6)])
    torch.testing.assert_close(whole, alone, atol=1e-4, rtol=1e-4)


def test_last_only_equals_the_last_token_of_the_full_computation():
    torch.manual_seed(1)
    block = Block(32, 4).eval()
    for parameter in block.parameters():
        if parameter.dim() == 2:
            parameter.data.mul_(4)
    x = torch.randn(3, 11, 32)
    bias = torch.zeros(3, 1, 1, 11).masked_fill(torch.rand(3, 1, 1, 11) < 0.3, MASKED)
    full, last = block(x, bias), block(x, bias, last_only=True)
    assert full.shape == (3, 11, 32) and last.shape == (3, 1, 32)
    torch.testing.assert_close(last, full[:, -1:], atol=1e-5, rtol=1e-5)


def test_attention_is_the_textbook_formula():
    torch.manual_seed(2)
    block, x = Block(8, 2).eval(), torch.randn(2, 5, 8)
    normed = F.layer_norm(x, (8,), block.norm_attention.weight)
    query, key, value = (z.reshape(2, 5, 2, 4).transpose(1, 2) for z in block.qkv(normed).split(8, dim=2))
    mixed = ((query @ key.transpose(2, 3)) / math.sqrt(4)).softmax(dim=3) @ value
    y = x + block.out(mixed.transpose(1, 2).reshape(2, 5, 8))
    y = y + block.down(F.gelu(block.up(F.layer_norm(y, (8,), block.norm_mlp.weight))))
    torch.testing.assert_close(block(x, torch.zeros(2, 1, 1, 5)), y, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("reading", READINGS)
def test_training_drops_padding_columns_without_changing_the_output(small_model, reading, real):
    values, valid, mask = (a.clone() for a in real)
    agent_slots = torch.from_numpy(POGEMA_LAYOUT.agent >= 4)
    valid[:, agent_slots] = False  # nobody sees more than four agents
    valid[:, -1] = True
    model = small_model(reading)
    expected = model(values, valid, mask)
    model.train()
    try:
        assert model.trunk_forward(values, valid)[0].shape[1] < model.embed(values, valid)[0].shape[1]
        found = model(values, valid, mask)
    finally:
        model.eval()
    for one, two in zip(expected, found, strict=True):
        torch.testing.assert_close(one, two, atol=1e-4, rtol=1e-4)


def test_entity_embedding_is_the_sum_over_the_values_of_an_entity(small_model):
    """The grouped matrix products equal the definition, value by value."""
    values, valid, _ = inputs(2, 7)
    model = small_model("entity")
    embedding = model.embedding
    assert isinstance(embedding, EntityEmbedding)
    tokens, keys = model.embed(values, valid)
    expected = torch.zeros_like(tokens)
    for i in range(L):
        v = values[:, i]
        below, above = (v < -1.001).float(), (v > 1.001).float()
        basis = torch.stack([torch.ones_like(v), v * (1 - below) * (1 - above), below, above], 1)
        gate = 1 + embedding.time[int(POGEMA_LAYOUT.time[i])]
        part = basis @ embedding.attribute[int(POGEMA_LAYOUT.attr[i])] * gate
        expected[:, int(POGEMA_LAYOUT.entity[i])] += part * valid[:, i : i + 1]
    for e in range(POGEMA_LAYOUT.entities):
        first = int((POGEMA_LAYOUT.entity == e).argmax())
        expected[:, e] += embedding.team.weight[int(POGEMA_LAYOUT.team[first])]
        expected[:, e] += embedding.agent.weight[int(POGEMA_LAYOUT.agent[first])]
        assert torch.equal(keys[:, e], valid[:, torch.from_numpy(POGEMA_LAYOUT.entity == e)].any(dim=1))
    torch.testing.assert_close(tokens, expected, atol=1e-4, rtol=1e-4)


def test_scalar_embedding_is_value_plus_four_ids(small_model):
    values, valid, _ = inputs(2, 8)
    model = small_model("scalar")
    embedding = model.embedding
    assert isinstance(embedding, ScalarEmbedding)
    tokens, keys = model.embed(values, valid)
    for i in (0, 60, 121, 130, 354, 355):
        ids = {
            name: int(getattr(POGEMA_LAYOUT, field)[i])
            for name, field in (("attribute", "attr"), ("time", "time"), ("team", "team"), ("agent", "agent"))
        }
        expected = (values * valid)[:, i : i + 1] * embedding.value.weight[:, 0]
        expected = expected + sum(getattr(embedding, name).weight[k] for name, k in ids.items())
        torch.testing.assert_close(tokens[:, i], expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(keys, valid)


def test_a_seed_gives_one_model_and_weights_start_small():
    models = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        models.append(MarlGpt(ModelConfig(32, 2, 1, "entity"), POGEMA_LAYOUT))
    same = [torch.equal(a, b) for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True)]
    other = [torch.equal(a, b) for a, b in zip(models[0].parameters(), models[2].parameters(), strict=True)]
    assert all(same) and not all(other)
    logits, _ = models[0](*inputs(16)[:2], torch.ones(16, 20, dtype=torch.bool))
    assert logits.abs().max() < 1.0  # the first policy is close to uniform


@pytest.mark.parametrize("reading", READINGS)
def test_both_readings_learn_a_few_samples_by_heart(shard, reading):
    """Seconds of training leave chance far behind: both find the few values that matter among hundreds."""
    torch.manual_seed(0)
    model = MarlGpt(ModelConfig(width=32, heads=2, shared=1, reading=reading), POGEMA_LAYOUT).train()
    batch = SampleStream(shard.parent, 0).next(24).shortest_first().tensors("cpu")
    objective = Objective(model, LossConfig())
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-3)
    losses = []
    for _ in range(80):
        loss = objective(batch)[0] / 24
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[0] > 1.2 and losses[-1] < 0.5, losses[::10]


def test_scalar_tokens_differ_from_the_start():
    """Ids and values stand out of the residual stream (SCALAR_STD says why); the first policy is still uniform."""
    torch.manual_seed(0)
    model = MarlGpt(ModelConfig(64, 4, 1, "scalar"), POGEMA_LAYOUT)
    spread = {name: float(p.detach().std()) for name, p in model.embedding.named_parameters()}
    assert set(spread) == {"value.weight", "attribute.weight", "time.weight", "team.weight", "agent.weight"}
    assert all(0.2 < std < 0.4 for std in spread.values()), spread
    logits, _ = model(*inputs(16)[:2], torch.ones(16, 20, dtype=torch.bool))
    assert logits.abs().max() < 1.0


def test_torch_forward_is_the_actor_in_evaluation_mode(small_model, real):
    model = small_model("entity")
    model.train()
    logits = torch_forward(model)(*(a.numpy() for a in real))
    assert not model.training and logits.shape == (40, 20)
    torch.testing.assert_close(
        torch.from_numpy(logits.copy()), model(*real)[0].detach(), atol=1e-5, rtol=1e-5
    )


def observation(layout, n=6, seed=0):
    """Random values of a layout, holes, and its actions allowed at random."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(n, len(layout), generator=generator) * 2 - 1
    valid = torch.rand(n, len(layout), generator=generator) < 0.7
    valid[:, -1] = True
    mask = torch.zeros(n, 20, dtype=torch.bool)
    mask[:, : layout.actions] = torch.rand(n, layout.actions, generator=generator) < 0.6
    mask[:, 0] = True
    return values, valid, mask


LAYOUTS = [layout_named(name) for name in ("pogema-1", "grf-1", "smax-2v3-1")]


@pytest.mark.parametrize("reading", READINGS)
def test_one_model_reads_several_layouts_as_models_of_one_would(small_model, reading):
    joint = small_model(reading, layout=LAYOUTS)
    assert list(joint.layouts) == [layout.name for layout in LAYOUTS]
    for layout in LAYOUTS:
        alone = small_model(reading, layout=layout)
        alone.load_state_dict(joint.state_dict())
        inputs_of = observation(layout)
        for one, two in zip(joint(*inputs_of, layout.name), alone(*inputs_of), strict=True):
            assert torch.equal(one, two)
    first = observation(LAYOUTS[0])
    assert torch.equal(joint(*first)[0], joint(*first, LAYOUTS[0].name)[0])


@pytest.mark.parametrize("reading", READINGS)
def test_more_attribute_tables_keep_the_function_of_every_layout(small_model, reading):
    joint = small_model(reading, layout=LAYOUTS)
    split = joint.with_tables(ENVIRONMENTS).eval()
    assert split.config.tables == ENVIRONMENTS and joint.config.tables == 1
    for layout in LAYOUTS:
        for one, two in zip(
            joint(*observation(layout), layout.name), split(*observation(layout), layout.name), strict=True
        ):
            torch.testing.assert_close(one, two, atol=1e-6, rtol=1e-6)
    if reading == "entity":  # and from there on environments no longer share attributes
        before = split(*observation(LAYOUTS[1]), LAYOUTS[1].name)[0]
        with torch.no_grad():
            split.embedding.attribute[POGEMA_LAYOUT.environment * ATTRIBUTES :][:ATTRIBUTES] += 1.0
        assert torch.equal(split(*observation(LAYOUTS[1]), LAYOUTS[1].name)[0], before)
        moved = split(*observation(LAYOUTS[0]), LAYOUTS[0].name)[0]
        assert not torch.allclose(moved, joint(*observation(LAYOUTS[0]), LAYOUTS[0].name)[0], atol=1e-3)


@pytest.mark.parametrize("reading", READINGS)
def test_a_layout_can_be_added_later(small_model, reading):
    model = small_model(reading, layout=LAYOUTS[0])
    before, names = model(*observation(LAYOUTS[0])), set(model.state_dict())
    model.add_layout(LAYOUTS[2])
    assert set(model.state_dict()) == names, "layouts add no weights"
    assert model(*observation(LAYOUTS[2]), LAYOUTS[2].name)[0].isfinite().all()
    assert all(torch.equal(a, b) for a, b in zip(before, model(*observation(LAYOUTS[0])), strict=True))
    model.add_layout(LAYOUTS[2])  # the same again is no error
    fields = {f.name: getattr(LAYOUTS[2], f.name) for f in dataclasses.fields(TokenLayout)}
    with pytest.raises(ValueError, match="another layout is called smax-2v3-1 already"):
        model.add_layout(TokenLayout(**{**fields, "name": "smax-2v3-1", "actions": 3}))
    with pytest.raises(ValueError, match="needs at least one token layout"):
        MarlGpt(model.config, [])


def test_value_range_moves_the_bins(small_model):
    model = small_model("entity", seed=5)
    _, q = model(*inputs())
    model.set_value_range(0.0, 4.0)
    assert model.config.value_range == (0.0, 4.0)
    torch.testing.assert_close(model(*inputs())[1], 4 * q)
