"""The exported policy: an ONNX file run by ONNX Runtime, checked against the encoder's layout before use."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime

from marlgpt_policy.encoders.token_layout import MAX_ACTIONS, TokenLayout

FORMAT_VERSION = "1"
PROVIDERS = ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider")
"""Execution providers by preference."""
LARGEST_FILE = 1_000_000_000
"""Bytes; a larger policy file is refused before it is read."""
_INPUTS = {"values": "tensor(float)", "valid": "tensor(bool)", "action_mask": "tensor(bool)"}


class PolicyError(ValueError):
    """A policy file cannot be used; the message names the file, the reason and the fix."""


class PolicyLate(PolicyError):
    """A decision was not there in time; whoever asked has to do without it."""


@dataclass(frozen=True)
class PolicyOutput:
    """What the policy says for n robots.

    Attributes:
        logits: float32[n, 20], forbidden actions at -1e9.
        q: float32[n, 20] expected return of each action.
        probabilities: float32[n, actions] softmax of the logits at temperature 1.
    """

    logits: np.ndarray
    q: np.ndarray
    probabilities: np.ndarray

    @classmethod
    def of_nobody(cls, actions: int) -> PolicyOutput:
        """What any policy says for no robots."""
        empty = np.zeros((0, MAX_ACTIONS), dtype=np.float32)
        return cls(empty, empty, empty[:, :actions])


class OnnxPolicy:
    """A policy file, loaded and checked; one call decides for the whole fleet.

    It runs in this process and is waited for as long as it takes;
    :class:`~marlgpt_policy.policy.policy_process.PolicyProcess` is the same with deadlines.

    Attributes:
        path: The file.
        layout: Layout of the encoder that feeds it.
        sha256: SHA-256 of the very bytes that were loaded, 64 hexadecimal digits.
        metadata: What the file says of itself.
        alive: Whether it can still be asked.
    """

    alive = True

    def __init__(
        self,
        path: str | Path,
        layout: TokenLayout,
        providers: tuple[str, ...] = PROVIDERS,
        threads: int = 0,
        sha256: str = "",
    ) -> None:
        """Load ``path`` for ``layout``.

        Args:
            path: The .onnx file.
            layout: Layout of the encoder that will feed it.
            providers: Execution providers, best first; those that this machine lacks are left out.
            threads: CPU threads of one inference; 0 lets ONNX Runtime choose.
            sha256: The hash that the file must have, in hexadecimal; empty for any.

        Raises:
            PolicyError: Missing, too large, truncated or foreign file; another hash, layout, shape or format version;
                weights outside the file; no provider.
        """
        self.path = Path(path)
        self.layout = layout
        model = self._read(sha256)
        available = [name for name in providers if name in onnxruntime.get_available_providers()]
        if not available:
            raise PolicyError(
                f"policy {self.path}: none of the providers ({', '.join(providers)}) is in this ONNX Runtime; "
                f"name one of {', '.join(onnxruntime.get_available_providers())}"
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        # The hash covers this file only: weights in files beside it are looked for where there are none.
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
        try:
            self._session = onnxruntime.InferenceSession(model, options, providers=available)
        except Exception as error:  # ONNX Runtime raises many private types
            raise PolicyError(
                f"policy {self.path}: ONNX Runtime cannot load it, the file is truncated or not a model ({error})"
            ) from error
        try:
            self.metadata: dict[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)
            self._check_metadata()
            self._check_shapes()
        except UnicodeDecodeError as error:
            raise PolicyError(f"policy {self.path}: a name in it is no text, the file is damaged") from error
        try:
            answer = self(*self._probe())
        except Exception as error:
            raise PolicyError(f"policy {self.path}: a first inference failed ({error})") from error
        if not np.isfinite(answer.q).all():
            raise PolicyError(f"policy {self.path}: non-finite q; the model is broken, use another one")

    def _read(self, sha256: str) -> bytes:
        """The file's bytes, read once: what is hashed is what is loaded, whoever writes to the file meanwhile."""
        if sha256 and not re.fullmatch("[0-9a-fA-F]{64}", sha256):
            raise PolicyError(
                f"policy {self.path}: '{sha256[:80]}' is no SHA-256; give 64 hexadecimal digits, as sha256sum does"
            )
        if not os.path.isfile(self.path):  # Path.is_file raises for names that are too long
            raise PolicyError(
                f"policy {self.path}: no such file; give the path of a .onnx made by 'marlgpt export'"
            )
        size = self.path.stat().st_size
        if size > LARGEST_FILE:
            raise PolicyError(f"policy {self.path}: {size} bytes; the limit is {LARGEST_FILE}")
        try:
            model = self.path.read_bytes()
        except OSError as error:
            raise PolicyError(f"policy {self.path}: cannot be read ({error})") from error
        self.sha256 = hashlib.sha256(model).hexdigest()
        if sha256 and self.sha256 != sha256.lower():
            raise PolicyError(
                f"policy {self.path}: its SHA-256 is {self.sha256}, not {sha256.lower()}; the file is not the one "
                "that was meant, get it again"
            )
        return model

    def _check_metadata(self) -> None:
        version = self.metadata.get("format_version")
        if version != FORMAT_VERSION:
            raise PolicyError(
                f"policy {self.path}: format version {version or 'missing'}, this runtime reads {FORMAT_VERSION}; "
                "export it again with 'marlgpt export'"
            )
        if self.metadata.get("layout_hash") != self.layout.hash:
            raise PolicyError(
                f"policy {self.path}: made for token layout {self.metadata.get('layout_name')} "
                f"({self.metadata.get('layout_hash')}), this encoder fills {self.layout.name} ({self.layout.hash}); "
                "use a policy trained on this layout"
            )

    def _check_shapes(self) -> None:
        width = {"values": len(self.layout), "valid": len(self.layout), "action_mask": MAX_ACTIONS}
        inputs = {node.name: node for node in self._session.get_inputs()}
        if set(inputs) != set(_INPUTS):
            raise PolicyError(f"policy {self.path}: inputs are {sorted(inputs)}, expected {sorted(_INPUTS)}")
        for name, node in inputs.items():
            if node.type != _INPUTS[name] or len(node.shape) != 2 or node.shape[1] != width[name]:
                raise PolicyError(
                    f"policy {self.path}: input '{name}' is {node.type}{node.shape}, "
                    f"expected {_INPUTS[name]}[robots, {width[name]}]"
                )
            if isinstance(node.shape[0], int):
                raise PolicyError(
                    f"policy {self.path}: input '{name}' takes exactly {node.shape[0]} robots, not any number"
                )
        outputs = {node.name: node for node in self._session.get_outputs()}
        for name in ("logits", "q"):
            node = outputs.get(name)
            found = "missing" if node is None else f"{node.type}{node.shape}"
            if node is None or node.type != "tensor(float)" or node.shape[1:] != [MAX_ACTIONS]:
                raise PolicyError(
                    f"policy {self.path}: output '{name}' is {found}, "
                    f"expected tensor(float)[robots, {MAX_ACTIONS}]"
                )

    def _probe(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        values = np.zeros((1, len(self.layout)), dtype=np.float32)
        mask = np.zeros((1, MAX_ACTIONS), dtype=bool)
        mask[:, : self.layout.actions] = True
        return values, np.ones_like(values, dtype=bool), mask

    def warm_up(self, robots: int) -> None:
        """Decide once for ``robots`` robots, so that the first real decision takes no longer than the others."""
        if robots:
            self(*(np.repeat(array, robots, axis=0) for array in self._probe()))

    def check(self) -> None:
        """Nothing is ever late."""

    def close(self) -> None:
        """Nothing to end; for whoever does not know in which process a policy runs."""

    @property
    def provider(self) -> str:
        """The execution provider in use."""
        return self._session.get_providers()[0]

    @property
    def name(self) -> str:
        """File name and training summary, for logs and messages."""
        return self.path.name

    def __call__(self, values: np.ndarray, valid: np.ndarray, action_mask: np.ndarray) -> PolicyOutput:
        """Decide for n robots: values float32[n, L], valid bool[n, L], action_mask bool[n, 20].

        Raises:
            PolicyError: The model failed, or answered with NaN or in another shape.
        """
        if len(values) == 0:
            return PolicyOutput.of_nobody(self.layout.actions)
        try:
            logits, q = self._session.run(
                ["logits", "q"], {"values": values, "valid": valid, "action_mask": action_mask}
            )
        except Exception as error:  # ONNX Runtime raises many private types
            raise PolicyError(f"policy {self.path}: inference failed ({error})") from error
        if logits.shape != (len(values), MAX_ACTIONS) or q.shape != logits.shape:
            raise PolicyError(
                f"policy {self.path}: answers {list(logits.shape)} and {list(q.shape)} for {len(values)} robots, "
                f"expected [{len(values)}, {MAX_ACTIONS}]; the model is broken, use another one"
            )
        if not np.isfinite(logits).all():
            raise PolicyError(f"policy {self.path}: non-finite logits; the model is broken, use another one")
        shown = logits[:, : self.layout.actions].astype(np.float64)
        shown = np.exp(shown - shown.max(axis=1, keepdims=True))
        return PolicyOutput(logits, q, (shown / shown.sum(axis=1, keepdims=True)).astype(np.float32))


def choose(
    probabilities: np.ndarray, temperature: float | np.ndarray, random: np.random.Generator
) -> np.ndarray:
    """One proposed action per robot, int8[n]: sampled from p^(1/temperature), or the best where it is 0.

    Args:
        probabilities: float[n, actions].
        temperature: One for all, or float[n].
        random: Where the samples come from.
    """
    return choose_from_logits(
        np.log(np.maximum(probabilities.astype(np.float64), 1e-30)), temperature, random
    )


def choose_from_logits(
    logits: np.ndarray, temperature: float | np.ndarray, random: np.random.Generator
) -> np.ndarray:
    """As :func:`choose`, from logits float[n, actions]."""
    temperature = np.broadcast_to(np.asarray(temperature, dtype=np.float64), len(logits))
    if (temperature <= 0).all():
        return logits.argmax(axis=1).astype(np.int8)
    noise = random.gumbel(size=logits.shape) * np.maximum(temperature, 0.0)[:, None]
    return np.argmax(logits.astype(np.float64) + noise, axis=1).astype(np.int8)
