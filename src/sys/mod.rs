//! The operating system: folders that are held open, durable files, pieces of files, a pool of plain threads for CPU work, disk space, host names, other users, other programs, privacy of memory, where paths lead.

pub mod cpu;
pub mod disk;
pub mod durable;
pub mod folder;
pub mod host;
pub mod identity;
pub mod piece;
pub mod process;
pub mod secrecy;
pub mod steps;
pub mod within;
