//! One connection of a client or of another instance: handshake, streams, age, farewell.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use modelmesh_http2::{Accepted, Error, Server};
use tokio::time::{Instant, interval, sleep, sleep_until, timeout};

use crate::access::Origin;
use crate::call::entry::{self, Arrival};
use crate::ledger::{Account, Side, TooMuch};
use crate::transport::connections::holder_of;
use crate::transport::drain::Phase;
use crate::transport::limits;
use crate::transport::port::Port;
use crate::transport::socket::Socket;
use crate::transport::thread::{Arrived, Worker};

/// TLS and the HTTP/2 preface together. A client slower than that is none.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// The same while connections are scarce.
const SHORT_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(2);
/// A connection without calls for this long is asked to go when connections are scarce. An honest client
/// opens another for its next call.
const IDLE: Duration = Duration::from_secs(5);

/// Serves one connection to its end.
///
/// # Errors
/// The connection broke, or its client broke the protocol.
pub async fn serve(worker: Arc<Worker>, arrived: Arrived, port: Port, address: SocketAddr) -> io::Result<()> {
    let shake = handshake(&worker, arrived, port);
    let scarce = worker.shared.connections(port).are_scarce();
    let (mut connection, origin) = timeout(if scarce { SHORT_HANDSHAKE_TIMEOUT } else { HANDSHAKE_TIMEOUT }, shake)
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    let side = match port {
        Port::Serving => Side::Clients,
        Port::Peer => Side::Peers,
    };
    let mut account = worker.shared.ledger.open(side, &holder_of(address.ip()).to_string());
    let settings = &worker.shared.settings;
    // Clients that came together must not all leave together: up to a tenth earlier or later.
    let old = settings.max_connection_age.map(|age| Instant::now() + age.mul_f64(0.9 + fastrand::f64() / 5.0));
    let mut phase = worker.phase.clone();
    let mut look = interval(IDLE);
    let mut busy = true;
    let mut leaving = false;
    let mut over: Option<Instant> = None;
    loop {
        let accepted = tokio::select! {
            biased;
            accepted = poll_fn(|cx| poll_accept(&mut connection, &mut account, cx)) => accepted,
            _ = phase.wait_for(|phase| *phase != Phase::Running), if !leaving => {
                leaving = true;
                connection.leave();
                continue;
            }
            () = until(old), if !leaving => {
                leaving = true;
                over = settings.max_connection_age_grace.map(|grace| Instant::now() + grace);
                connection.leave();
                continue;
            }
            () = until(over), if over.is_some() => return Ok(()),
            _ = look.tick() => {
                account.holder().calm();
                if let Some(why) = connection.look() {
                    connection.expel(why);
                    continue;
                }
                let used = std::mem::take(&mut busy) || connection.has_streams();
                if used || !worker.shared.connections(port).are_scarce() {
                    continue;
                }
                if leaving {
                    // Asked before, and still there.
                    return Ok(());
                }
                leaving = true;
                connection.leave();
                continue;
            }
        };
        match accepted {
            None => return Ok(()),
            Some(Err(error)) => return Err(error.into()),
            Some(Ok(accepted)) => {
                busy = true;
                entry::begin(&worker, &Arrival { port, address, origin: &origin }, &account, accepted);
            }
        }
    }
}

/// The next request of a connection that does not hold too much.
fn poll_accept(
    connection: &mut Server<Socket>,
    account: &mut Account,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Accepted, Error>>> {
    let accepted = connection.poll_accept(cx);
    match account.note(connection.held_bytes(), cx.waker()) {
        Ok(()) => accepted,
        Err(TooMuch) => {
            connection.expel(TooMuch::WHY);
            drop(accepted);
            connection.poll_accept(cx)
        }
    }
}

async fn handshake(worker: &Worker, arrived: Arrived, port: Port) -> io::Result<(Server<Socket>, Origin)> {
    let (socket, origin) = match arrived {
        Arrived::Inside(stream, origin) => (Socket::Inside(stream), origin),
        Arrived::Tcp(stream, listener) => {
            let stream = tokio::net::TcpStream::from_std(stream)?;
            let tls = match port {
                Port::Serving => &worker.shared.serving_tls,
                Port::Peer => &worker.shared.peer_tls,
            };
            let socket = tls.accept(stream).await?;
            let certificate = socket.certificate();
            (socket, Origin { listener, certificate })
        }
    };
    Ok((Server::handshake(socket, limits::server(&worker.shared.settings)).await?, origin))
}

async fn until(when: Option<Instant>) {
    match when {
        Some(when) => sleep_until(when).await,
        None => sleep(Duration::MAX).await,
    }
}
