"""The view's page in a real browser, without ROS: what it shows and sends, and what it does when things go wrong."""

from __future__ import annotations

import threading
import time

import pytest
from chromium import BROWSER, MISSING, Chromium  # noqa: E402
from marlgpt_sim.view.access import Access
from view_bench import CELL, Bench  # noqa: E402

pytestmark = pytest.mark.skipif(BROWSER is None, reason=MISSING)

HOSTILE = [
    "<img src=x onerror=document.title='hacked'>",
    "</script><script>alert(1)</script>",
    '" onclick="alert(1)',
]
PIXEL = """(([x, y]) => { const b = document.getElementById("map").getBoundingClientRect();
    return [x + b.x, y + b.y]; })(%s)"""


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    browser = Chromium(tmp_path_factory.mktemp("chromium") / "profile")
    yield browser
    browser.close()


class Moving:
    """Keeps a bench's fleet moving on a thread."""

    def __init__(self, bench):
        self.bench, self.on = bench, True
        self.changes: dict = {}
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        while self.on:
            self.bench.move(**self.changes)
            time.sleep(0.1)

    def stop(self):
        self.on = False
        self._thread.join()


@pytest.fixture
def bench(request):
    bench = Bench(**getattr(request, "param", {}))
    bench.moving = Moving(bench)
    yield bench
    bench.moving.stop()
    bench.close()


def live(chromium, bench, fragment=""):
    page = chromium.open(f"{bench.address}/{fragment}")
    page.until("document.documentElement.dataset.stale === 'false' && view.scene.grid && view.scene.surface")
    return page


def pixel(page, x, y):
    return page.js(PIXEL % f"view.scene.toScreen({x}, {y})")


def wait_for(condition, what):
    end = time.monotonic() + 90.0
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.05)


def test_robots_are_drawn_where_they_are_and_move(chromium, bench):
    page = live(chromium, bench)
    first = page.js("view.scene.pose(0)")
    page.until(f"Math.hypot(view.scene.pose(0).x - {first['x']}, view.scene.pose(0).y - {first['y']}) > 0.01")
    x, y = page.js("(p => [p.x, p.y])(view.scene.pose(1))")
    assert (x, y) == pytest.approx((CELL, 0.0), abs=0.11)
    # The colour of a moving robot, at its place on the canvas.
    colour = page.js("""(() => { const s = view.scene, [x, y] = s.toScreen(s.pose(1).x, s.pose(1).y), r = s.ratio;
        s.draw(true);
        const at = s.toScreen(s.pose(1).x - 0.1, s.pose(1).y);
        return [...s.pen.getImageData(Math.round(at[0] * r), Math.round(at[1] * r), 1, 1).data]; })()""")
    assert colour[:3] == [0x1D, 0x5F, 0xD6]
    assert page.complaints() == [] and page.js("document.documentElement.dataset.error") is None
    page.close()


def test_hostile_names_are_text(chromium):
    bench = Bench(robots=HOSTILE)
    bench.moving = Moving(bench)
    page = live(chromium, bench)
    page.until("document.querySelectorAll('#robots tr').length === 3")
    for k, name in enumerate(HOSTILE):
        page.click_on(f"#robots tr:nth-child({k + 1}) button")
        assert page.js("document.getElementById('chosenname').textContent") == name
        assert name in page.js("document.getElementById('hint').textContent")
    bench.server.tell(HOSTILE[0], "bad")
    page.until("document.getElementById('log').textContent.includes('onerror')")
    assert page.js("document.querySelectorAll('img, #robots script, [onclick], [onerror]').length") == 0
    assert page.js("document.title") == "Fleet" and page.complaints() == []
    page.close()
    bench.moving.stop()
    bench.close()


def test_click_on_robot_then_on_map_sends_the_goal(chromium, bench):
    page = live(chromium, bench)
    bench.moving.stop()  # so that the robot stays under the mouse
    page.click(*page.js(PIXEL % "view.scene.toScreen(view.scene.pose(1).x, view.scene.pose(1).y)"))
    assert page.js("view.state.selected") == "b"
    page.click(*pixel(page, 4.2, -7.0))
    wait_for(lambda: bench.done, "a command")
    (command,) = bench.done
    assert (command.kind, command.robot) == ("goal", "b")
    assert (command.x, command.y) == pytest.approx((4.2, -7.0), abs=0.05)
    page.until("document.getElementById('hint').textContent === 'goal done'")
    bench.answer = lambda command: (False, "refused: in a wall")
    page.click(*pixel(page, 4.2, -3.0))
    page.until("document.getElementById('hint').classList.contains('bad')")
    page.press("Escape")
    assert page.js("view.state.selected") is None
    page.click(*pixel(page, 5.0, -7.0))  # nobody is selected
    page.js("new Promise(done => setTimeout(done, 300))")
    assert len(bench.done) == 2
    page.close()


