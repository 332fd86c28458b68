"""The models that chapters load are what their cards say."""

import pytest
import torch

import ctm
from studies.checkpoints import CONDITIONAL, FOLDER, MODELS, conditional_figures, figures


def test_every_model_is_stored():
    assert {path.stem for path in FOLDER.glob("*.safetensors")} == set(MODELS) | set(CONDITIONAL)
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 3e6


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
