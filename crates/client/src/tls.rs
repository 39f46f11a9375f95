//! TLS: the system's authorities, or a pinned certificate.

use std::collections::HashMap;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{fmt, io};

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError, SignatureScheme};
use sha2::{Digest, Sha256};

use crate::endpoint::Endpoint;

/// The SHA-256 of a certificate (its DER bytes), as `openssl x509 -fingerprint -sha256` computes it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 32]);

/// A text that is no fingerprint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a fingerprint is 64 hex digits, with or without colons")]
pub struct FingerprintError;

impl Fingerprint {
    pub(crate) fn of(certificate: &CertificateDer<'_>) -> Self {
        Self(Sha256::digest(certificate.as_ref()).into())
    }

    /// TLS with whoever shows this certificate and nobody else, for clients of another protocol.
    ///
    /// # Errors
    /// When rustls refuses its own defaults.
    pub fn client_config(self) -> Result<ClientConfig, Error> {
        Verifier { check: Check::Pin(self), provider: Arc::new(ring::default_provider()) }.config()
    }

    /// The certificate that such a client was shown in place of the right one, by the error that it ended with.
    #[must_use]
    pub fn refused_in(error: &(dyn std::error::Error + 'static)) -> Option<Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(Error::InvalidCertificate(reason)) = error.downcast_ref() {
                return Rejected::of(reason).map(|rejected| rejected.shown);
            }
            // An IO error keeps what it wraps from those who ask for its source.
            let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
            next = wrapped.map(|inner| inner as _).or_else(|| error.source());
        }
        None
    }
}

impl FromStr for Fingerprint {
    type Err = FingerprintError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits: Vec<u8> = text.bytes().filter(|b| *b != b':').collect();
        if digits.len() != 64 {
            return Err(FingerprintError);
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| FingerprintError)?;
            if pair.starts_with('+') {
                return Err(FingerprintError);
            }
            *byte = u8::from_str_radix(pair, 16).map_err(|_| FingerprintError)?;
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

/// How long what was read and kept counts: what the system trusts from now on, or no more, counts within the hour.
const FRESH: Duration = Duration::from_secs(3600);
/// Addresses that sessions are kept for; a kept one is a few KiB. More than a process talks to again and again.
const MOST_ADDRESSES: usize = 256;
/// Sessions kept for one address; each is used once, and a server gives two at a time.
const SESSIONS: usize = 8;

/// What the TLS connections of a process leave to the next ones: the system's authorities, which take milliseconds to
/// read, and sessions, with which a second handshake needs neither a certificate nor a signature.
///
/// A gateway that goes on with a session shows no certificate. So sessions are kept apart by host, port and pin: one that
/// is gone on with was begun with this very check, and only who was there then can go on with it. A certificate that was
/// replaced meanwhile shows at the next full handshake, within the hour.
#[derive(Clone, Default)]
pub struct TlsMemory {
    kept: Arc<Mutex<Kept>>,
}

#[derive(Default)]
struct Kept {
    since: Option<Instant>,
    system: Option<Arc<rustls_platform_verifier::Verifier>>,
    configs: HashMap<Place, Arc<ClientConfig>>,
}

/// Where a session holds, and for whom.
#[derive(PartialEq, Eq, Hash)]
struct Place {
    host: String,
    port: u16,
    pin: Option<Fingerprint>,
}

impl TlsMemory {
    /// How to speak TLS with this endpoint.
    pub(crate) fn config(
        &self,
        endpoint: &Endpoint,
        pin: Option<Fingerprint>,
    ) -> Result<Arc<ClientConfig>, Error> {
        let place = Place { host: endpoint.host().to_owned(), port: endpoint.port(), pin };
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.since.is_none_or(|since| since.elapsed() > FRESH) {
            *kept = Kept { since: Some(Instant::now()), ..Kept::default() };
        }
        if let Some(config) = kept.configs.get(&place) {
            return Ok(Arc::clone(config));
        }
        let config = Arc::new(kept.verifier(pin)?.config()?);
        if kept.configs.len() >= MOST_ADDRESSES {
            // What is forgotten is made anew where it is needed; who would be the right one to forget is not worth knowing.
            kept.configs.clear();
        }
        kept.configs.insert(place, Arc::clone(&config));
        Ok(config)
    }
}

impl Kept {
    fn verifier(&mut self, pin: Option<Fingerprint>) -> Result<Verifier, Error> {
        let provider = Arc::new(ring::default_provider());
        let check = match (pin, &self.system) {
            (Some(pin), _) => Check::Pin(pin),
            (None, Some(system)) => Check::System(Arc::clone(system)),
            (None, None) => {
                let system = Arc::new(rustls_platform_verifier::Verifier::new(Arc::clone(&provider))?);
                Check::System(Arc::clone(self.system.insert(system)))
            }
        };
        Ok(Verifier { check, provider })
    }
}

impl fmt::Debug for TlsMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsMemory")
    }
}

/// Verifies by pin if there is one, else by the system's authorities.
#[derive(Debug)]
struct Verifier {
    check: Check,
    provider: Arc<CryptoProvider>,
}

#[derive(Debug)]
enum Check {
    Pin(Fingerprint),
    System(Arc<rustls_platform_verifier::Verifier>),
}

/// Why a certificate was refused, and which it was: one verifier serves many handshakes and remembers none.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub(crate) struct Rejected {
    pub(crate) shown: Fingerprint,
    pub(crate) reason: CertificateError,
}

impl Rejected {
    pub(crate) fn of(error: &CertificateError) -> Option<&Self> {
        match error {
            CertificateError::Other(OtherError(inner)) => inner.downcast_ref(),
            _ => None,
        }
    }

    fn error(shown: Fingerprint, reason: CertificateError) -> Error {
        CertificateError::Other(OtherError(Arc::new(Self { shown, reason }))).into()
    }
}

impl Verifier {
    fn config(self) -> Result<ClientConfig, Error> {
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(self))
            .with_no_client_auth();
        config.resumption = Resumption::in_memory_sessions(SESSIONS);
        Ok(config)
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let shown = Fingerprint::of(end_entity);
        let verified = match &self.check {
            Check::Pin(pin) if *pin == shown => Ok(ServerCertVerified::assertion()),
            Check::Pin(_) => Err(CertificateError::ApplicationVerificationFailure.into()),
            Check::System(system) => {
                system.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
            }
        };
        verified.map_err(|error| match error {
            Error::InvalidCertificate(reason) => Rejected::error(shown, reason),
            other => other,
        })
    }

    // A pin says which certificate; only the signature says that the peer holds its key. Both are needed.
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_are_read_with_and_without_colons() {
        let plain = "0123456789abcdef".repeat(4);
        let parsed: Fingerprint = plain.parse().unwrap();
        assert_eq!(parsed.to_string(), plain);
        let colons: Vec<String> =
            plain.as_bytes().chunks(2).map(|c| String::from_utf8_lossy(c).to_uppercase()).collect();
        assert_eq!(colons.join(":").parse::<Fingerprint>().unwrap(), parsed);
        for bad in ["", "abc", &"g".repeat(64), &"+1".repeat(32)] {
            assert!(bad.parse::<Fingerprint>().is_err(), "{bad}");
        }
    }
}
