"""Photograph the live view: a picture of the page of a running `marlgpt view`, with one robot selected.

Usage: ``.venv/bin/marlgpt view & .venv/bin/python benchmarks/draw_view.py --out docs/figures/view.png``
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "sim"))
from chromium import BROWSER, MISSING, Chromium  # noqa: E402


def main() -> int:
    """Wait until the fleet has reached some goals, then take the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:8420/", help="address of the page")
    parser.add_argument("--out", type=Path, default=Path("docs/figures/view.png"), help="picture to write")
    parser.add_argument("--goals", type=int, default=10, help="goals reached before the picture is taken")
    parser.add_argument("--theme", choices=("light", "dark"), default="light", help="colours of the page")
    args = parser.parse_args()
    if BROWSER is None:
        print(f"draw_view: {MISSING}", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        browser = Chromium(Path(folder) / "profile", (1400, 950))
        try:
            page = browser.open(args.url)
            page.until("document.documentElement.dataset.ready")
            if page.js("document.documentElement.dataset.theme") != args.theme:
                page.click_on("#theme")
            page.until(f"view.scene.grid && view.state.frame.all_goals >= {args.goals}", 600.0)
            page.click_on("#robots tr:nth-child(3) button")
            page.js("scrollTo(0, 0)")
            page.js("new Promise(done => setTimeout(done, 1500))")
            page.screenshot(args.out)
        finally:
            browser.close()
    print(f"written to {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
