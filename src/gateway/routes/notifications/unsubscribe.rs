//! One-click unsubscribe (RFC 8058): a mail program posts; a person who opens the link sees a page with a button. The
//! token in the link is the only authority, and reading changes nothing: link scanners open links.

use bytes::Bytes;

use crate::actors::notifications::delivery::Category;
use crate::actors::notifications::preferences::{Command, Preferences, parse_token};
use crate::gateway::routes::pages::page;
use crate::gateway::{Access, Call, Endpoint, IdempotencyRule, LimitClass, Reply};
use crate::kernel::{Entity as _, EntityId, Error};

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::get("/u/{token}", "showUnsubscribe")
            .summary("A page that asks whether to unsubscribe")
            .tag("notifications")
            .access(Access::Public)
            .limit(LimitClass::Public)
            .content(200, "The page", "text/html; charset=utf-8")
            .problem(404)
            .handle(show),
        Endpoint::post("/u/{token}", "unsubscribe")
            .summary("Unsubscribe from mails of this kind (RFC 8058 one-click)")
            .tag("notifications")
            .access(Access::Public)
            .limit(LimitClass::Public)
            .idempotency(IdempotencyRule::Unused)
            .raw_body(&["*/*"])
            .content(200, "A page that says so", "text/html; charset=utf-8")
            .problem(404)
            .handle(unsubscribe),
    ]
}

async fn act<B>(call: &Call<B>, command: impl FnOnce(Category, String) -> Command) -> Result<Category, Error> {
    let (user_id, category, proof) =
        parse_token(call.param("token")).ok_or_else(|| Error::not_found("unsubscribe link"))?;
    let id = EntityId::new(Preferences::KIND, &user_id);
    call.services.router.ask::<Preferences>(&id, command(category, proof), &call.origin).await?;
    Ok(category)
}

async fn show(call: Call<()>) -> Result<Reply, Error> {
    let category = act(&call, |category, proof| Command::CheckProof { category, proof }).await?;
    let button = "<form method=\"post\"><button type=\"submit\">Unsubscribe</button></form>";
    Ok(page("Unsubscribe", &format!("<p>Stop mails of the kind “{}”?</p>{button}", category.as_str())))
}

async fn unsubscribe(call: Call<Bytes>) -> Result<Reply, Error> {
    let category = act(&call, |category, proof| Command::Unsubscribe { category, proof }).await?;
    Ok(page("Unsubscribed", &format!("<p>You get no more mails of the kind “{}”.</p>", category.as_str())))
}
