//! The steward: rotates the key-encryption key and moves the clock, in between what others do.

use reqwest::Method;
use serde_json::json;

use super::wish::{Came, Wish};
use super::{Dice, Floor};
use crate::http::{Client, fresh_key};
use crate::node::Node;
use crate::person;

const DAY: i64 = 86_400;
const ROTATE: &str = "/admin/v1/keys/rotate";
pub const CLOCK: &str = "/admin/v1/clock";

pub struct Steward {
    admin: Client,
    dice: Dice,
    rotation: Option<Wish>,
}

impl Steward {
    pub fn new(node: &Node, dice: Dice) -> Self {
        Self { admin: node.operator(), dice, rotation: None }
    }

    /// Works until the node is gone or the floor closed.
    pub async fn work(&mut self, floor: &Floor) {
        while floor.is_open() {
            let pause = floor.steward_every / 2 + self.dice.roll(floor.steward_every);
            floor.reaches(floor.count() + pause).await;
            if floor.is_open() && !self.turn(floor).await {
                break;
            }
        }
        floor.close();
    }

    async fn turn(&mut self, floor: &Floor) -> bool {
        if self.dice.roll(3) == 0 {
            let _turn = floor.turn("the steward").await;
            return self.rotate(floor).await;
        }
        let days = 1 + i64::try_from(self.dice.roll(9)).expect("small");
        if floor.quiet_clock || self.dice.roll(2) == 0 {
            let waiting = floor.asking("the steward's turn alone".to_owned());
            let _alone = floor.turns.write().await;
            drop(waiting);
            return self.advance(days, floor).await;
        }
        self.advance(days, floor).await
    }

    async fn rotate(&mut self, floor: &Floor) -> bool {
        let wish = self.rotation.get_or_insert_with(|| Wish::bare_post(ROTATE));
        match wish.send(&self.admin, floor).await {
            Came::Answer(answer) => {
                answer.expect(200);
                self.rotation = None;
                floor.acknowledged();
                true
            }
            Came::NotNow => true,
            Came::Gone => false,
        }
    }

    async fn advance(&self, days: i64, floor: &Floor) -> bool {
        let asking = floor.asking(format!("GET {CLOCK} for the steward"));
        let Some(clock) = self.admin.try_get(CLOCK).await else { return false };
        drop(asking);
        if clock.status != 200 {
            return true;
        }
        let now: jiff::Timestamp = clock.text_at("/now").parse().expect("an RFC 3339 time");
        let then = jiff::Timestamp::from_second(now.as_second() + days * DAY).expect("a time");
        let body = json!({ "advance_to": then.to_string() });
        let _asking = floor.asking(format!("POST {CLOCK} {body}"));
        let Some(answer) = self.admin.try_send(Method::POST, CLOCK, Some(&fresh_key()), Some(&body)).await else {
            return false;
        };
        if !floor.believes() {
            return false;
        }
        if answer.status == 200 {
            floor.acknowledged();
        }
        assert!(matches!(answer.status, 200 | 503), "advanced: {} {}", answer.status, answer.text);
        true
    }

    /// A last rotation that nothing interrupts, and time for the last effects.
    pub async fn finish(&mut self, node: &Node) {
        if let Some(wish) = self.rotation.take()
            && let Came::Answer(answer) = wish.send(&self.admin, &Floor::new(true)).await
        {
            answer.expect(200);
        }
        person::advance_by(node, 2 * 3600).await;
        self.admin.post_empty(ROTATE).await.expect(200);
    }
}
