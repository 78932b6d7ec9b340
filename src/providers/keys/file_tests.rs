use super::*;

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().expect("a directory")
}

fn message(result: Result<FileKeys, KeyError>) -> String {
    result.err().expect("refused").to_string()
}

#[tokio::test]
async fn keys_survive_a_restart_and_open_only_for_their_owner() {
    let dir = directory();
    let keys = FileKeys::open(dir.path()).expect("made");
    let wrapped = keys.wrap("usr_a", &[7; 32]).await.expect("wrapped");
    let secret = keys.derive("email index");
    assert!(!wrapped.bytes.windows(8).any(|window| window == [7; 8]), "the key is not in the wrapped bytes");

    let keys = FileKeys::open(dir.path()).expect("opened");
    assert_eq!(*keys.unwrap("usr_a", &wrapped).await.expect("unwrapped"), [7; 32]);
    assert!(matches!(keys.unwrap("usr_b", &wrapped).await, Err(KeyError::DoesNotOpen)));
    assert_eq!(keys.derive("email index"), secret);
    assert_ne!(keys.derive("other"), secret);
    let mut changed = wrapped.clone();
    changed.bytes[20] ^= 1;
    assert!(matches!(keys.unwrap("usr_a", &changed).await, Err(KeyError::DoesNotOpen)));
    changed.bytes.clear();
    assert!(matches!(keys.unwrap("usr_a", &changed).await, Err(KeyError::DoesNotOpen)));
}

#[tokio::test]
async fn rotation_keeps_old_keys_readable_until_they_are_destroyed() {
    let dir = directory();
    let keys = FileKeys::open(dir.path()).expect("made");
    let (old, derived) = (keys.wrap("usr_a", &[1; 32]).await.expect("wrapped"), keys.derive("x"));
    keys.make(2).await.expect("made");
    for keys in [&keys, &FileKeys::open(dir.path()).expect("opened")] {
        assert_eq!((old.version, keys.current_version(), keys.versions()), (1, 1, vec![1, 2]), "only unwraps yet");
    }
    keys.wrap_under(2).await.expect("wraps");
    keys.wrap_under(1).await.expect("a late word changes nothing");
    assert!(matches!(keys.wrap_under(3).await, Err(KeyError::NoSuchVersion { version: 3 })));
    let new = keys.wrap("usr_a", &[1; 32]).await.expect("wrapped");
    assert_eq!((new.version, keys.versions()), (2, vec![1, 2]));
    assert_eq!(*keys.unwrap("usr_a", &old).await.expect("unwrapped"), [1; 32]);

    assert!(matches!(keys.destroy_below(3).await, Err(KeyError::NoSuchVersion { version: 3 })));
    keys.destroy_below(2).await.expect("destroyed");
    for keys in [keys, FileKeys::open(dir.path()).expect("opened")] {
        assert!(matches!(keys.unwrap("usr_a", &old).await, Err(KeyError::NoSuchVersion { version: 1 })));
        assert_eq!(*keys.unwrap("usr_a", &new).await.expect("unwrapped"), [1; 32]);
        assert_eq!((keys.versions(), keys.derive("x") == derived), (vec![2], true));
    }
}

#[tokio::test]
async fn a_new_version_travels_to_members_with_the_same_root_key_alone() {
    let (ours, theirs, strangers) = (directory(), directory(), directory());
    let keys = FileKeys::open(ours.path()).expect("made");
    for name in [ROOT_FILE, KEYSET_FILE] {
        fs::copy(ours.path().join(name), theirs.path().join(name)).expect("copied");
    }
    let (member, stranger) = (FileKeys::open(theirs.path()).expect("opened"), FileKeys::open(strangers.path()));
    keys.make(2).await.expect("made");
    keys.make(2).await.expect("again");
    let sealed = keys.hand_out(2).await.expect("sealed");
    assert!(matches!(stranger.expect("made").take_in(2, &sealed).await, Err(KeyError::DoesNotOpen)));
    assert!(matches!(member.take_in(3, &sealed).await, Err(KeyError::DoesNotOpen)), "as another version");
    member.take_in(2, &sealed).await.expect("kept");
    member.take_in(2, &keys.hand_out(2).await.expect("sealed")).await.expect("the same again");
    keys.wrap_under(2).await.expect("wraps");
    let wrapped = keys.wrap("usr_a", &[1; 32]).await.expect("wrapped");
    let member = FileKeys::open(theirs.path()).expect("opened");
    assert_eq!((member.current_version(), *member.unwrap("usr_a", &wrapped).await.expect("opens")), (1, [1; 32]));
    assert!(
        matches!(member.make(2).await, Ok(())) && matches!(member.make(1).await, Err(KeyError::NoSuchVersion { .. }))
    );
    keys.destroy_below(2).await.expect("destroyed");
    let late = member.hand_out(1).await.expect("sealed");
    assert!(matches!(keys.take_in(1, &late).await, Err(KeyError::NoSuchVersion { version: 1 })), "stays destroyed");
}

#[test]
fn both_files_are_private_and_a_readable_one_is_refused() {
    for name in [ROOT_FILE, KEYSET_FILE] {
        let dir = directory();
        drop(FileKeys::open(dir.path()).expect("made"));
        let path = dir.path().join(name);
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("changed");
        let message = message(FileKeys::open(dir.path()));
        assert!(message.contains("mode 0640") && message.contains("chmod 600"), "{message}");
    }
}

#[test]
fn a_lost_or_foreign_root_key_is_never_replaced() {
    let (ours, theirs) = (directory(), directory());
    drop(FileKeys::open(ours.path()).expect("made"));
    drop(FileKeys::open(theirs.path()).expect("made"));
    let root = ours.path().join(ROOT_FILE);
    fs::remove_file(&root).expect("removed");
    assert!(message(FileKeys::open(ours.path())).contains("root key is missing"));
    assert!(!root.exists());
    fs::copy(theirs.path().join(ROOT_FILE), &root).expect("copied");
    assert!(message(FileKeys::open(ours.path())).contains("another root key"));
    fs::write(&root, "rubbish").expect("written");
    assert!(message(FileKeys::open(ours.path())).contains("not a root key"));
}

#[test]
fn a_crash_between_the_two_files_is_finished_at_the_next_start() {
    let dir = directory();
    drop(FileKeys::open(dir.path()).expect("made"));
    fs::remove_file(dir.path().join(KEYSET_FILE)).expect("removed");
    fs::write(dir.path().join("keyset.new"), "half").expect("written");
    assert_eq!(FileKeys::open(dir.path()).expect("finished").versions(), vec![1]);
}

#[test]
fn a_directory_in_use_without_its_keys_is_refused_with_the_remedy() {
    let directory = tempfile::tempdir().expect("a directory");
    FileKeys::open(directory.path()).expect("made");
    FileKeys::must_exist(directory.path()).expect("both are there");
    std::fs::remove_file(directory.path().join("keyset")).expect("removed");
    let refusal = FileKeys::must_exist(directory.path()).expect_err("refused").to_string();
    assert!(refusal.contains("keyset") && refusal.contains("restore the file from its backup"), "{refusal}");
}
