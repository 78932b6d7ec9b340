//! `rpc`: the same operations as HTTP, through the gateway's own `rpc`; here only how their answers look.

use serde_json::{Map, Value};

use super::protocol::ProtocolError;
use crate::gateway::RpcReply;
use crate::gateway::reply::problem;
use crate::kernel::Error;

/// What the client hears: the answer's JSON, or an error with the HTTP status as code and the problem's detail.
///
/// # Errors
/// The operation's refusal.
pub fn result(answer: Result<RpcReply, Error>) -> Result<Value, ProtocolError> {
    match answer {
        Ok((status, body)) if status >= 400 => {
            let detail = body.get("detail").or_else(|| body.get("title")).and_then(Value::as_str);
            Err(refused(u32::from(status), detail.unwrap_or("refused")))
        }
        Ok((_, Value::Null)) => Ok(Value::Object(Map::new())),
        Ok((_, body)) => Ok(body),
        Err(error) => Err(refused(u32::from(problem(&error, "").status.as_u16()), &error.detail)),
    }
}

fn refused(code: u32, message: &str) -> ProtocolError {
    ProtocolError { code, message: message.to_owned(), temporary: matches!(code, 429 | 500..=599) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kernel::ErrorCode;

    #[test]
    fn answers_become_data_or_errors() {
        assert_eq!(result(Ok((200, json!({"a": 1})))), Ok(json!({"a": 1})));
        assert_eq!(result(Ok((204, Value::Null))), Ok(json!({})));
        let shown = |answer| result(answer).map_err(|error| (error.code, error.message, error.temporary));
        let problem = json!({"title": "Gone", "detail": "It is gone.", "status": 410});
        assert_eq!(shown(Ok((410, problem))), Err((410, "It is gone.".to_owned(), false)));
        let error = Error::new(ErrorCode::Overloaded, "Full.");
        assert_eq!(shown(Err(error)), Err((503, "Full.".to_owned(), true)));
    }
}
