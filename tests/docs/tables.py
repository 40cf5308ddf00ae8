"""Tables of parameters in the READMEs of the ROS packages, as the nodes declare them.

A table stands between ``<!-- parameters: MODULE.TABLE -->`` and ``<!-- end -->``;
``.venv/bin/python tests/docs/tables.py`` writes those of today into the pages.
"""

import importlib
import os
import re
import sys

sys.path.insert(0, os.path.dirname(__file__))
from pages import PAGES

MARKED = re.compile(r"<!-- parameters: ([\w.]+) -->\n(.*?)<!-- end -->", re.DOTALL)


def default(value: object) -> str:
    """A default as one writes it in YAML; nothing for none."""
    if type(value).__name__ == "Type" or value == "":
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return "[" + ", ".join(str(entry) for entry in value) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def table(name: str) -> str:
    """Rows of the parameters in MODULE.TABLE: name, default, range, sentence."""
    module, _, attribute = name.rpartition(".")
    specs = getattr(importlib.import_module(module), attribute)
    lines = ["| parameter | default | range | |", "|---|---|---|---|"]
    for key, spec in specs.items():
        bounds = "" if spec.low is None else f"{spec.low:g} to {spec.high:.10g}"
        lines.append(f"| `{key}` | {default(spec.default)} | {bounds} | {spec.description} |")
    return "\n".join(lines) + "\n"


def renewed(text: str) -> str:
    """The text of a page with the tables of today."""
    return MARKED.sub(lambda m: f"<!-- parameters: {m[1]} -->\n{table(m[1])}<!-- end -->", text)


if __name__ == "__main__":
    for each in PAGES:
        text = each.read_text()
        if renewed(text) != text:
            each.write_text(renewed(text))
