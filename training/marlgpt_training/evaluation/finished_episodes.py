"""Finished episodes of a long evaluation on disk, so that a stopped one goes on where it was."""

from __future__ import annotations

import json
import os
from pathlib import Path

FORMAT = 1


class FinishedEpisodes:
    """A JSON-lines file: the settings first, then one finished episode a line."""

    def __init__(self, path: Path, settings: dict) -> None:
        """Open or begin ``path``.

        Args:
            path: The file.
            settings: JSON-able; everything that changes a result.

        Raises:
            ValueError: The file cannot be written, is no journal, or was begun with other settings.
        """
        self.path = path
        self.done: dict[str, dict] = {}
        settings = json.loads(json.dumps({"format": FORMAT, **settings}))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            kept = self._read(settings) if path.exists() else [json.dumps(settings)]
            # Rewritten whole: a killed run may have torn the last line.
            temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
            temporary.write_text("".join(line + "\n" for line in kept))
            temporary.replace(path)
            self._file = open(path, "a", buffering=1)
        except OSError as error:
            raise ValueError(
                f"{path}: cannot be written ({error.strerror}); choose another --json"
            ) from error

    def _read(self, settings: dict) -> list[str]:
        lines = self.path.read_text(errors="replace").splitlines()
        try:
            before = json.loads(lines[0])
            assert isinstance(before, dict) and "format" in before
        except (IndexError, ValueError, AssertionError, RecursionError) as error:
            raise ValueError(
                f"{self.path}: not the unfinished results of an evaluation; move it away"
            ) from error
        differing = sorted(
            name for name in {*before, *settings} if before.get(name, None) != settings.get(name, None)
        )
        if differing:
            raise ValueError(
                f"{self.path}: an evaluation with other settings was stopped here ({', '.join(differing)} differ); "
                "repeat its settings to go on, or delete the file to start anew"
            )
        kept = [lines[0]]
        for line in lines[1:]:
            try:
                entry = json.loads(line)
                self.done[entry["key"]] = entry["metrics"]
            except (ValueError, KeyError, TypeError, RecursionError):
                continue
            kept.append(line)
        return kept

    def add(self, key: str, metrics: dict) -> None:
        """Keep a finished episode."""
        self.done[key] = metrics
        self._file.write(json.dumps({"key": key, "metrics": metrics}) + "\n")

    def close(self) -> None:
        """Close the file and keep it."""
        self._file.close()

    def remove(self) -> None:
        """The results are safe elsewhere: close and delete."""
        self._file.close()
        self.path.unlink(missing_ok=True)
