"""How good is one step? Every figure that the README quotes, measured over seeds.

    python -m studies.first_light

Trains on one thread, one model after another, and keeps each result in studies/first_light.json as it comes; a result
already there is not measured again (delete the file to start over). About 50 minutes on one core.
"""

import time
from pathlib import Path
from typing import Any

import ctm
from ctm.metrics import flow_map_error, ratio_to_floor
from ctm.samplers import noise, one_step
from studies import regimes
from studies.harness import load, run, spread

RESULTS = Path(__file__).with_suffix(".json")
SEEDS = (0, 1, 2)
# (world, teacher, budget in seconds, steps of the learned teacher, steps of the student)
RUNS = (
    ("ring", "exact", 60, 0, 13_500),
    ("two_gaussians", "exact", 60, 0, 9_000),
    ("two_moons", "exact", 60, 0, 8_000),
    ("ring", "learned", 90, 7_000, 9_000),
    ("ring", "none", 90, 0, 9_000),
    ("checkerboard", "exact", 60, 0, 4_800),
    ("spirals", "exact", 60, 0, 6_500),
    ("ring", "learned", 60, 4_000, 4_500),
    ("ring", "none", 60, 0, 6_000),
    ("two_moons", "learned", 60, 4_000, 4_500),
    ("two_moons", "none", 60, 0, 6_000),
)
METRIC = {"ring": "sliced W2", "two_moons": "sliced W2", "two_gaussians": "W1"}
POINTS, DRAWS = 50_000, 16


def train(
    world: ctm.GaussianMixture, teacher: str, teacher_steps: int, steps: int, seed: int
) -> tuple[ctm.CTM, float, float]:
    """A model trained as asked, and the wall and processor seconds of all its training."""
    started = time.perf_counter(), time.process_time()
    first = teacher_steps or None  # without a teacher half of the steps, by default
    student = regimes.train(regimes.model(world, seed), world, teacher, teacher_steps + steps, seed, first=first)
    return student, time.perf_counter() - started[0], time.process_time() - started[1]


def quality(flow_map: ctm.FlowMap, world: ctm.GaussianMixture, metric: str, seed: int) -> dict[str, Any]:
    """One-step samples against the data, in units of the noise floor."""
    ratio = ratio_to_floor(
        lambda n, generator: one_step(flow_map, noise(flow_map, n, world.shape, generator=generator)),
        world,
        metric,
        n=POINTS,
        draws=DRAWS,
        seed=seed,
    )
    return {"metric": metric, "ratio": round(ratio.mean, 3), "interval": [round(ratio.low, 3), round(ratio.high, 3)]}


EXACT = "the exact map itself"


def measure(run: list[Any]) -> dict[str, Any]:
    name, teacher, _, teacher_steps, steps, seed = run
    world = ctm.data.WORLDS[name]()
    if teacher == EXACT:
        return quality(world, world, METRIC[name], 200 + seed)
    student, wall, processor = train(world, teacher, teacher_steps, steps, seed)
    row = {
        "seconds": round(wall, 1),
        "processor_seconds": round(processor, 1),
        "error": round(flow_map_error(student, world, n=10_000, seed=100 + seed), 5),
    }
    return row | (quality(student, world, METRIC[name], 200 + seed) if name in METRIC else {})


def summary() -> None:
    """Medians over seeds, and the range."""
    print(f"{'world':14}{'teacher':22}{'budget':>7}{'seconds':>9}{'error':>9}  {'range':18}{'ratio':>6}  range")
    rows = load("first_light")
    for world, teacher, budget in dict.fromkeys(tuple(row["run"][:3]) for row in rows):
        group = [row for row in rows if row["run"][:3] == [world, teacher, budget]]
        cells = []
        for key, form in (("error", ".4f"), ("ratio", ".2f")):
            values = [row[key] for row in group if key in row]
            middle, low, high = spread(values) if values else (0, 0, 0)
            cells.append(f"{middle:>8{form}}  [{low:{form}}, {high:{form}}]" if values else f"{'':27}")
        seconds = spread(row.get("seconds", 0) for row in group)[0]
        print(f"{world:14}{teacher:22}{budget:>7}{seconds:>9.1f} {cells[0]:28}{cells[1]}")


def main() -> None:
    jobs = [[*settings, seed] for seed in SEEDS for settings in RUNS]
    jobs += [[name, EXACT, 0, 0, 0, SEEDS[0]] for name in METRIC]
    run(RESULTS, [{"run": job} for job in jobs], measure)
    summary()


if __name__ == "__main__":
    main()
