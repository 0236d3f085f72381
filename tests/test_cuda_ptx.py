"""The Triton kernels are compiled for real devices, without a device, and the PTX of all launches is checked."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from es_llm._core import LowRank, Noise, Slice, Terms
from es_llm.errors import KernelError
from es_llm.noise.cuda import triton_kernels
from es_llm.noise.launch import Launcher
from tests.interpreted import required

triton = required("triton")
compiler = required("triton.backends.compiler")

NOISE = Noise(2**63 + 5, 2**32 - 1, 2**31 + 7)
TERMS = Terms(2**63 + 5, 2**32 - 1, np.ones(2, np.float32), [1, 2**32 - 1])
EVEN, UNEVEN = Slice(77, 4096, element=2**40), Slice(77, 99, element=2**34 - 5, columns=33, stride=2**35 + 1)
SHORT = Slice(77, 8 * 96, element=96, columns=96, stride=4096)
TOOL = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


class Device:
    """The part of a driver that compiling needs."""

    def __init__(self, architecture):
        self.target = compiler.GPUTarget("cuda", architecture, 32)

    def get_current_target(self):
        return self.target

    def get_current_device(self):
        return self.target.arch

    def get_current_stream(self, _device):
        return 0


class Compiled:
    """Kernels that are compiled but not started by a launch; `made` is the list of compiled kernels."""

    def __init__(self):
        self.made = []
        kernels = triton_kernels()
        for room in ("weights", "update", "low_rank"):
            setattr(self, room, Room(getattr(kernels, room), self.made))


class Room:
    def __init__(self, module, made):
        self._module, self._made = module, made

    def __getattr__(self, name):
        return Start(getattr(self._module, name), self._made)


class Start:
    def __init__(self, kernel, made):
        self._kernel, self._made = kernel, made

    def __getitem__(self, grid):
        return lambda *arguments, **options: self._made.append(self._kernel.warmup(*arguments, grid=grid, **options))


@pytest.fixture
def compiled(tmp_path):
    """Compile all kernels that `launches` starts, for one architecture."""
    driver = triton.runtime.driver
    before = driver._active

    def start(architecture, launches):
        driver.set_active(Device(architecture))
        kernels = Compiled()
        launches(Launcher(torch.device("cpu"), kernels))
        return kernels.made

    with triton.knobs.cache.scope():
        triton.knobs.cache.dir = str(tmp_path)
        yield start
    driver._active = before


def dense(shard, dtype):
    def launches(launch):
        master, live = torch.empty(shard.size), torch.empty(shard.size, dtype=dtype)
        launch.perturb(live, master, launch.counter(), NOISE, -0.5, shard)
        launch.round(live, master, launch.counter())
        launch.accumulate(master, TERMS, shard, str(dtype).removeprefix("torch."))

    return launches


def noise(shard):
    def launches(launch):
        master = torch.empty(shard.size)
        launch.fill(master, NOISE, shard, "low_rank_a")
        launch.digest(master, shard)

    return launches


def low_rank(dtype):
    def launches(launch):
        master, live = torch.empty(5, 64), torch.empty(5, 64, dtype=dtype)
        block = LowRank(77, (5, 64), 3, row=1)
        launch.perturb(live, master, launch.counter(), NOISE, -0.5, block)
        launch.accumulate(master, TERMS, block, str(dtype).removeprefix("torch."))

    return launches


WRITTEN = {"fill": 32, "factors": 32, "perturb": 36, "accumulate": 2 * 36, "round": 0, "digest": 0}
"""The number of fma in the source of a dense kernel, for the values of a tile that one thread computes: 32 per block of
noise."""


def check_arithmetic(kernel, name):
    """Check that every operation follows IEEE 754 with denormals, and that every fma is in the source."""
    ptx = kernel.asm["ptx"]
    assert not re.findall(r"\S*\.(?:approx|ftz|full)\S*", ptx)
    found, in_sums = (len(re.findall(rf"\bfma\.rn\.{kind}\b", ptx)) for kind in ("f32", "f64"))
    assert found + in_sums == len(re.findall(r"\bfma\.", ptx))
    assert not in_sums or kernel.name == "accumulate"
    tiles = 4 if "even" in name.split("-") and kernel.name != "accumulate" else 1  # rows of UNEVEN are short
    assert found % 32 == 0 if name.startswith("low") else found == tiles * WRITTEN[kernel.name]


ROUNDED = {"bfloat16": r"cvt\.rn\.bf16(?:x2)?\.f32", "float16": r"cvt\.rn\.f16(?:x2)?\.f32"}
"""The start of an instruction that rounds to a live type: to nearest even, without clamping, with denormals."""


def check_rounding(kernel, dtype):
    """Check that these instructions, and no others, round the live weights and the values of the report."""
    to_halves = re.findall(r"\bcvt\.\S*\b(?:bf16|f16)(?:x2)?\.f32\b\S*", kernel.asm["ptx"])
    assert to_halves or dtype == "float32"
    assert all(re.fullmatch(ROUNDED[dtype], instruction) for instruction in to_halves)


def check_report(kernel, values):
    """Check the number of f64 instructions, since many GPUs have 1/64 of the f32 rate in f64: per value of a thread two
    conversions and three fma, three sums per four values, and the sums over the threads."""
    slow = re.findall(r"\b(?:fma|mul|add|cvt)\.\S*f64\S*", kernel.asm["ptx"])
    assert len(slow) <= 5 * values + 3 * (values // 4 - 1) + 23


def usage(kernel, folder):
    """Registers and bytes of stack per thread."""
    path = folder / "kernel.cubin"
    path.write_bytes(kernel.asm["cubin"])
    text = subprocess.run([TOOL, "-res-usage", path], check=True, capture_output=True, text=True).stdout
    return int(re.search(r"REG:(\d+)", text)[1]), int(re.search(r"STACK:(\d+)", text)[1])


LAUNCHES = {
    "noise-even": noise(EVEN),
    "noise-uneven": noise(UNEVEN),
    "even-bfloat16": dense(EVEN, torch.bfloat16),
    "even-float16": dense(EVEN, torch.float16),
    "even-float32": dense(EVEN, torch.float32),
    "uneven-bfloat16": dense(UNEVEN, torch.bfloat16),
    "short-bfloat16": dense(SHORT, torch.bfloat16),
    "low-rank-bfloat16": low_rank(torch.bfloat16),
    "low-rank-float16": low_rank(torch.float16),
    "low-rank-float32": low_rank(torch.float32),
}


@pytest.mark.parametrize("architecture", [80, 90])
@pytest.mark.parametrize("name", LAUNCHES)
def test_what_the_compiler_makes(compiled, tmp_path, architecture, name):
    made = compiled(architecture, LAUNCHES[name])
    assert made
    for kernel in made:
        check_arithmetic(kernel, name)
        if kernel.name in ("perturb", "round", "accumulate"):
            check_rounding(kernel, name.split("-")[-1])
        if kernel.name == "accumulate":
            check_report(kernel, values=32 if name.startswith("low") else 8)
        registers, stack = usage(kernel, tmp_path)
        assert stack == 0, f"{kernel.name} spills"
        assert registers <= 96 or name.startswith("low"), f"{kernel.name} needs {registers} registers"


@pytest.mark.parametrize("name", ["noise-uneven", "even-bfloat16", "low-rank-float16"])
def test_integers_wrap_under_triton_debug(compiled, monkeypatch, name):
    """With TRITON_DEBUG=1 an integer overflow traps, unless the launch allows it."""
    monkeypatch.setattr(triton.knobs.runtime, "debug", True)
    for kernel in compiled(80, LAUNCHES[name]):
        assert "assertfail" not in kernel.asm["ptx"], kernel.name
        assert "trap" not in kernel.asm["ptx"], kernel.name


def test_an_interpreting_triton_is_refused():
    """TRITON_INTERPRET is set in the environment before the import, or later."""
    script = """
import triton
from es_llm.errors import KernelError
from es_llm.noise.cuda import triton_kernels
try:
    triton_kernels()
except KernelError as error:
    print(error)
"""
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, env=environment)
    assert "TRITON_INTERPRET is set" in done.stdout
    assert triton_kernels()
    with triton.knobs.runtime.scope():
        triton.knobs.runtime.interpret = True
        with pytest.raises(KernelError, match="TRITON_INTERPRET is set"):
            triton_kernels()
