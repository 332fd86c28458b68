"""How good is one step? Every figure that the README quotes, measured over seeds.

    python -m studies.first_light

Trains on one thread, one model after another, and keeps each result in studies/first_light.json as it comes; a result
already there is not measured again (delete the file to start over). About 50 minutes on one core.
"""

import json
import statistics
import time
from pathlib import Path

import torch

import ctm
from ctm.metrics import flow_map_error, ratio_to_floor
from ctm.samplers import noise, one_step
from studies.harness import keep

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


def train(world, teacher, teacher_steps, steps, seed):
    """A model trained as asked, and the wall and processor seconds of all its training."""

    def model():
        return ctm.CTM(ctm.networks.MLP(world.means[0].numel(), seed=seed), world.sigma_data)

    started = time.perf_counter(), time.process_time()
    student, guide = model(), world
    if teacher == "learned":
        guide = model()
        ctm.train_denoiser(guide, world, steps=teacher_steps, seed=seed)
        student.load_state_dict(guide.state_dict())
    ctm.train(student, world, teacher=None if teacher == "none" else guide, steps=steps, seed=seed)
    return student, time.perf_counter() - started[0], time.process_time() - started[1]


def quality(flow_map, world, metric, seed):
    """One-step samples against the data, in units of the noise floor."""

    def sampler(n, generator):
        return one_step(flow_map, noise(flow_map, n, world.shape, generator=generator))

    ratio = ratio_to_floor(sampler, world, metric, n=POINTS, draws=DRAWS, seed=seed)
    return {"metric": metric, "ratio": round(ratio.mean, 3), "interval": [round(ratio.low, 3), round(ratio.high, 3)]}


def measure(name, teacher, budget, teacher_steps, steps, seed):
    world = ctm.data.WORLDS[name]()
    student, wall, processor = train(world, teacher, teacher_steps, steps, seed)
    result = {
        "seconds": round(wall, 1),
        "processor_seconds": round(processor, 1),
        "error": round(flow_map_error(student, world, n=10_000, seed=100 + seed), 5),
    }
    if name in METRIC:
        result |= quality(student, world, METRIC[name], 200 + seed)
    return result


def main():
    torch.set_num_threads(1)
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    done = [result["run"] for result in results]
    todo = [[*run, seed] for seed in SEEDS for run in RUNS]
    todo += [[name, "the exact map itself", 0, 0, 0, SEEDS[0]] for name in METRIC]
    for run in todo:
        if run in done:
            continue
        if run[1] == "the exact map itself":
            result = quality(world := ctm.data.WORLDS[run[0]](), world, METRIC[run[0]], 200 + run[-1])
        else:
            result = measure(*run)
        results.append({"run": run, **result})
        keep(RESULTS, results)
        print(*run, result, flush=True)
    summary(results)


def summary(results):
    """Medians over seeds, and the range."""
    print(f"{'world':14}{'teacher':22}{'budget':>7}{'seconds':>9}{'error':>9}  {'range':18}{'ratio':>6}  range")
    groups = {}
    for result in results:
        groups.setdefault(tuple(result["run"][:3]), []).append(result)
    for (world, teacher, budget), group in groups.items():
        cells = []
        for key, form in (("error", ".4f"), ("ratio", ".2f")):
            values = [result[key] for result in group if key in result]
            if values:
                cells.append(f"{statistics.median(values):>8{form}}  [{min(values):{form}}, {max(values):{form}}]")
            else:
                cells.append(f"{'':27}")
        seconds = statistics.median(result.get("seconds", 0) for result in group)
        print(f"{world:14}{teacher:22}{budget:>7}{seconds:>9.1f} {cells[0]:28}{cells[1]}")


if __name__ == "__main__":
    main()
