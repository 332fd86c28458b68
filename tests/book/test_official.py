"""The study of the official code's choices: its laws, and the figures that its page quotes."""

import math
import re
import shlex
import subprocess
import sys
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
    assert longest / ((2 * most + 1) / 3) == pytest.approx(1.46, abs=0.005)
    assert "38.4 steps on average; with one length they take 26.3" in PAGE
    assert "46 per cent longer" in PAGE
    soft = [sum((gap + 1) / 2 for gap in range(1, room + 1)) / room for room in range(1, most + 1)]  # t, then s, then u
    assert sum(soft) / most == pytest.approx(5.8, abs=0.05)
    assert "the mean length is 5.8, not 7.3" in PAGE


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
    rows = re.findall(
        r"^\| `(\w+)`: ([^|]+?) +\| ([\d.]+) \(([\d.]+) to ([\d.]+)\) \| ([\d.]+) \(([\d.]+) to ([\d.]+)\) \|",
        PAGE,
        flags=re.M,
    )
    rows = [row for row in rows if row[0] != "times"]
    assert len(rows) == sum(len(names) for check, names in official.VARIANTS.items() if check != "times")
    for check, variant, *figures in rows:
        spreads = [ROWS.spread(column, check=check, variant=variant) for column in ("error", "table")]
        assert [f"{v:.3f}" for spread in spreads for v in spread] == figures, (check, variant)
    sizes = re.findall(r"^\| ([\d,]+) +\| ([\d.]+) \(([\d.]+) to ([\d.]+)\) \|$", PAGE, flags=re.M)
    assert [int(n.replace(",", "")) for n, *_ in sizes] == list(official.SIZES)
    for n, *shown in sizes:
        assert [f"{v:.4f}" for v in ROWS.spread("distance", check="frechet", n=int(n.replace(",", "")))] == shown


def test_the_page_says_which_way_each_choice_pushes():
    """The table of medians, from one variant to another."""
    rows = re.findall(
        r"^\|[^|]+\| `(\w+)`: ([^|]+) → ([^|]+?) \| ([\d.]+) → ([\d.]+) \| ([\d.]+) → ([\d.]+) \| ", PAGE, flags=re.M
    )
    assert [row[0] for row in rows] == ["length", "length", "length", "target", "long", "self"]
    for check, *variants, a, b, c, d in rows:
        medians = [ROWS.median(column, check=check, variant=v) for column in ("error", "table") for v in variants]
        assert [f"{v:.3f}" for v in medians] == [a, b, c, d], (check, variants)


def overlap(check, column, *variants):
    (_, low, high), (_, least, most) = (ROWS.spread(column, check=check, variant=variant) for variant in variants)
    return low <= most and least <= high


def test_differences_that_the_page_calls_found_have_ranges_that_do_not_meet():
    for check, variants, found in (
        ("length", ("soft", "one a sample"), (True, True)),
        ("length", ("one a sample", "one a batch"), (True, True)),
        ("length", ("soft", "one a batch"), (True, True)),
        ("length", ("soft", "global"), (False, True)),
        ("target", ("average, average", "current, average"), (True, True)),
        ("target", ("current, current", "current, average"), (False, False)),
        ("long", ("average, average", "current, average"), (True, False)),
        ("self", ("denoiser first, alike", "jump"), (False, True)),
    ):
        assert tuple(not overlap(check, column, *variants) for column in ("error", "table")) == found, (check, variants)
    where = [ROWS.median("table", check=c, variant=v) for c, v in (("long", "current, current"), ("length", "one a batch"))]
    assert where[0] / where[1] == pytest.approx(2, abs=0.05)  # compared at the end, and at s


def test_the_page_shows_the_denoisers_of_both_laws():
    for t in official.NOISE:
        *figures, least, most = re.search(
            rf"^\| `times`: {t:g} " + r"\| ([\d.]+) \(([\d.]+) to ([\d.]+)\) " * 2 + r"\| ([\d.]+) to ([\d.]+) \|$",
            PAGE,
            flags=re.M,
        ).groups()
        spreads = [ROWS.spread(f"denoiser {t:g}", check="times", variant=variant) for variant in official.TIMES]
        assert figures == [f"{v:.3f}" for spread in spreads for v in spread]
        normal, half = (
            [ROWS.one(check="times", variant=variant, seed=seed)[f"denoiser {t:g}"] for seed in official.SEEDS]
            for variant in official.TIMES
        )
        ratios = [b / a for a, b in zip(normal, half, strict=True)]
        assert [least, most] == [f"{min(ratios):.2f}", f"{max(ratios):.2f}"]
    denoisers = {
        "one a batch": "0.40 (0.39 to 0.48)",
        "one a sample": "0.31 (0.25 to 0.31)",
        "soft": "0.047 (0.045 to 0.051)",
    }
    for variant, shown in denoisers.items():
        digits = len(shown.partition(" ")[0]) - 2
        middle, low, high = (f"{v:.{digits}f}" for v in ROWS.spread("denoiser 8", check="length", variant=variant))
        assert f"{middle} ({low} to {high})" == shown
        assert shown in PAGE


