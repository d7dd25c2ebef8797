//! Whether an `archive_command` archives by Walward, and exits with 0 only when that has succeeded. Pure.
//!
//! PostgreSQL forgets a segment whose command exited with 0 (`pgarch_archiveXlog`, shell_archive.c; pgarch.c up to 14). So `… || true`, `…; exit 0` and
//! `… &` lose WAL while everything looks well. The command is one for `/bin/sh -c` (POSIX shell command language, 2.10): it is followed
//! through its lists, pipes and groups, with what is known at each point: whether the push has succeeded on every way that leads there.
//! Constructs that hardly anybody writes here (`if`, `for`, `case`, `eval`, …) are not followed, and said to be so.

mod words;

use words::{Token, tokens};

/// What a command does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pushing {
    /// It exits with 0 only when Walward has the file.
    Surely(Push),
    /// It runs Walward, and may exit with 0 when Walward has not the file; why.
    Loses(&'static str),
    /// Walward does not run in it; what is there instead of a push, if anything is.
    No(Option<&'static str>),
    /// It cannot be told.
    Unclear(&'static str),
}

/// How the push is made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Push {
    /// By `walward-wal`, through the agent; else by `walward wal push`, without.
    pub by_agent: bool,
    /// The socket that it names.
    pub socket: Option<String>,
}

/// Lists in lists, and commands in `sh -c` of commands.
const DEPTH_MAX: u32 = 16;
/// Programs that run the rest of their words, and exit as that does.
const WRAPPERS: [&str; 15] = [
    "env", "nice", "ionice", "chrt", "timeout", "nohup", "exec", "command", "time", "sudo", "setpriv", "runuser",
    "stdbuf", "envdir", "flock",
];
/// Shells that take a command with `-c`.
const SHELLS: [&str; 3] = ["sh", "bash", "dash"];
/// Words that begin what is not followed.
const COMPOUND: [&str; 10] = ["if", "while", "until", "for", "case", "function", "select", "eval", "trap", "set"];

/// Judges `command` as it is configured.
pub fn pushing(command: &str) -> Pushing {
    let mut reader = Reader { tokens: tokens(command).into(), walk: Walk::default() };
    let end = reader.list(Status::begin(), 0);
    let Walk { push, lost, unclear, aside, .. } = reader.walk;
    let mentions = push.is_some() || aside.is_some();
    match (unclear, push) {
        (Some(why), _) if mentions || names_walward(command) => Pushing::Unclear(why),
        (_, None) => Pushing::No(aside.or(names_walward(command).then_some("it only mentions Walward"))),
        (_, Some(push)) if !lost && end.ok != Some(false) => Pushing::Surely(push),
        (_, Some(_)) => Pushing::Loses(reason(command)),
    }
}

/// Why the exit code is not that of the push.
fn reason(command: &str) -> &'static str {
    let tokens = tokens(command);
    let has = |operator: &str| tokens.iter().any(|token| matches!(token, Token::Operator(found) if *found == operator));
    if has("&") {
        "`&` lets it run in the background, and the shell exits with 0"
    } else if has("|") {
        "its exit code is that of what follows `|`"
    } else if has("||") {
        "what follows `||` exits with 0 when the push has failed"
    } else {
        "its exit code is that of what follows the push"
    }
}

fn names_walward(command: &str) -> bool {
    let words = command.split(|c: char| c.is_whitespace() || "'\"`;&|(){}$=".contains(c));
    words.map(base_name).any(is_walward)
}

fn is_walward(program: &str) -> bool {
    program == "walward-wal" || program == "walward"
}

fn base_name(word: &str) -> &str {
    word.rsplit('/').next().unwrap_or(word)
}

/// On which ways a point is reached: after status 0 and after another, and whether the push has succeeded on all of these ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Status {
    ok: Option<bool>,
    failed: Option<bool>,
}

impl Status {
    fn begin() -> Self {
        Self { ok: Some(false), failed: None }
    }

    const NOWHERE: Self = Self { ok: None, failed: None };

