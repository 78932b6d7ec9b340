//! The pages that people reach from mails, small and self-contained.
//!
//! Invariant: opening one changes nothing; link scanners open links. What a page is for, its script does through the
//! public API once somebody presses the button. No outside network, no inline script.

use crate::gateway::registry::Draft;
use crate::gateway::{Access, Call, Endpoint, LimitClass, Reply};

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; form-action 'self'; \
                      base-uri 'none'; frame-ancestors 'none'";
const HTML: &str = "text/html; charset=utf-8";
/// Never kept by anyone: the address of such a page is a secret.
const UNKEPT: &str = "no-store";

/// The pages, and what they are made of.
#[must_use]
pub fn endpoints() -> Vec<Endpoint> {
    let verify = Endpoint::get("/verify", "showVerify")
        .summary("The page behind a mailed verification link")
        .description("Its button confirms the address through `verifySignUp`; opening it uses nothing up.");
    let reset = Endpoint::get("/reset", "showReset")
        .summary("The page behind a mailed link to set a new password")
        .description("Its button sets the password through `resetPassword`; opening it uses nothing up.");
    let part = |path, operation| Endpoint::get(path, operation).hidden();
    let (script, style) = (part("/pages/mailed.js", "getPageScript"), part("/pages/page.css", "getPageStyle"));
    vec![
        served(verify, HTML, UNKEPT, include_str!("../assets/verify.html")),
        served(reset, HTML, UNKEPT, include_str!("../assets/reset.html")),
        served(script, "text/javascript", "no-cache", include_str!("../assets/mailed.js")),
        served(style, "text/css", "no-cache", include_str!("../assets/page.css")),
    ]
}

fn served(draft: Draft<()>, content_type: &'static str, cache: &'static str, text: &'static str) -> Endpoint {
    let draft = draft.tag("pages").access(Access::Public).limit(LimitClass::Public);
    let answer = move || Ok(guarded(Reply::bytes(200, content_type, text)).header("cache-control", cache));
    draft.content(200, "The page", content_type).handle(move |_: Call<()>| std::future::ready(answer()))
}

/// A page of these pages' style.
#[must_use]
pub fn page(title: &str, main: &str) -> Reply {
    let html = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width, initial-scale=1\"><meta name=\"robots\" content=\"noindex\"><title>{title}</title>\
         <link rel=\"stylesheet\" href=\"/pages/page.css\"></head><body><main><h1>{title}</h1>{main}</main></body></html>"
    );
    guarded(Reply::bytes(200, HTML, html)).header("cache-control", UNKEPT)
}

fn guarded(reply: Reply) -> Reply {
    reply.header("content-security-policy", POLICY)
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;
    use crate::gateway::testing::{gateway, send};
    use crate::settings::Settings;

    #[tokio::test]
    async fn a_page_is_guarded_whole_and_of_this_origin_alone() {
        let gateway = gateway(Settings::embedded(), endpoints()).await;
        for path in [
            "/verify?token=secret-of-the-mail",
            "/reset?token=secret-of-the-mail",
            "/pages/mailed.js",
            "/pages/page.css",
        ] {
            let answered = send(&gateway, Method::GET, path, &[], "").await;
            assert_eq!(answered.status, 200, "{path}");
            assert!(answered.header("content-security-policy").contains("default-src 'none'"), "{path}");
            assert_eq!(answered.header("referrer-policy"), "no-referrer", "{path}");
            let text = String::from_utf8(answered.bytes.to_vec()).expect("UTF-8");
            for outside in ["http:", "https:", "src=\"//", "url(", "@import", "style=", "onclick", "secret-of-the-mail"]
            {
                assert!(!text.contains(outside), "{path} has {outside}");
            }
            assert!(!text.contains("<script>") && !text.contains("innerHTML"), "{path}");
        }
    }
}
