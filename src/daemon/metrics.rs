//! `/metrics` for Prometheus, on the address that the configuration names (loopback, unless somebody decides otherwise).

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::services::Services;
use super::status::snapshot;
use crate::health::render_metrics;

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
        ([(CONTENT_TYPE, "text/plain; version=0.0.4")], render_metrics(&snapshot(&services).await)).into_response()
    };
    let router = Router::new().route("/metrics", get(page));
    info!(%address, "metrics are served");
    Ok(async move {
        let served = axum::serve(listener, router).with_graceful_shutdown(closing.cancelled_owned()).await;
        if let Err(error) = served {
            error!(%error, "metrics are no longer served");
        }
    })
}
