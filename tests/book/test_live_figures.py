"""The live figures in a browser, as a reader meets them: from a file, by mouse, touch and keys. Run after `make book`."""

import contextlib
import re

import pytest
import stills
from PIL import Image, ImageChops
from reader import HTML
from stills import PAGES as FIGURES

BOOK = HTML / "book"
IN_HAND = [name for name in FIGURES if name not in ("live-cloud", "live-gamma")]  # those with a point to drag
DESK = {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light"}
PHONE = {"viewport": {"width": 375, "height": 740}, "color_scheme": "dark", "has_touch": True, "reduced_motion": "reduce"}
WAIT = 180_000  # a busy machine is slow, not wrong
COUNT_FRAMES = """(() => {
  const ask = window.requestAnimationFrame.bind(window);
  window.frames_drawn = 0;
  window.requestAnimationFrame = (f) => ask((time) => { window.frames_drawn++; f(time); });
})()"""


@contextlib.contextmanager
def opened(browser, name, **options):
    """A page opened from its file, by the name of a figure on it or its own, and the figure when it is there. No script
    of ours may complain. Neither formulas nor pictures are loaded: other tests do that, and it takes most of the time."""
    errors, context = [], browser.new_context(offline=True, **options)
    context.route(re.compile("mathjax|/_images/"), lambda route: route.abort())
    page = context.new_page()
    page.set_default_timeout(WAIT)
    page.add_init_script(COUNT_FRAMES)
    page.on("pageerror", lambda error: errors.append(f"{error} {error.stack}"))
    page.on("console", lambda m: m.type in ("error", "warning") and errors.append(f"{m.text} {m.location}"))
    scripts = options.get("java_script_enabled", True)
    page.goto((BOOK / f"{FIGURES.get(name, name)}.html").as_uri(), wait_until="commit" if scripts else "load")
    if scripts:
        page.wait_for_selector(f".{name} output:not(:empty)", state="attached")
    yield page, page.locator(f".{name}")
    context.close()
    assert not [error for error in errors if re.search(r"live-\w+\.js|_static/live/|ctm[A-Z]", error)], errors


@pytest.fixture(scope="module", params=FIGURES)
def desk(request, browser):
    """A figure on a large screen; its page is opened once for all tests of it."""
    with opened(browser, request.param, **DESK) as (page, figure):
        yield request.param, page, figure


@pytest.fixture(scope="module", params=FIGURES)
def phone(request, browser):
    with opened(browser, request.param, **PHONE) as (page, figure):
        yield page, figure


def words(figure):
    return figure.locator("output").inner_text()


def drawn(figure):
    """The pixels of all canvases of the figure."""
    return figure.evaluate("(box) => [...box.querySelectorAll('canvas')].map((canvas) => canvas.toDataURL()).join()")


def follows(page, figure, before, picture):
    """Both the sentence and the picture change."""
    wait = "([box, old]) => box.querySelector('output').textContent !== old"
    page.wait_for_function(wait, arg=[figure.element_handle(), before])
    assert drawn(figure) != picture


def changes(page, figure, act):
    before, picture = words(figure), drawn(figure)
    act()
    follows(page, figure, before, picture)


RESET = """(box) => box.querySelectorAll('input').forEach((input) => {
  input.value = input.defaultValue; input.dispatchEvent(new Event('input')); })"""


def test_every_control_answers_to_the_keyboard(desk):
    _, page, figure = desk
    sliders = figure.locator("input[type=range]").all()
    for slider in sliders:
        figure.evaluate(RESET)
        page.wait_for_timeout(300)
        moved = 0
        for key in ("ArrowLeft", "ArrowRight", "End", "Home"):
            told, before, picture = slider.get_attribute("aria-valuetext"), words(figure), drawn(figure)
            slider.press(key)
            if slider.get_attribute("aria-valuetext") != told:  # else it stands at an end, or at another time
                follows(page, figure, before, picture)
                moved += 1
            assert slider.get_attribute("aria-valuetext") == slider.locator("xpath=following-sibling::span").inner_text()
        assert moved >= 3
    figure.evaluate(RESET)
    sliders[len(sliders) // 2].press("End")
    page.wait_for_timeout(300)
    for choice in figure.locator("select").all():
        for value in choice.locator("option").evaluate_all("(options) => options.map((option) => option.value)")[1:]:
            changes(page, figure, lambda choice=choice, value=value: choice.select_option(value))
    for button in figure.locator("button").all():
        changes(page, figure, lambda button=button: button.press("Enter"))


def test_a_theme_redraws_and_nothing_moves_by_itself(desk):
    _, page, figure = desk
    page.wait_for_timeout(300)
    picture = drawn(figure)
    page.evaluate("document.documentElement.dataset.theme = 'dark'")
    page.wait_for_timeout(500)
    assert drawn(figure) != picture
    before = page.evaluate("frames_drawn")
    page.wait_for_timeout(700)
    assert page.evaluate("frames_drawn") == before
    page.evaluate("document.documentElement.dataset.theme = 'light'")


@pytest.mark.parametrize("desk", IN_HAND, indirect=True)
def test_a_point_is_dragged_by_mouse_and_moved_by_keys(desk):
    name, page, figure = desk
    figure.evaluate(RESET)
    canvas = figure.locator("canvas.hand")
    canvas.scroll_into_view_if_needed()
    for world in ("two_gaussians", "ring") if name == "live-jump" else (None,):
        if world:
            figure.locator("select").select_option(world)
            page.wait_for_timeout(1000)
        box = canvas.bounding_box()
        middle = box["x"] + box["width"] * 0.4, box["y"] + box["height"] * 0.6

        def drag(middle=middle):
            page.mouse.move(*middle)
            page.mouse.down()
            page.mouse.move(middle[0] - 40, middle[1] - 60, steps=4)
            page.mouse.up()

        changes(page, figure, drag)
        page.wait_for_timeout(1000)  # the sentence follows the last move a little later
        start = words(figure)
        page.mouse.move(*middle)  # the button is up: the point stays
        page.wait_for_timeout(300)
        assert words(figure) == start
        canvas.focus()
        for key in ("ArrowUp", "Shift+ArrowDown"):
            changes(page, figure, lambda key=key: page.keyboard.press(key))
    assert page.evaluate("scrollY") > 0


def test_a_phone_shows_it_dark_and_does_not_scroll_sideways(phone):
    page, figure = phone
    assert page.locator("html").get_attribute("data-theme") == "dark"
    changes(page, figure, lambda: figure.locator("input").first.press("End"))
    width = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert width[0] <= width[1]


@pytest.mark.parametrize("phone", IN_HAND, indirect=True)
def test_a_point_is_dragged_by_touch(phone):
    page, figure = phone
    canvas = figure.locator("canvas.hand")
    canvas.scroll_into_view_if_needed()
    page.wait_for_timeout(300)
    box, scrolled = canvas.bounding_box(), page.evaluate("scrollY")
    finger = page.context.new_cdp_session(page)

    def drag():
        x, y = box["x"] + box["width"] * 0.4, box["y"] + box["height"] * 0.7
        for kind, up in (("touchStart", 0), ("touchMove", 30), ("touchMove", 60)):
            finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y - up}]})
        finger.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})

    changes(page, figure, drag)
    assert page.evaluate("scrollY") == scrolled  # the point moves, not the page


