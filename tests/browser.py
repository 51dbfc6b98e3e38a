"""A real browser without a screen, and what it asked for: Chromium by Selenium."""

import contextlib
import json
import os
import pathlib
import shutil
import tempfile

FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         "--hide-scrollbars", "--force-device-scale-factor=1")  # fmt: skip


def missing():
    """What is not installed here; empty where a browser can be started."""
    try:
        import selenium  # noqa: F401
    except ImportError:
        return "selenium is not installed: pip install selenium"
    if not shutil.which("chromedriver"):
        return "no chromedriver: apt-get install chromium chromium-driver"
    return ""


@contextlib.contextmanager
def browsing(width=1200, height=1000, dark=False):
    """A driver with an empty profile, that keeps a log of its requests."""
    from selenium import webdriver

    os.environ["SE_OFFLINE"] = os.environ["SE_AVOID_STATS"] = "true"  # or else it counts its users
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = webdriver.ChromeOptions()
        for flag in (*FLAGS, f"--window-size={width},{height}", f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.add_argument("about:blank")  # Chromium's own first page asks for a hundred files
        options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
        service = webdriver.ChromeService(shutil.which("chromedriver"))
        driver = webdriver.Chrome(options=options, service=service)
        try:
            if dark:
                scheme = {"name": "prefers-color-scheme", "value": "dark"}
                driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
            yield driver
        finally:
            driver.quit()


def requests(driver):
    """The addresses of all that was asked for since the last call, [(address, kind)]."""
    asked = []
    for line in driver.get_log("performance"):
        message = json.loads(line["message"])["message"]
        if message["method"] in ("Network.requestWillBeSent", "Network.webSocketCreated"):
            of = message["params"]
            asked.append(of["request"]["url"] if "request" in of else of["url"])
    return asked


def drop(driver, name, *paths):
    """Gives files to the component of that id, as a person does who drops them."""
    from selenium.webdriver.common.by import By

    field = driver.find_element(By.CSS_SELECTOR, f"#{name} input[type=file]")
    field.send_keys("\n".join(str(pathlib.Path(path).resolve()) for path in paths))


def write(driver, name, text):
    """Types into the text field of that id."""
    from selenium.webdriver.common.by import By

    field = driver.find_element(By.CSS_SELECTOR, f"#{name} textarea, #{name} input")
    field.clear()
    field.send_keys(text)
    return field


def press(driver, name):
    from selenium.webdriver.common.by import By

    driver.find_element(By.ID, name).click()


def open_tab(driver, label):
    from selenium.webdriver.common.by import By

    tabs = driver.find_elements(By.CSS_SELECTOR, "button[role=tab]")
    next(tab for tab in tabs if tab.text == label and tab.is_displayed()).click()


def until(driver, selector, count=1, seconds=60):
    """The elements, once there are that many of them."""
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    def there(driver):
        found = driver.find_elements(By.CSS_SELECTOR, selector)
        return found if len(found) >= count else None

    return WebDriverWait(driver, seconds, 0.1).until(there, f"no {count} of {selector}")
