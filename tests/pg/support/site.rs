//! A whole site: a cluster that archives through an agent into a repository.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;

use super::agent::Agent;
use super::cluster::{Cluster, ClusterOptions, Stop};
use super::fault_proxy::FaultProxy;
use super::mount::Tmpfs;
use super::room::Room;
use super::s3::S3;
use super::versions::Version;
use super::walward::Outcome;

/// Where the repository lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreKind {
    File,
    S3,
}

/// What a site is made of.
#[derive(Debug, Clone)]
pub struct SiteOptions {
    pub version: Version,
    pub store: StoreKind,
    pub encrypted: bool,
    pub cluster: ClusterOptions,
    /// The role that the agent connects as; made when it is not `postgres`.
    pub role: &'static str,
    /// More lines for `[cluster.main]`.
    pub cluster_settings: String,
    /// More lines for `[repository.store]`.
    pub repository_settings: String,
    /// A proxy that makes faults stands before the S3 server.
    pub proxied: bool,
    /// Folders of the site (`repository`, `spool`) that are file systems of their own, and their sizes in MiB. Needs root.
    pub file_systems: Vec<(&'static str, u32)>,
}

impl Default for SiteOptions {
    fn default() -> Self {
        Self {
            version: Version::main(),
            store: StoreKind::File,
            encrypted: true,
            cluster: ClusterOptions::default(),
            role: "postgres",
            cluster_settings: String::new(),
            repository_settings: String::new(),
            proxied: false,
            file_systems: Vec::new(),
        }
    }
}

/// A cluster `main` that archives through an agent into the repository `store`. Fields are dropped in this order.
#[derive(Debug)]
pub struct Site {
    pub agent: Option<Agent>,
    pub cluster: Cluster,
    pub s3: Option<S3>,
    pub proxy: Option<FaultProxy>,
    pub config: PathBuf,
    pub socket: PathBuf,
    pub options: SiteOptions,
    /// In the order of the options.
    pub file_systems: Vec<Tmpfs>,
    pub room: Room,
}

impl Site {
    /// Everything made and written, nothing started but the S3 server.
    pub fn prepare(options: SiteOptions) -> Self {
        let room = Room::new();
        let file_systems = options.file_systems.iter().map(|(name, mib)| Tmpfs::mount(&room, name, *mib)).collect();
        let s3 = (options.store == StoreKind::S3).then(|| S3::start(&room));
        let proxy = s3.as_ref().filter(|_| options.proxied).map(S3::proxy);
        let socket = room.make_folder("run").join("walward.sock");
        let cluster = Cluster::create(&room, "main", &options.version, &options.cluster);
        let config = room.join("walward.toml");
        let site = Self { agent: None, cluster, s3, proxy, config, socket, options, file_systems, room };
        site.cluster.set("archive_mode", "on");
        site.cluster.set("archive_command", &site.archive_command());
        site.write_config(&site.config_text());
        site.set_up("main");
        site
    }

    /// Makes the repository of cluster `name`, and its key.
    pub fn set_up(&self, name: &str) {
        self.walward(&["--cluster", name, "setup"]).expect(0);
    }

    /// A running cluster with its repository, and the agent.
    pub fn start(options: SiteOptions) -> Self {
        let mut site = Self::prepare(options);
        site.cluster.start(&site.room);
        site.start_agent();
        site
    }

    pub fn archive_command(&self) -> String {
        format!("{} --socket {} push %p", self.room.program("walward-wal").display(), self.socket.display())
    }

    /// The configuration as `prepare` wrote it.
    pub fn config_text(&self) -> String {
        let mut text = String::new();
        let spool = self.room.make_folder("spool");
        writeln!(text, "[agent]\nsocket = {:?}\nspool_directory = {spool:?}\nlog.level = \"debug\"\n", self.socket)
            .unwrap();
        writeln!(text, "[repository.store]").unwrap();
        match (&self.proxy, &self.s3) {
            (Some(proxy), _) => text.push_str(&S3::settings_at(&proxy.endpoint(), "repository")),
            (None, Some(s3)) => text.push_str(&s3.settings("repository")),
            (None, None) => writeln!(text, "url = \"file://{}\"", self.repository_folder().display()).unwrap(),
        }
        if self.options.encrypted {
            writeln!(text, "encryption = {{ key_file = {:?} }}", self.key_file()).unwrap();
        } else {
            writeln!(text, "encryption = \"none\"").unwrap();
        }
        text.push_str(&self.options.repository_settings);
        writeln!(
            text,
            "\n[cluster.main]\ndata_directory = {:?}\nconnection = \"{}\"\nrepositories = [\"store\"]",
            self.cluster.data,
            self.cluster.connection(self.options.role)
        )
        .unwrap();
        text.push_str(&self.options.cluster_settings);
        text
    }

