"""The report in a real browser: no request, no error, readable in dark and in light, nothing cut off."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from fake_runs import gold_rows, make_baselines, make_run

from triagekit.compare.report import compare_runs
from triagekit.schema import load_schema

pytestmark = pytest.mark.browser
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--window-size=1200,900",
)  # fmt: skip

# Contrast of every visible text against the colours painted behind it (WCAG 2.2, relative luminance).
CONTRAST = """
const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
const read = (colour) => {
  canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
  const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data; return [r, g, b, a / 255];
};
const over = (top, below) => top.slice(0, 3).map((v, i) => v * top[3] + below[i] * (1 - top[3]));
const behind = (element) => {
  const layers = [];
  for (let e = element; e; e = e.parentElement) layers.push(read(getComputedStyle(e).backgroundColor));
  return layers.reverse().reduce((below, layer) => over(layer, below), [255, 255, 255]);
};
const luminance = (rgb) => {
  const [r, g, b] = rgb.map((v) => { v /= 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
document.querySelectorAll('details').forEach((d) => { d.open = true; });
const found = [];
for (const element of document.querySelectorAll('body *')) {
  if (!Array.from(element.childNodes).some((n) => n.nodeType === 3 && n.textContent.trim())) continue;
  const svg = element.namespaceURI.includes('svg');
  const style = getComputedStyle(element);
  const back = behind(svg ? element.closest('figure') : element);
  const ink = over(read(svg ? style.fill : style.color), back);
  const [light, dark] = [luminance(ink), luminance(back)].sort((a, b) => b - a);
  found.push({ratio: (light + 0.05) / (dark + 0.05), text: element.textContent.trim().slice(0, 40), tag: element.tagName});
}
return found;
"""


def program(*names: str) -> str | None:
    return next((path for path in map(shutil.which, names) if path), None)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    chromium, driver = program("chromium", "chromium-browser", "google-chrome"), program("chromedriver")
    missing = "no Chromium and chromedriver found (Debian: apt-get install chromium chromium-driver)"
    if not chromium or not driver:
        if os.environ.get("TRIAGEKIT_REQUIRE_BROWSER") == "1":
            pytest.fail(missing)
        pytest.skip(missing)
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield started
    started.quit()


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("browser")
    rows = gold_rows(load_schema("it_tickets"), 150)
    runs = [
        make_run(root / "runs" / f"{method}-seed{seed}", method, seed, share, rows, config=config)
        for method, share, config in (("lora", 0.75, {}), ("hybrid", 0.9, {"optimizer.learning_rate": 0.004}))
        for seed in (1, 2)
    ]
    make_baselines(root / "data", rows, 0.7)
    out = root / "report.html"
    compare_runs(runs, out, resamples=60)
    return out


@pytest.fixture(params=["light", "dark"])
def opened(request, browser, page):
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": request.param}]}
    )
    for log in ("browser", "performance"):
        browser.get_log(log)  # what the browser did before is not the page's doing
    browser.get(page.as_uri())
    return request.param


def test_opens_without_network_or_errors(browser, opened):
    import json

    assert browser.get_log("browser") == []
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert urls
    assert [url for url in urls if not url.startswith(("file:", "data:"))] == []


def test_text_is_readable(browser, opened):
    back = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    brightness = sum(int(part) for part in back[4:-1].split(","))
    assert (brightness > 600) if opened == "light" else (brightness < 150)
    found = browser.execute_script(CONTRAST)
    assert len(found) > 300
    poor = [item for item in found if item["ratio"] < 4.5]
    assert not poor, poor[:10]


def test_lines_of_figures_stand_out(browser, opened):
    """Graphics need 3 : 1 (WCAG 2.2, 1.4.11)."""
    script = """
    const probe = document.createElement('div'); document.querySelector('section').append(probe);
    const colours = [];
    for (let n = 1; n <= 8; n += 1) {
      probe.style.color = `var(--series-${n})`; colours.push(getComputedStyle(probe).color);
    }
    const back = getComputedStyle(document.querySelector('section')).backgroundColor; probe.remove();
    return [back, ...colours];
    """
    back, *colours = (luminance(colour) for colour in browser.execute_script(script))
    for colour in colours:
        high, low = max(colour, back), min(colour, back)
        assert (high + 0.05) / (low + 0.05) >= 3


def test_every_part_is_there_and_nothing_is_cut(browser, opened):
    assert browser.execute_script("return document.querySelectorAll('figure svg').length") == 5
    sizes = browser.execute_script(
        "return [...document.querySelectorAll('figure svg')].map((s) => [s.clientWidth, s.clientHeight])"
    )
    assert all(width > 250 and height > 150 for width, height in sizes)
    sections = browser.execute_script("return [...document.querySelectorAll('section')].map((s) => s.id)")
    assert sections == [
        "summary", "fields", "tests", "conditions", "cost", "training", "confidence", "slices", "confusions",
        "mistakes", "made",
    ]  # fmt: skip
    assert "Not comparable" in browser.execute_script("return document.getElementById('verdict').innerText")
    wide = "return document.documentElement.scrollWidth <= document.documentElement.clientWidth"
    assert browser.execute_script(wide)
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    )
    assert browser.execute_script(wide)
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def luminance(colour: str) -> float:
    channels = [int(part) / 255 for part in colour.removeprefix("rgb(").rstrip(")").split(",")]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
