//! Replication slots: made with a snapshot, made idle for the way back, advanced, and dropped.

use crate::connect::{AFTER_CONNECT, Server, Session};
use crate::error::{Doing, PgError, fault};
use crate::tls::SslMode;
use crate::writers;
use bluegreen_core::{Kind, Result};
use pgwire_replication::{ReplicationClient, ReplicationConfig, SslMode as WireSslMode, TlsConfig};
use std::sync::LazyLock;
use std::time::{Duration, Instant};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};

/// A slot and the snapshot that meets it at one point in the log. The snapshot lives as long as this does.
pub(crate) struct Snapshot {
    /// Its name, for `SET TRANSACTION SNAPSHOT`.
    pub(crate) name: String,
    _session: ReplicationClient,
}

/// Makes the slot with an exported snapshot. It waits for every transaction with an id in the whole cluster, so the
/// wait is bounded and who made us wait is named.
pub(crate) async fn create_with_snapshot(
    server: &Server,
    observer: &Session,
    slot: &str,
    application: &str,
    within: Duration,
) -> Result<Snapshot> {
    let doing = || format!("create the replication slot {slot}");
    is_nobodys(observer, slot).await?;
    let mut session = ReplicationClient::connect_gated(config(server, application)?)
        .await
        .doing(doing())?;
    session.simple_query(AFTER_CONNECT).await.doing(doing())?;
    let sql = format!("CREATE_REPLICATION_SLOT \"{slot}\" LOGICAL pgoutput EXPORT_SNAPSHOT");
    let answer = match tokio::time::timeout(within, session.simple_query(&sql)).await {
        Ok(answer) => answer.doing(doing())?,
        Err(_) => {
            let who = oldest_writers(observer).await?;
            std::mem::drop(session);
            drop(observer, slot).await?;
            return Err(fault(
                Kind::Timeout,
                doing(),
                format!("after {within:?} it still waits for open transactions to end: {who}"),
            ));
        }
    };
    let name = answer
        .first()
        .and_then(|row| row.get(2))
        .and_then(Option::as_ref)
        .map(|b| String::from_utf8_lossy(b).into_owned())
        .ok_or_else(|| fault(Kind::Unexpected, doing(), "the server named no snapshot"))?;
    Ok(Snapshot {
        name,
        _session: session,
    })
}

fn config(server: &Server, application: &str) -> Result<ReplicationConfig> {
    let from = server.conninfo();
    let mode = SslMode::of(from)?;
    let mut config = ReplicationConfig::new(
        from.get("hostaddr").unwrap_or_else(|| from.host()),
        from.user(),
        from.password().unwrap_or_default(),
        from.dbname(),
        "unused",
        "unused",
    )
    .with_port(from.port())
    .with_application_name(application)
    .with_options("-c statement_timeout=0 -c lock_timeout=0 -c idle_in_transaction_session_timeout=0");
    config.tls = TlsConfig {
        mode: match mode {
            SslMode::Disable => WireSslMode::Disable,
            SslMode::Prefer => WireSslMode::Prefer,
            SslMode::Require => WireSslMode::Require,
            SslMode::VerifyCa => WireSslMode::VerifyCa,
            SslMode::VerifyFull => WireSslMode::VerifyFull,
        },
        ca_pem_path: from.get("sslrootcert").filter(|p| *p != "system").map(Into::into),
        // Named even when it is an address, which a certificate may hold too.
        sni_hostname: Some(from.host().to_owned()),
        client_cert_pem_path: from.get("sslcert").map(Into::into),
        client_key_pem_path: from.get("sslkey").map(Into::into),
    };
    Ok(config)
}

/// The server's system identifier, as a replication connection is told it.
pub(crate) async fn identify_system(server: &Server, application: &str) -> Result<String> {
    let doing = "ask the server who it is";
    let mut session = ReplicationClient::connect_gated(config(server, application)?)
        .await
        .doing(doing)?;
    let answer = session.simple_query("IDENTIFY_SYSTEM").await.doing(doing)?;
    answer
        .first()
        .and_then(|row| row.first())
        .and_then(Option::as_ref)
        .map(|b| String::from_utf8_lossy(b).into_owned())
        .ok_or_else(|| fault(Kind::Unexpected, doing, "it did not say"))
}

