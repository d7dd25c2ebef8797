//! The operating system: durable files, a pool of plain threads for CPU work, disk space, host names, other programs.

pub mod cpu;
pub mod disk;
pub mod durable;
pub mod host;
pub mod process;
pub mod steps;
