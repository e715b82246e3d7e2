"""The pages in a real browser: the whole way from data to a mask, keys alone, contrast, labels."""

import io
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium (apt-get install chromium)"),
]
TOKEN = "t" * 20
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update",
         "--disable-sync"]  # fmt: skip
TINY = {"image_size": "32", "segment_epochs": "1", "translate_steps": "2", "classify_epochs": "1",
        "classify_batch_size": "8", "cam_image_size": "64", "cam_views": "single",
        "predict_views": "single", "predict_refine": "none", "pseudo_refine": "none",
        "threads": "1"}  # fmt: skip


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A folder of ten thousand images."""
    root = tmp_path_factory.mktemp("many") / "many"
    root.mkdir()
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8)).save(stream, "PNG")  # fmt: skip  # noqa: E501
    for number in range(10_000):
        (root / f"{number:05}.png").write_bytes(stream.getvalue())
    return root


@pytest.fixture(scope="module")
def address(tiny_run, small_data, many, tmp_path_factory):
    """A server of its own process."""
    root = tmp_path_factory.mktemp("browser") / "runs"
    shutil.copytree(tiny_run.path, root / "first")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "fewmask", "ui", str(root), "--data", str(small_data), str(many),
         "--port", str(port), "--no-browser", "--auth", TOKEN],
        stdout=subprocess.PIPE,
    )  # fmt: skip
    assert b"http://127.0.0.1" in server.stdout.readline()
    server.stdout.readline()
    yield f"http://127.0.0.1:{port}"
    server.terminate()
    server.wait()


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture
def page(browser, address):
    """A page that is let in; a script's error, or a breach of the policy, fails the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    page, errors = context.new_page(), []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda said: errors.append(said.text) if "Policy" in said.text else None)
    page.goto(f"{address}/runs?token={TOKEN}")
    yield page
    context.close()
    assert not errors


def until(page, expression, seconds=60):
    """Wait for an expression to be true; evaluated from outside, as the pages forbid `eval`."""
    for _ in range(seconds * 10):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"never true: {expression}")


def painted(page):
    """Pixels of the open mask that belong to class 1, as the server has them."""
    return page.evaluate(
        """async () => {
            const run = document.getElementById('review').dataset.run;
            const image = document.getElementById('canvas').dataset.image;
            const found = await (await fetch(`/api/reviews/${run}/${image}`)).json();
            let count = 0;
            for (let i = 0; i < found.mask.length; i += 2)
                if (found.mask[i] === 1) count += found.mask[i + 1];
            return [image, found.version, found.verdict, count];
        }"""
    )


def test_from_data_to_a_mask(page, address, small_data, tmp_path):
    # 1, 2: data, and what fits
    page.click("nav >> text=Data")
    page.click(f"table >> text={small_data.name}")
    page.wait_for_selector("#grid .tile img")
    page.wait_for_selector("#new-tags", timeout=120_000)
    assert "12 without" in page.inner_text("#facts")
    page.click("#new-tags")
    # 3: the form, and the command beside it
    page.select_option("#preset", "smoke")
    page.evaluate("for (const d of document.querySelectorAll('details')) d.open = true")
    for name, value in TINY.items():
        field = page.locator(f"[name={name}]")
        if field.evaluate("e => e.tagName") == "SELECT":
            field.select_option(value)
        else:
            field.fill(value)
    page.fill("#name", "by browser")
    until(page, "document.getElementById('command').textContent.includes('by browser')")
    until(page, "document.getElementById('command').textContent.includes('--threads=1')")
    page.click("#start")
    # 4: watch it finish
    page.wait_for_selector("table >> text=by browser", timeout=120_000)
    page.click("table >> text=by browser")
    page.wait_for_selector("[data-state=finished]", timeout=300_000)
    page.wait_for_selector("#curves svg polyline")
    page.wait_for_selector("#previews img")
    # 5: review: the brush adds, undo takes back, accept saves
    page.click("#review")
    page.wait_for_selector("#canvas[data-image]")
    image, version, _, before = painted(page)
    assert version == 0
    box = page.locator("#canvas").bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.keyboard.press("x")
    page.mouse.move(*middle)
    page.mouse.down()
    page.mouse.move(middle[0] + 400, middle[1], steps=5)
    page.mouse.up()
    page.keyboard.press("z")
    assert page.is_disabled("#undo")
    for key in ("x", "b"):  # erased, then painted: the second stays
        page.keyboard.press(key)
        page.mouse.move(middle[0] - 60, middle[1] - 60)
        page.mouse.down()
        page.mouse.move(middle[0] + 60, middle[1] + 60, steps=6)
        page.mouse.up()
    page.keyboard.press("a")
    until(page, "document.getElementById('saved').textContent.includes('edited, saved')")
    page.keyboard.press("k")
    until(page, f"document.getElementById('canvas').dataset.image === '{image}'")
    _, version, verdict, after = painted(page)
    assert (version, verdict) == (1, "edited")
    assert after != before or after > 0
    # retrain
    page.fill("#new-name", "by browser again")
    page.click("#retrain-button")
    page.wait_for_selector("table >> text=by browser again", timeout=120_000)
    page.click("table >> text=by browser again")
    page.wait_for_selector("[data-state=finished]", timeout=300_000)
    # 6: compare
    page.click("nav >> text=Compare")
    page.check("text=by browser again")
    page.click("text=Show")
    page.wait_for_selector("#by-labels path.mark")
    page.wait_for_selector("#images .tile")
    page.fill("#split", "20")
    assert "20%" in page.evaluate("document.getElementById('image-b').style.clipPath")
    # 7: try
    page.click("nav >> text=Try")
    page.set_input_files("#file", small_data / "positive" / "p002.png")
    page.wait_for_selector(".tried", timeout=120_000)
    with page.expect_download() as download:
        page.click("text=Download the mask")
    download.value.save_as(tmp_path / "mask.png")
    assert download.value.suggested_filename == "p002-mask.png"
    assert np.asarray(Image.open(tmp_path / "mask.png")).shape == (32, 32)


