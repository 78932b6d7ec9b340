//! The state of a delivery and its two pure functions.

use serde::{Deserialize, Serialize};

use super::effects;
use super::plan::{self, Inputs};
use super::protocol::{
    Attempt, AttemptOutcome, AttemptState, Category, Command, Contact, Event, Gathered, Reply, Report, SendRequest,
    Status,
};
use crate::actors::notifications::devices::Device;
use crate::actors::notifications::preferences::Policy;
use crate::actors::notifications::templates::Source;
use crate::kernel::{Context, Decision, Entity, EntityId, Error, Outcome, Timestamp};

/// How long the journal of a finished delivery is kept.
const RETENTION_DAYS: i64 = 90;
const MAX_DATA: usize = 64;
const MAX_VALUE_BYTES: usize = 8 * 1024;

const START: &str = "start";
const RESUME: &str = "resume";
const EXPIRE: &str = "expire";

/// One notification on its way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Delivery {
    /// Whose key seals the delivery; kept when everything else is dropped.
    subject: String,
    request: Option<SendRequest>,
    accepted_at: Timestamp,
    status: Status,
    /// The outer `Option`: whether the answer is in.
    contact: Option<Option<Contact>>,
    policy: Option<Policy>,
    devices: Option<Vec<Device>>,
    overrides: Option<Vec<(String, Source)>>,
    planned: bool,
    attempts: Vec<Attempt>,
}

fn check(request: &SendRequest) -> Result<(), Error> {
    if request.user_id.is_empty() && request.address.is_none() {
        return Err(Error::invalid("/to", "A receiver is needed."));
    }
    if request.data.len() > MAX_DATA {
        return Err(Error::invalid("/data", format!("At most {MAX_DATA} values.")));
    }
    if let Some((name, _)) = request.data.iter().find(|(n, v)| n.len() > 64 || v.len() > MAX_VALUE_BYTES) {
        let name: String = name.chars().take(64).collect();
        return Err(Error::invalid(&format!("/data/{name}"), "The name or the value is too long."));
    }
    if request.collapse_key.as_ref().is_some_and(|key| key.is_empty() || key.chars().count() > 64) {
        return Err(Error::invalid("/collapse_key", "Expected 1 to 64 characters."));
    }
    match &request.content {
        None if request.template.is_empty() => Err(Error::invalid("/template", "A template or content is needed.")),
        None => Ok(()),
        Some(content) if content.title.trim().is_empty() || content.title.chars().count() > 200 => {
            Err(Error::invalid("/content/title", "Expected 1 to 200 characters."))
        }
        Some(content) if content.body.trim().is_empty() || content.body.chars().count() > 4000 => {
            Err(Error::invalid("/content/body", "Expected 1 to 4000 characters."))
        }
        Some(content) => match &content.url {
            Some(url) if !is_link(url) => {
                Err(Error::invalid("/content/url", "Expected an https URL or a path that starts with a slash."))
            }
            _ => Ok(()),
        },
    }
}

fn is_link(url: &str) -> bool {
    let path = url.starts_with('/') && !url.starts_with("//");
    let clean = url.len() <= 2048 && !url.chars().any(|c| c.is_control() || c.is_whitespace());
    clean && (path || url.starts_with("https://"))
}

impl Delivery {
    fn ready(&self) -> bool {
        let Some(request) = &self.request else { return false };
        let person =
            request.address.is_some() || (self.contact.is_some() && self.policy.is_some() && self.devices.is_some());
        person && (request.content.is_some() || self.overrides.is_some())
    }

    fn inputs<'a>(&'a self, context: &'a Context) -> Option<Inputs<'a>> {
        Some(Inputs {
            id: context.id.key(),
            request: self.request.as_ref()?,
            contact: self.contact.as_ref().and_then(Option::as_ref),
            policy: self.policy.as_ref(),
            devices: self.devices.as_deref().unwrap_or_default(),
            overrides: self.overrides.as_deref().unwrap_or_default(),
            now: context.now,
        })
    }

    fn send(&self, request: SendRequest, context: &Context) -> Result<Decision<Self>, Error> {
        if self.status != Status::Absent {
            return Ok(Decision::reply(Reply::Accepted { status: self.status }));
        }
        check(&request)?;
        let not_before = request.not_before.filter(|at| *at > context.now);
        let subject = if request.user_id.is_empty() { context.id.key() } else { &request.user_id };
        let accepted = Event::Accepted { subject: subject.to_owned(), request: request.clone(), at: context.now };
        if let Some(at) = not_before {
            return Ok(Decision::reply(Reply::Accepted { status: Status::Scheduled }).event(accepted).timer(START, at));
        }
        let decision = Decision::reply(Reply::Accepted { status: Status::Sending }).event(accepted);
        Ok(self.begin(decision, &request, context))
    }

