"""Digits in one step: a class-conditional denoiser, then a CTM that starts from it, on images of 8 x 8 and 28 x 28 pixels.
The students are trained with an adversarial term in the last part of their updates; the large one is then trained on in two
short parts, the second with the Frechet distance as a term of the loss.

    python -m studies.digits [8] [28] [controls] [networks] [cheaper] [settled] [further] [others] [begins]

One thread: some minutes for the small ones, three hours for the large, ten minutes for each kind of control: small
students with parts of the loss left out, and the large one trained on as in its last part without the Frechet distance;
twenty for small denoisers of a U-Net and of a fully connected network; three for the large teacher in fewer steps; a
minute for the small student trained on with it; half an hour for six other draws of both large models, and some minutes
for one call that begins elsewhere. PLANS, SMALL, FINISH and SETTLE say how many steps. Training goes on from its own files
in _build when it is started again, and more steps prolong it. Figures over the time of training, and at its end, are kept
in studies/digits.json; the models of 28 x 28 pixels go to book/checkpoints, each with its card. A teacher that lies there
is judged and not trained again, nor is the classifier that judges (studies/digits_judge.safetensors): take the file away
first.
"""

import copy
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from statistics import fmean as mean
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

import ctm
from ctm import images
from ctm.data import Points
from ctm.fidelity import Classifier, Depths, frechet_distance, shifted
from ctm.losses import Draw, Models, Objective
from ctm.losses.objective import Term
from ctm.metrics import precision_recall
from ctm.models import student_of
from ctm.networks.base import draw_weights
from ctm.noise import DrawTimes, image_times, karras_times, lognormal_times
from ctm.samplers import gamma_sampling, heun
from studies.harness import keep, run_parts

RESULTS = Path(__file__).with_suffix(".json")
FOLDER = Path(__file__).parents[1] / "book/checkpoints"
JUDGE = Path(__file__).with_name("digits_judge.safetensors")
STATES = Path(__file__).parents[1] / "_build"
HEUN = 18  # steps of the teacher: 36 calls, as the grid ends above 0
SEED = 0
SMALL = {"steps": 100, "batch": 64, "lr": 5e-5, "seed": SEED + 2}  # the small student trained on
FINISH = {"steps": 2000, "batch": 64, "lr": 1e-3, "seed": SEED + 1}  # of the large student, with other noise
SETTLE = {"steps": 400, "batch": 64, "lr": 5e-5, "seed": SEED + 2}  # the last of it
DRAWS = (1, 2, 3)  # seeds of the noise; figures at the end are means, with the ratio of each


@dataclass
class Plan:
    """What is trained on images of one size, and how."""

    data: Callable[[], Points]
    train: int  # images; the others are for testing
    network: dict[str, Any]
    times: DrawTimes  # of the denoiser's training
    teacher: dict[str, Any]  # choices of its training, and of the student's
    student: dict[str, Any]
    consistency: dict[str, Any]
    cut: bool  # whether the features are those of images cut to the data's range
    adversarial: dict[str, Any]  # of a term with half of the adaptive weight
    strengths: tuple[float, float]  # of guidance
    w: float  # of these, the one that half of the student's pairs have, and at which the curve is judged
    curve: int  # images drawn at each point of the training curve
    drawn: int  # and for the figures at the end


PLANS = {
    8: Plan(
        data=images.digits_8x8,
        train=898,
        network={"width": 28},
        times=lognormal_times,
        teacher={"steps": 1500, "batch": 64, "lr": 4e-3},
        student={"steps": 1800, "batch": 64, "lr": 2e-3},
        consistency={"pool": 1024, "levels": 9, "reuse": 8},
        cut=False,
        adversarial={"start": 0.7, "noise": 0.5, "r1": 0.05, "lr": 5e-4},
        strengths=(1.0, 3.0),
        w=1.0,
        curve=898,
        drawn=898,
    ),
    28: Plan(
        data=images.digits_28x28,
        train=4000,
        network={"width": 16, "levels": 3},
        times=image_times,
        teacher={"steps": 5000, "batch": 64, "lr": 4e-3},
        student={"steps": 6000, "batch": 64, "lr": 2e-3},
        consistency={"pool": 320, "levels": 9, "reuse": 8, "from_noise": 0.5, "to_data": 0.6},
        cut=True,
        adversarial={"start": 0.6, "noise": 0.5, "r1": 0.05, "lr": 5e-4},
        strengths=(1.0, 2.0),
        w=1.2,
        curve=500,
        drawn=1000,
    ),
}


