//! Answers questions about a shard that this node leads, whoever asks.

use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use super::audit;
use super::log::{LogError, unreadable};
use super::question::{Answer, Followed, HeldEffect, Question, encode_answer};
use super::remote::{Refusal, RemoteHandler};
use super::replica::Led;
use super::router::{Entries, Page, Router};
use super::sealing::{Place, open};
use super::shard::{Shard, Undelivered};
use crate::kernel::{Clock, EntityId, Error, ErrorCode, Op, OutboxRecord, OutboxState, ShardId, Target};

/// Due timers looked at to find the next one; more than these are only due together when they are put off.
const LOOK_AHEAD: usize = 4096;
/// Held effects shown at once, more or less.
const HELD_SHOWN: usize = 256;
/// Bytes of a backup read at once.
const CUT_PIECE: usize = 256 << 10;
/// Entries of a feed that are looked at at once, for another node.
const NEWS_PAGE: usize = 256;
/// How long another node waits for news before it hears that there are none.
const NEWS_WITHIN: Duration = Duration::from_secs(5);

impl Router {
    /// Answers on the shard that this node leads.
    ///
    /// # Errors
    /// The refusal, or [`Undelivered::Moved`] when nothing was done because this node does not lead any more.
    pub(super) async fn answer(&self, led: &Led, question: &Question) -> Result<Answer, Undelivered> {
        let shard = led.shard.as_ref();
        let state = shard.parts.log.state();
        match question {
            Question::Deliver { id, work, origin, dedupe } => {
                Ok(Answer::Delivered(shard.deliver(id, work, origin, dedupe.as_ref()).await?))
            }
            Question::Rows { id, table, page } => Ok(Answer::Entries(rows(shard, id, table, page).await?)),
            Question::Scan { index, prefix, page } => {
                shard.barrier().await?;
                let found = state.index_scan(index, prefix, page.after.as_deref(), page.limit, page.reverse);
                Ok(Answer::Entries(found.map_err(|error| unreadable(&error))?))
            }
            Question::Audit(records) => {
                write_audit(shard, Op::Audit(records.clone())).await?;
                Ok(Answer::Done)
            }
            Question::ReadAudit(query) => {
                shard.barrier().await?;
                Ok(Answer::Audit(audit::answer(state.shard(), state.as_ref(), query)?))
            }
            Question::Subject(id) => {
                shard.barrier().await?;
                let stored = state.entity(id).map_err(|error| unreadable(&error))?;
                Ok(Answer::Subject(stored.map(|stored| stored.subject)))
            }
            Question::NextDue(upto) => {
                shard.barrier().await?;
                let now = self.clock().now();
                let due = state.timers_due(*upto, LOOK_AHEAD).map_err(|error| unreadable(&error))?;
                Ok(Answer::Due(due.into_iter().map(|timer| timer.due).find(|due| *due > now)))
            }
            Question::Rest(now) => {
                self.clock().set(*now);
                shard.barrier().await?;
                let applied = state.applied().borrow().applied_index;
                Ok(Answer::Rest { quiet: led.is_quiet(), applied })
            }
            Question::Report => {
                shard.barrier().await?;
                let replica = self.replica(state.shard()).ok_or_else(Error::internal)?;
                Ok(Answer::Report(replica.report()))
            }
            Question::Cut(id) => match shard.parts.log.cut(shard.parts.term, *id).await {
                Ok(position) => Ok(Answer::Cut(position)),
                Err(LogError::NotLeader { .. }) => Err(Undelivered::Moved),
                Err(error) => Err(Error::unavailable(format!("A shard cannot be held still: {error}.")).into()),
            },
            Question::Release(id) => Ok(Answer::Released(shard.parts.log.release(shard.parts.term, *id).await)),
            Question::Held { after } => Ok(Answer::Held(held(shard, *after)?)),
            Question::DecideHeld { number, release } => {
                shard.barrier().await?;
                Ok(Answer::Released(led.decide_held(*number, *release).await?))
            }
            Question::Unpark(id) => {
                shard.barrier().await?;
                Ok(Answer::Released(shard.unpark(id).await))
            }
            Question::HandOutKey { .. } | Question::TakeInKey { .. } | Question::KeyVersions | Question::Inventory => {
                self.answer_itself(question).await.unwrap_or_else(|| Err(Error::internal())).map_err(Undelivered::from)
            }
            Question::Follow { after, kinds } => news(shard, *after, kinds).await,
            Question::ReadCut { id, offset } => {
                let piece = shard.parts.log.read_cut(*id, *offset, CUT_PIECE).await;
                Ok(Answer::Piece(
                    piece.map_err(|why| Error::unavailable(format!("The backup of a shard is gone: {why}.")))?,
                ))
            }
        }
    }
}

