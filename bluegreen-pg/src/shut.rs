//! The side that does not write, shut. A read-only default is only a default: a client that says `BEGIN READ WRITE`, or a driver
//! that does so for it, would write where nobody looks, or into the mirror. So every table there refuses writes by a trigger; the
//! mirror's own worker fires none. A switch in our schema opens them all at once; they are taken away with the rest of what is ours.

use crate::catalog;
use crate::connect::Session;
use crate::error::{Doing, describe, fault};
use crate::holders::{Locks, holders};
use crate::ident::{Relation, ident, literal};
use bluegreen_core::{Kind, Result};
use std::time::{Duration, Instant};
use tokio_postgres::error::SqlState;

/// The name of a migration's triggers.
pub(crate) fn trigger(migration: &str) -> String {
    format!("bluegreen_{migration}_shut")
}

/// What a human sets to `on` in a session that mends a row there by hand.
pub(crate) const MEND: &str = "bluegreen.mend";

/// The function behind it. It runs as us: the application may not be able to look into our schema.
const FUNCTION: &str = "CREATE OR REPLACE FUNCTION bluegreen.refuse() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
 SET search_path = '' AS $$ BEGIN
   IF current_setting('bluegreen.mend', true) IS DISTINCT FROM 'on'
      AND EXISTS (SELECT FROM bluegreen.state WHERE migration = TG_ARGV[0] AND shut) THEN
     RAISE EXCEPTION 'cannot write into %.%: this database is not the writer', TG_TABLE_SCHEMA, TG_TABLE_NAME
       USING ERRCODE = 'read_only_sql_transaction',
             DETAIL = 'In the migration ' || TG_ARGV[0] || ' another database is the writer, which this one follows.';
   END IF;
   RETURN NULL;
 END $$";

/// How long a lock that keeps others out is waited for at a time: nobody is made to queue behind us for long.
const LOCK: Duration = Duration::from_millis(50);

/// The same at the writer, whose clients would queue behind us.
const EASE_LOCK: Duration = Duration::from_millis(10);

/// The same once the time is up.
const LATE_LOCK: Duration = Duration::from_millis(5);

/// How long it is tried, where nobody waits for it.
pub(crate) const WITHIN: Duration = Duration::from_secs(10);

/// How long an autovacuum may take to go once the server has told it to.
const YIELDS_WITHIN: Duration = Duration::from_secs(1);

/// Shuts every table that can be had within that time, and those that are free after it; the others are named in a warning, and the
/// read-only default has to do for them, as where the triggers may not be made: a vacuum against wraparound never yields, and
/// neither a copy nor an opening may fail for it.
pub(crate) async fn shut(session: &Session, migration: &str, within: Duration) -> Result<()> {
    let doing = "shut the tables of the side that does not write";
    let until = Instant::now() + within;
    let waits = Waits::of(session).await?;
    let switch = format!(
        "{FUNCTION}; UPDATE bluegreen.state SET shut = true WHERE migration = {}",
        literal(migration)
    );
    if let Some(error) = once(session, &waits, waits.until(until), &switch).await.doing(doing)? {
        let may_not = [SqlState::INSUFFICIENT_PRIVILEGE, SqlState::UNDEFINED_OBJECT];
        if !error.code().is_some_and(|code| may_not.contains(code)) {
            return Err(error).doing(doing);
        }
        not_shut(migration, "all", &error);
        return Ok(());
    }
    let tables = catalog::lockable(session).await?;
    let triggers: Vec<String> = tables.iter().map(|table| refusing(table, migration)).collect();
    // A wait for this lock holds up nobody but who writes, and nobody is to write here. All at once is one commit.
    let at_once = once(session, &waits, waits.until(until), &triggers.join("; ")).await;
    if at_once.doing(doing)?.is_none() {
        return Ok(());
    }
    for (table, sql) in tables.iter().zip(&triggers) {
        match once(session, &waits, waits.until(until), sql).await.doing(doing)? {
            Some(error) if error.code() != Some(&SqlState::UNDEFINED_TABLE) => {
                not_shut(migration, &table.to_string(), &error);
            }
            _ => {}
        }
    }
    Ok(())
}

fn refusing(table: &Relation, migration: &str) -> String {
    format!(
        "CREATE OR REPLACE TRIGGER {} BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON {table} \
         FOR EACH STATEMENT EXECUTE FUNCTION bluegreen.refuse({})",
        ident(&trigger(migration)),
        literal(migration)
    )
}

fn not_shut(migration: &str, table: &str, error: &tokio_postgres::Error) {
    tracing::warn!(migration, table, error = %describe(error), "a table of the side that does not write is not shut: a client that \
         sets its own transactions to read-write could write there");
}

/// At the new writer, which is open: no statement is to pass through a trigger that lets everything through. Where a table is
/// in use for long it does all the same.
pub(crate) async fn ease(session: &Session, migration: &str) -> Result<()> {
    let doing = "switch the triggers off that shut the tables";
    for table in with_trigger(session, migration).await.doing(doing)? {
        let sql = format!(
            "ALTER TABLE ONLY {table} DISABLE TRIGGER {}",
            ident(&trigger(migration))
        );
        let sql = format!(
            "BEGIN; SET LOCAL lock_timeout = {}; {sql}; COMMIT",
            EASE_LOCK.as_millis()
        );
        if let Err(error) = session.batch_execute(&sql).await {
            session.batch_execute("ROLLBACK").await.doing(doing)?;
            tracing::debug!(error = %describe(&error), table, "its trigger stays on");
        }
    }
    Ok(())
}

