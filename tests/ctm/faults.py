"""A small training run that is hurt on purpose; started by test_faults.py, which reads what this prints.

    python tests/ctm/faults.py FOLDER

The library is loaded once, and each run that is to be hurt is a fork of this process.
"""

import json
import os
import random
import resource
import signal
import sys
import time
import traceback
from pathlib import Path

import torch

import ctm
from ctm import checkpoints

torch.set_num_threads(1)
STEPS, SEED = 120, 5
MOMENTS = ("in the middle of the file", "before the file is flushed", "before it is renamed", "after it is renamed")


def train(path=None):
    """The weights and the history of the run, which goes on from ``path`` if that is there."""
    world = ctm.data.two_gaussians()
    student = ctm.CTM(ctm.networks.MLP(1, width=16, layers=2), world.sigma_data)
    objective = ctm.Consistency(world, "soft", pool=64, levels=8, reuse=2) + 0.5 * ctm.Denoising(64)
    options = {"batch": 32, "target_ema": 0.9, "checkpoint": path, "save_every": 1}
    history = ctm.train(student, world, objective, STEPS, SEED, **options)
    return torch.cat([weights.detach().flatten() for weights in student.parameters()]), history


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def die_while_writing(moment, after):
    """Arrange that this process is killed at ``moment`` of the writing number ``after`` from now."""
    real_open, real_fsync, real_replace, count = open, os.fsync, os.replace, [0]

    class Half:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def __getattr__(self, name):
            return getattr(self.file, name)

        def write(self, data):
            self.file.write(data[: len(data) // 2])
            self.file.flush()
            die()

    def opened(*arguments):
        file, count[0] = real_open(*arguments), count[0] + 1
        return Half(file) if moment == MOMENTS[0] and count[0] == after else file

    def fsync(descriptor):
        if moment == MOMENTS[1] and count[0] == after:
            die()
        real_fsync(descriptor)

    def replace(*names):
        if moment == MOMENTS[2] and count[0] == after:
            die()
        real_replace(*names)
        if moment == MOMENTS[3] and count[0] == after:
            die()

    checkpoints.open, os.fsync, os.replace = opened, fsync, replace


def answer(work):
    """What ``work`` returns in a fork."""
    reader, writer = os.pipe()
    child = in_fork(lambda: os.write(writer, json.dumps(work()).encode()))
    os.close(writer)
    with open(reader, encoding="utf-8") as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return json.loads(said)


def in_fork(work):
    """The process number of a fork that does ``work``; its exit code is 0 if that came to its end."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(code)
    return child


def wait(child, seconds):
    """Wait until ``child`` has used this much processor time (on Linux: a busy machine then kills it no earlier)."""
    if sys.platform != "linux":
        time.sleep(seconds)
        return
    while time.clock_gettime((~child << 3) | 2) < seconds:  # the clock of a process, as clock_getcpuclockid names it
        time.sleep(0.001)


def kills(folder):
    """Twelve kills at random moments of training, eight at random writings: what was found after each, and the end."""
    path, dice, found = folder / "run.safetensors", random.Random(7), []
    for i in range(20):
        moment = MOMENTS[i // 2 % 4] if i % 2 and i < 16 else None
        if moment:
            after = dice.randint(1, 6)

            def work(moment=moment, after=after):
                die_while_writing(moment, after)
                train(path)

            child = in_fork(work)
        else:
            child = in_fork(lambda: train(path))
            wait(child, dice.uniform(0.02, 0.12))
            os.kill(child, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        done = checkpoints.read(path)[1]["run"]["done"] if path.exists() else 0
        found.append({"moment": moment, "code": code, "done": done, "files": sorted(os.listdir(folder))})
    for part in folder.glob(".*.part"):  # as if they had been left long ago
        os.utime(part, (0, 0))
    return {"kills": found} | answer(lambda: compare(path))


def compare(path):
    """Whether the run that goes on to its end from ``path`` ends as one that was never stopped."""
    (resumed, history), (whole, straight) = train(path), train()
    equal, loss = torch.equal(resumed, whole), history.loss == straight.loss
    return {"equal": equal, "loss": loss, "files": sorted(os.listdir(path.parent))}


def full(folder):
    """A file may grow to 10 kB and no further, as on a full disk: what is said, and what is left."""
    path = folder / "run.safetensors"
    model = ctm.CTM(ctm.networks.MLP(1, width=8, layers=1), 0.5)
    large = ctm.CTM(ctm.networks.MLP(1, width=96), 0.5)
    ctm.save(model, folder / "model.safetensors", run=1)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
    said = []
    for work in (lambda: train(path), lambda: ctm.save(large, folder / "model.safetensors", run=2)):
        try:
            work()
        except OSError as error:
            said.append(f"{type(error).__name__} {error}")
    return {"said": said, "files": sorted(os.listdir(folder)), "card": ctm.read_card(folder / "model.safetensors")}


def readonly(folder):
    """A folder that this process may only read (as another user, where it was started by root)."""
    model = ctm.CTM(ctm.networks.MLP(1, width=8, layers=1), 0.5)
    ctm.save(model, folder / "model.safetensors", run=1)
    folder.chmod(0o555)
    if os.geteuid() == 0:
        os.seteuid(65534)
    said = []
    for work in (lambda: train(folder / "run.safetensors"), lambda: ctm.save(model, folder / "model.safetensors", run=2)):
        try:
            work()
        except OSError as error:
            said.append(f"{type(error).__name__} {error}")
    return {"said": said, "files": sorted(os.listdir(folder)), "card": ctm.read_card(folder / "model.safetensors")}


if __name__ == "__main__":
    # what the optimiser loads at its first step is loaded once, here; a backward pass may not come before a fork
    weight = torch.nn.Parameter(torch.zeros(1))
    weight.grad = torch.zeros(1)
    torch.optim.Adam([weight], fused=True).step()
    found = []
    for work in (kills, full, readonly):
        place = Path(sys.argv[1]) / work.__name__
        place.mkdir(mode=0o755)
        found.append(work(place) if work is kills else answer(lambda work=work, place=place: work(place)))
    print(json.dumps(found))
