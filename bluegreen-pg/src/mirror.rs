//! Publication and subscription of a mirror, in either direction. A mirror's publication, slot and subscription share
//! one name.

use crate::connect::{Server, Session};
use crate::error::{Doing, PROVIDER, fault};
use crate::holders::{Locks, holders};
use crate::ident::{Relation, ident, literal};
use crate::marker::MARKER;
use crate::mirrored;
use bluegreen_core::{Color, Error, Kind, Result};
use std::time::{Duration, Instant};
use tokio_postgres::GenericClient;
use tokio_postgres::error::SqlState;

/// Makes the publication of exactly these tables and the marker. Never `FOR ALL TABLES`: that one would publish tables
/// made later, which the follower does not have. Who has a table locked is waited for, but not for ever.
pub(crate) async fn publish(session: &Session, migration: &str, name: &str, tables: &[Relation]) -> Result<()> {
    let list: Vec<String> = std::iter::once(MARKER.to_owned())
        .chain(tables.iter().map(ToString::to_string))
        .map(|t| format!("ONLY {t}"))
        .collect();
    let record = mirrored::record_published(migration, name);
    let name = ident(name);
    let doing = || format!("create the publication {name}");
    let made = session
        .batch_execute(&format!(
            "BEGIN; SET LOCAL lock_timeout = {}; DROP PUBLICATION IF EXISTS {name}; CREATE PUBLICATION {name} FOR TABLE {}; {record}; \
             COMMIT",
            LOCK_WITHIN.as_millis(),
            list.join(", ")
        ))
        .await;
    let Err(error) = made else { return Ok(()) };
    if error.code() != Some(&SqlState::LOCK_NOT_AVAILABLE) {
        return Err(error).doing(doing());
    }
    session.batch_execute("ROLLBACK").await.doing(doing())?;
    let names: Vec<String> = tables.iter().map(ToString::to_string).collect();
    let holders = holders(session, &OF_TABLES, &names).await.doing(doing())?;
    Err(locked(&doing(), "a table", &holders))
}

/// Drops the publication if it is there.
pub(crate) async fn unpublish(session: &Session, name: &str) -> Result<()> {
    session
        .batch_execute(&format!("DROP PUBLICATION IF EXISTS {}", ident(name)))
        .await
        .doing(format!("drop the publication {name}"))
}

/// Makes the subscription, not running, on a slot that is there. `from` is the server that is subscribed to.
pub(crate) async fn subscribe(
    client: &impl GenericClient,
    version: u32,
    migration: &str,
    name: &str,
    from: &Server,
) -> Result<()> {
    // Only on the way back: what blue itself has from a third server must reach green too.
    let back = from.color() == Color::Green;
    let origin = if back && version >= 160_000 {
        ", origin = none"
    } else {
        ""
    };
    let sql = format!(
        "CREATE SUBSCRIPTION {0} CONNECTION {1} PUBLICATION {0} \
         WITH (create_slot = false, copy_data = false, enabled = false, slot_name = {2}{origin})",
        ident(name),
        literal(&from.from_peer().for_subscription()),
        literal(name),
    );
    let doing = format!("create the subscription {name} to {}", from.from_peer());
    client.batch_execute(&sql).await.doing(doing.clone()).map_err(|e| {
        // Without its source: a server may repeat the connection string it was given.
        Error::new(e.kind(), doing, from.from_peer().redact(e.message())).provider(PROVIDER)
    })?;
    let record = mirrored::record_subscribed(migration, name);
    client.batch_execute(&record).await.doing("record what is mirrored")
}

/// What is known of a subscription.
#[derive(Debug, Clone)]
pub(crate) struct SubscriptionState {
    pub(crate) oid: u32,
    pub(crate) enabled: bool,
    /// The apply worker, while it lives.
    pub(crate) worker: Option<i32>,
}

/// The subscription, if it is there.
pub(crate) async fn look(session: &Session, name: &str) -> Result<Option<SubscriptionState>> {
    let row = session
        .query_opt(
            "SELECT s.oid, s.subenabled, \
             (SELECT max(w.pid) FROM pg_stat_subscription w WHERE w.subid = s.oid AND w.relid IS NULL) \
             FROM pg_subscription s WHERE s.subname = $1 \
             AND s.subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())",
            &[&name],
        )
        .await
        .doing("look for the subscription")?;
    Ok(row.map(|r| SubscriptionState {
        oid: r.get(0),
        enabled: r.get(1),
        worker: r.get(2),
    }))
}

