"""The pictures that stand in for the live figures where scripts are off, and in notebooks: the figures as they start, seen
by a browser. Run as a program, after `make book`, this takes them anew into ``book/_static/live``."""

import base64
import io
import re
from typing import Any

from PIL import Image, PngImagePlugin
from reader import HTML, ROOT, opened

FOLDER = ROOT / "book/_static/live"
PAGES = {
    "live-jump": "welcome",
    "live-cloud": "five_minutes",
    "live-score": "probability_flow_ode",
    "live-ode": "probability_flow_ode",
    "live-denoiser": "learning_a_denoiser",
    "live-solvers": "solvers",
    "live-triangle": "from_consistency_to_trajectories",
    "live-loss": "the_loss",
    "live-gamma": "samplers",
}
DESK = {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light", "device_scale_factor": 2}


def photograph(figure: Any) -> Image.Image:
    """The canvases of a figure side by side, in 64 colours: a third of the size, and no difference to be seen. They
    are asked for their own pixels: those of the screen change with the height of the text above, by a part of a pixel."""
    drawn = figure.locator(".panels canvas").evaluate_all("all => all.map(canvas => canvas.toDataURL().split(',')[1])")
    seen = [Image.open(io.BytesIO(base64.b64decode(data))).convert("RGBA") for data in drawn]
    whole = Image.new("RGB", (sum(image.width for image in seen), max(image.height for image in seen)), "white")
    left = 0
    for image in seen:
        whole.paste(image, (left, 0), image)
        left += image.width
    return whole.quantize(64, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)


def still(browser: Any, name: str) -> tuple[Image.Image, str]:
    """Open the page of a figure and look at it before anything is moved: the picture, and the sentence under it."""
    context = browser.new_context(offline=True, reduced_motion="reduce", **DESK)
    context.route(re.compile("mathjax"), lambda route: route.abort())  # no formula is in the picture
    page = context.new_page()
    page.set_default_timeout(180_000)
    page.goto((HTML / f"book/{PAGES[name]}.html").as_uri())
    figure = page.locator(f".{name}")
    figure.scroll_into_view_if_needed()
    page.wait_for_selector(f".{name} output:not(:empty)", state="attached")
    page.wait_for_timeout(500)
    found = photograph(figure), figure.locator("output").inner_text()
    context.close()
    return found


if __name__ == "__main__":
    with opened() as browser:
        for name in PAGES:
            picture, sentence = still(browser, name)
            facts = PngImagePlugin.PngInfo()
            facts.add_itxt("Description", sentence)
            picture.save(FOLDER / f"{name}.png", optimize=True, pnginfo=facts)
