"""Drives the report in headless Chromium.

Screenshots are kept in the test's temporary folder, or in ``SBMGRAPH_SCREENSHOTS``.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch

from sbmgraph.nn import SBMTransformer
from sbmgraph.viz.report import ReportInput, write_report
from tests.viz.browser import browser_marks, problems, wait_until_shown

pytestmark = browser_marks

HOSTILE = "<img src=x onerror=\"document.title='owned'\">"
WORDS = [HOSTILE, "</script>", "<b>bold</b>", "[MAX", "\n", "", *map(str, range(14))]


def make_inputs(*lengths: int) -> list[ReportInput]:
    generator = torch.Generator().manual_seed(5)
    return [
        ReportInput([torch.randint(0, 20, (length,), generator=generator)], HOSTILE)
        for length in lengths
    ]


@pytest.fixture(scope="module")
def words_page(tmp_path_factory) -> Path:
    torch.manual_seed(1)
    model = SBMTransformer(20, 4, channels=16, heads=2, num_clusters=8, max_length=400)
    history = pd.DataFrame(
        [
            {"step": step, "layer": layer, "head": head, "density": 0.2 + 0.1 * layer + step / 1e3}
            for step in range(0, 100, 10)
            for layer in range(2)
            for head in range(2)
        ]
    )
    return write_report(
        tmp_path_factory.mktemp("page") / "report.html",
        model,
        make_inputs(30, 400),
        title=HOSTILE,
        summary={"run": HOSTILE},
        history=history,
        decode=WORDS.__getitem__,
    )


def open_page(driver, path: Path, fragment: str = "") -> None:
    driver.get("about:blank")
    driver.get_log("browser")
    driver.get(path.as_uri() + fragment)
    wait_for(driver, fragment[1:] or "input=0&layer=0&head=0")


def wait_for(driver, fragment: str) -> None:
    """Waits until the chosen view is drawn."""
    wait_until_shown(driver, "-".join(part.split("=")[1] for part in fragment.split("&")))


def choose(driver, menu: str, value: str) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import Select

    Select(driver.find_element(By.ID, menu)).select_by_value(value)


def pictures(driver) -> dict:
    """The data behind every picture, as plotly and the page hold them."""
    return driver.execute_script(
        """
        const data = (id) => JSON.stringify(document.getElementById(id).data.map(
            (trace) => [trace.x, trace.y, trace.z, trace.text]));
        return {
            sampled: JSON.stringify(document.getElementById("adjacency").data[0].z),
            expected: JSON.stringify(document.getElementById("adjacency").data[1].z),
            blocks: data("blocks"), memberships: data("memberships"), inputs: data("inputs"),
            facts: document.getElementById("facts").textContent,
            tokens: document.querySelectorAll("#tokens .token").length,
        };
        """
    )


def test_choosing_input_layer_and_head_changes_every_picture(driver, words_page, screenshots):
    open_page(driver, words_page)
    shown = [pictures(driver)]
    driver.save_screenshot(str(screenshots / "input0-layer0-head0.png"))
    steps = [("head", "1"), ("layer", "1"), ("input", "1")]
    fragments = [
        "input=0&layer=0&head=1",
        "input=0&layer=1&head=1",
        "input=1&layer=1&head=1",
    ]
    for (menu, value), fragment in zip(steps, fragments, strict=True):
        choose(driver, menu, value)
        wait_for(driver, fragment)
        shown.append(pictures(driver))
        driver.save_screenshot(
            str(screenshots / f"{fragment.replace('=', '').replace('&', '-')}.png")
        )
        for name in ("sampled", "expected", "blocks", "memberships", "facts"):
            assert shown[-1][name] != shown[-2][name], f"{name} did not change with the {menu}"
    assert [picture["tokens"] for picture in shown] == [30, 30, 30, 400]
    assert problems(driver) == []


def test_the_first_view_shows_the_sampled_edges(driver, words_page):
    open_page(driver, words_page)
    drawn, said = driver.execute_script(
        """
        const z = document.getElementById("adjacency").data[0].z;
        return [z.flat().reduce((a, b) => a + b, 0), index.views["0-0-0"].edges];
        """
    )
    assert drawn == said > 0


def test_zooming_resolves_single_edges(driver, words_page):
    open_page(driver, words_page, "#input=1&layer=0&head=0")
    cells = (
        "const z = document.getElementById('adjacency').data[0].z; return new Set(z.flat()).size"
    )
    assert driver.execute_script(cells) > 2
    driver.execute_async_script(
        """
        const done = arguments[0];
        const plot = document.getElementById("adjacency");
        plot.once("plotly_restyle", () => done());
        Plotly.relayout(plot, {"xaxis.range": [0, 100], "yaxis.range": [100, 0]});
        """
    )
    assert driver.execute_script(cells) == 2
    size = (
        "const z = document.getElementById('adjacency').data[1].z; return [z.length, z[0].length]"
    )
    rows, columns = driver.execute_script(size)
    assert rows < 192
    assert columns < 192
    assert problems(driver) == []


def test_hovering_shows_who_attends_to_whom(driver, words_page, screenshots):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By

    open_page(driver, words_page)
    tokens = driver.find_elements(By.CSS_SELECTOR, "#tokens .token")
    ActionChains(driver).move_to_element(tokens[4]).perform()
    degree = driver.execute_script("return viewOf('0-0-0').then((view) => view.degree.data[4])")
    marked = driver.find_elements(By.CSS_SELECTOR, "#tokens .token.edge")
    assert len(marked) == degree > 0
    assert f"Attends to {degree} of 30" in driver.find_element(By.ID, "token-info").text
    driver.save_screenshot(str(screenshots / "hover.png"))
    choose(driver, "direction", "in")
    tokens = driver.find_elements(By.CSS_SELECTOR, "#tokens .token")
    tokens[4].click()
    ActionChains(driver).move_to_element(tokens[9]).perform()
    incoming = {
        int(t.get_attribute("data-token")) for t in driver.find_elements(By.CSS_SELECTOR, ".edge")
    }
    truth = driver.execute_script(
        """
        return viewOf('0-0-0').then((view) => {
            const out = [], kept = view.neighbour.shape[1];
            view.neighbour.data.forEach((key, entry) => {
                if (key === 4 && view.weight.data[entry]) out.push(Math.floor(entry / kept));
            });
            return out;
        });
        """
    )
    assert incoming == set(truth)
    assert problems(driver) == []


def test_thumbnails_rows_and_points_choose_too(driver, words_page):
    from selenium.webdriver.common.by import By

    open_page(driver, words_page)
    driver.find_elements(By.CSS_SELECTOR, ".thumb")[3].click()
    wait_for(driver, "input=0&layer=1&head=1")
    driver.find_elements(By.CSS_SELECTOR, "#densities tbody tr")[1].click()
    wait_for(driver, "input=0&layer=0&head=1")
    driver.find_element(By.ID, "next").click()
    wait_for(driver, "input=1&layer=0&head=1")
    assert driver.execute_script("return location.hash") == "#input=1&layer=0&head=1"
    assert problems(driver) == []


def test_hostile_text_is_shown_and_not_run(driver, words_page):
    from selenium.webdriver.common.by import By

    open_page(driver, words_page)
    assert driver.title == HOSTILE
    assert driver.find_element(By.TAG_NAME, "h1").text == HOSTILE
    assert driver.find_elements(By.CSS_SELECTOR, "img:not([src^='data:'])") == []
    texts = {token.text for token in driver.find_elements(By.CSS_SELECTOR, ".token")}
    assert texts <= {*WORDS, "⏎", "∅"}
    assert HOSTILE in texts
    assert problems(driver) == []


def test_images_with_heads_that_have_no_edges(driver, tmp_path, screenshots):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By

    torch.manual_seed(2)
    model = SBMTransformer(256, 2, channels=16, heads=2, num_clusters=1, max_length=144)
    model.blocks[1].attention.conv.membership.offset = -60.0
    pixels = ReportInput([torch.randint(0, 256, (144,))], "class 0")
    path = write_report(tmp_path / "image.html", model, [pixels], image_shape=(12, 12))
    open_page(driver, path)
    canvas = driver.find_element(By.CSS_SELECTOR, "#tokens canvas")
    before = driver.execute_script("return arguments[0].toDataURL()", canvas)
    ActionChains(driver).move_to_element_with_offset(canvas, 20, 20).perform()
    assert driver.execute_script("return arguments[0].toDataURL()", canvas) != before
    driver.save_screenshot(str(screenshots / "image.png"))
    choose(driver, "layer", "1")
    wait_for(driver, "input=0&layer=1&head=0")
    driver.save_screenshot(str(screenshots / "no-edges.png"))
    assert "144 attend to nothing" in driver.find_element(By.ID, "token-info").text
    assert problems(driver) == []


@pytest.mark.slow
def test_a_full_report_of_long_inputs_stays_within_its_limits(driver, tmp_path, screenshots):
    """8 inputs of 2,048 tokens, 2 layers, 2 heads, at the densest start: 25 %."""
    torch.manual_seed(0)
    model = SBMTransformer(20, 10, heads=2, num_layers=2, num_clusters=128, max_length=2048)
    path = write_report(tmp_path / "long.html", model, make_inputs(*[2048] * 8))
    assert path.stat().st_size < 10_000_000
    open_page(driver, path)
    drawn = pictures(driver)
    choose(driver, "input", "7")
    wait_for(driver, "input=7&layer=0&head=0")
    assert pictures(driver)["sampled"] != drawn["sampled"]
    driver.save_screenshot(str(screenshots / "long.png"))
    assert problems(driver) == []
