//! Certificates: checked when they are handed in, swapped while connections are open.

use std::io;
use std::sync::Arc;

use parking_lot::RwLock;
use rustls::client::WebPkiServerVerifier;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::transport::pinned::Pinned;
use crate::transport::socket::Socket;

/// Whether clients must show a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    None,
    Optional,
    Require,
}

impl ClientAuth {
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "none" => Some(Self::None),
            "optional" => Some(Self::Optional),
            "require" => Some(Self::Require),
            _ => None,
        }
    }
}

/// Everything one listener (and, for peers, the calls to them) needs.
#[derive(Clone, Debug)]
pub struct Material {
    server: Arc<ServerConfig>,
    /// The same for clients that speak HTTP of any version.
    web: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

const HTTP2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";

impl Material {
    /// # Errors
    /// A sentence for people, if something is missing or does not fit together.
    pub fn new(chain: &[u8], key: &[u8], trusted: Option<&[u8]>, auth: ClientAuth) -> Result<Self, String> {
        let chain = certificates(chain)?;
        let key = private_key(key)?;
        let (roots, named) = roots(trusted)?;
        let roots = Arc::new(roots);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let unusable = |error: VerifierBuilderError| format!("the trusted certificates cannot be used: {error}");

        let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(misfit)?;
        let server = if auth == ClientAuth::None {
            server.with_no_client_auth()
        } else {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider));
            let verifier = if auth == ClientAuth::Optional { verifier.allow_unauthenticated() } else { verifier };
            let verifier = verifier.build().map_err(unusable)?;
            server.with_client_cert_verifier(Pinned::new(Arc::clone(&named), verifier))
        };
        let mut server = server.with_single_cert(chain.clone(), key.clone_key()).map_err(misfit)?;
        let mut web = server.clone();
        server.alpn_protocols = vec![HTTP2.to_vec()];
        web.alpn_protocols = vec![HTTP2.to_vec(), HTTP1.to_vec()];

        let client = client(roots, named, Some((chain, key)))?;
        Ok(Self { server: Arc::new(server), web: Arc::new(web), client: Arc::new(client) })
    }
}

fn misfit(error: rustls::Error) -> String {
    format!("certificate and private key do not fit: {error}")
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("the certificate chain is not PEM: {error}"))?;
    if chain.is_empty() { Err("the certificate chain holds no certificate".into()) } else { Ok(chain) }
}

fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| format!("the private key is not unencrypted PEM: {error}"))
}

/// What a client needs: trusted authorities, and its certificate if servers ask for one.
fn client(
    roots: Arc<RootCertStore>,
    named: Arc<[CertificateDer<'static>]>,
    identity: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
) -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider)).build();
    let verifier = verifier.map_err(|error| format!("the trusted certificates cannot be used: {error}"))?;
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(misfit)?
        .dangerous() // it adds to what rustls accepts, and `pinned` says what
        .with_custom_certificate_verifier(Pinned::new(named, verifier));
    let mut config = match identity {
        Some((chain, key)) => config.with_client_auth_cert(chain, key).map_err(misfit)?,
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = vec![HTTP2.to_vec()];
    Ok(config)
}

/// How the control plane's own connections are made safe.
#[derive(Clone, Debug)]
pub struct ClientTls(Arc<ClientConfig>);

impl ClientTls {
    /// All in PEM. `trusted` None: the web's authorities. `identity`: chain and key, if servers want one.
    ///
    /// # Errors
    /// A sentence for people, if something does not fit together.
    pub fn new(trusted: Option<&[u8]>, identity: Option<(&[u8], &[u8])>) -> Result<Self, String> {
        let (roots, named) = roots(trusted)?;
        let identity = match identity {
            Some((chain, key)) => Some((certificates(chain)?, private_key(key)?)),
            None => None,
        };
        Ok(Self(Arc::new(client(Arc::new(roots), named, identity)?)))
    }

    pub(crate) fn config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.0)
    }
}

/// Whether the other side agreed to HTTP/2, or said nothing: some gRPC libraries do not.
pub fn speaks_http2(connection: &rustls::CommonState) -> bool {
    connection.alpn_protocol().is_none_or(|protocol| protocol == HTTP2)
}

/// The authorities, and the certificates that were named; the well-known authorities are not named.
fn roots(trusted: Option<&[u8]>) -> Result<(RootCertStore, Arc<[CertificateDer<'static>]>), String> {
    let mut roots = RootCertStore::empty();
    let mut named = Vec::new();
    let Some(pem) = trusted else {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        return Ok((roots, named.into()));
    };
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| format!("the trusted certificates are not PEM: {error}"))?;
        named.push(certificate.clone());
        roots.add(certificate).map_err(|error| format!("a trusted certificate cannot be used: {error}"))?;
    }
    if roots.is_empty() {
        return Err("the trusted certificates hold no certificate".into());
    }
    Ok((roots, named.into()))
}

/// The material in force for one listener. New handshakes use what is there, open connections go on.
#[derive(Debug, Default)]
pub struct Slot(RwLock<Option<Material>>);

impl Slot {
    #[must_use]
    pub fn new(material: Option<Material>) -> Self {
        Self(RwLock::new(material))
    }

    pub fn swap(&self, material: Material) {
        *self.0.write() = Some(material);
    }

    /// Takes a connection in, with TLS if there is material.
    ///
    /// # Errors
    /// The handshake failed, or the client does not speak HTTP/2.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<Socket> {
        let config = self.0.read().as_ref().map(|material| Arc::clone(&material.server));
        let Some(config) = config else { return Ok(Socket::Tcp(stream)) };
        let stream = TlsAcceptor::from(config).accept(stream).await?;
        if !speaks_http2(stream.get_ref().1) {
            return Err(io::Error::other("the client does not speak HTTP/2"));
        }
        Ok(Socket::Server(Box::new(stream)))
    }

    /// As `accept`, for a client that may speak HTTP of any version.
    ///
    /// # Errors
    /// The handshake failed.
    pub async fn accept_web(&self, stream: TcpStream) -> io::Result<Socket> {
        let config = self.0.read().as_ref().map(|material| Arc::clone(&material.web));
        let Some(config) = config else { return Ok(Socket::Tcp(stream)) };
        Ok(Socket::Server(Box::new(TlsAcceptor::from(config).accept(stream).await?)))
    }

    /// Puts TLS over a connection to a peer, if there is material, and verifies the peer's name.
    ///
    /// # Errors
    /// The handshake failed or the certificate does not carry the name.
    pub async fn connect(&self, stream: TcpStream, name: &str) -> io::Result<Socket> {
        let config = self.0.read().as_ref().map(|material| Arc::clone(&material.client));
        let Some(config) = config else { return Ok(Socket::Tcp(stream)) };
        let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
        Ok(Socket::Client(Box::new(TlsConnector::from(config).connect(name, stream).await?)))
    }
}
