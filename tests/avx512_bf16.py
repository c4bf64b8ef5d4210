"""Imported before bitsandbytes, this makes it take this processor for one with AVX-512-BF16.

On such a processor bitsandbytes stores the weights of a layer in evaluation anew, for a product in bfloat16, and reports at
import that it could not fetch another kernel. Here its compiled library says that the processor has these instructions, and
the product is computed by torch in the same layout and the same types. All else is bitsandbytes' own code.
"""

import ctypes

calls = []  # one entry (M, N, K) for each product that bitsandbytes asks for


class _Library:
    """bitsandbytes' compiled library, but for what it says of the processor and its product in bfloat16."""

    def __init__(self, library):
        self._library = library

    def __getattr__(self, name):
        return getattr(self._library, name)

    def has_avx512bf16_cpu(self):
        return True

    def gemv_4bit_inference_cpu_nf4_bf16(self, *arguments):
        _product("nf4", *arguments)

    def gemv_4bit_inference_cpu_fp4_bf16(self, *arguments):
        _product("fp4", *arguments)


def _product(quant_type, m, n, k, x, packed, absmax, out, block_size, x_stride, out_stride):
    """out (M, N) = x (M, K) Wᵀ, all of them bfloat16; the arguments are those of bitsandbytes' C function."""
    import torch
    from bitsandbytes.functional import get_4bit_type

    m, n, k, block_size = (number.value for number in (m, n, k, block_size))
    assert (x_stride.value, out_stride.value) == (k, n)
    calls.append((m, n, k))
    # 32 rows by 2 columns lie in 32 bytes: the first 16 rows in the lower halves, the others in the upper ones.
    tile = _read(packed, n * k // 2, torch.uint8).view(n // 32, k // 2, 32)
    codes = torch.cat([tile & 15, tile >> 4], dim=-1).view(n // 32, k // 2, 32, 2).transpose(1, 2).reshape(n, k)
    scales = _read(absmax, n * k // block_size, torch.bfloat16).view(k // block_size, n).T.repeat_interleave(block_size, 1)
    weight = get_4bit_type(quant_type, device="cpu").bfloat16()[codes.int()] * scales
    x = _read(x, m * k, torch.bfloat16).view(m, k)
    _read(out, m * n, torch.bfloat16).copy_((x.float() @ weight.float().T).view(-1))  # sums in float32, as there


def _read(pointer, count, dtype):
    """The tensor (count,) at an address, not copied."""
    import torch

    size = torch.empty(0, dtype=dtype).element_size()
    return torch.frombuffer((ctypes.c_char * (count * size)).from_address(pointer.value), dtype=dtype)


_load = ctypes.LibraryLoader.LoadLibrary


def _load_library(self, name):
    library = _load(self, name)
    return _Library(library) if "libbitsandbytes_" in str(name) else library


ctypes.LibraryLoader.LoadLibrary = _load_library
