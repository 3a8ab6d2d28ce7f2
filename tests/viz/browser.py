"""What tests of pages in headless Chromium share."""

from __future__ import annotations

import shutil

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
WIDTHS = (400, 820, 1200)

browser_marks = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(
        CHROMIUM is None or DRIVER is None,
        reason="needs Chromium and its driver (apt-get install chromium chromium-driver)",
    ),
]


def wait_until_shown(driver, key: str) -> None:
    """Waits until the page says that it shows ``key``."""
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(driver, 60, poll_frequency=0.05).until(
        lambda d: d.execute_script("return document.body.dataset.shown") == key,
        f"{key} was not drawn: {failure(driver)}",
    )


def failure(driver) -> str:
    return driver.execute_script("return document.getElementById('failure')?.textContent")


def problems(driver) -> list[dict]:
    """What the browser complained about."""
    return [entry for entry in driver.get_log("browser") if entry["level"] != "DEBUG"]


def set_width(driver, width: int, height: int = 900) -> None:
    """Gives the page a width as a phone or tablet would; 0 is the window's own again."""
    if not width:
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        return
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
    )


def set_theme(driver, theme: str) -> None:
    """``"light"`` or ``"dark"``, as a reader's system would ask for it."""
    feature = {"name": "prefers-color-scheme", "value": theme}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})


def save_page(driver, path) -> None:
    """A picture of the whole page."""
    import base64

    width, height = driver.execute_script(
        "return [innerWidth, document.documentElement.scrollHeight]"
    )
    clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
    picture = driver.execute_cdp_cmd(
        "Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip}
    )
    path.write_bytes(base64.b64decode(picture["data"]))


LAYOUT_FAULTS = """
const faults = [];
const rectOf = (e) => e.getBoundingClientRect();
const textOf = (e) => e.textContent.slice(0, 30);
const name = (e) => `${e.tagName}#${e.id}.${e.getAttribute("class")} "${textOf(e)}"`;
const overlap = (a, b) => Math.min(Math.min(a.right, b.right) - Math.max(a.left, b.left),
                                   Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top));
const visible = (e) => { const r = rectOf(e); return r.width > 0 && r.height > 0; };
const pairs = (list, say, slack = 1) => list.forEach((a, i) => list.slice(i + 1).forEach((b) => {
    if (!a.contains(b) && !b.contains(a) && overlap(rectOf(a), rectOf(b)) > slack)
        faults.push(`${say}: ${name(a)} / ${name(b)}`);
}));
if (document.documentElement.scrollWidth > innerWidth)
    faults.push("the page is wider than the window");
pairs([...document.querySelectorAll("section, header")], "panels overlap");
for (const panel of document.querySelectorAll("section, header, nav"))
    pairs([...panel.querySelectorAll(
        ":scope > *, .tools > *, :scope > label > *, dl > *, #thumbnails > *")]
        .filter(visible), "overlap");
// What lies beyond the edge of its panel, or is hidden by a scroll bar across.
for (const e of document.querySelectorAll("body *")) {
    if (e.closest("svg, #tooltip, option, script, style, .token") || !visible(e)) continue;
    const r = rectOf(e);
    if (r.left < -1 || r.right > innerWidth + 1) faults.push(`outside the window: ${name(e)}`);
    if (e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).display !== "inline"
        && !["SELECT", "CANVAS"].includes(e.tagName)) faults.push(`cut: ${name(e)}`);
}
for (const plot of document.querySelectorAll(".plot")) {
    const texts = [...plot.querySelectorAll(
        ".main-svg text, .main-svg .annotation-text")]
        .filter((e) => visible(e) && e.textContent.trim());
    const frame = rectOf(plot);
    for (const e of texts) {
        const r = rectOf(e);
        if (r.left < frame.left - 2 || r.right > frame.right + 2 || r.top < frame.top - 2 ||
            r.bottom > frame.bottom + 2) faults.push(`cut in #${plot.id}: ${name(e)}`);
    }
    // Two points after another may share letters' boxes by a hair; a pixel or two is no overlap.
    if (plot.id !== "blocks") pairs(texts, `text over text in #${plot.id}`, 2.5);
}
return [...new Set(faults)];
"""


def layout_faults(driver) -> list[str]:
    """What overlaps or is cut on the page."""
    return driver.execute_script(LAYOUT_FAULTS)


LOW_CONTRAST = """
const parse = (text) => {
    const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number);
    return [r, g, b, a];
};
const light = (c) => c.slice(0, 3).map((v) => v / 255)
    .map((v) => (v > 0.04045 ? ((v + 0.055) / 1.055) ** 2.4 : v / 12.92))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
const textOf = (e) => e.textContent.slice(0, 30);
const ratioOf = (a, b) => {
    const [dark, bright] = [light(a), light(b)].sort((x, y) => x - y);
    return (bright + 0.05) / (dark + 0.05);
};
const over = (top, under) => [0, 1, 2].map((i) => top[3] * top[i] + (1 - top[3]) * under[i]);
const groundOf = (e) => {
    const layers = [];
    for (let at = e; at; at = at.parentElement)
        layers.push(parse(getComputedStyle(at).backgroundColor));
    return layers.reverse().reduce((under, top) => over(top, under), [255, 255, 255]);
};
const out = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
    const e = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim()) continue;
    if (e.closest("script, style, svg, [hidden]")) continue;
    const rect = e.getBoundingClientRect();
    if (!rect.width || !rect.height) continue;
    const ratio = ratioOf(parse(getComputedStyle(e).color), groundOf(e));
    if (ratio < 4.5) out.push(`${ratio.toFixed(2)} ${e.tagName}.${e.className} "${textOf(e)}"`);
}
const frame = groundOf(document.querySelector("section"));
for (const e of document.querySelectorAll(".plot .main-svg text")) {
    const rect = e.getBoundingClientRect();
    if (!rect.width || e.closest(".trace, .annotation")) continue;
    const ratio = ratioOf(parse(getComputedStyle(e).fill), frame);
    if (ratio < 4.5) out.push(`${ratio.toFixed(2)} in a picture "${textOf(e)}"`);
}
return [...new Set(out)];
"""


def low_contrasts(driver) -> list[str]:
    """Texts whose contrast with what lies under them is below 4.5:1 (WCAG 2.1)."""
    return driver.execute_script(LOW_CONTRAST)
