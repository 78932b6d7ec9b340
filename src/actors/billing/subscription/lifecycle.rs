//! Beginning, renewing, pausing and ending.

use super::INDEX;
use super::change::tell_named;
use super::protocol::{CancelAt, Event, Place, Preview, Reply, StartRequest, State};
use super::state::{Body, Subscription};
use crate::actors::billing::calendar::{Period, days_after};
use crate::actors::billing::invoice::{self, Invoice, Mode, Reason};
use crate::actors::billing::notices;
use crate::actors::billing::proration::check_quantity;
use crate::actors::billing::quote::{Quote, period_quote};
use crate::actors::billing::wallet::{self, Wallet};
use crate::kernel::{Context, Decision, Effect, Error, Money, Timestamp};

/// How long a first payment may take before the subscription is given up.
const INCOMPLETE_HOURS: i64 = 23;

/// The first period from `now`.
fn first_place(request: &StartRequest, now: Timestamp) -> Result<Place, Error> {
    let period = Period { start: now, end: request.offer.every.boundary(now, 1)? };
    Ok(Place { anchor: now, index: 1, period, since: now })
}

/// What the first invoice of such a subscription would be if it were started at `now`.
///
/// # Errors
/// As the start itself: a 422 when quantity or amount is out of range.
pub fn preview_start(request: &StartRequest, now: Timestamp) -> Result<Preview, Error> {
    check_quantity(request.quantity)?;
    let invoice_at = days_after(now, request.offer.trial_days);
    let place = first_place(request, invoice_at)?;
    let quote = first_quote(request, place.period)?;
    Ok(Preview { quote, prorate_at: now, invoice_at })
}

fn first_quote(request: &StartRequest, period: Period) -> Result<Quote, Error> {
    period_quote(&request.offer, request.quantity, period, 0, request.terms.tax_basis_points)
}

impl Subscription {
    pub(super) fn start(&self, request: StartRequest, context: &Context) -> Result<Decision<Self>, Error> {
        if let Some(body) = &self.body {
            return Ok(Decision::reply(body.shown(context)));
        }
        check_quantity(request.quantity)?;
        let (id, now) = (context.id.key(), context.now);
        let mut decision = Decision::reply(Reply::Done)
            .index(INDEX, format!("{}/{id}", request.user_id), request.offer.plan_id.as_str())
            .audit(context, "subscription.started", id, "ok");
        if let Some(method_id) = &request.method_id {
            decision = decision.effect(tell_named(&request.user_id, method_id, context));
        }
        let trialing = request.offer.trial_days > 0;
        let place = if trialing {
            request.offer.priced(request.quantity).whole()?;
            let end = days_after(now, request.offer.trial_days);
            Place { anchor: end, index: 0, period: Period { start: now, end }, since: now }
        } else {
            first_place(&request, now)?
        };
        let mut settling = None;
        if trialing {
            let notice = place.period.end.plus_days(-i64::from(request.terms.trial_notice_days));
            if request.terms.trial_notice_days > 0 && notice > now {
                decision = decision.timer("trial_ending", notice);
            }
        } else {
            let quote = first_quote(&request, place.period)?;
            if quote.needs_invoice() {
                let (effect, made) = Body::invoice(context, &request, quote, Reason::Start, Mode::KeepOpen);
                settling = Some(made);
                decision = decision.effect(effect).timer("expire", now.plus_minutes(INCOMPLETE_HOURS * 60));
            }
        }
        if settling.is_none() {
            decision = decision.timer("renew", place.period.end);
        }
        let event = Event::Started { request: Box::new(request), place, trialing, settling, at: now };
        let mut next = Self::default();
        crate::kernel::Entity::apply(&mut next, &event);
        let reply = next.body.map_or(Reply::Done, |body| body.shown(context));
        Ok(Decision { reply, ..decision.event(event) })
    }
}

