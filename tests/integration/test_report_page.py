"""The report in a real browser: no network requests, all figures shown, sorting, both colour schemes."""

import base64
import json
import os
import re
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt
from report_run import HOSTILE, SCANNERS, Inputs, write_inputs
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from fmct_hpc.probe.store import FeatureStore
from fmct_hpc.train.export import load_encoder, write_encoder
from launch.report import report
from launch.report.document import Text
from launch.report.embedding import embedding
from launch.report.sources import Sources
from shards.errors import FmctError

MEGABYTE = 10**6


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def page(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("page") / "report.html"
    report(out, Sources(**inputs._asdict()))
    return out


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    """Headless Chromium; without it tests skip, and fail in CI."""
    programs = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    if None in programs.values():
        problem = f"not installed: {', '.join(name for name, path in programs.items() if not path)}"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(problem)
    options = webdriver.ChromeOptions()
    options.binary_location = str(programs["chromium"])
    # Chromium refuses its sandbox to root, and containers have little shared memory.
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, Service(programs["chromedriver"]))
    try:
        yield driver
    finally:
        driver.quit()


@pytest.fixture
def shown(browser: webdriver.Chrome, page: Path) -> webdriver.Chrome:
    """The page as it is opened from disk, on a wide and light screen."""
    appear(browser, scheme="light")
    browser.get(page.as_uri())
    return browser


def appear(
    browser: webdriver.Chrome, scheme: str = "light", media: str = "screen", width: int = 1280
) -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def problems(browser: webdriver.Chrome, page: Path) -> list[str]:
    """The console's messages, and a freshly opened page's requests other than itself."""
    for log in ("browser", "performance"):
        browser.get_log(log)
    browser.get(page.as_uri())
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    requests = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert page.as_uri() in requests, "the log shows requests"
    others = [url for url in requests if url != page.as_uri() and not url.startswith("data:")]
    return others + [entry["message"] for entry in browser.get_log("browser")]


def column(table: WebElement, number: int) -> list[str]:
    return [
        cell.text for cell in table.find_elements(By.CSS_SELECTOR, f"tbody tr > :nth-child({number + 1})")
    ]


def table_of(browser: webdriver.Chrome, caption: str) -> WebElement:
    [table] = browser.find_elements(By.XPATH, f"//table[caption[starts-with(., '{caption}')]]")
    return table


def test_the_page_makes_no_request_and_logs_nothing_to_the_console(
    browser: webdriver.Chrome, page: Path, tmp_path: Path
) -> None:
    assert problems(browser, page) == []
    assert page.stat().st_size < 5 * MEGABYTE
    # A request that the page's policy forbids is logged.
    changed = tmp_path / "changed.html"
    picture = '<img src="http://127.0.0.1:9/picture.png">'
    changed.write_text(page.read_text().replace("<main>", f"<main>{picture}<script>undefined.x</script>"))
    text = " ".join(problems(browser, changed))
    assert "Content Security Policy" in text
    assert "TypeError" in text


