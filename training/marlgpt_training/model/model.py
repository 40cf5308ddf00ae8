"""The MARL-GPT model: a non-causal transformer over a universal token layout (arXiv 2604.05943).

Two readings of one layout. ``scalar``: one token per value, value projection plus attribute, time, team and
agent embeddings (the paper). ``entity``: values that share an entity id become one token; each value is
expanded into (1, clipped value, below mark, above mark), projected by vectors of its attribute gated by its
time, and summed. Heads read the last token (the environment token).

A model knows the layouts it was built for; their embeddings are shared, so the same weights read all of them, and
layouts can be added later (more units of a kind that was trained, say).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from marlgpt_policy.encoders.token_layout import AGENTS, ATTRIBUTES, MAX_ACTIONS, TEAMS, TIMES, TokenLayout
from torch import nn
from torch.nn import functional as F

MASKED = -1e9
"""Logit of an action that the mask forbids."""
READINGS = ("entity", "scalar")
BASIS = 4
SCALAR_STD = 0.3
"""Initial standard deviation of the scalar reading's embeddings. The last token has to find the few of hundreds of
tokens that matter by their ids and values; at the 0.02 of a language model these hardly differ from one another at
first. Held-out cross entropy after 120 steps of 64 samples at width 64 and learning rate 3e-3: 0.69, and 1.49 with
0.02 (chance is 1.4); 0.74 with 0.1, 0.62 with 0.6."""
ENVIRONMENTS = 4
"""Environment ids of the published model, 0 is free: as many attribute tables give each its own."""


@dataclass
class ModelConfig:
    """Sizes of the model."""

    width: int = 256
    """Channels of a token."""
    heads: int = 8
    """Attention heads."""
    shared: int = 7
    """Shared blocks before the actor and the critic block."""
    reading: str = "scalar"
    """scalar (one token per value) or entity (one token per entity)."""
    bins: int = 20
    """Value bins of the critic."""
    value_range: tuple[float, float] = (0.0, 1.0)
    """Return of the lowest and the highest value bin."""
    tables: int = 1
    """Attribute tables of the entity reading: 1 is shared by all environments, 4 gives each environment id its own."""

    def to_dict(self) -> dict:
        """As stored in checkpoints and ONNX metadata."""
        return asdict(self)


PRESETS = {
    "paper": ModelConfig(256, 8, 7),
    "small": ModelConfig(192, 6, 4),
    "tiny": ModelConfig(128, 4, 2),
}


def preset(name: str, reading: str = "entity") -> ModelConfig:
    """A copy of a preset; ``ValueError`` for unknown names."""
    if name not in PRESETS:
        raise ValueError(f"unknown preset '{name}'; choose one of {', '.join(PRESETS)}")
    return ModelConfig(**{**asdict(PRESETS[name]), "reading": reading})


class Block(nn.Module):
    """Pre-norm attention and MLP without biases. ``last_only`` computes the last token's output alone."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention = nn.LayerNorm(width, bias=False)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.norm_mlp = nn.LayerNorm(width, bias=False)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: torch.Tensor, bias: torch.Tensor, last_only: bool = False) -> torch.Tensor:
        """``x`` float[b, t, w], ``bias`` float[b, 1, 1, t] (0 or -inf-like); float[b, t or 1, w]."""
        b, t, w = x.shape
        normed = self.norm_attention(x)
        if last_only:
            query = F.linear(normed[:, -1:], self.qkv.weight[:w])
            key, value = F.linear(normed, self.qkv.weight[w:]).split(w, dim=2)
            x = x[:, -1:]
        else:
            query, key, value = self.qkv(normed).split(w, dim=2)
        query, key, value = (
            z.reshape(b, z.shape[1], self.heads, w // self.heads).transpose(1, 2) for z in (query, key, value)
        )
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        x = x + self.out(mixed.transpose(1, 2).reshape(b, -1, w))
        return x + self.down(F.gelu(self.up(self.norm_mlp(x))))


class ScalarIds(nn.Module):
    """Ids of one layout for the ``scalar`` reading."""

    def __init__(self, layout: TokenLayout) -> None:
        super().__init__()
        for name in ("attr", "time", "team", "agent"):
            ids = torch.from_numpy(getattr(layout, name).astype("int64"))
            self.register_buffer(name, ids, persistent=False)


class ScalarEmbedding(nn.Module):
    """One token per value: value projection + attribute + time + team + agent embeddings."""

    def __init__(self, width: int, tables: int) -> None:
        super().__init__()
        self.value = nn.Linear(1, width, bias=False)
        self.attribute = nn.Embedding(ATTRIBUTES, width)
        self.time = nn.Embedding(TIMES, width)
        self.team = nn.Embedding(TEAMS, width)
        self.agent = nn.Embedding(AGENTS, width)

    @staticmethod
    def ids_of(layout: TokenLayout, tables: int) -> ScalarIds:
        """The constant ids of ``layout``."""
        return ScalarIds(layout)

    def forward(
        self, values: torch.Tensor, valid: torch.Tensor, ids: ScalarIds
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """float[b, L], bool[b, L] -> tokens float[b, L, w], key mask bool[b, L]."""
        values = values.masked_fill(~valid, 0.0)  # whatever is there, even NaN, must not reach the attention
        static = self.attribute(ids.attr) + self.time(ids.time)
        static = static + self.team(ids.team) + self.agent(ids.agent)
        return self.value(values.unsqueeze(-1)) + static, valid


class EntityIds(nn.Module):
    """Ids of one layout for the ``entity`` reading: entities with the same attributes and times form a group."""

    def __init__(self, layout: TokenLayout, tables: int) -> None:
        super().__init__()
        table = layout.environment % tables  # environments 0..3, so that 4 tables are one each
        groups: dict[tuple, list[list[int]]] = {}
        for entity in range(layout.entities):
            slots = [i for i in range(len(layout)) if layout.entity[i] == entity]
            signature = tuple((int(layout.attr[i]), int(layout.time[i])) for i in slots)
            groups.setdefault(signature, []).append(slots)
        self.group_count = len(groups)
        order = []
        for k, (signature, members) in enumerate(groups.items()):
            ids = torch.tensor(signature)
            self.register_buffer(f"attr_{k}", ids[:, 0] + table * ATTRIBUTES, persistent=False)
            self.register_buffer(f"time_{k}", ids[:, 1] + table * TIMES, persistent=False)
            self.register_buffer(f"slots_{k}", torch.tensor(members), persistent=False)
            order += [int(layout.entity[slots[0]]) for slots in members]
        first = [int((layout.entity == e).argmax()) for e in range(layout.entities)]
        self.register_buffer("restore", torch.argsort(torch.tensor(order)), persistent=False)
        self.register_buffer("team", torch.tensor(layout.team[first].astype("int64")), persistent=False)
        self.register_buffer("agent", torch.tensor(layout.agent[first].astype("int64")), persistent=False)


class EntityEmbedding(nn.Module):
    """One token per entity; entities with the same attributes and times share one matrix product."""

    def __init__(self, width: int, tables: int) -> None:
        super().__init__()
        self.attribute = nn.Parameter(torch.randn(tables * ATTRIBUTES, BASIS, width) * 0.05)
        self.time = nn.Parameter(torch.randn(tables * TIMES, width) * 0.3)
        self.team = nn.Embedding(TEAMS, width)
        self.agent = nn.Embedding(AGENTS, width)

    @staticmethod
    def ids_of(layout: TokenLayout, tables: int) -> EntityIds:
        """The constant ids of ``layout``."""
        return EntityIds(layout, tables)

    def forward(
        self, values: torch.Tensor, valid: torch.Tensor, ids: EntityIds
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """float[b, L], bool[b, L] -> tokens float[b, entities, w], key mask bool[b, entities]."""
        values = values.masked_fill(~valid, 0.0)  # 0 x NaN would be NaN
        known = valid.to(values.dtype)
        below, above = (values < -1.001).to(values.dtype), (values > 1.001).to(values.dtype)
        plain = values * (1 - below) * (1 - above)
        expanded = torch.stack([torch.ones_like(values), plain, below, above], dim=-1) * known.unsqueeze(-1)
        tokens, masks = [], []
        for k in range(ids.group_count):
            slots = getattr(ids, f"slots_{k}")
            weight = self.attribute[getattr(ids, f"attr_{k}")] * (
                1 + self.time[getattr(ids, f"time_{k}")][:, None]
            )
            taken = expanded[:, slots.reshape(-1)].reshape(-1, slots.shape[0], slots.shape[1] * BASIS)
            tokens.append(taken @ weight.reshape(-1, weight.shape[-1]))
            masks.append(valid[:, slots.reshape(-1)].reshape(-1, *slots.shape).any(dim=2))
        x = torch.cat(tokens, dim=1)[:, ids.restore]
        return x + self.team(ids.team) + self.agent(ids.agent), torch.cat(masks, dim=1)[:, ids.restore]


class MarlGpt(nn.Module):
    """Policy and critic over the token layouts of one or several environments.

    Attributes:
        layouts: The layouts it reads, by name.
    """

    def __init__(self, config: ModelConfig, layouts: TokenLayout | Sequence[TokenLayout]) -> None:
        """Build for ``config`` and one or several layouts.

        Raises:
            ValueError: Unknown reading, uneven heads, no layout.
        """
        super().__init__()
        if config.reading not in READINGS:
            raise ValueError(f"unknown reading '{config.reading}'; choose scalar or entity")
        if config.width % config.heads:
            raise ValueError(f"width {config.width} is not a multiple of {config.heads} heads")
        self.config = config
        embedding = ScalarEmbedding if config.reading == "scalar" else EntityEmbedding
        self.embedding = embedding(config.width, config.tables)
        self.layouts: dict[str, TokenLayout] = {}
        self.ids = nn.ModuleDict()
        for layout in [layouts] if isinstance(layouts, TokenLayout) else layouts:
            self.add_layout(layout)
        if not self.layouts:
            raise ValueError("a model needs at least one token layout")
        self.trunk = nn.ModuleList(Block(config.width, config.heads) for _ in range(config.shared))
        self.actor_block = Block(config.width, config.heads)
        self.critic_block = Block(config.width, config.heads)
        self.actor_norm = nn.LayerNorm(config.width, bias=False)
        self.critic_norm = nn.LayerNorm(config.width, bias=False)
        self.actor_head = nn.Linear(config.width, MAX_ACTIONS, bias=False)
        self.critic_head = nn.Linear(config.width, MAX_ACTIONS * config.bins, bias=False)
        self.register_buffer("bin_values", torch.linspace(*config.value_range, config.bins), persistent=False)
        self.apply(self._initialise)
        if config.reading == "scalar":
            for parameter in self.embedding.parameters():
                nn.init.normal_(parameter, std=SCALAR_STD)
        for name, parameter in self.named_parameters():
            if name.endswith(("out.weight", "down.weight")):
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * (config.shared + 1)))

    @staticmethod
    def _initialise(module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)

    def add_layout(self, layout: TokenLayout) -> None:
        """Read ``layout`` as well, with the embeddings that there are; ``ValueError`` if its name is taken."""
        if layout.name in self.layouts and self.layouts[layout.name].hash != layout.hash:
            raise ValueError(f"another layout is called {layout.name} already")
        self.layouts[layout.name] = layout
        ids = self.embedding.ids_of(layout, self.config.tables)
        self.ids[layout.name] = ids.to(next(self.embedding.parameters()).device)

    def set_value_range(self, lowest: float, highest: float) -> None:
        """Spread the critic's value bins over other returns; what it has learnt is about the old ones."""
        self.config.value_range = (lowest, highest)
        bins = torch.linspace(lowest, highest, self.config.bins)
        self.bin_values = bins.to(self.bin_values.device)

    def with_tables(self, tables: int) -> MarlGpt:
        """A model with these weights and ``tables`` attribute tables.

        Every environment among its layouts begins with the table that it used here.
        """
        config = ModelConfig(**{**asdict(self.config), "tables": tables})
        model = MarlGpt(config, list(self.layouts.values()))
        if config.reading == "scalar":
            model.load_state_dict(self.state_dict())
            return model
        weights, own = self.state_dict(), model.state_dict()
        for name, size in (("embedding.attribute", ATTRIBUTES), ("embedding.time", TIMES)):
            old, new = weights.pop(name), own[name]
            for environment in {layout.environment for layout in self.layouts.values()}:
                source, target = environment % self.config.tables, environment % tables
                new[target * size : (target + 1) * size] = old[source * size : (source + 1) * size]
        model.load_state_dict({**weights, **{name: own[name] for name in own.keys() - weights.keys()}})
        return model

    def embed(
        self, values: torch.Tensor, valid: torch.Tensor, layout: str | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens float[b, t, width] and which of them are there, bool[b, t]; arguments as in ``trunk_forward``."""
        return self.embedding(values, valid, self.ids[layout or next(iter(self.layouts))])

    def trunk_forward(
        self, values: torch.Tensor, valid: torch.Tensor, layout: str | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens after the shared blocks and the attention bias.

        Args:
            values: float[b, L] of ``layout``.
            valid: bool[b, L].
            layout: Name of one of the model's layouts; the first one if not given.
        """
        x, keys = self.embed(values, valid, layout)
        if self.training and not torch.compiler.is_compiling():  # padding in the whole batch costs nothing
            used = keys.any(dim=0)
            x, keys = x[:, used], keys[:, used]
        bias = torch.zeros(keys.shape, dtype=x.dtype, device=x.device).masked_fill(~keys, MASKED)[
            :, None, None
        ]
        for block in self.trunk:
            x = block(x, bias)
        return x, bias

    def actor(self, x: torch.Tensor, bias: torch.Tensor, action_mask: torch.Tensor) -> torch.Tensor:
        """Masked logits float[b, 20]."""
        last = self.actor_block(x, bias, last_only=True)[:, 0]
        return self.actor_head(self.actor_norm(last)).masked_fill(~action_mask, MASKED)

    def critic(self, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """Value-bin logits float[b, 20, bins]."""
        last = self.critic_block(x, bias, last_only=True)[:, 0]
        return self.critic_head(self.critic_norm(last)).unflatten(1, (MAX_ACTIONS, self.config.bins))

    def forward(
        self,
        values: torch.Tensor,
        valid: torch.Tensor,
        action_mask: torch.Tensor,
        layout: str | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Masked logits float[b, 20] and expected returns q float[b, 20]; arguments as in ``trunk_forward``."""
        x, bias = self.trunk_forward(values, valid, layout)
        logits = self.actor(x, bias, action_mask)
        q = (self.critic(x, bias).softmax(dim=-1) * self.bin_values).sum(dim=-1)
        return logits, q

    def parameters_count(self) -> int:
        """Number of trainable parameters."""
        return sum(p.numel() for p in self.parameters())
