"""Every figure reads in light and in dark and by readers who see fewer colours. The dark theme turns the stored picture."""

import io
import itertools
import re

import numpy as np
import pytest
from colours import SIGHT, contrast, distance, from_hex, lab_distance, seen, turned
from PIL import Image
from reader import HTML, ROOT

from ctm.plotting import COLOURS
from tools.execute import PALETTE_ERROR, palette

LEAST_CONTRAST = 3.0  # WCAG 2.2, 1.4.11: lines and dots; letters need 4.5
LEAST_DISTANCE = 6.0
INVERT = float(
    re.search(
        r"filter: invert\(([\d.]+)\) hue-rotate\(180deg\)", (ROOT / "book/_static/book.css").read_text(encoding="utf-8")
    )[1]
)
THEMES = {"light": lambda colour: colour, "dark": lambda colour: turned(colour, INVERT)}
WHITE, BLACK = np.ones(3), np.zeros(3)


@pytest.mark.parametrize(
    ("first", "second", "expected"),  # from the test data of Sharma, Wu and Dalal
    [
        ((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425),
        ((50, -1.3802, -84.2814), (50, 0, -82.7485), 1.0000),
        ((50, 2.5, 0), (73, 25, -18), 27.1492),
        ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
        ((2.0776, 0.0795, -1.1350), (0.9033, -0.0636, -0.5514), 0.9082),
    ],
)
def test_the_distance_is_the_published_one(first, second, expected):
    assert lab_distance(first, second) == pytest.approx(expected, abs=5e-5)


def test_contrast_of_black_and_white():
    assert contrast(BLACK, WHITE) == pytest.approx(21)


@pytest.mark.parametrize("theme", THEMES)
def test_letters_read(theme):
    assert contrast(THEMES[theme](BLACK), THEMES[theme](WHITE)) >= 7


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("kind", COLOURS)
def test_each_colour_stands_out_from_the_ground(theme, kind):
    look = THEMES[theme]
    assert contrast(look(from_hex(COLOURS[kind])), look(WHITE)) >= LEAST_CONTRAST


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("sight", SIGHT)
def test_no_two_colours_are_taken_for_each_other(theme, sight):
    shown = {kind: seen(THEMES[theme](from_hex(code)), sight) for kind, code in COLOURS.items()}
    for a, b in itertools.combinations(COLOURS, 2):
        assert distance(shown[a], shown[b]) >= LEAST_DISTANCE, (a, b)


def test_a_hue_is_named_by_what_it_means():
    for path in sorted((ROOT / "book").glob("*.ipynb")):
        text = path.read_text(encoding="utf-8").lower()
        assert [kind for kind, code in COLOURS.items() if len(set(from_hex(code))) > 1 and code.lower() in text] == [], path


def test_the_browser_turns_colours_as_computed(browser, tmp_path):
    css = (HTML / "_static/book.css").as_uri()
    codes = [*COLOURS.values(), "#ffffff", "#000000"]
    strip = np.repeat(np.array([[from_hex(code) * 255 for code in codes]]).round().astype(np.uint8), 20, 0).repeat(20, 1)
    Image.fromarray(strip).save(tmp_path / "strip.png")
    (tmp_path / "page.html").write_text(
        f'<html data-theme="dark"><link rel="stylesheet" href="{css}"><body style="margin:0">'
        '<div class="bd-content"><figure style="margin:0"><img src="strip.png"></figure></div></body></html>',
        encoding="utf-8",
    )
    page = browser.new_page()
    page.goto((tmp_path / "page.html").as_uri())
    picture = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB"))
    page.close()
    for i, code in enumerate(codes):
        expected = turned(from_hex(code), INVERT) * 255
        assert picture[10, 20 * i + 10] == pytest.approx(expected, abs=2), code


def pixels(data):
    with Image.open(io.BytesIO(data)) as image:
        whole = image.convert("RGBA")
    return np.asarray(Image.alpha_composite(Image.new("RGBA", whole.size, "white"), whole).convert("RGB"), dtype=int)


def png(array, mode):
    packed = io.BytesIO()
    Image.fromarray(array.astype(np.uint8), mode).save(packed, "png")
    return packed.getvalue()


def test_a_palette_changes_no_pixel_by_much():
    rng = np.random.default_rng(0)
    few = np.repeat(rng.integers(0, 100, (64, 64, 1)), 4, axis=2)  # greys, some of them half transparent
    few[..., 3] = rng.choice([128, 255], (64, 64))
    few = png(few, "RGBA")
    smaller = palette(few)
    assert len(smaller) < len(few)
    assert np.abs(pixels(few) - pixels(smaller)).max() <= PALETTE_ERROR
    many = png(rng.integers(0, 256, (64, 64, 3)), "RGB")
    assert palette(many) == many


def test_built_figures_have_a_palette_and_are_on_white_with_black_letters():
    built = sorted((HTML / "_images").glob("*.png"))
    assert len(built) >= 40
    for path in built:
        with Image.open(path) as image:
            assert image.mode == "P", f"{path.name}: run the notebook by tools/execute.py"
        drawn = pixels(path.read_bytes())
        edge = np.concatenate([drawn[0], drawn[-1], drawn[:, 0], drawn[:, -1]])
        assert edge.min() >= 250, f"{path.name}: the ground is not white"
        assert drawn.min() <= 30, f"{path.name}: no black letters"
