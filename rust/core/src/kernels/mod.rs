//! Weight kernels.
