use super::*;
use crate::actors::billing::calendar::{Interval, Recurrence};
use crate::actors::runtime::testing::Given;
use crate::kernel::{Currency, ErrorCode, Money};

fn price(interval: Interval, amount: i64, currency: Currency) -> Price {
    Price { every: Recurrence { interval, count: 1 }, unit_price: Money::new(amount, currency) }
}

fn spec(key: &str) -> Spec {
    Spec {
        key: key.into(),
        name: "Pro".into(),
        audience: Audience::User,
        tier: 2,
        trial_days: 0,
        prices: vec![
            price(Interval::Month, 1999, Currency::USD),
            price(Interval::Month, 1799, Currency::EUR),
            price(Interval::Year, 19_990, Currency::USD),
        ],
        entitlements: vec!["robots:5".into()],
    }
}

fn plan(reply: Reply) -> Plan {
    match reply {
        Reply::Plan(plan) => plan,
        Reply::Plans(plans) => panic!("expected one plan, got {plans:?}"),
    }
}

#[test]
fn seeding_adds_unknown_plans_and_never_overwrites() {
    let mut catalogue = Given::<Catalogue>::new("catalogue");
    let seed = Command::Seed { plans: vec![spec("pro"), spec("plus"), spec("pro")] };
    assert_eq!(catalogue.when(seed.clone()).expect("seeded").events.len(), 2);
    assert!(catalogue.when(seed).expect("seeded").is_query());
    let id = plan_id_of_key("pro");
    let patch = Patch { prices: Some(vec![price(Interval::Month, 2999, Currency::USD)]), ..Patch::default() };
    let update = Command::UpdatePlan { id: id.clone(), patch, expected_version: Some(1) };
    let changed = plan(catalogue.when(update.clone()).expect("updated").reply);
    assert_eq!((changed.version, changed.spec.prices[0].unit_price.amount), (2, 2999));
    assert_eq!(catalogue.when(update).expect_err("stale").code, ErrorCode::PreconditionFailed);
    assert!(catalogue.when(Command::Seed { plans: vec![spec("pro")] }).expect("seeded").is_query());
    assert_eq!(plan(catalogue.when(Command::GetPlan { id }).expect("found").reply), changed);
}

#[test]
fn bad_plans_are_refused_with_the_member_at_fault() {
    let mut catalogue = Given::<Catalogue>::new("catalogue");
    let mut refused = |change: fn(&mut Spec)| {
        let mut bad = spec("pro");
        change(&mut bad);
        catalogue.when(Command::CreatePlan(bad)).expect_err("refused").errors[0].pointer.clone()
    };
    assert_eq!(refused(|s| s.key = "Pro!".into()), "/key");
    assert_eq!(refused(|s| s.name = " ".into()), "/name");
    assert_eq!(refused(|s| s.prices.clear()), "/prices");
    assert_eq!(refused(|s| s.prices[1].unit_price.amount = -1), "/prices/1/unit_price/amount");
    assert_eq!(
        refused(|s| s.prices[1].unit_price.currency = "XAU".parse().expect("a code")),
        "/prices/1/unit_price/currency"
    );
    assert_eq!(refused(|s| s.prices[1].every.count = 0), "/prices/1/interval_count");
    assert_eq!(refused(|s| s.prices[1] = s.prices[0]), "/prices/1/interval");
    assert_eq!(refused(|s| s.trial_days = 731), "/trial_days");
    assert!(catalogue.when(Command::CreatePlan(spec("pro"))).is_ok());
    assert_eq!(catalogue.when(Command::CreatePlan(spec("pro"))).expect_err("known").code, ErrorCode::Conflict);
    let unknown = Command::GetPlan { id: "pln_x".into() };
    assert_eq!(catalogue.when(unknown).expect_err("unknown").code, ErrorCode::NotFound);
}

#[test]
fn an_offer_takes_the_price_that_fits_best() {
    let mut catalogue = Given::<Catalogue>::new("catalogue");
    let plan = plan(catalogue.when(Command::CreatePlan(spec("pro"))).expect("created").reply);
    let amount = |interval, currency, like| plan.offer(interval, None, currency, like).map(|o| o.unit_price.amount);
    assert_eq!(amount(None, None, None), Ok(1999));
    assert_eq!(amount(Some(Interval::Year), None, None), Ok(19_990));
    assert_eq!(amount(None, Some(Currency::EUR), None), Ok(1799));
    assert_eq!(amount(None, None, Some(price(Interval::Month, 1, Currency::EUR))), Ok(1799));
    assert_eq!(amount(Some(Interval::Year), None, Some(price(Interval::Month, 1, Currency::USD))), Ok(19_990));
    assert!(amount(Some(Interval::Week), None, None).is_err());
}

#[test]
fn a_price_every_three_months_is_another_than_every_month() {
    let mut catalogue = Given::<Catalogue>::new("catalogue");
    let quarterly = Price {
        every: Recurrence { interval: Interval::Month, count: 3 },
        ..price(Interval::Month, 4999, Currency::USD)
    };
    let mut both = spec("pro");
    both.prices.push(quarterly);
    let plan = plan(catalogue.when(Command::CreatePlan(both)).expect("created").reply);
    let amount = |interval, count, like| plan.offer(interval, count, None, like).map(|o| o.unit_price.amount);
    assert_eq!(amount(Some(Interval::Month), None, None), Ok(1999), "the first that fits");
    assert_eq!(amount(Some(Interval::Month), Some(3), None), Ok(4999));
    assert_eq!(amount(None, Some(3), None), Ok(4999));
    assert_eq!(amount(None, None, Some(quarterly)), Ok(4999), "who pays quarterly goes on so");
    assert_eq!(amount(Some(Interval::Month), None, Some(quarterly)), Ok(4999));
    assert_eq!(amount(None, Some(1), Some(quarterly)), Ok(1999));
    assert!(amount(Some(Interval::Month), Some(2), None).is_err());
}
