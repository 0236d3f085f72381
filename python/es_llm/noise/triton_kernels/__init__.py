"""The noise and its kernels in Triton: device functions only. `es_llm.noise.cuda` checks tensors, `launch` starts them.

`docs/noise.md` is the contract and `es_llm.noise.reference` its readable form; names and steps are the same here.
Launch every kernel with enable_fp_fusion=False: no product and sum may be contracted but by tl.fma. And with
sanitize_overflow=False: integers wrap on purpose.

    normals     Philox and the normal transform
    span        the values that a program works on
    rounding    to the live type, and the count of values that aren't finite
    weights     kernels that draw noise, write live weights and digest masters
    update      the kernel that moves masters
    low_rank    the kernels of low-rank noise
    rows        the kernels that add low-rank noise to the rows of a batch

Legend: B blocks of four values per program (a power of two), N pairs, R rank.
"""

from es_llm.noise.triton_kernels import low_rank, rows, update, weights

__all__ = ["low_rank", "rows", "update", "weights"]
