//! What every node of a cluster has in common and keeps in files: the key-encryption keys, the key of Web Push and the
//! administrator token. A member hands them to a node that it lets in, over their authenticated stream.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::kernel::{codec, fail_point};

const KIND: u8 = 0x53;
const VERSION: u16 = 1;
/// The files, in the order they are written: once the last is there, all are.
const FILES: [&str; 4] = ["vapid.key", "admin-token", "keyset", "root.key"];

#[derive(Serialize, Deserialize)]
struct Secrets(Vec<(String, Vec<u8>)>);

/// The secrets of this node's data directory.
///
/// # Errors
/// When a file is missing or cannot be read.
pub fn pack(data_dir: &Path) -> io::Result<Vec<u8>> {
    let mut files = Vec::with_capacity(FILES.len());
    for name in FILES {
        files.push((name.to_owned(), fs::read(data_dir.join(name))?));
    }
    codec::encode_record(KIND, VERSION, &Secrets(files)).map_err(io::Error::other)
}

/// Writes the secrets of a cluster into a data directory that has none, durably and readable by its owner alone.
///
/// # Errors
/// When they cannot be read or written.
pub fn unpack(data_dir: &Path, bytes: &[u8]) -> io::Result<()> {
    let bad = |error| io::Error::new(io::ErrorKind::InvalidData, error);
    let Secrets(files) = codec::decode_record(KIND, bytes).map_err(|error| bad(error.to_string()))?;
    for name in FILES {
        let Some((_, bytes)) = files.iter().find(|(found, _)| found == name) else {
            return Err(bad(format!("the cluster's {name} is missing")));
        };
        let partial = data_dir.join(format!("{name}.partial"));
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&partial)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&partial, data_dir.join(name))?;
        fail_point::reach("secrets.file_named");
    }
    File::open(data_dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_new_node_gets_what_the_others_have_and_nobody_else_reads_it() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        assert_eq!(pack(from.path()).unwrap_err().kind(), io::ErrorKind::NotFound);
        for name in FILES {
            fs::write(from.path().join(name), name.repeat(3)).unwrap();
        }
        let packed = pack(from.path()).unwrap();
        unpack(to.path(), &packed).unwrap();
        for name in FILES {
            let path = to.path().join(name);
            assert_eq!(fs::read_to_string(&path).unwrap(), name.repeat(3));
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        assert!(unpack(to.path(), &packed[..packed.len() - 1]).is_err());
        let without = codec::encode_record(KIND, VERSION, &Secrets(Vec::new())).unwrap();
        assert!(unpack(to.path(), &without).unwrap_err().to_string().contains("vapid.key"));
    }

    #[test]
    fn any_bytes_as_the_keys_of_a_cluster_write_nothing_but_them() {
        let to = tempfile::tempdir().unwrap();
        let files = FILES.iter().map(|name| ((*name).to_owned(), vec![7; 4])).collect();
        let good = codec::encode_record(KIND, VERSION, &Secrets(files)).unwrap();
        let elsewhere = vec![("../elsewhere".to_owned(), vec![7; 4])];
        let elsewhere = codec::encode_record(KIND, VERSION, &Secrets(elsewhere)).unwrap();
        crate::kernel::fuzz_tests::fuzz_costly("cluster-keys", &[&good, &elsewhere], |bytes| {
            let directory = to.path().join("data");
            fs::create_dir(&directory).unwrap();
            let outcome = unpack(&directory, bytes);
            let mut found: Vec<_> = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            found.sort();
            assert!(found.iter().all(|name| FILES.iter().any(|file| name == file)), "{found:?}");
            assert_eq!(fs::read_dir(to.path()).unwrap().count(), 1, "nothing beside the directory");
            fs::remove_dir_all(&directory).unwrap();
            format!("{} {}", outcome.is_ok(), found.len())
        });
    }
}
