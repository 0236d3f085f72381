"""The Triton kernels in Triton's interpreter, on CPU tensors, as an instance of the CUDA backend.

`triton.jit` decides whether a kernel is compiled or interpreted. So this module imports the kernels' modules a second
time, with the interpreter switched on, and leaves the usual modules unchanged.
"""

import importlib
import platform
import sys

import numpy as np
import pytest
import torch

from es_llm.noise import reference
from es_llm.noise.cuda import CudaBackend
from es_llm.noise.launch import Launcher
from tests.vectors import AtOnce


def required(name):
    """Import a module of Triton. Without Triton the test is skipped; if only this module is missing, the test fails."""
    if sys.platform == "linux" and platform.machine() == "x86_64":
        return importlib.import_module(name)
    return pytest.importorskip(name)


triton = required("triton")
interpreter = required("triton.runtime.interpreter")

ROOM = "es_llm.noise.triton_kernels"


def load_kernels():
    """A second copy of the kernels, for the interpreter."""
    usual = {name: sys.modules.pop(name) for name in list(sys.modules) if name.startswith(ROOM)}
    package = sys.modules["es_llm.noise"]
    before = getattr(package, "triton_kernels", None)
    try:
        with triton.knobs.runtime.scope():
            triton.knobs.runtime.interpret = True
            kernels = importlib.import_module(ROOM)
    finally:
        for name in [name for name in sys.modules if name.startswith(ROOM)]:
            del sys.modules[name]
        sys.modules.update(usual)
        if before is not None:
            package.triton_kernels = before
    return kernels


KERNELS = load_kernels()


def backend():
    return AtOnce(CudaBackend(torch.device("cpu"), kernels=KERNELS))


def launcher():
    return Launcher(torch.device("cpu"), KERNELS)


@pytest.fixture
def like_the_device(monkeypatch):
    """Make the interpreter give the results of a device where they differ: an fma rounds once (some versions round
    twice), conversions round to nearest (the interpreter truncates) and turn NaN into 7fff. Sums use the interpreter's
    fast path."""
    builder = interpreter.InterpreterBuilder
    convert = builder.cast_impl

    def fma(self, x, y, z):
        exact = z.dtype.scalar == triton.language.float64  # a product of two f32 there
        data = x.data * y.data + z.data if exact else reference.fma(x.data, y.data, z.data)
        return interpreter.TensorHandle(data, z.dtype.scalar)

    def cast(self, src, dst_type):
        name = {"bf16": "bfloat16", "fp16": "float16"}.get(str(dst_type.scalar))
        if name is None or str(src.dtype.scalar) != "fp32":
            return convert(self, src, dst_type)
        bits = reference.rounded(src.data.astype(np.float32), name)
        bits = np.where(np.isnan(src.data), np.uint16(0x7FFF), bits)
        return interpreter.TensorHandle(bits if name == "bfloat16" else bits.view(np.float16), dst_type.scalar)

    if not _fuses():
        monkeypatch.setattr(builder, "create_fma", fma)
    monkeypatch.setattr(builder, "cast_impl", cast)
    monkeypatch.setattr(triton.language.standard, "_sum_combine", KERNELS.update.add)
    with np.errstate(all="ignore"):
        yield


def _fuses():
    """Whether the interpreter's fma rounds once: (1 + e)(1 - e) - 1 = -e^2."""
    tiny = np.float32(2.0**-20)
    x, y, z = (
        interpreter.TensorHandle(np.array([value], np.float32), triton.language.float32)
        for value in (1 + tiny, 1 - tiny, np.float32(-1))
    )
    return interpreter.interpreter_builder.create_fma(x, y, z).data[0] == -tiny * tiny
