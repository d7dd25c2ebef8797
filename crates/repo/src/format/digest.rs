//! Digests over a stream, computed in order on the pool while other threads compress.

use std::future::pending;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, select_all};
use hmac::digest::Update;

use walward_base::sys::cpu::{CpuPool, WorkerDied};

/// The digest of an object's content: the same whatever the object is sealed under, and in every repository.
#[derive(Default)]
pub struct ContentDigest(blake3::Hasher);

impl ContentDigest {
    /// Of nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes of the content.
    pub fn take(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The value over everything so far.
    pub fn finish(self) -> [u8; 32] {
        self.0.finalize().into()
    }
}

impl Update for ContentDigest {
    fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }
}

/// A hasher that eats what it is given, in order, one job at a time on the pool.
pub(crate) struct DigestChain<H> {
    hasher: Option<H>,
    running: Option<BoxFuture<'static, Result<H, WorkerDied>>>,
    waiting: Vec<Bytes>,
    waiting_bytes: usize,
}

impl<H: Update + Send + 'static> DigestChain<H> {
    pub(crate) fn new(hasher: H) -> Self {
        Self { hasher: Some(hasher), running: None, waiting: Vec::new(), waiting_bytes: 0 }
    }

    /// The next bytes.
    pub(crate) fn push(&mut self, bytes: Bytes) {
        self.waiting_bytes += bytes.len();
        self.waiting.push(bytes);
    }

    /// Bytes that no job has taken yet; whoever feeds the chain keeps this bounded.
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    /// Whether [`Self::turn`] has anything to do.
    pub(crate) fn is_busy(&self) -> bool {
        self.running.is_some() || !self.waiting.is_empty()
    }

    /// Takes one step: starts a job over what waits, or waits for the one that runs. Safe to drop and call again. Never
    /// ends when there is nothing to do.
    pub(crate) async fn turn(&mut self, pool: &CpuPool) -> Result<(), WorkerDied> {
        if self.running.is_none() && !self.waiting.is_empty() {
            let Some(mut hasher) = self.hasher.take() else { return Err(WorkerDied) };
            let parts = std::mem::take(&mut self.waiting);
            self.waiting_bytes = 0;
            let job = move || {
                for part in &parts {
                    hasher.update(part);
                }
                hasher
            };
            self.running = Some(pool.start(job).boxed());
        }
        match &mut self.running {
            Some(job) => {
                let result = job.await;
                self.running = None;
                self.hasher = Some(result?);
                Ok(())
            }
            None => pending().await,
        }
    }

    /// The hasher after everything.
    pub(crate) async fn finish(mut self, pool: &CpuPool) -> Result<H, WorkerDied> {
        while self.is_busy() {
            self.turn(pool).await?;
        }
        self.hasher.ok_or(WorkerDied)
    }
}

/// Takes a step with one of `chains`, several of which may be at work. Safe to drop and call again. Never ends when there is
/// nothing to do.
pub(crate) async fn turn_any<'c, H: Update + Send + 'static>(
    chains: impl Iterator<Item = &'c mut DigestChain<H>> + Send,
    pool: &CpuPool,
) -> Result<(), WorkerDied> {
    let turns: Vec<_> = chains.filter(|chain| chain.is_busy()).map(|chain| chain.turn(pool).boxed()).collect();
    if turns.is_empty() {
        return pending().await;
    }
    select_all(turns).await.0
}
