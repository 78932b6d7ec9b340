//! The driver of the fuzz targets: mutates seeds and feeds them to a decoder of outside bytes, which must neither panic
//! nor break its round trip. Test code only.
//!
//! It sees no coverage. In its place an input is kept for further mutation when the decoder *answered* it in a way that
//! was not seen before: a target returns a text that names the way taken (accepted, or which refusal). Seeds are the
//! files of `tests/data/fuzz/<target>/` and what the target gives.
//!
//! `CONSTRUCT_FUZZ_SECONDS` is how long each target runs (without it: a few thousand inputs), `CONSTRUCT_FUZZ_SEED`
//! repeats a run. A failing input is printed in hexadecimal; put it among the seeds.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use super::dice::Dice;

const INPUTS: u64 = 3000;
const MAX_BYTES: usize = 16 << 10;
const MAX_POOL: usize = 2000;

/// Bytes that decoders stumble over.
const TOKENS: &[&[u8]] = &[
    b"\0",
    b"\xff",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\x80\0\0\0",
    b"\0\0\0\0\0\0\0\0",
    b"-9223372036854775808",
    b"18446744073709551616",
    b"1e400",
    b"-0",
    b"\"\"",
    b"null",
    b"[]",
    b"{}",
    b"[[",
    b"{\"a\":",
    b",",
    b":",
    b"\\ud800",
    b"\\u0000",
    b"%00",
    b"%ff",
    b"%2f",
    b"..",
    b"\r\n",
    b"\n",
    b" ",
    b"=",
    b"==",
    b".",
    b"_",
    b"@",
    b"\xc2\xad",
    b"\xe2\x80\x8b",
    b"\xd0\xb0",
    b"\xef\xbc\xa1",
    b"\xcc\x81",
    b"\xf0\x9f\x98\x80",
    b"\xed\xa0\x80",
    b"\xc0\x80",
    b"true",
    b"4242424242424242",
];

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text}")))
}

/// As [`fuzz`], for a target that takes milliseconds.
pub fn fuzz_costly(name: &str, seeds: &[&[u8]], target: impl Fn(&[u8]) -> String) {
    drive(name, seeds, INPUTS / 20, target);
}

/// Runs a target. `target` answers the way that the input went; it panics when a promise is broken.
///
/// # Panics
/// When the target does, after printing the input.
pub fn fuzz(name: &str, seeds: &[&[u8]], target: impl Fn(&[u8]) -> String) {
    drive(name, seeds, INPUTS, target);
}

/// Whatever decodes has a form that it keeps: encoded, it decodes to the same again. Answers the way.
///
/// # Panics
/// When it does not.
pub fn keeps_its_form<T, E: std::fmt::Debug>(
    bytes: &[u8],
    decode: impl Fn(&[u8]) -> Result<T, E>,
    encode: impl Fn(&T) -> Vec<u8>,
) -> String {
    match decode(bytes) {
        Ok(value) => {
            let form = encode(&value);
            let again = decode(&form).expect("what was encoded decodes");
            assert_eq!(encode(&again), form);
            "read".to_owned()
        }
        Err(error) => format!("{error:?}").chars().filter(|c| !c.is_ascii_digit()).take(80).collect(),
    }
}

fn drive(name: &str, seeds: &[&[u8]], at_least: u64, target: impl Fn(&[u8]) -> String) {
    let seed = setting("CONSTRUCT_FUZZ_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    let deadline = setting("CONSTRUCT_FUZZ_SECONDS").map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let mut dice =
        Dice(seed ^ name.bytes().fold(0, |sum: u64, byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte))));
    let mut pool: Vec<Vec<u8>> = seeds.iter().map(|seed| seed.to_vec()).chain(files(name)).collect();
    pool.push(Vec::new());
    let (mut ways, mut inputs) = (HashSet::new(), 0);
    let run = |input: &[u8], inputs: u64| {
        let way = catch_unwind(AssertUnwindSafe(|| target(input)));
        way.unwrap_or_else(|_| panic!("{name}: CONSTRUCT_FUZZ_SEED={seed}, input {inputs}: {}", hex::encode(input)))
    };
    for input in &pool {
        ways.insert(run(input, inputs));
        inputs += 1;
    }
    while deadline.map_or(inputs < at_least, |deadline| Instant::now() < deadline) {
        let mut input = pool[dice.below(pool.len())].clone();
        for _ in 0..=dice.below(4) {
            mutate(&mut input, &pool, &mut dice);
        }
        input.truncate(MAX_BYTES);
        if ways.insert(run(&input, inputs)) && pool.len() < MAX_POOL {
            pool.push(input);
        }
        inputs += 1;
    }
    println!("fuzz {name}: {inputs} inputs, {} ways, CONSTRUCT_FUZZ_SEED={seed}", ways.len());
}

