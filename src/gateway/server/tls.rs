//! TLS for a listener: rustls with ring, certificate and key from PEM files, HTTP/2 and HTTP/1.1 by ALPN; on request
//! only for clients with a certificate of a given authority.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use crate::settings::{AdminTls, Tls};

/// Why the certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read {path}: {source}")]
    Pem {
        path: String,
        #[source]
        source: pem::Error,
    },
    #[error("{path} holds no certificate")]
    NoCertificate { path: String },
    #[error("the certificate and its key do not work together: {0}")]
    Config(#[from] rustls::Error),
    #[error("{path} is not the certificate of an authority: {detail}")]
    Authority { path: String, detail: String },
}

/// What a listener proves itself with, and what it wants of its clients.
#[derive(Debug, Clone, Copy)]
pub struct TlsFiles<'a> {
    cert_file: &'a str,
    key_file: &'a str,
    /// Only clients with a certificate of this authority.
    client_ca_file: Option<&'a str>,
}

impl<'a> TlsFiles<'a> {
    /// `None` where nothing is configured: plain HTTP.
    #[must_use]
    pub fn of(tls: &'a Tls) -> Option<Self> {
        let files = Self { cert_file: &tls.cert_file, key_file: &tls.key_file, client_ca_file: None };
        (!tls.cert_file.is_empty()).then_some(files)
    }

    /// `None` where nothing is configured: plain HTTP, on loopback.
    #[must_use]
    pub fn of_admin(tls: &'a AdminTls) -> Option<Self> {
        let client_ca_file = Some(tls.client_ca_file.as_str());
        let files = Self { cert_file: &tls.cert_file, key_file: &tls.key_file, client_ca_file };
        (!tls.cert_file.is_empty()).then_some(files)
    }
}

/// # Errors
/// [`TlsError`] when a file does not read or they do not belong together.
pub(super) fn acceptor(files: TlsFiles<'_>) -> Result<TlsAcceptor, TlsError> {
    let chain = certificates(files.cert_file)?;
    if let Some(until) = chain.first().and_then(valid_until) {
        #[expect(clippy::cast_precision_loss, reason = "seconds since 1970")]
        metrics::gauge!("construct_tls_valid_until_seconds", "file" => files.cert_file.to_owned()).set(until as f64);
    }
    let unreadable = |source| TlsError::Pem { path: files.key_file.to_owned(), source };
    let key = PrivateKeyDer::from_pem_file(files.key_file).map_err(unreadable)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let builder = match files.client_ca_file {
        None => builder.with_no_client_auth(),
        Some(path) => builder.with_client_cert_verifier(of_authority(path, provider)?),
    };
    let mut config = builder.with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// When a certificate ends, in seconds since 1970; `None` when that cannot be read, which rustls will say better.
fn valid_until(certificate: &CertificateDer<'_>) -> Option<i64> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    Some(certificate.validity().not_after.timestamp())
}

fn certificates(path: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let chain = read.map_err(|source| TlsError::Pem { path: path.to_owned(), source })?;
    if chain.is_empty() {
        return Err(TlsError::NoCertificate { path: path.to_owned() });
    }
    Ok(chain)
}

/// Admits clients whose certificate one of these authorities signed, and nobody else.
fn of_authority(path: &str, provider: Arc<CryptoProvider>) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let failed = |detail: String| TlsError::Authority { path: path.to_owned(), detail };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| failed(error.to_string()))?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    verifier.build().map_err(|error| failed(error.to_string()))
}
