//! The operating system: durable files, a pool of plain threads for CPU work, disk space, host names, other programs, privacy of memory.

pub mod cpu;
pub mod disk;
pub mod durable;
pub mod host;
pub mod process;
pub mod secrecy;
pub mod steps;