    /// Whether the push has succeeded, whatever the last status was; none when no way leads here.
    fn pushed(self) -> Option<bool> {
        both(self.ok, self.failed)
    }

    fn either(self, other: Self) -> Self {
        Self { ok: both(self.ok, other.ok), failed: both(self.failed, other.failed) }
    }
}

fn both(one: Option<bool>, other: Option<bool>) -> Option<bool> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one && other),
        (one, other) => one.or(other),
    }
}

/// What was met on the way.
#[derive(Default)]
struct Walk {
    push: Option<Push>,
    /// `exit 0` where the push may not have succeeded.
    lost: bool,
    unclear: Option<&'static str>,
    /// What is like a push and is none.
    aside: Option<&'static str>,
    /// How subshells end.
    exits: Vec<Status>,
}

struct Reader {
    tokens: std::collections::VecDeque<Token>,
    walk: Walk,
}

impl Reader {
    fn is_at(&self, operator: &str) -> bool {
        matches!(self.tokens.front(), Some(Token::Operator(found)) if *found == operator)
    }

    fn is_word(&self, word: &str) -> bool {
        matches!(self.tokens.front(), Some(Token::Word(found)) if found == word)
    }

    fn take(&mut self, operator: &str) -> bool {
        let is_at = self.is_at(operator);
        if is_at {
            self.tokens.pop_front();
        }
        is_at
    }

    /// `and-or ; and-or & …`, to a closing bracket or the end.
    fn list(&mut self, begin: Status, depth: u32) -> Status {
        let mut status = begin;
        if depth > DEPTH_MAX {
            self.walk.unclear = Some("it is nested too deep");
            self.tokens.clear();
            return status;
        }
        while !self.tokens.is_empty() && !self.is_at(")") && !self.is_word("}") {
            if self.take(";") {
                continue;
            }
            let ended = self.and_or(status, depth);
            // In the background: the shell goes on with 0, and knows nothing of how it ends.
            status = if self.take("&") { Status { ok: status.pushed(), failed: None } } else { ended };
        }
        status
    }

    fn and_or(&mut self, begin: Status, depth: u32) -> Status {
        let mut status = self.pipeline(begin, depth);
        loop {
            if self.take("&&") {
                let right = self.pipeline(Status { ok: status.ok, failed: None }, depth);
                status = Status { ok: right.ok, failed: both(status.failed, right.failed) };
            } else if self.take("||") {
                let right = self.pipeline(Status { ok: None, failed: status.failed }, depth);
                status = Status { ok: both(status.ok, right.ok), failed: right.failed };
            } else {
                return status;
            }
        }
    }

    fn pipeline(&mut self, begin: Status, depth: u32) -> Status {
        let turned = self.is_word("!");
        if turned {
            self.tokens.pop_front();
        }
        let (mut status, left) = self.apart(begin, depth);
        if self.is_at("|") {
            status = status.either(left);
        } else if left != Status::NOWHERE {
            self.exit(left);
        }
        // Each runs in a shell of its own. The last one's status counts, and no other's.
        while self.take("|") {
            let (ended, left) = self.apart(Status { ok: begin.pushed(), failed: None }, depth);
            status = ended.either(left);
        }
        if turned { Status { ok: status.failed, failed: status.ok } } else { status }
    }

    /// A command, and how a shell that has only this one would be left in it.
    fn apart(&mut self, begin: Status, depth: u32) -> (Status, Status) {
        self.walk.exits.push(Status::NOWHERE);
        let ended = self.command(begin, depth);
        (ended, self.walk.exits.pop().unwrap_or(Status::NOWHERE))
    }

