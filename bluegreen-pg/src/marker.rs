//! The `bluegreen` schema on both sides: the marker whose arrival proves, what was made by us, and how far we got.

use crate::connect::Session;
use crate::error::{Doing, fault};
use crate::ident::literal;
use crate::identity::Both;
use bluegreen_core::{Kind, Result};
use tokio_postgres::error::SqlState;
use tokio_postgres::{GenericClient, Row};

/// The mirrored marker. Only the writer's side is ever updated; the row travels.
pub(crate) const MARKER: &str = "bluegreen.marker";

/// Who makes or takes away the schema does it alone: migrations of one database share it, and a process may be dead while the
/// server still runs what it said last.
const ALONE: &str = "SELECT pg_advisory_xact_lock(hashtextextended('bluegreen', 0));";

/// A process that hangs with that lock loses it.
const NOT_FOR_LONG: &str = "SET LOCAL idle_in_transaction_session_timeout = '5s';";

/// Somebody's lock on our tables may last for hours, as a `pg_dump`'s: who waits for it has the others of ours wait, and stays queued
/// at the server when his process ends.
const NO_LONG_WAIT: &str = "SET LOCAL lock_timeout = '10s';";

/// Each with a key: a publication of all tables, whoever made it, has the server refuse to delete rows of a table without one.
const SETUP: &str = "
CREATE SCHEMA IF NOT EXISTS bluegreen;
CREATE TABLE IF NOT EXISTS bluegreen.marker (
    migration text PRIMARY KEY, token bigint NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS bluegreen.state (
    migration text PRIMARY KEY, stage text NOT NULL, opened_at timestamptz, proof bigint NOT NULL DEFAULT 0,
    shut boolean NOT NULL DEFAULT false, gave_up text, blue text, green text);
CREATE TABLE IF NOT EXISTS bluegreen.made (
    migration text NOT NULL, ordinal bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, kind text NOT NULL, identity text NOT NULL);
CREATE TABLE IF NOT EXISTS bluegreen.mirrored (mirror text PRIMARY KEY, migration text NOT NULL, tables text NOT NULL);
CREATE TABLE IF NOT EXISTS bluegreen.otherwise (
    ordinal bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, migration text NOT NULL, object text NOT NULL, one text NOT NULL, other text NOT NULL);
CREATE TABLE IF NOT EXISTS bluegreen.columns (
    migration text, relation oid, number int2, name text NOT NULL, PRIMARY KEY (migration, relation, number));
CREATE TABLE IF NOT EXISTS bluegreen.copied (
    migration text NOT NULL, step int NOT NULL, PRIMARY KEY (migration, step));
";

/// Whether the schema is ours: an application may have one of that name, with a table `state` in it, too.
const IS_OURS: &str = "SELECT count(*) = 4 FROM pg_attribute WHERE attrelid = to_regclass('bluegreen.state') \
     AND attname IN ('migration', 'stage', 'proof', 'shut') AND NOT attisdropped";

/// Our tables in it, each with a migration's rows.
const TABLES: [&str; 8] = [
    "marker",
    "made",
    "mirrored",
    "otherwise",
    "columns",
    "copied",
    "compared",
    "state",
];

/// Their names.
fn our_tables() -> Vec<String> {
    TABLES.iter().map(|table| format!("bluegreen.{table}")).collect()
}

/// What takes away all of ours in it. Nothing but triggers that refuse for nobody any more can depend on the function.
fn drop_ours() -> String {
    let tables = our_tables().join(", ");
    format!("DROP FUNCTION IF EXISTS bluegreen.refuse() CASCADE; DROP TABLE IF EXISTS {tables}")
}

/// What is in the schema and is not ours: its kind and its name. A column's sequence goes with its table, and an extension is one thing.
const STRANGERS: &str = "
    SELECT DISTINCT i.type, i.identity FROM pg_depend d
        LEFT JOIN pg_depend e ON e.classid = d.classid AND e.objid = d.objid AND e.deptype = 'e',
        LATERAL pg_identify_object(coalesce(e.refclassid, d.classid), coalesce(e.refobjid, d.objid), 0) AS i
    WHERE d.refclassid = 'pg_namespace'::regclass AND d.refobjid = to_regnamespace('bluegreen') AND d.deptype = 'n'
    AND NOT EXISTS (SELECT FROM pg_depend o WHERE o.classid = 'pg_class'::regclass AND o.classid = d.classid AND o.objid = d.objid
        AND o.deptype IN ('a', 'i') AND o.refclassid = o.classid AND o.refobjsubid > 0)
    AND i.identity IS NOT NULL AND NOT ($1 AND (i.identity = ANY ($2) OR i.identity = 'bluegreen.refuse()'))
    ORDER BY 1, 2";

/// Somebody else's thing in our schema, or in theirs of the same name.
#[derive(Debug, Clone)]
pub(crate) struct Stranger {
    pub(crate) kind: String,
    pub(crate) name: String,
}

impl std::fmt::Display for Stranger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

/// What there is in a schema `bluegreen` that we did not make, and whether the schema is ours.
pub(crate) async fn strangers(client: &impl GenericClient) -> Result<(Vec<Stranger>, bool)> {
    let ours = is_set_up(client).await?;
    let rows = client
        .query(STRANGERS, &[&ours, &our_tables()])
        .await
        .doing("look into the schema bluegreen")?;
    let stranger = |row: &Row| Stranger {
        kind: row.get(0),
        name: row.get(1),
    };
    Ok((rows.iter().map(stranger).collect(), ours))
}

/// How far a side got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Nothing of ours is there.
    Unknown,
    /// The first copy's origin: it has rows of its own.
    Origin,
    /// The first copy began and is not known to have ended.
    Copying,
    /// The first copy is complete and its subscription exists.
    Ready,
}