/// Who holds a transaction id, oldest first: they are what a new slot waits for.
async fn oldest_writers(observer: &Session) -> Result<String> {
    let rows = observer
        .query(
            "SELECT format('pid %s of %s in %s since %s', pid, coalesce(usename, '?'), coalesce(datname, '?'), \
             coalesce(xact_start::text, '?')) FROM pg_stat_activity \
             WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid() \
             UNION ALL SELECT format('prepared transaction %L in %s since %s', gid, database, prepared) \
             FROM pg_prepared_xacts LIMIT 5",
            &[],
        )
        .await
        .doing("look for open transactions")?;
    let who: Vec<String> = rows.iter().map(|r| r.get(0)).collect();
    Ok(if who.is_empty() {
        "none is visible".into()
    } else {
        who.join("; ")
    })
}

/// Refuses a name that is taken: a server knows a slot by its name alone, whatever database it is of.
async fn is_nobodys(session: &Session, slot: &str) -> Result<()> {
    let doing = || format!("create the replication slot {slot}");
    let other = session
        .query_opt(
            "SELECT database::text FROM pg_replication_slots WHERE slot_name = $1 AND database <> current_database()",
            &[&slot],
        )
        .await
        .doing(doing())?;
    other.map_or(Ok(()), |row| {
        let other: &str = row.get(0);
        let mend = "give the migration of each database of a server a name of its own";
        Err(fault(
            Kind::Conflict,
            doing(),
            format!("the database {other} has one of this name: {mend}"),
        ))
    })
}

/// Makes an idle slot, for the way back.
pub(crate) async fn create(session: &Session, slot: &str, within: Duration) -> Result<()> {
    let doing = || format!("create the replication slot {slot}");
    is_nobodys(session, slot).await?;
    session
        .batch_execute(&format!("SET statement_timeout = {}", within.as_millis()))
        .await
        .doing(doing())?;
    let made = session
        .query("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", &[&slot])
        .await;
    session
        .batch_execute("SET statement_timeout = 0")
        .await
        .doing(doing())?;
    if made
        .as_ref()
        .is_err_and(|e| e.code() == Some(&SqlState::QUERY_CANCELED))
    {
        let who = oldest_writers(session).await?;
        return Err(fault(
            Kind::Timeout,
            doing(),
            format!("after {within:?} it still waits for open transactions to end: {who}"),
        ));
    }
    made.doing(doing())?;
    Ok(())
}

/// What is known of a slot.
#[derive(Debug, Clone)]
pub(crate) struct SlotState {
    /// Whether the server threw away log that it needs.
    pub(crate) lost: bool,
}

/// The slot, if it is there.
pub(crate) async fn look(session: &Session, slot: &str) -> Result<Option<SlotState>> {
    let row = session
        .query_opt(
            "SELECT wal_status = 'lost' FROM pg_replication_slots WHERE slot_name = $1 AND database = current_database()",
            &[&slot],
        )
        .await
        .doing("look for the replication slot")?;
    Ok(row.map(|r| SlotState {
        lost: r.get::<_, Option<bool>>(0).unwrap_or(false),
    }))
}

/// Moves an idle slot to the end of the log, so that it holds no log and replays nothing that came from the other side.
/// Not past anything that was written after its side was opened: another process may have opened it. So the end of the log is
/// read before it is seen that the side is closed.
static ADVANCE: LazyLock<String> = LazyLock::new(|| {
    format!(
        "SELECT end_lsn::text FROM pg_replication_slot_advance($1, $2::text::pg_lsn) WHERE {}",
        writers::CLOSED
    )
});

const END: &str = "SELECT pg_current_wal_flush_lsn()::text";

