//! Changing plan, price or quantity in the middle of a period, and saying beforehand what it will cost.

use super::protocol::{ChangeRequest, Event, Pending, Place, Preview, Reply, State};
use super::state::{Body, Subscription};
use crate::actors::billing::calendar::{Period, days_after};
use crate::actors::billing::invoice::{self, Invoice, Mode, Reason};
use crate::actors::billing::ledger::{self, Account, Movement};
use crate::actors::billing::proration::check_quantity;
use crate::actors::billing::quote::{Change, Offer, Quote, period_quote};
use crate::actors::billing::wallet::{self, Wallet};
use crate::kernel::{Context, Decision, Effect, Error, Timestamp};

/// How long the instant of a preview may be used for the change itself, in seconds.
pub const PREVIEW_HOLDS_SECONDS: i64 = 900;

/// How long a costly change may wait for its payment.
const PENDING_HOURS: i64 = 23;

/// A change, priced.
struct Priced {
    offer: Offer,
    quantity: i64,
    place: Place,
    quote: Quote,
    at: Timestamp,
}

/// Tells the wallet what is charged for this subscription: a method that was deleted since it was looked at is forgotten.
pub(super) fn tell_named(user_id: &str, method_id: &str, context: &Context) -> Effect {
    let (subscription_id, method_id) = (context.id.key().to_owned(), method_id.to_owned());
    let named = wallet::Command::MethodNamed { subscription_id, method_id };
    Effect::tell::<Wallet>(wallet::id(user_id), &named, "")
}

impl Body {
    pub(super) fn preview(&self, request: ChangeRequest, context: &Context) -> Result<Decision<Subscription>, Error> {
        let preview = if request.offer.is_none() && request.quantity.is_none() {
            self.preview_renewal(context)?
        } else {
            let priced = self.price(request, context)?;
            Preview { quote: priced.quote, prorate_at: priced.at, invoice_at: context.now }
        };
        Ok(Decision::reply(Reply::Preview(Box::new(preview))))
    }

    /// The next invoice as it will be if nothing changes.
    fn preview_renewal(&self, context: &Context) -> Result<Preview, Error> {
        if !matches!(self.state, State::Trialing | State::Active | State::PastDue) || self.cancel_at.is_some() {
            return Err(Error::conflict("There will be no further invoice."));
        }
        let Place { anchor, index, period, .. } = self.place;
        let next = Period { start: period.end, end: self.offer.every.boundary(anchor, index + 1)? };
        let quote = period_quote(&self.offer, self.quantity, next, self.balance, self.terms.tax_basis_points)?;
        Ok(Preview { quote, prorate_at: context.now, invoice_at: period.end })
    }

    fn price(&self, request: ChangeRequest, context: &Context) -> Result<Priced, Error> {
        match self.state {
            State::Active | State::Trialing if self.settling.is_none() => {}
            State::Active | State::Trialing => {
                return Err(Error::conflict("An invoice of this subscription is being settled.").retry_after(5));
            }
            _ => return Err(Error::conflict("Only a trialing or active subscription can be changed.")),
        }
        let at = request.prorate_at.unwrap_or(context.now);
        if at > context.now || context.now.millis_since(at) > PREVIEW_HOLDS_SECONDS * 1000 {
            let expected = format!("expected a time of the last {PREVIEW_HOLDS_SECONDS} seconds, as a preview gave it");
            return Err(Error::invalid("/prorate_at", expected));
        }
        let at = at.max(self.place.since);
        let offer = request.offer.unwrap_or_else(|| self.offer.clone());
        let quantity = request.quantity.unwrap_or(self.quantity);
        check_quantity(quantity)?;
        if offer.unit_price.currency != self.offer.unit_price.currency {
            return Err(Error::invalid("/currency", "a subscription keeps its currency; start another one instead"));
        }
        let tax = self.terms.tax_basis_points;
        if self.state == State::Trialing {
            return self.price_in_trial(offer, quantity, at);
        }
        let change =
            Change { old: (&self.offer, self.quantity), new: (&offer, quantity), period: self.place.period, at };
        let quote = change.quote(self.balance, tax)?;
        let place = if offer.every == self.offer.every {
            Place { since: at, ..self.place }
        } else {
            Place { anchor: at, index: 1, period: change.next_period()?, since: at }
        };
        Ok(Priced { offer, quantity, place, quote, at })
    }

    /// A trial lasts no longer than that of the plan it is on: what is left of it goes on, or the first period begins.
    fn price_in_trial(&self, offer: Offer, quantity: i64, at: Timestamp) -> Result<Priced, Error> {
        let (Period { start, end }, tax) = (self.place.period, self.terms.tax_basis_points);
        let end = end.min(days_after(start, offer.trial_days));
        if end > at {
            offer.priced(quantity).whole()?;
            let period = Period { start, end };
            let quote = Quote::of(offer.unit_price.currency, Vec::new(), period, self.balance, tax)?;
            let place = Place { anchor: end, period, ..self.place };
            return Ok(Priced { offer, quantity, place, quote, at });
        }
        let period = Period { start: at, end: offer.every.boundary(at, 1)? };
        let quote = period_quote(&offer, quantity, period, self.balance, tax)?;
        Ok(Priced { offer, quantity, place: Place { anchor: at, index: 1, period, since: at }, quote, at })
    }

