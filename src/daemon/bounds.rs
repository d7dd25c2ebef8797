//! What bounds the process, whatever configurations it has had: memory for WAL, and threads that compute. The services of an
//! old configuration, which finish what they have under way, take from the same.

use std::io;
use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::config::AgentConfig;
use walward_base::sys::cpu::CpuPool;

/// The bounds of the process.
pub struct Bounds {
    pool: CpuPool,
    memory: Arc<Semaphore>,
    /// How much there is in all, MiB.
    memory_mib: u32,
}

impl Bounds {
    /// As `config` wants them.
    pub fn new(config: &AgentConfig) -> io::Result<Self> {
        let memory_mib = mib(config.memory_bytes_max);
        let memory = Arc::new(Semaphore::new(usize::try_from(memory_mib).unwrap_or(Semaphore::MAX_PERMITS)));
        Ok(Self { pool: CpuPool::new(config.cpu_threads)?, memory, memory_mib })
    }

    /// From now on as `config` wants them. What is in use beyond the new bound is given back as it becomes free. Within a runtime.
    pub fn change(&mut self, config: &AgentConfig) -> io::Result<()> {
        if self.pool.threads() != config.cpu_threads.max(1) {
            self.pool = CpuPool::new(config.cpu_threads)?;
        }
        self.set_memory(mib(config.memory_bytes_max));
        Ok(())
    }

    /// Changes the memory alone.
    pub fn set_memory(&mut self, mib: u32) {
        if let Some(more) = mib.checked_sub(self.memory_mib) {
            self.memory.add_permits(usize::try_from(more).unwrap_or(0));
        } else {
            let less = self.memory_mib - mib;
            let forgotten = self.memory.forget_permits(usize::try_from(less).unwrap_or(0));
            let left = less.saturating_sub(u32::try_from(forgotten).unwrap_or(less));
            let memory = Arc::clone(&self.memory);
            if left > 0 {
                tokio::spawn(async move {
                    if let Ok(permits) = memory.acquire_many(left).await {
                        permits.forget();
                    }
                });
            }
        }
        self.memory_mib = mib;
    }

    /// The threads that compute.
    pub fn pool(&self) -> CpuPool {
        self.pool.clone()
    }

    /// The memory for WAL, counted in MiB, and how much there is.
    pub fn memory(&self) -> (Arc<Semaphore>, u32) {
        (Arc::clone(&self.memory), self.memory_mib)
    }
}

fn mib(bytes: u64) -> u32 {
    u32::try_from((bytes >> 20).max(1)).unwrap_or(u32::MAX).min(u32::MAX >> 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn memory_in_use_counts_whatever_configuration_gave_it_out() {
        let agent = crate::config::AgentConfig {
            socket: "/x".into(),
            spool_directory: "/x".into(),
            cpu_threads: 1,
            memory_bytes_max: 64 << 20,
            metrics_listen: None,
            log: crate::config::LogConfig {
                format: crate::config::LogFormat::Text,
                level: crate::config::LogLevel::Info,
            },
        };
        let mut bounds = Bounds::new(&agent).unwrap();
        let (memory, all) = bounds.memory();
        assert_eq!((memory.available_permits(), all), (64, 64));
        let used = Arc::clone(&memory).acquire_many_owned(60).await.unwrap();
        bounds.change(&AgentConfig { memory_bytes_max: 100 << 20, ..agent.clone() }).unwrap();
        assert_eq!((bounds.memory().0.available_permits(), bounds.memory().1), (40, 100));
        // Less than is in use: nothing is given out before enough came back.
        bounds.change(&AgentConfig { memory_bytes_max: 16 << 20, ..agent.clone() }).unwrap();
        assert_eq!((bounds.memory().0.available_permits(), bounds.memory().1), (0, 16));
        drop(used);
        for _ in 0..200 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            if memory.available_permits() == 16 {
                break;
            }
        }
        assert_eq!(memory.available_permits(), 16);
    }
}