    /// Asks what the plan needs, or plans at once when nothing is missing.
    fn begin(&self, decision: Decision<Self>, request: &SendRequest, context: &Context) -> Decision<Self> {
        let mut decision = decision.event(Event::Started { at: context.now });
        for effect in effects::questions(request) {
            decision = decision.effect(effect);
        }
        let mut after = self.clone();
        decision.events.iter().for_each(|event| after.apply(event));
        if after.ready() { after.planned(decision, context) } else { decision }
    }

    /// Adds the plan to a decision; `self` is the state after the decision's events.
    fn planned(&self, decision: Decision<Self>, context: &Context) -> Decision<Self> {
        let Some(inputs) = self.inputs(context) else { return decision };
        let plan = plan::plan(inputs);
        let mut decision = decision;
        let planned = Event::Planned { attempts: plan.attempts };
        let mut after = self.clone();
        after.apply(&planned);
        decision = decision.event(planned);
        for effect in plan.effects {
            decision = decision.effect(effect);
        }
        if let Some(at) = plan.resume_at {
            decision = decision.timer(RESUME, at);
        }
        after.retained(decision, context)
    }

    /// Sets the retention timer once everything has ended.
    fn retained(&self, decision: Decision<Self>, context: &Context) -> Decision<Self> {
        match self.status {
            Status::Sent | Status::Failed | Status::Suppressed => {
                decision.timer(EXPIRE, context.now.plus_days(RETENTION_DAYS))
            }
            Status::Absent | Status::Scheduled | Status::Sending | Status::Expired => decision,
        }
    }

    fn gathered(&self, gathered: Gathered, context: &Context) -> Decision<Self> {
        if self.planned || self.status != Status::Sending {
            return Decision::reply(Reply::Done);
        }
        let event = Event::Gathered(gathered);
        let mut after = self.clone();
        after.apply(&event);
        let decision = Decision::reply(Reply::Done).event(event);
        match (after.ready(), after.attempts.is_empty()) {
            (false, _) => decision,
            (true, true) => after.planned(decision, context),
            (true, false) => after.resumed(decision, context),
        }
    }

    fn attempted(&self, outcome: AttemptOutcome, context: &Context) -> Decision<Self> {
        let pending = self.attempts.iter().any(|attempt| {
            attempt.channel == outcome.channel
                && attempt.target == outcome.target
                && attempt.state == AttemptState::Pending
        });
        let Some(request) = self.request.as_ref().filter(|_| pending) else { return Decision::reply(Reply::Done) };
        let mut decision = Decision::reply(Reply::Done);
        if outcome.gone && !outcome.target.is_empty() {
            decision = decision.effect(effects::forget(&request.user_id, &outcome.target));
        }
        let event = Event::Attempted { outcome, at: context.now };
        let mut after = self.clone();
        after.apply(&event);
        after.retained(decision.event(event), context)
    }

    /// Hours have passed: the receiver may have muted this, withdrawn consent or lost the device meanwhile.
    fn resume(&self) -> Decision<Self> {
        let decision = Decision::reply(Reply::Done);
        let waits = self.attempts.iter().any(|attempt| attempt.state == AttemptState::Deferred);
        let Some(request) = self.request.as_ref().filter(|_| waits && self.planned) else { return decision };
        effects::questions(request).into_iter().fold(decision.event(Event::Reconsidered), Decision::effect)
    }

    /// Adds what becomes of the attempts that waited to a decision; `self` is the state after the decision's events.
    fn resumed(&self, decision: Decision<Self>, context: &Context) -> Decision<Self> {
        let Some(inputs) = self.inputs(context) else { return decision };
        let waiting: Vec<&Attempt> = self.attempts.iter().filter(|a| a.state == AttemptState::Deferred).collect();
        let plan = plan::resume(inputs, &waiting);
        let dropped = Event::Dropped { attempts: plan.attempts };
        let mut after = self.clone();
        after.apply(&dropped);
        let decision = decision.event(dropped);
        let decision = match plan.resume_at {
            Some(at) => decision.timer(RESUME, at),
            None => plan.effects.into_iter().fold(decision.event(Event::Resumed { at: context.now }), Decision::effect),
        };
        after.retained(decision, context)
    }

    fn report(&self, context: &Context) -> Result<Report, Error> {
        let request = self.request.as_ref().ok_or_else(|| Error::not_found("notification"))?;
        Ok(Report {
            id: context.id.key().to_owned(),
            user_id: request.user_id.clone(),
            category: request.category,
            template: if request.content.is_some() { String::new() } else { request.template.clone() },
            status: self.status,
            accepted_at: self.accepted_at,
            attempts: self.attempts.clone(),
        })
    }

