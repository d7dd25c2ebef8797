//! Moments as people type them, and as PostgreSQL reads them.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, Offset, TimeZone};

/// Why a text does not name one moment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TimeError {
    /// No zone: it would mean another moment on another machine.
    #[error("{0:?} has no time zone; write it as \"2026-11-21 14:03:00+00\" or \"2026-11-21 14:03:00 Europe/Berlin\"")]
    NoZone(String),
    /// Not a date and a time.
    #[error("{0:?} is not a date and time; write it as \"2026-11-21 14:03:00+00\"")]
    Syntax(String),
    /// A zone that this machine does not know.
    #[error("{zone:?} is not a time zone known here; write an offset instead, as in \"2026-11-21 14:03:00+00\"")]
    UnknownZone {
        /// What stood in the zone's place.
        zone: String,
    },
    /// `CET` and its like are an offset to PostgreSQL, and a place with summer time to others.
    #[error(
        "{zone:?} is an abbreviation, which not everybody takes for the same offset in summer; write the offset, as in \"{example}\", \
         or a place, as in \"Europe/Berlin\""
    )]
    Abbreviation {
        /// What stood in the zone's place.
        zone: String,
        /// The moment with an offset.
        example: String,
    },
    /// The clocks were put back or forward over it.
    #[error("{text:?} happened {times} in {zone}, where the clocks changed; write the offset, as in \"{example}\"")]
    Ambiguous {
        /// What was given.
        text: String,
        /// "twice" or "never".
        times: &'static str,
        /// The zone.
        zone: String,
        /// The same with an offset.
        example: String,
    },
}

/// Reads a date, a time and a zone: `2026-11-21 14:03:00+00`, RFC 3339, `… UTC`, `… Europe/Berlin`.
pub fn parse_time(text: &str) -> Result<Timestamp, TimeError> {
    let syntax = || TimeError::Syntax(text.to_owned());
    let trimmed = text.trim();
    let (date, rest) = trimmed.split_once(['T', 't', ' ']).ok_or_else(syntax)?;
    let rest = rest.trim_start();
    let clock_end = rest.find(|c: char| !c.is_ascii_digit() && c != ':' && c != '.').unwrap_or(rest.len());
    let (clock, zone) = rest.split_at(clock_end);
    if !clock.contains(':') {
        return Err(syntax());
    }
    let moment: DateTime = format!("{date}T{clock}").parse().map_err(|_| syntax())?;
    let zone = zone.trim();
    if zone.is_empty() {
        return Err(TimeError::NoZone(text.to_owned()));
    }
    if ["z", "utc", "gmt"].contains(&zone.to_ascii_lowercase().as_str()) {
        return Offset::UTC.to_timestamp(moment).map_err(|_| syntax());
    }
    if zone.starts_with(['+', '-']) {
        let offset = parse_offset(zone).ok_or_else(syntax)?;
        return offset.to_timestamp(moment).map_err(|_| syntax());
    }
    let unknown = || TimeError::UnknownZone { zone: zone.to_owned() };
    let place = TimeZone::get(zone).map_err(|_| unknown())?;
    if is_abbreviation(place.iana_name().unwrap_or(zone)) {
        return Err(TimeError::Abbreviation { zone: zone.to_owned(), example: format!("{date} {clock}+01") });
    }
    let ambiguous = place.to_ambiguous_timestamp(moment);
    let confusion = |times, offset: Offset| TimeError::Ambiguous {
        text: text.to_owned(),
        times,
        zone: zone.to_owned(),
        example: format!("{date} {clock}{}", numeric_offset(offset)),
    };
    match ambiguous.offset() {
        AmbiguousOffset::Unambiguous { .. } => ambiguous.unambiguous().map_err(|_| syntax()),
        AmbiguousOffset::Fold { after, .. } => Err(confusion("twice", after)),
        AmbiguousOffset::Gap { after, .. } => Err(confusion("never", after)),
    }
}

/// Whether the name of a zone is no place (`Europe/Berlin`, `Japan`) but letters alone (`CET`, `EST5EDT`). PostgreSQL takes most of
/// these for a fixed offset (src/timezone/tznames/Default), the time zone database for a place where the clocks change.
fn is_abbreviation(name: &str) -> bool {
    !name.contains('/') && !name.bytes().any(|byte| byte.is_ascii_lowercase())
}

/// `+00`, `-05:30`, `+0530`.
fn parse_offset(text: &str) -> Option<Offset> {
    let (sign, digits) = match text.split_at_checked(1)? {
        ("+", digits) => (1, digits),
        ("-", digits) => (-1, digits),
        _ => return None,
    };
    let two = |part: &str| {
        (part.len() == 2 && part.bytes().all(|b| b.is_ascii_digit())).then(|| part.parse::<i32>().ok()).flatten()
    };
    let (hours, minutes) = match digits.len() {
        1 => (digits.parse::<u8>().ok().map(i32::from)?, 0),
        2 => (two(digits)?, 0),
        4 => (two(digits.get(..2)?)?, two(digits.get(2..)?)?),
        5 if digits.get(2..3) == Some(":") => (two(digits.get(..2)?)?, two(digits.get(3..)?)?),
        _ => return None,
    };
    // PostgreSQL's own limit is a little under 16 hours (MAX_TZDISP_HOUR, src/include/datatype/timestamp.h).
    (hours <= 15 && minutes <= 59).then(|| Offset::from_seconds(sign * (hours * 3600 + minutes * 60)).ok()).flatten()
}

