//! What stops us: Ctrl-C, and SIGTERM, which is answered alike.

use tokio::signal::unix::{SignalKind, signal};

/// Waits for either. One that cannot be heard ends the process by itself.
pub async fn interrupted() {
    tokio::select! {
        () = heard(SignalKind::interrupt()) => {}
        () = heard(SignalKind::terminate()) => {}
    }
}

async fn heard(kind: SignalKind) {
    match signal(kind) {
        Ok(mut signal) => drop(signal.recv().await),
        Err(_) => std::future::pending().await,
    }
}
