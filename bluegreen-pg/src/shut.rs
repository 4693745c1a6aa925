//! The side that does not write, shut. A read-only default is only a default: a client that says `BEGIN READ WRITE`, or a driver
//! that does so for it, would write where nobody looks, or into the mirror. So every table there refuses writes by a trigger; the
//! mirror's own worker fires none. A switch in our schema opens them all at once; they are taken away with the rest of what is ours.

use crate::catalog;
use crate::connect::Session;
use crate::error::{Doing, describe};
use crate::ident::{ident, literal};
use bluegreen_core::Result;
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

/// How long a table is waited for at a time: nobody is made to queue behind us for long.
const LOCK: Duration = Duration::from_millis(50);

/// The same at the writer, whose clients would queue behind us.
const EASE_LOCK: Duration = Duration::from_millis(10);

/// How long it is tried.
const WITHIN: Duration = Duration::from_secs(10);

/// Shuts every table. Where the triggers may not be made, the read-only default has to do, and it is said.
pub(crate) async fn shut(session: &Session, migration: &str) -> Result<()> {
    let mut sql = String::from(FUNCTION);
    for table in catalog::lockable(session).await? {
        sql.push_str(&format!(
            "; CREATE OR REPLACE TRIGGER {} BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON {table} \
             FOR EACH STATEMENT EXECUTE FUNCTION bluegreen.refuse({})",
            ident(&trigger(migration)),
            literal(migration)
        ));
    }
    let switch = literal(migration);
    sql.push_str(&format!(
        "; UPDATE bluegreen.state SET shut = true WHERE migration = {switch}"
    ));
    match patiently(session, &sql).await {
        Err(e)
            if [
                Some(&SqlState::INSUFFICIENT_PRIVILEGE),
                Some(&SqlState::UNDEFINED_OBJECT),
            ]
            .contains(&e.code()) =>
        {
            tracing::warn!(migration, error = %describe(&e), "the tables of the side that does not write are not shut: a client \
                 that sets its own transactions to read-write could write there");
            Ok(())
        }
        done => done.doing("shut the tables of the side that does not write"),
    }
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

/// Takes the triggers away, a table at a time: the database may be in use again.
pub(crate) async fn take_away(session: &Session, migration: &str) -> Result<()> {
    let doing = "take the triggers away that shut the tables";
    for table in with_trigger(session, migration).await.doing(doing)? {
        let sql = format!("DROP TRIGGER IF EXISTS {} ON {table}", ident(&trigger(migration)));
        patiently(session, &sql).await.doing(doing)?;
    }
    Ok(())
}

/// One transaction that waits for no lock for long, tried again for a while.
async fn patiently(session: &Session, sql: &str) -> Result<(), tokio_postgres::Error> {
    let until = Instant::now() + WITHIN;
    loop {
        let whole = format!("BEGIN; SET LOCAL lock_timeout = {}; {sql}; COMMIT", LOCK.as_millis());
        let Err(error) = session.batch_execute(&whole).await else {
            return Ok(());
        };
        session.batch_execute("ROLLBACK").await?;
        if error.code() != Some(&SqlState::LOCK_NOT_AVAILABLE) || Instant::now() > until {
            return Err(error);
        }
        tokio::time::sleep(LOCK).await;
    }
}
