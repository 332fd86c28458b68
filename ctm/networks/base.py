"""What networks share: a register, weights by seed, times and a condition as features."""

from __future__ import annotations

import functools
import inspect
import json
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from ctm._checks import check_number, seeded

LARGEST = 100_000  # of any size in a network: a damaged file cannot ask for more
DEEPEST = 100  # of any number of layers: their shapes are then worked out in seconds

NETWORKS: dict[str, type[nn.Module]] = {}
Kind = TypeVar("Kind", bound=type[nn.Module])


def register(network: Kind) -> Kind:
    """Make a class of networks known by its name, so that models with it can be saved.

    The arguments of its constructor are kept as ``config``, as JSON writes them; of one
    that is None, the attribute of that name, if any: what the constructor made of it.

    Raises:
        ValueError: another class has that name. (In ``__main__`` a class replaces its
            older self, as the cell of a notebook may be run twice.)
        TypeError: when a network is made with an argument that JSON cannot write.
    """
    name, build = network.__name__, network.__init__
    older = NETWORKS.get(name)
    if older is not None and not older.__module__ == network.__module__ == "__main__":
        raise ValueError(f"network must have a new name, {older.__module__} has {name}")
    signature = inspect.signature(build)

    @functools.wraps(build)
    def build_and_keep(self: nn.Module, *args: Any, **kwargs: Any) -> None:
        build(self, *args, **kwargs)
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        config: dict[str, Any] = {}
        for key, value in list(bound.arguments.items())[1:]:
            kind = signature.parameters[key].kind
            if kind is kind.VAR_KEYWORD:
                config |= value
            elif kind is not kind.VAR_POSITIONAL or value:
                config[key] = _known(self, key) if value is None else value
        try:
            _check_keys(config)
            text = json.dumps(config, default=lambda other: other.tolist(), allow_nan=False)
        except (AttributeError, TypeError, ValueError) as error:
            raise TypeError(f"{name} must be given what JSON can write: {error}") from error
        self.config = json.loads(text)

    network.__init__ = build_and_keep  # type: ignore[method-assign]
    NETWORKS[name] = network
    return network


def _known(network: nn.Module, name: str) -> Any:
    """What the constructor made of an argument that was None; not a module or weights."""
    made = getattr(network, name, None)
    return None if isinstance(made, nn.Module | Tensor) else made


def _check_keys(value: Any) -> None:
    """Raise TypeError for a key of a dict that is no text: JSON would make it one."""
    if isinstance(value, dict):
        if wrong := [key for key in value if not isinstance(key, str)]:
            raise TypeError(f"the key {wrong[0]!r} is no text")
        value = list(value.values())
    if isinstance(value, list | tuple):
        for inner in value:
            _check_keys(inner)


def draw_weights(network: nn.Module, seed: int) -> None:
    r"""Give what was built on the meta device memory and torch's usual first weights.

    Weights and biases are uniform within :math:`\pm 1/\sqrt{inputs}`, drawn from a
    generator of this network's own, in float32 on the processor. Where meta is torch's
    default device, only shapes are asked for: nothing is allocated.
    """
    rng = seeded(seed)
    device = "meta" if torch.get_default_device().type == "meta" else "cpu"
    empty = functools.partial(torch.empty_like, dtype=torch.float32, device=device)
    network._apply(lambda old: empty(old) if old.is_meta else old)
    for layer in network.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d) and device == "cpu":
            bound = 1 / math.sqrt(layer.weight[0].numel())
            nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5), generator=rng)
            if layer.bias is not None:
                nn.init.uniform_(layer.bias, -bound, bound, generator=rng)
        elif isinstance(layer, nn.GroupNorm):
            layer.reset_parameters()


def is_image(shape: Sequence[int]) -> bool:
    """Whether points of this shape are taken for images: of 8 pixels a side or more."""
    return len(shape) in (2, 3) and min(shape[-2:]) >= 8


