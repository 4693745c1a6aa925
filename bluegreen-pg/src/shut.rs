//! The old writer, shut for good. A read-only default is only a default: a client that says `BEGIN READ WRITE` would write
//! where nobody looks any more. So, once the pause is over, every table there refuses writes by a trigger; the mirror's own
//! worker fires none. A switch in our schema opens them all at once; they are taken away with the rest of what is ours.

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

/// The function behind it. It runs as us: the application may not be able to look into our schema.
const FUNCTION: &str = "CREATE OR REPLACE FUNCTION bluegreen.refuse() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
 SET search_path = '' AS $$ BEGIN
   IF EXISTS (SELECT FROM bluegreen.state WHERE migration = TG_ARGV[0] AND shut) THEN
     RAISE EXCEPTION 'cannot write into %.%: this database is not the writer any more', TG_TABLE_SCHEMA, TG_TABLE_NAME
       USING ERRCODE = 'read_only_sql_transaction',
             DETAIL = 'The migration ' || TG_ARGV[0] || ' has moved the writing to another database, which this one follows.';
   END IF;
   RETURN NULL;
 END $$";

/// How long a table is waited for at a time: nobody is made to queue behind us for long.
const LOCK: Duration = Duration::from_millis(50);

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
            tracing::warn!(migration, error = %describe(&e), "the old writer's tables are not shut: a client that sets its own \
                 transactions to read-write could write there");
            Ok(())
        }
        done => done.doing("shut the old writer's tables"),
    }
}

/// Takes the triggers away, a table at a time: the database may be in use again.
pub(crate) async fn take_away(session: &Session, migration: &str) -> Result<()> {
    let doing = "take the triggers away that shut the tables";
    let trigger = trigger(migration);
    let rows = session
        .query(
            "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid \
             JOIN pg_namespace n ON n.oid = c.relnamespace WHERE t.tgname = $1",
            &[&trigger],
        )
        .await
        .doing(doing)?;
    for row in rows {
        let table: &str = row.get(0);
        let sql = format!("DROP TRIGGER IF EXISTS {} ON {table}", ident(&trigger));
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
