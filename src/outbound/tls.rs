//! TLS client settings: which root certificates are trusted.
//!
//! Owns the roots: the embedded ones, the system's and the operator's. Refuses to know connections.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, TrustAnchor};
use rustls::{ClientConfig, RootCertStore};

use super::CaFile;

/// PEM files in which systems keep their trusted roots: Debian, Alpine, Arch; Fedora; older Red Hat; openSUSE; others.
const SYSTEM_ROOTS: [&str; 7] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
    "/etc/pki/tls/cacert.pem",
];

/// Most certificates read from the system's file.
const MAX_ROOTS: usize = 1000;

/// Environment variable that names another file, as in OpenSSL.
const SYSTEM_ROOTS_VARIABLE: &str = "SSL_CERT_FILE";

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsSetupError {
    /// [`CaFile`] cannot be used.
    #[error("{key} {}: {why}", path.display())]
    CaFile { key: &'static str, path: PathBuf, why: CaFileError },
    /// rustls refuses the protocol versions of its own provider.
    #[error("TLS: {0}")]
    Library(rustls::Error),
}

/// What is wrong with a file of root certificates.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CaFileError {
    /// It cannot be read or is not PEM.
    #[error("{0}")]
    Unreadable(pem::Error),
    /// One of its certificates cannot be a root.
    #[error("{0}")]
    Certificate(rustls::Error),
    #[error("it contains no certificate")]
    Empty,
}

/// A client that trusts the embedded roots, the system's, and those in `ca_file`, and speaks HTTP/1.1.
///
/// # Errors
/// `CaFile` when `ca_file` cannot be used.
pub(super) fn client_config(ca_file: Option<CaFile<'_>>) -> Result<Arc<ClientConfig>, TlsSetupError> {
    let roots = match ca_file {
        None => Arc::clone(public_roots()),
        Some(CaFile { key, path }) => {
            let mut roots = RootCertStore::clone(public_roots());
            add_all(&mut roots, path).map_err(|why| TlsSetupError::CaFile {
                key,
                path: path.to_owned(),
                why,
            })?;
            Arc::new(roots)
        }
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsSetupError::Library)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    // ureq speaks nothing newer.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// The embedded roots and the system's. Read once and shared, for they take some 100 KiB.
fn public_roots() -> &'static Arc<RootCertStore> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    ROOTS.get_or_init(|| {
        let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        let named = std::env::var_os(SYSTEM_ROOTS_VARIABLE).map(PathBuf::from);
        let places = named.into_iter().chain(SYSTEM_ROOTS.map(PathBuf::from));
        if let Some(path) = places.into_iter().find(|path| path.is_file()) {
            let added = add_usable(&mut roots, &path);
            tracing::debug!(path = %path.display(), added, "added the system's root certificates");
        }
        Arc::new(roots)
    })
}

/// Adds the certificates of the system's file that can be used and are not known yet. Returns how many.
fn add_usable(roots: &mut RootCertStore, path: &Path) -> usize {
    let before = roots.len();
    let certificates = CertificateDer::pem_file_iter(path).into_iter().flatten().flatten();
    for certificate in certificates.take(MAX_ROOTS) {
        // Added to a store of its own first, to compare it with the known ones.
        let mut one = RootCertStore::empty();
        if one.add(certificate).is_err() {
            continue;
        }
        let is_known = |new: &TrustAnchor<'_>| {
            roots.roots.iter().any(|known| {
                known.subject == new.subject && known.subject_public_key_info == new.subject_public_key_info
            })
        };
        let new: Vec<_> = one.roots.into_iter().filter(|new| !is_known(new)).collect();
        roots.roots.extend(new);
    }
    roots.len().saturating_sub(before)
}

/// Adds all certificates of the operator's file. One that cannot be used is an error.
fn add_all(roots: &mut RootCertStore, path: &Path) -> Result<(), CaFileError> {
    let before = roots.len();
    for certificate in CertificateDer::pem_file_iter(path).map_err(CaFileError::Unreadable)? {
        let certificate = certificate.map_err(CaFileError::Unreadable)?;
        roots.add(certificate).map_err(CaFileError::Certificate)?;
    }
    // An empty file is a mistake that would otherwise show as failing handshakes.
    if roots.len() == before { Err(CaFileError::Empty) } else { Ok(()) }
}

/// The message of the TLS error inside an I/O error, if there is one.
pub(super) fn cause(error: &io::Error) -> Option<String> {
    let inner = error.get_ref()?;
    inner.downcast_ref::<rustls::Error>().map(ToString::to_string)
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};

    use super::*;

    fn authority() -> String {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem()
    }

    #[test]
    fn usable_system_roots_are_added_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("roots.pem");
        let (ours, broken) = (authority(), "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
        std::fs::write(&path, format!("# comment\n{broken}{ours}{ours}{}", authority())).unwrap();
        let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        assert_eq!(add_usable(&mut roots, &path), 2);
        assert_eq!(add_usable(&mut roots, &path), 0);
        assert_eq!(add_usable(&mut roots, &folder.path().join("none")), 0);
    }

    #[test]
    fn a_ca_file_with_a_broken_or_no_certificate_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        for (text, is_good) in [
            (authority(), true),
            (String::new(), false),
            ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_owned(), false),
        ] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(client_config(Some(CaFile { key: "x", path: &path })).is_ok(), is_good);
        }
        assert!(
            client_config(Some(CaFile { key: "x.ca_file", path: Path::new("/nowhere") }))
                .unwrap_err()
                .to_string()
                .contains("x.ca_file /nowhere")
        );
    }

    #[test]
    fn http_1_1_is_negotiated_and_roots_are_shared() {
        let config = client_config(None).unwrap();
        assert_eq!(config.alpn_protocols, [b"http/1.1"]);
        assert!(Arc::ptr_eq(public_roots(), public_roots()) && public_roots().len() >= 100);
    }
}
