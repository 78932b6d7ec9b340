//! From the configuration to the domain: the plans a catalogue starts with, and the terms of new subscriptions.

use super::calendar::{Interval, Recurrence};
use super::dunning::{Exhausted, Schedule};
use super::plans::{self, Audience, Catalogue, Price, Spec};
use super::subscription::Terms;
use crate::actors::runtime::Router;
use crate::kernel::{Error, Origin};
use crate::providers::payment::stripe;
use crate::settings::{self, DunningEnd, PaymentProcessor, Settings};

/// The terms of a subscription that starts now.
#[must_use]
pub fn terms(settings: &Settings) -> Terms {
    let billing = &settings.billing;
    let days = billing.dunning.retry_after_days.iter();
    let dunning = Schedule {
        retry_days: days.map(|days| u16::try_from(*days).unwrap_or(u16::MAX)).collect(),
        exhausted: match billing.dunning.then {
            DunningEnd::Cancel => Exhausted::Cancel,
            DunningEnd::Pause => Exhausted::Pause,
        },
    };
    Terms {
        dunning: dunning.normalized(),
        series: billing.invoice_series.clone(),
        tax_basis_points: billing.tax_basis_points,
        trial_notice_days: u16::try_from(billing.trial_ending_notice_days).unwrap_or(u16::MAX),
    }
}

/// The configured plans.
#[must_use]
pub fn plan_specs(settings: &Settings) -> Vec<Spec> {
    settings.plans.iter().map(spec).collect()
}

fn spec(seed: &settings::PlanSeed) -> Spec {
    let prices = seed.prices.iter().map(|price| Price {
        every: Recurrence {
            interval: match price.interval {
                settings::Interval::Month => Interval::Month,
                settings::Interval::Year => Interval::Year,
            },
            count: u16::try_from(price.interval_count).unwrap_or(u16::MAX),
        },
        unit_price: price.unit_price,
    });
    Spec {
        key: seed.key.clone(),
        name: seed.name.clone(),
        audience: match seed.audience {
            settings::Audience::User => Audience::User,
            settings::Audience::Provider => Audience::Provider,
        },
        tier: seed.tier,
        trial_days: u16::try_from(seed.trial_days).unwrap_or(u16::MAX),
        prices: prices.collect(),
        entitlements: seed.entitlements.clone(),
    }
}

/// Whether the payment processor can charge every amount in the currencies of these prices.
///
/// # Errors
/// A 422 at the first price of which it cannot.
pub fn check_charged(settings: &Settings, prices: &[Price]) -> Result<(), Error> {
    let refused = |price: &Price| match settings.payments.processor {
        PaymentProcessor::Sandbox => false,
        PaymentProcessor::Stripe => !stripe::can_charge(price.unit_price.currency),
    };
    match prices.iter().position(refused) {
        Some(index) => {
            let at = format!("/prices/{index}/unit_price/currency");
            Err(Error::invalid(&at, "the payment processor cannot charge every amount in this currency"))
        }
        None => Ok(()),
    }
}

/// Adds the configured plans that the catalogue does not know yet. Safe to repeat: at every start, on every node.
///
/// # Errors
/// When the catalogue cannot be reached, or a configured plan is not valid.
pub async fn seed_plans(router: &Router, settings: &Settings) -> Result<(), Error> {
    let specs = plan_specs(settings);
    specs.iter().try_for_each(|spec| check_charged(settings, &spec.prices))?;
    let seed = plans::Command::Seed { plans: specs };
    router.ask::<Catalogue>(&plans::id(), seed, &Origin::system("seed:plans")).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::runtime::testing::Given;
    use crate::kernel::Money;
    use crate::settings::Layers;

    #[test]
    fn stripe_is_given_no_price_that_it_cannot_charge() {
        let mut settings = Settings::load(&Layers::default()).expect("the embedded configuration is valid");
        let price = |code: &str| Price {
            every: Recurrence { interval: Interval::Month, count: 1 },
            unit_price: Money::new(1000, code.parse().expect("a currency")),
        };
        let [fine, others] = [["USD", "ISK", "JPY"], ["USD", "MGA", "KWD"]].map(|codes| codes.map(price));
        assert!(check_charged(&settings, &others).is_ok(), "the sandbox charges anything");
        settings.payments.processor = PaymentProcessor::Stripe;
        assert!(check_charged(&settings, &fine).is_ok());
        let refused = check_charged(&settings, &others).expect_err("refused");
        assert_eq!(refused.errors[0].pointer, "/prices/1/unit_price/currency");
    }

    #[test]
    fn the_embedded_configuration_makes_a_catalogue() {
        let settings = Settings::load(&Layers::default()).expect("the embedded configuration is valid");
        let mut catalogue = Given::<Catalogue>::new("catalogue");
        let seeded = catalogue.when(plans::Command::Seed { plans: plan_specs(&settings) }).expect("valid plans");
        assert_eq!(seeded.events.len(), settings.plans.len());
        assert_eq!(terms(&settings).dunning, Schedule::default());
    }
}
