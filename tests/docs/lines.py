"""Links to definitions, as in docs/one-tick.md: their line numbers.

``.venv/bin/python tests/docs/lines.py`` writes the numbers of today into the pages.
"""

import ast
import os
import re
import sys
from functools import cache
from pathlib import Path

sys.path.insert(0, os.path.dirname(__file__))
from pages import PAGES

SCREEN = 30
"""Lines by which a link may be off: what it is about is then still on the screen."""
LINK = re.compile(r"\[`([\w.]+)`\]\(([\w./-]+\.py)(?:#L(\d+))?\)")


@cache
def definitions(path: Path) -> dict[str, int]:
    """Line of each class and function of a file, methods as ``Class.method``."""
    found: dict[str, int] = {}

    def walk(node: ast.AST, prefix: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef | ast.FunctionDef):
                found[prefix + child.name] = child.lineno
                if isinstance(child, ast.ClassDef):
                    walk(child, f"{prefix}{child.name}.")

    walk(ast.parse(path.read_text()), "")
    return found


def wrong_links(page: Path) -> list[str]:
    """What is wrong with the links of a page to definitions."""
    wrong = []
    for name, target, line in LINK.findall(page.read_text()):
        path = page.parent / target
        right = definitions(path).get(name) if path.is_file() else None
        if right is None:
            wrong.append(f"{page.name}: {target} defines no {name}")
        elif not line or abs(right - int(line)) > SCREEN:
            wrong.append(f"{page.name}: {name} is in line {right} of {target}, not {line or 'said'}")
    return wrong


def renumber(page: Path) -> None:
    """Write the lines of today into a page."""

    def right(match: re.Match) -> str:
        line = definitions(page.parent / match[2]).get(match[1])
        return match[0] if line is None else f"[`{match[1]}`]({match[2]}#L{line})"

    text = page.read_text()
    new = LINK.sub(right, text)
    if new != text:
        page.write_text(new)


if __name__ == "__main__":
    for each in PAGES:
        renumber(each)
        print(*wrong_links(each), sep="\n", end="")
