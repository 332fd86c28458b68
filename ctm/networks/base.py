"""What networks share: their register, initial weights by seed, times as sines and cosines."""

from __future__ import annotations

import functools
import inspect
import json
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ctm._checks import check_number, seeded

LARGEST = 100_000  # of any size in a network: a damaged file cannot ask for more
DEEPEST = 1_000  # of any number of layers: their shapes are worked out in a second

NETWORKS: dict[str, type[nn.Module]] = {}

Kind = TypeVar("Kind", bound=type[nn.Module])


def register(network: Kind) -> Kind:
    """Make a class of networks known by its name, so that models with it can be saved and loaded.

    The arguments of its constructor are kept as ``config``, as JSON can write them. Of an argument
    that was None, the attribute of that name is kept: what the constructor made of it.

    Raises:
        ValueError: another class of that name is registered. (In ``__main__`` a class replaces
            its older self: a cell of a notebook may be run twice.)
        TypeError: later, when a network is made: an argument that JSON cannot write.
    """
    name, build = network.__name__, network.__init__
    older = NETWORKS.get(name)
    if older is not None and not older.__module__ == network.__module__ == "__main__":
        raise ValueError(f"network must have a new name, {name} is {older.__module__}'s")
    signature = inspect.signature(build)

    @functools.wraps(build)
    def build_and_keep(self: nn.Module, *args: Any, **kwargs: Any) -> None:
        build(self, *args, **kwargs)
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        given = list(bound.arguments.items())[1:]
        self.config = {key: _plain(getattr(self, key, None) if v is None else v, key) for key, v in given}

    network.__init__ = build_and_keep  # type: ignore[method-assign]
    NETWORKS[name] = network
    return network


def _plain(value: Any, name: str) -> Any:
    """``value`` as JSON gives it back; numbers and tables of NumPy or torch become plain ones."""
    try:
        return json.loads(json.dumps(value, default=lambda other: other.tolist()))
    except (AttributeError, TypeError, ValueError) as error:
        kind = type(value).__name__
        raise TypeError(f"{name} must be something that JSON can write, got a {kind}") from error


def draw_weights(network: nn.Module, seed: int) -> None:
    r"""Give layers that were built on the meta device their memory and torch's default weights.

    As in :class:`torch.nn.Linear`, weights and biases are uniform within
    :math:`\pm 1/\sqrt{\text{inputs}}`; here they are drawn from a generator of this network alone,
    in float32 on the processor, whatever torch's defaults. Where the meta device is the default,
    only shapes are asked for: nothing is allocated.
    """
    rng = seeded(seed)
    device = "meta" if torch.get_default_device().type == "meta" else "cpu"
    network._apply(
        lambda old: torch.empty_like(old, dtype=torch.float32, device=device) if old.is_meta else old
    )
    for layer in network.modules() if device == "cpu" else ():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5), generator=rng)
            if layer.bias is not None:
                bound = 1 / math.sqrt(layer.weight[0].numel())
                nn.init.uniform_(layer.bias, -bound, bound, generator=rng)
        elif isinstance(layer, nn.GroupNorm):
            layer.reset_parameters()


class Timed(nn.Module):
    r"""A network told two times and a condition; the base of those in this package.

    A time :math:`\tau` becomes :math:`(\tau, \sin 2\pi f_i \tau, \cos 2\pi f_i \tau)` with
    frequencies :math:`f_i` from 1/8 to 2, in geometric steps.
    """

    frequencies: Tensor

    def __init__(self, features: int, conditions: int) -> None:
        super().__init__()
        self.conditions = check_number(conditions, "conditions", 0, LARGEST, integer=True)
        features = check_number(features, "features", 1, LARGEST, integer=True)
        exponents = torch.linspace(-3, 1, features, dtype=torch.float32, device="cpu")
        self.register_buffer("frequencies", 2 * math.pi * 2.0**exponents)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Timed:
        """What ``.to`` and its kin call. In half precision the frequencies stay as they were:
        the sine of a rounded angle is another feature."""
        exact = self.frequencies
        super()._apply(fn, recurse)
        if torch.finfo(self.frequencies.dtype).bits < 32:
            self.frequencies = exact.to(self.frequencies.device)
        return self

    def time_features(self, times: Tensor) -> Tensor:
        """``times``: ``(n, k)``. Returns ``(n, k + 2 k features)``, in float32 or float64."""
        times = times.to(torch.promote_types(times.dtype, self.frequencies.dtype))
        angle = (times[:, :, None] * self.frequencies).flatten(1)
        return torch.cat([times, angle.sin(), angle.cos()], 1)

    def table(self, condition: Tensor | None, like: Tensor) -> Tensor:
        """The condition as ``(n, conditions)``, in the dtype and on the device of ``like``."""
        n, k = len(like), self.conditions
        if condition is None:
            return like.new_zeros(n, k)
        if tuple(condition.shape) not in ((n, k), (1, k)):
            raise ValueError(f"condition must have shape ({n} or 1, {k}), got {tuple(condition.shape)}")
        return condition.to(like).expand(n, k)


