"""Noise as a pure function of its address, and the kernels that put it onto weights. Importing it loads no torch.

`reference` is the readable definition in numpy, `cpu` runs the Rust kernels; both answer to the protocol in `backend`.
"""
