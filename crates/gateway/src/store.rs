//! Where the gateway keeps what must survive a restart: the approved devices.

use std::io;
use std::sync::{Mutex, PoisonError};

/// A place for one small document. It holds device tokens: a file behind it has to be readable by its owner only.
///
/// Called from a thread that may block.
pub trait Store: Send + Sync + 'static {
    /// The document as last saved; none before the first [`Store::save`].
    ///
    /// # Errors
    /// When it exists and cannot be read. The gateway then refuses to start rather than forget its devices.
    fn load(&self) -> io::Result<Option<Vec<u8>>>;

    /// Replaces the document as a whole: after a crash either the old one or the new one is there.
    ///
    /// # Errors
    /// When it could not be written; the call that needed it is answered with an error.
    fn save(&self, bytes: &[u8]) -> io::Result<()>;
}

/// A store that forgets everything with the process; for demos and tests.
#[derive(Debug, Default)]
pub struct MemoryStore(Mutex<Option<Vec<u8>>>);

impl Store for MemoryStore {
    fn load(&self) -> io::Result<Option<Vec<u8>>> {
        Ok(self.0.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    fn save(&self, bytes: &[u8]) -> io::Result<()> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(bytes.to_vec());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_saved_last_is_loaded() {
        let store = MemoryStore::default();
        assert_eq!(store.load().unwrap(), None);
        store.save(b"one").unwrap();
        store.save(b"two").unwrap();
        assert_eq!(store.load().unwrap().as_deref(), Some(&b"two"[..]));
    }
}
