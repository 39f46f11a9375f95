//! The one door to files that hold secrets, and atomic replacement for files that do not.
//!
//! Reading refuses a file that anybody else could have read or planted; writing never leaves half a file behind.
//! All of it is blocking: these files are a few KiB and read once a run.

use std::{
    fs::{self, DirBuilder, File, Permissions, TryLockError},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};
use tempfile::NamedTempFile;
use zeroize::Zeroizing;

/// The widest mode a file with secrets may have.
const FILE_MODE: u32 = 0o600;
/// The mode of the folders made for such files; the XDG specification asks for the same.
const FOLDER_MODE: u32 = 0o700;

/// An edit takes milliseconds: who holds the lock for so long is stuck.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);
/// How often a held lock is tried again.
const LOCK_POLL: Duration = Duration::from_millis(5);

/// Why a private file was refused, or could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PrivateFileError {
    /// The path is a symbolic link, whose target somebody else may choose.
    #[error("{path} is a symbolic link")]
    Symlink {
        /// The link.
        path: PathBuf,
    },
    /// The path is a folder, a pipe, a socket or a device.
    #[error("{path} is not a regular file")]
    NotAFile {
        /// What was found there.
        path: PathBuf,
    },
    /// The file belongs neither to us nor to root.
    #[error("{path} belongs to user {owner}, not to us (user {us})")]
    ForeignOwner {
        /// The file.
        path: PathBuf,
        /// Its user id.
        owner: u32,
        /// Our effective user id.
        us: u32,
    },
    /// The file's mode is wider than 0600.
    #[error("{path} has mode {mode:04o}, wider than 0600")]
    WideMode {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// The command that narrows it, ready for a shell.
        fix: String,
    },
    /// Another program has held the file's lock for ten seconds.
    #[error("{path} is locked by another program")]
    Locked {
        /// The lock.
        path: PathBuf,
    },
    /// The operating system said no.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried: `read`, `write`, `lock`, …
        action: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// Its answer.
        #[source]
        source: io::Error,
    },
}

impl PrivateFileError {
    /// Whether we refused the file for what it is, rather than the operating system refusing us.
    pub fn is_refusal(&self) -> bool {
        !matches!(self, Self::Io { .. })
    }
}

/// A folder with secrets in it that others may list or enter: worth a warning, no reason to refuse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WideFolder {
    /// The folder.
    pub path: PathBuf,
    /// Its permission bits.
    pub mode: u32,
    /// The command that narrows it, ready for a shell.
    pub fix: String,
}

/// Reads a file that holds secrets; `None` when there is no such file.
///
/// The checks are made on the opened file, so that it cannot be swapped between check and read.
///
/// # Errors
/// [`PrivateFileError`] when it is a symbolic link, no regular file, not ours (nor root's), wider than 0600, or unreadable.
pub fn read(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, PrivateFileError> {
    // NONBLOCK: opening a named pipe must not wait for somebody to write to it.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(fd) => File::from(fd),
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        Err(Errno::LOOP) => return Err(PrivateFileError::Symlink { path: path.into() }),
        Err(errno) => return Err(io_error("read", path)(errno.into())),
    };
    let metadata = file.metadata().map_err(io_error("read", path))?;
    check(path, &metadata)?;
    // Sized up front, because a growing buffer leaves copies behind that nobody wipes.
    let size = usize::try_from(metadata.len()).unwrap_or(0);
    let mut bytes = Zeroizing::new(Vec::with_capacity(size + 1));
    file.read_to_end(&mut bytes).map_err(io_error("read", path))?;
    Ok(Some(bytes))
}

/// Checks a file that somebody else will open, such as a database: the same rules as for [`read`], which leave a moment
/// between the check and the use.
///
/// # Errors
/// [`PrivateFileError`] when it is a symbolic link, no regular file, not ours (nor root's), or wider than 0600.
pub fn inspect(path: &Path) -> Result<(), PrivateFileError> {
    let metadata = fs::symlink_metadata(path).map_err(io_error("read", path))?;
    if metadata.is_symlink() {
        return Err(PrivateFileError::Symlink { path: path.into() });
    }
    check(path, &metadata)
}

/// Replaces (or creates) a file that holds secrets: 0600, in a folder that is made 0700 when missing.
///
/// The new content is on disk before it takes the name, so a crash leaves the old file or the new one.
///
/// # Errors
/// [`PrivateFileError`] when a symbolic link is in the way, or the operating system refuses.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), PrivateFileError> {
    if path.is_symlink() {
        return Err(PrivateFileError::Symlink { path: path.into() });
    }
    replace(path, bytes, Permissions::from_mode(FILE_MODE))
}

/// Creates a file, 0600 in a folder that is made 0700 when missing, unless something has its name already. Says whether
/// it did.
///
/// # Errors
/// [`PrivateFileError`] when the operating system refuses.
pub fn create(path: &Path, bytes: &[u8]) -> Result<bool, PrivateFileError> {
    // Else every call would write and sync a file only to learn that it is not needed.
    if fs::symlink_metadata(path).is_ok() {
        return Ok(false);
    }
    let folder = folder_of(path);
    create_folder(folder)?;
    let created =
        (|| match temporary(folder, bytes, Permissions::from_mode(FILE_MODE))?.persist_noclobber(path) {
            Ok(_) => File::open(folder)?.sync_all().map(|()| true),
            Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error.error),
        })();
    created.map_err(io_error("write", path))
}

