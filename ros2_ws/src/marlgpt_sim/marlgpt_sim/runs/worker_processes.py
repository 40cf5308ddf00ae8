"""Worker processes that do not outlive the process that started them.

This module imports nothing heavy: a worker that is started with :func:`start` watches its parent before it imports
what it is to run, which may take longer than the parent lives.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from typing import Any

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def end_with_parent(parent: int | None = None, kill: bool = False) -> None:
    """End this worker when its parent ends, however that happens; for ``initializer`` of a process pool.

    Workers of a killed pool would go on with their job and then wait for the next one for ever.

    Args:
        parent: Process number of the parent, if known: one that has ended already is noticed at once.
        kill: Have the kernel (Linux) kill this process with its parent, whatever it is doing then. The kernel does so
            already when the *thread* that started this process ends, so that must be one that lives as long.
    """
    if kill and sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if parent is not None and os.getppid() != parent:
        os._exit(1)
    started_by = multiprocessing.parent_process()

    def watch() -> None:
        started_by.join()
        os._exit(1)

    if started_by is not None:
        threading.Thread(target=watch, daemon=True).start()


def worker_pool(workers: int) -> ProcessPoolExecutor:
    """A pool whose workers end with this process; give it work from the thread that calls this.

    Spawned: a forked child of a process with threads (ONNX Runtime's, torch's) may hang.
    """
    return ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=end_with_parent,
        initargs=(os.getpid(), _in_main_thread()),
    )


def start(function: Callable, *arguments: Any, **options: Any) -> BaseProcess:
    """Start a process that calls ``function`` and ends with this one, even while it still imports.

    As with any spawned process the main module is imported first; the ``marlgpt`` command's imports nothing heavy.

    Args:
        function: A function of a module.
        arguments: Picklable, or what multiprocessing hands to children (connections, shared values).
        options: Keyword arguments, likewise.

    Returns:
        The process, a daemon.
    """
    process = multiprocessing.get_context("spawn").Process(
        target=_guarded,
        args=(os.getpid(), _in_main_thread(), _Later((function, arguments, options))),
        daemon=True,
    )
    process.start()
    return process


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


class _Later:
    """What is pickled now and unpickled, with the imports that it takes, when the receiver asks for it."""

    def __init__(self, content: Any) -> None:
        self._content = content

    def __reduce__(self) -> tuple:
        return _Packed, (bytes(ForkingPickler.dumps(self._content)),)


class _Packed:
    """The receiver's end of :class:`_Later`."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def open(self) -> Any:
        return pickle.loads(self._data)


def _guarded(parent: int, kill: bool, work: _Packed) -> None:
    end_with_parent(parent, kill)
    function, arguments, options = work.open()
    function(*arguments, **options)
