"""CTM: a flow map with a network inside, built so that its boundary conditions hold for any
weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ctm import networks
from ctm._checks import check_data, check_jump, check_number, check_points, seeded
from ctm.flow_map import Data, FlowMap, Time, fine
from ctm.mixture import ends, numbers, time_range


def c_skip(t: Tensor, sigma_data: float) -> Tensor:
    r""":math:`c_{skip}(t) = \sigma_{data}^2 / (t^2 + \sigma_{data}^2)` (EDM, table 1)."""
    return sigma_data**2 / (t**2 + sigma_data**2)


def c_out(t: Tensor, sigma_data: float) -> Tensor:
    r""":math:`c_{out}(t) = t\,\sigma_{data} / \sqrt{t^2 + \sigma_{data}^2}` (EDM, table
    1)."""
    return t * sigma_data / torch.sqrt(t**2 + sigma_data**2)


def c_in(t: Tensor, sigma_data: float) -> Tensor:
    r""":math:`c_{in}(t) = 1 / \sqrt{t^2 + \sigma_{data}^2}` (EDM, table 1)."""
    return 1 / torch.sqrt(t**2 + sigma_data**2)


def c_noise(t: Tensor) -> Tensor:
    r""":math:`c_{noise}(t) = \log(t) / 4` (EDM, table 1)."""
    return torch.log(t) / 4


class CTM(nn.Module, FlowMap):
    r"""A consistency trajectory model (Kim et al. 2024), parametrised by :math:`g_\theta`.

    .. math::

        G_\theta(x, t, s) &= \frac{s}{t}\, x + \Bigl(1 - \frac{s}{t}\Bigr)\, g_\theta(x, t,
        s) \\ g_\theta(x, t, s) &= c_{skip}(t)\, x
            + c_{out}(t)\, F_\theta\bigl(c_{in}(t)\, x, c_{noise}(t), c_{noise}(s)\bigr)

    so :math:`G_\theta(x, t, t) = x` for any network, and :math:`g_\theta(x, t, t)` is the
    model's denoiser. Where the data have a mean far from 0, ``center``, the second line is
    in :math:`x - center`.

    Points may be of any floating dtype: the network computes in that of its weights, the
    rest in that of the points, in float32 at least.

    Args:
        network: a module ``F(x, tau_t, tau_s)`` that returns a tensor like ``x``; times
            are in float32 at least.
        sigma_data: standard deviation of the data, above 0.
        sigma_min, sigma_max: range of the noise levels; if not given, that of
            :func:`ctm.mixture.time_range`.
        shape: the shape of a point; any if None.
        center: the mean of the data, a number or of that shape.
        shift, scale: a point ``z`` is ``shift + scale * z`` in the data's own units
            (:class:`ctm.points.Points`), numbers or of that shape; :meth:`restore`.

    Raises:
        TypeError, ValueError: an argument is not as said; the message names it.
    """

    def __init__(
        self,
        network: nn.Module,
        sigma_data: float,
        sigma_min: float | None = None,
        sigma_max: float | None = None,
        *,
        shape: tuple[int, ...] | None = None,
        center: float | Tensor = 0.0,
        shift: float | Tensor = 0.0,
        scale: float | Tensor = 1.0,
    ) -> None:
        super().__init__()
        if not isinstance(network, nn.Module):
            got = getattr(network, "__name__", type(network).__name__)
            raise TypeError(f"network must be a torch.nn.Module, got {got}")
        self.sigma_data = check_number(sigma_data, "sigma_data", 0, above=True)
        low, high = time_range(self.sigma_data, math.prod(shape or ()))
        self.sigma_min = low if sigma_min is None else sigma_min
        self.sigma_max = high if sigma_max is None else sigma_max
        self.sigma_min = check_number(self.sigma_min, "sigma_min", 0, above=True)
        self.sigma_max = check_number(
            self.sigma_max, "sigma_max", self.sigma_min, above=True
        )
        self.network = network
        self.shape = None if shape is None else tuple(shape)
        self.center = _offset(center, "center", self.shape)
        self.shift = _offset(shift, "shift", self.shape)
        self.scale = _offset(scale, "scale", self.shape)

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)  # of a mixin
        name = cls.__name__
        older = MODELS.get(name, cls).__module__
        if older.startswith("ctm.") and older != cls.__module__:
            raise ValueError(f"a kind of model must have a new name, {older} has {name}")
        MODELS[name] = cls

    @classmethod
    def for_data(cls, data: Data, network: nn.Module | None = None, seed: int = 0) -> CTM:
        """An untrained model for ``data``: network, ``sigma_data``, noise levels and units
        are chosen from the data.

        Args:
            data: anything with ``sample``. What it does not say itself (``shape``,
                ``sigma_data``, ``center``) is measured on 4,096 samples. Data with classes
                (``sample_labelled`` and ``classes``) make a conditional model.
            network: a network of one's own; :func:`ctm.networks.default` if None.
            seed: seed of the initial weights.
        """
        check_data(data)
        shape, sigma_data, center = _measured(data)
        classes = getattr(data, "classes", 0) if hasattr(data, "sample_labelled") else 0
        if network is None:
            network = networks.default(
                shape, conditions=classes + 1 if classes else 0, seed=seed
            )
        kind = MODELS["ConditionalCTM"] if classes and cls is CTM else cls
        units = {"shift": getattr(data, "shift", 0.0), "scale": getattr(data, "scale", 1.0)}
        return kind(network, sigma_data, shape=shape, center=center, **units)

    def g(self, x: Tensor, t: Time, s: Time) -> Tensor:
        r""":math:`g_\theta(x, t, s)`: the clean point that a straight step from ``t`` to
        ``s`` has to aim at."""
        z = fine(x)
        return self(z, *self._times(z, t, s)).to(x.dtype)

    def G(self, x: Tensor, t: Time, s: Time) -> Tensor:  # noqa: N802
        r"""The jump :math:`G_\theta(x, t, s) = (s/t)\, x + (1 - s/t)\, g_\theta(x, t, s)`.

        Raises:
            TypeError, ValueError: points or times are not as :class:`ctm.flow_map.FlowMap`
                says.
        """
        z = fine(x)
        return self.jump(z, *self._times(z, t, s)).to(x.dtype)

    def denoiser(self, x: Tensor, t: Time) -> Tensor:
        r""":math:`D_\theta(x, t) = g_\theta(x, t, t)`."""
        return self.g(x, t, t)

    def forward(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        r""":math:`g_\theta(x, t, s)` for times that broadcast against ``x``; nothing is
        checked."""
        center = self.center.to(x) if isinstance(self.center, Tensor) else self.center
        centred = isinstance(center, Tensor) or center != 0
        z = x - center if centred else x
        skip, scale, unit = self.scalings(t)
        kept = skip * z  # first: gradients at x are then added up in the old order
        inputs = unit * z
        tau_t, tau_s = (c_noise(time).flatten() for time in (t, s))
        if not isinstance(self.network, networks.Timed):  # those see to this themselves
            own = self.dtype
            inputs = inputs.to(own)
            tau_t, tau_s = tau_t.expand(x.shape[0]), tau_s.expand(x.shape[0])
            # in float32 at least: half precision cannot tell neighbouring levels apart
            precise = torch.promote_types(own, torch.float32)
            tau_t, tau_s = tau_t.to(precise), tau_s.to(precise)
        output = self.network(inputs, tau_t, tau_s)
        if output.shape != x.shape:
            raise ValueError(
                f"network must return the shape of its points, {tuple(x.shape)}, "
                f"got {tuple(output.shape)}"
            )
        g = kept + scale * output
        return g + center if centred else g

    def jump(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        r""":meth:`G` for times that broadcast against ``x``; nothing is checked."""
        return jump(x, t, s, self(x, t, s))

    def scalings(self, t: Tensor) -> tuple[Tensor | float, Tensor | float, Tensor]:
        r""":math:`c_{skip}(t)`, :math:`c_{out}(t)` and :math:`c_{in}(t)`, which share a
        root."""
        square = t**2 + self.sigma_data**2
        root = torch.sqrt(square)
        return self.sigma_data**2 / square, t * self.sigma_data / root, 1 / root

    def output_scale(self, t: Tensor, s: Tensor) -> Tensor:
        r""":math:`c_{out}(t)\,(1 - s/t)`, the factor on the network's output in :meth:`G`;
        the loss is measured in it."""
        return c_out(t, self.sigma_data) * (1 - s / t)

    @property
    def last_layer(self) -> Tensor:
        """The weights of the network's last layer, where the gradients of two losses are
        compared."""
        return [w for w in self.network.parameters() if w.ndim > 1 and w.requires_grad][-1]

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return next((w.dtype for w in self.network.parameters()), torch.float32)

    def restore(self, z: Tensor) -> Tensor:
        """Points in the data's own units, ``shift + scale * z``: in float64 where the model
        has such units, for a column may lie far from 0."""
        units = self.shift, self.scale
        if all(isinstance(v, float) for v in units) and units == (0.0, 1.0):
            return z
        shift, scale = (
            torch.as_tensor(v, dtype=torch.float64, device=z.device) for v in units
        )
        return shift + scale * z.to(torch.float64)

    @property
    def config(self) -> dict[str, Any]:
        """What a file must say of the model besides its weights, as JSON."""
        offsets = {name: getattr(self, name) for name in ("center", "shift", "scale")}
        return {
            "kind": type(self).__name__,
            "network": type(self.network).__name__,
            "config": getattr(self.network, "config", None),
            "sigma_data": self.sigma_data,
            "sigma_min": self.sigma_min,
            "sigma_max": self.sigma_max,
            "shape": self.shape and list(self.shape),
        } | {k: v.tolist() if isinstance(v, Tensor) else v for k, v in offsets.items()}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> CTM:
        super()._apply(fn, recurse)
        device = next((w.device for w in self.parameters()), torch.device("cpu"))
        for name in ("center", "shift", "scale"):  # not buffers: they keep float64
            value = getattr(self, name)
            setattr(self, name, value.to(device) if isinstance(value, Tensor) else value)
        return self

    def _times(self, x: Tensor, t: Time, s: Time) -> tuple[Tensor, Tensor]:
        return check_jump(x, t, s, self.sigma_min, self.sigma_max, self.shape)


def student_of(teacher: CTM) -> CTM:
    r"""A student that starts as its teacher: a copy whose :math:`g_\theta(x, t, s)` is the
    teacher's :math:`D(x, t)` for every s.

    Its jumps are then Euler steps of the teacher, and what it has to learn is how the
    trajectories bend (Kim et al. 2024 start from the teacher's weights too). The weights by
    which the network sees ``s`` are set to 0, and are learned from there.

    Raises:
        TypeError: the teacher is no CTM, or its network has no ``forget_s``, as
            :mod:`ctm.networks` have.
    """
    if not isinstance(teacher, CTM):
        raise TypeError(f"teacher must be a CTM, got {type(teacher).__name__}")
    student = copy.deepcopy(teacher).requires_grad_(True)
    forget_s = getattr(student.network, "forget_s", None)
    if not callable(forget_s):
        kind = type(student.network).__name__
        raise TypeError(f"teacher must have a network with forget_s, {kind} has none")
    forget_s()
    return student


MODELS: dict[str, type[CTM]] = {"CTM": CTM}
"""Kinds of models by name; subclasses add themselves.

:meta hide-value:
"""


def jump(x: Tensor, t: Tensor, s: Tensor, g: Tensor) -> Tensor:
    r""":math:`(s/t)\, x + (1 - s/t)\, g`: the straight step from ``(x, t)`` towards ``g``,
    as far as ``s``."""
    ratio = s / t
    return ratio * x + (1 - ratio) * g


def _offset(value: Any, name: str, shape: tuple[int, ...] | None) -> float | Tensor:
    """A finite number, or a tensor of ``shape`` in float64 on the processor."""
    if isinstance(value, float | int):
        return float(check_number(value, name))
    table = numbers(value, name).cpu()
    try:
        table.expand(shape or table.shape)  # which it must broadcast to
        fits = bool(table.isfinite().all())
    except RuntimeError:
        fits = False
    if not fits:
        got = f"{ends(table)}, shape {tuple(table.shape)}"
        raise ValueError(f"{name} must be finite, a number or of shape {shape}, got {got}")
    return table if table.ndim else float(table)


def _measured(data: Data, n: int = 4096) -> tuple[tuple[int, ...], float, float | Tensor]:
    """The shape of a point, the standard deviation and the mean: what the data say, or else
    measured on ``n`` samples."""
    known: list[Any] = [
        getattr(data, name, None) for name in ("shape", "sigma_data", "center")
    ]
    shape, sigma_data, center = known
    if shape is None or sigma_data is None or center is None:
        x = check_points(data.sample(n, generator=seeded(0)), "data.sample(n)").double()
        shape = x.shape[1:] if shape is None else shape
        center = x.mean(0) if center is None else center
        if sigma_data is None:
            sigma_data = (x - torch.as_tensor(center).to(x)).square().mean().sqrt()
            if not sigma_data:
                raise ValueError("data must not be constant, got the same point every time")
    return tuple(shape), float(sigma_data), center
