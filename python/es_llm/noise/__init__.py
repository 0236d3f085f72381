"""Noise as a pure function of its address, and the kernels that add it to weights. Importing this loads no torch.

`reference` is the readable definition in numpy; `cpu` runs the Rust kernels, `cuda` the Triton kernels, `streamed` the
Triton kernels with masters in host memory. All three have the protocol of `backend`.
"""
