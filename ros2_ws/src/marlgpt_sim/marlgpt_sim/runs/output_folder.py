"""Where commands write: a folder or file is changed only if this project made it, and by one process at a time.

Every command with an output folder opens it with :func:`output_folder`. A folder that was not there, or was empty, gets
a marker file that says what it is for; any other folder is refused. The marker also holds the lock.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import mmap
import os
import shutil
import socket
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

MARKER = ".marlgpt"
"""File that says what a folder was made for; JSON, or empty where a user vouches for the folder."""
LOCK = ".marlgpt.lock"
"""File that the process which writes the folder has locked; holds who that is, as JSON."""
PICTURE = b"Software\0marlgpt"
"""What a PNG that this project drew holds."""
SIGNATURE = {"Software": "marlgpt"}
"""``metadata`` of matplotlib's ``savefig`` that puts :data:`PICTURE` into a PNG."""
SHOWN = 3
"""Foreign files that a refusal names."""


class FolderError(ValueError):
    """A folder or file may not be written; the message names it, the reason and the remedy."""


class FolderInUseError(FolderError):
    """Another process writes the folder now."""


@contextlib.contextmanager
def output_folder(
    folder: str | Path,
    kind: str,
    made_before: Callable[[Path], bool] = lambda _: False,
    option: str = "--out",
) -> Iterator[Path]:
    """Own ``folder`` for the length of a ``with`` block: claimed for ``kind``, and locked against other processes.

    The lock is the system's: it ends with the process, however that ends.

    Args:
        folder: The folder; made, with its parents, if it is not there.
        kind: What the folder is for, such as ``demo``; two kinds never share a folder.
        made_before: Whether a folder without a marker was made by a version of this project that wrote none.
        option: What the caller calls the folder, for messages.

    Raises:
        FolderError: As :func:`claim_folder`.
        FolderInUseError: Another process has it; names the process, its machine and since when.
        OSError: The folder cannot be written, or its file system has no locks.
    """
    folder = claim_folder(folder, kind, made_before, option)
    # The fallback of the library, a file that exists, would outlive a killed process.
    lock = FileLock(folder / LOCK, timeout=0, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        raise FolderInUseError(
            f"{option} {folder}: {_holder(folder)}; wait, or name another folder"
        ) from None
    except OSError as error:
        raise OSError(error.errno, f"cannot be locked: {error.strerror}", str(folder / LOCK)) from error
    try:
        _write_holder(folder)
        yield folder
        (folder / LOCK).write_text("", encoding="utf-8")
    finally:
        lock.release()


def claim_folder(
    folder: str | Path,
    kind: str,
    made_before: Callable[[Path], bool] = lambda _: False,
    option: str = "--out",
) -> Path:
    """Make ``folder``, or take one that was made for the same ``kind`` before; arguments as :func:`output_folder`.

    Raises:
        FolderError: Something else is there; nothing was changed.
        OSError: The folder cannot be made or read.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise FolderError(f"{option} {folder}: is a file; name a folder")
    if folder.is_dir():
        held = _marked(folder)
        if held is not None and held not in ("", kind):
            raise FolderError(
                f"{option} {folder}: was made for another purpose ({held}); name another folder"
            )
        if held is None and (foreign := sorted(p.name for p in folder.iterdir() if p.name != LOCK)):
            if not made_before(folder):
                raise FolderError(_refusal(folder, kind, foreign, option))
    folder.mkdir(parents=True, exist_ok=True)
    marker = folder / MARKER
    if not marker.exists() or not marker.stat().st_size:
        _write_whole(marker, json.dumps({"project": "marlgpt", "kind": kind}) + "\n")
    return folder


def remove_from(folder: Path, names: Iterable[str]) -> None:
    """Delete what an earlier command left in a claimed folder; of a symbolic link the link alone.

    Raises:
        FolderError: The folder has no marker.
    """
    if _marked(folder) is None:
        raise FolderError(f"{folder}: has no file '{MARKER}', so nothing in it is deleted")
    for name in names:
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def check_output_file(path: str | Path, *marks: bytes, option: str = "--out") -> None:
    """Refuse to overwrite a file that this project did not write.

    Args:
        path: The file to come; it may exist if it is empty or holds all ``marks``.
        marks: What the file that the command writes holds in any case.
        option: What the caller calls the file, for messages.

    Raises:
        FolderError: A folder or a foreign file is there.
        OSError: It cannot be read.
    """
    path = Path(path)
    if path.is_dir():
        raise FolderError(f"{option} {path}: is a folder; name a file")
    if not path.exists() or (path.is_file() and not path.stat().st_size):
        return
    if path.is_file():
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            if all(content.find(mark) >= 0 for mark in marks):
                return
    elif path.is_char_device():  # /dev/null, /dev/stdout
        return
    raise FolderError(
        f"{option} {path}: exists and was not written by this command; name another file, or remove it first"
    )


def _marked(folder: Path) -> str | None:
    """The kind that the marker names, '' if the marker is empty, None without one.

    Raises:
        FolderError: A file of that name that is not the project's.
    """
    try:
        text = (folder / MARKER).read_text(encoding="utf-8")
        if not text.strip():
            return ""
        found = json.loads(text)
        if found["project"] == "marlgpt":
            return str(found["kind"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise FolderError(f"{folder / MARKER}: is damaged or not of this project; name another folder")


def _refusal(folder: Path, kind: str, foreign: list[str], option: str) -> str:
    more = f" and {len(foreign) - SHOWN} more" if len(foreign) > SHOWN else ""
    return (
        f"{option} {folder}: holds {', '.join(foreign[:SHOWN])}{more}, and nothing says that this project made it "
        f"({kind}); name another folder. If an older version did: touch '{folder / MARKER}'"
    )


def _write_whole(path: Path, text: str) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _write_holder(folder: Path) -> None:
    """Say in the lock file who holds it; in place, since the lock is on this very file."""
    now = datetime.datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:2]])[:80]
    holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": now, "command": command}
    (folder / LOCK).write_text(json.dumps(holder) + "\n", encoding="utf-8")


def _holder(folder: Path) -> str:
    """Who writes a folder, as the lock file says, in words."""
    try:
        held = json.loads((folder / LOCK).read_text(encoding="utf-8"))
        return f"process {held['pid']} on {held['host']} ({held['command']}) has been writing it since {held['since']}"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):  # it has not said so yet
        return "another process writes it"
