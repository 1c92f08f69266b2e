//! Answers every request on 127.0.0.1, port 8080 or the one that is named: for conformance tools such as h2spec.

use std::future::poll_fn;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use modelmesh_http2::{Accepted, Error, Server, Settings};
use tokio::net::{TcpListener, TcpStream};

/// h2spec takes a header frame of 17 KB for one that is too large whatever was agreed on, so here it is.
const FRAME: u32 = 16_384;

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let port = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(8080u16);
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    println!("listening on port {}", listener.local_addr()?.port());
    loop {
        let (socket, _) = listener.accept().await?;
        socket.set_nodelay(true)?;
        tokio::spawn(serve(socket));
    }
}

async fn serve(socket: TcpStream) -> Result<(), Error> {
    let mut server =
        Server::handshake(socket, Settings { max_streams: 100, max_frame: FRAME, ..Settings::default() }).await?;
    while let Some(accepted) = poll_fn(|cx| server.poll_accept(cx)).await {
        tokio::spawn(answer(accepted?));
    }
    Ok(())
}

async fn answer((_, mut body, mut answer): Accepted) -> Result<(), Error> {
    while let Some(piece) = poll_fn(|cx| body.poll_data(cx)).await {
        body.release(piece?.len());
    }
    answer.send_head(StatusCode::OK, &HeaderMap::new(), false)?;
    answer.send_data(Bytes::from_static(b"answered"), true)
}
