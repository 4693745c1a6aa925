//! The schema of a journal's database: made by whoever opens the first journal in it, and known by its version.

use super::answer::Doing;
use crate::connect::Session;
use crate::error::fault;
use bluegreen_core::{Kind, Result};

/// What this version writes. A change of the tables raises it, and reads what was there before.
const VERSION: i32 = 1;

const MAKE: &str = "
BEGIN;
SELECT pg_advisory_xact_lock(hashtextextended('bluegreen_journal', 0));
DO $$ BEGIN
    -- IF NOT EXISTS asks for a right on the database even where there is one.
    IF to_regnamespace('bluegreen_journal') IS NULL THEN CREATE SCHEMA bluegreen_journal; END IF;
END $$;
CREATE TABLE IF NOT EXISTS bluegreen_journal.format (
    one boolean PRIMARY KEY DEFAULT true CHECK (one), version integer NOT NULL);
CREATE TABLE IF NOT EXISTS bluegreen_journal.entry (
    migration text NOT NULL, seq bigint NOT NULL CHECK (seq >= 0), line text NOT NULL, holder text NOT NULL,
    written_at timestamptz NOT NULL DEFAULT clock_timestamp(), PRIMARY KEY (migration, seq));
CREATE TABLE IF NOT EXISTS bluegreen_journal.lease (
    migration text PRIMARY KEY, token bigint NOT NULL, holder text, process text NOT NULL,
    taken_at timestamptz NOT NULL DEFAULT clock_timestamp(), expires_at timestamptz NOT NULL);
CREATE TABLE IF NOT EXISTS bluegreen_journal.request (
    migration text NOT NULL, ordinal bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, signal text NOT NULL,
    asked_at timestamptz NOT NULL DEFAULT clock_timestamp());
INSERT INTO bluegreen_journal.format (version) VALUES (1) ON CONFLICT DO NOTHING;
COMMIT;
";

/// Whether there is a journal's schema that this version knows.
pub(super) async fn is_there(session: &Session) -> Result<bool> {
    let doing = "look for the journal's schema";
    let row = session
        .query_one("SELECT to_regclass('bluegreen_journal.format') IS NOT NULL", &[])
        .await
        .doing(doing)?;
    if !row.get::<_, bool>(0) {
        return Ok(false);
    }
    let row = session
        .query_opt("SELECT version FROM bluegreen_journal.format", &[])
        .await
        .doing(doing)?;
    match row.map(|r| r.get::<_, i32>(0)) {
        Some(VERSION) => Ok(true),
        Some(other) => Err(fault(
            Kind::Unsupported,
            doing,
            format!(
                "the schema bluegreen_journal is of version {other}, and this version knows {VERSION}: go on with the version \
                 of bluegreen that made it, or a newer one"
            ),
        )),
        None => Err(fault(
            Kind::Corrupt,
            doing,
            "bluegreen_journal.format is empty: restore the journal's database from a copy; nothing was touched",
        )),
    }
}

/// Makes the schema where there is none. A database that is itself being moved is refused.
pub(super) async fn make(session: &Session) -> Result<()> {
    let doing = "make the journal's schema";
    let mirrored: bool = session
        .query_one("SELECT to_regclass('bluegreen.state') IS NOT NULL", &[])
        .await
        .doing(doing)?
        .get(0);
    if mirrored {
        return Err(fault(
            Kind::InvalidInput,
            doing,
            "this database is blue's or green's of a migration (it has a schema bluegreen): a journal there would be fenced, \
             mirrored and lost with what it is to bring back; keep it in another database, best on another server",
        ));
    }
    if is_there(session).await? {
        return Ok(());
    }
    if let Err(e) = session.batch_execute(MAKE).await {
        // The session may go on to be used: it must not stay in a failed transaction.
        if !session.is_closed() {
            session.batch_execute("ROLLBACK").await.doing(doing)?;
        }
        return Err(e).doing(doing);
    }
    // Somebody else's may have been faster.
    is_there(session).await.map(|_| ())
}
