//! How a bench measures and what it prints: lines `name | ours | raw | ratio | goal`.
//!
//! Ours and its raw limit are measured in the same run, in turns, so that a disk or a neighbour that changes its pace
//! changes both; the median of the turns is printed. A bench reports and does not fail: the reader judges.
//!
//! `core` measures what lies below the gateway; a new bench target takes this module in by `#[path]`.
#![allow(dead_code, reason = "each bench target uses its part of it")]

pub mod callers;
pub mod client;
pub mod node;
pub mod process;
pub mod rig;

use std::path::PathBuf;
use std::time::{Duration, Instant};

/// What the command line asked for: `[--quick] [--place DIRECTORY] [NAME...]`, rows whose name contains a NAME.
pub struct Run {
    pub quick: bool,
    /// On the disk to be measured.
    pub place: PathBuf,
    wanted: Vec<String>,
}

/// What a row is held to.
#[derive(Clone, Copy)]
pub enum Goal {
    /// The ratio at least.
    Ratio(f64),
    /// The ratio at most: ours is a cost.
    RatioAtMost(f64),
    /// Ours at most, whatever raw is.
    AtMost(f64),
    None,
}

/// The medians of ours, of raw, and of the ratios of the turns.
#[derive(Clone, Copy)]
pub struct Measured {
    pub ours: f64,
    pub raw: Option<f64>,
    pub ratio: Option<f64>,
}

impl Run {
    /// Reads the arguments and prints the head of the table.
    pub fn start() -> Self {
        let mut run = Self { quick: false, place: PathBuf::from("."), wanted: Vec::new() };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--quick" => run.quick = true,
                "--place" => run.place = arguments.next().expect("--place takes a directory").into(),
                // Cargo's own.
                "--bench" => {}
                name => run.wanted.push(name.to_owned()),
            }
        }
        println!("{:<44} | {:>10} | {:>10} | {:>6} | goal", "name", "ours", "raw", "ratio");
        run
    }

    /// Whether the rows whose names begin like this are wanted.
    pub fn wants(&self, name: &str) -> bool {
        self.wanted.is_empty() || self.wanted.iter().any(|wanted| name.contains(wanted.as_str()))
    }

    /// How long one turn of one side takes.
    pub fn turn(&self) -> Duration {
        if self.quick { Duration::from_millis(1200) } else { Duration::from_secs(4) }
    }

    /// How many turns each side has.
    pub fn turns(&self) -> usize {
        if self.quick { 1 } else { 5 }
    }

    /// Measures both in turns.
    pub fn pairs(&self, mut ours: impl FnMut() -> f64, mut raw: impl FnMut() -> f64) -> Measured {
        let (mut all_ours, mut all_raw, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..self.turns() {
            let (ours, raw) = (ours(), raw());
            all_ours.push(ours);
            all_raw.push(raw);
            ratios.push(ours / raw);
        }
        Measured { ours: median(all_ours), raw: Some(median(all_raw)), ratio: Some(median(ratios)) }
    }
}

impl Measured {
    /// A figure without a raw limit beside it.
    pub fn alone(ours: f64) -> Self {
        Self { ours, raw: None, ratio: None }
    }

    /// Prints the row. Units belong into the name.
    pub fn print(&self, name: &str, goal: Goal) {
        let ratio = self.ratio.unwrap_or(f64::NAN);
        let (text, met) = match goal {
            Goal::Ratio(least) => (format!(">= {least}"), ratio >= least),
            Goal::RatioAtMost(most) => (format!("<= {most}"), ratio <= most),
            Goal::AtMost(most) => (format!("ours <= {most}"), self.ours <= most),
            Goal::None => ("-".to_owned(), true),
        };
        let figure = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), figure);
        let ratio = self.ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"));
        let missed = if met { "" } else { " MISSED" };
        println!(
            "{name:<44} | {:>10} | {:>10} | {ratio:>6} | {text}{missed}",
            figure(Some(self.ours)),
            figure(self.raw)
        );
    }
}

/// Three digits or more.
fn figure(value: f64) -> String {
    if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

/// The middle one.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The value that this share of all is not above.
pub fn percentile(values: &mut [Duration], share: f64) -> Duration {
    values.sort_unstable();
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an index"
    )]
    let at = ((values.len() as f64 * share) as usize).min(values.len().saturating_sub(1));
    values.get(at).copied().unwrap_or_default()
}

/// So many in that time, per second.
pub fn rate(count: u64, took: Duration) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52")]
    let count = count as f64;
    count / took.as_secs_f64()
}

/// Calls `once` again and again for `turn`; how many calls a second that makes, `each` counting for so many.
pub fn repeat(turn: Duration, each: u64, mut once: impl FnMut()) -> f64 {
    let (began, mut count) = (Instant::now(), 0);
    while began.elapsed() < turn {
        once();
        count += each;
    }
    rate(count, began.elapsed())
}
