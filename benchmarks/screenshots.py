"""The local page as the docs show it: docs/images/page-compare.png and page-search.png.

    python benchmarks/screenshots.py --index STORE --media FOLDER [--out docs/images] [--dark]

The store is one of the built-in world, with the checkpoint of `imagebind-jax demo`; the folder holds
files of it. Needs the extras `demo` and `test`, and Chromium with its driver.
"""

import argparse
import io
import pathlib
import sys
import time

from PIL import Image

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests"))

import browser

from imagebind_jax.web.server import serve

WIDTH, MOST = 1200, 300_000  # pixels, bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--index", required=True)
    parser.add_argument("--media", required=True, type=pathlib.Path)
    parser.add_argument("--out", default=pathlib.Path("docs/images"), type=pathlib.Path)
    parser.add_argument("--dark", action="store_true")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with serve(options.index) as address, browser.browsing(WIDTH, 1000, options.dark) as driver:
        driver.get(address)
        search(driver, options.media)
        save(driver, options.out / "page-search.png")
        compare(driver, options.media)
        save(driver, options.out / "page-compare.png")


def compare(driver, media: pathlib.Path) -> None:
    """Two materials by picture, sound and sentence, and a shape by depth."""
    browser.open_tab(driver, "Compare")
    browser.until(driver, "#compare-files input[type=file]")
    sounds = [first(media / "sounds", name) for name in ("glass", "rubber")]
    photos = [first(media / "photos", name) for name in ("glass", "rubber")]
    browser.write(driver, "compare-words", "something made of glass.\nsomething made of rubber.")
    browser.drop(driver, "compare-files", *sounds, *photos)
    browser.until(driver, ".ib-matrix tbody tr", 6)


def search(driver, media: pathlib.Path) -> None:
    """A picture with a sound: that shape, of the material one hears."""
    browser.until(driver, "#search-file-a input[type=file]")
    browser.drop(driver, "search-file-a", first(media / "photos", "sphere-stone"))
    browser.until(driver, ".ib-hits li", 12)
    browser.drop(driver, "search-file-b", first(media / "sounds", "glass"))
    browser.until(driver, ".ib-part", 2)


def first(folder: pathlib.Path, name: str) -> pathlib.Path:
    """The first file whose name has this in it."""
    return min(path for path in folder.iterdir() if name in path.name)


def save(driver, path: pathlib.Path) -> None:
    """The whole page as a PNG of at most 256 colours."""
    time.sleep(1.5)  # what moves has come to rest
    end = "return document.querySelector('main').getBoundingClientRect().bottom + scrollY"
    height = max(min(int(driver.execute_script(end)), 1400), 500)
    size = {"width": WIDTH, "height": height, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    time.sleep(0.5)
    image = Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB")
    image.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    size = path.stat().st_size
    print(f"{path}: {image.width} x {image.height}, {size:,} bytes")
    if size > MOST:
        raise SystemExit(f"more than {MOST:,} bytes")


if __name__ == "__main__":
    main()
