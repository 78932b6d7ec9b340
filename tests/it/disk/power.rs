//! Power cuts under load: what was acknowledged is there, and it always opens.
//!
//! The filesystem is shut down without a flush of its journal, at random moments and at chosen ones: a flush of the
//! state, a snapshot being written or taking its name, a segment begun, a segment freed. `CONSTRUCT_TEST_SEED` runs a
//! campaign again, `CONSTRUCT_TEST_CUTS` makes it longer.

use std::collections::BTreeMap;

use super::victim::{Load, Victim, Word};
use super::volume::{Cutter, Volume, shim};
use crate::http::fresh_key;
use crate::load::{Dice, environment};

const CUTS: u64 = 12;
const AIMS: [&str; 7] = ["now", "now", "flush", "snapshot", "kept", "segment", "purge"];
/// A cut at no chosen moment comes after at most so many acknowledgements.
const ACKED_BEFORE: u64 = 500;

/// What came of a campaign.
#[derive(Debug, Default)]
struct Toll {
    cuts: u64,
    acked: u64,
    /// Cuts by what they were aimed at.
    aims: BTreeMap<String, u64>,
    /// Cuts after which the state store had lost what it had confirmed, and said so.
    rebuilt: u64,
    /// Cuts after which something acknowledged was gone.
    lost: Vec<String>,
    /// Cuts after which it did not open, or contradicted itself.
    broken: Vec<String>,
}

impl Toll {
    fn whole(&self) -> bool {
        self.lost.is_empty() && self.broken.is_empty() && self.rebuilt == 0
    }
}

struct Campaign {
    load: Load,
    dice: Dice,
    volume: Volume,
    /// By entity, the last sequence number that was acknowledged.
    acked: BTreeMap<String, u64>,
    unrepaired: bool,
    toll: Toll,
}

impl Campaign {
    fn new(load: Load, seed: u64, unrepaired: bool) -> Self {
        let (volume, acked, toll) = (Volume::new(512), BTreeMap::new(), Toll::default());
        Self { load, dice: Dice(seed), volume, acked, unrepaired, toll }
    }

    /// Starts a victim over what the last cut left, lets it work, and cuts the power.
    fn cut(&mut self) {
        self.toll.cuts += 1;
        let data = self.volume.path().join("data");
        let aims = match self.load {
            Load::Groups => &AIMS[..],
            Load::Flushes => &AIMS[1..3],
            Load::Sled => &AIMS[..1],
        };
        let aim = aims[usize::try_from(self.dice.roll(aims.len() as u64)).expect("small")];
        let (count, delay_us) = (1 + self.dice.roll(4), self.dice.roll(4000));
        let shim = self.unrepaired.then(|| shim(self.volume.path().parent().expect("a directory")));
        let mut cutter = Cutter::new(&self.volume, &data, aim, count, delay_us);
        let mut victim = Victim::start(&data, self.load, shim.as_deref());
        cutter.go();
        if !self.heard_whole(&victim) || aim == "now" {
            let before = self.dice.roll(ACKED_BEFORE);
            for _ in 0..before {
                self.note(victim.hear(), u128::MAX);
            }
            cutter.go();
        }
        cutter.about();
        let (at, why) = cutter.cut();
        *self.toll.aims.entry(why).or_default() += 1;
        victim.kill();
        while let Some(word) = victim.hear() {
            self.note(Some(word), at);
        }
        self.volume.remount();
    }

    fn note(&mut self, word: Option<Word>, cut_at: u128) {
        match word {
            Some(Word::Acked(name, sequence, at)) if at < cut_at => {
                self.toll.acked += 1;
                self.acked.insert(name, sequence);
            }
            Some(Word::Complaint(complaint)) => self.toll.broken.push(complaint),
            _ => {}
        }
    }

    /// Holds what the victim found against what was acknowledged. After a loss it goes on with what is there, and after
    /// a refusal with nothing.
    fn heard_whole(&mut self, victim: &Victim) -> bool {
        let mut have = BTreeMap::new();
        let found = loop {
            match victim.hear() {
                Some(Word::Have(name, sequence)) => drop(have.insert(name, sequence)),
                Some(Word::Rebuilt) => self.toll.rebuilt += 1,
                Some(Word::Ready) => break Ok(()),
                Some(Word::Complaint(complaint)) => break Err(complaint),
                Some(Word::Acked(..)) => break Err("acknowledged before it was ready".to_owned()),
                None => break Err("it ended before it was ready".to_owned()),
            }
        };
        if let Err(complaint) = found {
            self.toll.broken.push(format!("cut {}: {complaint}", self.toll.cuts));
            self.acked.clear();
            let _ = std::fs::remove_dir_all(self.volume.path().join("data"));
            return false;
        }
        let mut lost = self.acked.iter().filter(|(name, acked)| have.get(*name).unwrap_or(&0) < acked);
        if let Some((name, acked)) = lost.next() {
            let held = have.get(name).unwrap_or(&0);
            let more = lost.count();
            self.toll.lost.push(format!("cut {}: {name} has {held} of {acked}, and {more} more", self.toll.cuts));
        }
        self.acked = have;
        true
    }
}

fn campaign(load: Load, unrepaired: bool, cuts: u64, enough: impl Fn(&Toll) -> bool) -> Toll {
    let fresh = u64::from_str_radix(&fresh_key()[..12], 16).expect("hexadecimal");
    let seed = environment("CONSTRUCT_TEST_SEED", fresh);
    println!("CONSTRUCT_TEST_SEED={seed} CONSTRUCT_TEST_CUTS={cuts} {load:?}, unrepaired: {unrepaired}");
    let mut campaign = Campaign::new(load, seed, unrepaired);
    // The last victim is the judge of the last cut.
    for _ in 0..=cuts {
        campaign.cut();
        if enough(&campaign.toll) {
            break;
        }
    }
    println!("{:#?}", campaign.toll);
    campaign.toll
}

fn cuts() -> u64 {
    environment("CONSTRUCT_TEST_CUTS", CUTS)
}

#[test]
fn no_power_cut_costs_what_was_acknowledged() {
    let toll = campaign(Load::Groups, false, cuts(), |_| false);
    assert!(toll.whole(), "{toll:#?}");
    assert!(toll.aims.len() > 2, "cut at moments of different kinds: {toll:#?}");
}

#[test]
fn no_power_cut_costs_what_a_flush_confirmed() {
    let toll = campaign(Load::Flushes, false, cuts(), |_| false);
    assert!(toll.whole(), "{toll:#?}");
}

#[test]
fn no_power_cut_costs_what_sled_confirmed_with_its_sync_repaired() {
    let toll = campaign(Load::Sled, false, cuts(), |_| false);
    assert!(toll.whole(), "{toll:#?}");
}

/// Without this the tests above would show nothing about the repair: the same cuts, sled's flush as it ships.
#[test]
fn without_the_repaired_sync_sled_loses_what_its_flush_confirmed() {
    let asked = std::env::var_os("CONSTRUCT_TEST_CUTS").is_some();
    let toll = campaign(Load::Sled, true, cuts(), |toll| !asked && !toll.whole());
    assert!(!toll.whole(), "{toll:#?}");
}
