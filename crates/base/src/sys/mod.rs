//! The operating system: folders that are held open, file systems that may hang, durable files, pieces of files, a pool of plain threads for CPU work, disk space, host names, other users, other programs, privacy of memory, where and to whose folder paths lead, panics, bounds of the process.

pub mod cpu;
pub mod disk;
pub mod durable;
pub mod folder;
pub mod ground;
pub mod host;
pub mod identity;
pub mod living;
pub mod panics;
pub mod piece;
pub mod process;
pub mod secrecy;
pub mod shared;
pub mod steps;
pub mod whose;
pub mod within;
