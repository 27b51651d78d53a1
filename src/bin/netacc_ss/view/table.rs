//! Columns of text.

use std::fmt::Write;

/// Columns as wide as their longest cell, numbers to the right, indented by two.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.fold(head[column].len(), usize::max)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let is_number = |column: usize| {
        let mut cells = rows.iter().map(|row| row[column].as_str());
        cells.all(looks_numeric)
    };
    let numeric: Vec<bool> = (0..head.len()).map(is_number).collect();
    let line = |cells: &[&str]| {
        let mut line = String::from(" ");
        for (column, cell) in cells.iter().enumerate() {
            let width = widths[column];
            let _ = match numeric[column] {
                true => write!(line, " {cell:>width$}"),
                false => write!(line, " {cell:<width$}"),
            };
        }
        line.truncate(line.trim_end().len());
        line.push('\n');
        line
    };
    let mut out = line(head);
    for row in rows {
        let cells: Vec<&str> = row.iter().map(String::as_str).collect();
        out.push_str(&line(&cells));
    }
    out
}

/// A title and a table, or "TITLE: none".
pub fn section(title: &str, head: &[&str], rows: &[Vec<String>]) -> String {
    match rows {
        [] => format!("{title}: none\n"),
        rows => format!("{title}:\n{}", table(head, rows)),
    }
}

/// Digits, perhaps with a fraction and a unit, or nothing to show.
fn looks_numeric(cell: &str) -> bool {
    let number = cell.strip_suffix(['K', 'M', 'G', 'T', '%']);
    let number = number.unwrap_or(cell);
    cell == "-" || !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit() || b == b'.')
}

/// Bytes with K, M, G or T (multiples of 1024) where that is shorter.
pub fn bytes(n: u64) -> String {
    scaled(n as f64, 1024.0)
}

/// A number of anything with K, M, G or T (multiples of 1000) where that is shorter.
pub fn amount(n: f64) -> String {
    scaled(n, 1000.0)
}

fn scaled(mut n: f64, step: f64) -> String {
    let mut unit = "";
    for next in ["K", "M", "G", "T"] {
        // Three figures are enough, so that nothing rounds up to a fourth.
        if n < step - 0.5 {
            break;
        }
        n /= step;
        unit = next;
    }
    match unit {
        "" => format!("{n:.0}"),
        _ if n < 9.95 => format!("{n:.1}{unit}"),
        _ => format!("{n:.0}{unit}"),
    }
}

/// `a` for each `b`, with two figures after the point; `-` where there is no `b`.
pub fn per(a: u64, b: u64) -> String {
    match b {
        0 => "-".to_owned(),
        b => format!("{:.2}", a as f64 / b as f64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units() {
        let shown = |n| (bytes(n), amount(n as f64));
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(shown(0), pair("0", "0"));
        assert_eq!(shown(999), pair("999", "999"));
        assert_eq!(shown(1000), pair("1000", "1.0K"));
        assert_eq!(shown(1024), pair("1.0K", "1.0K"));
        assert_eq!(shown(1 << 20), pair("1.0M", "1.0M"));
        assert_eq!(shown(16 << 20), pair("16M", "17M"));
        assert_eq!(shown(u64::MAX), pair("16777216T", "18446744T"));
        assert_eq!((per(10, 4), per(1, 0)), ("2.50".to_owned(), "-".to_owned()));
    }

    #[test]
    fn numbers_stand_to_the_right() {
        let rows = [["a", "5"], ["bcd", "-"], ["e", "1.5K"]];
        let rows = rows.map(|row| row.map(str::to_owned).to_vec());
        let expected = "  Name    N\n  a       5\n  bcd     -\n  e    1.5K\n";
        assert_eq!(table(&["Name", "N"], &rows), expected);
        assert_eq!(section("Things", &["Name", "N"], &[]), "Things: none\n");
    }
}