/// What happened after a position, waited for; at first only where the feed is.
async fn news(shard: &Shard, after: Option<u64>, kinds: &[Followed]) -> Result<Answer, Undelivered> {
    let state = shard.parts.log.state();
    let nothing = |reached| Ok(Answer::News { reached, gap: false, entries: Vec::new() });
    let Some(mut reached) = after else { return nothing(state.feed_head()) };
    let (mut applied, until) = (state.applied(), Instant::now() + NEWS_WITHIN);
    loop {
        applied.mark_unchanged();
        let page = state.feed(reached, NEWS_PAGE).map_err(|error| unreadable(&error))?;
        let gap = page.first().is_some_and(|entry| entry.position > reached + 1);
        let found = page.last().map(|entry| entry.position);
        let entries: Vec<_> = page.into_iter().filter_map(|entry| Followed::pick(kinds, entry)).collect();
        reached = found.unwrap_or(reached);
        if gap || !entries.is_empty() {
            return Ok(Answer::News { reached, gap, entries });
        }
        if found.is_none() && !matches!(tokio::time::timeout_at(until, applied.changed()).await, Ok(Ok(()))) {
            return nothing(reached);
        }
    }
}

/// At most as many records are looked at as there are in some pages, so that a long outbox is read in parts.
fn held(shard: &Shard, mut after: u64) -> Result<Vec<HeldEffect>, Error> {
    let mut found = Vec::new();
    while found.len() < HELD_SHOWN {
        let records = shard.parts.log.state().outbox(after, HELD_SHOWN).map_err(|error| unreadable(&error))?;
        let Some(last) = records.last().map(|record| record.number) else { break };
        after = last;
        for record in records {
            if let (OutboxState::Held { .. }, Target::Provider(provider)) = (&record.state, &record.target) {
                let OutboxRecord { number, source, subject, .. } = record;
                found.push(HeldEffect { number, provider: *provider, source, subject });
            }
        }
    }
    Ok(found)
}

async fn rows(shard: &Shard, id: &EntityId, table: &str, page: &Page) -> Result<Entries, Undelivered> {
    shard.barrier().await?;
    let state = shard.parts.log.state();
    let Some(stored) = state.entity(id).map_err(|error| unreadable(&error))? else { return Ok(Vec::new()) };
    let rows = state.rows(id, table, page.after.as_deref(), page.limit, page.reverse);
    let rows = rows.map_err(|error| unreadable(&error))?;
    let key = match &stored.subject {
        Some(subject) => {
            let gone = || Error::new(ErrorCode::Gone, "The person this belonged to was erased.");
            Some(shard.parts.sealer().key(subject, false).await?.ok_or_else(gone)?)
        }
        None => None,
    };
    let mut opened = Entries::with_capacity(rows.len());
    for (row, value) in rows {
        let value = open(key.as_ref(), id, &Place::Row { table, key: &row }, value)?;
        opened.push((row, value));
    }
    Ok(opened)
}

async fn write_audit(shard: &Shard, op: Op) -> Result<(), Undelivered> {
    let unavailable = || Error::unavailable("The audit log cannot be written now.");
    let written = shard.parts.propose(op).map_err(|_| Error::overloaded("The shard's queue"))?;
    match written.await.map_err(|_| unavailable())? {
        Ok(_) => Ok(()),
        Err(LogError::NotLeader { .. }) => Err(Undelivered::Moved),
        Err(_) => Err(unavailable().into()),
    }
}

/// Answers other nodes.
pub(super) struct Answering {
    pub router: Router,
}

#[async_trait]
impl RemoteHandler for Answering {
    async fn handle(&self, from: u64, shard: ShardId, request: Vec<u8>, deadline: Instant) -> Result<Vec<u8>, Refusal> {
        if Instant::now() >= deadline {
            return Err(Refusal::Expired);
        }
        let question = Question::decode(&request).map_err(|error| {
            tracing::warn!(from, %shard, %error, "a question of another node cannot be read");
            Refusal::Unreadable
        })?;
        drop(request);
        if let Some(answer) = self.router.answer_itself(&question).await {
            return Ok(encoded(shard, &answer));
        }
        let replica = self.router.replica(shard).ok_or(Refusal::UnknownShard)?;
        let Some(led) = replica.led() else { return Err(moved(&self.router, shard)) };
        // The caller hears nothing after its deadline; what was begun may still take effect.
        let answered = tokio::time::timeout_at(deadline, self.router.answer(&led, &question)).await;
        let answered = answered.unwrap_or_else(|_| Err(too_late().into()));
        let answer = match answered {
            Ok(answer) => Ok(answer),
            Err(Undelivered::Refused(error)) => Err(error),
            Err(Undelivered::Moved) => return Err(moved(&self.router, shard)),
        };
        Ok(encoded(shard, &answer))
    }
}

fn encoded(shard: ShardId, answer: &Result<Answer, Error>) -> Vec<u8> {
    let encoded = encode_answer(answer).or_else(|error| {
        tracing::error!(%shard, %error, "an answer does not encode");
        encode_answer(&Err(Error::internal()))
    });
    encoded.expect("a refusal encodes")
}

fn moved(router: &Router, shard: ShardId) -> Refusal {
    Refusal::NotLeader { leader: router.heard_leader(shard) }
}

/// What a caller hears at its deadline.
pub(super) fn too_late() -> Error {
    let detail = "The deadline passed; whether the command took effect is not known.";
    Error::new(ErrorCode::DeadlineExceeded, detail).retry_after(1)
}