/// The tables that have it.
async fn with_trigger(session: &Session, migration: &str) -> Result<Vec<String>, tokio_postgres::Error> {
    let rows = session
        .query(
            "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid \
             JOIN pg_namespace n ON n.oid = c.relnamespace WHERE t.tgname = $1",
            &[&trigger(migration)],
        )
        .await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Takes the triggers away, a table at a time: the database may be in use again. Tables that are in use for long keep theirs.
///
/// # Errors
/// `Timeout` with the tables that keep theirs, and who uses them.
pub(crate) async fn take_away(session: &Session, migration: &str) -> Result<()> {
    let doing = "take the triggers away that shut the tables";
    let until = Instant::now() + WITHIN;
    let waits = Waits::of(session).await?;
    let mut in_use = Vec::new();
    // Who waits for this lock keeps nobody from reading or writing, and an autovacuum that has it goes; the one that drops the
    // trigger keeps everybody out.
    let mut beside = true;
    for table in with_trigger(session, migration).await.doing(doing)? {
        loop {
            let drop = format!("DROP TRIGGER IF EXISTS {} ON {table}", ident(&trigger(migration)));
            let (wait, sql) = if beside {
                let sql = format!(
                    "LOCK TABLE ONLY {table} IN SHARE UPDATE EXCLUSIVE MODE; SET LOCAL lock_timeout = {}; {drop}",
                    LOCK.as_millis()
                );
                (waits.until(until), sql)
            } else {
                (LOCK, drop)
            };
            let Some(error) = once(session, &waits, wait, &sql).await.doing(doing)? else {
                break;
            };
            match error.code() {
                Some(&SqlState::UNDEFINED_TABLE) => break,
                // An owner may have taken it from himself, and can drop the trigger all the same.
                Some(&SqlState::INSUFFICIENT_PRIVILEGE) if beside => beside = false,
                Some(&SqlState::LOCK_NOT_AVAILABLE | &SqlState::T_R_DEADLOCK_DETECTED) => {
                    if Instant::now() > until {
                        in_use.push(who_uses(session, &table).await.doing(doing)?);
                        break;
                    }
                    tokio::time::sleep(LOCK).await;
                }
                _ => return Err(error).doing(doing),
            }
        }
    }
    if in_use.is_empty() {
        return Ok(());
    }
    let why = format!(
        "tables are in use, and keep theirs until this is done again: {}",
        in_use.join("; ")
    );
    Err(fault(Kind::Timeout, doing, why))
}

/// Those on the table `$1`.
const OF_TABLE: Locks = Locks {
    which: "l.relation = to_regclass($1) AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())",
    and: "format(', with %s', l.mode)",
};

/// A table, and whose locks are on it.
async fn who_uses(session: &Session, table: &str) -> Result<String, tokio_postgres::Error> {
    let who = holders(session, &OF_TABLE, &table).await?;
    Ok(match who.as_slice() {
        [] => format!("{table} (by nobody now)"),
        who => format!("{table} ({})", who.join("; ")),
    })
}

/// How long a lock is waited for that an autovacuum may have.
struct Waits {
    /// Has the server look at once whether an autovacuum is in the way; it ends one only then.
    hurry: &'static str,
    /// The server's own time until that look, and what the autovacuum takes to go.
    autovacuum: Duration,
}

impl Waits {
    async fn of(session: &Session) -> Result<Self> {
        let looks_after = session
            .query_one(
                "SELECT setting::bigint FROM pg_settings WHERE name = 'deadlock_timeout'",
                &[],
            )
            .await
            .doing("read the server's settings")?;
        let looks_after = u64::try_from(looks_after.get::<_, i64>(0)).unwrap_or(0);
        Ok(Self {
            hurry: catalog::hurry(&**session).await?,
            autovacuum: Duration::from_millis(looks_after) + YIELDS_WITHIN,
        })
    }

    /// As long as it takes for an autovacuum to yield, and what is left until then.
    fn until(&self, until: Instant) -> Duration {
        let left = until.saturating_duration_since(Instant::now());
        self.autovacuum.min(left).max(LATE_LOCK)
    }
}

/// One transaction that waits for no lock longer than that; what the server has against it. An error is that of the session.
async fn once(
    session: &Session,
    waits: &Waits,
    wait: Duration,
    sql: &str,
) -> Result<Option<tokio_postgres::Error>, tokio_postgres::Error> {
    let whole = format!(
        "BEGIN; {}SET LOCAL lock_timeout = {}; {sql}; COMMIT",
        waits.hurry,
        wait.as_millis()
    );
    let Err(error) = session.batch_execute(&whole).await else {
        return Ok(None);
    };
    session.batch_execute("ROLLBACK").await?;
    Ok(Some(error))
}
