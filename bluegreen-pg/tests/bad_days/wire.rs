//! What lies between and under the servers: a network that can be cut, a disk that is full.

use bluegreen_testkit::servers::PgCluster;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// A way to a server that can be cut: nothing gets through and nobody is told, as when a cable is pulled.
#[derive(Debug)]
pub struct Wire {
    port: u16,
    from: u16,
    whole: watch::Sender<bool>,
    late: Arc<AtomicU64>,
}

impl Wire {
    pub async fn to(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (whole, watching) = watch::channel(true);
        let late = Arc::new(AtomicU64::new(0));
        let lateness = late.clone();
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let (mut watching, lateness) = (watching.clone(), lateness.clone());
                tokio::spawn(async move {
                    if watching.wait_for(|whole| *whole).await.is_err() {
                        return;
                    }
                    let Ok(far) = TcpStream::connect(("127.0.0.1", server)).await else {
                        return;
                    };
                    let (near_in, near_out) = near.into_split();
                    let (far_in, far_out) = far.into_split();
                    // Either end's going is the other's.
                    tokio::select! {
                        () = carry(near_in, far_out, watching.clone(), Arc::default()) => {}
                        () = carry(far_in, near_out, watching, lateness) => {}
                    }
                });
            }
        });
        Self {
            port,
            from: server,
            whole,
            late,
        }
    }

    /// The same server's URL, by this way.
    pub fn instead_of(&self, url: &str) -> String {
        url.replace(&format!(":{}/", self.from), &format!(":{}/", self.port))
            .replace(&format!("port={} ", self.from), &format!("port={} ", self.port))
    }

    /// What the server answers comes so much later from now on, as from one that suffers.
    #[allow(dead_code)]
    pub fn delay(&self, by: Duration) {
        self.late
            .store(u64::try_from(by.as_millis()).unwrap(), Ordering::Relaxed);
    }

    pub fn cut(&self) {
        self.whole.send_replace(false);
    }

    pub fn mend(&self) {
        self.whole.send_replace(true);
    }
}

async fn carry(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut whole: watch::Receiver<bool>,
    late: Arc<AtomicU64>,
) {
    let mut buffer = [0; 16 * 1024];
    loop {
        let Ok(n) = from.read(&mut buffer).await else { return };
        if n == 0 || whole.wait_for(|whole| *whole).await.is_err() {
            return;
        }
        // Not even for nothing: a timer takes a moment.
        match late.load(Ordering::Relaxed) {
            0 => {}
            by => tokio::time::sleep(Duration::from_millis(by)).await,
        }
        if to.write_all(&buffer[..n]).await.is_err() {
            return;
        }
    }
}

/// No file of the server's may grow beyond this: writing then fails as on a disk that is full.
pub fn limit_files(server: &PgCluster, bytes: Option<u64>) {
    let postmaster = server.pid().unwrap();
    let limit = bytes.map_or("unlimited".to_owned(), |b| b.to_string());
    // Those that run already, and by inheritance those that come.
    for pid in children(postmaster).into_iter().chain([postmaster]) {
        // As the server's own user: another's limits are nobody else's to set, not even root's everywhere.
        let Ok(owner) = std::fs::metadata(format!("/proc/{pid}")) else {
            continue;
        };
        let said = Command::new("prlimit")
            .uid(owner.uid())
            .gid(owner.gid())
            .args([format!("--pid={pid}"), format!("--fsize={limit}:")])
            .output()
            .unwrap();
        let gone = !std::path::Path::new(&format!("/proc/{pid}")).exists();
        assert!(
            said.status.success() || gone,
            "{}",
            String::from_utf8_lossy(&said.stderr)
        );
    }
}

fn children(parent: u32) -> Vec<u32> {
    let all = std::fs::read_dir("/proc").unwrap();
    all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| {
            std::fs::read_to_string(format!("/proc/{pid}/stat"))
                .ok()
                .and_then(|stat| stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse().ok())
                == Some(parent)
        })
        .collect()
}
