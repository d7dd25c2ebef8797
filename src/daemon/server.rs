//! Connections: bounded in number, each with one request that must come soon, answered with signs of life.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, error};

use super::peer::Peer;
use super::request;
use super::services::Services;
use crate::wire::{FrameHeader, HEADER_BYTES, REQUEST_BYTES_MAX, Reply, Request};

/// Connections at the same time; more wait in the socket's backlog.
const CONNECTIONS_MAX: usize = 256;
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

/// Answers connections until `closing`; what is being answered then goes on in `tracker`.
pub async fn serve(
    listener: UnixListener,
    services: watch::Receiver<Arc<Services>>,
    tracker: TaskTracker,
    closing: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let place = tokio::select! {
            () = closing.cancelled() => return,
            place = Arc::clone(&places).acquire_owned() => place,
        };
        let accepted = tokio::select! {
            () = closing.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let services = Arc::clone(&services.borrow());
                tracker.spawn(async move {
                    let _place = place;
                    if let Err(error) = answer(stream, services).await {
                        debug!(%error, "a connection ended early");
                    }
                });
            }
            Err(error) => {
                // Out of file descriptors, mostly: wait for some to come back.
                error!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

async fn answer(mut stream: UnixStream, services: Arc<Services>) -> io::Result<()> {
    let peer = Peer { uid: stream.peer_cred()?.uid() };
    let request = tokio::time::timeout(REQUEST_DEADLINE, read_request(&mut stream)).await??;
    let (mut reader, mut writer) = stream.into_split();
    let (replies, mut waiting) = mpsc::channel(REPLIES_WAITING);
    let gone = CancellationToken::new();
    let work_gone = gone.clone();
    let work = tokio::spawn(async move { request::handle(request, peer, &services, &replies, work_gone).await });
    // The client sends nothing more; the end of its stream says that it has gone.
    let listening = tokio::spawn({
        let gone = gone.clone();
        async move {
            let mut byte = [0];
            let _ = reader.read(&mut byte).await;
            gone.cancel();
        }
    });
    let spoken: io::Result<()> = async {
        loop {
            let reply = tokio::select! {
                reply = waiting.recv() => reply,
                () = tokio::time::sleep(SIGN_OF_LIFE) => Some(Reply::Working),
            };
            let Some(reply) = reply else { return Ok(()) };
            tokio::time::timeout(WRITE_DEADLINE, writer.write_all(&reply.encode())).await??;
        }
    }
    .await;
    if spoken.is_err() {
        gone.cancel();
    }
    // A file of the spool is kept until the client has placed it, which it shows by closing the connection.
    if let Ok(Some(_file)) = work.await {
        let _ = tokio::time::timeout(PLACING_DEADLINE, gone.cancelled()).await;
    }
    listening.abort();
    spoken
}

async fn read_request(stream: &mut UnixStream) -> io::Result<Request> {
    let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
    let mut header = [0; HEADER_BYTES];
    stream.read_exact(&mut header).await?;
    let header = FrameHeader::parse(header, REQUEST_BYTES_MAX).map_err(invalid)?;
    let mut payload = vec![0; usize::try_from(header.length).map_err(io::Error::other)?];
    stream.read_exact(&mut payload).await?;
    Request::decode(header.kind, &payload).map_err(invalid)
}