/// Writes a point into the log from which decoding can begin. A server does that only every 15 seconds by itself, and an
/// advance reads the log from the last but one of them: with fresh ones it is short.
pub(crate) async fn mark_restart(session: &Session, slot: &str) -> Result<()> {
    let doing = "write a point to decode from";
    let direct: bool = session
        .query_one(
            "SELECT coalesce(has_function_privilege(to_regprocedure('pg_catalog.pg_log_standby_snapshot()'), 'execute'), false)",
            &[],
        )
        .await
        .doing(doing)?
        .get(0);
    if direct {
        session
            .batch_execute("SELECT pg_catalog.pg_log_standby_snapshot()")
            .await
            .doing(doing)?;
        return Ok(());
    }
    // Before version 16 the only way is to begin a slot; a temporary one, bounded, and gone again.
    let passing = format!("{}_tick", &slot[..slot.len().min(58)]);
    session
        .batch_execute("SET statement_timeout = '1s'")
        .await
        .doing(doing)?;
    let made = session
        .query(
            "SELECT pg_create_logical_replication_slot($1, 'pgoutput', true)",
            &[&passing],
        )
        .await;
    session.batch_execute("SET statement_timeout = 0").await.doing(doing)?;
    made.doing(doing)?;
    session
        .query("SELECT pg_drop_replication_slot($1)", &[&passing])
        .await
        .doing(doing)?;
    Ok(())
}

/// Moves the slot to the end of the log; to where, or nothing where the side takes writes. A crash of the server before its next
/// checkpoint takes the slot back to an earlier point.
pub(crate) async fn advance_unless_open(
    session: &Session,
    slot: &str,
) -> Result<Option<String>, tokio_postgres::Error> {
    let rows = session.query_prepared(END, &[]).await?;
    let end: String = rows.first().map(|r| r.get(0)).unwrap_or_default();
    let params: [(&(dyn ToSql + Sync), Type); 2] = [(&slot, Type::NAME), (&end, Type::TEXT)];
    let rows = session.query_prepared(ADVANCE.as_str(), &params).await?;
    Ok(rows.first().map(|r| r.get(0)))
}

/// The same where the side must be closed. Somebody else's advance of the same slot is waited for.
pub(crate) async fn advance(session: &Session, slot: &str) -> Result<String> {
    let doing = || format!("advance the replication slot {slot}");
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        match advance_unless_open(session, slot).await {
            Ok(Some(at)) => return Ok(at),
            Ok(None) => {
                let why = "its side takes writes: they would be skipped on the way back";
                return Err(fault(Kind::Diverged, doing(), why));
            }
            Err(e) if e.code() == Some(&SqlState::OBJECT_IN_USE) && Instant::now() < until => {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            Err(e) => return Err(PgError::from(e)).doing(doing()),
        }
    }
}

/// Drops the slot if it is there, ending whoever uses it. One of another database is not ours.
pub(crate) async fn drop(session: &Session, slot: &str) -> Result<()> {
    let doing = || format!("drop the replication slot {slot}");
    let until = Instant::now() + Duration::from_secs(15);
    loop {
        let found = session
            .query_opt(
                "SELECT active_pid FROM pg_replication_slots WHERE slot_name = $1 AND database = current_database()",
                &[&slot],
            )
            .await
            .doing(doing())?;
        let Some(row) = found else { return Ok(()) };
        if let Some(pid) = row.get::<_, Option<i32>>(0) {
            session
                .query("SELECT pg_terminate_backend($1)", &[&pid])
                .await
                .doing(doing())?;
        } else {
            match session.query("SELECT pg_drop_replication_slot($1)", &[&slot]).await {
                Ok(_) => return Ok(()),
                Err(e) if e.code() == Some(&SqlState::UNDEFINED_OBJECT) => return Ok(()),
                Err(e) if e.code() == Some(&SqlState::OBJECT_IN_USE) => {}
                Err(e) => return Err(PgError::from(e)).doing(doing()),
            }
        }
        if Instant::now() > until {
            return Err(fault(Kind::Timeout, doing(), "somebody keeps using it"));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
