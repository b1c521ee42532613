//! Numbers and bounds as people read them.

/// `1,234,567`.
pub(super) fn count(n: f64) -> String {
    let digits = format!("{:.0}", n.max(0.0));
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `987`, `12.3 k`, `4.5 M`: for where there is little room.
pub(super) fn short_count(n: f64) -> String {
    let mut value = n.max(0.0);
    for unit in ["", " k", " M", " G"] {
        if value < 999.5 {
            return if value < 99.95 && !unit.is_empty() {
                format!("{value:.1}{unit}")
            } else {
                format!("{value:.0}{unit}")
            };
        }
        value /= 1000.0;
    }
    format!("{value:.1} T")
}

/// `~1 row`, `~12.3 k rows`: for an estimate that was written before.
pub(super) fn rows(count: &str) -> String {
    format!("~{count} {}", if count == "1" { "row" } else { "rows" })
}

/// In the units of `pg_size_pretty`: `16 kB`, `1.2 GB`.
pub(super) fn size(bytes: u64) -> String {
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    for unit in ["kB", "MB", "GB", "TB"] {
        if value < 1023.5 {
            return if value < 9.95 { format!("{value:.1} {unit}") } else { format!("{value:.0} {unit}") };
        }
        value /= 1024.0;
    }
    format!("{value:.1} PB")
}

/// `part` of `whole`, in percent.
pub(super) fn percent(part: f64, whole: f64) -> String {
    match part / whole * 100.0 {
        share if !share.is_finite() => String::new(),
        share if share > 0.0 && share < 0.95 => "<1 %".into(),
        share => format!("{share:.0} %"),
    }
}

pub(super) fn plural(n: usize, one: &str, many: &str) -> String {
    format!("{} {}", count(n as f64), if n == 1 { one } else { many })
}

/// Columns of a terminal that a text takes: letters of East Asian scripts take two.
pub(super) fn columns(text: &str) -> usize {
    let wide = |c: char| matches!(u32::from(c), 0x1100..=0x115f | 0x2e80..=0xa4cf | 0xac00..=0xd7a3 | 0xf900..=0xfaff | 0xfe30..=0xfe6f | 0xff00..=0xff60 | 0xffe0..=0xffe6 | 0x1f300..=0x1faff | 0x20000..=0x3fffd);
    text.chars().map(|c| if wide(c) { 2 } else { 1 }).sum()
}

/// A bound in few words: `2024-01-01 → 2025-01-01`, `US, UK`, `2 of 4`. What it does not know stays as it is.
pub(super) fn short_bound(bound: &str) -> String {
    let short = || {
        if let Some(range) = bound.strip_prefix("FROM (").and_then(|rest| rest.strip_suffix(')')) {
            let (from, to) = range.split_once(") TO (")?;
            return Some(format!("{} → {}", unquoted(from), unquoted(to)));
        }
        if let Some(values) = bound.strip_prefix("IN (").and_then(|rest| rest.strip_suffix(')')) {
            return Some(unquoted(values));
        }
        let hash = bound.strip_prefix("WITH (")?.strip_suffix(')')?.to_ascii_lowercase();
        let (modulus, remainder) = hash.strip_prefix("modulus ")?.split_once(", remainder ")?;
        Some(format!("{remainder} of {modulus}"))
    };
    match bound {
        "DEFAULT" => "default".into(),
        _ => short().unwrap_or_else(|| bound.to_owned()),
    }
}

/// Quotes off, and midnights off.
fn unquoted(values: &str) -> String {
    values
        .replace("''", "\u{0}")
        .replace('\'', "")
        .replace('\u{0}', "'")
        .replace(" 00:00:00+00", "")
        .replace(" 00:00:00", "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_counts_keep_two_or_three_digits() {
        let sizes = [0, 1023, 1024, 10_000, 8192 * 1024, 1024 * 1024 - 1, 1_300_000_000, u64::MAX];
        assert_eq!(sizes.map(size), ["0 B", "1023 B", "1.0 kB", "9.8 kB", "8.0 MB", "1.0 MB", "1.2 GB", "16384.0 PB"]);
        let counts = [0.0, 999.0, 1000.0, 999_949.0, 1e6, 123_456_789.0, 4.2e13];
        assert_eq!(counts.map(short_count), ["0", "999", "1.0 k", "1.0 M", "1.0 M", "123 M", "42.0 T"]);
        assert_eq!(["1", "0", "1.0 k"].map(rows), ["~1 row", "~0 rows", "~1.0 k rows"]);
        assert_eq!([0.0, 12.0, 1_234_567.4, -1.0].map(count), ["0", "12", "1,234,567", "0"]);
    }

    #[test]
    fn bounds_are_shortened_if_they_are_known() {
        let bounds = [
            "FROM ('2024-01-01 00:00:00+00') TO ('2024-02-01 00:00:00+00')",
            "FROM (MINVALUE, 'O''Brien') TO (1, MAXVALUE)",
            "IN ('US', NULL)",
            "WITH (modulus 4, remainder 2)",
            "DEFAULT",
            "something else",
        ];
        assert_eq!(
            bounds.map(short_bound),
            [
                "2024-01-01 → 2024-02-01",
                "MINVALUE, O'Brien → 1, MAXVALUE",
                "US, NULL",
                "2 of 4",
                "default",
                "something else"
            ]
        );
    }
}
