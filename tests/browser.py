"""The page of the server in a real browser: make browser-test."""

import base64
import json
import shutil

import pytest
from test_serving import PREDICT, Server, encode, export  # noqa: F401

api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
NAMES = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = pytest.mark.skipif(not BROWSER, reason="there is no chromium here")
DROP = """([content, name]) => {
  const bytes = Uint8Array.from(atob(content), (c) => c.charCodeAt(0));
  const data = new DataTransfer();
  data.items.add(new File([bytes], name));
  const event = new DragEvent("drop", {dataTransfer: data, cancelable: true});
  document.getElementById("drop").dispatchEvent(event);
}"""


@pytest.fixture(scope="module")
def server(export, tmp_path_factory):  # noqa: F811
    started = Server(export, tmp_path_factory.mktemp("log") / "log")
    yield started
    started.process.kill()


@pytest.fixture(params=[(1200, 900), (390, 800)], ids=["desktop", "telephone"])
def page(server, request):
    """The page, and what its console says."""
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=BROWSER, args=["--no-sandbox"]
        )
        width, height = request.param
        page = browser.new_page(viewport={"width": width, "height": height})
        page.said = []
        page.on("console", lambda message: page.said.append(message.text))
        page.goto(f"http://127.0.0.1:{server.port}/")
        yield page
        browser.close()


def test_a_picture_is_dropped_or_chosen_and_explained(server, page, tmp_path):
    (tmp_path / "b.png").write_bytes(encode(1, form="PNG"))
    answer = server.ask(
        "POST", PREDICT, encode(1, form="PNG"), **{"Content-Type": "image/png"}
    )
    expected = json.loads(answer[2])
    dropped = [base64.b64encode(encode(0)).decode(), "a.jpg"]
    for put in (
        lambda: page.evaluate(DROP, dropped),
        lambda: page.set_input_files("#file", tmp_path / "b.png"),
    ):
        put()
        page.wait_for_selector("figure + table + figure")
        page.wait_for_function("document.getElementById('state').textContent == ''")
        shown = page.locator("figure img")
        widths = shown.evaluate_all("all => all.map((one) => one.naturalWidth)")
        assert widths == [300, 256]
    rows = page.locator("tr").all_inner_texts()
    assert [row.split("\t")[0] for row in rows] == expected["classes"]
    meters = page.locator("meter").evaluate_all("all => all.map((one) => one.value)")
    assert meters == pytest.approx(expected["probabilities"], abs=1e-4)
    caption = page.locator("figcaption").last.inner_text()
    assert "what the first class depends on" in caption
    too_wide = "document.documentElement.scrollWidth > innerWidth"
    assert not page.evaluate(too_wide)
    assert page.said == []


def test_what_is_no_picture_is_said(page):
    page.evaluate(DROP, [base64.b64encode(b"text").decode(), "a.txt"])
    page.wait_for_selector(".error")
    assert "no picture" in page.locator("#state").inner_text()
