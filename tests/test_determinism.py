"""The same seed gives the same numbers in another process, with one thread and with two."""

import subprocess
import sys

RUN = """
import hashlib, torch, ctm
world = ctm.data.two_moons()
recipe = ctm.Recipe(batch=320, pool=512, levels=16, reuse=4, dsm=0.2, references=256, consistency="soft", target_ema=0.9)
for threads in (1, 2):
    torch.set_num_threads(threads)
    student = ctm.CTM(ctm.networks.MLP(2, width=96, layers=3, seed=1), world.sigma_data)
    history = ctm.train(student, world, world, steps=25, seed=3, recipe=recipe)
    x = ctm.samplers.noise(student, 500, (2,), generator=torch.Generator().manual_seed(2))
    numbers = [ctm.samplers.one_step(student, x), torch.tensor(history.loss), *student.state_dict().values()]
    digest = hashlib.sha256(b"".join(n.detach().numpy().tobytes() for n in numbers))
    print(torch.get_num_threads(), len(history.loss), digest.hexdigest())
"""


def test_a_run_is_repeated_bit_for_bit_with_one_and_with_two_threads():
    first, second = (subprocess.run([sys.executable, "-c", RUN], capture_output=True, text=True, check=True) for _ in "ab")
    assert [line.split()[:2] for line in first.stdout.splitlines()] == [["1", "25"], ["2", "25"]]
    assert second.stdout == first.stdout
