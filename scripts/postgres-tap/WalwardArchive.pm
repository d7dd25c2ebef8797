# Puts Walward in the place of cp in PostgreSQL's own tests: loaded by perl's -M before a test, it replaces what
# PostgreSQL::Test::Cluster writes as archive_command and restore_command. Every node that archives or restores gets an agent of its own,
# as every database host has one; nodes that share an archive share a repository.
#
# The lines in postgresql.conf are the ones of the README: an agent is found through WALWARD_SOCKET. What is archived is copied into
# the archive's folder as well, because some tests look into it; nothing is ever restored from there.
#
# Environment: WALWARD_TAP_BIN (the folder of the programs), WALWARD_TAP_ENCRYPTED (1 or empty).
package WalwardArchive;

use strict;
use warnings;

my %agents;    # by data directory: the process
my $ended = 0;

# Agents end after the servers: blocks of this kind run in the opposite order of their reading, and PostgreSQL's comes below.
END
{
	my $status = $?;
	$ended = 1;
	if ($status == 0 && !%agents)
	{
		print STDERR "no node of this test archived or restored with Walward\n";
		$status = 1;
	}
	for my $pid (values %agents) { kill 'TERM', $pid; }
	for my $pid (values %agents)
	{
		for (1 .. 100) { last if waitpid($pid, 1) != 0; select(undef, undef, undef, 0.1); }
		kill 'KILL', $pid;
	}
	$? = $status;
}

use File::Copy ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::RecursiveCopy;
use PostgreSQL::Test::Utils;

my $bin = $ENV{WALWARD_TAP_BIN} or die "WALWARD_TAP_BIN is not set";
my $test = ($0 =~ m{([^/]+)\.pl$}) ? $1 : $0;
# 025 archives histories and leaves segments out; what is uploaded ahead would be there all the same.
my $look_ahead = $test =~ /^025_/ ? 0 : 64;

my @nodes;    # all that archive or restore

