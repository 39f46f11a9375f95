//! What can go wrong with a source. Whatever it is, the registry stays as it was.

use std::{io, path::PathBuf, time::Duration};

use crate::private_file::PrivateFileError;
use crate::registry::RegistryError;

/// Why nothing was synced.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SyncError {
    /// There is nothing to sync from.
    #[error("no source was named")]
    NoSources,
    /// This build has no support for a kind of source.
    #[error("this build has no {feature} sources")]
    FeatureAbsent {
        /// The cargo feature.
        feature: &'static str,
    },
    /// The bearer of a source is not where it should be, or is no bearer.
    #[error("{path} {reason}")]
    Bearer {
        /// The file.
        path: PathBuf,
        /// What is wrong; never a piece of it.
        reason: &'static str,
    },
    /// The file of a bearer, or one of ours, was refused or cannot be read.
    #[error(transparent)]
    File(#[from] PrivateFileError),
    /// The source is there and lists nobody.
    #[error("{origin} lists nobody")]
    Empty {
        /// The source.
        origin: String,
    },
    /// The source answered with a list that cannot be: what is wrong, and where, names the source.
    #[error(transparent)]
    Malformed(RegistryError),
    /// The source did not answer, or not with a list of teammates.
    #[error("{origin}")]
    Broken {
        /// The source.
        origin: String,
        /// What is wrong with it.
        #[source]
        source: Broken,
    },
}

/// What is wrong with a source.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Broken {
    /// It cannot be read.
    #[error("it cannot be read")]
    Unreadable(#[source] io::Error),
    /// It is a folder, a pipe, a socket or a device.
    #[error("it is not a regular file")]
    NotAFile,
    /// Its answer is larger than anything we take.
    #[error("its answer is larger than {0} bytes")]
    TooLarge(u64),
    /// It took too long.
    #[error("it did not answer within {0:?}")]
    Slow(Duration),
    /// The request, or the answer's body, did not get through.
    #[error("the request failed: {0}")]
    Request(String),
    /// Another status than 200.
    #[error("it answered with HTTP status {0}")]
    Status(u16),
    /// Something else than a list, such as the page of a login.
    #[error("it answered with {0}, not with JSON or CSV")]
    ContentType(String),
    /// A command could not be started.
    #[error("cannot run {program}")]
    Spawn {
        /// The program.
        program: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A command failed.
    #[error("{program} failed ({status}){}{stderr}", if stderr.is_empty() { "" } else { ": " })]
    Failed {
        /// The program.
        program: String,
        /// Its exit status.
        status: String,
        /// The end of what it wrote to standard error.
        stderr: String,
    },
    /// The answer is no text.
    #[error("its answer is not UTF-8")]
    NotText,
    /// The answer is JSON, but no registry.
    #[error(transparent)]
    Registry(RegistryError),
    /// The answer is CSV, but no list of teammates.
    #[error("line {line}: {what}")]
    Csv {
        /// The line, from 1.
        line: u64,
        /// What is wrong there.
        what: String,
    },
    /// The answer is cut off inside a quoted cell.
    #[error("a quote is not closed: the table was cut off, or a quote is not doubled")]
    OpenQuote,
    /// It is neither JSON nor a table with the columns we need.
    #[error("it is neither JSON nor a CSV table with the columns name and email or emailPrefix")]
    NoList,
    /// The name service, or the cluster, says no.
    #[error("{0}")]
    Said(String),
}

impl Broken {
    /// This, of the source `origin`.
    pub(super) fn of(self, origin: &str) -> SyncError {
        match self {
            Self::Registry(error) => SyncError::Malformed(error),
            source => SyncError::Broken { origin: origin.to_owned(), source },
        }
    }
}