    fn command(&mut self, begin: Status, depth: u32) -> Status {
        if self.take("(") {
            self.walk.exits.push(Status::NOWHERE);
            let ended = self.list(begin, depth + 1);
            self.take(")");
            return ended.either(self.walk.exits.pop().unwrap_or(Status::NOWHERE));
        }
        if self.is_word("{") {
            self.tokens.pop_front();
            let ended = self.list(begin, depth + 1);
            if self.is_word("}") {
                self.tokens.pop_front();
            }
            return ended;
        }
        let mut words = Vec::new();
        while let Some(Token::Word(word)) = self.tokens.front() {
            words.push(word.clone());
            self.tokens.pop_front();
        }
        if words.is_empty() {
            // A bracket that opens nothing: not a command that a shell takes.
            if !self.tokens.is_empty()
                && !matches!(self.tokens.front(), Some(Token::Operator(";" | "&" | "&&" | "||" | "|")))
            {
                self.tokens.pop_front();
            }
            return begin;
        }
        self.simple(&words, begin, depth)
    }

    fn simple(&mut self, words: &[String], begin: Status, depth: u32) -> Status {
        let Some(pushed) = begin.pushed() else { return Status::NOWHERE };
        let any = Status { ok: Some(pushed), failed: Some(pushed) };
        let mut socket = None;
        let mut rest = words;
        // Assignments, and programs that run the others with their own options.
        let mut wrapped = false;
        let mut replaces = false;
        while let Some((word, after)) = rest.split_first() {
            let is_assignment = word.split_once('=').is_some_and(|(name, _)| {
                !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
            });
            if let Some(value) = word.strip_prefix("WALWARD_SOCKET=") {
                socket = Some(value.to_owned());
            }
            if WRAPPERS.contains(&base_name(word)) {
                // The first program is the one that the shell itself becomes.
                replaces |= !wrapped && word == "exec" && !after.is_empty();
                wrapped = true;
            } else if !is_assignment
                && (!wrapped || SHELLS.contains(&base_name(word)) || our_push(base_name(word), after, None).is_ok())
            {
                break;
            }
            rest = after;
        }
        let Some((program, arguments)) = rest.split_first() else {
            // Assignments, or what a wrapper runs that is not followed.
            return if replaces { self.exit(any) } else { any };
        };
        let ended = self.program(program, arguments, socket, begin, depth);
        // Nothing of this shell runs after `exec`.
        if replaces { self.exit(ended) } else { ended }
    }

    /// The shell ends so.
    fn exit(&mut self, ended: Status) -> Status {
        match self.walk.exits.last_mut() {
            Some(exits) => *exits = exits.either(ended),
            None => self.walk.lost |= ended.ok == Some(false),
        }
        Status::NOWHERE
    }

    fn program(
        &mut self,
        program: &str,
        arguments: &[String],
        socket: Option<String>,
        begin: Status,
        depth: u32,
    ) -> Status {
        let Some(pushed) = begin.pushed() else { return Status::NOWHERE };
        let any = Status { ok: Some(pushed), failed: Some(pushed) };
        let name = base_name(program);
        if COMPOUND.contains(&name) {
            self.walk.unclear = Some("it has a construct of the shell that is not followed here");
            return any;
        }
        match name {
            "true" | ":" => Status { ok: Some(pushed), failed: None },
            "false" => Status { ok: None, failed: Some(pushed) },
            "exit" => {
                let last = arguments.first().map_or("$?", String::as_str);
                let ended = match last {
                    "$?" => begin,
                    "0" => Status { ok: Some(pushed), failed: None },
                    number if number.parse::<u8>().is_ok() => Status { ok: None, failed: Some(pushed) },
                    _ => any,
                };
                self.exit(ended)
            }
            _ if SHELLS.contains(&name) => self.shell(arguments, begin, depth).unwrap_or(any),
            _ if is_walward(name) => match our_push(name, arguments, socket) {
                Ok(push) => {
                    self.walk.push = Some(push);
                    Status { ok: Some(true), failed: Some(pushed) }
                }
                Err(why) => {
                    self.walk.aside = Some(why);
                    any
                }
            },
            _ => any,
        }
    }

