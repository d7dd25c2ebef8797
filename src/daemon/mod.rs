//! The agent: wiring only. Configuration becomes services (one a cluster), requests become calls on them.
//!
//! Order of start: configuration, log, socket, services, "ready". A store that is away does not keep the agent from
//! starting: requests are answered with the reason until it is back. Order of stop: no new connections and no look-ahead,
//! ten seconds for what is being answered, then uploads are given up; PostgreSQL asks again.
//!
//! | file | what it does |
//! |---|---|
//! | `run` | the agent's life: start, reload, stop |
//! | `listen`, `server`, `doors` | the socket, its connections, how many of each user |
//! | `peer`, `permitted` | who is on the other side, and what they may |
//! | `request`, `backup`, `jobs`, `throttle` | one request and its answer |
//! | `services`, `bounds` | one service a cluster; what bounds all of them together |
//! | `spools` | the spools of all clusters, made within a bounded time |
//! | `snapshot_cache` | what was found out for `status` |
//! | `watch`, `recovered` | what a service does by itself, beside the archive's own work |
//! | `status`, `metrics`, `log` | what the agent says of itself |

mod backup;
mod bounds;
mod doors;
mod jobs;
mod listen;
mod log;
mod metrics;
mod peer;
mod permitted;
mod recovered;
mod request;
mod run;
mod server;
mod services;
mod snapshot_cache;
mod spools;
mod status;
mod throttle;
mod watch;

pub use run::{Arguments, run};
