//! What the manual pages say that no table knows.

/// Title and text.
type Sections = &'static [(&'static str, &'static str)];

pub(super) const AGENT: &str = "agent that archives WAL, feeds recoveries and takes base backups";

pub(super) const AGENT_LONG: &str = "\
Serves every PostgreSQL cluster of this host that walward.toml(5) names: it answers walward-wal(1), uploads WAL ahead of \
PostgreSQL's archiver, fetches WAL ahead of a recovery, and takes the base backups that walward-backup(1) asks for. It runs as \
the owner of the data directories, normally postgres.

Under systemd, walward.socket owns the socket and walward.service the agent. While the agent restarts, requests wait in the \
socket: no archive_command fails.";

pub(super) const CLIENT: &str = "\
The agent, walwardd(8), knows the cluster by the data directory that PostgreSQL runs this in. `push` ends well only when the \
file is durable as `acknowledge` of walward.toml(5) asks for; PostgreSQL may remove it then. `fetch` says that a file is \
absent only when every repository said so. Anything else stops a recovery instead of ending it early.

Where there is no agent (in a container, in a rescue system), `walward wal push` and `walward wal fetch` do the same work in one \
process; they have pages of their own.";

pub(super) const CONFIGURATION: &str = "\
`/etc/walward/walward.toml` is read first, then every `conf.d/*.toml` beside it, in the order of their names. A later file adds \
tables and keys; a key that two files set is an error, and so is an unknown one. The agent reads the files when it starts and \
at `systemctl reload walward`.

`walward setup` writes the file for the clusters of a host. `walward config check` checks it; `walward config show` prints every value \
that is in force and where it comes from.

A size is `\"64MiB\"`, `\"8 GB\"` or a number of bytes; units are powers of 1024. A duration is a whole number with a unit: \
`\"500ms\"`, `\"30s\"`, `\"10 min\"`, `\"14 days\"`. Names are 1 to 63 lower-case letters, digits, `_` and `-`. A dot in a key \
below is a table: `archive.workers` is written `archive = { workers = 4 }`.";

pub(super) const FIRST_STEPS: Sections = &[(
    "FIRST STEPS",
    "\
As root, on the host of a running PostgreSQL. The agent runs as the user postgres, so the repository, if it is a folder, must \
be that user's; the packages bring `/var/lib/walward`, which is. A repository on the database's own disk is for trying things.

1. Write the configuration, make the repository and its key, and set the server up: the role walward and its rights, its login, \
archive_command. Keep the recovery key that is printed once: with the key file lost and without it the backups cannot be read. In place of \
`file://…`, `s3://bucket/prefix` with `--access-key-id` and `--secret-access-key-file`, `gs://…` or `az://…`; `--dry-run` shows \
what would be done; walward-setup(1) says more.

    walward setup --apply --repository-url file:///var/lib/walward

2. Do what it lists as left: start the agent where it does not run, and restart PostgreSQL, because archive_mode needs it. Then once more: \
it sees a first segment arrive.

    systemctl enable --now walward
    systemctl restart postgresql
    walward setup --apply

3. See that all is well, in particular that a segment arrives. Every finding that is not OK says what to do. PostgreSQL knows postgres, so \
this is its command and not root's.

    sudo -u postgres walward check --switch-wal

4. Take a base backup, and see to which moments one can recover.

    sudo -u postgres walward backup
    sudo -u postgres walward info

5. Restore: here beside the original, to just before a mistake. On Debian it ends with a warning, because the configuration is not in \
the data directory and so not in the backup. Start the restored server with the one that is there, on another port; it fetches its WAL \
through the agent and recovers by itself.

    sudo -u postgres walward restore --target-time '2026-11-21 14:03:00+00' \\
        --target-directory /var/lib/postgresql/15/restored
    sudo -u postgres /usr/lib/postgresql/15/bin/pg_ctl start \\
        -D /var/lib/postgresql/15/restored -l /tmp/restored.log \\
        -o \"-c config_file=/etc/postgresql/15/main/postgresql.conf \\
            -c data_directory=/var/lib/postgresql/15/restored \\
            -c external_pid_file= -c port=5433\"",
)];

/// The sections of `page` after its options.
pub(super) fn of(page: &str) -> Sections {
    match page {
        "walward" => WALWARD,
        "walwardd" => WALWARDD,
        "walward-wal" => WALWARD_WAL,
        "walward.toml" => WALWARD_TOML,
        "walward-setup" => SETUP,
        "walward-check" => CHECK,
        "walward-restore" => RESTORE,
        "walward-repo-copy" => REPO_COPY,
        "walward-keys-add" => KEYS_ADD,
        "walward-completions" => COMPLETIONS,
        _ => &[],
    }
}

