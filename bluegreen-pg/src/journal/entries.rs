//! Appending and reading over a session that may break: an append whose answer was lost is settled before anything else.

use super::answer::{ANSWER, Answered, Doing, timely};
use super::lease::Lease;
use crate::connect::Session;
use crate::error::{PgError, fault};
use bluegreen_core::{Entry, Error, Kind, Result};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_postgres::Statement;
use tokio_postgres::error::{Severity, SqlState};
use tokio_postgres::types::ToSql;

/// The lease's row first: it is locked until the entry is durable, so that a new token waits for what is on its way.
/// Durable whatever session a pooler gives us: what was set for the whole of one says nothing of the next.
const APPEND: &str = "WITH durable AS MATERIALIZED (SELECT count(set_config('synchronous_commit', 'on', true)) AS set \
     WHERE current_setting('synchronous_commit') NOT IN ('on', 'remote_apply')), \
     mine AS (UPDATE bluegreen_journal.lease \
     SET expires_at = clock_timestamp() + $6::bigint * interval '1 millisecond' FROM durable \
     WHERE migration = $1 AND holder = $2 AND token = $3 AND durable.set >= 0 RETURNING migration) \
     INSERT INTO bluegreen_journal.entry (migration, seq, line, holder) SELECT migration, $4::bigint, $5, $2 FROM mine \
     WHERE $4 = (SELECT coalesce(max(e.seq) + 1, 0) FROM bluegreen_journal.entry e WHERE e.migration = $1)";

const WHY_NOT: &str = "SELECT EXISTS (SELECT FROM bluegreen_journal.lease WHERE migration = $1 AND holder = $2), \
     EXISTS (SELECT FROM bluegreen_journal.lease WHERE migration = $1 AND holder = $2 AND token = $3), \
     (SELECT coalesce(max(seq) + 1, 0) FROM bluegreen_journal.entry WHERE migration = $1)";

const IS_OURS: &str = "SELECT holder = $3 AND line = $4 FROM bluegreen_journal.entry WHERE migration = $1 AND seq = $2";

pub(super) const LOAD: &str = "SELECT line FROM bluegreen_journal.entry WHERE migration = $1 ORDER BY seq";

const WRITING: &str = "write the journal";

/// The session of appends and reads.
#[derive(Debug)]
pub(super) struct Link {
    lease: Arc<Lease>,
    /// How long a server that is out of reach is waited for.
    patience: Duration,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    session: Session,
    append: Statement,
    token: i64,
    /// Something was sent and no answer was seen: it may still be on its way.
    unanswered: bool,
}

/// What an attempt came to.
enum Attempt {
    /// It is decided.
    Decided(Result<()>),
    /// The session broke.
    Broken(Error),
}

impl Link {
    pub(super) async fn new(lease: Arc<Lease>, patience: Duration, session: Session, token: i64) -> Result<Self> {
        let append = session.prepare(APPEND).await.doing(WRITING)?;
        let open = Some(Open {
            session,
            append,
            token,
            unanswered: false,
        });
        Ok(Self { lease, patience, open })
    }

