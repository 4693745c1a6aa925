//! Passwords and TLS: what a server needs for them.

use super::Pair;
use bluegreen_core::Color;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use tokio_postgres::Client;

/// Writes a file into the server's data folder, as its own.
async fn put(client: &Client, name: &str, content: &[u8]) {
    let data: String = client.query_one("SHOW data_directory", &[]).await.unwrap().get(0);
    let owner = std::fs::metadata(&data).unwrap();
    let to = Path::new(&data).join(name);
    std::fs::write(&to, content).unwrap();
    std::fs::set_permissions(&to, std::fs::Permissions::from_mode(0o600)).unwrap();
    chown(&to, Some(owner.uid()), Some(owner.gid())).unwrap();
}

/// From now on `role` comes in with a SCRAM password only, and where `tls` says so, over TLS only.
pub async fn ask_for_password(pair: &Pair, color: Color, role: &str, tls: bool) {
    let client = pair.client(color).await;
    let kind = if tls { "hostssl" } else { "host" };
    let rules = format!(
        "{kind} all {role} all scram-sha-256\nhost all {role} all reject\nhost all all 127.0.0.1/32 trust\n\
         host all all ::1/128 trust\n"
    );
    put(&client, "pg_hba.conf", rules.as_bytes()).await;
    client
        .batch_execute("SELECT pg_reload_conf(), pg_sleep(0.3)")
        .await
        .unwrap();
}

pub fn openssl() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|p| p.join("openssl"))
        .find(|p| p.is_file())
}

fn run(program: &Path, args: &[&str]) {
    let done = Command::new(program).args(args).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// An authority, and a certificate of it for `localhost`.
pub fn certificates(openssl: &Path, folder: &Path) {
    let file = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    run(
        openssl,
        &[
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=test authority",
            "-addext",
            "basicConstraints=critical,CA:TRUE",
            "-keyout",
            &file("ca.key"),
            "-out",
            &file("ca.crt"),
        ],
    );
    run(
        openssl,
        &[
            "req",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-subj",
            "/CN=localhost",
            "-keyout",
            &file("server.key"),
            "-out",
            &file("server.csr"),
        ],
    );
    std::fs::write(file("ext"), "subjectAltName=DNS:localhost\n").unwrap();
    run(
        openssl,
        &[
            "x509",
            "-req",
            "-in",
            &file("server.csr"),
            "-CA",
            &file("ca.crt"),
            "-CAkey",
            &file("ca.key"),
            "-CAcreateserial",
            "-days",
            "2",
            "-extfile",
            &file("ext"),
            "-out",
            &file("server.crt"),
        ],
    );
}

/// From now on this side's server speaks TLS, with the certificate in `folder`.
pub async fn speak_tls(pair: &Pair, color: Color, folder: &Path) {
    let client = pair.client(color).await;
    for name in ["server.crt", "server.key"] {
        put(&client, name, &std::fs::read(folder.join(name)).unwrap()).await;
    }
    client.execute("ALTER SYSTEM SET ssl = on", &[]).await.unwrap();
    client
        .batch_execute("SELECT pg_reload_conf(), pg_sleep(0.3)")
        .await
        .unwrap();
}
