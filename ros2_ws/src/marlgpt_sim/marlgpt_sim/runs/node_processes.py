"""The nodes of a demo as processes: started, watched, and ended with their parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

MODULES = {
    "simulator": "marlgpt_sim.nodes.simulator",
    "map_publisher": "marlgpt_sim.nodes.map_publisher",
    "task_source": "marlgpt_sim.nodes.task_source",
    "fleet_node": "marlgpt_policy.nodes.fleet_node",
    "watchdog_node": "marlgpt_policy.nodes.watchdog_node",
}


class Processes:
    """The nodes as child processes; a context manager that always ends them."""

    def __init__(self, parameters: dict[str, Path], logs: Path) -> None:
        """Start all nodes, each logging to a file of its own."""
        logs.mkdir(parents=True, exist_ok=True)
        self.logs = {name: logs / f"{name}.log" for name in parameters}
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.children = {}
        for name, path in parameters.items():
            command = [sys.executable, "-m", MODULES[name], "--ros-args", "--params-file", str(path)]
            with open(self.logs[name], "wb") as log:
                self.children[name] = subprocess.Popen(
                    command, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True
                )

    def check(self) -> None:
        """Raise ``RuntimeError`` with the end of its log if a node has ended."""
        for name, child in self.children.items():
            if child.poll() is not None:
                text = self.logs[name].read_text(errors="replace").strip().splitlines()
                raise RuntimeError(f"{name} ended with code {child.returncode}:\n  " + "\n  ".join(text[-8:]))

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        for child in self.children.values():
            if child.poll() is None:
                child.send_signal(signal.SIGINT)
        deadline = time.monotonic() + 5.0
        for child in self.children.values():
            try:
                child.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
