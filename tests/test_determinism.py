"""The same seed gives the same numbers: in another process, and with another number of threads."""

import hashlib
import subprocess
import sys

RUN = """
import hashlib, sys, torch, ctm
torch.set_num_threads(int(sys.argv[1]))
world = ctm.data.two_moons()
student = ctm.CTM(ctm.networks.MLP(2, width=96, layers=3, seed=1), world.sigma_data)
recipe = ctm.Recipe(batch=320, pool=512, levels=16, reuse=4, dsm=0.2, references=256, consistency="soft", target_ema=0.9)
history = ctm.train(student, world, world, steps=25, seed=3, recipe=recipe)
sample = ctm.samplers.one_step(student, ctm.samplers.noise(student, 500, (2,), generator=torch.Generator().manual_seed(2)))
numbers = [sample, torch.tensor(history.loss), *student.state_dict().values()]
print(hashlib.sha256(b"".join(n.detach().numpy().tobytes() for n in numbers)).hexdigest())
"""


def digest(threads):
    run = subprocess.run([sys.executable, "-c", RUN, str(threads)], capture_output=True, text=True, check=True)
    assert len(run.stdout.strip()) == len(hashlib.sha256().hexdigest())
    return run.stdout


def test_a_run_is_repeated_bit_for_bit_with_one_and_with_two_threads():
    first = digest(1)
    assert digest(1) == first
    assert digest(2) == digest(2)
