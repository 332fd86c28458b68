"""Explorations: with a kernel they follow their controls; without one their frames follow plain sliders."""

import base64
import io
import math
import re
from pathlib import Path

import ipywidgets
import pytest
import torch
from PIL import Image
from widgets import POINTS, explore_gamma

import ctm

FOLDER = Path(__file__).parents[2] / "book/checkpoints"


@pytest.fixture(scope="module")
def exploration():
    return explore_gamma(FOLDER, checkpoint="ring_quick")


def test_every_slider_redraws(exploration):
    assert Image.open(io.BytesIO(exploration.picture.value)).size == (504, 261)
    for slider in exploration.sliders:
        before = exploration.picture.value, exploration.sentence.value
        slider.value = slider.options[len(slider.options) // 2][1]
        assert exploration.picture.value != before[0]
        assert exploration.sentence.value != before[1]
        assert f"{slider.value:.3g}" in exploration.sentence.value


def test_worlds_and_checkpoints(exploration):
    assert set(exploration.world.options) >= {"ring", "two_moons"}
    assert "ring_exact" in exploration.checkpoint.options
    assert "pair_exact" not in exploration.checkpoint.options  # its world is a line
    before = exploration.sentence.value
    exploration.checkpoint.value = "ring_exact"
    assert exploration.sentence.value != before
    exploration.world.value = "two_moons"
    assert exploration.checkpoint.value.startswith("two_moons")
    exploration.world.value, exploration.checkpoint.value = "ring", "ring_quick"
    assert exploration.sentence.value == before


def test_the_distance_in_the_sentence_is_the_packages():
    widget = explore_gamma(FOLDER, checkpoint="ring_quick")
    model, world = ctm.load(FOLDER / "ring_quick.safetensors"), ctm.data.ring()
    x = ctm.samplers.noise(model, POINTS, (2,), generator=torch.Generator().manual_seed(0))
    truth = world.sample(POINTS, generator=torch.Generator().manual_seed(1))
    floor = ctm.metrics.noise_floor(world, n=POINTS, draws=8)
    ratio = ctm.metrics.sliced_wasserstein(ctm.samplers.one_step(model, x), truth) / (sum(floor) / 8)
    assert f"≈ {ratio:.1f} times" in widget.sentence.value


@pytest.mark.slow
def test_the_output_holds_no_state_of_a_widget_but_all_frames(exploration):
    bundle = exploration._repr_mimebundle_()
    assert bundle["text/plain"] == exploration.title  # no line of repr
    assert set(bundle) == {"text/plain", "text/html", "application/vnd.jupyter.widget-view+json"}
    page = bundle["text/html"]
    count = math.prod(map(len, exploration.frames))
    sources = re.findall(r'base64,([\w+/=]+)"', page)
    assert len(sources) == page.count('class="frame"') == count
    assert page.count('class="frame" hidden') == count - 1  # the first is there without scripts
    assert len(set(sources)) == count
    for source in sources:
        assert Image.open(io.BytesIO(base64.b64decode(source))).format == "PNG"
    assert len(page) < 150_000


def test_the_page_of_an_exploration_is_the_same_every_time():
    exploration = explore_gamma(FOLDER, checkpoint="ring_quick")
    assert exploration.to_html() == exploration.to_html()  # no random id


def test_bad_choices_are_named():
    with pytest.raises(ValueError, match=r"world must be one of .*'ring'.* got 'rings'"):
        explore_gamma(FOLDER, world="rings")
    with pytest.raises(ValueError, match=r"checkpoint must be one of .*ring_exact.* got 'pair_exact'"):
        explore_gamma(FOLDER, checkpoint="pair_exact")
    with pytest.raises(ValueError, match=r"folder /nowhere must hold checkpoints"):
        explore_gamma("/nowhere")


def test_it_is_a_widget(exploration):
    assert isinstance(exploration, ipywidgets.Widget)