    pub fn write_config(&self, text: &str) {
        self.room.write("walward.toml", text);
    }

    /// The folder of a file repository.
    pub fn repository_folder(&self) -> PathBuf {
        self.room.make_folder("repository")
    }

    /// The key file of an encrypted repository.
    pub fn key_file(&self) -> PathBuf {
        self.room.join("store.key")
    }

    pub fn start_agent(&mut self) {
        assert!(self.agent.is_none(), "the agent runs already");
        self.agent = Some(Agent::start(&self.room, &self.config, &self.socket, &self.room.join("walwardd.log")));
    }

    pub fn stop_agent(&mut self) {
        self.agent.take().expect("an agent").stop();
    }

    /// `walward --config … arguments`, as the unprivileged user.
    pub fn walward_command(&self, arguments: &[&str]) -> Command {
        let mut command = self.room.command(self.room.program("walward"));
        command.arg("--config").arg(&self.config).arg("--no-input").args(arguments);
        command
    }

    /// Runs `walward` to its end.
    pub fn walward(&self, arguments: &[&str]) -> Outcome {
        Outcome::of(&mut self.walward_command(arguments))
    }

    /// Runs `walward-wal` to its end, in the cluster's data directory as PostgreSQL would.
    pub fn client(&self, arguments: &[&str]) -> Outcome {
        let mut command = self.room.command(self.room.program("walward-wal"));
        command.arg("--socket").arg(&self.socket).args(arguments).current_dir(&self.cluster.data);
        Outcome::of(&mut command)
    }

    /// Restores into a new folder `name` with `arguments` for the target; returns the cluster, not started.
    pub fn restore(&self, name: &str, arguments: &[&str]) -> Cluster {
        let target = self.room.join(name);
        let mut all =
            vec!["--cluster", "main", "restore", "--yes", "--target-directory", target.to_str().expect("UTF-8")];
        all.extend(arguments);
        // A copy must not archive beside the original, unless it takes its place.
        if !arguments.contains(&"--archive-mode") {
            all.extend(["--archive-mode", "off"]);
        }
        let outcome = self.walward(&all);
        // A warning is said where something cannot be checked ahead, as with a transaction's number.
        let expected = if outcome.stderr.contains("warning:") { 3 } else { 0 };
        outcome.expect(expected);
        self.verify_backup(&target);
        Cluster::adopt(&self.room, name, &self.cluster.version, target)
    }

    /// pg_verifybackup, without the WAL (which a restore fetches).
    pub fn verify_backup(&self, data: &std::path::Path) {
        let mut verify = self.room.command(self.cluster.version.program("pg_verifybackup"));
        self.room.run(verify.arg("--no-parse-wal").arg("--exit-on-error").arg(data));
    }

    /// Waits until a recovery of `cluster` has ended and it accepts writes.
    pub fn wait_promoted(&self, cluster: &Cluster) {
        super::room::eventually("the recovery ends", std::time::Duration::from_mins(2), || {
            cluster.try_sql(&self.room, "select pg_is_in_recovery()").is_ok_and(|answer| answer == "f").then_some(())
        });
    }

    /// pg_amcheck over everything; nothing to be found. PostgreSQL 14 and later; some trees come without the extension.
    pub fn amcheck(&self, cluster: &Cluster) {
        let available = "select count(*) from pg_available_extensions where name = 'amcheck'";
        if cluster.version.major < 14 || cluster.sql(&self.room, available) == "0" {
            assert_ne!(cluster.version, Version::main(), "the main version must be able to check itself");
            return;
        }
        let mut amcheck = self.room.command(cluster.version.program("pg_amcheck"));
        amcheck.args(["--install-missing", "--heapallindexed", "--username=postgres", "--all"]);
        amcheck.arg("--host").arg(&cluster.sockets);
        self.room.run(&mut amcheck);
    }

    /// Puts a file into the cluster's pg_wal, from where alone files are archived.
    pub fn put_wal(&self, name: &str, content: &[u8]) -> PathBuf {
        let file = self.cluster.wal(name);
        std::fs::write(&file, content).expect("a file in pg_wal");
        self.room.give_away(&file);
        file
    }

    /// The objects of whole WAL segments in a file repository.
    pub fn stored_segments(&self) -> Vec<PathBuf> {
        let mut folders = vec![self.repository_folder()];
        let mut found = Vec::new();
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).expect("a folder") {
                let path = entry.expect("an entry").path();
                let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                if path.is_dir() {
                    folders.push(path);
                } else if name.len() == 24 && name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                    found.push(path);
                }
            }
        }
        found
    }

    /// Stops the server of the original, as after an accident.
    pub fn destroy(&mut self) {
        self.cluster.stop(Stop::Immediate);
        std::fs::remove_dir_all(&self.cluster.data).expect("the data directory");
    }
}