# The repository of a node lies beside its archive's folder.
sub repository_of { my ($node) = @_; return $node->{walward_repository} //= $node->basedir . "/walward"; }

sub home_of { my ($node) = @_; return $node->basedir . "/walward-agent"; }

# A socket's path has at most 107 bytes, and those of the tests are longer.
sub socket_of
{
	my ($node) = @_;
	return $node->{walward_socket} //= PostgreSQL::Test::Utils::tempdir_short() . "/s";
}

sub walward
{
	my ($node, @words) = @_;
	return system("$bin/walward", "--config", home_of($node) . "/walward.toml", "--no-input", "--cluster", "main", @words);
}

# The configuration and, with the first node, the repository.
sub prepare
{
	my ($node) = @_;
	my ($home, $repository) = (home_of($node), repository_of($node));
	mkdir $_ for $home, "$home/spool", $repository;
	chmod 0700, $home, "$home/spool", $repository;
	my $encryption = $ENV{WALWARD_TAP_ENCRYPTED} ? "{ key_file = \"$repository/../walward.key\" }" : '"none"';
	my ($socket, $data) = (socket_of($node), $node->data_dir);
	PostgreSQL::Test::Utils::append_to_file("$home/walward.toml", <<TOML) unless -e "$home/walward.toml";
[agent]
socket = "$socket"
spool_directory = "$home/spool"

[repository.archive]
url = "file://$repository"
encryption = $encryption

[cluster.main]
data_directory = "$data"
connection = "host=@{[$node->host]} port=@{[$node->port]} dbname=postgres"
repositories = ["archive"]
archive.look_ahead = $look_ahead
TOML
	return;
}

# Starts the node's agent, unless it runs.
sub start_agent
{
	my ($node) = @_;
	my $data = $node->data_dir;
	return if $ended || $agents{$data} || !-e "$data/global/pg_control";
	prepare($node);
	walward($node, 'setup') == 0 or die "walward setup failed for node " . $node->name;
	my $log = $PostgreSQL::Test::Utils::log_path . "/walwardd-" . $node->name . ".log";
	my $pid = fork() // die "cannot fork: $!";
	if ($pid == 0)
	{
		open(STDIN, '<', '/dev/null');
		open(STDOUT, '>>', $log);
		open(STDERR, '>>', $log);
		exec("$bin/walwardd", "--config", home_of($node) . "/walward.toml") or POSIX::_exit(127);
	}
	$agents{$data} = $pid;
	my $socket = socket_of($node);
	for (1 .. 300) { return if -S $socket; select(undef, undef, undef, 0.1); }
	die "the agent of node " . $node->name . " did not start; see $log";
}

sub joins
{
	my ($node) = @_;
	push @nodes, $node unless grep { $_ == $node } @nodes;
	return;
}

sub client
{
	my ($node, @words) = @_;
	start_agent($node);
	my $data = $node->data_dir;
	return system('sh', '-c', 'cd "$1" && shift && exec "$@"', 'sh', $data, "$bin/walward-wal", '--socket',
		socket_of($node), @words);
}

# The node whose archive's folder this is.
sub node_of_archive
{
	my ($folder) = @_;
	my ($node) = grep { $_->archive_dir eq $folder } @nodes;
	return $node;
}

no warnings 'redefine';

*PostgreSQL::Test::Cluster::enable_archiving = sub {
	my ($node) = @_;
	my $copy = $node->archive_dir;
	joins($node);
	repository_of($node);
	$node->append_conf('postgresql.conf', qq(
archive_mode = on
archive_command = '$bin/walward-wal push %p && cp "%p" "$copy/%f"'
));
	return;
};

*PostgreSQL::Test::Cluster::enable_restoring = sub {
	my ($node, $root, $standby) = @_;
	joins($node);
	$node->{walward_repository} = repository_of($root);
	# pg_rewind starts restore_command itself.
	$ENV{WALWARD_SOCKET} = socket_of($node);
	$node->append_conf($node->_recovery_file, qq(
restore_command = '$bin/walward-wal fetch %f %p'
));
	# Some tests start the server themselves.
	start_agent($node);
	# The second argument is missing in some calls, and then means no, as in the original.
	$standby ? $node->set_standby_mode() : $node->set_recovery_mode();
	return;
};

# A node that is made from another's backup has its archive_command, too.
my $init_from_backup = \&PostgreSQL::Test::Cluster::init_from_backup;
*PostgreSQL::Test::Cluster::init_from_backup = sub {
	my ($node, $root, @rest) = @_;
	if ($root->{walward_repository})
	{
		joins($node);
		$node->{walward_repository} //= $root->{walward_repository};
	}
	return $init_from_backup->($node, $root, @rest);
};

# Everything that starts a server asks for its environment.
my $get_env = \&PostgreSQL::Test::Cluster::_get_env;
*PostgreSQL::Test::Cluster::_get_env = sub {
	my ($node, %changes) = @_;
	if ($node->{walward_repository})
	{
		start_agent($node);
		$changes{WALWARD_SOCKET} = socket_of($node);
	}
	return $get_env->($node, %changes);
};

# 025 has an archive_command of its own, which takes histories only.
my $append_conf = \&PostgreSQL::Test::Cluster::append_conf;
*PostgreSQL::Test::Cluster::append_conf = sub {
	my ($node, $file, $text) = @_;
	$text =~ s{^archive_command = .*cp_history_files.*$}
		{archive_command = 'case %f in *.history) $bin/walward-wal push %p;; esac'}m;
	return $append_conf->($node, $file, $text);
};

# 043 puts a file into the archive by hand.
my $copy = \&File::Copy::copy;
*File::Copy::copy = sub {
	my ($from, $to, @rest) = @_;
	if (my $node = ref $to ? undef : node_of_archive($to))
	{
		my $data = $node->data_dir;
		my ($name) = $from =~ m{^\Q$data\E/(?:pg_wal/.*)$} ? $from =~ m{([^/]+)$} : ();
		die "$from is not in the node's pg_wal" unless $name;
		return client($node, 'push', "pg_wal/$name") == 0;
	}
	return $copy->($from, $to, @rest);
};

# pg_rewind's tests move a whole pg_wal into the archive. Recycled segments in it have names that are not theirs yet, and are refused.
my $copypath = \&PostgreSQL::Test::RecursiveCopy::copypath;
*PostgreSQL::Test::RecursiveCopy::copypath = sub {
	my ($from, $to, @rest) = @_;
	if ($from =~ m{^(.*)/pg_wal$})
	{
		my $data = $1;
		my ($node) = grep { $_->data_dir eq $data && $_->archive_dir eq $to } PostgreSQL::Test::Cluster::walward_all();
		if ($node)
		{
			joins($node);
			repository_of($node);
			my @names = sort grep { /^[0-9A-F]{24}$|^[0-9A-F]{8}\.history$/ } map { s{.*/}{}r } glob("$from/*");
			client($node, 'push', "pg_wal/$_") for @names;
		}
	}
	return $copypath->($from, $to, @rest);
};

my @all;
my $new = \&PostgreSQL::Test::Cluster::new;
*PostgreSQL::Test::Cluster::new = sub { my $node = $new->(@_); push @all, $node; return $node; };
sub PostgreSQL::Test::Cluster::walward_all { return @all; }

1;
