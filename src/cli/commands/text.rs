//! Shared shapes of what people read.

use comfy_table::{ContentArrangement, Table, presets};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use crate::catalogue::format_moment;

/// A moment to the second, in UTC: the zone that restores are told, too.
pub(super) fn moment(time: Timestamp) -> String {
    format_moment(time)
}

/// As [`moment`], rounded up: the first second that is not before `time`.
pub(super) fn moment_after(time: Timestamp) -> String {
    moment(whole_second_after(time))
}

fn whole_second_after(time: Timestamp) -> Timestamp {
    let whole = Timestamp::from_second(time.as_second()).unwrap_or(time);
    if whole < time { whole.checked_add(SignedDuration::from_secs(1)).unwrap_or(time) } else { whole }
}

/// A moment to the microsecond, in UTC.
pub(super) fn exact(time: Timestamp) -> String {
    time.to_zoned(TimeZone::UTC).strftime("%Y-%m-%d %H:%M:%S.%6fZ").to_string()
}

/// Whether a whole second lies between the two, so that [`moment_after`] of `from` is not later than [`moment`] of `to`.
pub(super) fn holds_second(from: Timestamp, to: Timestamp) -> bool {
    whole_second_after(from).as_second() <= to.as_second()
}

/// A table without lines; ends with a line break.
pub(super) fn table(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled).set_header(head.to_vec());
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    format!("{}\n", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_moment_that_can_be_recovered_to_is_not_shown_too_early() {
        let time: Timestamp = "2026-11-21T11:25:45.2Z".parse().unwrap();
        assert_eq!(moment(time), "2026-11-21 11:25:45Z");
        assert_eq!(moment_after(time), "2026-11-21 11:25:46Z");
        assert_eq!(moment_after("2026-11-21T11:25:45Z".parse().unwrap()), "2026-11-21 11:25:45Z");
    }
}
