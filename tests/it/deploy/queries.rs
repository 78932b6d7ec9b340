//! What an expression of PromQL asks for. As much of the language as our rules and dashboard use.

use std::collections::BTreeSet;

/// Functions that read a counter.
const OF_COUNTERS: [&str; 4] = ["rate", "increase", "irate", "resets"];

/// One selector of an expression.
#[derive(Debug, PartialEq, Eq)]
pub struct Query {
    pub metric: String,
    /// Labels that it selects by, and those that what is around it groups by.
    pub labels: BTreeSet<String>,
    /// Whether it is the argument of a function that reads counters.
    pub as_counter: bool,
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// The names in a list such as `a, b`, or before the operators of `a="x",b=~"y"`.
fn names(list: &str) -> impl Iterator<Item = String> {
    let heads = list.split(',').filter_map(|item| item.split(['=', '!']).next());
    heads.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty())
}

/// The selectors of an expression.
pub fn queries(expression: &str) -> Vec<Query> {
    let mut found = Vec::new();
    // What is open: the function or aggregation before each parenthesis, and what it groups by.
    let mut open: Vec<(&str, Vec<String>)> = Vec::new();
    let mut grouping: Vec<String> = Vec::new();
    let (mut rest, mut last) = (expression, "");
    while let Some(c) = rest.chars().next() {
        if c == '"' {
            let end = rest[1..].find('"').expect("a closed string") + 2;
            rest = &rest[end..];
        } else if c == '[' {
            rest = &rest[rest.find(']').expect("a closed range")..];
        } else if is_name(c) {
            let end = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
            (last, rest) = rest.split_at(end);
            let after = rest.trim_start();
            if last == "by" {
                let (list, after) = after.strip_prefix('(').and_then(|list| list.split_once(')')).expect("a list");
                // A histogram's `le` is a label of its buckets alone, which the metric's type speaks for.
                grouping = names(list).filter(|name| name != "le").collect();
                rest = after;
            } else if last == "up" || last.starts_with("construct_") || last.starts_with("process_") {
                let selected = after.strip_prefix('{').and_then(|labels| labels.split_once('}'));
                let selects = selected.iter().flat_map(|(labels, _)| names(labels));
                let labels = selects.chain(open.iter().flat_map(|(_, labels)| labels.clone())).collect();
                let as_counter = open.last().is_some_and(|(function, _)| OF_COUNTERS.contains(function));
                found.push(Query { metric: last.to_owned(), labels, as_counter });
                rest = selected.map_or(rest, |(_, after)| after);
                last = "";
            }
        } else {
            match c {
                '(' => open.push((std::mem::take(&mut last), std::mem::take(&mut grouping))),
                ')' => drop(open.pop()),
                _ => {}
            }
            if !c.is_whitespace() {
                last = "";
            }
            rest = &rest[c.len_utf8()..];
        }
    }
    found
}

#[test]
fn selectors_are_found_with_their_labels_and_how_they_are_read() {
    let query = |metric: &str, labels: &[&str], as_counter| {
        let labels = labels.iter().map(|&label| label.to_owned()).collect();
        Query { metric: metric.to_owned(), labels, as_counter }
    };
    let text = r#"sum by (instance, le) (rate(construct_a_total{status=~"5..",x!="y"}[5m])) > 0.01 * max(construct_b)
        or up{job="construct"} == 0"#;
    let by = ["instance"];
    assert_eq!(
        queries(text),
        [
            query("construct_a_total", &[by.as_slice(), &["status", "x"]].concat(), true),
            query("construct_b", &[], false),
            query("up", &["job"], false),
        ]
    );
    assert_eq!(
        queries("changes(construct_term[15m]) - resets(construct_c_total[1m])"),
        [query("construct_term", &[], false), query("construct_c_total", &[], true)]
    );
}
