"""What a research engineer writes of their own: terms, networks, optimisers, data with labels."""

import pytest
import torch
from test_networks import register_as_before  # noqa: F401
from torch import nn

import ctm
from ctm import Denoising
from ctm.losses import Term
from ctm.networks import register
from ctm.optimisers import load_optimizer, optimizer_state
from ctm.training import State, training_steps

LINE = ctm.data.one_gaussian()
pytestmark = pytest.mark.usefixtures("register_as_before")


def small(world=LINE, network=None, **options):
    network = network or ctm.networks.MLP(world.means[0].numel(), 8, 1)
    return ctm.CTM.for_data(world, network, **options)


def same(a, b):
    return all(torch.equal(p, q) for p, q in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_what_could_not_be_loaded_is_not_saved(tmp_path):
    model = small()
    model.network.body[-1] = nn.Linear(8, 1, bias=False)
    with pytest.raises(TypeError, match="cannot be made again"):
        ctm.save(model, tmp_path / "m.safetensors")
    assert not list(tmp_path.iterdir())


class Dropping(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 1))

    def forward(self, x, tau_t, tau_s):
        return self.body(torch.cat([x, tau_t[:, None], tau_s[:, None]], 1))


def test_the_teacher_from_scratch_does_not_drop(tmp_path):
    def made():
        torch.manual_seed(0)
        return small(network=Dropping())

    path = tmp_path / "run.safetensors"
    ctm.train(made(), LINE, steps=8, batch=8, checkpoint=path)
    assert ctm.train(made(), LINE, steps=10, batch=8, checkpoint=path).step[-1] == 10