def test_every_picture_is_rendered_with_alternative_text(shown: webdriver.Chrome) -> None:
    images = shown.execute_script(
        "return [...document.images].map(i => [i.naturalWidth, i.getBoundingClientRect().width, i.alt])"
    )
    assert len(images) == 1 + 3 + 3, "a montage, reconstructions, attention"
    for natural, width, alt in images:
        assert natural > 100
        assert width > 100
        assert alt
    drawings = shown.execute_script(
        "return [...document.querySelectorAll('svg')].map("
        "s => [s.getAttribute('role'), s.getAttribute('aria-label'), s.getBoundingClientRect().height])"
    )
    assert len(drawings) >= 10, "curves, intervals, maps"
    for role, label, height in drawings:
        assert role == "img"
        assert label
        assert height > 100
    curves = [label for _, label, _ in drawings if label.startswith("Reliability: ")]
    names = ("grade · above 0", "grade · above 1", "blood_ml", "death (t = 185)")
    assert [label for label in curves if "bleed" not in label] == [f"Reliability: {name}" for name in names]
    identifiers = shown.execute_script("return [...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(identifiers) == len(set(identifiers))


def test_headings_are_nested_without_gaps(shown: webdriver.Chrome) -> None:
    levels = shown.execute_script("return [...document.querySelectorAll('h1,h2,h3')].map(h => +h.tagName[1])")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    for link in shown.find_elements(By.CSS_SELECTOR, "nav a"):
        assert shown.find_elements(By.ID, str(link.get_dom_attribute("href")).removeprefix("#"))


def test_tables_sort_by_mouse_and_by_keyboard(shown: webdriver.Chrome) -> None:
    table = table_of(shown, "Probes")
    headings = table.find_elements(By.CSS_SELECTOR, "thead th")
    at = [heading.text for heading in headings].index("AUC [95%]")
    heading = headings[at]
    button = heading.find_element(By.TAG_NAME, "button")
    assert heading.get_dom_attribute("aria-sort") == "none"

    button.click()
    assert heading.get_dom_attribute("aria-sort") == "descending"
    areas = [float(text.split()[0]) for text in column(table, at)]
    assert areas == [0.9] * 4 + [0.82] * 4 + [0.7] * 4 + [0.62] * 4
    shown.execute_script("arguments[0].focus()", button)
    button.send_keys(Keys.ENTER)
    assert heading.get_dom_attribute("aria-sort") == "ascending"
    assert [float(text.split()[0]) for text in column(table, at)] == areas[::-1]

    # The Tab key moves to the next heading; its empty cells are last in either order.
    shown.switch_to.active_element.send_keys(Keys.TAB)
    assert shown.switch_to.active_element.text == "AUC of seeds"
    for order in ("descending", "ascending"):
        shown.switch_to.active_element.send_keys(Keys.SPACE)
        assert headings[at + 1].get_dom_attribute("aria-sort") == order
        assert heading.get_dom_attribute("aria-sort") == "none"
        assert [bool(text) for text in column(table, at + 1)] == [True] * 8 + [False] * 8

    scanners = table_of(shown, "Scanners")
    first = scanners.find_element(By.CSS_SELECTOR, "thead button")
    for expected in (sorted(SCANNERS), sorted(SCANNERS, reverse=True)):
        first.click()
        assert column(scanners, 0) == expected


COLOURS = """
const numbers = (colour) => colour.match(/[0-9.]+/g).slice(0, 3).map(Number);
const names = ['paper', 'ink', 'dim', 'link', 'warning', ...Array(8).keys().map(i => 'c' + i)];
const probe = document.createElement('span');
document.body.append(probe);
const found = Object.fromEntries(names.map(name => {
  probe.style.color = `var(--${name})`;
  return [name, numbers(getComputedStyle(probe).color)];
}));
probe.remove();
found.body = numbers(getComputedStyle(document.body).backgroundColor);
found.drawing = numbers(getComputedStyle(document.querySelector('svg text')).fill);
return found;
"""


def contrast(one: list[float], other: list[float]) -> float:
    """Contrast ratio of two sRGB colours (WCAG 2.2, relative luminance)."""

    def luminance(colour: list[float]) -> float:
        linear = [c / 255 / 12.92 if c <= 10.31 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize(("scheme", "media"), [("light", "screen"), ("dark", "screen"), ("dark", "print")])
def test_text_and_figures_have_enough_contrast_on_screen_and_paper(
    shown: webdriver.Chrome, scheme: str, media: str
) -> None:
    appear(shown, scheme, media)
    colours = shown.execute_script(COLOURS)
    assert colours["body"] == colours["paper"]
    dark = scheme == "dark" and media == "screen"
    assert (sum(colours["paper"]) < 150) == dark
    for name in ("ink", "dim", "link", "warning"):
        assert contrast(colours[name], colours["paper"]) >= 4.5, f"{name} (WCAG 2.2, 1.4.3)"
    for number in range(8):
        assert contrast(colours[f"c{number}"], colours["paper"]) >= 3, f"c{number} (WCAG 2.2, 1.4.11)"
    assert colours["drawing"] in (colours["ink"], colours["dim"]), (
        "a figure's text has the page's text colour"
    )


def test_print_shows_everything_that_the_screen_scrolls_or_folds(shown: webdriver.Chrome) -> None:
    assert not shown.find_element(By.TAG_NAME, "details").get_property("open")
    pdf = base64.b64decode(shown.print_page())
    assert pdf.startswith(b"%PDF")
    assert pdf.count(b"/Type /Page\n") + pdf.count(b"/Type /Page ") >= 3
    assert not shown.find_element(By.TAG_NAME, "details").get_property("open"), "folded again afterwards"
    appear(shown, media="print", width=720)
    shown.execute_script("dispatchEvent(new Event('beforeprint'))")
    cut = shown.execute_script(
        "const tables = [...document.querySelectorAll('.wide')];"
        "return tables.filter(e => e.scrollHeight > e.clientHeight + 1).length"
    )
    assert cut == 0
    assert "view_size: 24" in shown.find_elements(By.TAG_NAME, "pre")[-1].text
    assert not shown.find_element(By.TAG_NAME, "nav").is_displayed()


def test_a_phone_scrolls_in_one_direction_only(shown: webdriver.Chrome) -> None:
    appear(shown, width=390)
    assert shown.execute_script("return document.documentElement.scrollWidth") <= 390


def test_a_label_is_shown_with_its_name(shown: webdriver.Chrome, page: Path) -> None:
    assert column(table_of(shown, "Probes"), 0).count(HOSTILE) == 8
    assert shown.execute_script("return document.scripts.length") == 1
    rendered = MarkdownIt("commonmark").enable("table").parse(page.with_suffix(".md").read_text())
    inline = [child for token in rendered for child in token.children or ()]
    html = [token.content for token in [*rendered, *inline] if token.type.startswith("html")]
    assert [re.sub("[0-9a-f]{16}", "", content) for content in html] == ["<!-- fmct report of run  -->\n"]
    texts = ["".join(c.content for c in token.children or ()) for token in rendered if token.type == "inline"]
    cells = [c.text for c in shown.find_elements(By.CSS_SELECTOR, "tbody th, tbody td")]
    assert texts.count(HOSTILE) == cells.count(HOSTILE) > 8


def test_the_card_has_the_figures_of_the_page(shown: webdriver.Chrome, page: Path) -> None:
    rendered = MarkdownIt("commonmark").enable("table").parse(page.with_suffix(".md").read_text())
    headings = [
        after.content
        for token, after in pairwise(rendered)
        if token.type == "heading_open" and token.tag in ("h2", "h3")
    ]
    assert headings == [heading.text for heading in shown.find_elements(By.CSS_SELECTOR, "main h2, main h3")]
    rows = len(shown.find_elements(By.TAG_NAME, "tr"))
    summary = len(shown.find_elements(By.CSS_SELECTOR, ".tiles div"))
    facts = len(shown.find_elements(By.CSS_SELECTOR, "table.facts"))
    assert len([token for token in rendered if token.type == "tr_open"]) == rows + summary + 1 + facts


def test_attempts_and_alarms_of_training_are_reported(shown: webdriver.Chrome) -> None:
    collapse = table_of(shown, "Signs of collapse")
    assert [cell.text for cell in collapse.find_elements(By.CSS_SELECTOR, "tbody th, tbody td")] == [
        *("the features of all volumes are nearly equal", "101", "200", "100")
    ]
    attempts = table_of(shown, "Attempts of the run")
    assert column(attempts, 5) == ["1 to 300", "301 to 700"]
    assert column(attempts, 7) == ["stopped", "done"]
    warnings = [w.text for w in shown.find_elements(By.CSS_SELECTOR, ".warning")]
    assert any("1 step was not finite" in warning and "7" in warning for warning in warnings), warnings


def test_learning_alarms_are_reported_with_the_remedy(inputs: Inputs, tmp_path: Path) -> None:
    card = report(tmp_path / "page.html", Sources(inputs.run)).read_text()
    [row] = [line for line in card.splitlines() if line.startswith("| the patch tokens lie along one")]
    _, _, first, last, remedy, _ = (text.strip() for text in row.split("|"))
    assert (first, last) == ("420", "700")  # evaluations are 20 steps apart here
    assert "ibot" in remedy
    assert "best checkpoint is that of step 700" in card


def test_an_alarm_is_reported_with_the_threshold_of_the_run(inputs: Inputs, tmp_path: Path) -> None:
    """In a run shorter than health.patience, a quarter of its steps."""
    shutil.copytree(inputs.run, tmp_path / "run")
    recorded = json.loads((tmp_path / "run/config.json").read_text())
    recorded["health"]["patience"] = 2000
    recorded["run"]["steps"] = 160
    (tmp_path / "run/config.json").write_text(json.dumps(recorded))
    card = report(tmp_path / "page.html", Sources(tmp_path / "run")).read_text()
    assert "lasted at least 40 steps (a quarter of the run, as health.patience is 2,000)" in card


def test_only_a_report_of_the_same_run_is_replaced(inputs: Inputs, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    shutil.copytree(inputs.run, tmp_path / "other")
    (tmp_path / "other/attempts/0001.json").unlink()
    report(out, Sources(inputs.run))
    before = out.read_bytes(), out.with_suffix(".md").read_bytes()
    with pytest.raises(FmctError, match=r"page\.html: is the report of another run"):
        report(out, Sources(tmp_path / "other"))
    assert (out.read_bytes(), out.with_suffix(".md").read_bytes()) == before
    report(out, Sources(inputs.run))
    (tmp_path / "README.md").write_text("my own")
    with pytest.raises(FmctError, match=r"README\.md: exists and is not the report"):
        report(tmp_path / "README.html", Sources(inputs.run))
    assert (tmp_path / "README.md").read_text() == "my own"
    assert not (tmp_path / "README.html").exists()


def test_missing_parts_are_left_out_with_a_line(inputs: Inputs, tmp_path: Path) -> None:
    card = report(tmp_path / "bare.html", Sources(inputs.run)).read_text()
    for title in ("Data", "Evaluation", "Relevance maps", "Embedding"):
        body = re.search(rf"## {title}\n\n(.*?)\n\n#", card, re.DOTALL)
        assert body
        assert body[1].startswith("Left out: ")
        assert "\n" not in body[1]


@pytest.mark.parametrize(
    ("folder", "file", "expected"),
    [
        ("run", "config.json", "written by another version"),
        ("run", "metrics.jsonl", "no step yet"),
        ("run", "encoder.json", "written by another version"),
        ("data", "manifest.parquet", "run `fmct preprocess` again"),
        ("probe", "results.parquet", "probe again"),
    ],
)
def test_a_damaged_input_is_one_line_that_names_it(
    inputs: Inputs, tmp_path: Path, folder: str, file: str, expected: str
) -> None:
    damaged = tmp_path / folder
    shutil.copytree(getattr(inputs, folder), damaged)
    (damaged / file).write_text("")
    given: dict[str, Any] = {"run": inputs.run, folder: damaged}
    with pytest.raises(FmctError, match=f"{damaged}.*{expected}"):
        report(tmp_path / "page.html", Sources(**given))
    assert not list(tmp_path.glob("page.*"))


def test_a_wrong_file_given_as_a_run_or_labels_is_named(inputs: Inputs, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("study_instance_uid,bleed\n1.2,1\n")
    with pytest.raises(FmctError, match=r"file.config\.json: missing; is .*file a run folder"):
        report(tmp_path / "page.html", Sources(tmp_path / "file"))
    with pytest.raises(FmctError, match="file: not a readable label table"):
        report(tmp_path / "page.html", Sources(inputs.run, labels=tmp_path / "file"))


def test_features_of_another_encoder_are_marked_as_such(inputs: Inputs, tmp_path: Path) -> None:
    store = FeatureStore.open(inputs.features)
    weights, info = load_encoder(inputs.run / "encoder.safetensors")
    changed = {f"encoder.{name}": tensor + 1 for name, tensor in weights.state_dict().items()}
    write_encoder(tmp_path, changed, info)
    for folder, warned in ((inputs.run, False), (tmp_path, True)):
        blocks = embedding(store, folder / "encoder.safetensors", None, None).blocks
        assert any(isinstance(block, Text) and block.warning for block in blocks) == warned


def test_the_same_input_gives_the_same_bytes_without_paths_or_whole_keys(
    inputs: Inputs, page: Path, tmp_path: Path
) -> None:
    again = tmp_path / page.name
    card = report(again, Sources(**inputs._asdict()))
    assert again.read_bytes() == page.read_bytes()
    for text in (page.read_text(), card.read_text()):
        for hidden in (
            str(inputs.run.parent),
            inputs.run.parent.name,
            "secretive",
            f"{5:032x}",
            f"{1005:032x}",
        ):
            assert hidden not in text