/// Reads, edits and rewrites a file that holds secrets while no other process can do the same.
///
/// `edit` gets the present content (`None`: no such file) and gives the new one, or `None` to leave the file as it is.
/// The lock is a sibling `<name>.lock`, since the file itself is replaced by each write; it stays behind, empty.
/// An edit takes milliseconds; after ten seconds of waiting for a turn this gives up.
///
/// # Errors
/// What `edit` fails with, and everything [`read`] and [`write()`] fail with.
pub fn update<E: From<PrivateFileError>>(
    path: &Path,
    edit: impl FnOnce(Option<&[u8]>) -> Result<Option<Zeroizing<Vec<u8>>>, E>,
) -> Result<(), E> {
    let _lock = lock(path)?;
    let old = read(path)?;
    if let Some(new) = edit(old.as_deref().map(Vec::as_slice))? {
        write(path, &new)?;
    }
    Ok(())
}

/// Replaces a file that holds no secrets, keeping its mode and, where it is a symbolic link, the link. A new file is 0600.
///
/// # Errors
/// [`PrivateFileError`] when the link leads nowhere, or the operating system refuses.
pub fn write_keeping_mode(path: &Path, bytes: &[u8]) -> Result<(), PrivateFileError> {
    let Ok(target) = fs::canonicalize(path) else { return write(path, bytes) };
    let permissions = fs::metadata(&target).map_err(io_error("read", &target))?.permissions();
    replace(&target, bytes, permissions)
}

/// The folder of a private file, if it exists and its mode is wider than 0700.
pub fn wide_folder(path: &Path) -> Option<WideFolder> {
    let folder = folder_of(path);
    let mode = fs::metadata(folder).ok()?.permissions().mode() & 0o7777;
    (mode & 0o077 != 0).then(|| WideFolder { path: folder.into(), mode, fix: chmod(FOLDER_MODE, folder) })
}

fn check(path: &Path, metadata: &fs::Metadata) -> Result<(), PrivateFileError> {
    if !metadata.is_file() {
        return Err(PrivateFileError::NotAFile { path: path.into() });
    }
    let (owner, us) = (metadata.uid(), rustix::process::geteuid().as_raw());
    if owner != us && owner != 0 {
        return Err(PrivateFileError::ForeignOwner { path: path.into(), owner, us });
    }
    let mode = metadata.mode() & 0o7777;
    if mode & !FILE_MODE != 0 {
        return Err(PrivateFileError::WideMode { path: path.into(), mode, fix: chmod(FILE_MODE, path) });
    }
    Ok(())
}

fn replace(path: &Path, bytes: &[u8], permissions: Permissions) -> Result<(), PrivateFileError> {
    let folder = folder_of(path);
    create_folder(folder)?;
    let written = (|| {
        temporary(folder, bytes, permissions)?.persist(path)?;
        File::open(folder)?.sync_all()
    })();
    written.map_err(io_error("write", path))
}

/// The new content, on disk and without its name yet.
fn temporary(folder: &Path, bytes: &[u8], permissions: Permissions) -> io::Result<NamedTempFile> {
    // Beside the target, because a rename does not cross file systems; tempfile makes it 0600.
    let mut file = tempfile::Builder::new().prefix(".agent-mesh-").tempfile_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().set_permissions(permissions)?;
    file.as_file().sync_all()?;
    Ok(file)
}

/// The sole right to change a private file, for as long as this lives.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    file: File,
}

/// Takes the sole right to change a file, if nobody has it.
///
/// # Errors
/// [`PrivateFileError`] when the lock file cannot be made.
pub fn try_lock(path: &Path) -> Result<Option<Lock>, PrivateFileError> {
    let lock = Lock::beside(path)?;
    Ok(lock.take()?.then_some(lock))
}

/// Waits for the sole right to change a file.
///
/// # Errors
/// The same, and [`PrivateFileError::Locked`] when somebody has it for too long.
pub(crate) fn lock(path: &Path) -> Result<Lock, PrivateFileError> {
    let lock = Lock::beside(path)?;
    let give_up = Instant::now() + LOCK_PATIENCE;
    while !lock.take()? {
        if Instant::now() >= give_up {
            return Err(PrivateFileError::Locked { path: lock.path });
        }
        thread::sleep(LOCK_POLL);
    }
    Ok(lock)
}

impl Lock {
    /// The lock file beside a file, open and not yet ours.
    fn beside(path: &Path) -> Result<Self, PrivateFileError> {
        create_folder(folder_of(path))?;
        let mut name = path.as_os_str().to_owned();
        name.push(".lock");
        let path = PathBuf::from(name);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR) {
            Ok(fd) => Ok(Self { path, file: File::from(fd) }),
            Err(Errno::LOOP) => Err(PrivateFileError::Symlink { path }),
            Err(errno) => Err(io_error("open", &path)(errno.into())),
        }
    }

    /// Takes it, if nobody has it.
    fn take(&self) -> Result<bool, PrivateFileError> {
        match self.file.try_lock() {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(io_error("lock", &self.path)(error)),
        }
    }
}

fn create_folder(folder: &Path) -> Result<(), PrivateFileError> {
    DirBuilder::new()
        .recursive(true)
        .mode(FOLDER_MODE)
        .create(folder)
        .map_err(io_error("create the folder", folder))
}

pub(crate) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// The `chmod` line for a shell.
fn chmod(mode: u32, path: &Path) -> String {
    match shell_word(path) {
        word if word.starts_with('\'') => format!("chmod {mode:o} -- {word}"),
        word => format!("chmod {mode:o} {word}"),
    }
}

/// The path as one word of a shell, quoted only when it needs to be.
#[must_use]
pub fn shell_word(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_alphanumeric() || "/._-+,@%=:".contains(c);
    if text.chars().all(plain) && !text.starts_with('-') {
        text
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PrivateFileError {
    move |source| PrivateFileError::Io { action, path: path.into(), source }
}

#[cfg(test)]
mod tests;
