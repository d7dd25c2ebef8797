//! What a command left: exit code, output, errors.

use std::process::Command;

/// The end of a command.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The command, for messages.
    pub command: String,
    /// -1 when a signal ended it.
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Outcome {
    /// Runs `command` to its end.
    pub fn of(command: &mut Command) -> Self {
        let output = command.output().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        Self {
            command: format!("{command:?}"),
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Exit code `code`, or a panic that shows everything.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{}\nstdout:\n{}\nstderr:\n{}", self.command, self.stdout, self.stderr);
        self
    }

    /// A `check --json` that finds everything in order. How full the machine's own disk is is not what a test is about.
    #[track_caller]
    pub fn expect_healthy(self) -> Self {
        let in_order = |check: &serde_json::Value| {
            check["level"] == "ok" || (check["level"] == "warning" && check["check"] == "space")
        };
        if self.code == 3 && self.json()["checks"].as_array().is_some_and(|checks| checks.iter().all(in_order)) {
            return self;
        }
        self.expect(0)
    }

    /// Standard error says `text`, or a panic that shows everything.
    #[track_caller]
    pub fn says(self, text: &str) -> Self {
        let everything = format!("{}{}", self.stdout, self.stderr);
        assert!(
            everything.to_lowercase().contains(&text.to_lowercase()),
            "{}\ndoes not say {text:?}\nstdout:\n{}\nstderr:\n{}",
            self.command,
            self.stdout,
            self.stderr
        );
        self
    }

    /// Standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        let value = serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{}\nprinted no JSON: {error}\n{}", self.command, self.stdout));
        assert_documented(&value);
        value
    }

    /// Standard output as one JSON object a line.
    #[track_caller]
    pub fn json_lines(&self) -> Vec<serde_json::Value> {
        let parse = |line| -> serde_json::Value {
            serde_json::from_str(line)
                .unwrap_or_else(|error| panic!("{}\nprinted no JSON: {error}\n{line}", self.command))
        };
        let values: Vec<_> = self.stdout.lines().map(parse).collect();
        values.iter().for_each(assert_documented);
        values
    }
}

/// Every member of an answer stands in its schema's section of docs/json.md.
#[track_caller]
fn assert_documented(value: &serde_json::Value) {
    let Some(schema) = value.get("schema").and_then(serde_json::Value::as_str) else { return };
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/json.md")).unwrap();
    let section = page.split("\n## ").find(|section| section.starts_with(&format!("`{schema}`\n")));
    let section = section.unwrap_or_else(|| panic!("docs/json.md has no {schema}"));
    let mut names = Vec::new();
    members(value, &mut names);
    for name in names {
        assert!(name == "schema" || section.contains(&format!("`{name}`")), "docs/json.md: {schema} has no {name}");
    }
}

/// The names of all members, but for those of a table by error class.
fn members(value: &serde_json::Value, names: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(object) => {
            for (name, inner) in object {
                names.push(name.clone());
                if name != "failed_total" {
                    members(inner, names);
                }
            }
        }
        serde_json::Value::Array(items) => items.iter().for_each(|item| members(item, names)),
        _ => {}
    }
}