    /// What follows when a change is made: the timers of its place, and the end of a trial that goes no further.
    pub(super) fn changed(
        &self,
        decision: Decision<Subscription>,
        pending: Pending,
        balance: i64,
        context: &Context,
    ) -> Decision<Subscription> {
        let Pending { offer, quantity, place } = pending;
        let mut decision =
            decision.timer("renew", place.period.end).audit(context, "subscription.changed", context.id.key(), "ok");
        let trial_goes_on = self.state == State::Trialing && place.is_trial();
        if trial_goes_on && place.period.end != self.place.period.end && self.terms.trial_notice_days > 0 {
            let notice = place.period.end.plus_days(-i64::from(self.terms.trial_notice_days));
            decision = decision.timer("trial_ending", notice.max(context.now));
        }
        if trial_goes_on && offer.plan_id != self.offer.plan_id {
            let (plan_id, subscription_id) = (offer.plan_id.clone(), context.id.key().to_owned());
            let take = wallet::Command::TakeTrial { plan_id, subscription_id };
            decision = decision.effect(Effect::tell::<Wallet>(wallet::id(&self.user_id), &take, ""));
        }
        decision = decision.event(Event::Changed { offer, quantity, place, balance });
        if self.state == State::Trialing && !trial_goes_on {
            decision = decision.clear_timer("trial_ending").event(Event::Activated);
        }
        decision
    }

    pub(super) fn change(&self, request: ChangeRequest, context: &Context) -> Result<Decision<Subscription>, Error> {
        let mut decision = Decision::reply(Reply::Done);
        let method_id = request.method_id.clone().filter(|id| self.method_id.as_ref() != Some(id));
        if let Some(method_id) = method_id {
            decision = decision
                .audit(context, "subscription.method_chosen", context.id.key(), "ok")
                .effect(tell_named(&self.user_id, &method_id, context))
                .event(Event::MethodChosen { method_id: method_id.clone() });
            if let Some(settling) = self.settling.as_ref().filter(|settling| settling.reason == Reason::Renewal) {
                let choose = invoice::Command::ChooseMethod { method_id };
                decision = decision.effect(Effect::tell::<Invoice>(invoice::id(&settling.invoice_id), &choose, ""));
            }
        }
        if request.offer.is_none() && request.quantity.is_none() {
            return Ok(self.replied(decision, context));
        }
        let chosen = request.method_id.clone();
        let priced = self.price(request, context)?;
        if priced.offer == self.offer && priced.quantity == self.quantity {
            return Ok(self.replied(decision, context));
        }
        let Priced { offer, quantity, place, quote, .. } = priced;
        if !quote.needs_invoice() {
            let decision = self.credited(decision, &quote, context);
            let pending = Pending { offer, quantity, place };
            let decision = self.changed(decision, pending, quote.balance_after, context);
            return Ok(self.replied(decision, context));
        }
        let mut invoiced = self.request();
        invoiced.offer = offer.clone();
        invoiced.method_id = chosen.or(invoiced.method_id);
        let balance = quote.balance_after;
        let (effect, settling) = Self::invoice(context, &invoiced, quote, Reason::Change, Mode::VoidOnDecline);
        let decision = decision
            .effect(effect)
            .timer("expire", context.now.plus_minutes(PENDING_HOURS * 60))
            .audit(context, "subscription.change_requested", context.id.key(), "ok")
            .event(Event::ChangeProposed { pending: Pending { offer, quantity, place }, settling, balance });
        Ok(self.replied(decision, context))
    }

    /// What was deleted is not charged and not shown any more: the wallet's default is charged.
    pub(super) fn forget_method(&self, method_id: String, context: &Context) -> Decision<Subscription> {
        let decision = Decision::reply(Reply::Done);
        if self.method_id.as_ref() != Some(&method_id) {
            return decision;
        }
        decision
            .audit(context, "subscription.method_forgotten", context.id.key(), "ok")
            .event(Event::MethodForgotten { method_id })
    }

    /// Books what a change gives back as credit of the customer.
    fn credited(&self, decision: Decision<Subscription>, quote: &Quote, context: &Context) -> Decision<Subscription> {
        let granted = quote.balance_after - quote.balance_before;
        let entries = [(Account::Revenue, granted), (Account::CustomerCredit, -granted)];
        ledger::post(decision, context, Movement::CreditGranted, context.id.key(), quote.currency, &entries)
    }
}
