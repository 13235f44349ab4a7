//! Whom outbound TLS trusts.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, TrustAnchor};
use rustls::{ClientConfig, RootCertStore};

use super::CaFile;

/// Where systems keep the roots they trust, in one PEM file: Debian, Alpine, Arch; Fedora; older Red Hat; openSUSE; others.
const SYSTEM_ROOTS: [&str; 7] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
    "/etc/pki/tls/cacert.pem",
];

/// Most certificates read of it.
const MAX_ROOTS: usize = 1000;

/// Names another such file, as OpenSSL has it.
const SYSTEM_ROOTS_VARIABLE: &str = "SSL_CERT_FILE";

/// TLS trusting the public roots, the system's, and those in the PEM file that a key of the configuration names. The error says what is
/// wrong with the file.
pub(super) fn client_config(ca_file: Option<CaFile<'_>>) -> Result<Arc<ClientConfig>, String> {
    let roots = match ca_file {
        None => Arc::clone(public_roots()),
        Some(CaFile { key, path }) => {
            let mut roots = RootCertStore::clone(public_roots());
            add_all(&mut roots, path).map_err(|why| format!("{key} {}: {why}", path.display()))?;
            Arc::new(roots)
        }
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// The embedded roots and the system's, read once: all that trust them share them.
fn public_roots() -> &'static Arc<RootCertStore> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    ROOTS.get_or_init(|| {
        let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        let named = std::env::var_os(SYSTEM_ROOTS_VARIABLE).map(PathBuf::from);
        let places = named.into_iter().chain(SYSTEM_ROOTS.map(PathBuf::from));
        if let Some(path) = places.into_iter().find(|path| path.is_file()) {
            let added = add_usable(&mut roots, &path);
            tracing::debug!(path = %path.display(), added, "the system's root certificates are trusted");
        }
        Arc::new(roots)
    })
}

/// Adds the certificates of a file of the system's that are not there yet and can be used. Says how many.
fn add_usable(roots: &mut RootCertStore, path: &Path) -> usize {
    let before = roots.len();
    let certificates = CertificateDer::pem_file_iter(path).into_iter().flatten().flatten();
    for certificate in certificates.take(MAX_ROOTS) {
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

/// Adds all certificates of a file that the operator named.
fn add_all(roots: &mut RootCertStore, path: &Path) -> Result<(), String> {
    let before = roots.len();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| error.to_string())? {
        let certificate = certificate.map_err(|error| error.to_string())?;
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    if roots.len() == before { Err("no certificate in it".to_owned()) } else { Ok(()) }
}

/// The TLS error inside an I/O error, in words.
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
    fn of_the_systems_roots_what_can_be_used_is_added_once() {
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
    fn a_file_that_the_operator_named_must_be_whole() {
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
                .contains("x.ca_file /nowhere")
        );
    }

    #[test]
    fn what_is_spoken_is_told_and_roots_are_shared() {
        let config = client_config(None).unwrap();
        assert_eq!(config.alpn_protocols, [b"http/1.1"]);
        assert!(Arc::ptr_eq(public_roots(), public_roots()) && public_roots().len() >= 100);
    }
}
