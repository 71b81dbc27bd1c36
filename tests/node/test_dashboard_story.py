"""The dashboard beside a real node that trains: what it tells, what a browser makes of it, and what stays after a kill.

The node calls itself something that no page may run. The browser is Chromium, where there is one with its driver.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from dashboard_support import command
from node_support import LOOPBACK, Contributor, last_json, paris_node
from PIL import Image

from paris.registry.runkey import RunKey

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
DEADLINE_S = 120.0
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
needs_browser = pytest.mark.skipif(
    not (BROWSER and DRIVER), reason="no Chromium with its driver here: apt-get install chromium chromium-driver"
)


@dataclass
class Scene:
    """A node that trains, and the dashboard of its home."""

    key: RunKey
    url: str
    homes: Path
    node: Contributor
    loop: asyncio.AbstractEventLoop

    def state(self) -> dict[str, Any]:
        connection = http.client.HTTPConnection(self.url.removeprefix("http://").rstrip("/"), timeout=30)
        connection.request("GET", "/api/v1/state")
        state: dict[str, Any] = json.loads(connection.getresponse().read())
        connection.close()
        return state

    def until(self, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The first state of which something holds."""
        deadline_s = time.monotonic() + DEADLINE_S
        while not holds(state := self.state()):
            assert time.monotonic() < deadline_s, state
            time.sleep(0.2)
        return state

    def run(self, state: dict[str, Any]) -> dict[str, Any]:
        (run,) = state["runs"]
        return dict(run)


@pytest.fixture(scope="module")
def scene(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    homes = tmp_path_factory.mktemp("dashboard")
    created = paris_node(
        *("run", "create", pictures, "--clusters", 2, "--model", "micro", "--steps", 1_000_000, "--publish-every", 100),
        *("--lease", 12, "--settle", 1, "--home", homes / "ada", "--json"),
    )
    assert created.returncode == 0, created.stderr
    run = RunKey.parse(last_json(created)["run"])
    loop, node = asyncio.new_event_loop(), Contributor("ada", homes)
    living = threading.Thread(target=loop.run_forever, daemon=True)
    living.start()

    def do(work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result(DEADLINE_S)

    shown = homes / "shown"
    shown.mkdir()
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "green", "blue")]
    frames[0].save(shown / "moves.webp", save_all=True, append_images=frames[1:], duration=80, loop=0)
    try:
        do(node.start(str(run), "--threads", "1", "--name", HOSTILE))
        do(node.ready())
        do(node.until("published"))
        with command(homes / "ada", "--show", shown) as (url, _):
            yield Scene(run.with_peers(node.addrs), url, homes, node, loop)
    finally:
        do(node.end())
        loop.call_soon_threadsafe(loop.stop)
        living.join()
        loop.close()


def test_it_finds_the_run_and_the_node_of_its_home_and_tells_what_status_tells(scene: Scene) -> None:
    state = scene.until(lambda s: bool(s["runs"][0]["picture"] and (s["runs"][0]["node"] or {}).get("doing") == "step"))
    run = scene.run(state)
    assert run["run"] == f"paris://{scene.key.hex}"
    assert run["trouble"] is None
    note, me = run["node"], state["machine"]["peer"]
    assert note["running"]
    assert note["per_s"] > 0
    assert note["unit"] in {"cluster-0", "cluster-1", "router"}
    (trained,) = [unit for unit in run["picture"]["units"] if unit["lineage"]]
    assert (trained["unit"], trained["state"], trained["holder"]) == (note["unit"], "training", me)
    assert trained["holder_name"] == HOSTILE[:64]
    assert trained["lineage"][0]["by"] == me
    assert trained["lineage"][-1]["to_step"] == trained["claimed"][-1][0] == trained["published_step"]
    assert trained["samples_per_s"] > 0
    assert {unit["state"] for unit in run["picture"]["units"] if unit is not trained} == {"unclaimed"}
    (peer,) = run["picture"]["nodes"]
    assert (peer["peer"], peer["serves"], peer["claims"]) == (me, [trained["unit"]], [trained["unit"]])
    told = paris_node("status", scene.key, "--home", scene.homes / "visitor", "--listen", LOOPBACK, "--json")
    assert told.returncode == 0, told.stderr
    assert set(last_json(told)) == set(run["picture"])
    assert [set(unit) for unit in last_json(told)["units"]] == [set(unit) for unit in run["picture"]["units"]]


