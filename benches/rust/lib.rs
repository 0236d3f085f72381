//! Benches of es-core; nothing to link against.