const WALWARD: Sections = &[
    (
        "ENVIRONMENT",
        "\
- WALWARD_CONFIG: The configuration, where `--config` does not say it.
- WALWARD_LOG: What is logged to standard error, as tracing-subscriber reads it: `debug`, or `info,walward=trace`.",
    ),
    (
        "FILES",
        "\
- /etc/walward/walward.toml: The configuration; see walward.toml(5).
- /etc/walward/conf.d/*.toml: More of it, read in the order of the names.
- /run/walward/walward.sock: The agent's socket.
- /var/spool/walward: WAL that was fetched ahead and waits for a recovery. It may be emptied while the agent is stopped.
- /var/lib/walward: A folder of the agent's user, for a repository on this host.",
    ),
];

const WALWARDD: Sections = &[
    (
        "SIGNALS",
        "\
- SIGHUP: Read the configuration again. One that is not valid changes nothing, and the log says why.
- SIGTERM, SIGINT: Stop. Uploads under way are finished, or given up after ten seconds; PostgreSQL asks again for what was \
given up.",
    ),
    (
        "LOG",
        "\
Under systemd the log goes to the journal, elsewhere to standard error:

    journalctl -u walward",
    ),
    ("EXIT STATUS", "0 after a signal to stop, 1 when it cannot start or go on, 2 for a wrong command line."),
    (
        "FILES",
        "\
- /etc/walward/walward.toml, /etc/walward/conf.d/*.toml: The configuration.
- /run/walward/walward.sock: The socket. Only root, the agent's user and the owner of a cluster may ask about that cluster.
- /var/spool/walward: WAL that was fetched ahead.",
    ),
];

const WALWARD_WAL: Sections = &[("ENVIRONMENT", "- WALWARD_SOCKET: Where the agent listens.")];

const WALWARD_TOML: Sections = &[(
    "CREDENTIALS",
    "\
A key, passphrase or secret may be a file that only root can read: systemd hands it to the agent, and `\"credential:NAME\"` stands for \
it in place of a path. walward.service takes `walward.key`, `walward.passphrase`, `walward.secret-access-key`, \
`walward.service-account` and `walward.account-key` from `/run/credstore` or `/etc/credstore` where they are there (systemd 252 or \
later); others need `LoadCredential=` in a drop-in of the unit (`systemctl edit walward`; systemd.exec(5)). systemd reads them when it starts the \
agent: after a change, `systemctl restart walward`.

A person's walward finds them in `$CREDENTIALS_DIRECTORY`, else where the running agent has them, else, as root, in `/run/credstore` and \
`/etc/credstore`.",
), (
    "EXAMPLE",
    "\
    [repository.s3]
    url = \"s3://acme-pg-backups/prod\"
    region = \"eu-central-1\"
    access_key_id = \"AKIA…\"
    secret_access_key_file = \"/etc/walward/s3.secret\"
    encryption = { key_file = \"/etc/walward/s3.key\" }

    [cluster.main]
    data_directory = \"/var/lib/postgresql/15/main\"
    connection = \"host=/var/run/postgresql user=walward dbname=postgres\"
    repositories = [\"s3\"]",
)];

const SETUP: Sections = &[(
    "EXAMPLES",
    "\
Every cluster of this host, in a folder:

    walward setup --repository-url file:///var/lib/walward

One cluster, on an S3-compatible server, without questions:

    walward setup --non-interactive --cluster main \\
        --data-directory /var/lib/postgresql/15/main \\
        --repository-url s3://backups/pg --endpoint https://s3.example.org \\
        --access-key-id KEY --secret-access-key-file /etc/walward/s3.secret",
)];

const CHECK: Sections = &[(
    "EXAMPLES",
    "\
After every change, and after the first setup:

    walward check --switch-wal

For a monitoring system:

    walward check --nagios --backup-age '26 h' --archive-age '10 min'",
)];

const RESTORE: Sections = &[
    (
        "EXAMPLES",
        "\
What would be done, without doing it:

    walward restore --dry-run

In place, to the end of the WAL, after the disk was lost: PostgreSQL is stopped, the data directory is empty.

    walward restore

To just before a mistake, beside the original; a copy archives nothing:

    walward restore --target-time '2026-11-21 14:03:00+00' \\
        --target-directory /srv/restored

A standby of the running primary:

    walward restore --standby --primary-conninfo 'host=db1 user=replicator'",
    ),
    (
        "NOTES",
        "\
The restored files belong to the user who restores; when root does, to the owner of the directory, and to postgres where that is \
root or the directory is not there yet. \
On Debian the configuration is not in the data directory but under `/etc/postgresql`: it is not a part of the backup, and the restored \
server is started with the one that is there, or with a copy of it.",
    ),
];

const REPO_COPY: Sections = &[(
    "EXAMPLE",
    "\
A second repository for a cluster that has one: write its table into walward.toml(5) and its name into `repositories`, then

    walward setup
    walward repo copy disk s3",
)];

const KEYS_ADD: Sections = &[(
    "EXAMPLE",
    "\
    walward keys add --key-file /etc/walward/second.key",
)];

const COMPLETIONS: Sections = &[("EXAMPLE", "    walward completions bash > /etc/bash_completion.d/walward")];
