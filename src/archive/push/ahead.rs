//! How an archiver uploads ahead of PostgreSQL: what `lead.rs` allows, in the order and the number that `look_ahead.rs` says.

use std::collections::HashSet;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::archiver::Archiver;
use super::look_ahead::{QUEUE_FILES_MAX, ReadyState, choose, places};
use super::state::Why;
use super::there::{self, Presence};
use walward_base::describe;
use walward_base::sys::ground::Ground;
use walward_pg::{ControlFile, ServerLife, WalFileName, list_ready};

impl Archiver {
    /// Uploads ready files until `closing` is cancelled: woken by [`Archiver::wake`], and by the clock so that a lost event
    /// costs nothing but time. Begins when PostgreSQL has asked for a file.
    pub async fn look_ahead(&self, closing: CancellationToken) {
        let inner = &self.0;
        loop {
            let looked_at_all = self.state().queue.is_empty();
            if looked_at_all && closing.run_until_cancelled(self.list()).await.is_none() {
                return;
            }
            if let Some(wanted) = self.start_ready() {
                tokio::select! {
                    () = closing.cancelled() => return,
                    () = self.list_there(wanted) => continue,
                }
            }
            let wait = self.pause().unwrap_or(inner.options.rescan_interval).min(inner.options.rescan_interval);
            tokio::select! {
                () = closing.cancelled() => return,
                () = inner.changed.notified() => {}
                () = tokio::time::sleep(wait) => self.state().queue.clear(),
            }
        }
    }

    /// Reads archive_status, and forgets what is no longer ready.
    async fn list(&self) {
        let pg_wal = self.pg_wal().to_path_buf();
        let look = move || {
            let ready = list_ready(&pg_wal);
            let life = pg_wal.parent().and_then(|data| ServerLife::read(data).ok().flatten());
            (ready, life)
        };
        let Some((listing, life)) = Ground::of(self.data_directory()).look(look).await else { return };
        match listing {
            Ok(ready) => {
                self.0.stats.ready_files(ready.len());
                let mut state = self.state();
                let waiting: HashSet<_> = ready.iter().copied().collect();
                state.stored.retain(|name, _| waiting.contains(name));
                state.lead.waiting(|name| waiting.contains(&name));
                let files = if state.lead.is_of(life) { QUEUE_FILES_MAX } else { 0 };
                state.queue = ready.into_iter().take(files).collect();
            }
            Err(error) => debug!(%error, "cannot list archive_status"),
        }
    }

    /// Starts what may be started. Answers a file of the folder that has to be listed before more can be.
    fn start_ready(&self) -> Option<WalFileName> {
        if self.pause().is_some() {
            return None;
        }
        let (options, needed, now) = (&self.0.options, self.needed(), Instant::now());
        let chosen = {
            let mut guard = self.state();
            let state = &mut *guard;
            let reach = options.look_ahead.min(state.lead.reach(now));
            let places = places(options.workers, reach, state.unasked(needed), state.under_way());
            let stored = |name| state.stored.get(&name).is_some_and(|stored| stored.places.len() >= needed);
            let judge = |name| match state.there.has(name, now) {
                _ if stored(name) || state.in_flight.contains_key(&name) => ReadyState::Known,
                _ if !state.lead.covers(name) => ReadyState::Beyond,
                None => ReadyState::Unlisted,
                Some(Presence::Everywhere) => ReadyState::There,
                Some(Presence::Somewhere) => ReadyState::Partly,
                Some(Presence::Nowhere) => ReadyState::New,
            };
            let unsettled = state.is_unsettled(now);
            choose(&mut state.queue, judge, unsettled, places)
        };
        for name in chosen.start {
            drop(self.start(name, Why::Ahead));
        }
        chosen.list
    }

    /// Lists the folder of `name` in the repositories.
    async fn list_there(&self, name: WalFileName) {
        let asked = Instant::now();
        let Some(log) = there::log_of(name) else { return };
        let data = self.data_directory().to_path_buf();
        let control = Ground::of(&data).look(move || ControlFile::read(&data)).await;
        let Some(Ok(control)) = control else { return self.state().rest() };
        match there::names(self.repositories(), self.0.options.acknowledge, control.lineage(), log).await {
            Ok(names) => self.state().there.listed(log, names, asked),
            Err((repository, error)) => {
                let (class, error) = (error.class(), describe(&error));
                warn!(segment = %name, repository, error_class = %class, error, "cannot list what the archive has, so that nothing is uploaded ahead");
                self.state().rest();
            }
        }
    }
}
