//! A TCP link that can be cut: bytes stop in both directions, and no connection closes, as when a cable is pulled.

use crate::error::HarnessError;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// A link to one address. It ends, and closes its connections, when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    cut: watch::Sender<bool>,
    _end: tokio_util::sync::DropGuard,
}

impl Proxy {
    /// A link to `target` (`host:port`) under an address of its own.
    pub async fn start(target: &str) -> Result<Self, HarnessError> {
        let failed = |error: std::io::Error| HarnessError::Other(error.to_string());
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let cut = watch::Sender::new(false);
        let end = tokio_util::sync::CancellationToken::new();
        let (switch, ended, target) = (cut.subscribe(), end.clone(), target.to_owned());
        tokio::spawn(async move {
            let accept = async {
                while let Ok((stream, _)) = listener.accept().await {
                    let (switch, target) = (switch.clone(), target.clone());
                    tokio::spawn(
                        ended.clone().run_until_cancelled_owned(forward(stream, target, switch)),
                    );
                }
            };
            ended.run_until_cancelled(accept).await;
        });
        Ok(Self { address, cut, _end: end.drop_guard() })
    }

    /// `host:port` to connect to.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Cuts the link, or heals it: then what was sent meanwhile arrives.
    pub fn cut(&self, cut: bool) {
        self.cut.send_replace(cut);
    }
}

async fn forward(near: TcpStream, target: String, mut switch: watch::Receiver<bool>) {
    if switch.wait_for(|cut| !cut).await.is_err() {
        return;
    }
    let Ok(far) = TcpStream::connect(target).await else { return };
    // Without it a packet can wait 40 ms for an acknowledgement.
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
    let (there, back) = (copy(near_in, far_out, switch.clone()), copy(far_in, near_out, switch));
    // A side that closes closes the other, too, once what it sent has arrived.
    tokio::join!(there, back);
}

async fn copy(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut switch: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let read = from.read(&mut buffer).await;
        if switch.wait_for(|cut| !cut).await.is_err() {
            return;
        }
        match read {
            Ok(0) | Err(_) => break,
            Ok(read) => {
                if to.write_all(&buffer[..read]).await.is_err() {
                    break;
                }
            }
        }
    }
    // It may be closed already.
    let _ = to.shutdown().await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn a_cut_link_is_silent_and_a_healed_one_delivers() {
        let echo = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let target = echo.local_addr().expect("an address").to_string();
        tokio::spawn(async move {
            let (stream, _) = echo.accept().await.expect("a connection");
            let (mut from, mut to) = stream.into_split();
            tokio::io::copy(&mut from, &mut to).await.expect("copied");
        });
        let proxy = Proxy::start(&target).await.expect("a proxy");
        let mut stream = TcpStream::connect(proxy.address()).await.expect("connected");
        let mut byte = [0];
        stream.write_all(b"a").await.expect("sent");
        stream.read_exact(&mut byte).await.expect("echoed");
        proxy.cut(true);
        stream.write_all(b"b").await.expect("sent");
        let silent = tokio::time::timeout(Duration::from_millis(200), stream.read_exact(&mut byte));
        assert!(silent.await.is_err(), "a cut link delivered");
        proxy.cut(false);
        stream.read_exact(&mut byte).await.expect("delivered");
        assert_eq!(byte, *b"b");
    }
}
