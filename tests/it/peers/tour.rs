//! The tour of `crate::tour`, with programs made elsewhere at every edge.

use super::centrifuge::Centrifuge;
use super::counting_proxy::CountingProxy;
use super::localstripe::Localstripe;
use super::maildev::Maildev;
use super::pyotp;
use crate::node::{Node, Plan};
use crate::tour::{World, walk};

pub const WEBHOOK_SECRET: &str = "whsec_tour";

/// A node whose mail goes to maildev and whose charges go to localstripe through the counting proxy.
pub fn plan(maildev: &Maildev, proxy: &CountingProxy) -> Plan {
    Plan::sandbox()
        .set("mail.transport", "smtp")
        .set("mail.smtp_url", &format!("smtp://{}", maildev.smtp))
        .set("payments.processor", "stripe")
        .set("payments.stripe.api_base", &format!("http://{}", proxy.address))
        .set("payments.stripe.secret_key", "sk_test_tour")
        .set("payments.stripe.webhook_secret", WEBHOOK_SECRET)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_main_job_with_maildev_localstripe_centrifuge_and_pyotp() {
    let maildev = Maildev::start().await;
    let localstripe = Localstripe::start().await;
    let proxy = CountingProxy::start(localstripe.base.clone()).await;
    let node = plan(&maildev, &proxy).start().await;
    let authenticator = async |secret: &str, at: i64| pyotp::code(secret, at).await;
    let world = World { node, mailbox: maildev, authenticator, declining_card: "pm_card_chargeCustomerFail" };
    walk(&world, async |node: &Node, token: &str| Centrifuge::open(node.gateway, token).await).await;
    // The first charge, the renewal, and the one that was declined.
    assert_eq!(proxy.forwarded("POST /v1/payment_intents"), 3);
    assert_eq!(proxy.unkeyed(), 0, "every POST to the processor carries an idempotency key");
}
