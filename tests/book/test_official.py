"""The study of the official code's choices: its laws, and the figures that its page quotes."""

import math
import re
from pathlib import Path

import pytest
import torch
from helpers import generator

import ctm
import studies
from ctm.losses import Draw, Models
from studies import official

ROWS = studies.load("official")
PAGE = (Path(__file__).parents[2] / "book/official_code.md").read_text(encoding="utf-8")


def test_lengths_are_as_likely_as_they_are_long():
    n, most = 200_000, 17
    lengths = official.weighted_length(most, (n,), generator())
    counts = torch.bincount(lengths, minlength=most + 1)[1:].double()
    expected = n * torch.arange(1, most + 1).double() / (most * (most + 1) / 2)
    assert ((counts - expected).abs() < 5 * expected.sqrt()).all()
    assert lengths.double().mean().item() == pytest.approx((2 * most + 1) / 3, abs=0.05)


@pytest.mark.parametrize("shared", [True, False])
def test_levels_leave_room_for_the_solver(shared):
    seen = torch.zeros(18, 18, dtype=torch.bool)
    for seed in range(1000):
        t, u, s = official.official_levels(1024, 17, shared, generator(seed))
        assert (len((u - t).unique()) == 1) == shared
        assert ((t >= 0) & (t < u) & (u <= s) & (s <= 17)).all()
        seen[t, s] = True
    assert seen.sum() == 17 * 18 / 2  # every pair t < s


def test_the_longest_of_a_batch():
    """The page's count for a GPU with 18 points: what the solver costs more where all wait for the longest."""
    most, n = 39, 18
    below = [k * (k + 1) / (most * (most + 1)) for k in range(most)]
    longest = sum(1 - share**n for share in below)
    assert longest == pytest.approx(38.4, abs=0.05)
    assert 1.4 < longest / ((2 * most + 1) / 3) < 1.5
    assert "38.4" in PAGE


def test_long_targets_take_the_times_of_the_code():
    world = official.WORLD
    student = ctm.CTM.for_data(world, ctm.networks.MLP(2, width=8, layers=1))
    term = official.LongTargets(world, "local", pool=64, **official.GRID)
    (_, t, _, u, _), _ = term.pairs(Models(student, 10), Draw(world, student, 32, generator(1)), generator(1))
    grid = ctm.noise.karras_times(39, student).float()
    lengths = [(grid - b).abs().argmin() - (grid - a).abs().argmin() for a, b in zip(t, u, strict=True)]
    assert len({int(length) for length in lengths}) == 1


def test_targets_differ_only_in_the_weights_that_jump():
    world = official.WORLD
    student = ctm.CTM.for_data(world, ctm.networks.MLP(2, width=8, layers=1))
    values = {}
    for inner in ("current", "average"):
        for outer in ("current", "average"):
            models = Models(student, 10, target_ema=0.999)
            with torch.no_grad():
                for weights in models.target.parameters():
                    weights.mul_(0.5)
            term = official.Targets(world, "soft", pool=64, inner=inner, outer=outer, **official.GRID)
            values[inner, outer] = term(models, Draw(world, student, 32, generator(1)), generator(1)).item()
    assert len(set(values.values())) == 4
    term = ctm.Consistency(world, "soft", "x0", pool=64, **official.GRID)
    both = Models(student, 10, target_ema=0.999)
    with torch.no_grad():
        for weights in both.target.parameters():
            weights.mul_(0.5)
    book = term(both, Draw(world, student, 32, generator(1)), generator(1)).item()
    assert values["average", "average"] == pytest.approx(book, rel=1e-5)


def test_walks_reach_the_same_point_by_an_exact_map():
    """With the exact map in place of the target's, its jump and its ODE agree."""
    world = official.WORLD
    walks = {by: official.SelfTaught(world, by=by, **official.GRID | {"levels": 17}) for by in ("jump", "ODE")}

    class Exact:
        sigma_min, sigma_max = world.sigma_min, world.sigma_max
        denoiser = staticmethod(world.denoiser)

        @staticmethod
        def jump(x, t, s):
            return world.G(x, t, torch.minimum(s, t))

    levels = ctm.losses.draw_levels(200, 17, "soft", 0.0, 0.0, generator())
    grid = ctm.noise.karras_times(17, Exact).float()
    t, u = grid[levels.t][:, None], grid[levels.u][:, None]
    x = world.sample(200, generator=generator()) + t * torch.randn(200, 2, generator=generator(2))
    ends = {by: term.walk(Exact, x, t, u, levels) for by, term in walks.items()}
    assert (ends["jump"] - ends["ODE"]).abs().median() < 0.02


def test_half_and_half_has_both_halves():
    model = ctm.data.ring()
    times = official.half_and_half(20_000, model, generator())
    grid = times[10_000:]
    low = (0.3 * model.sigma_max ** (1 / 7) + 0.7 * model.sigma_min ** (1 / 7)) ** 7
    assert grid.min() >= low * (1 - 1e-4)
    assert grid.max() <= model.sigma_max * (1 + 1e-4)
    assert times[:10_000].log().mean().item() == pytest.approx(math.log(2 * model.sigma_data) - 1.2, abs=0.05)


def test_the_arithmetic_again():
    bottom, top = 0.002 ** (1 / 7), 80.0 ** (1 / 7)
    assert ROWS.one(check="grid", levels=18)["t"] == pytest.approx((top + 39 / 17 * (bottom - top)) ** 7, rel=1e-4)
    assert ROWS.one(check="grid", levels=40)["t"] == pytest.approx(0.002, rel=1e-4)
    assert max(ROWS.values("worst", check="gamma")) < 1e-12
    for gamma in (0.2, 0.5, 0.9):
        u = ctm.noise.karras_times(4, 0.002, 80.0)[3].item()
        root = math.sqrt(1 - gamma**2)
        assert ROWS.one(check="gamma", variant="code", gamma=gamma)["s over t"] == pytest.approx(
            root + (1 - root) * 0.002 / u, abs=1e-5
        )
        assert ROWS.one(check="gamma", variant="paper", gamma=gamma)["s over t"] == pytest.approx(root, abs=1e-5)


def test_every_variant_has_three_seeds():
    for check, variants in official.VARIANTS.items():
        for variant in variants:
            assert sorted(ROWS.values("seed", check=check, variant=variant)) == [0, 1, 2]


def test_the_page_quotes_the_study():
    rows = re.findall(r"^\| `(\w+)`: ([^|]+?) +\| ([\d.]+) \(([\d.]+) to ([\d.]+)\) \| ([\d.]+)[^|]*\|", PAGE, flags=re.M)
    assert len(rows) == sum(len(names) for check, names in official.VARIANTS.items() if check != "times")
    for check, variant, *figures in rows:
        spread = ROWS.spread("error", check=check, variant=variant)
        assert [f"{v:.3f}" for v in spread] == figures[:3], (check, variant)
        assert f"{ROWS.median('table', check=check, variant=variant):.3f}" == figures[3], (check, variant)
    for n, shown in re.findall(r"^\| ([\d,]+) +\| ([\d.]+) \|", PAGE, flags=re.M):
        assert float(shown) == pytest.approx(ROWS.median("distance", check="frechet", n=int(n.replace(",", ""))), rel=0.01)
    for variant in official.TIMES:
        shown = re.search(rf"^\| `times`: {variant} \| ([\d.]+(?: \| [\d.]+){{4}}) \|", PAGE, flags=re.M).group(1)
        medians = [ROWS.median(f"denoiser {t:g}", check="times", variant=variant) for t in official.NOISE]
        assert shown == " | ".join(f"{v:.3f}" for v in medians)
