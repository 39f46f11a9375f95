//! Happy eyeballs (RFC 8305): a gateway has several addresses, and one that is dead or slow must not keep us from the next.

use std::collections::{HashSet, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::net::TcpStream;
use tokio::time::{Duration, Instant, sleep, sleep_until};

use crate::endpoint::{Endpoint, is_private};
use crate::error::ConnectError;
use crate::trace::{Step, Trace};

/// How long an attempt has before the next one begins beside it: what RFC 8305 recommends. One that fails makes room at once.
const NEXT_AFTER: Duration = Duration::from_millis(250);

/// How long a connection waits for a file descriptor: among many, another one is over soon.
const NO_DESCRIPTOR: Duration = Duration::from_secs(1);

/// What it takes to reach an address.
pub(crate) trait Network: Sync {
    /// A connection that stands.
    type Stream: Send;

    /// The addresses of an endpoint, the best first.
    fn lookup(&self, endpoint: &Endpoint) -> impl Future<Output = io::Result<Vec<SocketAddr>>> + Send;

    /// A connection to an address.
    fn connect(&self, address: SocketAddr) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

/// The network of this machine. Nothing is remembered: each call looks names up anew.
pub(crate) struct System;

impl Network for System {
    type Stream = TcpStream;

    async fn lookup(&self, endpoint: &Endpoint) -> io::Result<Vec<SocketAddr>> {
        // A and AAAA in one call, in the order of RFC 6724.
        Ok(tokio::net::lookup_host((endpoint.host(), endpoint.port())).await?.collect())
    }

    async fn connect(&self, address: SocketAddr) -> io::Result<TcpStream> {
        let give_up = Instant::now() + NO_DESCRIPTOR;
        loop {
            match TcpStream::connect(address).await {
                Err(error) if has_no_descriptor(&error) && Instant::now() < give_up => {
                    sleep(NO_DESCRIPTOR / 20).await;
                }
                done => return done,
            }
        }
    }
}

/// Whether this process (EMFILE), or the system (ENFILE), has no descriptor left: the numbers of Linux and macOS.
fn has_no_descriptor(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(23 | 24))
}

/// Something that was begun and is over.
enum Done<S> {
    Lookup { place: usize, found: io::Result<Vec<SocketAddr>> },
    Connect { place: usize, addr: SocketAddr, stream: io::Result<S> },
}

type Running<'a, S> = FuturesUnordered<Pin<Box<dyn Future<Output = Done<S>> + Send + 'a>>>;

/// A race between the addresses of one gateway.
pub(crate) struct Race<'a, N: Network> {
    network: &'a N,
    endpoints: &'a [&'a Endpoint],
    /// Refuse plain text to a public address.
    private_only: bool,
    began: Instant,
    /// How many endpoints were begun to be looked up.
    asked: usize,
    /// Addresses nobody tried yet, and the place of their endpoint.
    queue: VecDeque<(usize, SocketAddr)>,
    seen: HashSet<SocketAddr>,
    running: Running<'a, N::Stream>,
    /// What went wrong with the best endpoint.
    failure: Option<(usize, ConnectError)>,
}