    /// See `Journal::append`.
    pub(super) async fn append(&mut self, entry: &Entry) -> Result<()> {
        let line = entry.to_line()?;
        let seq = i64::try_from(entry.seq)
            .map_err(|e| fault(Kind::InvalidInput, WRITING, format!("entry {}: {e}", entry.seq)))?;
        let until = Instant::now() + self.patience;
        let mut sent = false;
        loop {
            let error = match self.attempt(seq, &line, &mut sent).await {
                Attempt::Decided(answer) => return answer,
                Attempt::Broken(error) => error,
            };
            tracing::warn!(journal = %self.lease.place, seq, "the journal could not be written, tried again: {error}");
            if Instant::now() >= until || !error.is_transient() {
                return Err(if sent { unknown(seq, &error) } else { error });
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn attempt(&mut self, seq: i64, line: &str, sent: &mut bool) -> Attempt {
        let migration = self.lease.place.migration.clone();
        let lease = Arc::clone(&self.lease);
        let (open, ours) = match timely(self.ready(), "settle what was written before").await {
            Ok(ready) => ready,
            Err(e) => return Attempt::Broken(e),
        };
        if *sent {
            // Nothing sent before can still arrive: what stands there now is what became of it.
            let params: [&(dyn ToSql + Sync); 4] = [&migration, &seq, &lease.holder, &line];
            let look = open.session.query_opt(IS_OURS, &params);
            match timely(look, "see what became of an entry").await {
                Ok(Some(row)) if row.get(0) => return Attempt::Decided(Ok(())),
                Ok(_) => {}
                Err(e) => return Attempt::Broken(e),
            }
        }
        if !ours {
            return Attempt::Decided(Err(lease.lost()));
        }
        let asking = lease.asking();
        let length = asking.millis();
        (*sent, open.unanswered) = (true, true);
        let params: [&(dyn ToSql + Sync); 6] = [&migration, &lease.holder, &open.token, &seq, &line, &length];
        let answer = tokio::time::timeout(ANSWER, open.session.execute(&open.append, &params)).await;
        match answer {
            Ok(Ok(1)) => {
                open.unanswered = false;
                lease.renewed(asking);
                Attempt::Decided(Ok(()))
            }
            Ok(Ok(_)) => {
                open.unanswered = false;
                let asked: [&(dyn ToSql + Sync); 3] = [&migration, &lease.holder, &open.token];
                match timely(open.session.query_one(WHY_NOT, &asked), WRITING).await {
                    Ok(row) if !row.get::<_, bool>(0) => Attempt::Decided(Err(lease.lost())),
                    Ok(row) if !row.get::<_, bool>(1) => {
                        // A token that we raised over an earlier session has come late: ours, but not this session's.
                        (*sent, open.unanswered) = (false, true);
                        let message = "an earlier question of this runner came late: the session is taken anew";
                        Attempt::Broken(fault(Kind::Unavailable, WRITING, message))
                    }
                    Ok(row) => Attempt::Decided(Err(not_next(seq, row.get(2)))),
                    Err(e) => Attempt::Decided(Err(e)),
                }
            }
            Ok(Err(e)) if e.code() == Some(&SqlState::UNIQUE_VIOLATION) => {
                open.unanswered = false;
                Attempt::Decided(Err(not_next(seq, seq + 1)))
            }
            Ok(Err(e)) => {
                // The server undid the statement before it said so, except where it ends the session with it.
                let undone = e
                    .as_db_error()
                    .is_some_and(|db| db.parsed_severity() == Some(Severity::Error));
                let elsewhere = e.code() == Some(&SqlState::READ_ONLY_SQL_TRANSACTION);
                // After a failover the server that takes writes may be another one behind the same name.
                open.unanswered = !undone || elsewhere;
                let error = e.while_doing(WRITING);
                if undone {
                    Attempt::Decided(Err(error))
                } else {
                    Attempt::Broken(error)
                }
            }
            Err(_) => Attempt::Broken(PgError::Elapsed(ANSWER).while_doing(WRITING)),
        }
    }

    /// A session over which nothing is on its way any more, and whether the lease is still ours.
    async fn ready(&mut self) -> Result<(&mut Open, bool)> {
        let usable = self.open.take().filter(|o| !o.session.is_closed() && !o.unanswered);
        if let Some(open) = usable {
            return Ok((self.open.insert(open), true));
        }
        let session = self.lease.place.connect().await?;
        let append = session.prepare(APPEND).await.doing(WRITING)?;
        let token = self.lease.raise(&session).await?;
        let open = Open {
            session,
            append,
            token: token.unwrap_or_default(),
            unanswered: false,
        };
        Ok((self.open.insert(open), token.is_some()))
    }

    /// See `Journal::load`.
    pub(super) async fn load(&mut self) -> Result<Vec<Entry>> {
        let until = Instant::now() + self.patience;
        loop {
            let error = match self.load_once().await {
                Err(e) if e.is_transient() => e,
                decided => return decided,
            };
            if Instant::now() >= until {
                return Err(error);
            }
            tracing::warn!(journal = %self.lease.place, "the journal could not be read, tried again: {error}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn load_once(&mut self) -> Result<Vec<Entry>> {
        let lease = Arc::clone(&self.lease);
        let (open, ours) = timely(self.ready(), "settle what was written before").await?;
        if !ours || lease.is_lost() {
            return Err(lease.lost());
        }
        timely(read(&open.session, &lease.place.migration), "read the journal").await
    }
}

/// All entries of a migration.
pub(super) async fn read(session: &Session, migration: &str) -> Result<Vec<Entry>> {
    let rows = session.query(LOAD, &[&migration]).await.doing("read the journal")?;
    let lines: Vec<&str> = rows.iter().map(|row| row.get(0)).collect();
    Entry::from_lines(lines).map_err(|e| fault(e.kind(), e.operation(), e.message()))
}

fn not_next(seq: i64, next: i64) -> Error {
    let message = format!("entry {seq} was to be written, and entry {next} is next");
    fault(Kind::Conflict, WRITING, message)
}

fn unknown(seq: i64, error: &Error) -> Error {
    let message = format!(
        "whether entry {seq} is there is not known, for the journal's server is out of reach: make it reachable and start \
         again ({error})"
    );
    fault(Kind::Corrupt, WRITING, message)
}
