//! A configuration that holds, and how it came to be.

use std::path::PathBuf;

use super::problem::Problem;
use super::scope::Setting;
use super::values::Config;

/// A configuration that holds, and how it came to be.
#[derive(Debug)]
pub struct Loaded {
    /// The resolved values.
    pub config: Config,
    /// Every value with its origin, in the order of the reference; secrets hidden.
    pub settings: Vec<Setting>,
    /// What is allowed but unwise.
    pub warnings: Vec<Problem>,
    /// The files that were read, in order.
    pub files: Vec<PathBuf>,
}
