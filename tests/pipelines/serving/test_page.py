"""The page in a browser: an image is dropped, its hits are explained and judged, and the labels are exported."""

import base64
import csv
import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import pytest

import eet
from eet.datasets import synthetic
from eet.datasets.listing import Columns

MARKUP = "</script><img src=x onerror='document.title=1'>wren"
HOSTILE = "../a%2Fb?c#d&<b>.png"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = pytest.mark.slow

DROP = """([data, type]) => {
  const bytes = Uint8Array.from(atob(data), letter => letter.charCodeAt(0));
  const dropped = new DataTransfer();
  dropped.items.add(new File([bytes], "query.png", {type}));
  document.dispatchEvent(new DragEvent("drop", {dataTransfer: dropped, bubbles: true, cancelable: true}));
}"""


@pytest.fixture(scope="module")
def gallery(tiny_model, tiny_birds, tmp_path_factory) -> Path:
    birds, folder = synthetic.load(str(tiny_birds)), tmp_path_factory.mktemp("served")
    with open(folder / "images.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "item_id", "label"])
        for row in range(24):
            item_id = HOSTILE if row == 0 else f"{row}.png"
            writer.writerow([birds.location(row), item_id, MARKUP if birds.labels[row] == 0 else "robin"])
    out = folder / "gallery"
    eet.encode(tiny_model, folder / "images.csv", columns=Columns(item_id="item_id"), tokens=True, out=out)
    return out


@pytest.fixture(scope="module")
def served(gallery, tiny_model, tiny_birds) -> Iterator[str]:
    """The address of `eet serve`, which is ended by SIGTERM: one line, exit code 143."""
    command = [sys.executable, "-m", "pipelines", "serve", "--model", str(tiny_model), "--gallery", str(gallery), "--port", "0"]
    command += ["--rerank", "10", "--feedback", str(gallery.parent / "feedback"), "--image-roots", f'["{tiny_birds}"]']
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3])
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("http://127.0.0.1:") and "24 items" in line, line + (process.stderr.read() if process.stderr else "")
    yield line.split()[0]
    process.send_signal(signal.SIGTERM)
    printed, complained = process.communicate(timeout=60)
    assert (process.returncode, printed, complained) == (143, "", "eet serve: stopped by SIGTERM\n")


@pytest.fixture(scope="module")
def browser():  # type: ignore[no-untyped-def]
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    if CHROMIUM is None:
        pytest.skip("needs Chromium, and there is no chromium on the PATH")
    with playwright.sync_playwright() as started:
        yield started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"] if os.geteuid() == 0 else [])


def wait_for(page, expression: str) -> None:  # type: ignore[no-untyped-def]
    """Playwright's own wait_for_function calls eval, which the page's content security policy refuses."""
    for _ in range(300):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"never: {expression}")


def test_an_id_with_an_escaped_slash_is_one_id(served):
    with urllib.request.urlopen(f"{served}api/items/{quote(HOSTILE, safe='')}/image?size=32") as answer:
        assert answer.headers["content-type"] == "image/jpeg"


def test_a_dropped_image_is_found_explained_judged_and_exported(served, browser, tiny_birds):
    page = browser.new_page()
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(served)
    page.wait_for_selector("#about:not(:empty)")
    data = Path(synthetic.load(str(tiny_birds)).location(0)).read_bytes()
    page.evaluate(DROP, [base64.b64encode(data).decode(), "image/png"])
    first = page.locator(".hit").first
    assert first.locator(".name").text_content() == MARKUP and "score " in first.locator(".facts").text_content()
    assert page.locator(".hit").count() == 24 and page.locator("#before").is_visible()
    wait_for(page, "[...document.querySelectorAll('.hit img')].slice(0, 4).every(image => image.naturalWidth > 0)")

    page.keyboard.press("ArrowRight")  # keys alone: the first hit, why, and back
    page.keyboard.press("Enter")
    page.wait_for_selector("#drawing .match", state="attached")
    assert MARKUP in page.locator("#reason_title").text_content() and page.locator("#drawing rect").count() == 2 * 2  # two kept tokens each
    page.keyboard.press("Escape")

    page.keyboard.press("b")  # before re-ranking, the distance made the order
    assert "0 of 16 bits" in first.locator(".facts").text_content()
    page.keyboard.press("b")
    first.locator(".right").click()
    page.wait_for_selector("#export")
    assert first.locator(".right").get_attribute("aria-pressed") == "true"
    with page.expect_download() as download:
        page.locator("#export").click()
    rows = list(csv.DictReader(Path(download.value.path()).read_text().splitlines()))
    assert {row["label"] for row in rows} == {MARKUP} and len(rows) == 2 and {row["split"] for row in rows} == {"train"}

    page.fill("#label", "robin")
    wait_for(page, "[...document.querySelectorAll('.name')].every(name => name.textContent === 'robin')")
    state = parse_qs(urlsplit(page.url).query)
    assert state["label"] == ["robin"] and len(state["query"][0]) == 32
    page.reload()  # the address bar holds it all
    page.wait_for_selector(".hit")
    assert set(page.locator(".name").all_text_contents()) == {"robin"} and page.input_value("#label") == "robin"

    page.locator(".again").first.click()
    wait_for(page, "location.search.includes('item=')")
    page.go_back()
    wait_for(page, "location.search.includes('query=')")
    page.wait_for_selector(".hit")
    assert problems == [] and page.title() == "EET search"
    page.close()


def test_a_box_is_drawn_and_searched_for(served, browser):
    page = browser.new_page()
    page.goto(f"{served}?item={quote(HOSTILE)}")
    page.wait_for_selector(".hit")
    area = page.locator("#stage").bounding_box()
    page.mouse.move(area["x"] + 0.25 * area["width"], area["y"] + 0.2 * area["height"])
    page.mouse.down()
    page.mouse.move(area["x"] + 0.75 * area["width"], area["y"] + 0.8 * area["height"], steps=4)
    with page.expect_request(lambda request: "/api/query" in request.url) as asked:
        page.mouse.up()
    box = [float(share) for share in parse_qs(urlsplit(asked.value.url).query)["box"][0].split(",")]
    assert box == pytest.approx([0.25, 0.2, 0.75, 0.8], abs=0.02)
    wait_for(page, "location.search.includes('query=')")
    page.wait_for_selector(".hit")
    assert page.locator("#whole").is_visible() and page.locator("#message").is_hidden()
    page.close()


def test_what_is_no_image_is_said(served, browser):
    page = browser.new_page(viewport={"width": 390, "height": 800})
    page.goto(served)
    page.wait_for_selector("#about:not(:empty)")
    page.evaluate(DROP, [base64.b64encode(b"<svg onload=alert(1)>").decode(), "image/svg+xml"])
    page.wait_for_selector("#message:not([hidden])")
    assert "not-an-image" in page.locator("#message").text_content()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")  # nothing is wider than a phone
    page.close()
