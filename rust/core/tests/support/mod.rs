//! Shared by test binaries and fuzz targets.

pub mod frames;
pub mod reader;
