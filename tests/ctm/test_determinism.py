"""The same seed gives the same numbers in another process, with one thread and with two."""

import hashlib
import subprocess
import sys

import pytest
import torch

import ctm


def run(threads):
    """A digest of every number that a short run leaves behind."""
    world, before = ctm.data.two_moons(), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        student = ctm.CTM(ctm.networks.MLP(2, width=96, layers=3, seed=1), world.sigma_data)
        objective = ctm.Consistency(world, "soft", pool=512, levels=8, reuse=4) + 0.2 * ctm.Denoising(256)
        history = ctm.train(student, world, objective, steps=10, seed=3, target_ema=0.9)
        x = ctm.samplers.noise(student, 500, (2,), generator=torch.Generator().manual_seed(2))
        numbers = [ctm.samplers.one_step(student, x), torch.tensor(history.loss), *student.state_dict().values()]
    finally:
        torch.set_num_threads(before)
    return hashlib.sha256(b"".join(number.detach().numpy().tobytes() for number in numbers)).hexdigest()


@pytest.mark.slow
def test_a_run_is_repeated_bit_for_bit_with_one_and_with_two_threads():
    other = subprocess.run([sys.executable, __file__], capture_output=True, text=True, check=True)
    assert other.stdout.split() == [run(1), run(2)]


if __name__ == "__main__":
    print(run(1), run(2))
