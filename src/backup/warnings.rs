//! What a person should know of a backup that was made nevertheless.

/// Lines for people, each once, and not more than a person reads.
#[derive(Debug, Default)]
pub struct Warnings {
    lines: Vec<String>,
    more: u64,
}

impl Warnings {
    /// How many are kept by their text.
    const LINES_MAX: usize = 100;

    /// Adds a line, and logs it.
    pub fn add(&mut self, line: String) {
        tracing::warn!("{line}");
        if self.lines.len() < Self::LINES_MAX {
            self.lines.push(line);
        } else {
            self.more += 1;
        }
    }

    /// All lines; the last says how many were not kept.
    pub fn into_lines(mut self) -> Vec<String> {
        if self.more > 0 {
            self.lines.push(format!("and {} more warnings of this kind in the log", self.more));
        }
        self.lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn their_number_is_bounded() {
        let mut warnings = Warnings::default();
        for number in 0..105 {
            warnings.add(format!("warning {number}"));
        }
        let lines = warnings.into_lines();
        assert_eq!(lines.len(), 101);
        assert_eq!(lines.last().map(String::as_str), Some("and 5 more warnings of this kind in the log"));
    }
}