def test_dragging_moves_the_map_and_sends_nothing(chromium, bench):
    page = live(chromium, bench)
    page.js("document.querySelector('#robots button').click()")
    before = page.js("[view.scene.view.x, view.scene.view.scale]")
    x, y = pixel(page, 4.2, -7.0)
    page.mouse("mousePressed", x, y)
    for step in range(1, 6):
        page.call(
            "Input.dispatchMouseEvent", type="mouseMoved", x=x + 20 * step, y=y, button="left", buttons=1
        )
    page.mouse("mouseReleased", x + 100, y)
    after = page.js("[view.scene.view.x, view.scene.view.scale]")
    assert (before[0] - after[0]) * before[1] == pytest.approx(100, abs=25) and bench.done == []
    page.call("Input.dispatchMouseEvent", type="mouseWheel", x=x, y=y, deltaX=0, deltaY=-300)
    page.until(f"view.scene.view.scale > 1.2 * {before[1]}")
    page.click_on("#fit")
    assert page.js("view.scene.view.scale") == pytest.approx(before[1], rel=0.01)
    page.close()


def test_touch_pinches_and_taps(chromium, bench):
    page = live(chromium, bench)
    page.call("Emulation.setTouchEmulationEnabled", enabled=True)
    x, y = pixel(page, 4.2, -7.0)
    before = page.js("view.scene.view.scale")

    def touch(kind, *points):
        page.call("Input.dispatchTouchEvent", type=kind, touchPoints=[{"x": a, "y": b} for a, b in points])

    touch("touchStart", (x - 30, y), (x + 30, y))
    for step in range(1, 7):
        touch("touchMove", (x - 30 - 10 * step, y), (x + 30 + 10 * step, y))
    touch("touchEnd")
    page.until(f"view.scene.view.scale > 2 * {before}")
    assert bench.done == []
    page.js("document.querySelector('#robots button').click()")
    point = pixel(page, 4.2, -7.0)
    touch("touchStart", point)
    touch("touchEnd")
    wait_for(lambda: bench.done, "a goal from a tap")
    assert (bench.done[0].x, bench.done[0].y) == pytest.approx((4.2, -7.0), abs=0.05)
    page.close()


def test_stop_works_at_once_and_from_the_keyboard_resume_needs_two_presses(chromium, bench):
    page = live(chromium, bench)
    x, y = page.js("(b => [b.x + 20, b.y + 20])(document.getElementById('stop').getBoundingClientRect())")
    page.mouse("mousePressed", x, y)  # no need to let go
    wait_for(lambda: [c.kind for c in bench.done] == ["stop"], "a stop")
    page.mouse("mouseReleased", x, y)
    page.until("document.getElementById('log').textContent.includes('stop done')")
    bench.moving.changes = {"stopped": True}
    page.until("document.documentElement.dataset.stopped === 'true'")
    assert "stopped until somebody resumes" in page.js("document.getElementById('banner').textContent")
    page.press("r")
    assert "Press again" in page.js("document.getElementById('resume').textContent") and len(bench.done) == 1
    page.press("r")
    wait_for(lambda: len(bench.done) == 2, "resume")
    assert bench.done[1].kind == "resume"
    page.js("document.querySelector('#robots button').focus()")  # wherever the focus is
    page.press("s")
    wait_for(lambda: [c.kind for c in bench.done[2:]] == ["stop"], "a stop by key")
    page.js("document.querySelector('#robots button').click()")
    page.click_on("#stopone")
    page.click_on("#resumeone")
    wait_for(lambda: len(bench.done) == 5, "commands to one robot")
    assert [(c.kind, c.robot) for c in bench.done[3:]] == [("stop_robot", "a"), ("resume_robot", "a")]
    assert page.complaints() == []
    page.close()


