//! A PostgreSQL cluster of one test.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;

use super::room::{Daemon, Room, eventually};
use super::versions::Version;

const PATIENCE: Duration = Duration::from_mins(1);

/// How a cluster is made.
#[derive(Debug, Clone, Default)]
pub struct ClusterOptions {
    /// Size of a WAL segment in MiB; 0 for the default (16).
    pub segment_mib: u32,
    /// Lines of postgresql.conf.
    pub settings: Vec<(String, String)>,
}

/// How a server is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Disconnects everybody, writes a checkpoint.
    Fast,
    /// As a crash: no checkpoint.
    Immediate,
    /// SIGKILL to the postmaster.
    Kill,
}

/// How a started server turned out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It accepts connections.
    Serving,
    /// It stopped by itself.
    Stopped,
}

/// A data directory, and its server while it runs. Its socket is private, its user `postgres`, authentication `trust`.
#[derive(Debug)]
pub struct Cluster {
    pub version: Version,
    pub data: PathBuf,
    pub sockets: PathBuf,
    pub log: PathBuf,
    name: String,
    server: Option<Daemon>,
}

impl Cluster {
    /// initdb; does not start it.
    pub fn create(room: &Room, name: &str, version: &Version, options: &ClusterOptions) -> Self {
        let cluster = Self::adopt(room, name, version, room.join(name));
        let mut initdb = room.command(version.program("initdb"));
        initdb.args(["--no-sync", "--data-checksums", "--auth=trust", "--username=postgres", "--encoding=UTF8"]);
        initdb.arg("--locale=C").arg("--pgdata").arg(&cluster.data);
        if options.segment_mib > 0 {
            initdb.arg(format!("--wal-segsize={}", options.segment_mib));
        }
        room.run(&mut initdb);
        // Speed: these clusters never see a power cut, and a crash of the server alone needs no fsync.
        for (name, value) in [
            ("fsync", "off"),
            ("listen_addresses", ""),
            ("shared_buffers", "32MB"),
            ("max_wal_size", "256MB"),
            ("log_checkpoints", "off"),
            ("timezone", "UTC"),
            ("log_timezone", "UTC"),
        ] {
            cluster.set(name, value);
        }
        for (name, value) in &options.settings {
            cluster.set(name, value);
        }
        cluster
    }

    /// A data directory that somebody else made (a restore).
    pub fn adopt(room: &Room, name: &str, version: &Version, data: PathBuf) -> Self {
        let sockets = room.make_folder(&format!("{name}.s"));
        let log = room.write(&format!("{name}.log"), "");
        Self { version: version.clone(), data, sockets, log, name: name.to_owned(), server: None }
    }

    /// Appends a setting to postgresql.conf.
    pub fn set(&self, name: &str, value: &str) {
        let file = self.data.join("postgresql.conf");
        let mut text = fs::read_to_string(&file).expect("postgresql.conf");
        writeln!(text, "{name} = '{}'", value.replace('\'', "''")).expect("a line");
        fs::write(&file, text).expect("postgresql.conf");
    }

    /// Libpq's words for a connection as `user`.
    pub fn connection(&self, user: &str) -> String {
        format!("host={} user={user} dbname=postgres", self.sockets.display())
    }

    /// Starts the server and waits until it accepts connections.
    pub fn start(&mut self, room: &Room) {
        assert_eq!(self.start_and_see(room, PATIENCE), Ended::Serving, "{} stopped:\n{}", self.name, self.log_text());
    }

    /// Starts the server and waits until it accepts connections or stops.
    pub fn start_and_see(&mut self, room: &Room, patience: Duration) -> Ended {
        self.spawn(room);
        let (psql, server) = (self.psql_command(room, "postgres"), self.server.as_mut().expect("a server"));
        let mut psql = psql;
        psql.args(["-c", "select 1"]);
        let ended = eventually(&format!("{} starts or stops", self.name), patience, || {
            if server.ended().is_some() {
                return Some(Ended::Stopped);
            }
            psql.output().is_ok_and(|output| output.status.success()).then_some(Ended::Serving)
        });
        if ended == Ended::Stopped {
            self.server = None;
        }
        ended
    }

    /// Starts the server and returns at once.
    pub fn spawn(&mut self, room: &Room) {
        assert!(self.server.is_none(), "{} runs already", self.name);
        let mut postgres = room.command(self.version.program("postgres"));
        postgres.arg("-D").arg(&self.data).arg("-k").arg(&self.sockets);
        self.server = Some(Daemon::start(&self.name, postgres, &self.log, Signal::QUIT));
    }

    /// Stops the server, if it runs, and waits for its end.
    pub fn stop(&mut self, how: Stop) {
        let Some(mut server) = self.server.take() else { return };
        server.signal(match how {
            Stop::Fast => Signal::INT,
            Stop::Immediate => Signal::QUIT,
            Stop::Kill => Signal::KILL,
        });
        server.wait(PATIENCE);
        if how == Stop::Kill {
            // Its children notice within a moment; the socket and postmaster.pid stay as after a crash.
            eventually("the killed server's children end", PATIENCE, || {
                (!any_process_mentions(&self.data)).then_some(())
            });
        }
    }

