//! The providers the settings ask for: one of each family.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use super::{NodeError, failed};
use crate::kernel::Secret;
use crate::providers::Provider;
use crate::providers::email::smtp::Dkim;
use crate::providers::email::{Maildir, Sender, Smtp, SmtpOptions};
use crate::providers::payment::sandbox::Sandbox;
use crate::providers::payment::stripe::{Stripe, StripeConfig};
use crate::providers::push::vapid::VapidKey;
use crate::providers::push::web_push::{WebPush, WebPushOptions};
use crate::providers::sms::file::SmsFile;
use crate::providers::sms::twilio::{Twilio, TwilioOptions};
use crate::settings::{MailTransport, PaymentProcessor, Settings, SmsTransport};

/// The outgoing providers, and the key that browsers need to subscribe to pushes.
pub(super) struct Outside {
    pub providers: Vec<Arc<dyn Provider>>,
    pub vapid: Arc<VapidKey>,
}

pub(super) fn open(settings: &Settings) -> Result<Outside, NodeError> {
    let vapid = Arc::new(VapidKey::open(&settings.node.data_dir.join("vapid.key")).map_err(failed("the VAPID key"))?);
    let providers = vec![mail(settings)?, sms(settings)?, push(settings, &vapid), payment(settings)?];
    Ok(Outside { providers, vapid })
}

fn mail(settings: &Settings) -> Result<Arc<dyn Provider>, NodeError> {
    let mail = &settings.mail;
    let sender = Sender::new(&mail.from, &settings.gateway.public_url).map_err(failed("mail.from"))?;
    if mail.transport == MailTransport::Maildir {
        let root = settings.node.sandbox_dir.join("outbox/mail");
        return Ok(Arc::new(Maildir::open(&root, sender).map_err(failed("the Maildir"))?));
    }
    let dkim = match mail.dkim.key_file.as_str() {
        "" => None,
        path => Some(Dkim {
            domain: mail.dkim.domain.clone(),
            selector: mail.dkim.selector.clone(),
            private_key: Secret::new(fs::read_to_string(path).map_err(failed("mail.dkim.key_file cannot be read"))?),
        }),
    };
    let options = SmtpOptions { url: mail.smtp_url.clone(), timeout: Duration::from_millis(mail.timeout_ms), dkim };
    Ok(Arc::new(Smtp::new(&options, sender).map_err(failed("mail.smtp_url"))?))
}

fn sms(settings: &Settings) -> Result<Arc<dyn Provider>, NodeError> {
    let (sms, public_url) = (&settings.sms, &settings.gateway.public_url);
    if sms.transport == SmsTransport::File {
        let path = settings.node.sandbox_dir.join("outbox/sms.jsonl");
        return Ok(Arc::new(SmsFile::open(&path, &sms.from, public_url).map_err(failed("the SMS file"))?));
    }
    let options = TwilioOptions {
        api_base: sms.twilio.api_base.clone(),
        account_sid: sms.twilio.account_sid.clone(),
        auth_token: sms.twilio.auth_token.clone(),
        from: sms.from.clone(),
        timeout: Duration::from_millis(sms.timeout_ms),
        public_url: public_url.clone(),
    };
    Ok(Arc::new(Twilio::new(options).map_err(failed("the SMS client"))?))
}

fn push(settings: &Settings, vapid: &Arc<VapidKey>) -> Arc<dyn Provider> {
    let options = WebPushOptions {
        subject: settings.push.subject.clone(),
        ttl_seconds: settings.push.ttl_seconds,
        timeout: Duration::from_millis(settings.push.timeout_ms),
        allow_private_endpoints: settings.push.allow_private_endpoints,
        public_url: settings.gateway.public_url.clone(),
    };
    Arc::new(WebPush::new(options, Arc::clone(vapid)))
}

fn payment(settings: &Settings) -> Result<Arc<dyn Provider>, NodeError> {
    let payments = &settings.payments;
    if payments.processor == PaymentProcessor::Sandbox {
        let directory = settings.node.sandbox_dir.join("sandbox-payments");
        return Ok(Arc::new(Sandbox::open(&directory).map_err(failed("the payment sandbox"))?));
    }
    let config = StripeConfig {
        api_base: payments.stripe.api_base.clone(),
        secret_key: payments.stripe.secret_key.clone(),
        connect_timeout_ms: payments.timeout_ms.min(5_000),
        timeout_ms: payments.timeout_ms,
    };
    Ok(Arc::new(Stripe::new(config).map_err(failed("the Stripe client"))?))
}
