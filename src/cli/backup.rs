//! `construct cluster backup` and what follows from it: a directory of backups, and whether each of them is whole.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use construct::cluster::backup::Base;
use construct::kernel::Secret;
use construct::storage::backup::{Archive, EXTENSION, Manifest};
use serde_json::{Value, json};

use super::CliError;
use super::admin::{Admin, AdminArgs};
use super::output::note;
use super::table::render;

/// Where backups are and what opens them.
#[derive(Debug, Clone, Args)]
pub struct BackupArgs {
    /// The directory of backups
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// File with the backup key: a passphrase or random text of at least 16 printable ASCII characters, which you keep apart from the backups
    #[arg(long, value_name = "FILE")]
    pub backup_key_file: PathBuf,
}

impl BackupArgs {
    /// The key that backups are sealed under.
    pub fn key(&self) -> Result<Secret<String>, CliError> {
        let shown = || format!("the backup key {}", self.backup_key_file.display());
        let text = fs::read_to_string(&self.backup_key_file).with_context(shown)?;
        Ok(Secret::new(text.trim().to_owned()))
    }

    /// The finished backups in the directory, oldest first.
    pub fn files(&self) -> Result<Vec<PathBuf>, CliError> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.dir).with_context(|| self.dir.display().to_string())? {
            let path = entry.context("the directory")?.path();
            if path.extension().is_some_and(|extension| extension == EXTENSION) {
                files.push(path);
            }
        }
        // By the time in their names; a virtual clock may stand still between two.
        files.sort_by_cached_key(|path| {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let at = name.split_once('-').map_or("", |(at, _)| at).to_owned();
            (at, fs::metadata(path).and_then(|file| file.modified()).ok(), name)
        });
        Ok(files)
    }
}

/// The backup that is named in a file's name.
pub fn id_of(path: &Path) -> String {
    let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
    name.rsplit_once('-').map_or(name, |(_, id)| id).to_owned()
}

fn name_of(manifest: &Manifest) -> String {
    let at: String = manifest.taken_at.to_string().chars().filter(char::is_ascii_alphanumeric).collect();
    format!("{at}-{}.{EXTENSION}", manifest.id)
}

/// Takes a backup into the directory; it gets its name once it is there, synced and read back.
pub async fn take(args: &BackupArgs, full: bool, admin: &AdminArgs) -> Result<String, CliError> {
    let key = args.key()?;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&args.dir)
        .with_context(|| args.dir.display().to_string())?;
    let base = if full { None } else { newest(args, &key)? };
    let client = Admin::open(admin)?;
    let mut body = json!({ "key": key.expose() });
    if let Some(base) = base.filter(|base| !base.parts.is_empty()) {
        body["base"] = serde_json::to_value(base).context("the earlier backup")?;
    }
    let partial = args.dir.join(format!("{}.partial", std::process::id()));
    let taken = receive(&client, &body, &partial, &key).await;
    let manifest = taken.inspect_err(|_| drop(fs::remove_file(&partial)))?;
    let path = args.dir.join(name_of(&manifest));
    let named = fs::rename(&partial, &path).and_then(|()| File::open(&args.dir)?.sync_all());
    named.with_context(|| path.display().to_string())?;
    let bytes = fs::metadata(&path).context("the backup")?.len();
    if admin.json {
        return Ok(format!("{:#}\n", shown(&path, &manifest, bytes, "whole")));
    }
    let elsewhere = manifest.held_elsewhere();
    let kept = if elsewhere > 0 {
        format!(" {elsewhere} shards had not changed: they are in earlier ones.")
    } else {
        String::new()
    };
    Ok(format!("{bytes} bytes in {}, of {}.{kept}\n", path.display(), manifest.taken_at))
}

async fn receive(client: &Admin, body: &Value, partial: &Path, key: &Secret<String>) -> Result<Manifest, CliError> {
    let shown = || partial.display().to_string();
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(partial);
    let mut file = file.with_context(shown)?;
    client.receive("/admin/v1/backups", body, &mut file).await?;
    file.flush().and_then(|()| file.sync_all()).with_context(shown)?;
    let verified = Archive::open(partial, key).and_then(|mut archive| archive.verify().map(|()| archive.manifest));
    verified.map_err(|error| CliError::NotVerified(format!("the backup did not arrive whole: {error}")))
}

/// What a new backup may build on: the newest one that opens, as far as the files are there that it builds on.
fn newest(args: &BackupArgs, key: &Secret<String>) -> Result<Option<Base>, CliError> {
    let files = args.files()?;
    let there: BTreeSet<String> = files.iter().map(|path| id_of(path)).collect();
    for path in files.iter().rev() {
        match Archive::open(path, key) {
            Ok(archive) => {
                let mut base = Base::of(&archive.manifest);
                base.parts.retain(|part| there.contains(&part.held_by));
                return Ok(Some(base));
            }
            Err(error) => note(&format!("{} is passed over: {error}", path.display())),
        }
    }
    Ok(None)
}

/// Reads every backup of the directory to its end.
pub fn list(args: &BackupArgs, as_json: bool) -> Result<String, CliError> {
    let key = args.key()?;
    let (mut rows, mut bad) = (Vec::new(), 0);
    let found: BTreeMap<String, PathBuf> = args.files()?.into_iter().map(|path| (id_of(&path), path)).collect();
    for path in args.files()? {
        let bytes = fs::metadata(&path).with_context(|| path.display().to_string())?.len();
        let opened = Archive::open(&path, &key).and_then(|mut archive| archive.verify().map(|()| archive.manifest));
        let row = match opened {
            Ok(manifest) => {
                let missing = manifest.parts.iter().filter_map(|part| part.held_by.as_ref());
                let missing = missing.filter(|id| !found.contains_key(*id)).count();
                bad += usize::from(missing > 0);
                let state = if missing > 0 { "needs a backup that is not here" } else { "whole" };
                shown(&path, &manifest, bytes, state)
            }
            Err(error) => {
                bad += 1;
                json!({ "file": path.display().to_string(), "bytes": bytes, "state": error.to_string() })
            }
        };
        rows.push(row);
    }
    if bad > 0 {
        note(&format!("{bad} of {} cannot be restored.", rows.len()));
    }
    if as_json {
        return finish(format!("{:#}\n", Value::Array(rows)), bad);
    }
    let columns = ["file", "taken_at", "bytes", "shards", "elsewhere", "state"];
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| columns.iter().map(|column| super::table::cell(&row[*column])).collect()).collect();
    finish(render(&["FILE", "TAKEN AT", "BYTES", "SHARDS", "ELSEWHERE", "STATE"], &rows), bad)
}

fn finish(text: String, bad: usize) -> Result<String, CliError> {
    if bad == 0 {
        return Ok(text);
    }
    super::output::say(&text)?;
    Err(CliError::NotVerified(format!("{bad} backups cannot be restored")))
}

fn shown(path: &Path, manifest: &Manifest, bytes: u64, state: &str) -> Value {
    json!({
        "file": path.display().to_string(),
        "id": manifest.id,
        "cluster": manifest.cluster,
        "version": manifest.version,
        "taken_at": manifest.taken_at,
        "bytes": bytes,
        "shards": manifest.shards,
        "elsewhere": manifest.held_elsewhere(),
        "state": state,
    })
}