impl Body {
    /// The next period, if this one is over and everything before it is settled.
    pub(super) fn renew(&self, context: &Context) -> Result<Decision<Subscription>, Error> {
        let decision = Decision::reply(Reply::Done);
        let renews = matches!(self.state, State::Trialing | State::Active);
        if !renews || self.settling.is_some() || context.now < self.place.period.end {
            return Ok(decision);
        }
        if let Some(at) = self.cancel_at {
            return Ok(self.ended(decision, at.min(context.now), "requested", context));
        }
        let Place { anchor, index, period, .. } = self.place;
        let end = self.offer.every.boundary(anchor, index + 1)?;
        let period = Period { start: period.end, end };
        let place = Place { anchor, index: index + 1, period, since: period.start };
        let tax = self.terms.tax_basis_points;
        let quote = period_quote(&self.offer, self.quantity, place.period, self.balance, tax)?;
        let balance = quote.balance_after;
        let mut decision = decision.timer("renew", end).audit(context, "subscription.renewed", context.id.key(), "ok");
        let mut settling = None;
        if quote.needs_invoice() {
            let mode = Mode::Dunning(self.terms.dunning.clone());
            let (effect, made) = Self::invoice(context, &self.request(), quote, Reason::Renewal, mode);
            (decision, settling) = (decision.effect(effect), Some(made));
        }
        Ok(decision.event(Event::Renewed { place, balance, settling }))
    }

    pub(super) fn announce_trial_end(&self, context: &Context) -> Decision<Subscription> {
        let decision = Decision::reply(Reply::Done);
        let (State::Trialing, Some(end), None) = (self.state, self.trial_end, self.cancel_at) else { return decision };
        let whole = self.offer.priced(self.quantity).whole();
        let total = whole.unwrap_or(Money::zero(self.offer.unit_price.currency));
        decision.effect(notices::trial_ending(context, &self.user_id, &self.offer.plan_name, end, total))
    }

    /// The timer of a first payment or a costly change that nobody completed.
    pub(super) fn expire(&self, context: &Context) -> Decision<Subscription> {
        let decision = Decision::reply(Reply::Done);
        match (&self.settling, self.state) {
            (Some(settling), State::Incomplete) if settling.reason == Reason::Start => {
                self.ended(decision, context.now, "the first payment was not completed", context)
            }
            (Some(settling), _) if settling.reason == Reason::Change => decision.effect(void(&settling.invoice_id)),
            _ => decision,
        }
    }

    pub(super) fn cancel(&self, at: CancelAt, context: &Context) -> Result<Decision<Subscription>, Error> {
        let decision = Decision::reply(Reply::Done);
        if self.state == State::Canceled {
            return Ok(self.replied(decision, context));
        }
        let runs = matches!(self.state, State::Trialing | State::Active | State::PastDue);
        if at == CancelAt::Now || !runs {
            let decision = self.ended(decision, context.now, "requested", context);
            return Ok(self.replied(decision, context));
        }
        let end = self.place.period.end;
        if self.cancel_at == Some(end) {
            return Ok(self.replied(decision, context));
        }
        let decision = decision
            .audit(context, "subscription.cancel_scheduled", context.id.key(), "ok")
            .effect(notices::subscription_canceled(context, &self.user_id, &self.offer.plan_name, Some(end), ""))
            .event(Event::CancelScheduled { at: end });
        Ok(self.replied(decision, context))
    }

    /// The end: timers go, an unsettled invoice is withdrawn, the wallet forgets it, its holder hears of it.
    pub(super) fn ended(
        &self,
        decision: Decision<Subscription>,
        at: Timestamp,
        reason: &str,
        context: &Context,
    ) -> Decision<Subscription> {
        let id = context.id.key();
        let ended = wallet::Command::SubscriptionEnded { id: id.to_owned() };
        let mut decision = decision
            .clear_timer("renew")
            .clear_timer("trial_ending")
            .clear_timer("expire")
            .effect(Effect::tell::<Wallet>(wallet::id(&self.user_id), &ended, ""))
            .audit(context, "subscription.canceled", id, "ok");
        if let Some(settling) = &self.settling {
            let withdraw = invoice::Command::Withdraw;
            decision = decision.effect(Effect::tell::<Invoice>(invoice::id(&settling.invoice_id), &withdraw, ""));
        }
        // Whoever scheduled the end was told then.
        if self.cancel_at.is_none() {
            let plan = &self.offer.plan_name;
            decision = decision.effect(notices::subscription_canceled(context, &self.user_id, plan, None, reason));
        }
        decision.event(Event::Canceled { at, reason: reason.to_owned() })
    }

