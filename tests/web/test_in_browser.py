"""The local page in a real browser: files are dropped, words typed, the slider moved, hits read."""

import importlib.util
import pathlib
import re
import urllib.parse

import browser
import pytest
from own_files import jpeg

if not importlib.util.find_spec(
    "gradio"
):  # its import takes seconds, also where no test here is wanted
    pytest.skip(
        "gradio is not installed: pip install 'imagebind-jax[demo]'", allow_module_level=True
    )
if browser.missing():
    pytest.skip(browser.missing(), allow_module_level=True)

from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from imagebind_jax.web.server import serve

pytest_plugins = ["own_files"]
pytestmark = pytest.mark.browser
SLOW = 60


@pytest.fixture(scope="module")
def address(stored):
    with serve(stored, say=lambda line: None) as address:
        yield address


@pytest.fixture(scope="module")
def chromium():
    with browser.browsing() as driver:
        yield driver


@pytest.fixture
def driver(chromium, address):
    chromium.get_log("browser")
    chromium.get(address)
    browser.until(chromium, "#search-go")
    yield chromium
    asked = [urllib.parse.urlsplit(each) for each in browser.requests(chromium)]
    outside = {
        each.geturl()[:100]
        for each in asked
        if each.scheme not in ("data", "blob", "about", "chrome", "chrome-untrusted")
        and each.netloc != urllib.parse.urlsplit(address).netloc
    }
    assert len(asked) > 10 and not outside, outside
    severe = [line for line in chromium.get_log("browser") if line["level"] == "SEVERE"]
    assert not severe, severe


def rows(driver):
    """[(name, modality)] of the matrix, as they are shown."""
    labels = driver.find_elements(By.CSS_SELECTOR, ".ib-matrix tbody th .ib-label")
    return [tuple(label.text.rsplit("\n", 1)) for label in labels]


def cells(driver):
    shown = driver.find_elements(By.CSS_SELECTOR, ".ib-matrix tbody td")
    return [cell.text for cell in shown]


def names(driver):
    shown = driver.find_elements(By.CSS_SELECTOR, ".ib-hits .ib-name")
    return [each.text for each in shown]


def wait(driver, holds, seconds=SLOW):
    from selenium.common.exceptions import StaleElementReferenceException
    from selenium.webdriver.support.ui import WebDriverWait

    stale = (StaleElementReferenceException,)
    return WebDriverWait(driver, seconds, 0.1, ignored_exceptions=stale).until(lambda d: holds())


def test_files_and_sentences_are_compared(driver, files, tmp_path):
    browser.open_tab(driver, "Compare")
    browser.until(driver, "#compare-files input[type=file]")
    browser.write(driver, "compare-words", "a red thing\na sound")
    broken = tmp_path / "<b>broken.jpg"
    broken.write_bytes(jpeg((1, 2, 3))[:300])
    browser.drop(
        driver,
        "compare-files",
        files / "photos/red0.jpg",
        files / "sounds/1.flac",
        broken,
        files / "photos/blue0.jpg",
    )
    browser.until(driver, ".ib-matrix tbody tr", 5)
    assert rows(driver) == [
        ("red0.jpg", "Vision"), ("1.flac", "Audio"), ("blue0.jpg", "Vision"),
        ("a red thing", "Text"), ("a sound", "Text"),
    ]  # fmt: skip
    values = cells(driver)
    assert len(values) == 25 and values[::6] == ["1.00"] * 5
    assert all(re.fullmatch(r"−?[01]\.\d\d", value) for value in values)
    problem = driver.find_element(By.CSS_SELECTOR, "[role=alert]").text
    assert problem.startswith(("bbroken.jpg: ", "<b>broken.jpg: "))
    for label in driver.find_elements(By.CSS_SELECTOR, "#compare-view label"):
        if label.text.startswith("Softmax"):
            label.click()
    wait(driver, lambda: "%" in cells(driver)[1])
    shares = [float(value.removesuffix("%").strip()) for value in cells(driver)[1:5]]
    assert sum(shares) == pytest.approx(100, abs=3)
    for label in driver.find_elements(By.CSS_SELECTOR, "#compare-chosen label"):
        if label.text == "1.flac":
            label.click()
    wait(driver, lambda: len(rows(driver)) == 4)
    browser.press(driver, "compare-clear")
    browser.until(driver, "#compare-matrix .ib-empty")


def test_words_find_what_files_and_the_slider_then_change(driver, files):
    field = browser.write(driver, "search-words-a", (files / "words/2.txt").read_text())
    field.send_keys(Keys.ENTER)
    browser.until(driver, ".ib-hits li", 12)
    assert names(driver)[0] == "words/2.txt"  # the same sentence
    assert driver.find_element(By.CSS_SELECTOR, ".ib-hits li b").text == "1.00"
    browser.drop(driver, "search-file-b", files / "sounds/3.flac")
    browser.until(driver, ".ib-part", 2)
    assert "sounds/3.flac" in names(driver)[:4]
    slider = driver.find_element(By.CSS_SELECTOR, "#search-mix input[type=range]")
    slider.send_keys(Keys.END)
    driver.execute_script(
        "arguments[0].dispatchEvent(new Event('pointerup', {bubbles: true}))", slider
    )
    wait(driver, lambda: names(driver)[0] == "sounds/3.flac")
    sound = driver.find_element(By.CSS_SELECTOR, ".ib-hits audio")
    assert sound.get_attribute("src").startswith("data:audio/flac;base64,")
    wait(
        driver,
        lambda: driver.execute_script(
            "arguments[0].preload='auto'; arguments[0].load(); return true", sound
        ),
    )
    wait(driver, lambda: driver.execute_script("return arguments[0].duration > 1.9", sound))
    for label in driver.find_elements(By.CSS_SELECTOR, "#search-only label"):
        if label.text == "Depth":
            label.click()
    wait(driver, lambda: all(name.startswith("depth/") for name in names(driver)))
    pictures = driver.find_elements(By.CSS_SELECTOR, ".ib-hits img")
    assert pictures and all(each.get_attribute("naturalWidth") != "0" for each in pictures)


def test_the_page_works_by_keyboard(driver):
    driver.find_element(
        By.CSS_SELECTOR, "#search-words-a textarea, #search-words-a input"
    ).send_keys("thunder")
    for _ in range(15):
        active = driver.switch_to.active_element
        if active.get_attribute("id") == "search-go":
            break
        active.send_keys(Keys.TAB)
    assert active.get_attribute("id") == "search-go"
    active.send_keys(Keys.ENTER)
    browser.until(driver, ".ib-hits li", 12)


def test_the_pictures_of_the_docs_are_small():
    root = pathlib.Path(__file__).parents[2] / "docs" / "images"
    for name in ("page-compare.png", "page-search.png"):
        assert (root / name).stat().st_size < 300_000
