//! Connections: bounded for every user apart, each with one request that must come soon, answered with signs of life.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, error, warn};

use super::doors::{Doors, Seat, Visitor};
use super::peer::Peer;
use super::request::{self, LastWord};
use super::services::Services;
use super::throttle::Throttle;
use walward_wire::{FrameHeader, HEADER_BYTES, OnError, REQUEST_BYTES_MAX, Reply, Request};

/// How long a client may take to say what it wants.
const REQUEST_DEADLINE: Duration = Duration::from_secs(10);
/// How long a client may take to read an answer.
const WRITE_DEADLINE: Duration = Duration::from_secs(30);
/// How often a waiting client is told that the work goes on.
const SIGN_OF_LIFE: Duration = Duration::from_secs(10);
/// How long a client may take to place a file.
const PLACING_DEADLINE: Duration = Duration::from_mins(10);
/// Replies that wait for a slow client.
const REPLIES_WAITING: usize = 16;
/// As [`SIGN_OF_LIFE`], for a standby: its client takes an agent that is silent for a second for one that hangs, and for a quarter of one
/// when it was a moment before.
const SIGN_OF_LIFE_FOR_STANDBY: Duration = Duration::from_millis(100);

/// That connections are turned away.
static TURNED_AWAY: Throttle = Throttle::new();

/// Answers connections until `closing`; what is being answered then goes on in `tracker`.
pub async fn serve(
    listener: UnixListener,
    services: watch::Receiver<Arc<Services>>,
    tracker: TaskTracker,
    closing: CancellationToken,
) {
    let doors = Doors::default();
    loop {
        let accepted = tokio::select! {
            () = closing.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted.and_then(|(stream, _)| Ok((Peer { uid: stream.peer_cred()?.uid() }, stream))) {
            Ok((peer, stream)) => {
                let services = Arc::clone(&services.borrow());
                let is_known = peer.is_trusted() || services.has_owner(peer);
                let visitor = if is_known { Visitor::Known(peer.uid) } else { Visitor::Stranger };
                let Some(place) = doors.enter(visitor) else {
                    if let Some(kept_back) = TURNED_AWAY.admit(Instant::now()) {
                        warn!(
                            uid = peer.uid,
                            kept_back, "a user has too many requests under way; connections are turned away"
                        );
                    }
                    continue;
                };
                tracker.spawn(async move {
                    if let Err(error) = answer(stream, peer, &place, services).await {
                        debug!(%error, "a connection ended early");
                    }
                });
                // Those that were shown out shall be gone before more come in.
                tokio::task::yield_now().await;
            }
            Err(error) => {
                // Out of file descriptors, mostly: wait for some to come back.
                error!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

async fn answer(mut stream: UnixStream, peer: Peer, place: &Seat, services: Arc<Services>) -> io::Result<()> {
    let shown_out = || io::Error::other("it was idle, and others came");
    let request = tokio::select! {
        request = tokio::time::timeout(REQUEST_DEADLINE, read_request(&mut stream)) => request??,
        () = place.shown_out() => return Err(shown_out()),
    };
    if !place.begins_work() {
        return Err(shown_out());
    }
    let sign_of_life = match &request {
        Request::Fetch { on_error: OnError::Retry, .. } => SIGN_OF_LIFE_FOR_STANDBY,
        _ => SIGN_OF_LIFE,
    };
    let (mut reader, mut writer) = stream.split();
    let (progress, mut waiting) = mpsc::channel(REPLIES_WAITING);
    let gone = CancellationToken::new();
    let work = async { request::handle(request, peer, &services, progress, gone.clone()).await };
    let serve = async {
        let talk = async { tell(&mut writer, &mut waiting, sign_of_life).await.inspect_err(|_| gone.cancel()) };
        let (answer, told) = join(work, talk).await;
        told?;
        let Some(LastWord { reply, kept }) = answer else { return Ok(()) };
        say(&mut writer, &reply).await?;
        // A file of the spool is kept until the client has placed it, which it shows by closing the connection.
        if kept.is_some() {
            let _ = tokio::time::timeout(PLACING_DEADLINE, gone.cancelled()).await;
        }
        Ok(())
    };
    // The client sends nothing more; the end of its stream says that it has gone.
    let listen = async {
        let mut byte = [0];
        let _ = reader.read(&mut byte).await;
        gone.cancel();
        std::future::pending().await
    };
    // All of it in one task: another thread that has to be woken takes longer than what there is to do.
    tokio::select! {
        served = serve => served,
        never = listen => never,
    }
}

/// Tells the client how far its request is, or at least that it is not forgotten, until nobody has more to tell.
async fn tell(
    writer: &mut (impl AsyncWrite + Unpin),
    progress: &mut mpsc::Receiver<Reply>,
    sign_of_life: Duration,
) -> io::Result<()> {
    loop {
        let reply = tokio::select! {
            reply = progress.recv() => reply,
            () = tokio::time::sleep(sign_of_life) => Some(Reply::Working),
        };
        let Some(reply) = reply else { return Ok(()) };
        say(writer, &reply).await?;
    }
}

async fn say(writer: &mut (impl AsyncWrite + Unpin), reply: &Reply) -> io::Result<()> {
    tokio::time::timeout(WRITE_DEADLINE, writer.write_all(&reply.encode())).await?
}

async fn read_request(stream: &mut UnixStream) -> io::Result<Request> {
    let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
    let mut header = [0; HEADER_BYTES];
    stream.read_exact(&mut header).await?;
    let header = FrameHeader::parse(header, REQUEST_BYTES_MAX).map_err(invalid)?;
    // Memory comes with the bytes, not with the promise of them.
    let mut payload = Vec::new();
    stream.take(u64::from(header.length)).read_to_end(&mut payload).await?;
    if payload.len() as u64 != u64::from(header.length) {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Request::decode(header.kind, &payload).map_err(invalid)
}
