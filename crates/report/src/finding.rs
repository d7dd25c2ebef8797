//! What a check found.

use serde::{Deserialize, Serialize};

/// How it stands. Ordered: the worst is the greatest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Nothing is wrong.
    Ok,
    /// It works, and somebody should look at it.
    Warning,
    /// It does not work.
    Failed,
}

impl Level {
    /// For people.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Warning => "WARNING",
            Self::Failed => "FAILED",
        }
    }
}

/// One check's result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Finding {
    /// The check's name.
    pub check: String,
    /// The cluster, or cluster and repository, that it is about.
    pub about: Option<String>,
    /// How it stands.
    pub level: Level,
    /// What was found.
    pub text: String,
    /// What to do.
    pub advice: Option<String>,
}

impl Finding {
    /// The check and what it is about.
    pub fn name(&self) -> String {
        match &self.about {
            Some(about) => format!("{} ({about})", self.check),
            None => self.check.clone(),
        }
    }
}

/// All that was checked, in the order in which it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Findings {
    /// Whether nothing failed; there may be warnings.
    pub ok: bool,
    /// The results.
    pub checks: Vec<Finding>,
}

impl Default for Findings {
    /// None yet.
    fn default() -> Self {
        Self { ok: true, checks: Vec::new() }
    }
}

impl Findings {
    /// The worst of them.
    pub fn worst(&self) -> Level {
        self.checks.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok)
    }

    /// Nothing is wrong.
    pub fn ok(&mut self, check: &str, about: Option<&str>, text: impl Into<String>) {
        self.add(check, about, Level::Ok, text.into(), None);
    }

    /// It works, and somebody should look at it.
    pub fn warning(&mut self, check: &str, about: Option<&str>, text: impl Into<String>, advice: Option<&str>) {
        self.add(check, about, Level::Warning, text.into(), advice);
    }

    /// It does not work.
    pub fn failed(&mut self, check: &str, about: Option<&str>, text: impl Into<String>, advice: Option<&str>) {
        self.add(check, about, Level::Failed, text.into(), advice);
    }

    fn add(&mut self, check: &str, about: Option<&str>, level: Level, text: String, advice: Option<&str>) {
        let (check, about, advice) = (check.to_owned(), about.map(str::to_owned), advice.map(str::to_owned));
        self.ok &= level < Level::Failed;
        self.checks.push(Finding { check, about, level, text, advice });
    }
}
