//! The one table that finds the endpoint of a request, by path segments.
//!
//! A tree of segments: a literal wins over a parameter, and every path has at most one parameter name per place. Cost
//! is one hash look-up per segment, however many endpoints there are.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use http::Method;
use percent_encoding::percent_decode_str;

use super::call::Params;
use super::registry::Endpoint;

/// A mistake in the declarations, found when the table is built.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TableError {
    #[error("{0} is declared twice")]
    Path(String),
    #[error("the operation {0} is declared twice")]
    Operation(&'static str),
    #[error("{path}: {detail}")]
    Shape { path: &'static str, detail: &'static str },
}

#[derive(Default)]
struct Segment {
    literals: HashMap<&'static str, Segment>,
    parameter: Option<(&'static str, Box<Segment>)>,
    methods: BTreeMap<&'static str, Arc<Endpoint>>,
}

/// All endpoints of a listener.
#[derive(Default)]
pub struct Table {
    root: Segment,
    operations: BTreeMap<&'static str, Arc<Endpoint>>,
}

/// What a look-up answers.
pub enum Found {
    Endpoint(Arc<Endpoint>, Params),
    /// The path exists; these methods do: the value of `Allow`.
    Methods(String),
    Nothing,
}

impl Table {
    /// # Errors
    /// [`TableError`] when two endpoints claim the same place or name.
    pub fn new(endpoints: Vec<Endpoint>) -> Result<Self, TableError> {
        let mut table = Self::default();
        for endpoint in endpoints {
            table.insert(endpoint)?;
        }
        Ok(table)
    }

    fn insert(&mut self, endpoint: Endpoint) -> Result<(), TableError> {
        let endpoint = Arc::new(endpoint);
        let declaration = &endpoint.declaration;
        let path = declaration.path;
        let shape = |detail| TableError::Shape { path, detail };
        let rest = path.strip_prefix('/').ok_or_else(|| shape("a path begins with a slash"))?;
        let mut segment = &mut self.root;
        for part in rest.split('/') {
            let name = part.strip_prefix('{').and_then(|part| part.strip_suffix('}'));
            segment = match name {
                Some(name) => {
                    let (known, next) = segment.parameter.get_or_insert_with(|| (name, Box::default()));
                    if *known != name {
                        return Err(shape("another endpoint gives this parameter another name"));
                    }
                    next
                }
                None => segment.literals.entry(part).or_default(),
            };
        }
        let method = method_name(&declaration.method).ok_or_else(|| shape("no endpoint has this method"))?;
        if segment.methods.insert(method, endpoint.clone()).is_some() {
            return Err(TableError::Path(format!("{method} {path}")));
        }
        if self.operations.insert(declaration.operation, endpoint.clone()).is_some() {
            return Err(TableError::Operation(declaration.operation));
        }
        Ok(())
    }

    /// Finds the endpoint of `method` and `path` (percent-encoded). HEAD finds GET.
    #[must_use]
    pub fn find(&self, method: &Method, path: &str) -> Found {
        let Some(rest) = path.strip_prefix('/') else { return Found::Nothing };
        let mut params = Params::default();
        let Some(segment) = descend(&self.root, rest, &mut params) else { return Found::Nothing };
        let wanted = if method == Method::HEAD { Some("GET") } else { method_name(method) };
        match wanted.and_then(|wanted| segment.methods.get(wanted)) {
            Some(endpoint) => Found::Endpoint(endpoint.clone(), params),
            None => Found::Methods(allow(segment)),
        }
    }

    #[must_use]
    pub fn operation(&self, name: &str) -> Option<&Arc<Endpoint>> {
        self.operations.get(name)
    }

