"""A second device where there is none: tensors that say they lie on cuda:0, and an error where two devices meet.

All numbers stay on the CPU. A `TorchFunctionMode` sees every call of torch from Python, remembers which storages are "on
the GPU" (what was moved there or made there, and what was computed from such), answers for their `.device`, and raises as
torch does where a tensor of the one device meets a tensor of the other in one operation. That finds a tensor that was
made without a device; it says nothing of kernels, of memory, of speed or of numbers on a real GPU, and does not see what
happens inside torch's own functions.
"""

import os

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = torch.device("cuda", 0)
_TENSOR = torch.Tensor
# What is on the GPU may be indexed from the CPU; a copy may cross either way, and a parameter's data may be exchanged.
INDEXING = (_TENSOR.__getitem__, _TENSOR.__setitem__)
CROSSING = (_TENSOR.copy_, _TENSOR.data.__set__, _TENSOR.grad.__set__, _TENSOR.__deepcopy__,
            torch._has_compatible_shallow_copy_type)  # fmt: skip
ANSWERS = {_TENSOR.device.__get__: DEVICE, _TENSOR.is_cuda.__get__: True, _TENSOR.is_cpu.__get__: False}


class FakeCuda(TorchFunctionMode):
    """While it is entered, "cuda" may be named as a device. `operations` counts those on it."""

    def __init__(self):
        super().__init__()
        self.storages, self.operations = {}, 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func in ANSWERS and self.has(args[0]):
            return ANSWERS[func]
        if func in (_TENSOR.to, _TENSOR.cuda, _TENSOR.cpu):
            return self._moved(func, args, kwargs)
        tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, _TENSOR)]
        here = [self.has(x) for x in tensors]
        if func is _TENSOR.numpy and any(here):
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")
        crosses = func in CROSSING or func in INDEXING and self.has(args[0])
        if any(here) and not crosses and any(x.ndim and not on for x, on in zip(tensors, here, strict=True)):
            raise RuntimeError(f"Expected all tensors to be on the same device, but {resolve_name(func)} got some on cuda:0 "
                               "and some on cpu")
        wanted = kwargs.get("device")
        if wanted is not None:
            kwargs["device"] = "cpu" if _is_cuda(wanted) else wanted
        out = func(*args, **kwargs)
        self.operations += any(here)
        goes = _is_cuda(wanted) if wanted is not None else self.has(args[0]) if crosses else any(here)
        if goes:
            tree_map(self._mark, out)
        return out

    def has(self, tensor):
        """Whether a tensor is on the made-up device."""
        try:
            return tensor.untyped_storage()._cdata in self.storages
        except (NotImplementedError, RuntimeError):  # one without storage
            return False

    def _mark(self, x):
        if isinstance(x, _TENSOR):
            try:
                storage = x.untyped_storage()
            except (NotImplementedError, RuntimeError):
                return
            # A weak reference keeps the address from being used again, so that no stranger inherits the mark.
            self.storages[storage._cdata] = StorageWeakRef(storage)
            if len(self.storages) > 20_000:
                self.storages = {key: ref for key, ref in self.storages.items() if not ref.expired()}

    def _moved(self, func, args, kwargs):
        """to(...), cuda() and cpu(): across, a copy; else as torch does it."""
        tensor, rest = args[0], list(args[1:])
        target = DEVICE if func is _TENSOR.cuda else torch.device("cpu") if func is _TENSOR.cpu else kwargs.pop("device", None)
        for i, value in enumerate(rest):
            if isinstance(value, (str, torch.device)):
                target, rest[i] = torch.device(value), "cpu"
            elif isinstance(value, _TENSOR):
                target = DEVICE if self.has(value) else torch.device("cpu")
        was = self.has(tensor)
        goes = was if target is None else _is_cuda(target)
        out = tensor if func is not _TENSOR.to else tensor.to(*rest, **kwargs)
        out = out.clone() if goes != was and out.untyped_storage()._cdata == tensor.untyped_storage()._cdata else out
        if goes:
            self._mark(out)
        return out


def _is_cuda(device):
    return device is not None and torch.device(device).type == "cuda"


def enter(memory_gib=16.0):
    """Let this process take itself for one with a GPU, from here on: the profile finds one, and the mode is entered."""
    from ftlab import profile

    os.environ["FTLAB_PROFILE"] = "auto"  # so that processes started from here, which have no such device, take the CPU
    profile._gpu = lambda: {"memory_gib": memory_gib, "bfloat16": True}
    profile.autocast = lambda device: torch.autocast("cpu", torch.bfloat16, enabled=device == "cuda")
    mode = FakeCuda()
    mode.__enter__()
    return mode


