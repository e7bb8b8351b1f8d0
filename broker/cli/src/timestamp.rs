//! Instants as people read and write them: `2026-11-24T06:01:01Z`, whole seconds, always in UTC.
//!
//! Inside the program an instant is a count of milliseconds since 1970-01-01T00:00:00Z.

pub(crate) use sundew_broker::clock::now_ms;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The Gregorian calendar repeats itself after 400 years.
const CYCLE_YEARS: i64 = 400;
/// 400 years of the Gregorian calendar in seconds: they always have 146,097 days.
const CYCLE_SECONDS: i64 = 146_097 * 86_400;

/// Returns an instant, given in milliseconds since the epoch, as text.
///
/// Any `i64` has a text. `time` knows the years up to 9999 only; a broker may send later ones (a
/// rule that stands for ever ends in the year 144683), so the instant is moved by whole cycles of
/// the calendar into the years that `time` knows, and its year is moved back.
pub(crate) fn format_timestamp(ms: i64) -> String {
    let seconds = ms.div_euclid(1000);
    let cycles = seconds.div_euclid(CYCLE_SECONDS);
    let moved = OffsetDateTime::from_unix_timestamp(seconds.rem_euclid(CYCLE_SECONDS))
        .unwrap_or(OffsetDateTime::UNIX_EPOCH);
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z",
        i64::from(moved.year()) + cycles * CYCLE_YEARS,
        u8::from(moved.month()),
        moved.day(),
        moved.hour(),
        moved.minute(),
        moved.second()
    )
}

/// Returns the milliseconds since the epoch for a text of [`format_timestamp`], or `None` for any
/// other spelling of an instant.
pub(crate) fn parse_timestamp(text: &str) -> Option<i64> {
    let (year, rest) = text.split_once('-')?;
    let year: i64 = year.parse().ok()?;
    // The leap years of a cycle are those of the years 2000 to 2399.
    let moved = format!("{}-{rest}", 2000 + year.rem_euclid(CYCLE_YEARS));
    let moved = OffsetDateTime::parse(&moved, &Rfc3339).ok()?;
    let cycles = year.div_euclid(CYCLE_YEARS) - 2000 / CYCLE_YEARS;
    let ms = cycles
        .checked_mul(CYCLE_SECONDS)?
        .checked_add(moved.unix_timestamp())?
        .checked_mul(1000)?;
    // RFC 3339 allows fractions, offsets and leap seconds, which this program does not write.
    (format_timestamp(ms) == text).then_some(ms)
}

#[cfg(test)]
mod tests {
    use super::{format_timestamp, parse_timestamp};

    #[test]
    fn an_instant_is_written_as_its_date_in_the_gregorian_calendar() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (-1, "1969-12-31T23:59:59Z"),
            (951_782_399_999, "2000-02-28T23:59:59Z"),
            (951_782_400_000, "2000-02-29T00:00:00Z"),
            (951_868_800_000, "2000-03-01T00:00:00Z"),
            (1_709_164_800_000, "2024-02-29T00:00:00Z"),
            (1_795_500_061_000, "2026-11-24T06:01:01Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00Z"),
            (4_107_456_000_000, "2100-02-28T00:00:00Z"),
            (253_402_300_799_999, "9999-12-31T23:59:59Z"),
            (-62_167_219_200_000, "0000-01-01T00:00:00Z"),
        ] {
            assert_eq!(format_timestamp(ms), text, "{ms}");
        }
    }

    #[test]
    fn an_instant_outside_the_years_of_four_digits_is_written_too() {
        for (ms, text) in [
            (253_402_300_800_000, "10000-01-01T00:00:00Z"),
            (4_503_599_627_370_496, "144683-05-23T16:29:30Z"),
            (-62_167_219_200_001, "-001-12-31T23:59:59Z"),
            (i64::MAX, "292278994-08-17T07:12:55Z"),
            (i64::MIN, "-292275055-05-16T16:47:04Z"),
        ] {
            assert_eq!(format_timestamp(ms), text, "{ms}");
        }
    }

    #[test]
    fn the_text_of_an_instant_is_read_back() {
        for ms in [
            -62_167_219_200_000,
            -1_000,
            0,
            951_782_400_000,
            1_795_500_061_000,
            4_102_444_799_000,
            253_402_300_800_000,
            4_503_599_627_370_000,
        ] {
            assert_eq!(parse_timestamp(&format_timestamp(ms)), Some(ms));
        }
    }

    #[test]
    fn another_spelling_of_an_instant_is_refused() {
        for bad in [
            "",
            "2026-11-24",
            "2026-02-30T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-11-24T24:00:00Z",
            "2026-11-24T06:60:01Z",
            "2016-12-31T23:59:60Z",
            "2026-11-24T06:01:01.5Z",
            "2026-11-24T06:01:01+01:00",
            "2026-11-24T06:01:01+00:00",
            "2026-11-24t06:01:01z",
            "2026-11-24 06:01:01Z",
            "2026-1-24T06:01:01Z",
            "+2026-11-24T06:01:01Z",
            "26-11-24T06:01:01Z",
            "9223372036854775807-01-01T00:00:00Z",
        ] {
            assert_eq!(parse_timestamp(bad), None, "{bad}");
        }
    }
}
