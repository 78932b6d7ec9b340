//! Plain tables for people.

use std::fmt::Write;

use serde_json::Value;

/// Rows under a header, each column as wide as its widest cell.
pub fn render(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = header.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let header = header.iter().map(|cell| (*cell).to_owned()).collect::<Vec<_>>();
    let mut out = String::new();
    for row in std::iter::once(&header).chain(rows) {
        let line = row.iter().zip(&widths).fold(String::new(), |mut line, (cell, width)| {
            let _ = write!(line, "{cell:<width$}  ");
            line
        });
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// A JSON value as a cell: text without quotes, a list by commas, nothing as a dash.
pub fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) if text.is_empty() => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) if items.is_empty() => "-".to_owned(),
        Value::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join(","),
        Value::Object(members) => {
            members.iter().map(|(name, value)| format!("{name}={}", cell(value))).collect::<Vec<_>>().join(" ")
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = vec![vec!["1".to_owned(), "127.0.0.1:8082".to_owned()], vec!["12".to_owned(), "-".to_owned()]];
        assert_eq!(render(&["ID", "ADDRESS"], &rows), "ID  ADDRESS\n1   127.0.0.1:8082\n12  -\n");
    }

    #[test]
    fn values_print_as_a_person_would_write_them() {
        assert_eq!(cell(&json!([1, "a", null])), "1,a,-");
        assert_eq!(cell(&json!({"node": 1, "role": "leader"})), "node=1 role=leader");
    }
}