# What is done again and again while the frames are timed: the mouse drags the point, or a slider runs along.
DRAG = """const r = canvas.getBoundingClientRect(); canvas.setPointerCapture = () => {};
  canvas.dispatchEvent(new PointerEvent(i ? 'pointermove' : 'pointerdown', { buttons: 1,
    clientX: r.left + r.width * (0.3 + 0.004 * i), clientY: r.top + r.height * (0.7 - 0.003 * i) }));"""
SLIDE = "input.value = Number(input.max) * (1 - i / 80); input.dispatchEvent(new Event('input'));"


# A fixed piece of the figures' own arithmetic, products of two lists: so many milliseconds of it on the processor on which
# the figures are made to keep up. Beside other work it slows down as they do; a chain of exponentials did not.
YARDSTICK = """() => {
  const a = new Float64Array(4096).fill(1e-3), b = new Float64Array(4096).fill(0.5);
  let s0 = 0, s1 = 0, s2 = 0, s3 = 0;
  for (let k = 0; k < 18000; k++) for (let i = 0; i < 4096; i += 4) {
    s0 += a[i] * b[i]; s1 += a[i + 1] * b[i + 1]; s2 += a[i + 2] * b[i + 2]; s3 += a[i + 3] * b[i + 3];
  }
  return s0 + s1 + s2 + s3;
}"""
MILLISECONDS = 54.0


