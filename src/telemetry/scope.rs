//! Which request a log line belongs to. It travels with the task, and is written only when a line is: a span would be
//! formatted for every request, though few of them log anything.

use std::cell::Cell;
use std::future::Future;

tokio::task_local! {
    static SCOPE: Scope;
}

/// The request under way.
#[derive(Clone)]
pub struct Scope {
    request_id: String,
    trace_id: String,
    operation: Cell<&'static str>,
}

impl Scope {
    /// Both of plain characters, as the gateway accepts or makes them.
    #[must_use]
    pub fn new(request_id: &str, trace_id: &str) -> Self {
        let operation = Cell::new("none");
        Self { request_id: request_id.to_owned(), trace_id: trace_id.to_owned(), operation }
    }

    /// The request that the current task works for.
    #[must_use]
    pub fn current() -> Option<Self> {
        SCOPE.try_with(Self::clone).ok()
    }

    /// Names what the current request asks for, once it is known.
    pub fn set_operation(name: &'static str) {
        // Outside of any request there is nothing to name.
        let _ = SCOPE.try_with(|scope| scope.operation.set(name));
    }

    /// Does the work for this request.
    pub fn run<F: Future>(self, work: F) -> impl Future<Output = F::Output> {
        SCOPE.scope(self, work)
    }

    /// Says on a line of log, text or JSON, for which request it was written.
    pub(super) fn stamp(line: &mut String) {
        let stamped = SCOPE.try_with(|scope| {
            let Self { request_id, trace_id, operation } = scope;
            let operation = operation.get();
            match line.strip_suffix("}\n").filter(|text| text.starts_with('{')) {
                Some(text) => format!(
                    "{text},\"operation\":\"{operation}\",\"request_id\":\"{request_id}\",\"trace_id\":\"{trace_id}\"}}\n"
                ),
                None => {
                    let text = line.trim_end_matches('\n');
                    format!("{text} operation={operation} request_id={request_id} trace_id={trace_id}\n")
                }
            }
        });
        if let Ok(stamped) = stamped {
            *line = stamped;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamped(line: &str) -> String {
        let mut line = line.to_owned();
        Scope::stamp(&mut line);
        line
    }

    #[tokio::test]
    async fn lines_written_for_a_request_name_it_also_from_its_tasks() {
        let text = "2026-01-31T10:00:00Z ERROR construct: broken\n";
        assert_eq!(stamped(text), text);
        let work = async {
            Scope::set_operation("getMe");
            let scope = Scope::current().expect("a request");
            tokio::spawn(scope.run(async move { (stamped(text), stamped("{\"level\":\"ERROR\"}\n")) })).await
        };
        let (text, json) = Scope::new("req-1", "abc").run(work).await.expect("no panic");
        assert!(text.ends_with("broken operation=getMe request_id=req-1 trace_id=abc\n"), "{text}");
        let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!((&json["level"], &json["request_id"]), (&"ERROR".into(), &"req-1".into()));
    }
}
