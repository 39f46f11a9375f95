//! Why the archive cannot be used.

use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;

use crate::private_file::PrivateFileError;

/// Why the archive cannot be used. The file is left as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// The file is from a newer version of this program.
    #[error("{path} is from a newer version (schema {found}, this one knows {known})")]
    TooNew {
        /// The file.
        path: PathBuf,
        /// Its schema.
        found: i64,
        /// Ours.
        known: i64,
    },
    /// The file is damaged, or is no archive.
    #[error("{path} is damaged or no archive")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        #[source]
        source: rusqlite::Error,
    },
    /// Another process holds it.
    #[error("{path} is locked by another process")]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// The disk is full.
    #[error("no space left for {path}")]
    Full {
        /// The file.
        path: PathBuf,
    },
    /// The file, or its folder, cannot be written to.
    #[error("{path} is read-only for us: a message cannot be kept there, or changed")]
    ReadOnly {
        /// The file.
        path: PathBuf,
    },
    /// The folder or file cannot be made or opened safely.
    #[error(transparent)]
    File(#[from] PrivateFileError),
    /// The id is known already: a message of that id was sent before.
    #[error("a message of this id is in the archive already")]
    Exists,
    /// The beginning of an id fits more than one message.
    #[error("{beginning} may be {}{}", ids.join(", "), more.checked_sub(1).map(|_| format!(" and {more} more")).unwrap_or_default())]
    Ambiguous {
        /// What was asked for.
        beginning: String,
        /// The newest of those it fits.
        ids: Vec<String>,
        /// How many more it fits.
        more: usize,
    },
    /// Anything else that SQLite says.
    #[error("cannot use {path}")]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        #[source]
        source: rusqlite::Error,
    },
    /// The message is not there, or another process carries it now.
    #[error("another process carries this message now")]
    Taken,
    /// The writing thread is gone; it only ends with this program.
    #[error("the archive is closed")]
    Closed,
}

impl ArchiveError {
    /// What the next message would find, too, where this one found that nothing can be kept.
    pub(crate) fn for_the_next(&self) -> Option<Self> {
        match self {
            Self::Locked { path } => Some(Self::Locked { path: path.clone() }),
            Self::Full { path } => Some(Self::Full { path: path.clone() }),
            Self::ReadOnly { path } => Some(Self::ReadOnly { path: path.clone() }),
            _ => None,
        }
    }
}

/// What SQLite says, as what it means.
pub(super) fn classify(path: &Path, source: rusqlite::Error) -> ArchiveError {
    let path = path.to_owned();
    if matches!(source, rusqlite::Error::QueryReturnedNoRows) {
        return ArchiveError::Taken;
    }
    match source.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => ArchiveError::Locked { path },
        Some(ErrorCode::ConstraintViolation) => ArchiveError::Exists,
        // The WAL's index could not grow: what a disk that is full to the last byte says.
        Some(ErrorCode::SystemIoFailure)
            if source
                .sqlite_error()
                .is_some_and(|e| e.extended_code == rusqlite::ffi::SQLITE_IOERR_SHMSIZE) =>
        {
            ArchiveError::Full { path }
        }
        Some(ErrorCode::ReadOnly) => ArchiveError::ReadOnly { path },
        Some(ErrorCode::DiskFull) => ArchiveError::Full { path },
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => ArchiveError::Damaged { path, source },
        _ => ArchiveError::Sqlite { path, source },
    }
}