    /// Once every attempt has ended: the whole's outcome, and texts and tokens are forgotten.
    fn conclude(&mut self) {
        let open = |a: &Attempt| matches!(a.state, AttemptState::Pending | AttemptState::Deferred);
        if !self.planned || self.attempts.iter().any(open) {
            return;
        }
        let any = |state| self.attempts.iter().any(|attempt| attempt.state == state);
        self.status = if any(AttemptState::Sent) {
            Status::Sent
        } else if any(AttemptState::Failed) || any(AttemptState::Unknown) {
            Status::Failed
        } else {
            Status::Suppressed
        };
        self.contact = None;
        self.policy = None;
        self.devices = None;
        self.overrides = None;
        if let Some(request) = &mut self.request {
            request.data.clear();
            if let Some(content) = &mut request.content {
                content.body.clear();
            }
        }
    }

    fn decided(&self, command: Command, context: &Context) -> Result<Decision<Self>, Error> {
        match command {
            Command::Send(request) => self.send(request, context),
            Command::Gathered(gathered) => Ok(self.gathered(gathered, context)),
            Command::Attempted(outcome) => Ok(self.attempted(outcome, context)),
            Command::Start => match &self.request {
                Some(request) if self.status == Status::Scheduled => {
                    Ok(self.begin(Decision::reply(Reply::Done), request, context))
                }
                _ => Ok(Decision::reply(Reply::Done)),
            },
            Command::Resume => Ok(self.resume()),
            Command::Expire if matches!(self.status, Status::Sent | Status::Failed | Status::Suppressed) => {
                Ok(Decision::reply(Reply::Done)
                    .event(Event::Expired { subject: self.subject.clone(), at: context.now })
                    .purge())
            }
            Command::Expire => Ok(Decision::reply(Reply::Done)),
            Command::GetReport => Ok(Decision::reply(Reply::Report(self.report(context)?))),
        }
    }
}

impl Entity for Delivery {
    const KIND: &'static str = "delivery";

    type Command = Command;
    type Event = Event;
    type Reply = Reply;

    fn decide(&self, command: Command, context: &Context) -> Result<Decision<Self>, Error> {
        let asked = match &command {
            Command::Send(request) => Some(request.category),
            _ => self.request.as_ref().map(|request| request.category),
        };
        let decision = self.decided(command, context)?;
        Ok(if asked.is_some_and(Category::is_bulk) { decision.bulk() } else { decision })
    }

    fn apply(&mut self, event: &Event) {
        match event {
            Event::Accepted { subject, request, at } => {
                self.subject.clone_from(subject);
                self.request = Some(request.clone());
                self.accepted_at = *at;
                self.status = Status::Scheduled;
            }
            Event::Started { .. } => self.status = Status::Sending,
            Event::Gathered(Gathered::Contact(contact)) => self.contact = Some(contact.clone()),
            Event::Gathered(Gathered::Policy(policy)) => self.policy = Some(policy.clone()),
            Event::Gathered(Gathered::Devices(devices)) => self.devices = Some(devices.clone()),
            Event::Gathered(Gathered::Overrides(overrides)) => self.overrides = Some(overrides.clone()),
            Event::Planned { attempts } => {
                self.planned = true;
                self.attempts.clone_from(attempts);
                self.conclude();
            }
            Event::Attempted { outcome, at } => {
                let same = |a: &&mut Attempt| {
                    a.channel == outcome.channel && a.target == outcome.target && a.state == AttemptState::Pending
                };
                if let Some(attempt) = self.attempts.iter_mut().find(same) {
                    attempt.state = outcome.state;
                    attempt.at = *at;
                    attempt.detail.clone_from(&outcome.detail);
                    attempt.reference.clone_from(&outcome.reference);
                }
                self.conclude();
            }
            Event::Resumed { at } => {
                for attempt in self.attempts.iter_mut().filter(|a| a.state == AttemptState::Deferred) {
                    attempt.state = AttemptState::Pending;
                    attempt.at = *at;
                }
            }
            Event::Reconsidered => {
                self.planned = false;
                (self.contact, self.policy, self.devices, self.overrides) = (None, None, None, None);
            }
            Event::Dropped { attempts } => {
                self.planned = true;
                for dropped in attempts {
                    let same = |a: &&mut Attempt| {
                        a.channel == dropped.channel && a.target == dropped.target && a.state == AttemptState::Deferred
                    };
                    if let Some(attempt) = self.attempts.iter_mut().find(same) {
                        attempt.clone_from(dropped);
                    }
                }
                self.conclude();
            }
            Event::Expired { subject, .. } => {
                *self = Self { subject: subject.clone(), status: Status::Expired, ..Self::default() };
            }
        }
    }

    fn subject(&self, _id: &EntityId) -> Option<String> {
        Some(self.subject.clone()).filter(|subject| !subject.is_empty())
    }

    fn on_timer(name: &str) -> Option<Command> {
        match name {
            START => Some(Command::Start),
            RESUME => Some(Command::Resume),
            EXPIRE => Some(Command::Expire),
            _ => None,
        }
    }

    fn on_outcome(tag: &str, outcome: Outcome) -> Option<Command> {
        effects::command(tag, outcome)
    }
}
