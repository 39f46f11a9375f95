//! `wss://` in front of a fake gateway, with a certificate of the shape that OpenClaw makes for itself.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{HandshakeKind, ServerConfig, crypto::ring, version::TLS13};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// One of two certificates: RSA, self-signed, `CA:TRUE`, without a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Certificate {
    /// One.
    First,
    /// Another.
    Second,
}

impl Certificate {
    fn files(self) -> (&'static [u8], &'static [u8]) {
        match self {
            Self::First => {
                (include_bytes!("../recorded/tls/first.pem"), include_bytes!("../recorded/tls/first-key.pem"))
            }
            Self::Second => (
                include_bytes!("../recorded/tls/second.pem"),
                include_bytes!("../recorded/tls/second-key.pem"),
            ),
        }
    }

    /// Its SHA-256, as `openssl x509 -fingerprint -sha256` printed it, in lower case and without colons.
    #[must_use]
    pub fn fingerprint(self) -> &'static str {
        match self {
            Self::First => "a1b75146d0902ba5b5551136e2d8fecc83d88040ca53bc6172e35e3a6aef195c",
            Self::Second => "4ee1b81d3f67bdee5b08ddd7a5b95913ad2c9a100aa1aec37f06541ed541a33a",
        }
    }
}

/// A TLS port on 127.0.0.1 (TLS 1.3 alone, as OpenClaw's) that hands on what it decrypts. Dropping it closes the port.
pub struct TlsFront {
    address: SocketAddr,
    shown: watch::Sender<Certificate>,
    resumed: Arc<Mutex<Vec<bool>>>,
    accepting: JoinHandle<()>,
}

impl TlsFront {
    /// Listens on a free port and hands on to `target`.
    pub async fn start(certificate: Certificate, target: SocketAddr) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port on 127.0.0.1");
        let address = listener.local_addr().expect("a bound listener has an address");
        let (shown, mut next) = watch::channel(certificate);
        let resumed = Arc::<Mutex<Vec<bool>>>::default();
        let noted = Arc::clone(&resumed);
        let accepting = tokio::spawn(async move {
            let mut accepts = acceptor(certificate);
            while let Ok((stream, _)) = listener.accept().await {
                if next.has_changed().unwrap_or(false) {
                    accepts = acceptor(*next.borrow_and_update());
                }
                let (accepts, noted) = (accepts.clone(), Arc::clone(&noted));
                tokio::spawn(async move {
                    // A client that refuses the certificate ends the handshake: nothing to hand on.
                    let Ok(mut client) = accepts.accept(stream).await else { return };
                    let resumed = client.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
                    noted.lock().unwrap_or_else(PoisonError::into_inner).push(resumed);
                    let Ok(mut gateway) = TcpStream::connect(target).await else { return };
                    let _ = copy_bidirectional(&mut client, &mut gateway).await;
                });
            }
        });
        Self { address, shown, resumed, accepting }
    }

    /// `wss://127.0.0.1:<port>`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("wss://{}", self.address)
    }

    /// Whether each handshake that came to its end went on with an earlier session, in order.
    #[must_use]
    pub fn resumed(&self) -> Vec<bool> {
        self.resumed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on it shows this certificate, like a gateway whose file was replaced; sessions so far are forgotten.
    pub fn show(&self, certificate: Certificate) {
        self.shown.send_replace(certificate);
    }
}

impl Drop for TlsFront {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

fn acceptor(certificate: Certificate) -> TlsAcceptor {
    let (chain, key) = certificate.files();
    let chain = CertificateDer::from_pem_slice(chain).expect("a certificate");
    let key = PrivateKeyDer::from_pem_slice(key).expect("a private key");
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&TLS13])
        .expect("TLS 1.3")
        .with_no_client_auth()
        .with_single_cert(vec![chain], key)
        .expect("a key that fits its certificate");
    TlsAcceptor::from(Arc::new(config))
}
