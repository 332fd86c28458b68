"""A second device, pretended: no GPU is needed to see a function that mixes devices.

``with pretended():`` tensors sent to ``DEVICE`` become :class:`Elsewhere`, which holds its numbers on the processor, says
that it is on ``DEVICE``, and refuses what a real device refuses: an operation with a tensor of the processor that has
an axis, ``.numpy()``, a generator of another device. So do tensors with an axis that are made without saying where.
"""

import contextlib
import sys

import torch
from torch._C import _functorch as functorch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = torch.device("xpu", 0)  # any that this machine has not
MAKERS = {torch.zeros, torch.ones, torch.full, torch.empty, torch.eye, torch.arange, torch.linspace, torch.logspace}
MAKERS |= {torch.tensor, torch.rand, torch.randn, torch.randint, torch.randperm, torch.normal}
DEVICE_OF = torch.Tensor.device.__get__
INSIDE = {torch.multinomial, torch.nn.functional.one_hot}  # of one tensor; they make others, where they take it to be
MEET_ZEROS = {"mm", "stack", "cat"}
MAY_MIX = {"copy_", "index", "index_put_", "_index_put_impl_"}  # a real device takes an index or a source from the processor


class MixedError(RuntimeError):
    """Two devices in one operation, or a tensor made without a device."""


class Elsewhere(torch.Tensor):
    """A tensor on the pretended device; ``held`` has its numbers."""

    device = property(lambda self: DEVICE)
    is_cpu = False
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held):
        tensor = torch.Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype
        )
        tensor.held = held
        return tensor

    def __init__(self, held):
        pass

    def __repr__(self):
        return f"Elsewhere({self.held!r})"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, func.overloadpacket.__name__
        parts, _ = tree_flatten((args, kwargs))
        plain = [p for p in parts if isinstance(p, torch.Tensor) and not isinstance(p, cls) and p.ndim]
        # forward derivatives that are 0 are made by torch itself, where it believes the tensor to be
        plain = [p for p in plain if not (p.is_meta or p._is_zerotensor() or (name in MEET_ZEROS and not p.any()))]
        if plain and not (name in MAY_MIX and (name == "copy_" or isinstance(args[0], cls))):
            raise MixedError(f"{name}: a tensor of the processor, {tuple(plain[0].shape)}, meets one on {DEVICE}")
        if any(isinstance(p, torch.Generator) and not isinstance(p, GeneratorElsewhere) for p in parts):
            raise MixedError(f"{name}: a generator of the processor draws on {DEVICE}")
        result = func(*tree_map(unwrap, args), **tree_map(unwrap, kwargs))
        if func._schema.is_mutable:  # in place: the numbers have changed where they are held
            return args[0] if isinstance(args[0], torch.Tensor) else None
        return tree_map(wrap, result)

    def cpu(self):
        return self.held.clone()

    def numpy(self, *args, **kwargs):
        raise MixedError(".numpy() of a tensor that is not on the processor")

    __array__ = numpy

    def tolist(self):
        return self.held.tolist()


class GeneratorElsewhere(torch.Generator):
    """A generator of the pretended device; its numbers are those of the processor's."""

    device = property(lambda self: DEVICE)


def there(x):
    """Whether ``x`` is on the pretended device, seen through the wrappers of ``torch.func``."""
    while isinstance(x, torch.Tensor) and functorch.is_functorch_wrapped_tensor(x):
        x = functorch.get_unwrapped(x)
    return isinstance(x, Elsewhere)


def wrap(x):
    while isinstance(x, torch.Tensor) and functorch.is_functorch_wrapped_tensor(x):
        x = functorch.get_unwrapped(x)
    return Elsewhere(x) if isinstance(x, torch.Tensor) and not isinstance(x, Elsewhere) and not x.is_meta else x


def unwrap(x):
    return x.held if isinstance(x, Elsewhere) else x


class Pretence(TorchFunctionMode):
    """What is said about devices in calls of torch, and where those calls come from."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func == DEVICE_OF:
            return DEVICE if there(args[0]) else func(*args)
        if func in (torch.Tensor.to, torch.as_tensor) and (func is torch.as_tensor or len(args) + len(kwargs) > 1):
            return self.move(func, args, kwargs)
        if func in INSIDE and there(args[0]):
            if kwargs.get("generator") is not None and not isinstance(kwargs["generator"], GeneratorElsewhere):
                raise MixedError(f"torch.{func.__name__}: generator of the processor, tensor on {DEVICE}")
            return wrap(func(unwrap(args[0]), *args[1:], **kwargs))
        if func not in MAKERS or kwargs.get("out") is not None:
            return func(*args, **kwargs)
        said, rng = kwargs.get("device"), kwargs.get("generator")
        goes = said is not None and torch.device(said) == DEVICE
        if rng is not None and isinstance(rng, GeneratorElsewhere) != goes:
            raise MixedError(f"torch.{func.__name__}: generator on {rng.device}, tensor on {said}")
        result = func(*args, **kwargs | {"device": "cpu"} if goes else kwargs)
        ours = "site-packages" not in sys._getframe(1).f_code.co_filename
        if ours and said is None and result.ndim:
            raise MixedError(f"torch.{func.__name__} makes {tuple(result.shape)} without a device")
        return wrap(result) if goes else result

    def move(self, func, args, kwargs):
        """``x.to(...)`` and ``torch.as_tensor(x, device=...)`` between here and there."""
        x, goal = args[0], kwargs.pop("device", None)
        rest = []
        for part in args[1:]:
            if isinstance(part, torch.Tensor):
                goal, part = DEVICE if there(part) else part.device, part.dtype
            if isinstance(part, str | torch.device):
                goal = part
            elif isinstance(part, torch.dtype):
                rest.append(part)
        goes = there(x) if goal is None else torch.device(goal) == DEVICE
        if isinstance(x, torch.Tensor) and there(x) != goes:
            x = wrap(x.detach().clone()) if goes else x.cpu()
        if not isinstance(x, torch.Tensor):
            x = torch.as_tensor(x, **kwargs)
            return wrap(x) if goes else x
        kept = {key: value for key, value in kwargs.items() if isinstance(value, torch.dtype)}
        return torch.Tensor.to(x, *rest, **kept) if rest or kept else x


@contextlib.contextmanager
def pretended():
    """While this lasts, ``DEVICE`` can be named in every call of torch."""
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)  # module.to then makes new parameters
    try:
        with Pretence():
            yield DEVICE
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(before)