def test_sixty_frames_a_second(desk):
    """The processor's time of the page for one frame, all included, which other work on the machine does not change much;
    on a slower processor as much longer as a piece of arithmetic takes there."""
    name, page, figure = desk
    largest = {"live-jump": "ring", "live-score": "two_moons", "live-denoiser": "1024"}.get(name)
    if largest:  # 500 points behind, 48 components, all data points
        figure.locator("select").select_option(largest)
        page.wait_for_timeout(1000)
    meter = page.context.new_cdp_session(page)
    meter.send("Performance.enable", {"timeDomain": "threadTicks"})

    def seconds():
        return next(m["value"] for m in meter.send("Performance.getMetrics")["metrics"] if m["name"] == "TaskDuration")

    frames = """async (box) => {
      const canvas = box.querySelector('canvas'), inputs = box.querySelectorAll('input'), input = inputs[inputs.length - 1];
      const before = frames_drawn;
      for (let i = 0; i < 80; i++) { MOVE; await new Promise((done) => requestAnimationFrame(() => setTimeout(done))); }
      return (frames_drawn - before) / 2; // half of them are this loop's own
    }"""

    def measured():
        start = seconds()
        page.evaluate(YARDSTICK)
        return 1000 * (seconds() - start)

    measured(), measured()  # to warm up: the browser compiles the loop meanwhile
    for move in (SLIDE, DRAG) if name in IN_HAND else (SLIDE,):
        costs = []
        for _ in range(6):  # beside other work one round may be slow
            slower = max(1.0, measured() / MILLISECONDS)
            start, count = seconds(), figure.evaluate(frames.replace("MOVE;", move))
            assert count >= 70
            costs.append(1000 * (seconds() - start) / count / slower)
            if costs[-1] < 1000 / 60:
                break
        print(f"{name}: {', '.join(f'{cost:.1f}' for cost in costs)} ms a frame, on a processor {slower:.2f} times faster")
        assert min(costs) < 1000 / 60


@pytest.mark.parametrize("name", sorted(set(FIGURES.values())))
def test_without_scripts_pictures_and_texts_stand_in(browser, name):
    with opened(browser, name, java_script_enabled=False, **DESK) as (page, _):
        for figure in page.locator(".live").all():
            picture = figure.locator("noscript img")
            assert picture.is_visible()
            assert len(picture.get_attribute("alt")) > 100
            assert picture.bounding_box()["height"] > 150  # it is there: an image that is missing has the height of a line
            assert "With scripts" in figure.inner_text()


@pytest.mark.parametrize("name", FIGURES)
def test_the_picture_that_stands_in_is_the_figure_as_it_starts(browser, name):
    """It says the same of itself, and looks the same but for letters: another type changes up to 1.1% of the pixels."""
    stored = Image.open(stills.FOLDER / f"{name}.png")
    seen, sentence = stills.still(browser, name)
    assert stored.info["Description"] == sentence
    stored, seen = stored.convert("RGB"), seen.convert("RGB")
    assert seen.size == stored.size
    change = ImageChops.difference(seen, stored).convert("L").point(lambda level: 255 * (level > 32))
    assert change.histogram()[255] < 0.012 * seen.width * seen.height


def test_the_figure_says_so_if_its_data_are_missing(browser):
    page = browser.new_context(offline=True).new_page()
    page.route("**/live/ring*.js", lambda route: route.abort())
    page.goto((BOOK / "five_minutes.html").as_uri(), wait_until="commit")
    page.wait_for_selector(".live p", timeout=WAIT)
    assert "ring.js is missing" in page.locator(".live").inner_text()
    page.context.close()


def test_scripts_are_loaded_where_there_is_a_figure_and_nowhere_else():
    for path in BOOK.glob("*.html"):
        text = path.read_text(encoding="utf-8")
        figures = set(re.findall(r'<div class="live (live-\w+)"', text))
        loaded = set(re.findall(r'src="[^"]*/(live-\w+)\.js', text))
        assert figures == {name for name, page in FIGURES.items() if page == path.stem}
        shared = {"live-world", "live-network", "live-sampler", "live-distance", "live-draw"}
        assert loaded == (figures | shared if figures else set()), path.name
