//! TLS 1.3 between nodes: both sides show a certificate of the cluster's authority; on the join lane only the member does.
//!
//! A joiner has no authority to trust yet. Its token carries the SHA-256 of the authority's certificate, and what the
//! member shows must be signed by exactly that one.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring, verify_tls13_signature};
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, ServerConfig, SignatureScheme, version,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::identity::{ClusterId, ED25519_BYTES, Identity, fingerprint, member_name, node_name, sha256};
use super::stream::{Io, StreamError};

/// The TLS side of a member.
pub(super) struct Tls {
    acceptor: TlsAcceptor,
    connector: TlsConnector,
    cluster: ClusterId,
}

impl Tls {
    pub fn new(identity: &Identity) -> Result<Self, Error> {
        let provider = Arc::new(ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(identity.authority.clone())?;
        let roots = Arc::new(roots);
        // The authority's certificate goes along for joiners, who know only its digest.
        let chain = vec![identity.certificate.clone(), identity.authority.clone()];
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider));
        let clients = clients.allow_unauthenticated().build().map_err(|error| Error::General(error.to_string()))?;
        let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&version::TLS13])?
            .with_client_cert_verifier(clients)
            .with_single_cert(chain.clone(), identity.key.clone_key())?;
        // Every handshake shows its certificates.
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&version::TLS13])?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, identity.key.clone_key())?;
        client.resumption = Resumption::disabled();
        let (acceptor, connector) = (TlsAcceptor::from(Arc::new(server)), TlsConnector::from(Arc::new(client)));
        Ok(Self { acceptor, connector, cluster: identity.cluster })
    }

    /// The stream, and the certificate the other side showed, which is of this cluster's authority.
    pub async fn accept(&self, stream: TcpStream) -> Result<(Io, Option<CertificateDer<'static>>), StreamError> {
        let stream = self.acceptor.accept(stream).await?;
        let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first).cloned();
        Ok((Box::new(stream), shown.map(CertificateDer::into_owned)))
    }

    /// Succeeds only when the other side shows a certificate of `node`; answers the key that was shown.
    pub async fn connect(&self, node: u64, stream: TcpStream) -> Result<(Io, Option<KeyHash>), StreamError> {
        let name = server_name(node_name(node, &self.cluster))?;
        let stream = self.connector.connect(name, stream).await?;
        let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first).and_then(key_of);
        Ok((Box::new(stream), shown))
    }

    /// Whether a certificate of this cluster's authority was issued to `node`.
    pub fn is_of(&self, certificate: &CertificateDer<'_>, node: u64) -> bool {
        let (Ok(parsed), Ok(name)) =
            (ParsedCertificate::try_from(certificate), server_name(node_name(node, &self.cluster)))
        else {
            return false;
        };
        verify_server_name(&parsed, &name).is_ok()
    }
}

/// SHA-256 of a raw Ed25519 public key.
pub(super) type KeyHash = [u8; 32];

/// The key of a node's certificate: the last bytes of its SubjectPublicKeyInfo (RFC 8410 §4).
pub(super) fn key_of(certificate: &CertificateDer<'_>) -> Option<KeyHash> {
    let parsed = ParsedCertificate::try_from(certificate).ok()?;
    let info = parsed.subject_public_key_info();
    Some(sha256(info.last_chunk::<ED25519_BYTES>()?))
}

/// Connects to a member of a cluster of which only the authority's fingerprint is known.
pub(super) async fn connect_pinned(
    cluster: &ClusterId,
    authority: [u8; 32],
    stream: TcpStream,
) -> Result<Io, StreamError> {
    let provider = Arc::new(ring::default_provider());
    let client = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&version::TLS13])
        .map_err(std::io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Pinned::new(authority, &provider)))
        .with_no_client_auth();
    let name = server_name(member_name(cluster))?;
    Ok(Box::new(TlsConnector::from(Arc::new(client)).connect(name, stream).await?))
}

/// Whether a node of some cluster, no matter which, is at the other end: it shows a certificate, and that is not one of an
/// authority of zeros.
pub(super) async fn shows_a_certificate(stream: TcpStream) -> bool {
    let Err(StreamError::Io(error)) = connect_pinned(&ClusterId::default(), [0; 32], stream).await else {
        return false;
    };
    let refused = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    matches!(refused, Some(Error::InvalidCertificate(_)))
}

fn server_name(name: String) -> Result<ServerName<'static>, StreamError> {
    ServerName::try_from(name).map_err(|error| StreamError::Io(std::io::Error::other(error)))
}

/// Trusts the one authority with this fingerprint, which the member sends along.
#[derive(Debug)]
struct Pinned {
    authority: [u8; 32],
    algorithms: WebPkiSupportedAlgorithms,
}

impl Pinned {
    fn new(authority: [u8; 32], provider: &CryptoProvider) -> Self {
        Self { authority, algorithms: provider.signature_verification_algorithms }
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let pinned = intermediates.iter().find(|certificate| fingerprint(certificate) == self.authority);
        let pinned = pinned.ok_or(Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
        let mut roots = RootCertStore::empty();
        roots.add(pinned.clone().into_owned())?;
        let parsed = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(&parsed, &roots, &[], now, self.algorithms.all)?;
        verify_server_name(&parsed, server_name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken between nodes".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