/// Makes our schema and this migration's rows in it. Where a copy begins, nothing that is there is of it: what an earlier try left, of
/// which a human took away the rest, goes. The origin's rows stay as they are.
pub(crate) async fn set_up(session: &Session, migration: &str, stage: Stage, both: &Both) -> Result<()> {
    let doing = "make the schema bluegreen";
    if let (theirs, false) = strangers(&**session).await?
        && let Some(first) = theirs.first()
    {
        return Err(fault(
            Kind::Conflict,
            doing,
            format!(
                "there is one that is not ours, with {} things in it; first: {first}. Have it by another name: ALTER SCHEMA \
                 bluegreen RENAME TO its_bluegreen",
                theirs.len()
            ),
        ));
    }
    let mut forget = String::new();
    if stage == Stage::Copying {
        // A comparison makes this one when it begins.
        let compared = has_table(session, "compared").await.doing(doing)?;
        for table in TABLES.iter().filter(|table| compared || **table != "compared") {
            forget.push_str(&format!(
                "DELETE FROM bluegreen.{table} WHERE migration = {}; ",
                literal(migration)
            ));
        }
    }
    // All at once: with the last migration's rows the schema goes too.
    let sql = format!(
        "{NO_LONG_WAIT} {ALONE} {SETUP} {forget}INSERT INTO bluegreen.marker (migration) VALUES ({name}) ON CONFLICT DO NOTHING; \
         INSERT INTO bluegreen.state (migration, stage, blue, green) VALUES ({name}, {}, {}, {}) ON CONFLICT DO NOTHING",
        literal(stage.word()),
        literal(&both.blue.to_string()),
        literal(&both.green.to_string()),
        name = literal(migration),
    );
    session.batch_execute(&sql).await.doing(doing)
}

/// Whether our schema has the table.
async fn has_table(session: &Session, table: &str) -> Result<bool, tokio_postgres::Error> {
    let sql = "SELECT to_regclass($1) IS NOT NULL";
    let there = session.query_one(sql, &[&format!("bluegreen.{table}")]).await?;
    Ok(there.get(0))
}

impl Stage {
    fn word(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Origin => "origin",
            Self::Copying => "copying",
            Self::Ready => "ready",
        }
    }
}

/// Whether our schema is there at all.
pub(crate) async fn is_set_up(client: &impl GenericClient) -> Result<bool> {
    let row = client
        .query_one(IS_OURS, &[])
        .await
        .doing("look for the schema bluegreen")?;
    Ok(row.get(0))
}

/// This migration's row, if there is one; the schema may be taken away meanwhile.
async fn row(session: &Session, columns: &str, migration: &str, doing: &str) -> Result<Option<Row>> {
    if !is_set_up(&**session).await? {
        return Ok(None);
    }
    let sql = format!("SELECT {columns} FROM bluegreen.state WHERE migration = $1");
    match session.query_opt(&sql, &[&migration]).await {
        Err(e) if e.code() == Some(&SqlState::UNDEFINED_TABLE) => Ok(None),
        row => row.doing(doing),
    }
}

/// How far this side got.
pub(crate) async fn stage(session: &Session, migration: &str) -> Result<Stage> {
    let row = row(session, "stage", migration, "read how far the migration got").await?;
    Ok(match row.as_ref().map(|r| r.get::<_, &str>(0)) {
        Some("origin") => Stage::Origin,
        Some("copying") => Stage::Copying,
        Some("ready") => Stage::Ready,
        _ => Stage::Unknown,
    })
}