    pub(super) fn pause(&self, context: &Context) -> Result<Decision<Subscription>, Error> {
        let decision = Decision::reply(Reply::Done);
        match self.state {
            State::Paused => return Ok(self.replied(decision, context)),
            State::Trialing | State::Active if self.settling.is_none() => {}
            State::Trialing | State::Active => {
                return Err(Error::conflict("An invoice of this subscription is being settled.").retry_after(5));
            }
            _ => return Err(Error::conflict("Only a trialing or active subscription can be paused.")),
        }
        let decision = decision
            .clear_timer("renew")
            .clear_timer("trial_ending")
            .audit(context, "subscription.paused", context.id.key(), "ok")
            .event(Event::Paused { at: context.now, unpaid: false });
        Ok(self.replied(decision, context))
    }

    /// Goes on after a pause with what was left of the period, or takes back a scheduled end.
    pub(super) fn resume(&self, context: &Context) -> Result<Decision<Subscription>, Error> {
        let decision = Decision::reply(Reply::Done);
        let decision = match (self.state, self.paused_at) {
            (State::Trialing | State::Active | State::PastDue, _) if self.cancel_at.is_some() => decision
                .audit(context, "subscription.cancel_unscheduled", context.id.key(), "ok")
                .event(Event::CancelUnscheduled),
            (State::Trialing | State::Active | State::PastDue, _) => decision,
            (State::Paused, Some(_)) if self.paused_unpaid => self.restarted(decision, context)?,
            (State::Paused, Some(paused_at)) => {
                let place = self.moved_on(context.now.millis_since(paused_at).max(0))?;
                let notice = place.period.end.plus_days(-i64::from(self.terms.trial_notice_days));
                let announced = self.terms.trial_notice_days == 0 || notice <= context.now;
                let decision = match self.paused_from {
                    State::Trialing if !announced => decision.timer("trial_ending", notice),
                    _ => decision,
                };
                decision
                    .timer("renew", place.period.end)
                    .audit(context, "subscription.resumed", context.id.key(), "ok")
                    .event(Event::Resumed { place })
            }
            _ => return Err(Error::conflict("Only a paused subscription can be resumed.")),
        };
        Ok(self.replied(decision, context))
    }

    /// The period after a pause of so many milliseconds. The day of the month on which it renews is kept where the months
    /// allow it: one that began on a 31st does not renew on the 28th for ever because it paused in February.
    fn moved_on(&self, away: i64) -> Result<Place, Error> {
        let Place { anchor, index, period: Period { start, end }, since } = self.place;
        let period = Period { start: start.plus_millis(away), end: end.plus_millis(away) };
        let (moved, since) = (anchor.plus_millis(away), since.plus_millis(away));
        let kept = self.offer.every.boundary(moved, index)? == period.end;
        let (anchor, index) = if kept { (moved, index) } else { (period.end, 0) };
        Ok(Place { anchor, index, period, since })
    }

    fn restarted(&self, decision: Decision<Subscription>, context: &Context) -> Result<Decision<Subscription>, Error> {
        let request = self.request();
        let place = first_place(&request, context.now)?;
        let tax = self.terms.tax_basis_points;
        let quote = period_quote(&self.offer, self.quantity, place.period, self.balance, tax)?;
        let balance = quote.balance_after;
        let decision = decision.audit(context, "subscription.resumed", context.id.key(), "ok");
        if !quote.needs_invoice() {
            let event = Event::Restarted { place, settling: None, balance };
            return Ok(decision.timer("renew", place.period.end).event(event));
        }
        let (effect, made) = Self::invoice(context, &request, quote, Reason::Start, Mode::KeepOpen);
        Ok(decision
            .effect(effect)
            .timer("expire", context.now.plus_minutes(INCOMPLETE_HOURS * 60))
            .event(Event::Restarted { place, settling: Some(made), balance }))
    }
}

/// Tells an invoice that it is no longer wanted.
pub(super) fn void(invoice_id: &str) -> Effect {
    Effect::tell::<Invoice>(invoice::id(invoice_id), &invoice::Command::Void, "")
}
