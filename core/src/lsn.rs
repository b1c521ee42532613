//! Positions in the write-ahead log.

use std::fmt;
use std::str::FromStr;

/// A position in the write-ahead log, written as Postgres writes a `pg_lsn`: `16/B374D848`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

/// The text is not a [`Lsn`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a position in the write-ahead log")]
pub struct NotLsn;

impl FromStr for Lsn {
    type Err = NotLsn;

    /// Two hexadecimal numbers of 1 to 8 digits with a slash between, as the type `pg_lsn` reads them.
    fn from_str(text: &str) -> Result<Self, NotLsn> {
        let half = |digits: &str| {
            // A sign is read by from_str_radix too.
            let valid = digits.len() <= 8 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
            u32::from_str_radix(digits, 16).ok().filter(|_| valid).ok_or(NotLsn)
        };
        let (high, low) = text.split_once('/').ok_or(NotLsn)?;
        Ok(Self(u64::from(half(high)?) << 32 | u64::from(half(low)?)))
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 as u32)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn it_reads_what_postgres_reads() {
        assert_eq!("16/B374D848".parse(), Ok(Lsn(0x16_B374_D848)));
        assert_eq!("0/0".parse(), Ok(Lsn(0)));
        assert_eq!("ffffffff/0000000a".parse(), Ok(Lsn(0xFFFF_FFFF_0000_000A)));
        for wrong in ["", "/", "16", "16/", "/16", "+1/2", "1/-2", "1/2/3", "123456789/0", "g/0", " 1/2", "1/2 "] {
            assert_eq!(wrong.parse::<Lsn>(), Err(NotLsn), "{wrong}");
        }
        assert_eq!(Lsn(0x16_0374_D848).to_string(), "16/374D848");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(position: u64) {
            prop_assert_eq!(Lsn(position).to_string().parse(), Ok(Lsn(position)));
        }
    }
}
