//! A proxy between a client and its server that loses a question or its answer, and the connection with it.
#![allow(unreachable_pub)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

/// What is lost next.
#[derive(Clone, Copy)]
pub enum Cut {
    /// The server never hears it.
    Question = 1,
    /// The server did it, and the client does not hear that.
    Answer = 2,
}

#[derive(Default)]
struct Shared {
    next: AtomicU8,
    cuts: AtomicUsize,
}

pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    task: tokio::task::JoinHandle<()>,
}

impl Proxy {
    pub async fn start(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared::default());
        let task = tokio::spawn(accept(listener, server, shared.clone()));
        Self { port, shared, task }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Loses what is said next, once.
    pub fn next(&self, cut: Cut) {
        self.shared.next.store(cut as u8, Ordering::SeqCst);
    }

    pub fn cuts(&self) -> usize {
        self.shared.cuts.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, server: u16, shared: Arc<Shared>) {
    while let Ok((client, _)) = listener.accept().await {
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = TcpStream::connect(("127.0.0.1", server)).await.unwrap().into_split();
        let shared = shared.clone();
        tokio::spawn(async move {
            // Whichever ends first takes the other, and with it both sockets.
            tokio::select! {
                () = carry(from_client, to_server, &shared, Cut::Question) => {}
                () = carry(from_server, to_client, &shared, Cut::Answer) => {}
            }
        });
    }
}

async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, shared: &Shared, cut: Cut) {
    let mut bytes = vec![0; 16 * 1024];
    loop {
        let Ok(n @ 1..) = from.read(&mut bytes).await else {
            return;
        };
        let ours = shared
            .next
            .compare_exchange(cut as u8, 0, Ordering::SeqCst, Ordering::SeqCst);
        if ours.is_ok() {
            shared.cuts.fetch_add(1, Ordering::SeqCst);
            return;
        }
        if to.write_all(&bytes[..n]).await.is_err() {
            return;
        }
    }
}
