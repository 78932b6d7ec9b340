//! A small ext4 of its own on a loop device, whose power can be cut. Needs root, as the tests of this folder do.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};

use tempfile::TempDir;

/// A mounted filesystem. Unmounted when dropped.
pub struct Volume {
    directory: TempDir,
}

impl Volume {
    pub fn new(mebibytes: u64) -> Self {
        let volume = Self { directory: TempDir::new().expect("a temporary directory") };
        std::fs::create_dir(volume.path()).expect("a mount point");
        let image = std::fs::File::create(volume.image()).expect("an image");
        image.set_len(mebibytes << 20).expect("an image");
        let image = volume.image();
        run(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0", "-E", "lazy_itable_init=1"]).arg(image));
        volume.mount();
        volume
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.directory.path().join("mount")
    }

    fn image(&self) -> PathBuf {
        self.directory.path().join("image")
    }

    fn mount(&self) {
        run(Command::new("mount").args(["-o", "loop,errors=remount-ro"]).arg(self.image()).arg(self.path()));
    }

    fn unmount(&self) {
        run(Command::new("umount").arg(self.path()));
    }

    /// The block device under it, such as `loop3`.
    fn device(&self) -> String {
        let found = run(Command::new("findmnt").args(["-n", "-o", "SOURCE"]).arg(self.path()));
        let text = String::from_utf8_lossy(&found.stdout).trim().to_owned();
        text.rsplit('/').next().expect("a device").to_owned()
    }

    /// An error that makes the filesystem read-only, as a failing disk does.
    pub fn become_read_only(&self) {
        let trigger = format!("/sys/fs/ext4/{}/trigger_fs_error", self.device());
        std::fs::write(trigger, b"a test").expect("an error");
    }

    /// Takes all its space but `left` bytes, until [`Volume::make_room`].
    pub fn fill(&self, left: u64) {
        let filler = std::fs::File::create(self.path().join("filler")).expect("a file");
        let mut bytes = 0;
        // The last of it piece by piece: the filesystem needs some for its own books, and a node may be writing.
        for step in [16 << 20, 1 << 20, 64 << 10, 4 << 10] {
            while fs4::available_space(self.path()).expect("free space") >= left + step {
                let taken = fs4::fs_std::FileExt::allocate(&filler, bytes + step);
                if taken.is_err() {
                    break;
                }
                bytes += step;
            }
        }
    }

    pub fn make_room(&self) {
        std::fs::remove_file(self.path().join("filler")).expect("removed");
    }

    /// What follows a power cut: the journal is replayed, and what never reached the disk is gone.
    pub fn remount(&self) {
        self.unmount();
        self.mount();
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        // Lazily: a process of a failed test may still hold files.
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

/// Runs a program that must succeed.
#[track_caller]
pub fn run(command: &mut Command) -> Output {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} ended with {}: {said}", output.status);
    output
}

/// Whoever will cut the power.
pub struct Cutter {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Cutter {
    /// Gets ready: `aim` says which change of the data directory to wait for, how many times, and how long after.
    pub fn new(volume: &Volume, data: &Path, aim: &str, count: u64, delay_us: u64) -> Self {
        let mut child = Command::new("python3")
            .args(["-c", include_str!("cut.py")])
            .args([volume.path().as_path(), data])
            .args([aim, &count.to_string(), &delay_us.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 starts");
        let (orders, answers) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        let mut cutter = Self { child, orders, answers: BufReader::new(answers) };
        assert_eq!(cutter.answer(), "waiting");
        cutter
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("a readable pipe");
        line.trim().to_owned()
    }

    /// From now on it watches; told once more, it is about to cut.
    pub fn go(&mut self) {
        // It may have cut and ended already.
        let _ = self.orders.write_all(b"go\n");
    }

    /// Waits until it is about to cut.
    pub fn about(&mut self) {
        assert_eq!(self.answer(), "about");
    }

    /// Cuts. Answers when, in nanoseconds of the wall clock, and at what moment.
    pub fn cut(mut self) -> (u128, String) {
        self.go();
        let answer = self.answer();
        assert!(self.child.wait().expect("an end").success(), "the power was cut: {answer}");
        let [_, at, why] = answer.split(' ').collect::<Vec<_>>()[..] else { panic!("not an answer: {answer:?}") };
        (at.parse().expect("a time"), why.to_owned())
    }
}

/// A library that stands before the syncs of a process: see shim.c. Built once for each directory it is asked for in.
pub fn shim(directory: &Path) -> PathBuf {
    let (source, library) = (directory.join("shim.c"), directory.join("shim.so"));
    std::fs::write(&source, include_str!("shim.c")).expect("writable");
    run(Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source));
    library
}
