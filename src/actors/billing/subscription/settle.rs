//! What an invoice's end means for its subscription. Every report names the invoice; one about another invoice than
//! the one being settled (a repeat, or one that was given up) changes nothing.

use super::protocol::{Event, Reply, Settling, State};
use super::state::{Body, Subscription};
use crate::actors::billing::dunning::Exhausted;
use crate::actors::billing::invoice::Reason;
use crate::kernel::{Context, Decision};

impl Body {
    fn settling(&self, invoice_id: &str) -> Option<&Settling> {
        self.settling.as_ref().filter(|settling| settling.invoice_id == invoice_id)
    }

    pub(super) fn invoice_paid(&self, invoice_id: &str, context: &Context) -> Decision<Subscription> {
        let decision = Decision::reply(Reply::Done);
        let Some(settling) = self.settling(invoice_id) else { return decision };
        let decision = decision.clear_timer("expire").event(Event::Settled { restored_credit: 0 });
        let renew_at = self.place.period.end;
        match (settling.reason, &self.pending) {
            (Reason::Start, _) => decision
                .timer("renew", renew_at)
                .audit(context, "subscription.activated", context.id.key(), "ok")
                .event(Event::Activated),
            (Reason::Change, Some(pending)) => self.changed(decision, pending.clone(), self.balance, context),
            (Reason::Renewal | Reason::Change, _) => {
                let decision = decision.timer("renew", renew_at);
                if self.state == State::PastDue { decision.event(Event::Activated) } else { decision }
            }
        }
    }

    pub(super) fn invoice_failed(
        &self,
        invoice_id: &str,
        exhausted: bool,
        context: &Context,
    ) -> Decision<Subscription> {
        let decision = Decision::reply(Reply::Done);
        let Some(settling) = self.settling(invoice_id) else { return decision };
        if settling.reason != Reason::Renewal {
            return decision;
        }
        if !exhausted {
            if self.state == State::PastDue {
                return decision;
            }
            let decision = decision.audit(context, "subscription.past_due", context.id.key(), "ok");
            return decision.event(Event::PastDue);
        }
        // The invoice is given up already; there is nothing left to void.
        match self.terms.dunning.exhausted {
            Exhausted::Cancel => {
                let decision = decision.event(Event::Settled { restored_credit: 0 });
                self.ended_unpaid(decision, context)
            }
            Exhausted::Pause => decision
                .clear_timer("renew")
                .audit(context, "subscription.paused", context.id.key(), "ok")
                .event(Event::Paused { at: context.now, unpaid: true }),
        }
    }

    fn ended_unpaid(&self, decision: Decision<Subscription>, context: &Context) -> Decision<Subscription> {
        let unsettled = Body { settling: None, ..self.clone() };
        unsettled.ended(decision, context.now, "the payment could not be collected", context)
    }

    pub(super) fn invoice_voided(&self, invoice_id: &str, context: &Context) -> Decision<Subscription> {
        let decision = Decision::reply(Reply::Done);
        let Some(settling) = self.settling(invoice_id) else { return decision };
        let decision = decision.clear_timer("expire").event(Event::Settled { restored_credit: settling.credit_used });
        match settling.reason {
            Reason::Start => {
                let unsettled = Body { settling: None, ..self.clone() };
                unsettled.ended(decision, context.now, "the first payment was not completed", context)
            }
            Reason::Change => decision
                .timer("renew", self.place.period.end)
                .audit(context, "subscription.change_dropped", context.id.key(), "failed")
                .event(Event::ChangeDropped),
            Reason::Renewal => decision.timer("renew", self.place.period.end),
        }
    }
}
