//! Durations as people write them: `500ms`, `90s`, `15m`, `8h`, `30d`.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A positive duration in milliseconds, at most 366 days.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Ttl(i64);

/// The reason why a text or a number is not a duration.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum TtlError {
    /// The duration is zero, negative, or over 366 days.
    #[error("duration must be positive and at most 366 days")]
    Range,
    /// The text is not a whole number with a unit.
    #[error("duration must be a whole number with a unit: ms, s, m, h or d")]
    Syntax,
}

impl Ttl {
    /// The longest duration, in milliseconds.
    const MAX_MS: i64 = 366 * 24 * 3_600_000;

    /// 30 days.
    pub const MONTH: Self = Self(30 * 24 * 3_600_000);
    /// The duration of a day.
    pub const DAY: Self = Self(24 * 3_600_000);
    /// Half a second.
    pub const HALF_SECOND: Self = Self(500);
    /// The duration of a second.
    pub const SECOND: Self = Self(1000);
    /// 30 seconds.
    pub const HALF_MINUTE: Self = Self(30_000);
    /// 15 minutes.
    pub const QUARTER_HOUR: Self = Self(900_000);
    /// The duration of an hour.
    pub const HOUR: Self = Self(3_600_000);

    /// Makes a duration from a number of milliseconds.
    ///
    /// # Errors
    ///
    /// [`TtlError::Range`] if the number is not positive or over 366 days.
    pub fn from_ms(ms: i64) -> Result<Self, TtlError> {
        if (1..=Self::MAX_MS).contains(&ms) {
            Ok(Self(ms))
        } else {
            Err(TtlError::Range)
        }
    }

    /// Parses a whole number and a unit: `ms`, `s`, `m`, `h` or `d`.
    ///
    /// # Errors
    ///
    /// [`TtlError::Syntax`] for any other text, [`TtlError::Range`] for a duration that is not
    /// positive or over 366 days.
    pub fn parse(text: &str) -> Result<Self, TtlError> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at_checked(digits).ok_or(TtlError::Syntax)?;
        let unit = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 24 * 3_600_000,
            _ => return Err(TtlError::Syntax),
        };
        if number.is_empty() {
            return Err(TtlError::Syntax);
        }
        let number: i64 = number.parse().map_err(|_| TtlError::Range)?;
        Self::from_ms(number.checked_mul(unit).ok_or(TtlError::Range)?)
    }

    /// Returns the duration in milliseconds.
    #[must_use]
    pub fn as_ms(self) -> i64 {
        self.0
    }

    /// Returns the duration as the standard library's type.
    #[must_use]
    pub fn to_std(self) -> std::time::Duration {
        std::time::Duration::from_millis(u64::try_from(self.0).unwrap_or_default())
    }
}

impl fmt::Display for Ttl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, name) in [
            (24 * 3_600_000, "d"),
            (3_600_000, "h"),
            (60_000, "m"),
            (1000, "s"),
        ] {
            if self.0 % unit == 0 {
                return write!(f, "{}{name}", self.0 / unit);
            }
        }
        write!(f, "{}ms", self.0)
    }
}

impl TryFrom<String> for Ttl {
    type Error = TtlError;
    fn try_from(text: String) -> Result<Self, TtlError> {
        Self::parse(&text)
    }
}

impl From<Ttl> for String {
    fn from(ttl: Ttl) -> Self {
        ttl.to_string()
    }
}

impl std::str::FromStr for Ttl {
    type Err = TtlError;
    fn from_str(text: &str) -> Result<Self, TtlError> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t46_no_spelling_is_immortal() {
        for bad in [
            "",
            "0s",
            "-1s",
            "1",
            "s",
            "1.5h",
            "1e9s",
            "9223372036854775807d",
            "99999999999999999999s",
            "367d",
            "1 s",
            " 1s",
            "1S",
            "٣s",
        ] {
            assert!(Ttl::parse(bad).is_err(), "{bad} was taken");
        }
        for ms in [0, -1, i64::MIN, i64::MAX, 1 << 53] {
            assert_eq!(Ttl::from_ms(ms), Err(TtlError::Range));
        }
        for good in ["1ms", "90s", "15m", "8h", "366d"] {
            assert_eq!(Ttl::parse(good).map(|t| t.to_string()).as_deref(), Ok(good));
        }
    }
}