    /// `sh -c '…'`; none when the shell is given something else, or other options.
    fn shell(&mut self, arguments: &[String], begin: Status, depth: u32) -> Option<Status> {
        let [option, script, ..] = arguments else { return None };
        if option != "-c" {
            if arguments.iter().any(|argument| names_walward(argument)) {
                self.walk.unclear = Some("it runs a shell with options that are not followed here");
            }
            return None;
        }
        let outside = std::mem::replace(&mut self.tokens, tokens(script).into());
        self.walk.exits.push(Status::NOWHERE);
        let ended = self.list(begin, depth + 1);
        self.tokens = outside;
        Some(ended.either(self.walk.exits.pop().unwrap_or(Status::NOWHERE)))
    }
}

/// Reads the words after the program; why it is no push of the segment.
fn our_push(program: &str, arguments: &[String], mut socket: Option<String>) -> Result<Push, &'static str> {
    let by_agent = program == "walward-wal";
    if !is_walward(program) {
        return Err("it runs another program");
    }
    let mut words = Vec::new();
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        match argument.split_once('=').map_or((argument.as_str(), None), |(option, value)| (option, Some(value))) {
            ("--socket", Some(value)) => socket = Some(value.to_owned()),
            ("--socket", None) => socket = arguments.next().cloned(),
            ("--cluster" | "--timeout" | "--config" | "-c" | "--repository" | "--on-error", None) => {
                arguments.next();
            }
            (option, _) if option.starts_with('-') => {}
            _ => words.push(argument.as_str()),
        }
    }
    let ((true, ["push", path]) | (false, ["wal", "push", path] | ["archive-push" | "wal-push", path])) =
        (by_agent, words.as_slice())
    else {
        return Err("it runs Walward with other words than `push %p`");
    };
    if path.contains("%p") {
        Ok(Push { by_agent, socket })
    } else if path.contains("%f") {
        Err("it pushes %f, which is the name alone, and not %p, the path")
    } else {
        Err("it does not push %p")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn is_sure(command: &str) -> bool {
        matches!(pushing(command), Pushing::Surely(_))
    }

    #[test]
    fn a_command_that_exits_as_the_push_does_is_sure() {
        for command in [
            "walward-wal push %p",
            "'/opt/wal ward/walward-wal' --socket /run/x push \"%p\" 2>>/var/log/x",
            "walward --cluster main wal push %p",
            "/usr/bin/walward archive-push %p",
            "test -f %p && walward-wal push %p",
            "walward-wal push %p && { pgbackrest --stanza=main archive-push %p; }",
            "walward-wal push %p && cp %p /mnt/%f || exit 1",
            "walward-wal push %p || exit 1",
            "walward-wal push %p || { logger failed; false; }",
            "walward-wal push %p; exit $?",
            "walward-wal push %p; exit",
            ". /etc/walward.env; walward-wal push %p",
            "WALWARD_SOCKET=/run/x timeout 60 walward-wal push %p",
            "sudo -u walward /usr/bin/walward-wal push %p",
            "sh -c 'walward-wal push %p || exit 3'",
            "nice -n 5 sh -c 'walward-wal push %p'",
            "(cd / && walward-wal push %p)",
            "exec walward-wal push %p # by the agent",
            "exec walward-wal push %p; exit 0",
            "exec nice -n 5 walward-wal push %p || true",
            "(exec walward-wal push %p; true) || exit 1",
            "test -x /opt/w/walward-wal || exit 1; exec /opt/w/walward-wal push %p; exit 0",
            "walward-wal push %p && exit 0; exit 1",
        ] {
            assert!(is_sure(command), "{command}: {:?}", pushing(command));
        }
    }

    #[test]
    fn a_command_that_may_exit_0_without_the_push_is_found() {
        for command in [
            "walward-wal push %p || true",
            "walward-wal push %p || :",
            "walward-wal push %p; exit 0",
            "walward-wal push %p; true",
            "walward-wal push %p &",
            "walward-wal push %p & wait",
            "walward-wal push %p | logger",
            "walward-wal push %p; logger done",
            "! walward-wal push %p",
            "walward-wal push %p || logger failed",
            "walward-wal push %p || (echo failed; exit 0)",
            "test -f /tmp/off || walward-wal push %p",
            "sh -c 'walward-wal push %p || true'",
            "(exec walward-wal push %p; true); true",
            "exec walward-wal push %p | cat",
            "exec walward-wal push %p &",
            "exec sh -c 'walward-wal push %p || true'",
            "nice exec walward-wal push %p; exit 0",
            "(walward-wal push %p; exit 0)",
            "((walward-wal push %p) && walward-wal push %p) && walward-wal push %p || exit 0",
            "{ walward-wal push %p || true; } && cp %p /mnt/%f",
            "walward-wal push %p\ntrue",
        ] {
            assert!(matches!(pushing(command), Pushing::Loses(_)), "{command}: {:?}", pushing(command));
        }
    }

    #[test]
    fn a_command_that_does_not_run_walward_is_no_push_of_it() {
        for (command, why) in [
            ("echo walward-wal push %p", true),
            ("true # walward-wal push %p", true),
            ("walward-wal push %f", true),
            ("walward-wal push pg_wal/%f", true),
            ("walward-wal --help", true),
            ("exit 0; walward-wal push %p", true),
            ("exec true; walward-wal push %p", true),
            ("cp %p /mnt/%f", false),
            ("", false),
        ] {
            assert!(
                matches!(pushing(command), Pushing::No(found) if found.is_some() == why),
                "{command}: {:?}",
                pushing(command)
            );
        }
        for command in [
            "if true; then walward-wal push %p; fi",
            "eval walward-wal push %p",
            "bash -o pipefail -c 'walward-wal push %p | cat'",
        ] {
            assert!(matches!(pushing(command), Pushing::Unclear(_)), "{command}: {:?}", pushing(command));
        }
    }

    #[test]
    fn the_socket_is_read() {
        let socket = |command| match pushing(command) {
            Pushing::Surely(push) => (push.by_agent, push.socket),
            other => panic!("{other:?}"),
        };
        assert_eq!(socket("walward-wal --socket /a push %p"), (true, Some("/a".to_owned())));
        assert_eq!(socket("walward-wal --socket='/a b' push %p"), (true, Some("/a b".to_owned())));
        assert_eq!(socket("WALWARD_SOCKET=/c walward-wal push %p"), (true, Some("/c".to_owned())));
        assert_eq!(socket("walward-wal push %p"), (true, None));
        assert_eq!(socket("walward wal push %p"), (false, None));
    }

    /// What a real shell says when the push fails.
    fn exits(command: &str) -> Option<i32> {
        let script = command.replace("walward-wal push %p", "sh -c 'exit 1'");
        std::process::Command::new("/bin/sh").args(["-c", &script]).output().unwrap().status.code()
    }

    fn any_command() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            3 => Just("walward-wal push %p".to_owned()),
            1 => Just("exec walward-wal push %p".to_owned()),
            1 => Just("exec false".to_owned()),
            1 => Just("true".to_owned()),
            1 => Just("false".to_owned()),
            1 => Just("exit 0".to_owned()),
            1 => Just("exit 1".to_owned()),
            1 => Just("exit $?".to_owned()),
            1 => Just(": 'a; b' # no".to_owned()),
        ];
        leaf.prop_recursive(4, 12, 2, |inner| {
            (inner.clone(), inner, 0..6).prop_map(|(one, other, how)| {
                let one = one.trim_end_matches(" # no").to_owned();
                match how {
                    0 => format!("{one} && {other}"),
                    1 => format!("{one} || {other}"),
                    2 => format!("{one}; {other}"),
                    3 => format!("({one}\n) && {other}"),
                    4 => format!("{{ {one}\n}} || {other}"),
                    _ => format!("! {{ {one}\n}}\n{other}"),
                }
            })
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn what_is_sure_never_exits_0_in_a_real_shell_when_the_push_fails(command in any_command()) {
            if is_sure(&command) {
                prop_assert_ne!(exits(&command), Some(0), "{}", command);
            }
        }

        #[test]
        fn arbitrary_text_never_panics(command: String) {
            pushing(&command);
        }
    }
}
