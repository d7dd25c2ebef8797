//! The agent: wiring only. Configuration becomes services (one a cluster), requests become calls on them.
//!
//! Order of start: configuration, log, socket, services, "ready". A store that is away does not keep the agent from
//! starting: requests are answered with the reason until it is back. Order of stop: no new connections and no look-ahead,
//! ten seconds for what is being answered, then uploads are given up; PostgreSQL asks again.

mod backup;
mod bounds;
mod doors;
mod kept;
mod listen;
mod log;
mod metrics;
mod peer;
mod recovered;
mod request;
mod run;
mod server;
mod services;
mod status;
mod throttle;
mod watch;

pub use run::{Arguments, run};