def test_the_network_is_looked_at_no_more_often_however_many_ask(scene: Scene) -> None:
    seen_s = scene.until(lambda s: bool(s["runs"][0]["seen_s"]))["runs"][0]["seen_s"]
    later = {scene.run(scene.state())["seen_s"] for _ in range(100)}
    assert later <= {seen_s} or min(later - {seen_s}) - seen_s >= 14


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(BROWSER)
    for argument in (
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
        "--disable-dev-shm-usage", "--disable-background-networking", "--disable-component-update",
        f"--user-data-dir={tmp_path_factory.mktemp('chromium')}",
    ):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(str(DRIVER)))
    driver.set_page_load_timeout(60)
    yield driver
    driver.quit()


def until(driver: Any, script: str) -> Any:
    """What a script returns, as soon as that is something."""
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(driver, DEADLINE_S, poll_frequency=0.1).until(lambda d: d.execute_script(script))


@needs_browser
class TestInABrowser:
    def opened(self, driver: Any, scene: Scene, width: int = 1200, *, motion: bool = True) -> None:
        calm = [{"name": "prefers-reduced-motion", "value": "" if motion else "reduce"}]
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": calm})
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        driver.get(scene.url)
        until(driver, "return document.querySelectorAll('.unit').length === 3")

    def test_what_strangers_call_themselves_is_shown_as_text(self, scene: Scene, browser: Any) -> None:
        self.opened(browser, scene)
        assert HOSTILE[:64] in until(browser, "return document.querySelector('.unit.training .who')?.textContent")
        assert browser.execute_script("return document.querySelectorAll('main img[src=x], main script').length") == 0
        assert browser.title != "owned"
        assert [entry for entry in browser.get_log("browser") if entry["level"] in {"SEVERE", "WARNING"}] == []

    def test_a_unit_opens_by_keyboard_and_stays_open_with_focus_when_news_arrive(
        self, scene: Scene, browser: Any
    ) -> None:
        from selenium.webdriver.common.by import By
        from selenium.webdriver.common.keys import Keys

        self.opened(browser, scene)
        until(browser, "return document.querySelector('.unit.training')")
        browser.find_element(By.CSS_SELECTOR, ".unit.training summary").send_keys(Keys.ENTER)
        until(browser, "return document.querySelector('.unit.training[open] .story ol li')")
        browser.execute_script("window.before = document.querySelector('.unit')")
        until(browser, "return !window.before.isConnected")
        assert browser.execute_script("return document.querySelector('.unit.training').open")
        assert browser.execute_script("return document.activeElement.closest('.unit.training') !== null")

    def test_a_phone_needs_no_scrolling_sideways(self, scene: Scene, browser: Any) -> None:
        self.opened(browser, scene, width=360)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 360

    @pytest.mark.parametrize(("motion", "element", "label"), [(True, "IMG", "Pause"), (False, "CANVAS", "Play")])
    def test_a_clip_plays_when_it_is_seen_unless_somebody_wants_less_motion(
        self, scene: Scene, browser: Any, motion: bool, element: str, label: str
    ) -> None:
        self.opened(browser, scene, motion=motion)
        until(browser, "document.querySelector('.clip')?.scrollIntoView(); return document.querySelector('.clip')")
        shown = "const c = document.querySelector('.clip'); return "
        until(browser, f"{shown} c.firstChild.tagName === '{element}' && c.lastChild.textContent === '{label}'")
        drawn = "c.firstChild.naturalWidth === 16" if motion else "c.firstChild.width === 16"
        until(browser, f"{shown} {drawn}")
        browser.execute_script("document.querySelector('.clip button').click()")
        other = {"IMG": "CANVAS", "CANVAS": "IMG"}[element]
        until(browser, f"{shown} c.firstChild.tagName === '{other}'")


def test_when_the_network_goes_the_last_picture_stays_with_what_was_tried(
    scene: Scene, request: pytest.FixtureRequest
) -> None:
    """The last test of the story: the node is killed."""
    seen = scene.run(scene.until(lambda s: bool(s["runs"][0]["picture"])))
    scene.loop.call_soon_threadsafe(scene.node.kill)
    run = scene.run(scene.until(lambda s: s["runs"][0]["trouble"] is not None))
    assert not run["node"]["running"]
    assert run["trouble"]["kind"] == "network"
    assert "tried for" in run["trouble"]["why"]
    assert run["picture"]["name"] == seen["picture"]["name"]
    assert run["seen_s"] >= seen["seen_s"]
    if BROWSER and DRIVER:
        browser = request.getfixturevalue("browser")
        browser.get(scene.url)
        notice = until(browser, "return document.querySelector('#notices .notice')?.textContent")
        assert "The network cannot be reached" in notice
        assert "was seen" in notice
        assert browser.execute_script("return document.querySelectorAll('.unit').length") == 3
