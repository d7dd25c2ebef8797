//! Progress: a bar on a terminal, a line every ten seconds elsewhere, JSON lines on request.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use serde_json::json;

use super::printer::Printer;
use walward_base::{format_bytes, format_duration};

/// How often a line is printed where no bar can be drawn.
const LINE_INTERVAL: Duration = Duration::from_secs(10);
/// How often an event is printed as JSON.
const EVENT_INTERVAL: Duration = Duration::from_secs(1);

/// Shows how far a piece of work is.
pub(super) struct Meter<'a> {
    printer: &'a Printer,
    /// The command, for the JSON schema.
    command: &'static str,
    bar: ProgressBar,
    began: Instant,
    last: Option<Instant>,
    last_message: String,
    /// Standard output takes no more.
    is_mute: bool,
}

impl<'a> Meter<'a> {
    pub(super) fn new(printer: &'a Printer, command: &'static str) -> Self {
        let bar = if printer.draws() {
            let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
            let style = "{msg} [{wide_bar}] {bytes}/{total_bytes} {bytes_per_sec} {eta}";
            bar.set_style(ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        } else {
            ProgressBar::hidden()
        };
        Self { printer, command, bar, began: Instant::now(), last: None, last_message: String::new(), is_mute: false }
    }

    /// How far it is, in bytes; `message` says what is being done, `event` is the whole fact for programs. Progress that cannot be
    /// shown ends no work: it is said once.
    pub(super) fn show(&mut self, done: u64, total: u64, message: &str, event: impl Serialize) {
        if self.printer.is_json() {
            if !self.is_mute && self.is_due(EVENT_INTERVAL) {
                let shown = self.printer.json_line(self.command, json!({ "event": "progress", "progress": event }));
                if let Err(error) = shown {
                    self.is_mute = true;
                    self.printer.warning(&format!("the work goes on without a report of its progress: {error}"));
                }
            }
            return;
        }
        if self.printer.draws() {
            self.bar.set_length(total);
            self.bar.set_position(done.min(total));
            if message != self.last_message {
                message.clone_into(&mut self.last_message);
                self.bar.set_message(message.to_owned());
            }
            return;
        }
        if message != self.last_message || self.is_due(LINE_INTERVAL) {
            message.clone_into(&mut self.last_message);
            self.last = Some(Instant::now());
            let sizes = if total > 0 {
                format!(": {} of {} ({} %)", format_bytes(done), format_bytes(total), percent(done, total))
            } else {
                String::new()
            };
            self.printer.note(&format!("{} {message}{sizes}", format_duration(self.began.elapsed())));
        }
    }

    /// Takes the bar away.
    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }

    fn is_due(&mut self, interval: Duration) -> bool {
        let due = self.last.is_none_or(|last| last.elapsed() >= interval);
        if due {
            self.last = Some(Instant::now());
        }
        due
    }
}

fn percent(done: u64, total: u64) -> u64 {
    u64::try_from(u128::from(done.min(total)) * 100 / u128::from(total.max(1))).unwrap_or(100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percents_never_pass_a_hundred() {
        assert_eq!(percent(5, 0), 0);
        assert_eq!(percent(7, 5), 100);
        assert_eq!(percent(u64::MAX / 2, u64::MAX), 49);
    }
}
