"""The live figures in a browser, as a reader meets them: from a file, by mouse, touch and keys. Run after `make book`."""

import re

import pytest
from reader import HTML

BOOK = HTML / "book"
PAGES = {"welcome": "live-jump", "five_minutes": "live-cloud", "samplers": "live-gamma"}
DESK = {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light"}
PHONE = {"viewport": {"width": 375, "height": 740}, "color_scheme": "dark", "has_touch": True, "reduced_motion": "reduce"}
WAIT = 180_000  # a busy machine is slow, not wrong
COUNT_FRAMES = """(() => {
  const ask = window.requestAnimationFrame.bind(window);
  window.frames_drawn = 0;
  window.requestAnimationFrame = (f) => ask((time) => { window.frames_drawn++; f(time); });
})()"""


@pytest.fixture
def visit(browser):
    """Opens a page from its file and waits for its live figure; nothing of ours may reach the console."""
    contexts, errors = [], []

    def open_page(name, **options):
        contexts.append(browser.new_context(offline=True, **options))
        page = contexts[-1].new_page()
        page.set_default_timeout(WAIT)
        page.add_init_script(COUNT_FRAMES)
        page.on("pageerror", lambda error: errors.append(f"{error} {error.stack}"))
        page.on("console", lambda m: m.type in ("error", "warning") and errors.append(f"{m.text} {m.location}"))
        scripts = options.get("java_script_enabled", True)
        page.goto((BOOK / f"{name}.html").as_uri(), wait_until="commit" if scripts else "load")
        if scripts:
            page.wait_for_selector(".live output:not(:empty)", state="attached")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not [error for error in errors if re.search(r"live-\w+\.js|_static/live/|ctm[A-Z]", error)], errors


def words(page):
    return page.locator(".live output").inner_text()


def drawn(page):
    """The pixels of all canvases of the figure."""
    return page.evaluate("[...document.querySelectorAll('.live canvas')].map((canvas) => canvas.toDataURL()).join()")


def changes(page, act):
    """Do something; both the picture and the sentence must follow."""
    before, picture = words(page), drawn(page)
    act()
    page.wait_for_function("(old) => document.querySelector('.live output').textContent !== old", arg=before)
    assert drawn(page) != picture


@pytest.mark.parametrize("setting", [DESK, PHONE], ids=["desk", "phone"])
@pytest.mark.parametrize("name", PAGES)
def test_every_control_answers_to_the_keyboard(visit, name, setting):
    page = visit(name, **setting)
    assert page.locator("html").get_attribute("data-theme") == setting["color_scheme"]
    sliders = page.locator(".live input[type=range]")
    assert sliders.count() == 2
    for i in range(2):
        slider = sliders.nth(i)
        for key in ("ArrowLeft", "ArrowRight", "Home", "End"):
            ends = slider.evaluate("(input) => [input.value === input.min, input.value === input.max]")
            if not ends[key in ("ArrowRight", "End")]:  # there is room to move
                told = slider.get_attribute("aria-valuetext")
                changes(page, lambda slider=slider, key=key: slider.press(key))
                assert slider.get_attribute("aria-valuetext") != told
    for choice in page.locator(".live select").all():
        for value in choice.locator("option").evaluate_all("(options) => options.map((option) => option.value)")[1:]:
            changes(page, lambda choice=choice, value=value: choice.select_option(value))
    if name != "five_minutes":
        changes(page, lambda: page.locator(".live button").press("Enter"))
    width = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert width[0] <= width[1], "the page scrolls sideways"


@pytest.mark.parametrize("name", PAGES)
def test_a_theme_redraws_and_nothing_moves_by_itself(visit, name):
    page = visit(name, **DESK)
    picture = drawn(page)
    page.evaluate("document.documentElement.dataset.theme = 'dark'")
    page.wait_for_timeout(500)
    assert drawn(page) != picture
    before = page.evaluate("frames_drawn")
    page.wait_for_timeout(700)
    assert page.evaluate("frames_drawn") == before


def test_the_noise_point_is_dragged_by_mouse_and_moved_by_keys(visit):
    page = visit("welcome", **DESK)
    canvas = page.locator(".live canvas")
    canvas.scroll_into_view_if_needed()
    for world in ("two_gaussians", "ring"):
        page.locator(".live select").select_option(world)
        page.wait_for_timeout(1000)
        box = canvas.bounding_box()
        middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2

        def drag(middle=middle):
            page.mouse.move(*middle)
            page.mouse.down()
            page.mouse.move(middle[0] + 40, middle[1] - 60, steps=4)
            page.mouse.up()

        changes(page, drag)
        page.wait_for_timeout(1000)  # the sentence follows the last move a little later
        start = words(page)
        page.mouse.move(*middle)  # the button is up: the point stays
        page.wait_for_timeout(300)
        assert words(page) == start
        canvas.focus()
        for key in ("ArrowUp", "Shift+ArrowDown"):
            changes(page, lambda key=key: page.keyboard.press(key))
    assert page.evaluate("scrollY") > 0
    assert words(page).startswith("From (")


def test_the_noise_point_is_dragged_by_touch(visit):
    page = visit("welcome", **PHONE)
    canvas = page.locator(".live canvas")
    canvas.scroll_into_view_if_needed()
    box, scrolled = canvas.bounding_box(), page.evaluate("scrollY")
    finger = page.context.new_cdp_session(page)

    def drag():
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        for kind, up in (("touchStart", 0), ("touchMove", 40), ("touchMove", 80)):
            finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y - up}]})
        finger.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})

    changes(page, drag)
    assert page.evaluate("scrollY") == scrolled  # the point moves, not the page