class Embedding(nn.Module):
    r"""One vector of both times and the condition :math:`c`:

    .. math:: e = B\,\mathrm{silu}\bigl(A\,\phi(\tau_t) + S\,(\phi(\tau_s) - \phi(\tau_t)) + C\,c\bigr)

    with the features :math:`\phi` of :class:`Timed`. :math:`S` starts at zero and gets no gradient
    where :math:`\tau_s = \tau_t`. So a new network, and one trained as a denoiser alone, gives the
    same for every :math:`s`: :math:`g(x, t, s) = D(x, t)`, the straight step of Euler.
    """

    def __init__(self, features: int, conditions: int, width: int) -> None:
        super().__init__()
        inputs = 2 * features + 1
        self.of_t = nn.Linear(inputs, width)
        self.of_s = nn.Linear(inputs, width, bias=False)
        self.of_condition = nn.Linear(conditions, width, bias=False) if conditions else None
        self.out = nn.Linear(width, width)

    def forward(self, phi_t: Tensor, phi_s: Tensor, condition: Tensor) -> Tensor:
        """``phi_t``, ``phi_s``: ``(n, 2 features + 1)``; ``condition``: ``(n, conditions)``. Returns ``(n, width)``, after a last silu."""
        hidden = self.of_t(phi_t) + self.of_s(phi_s - phi_t)
        if self.of_condition is not None:
            hidden = hidden + self.of_condition(condition)
        return nn.functional.silu(self.out(nn.functional.silu(hidden)))


class ImageNetwork(Timed):
    """A network for images of one shape: it embeds times and condition, and calls ``transform``."""

    embedding: Embedding
    leave: nn.Linear | nn.Conv2d

    def __init__(self, shape: Sequence[int], unit: int, features: int, conditions: int) -> None:
        super().__init__(features, conditions)
        sizes = tuple(check_number(size, "shape", 1, LARGEST, integer=True) for size in shape)
        if len(sizes) not in (2, 3) or sizes[-1] % unit or sizes[-2] % unit:
            raise ValueError(
                "shape must be (channels, height, width) or (height, width), with sides divisible by "
                f"{unit}, got {sizes}"
            )
        self.shape = sizes
        self.channels, self.height, self.breadth = (1, *sizes)[-3:]

    def forward(
        self, x: Tensor, tau_t: Tensor, tau_s: Tensor, condition: Tensor | None = None
    ) -> Tensor:
        """The network's output, in the shape of ``x`` and the dtype of the weights.

        Args:
            x: images, ``(n, *shape)``.
            tau_t, tau_s: scaled times, ``(n,)``.
            condition: ``(n or 1, conditions)``, zeros if None.

        Raises:
            ValueError: ``x`` or ``condition`` has another shape.
        """
        if tuple(x.shape[1:]) != self.shape:
            raise ValueError(f"x must have shape (n, {str(self.shape)[1:]}, got {tuple(x.shape)}")
        images = x.reshape(len(x), self.channels, self.height, self.breadth).to(self.leave.weight.dtype)
        phi_t, phi_s = (self.time_features(tau[:, None]).to(images.dtype) for tau in (tau_t, tau_s))
        embedding = self.embedding(phi_t, phi_s, self.table(condition, images))
        return self.transform(images, embedding).reshape(x.shape)

    def transform(self, x: Tensor, embedding: Tensor) -> Tensor:
        """The images ``(n, channels, height, width)`` from those at the input."""
        raise NotImplementedError
