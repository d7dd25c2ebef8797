//! An upload in parts, of equal size but the last, several in flight.
//!
//! Bounds: [`BYTES_IN_FLIGHT_MAX`] bytes under way (or one part, if that is larger), one part being filled,
//! [`PARTS_MAX`] parts of [`part_bytes`]. Every part has its own deadline, attempts and place.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::task::JoinSet;
use tracing::Instrument;

use super::calls::Calls;
use super::client::tail;
use super::error::shown;
use super::part_size::{PARTS_MAX, part_bytes};
use super::time_limit::within;
use super::{ObjectKey, Payload, StoreError, Upload};
use walward_base::{ErrorClass, format_bytes};

const BYTES_IN_FLIGHT_MAX: u64 = 32 << 20;
const PARTS_IN_FLIGHT_MAX: u64 = 4;

/// The single steps of an upload at a store. Each is one attempt, without a deadline.
#[async_trait]
pub(super) trait Parts: Send + Sync + 'static {
    /// The store's URL, for messages.
    fn store_url(&self) -> &str;
    /// Writes a small object in one go, in place of what was there.
    async fn put_whole(&self, key: &ObjectKey, payload: Payload) -> Result<(), StoreError>;
    /// Begins an upload and answers its id.
    async fn begin(&self, key: &ObjectKey) -> Result<String, StoreError>;
    /// Sends part `number`, counted from 0, and answers what names it. Sent again it replaces itself.
    async fn put_part(&self, key: &ObjectKey, id: &str, number: usize, payload: Payload) -> Result<String, StoreError>;
    /// Makes the object, of `bytes` bytes in all that end with `tail`, of its parts; a success when an earlier attempt did it.
    async fn complete(
        &self,
        key: &ObjectKey,
        id: &str,
        parts: &[String],
        bytes: u64,
        tail: &Bytes,
    ) -> Result<(), StoreError>;
    /// Throws the parts away.
    async fn abort(&self, key: &ObjectKey, id: &str) -> Result<(), StoreError>;
}

/// An [`Upload`] over [`Parts`]. An object that is smaller than a part is written by one plain put.
pub(super) struct MultipartUpload {
    store: Arc<dyn Parts>,
    key: ObjectKey,
    calls: Calls,
    part_bytes: u64,
    in_flight_max: usize,
    /// Fewer than `part_bytes` bytes between calls.
    waiting: Vec<Bytes>,
    waiting_bytes: u64,
    /// The store's name for the upload, once there is one.
    id: Option<Arc<str>>,
    sending: JoinSet<(usize, Result<String, StoreError>)>,
    /// By number; empty while on its way.
    parts: Vec<String>,
    written: u64,
    /// The end of the part that was sent last.
    tail: Bytes,
    /// After an error: what was sent is no whole any more.
    broken: bool,
}

impl MultipartUpload {
    pub(super) fn new(store: Arc<dyn Parts>, key: ObjectKey, calls: Calls, expected_bytes: u64) -> Self {
        let part_bytes = part_bytes(calls.limits.part_bytes, expected_bytes);
        let in_flight = (BYTES_IN_FLIGHT_MAX / part_bytes).clamp(1, PARTS_IN_FLIGHT_MAX);
        Self {
            store,
            key,
            calls,
            part_bytes,
            in_flight_max: usize::try_from(in_flight).unwrap_or(1),
            waiting: Vec::new(),
            waiting_bytes: 0,
            id: None,
            sending: JoinSet::new(),
            parts: Vec::new(),
            written: 0,
            tail: Bytes::new(),
            broken: false,
        }
    }

    fn name(&self) -> String {
        shown(self.store.store_url(), self.key.as_str())
    }

    fn error(&self, class: ErrorClass, cause: impl Into<String>) -> StoreError {
        StoreError::new(class, "write", self.name(), cause)
    }

    /// Takes `bytes` bytes off the front of what waits.
    fn take_waiting(&mut self, bytes: u64) -> Payload {
        let mut left = bytes;
        let mut taken = Vec::new();
        let mut kept = Vec::new();
        for mut piece in std::mem::take(&mut self.waiting) {
            let length = piece.len() as u64;
            if length <= left {
                left -= length;
                taken.push(piece);
            } else if left == 0 {
                kept.push(piece);
            } else {
                taken.push(piece.split_to(usize::try_from(left).unwrap_or(piece.len())));
                left = 0;
                kept.push(piece);
            }
        }
        self.waiting = kept;
        self.waiting_bytes -= bytes - left;
        Payload(taken)
    }

