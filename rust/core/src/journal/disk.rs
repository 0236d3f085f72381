//! Files that appear whole or not at all. Knows nothing about frames.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

/// Names tried for the temporary file; more than one is taken only if processes of the same id were killed before.
const ATTEMPTS: u32 = 1000;

/// Makes `path` with these bytes, on the disk when it returns, and opens it for appending.
///
/// The bytes go to a temporary file beside it, which is linked to `path`: a link, unlike a rename, never overwrites.
/// File systems without links get a rename after a check.
///
/// # Errors
/// `AlreadyExists` if `path` exists; nothing is left behind by a failure.
pub(super) fn create_whole(path: &Path, bytes: &[u8]) -> io::Result<File> {
    let (mut file, temporary) = temporary_beside(path)?;
    let made = (|| {
        file.write_all(bytes)?;
        file.sync_all()?;
        publish(&temporary, path)
    })();
    let removed = fs::remove_file(&temporary);
    made?;
    // After a rename there is nothing to remove.
    removed.or_else(|error| {
        if error.kind() == ErrorKind::NotFound {
            Ok(())
        } else {
            Err(error)
        }
    })?;
    sync_directory(path)?;
    Ok(file)
}

/// Puts a file with these bytes in the place of the `old` one at `path`, on the disk when it returns. Who has the old one
/// open keeps it, without a name. The new one is open for appending; false with it if `path` is another file than the old
/// one by now: then that one stays.
///
/// # Errors
/// If it can't be made; `path` is as before then.
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

/// Whether the open file is the one of this name.
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

/// Whether the open file has no name any more.
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
        // Some network file systems can't; then their own rules decide when the name is safe.
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
