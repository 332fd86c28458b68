"""The models that chapters load are what their cards say."""

import pytest
import torch

import ctm
from studies import digits, load
from studies.checkpoints import CONDITIONAL, FOLDER, MODELS, conditional_figures, figures

IMAGES = {"digits_28_teacher", "digits_28_student"}


def test_every_model_is_stored():
    assert {path.stem for path in FOLDER.glob("*.safetensors")} == set(MODELS) | set(CONDITIONAL) | IMAGES
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 9e6


@pytest.mark.parametrize("name", MODELS)
def test_the_card_is_true(name):
    path = FOLDER / f"{name}.safetensors"
    card, model = ctm.read_card(path), ctm.load(path)
    world = ctm.data.WORLDS[card["world"]]()
    assert card["steps"] == MODELS[name][3]
    assert name in card["command"]
    assert card["seconds"] > 0
    assert "seed" in card
    assert all(bool(torch.isfinite(weights).all()) for weights in model.parameters())
    assert figures(model, world) == pytest.approx(card["figures"], rel=2e-3, abs=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", CONDITIONAL)
def test_the_card_of_a_conditional_model_is_true(name):
    path = FOLDER / f"{name}.safetensors"
    card, model = ctm.read_card(path), ctm.load(path)
    network, _, strengths, _, steps = CONDITIONAL[name]
    assert isinstance(model, ctm.ConditionalCTM)
    assert network.items() <= model.network.config.items()
    assert (card["steps"], card["world"]) == (steps, name)
    assert name in card["command"]
    found = conditional_figures(model, ctm.data.LABELLED[name](), strengths[1])
    assert found == pytest.approx(card["figures"], rel=2e-3, abs=2e-5)


def test_the_cards_of_the_models_of_images_are_those_of_the_study():
    """That the figures come out again is held where a chapter draws the images anew, book/digits.ipynb."""
    plan = digits.PLANS[28]
    for stage in ("teacher", "student"):
        path = FOLDER / f"digits_28_{stage}.safetensors"
        card, model = ctm.read_card(path), ctm.load(path)
        assert path.stat().st_size < 4e6
        assert plan.network.items() <= model.network.config.items()
        later = digits.FINISH["steps"] + digits.SETTLE["steps"] if stage == "student" else 0
        assert card["steps"] == getattr(plan, stage)["steps"] + later
        assert card["command"] == "python -m studies.digits 28"
        steps = 1 if stage == "student" else digits.HEUN
        row = load("digits").one(size=28, how=stage, steps=steps, w=plan.w)
        assert card["figures"].items() <= row.items()


def test_a_stored_model_of_images_is_sampled_in_one_call():
    model = ctm.load(FOLDER / "digits_28_student.safetensors")
    images = ctm.sample(model, 20)
    assert images.shape == (20, 28, 28)
    assert -0.3 < float(images.min()) < 0.1 < 0.7 < float(images.max()) < 1.4  # pixels from 0 to 1
    assert torch.equal(ctm.sample(model, 20), images)
