//! The user's event triggers. Our sessions silence them where they may (`connect::AFTER_CONNECT`); what is left would run on what the
//! migration makes and drops, and one that writes there writes into the mirror. So it is tried, and rolled back.

use super::{Look, commands, listed, names};
use crate::error::{Doing, describe};
use bluegreen_core::{Color, Result};
use tokio_postgres::error::SqlState;

/// Those that would run in a session of ours, `$1` being whether it silences what is not ENABLE REPLICA or ALWAYS.
const LOUD: &str = "SELECT quote_ident(evtname) FROM pg_event_trigger WHERE evtevent <> 'login' \
     AND (evtenabled = 'O' AND NOT $1 OR evtenabled = 'A' OR evtenabled = 'R' AND $1) ORDER BY 1";

/// Whether a session of ours is silent altogether, and whether it passes for a replica's worker.
const SILENCED: &str =
    "SELECT current_setting('event_triggers', true) = 'off', current_setting('session_replication_role') = 'replica'";

/// What the migration makes and drops, by its kinds. `CREATE SUBSCRIPTION` is for some roles only, and stands last.
const TRY: &str = "CREATE SCHEMA bluegreen_try; CREATE TABLE bluegreen_try.t (id int PRIMARY KEY); \
     CREATE FUNCTION bluegreen_try.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; \
     CREATE TRIGGER t BEFORE INSERT ON bluegreen_try.t FOR EACH STATEMENT EXECUTE FUNCTION bluegreen_try.f(); \
     ALTER TABLE bluegreen_try.t DISABLE TRIGGER t; CREATE PUBLICATION bluegreen_try FOR TABLE bluegreen_try.t; \
     DROP PUBLICATION bluegreen_try; DROP TRIGGER t ON bluegreen_try.t; DROP SCHEMA bluegreen_try CASCADE; \
     CREATE SUBSCRIPTION bluegreen_try CONNECTION 'host=127.0.0.1 dbname=none password=none' PUBLICATION none WITH (connect = false); \
     ALTER SUBSCRIPTION bluegreen_try SET (slot_name = NONE); DROP SUBSCRIPTION bluegreen_try";

/// Failures that no event trigger is behind: somebody has a lock, or there is no room for what is made.
const NOT_THEIRS: [SqlState; 3] = [
    SqlState::LOCK_NOT_AVAILABLE,
    SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
    SqlState::CONFIGURATION_LIMIT_EXCEEDED,
];

const TRYING: &str = "try what event triggers do";

/// The tables that this transaction wrote.
const WRITTEN: &str = "SELECT format('%I.%I', schemaname, relname) FROM pg_stat_xact_user_tables \
     WHERE schemaname <> 'bluegreen_try' AND n_tup_ins + n_tup_upd + n_tup_del > 0 ORDER BY 1";

/// Those that run as somebody logs in, and write: by the text of their functions.
const AT_LOGIN: &str = "SELECT quote_ident(evtname) FROM pg_event_trigger t JOIN pg_proc p ON p.oid = t.evtfoid \
     WHERE evtevent = 'login' AND evtenabled <> 'D' AND prosrc ~* '\\m(insert|update|delete|merge|copy|truncate)\\M' ORDER BY 1";

pub(super) async fn check(look: &mut Look<'_>) -> Result<()> {
    at_login(look).await?;
    let (mut loud, mut at) = (Vec::new(), Vec::new());
    // How the session is that would run them: whether as a replica's.
    let mut as_replica = false;
    for color in [Color::Green, Color::Blue] {
        let row = look
            .side(color)
            .query_one(SILENCED, &[])
            .await
            .doing("read the settings")?;
        let (off, replica) = (row.get::<_, Option<bool>>(0) == Some(true), row.get::<_, bool>(1));
        let theirs = if off {
            Vec::new()
        } else {
            names(look.blue, LOUD, &[&replica]).await?
        };
        if !theirs.is_empty() {
            // It is tried with the one that runs the most.
            as_replica = replica && (as_replica || at.is_empty());
            at.insert(0, format!("at {color}"));
        }
        let new: Vec<String> = theirs.into_iter().filter(|name| !loud.contains(name)).collect();
        loud.extend(new);
    }
    loud.sort();
    if loud.is_empty() {
        return Ok(());
    }
    let seen = format!(
        "they run on what the migration makes {}: {}",
        at.join(" and "),
        listed("event trigger", &loud)
    );
    let mend = format!(
        "at blue, until the migration is done (and ENABLE at both sides then): {}",
        commands(loud.iter().map(|name| format!("ALTER EVENT TRIGGER {name} DISABLE;")))
    );
    match tried(look, as_replica).await? {
        Tried::Wrote(tables) => look.blocks(
            "event-triggers-write",
            format!("{seen}; tried, they wrote {}", listed("table", &tables)),
            "what they write at the side that follows is in the way of what the writer writes, or is refused there",
            mend,
        ),
        Tried::Refused(error) => look.blocks(
            "event-triggers-refuse",
            format!("{seen}; tried, it failed: {error}"),
            "the migration cannot make what it needs",
            mend,
        ),
        Tried::Nothing => look.warns(
            "event-triggers",
            seen,
            "they may do more than was seen when it was tried; and changes of the schema are not replicated",
            "see that they do no harm to the schema `bluegreen`, and change no table until the migration is done",
        ),
    }
    Ok(())
}

enum Tried {
    Wrote(Vec<String>),
    Refused(String),
    Nothing,
}

/// Tries it at blue, which has them, with the settings of the session that runs them.
async fn tried(look: &Look<'_>, as_replica: bool) -> Result<Tried> {
    let role = if as_replica { "replica" } else { "origin" };
    let sql = format!(
        "BEGIN; SET LOCAL lock_timeout = '2s'; SAVEPOINT before; \
         SELECT set_config(s, v, true) FROM (VALUES ('session_replication_role', '{role}'), ('event_triggers', 'on')) AS w (s, v) \
         WHERE current_setting(s, true) <> v; {TRY}"
    );
    let done = look.blue.batch_execute(&sql).await;
    // The counts are of what is rolled back too.
    let written = match &done {
        Ok(()) => names(look.blue, WRITTEN, &[]).await,
        Err(_) => match look.blue.batch_execute("ROLLBACK TO before").await {
            Ok(()) => names(look.blue, WRITTEN, &[]).await,
            Err(e) => Err(e).doing(TRYING),
        },
    };
    look.blue.batch_execute("ROLLBACK").await.doing(TRYING)?;
    let written = written?;
    Ok(match done {
        _ if !written.is_empty() => Tried::Wrote(written),
        Err(e) if e.code().is_some_and(|code| NOT_THEIRS.contains(code)) => return Err(e).doing(TRYING),
        // What we may not make, or set, is said by the checks of our rights.
        Err(e) if e.code() != Some(&SqlState::INSUFFICIENT_PRIVILEGE) => Tried::Refused(describe(&e)),
        _ => Tried::Nothing,
    })
}

async fn at_login(look: &mut Look<'_>) -> Result<()> {
    let triggers = names(look.blue, AT_LOGIN, &[]).await?;
    if !triggers.is_empty() {
        look.blocks(
            "login-triggers-write",
            listed("event trigger", &triggers),
            "at the side that follows, which refuses writes, nobody could log in, we neither",
            format!(
                "at blue, until the migration is done (and ENABLE at both sides then): {}",
                commands(
                    triggers
                        .iter()
                        .map(|name| format!("ALTER EVENT TRIGGER {name} DISABLE;"))
                )
            ),
        );
    }
    Ok(())
}