impl<'a, N: Network> Race<'a, N> {
    /// Between these endpoints of one gateway, the best first. A later one is looked up only when those before it have failed
    /// or are slow.
    pub(crate) fn new(network: &'a N, endpoints: &'a [&'a Endpoint], private_only: bool) -> Self {
        Self {
            network,
            endpoints,
            private_only,
            began: Instant::now(),
            asked: 0,
            queue: VecDeque::new(),
            seen: HashSet::new(),
            running: FuturesUnordered::new(),
            failure: None,
        }
    }

    /// The first connection that stands, and the place of its endpoint.
    ///
    /// # Errors
    /// What went wrong with the best endpoint, once there is nothing left to try.
    pub(crate) async fn run(mut self, trace: &mut Trace) -> Result<(N::Stream, usize), ConnectError> {
        loop {
            self.begin_next();
            let more = !self.queue.is_empty() || self.asked < self.endpoints.len();
            let done = tokio::select! {
                biased;
                done = self.running.next() => done,
                () = sleep_until(Instant::now() + NEXT_AFTER), if more => continue,
            };
            match done {
                Some(Done::Lookup { place, found }) => self.looked_up(place, found, trace),
                Some(Done::Connect { place, stream: Ok(stream), .. }) => return Ok((stream, place)),
                Some(Done::Connect { place, addr, stream: Err(source) }) => {
                    self.note(place, ConnectError::Tcp { addr, source });
                }
                None if more => {}
                None => {
                    return Err(self.failure.map_or(ConnectError::Deadline(Step::Tcp), |(_, error)| error));
                }
            }
        }
    }

    /// The next attempt; where no address is left, the next endpoint.
    fn begin_next(&mut self) {
        let network = self.network;
        if let Some((place, addr)) = self.queue.pop_front() {
            let attempt = async move { Done::Connect { place, addr, stream: network.connect(addr).await } };
            self.running.push(Box::pin(attempt));
        } else if let Some(endpoint) = self.endpoints.get(self.asked).copied() {
            let place = self.asked;
            self.asked += 1;
            let lookup = async move { Done::Lookup { place, found: network.lookup(endpoint).await } };
            self.running.push(Box::pin(lookup));
        }
    }

    fn looked_up(&mut self, place: usize, found: io::Result<Vec<SocketAddr>>, trace: &mut Trace) {
        let host = || self.endpoints[place].host().to_owned();
        let nothing = || Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
        let found = found.and_then(|found| if found.is_empty() { nothing() } else { Ok(found) });
        let addresses = match found {
            Ok(addresses) => addresses,
            Err(source) => return self.note(place, ConnectError::Resolve { host: host(), source }),
        };
        let public = addresses.iter().find(|addr| !is_private(addr.ip()));
        if let (true, false, Some(addr)) = (self.private_only, self.endpoints[place].is_tls(), public) {
            return self.note(place, ConnectError::PublicAddress { host: host(), addr: *addr });
        }
        let shown: Vec<String> = addresses.iter().map(|addr| addr.ip().to_string()).collect();
        match trace.steps.last_mut().filter(|done| done.step == Step::Resolve) {
            Some(done) => done.detail = format!("{}, {}", done.detail, shown.join(", ")),
            None => trace.passed(Step::Resolve, self.began, shown.join(", ")),
        }
        let fresh = interleaved(addresses).into_iter().filter(|addr| self.seen.insert(*addr));
        self.queue.extend(fresh.map(|addr| (place, addr)));
    }

    /// The best endpoint's last word is what a user can do something about.
    fn note(&mut self, place: usize, error: ConnectError) {
        if self.failure.as_ref().is_none_or(|(known, _)| place <= *known) {
            self.failure = Some((place, error));
        }
    }
}

/// Alternates between the address families, beginning with that of the first (RFC 8305, section 4).
fn interleaved(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) =
        addresses.into_iter().partition(|addr| addr.is_ipv6() == first_is_v6);
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut mixed = Vec::with_capacity(first.len() + second.len());
    loop {
        match (first.next(), second.next()) {
            (None, None) => return mixed,
            (one, other) => mixed.extend(one.into_iter().chain(other)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Mutex;

    use super::*;

    /// Milliseconds until an answer, and whether it is a good one. What is not listed never answers.
    #[derive(Default)]
    struct Scripted {
        names: HashMap<&'static str, (u64, Vec<&'static str>)>,
        hosts: HashMap<&'static str, (u64, bool)>,
        began: Mutex<Vec<(u64, String)>>,
        start: Option<Instant>,
    }

    impl Scripted {
        fn new<const N: usize, const M: usize>(
            names: [(&'static str, u64, &[&'static str]); N],
            hosts: [(&'static str, u64, bool); M],
        ) -> Self {
            Self {
                names: names.map(|(name, ms, found)| (name, (ms, found.to_vec()))).into(),
                hosts: hosts.map(|(host, ms, good)| (host, (ms, good))).into(),
                start: Some(Instant::now()),
                ..Self::default()
            }
        }

        fn note(&self, what: String) {
            let at = u64::try_from(self.start.unwrap().elapsed().as_millis()).unwrap();
            self.began.lock().unwrap().push((at, what));
        }

        /// What was begun, and after how many milliseconds.
        fn began(&self) -> Vec<(u64, String)> {
            self.began.lock().unwrap().clone()
        }

        async fn run(&self, endpoints: &[&str]) -> (Result<(String, usize), ConnectError>, Trace) {
            let endpoints: Vec<Endpoint> =
                endpoints.iter().map(|host| Endpoint::from_host(host).unwrap()).collect();
            let endpoints: Vec<&Endpoint> = endpoints.iter().collect();
            let mut trace = Trace::default();
            let result = Race::new(self, &endpoints, false).run(&mut trace).await;
            (result, trace)
        }
    }

    impl Network for Scripted {
        type Stream = String;

        async fn lookup(&self, endpoint: &Endpoint) -> io::Result<Vec<SocketAddr>> {
            if let Ok(ip) = endpoint.host().parse() {
                return Ok(vec![SocketAddr::new(ip, endpoint.port())]);
            }
            self.note(format!("look up {}", endpoint.host()));
            let Some((ms, found)) = self.names.get(endpoint.host()) else {
                return Err(io::ErrorKind::NotFound.into());
            };
            tokio::time::sleep(Duration::from_millis(*ms)).await;
            Ok(found.iter().map(|ip| SocketAddr::new(ip.parse().unwrap(), endpoint.port())).collect())
        }

        async fn connect(&self, address: SocketAddr) -> io::Result<String> {
            let ip = address.ip().to_string();
            self.note(ip.clone());
            let Some((ms, good)) = self.hosts.get(ip.as_str()) else { return std::future::pending().await };
            tokio::time::sleep(Duration::from_millis(*ms)).await;
            if *good { Ok(ip) } else { Err(io::ErrorKind::ConnectionRefused.into()) }
        }
    }

    fn steps(list: &[(u64, &str)]) -> Vec<(u64, String)> {
        list.iter().map(|(at, what)| (*at, (*what).to_owned())).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn families_alternate_and_each_attempt_has_250_ms_before_the_next_begins() {
        let network =
            Scripted::new([("bob", 5, &["fd00::1", "fd00::2", "10.0.0.1"])], [("fd00::2", 30, true)]);
        let (won, trace) = network.run(&["bob"]).await;
        assert_eq!(won.unwrap(), ("fd00::2".to_owned(), 0));
        let expected = [(0, "look up bob"), (5, "fd00::1"), (255, "10.0.0.1"), (505, "fd00::2")];
        assert_eq!(network.began(), steps(&expected));
        assert_eq!(trace.steps[0].detail, "fd00::1, fd00::2, 10.0.0.1");
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_fails_makes_room_at_once() {
        let network = Scripted::new(
            [("bob", 0, &["10.0.0.1", "10.0.0.2"])],
            [("10.0.0.1", 20, false), ("10.0.0.2", 1, true)],
        );
        assert_eq!(network.run(&["bob"]).await.0.unwrap().0, "10.0.0.2");
        assert_eq!(network.began()[2], (20, "10.0.0.2".to_owned()));
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_to_connect_wins_also_if_it_began_first() {
        let network = Scripted::new(
            [("bob", 0, &["10.0.0.1", "10.0.0.2"])],
            [("10.0.0.1", 300, true), ("10.0.0.2", 200, true)],
        );
        assert_eq!(network.run(&["bob"]).await.0.unwrap().0, "10.0.0.1");
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_is_not_looked_up_while_the_address_before_it_is_good() {
        let network = Scripted::new([("bob", 0, &["10.0.0.2"])], [("10.0.0.1", 249, true)]);
        assert_eq!(network.run(&["10.0.0.1", "bob"]).await.0.unwrap(), ("10.0.0.1".to_owned(), 0));
        assert_eq!(network.began(), steps(&[(0, "10.0.0.1")]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_dead_or_silent_address_leads_to_the_name() {
        for (dead, at) in [(Some(("10.0.0.1", 3, false)), 3), (None, 250)] {
            let network = Scripted::new([("bob", 7, &["10.0.0.1", "10.0.0.2"])], [("10.0.0.2", 1, true)]);
            let hosts =
                network.hosts.clone().into_iter().chain(dead.map(|(host, ms, good)| (host, (ms, good))));
            let network = Scripted { hosts: hosts.collect(), ..network };
            let (won, trace) = network.run(&["10.0.0.1", "bob"]).await;
            assert_eq!(won.unwrap(), ("10.0.0.2".to_owned(), 1));
            let expected = [(0, "10.0.0.1"), (at, "look up bob"), (at + 7, "10.0.0.2")];
            assert_eq!(network.began(), steps(&expected), "an address is tried once");
            assert_eq!(trace.steps[0].detail, "10.0.0.1, 10.0.0.1, 10.0.0.2");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_error_is_that_of_the_best_endpoint() {
        let network =
            Scripted::new([("eve", 0, &["10.0.0.9"])], [("10.0.0.1", 3, false), ("10.0.0.9", 1, false)]);
        let (lost, trace) = network.run(&["10.0.0.1", "bob"]).await;
        assert!(matches!(lost, Err(ConnectError::Tcp { addr, .. }) if addr.ip().to_string() == "10.0.0.1"));
        assert_eq!(trace.steps[0].detail, "10.0.0.1");
        let (lost, _) = network.run(&["bob", "eve"]).await;
        assert!(matches!(lost, Err(ConnectError::Resolve { host, .. }) if host == "bob"));
    }
}