/// Records how far this side got.
pub(crate) async fn set_stage(client: &impl GenericClient, migration: &str, stage: Stage) -> Result<()> {
    client
        .execute(
            "UPDATE bluegreen.state SET stage = $2 WHERE migration = $1",
            &[&migration, &stage.word()],
        )
        .await
        .doing("record how far the migration got")?;
    Ok(())
}

/// Who blue and green were when the migration began, as it was recorded here.
pub(crate) async fn identities(session: &Session, migration: &str) -> Result<Option<(Option<String>, Option<String>)>> {
    let row = row(session, "blue, green", migration, "read what the migration began with").await?;
    Ok(row.map(|r| (r.get(0), r.get(1))))
}

/// Records why the mirror from here was given up.
pub(crate) async fn give_up(session: &Session, migration: &str, why: &str) -> Result<()> {
    session
        .execute(
            "UPDATE bluegreen.state SET gave_up = $2 WHERE migration = $1",
            &[&migration, &why],
        )
        .await
        .doing("record why the mirror is given up")?;
    Ok(())
}

/// Why the mirror from here was given up, if it was.
pub(crate) async fn gave_up(session: &Session, migration: &str) -> Result<Option<String>> {
    let row = row(session, "gave_up", migration, "read whether the mirror was given up").await?;
    Ok(row.and_then(|r| r.get(0)))
}

/// The statement that moves the marker on. It returns the token and a point in the log before the marker's commit and
/// after every commit before it: other databases' records may follow, so a later point could be one the follower's
/// origin never reaches.
pub(crate) const MOVE: &str = "UPDATE bluegreen.marker SET token = token + 1 WHERE migration = $1 \
     RETURNING token, pg_current_wal_insert_lsn()::text, clock_timestamp()::text";

/// The token that has arrived.
pub(crate) const ARRIVED: &str = "SELECT token FROM bluegreen.marker WHERE migration = $1";

/// Whether token `$2` has arrived in migration `$1`, and origin `$3` is durably at or after the log position `$4`.
pub(crate) const PROOF: &str = "SELECT CASE WHEN token >= $2 \
     THEN coalesce(pg_replication_origin_progress($3, true) >= $4::text::pg_lsn, false) ELSE false END \
     FROM bluegreen.marker WHERE migration = $1";

/// The same where the origin may not be looked at: a commit of our own, flushed, makes all that came before it durable.
pub(crate) const OWN_COMMIT: &str = "UPDATE bluegreen.state SET proof = $2 WHERE migration = $1";

/// A commit of our own that changes nothing.
pub(crate) const TOUCH: &str = "UPDATE bluegreen.state SET proof = proof WHERE migration = $1";

/// Takes away this migration's rows, and all of ours with the last of them. What is not ours stays, and the schema with it.
pub(crate) async fn take_away(session: &Session, migration: &str) -> Result<()> {
    let doing = "drop the schema bluegreen";
    session
        .batch_execute(&format!(
            "BEGIN ISOLATION LEVEL READ COMMITTED; {NOT_FOR_LONG} {NO_LONG_WAIT} {ALONE}"
        ))
        .await
        .doing(doing)?;
    let taken = take_away_alone(session, migration, doing).await;
    let end = if taken.is_ok() { "COMMIT" } else { "ROLLBACK" };
    taken.and(session.batch_execute(end).await.doing(doing))
}

async fn take_away_alone(session: &Session, migration: &str, doing: &str) -> Result<()> {
    if !is_set_up(&**session).await? {
        return Ok(());
    }
    for table in TABLES {
        if has_table(session, table).await.doing(doing)? {
            let sql = format!("DELETE FROM bluegreen.{table} WHERE migration = $1");
            session.execute(&sql, &[&migration]).await.doing(doing)?;
        }
    }
    let others = session.query_one("SELECT count(*) FROM bluegreen.state", &[]).await;
    if others.doing(doing)?.get::<_, i64>(0) > 0 {
        return Ok(());
    }
    session.batch_execute(&drop_ours()).await.doing(doing)?;
    let (theirs, _) = strangers(&**session).await?;
    if let Some(first) = theirs.first() {
        tracing::warn!(things = theirs.len(), %first, "the schema bluegreen stays: somebody else has made things in it");
        return Ok(());
    }
    session.batch_execute("DROP SCHEMA bluegreen").await.doing(doing)
}