SLIDE = "input.value = Number(input.max) * (1 - i / 80); input.dispatchEvent(new Event('input'));"
MOVES = {  # what is done again and again while the frames are timed: the mouse drags the point, or a slider runs along
    "welcome": """const r = canvas.getBoundingClientRect(); canvas.setPointerCapture = () => {};
      canvas.dispatchEvent(new PointerEvent(i ? 'pointermove' : 'pointerdown', { buttons: 1,
        clientX: r.left + r.width * (0.3 + 0.004 * i), clientY: r.top + r.height * (0.7 - 0.003 * i) }));""",
    "five_minutes": SLIDE,
    "samplers": SLIDE,
}


@pytest.mark.parametrize("name", PAGES)
def test_sixty_frames_a_second_with_500_points(visit, name):
    """The processor's time of the page for one frame, all included, which other work on the machine does not change much."""
    page = visit(name, **DESK)
    if name == "welcome":
        changes(page, lambda: page.locator(".live select").select_option("ring"))  # in the plane: 500 points behind
    meter = page.context.new_cdp_session(page)
    meter.send("Performance.enable", {"timeDomain": "threadTicks"})

    def seconds():
        return next(m["value"] for m in meter.send("Performance.getMetrics")["metrics"] if m["name"] == "TaskDuration")

    frames = """async () => {
      const canvas = document.querySelector('.live canvas'), input = document.querySelectorAll('.live input')[1];
      const before = frames_drawn;
      for (let i = 0; i < 80; i++) { MOVE; await new Promise((done) => requestAnimationFrame(() => setTimeout(done))); }
      return (frames_drawn - before) / 2; // half of them are this loop's own
    }""".replace("MOVE;", MOVES[name])
    costs = []
    for _ in range(4):  # the first to warm up
        start, count = seconds(), page.evaluate(frames)
        assert count >= 70
        costs.append(1000 * (seconds() - start) / count)
    print(f"{name}: {', '.join(f'{cost:.1f}' for cost in costs)} ms a frame")
    assert min(costs) < 1000 / 60


@pytest.mark.parametrize("name", PAGES)
def test_without_scripts_a_picture_and_a_text_stand_in(visit, name):
    page = visit(name, java_script_enabled=False, **DESK)
    picture = page.locator(f".{PAGES[name]} noscript img")
    assert picture.is_visible()
    assert len(picture.get_attribute("alt")) > 100
    assert picture.bounding_box()["height"] > 150  # it is there: an image that is missing has the height of a line
    assert "With scripts" in page.locator(f".{PAGES[name]}").inner_text()


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
        figures = set(re.findall(r'<div class="(?:live )?(live-\w+)"', text))
        loaded = set(re.findall(r'src="[^"]*/(live-\w+)\.js', text))
        shared = (
            {"live-world", "live-network", "live-sampler", "live-distance", "live-draw"} if figures - {"live-ode"} else set()
        )
        assert loaded == figures | shared, path.name


@pytest.mark.parametrize("setting", [DESK, PHONE], ids=["desk", "phone"])
def test_the_frames_of_a_widget_follow_plain_sliders(visit, setting):
    page = visit("samplers", **setting)
    box = page.locator(".ctm-frames")
    assert box.locator(".frame").count() == 12
    shown = box.locator(".frame:visible")
    seen = {shown.locator("p").inner_text()}
    calls, gamma = box.locator("input").all()
    for slider, key, number in (
        (gamma, "ArrowRight", "0.5"),
        (gamma, "End", "1"),
        (calls, "ArrowRight", "2"),
        (calls, "End", "8"),
    ):
        slider.press(key)
        assert shown.count() == 1
        assert slider.get_attribute("aria-valuetext") == number
        assert shown.locator("img").evaluate("(image) => image.complete && image.naturalWidth > 0")
        seen.add(shown.locator("p").inner_text())
    assert len(seen) == 5
    assert "8 calls with gamma = 1" in shown.locator("p").inner_text()
    assert "widget-view" not in page.content()


def test_without_scripts_the_first_frame_of_a_widget_is_there(visit):
    page = visit("samplers", java_script_enabled=False, **DESK)
    assert page.locator(".ctm-frames .frame:visible").count() == 1
    assert page.locator(".ctm-frames .frame:visible img").is_visible()