def first_run(page, name="first"):
    return page.evaluate(
        """async (name) => {
            const runs = await (await fetch('/api/runs')).json();
            return runs.find((run) => run.name === name).id;
        }""",
        name,
    )


def test_tools_of_the_editor_change_what_they_should(page, address):
    page.goto(f"{address}/review/{first_run(page)}")
    page.wait_for_selector("#canvas[data-image]")
    result = page.evaluate(
        """async () => {
            const m = await import('/static/mask.js');
            const square = [{x: 2, y: 2}, {x: 6, y: 2}, {x: 6, y: 6}, {x: 2, y: 6}];
            const pixels = new Uint8ClampedArray(4 * 16).fill(100);
            for (const at of [1, 5, 9, 13]) pixels[4 * at] = 200;   // a wall in column 1
            const mask = new Uint8Array([0, 0, 1, 1, 1, 255]);
            return {
                disc: m.disc(5, 5, 1, 10, 10).length, edge: m.disc(0, 0, 1, 10, 10).length,
                stroke: m.stroke({x: 1, y: 1}, {x: 8, y: 1}, 0.5, 10, 10).length,
                polygon: m.polygon(square, 10, 10).length,
                flood: m.flood(pixels, 0, 20, 4, 4).length,
                right: m.flood(pixels, 2, 20, 4, 4).length,
                same: m.same([7, 8, 7], 0), runs: m.encode(mask),
                back: [...m.decode(m.encode(mask), 6)],
                larger: [...m.enlarged({values: [0, 1], width: 2, height: 1}, 4, 1)],
            };
        }"""
    )
    assert result == {
        "disc": 5, "edge": 3, "stroke": 8, "polygon": 20, "flood": 4, "right": 8, "same": [0, 2],
        "runs": [0, 2, 1, 3, 255, 1], "back": [0, 0, 1, 1, 1, 255], "larger": [0, 0.25, 0.75, 1],
    }  # fmt: skip


def test_masks_are_reviewed_by_keys_alone(page, address):
    page.goto(f"{address}/review/{first_run(page)}")
    page.wait_for_selector("#canvas[data-image]")
    image = painted(page)[0]
    # the pen moves and paints without a mouse; a threshold without one, too
    page.keyboard.press("e")
    for key in ("ArrowRight", "ArrowDown", "Space", "p", "Space", "Shift+ArrowRight", "Space",
                "Shift+ArrowDown", "Space", "Enter"):  # fmt: skip
        page.keyboard.press(key)
    assert page.is_enabled("#undo")
    page.focus("#cut")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("a")
    for number in range(1, 10):
        until(page, f"document.getElementById('progress').textContent.startsWith('{number} of')")  # fmt: skip  # noqa: E501
        until(page, f"document.getElementById('canvas').dataset.image !== '{image}'")
        image = painted(page)[0]
        page.keyboard.press("r" if number == 5 else "a")
    until(page, "document.getElementById('progress').textContent.startsWith('10 of')")


def test_two_windows_are_told_of_each_other(page, address):
    run = first_run(page)
    other = page.context.new_page()
    for each in (page, other):
        each.goto(f"{address}/review/{run}")
        each.wait_for_selector("#canvas[data-image]")
        each.click("#list .tile >> nth=9")
        until(
            each,
            "document.getElementById('title').textContent && "
            "document.querySelector('#list .tile[aria-selected=true]').textContent.includes("
            "document.getElementById('title').textContent)",
        )
        each.wait_for_timeout(500)
    other.keyboard.press("r")
    until(other, "document.getElementById('saved').textContent.includes('rejected, saved')")
    page.keyboard.press("a")
    page.wait_for_selector("#conflict[open]")
    page.click("#keep-mine")
    until(page, "document.getElementById('saved').textContent.includes('accepted, saved')")


def test_ten_thousand_images_are_a_few_tiles(page, address, many):
    page.click("nav >> text=Data")
    page.click(f"table >> text={many.name}")
    until(page, "document.getElementById('count').textContent === '10000 images'")
    page.focus("#grid")
    page.keyboard.press("End")
    page.wait_for_selector("#grid >> text=09999")
    assert page.locator("#grid .tile").count() < 100
    page.keyboard.press("Enter")
    page.wait_for_selector("dialog[open] >> text=09999")
    page.keyboard.press("Escape")
    page.fill("#text", "0042")
    until(page, "document.getElementById('count').textContent.startsWith('11 of')")


PAGES = ("/runs", "/runs/{run}", "/data", "/data/{data}", "/new/{data}/tags", "/review",
         "/review/{run}", "/compare?run={run}", "/try", "/runs/nothing")  # fmt: skip
LOOK = Path(__file__).with_name("contrast.js").read_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 1920])
def test_every_text_can_be_read_and_every_input_has_a_name(browser, address, many, scheme, width):
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    page.goto(f"{address}/runs?token={TOKEN}")
    data = page.evaluate("fetch('/api/data').then((a) => a.json()).then((l) => l[0].id)")
    for path in PAGES:
        page.goto(address + path.format(run=first_run(page), data=data))
        page.wait_for_load_state("networkidle" if "runs" not in path else "load")
        page.wait_for_timeout(300)
        assert page.evaluate(LOOK) == [], (path, scheme)
        wide = page.evaluate("document.documentElement.scrollWidth > innerWidth")
        assert not wide, f"{path} scrolls sideways at {width} px"
    context.close()
