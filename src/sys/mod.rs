//! The operating system: durable files, a pool of plain threads for CPU work, disk space, host names.

pub mod cpu;
pub mod durable;