class Timed(nn.Module):
    r"""A network that is told times and a condition, and that computes in the dtype of its
    own weights whatever it is given. Times come as ``(n,)``, or ``(1,)`` where all are
    equal. Of a time :math:`\tau` it sees
    :math:`\phi(\tau) = (\tau, \sin 2\pi f_i\tau, \cos 2\pi f_i\tau)`, :math:`f_i` from
    1/8 to 2."""

    frequencies: Tensor

    def __init__(self, features: int, conditions: int) -> None:
        super().__init__()
        self.features = check_number(features, "features", 1, LARGEST, integer=True)
        self.conditions = check_number(conditions, "conditions", 0, LARGEST, integer=True)
        octaves = torch.linspace(-3, 1, self.features, dtype=torch.float32, device="cpu")
        self.register_buffer("frequencies", 2 * math.pi * 2.0**octaves)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Timed:
        """Called by ``.to`` and its kin: half precision is not for frequencies."""
        exact = self.frequencies
        super()._apply(fn, recurse)
        if torch.finfo(self.frequencies.dtype).bits < 32:
            self.frequencies = exact.to(self.frequencies.device)
        return self

    def time_features(self, times: Tensor) -> Tensor:
        """``(n, k)`` times to ``(n, k + 2 k features)``, never in half precision."""
        times = times.to(torch.promote_types(times.dtype, self.frequencies.dtype))
        angle = (times[:, :, None] * self.frequencies).flatten(1)
        return torch.cat([times, angle.sin(), angle.cos()], 1)

    def table(self, condition: Tensor | None, like: Tensor) -> Tensor:
        """The condition, None or ``(n or 1, conditions)``, as ``(n, conditions)``."""
        n, k = len(like), self.conditions
        if condition is None:
            return like.new_zeros(n, k)
        if tuple(condition.shape) not in ((n, k), (1, k)):
            shape = tuple(condition.shape)
            raise ValueError(f"condition must have shape ({n} or 1, {k}), got {shape}")
        return condition.to(like).expand(n, k)


class Embedding(nn.Module):
    r"""One vector for both times and the condition :math:`c`, with :math:`\rho` = silu:

    .. math::

        e = \rho\bigl(B\,\rho(A\,\phi(\tau_t) + S\,(\phi(\tau_s) - \phi(\tau_t))
            + \sqrt{k}\,C\,c)\bigr)

    The factor makes a one-hot vector of :math:`k` numbers as loud as the times (Karras et
    al. 2022); without it a network for images hardly hears its class at first.

    :math:`S` starts at zero and gets no gradient where :math:`s = t`. So a new network,
    and one trained as a denoiser alone, has :math:`g(x, t, s) = D(x, t)` for every s.
    """

    def __init__(self, features: int, conditions: int, width: int) -> None:
        super().__init__()
        self.of_t = nn.Linear(2 * features + 1, width)
        self.of_s = nn.Linear(2 * features + 1, width, bias=False)
        self.of_condition = nn.Linear(conditions, width, bias=False) if conditions else None
        self.out = nn.Linear(width, width)

    def forward(self, phi_t: Tensor, phi_s: Tensor, condition: Tensor) -> Tensor:
        """``(n, 1 + 2 features)``, twice, and ``(n, conditions)`` to ``(n, width)``."""
        hidden = self.of_t(phi_t) + self.of_s(phi_s - phi_t)
        if self.of_condition is not None:
            hidden = hidden + math.sqrt(condition.shape[1]) * self.of_condition(condition)
        return silu(self.out(silu(hidden)))


class ImageNetwork(Timed):
    """What networks for images of one shape share: its check, a channel axis, the times."""

    embedding: Embedding
    leave: nn.Linear | nn.Conv2d
    lr = 2e-3  # what training takes where no rate is given

    def __init__(
        self, shape: Sequence[int], unit: int, features: int, conditions: int
    ) -> None:
        super().__init__(features, conditions)
        sizes = tuple(check_number(n, "shape", 1, LARGEST, integer=True) for n in shape)
        if len(sizes) not in (2, 3) or sizes[-1] % unit or sizes[-2] % unit:
            raise ValueError(
                "shape must be (height, width) or (channels, height, width), both sides "
                f"divisible by {unit}, got {sizes}"
            )
        self.shape, self.image = sizes, (1, *sizes)[-3:]

    def forget_s(self) -> None:
        r"""Make :math:`F(x, \tau_t, \tau_s) = F(x, \tau_t, \tau_t)` for every
        :math:`\tau_s`."""
        nn.init.zeros_(self.embedding.of_s.weight)

    def forward(
        self, x: Tensor, tau_t: Tensor, tau_s: Tensor, condition: Tensor | None = None
    ) -> Tensor:
        """``x``: ``(n, *shape)``; ``tau_t``, ``tau_s``: ``(n or 1,)``; ``condition``: ``(n
        or 1, conditions)``, zeros if None. Returns the shape of ``x``, in the weights'
        dtype; raises ValueError where ``x`` or ``condition`` has another shape."""
        if tuple(x.shape[1:]) != self.shape:
            wanted = ", ".join(map(str, self.shape))
            raise ValueError(f"x must have shape (n, {wanted}), got {tuple(x.shape)}")
        images = x.reshape(len(x), *self.image).to(self.leave.weight.dtype)
        phi_t, phi_s = (
            self.time_features(tau[:, None]).to(images).expand(len(x), -1)
            for tau in (tau_t, tau_s)
        )
        embedding = self.embedding(phi_t, phi_s, self.table(condition, images))
        return self.transform(images, embedding).reshape(x.shape)

    def transform(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Images ``(n, channels, height, width)`` and ``(n, width)`` to such images."""
        raise NotImplementedError