    pub fn runs(&mut self) -> bool {
        self.server.as_mut().is_some_and(|server| server.ended().is_none())
    }

    /// Waits until the server has ended by itself.
    pub fn wait_stopped(&mut self, patience: Duration) {
        self.server.take().expect("a server").wait(patience);
    }

    /// Waits for a server's end, if it has not ended already.
    pub fn wait_stopped_if_running(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.wait(PATIENCE);
        }
    }

    fn psql_command(&self, room: &Room, user: &str) -> Command {
        let mut psql = room.command(self.version.program("psql"));
        psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", &self.connection(user)]);
        psql
    }

    /// Runs SQL that must succeed; returns the rows, fields joined by `|`.
    pub fn sql(&self, room: &Room, sql: &str) -> String {
        room.run(self.psql_command(room, "postgres").args(["-c", sql])).trim_end().to_owned()
    }

    /// Runs SQL; what it printed, or its error.
    pub fn try_sql(&self, room: &Room, sql: &str) -> Result<String, String> {
        let output = self.psql_command(room, "postgres").args(["-c", sql]).output().expect("psql");
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    /// The server's clock, as RFC 3339 with microseconds.
    pub fn now(&self, room: &Room) -> String {
        let now = r#"select to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"#;
        self.sql(room, now)
    }

    /// A line of pg_controldata.
    pub fn control(&self, room: &Room, label: &str) -> String {
        let text = room.run(room.command(self.version.program("pg_controldata")).arg("-D").arg(&self.data));
        let line = text.lines().find_map(|line| line.strip_prefix(label)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("no {label:?} in {text}")).trim().to_owned()
    }

    /// Ends the current WAL segment (if anything is in it) and returns its file name.
    pub fn switch_wal(&self, room: &Room) -> String {
        // A record first, so that there is something to switch away from.
        self.sql(room, "select pg_create_restore_point('switch')");
        self.sql(room, "select pg_walfile_name(pg_switch_wal())")
    }

    /// Waits until everything that was ever ready is archived up to `segment`.
    pub fn wait_archived(&self, room: &Room, segment: &str) {
        let query = format!(
            "select coalesce(last_archived_wal, '') >= '{segment}', coalesce(last_archived_wal, '-'), failed_count from pg_stat_archiver"
        );
        eventually(&format!("{segment} is archived"), Duration::from_mins(2), || {
            self.sql(room, &query).starts_with("t|").then_some(())
        });
    }

    /// Everything that the tables hold, as one line a table: name, rows, checksum over all rows in any order.
    pub fn fingerprint(&self, room: &Room, tables: &[&str]) -> String {
        tables
            .iter()
            .map(|table| {
                let sum = format!(
                    "select '{table}', count(*), coalesce(sum(hashtextextended(t::text, 42)::numeric), 0) from {table} t"
                );
                self.sql(room, &sum)
            })
            .collect::<Vec<_>>()
            .join("\n")
    }

    /// pgbench with `arguments` on the database `postgres`.
    pub fn pgbench(&self, room: &Room, arguments: &[&str]) {
        room.run(&mut self.pgbench_command(room, arguments));
    }

    /// pgbench in the background; wait for it with [`Daemon::wait`].
    pub fn pgbench_in_background(&self, room: &Room, arguments: &[&str]) -> Daemon {
        let log = room.join(format!("{}.pgbench.log", self.name));
        Daemon::start("pgbench", self.pgbench_command(room, arguments), &log, Signal::TERM)
    }

    fn pgbench_command(&self, room: &Room, arguments: &[&str]) -> Command {
        let mut pgbench = room.command(self.version.program("pgbench"));
        pgbench.args(["-h", self.sockets.to_str().expect("UTF-8"), "-U", "postgres"]).args(arguments).arg("postgres");
        pgbench
    }

    pub fn log_text(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// A file in `pg_wal`.
    pub fn wal(&self, name: &str) -> PathBuf {
        self.data.join("pg_wal").join(name)
    }

    /// The files in archive_status with this suffix (`ready`, `done`), in the order of their names.
    pub fn archive_status(&self, suffix: &str) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.wal("archive_status"))
            .expect("archive_status")
            // One may be renamed while it is looked at.
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter_map(|name| Some(name.strip_suffix(suffix)?.strip_suffix('.')?.to_owned()))
            .collect();
        names.sort();
        names
    }

    /// Asserts that the server's log has `text` in it.
    pub fn assert_logged(&self, text: &str) {
        let log = self.log_text();
        assert!(log.contains(text), "{text:?} is not in the log of {}:\n{log}", self.name);
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Not gracefully: archiving at shutdown would wait for an agent that may be gone.
        if let Some(server) = self.server.take() {
            drop(server);
        }
    }
}

fn any_process_mentions(data: &Path) -> bool {
    let Ok(processes) = fs::read_dir("/proc") else { return false };
    processes
        .flatten()
        .any(|process| fs::read_link(process.path().join("cwd")).is_ok_and(|directory| directory == data))
}
