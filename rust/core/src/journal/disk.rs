//! Files that appear whole or not at all. Knows nothing about frames.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

/// Names that are tried for the temporary file. More than one exists only if processes of the same id were killed before.
const ATTEMPTS: u32 = 1000;

/// Creates `path` with these bytes, on the disk when the call returns, and opens it for appending.
///
/// The bytes go to a temporary file beside it, which is then linked to `path`: a link never overwrites a file, but a rename
/// does. A file system without links gets a rename after a check.
///
/// # Errors
/// `AlreadyExists` if `path` exists. A failure leaves nothing behind.
pub(super) fn create_whole(path: &Path, bytes: &[u8]) -> io::Result<File> {
    let (mut file, temporary) = temporary_beside(path)?;
    let made = (|| {
        file.write_all(bytes)?;
        file.sync_all()?;
        publish(&temporary, path)
    })();
    let removed = fs::remove_file(&temporary);
    made?;
    match removed {
        // After a rename there is nothing to remove.
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        removed => removed?,
    }
    sync_directory(path)?;
    Ok(file)
}

/// Replaces the file `old` at `path` by a new file with these bytes, on the disk when the call returns.
///
/// A process that has the old file open keeps it, without a name. Returns the new file, open for appending, and true. If
/// `path` is no longer the old file, it stays as it is, and the result is false.
///
/// # Errors
/// If the new file can't be written; `path` is as before then.
pub(super) fn replace_whole(path: &Path, bytes: &[u8], old: &File) -> io::Result<(File, bool)> {
    let (mut file, temporary) = temporary_beside(path)?;
    let made: io::Result<bool> = (|| {
        file.write_all(bytes)?;
        file.sync_all()?;
        let replaced = is_at(old, path)?;
        if replaced {
            fs::rename(&temporary, path)?;
        }
        Ok(replaced)
    })();
    if !matches!(made, Ok(true)) {
        let _ = fs::remove_file(&temporary);
    }
    let replaced = made?;
    sync_directory(path)?;
    Ok((file, replaced))
}

/// Whether the open file is the file at `path`.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let (own, named) = (file.metadata()?, fs::metadata(path)?);
    Ok(own.dev() == named.dev() && own.ino() == named.ino())
}

#[cfg(not(unix))]
fn is_at(_: &File, _: &Path) -> io::Result<bool> {
    Ok(true)
}

/// Whether the open file no longer has a name.
#[cfg(unix)]
pub(super) fn is_deleted(metadata: &fs::Metadata) -> bool {
    std::os::unix::fs::MetadataExt::nlink(metadata) == 0
}

#[cfg(not(unix))]
pub(super) fn is_deleted(_: &fs::Metadata) -> bool {
    false
}

fn temporary_beside(path: &Path) -> io::Result<(File, PathBuf)> {
    let name = path
        .file_name()
        .ok_or_else(|| io::Error::from(ErrorKind::InvalidInput))?;
    for attempt in 0..ATTEMPTS {
        let mut hidden = OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".{}-{attempt}.new", std::process::id()));
        let temporary = path.with_file_name(hidden);
        match OpenOptions::new()
            .read(true)
            .append(true)
            .create_new(true)
            .open(&temporary)
        {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            opened => return opened.map(|file| (file, temporary)),
        }
    }
    Err(io::Error::other(
        "too many unfinished temporary files beside it",
    ))
}

fn publish(temporary: &Path, path: &Path) -> io::Result<()> {
    match fs::hard_link(temporary, path) {
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::Unsupported | ErrorKind::PermissionDenied
            ) =>
        {
            if path.symlink_metadata().is_ok() {
                return Err(ErrorKind::AlreadyExists.into());
            }
            fs::rename(temporary, path)
        }
        linked => linked,
    }
}

#[cfg(unix)]
fn sync_directory(path: &Path) -> io::Result<()> {
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let directory = File::open(parent.unwrap_or(Path::new(".")))?;
    match directory.sync_all() {
        // Some network file systems can't sync a directory; their own rules decide when the name is safe.
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::InvalidInput | ErrorKind::Unsupported
            ) =>
        {
            Ok(())
        }
        synced => synced,
    }
}

#[cfg(not(unix))]
fn sync_directory(_: &Path) -> io::Result<()> {
    Ok(())
}
