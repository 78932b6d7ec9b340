//! What a data directory holds between the moment that a new cluster was made in it and the first start that carries
//! that out: why, what the old cluster may have done, and who is to be erased anew. And the mark that the making has not
//! come to its end.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::Path;

use crate::actors::restoration::Beginning;
use crate::kernel::{codec, fail_point};

const KIND: u8 = 0x54;
const VERSION: u16 = 1;
const FILE: &str = "beginning";
const ERASURES: &str = "beginning.erasures";
const UNFINISHED: &str = "beginning.unfinished";

/// A new cluster that has not been started yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    pub beginning: Beginning,
    /// Ids of people.
    pub erasures: Vec<String>,
}

/// Marks the directory as one that must not be started yet.
///
/// # Errors
/// What the system says.
pub fn begin(data_dir: &Path) -> io::Result<()> {
    File::create(data_dir.join(UNFINISHED))?.sync_all()?;
    File::open(data_dir)?.sync_all()?;
    fail_point::reach("beginning.begun");
    Ok(())
}

/// Whether a making was begun here and did not come to its end.
#[must_use]
pub fn is_unfinished(data_dir: &Path) -> bool {
    data_dir.join(UNFINISHED).exists()
}

/// Notes what the first start has to do, and lets it start.
///
/// # Errors
/// What the system says.
pub fn finish(data_dir: &Path, pending: &Pending) -> io::Result<()> {
    let bytes = codec::encode_record(KIND, VERSION, &pending.beginning).map_err(io::Error::other)?;
    write(data_dir, ERASURES, pending.erasures.join("\n").as_bytes())?;
    write(data_dir, FILE, &bytes)?;
    fail_point::reach("beginning.noted");
    remove(data_dir, UNFINISHED)?;
    fail_point::reach("beginning.finished");
    Ok(())
}

/// What the first start has to do, if it is still to come.
///
/// # Errors
/// What the system says, or `InvalidData`.
pub fn pending(data_dir: &Path) -> io::Result<Option<Pending>> {
    let bytes = match fs::read(data_dir.join(FILE)) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        read => read?,
    };
    let invalid = |error: codec::CodecError| io::Error::new(ErrorKind::InvalidData, error.to_string());
    let beginning = codec::decode_record(KIND, &bytes).map_err(invalid)?;
    let erasures = fs::read_to_string(data_dir.join(ERASURES))?;
    let erasures = erasures.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect();
    Ok(Some(Pending { beginning, erasures }))
}

/// It is carried out, and durable elsewhere.
///
/// # Errors
/// What the system says.
pub fn carried_out(data_dir: &Path) -> io::Result<()> {
    remove(data_dir, FILE)?;
    remove(data_dir, ERASURES)
}

fn write(data_dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let partial = data_dir.join("beginning.partial");
    let mut file = File::create(&partial)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&partial, data_dir.join(name))?;
    File::open(data_dir)?.sync_all()
}

fn remove(data_dir: &Path, name: &str) -> io::Result<()> {
    match fs::remove_file(data_dir.join(name)) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => File::open(data_dir)?.sync_all(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::actors::restoration::Cause;
    use crate::actors::runtime::aftermath::Aftermath;
    use crate::kernel::{ShardId, Timestamp};

    #[test]
    fn what_is_noted_is_read_until_it_is_carried_out() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(pending(dir.path()).unwrap(), None);
        begin(dir.path()).unwrap();
        assert!(is_unfinished(dir.path()));
        let floors = BTreeMap::from([(ShardId(0), 7)]);
        let aftermath = Aftermath { cluster: [1; 16], until: Timestamp::from_millis(9), floors };
        let cause = Cause::Backup { id: "b".into(), taken_at: Timestamp::ZERO };
        let noted = Pending {
            beginning: Beginning { from: [2; 16], cause, aftermath },
            erasures: vec!["usr_1".into(), "usr_2".into()],
        };
        finish(dir.path(), &noted).unwrap();
        assert!(!is_unfinished(dir.path()));
        assert_eq!(pending(dir.path()).unwrap(), Some(noted));
        carried_out(dir.path()).unwrap();
        assert_eq!(pending(dir.path()).unwrap(), None);
    }

    #[test]
    fn any_bytes_as_a_beginning() {
        let aftermath = Aftermath { cluster: [1; 16], until: Timestamp::ZERO, floors: BTreeMap::new() };
        let cause = Cause::Backup { id: "b".into(), taken_at: Timestamp::ZERO };
        let good = codec::encode_record(KIND, VERSION, &Beginning { from: [2; 16], cause, aftermath }).unwrap();
        crate::kernel::fuzz_tests::fuzz("beginning", &[&good], |bytes| {
            crate::kernel::fuzz_tests::keeps_its_form(
                bytes,
                |bytes| codec::decode_record::<Beginning>(KIND, bytes),
                |beginning| codec::encode_record(KIND, VERSION, beginning).unwrap(),
            )
        });
    }
}