/// Switches the subscription on.
pub(crate) async fn enable(session: &Session, name: &str) -> Result<()> {
    session
        .batch_execute(&format!("ALTER SUBSCRIPTION {} ENABLE", ident(name)))
        .await
        .doing(format!("enable the subscription {name}"))
}

/// Switches the subscription off; its worker ends a moment later.
pub(crate) async fn disable(session: &Session, name: &str) -> Result<()> {
    session
        .batch_execute(&format!("ALTER SUBSCRIPTION {} DISABLE", ident(name)))
        .await
        .doing(format!("disable the subscription {name}"))
}

/// Waits until the subscription's worker is gone: before that it may still apply a change.
pub(crate) async fn wait_for_worker_to_go(session: &Session, name: &str, within: Duration) -> Result<()> {
    let until = Instant::now() + within;
    while look(session, name).await?.is_some_and(|s| s.worker.is_some()) {
        if Instant::now() > until {
            return Err(fault(
                Kind::Timeout,
                format!("stop the subscription {name}"),
                format!("its apply worker is still there after {within:?}"),
            ));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// How long somebody else's lock is waited for.
const LOCK_WITHIN: Duration = Duration::from_secs(10);

/// The same and the time of a subscription's worker, which ends first.
const UNSUBSCRIBE_WITHIN: Duration = Duration::from_secs(30);

/// Drops the subscription if it is there, without asking the other server: its slot is dropped there by itself. A server may
/// still run a dead process's statement that drops it: ours waits for that, and fails for what is gone then. Whoever else holds it
/// is waited for, but not for ever.
pub(crate) async fn unsubscribe(session: &Session, name: &str) -> Result<()> {
    let doing = || format!("drop the subscription {name}");
    let Some(state) = look(session, name).await? else {
        return Ok(());
    };
    let [lock, all] = [LOCK_WITHIN, UNSUBSCRIBE_WITHIN].map(|within| within.as_millis());
    let bounds = format!("SET lock_timeout = {lock}; SET statement_timeout = {all}");
    session.batch_execute(&bounds).await.doing(doing())?;
    let dropped = drop_bounded(session, name).await;
    let unbound = session.batch_execute("SET lock_timeout = 0; SET statement_timeout = 0");
    let unbound = unbound.await.doing(doing());
    let Err(error) = dropped else { return unbound };
    if look(session, name).await?.is_none() {
        return unbound;
    }
    if error.code() != Some(&SqlState::LOCK_NOT_AVAILABLE) {
        return Err(error).doing(doing());
    }
    let holders = holders(session, &OF_SUBSCRIPTION, &state.oid).await.doing(doing())?;
    Err(locked(&doing(), "it", &holders))
}

/// Those on the subscription `$1`.
const OF_SUBSCRIPTION: Locks = Locks {
    which: "l.classid = 'pg_subscription'::regclass AND l.objid = $1 OR l.relation = 'pg_subscription'::regclass AND strong",
    and: "''",
};

/// Those that keep a publication from being made of one of the tables `$1`.
const OF_TABLES: Locks = Locks {
    which: "l.relation IN (SELECT to_regclass(t) FROM unnest($1::text[]) AS t) AND strong \
            AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())",
    and: "format(', which has locked %s', l.relation::regclass)",
};

/// Somebody's lock was waited for as long as it may be.
fn locked(doing: &str, what: &str, holders: &[String]) -> Error {
    let who = if holders.is_empty() {
        "somebody".to_owned()
    } else {
        holders.join("; ")
    };
    let message = format!("after {LOCK_WITHIN:?} {what} is still locked by {who}");
    fault(Kind::Timeout, doing, message)
}

async fn drop_bounded(session: &Session, name: &str) -> Result<(), tokio_postgres::Error> {
    let quoted = ident(name);
    for sql in [
        format!("ALTER SUBSCRIPTION {quoted} DISABLE"),
        format!("ALTER SUBSCRIPTION {quoted} SET (slot_name = NONE)"),
        format!("DROP SUBSCRIPTION IF EXISTS {quoted}"),
    ] {
        session.batch_execute(&sql).await?;
    }
    Ok(())
}
