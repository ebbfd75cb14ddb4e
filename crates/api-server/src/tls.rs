//! TLS in both directions: clients prove who they are by a certificate, as Docker's `--tlsverify` has it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;

/// Files in PEM: this server's certificate and key, and the authority of its clients.
#[derive(Debug, Clone)]
pub struct Files {
    /// The certificate, followed by those between it and its authority.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Who signs the certificates of clients.
    pub authority: PathBuf,
}

/// Reads them.
///
/// # Errors
/// Where one can't be read, or they don't fit together.
pub fn acceptor(files: &Files) -> Result<TlsAcceptor> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&files.authority)? {
        roots.add(certificate).with_context(|| format!("{} has no authority", files.authority.display()))?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .build()
        .with_context(|| format!("{} has no authority for clients", files.authority.display()))?;
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .with_context(|| format!("failed to read the key {}", files.key.display()))?;
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("failed to set TLS up")?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates(&files.certificate)?, key)
        .with_context(|| format!("{} and its key don't fit", files.certificate.display()))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let step = || format!("failed to read the certificate {}", path.display());
    let all = CertificateDer::pem_file_iter(path).with_context(step)?;
    let all = all.collect::<Result<Vec<_>, _>>().with_context(step)?;
    if all.is_empty() {
        bail!("{} holds no certificate", path.display());
    }
    Ok(all)
}
