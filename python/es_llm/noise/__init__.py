"""Noise as a pure function of its address, and the kernels that put it onto weights. Importing it loads no torch.

`reference` is the readable definition in numpy; `cpu` runs the Rust kernels, `cuda` the Triton ones, `streamed` those
with masters in host memory. All answer to the protocol in `backend`.
"""
