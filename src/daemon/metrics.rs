//! `/metrics` for Prometheus, on the address that the configuration names (loopback, unless somebody decides otherwise).
//! Anybody may connect: connections are bounded in number and in time.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Sleep;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::services::Services;
use super::status::snapshot;
use crate::health::render_metrics;

/// Scrapes at the same time; more wait to be accepted.
const CONNECTIONS_MAX: usize = 16;
/// How long a connection lives: as long as a slow scrape. A scraper that keeps its connection makes a new one then.
const CONNECTION_LIFE: Duration = Duration::from_secs(15);

/// Binds `address`; the returned task serves until `closing`.
pub async fn serve(
    address: SocketAddr,
    services: watch::Receiver<Arc<Services>>,
    closing: CancellationToken,
) -> anyhow::Result<impl Future<Output = ()>> {
    let listener =
        TcpListener::bind(address).await.with_context(|| format!("listen on {address} (agent.metrics_listen)"))?;
    let page = async move || {
        let services = Arc::clone(&services.borrow());
        (
            [(CONTENT_TYPE, "text/plain; version=0.0.4")],
            render_metrics(&snapshot(services.clusters.values(), &services.jobs).await),
        )
            .into_response()
    };
    let router = Router::new().route("/metrics", get(page));
    info!(%address, "metrics are served");
    Ok(async move {
        let listener = Bounded { listener, places: Arc::new(Semaphore::new(CONNECTIONS_MAX)) };
        let served = axum::serve(listener, router).with_graceful_shutdown(closing.cancelled_owned()).await;
        if let Err(error) = served {
            error!(%error, "metrics are no longer served");
        }
    })
}

/// Accepts when there is a place, and gives each connection an end.
struct Bounded {
    listener: TcpListener,
    places: Arc<Semaphore>,
}

impl Listener for Bounded {
    type Io = Mortal;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Mortal, SocketAddr) {
        let place = Arc::clone(&self.places).acquire_owned().await.ok();
        // axum's own: waits when file descriptors have run out.
        let (stream, address) = Listener::accept(&mut self.listener).await;
        (Mortal { stream, end: Box::pin(tokio::time::sleep(CONNECTION_LIFE)), _place: place }, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that fails when its time is over.
struct Mortal {
    stream: TcpStream,
    end: Pin<Box<Sleep>>,
    _place: Option<OwnedSemaphorePermit>,
}

impl Mortal {
    fn poll_end(&mut self, context: &mut TaskContext<'_>) -> io::Result<()> {
        if self.end.as_mut().poll(context).is_ready() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(()) }
    }
}

impl AsyncRead for Mortal {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut TaskContext<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_end(context)?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Mortal {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut TaskContext<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_end(context)?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        self.poll_end(context)?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
