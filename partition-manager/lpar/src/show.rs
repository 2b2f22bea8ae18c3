//! How values are written for people: aligned tables, sizes, times, the console's comma-separated form.

use frame::units::{GIB, KIB, MIB};

/// A table with a head; columns are as wide as their widest cell.
#[derive(Clone, Debug, Default)]
pub struct Table {
    head: Vec<String>,
    right: Vec<bool>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns; a name that begins with `>` is of a column aligned to the right.
    #[must_use]
    pub fn new(columns: &[&str]) -> Self {
        let right = columns.iter().map(|column| column.starts_with('>')).collect();
        let head = columns.iter().map(|column| column.trim_start_matches('>').to_owned()).collect();
        Self { head, right, rows: Vec::new() }
    }

    /// Adds a row.
    pub fn row<I: IntoIterator<Item = S>, S: Into<String>>(&mut self, cells: I) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }

    /// The lines, head first, without blanks at their ends.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let all = || std::iter::once(&self.head).chain(&self.rows);
        let width = |column: usize| {
            all().filter_map(|row| row.get(column)).map(|cell| columns_of(cell)).max().unwrap_or_default()
        };
        let widths: Vec<usize> = (0..self.head.len()).map(width).collect();
        all()
            .map(|row| {
                let mut line = String::new();
                for ((cell, width), right) in row.iter().zip(&widths).zip(&self.right) {
                    if !line.is_empty() || *right {
                        line.push_str(if line.is_empty() { "" } else { "  " });
                    }
                    let blanks = " ".repeat(width.saturating_sub(columns_of(cell)));
                    let (before, after) = if *right { (blanks, String::new()) } else { (String::new(), blanks) };
                    line.push_str(&before);
                    line.push_str(&plain(cell));
                    line.push_str(&after);
                }
                line.truncate(line.trim_end().len());
                line
            })
            .collect()
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.lines().iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

/// Text that a terminal shows as it stands: what could move the cursor or colour the screen becomes `?`.
#[must_use]
pub fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() || frame::diagnostic::misleads(c) { '?' } else { c }).collect()
}

fn columns_of(text: &str) -> usize {
    text.chars().count()
}

/// A size in bytes for people: `64MiB`, `1.5GiB`.
#[must_use]
pub fn size(bytes: u64) -> String {
    const TIB: u64 = GIB << 10;
    for (name, factor) in [("TiB", TIB), ("GiB", GIB), ("MiB", MIB), ("KiB", KIB)] {
        if bytes >= factor {
            if bytes.is_multiple_of(factor) {
                return format!("{}{name}", bytes / factor);
            }
            let tenths = u128::from(bytes) * 10 / u128::from(factor);
            return format!("{}.{}{name}", tenths / 10, tenths % 10);
        }
    }
    format!("{bytes}B")
}

/// A span of time for people: `4.2s`, `3m07s`, `5h02m`, `2d04h`.
#[must_use]
pub fn span(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return "-".into();
    }
    // A cast from float saturates.
    let whole = seconds as u64;
    match whole {
        0..60 => format!("{seconds:.1}s"),
        60..3_600 => format!("{}m{:02}s", whole / 60, whole % 60),
        3_600..86_400 => format!("{}h{:02}m", whole / 3_600, whole / 60 % 60),
        _ => format!("{}d{:02}h", whole / 86_400, whole / 3_600 % 24),
    }
}

/// A moment in the form of RFC 3339, UTC, milliseconds. `time` is in nanoseconds since 1970-01-01 UTC.
#[must_use]
pub fn moment(time: u64) -> String {
    let (seconds, milliseconds) = (time / 1_000_000_000, time / 1_000_000 % 1_000);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = date(days);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{milliseconds:03}Z",
        second / 3_600,
        second / 60 % 60,
        second % 60
    )
}

/// Year, month and day of the Gregorian calendar, `days` after 1970-01-01.
fn date(days: u64) -> (u64, u64, u64) {
    // Counted from 1 March of year 0, so that the leap day is the last of a year; 146097 days are 400 years.
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * march + 2) / 5 + 1;
    let month = if march < 10 { march + 3 } else { march - 9 };
    (era * 400 + year + u64::from(month <= 2), month, day)
}

/// One value of a comma-separated line: quoted when it holds a comma or a quote.
#[must_use]
pub fn field(value: &serde_json::Value) -> String {
    let text = match value {
        serde_json::Value::String(text) => plain(text),
        other => other.to_string(),
    };
    if text.contains([',', '"']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn tables_are_aligned() {
        let mut table = Table::new(&["name", ">units", "state"]);
        table.row(["a", "0.40", "Running"]);
        table.row(["longer", "12.00", ""]);
        assert_eq!(table.to_string(), "name    units  state\na        0.40  Running\nlonger  12.00\n");
        let mut table = Table::new(&[">n", "x"]);
        table.row(["1", "y"]);
        table.row(["10", "\x1b[2J"]);
        assert_eq!(table.to_string(), " n  x\n 1  y\n10  ?[2J\n");
    }

    #[test]
    fn sizes_are_short() {
        assert_eq!(size(0), "0B");
        assert_eq!(size(64 * MIB), "64MiB");
        assert_eq!(size(1536 * MIB), "1.5GiB");
        assert_eq!(size(1000), "1000B");
        assert_eq!(size(u64::MAX), "16777215.9TiB");
    }

    #[test]
    fn spans_are_short() {
        assert_eq!(span(4.24), "4.2s");
        assert_eq!(span(187.0), "3m07s");
        assert_eq!(span(18_120.0), "5h02m");
        assert_eq!(span(187_200.0), "2d04h");
        assert_eq!(span(f64::NAN), "-");
    }

    #[test]
    fn moments_follow_the_calendar() {
        for (seconds, shown) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (1_709_251_199, "2024-02-29T23:59:59.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(moment(seconds * 1_000_000_000), shown);
        }
        assert_eq!(moment(1_500_000), "1970-01-01T00:00:00.001Z");
    }

    #[test]
    fn fields_with_commas_are_quoted() {
        assert_eq!(field(&json!("Running")), "Running");
        assert_eq!(field(&json!("a,b \"c\"")), "\"a,b \"\"c\"\"\"");
        assert_eq!(field(&json!(64)), "64");
        assert_eq!(field(&json!(null)), "null");
        assert_eq!(field(&json!([1, 2])), "\"[1,2]\"");
    }
}
