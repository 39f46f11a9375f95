//! Sources that say themselves when something changed, so that nobody has to ask again and again.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::Source;

/// How many signals may wait. They all mean the same, so a full queue loses nothing.
const WAITING: usize = 16;
/// How long a source is given for what belongs together: a rolling restart changes many things at once.
const SETTLING: Duration = Duration::from_millis(500);

/// What a watched source says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Something is different: it is time for another sync.
    Changed,
    /// It cannot be watched, for this reason, and is only asked from time to time.
    Trouble(String),
}

/// Watches those of the sources that can be watched, until it is dropped.
#[derive(Debug)]
pub struct Watcher {
    signals: mpsc::Receiver<Signal>,
    _tasks: JoinSet<()>,
}

impl Watcher {
    /// Begins to watch. What changes from now on is told, so this comes before the first sync.
    pub async fn start(sources: &[Source], connect_timeout: Duration) -> Self {
        let (sender, signals) = mpsc::channel(WAITING);
        let mut tasks = JoinSet::new();
        for source in sources {
            begin(source, connect_timeout, &sender, &mut tasks).await;
        }
        Self { signals, _tasks: tasks }
    }

    /// The next signal; without a source that can be watched, it never comes.
    pub async fn next(&mut self) -> Signal {
        match self.signals.recv().await {
            Some(signal) => signal,
            None => std::future::pending().await,
        }
    }

    /// Waits until what belongs together has happened, and takes all signals of it for one.
    pub async fn settle(&mut self) {
        tokio::time::sleep(SETTLING).await;
        while self.signals.try_recv().is_ok() {}
    }
}

#[cfg(feature = "k8s")]
async fn begin(
    source: &Source,
    connect_timeout: Duration,
    sender: &mpsc::Sender<Signal>,
    tasks: &mut JoinSet<()>,
) {
    if let super::SourceUri::K8s(uri) = &source.uri {
        let watch = super::k8s::watch::Watch::begin(uri.clone(), connect_timeout, sender.clone()).await;
        tasks.spawn(watch.run());
    }
}

#[cfg(not(feature = "k8s"))]
#[expect(clippy::unused_async, reason = "the other one waits")]
async fn begin(_: &Source, _: Duration, _: &mpsc::Sender<Signal>, _: &mut JoinSet<()>) {}