/// The checked-in seeds of a target.
fn files(name: &str) -> Vec<Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/fuzz").join(name);
    let mut paths: Vec<_> = std::fs::read_dir(&directory).into_iter().flatten().flatten().map(|e| e.path()).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).expect("a seed")).collect()
}

fn mutate(input: &mut Vec<u8>, pool: &[Vec<u8>], dice: &mut Dice) {
    let at = dice.below(input.len() + 1);
    let length = dice.below(input.len() - at + 1).min(1 + dice.below(64));
    let byte = dice.roll().to_le_bytes()[0];
    match dice.below(9) {
        0 => {
            if let Some(found) = input.get_mut(at) {
                *found ^= 1 << (byte % 8);
            }
        }
        1 => {
            if let Some(found) = input.get_mut(at) {
                *found = byte;
            }
        }
        2 => drop(input.drain(at..at + length)),
        3 => input.truncate(at),
        4 => {
            let piece = input[at..at + length].to_vec();
            drop(input.splice(at..at, piece));
        }
        5 | 6 => {
            let token = TOKENS[dice.below(TOKENS.len())];
            let over = if byte.is_multiple_of(2) { length.min(token.len()) } else { 0 };
            drop(input.splice(at..at + over, token.iter().copied()));
        }
        7 => {
            let other = &pool[dice.below(pool.len())];
            let from = dice.below(other.len() + 1);
            drop(input.splice(at.., other[from..].iter().copied()));
        }
        _ => input.insert(at, byte),
    }
}

#[test]
fn any_bytes_as_ids_amounts_and_records() {
    use super::{Batch, Currency, EntityId, Op, OutboxRecord, codec, id, pan};
    let user = id::type_id("usr", super::Timestamp::from_millis(1), super::Slot(5), [9; 8]);
    fuzz("ids", &[user.as_bytes(), b"usr_", b"USD", b"4242 4242 4242 4242", b"user/usr_1"], |bytes| {
        let text = String::from_utf8_lossy(bytes);
        let known = id::is_type_id("usr", &text);
        if known {
            let again = EntityId::new("user", &text);
            assert_eq!((again.kind(), again.key()), ("user", text.as_ref()));
        }
        let currency = text.parse::<Currency>().map(|currency| assert_eq!(currency.code(), text));
        format!("{known} {} {}", currency.is_ok(), pan::contains_card_number(&text))
    });
    fn round_trip<T: serde::Serialize + serde::de::DeserializeOwned>(bytes: &[u8]) -> String {
        keeps_its_form(bytes, codec::decode::<T>, |value| codec::encode(value).expect("encodes"))
    }
    let record = super::AuditRecord {
        at: super::Timestamp::ZERO,
        actor: user,
        action: "user.sign_in".into(),
        target: "ses_1".into(),
        outcome: "ok".into(),
        source: String::new(),
        request_id: "req-1".into(),
    };
    let op = codec::encode(&Op::Audit(vec![record])).expect("encodes");
    fuzz("records", &[&op, &[1, 1, 0, 7]], |bytes| {
        let opened = codec::open_record(1, 1, bytes).map(|(version, rest)| (version, rest.len()));
        let ops = [round_trip::<Op>(bytes), round_trip::<Batch>(bytes), round_trip::<OutboxRecord>(bytes)];
        format!("{} {ops:?}", opened.is_ok())
    });
}
