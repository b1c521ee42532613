//! Which transactions a snapshot sees, as `pg_current_snapshot()` tells it.

use std::collections::HashSet;
use std::str::FromStr;

/// A snapshot `xmin:xmax:xip,…` of 64-bit transaction ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    xmin: u64,
    xmax: u64,
    running: HashSet<u64>,
}

/// A text that is no snapshot.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a snapshot")]
pub struct NotASnapshot(String);

impl FromStr for Snapshot {
    type Err = NotASnapshot;

    fn from_str(text: &str) -> Result<Self, NotASnapshot> {
        let read = || {
            let mut parts = text.split(':');
            let (xmin, xmax, running) = (parts.next()?, parts.next()?, parts.next()?);
            let running = running.split(',').filter(|id| !id.is_empty()).map(|id| id.parse().ok());
            let found =
                Self { xmin: xmin.parse().ok()?, xmax: xmax.parse().ok()?, running: running.collect::<Option<_>>()? };
            (parts.next().is_none() && found.xmin <= found.xmax).then_some(found)
        };
        read().ok_or_else(|| NotASnapshot(text.to_owned()))
    }
}

impl Snapshot {
    /// Whether the snapshot sees a transaction that has committed. `xid` is its number as decoded messages tell it,
    /// without the epoch: it is taken to be within two billion of the snapshot, as all living transactions are.
    pub fn sees(&self, xid: u32) -> bool {
        let xid = self.widen(xid);
        xid < self.xmax && !self.running.contains(&xid)
    }

    fn widen(&self, xid: u32) -> u64 {
        let distance = xid.wrapping_sub(self.xmax as u32) as i32;
        self.xmax.wrapping_add_signed(i64::from(distance))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_had_ended_is_seen() {
        let snapshot: Snapshot = "10:20:10,14,15".parse().unwrap();
        let seen: Vec<u32> = (5..25).filter(|xid| snapshot.sees(*xid)).collect();
        assert_eq!(seen, [5, 6, 7, 8, 9, 11, 12, 13, 16, 17, 18, 19]);
        let empty: Snapshot = "20:20:".parse().unwrap();
        assert!(empty.sees(19) && !empty.sees(20));
    }

    #[test]
    fn numbers_go_on_over_the_epoch() {
        let base = 3u64 << 32;
        let snapshot: Snapshot = format!("{}:{}:{}", base - 10, base + 5, base - 10).parse().unwrap();
        assert!(snapshot.sees(u32::MAX) && snapshot.sees(4));
        assert!(!snapshot.sees(u32::MAX - 9) && !snapshot.sees(5));
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", "1", "1:2", "2:1:", "1:2:x", "1:2::3", "-1:2:"] {
            assert!(text.parse::<Snapshot>().is_err(), "{text}");
        }
    }
}