def test_buffers_that_are_replaced_reach_the_average():
    class Replaced(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(1, 1)
            self.register_buffer("mean", torch.zeros(1))

        def forward(self, x, tau_t, tau_s):
            self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
            return self.layer(x - self.mean)

    state = State(small(network=Replaced()), LINE, Denoising(0), 5, batch=16)
    list(training_steps(state))
    assert state.models.student.network.mean
    assert torch.equal(state.models.average.network.mean, state.models.student.network.mean)


@pytest.mark.parametrize("value", [None, 1.0, torch.ones(3), (torch.ones(()), {})])
def test_an_objective_must_return_a_scalar(value):
    with pytest.raises(TypeError, match="objective must return a scalar"):
        ctm.train(small(), LINE, lambda models, draw, rng: value, 2)


@pytest.mark.parametrize("wrong", [torch.optim.SGD(small().parameters(), 0.1), "Adam", lambda weights: None])
def test_an_optimiser_must_be_a_function_that_makes_one(wrong):
    with pytest.raises(TypeError, match="optimizer must be a function of the weights"):
        ctm.train(small(), LINE, Denoising(0), 2, optimizer=wrong)


def test_a_loaded_model_is_on_the_processor_whatever_the_default(tmp_path):
    path, model = tmp_path / "m.safetensors", small()
    ctm.save(model, path)
    with torch.device("meta"):
        assert same(ctm.load(path), model)


def test_a_setting_of_ones_own_term_is_known_again(tmp_path):
    class Weighted(Term):
        def __init__(self, weight):
            self.weight = weight

        def __call__(self, models, draw, rng):
            return self.weight * Denoising(0)(models, draw, rng)

    run = {"batch": 8, "checkpoint": tmp_path / "run.safetensors"}
    ctm.train(small(), LINE, Weighted(1.0), 2, **run)
    with pytest.raises(ValueError, match="objective = Weighted"):
        ctm.train(small(), LINE, Weighted(5.0), 4, **run)


def test_other_first_weights_beside_a_table_of_indices_are_refused(tmp_path):
    class Indexed(ctm.networks.MLP):
        def __init__(self, seed):
            super().__init__(1, 8, 1, seed=seed)
            self.register_buffer("index", torch.arange(1000))

    run = {"batch": 8, "checkpoint": tmp_path / "run.safetensors"}
    ctm.train(small(network=Indexed(0)), LINE, Denoising(0), 2, **run)
    with pytest.raises(ValueError, match="other weights"):
        ctm.train(small(network=Indexed(1)), LINE, Denoising(0), 4, **run)


def test_a_module_made_where_none_was_given_is_no_setting():
    @register
    class Normed(nn.Module):
        def __init__(self, dim, norm=None):
            super().__init__()
            self.norm = norm or nn.LayerNorm(dim)

    assert Normed(2).config == {"dim": 2, "norm": None}


def test_labels_must_be_as_many_as_points():
    class Short:
        classes = 2

        def sample(self, n, *, generator=None):
            return torch.randn((n, 2), generator=generator)

        def sample_labelled(self, n, *, generator=None):
            return self.sample(n, generator=generator), torch.zeros(1)

    with pytest.raises(ValueError, match="must tell n = 8 labels"):
        ctm.train(ctm.CTM.for_data(Short()), Short(), Denoising(0), 1, batch=8)


@pytest.mark.parametrize("network", [ctm.networks.MLP, lambda x, t, s: x])
def test_a_network_is_a_module(network):
    with pytest.raises(TypeError, match=r"network must be a torch\.nn\.Module"):
        ctm.CTM(network, 0.5)


def test_a_setting_that_no_file_would_hold_is_not_saved(tmp_path):
    class Powered(ctm.CTM):
        def __init__(self, network, sigma_data, *levels, power=2, **options):
            super().__init__(network, sigma_data, *levels, **options)
            self.power = power

    ctm.save(Powered(ctm.networks.MLP(1, 8, 1), 0.5), tmp_path / "two.safetensors")
    with pytest.raises(TypeError, match=r"cannot be made again .* other power"):
        ctm.save(Powered(ctm.networks.MLP(1, 8, 1), 0.5, power=3), tmp_path / "three.safetensors")
    ctm.models.MODELS.pop("Powered")


def test_keys_that_json_would_change_are_refused():
    @register
    class Keyed(nn.Linear):
        def __init__(self, slopes):
            super().__init__(1, 1)

    with pytest.raises(TypeError, match="Keyed must be given what JSON can write"):
        Keyed({1: 0.5})
    Keyed({"1": 0.5})


def test_a_schedule_of_ones_own_is_no_trouble_for_a_resume(tmp_path):
    """The trial step by which the optimiser's state is known must not move the weights, nor miss the state."""
    weights = nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([weights], lr=0.1, momentum=0.9)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: 1.0)
    weights.grad = torch.ones(2)
    optimizer.step()
    before = weights.detach().clone()
    load_optimizer(optimizer, optimizer_state(optimizer))
    assert torch.equal(weights, before)


def test_a_buffer_of_changing_shape_is_left_to_each_model():
    class Caching(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(1, 1)
            self.register_buffer("cache", torch.zeros(1), persistent=False)

        def forward(self, x, tau_t, tau_s):
            self.cache = None if len(x) == 16 else torch.zeros(len(x))
            return self.layer(x)

    for batch in (16, 8):
        ctm.train(small(network=Caching()), LINE, Denoising(0), 3, batch=batch)


def test_a_property_of_the_weights_is_no_setting(tmp_path):
    class Tempered(ctm.CTM):
        def __init__(self, network, sigma_data, *levels, temperature=1.0, **options):
            super().__init__(network, sigma_data, *levels, **options)
            self.log_t = nn.Parameter(torch.zeros(()))

        @property
        def temperature(self):
            return float(self.log_t.detach().exp())

    ctm.save(Tempered(ctm.networks.MLP(1, 8, 1), 0.5), tmp_path / "model.safetensors")
    assert ctm.load(tmp_path / "model.safetensors").temperature == 1.0
    ctm.models.MODELS.pop("Tempered")
