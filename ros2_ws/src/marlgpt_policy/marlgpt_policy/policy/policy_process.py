"""A policy in a process of its own, so that nothing which a file does can hold up who asks for decisions.

A model that never returns cannot be ended inside a process: its thread goes on for ever, keeps its memory, and may
hold a lock. So each policy file is loaded, tried out and run in a process of its own (``serve``), which is killed when
a deadline passes; the kernel takes back whatever it held, and an answer that would have come later has nowhere to go.
Observations and answers lie in memory that both processes share; a message of a few bytes says that they are there.

The process imports neither ROS nor Numba. It ends with the thread that started it, so start it from the main thread.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from multiprocessing.connection import Connection, Pipe
from pathlib import Path

import numpy as np

from marlgpt_policy.encoders.token_layout import MAX_ACTIONS, TokenLayout
from marlgpt_policy.policy.onnx_policy import PROVIDERS, OnnxPolicy, PolicyError, PolicyLate, PolicyOutput

LOAD_TIMEOUT = 120.0
"""Seconds in which a file must be loaded and tried out."""
WAIT = 0.04
"""Seconds for which one decision is waited for."""
GIVE_UP = 2.0
"""Seconds after which a decision that has not come is never expected to."""
LEAST_ROWS = 64
"""Robots that there is room for from the beginning."""
Observed = tuple[np.ndarray, np.ndarray, np.ndarray]
"""values float32[n, L], valid bool[n, L], action_mask bool[n, 20]."""

_REQUEST = struct.Struct("<II")  # robots, rows that there is room for
_DECIDED = b""  # any other answer is the reason why not
_ALIGNMENT = 64  # bytes; a cache line


class _SharedRows:
    """Arrays of ``rows`` robots in memory shared by two processes.

    Attributes:
        rows: Robots that there is room for.
        inputs: values, valid and action_mask.
        outputs: logits, q and probabilities.
    """

    def __init__(self, memory: int, rows: int, layout: TokenLayout) -> None:
        """Map the file descriptor ``memory``, made large enough."""
        width, floats, flags = len(layout), np.dtype(np.float32), np.dtype(np.bool_)
        kinds = [(width, floats), (width, flags), (MAX_ACTIONS, flags)]
        kinds += [(MAX_ACTIONS, floats), (MAX_ACTIONS, floats), (layout.actions, floats)]
        sizes = [-(-rows * columns * kind.itemsize // _ALIGNMENT) * _ALIGNMENT for columns, kind in kinds]
        if os.fstat(memory).st_size < sum(sizes):
            os.ftruncate(memory, sum(sizes))
        block = mmap.mmap(memory, sum(sizes))
        starts = np.cumsum([0, *sizes[:-1]]).tolist()
        arrays = [
            np.frombuffer(block, kind, rows * columns, start).reshape(rows, columns)
            for (columns, kind), start in zip(kinds, starts, strict=True)
        ]
        self.rows, self.inputs, self.outputs = rows, arrays[:3], arrays[3:]


class PolicyProcess:
    """A policy file in a process of its own; asked as :class:`~marlgpt_policy.policy.onnx_policy.OnnxPolicy` is.

    ``start`` it, then :meth:`wait_loaded`; every wait has an end.

    Attributes:
        path: The file.
        layout: Layout of the encoder that feeds it.
        sha256, metadata, provider: As of ``OnnxPolicy``; empty until it is loaded.
        alive: Whether it can still be asked.
        pid: Of the process.
    """

    def __init__(
        self,
        path: str | Path,
        layout: TokenLayout,
        providers: tuple[str, ...] = PROVIDERS,
        threads: int = 0,
        sha256: str = "",
        *,
        wait: float = WAIT,
        give_up: float = GIVE_UP,
    ) -> None:
        """Start the process and have it load ``path``; returns at once. Call it from the main thread.

        Args:
            path: The .onnx file.
            layout: Layout of the encoder that will feed it.
            providers: Execution providers, best first.
            threads: CPU threads of one inference; 0 lets ONNX Runtime choose.
            sha256: The hash that the file must have, in hexadecimal; empty for any.
            wait: Most seconds of one call.
            give_up: Seconds without an answer after which the process is ended.

        Raises:
            PolicyError: No process can be started.
        """
        self.path, self.layout = Path(path), layout
        self.sha256, self.provider, self.metadata = "", "", {}
        self.alive, self._why_not = True, ""
        self._wait, self._give_up = wait, give_up
        self._asked: float | None = None  # when (time.monotonic) a decision was asked for that has not come
        try:
            self._start()
            self._connection.send((str(path), layout, providers, threads, sha256))
        except OSError as error:
            raise PolicyError(f"policy {path}: no process can be started for it ({error})") from error

    def _start(self) -> None:
        self._memory = os.memfd_create("marlgpt_policy")
        self._shared = _SharedRows(self._memory, LEAST_ROWS, self.layout)
        self._connection, theirs = Pipe()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "marlgpt_policy.policy.policy_process", str(theirs.fileno()), str(self._memory)],
                pass_fds=(theirs.fileno(), self._memory), stdin=subprocess.DEVNULL, env=_environment(),
                start_new_session=True,  # an interrupt from the terminal is for this process
            )  # fmt: skip
        self.pid = self._process.pid

    @property
    def name(self) -> str:
        """File name, for logs and messages."""
        return self.path.name

    def wait_loaded(self, timeout: float = LOAD_TIMEOUT) -> PolicyProcess:
        """Wait until the file is loaded and has answered once; this policy.

        Raises:
            PolicyError: What ``OnnxPolicy`` refuses, or not done after ``timeout`` s. The process has ended.
        """
        try:
            if not self._connection.poll(timeout):
                raise PolicyError(self._too_slow("loading it and a first inference", timeout))
            answer = json.loads(self._receive())
            if "error" in answer:
                raise PolicyError(answer["error"])
        except BaseException as error:  # also an interrupt: nobody would end the process
            self.close(str(error))
            raise
        self.sha256, self.provider, self.metadata = answer["sha256"], answer["provider"], answer["metadata"]
        return self

    def try_out(self, batches: Iterable[Observed], timeout: float = LOAD_TIMEOUT) -> PolicyProcess:
        """Decide for each of ``batches``, whose answers are thrown away, within ``timeout`` s for all; this policy.

        Raises:
            PolicyError: It failed or took longer. The process has ended.
        """
        end = time.monotonic() + timeout
        for batch in batches:
            if not len(batch[0]):
                continue
            try:
                self._ask(*batch)
                if not self._connection.poll(max(0.0, end - time.monotonic())):
                    raise PolicyError(self._too_slow("trying it out on observations", timeout))
                self._taken(len(batch[0]))
            except BaseException as error:
                self.close(str(error))
                raise
        return self

    def __call__(self, values: np.ndarray, valid: np.ndarray, action_mask: np.ndarray) -> PolicyOutput:
        """Decide for n robots: values float32[n, L], valid bool[n, L], action_mask bool[n, 20].

        Raises:
            PolicyLate: No answer in time; it will be thrown away when it comes, and nothing is asked before.
            PolicyError: The model failed, or answered with NaN or in another shape; or its process has ended,
                because it did not answer for long or by itself (``alive`` is False).
        """
        if len(values) == 0:
            return PolicyOutput.of_nobody(self.layout.actions)
        if not self.alive:
            raise PolicyError(f"{self._why_not}; load a policy with fleet/load_policy, then resume")
        self.check()
        if self._asked is not None:
            since = 1e3 * (time.monotonic() - self._asked)
            raise PolicyLate(f"policy {self.path}: no answer for {since:.0f} ms")
        self._ask(values, valid, action_mask)
        if not self._connection.poll(self._wait):
            raise PolicyLate(f"policy {self.path}: no answer within {1e3 * self._wait:.0f} ms")
        return self._taken(len(values))

    def check(self) -> None:
        """Throw an answer away that came too late; end the process if there is none for too long.

        Raises:
            PolicyError: It was ended now.
        """
        if not self.alive or self._asked is None:
            return
        if self._connection.poll():
            self._receive()  # an error that nobody waits for any more is none
            self._asked = None
        elif time.monotonic() - self._asked > self._give_up:
            self.close(f"policy {self.path}: no answer within {self._give_up:g} s, its process was ended")
            raise PolicyError(self._why_not)

    def close(self, reason: str = "") -> None:
        """End the process at once, whatever it is doing."""
        if self.alive:
            self.alive, self._why_not = False, reason or f"policy {self.path}: closed"
            self._connection.close()
            os.close(self._memory)
            self._process.kill()
            # A process with much memory takes its time to end; nobody has to wait for it.
            if not sys.is_finalizing():
                threading.Thread(target=self._process.wait, name="reap_policy", daemon=True).start()

    def __del__(self) -> None:
        """End the process with its last user."""
        if hasattr(self, "_process"):
            self.close()

    def _too_slow(self, what: str, timeout: float) -> str:
        return (
            f"policy {self.path}: {what} took longer than {timeout:g} s and was ended; the file is no good, or raise "
            "parameter 'policy_load_timeout' (a TensorRT engine takes minutes to build)"
        )

    def _ask(self, values: np.ndarray, valid: np.ndarray, action_mask: np.ndarray) -> None:
        n = len(values)
        if n > self._shared.rows:
            self._shared = _SharedRows(self._memory, 2 * n, self.layout)
        for array, given in zip(self._shared.inputs, (values, valid, action_mask), strict=True):
            array[:n] = given
        try:
            self._connection.send_bytes(_REQUEST.pack(n, self._shared.rows))
        except OSError as error:
            raise self._ended() from error
        self._asked = time.monotonic()

    def _taken(self, n: int) -> PolicyOutput:
        """The answer for ``n`` robots, which has come; copied, since the next one comes to the same place."""
        answer = self._receive()
        self._asked = None
        if answer != _DECIDED:
            raise PolicyError(answer.decode())
        return PolicyOutput(*(array[:n].copy() for array in self._shared.outputs))

    def _receive(self) -> bytes:
        try:
            return self._connection.recv_bytes()
        except (EOFError, OSError) as error:
            raise self._ended() from error

    def _ended(self) -> PolicyError:
        """The process is gone, and not because of us."""
        try:
            code = self._process.wait(0.01)
        except subprocess.TimeoutExpired:
            code = None
        how = f"by {signal.Signals(-code).name}" if code is not None and code < 0 else f"with status {code}"
        self.close(f"policy {self.path}: its process ended {how}, as for want of memory; use another model")
        return PolicyError(self._why_not)


def _environment() -> dict[str, str]:
    """Environment in which a Python process finds this package."""
    package = str(Path(__file__).resolve().parents[2])
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def serve(connection: Connection, memory: int) -> None:
    """Load the policy that is ordered first, then decide until ``connection`` ends."""
    path, layout, providers, threads, sha256 = connection.recv()
    try:
        policy = OnnxPolicy(path, layout, providers, threads, sha256)
    except PolicyError as error:
        connection.send_bytes(json.dumps({"error": str(error)}).encode())
        return
    about = {"sha256": policy.sha256, "provider": policy.provider, "metadata": policy.metadata}
    connection.send_bytes(json.dumps(about).encode())
    shared = _SharedRows(memory, LEAST_ROWS, layout)
    while True:
        n, rows = _REQUEST.unpack(connection.recv_bytes())
        if rows != shared.rows:
            shared = _SharedRows(memory, rows, layout)
        try:
            output = policy(*(array[:n] for array in shared.inputs))
        except PolicyError as error:
            connection.send_bytes(str(error).encode())
            continue
        for array, given in zip(shared.outputs, (output.logits, output.q, output.probabilities), strict=True):
            array[:n] = given
        connection.send_bytes(_DECIDED)


def _end_with_parent() -> None:
    """Linux: the kernel ends this process with the thread that started it, also while a model runs for ever."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def main() -> int:
    """Serve the process that started this one; its file descriptors are the arguments."""
    _end_with_parent()
    connection, memory = Connection(int(sys.argv[1])), int(sys.argv[2])
    try:
        serve(connection, memory)
    except (EOFError, OSError):
        pass  # nobody asks any more
    return 0


if __name__ == "__main__":
    sys.exit(main())
