//! A second TLS handshake with an address goes on with the session of the first, and the pin holds all the same.

use agent_mesh_testkit::{Certificate, FakeGateway, Script, TlsFront};
use openclaw_client::{ConnectError, DialOptions, Link, TlsMemory, Trace};

use crate::caller::within;

/// Dials as far as the challenge: what the server gives for the next time has been read by then.
async fn dial(front: &TlsFront, tls: &TlsMemory, pin: Option<Certificate>) -> Result<(), ConnectError> {
    let pin = pin.map(|pin| pin.fingerprint().parse().unwrap());
    let options = DialOptions { pin, tls: tls.clone(), ..DialOptions::default() };
    let mut trace = Trace::default();
    let link = Link::dial(&front.url().parse().unwrap(), &options, within(10), &mut trace).await?;
    link.challenge(within(10), &mut trace).await.map(drop)?;
    let shown = trace.steps.iter().find(|done| done.step.name() == "tls").unwrap();
    assert_eq!(Some(shown.detail.parse().unwrap()), options.pin, "the certificate is told either way");
    Ok(())
}

async fn front() -> (FakeGateway, TlsFront) {
    let gateway = FakeGateway::start(Script::new()).await;
    let front = TlsFront::start(Certificate::First, gateway.address()).await;
    (gateway, front)
}

#[tokio::test]
async fn the_second_handshake_with_an_address_is_a_short_one() {
    let (gateway, front) = front().await;
    let tls = TlsMemory::default();
    for _ in 0..3 {
        dial(&front, &tls, Some(Certificate::First)).await.unwrap();
    }
    dial(&front, &TlsMemory::default(), Some(Certificate::First)).await.unwrap();
    assert_eq!(front.resumed(), [false, true, true, false], "what remembers nothing begins anew");
    // Another port is another gateway, with the same host and certificate, too.
    let neighbour = TlsFront::start(Certificate::First, gateway.address()).await;
    dial(&neighbour, &tls, Some(Certificate::First)).await.unwrap();
    assert_eq!(neighbour.resumed(), [false]);
}

#[tokio::test]
async fn another_pin_or_none_never_goes_on_with_a_session() {
    let (_gateway, front) = front().await;
    let tls = TlsMemory::default();
    dial(&front, &tls, Some(Certificate::First)).await.unwrap();
    let error = dial(&front, &tls, Some(Certificate::Second)).await.unwrap_err();
    assert!(matches!(error, ConnectError::PinMismatch { .. }), "{error:?}");
    let error = dial(&front, &tls, None).await.unwrap_err();
    let ConnectError::Untrusted { fingerprint: Some(shown), .. } = error else { panic!("{error:?}") };
    assert_eq!(shown.to_string(), Certificate::First.fingerprint());
    dial(&front, &tls, Some(Certificate::First)).await.unwrap();
    assert_eq!(front.resumed(), [false, true], "and they spoil nothing for the pin that is right");
}

#[tokio::test]
async fn a_certificate_that_was_replaced_is_noticed() {
    let (_gateway, front) = front().await;
    let tls = TlsMemory::default();
    dial(&front, &tls, Some(Certificate::First)).await.unwrap();
    front.show(Certificate::Second);
    let error = dial(&front, &tls, Some(Certificate::First)).await.unwrap_err();
    let ConnectError::PinMismatch { expected, actual } = error else { panic!("{error:?}") };
    assert_eq!(
        (expected.to_string().as_str(), actual.to_string().as_str()),
        (Certificate::First.fingerprint(), Certificate::Second.fingerprint())
    );
}

/// Two gateways at once through one memory: each refusal names the certificate that was shown there.
#[tokio::test]
async fn refusals_at_the_same_time_name_their_own_certificate() {
    let (gateway, first) = front().await;
    let second = TlsFront::start(Certificate::Second, gateway.address()).await;
    let tls = TlsMemory::default();
    for _ in 0..20 {
        let (one, two) = tokio::join!(dial(&first, &tls, None), dial(&second, &tls, None));
        for (end, certificate) in [(one, Certificate::First), (two, Certificate::Second)] {
            let Err(ConnectError::Untrusted { fingerprint: Some(shown), .. }) = end else {
                panic!("{end:?}")
            };
            assert_eq!(shown.to_string(), certificate.fingerprint());
        }
    }
}