class Guided(ctm.Guided):
    """Half of the strengths are ``w``, at which most samples are drawn; the others are spread as before."""

    def __init__(self, data: Points, strengths: tuple[float, float], drop: float, w: float) -> None:
        super().__init__(data, strengths, drop)
        self.w = w

    def sample_conditioned(self, n: int, *, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        x0, told = super().sample_conditioned(n, generator=generator)
        told[: n // 2, 1] = self.w
        return x0, told


def guided(train: Points, plan: Plan) -> Guided:
    """Images, a label for nine in ten, and a strength: what students are trained on."""
    return Guided(train, plan.strengths, 0.1, plan.w)


class Moving(ctm.Adversarial):
    """Its discriminator sees images moved by up to three pixels, for 4,000 images it would know by heart, and learns from
    150 batches before the student hears of it. All samples that it sees have the strength at which the student is judged."""

    def __call__(self, models: Models, draw: Draw, rng: torch.Generator) -> Tensor:
        if self.discriminator is None:
            for _ in range(150):
                with torch.no_grad():
                    fake, x0 = self.estimates(models, draw, rng)
                self.learn(models.student, x0, fake, rng)
        return super().__call__(models, draw, rng)

    def estimates(self, models: Models, draw: Draw, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        return super().estimates(models, asked(draw), rng)

    def noised(self, student: ctm.CTM, x: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        return super().noised(student, shifted(x, 3, rng), rng)


class Settled(ctm.losses.Frechet):
    """All of its samples have the strength at which the student is judged."""

    def samples(self, models: Models, draw: Draw, rng: torch.Generator) -> Tensor:
        return super().samples(models, asked(draw), rng)


def asked(draw: Draw) -> Draw:
    """The same draw with that strength alone."""
    alike, data = copy.copy(draw), cast(Any, draw.data)
    alike.data = Guided(data.data, (data.w, data.w), data.drop, data.w)
    return alike


class Watched(Term):
    """A term of the loss, which stays as it is, and a look at the averaged model before every so many steps.

    ``look(model, step, seconds)`` is told the processor seconds of training alone; they outlast an interruption.
    """

    def __init__(self, term: Objective, every: int, look: Callable[[ctm.CTM, int, float], None]) -> None:
        self.term, self.every, self.look = term, every, look
        self.before, self.started = 0.0, time.process_time()

    def __call__(self, models: Models, draw: Draw, rng: torch.Generator) -> Tensor:
        if models.step and models.step % self.every == 0:
            paused = time.process_time()
            self.look(models.average, models.step, self.seconds())
            self.started += time.process_time() - paused
        return self.term(models, draw, rng)

    def seconds(self) -> float:
        return self.before + time.process_time() - self.started

    def __repr__(self) -> str:
        return repr(self.term)

    def probe(self, student: ctm.CTM, x0: Tensor, condition: Tensor | None) -> list[float]:
        return self.term.probe(student, x0, condition)

    def state_dict(self) -> dict[str, Tensor]:
        return self.term.state_dict() | {"seconds": torch.tensor(self.seconds(), dtype=torch.float64)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.before, self.started = float(state["seconds"]), time.process_time()
        self.term.load_state_dict({key: value for key, value in state.items() if key != "seconds"})


class Pooled(Classifier):
    """A classifier of another form than those in the losses: wide steps, tanh, maps averaged over the image's quarters."""

    def __init__(self, shape: tuple[int, ...], classes: int, seed: int = 0) -> None:
        super().__init__(shape, classes, seed)
        layers = [nn.Conv2d(1, 24, 5, 2, 2), nn.Tanh(), nn.Conv2d(24, 48, 3, padding=1), nn.Tanh()]
        layers += [nn.Conv2d(48, 16, 3, padding=1), nn.Tanh(), nn.AdaptiveAvgPool2d(2), nn.Flatten()]
        self.body = nn.Sequential(*layers)
        draw_weights(self, seed)


class Judge:
    """Figures of samples: a classifier of the training half, and sets of that half as the floor.

    ``cut`` is the ratio after samples are cut to the range of the training images, as a picture file cuts them. ``pixels``
    is that in the 64 principal components of the training images, which no network chose. ``spread`` is the variance within
    a class, of features of images so cut, over that of the training images. :meth:`other` is the ratio of cut images in the
    features of a network of another form.
    """

    def __init__(self, train: Points, test: Points, classifier: Classifier | None = None) -> None:
        self.classifier = Classifier.trained(train, seed=SEED) if classifier is None else classifier
        self.points, self.range = (train, test), (float(train.rows.min()), float(train.rows.max()))
        self.axes = torch.linalg.eigh(train.rows.flatten(1).T.cov())[1][:, -64:]
        self.train, self.test = (self.classifier.features(half.rows) for half in (train, test))
        self.labels, self.within = train.labels, within(self.train, train.labels)
        train_pixels, self.test_pixels = (half.rows.flatten(1) @ self.axes for half in (train, test))
        sizes = [n for n in (500, 1000, len(train.rows)) if n <= len(train.rows)]
        self.floors = {n: [frechet_distance(part, self.test) for part in sets(self.train, n)] for n in sizes}
        self.floor = {n: mean(found) for n, found in self.floors.items()}
        self.pixel_floor = {
            n: mean(frechet_distance(part, self.test_pixels) for part in sets(train_pixels, n)) for n in sizes
        }
        self.accuracy = self.classifier.accuracy(test.rows, test.labels)

    def real(self, n: int) -> dict[str, Any]:
        """What sets of ``n`` training images score, the mean over all of them, and the accuracy on the test images."""
        found = [precision_recall(self.test, part) for part in sets(self.train, n)]
        precision, recall = map(mean, zip(*found, strict=True))
        parts = zip(sets(self.train, n), sets(self.labels, n), strict=True)
        return {
            "ratio": 1.0,
            "cut": 1.0,
            "pixels": 1.0,
            "spread": round(mean(within(*part) for part in parts) / self.within, 4),
            "precision": round(precision, 4),
            "recall": round(recall, 4),
            "accuracy": round(self.accuracy, 4),
            "each": [round(floor / self.floor[n], 4) for floor in self.floors[n]],
        }

    @cached_property
    def pooled(self) -> tuple[Pooled, Tensor, Tensor]:
        """A network that is in no loss and has another form than those that are, and its features of either half."""
        made = Pooled.trained(self.points[0], 1200, SEED)
        known, unseen = (made.features(half.rows) for half in self.points)
        return made, known, unseen

    def other(self, x: Tensor) -> float:
        """The ratio of cut images in the features of :attr:`pooled`."""
        network, known, unseen = self.pooled
        floor = mean(frechet_distance(part, unseen) for part in sets(known, len(x)))
        return frechet_distance(network.features(x.clamp(*self.range)), unseen) / floor

    def __call__(self, x: Tensor, labels: Tensor) -> dict[str, float]:
        features, of_cut = (self.classifier.features(images) for images in (x, x.clamp(*self.range)))
        precision, recall = precision_recall(self.test, features)
        return {
            "ratio": round(frechet_distance(features, self.test) / self.floor[len(x)], 4),
            "cut": round(frechet_distance(of_cut, self.test) / self.floor[len(x)], 4),
            "pixels": round(frechet_distance(x.flatten(1) @ self.axes, self.test_pixels) / self.pixel_floor[len(x)], 4),
            "spread": round(within(of_cut, labels) / self.within, 4),
            "precision": round(precision, 4),
            "recall": round(recall, 4),
            "accuracy": round(self.classifier.accuracy(x, labels), 4),
        }


def over_draws(judge: Judge, drawn: list[Tensor], labels: Tensor) -> dict[str, Any]:
    """The mean of each figure, and the ratio of each draw."""
    found = [judge(x, labels) for x in drawn]
    means = {key: round(mean(one[key] for one in found), 4) for key in found[0]}
    return {**means, "each": [one["ratio"] for one in found]}


def within(features: Tensor, labels: Tensor) -> float:
    """The variance within a class, added over the features; the mean over the classes."""
    return mean(float(features[labels == c].double().var(0).sum()) for c in labels.unique())


def sets(rows: Tensor, n: int) -> list[Tensor]:
    """As many sets of ``n`` rows as there are."""
    return [part for part in rows.split(n) if len(part) == n]


def classifier(train: Points) -> Classifier:
    """The judge of 28 x 28 pixels: kept in a file, as its training takes half a minute; made anew where there is none."""
    if not JUDGE.exists():
        made = Classifier.trained(train, seed=SEED)
        ctm.checkpoints.write(JUDGE, made.state_dict(), {"command": "python -m studies.digits 28"})
    kept = Classifier(train.shape, train.classes)
    kept.load_state_dict(ctm.checkpoints.read(JUDGE)[0])
    return kept.requires_grad_(False)


@torch.no_grad()
def draw(model: ctm.CTM, labels: Tensor, steps: int, *, solver: bool = False, w: float = 1.0, seed: int = 1) -> Tensor:
    """One image for each label: by jumps, or by Heun steps of the (guided) denoiser."""
    generator = torch.Generator().manual_seed(seed)
    x = ctm.samplers.noise(model, len(labels), generator=generator)
    times = karras_times(steps, model)
    drawn = []
    for part, named in zip(x.split(250), labels.split(250), strict=True):  # what the processor's cache holds
        if solver:
            drawn.append(heun(model.given(named) if w == 1 else ctm.GuidedModel(model).given(named, w), part, times))
        else:
            drawn.append(gamma_sampling(model.given(named, w), part, times))
    return torch.cat(drawn)


def halves(size: int) -> tuple[Points, Points]:
    """The images to train on and those to test on."""
    return PLANS[size].data().split(PLANS[size].train, SEED)


def labels_for(n: int, classes: int = 10) -> Tensor:
    """As many of each class as go."""
    return torch.arange(n) % classes


def note(**row: Any) -> None:
    """Keep a row in place of one with the same size, stage and step, or settings."""
    rows = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else []
    names = ("size", "stage", "step", "steps", "how", "w", "real", "features", "adversarial", "lr", "seed")
    key = {name: row.get(name) for name in names}
    rows = [old for old in rows if {name: old.get(name) for name in names} != key]
    keep(RESULTS, [*rows, row])
    print(row, file=sys.stderr, flush=True)


def stage(size: int, name: str, model: ctm.CTM, data: Any, term: Objective, judge: Judge, choices: dict[str, Any]) -> float:
    """Train for one stage by these ``choices``, noting the curve; returns the processor seconds."""
    plan, steps = PLANS[size], choices["steps"]
    labels = labels_for(plan.curve)
    solver = name == "teacher"

    def look(average: ctm.CTM, step: int, seconds: float) -> None:
        note(
            size=size,
            stage=name,
            step=step,
            seconds=round(seconds),
            **judge(draw(average, labels, HEUN if solver else 1, solver=solver, w=1.0 if solver else plan.w), labels),
        )

    watched = Watched(term, steps // 4, look)
    STATES.mkdir(exist_ok=True)
    path = STATES / f"digits_{size}_{name}.safetensors"
    ctm.train(model, data, watched, checkpoint=path, save_every=200, **{"seed": SEED} | choices)
    seconds = watched.seconds()
    look(model, steps, seconds)
    return seconds


def new_model(size: int, train: Points, seed: int = SEED) -> ctm.ConditionalCTM:
    """An untrained model for images of this size."""
    network = ctm.networks.UNet(train.shape, conditions=train.classes + 1, seed=seed, **PLANS[size].network)
    return ctm.CTM.for_data(train, network)


def make(size: int) -> None:
    """Train teacher and student, measure both, and write them."""
    plan = PLANS[size]
    train, test = halves(size)
    judge = Judge(train, test, classifier(train) if size == 28 else None)
    note(size=size, real=True, **judge.real(plan.drawn))
    stored = FOLDER / f"digits_{size}_teacher.safetensors"
    if stored.exists():
        teacher = ctm.load(stored)
        measure(size, "teacher", teacher, judge)
    else:
        teacher = new_model(size, train)
        data = ctm.Guided(train, plan.strengths, drop=0.1)
        spent = stage(size, "teacher", teacher, data, ctm.Denoising(times=plan.times), judge, plan.teacher)
        write(size, "teacher", teacher, plan.teacher["steps"], spent, measure(size, "teacher", teacher, judge))
    teacher = teacher.requires_grad_(False)
    student = student_of(teacher)
    data = guided(train, plan)
    steps = plan.student["steps"]
    spent = stage(size, "student", student, data, loss(size, teacher, train), judge, plan.student)
    if size == 28:
        measure(size, "unfinished", student, judge)
        known = relatives(train)
        spent += finish(student, teacher, train, known)
        measure(size, "unsettled", student, judge)
        spent += settle(student, teacher, train, known, judge)
        steps += FINISH["steps"] + SETTLE["steps"]
    write(size, "student", student, steps, spent, measure(size, "student", student, judge))


def loss(size: int, teacher: ctm.CTM, train: Points, features: bool = True, adversarial: bool = True) -> Term:
    """The student's loss, with or without its two additions."""
    plan = PLANS[size]
    other = Classifier.trained(train, seed=SEED + 1)  # not the classifier that judges
    seen = Depths(other, train.rows[:1000], plan.cut)
    term: Term = ctm.Consistency(ctm.GuidedModel(teacher), features=seen if features else None, **plan.consistency)
    return term + 0.5 * ctm.Adversarial(**plan.adversarial) if adversarial else term


def controls() -> None:
    """Students of the small teacher without features, without the adversarial term, without both; one run of each."""
    plan = PLANS[8]
    train, test = halves(8)
    judge = Judge(train, test)
    teacher = new_model(8, train)
    path = STATES / "digits_8_teacher.safetensors"  # of the part 8, which comes first
    data = ctm.Guided(train, plan.strengths, drop=0.1)
    watched = Watched(ctm.Denoising(times=plan.times), plan.teacher["steps"], lambda *_: None)  # as its state was kept
    ctm.train(teacher, data, watched, seed=SEED, checkpoint=path, **plan.teacher)
    teacher.requires_grad_(False)
    labels = labels_for(plan.drawn)
    for features, adversarial in ((True, False), (False, True), (False, False)):
        student = student_of(teacher)
        term = loss(8, teacher, train, features, adversarial)
        told = {"features": features, "adversarial": adversarial}
        ctm.train(student, guided(train, plan), term, seed=SEED, **plan.student)
        for w in (1.0, 1.2):
            drawn = [draw(student, labels, 1, w=w, seed=number) for number in DRAWS]
            note(size=8, how="control", w=w, **told, **over_draws(judge, drawn, labels))


def plain_or_unet() -> None:
    """Denoisers of the small images by the U-Net, and by a fully connected network of as many weights: in as many steps, and
    in as much time (on the processor that this was written on), at two rates; three seeds."""
    plan = PLANS[8]
    train, test = halves(8)
    judge, labels = Judge(train, test), labels_for(plan.drawn)
    data = ctm.Guided(train, plan.strengths, drop=0.1)

    def plain(seed: int) -> ctm.CTM:
        return ctm.CTM.for_data(train, ctm.networks.MLP(64, width=256, conditions=train.classes + 1, seed=seed))

    runs = [("UNet", plan.teacher["steps"], plan.teacher["lr"])]
    runs += [("MLP", steps, lr) for steps in (plan.teacher["steps"], 13_000) for lr in (2e-3, 4e-3)]
    for kind, steps, lr in runs:
        for seed in range(3):
            model = new_model(8, train, seed) if kind == "UNet" else plain(seed)
            weights = sum(weight.numel() for weight in model.parameters())
            started = time.process_time()
            choices = plan.teacher | {"steps": steps, "lr": lr, "seed": seed}
            ctm.train(model, data, ctm.Denoising(times=plan.times), **choices)
            told = {"how": kind, "weights": weights, "seconds": round(time.process_time() - started)}
            drawn = [draw(model, labels, HEUN, solver=True, seed=number) for number in DRAWS]
            note(size=8, stage="networks", steps=steps, lr=lr, seed=seed, **told, **over_draws(judge, drawn, labels))


def settled() -> None:
    """The small student trained on as the large one is in :func:`settle`: with the Frechet distance of its samples, as they
    are and cut to the data's range, in the last features of the classifier of its loss."""
    plan = PLANS[8]
    train, test = halves(8)
    judge = Judge(train, test)
    teacher, student = (ctm.load(STATES / f"digits_8_{name}.safetensors") for name in ("teacher", "student"))  # of part 8
    measure(8, "unsettled", student, judge)
    started = time.process_time()
    known = Classifier.trained(train, seed=SEED + 1)

    def features(x: Tensor) -> list[Tensor]:
        return [known.features(images) for images in (x, x.clamp(*judge.range))]

    term = ctm.Consistency(ctm.GuidedModel(teacher.requires_grad_(False)), **plan.consistency)
    ctm.train(student, guided(train, plan), term + 12 * Settled(train.rows, features), **SMALL)
    print(f"{time.process_time() - started:.0f} seconds", flush=True)
    measure(8, "settled", student, judge)


def relatives(train: Points) -> list[Classifier]:
    """The classifiers whose features are in the losses of the large student; none of them judges."""
    return [Classifier.trained(train, seed=SEED + k) for k in (1, 2, 3, 4)]


def closer(teacher: ctm.CTM, train: Points, known: list[Classifier]) -> tuple[ctm.Consistency, list[Depths]]:
    """The first term when the large student is trained on, with trajectories solved in 18 steps, as the teacher is judged;
    and what classifiers see. Every other one sees images cut to the data's range; the first two are in the term."""
    depths = [Depths(one, train.rows[:1000], cut=k % 2 == 0) for k, one in enumerate(known)]

    def seen(x: Tensor) -> list[Tensor]:
        return depths[0](x) + depths[1](x)

    choices = PLANS[28].consistency | {"substeps": 2, "reuse": 16, "from_noise": 0.6, "to_data": 0.7}
    return ctm.Consistency(ctm.GuidedModel(teacher), features=seen, **choices), depths


def finish(student: ctm.CTM, teacher: ctm.CTM, train: Points, known: list[Classifier]) -> float:
    """Train the large student on with a discriminator of features; returns the processor seconds."""
    plan = PLANS[28]
    term, depths = closer(teacher, train, known)
    judged = Moving(
        start=0.15,
        noise=0.01,
        r1=0,
        lr=1.5e-3,
        from_noise=0.8,
        to_data=0.8,
        features=lambda x: [h for one in depths for h in one(x)],
    )
    watched = Watched(term + judged, FINISH["steps"], lambda *_: None)
    path = STATES / "digits_28_finish.safetensors"
    ctm.train(student, guided(train, plan), watched, checkpoint=path, save_every=200, **FINISH)
    return watched.seconds()


def settle(student: ctm.CTM, teacher: ctm.CTM, train: Points, known: list[Classifier], judge: Judge) -> float:
    """Train it on once more, at a low rate, with the Frechet distance of its samples from the training images: in the last
    features of each classifier, of images as they are and cut to the data's range, and in what they see after either
    convolution, averaged over squares of seven places; returns the processor seconds."""
    plan, (term, depths) = PLANS[28], closer(teacher, train, known)

    def features(x: Tensor) -> list[Tensor]:
        last = [one.features(images) for one in known for images in (x, x.clamp(*judge.range))]
        return last + [avg_pool2d(h, 7).flatten(1) for one in depths for h in one(x)[:2]]

    data = guided(train, plan)
    return stage(28, "settle", student, data, term + 12 * Settled(train.rows, features), judge, SETTLE)


def further() -> None:
    """The control of :func:`settle`: from the same student, the same updates without the Frechet distance."""
    plan = PLANS[28]
    train, test = halves(28)
    teacher = ctm.load(FOLDER / "digits_28_teacher.safetensors").requires_grad_(False)
    student = ctm.load(STATES / "digits_28_finish.safetensors")  # of the part 28, which comes first
    term, _ = closer(teacher, train, relatives(train))
    ctm.train(student, guided(train, plan), term, **SETTLE)
    measure(28, "further", student, Judge(train, test, classifier(train)))


def others() -> None:
    """Both large models in six draws that chose nothing, at the strength of most training and without guidance."""
    train, test = halves(28)
    judge, labels = Judge(train, test, classifier(train)), labels_for(PLANS[28].drawn)
    for name, steps in (("student", 1), ("teacher", HEUN)):
        model = ctm.load(FOLDER / f"digits_28_{name}.safetensors")
        for w in (1.0, PLANS[28].w):
            drawn = [draw(model, labels, steps, solver=name == "teacher", w=w, seed=seed) for seed in range(41, 47)]
            found = over_draws(judge, drawn, labels) | {"other": round(mean(map(judge.other, drawn)), 4)}
            note(size=28, how=f"{name}, other draws", steps=steps, w=w, **found)


def begins() -> None:
    """One call of the large student from noise about three middles, at its own highest level and at 20 sigma_data."""
    train, test = halves(28)
    judge, labels = Judge(train, test, classifier(train)), labels_for(PLANS[28].drawn)
    student = ctm.load(FOLDER / "digits_28_student.safetensors")
    of_class = [train.rows[train.labels == c][: len(labels) // train.classes] for c in range(train.classes)]
    digit = torch.stack(of_class, 1).flatten(0, 1)  # the j-th has the j-th label
    about = {"0": torch.zeros(()), "the mean image": student.center.float(), "training digits": digit}

    @torch.no_grad()
    def drawn(level: float, middle: Tensor, seed: int) -> Tensor:
        noise = torch.randn(len(labels), 28, 28, generator=torch.Generator().manual_seed(seed))
        parts = zip((middle + level * noise).split(250), labels.split(250), strict=True)
        return torch.cat([student.given(c, PLANS[28].w).G(x, level, student.sigma_min) for x, c in parts])

    for level in (20 * student.sigma_data, student.sigma_max):
        for name, middle in about.items():
            each = [judge(drawn(level, middle, seed), labels)["cut"] for seed in range(51, 59)]
            how = f"begun at {level:.0f} about {name}"
            note(size=28, how=how, steps=1, w=PLANS[28].w, cut=round(mean(each), 4), each=each)


def measure(size: int, name: str, model: ctm.CTM, judge: Judge) -> dict[str, Any]:
    """Figures at the end, means over DRAWS, with the milliseconds of processor an image; the first, for the card."""
    plan, solver = PLANS[size], name == "teacher"
    ways = [(k, plan.w) for k in ((HEUN, HEUN // 2) if solver else (1, 2, 4))]
    others = (1.0, 1.2) if solver else (1.0, 1.2, plan.strengths[1])
    ways += [(ways[0][0], w) for w in others if w != plan.w]
    rows = [judged(size, name, model, judge, steps, w) for steps, w in ways]
    return {key: value for key, value in rows[0].items() if key != "each"}


def judged(size: int, name: str, model: ctm.CTM, judge: Judge, steps: int, w: float) -> dict[str, Any]:
    """Figures of samples in so many steps, of a solver for a teacher, and of jumps else; also kept."""
    labels = labels_for(PLANS[size].drawn)
    started = time.process_time()
    drawn = [draw(model, labels, steps, solver=name == "teacher", w=w, seed=seed) for seed in DRAWS]
    milliseconds = 1000 * (time.process_time() - started) / (len(labels) * len(drawn))
    found = over_draws(judge, drawn, labels) | {"other": round(mean(map(judge.other, drawn)), 4)}
    note(size=size, how=name, steps=steps, w=w, ms_an_image=round(milliseconds, 4), **found)
    return found


def cheaper() -> None:
    """The large teacher in fewer Heun steps, each of four calls with guidance."""
    train, test = halves(28)
    judge = Judge(train, test, classifier(train))
    teacher = ctm.load(FOLDER / "digits_28_teacher.safetensors")
    for steps in (2, 4, 6):
        judged(28, "teacher", teacher, judge, steps, PLANS[28].w)


def write(size: int, name: str, model: ctm.CTM, steps: int, seconds: float, figures: dict[str, Any]) -> None:
    card = {
        "command": f"python -m studies.digits {size}",
        "world": f"{size} x {size} digits",
        "teacher": "none" if name == "teacher" else f"digits_{size}_teacher, guided",
        "seed": SEED,
        "steps": steps,
        "seconds": round(seconds),
        "figures": figures,
    }
    if size == 28:  # the book trains its own small ones
        ctm.save(model, FOLDER / f"digits_28_{name}.safetensors", **card)
    print(card, flush=True)


def main() -> None:
    torch.set_num_threads(1)
    large = {
        "controls": controls,
        "networks": plain_or_unet,
        "cheaper": cheaper,
        "settled": settled,
        "further": further,
        "others": others,
        "begins": begins,
    }
    run_parts({"8": partial(make, 8), "28": partial(make, 28), **large})


if __name__ == "__main__":
    main()