    async fn id(&mut self) -> Result<Arc<str>, StoreError> {
        if let Some(id) = &self.id {
            return Ok(Arc::clone(id));
        }
        let id: Arc<str> = self.calls.call(0, &self.name(), || self.store.begin(&self.key)).await?.into();
        self.id = Some(Arc::clone(&id));
        Ok(id)
    }

    async fn send_part(&mut self, payload: Payload) -> Result<(), StoreError> {
        let number = self.parts.len();
        if number >= PARTS_MAX {
            let most = format_bytes(self.part_bytes.saturating_mul(PARTS_MAX as u64));
            let part = format_bytes(self.part_bytes);
            let cause = format!("it is larger than {most}, {PARTS_MAX} parts of {part}: set a larger part_size");
            return Err(self.error(ErrorClass::Permanent, cause));
        }
        let id = self.id().await?;
        while self.sending.len() >= self.in_flight_max {
            self.join_part().await?;
        }
        self.parts.push(String::new());
        self.tail = tail(&payload);
        let (store, key, calls, name) = (Arc::clone(&self.store), self.key.clone(), self.calls.clone(), self.name());
        let send = async move {
            let send = || store.put_part(&key, &id, number, payload.clone());
            (number, calls.call(payload.len(), &name, send).await)
        };
        self.sending.spawn(send.in_current_span());
        Ok(())
    }

    /// Waits for one of the parts that are being sent.
    async fn join_part(&mut self) -> Result<(), StoreError> {
        match self.sending.join_next().await {
            None => Ok(()),
            Some(Ok((number, sent))) => {
                let sent = sent?;
                if let Some(part) = self.parts.get_mut(number) {
                    *part = sent;
                }
                Ok(())
            }
            Some(Err(_)) => {
                Err(self.error(ErrorClass::Cancelled, "the work was given up because the process is stopping"))
            }
        }
    }

    async fn send_full_parts(&mut self) -> Result<(), StoreError> {
        while self.waiting_bytes >= self.part_bytes {
            let payload = self.take_waiting(self.part_bytes);
            self.send_part(payload).await?;
        }
        Ok(())
    }

    async fn send_rest(&mut self) -> Result<(), StoreError> {
        let payload = self.take_waiting(self.waiting_bytes);
        if self.id.is_none() {
            let name = self.name();
            let put = || self.store.put_whole(&self.key, payload.clone());
            return self.calls.call(payload.len(), &name, put).await;
        }
        if !payload.is_empty() {
            self.send_part(payload).await?;
        }
        while !self.sending.is_empty() {
            self.join_part().await?;
        }
        let id = self.id().await?;
        let complete = || self.store.complete(&self.key, &id, &self.parts, self.written, &self.tail);
        self.calls.call(self.written, &self.name(), complete).await?;
        self.id = None;
        Ok(())
    }

    /// Stops what is under way. The answer throws away what the store has of it, if it has anything: once, for what fails
    /// there is left to the bucket's lifecycle rules.
    fn give_up(&mut self) -> Option<impl Future<Output = ()> + Send + 'static> {
        self.waiting = Vec::new();
        self.waiting_bytes = 0;
        self.broken = true;
        let mut sending = std::mem::take(&mut self.sending);
        sending.abort_all();
        let id = self.id.take()?;
        let (store, key, calls) = (Arc::clone(&self.store), self.key.clone(), self.calls.clone());
        Some(async move {
            // A part that arrives after the end of its upload may stay at the store, and be paid for.
            sending.shutdown().await;
            let name = shown(store.store_url(), key.as_str());
            if let Err(error) = within(calls.limits.request_timeout, "clean up", &name, store.abort(&key, &id)).await {
                let cause = error.source.to_string();
                tracing::debug!(object = name, cause, "the store may keep parts of an abandoned upload");
            }
        })
    }
}

#[async_trait]
impl Upload for MultipartUpload {
    async fn write(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        if self.broken {
            return Err(self.error(ErrorClass::Cancelled, "an earlier part of it failed"));
        }
        // Set while under way: a write that is given up half-way leaves a hole.
        self.broken = true;
        self.written += bytes.len() as u64;
        self.waiting_bytes += bytes.len() as u64;
        self.waiting.push(bytes);
        self.send_full_parts().await?;
        self.broken = false;
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<u64, StoreError> {
        if self.broken {
            return Err(self.error(ErrorClass::Cancelled, "an earlier part of it failed"));
        }
        self.send_rest().await?;
        Ok(self.written)
    }

    async fn abort(mut self: Box<Self>) {
        if let Some(thrown_away) = self.give_up() {
            thrown_away.await;
        }
    }
}

impl Drop for MultipartUpload {
    fn drop(&mut self) {
        if let Some(thrown_away) = self.give_up()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(thrown_away.in_current_span());
        }
    }
}
