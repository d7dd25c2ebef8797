//! Follows a job of the agent until it has ended.

use std::ops::ControlFlow;

use anyhow::Context as _;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::agent::{self, Answer, Asked};
use super::context::Context;
use super::failure::Failure;
use super::interrupt::cancelled_by_signals;
use walward_report::Job;

/// Events that wait to be shown.
const EVENTS_WAITING: usize = 16;

/// Whether whoever follows a job also decides about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signals {
    /// Ctrl-C and SIGTERM cancel the job. It goes on when its client just vanishes: a connection that breaks is no decision.
    Cancel,
    /// They end this process only.
    Leave,
}

/// Asks for a job, or for one that runs already, and shows each report of it. Ends before the job does when `show` says so.
pub(super) async fn follow(
    context: &Context,
    request: Value,
    signals: Signals,
    mut show: impl FnMut(&Job) -> ControlFlow<Answer>,
) -> Result<Asked, Failure> {
    let cancel = CancellationToken::new();
    let (events, mut came) = mpsc::channel(EVENTS_WAITING);
    let socket = context.socket();
    let asking = tokio::task::spawn_blocking(move || {
        agent::ask(&socket, &request, |event| {
            // Nobody waits for it any more when this process ends.
            let _ = events.blocking_send(event);
            Ok(())
        })
    });
    let work = async {
        let (mut id, mut is_told) = (None, false);
        loop {
            let event = tokio::select! {
                event = came.recv() => event,
                () = cancel.cancelled(), if id.is_some() && !is_told => {
                    is_told = true;
                    let request = json!({ "op": "cancel_job", "id": id });
                    ask_once(context, request).await?;
                    continue;
                }
            };
            let Some(event) = event else { break };
            let job: Job = serde_json::from_value(event).context("cannot read the agent's report of the job")?;
            if let ControlFlow::Break(answer) = show(&job) {
                return Ok(Asked::Answered(answer));
            }
            id = Some(job.id);
        }
        asking.await.context("the agent was not asked")?
    };
    match signals {
        Signals::Cancel => cancelled_by_signals(cancel.clone(), work).await,
        Signals::Leave => work.await,
    }
}

/// Asks the agent something that it answers at once.
pub(super) async fn ask_once(context: &Context, request: Value) -> Result<Answer, Failure> {
    let socket = context.socket();
    let asked = tokio::task::spawn_blocking(move || agent::ask(&socket, &request, |_| Ok(()))).await;
    match asked.context("the agent was not asked")?? {
        Asked::Answered(answer) => Ok(answer),
        Asked::NoAgent(error) => Err(error.into()),
    }
}
