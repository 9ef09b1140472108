//! Files that are either whole or not there.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// A file that could not be read or written, and what was tried.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}: {source}", path.display())]
pub struct FileError {
    /// What was tried, as in “cannot write”.
    pub action: &'static str,
    /// The file.
    pub path: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

impl FileError {
    /// Names the action and the file of an error, for `map_err`.
    pub fn of<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Self + 'a {
        move |source| Self { action, path: path.to_owned(), source }
    }
}

/// Writes a file under a temporary name, syncs it and renames it, so that no reader ever sees a part of it.
///
/// # Errors
/// If any step fails; what stood under the name before is then untouched.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let write = || {
        let mut file = temporary(directory)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)?;
        // The name itself is durable only once its directory is.
        File::open(directory)?.sync_all()
    };
    write().map_err(FileError::of("write", path))
}

/// What the name of an unfinished file begins with.
pub(crate) const TEMPORARY: &str = ".writing-";

/// A temporary file that others may read once it has its name, as with any file made (temporary ones are private).
fn temporary(directory: &Path) -> io::Result<tempfile::NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(TEMPORARY);
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(directory)
}

/// Makes the names in a directory durable.
///
/// # Errors
/// If the system refuses.
pub fn sync(directory: &Path) -> Result<(), FileError> {
    File::open(directory).and_then(|file| file.sync_all()).map_err(FileError::of("sync", directory))
}

/// Creates a directory and those above it.
///
/// # Errors
/// If the system refuses.
pub fn create_dir(path: &Path) -> Result<(), FileError> {
    fs::create_dir_all(path).map_err(FileError::of("create the directory", path))
}

/// Removes a file, if it is there.
///
/// # Errors
/// If it is there and cannot be removed.
pub(crate) fn remove_if_there(path: &Path) -> Result<(), FileError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(FileError::of("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Removes what an interrupted [`write_atomic`] or a directory of unfinished files left in a directory.
///
/// # Errors
/// If the directory cannot be read or a file cannot be removed.
pub fn sweep_leftovers(directory: &Path) -> Result<(), FileError> {
    for entry in fs::read_dir(directory).map_err(FileError::of("read the directory", directory))?.flatten() {
        if entry.file_name().to_string_lossy().starts_with(TEMPORARY) {
            let remove =
                if entry.path().is_dir() { fs::remove_dir_all(entry.path()) } else { fs::remove_file(entry.path()) };
            remove.map_err(FileError::of("remove", &entry.path()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_the_old_content() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        write_atomic(&path, b"old").unwrap();
        // A directory in the way of the rename.
        let blocked = directory.path().join("b");
        fs::create_dir(&blocked).unwrap();
        let error = write_atomic(&blocked, b"new").unwrap_err();
        assert!(error.to_string().starts_with("cannot write "), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2, "the temporary file is gone");
    }
}
