"""Reads and writes the YAML of robots files: nothing twice, nothing hidden, nothing huge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

LARGEST = 4_000_000
"""Bytes of a robots file."""


class _Loader(yaml.SafeLoader):
    """Refuses keys that are there twice, of which YAML would silently drop all but the last, and aliases."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError(
                "aliases (*name) are not read; write the value out, or put it under 'defaults'"
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict:
        lines: dict = {}
        for key, _ in node.value:
            text, line = key.value, key.start_mark.line + 1
            if isinstance(text, str):
                if text in lines:
                    raise yaml.YAMLError(f"'{text[:80]}' is there twice, in lines {lines[text]} and {line}")
                lines[text] = line
        return super().construct_mapping(node, deep)


def read(path: Path) -> Any:
    """Return what a YAML file holds.

    Raises:
        ValueError: It cannot be read, is too large, or is not valid YAML. The message does not name the file.
    """
    try:
        if not path.is_file():
            raise ValueError("no such file; give the path of a robots.yaml")
        if path.stat().st_size > LARGEST:
            raise ValueError(f"has more than {LARGEST} bytes; is it a robots file?")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot be read as text: {error}") from error
    try:
        return yaml.load(text, _Loader)
    except Exception as error:  # besides YAMLError whatever dates, numbers and deep nesting raise
        raise ValueError(f"is not valid YAML: {error}") from error


def write(path: Path, content: dict) -> None:
    """Write a YAML file; numbers are read back as they are, bit for bit."""

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    path.write_text(
        yaml.dump(content, Dumper=Dumper, sort_keys=False, default_flow_style=None), encoding="utf-8"
    )