def test_the_page_counts_its_kinds():
    rows = re.findall(r"^\| (\d+) \|[^|]+\|[^|]+\| (choice|trap|slip), [^|]+; \*([a-z, ]+)\* \|[^|]+\|$", PAGE, flags=re.M)
    assert [int(number) for number, *_ in rows] == list(range(1, 19))
    assert {word for *_, whom in rows for word in whom.split(", ")} == {"sample", "repeat", "own"}
    kinds = [kind for _, kind, _ in rows]
    assert [kinds.count(kind) for kind in ("choice", "trap", "slip")] == [13, 4, 1]
    assert "Thirteen are choices, four are traps, and one is a slip" in PAGE
    places = re.findall(r"^\| (\d+) \| `[^|]+\|[^|]+\|[^|]+\|$", PAGE.partition("(official-where)=")[2], flags=re.M)
    assert [int(number) for number in places] == list(range(1, 19))


def test_small_figures_of_the_page():
    """What the page says beside its tables of lags, ranges, files and places."""
    assert "1.7% of this run" in PAGE
    assert 10 / official.STEPS == pytest.approx(0.017, abs=0.0005) == 1000 / 60_000  # lag over length of the run
    assert "at decay 0.999: over 60,000 steps" in PAGE
    assert "miss each other by 0.0005" in PAGE
    code, paper = (ROWS.spread("error", check="long", variant=f"{first}, average") for first in ("current", "average"))
    assert code[1] - paper[2] == pytest.approx(0.0005, abs=5e-5)
    assert code[0] / paper[0] == pytest.approx(1.03, abs=0.005)
    assert "the jump takes 1.5 times as long" in PAGE
    seconds = [ROWS.median("seconds", check="self", variant=v) for v in ("jump, 2,100 steps", "denoiser first, alike")]
    assert seconds[0] / 3.5 / seconds[1] == pytest.approx(1.5, abs=0.1) == 1 / 0.65  # timed together; 2,100 steps for 600
    assert "one time in ten" in PAGE
    assert 2 / math.comb(6, 3) == 0.1  # three and three in order, either way round
    assert "in 0.5% of runs two agree, and a batch is lost" in PAGE
    assert math.comb(50_000 // 500, 2) / 1e6 == pytest.approx(1 / 200, rel=0.02)  # names of files below a million
    assert 50_000 % 128
    top, bottom = 80 ** (1 / 7), 0.002 ** (1 / 7)
    assert top + 20 * (bottom - top) < 0  # the place 20 of a grid of two levels
    assert top + 39 / (40 - 1) * (bottom - top) == pytest.approx(bottom)


@pytest.mark.skipif(sys.platform != "linux", reason="the option -i of sed is GNU's; the page's commands are for Linux")
def test_the_edit_of_the_program_mends_one_line(tmp_path):
    """The page's two commands change what they name in lines like the program's, and leave its right ones."""
    lines = [
        "    denominator = sigma(t_min, std_max, std_min, rho)",
        "    std = sigma(t_min, std_max, std_min, rho)",
        "    std = sigma(time, std_max, std_min, rho) ** rho",
        "        std = sigma(t_min, std_max, std_min, rho) ** rho",
        "    model.train()",
    ]
    (tmp_path / "eval_bpd.py").write_text("\n".join(lines) + "\n", encoding="utf-8")
    edits = re.findall(r"^sed -i .*$", PAGE, flags=re.M)
    assert len(edits) == 2
    for edit in edits:
        subprocess.run(shlex.split(edit), cwd=tmp_path, check=True)
    lines[1] += " ** rho"
    lines[4] = "    model.eval()"
    assert (tmp_path / "eval_bpd.py").read_text(encoding="utf-8").splitlines() == lines


def test_a_root_is_taken_for_a_level():
    """Row 17: the number that the code takes, the one that it means, and what stopping above the end of the grid changes."""
    end, top = 0.002 ** (1 / 7), 80.0 ** (1 / 7)
    root = end + 1e-3 * (top - end)
    assert (f"{root:.3f}", f"{root**7:.5f}", f"{end:.3f}") == ("0.413", "0.00205", "0.412")
    missing = []
    for level in (end, root):
        rng = generator()
        x0 = official.WORLD.sample(4000, generator=rng, dtype=torch.float64)
        noise = torch.randn(x0.shape, generator=rng, dtype=torch.float64)
        error = x0 - official.WORLD.denoiser(x0 + level * noise, level)
        missing.append((error.square() / level**2 - noise.square()).mean().item() / 2 / math.log(2))
    assert missing[0] == pytest.approx(-0.34, abs=0.02)
    assert 0 < missing[0] - missing[1] < 0.001