def test_everything_works_with_the_keyboard(chromium, bench):
    page = live(chromium, bench)
    page.js("document.getElementById('map').focus()")
    page.press("n")
    assert page.js("view.state.selected") == "a"
    for _ in range(3):
        page.press("ArrowRight")
    page.press("Enter")
    wait_for(lambda: bench.done, "a goal")
    assert (bench.done[0].robot, bench.done[0].kind) == ("a", "goal")
    assert bench.done[0].x == pytest.approx(3 * CELL, abs=0.11)
    scale = page.js("view.scene.view.scale")
    page.press("+")
    assert page.js("view.scene.view.scale") > scale
    page.close()


def test_an_unconfirmed_stop_is_repeated(chromium, bench):
    bench.answer = lambda command: (len(bench.done) > 2, "perhaps")
    page = live(chromium, bench)
    page.press("s")
    wait_for(lambda: len(bench.done) >= 3, "repetitions")
    page.until("document.getElementById('log').textContent.includes('NOT CONFIRMED')")
    page.js("new Promise(done => setTimeout(done, 2500))")
    assert len(bench.done) == 3
    page.close()


def test_the_page_survives_a_restart_and_a_stop_pressed_meanwhile_is_not_lost(chromium):
    bench = Bench()
    bench.moving, port = Moving(bench), bench.server.port
    page = live(chromium, bench)
    bench.moving.stop()
    bench.close()
    page.until("document.documentElement.dataset.stale === 'true'")
    assert "No connection" in page.js("document.getElementById('banner').textContent")
    page.press("s")
    page.until("document.getElementById('log').textContent.includes('NO CONNECTION')")
    again = Bench(port=port, robots=("a", "b", "c"))
    again.moving = Moving(again)
    try:
        page.until("document.documentElement.dataset.stale === 'false'")
        wait_for(lambda: [c.kind for c in again.done] == ["stop"], "the stop")
        page.until("document.documentElement.dataset.robots === '3'")
        page.until("document.querySelectorAll('#robots tr').length === 3")
        assert page.complaints() == []
        page.close()
    finally:
        again.moving.stop()
        again.close()


def test_a_silent_or_missing_fleet_is_said_clearly(chromium, bench):
    page = live(chromium, bench)
    banner = "document.getElementById('banner').textContent"
    bench.moving.stop()
    page.until(
        f"document.documentElement.dataset.stale === 'true' && {banner}.includes('it runs, but is silent')"
    )
    bench.picture.fleet_is_there = lambda: False
    page.until(f"{banner}.includes('nobody publishes fleet/state')")
    assert page.js("getComputedStyle(document.getElementById('map')).opacity") != "1"
    bench.move()
    page.until("document.documentElement.dataset.stale === 'false'")
    page.close()


def test_watching_only(chromium):
    bench = Bench(access=Access(host="0.0.0.0", token="t" * 20))
    bench.moving = Moving(bench)
    page = live(chromium, bench)
    assert page.js("document.getElementById('stop').disabled") and "token" in page.text()
    page.press("s")
    page.js("document.querySelector('#robots button').click()")
    page.click(*pixel(page, 4.2, -7.0))
    page.js("new Promise(done => setTimeout(done, 300))")
    assert bench.done == []
    page.close()
    page = live(chromium, bench, "#token=" + "t" * 20)
    page.until("!document.getElementById('stop').disabled")
    page.press("s")
    wait_for(lambda: bench.done, "a stop with the token")
    page.close()
    bench.moving.stop()
    bench.close()


@pytest.mark.parametrize("bench", [{"robots": [f"robot_{i:03d}" for i in range(256)]}], indirect=True)
def test_256_robots_in_two_browsers_dark_and_light(chromium, bench):
    # A page behind another one neither draws nor answers clicks in time: one is looked at after the other. They draw
    # at a few frames a second without a graphics card on a busy machine, so what counts is that both numbers go on.
    pages = []
    for theme in ("dark", "light"):
        page = live(chromium, bench)
        pages.append(page)
        page.call("Page.bringToFront")
        page.until("document.querySelectorAll('#robots tr').length === 256")
        if page.js("document.documentElement.dataset.theme") != theme:
            page.click_on("#theme")
        assert page.js("document.documentElement.dataset.theme") == theme
        drawn, frames = page.js("[view.state.drawn, view.state.frames]")
        page.until(f"view.state.drawn > {drawn} + 5 && view.state.frames > {frames} + 5")
    for page in pages:  # frames go to both, also to the one behind
        frames = page.js("view.state.frames")
        page.until(f"view.state.frames > {frames} + 5")
        assert page.complaints() == []
        page.close()