    /// Every endpoint, by operation name.
    pub fn endpoints(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.operations.values()
    }
}

fn descend<'t>(segment: &'t Segment, rest: &str, params: &mut Params) -> Option<&'t Segment> {
    let (part, rest) = rest.split_once('/').map_or((rest, None), |(part, rest)| (part, Some(rest)));
    let ends = |next: &'t Segment| (!next.methods.is_empty()).then_some(next);
    if let Some(next) = segment.literals.get(part) {
        let found = match rest {
            Some(rest) => descend(next, rest, params),
            None => ends(next),
        };
        if found.is_some() {
            return found;
        }
    }
    let (name, next) = segment.parameter.as_ref()?;
    let value = percent_decode_str(part).decode_utf8().ok().filter(|value| !value.is_empty())?;
    let length = params.0.len();
    params.0.push((name, value.into_owned()));
    let found = match rest {
        Some(rest) => descend(next, rest, params),
        None => ends(next),
    };
    if found.is_none() {
        params.0.truncate(length);
    }
    found
}

fn allow(segment: &Segment) -> String {
    let mut names: Vec<&str> = segment.methods.keys().copied().collect();
    if segment.methods.contains_key("GET") {
        names.push("HEAD");
    }
    names.push("OPTIONS");
    names.sort_unstable();
    names.join(", ")
}

fn method_name(method: &Method) -> Option<&'static str> {
    Some(match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::registry::Draft;
    use crate::gateway::{Call, Reply};
    use crate::kernel::Error;

    fn declare(draft: Draft<()>) -> Endpoint {
        async fn nothing(_: Call<()>) -> Result<Reply, Error> {
            Ok(Reply::empty(204))
        }
        draft.handle(nothing)
    }

    fn table() -> Table {
        Table::new(vec![
            declare(Endpoint::get("/v1/sessions", "listSessions")),
            declare(Endpoint::post("/v1/sessions", "createSession")),
            declare(Endpoint::delete("/v1/sessions/current", "signOut")),
            declare(Endpoint::delete("/v1/sessions/{id}", "revokeSession")),
            declare(Endpoint::get("/v1/templates/{name}/{locale}", "getTemplate")),
            declare(Endpoint::post("/v1/sessions/{id}/refresh", "refresh")),
        ])
        .expect("a table")
    }

    fn find(method: Method, path: &str) -> String {
        match table().find(&method, path) {
            Found::Endpoint(endpoint, params) => {
                let values: Vec<String> = params.0.iter().map(|(name, value)| format!("{name}={value}")).collect();
                format!("{} {}", endpoint.declaration.operation, values.join(","))
            }
            Found::Methods(allow) => format!("allow {allow}"),
            Found::Nothing => "nothing".to_owned(),
        }
    }

    #[test]
    fn a_path_finds_its_endpoint_and_parameters() {
        assert_eq!(find(Method::GET, "/v1/sessions"), "listSessions ");
        assert_eq!(find(Method::HEAD, "/v1/sessions"), "listSessions ");
        assert_eq!(find(Method::DELETE, "/v1/sessions/current"), "signOut ");
        assert_eq!(find(Method::DELETE, "/v1/sessions/ses_1"), "revokeSession id=ses_1");
        assert_eq!(find(Method::POST, "/v1/sessions/current/refresh"), "refresh id=current");
        assert_eq!(find(Method::GET, "/v1/templates/a%2Fb/de"), "getTemplate name=a/b,locale=de");
        assert_eq!(find(Method::PUT, "/v1/sessions"), "allow GET, HEAD, OPTIONS, POST");
        assert_eq!(find(Method::OPTIONS, "/v1/sessions/x"), "allow DELETE, OPTIONS");
        for path in ["/v1/session", "/v1/sessions/", "/v1", "/", "", "*", "/v1/templates/%ff/de", "/v1/sessions/a/b"] {
            assert_eq!(find(Method::GET, path), "nothing", "{path}");
        }
    }

    #[test]
    fn a_place_or_a_name_is_taken_once() {
        let build = |a: Draft<()>, b: Draft<()>| Table::new(vec![declare(a), declare(b)]).err();
        let path = build(Endpoint::get("/a", "a"), Endpoint::get("/a", "b"));
        assert_eq!(path, Some(TableError::Path("GET /a".to_owned())));
        let operation = build(Endpoint::get("/a", "a"), Endpoint::get("/b", "a"));
        assert_eq!(operation, Some(TableError::Operation("a")));
        assert!(build(Endpoint::get("/{a}", "a"), Endpoint::post("/{b}", "b")).is_some());
    }
}
