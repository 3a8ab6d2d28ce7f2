"""The report and the comparison as readers use them: on a phone, a tablet and a desk, in light and
dark, by keyboard, without a network. Pictures go where ``SBMGRAPH_SCREENSHOTS`` says."""

from __future__ import annotations

import json
import time
import xml.etree.ElementTree as ET

import pandas as pd
import pytest
import torch

from sbmgraph.nn import SBMTransformer
from sbmgraph.viz.report import ReportInput, write_comparison, write_report
from tests.viz.browser import (
    WIDTHS,
    browser_marks,
    layout_faults,
    low_contrasts,
    problems,
    save_page,
    set_theme,
    set_width,
    wait_until_shown,
)
from tests.viz.runs import write_run, write_runs

pytestmark = browser_marks

LONG = "a-very-long-token-that-does-not-want-to-end-" * 3
WORDS = [LONG, "<b>", "$$", "[MAX", "\n", "", *map(str, range(14))]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Two inputs, two layers of two heads, blocks that several tokens share."""
    torch.manual_seed(1)
    model = SBMTransformer(20, 4, channels=16, heads=2, num_clusters=8, max_length=200)
    generator = torch.Generator().manual_seed(5)
    inputs = [
        ReportInput([torch.randint(0, 20, (length,), generator=generator)], f"item of {length}")
        for length in (24, 180)
    ]
    history = pd.DataFrame(
        [
            {"step": step, "layer": layer, "head": head, "density": 0.2 + step / 1e3}
            for step in range(0, 100, 10)
            for layer in range(2)
            for head in range(2)
        ]
    )
    return write_report(
        tmp_path_factory.mktemp("page") / "report.html",
        model,
        inputs,
        title="What the heads learned",
        summary={"run": "runs/listops_quick/sbm-0", "test accuracy": "40.0%"},
        history=history,
        decode=WORDS.__getitem__,
    )


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    write_runs(folder)
    return write_comparison(folder / "comparison.html", [folder])


@pytest.fixture
def open_page(driver, report, comparison):
    pages = {"report": (report, "0-0-0"), "comparison": (comparison, "listops")}

    def open_(name: str, width: int = 1200, theme: str = "light", fragment: str = "") -> None:
        path, key = pages[name]
        set_width(driver, width)
        set_theme(driver, theme)
        driver.get("about:blank")
        driver.get_log("browser")
        driver.get(path.as_uri() + fragment)
        if fragment:
            key = "-".join(part.split("=")[1] for part in fragment[1:].split("&"))
        wait_until_shown(driver, key)

    yield open_
    set_width(driver, 0)
    set_theme(driver, "light")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("page", ["report", "comparison"])
def test_nothing_overlaps_is_cut_or_hard_to_read(
    driver, open_page, screenshots, page, width, theme
):
    fragments = ["", "#input=1&layer=1&head=1"] if page == "report" else [""]
    for number, fragment in enumerate(fragments):
        open_page(page, width, theme, fragment)
        save_page(driver, screenshots / f"{page}-{width}-{theme}-{number}.png")
        assert layout_faults(driver) == []
        assert low_contrasts(driver) == []
    assert problems(driver) == []


def test_panels_follow_the_width(driver, open_page):
    """Three columns at most on a desk, one on a phone."""
    columns = """
        const left = [...document.querySelectorAll("section")]
            .map((s) => Math.round(s.getBoundingClientRect().left));
        return new Set(left).size;
    """
    found = []
    for width in WIDTHS:
        open_page("report", width)
        found.append(driver.execute_script(columns))
    assert found[0] == 1
    assert found[1] == 2
    assert found[2] >= 3
    # And when the window is turned: without loading the page anew.
    set_width(driver, 400)
    wait_until_drawn_in(driver, 400)
    assert driver.execute_script(columns) == 1
    assert layout_faults(driver) == []


def wait_until_drawn_in(driver, width: int) -> None:
    """Waits until every picture has the size of its place in a page of that width."""
    from selenium.webdriver.support.ui import WebDriverWait

    fits = """
        return innerWidth === arguments[0] && document.body.dataset.shown !== undefined &&
            [...document.querySelectorAll(".plot")].every((p) => p.layout.width === p.clientWidth);
    """
    WebDriverWait(driver, 60, poll_frequency=0.1).until(lambda d: d.execute_script(fits, width))


def test_the_theme_is_followed_at_once(driver, open_page):
    ink = "return document.getElementById('adjacency').layout.font.color"
    open_page("report", 1200, "light")
    before = driver.execute_script(ink)
    set_theme(driver, "dark")
    end = time.monotonic() + 30
    while driver.execute_script(ink) == before:
        assert time.monotonic() < end, "the pictures kept their colours"
        time.sleep(0.1)
    wait_until_shown(driver, "0-0-0")
    assert low_contrasts(driver) == []


# Keyboard #########################################################################################


def press(driver, *keys) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    for key in keys:
        ActionChains(driver).send_keys(key).perform()


def focused(driver) -> str:
    return driver.execute_script(
        "return document.activeElement.dataset.focus ?? document.activeElement.id"
    )


def tab_to(driver, wanted: str) -> list[str]:
    """Presses Tab until an element is focused; what was passed."""
    from selenium.webdriver.common.keys import Keys

    passed = []
    for _ in range(80):
        press(driver, Keys.TAB)
        passed.append(focused(driver))
        if passed[-1] == wanted:
            return passed
    raise AssertionError(f"{wanted} cannot be reached by Tab: {passed}")


def test_tokens_are_reached_and_read_by_keyboard(driver, open_page):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    open_page("report")
    tab_to(driver, "token-0")
    press(driver, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_LEFT)
    assert focused(driver) == "token-1"
    degrees = driver.execute_script("return viewOf('0-0-0').then((v) => [...v.degree.data])")
    info = driver.find_element(By.ID, "token-info")
    assert "Token 1 " in info.text
    assert f"Attends to {degrees[1]} of 24" in info.text
    assert info.get_attribute("aria-live") == "polite"
    assert len(driver.find_elements(By.CSS_SELECTOR, ".token.edge")) == degrees[1]
    label = driver.execute_script("return document.activeElement.getAttribute('aria-label')")
    assert label.startswith("token 1 ")
    assert f"attends to {degrees[1]}" in label
    press(driver, Keys.END)
    assert focused(driver) == "token-23"
    press(driver, Keys.HOME)
    assert focused(driver) == "token-0"
    # A line down and up again.
    press(driver, Keys.ARROW_DOWN)
    below = int(focused(driver).split("-")[1])
    tops = driver.execute_script(
        "return [...document.querySelectorAll('.token')].map((t) => t.offsetTop)"
    )
    assert tops[below] > tops[0]
    assert set(tops[1:below]) <= {tops[0], tops[below]}
    press(driver, Keys.ARROW_UP)
    assert tops[int(focused(driver).split("-")[1])] == tops[0]
    # Pinned, the neighbours stay while the focus moves on.
    press(driver, Keys.HOME, Keys.ENTER, Keys.ARROW_RIGHT)
    assert "Token 0 " in info.text
    assert len(driver.find_elements(By.CSS_SELECTOR, ".token.edge")) == degrees[0]
    press(driver, Keys.ESCAPE)
    assert "Token 1 " in info.text
    assert problems(driver) == []


def test_focus_is_kept_when_the_page_is_drawn_anew(driver, open_page):
    from selenium.webdriver.common.keys import Keys

    open_page("report")
    tab_to(driver, "thumb-1-0")
    press(driver, Keys.ENTER)
    wait_until_shown(driver, "0-1-0")
    assert focused(driver) == "thumb-1-0"
    tab_to(driver, "row-0-1")
    press(driver, Keys.ENTER)
    wait_until_shown(driver, "0-0-1")
    assert focused(driver) == "row-0-1"
    tab_to(driver, "token-0")
    press(driver, Keys.ARROW_RIGHT)
    driver.execute_script("location.hash = '#input=0&layer=1&head=1'")
    wait_until_shown(driver, "0-1-1")
    assert focused(driver) == "token-1"
    assert problems(driver) == []


def test_every_control_is_reached_by_keyboard(driver, open_page):
    open_page("report")
    tab_to(driver, "previous")
    passed = tab_to(driver, "colour")
    for wanted in ("input", "next", "layer", "head", "thumb-0-0", "row-1-1", "direction"):
        assert wanted in passed
    outline = driver.execute_script("return getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"


def test_pixels_are_chosen_by_arrow_keys(driver, tmp_path):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    torch.manual_seed(2)
    model = SBMTransformer(
        256, 2, channels=16, heads=1, num_layers=1, num_clusters=4, max_length=36
    )
    pixels = ReportInput([torch.randint(0, 256, (36,))], "class 0")
    path = write_report(tmp_path / "image.html", model, [pixels], image_shape=(6, 6))
    driver.get(path.as_uri())
    wait_until_shown(driver, "0-0-0")
    tab_to(driver, "image")
    press(driver, Keys.ARROW_DOWN, Keys.ARROW_RIGHT)
    assert "Token 7 " in driver.find_element(By.ID, "token-info").text
    assert problems(driver) == []


# Address, network, files ##########################################################################


def test_links_into_the_page_work(driver, open_page):
    open_page("report", fragment="#input=1&layer=0&head=1")
    driver.execute_script("location.hash = '#input=0&layer=1&head=0'")
    wait_until_shown(driver, "0-1-0")
    driver.execute_script("location.hash = '#input=7&layer=1&head=1'")  # there is no such input
    wait_until_shown(driver, "0-1-1")
    assert driver.execute_script("return location.hash") == "#input=0&layer=1&head=1"
    open_page("comparison")
    driver.execute_script("location.hash = '#text'")
    wait_until_shown(driver, "text")
    assert problems(driver) == []


@pytest.mark.parametrize("page", ["report", "comparison"])
def test_no_control_leads_off_the_page(driver, open_page, page):
    """Every control is used; no other address, no other window, no request, no dialogue."""
    open_page(page)
    left = driver.execute_async_script(
        """
        const done = arguments[0];
        const opened = [];
        window.open = (url) => { opened.push(`window ${url}`); return null; };
        addEventListener("beforeunload", () => opened.push("left the page"));
        const isOff = (url) => /^(https?:|\\/\\/)/.test(url ?? "");
        addEventListener("click", (event) => {
            const link = event.target.closest?.("a");
            if (link && isOff(link.getAttribute("href"))) opened.push(link.href);
        }, true);
        const controls = [...document.querySelectorAll(
            "a, button, [role=button]:not(.token), .modebar-btn, summary, input")];
        const names = controls.map((c) =>
            [c.textContent, c.getAttribute("data-title"), c.title, c.ariaLabel].join(" "));
        for (const name of names) if (/share|cloud|plotly|edit in/i.test(name)) opened.push(name);
        for (const link of document.querySelectorAll("a[href], form"))
            if (isOff(link.getAttribute("href") ?? link.action)) opened.push(link.outerHTML);
        for (const control of controls)
            if (control.isConnected)
                control.dispatchEvent(new MouseEvent("click", { bubbles: true, cancelable: true }));
        setTimeout(() => {
            const requests = performance.getEntriesByType("resource")
                .map((entry) => entry.name).filter((url) => !/^(data|blob):/.test(url));
            const dialogs = [...document.querySelectorAll("dialog, [role=dialog]")]
                .map((d) => d.textContent);
            done([opened, requests, dialogs, controls.length]);
        }, 1500);
        """
    )
    assert left[:3] == [[], [], []]
    assert left[3] >= 6
    assert len(driver.window_handles) == 1
    assert driver.current_url.startswith("file:")
    assert problems(driver) == []


@pytest.mark.parametrize(("page", "plot"), [("report", "adjacency"), ("comparison", "tradeoff")])
def test_pictures_are_saved_as_png_and_svg(driver, open_page, page, plot):
    from selenium.webdriver.common.by import By

    open_page(page)
    for kind in ("png", "svg"):
        button = driver.find_element(
            By.CSS_SELECTOR, f"[aria-label='save the {plot} picture as {kind.upper()}']"
        )
        driver.execute_script(
            "arguments[0].scrollIntoView({block: 'center'}); arguments[0].click()", button
        )
        content = downloaded(driver.downloads / f"{plot}.{kind}")
        if kind == "png":
            assert content.startswith(b"\x89PNG")
        else:
            assert ET.fromstring(content).tag.endswith("svg")
    assert problems(driver) == []


def downloaded(path, seconds: float = 20.0) -> bytes:
    end = time.monotonic() + seconds
    while not path.is_file() or not path.stat().st_size:
        assert time.monotonic() < end, f"{path.name} was not saved"
        time.sleep(0.1)
    content = path.read_bytes()
    path.unlink()
    return content


# What the pages say ###############################################################################


def test_blocks_are_numbered_and_strength_is_put_into_words(driver, open_page):
    from selenium.webdriver.common.by import By

    open_page("report")
    info = driver.execute_script("return index.views['0-0-0']")
    numbers = driver.execute_script(
        "return document.getElementById('adjacency').layout.annotations.map((a) => a.text)"
    )
    assert set(map(str, info["order"]["blocks"][:1])) <= set(numbers)
    assert driver.find_element(By.ID, "strength").text == info["sentence"]
    assert f"block strength {info['strength']:.2f}" in driver.find_element(By.ID, "facts").text
    explained = driver.find_element(By.ID, "table-hint").text
    for word in ("mean ± sd", "blocks", "strength"):
        assert word in explained


def test_the_vote_is_shown(driver, open_page):
    from selenium.webdriver.common.by import By

    open_page("report")
    vote = driver.execute_script("return index.inputs[0].vote")
    best = max(vote["counts"], key=vote["counts"].get)
    said = driver.find_element(By.ID, "vote").text
    assert f"class {best} by {vote['counts'][best]} of 9 sampled graphs" in said
    assert f"The graph on this page says {vote['shown']}." in said


def test_the_comparison_shows_models_and_runs(driver, open_page):
    from selenium.webdriver.common.by import By

    open_page("comparison")
    rows = [row.text.split() for row in driver.find_elements(By.CSS_SELECTOR, "#models tbody tr")]
    assert [row[0] for row in rows] == ["full", "linear", "sbm"]
    assert rows[0][1:5] == ["3", "40.00", "±", "1.00"]
    points = driver.execute_script(
        "return document.getElementById('tradeoff').data.map((t) => t.x.length)"
    )
    assert points == [3, 3, 3]
    assert len(driver.find_elements(By.CSS_SELECTOR, "#runs tbody tr")) == 9
    assert json.loads(driver.execute_script("return $('index').textContent"))["groups"]


def test_heads_stand_in_the_order_of_their_numbers(driver, tmp_path):
    write_run(tmp_path / "a", "listops", "sbm", 0, density=[[0.1] * 12, [0.2] * 12])
    page = write_comparison(tmp_path / "comparison.html", [tmp_path])
    driver.get(page.as_uri())
    wait_until_shown(driver, "listops")
    shown = driver.execute_script("return $('heads')._fullLayout.xaxis._categories")
    assert shown == [f"L{layer} H{head}" for layer in range(2) for head in range(12)]