fn numeric_offset(offset: Offset) -> String {
    let seconds = offset.seconds();
    let (sign, minutes) = (if seconds < 0 { '-' } else { '+' }, seconds.abs() / 60);
    format!("{sign}{:02}:{:02}", minutes / 60, minutes % 60)
}

/// `time` in UTC with an explicit numeric zone, as `recovery_target_time` takes it: PostgreSQL keeps microseconds.
pub fn format_time(time: Timestamp) -> String {
    let fraction = if time.subsec_nanosecond() == 0 { "" } else { "%.6f" };
    time.strftime(&format!("%Y-%m-%d %H:%M:%S{fraction}+00")).to_string()
}

/// A moment to the second, in UTC: the zone that restores are told, too.
pub fn format_moment(time: Timestamp) -> String {
    time.to_zoned(TimeZone::UTC).strftime("%Y-%m-%d %H:%M:%SZ").to_string()
}

/// A commit time of the archive (microseconds since the Unix epoch), for people.
pub fn format_microseconds(microseconds: i64) -> String {
    Timestamp::from_microsecond(microseconds).map_or_else(|_| format!("{microseconds} µs"), format_time)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a timestamp")
    }

    #[test]
    fn a_moment_with_a_zone_is_read() {
        for (text, moment) in [
            ("2026-11-21 14:03:00+00", "2026-11-21T14:03:00Z"),
            ("2026-11-21 14:03:00+01", "2026-11-21T13:03:00Z"),
            ("2026-11-21 14:03:00.25 -05:30", "2026-11-21T19:33:00.25Z"),
            ("2026-11-21 14:03+0530", "2026-11-21T08:33:00Z"),
            ("2026-11-21T14:03:00Z", "2026-11-21T14:03:00Z"),
            ("2026-11-21T14:03:00+02:00", "2026-11-21T12:03:00Z"),
            ("2026-11-21 14:03:00 UTC", "2026-11-21T14:03:00Z"),
        ] {
            assert_eq!(parse_time(text), Ok(at(moment)), "{text}");
        }
    }

    #[test]
    fn a_moment_without_a_zone_is_refused_with_an_example() {
        for text in ["2026-11-21 14:03:00", "2026-11-21T14:03:00", "2026-11-21 14:03"] {
            let error = parse_time(text).expect_err(text);
            assert_eq!(error, TimeError::NoZone(text.to_owned()));
            assert!(error.to_string().contains("14:03:00+00"), "{error}");
        }
    }

    #[test]
    fn what_is_not_a_moment_is_refused() {
        for text in [
            "",
            "now",
            "2026-11-21",
            "2026-11-21+00",
            "14:03:00+00",
            "2026-13-01 10:00:00+00",
            "2026-11-21 14:03:00+99",
        ] {
            assert!(matches!(parse_time(text), Err(TimeError::Syntax(_))), "{text}");
        }
        assert!(matches!(parse_time("2026-11-21 14:03:00 Mars/Olympus"), Err(TimeError::UnknownZone { .. })));
    }

    #[test]
    fn an_abbreviation_that_may_be_two_offsets_is_refused() {
        for zone in ["CET", "cet", "EET", "MET", "WET", "EST", "MST", "EST5EDT"] {
            let text = format!("2026-07-21 14:03:00 {zone}");
            let error = parse_time(&text).expect_err(zone);
            assert!(matches!(error, TimeError::Abbreviation { .. }), "{error}");
            assert!(error.to_string().contains("2026-07-21 14:03:00+01"), "{error}");
        }
        // No zone at all to the time zone database.
        for zone in ["CEST", "PST", "EDT"] {
            assert!(parse_time(&format!("2026-07-21 14:03:00 {zone}")).is_err(), "{zone}");
        }
        for (zone, moment) in [("Japan", "2026-07-21T05:03:00Z"), ("UTC", "2026-07-21T14:03:00Z")] {
            assert_eq!(parse_time(&format!("2026-07-21 14:03:00 {zone}")), Ok(at(moment)), "{zone}");
        }
    }

    #[test]
    fn the_hour_that_comes_twice_needs_an_offset() {
        assert_eq!(parse_time("2026-11-21 14:03:00 Europe/Berlin"), Ok(at("2026-11-21T13:03:00Z")));
        for (text, times) in
            [("2026-10-25 02:30:00 Europe/Berlin", "twice"), ("2026-03-29 02:30:00 Europe/Berlin", "never")]
        {
            let error = parse_time(text).expect_err(text);
            assert!(error.to_string().contains(times), "{error}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text: String) {
            let _ = parse_time(&text);
        }

        #[test]
        fn printed_and_read_again(microseconds in 0i64..4_102_444_800_000_000) {
            let time = Timestamp::from_microsecond(microseconds).expect("in range");
            prop_assert_eq!(parse_time(&format_time(time)), Ok(time));
        }
    }
}
