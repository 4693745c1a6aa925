//! Drift: what the writer's database has and the follower's lacks or has otherwise, because somebody changed the schema on the
//! way. DDL does not travel; a mirror over two different schemas stops, or goes on and loses what it does not know.

pub(crate) mod columns;
mod compare;
mod lines;

use crate::catalog;
use crate::connect::Session;
use crate::error::{Doing, fault};
use bluegreen_core::{Kind, Result};
use lines::objects;
use std::collections::BTreeMap;
use tokio_postgres::error::SqlState;
use tokio_postgres::{GenericClient, Row};

/// Objects and their definitions.
pub(crate) type Objects = BTreeMap<String, String>;

/// Objects that were defined otherwise on both sides from the beginning, and how on each; with nothing said, what guards rows at both.
type Known = BTreeMap<String, (String, String)>;

/// The digests of two schemas that were found alike enough: the same ones need not be looked at again.
pub(crate) type Alike = Option<(String, String)>;

/// So many are named.
const NAMED: usize = 5;

const DOING: &str = "compare the schemas";

/// Some definitions are not printed without a look at their tables: who has such a table locked is not waited for.
const BEGIN: &str = "BEGIN READ ONLY; SET LOCAL lock_timeout = '500ms'";

/// How often a catalogue is read that changes meanwhile.
const TRIES: u32 = 3;

/// Both schemas, and their digests.
struct Seen {
    digests: (String, String),
    writers: Objects,
    followers: Objects,
}

/// Looks at both; none where nothing differs, or nothing else than what was found alike.
async fn look(writer: &Session, follower: &Session, alike: &Alike) -> Result<Option<Seen>> {
    let digests = tokio::try_join!(digest(writer), digest(follower))?;
    if digests.0 == digests.1 || alike.as_ref() == Some(&digests) {
        return Ok(None);
    }
    let (writers, followers) = tokio::try_join!(read(writer, BEGIN), read(follower, BEGIN))?;
    Ok(Some(Seen {
        digests,
        writers,
        followers,
    }))
}

/// Refuses when the writer has what the follower lacks, or a column is another one there.
pub(crate) async fn check(writer: &Session, follower: &Session, migration: &str, alike: &mut Alike) -> Result<()> {
    if let Some(seen) = look(writer, follower, alike).await? {
        nothing_is_missing(writer, follower, migration, &seen).await?;
        *alike = Some(seen.digests);
    }
    columns_are_the_same(writer, follower, migration).await
}

/// The same for a follower that is about to become the writer: what only it has is recorded, and from then on it is no drift that the
/// other side lacks it. Returns what a mirror back would stop at.
pub(crate) async fn check_before_the_hand_over(
    writer: &Session,
    follower: &Session,
    migration: &str,
) -> Result<Vec<String>> {
    let mut in_the_way = Vec::new();
    if let Some(seen) = look(writer, follower, &None).await? {
        nothing_is_missing(writer, follower, migration, &seen).await?;
        let mut extra = compare::extra(&seen.writers, &seen.followers);
        in_the_way = compare::in_the_way(&extra);
        extra.retain(|object, _| !in_the_way.contains(object));
        write(&**follower, migration, extra).await?;
    }
    columns_are_the_same(writer, follower, migration).await?;
    Ok(in_the_way)
}

async fn nothing_is_missing(writer: &Session, follower: &Session, migration: &str, seen: &Seen) -> Result<()> {
    let (here, mut there) = tokio::try_join!(known(writer, migration), known(follower, migration))?;
    // What was found at one side only counts where that side writes: else it is of a cut-over that was not gone through with.
    there.retain(|_, (_, other)| other != compare::ABSENT);
    let known = here.into_iter().chain(there).collect();
    let versions = tokio::try_join!(catalog::version(writer), catalog::version(follower))?;
    let majors_differ = versions.0 / 10_000 != versions.1 / 10_000;
    let missing = compare::missing(&seen.writers, &seen.followers, &known, majors_differ);
    refuse(
        &missing,
        "the writer has what the follower lacks or has otherwise",
        "DDL does not travel: run the same there (between BEGIN READ WRITE and COMMIT, and not while the first copy runs), or take it \
         back at the writer. A new table cannot join this mirror, and what each side computes by itself for rows that are there (a \
         default of now(), a random one or a number; a type changed USING) comes out otherwise: take it back, or abort and begin again",
    )
}

/// Asked where all definitions are alike.
async fn columns_are_the_same(writer: &Session, follower: &Session, migration: &str) -> Result<()> {
    refuse(
        &columns::mistaken(writer, follower, migration).await?,
        "columns have the names that others had before",
        "Rows travel by the names of their columns, and values of meanwhile are in the wrong one: abort and begin again; where only \
         names changed, they may be given back instead, if nothing was written into these tables meanwhile",
    )
}

/// Fails where something was found: what it is, and how to mend it.
fn refuse(found: &[String], what: &str, mend: &str) -> Result<()> {
    if found.is_empty() {
        return Ok(());
    }
    let message = format!("{what}: {}. {mend}", some(found));
    Err(fault(Kind::Diverged, DOING, message))
}

/// The first of them, and how many more there are.
pub(crate) fn some(all: &[String]) -> String {
    let named = all
        .iter()
        .take(NAMED)
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join("; ");
    match all.len().saturating_sub(NAMED) {
        0 => named,
        n => format!("{named}, and {n} more"),
    }
}

/// Records what both sides define otherwise though nobody changed anything: `was` is what was dumped, and the follower has what
/// the dump made.
pub(crate) async fn record(follower: &impl GenericClient, migration: &str, was: &Objects) -> Result<()> {
    let doing = "record how the schemas differ from the beginning";
    follower.batch_execute(lines::QUOTED).await.doing(doing)?;
    let there = objects(follower).await.doing(doing)?;
    follower.batch_execute(lines::AS_BEFORE).await.doing(doing)?;
    let known = compare::otherwise(was, &there);
    let differing: Vec<&String> = known
        .iter()
        .filter(|(_, (one, other))| one != other)
        .map(|(object, _)| object)
        .collect();
    tracing::debug!(migration, objects = ?differing, "printed otherwise by the follower");
    let delete = "DELETE FROM bluegreen.otherwise WHERE migration = $1";
    follower.execute(delete, &[&migration]).await.doing(doing)?;
    write(follower, migration, known).await
}

/// Adds to what is known. What an earlier try to cut over found at one side only is not known any more.
async fn write(follower: &impl GenericClient, migration: &str, known: Known) -> Result<()> {
    let mut columns = (Vec::new(), Vec::new(), Vec::new());
    for (object, (one, other)) in known {
        columns.0.push(object);
        columns.1.push(one);
        columns.2.push(other);
    }
    let insert = "WITH gone AS (DELETE FROM bluegreen.otherwise WHERE migration = $1 AND (other = $5 OR object = ANY ($2))) \
                  INSERT INTO bluegreen.otherwise (migration, object, one, other) \
                  SELECT $1, t.* FROM unnest($2::text[], $3::text[], $4::text[]) AS t (object, one, other)";
    let params: [&(dyn tokio_postgres::types::ToSql + Sync); 5] =
        [&migration, &columns.0, &columns.1, &columns.2, &compare::ABSENT];
    follower
        .execute(insert, &params)
        .await
        .doing("record how the schemas differ")?;
    Ok(())
}

async fn known(session: &Session, migration: &str) -> Result<Known> {
    let sql = "SELECT object, one, other FROM bluegreen.otherwise WHERE migration = $1";
    let rows = rows_of_ours(session, sql, migration).await?;
    Ok(rows.iter().map(|r| (r.get(0), (r.get(1), r.get(2)))).collect())
}

/// What a table of ours says of the migration `$1`; our schema may be taken away meanwhile.
async fn rows_of_ours(session: &Session, sql: &str, migration: &str) -> Result<Vec<Row>> {
    match session.query(sql, &[&migration]).await {
        Err(e) if e.code() == Some(&SqlState::UNDEFINED_TABLE) => Ok(Vec::new()),
        rows => rows.doing(DOING),
    }
}

/// What is defined, to be compared with what a dump of it makes.
pub(crate) async fn before_the_dump(origin: &Session) -> Result<Objects> {
    read(origin, "BEGIN READ ONLY").await
}

/// A transaction in which names are read as both sides print them.
async fn begin_quoted(session: &Session, begin: &str) -> Result<()> {
    let sql = format!("{begin}; {}", lines::QUOTED);
    session.batch_execute(&sql).await.doing(DOING)
}

async fn read(session: &Session, begin: &str) -> Result<Objects> {
    let mut tries = 0;
    loop {
        tries += 1;
        begin_quoted(session, begin).await?;
        let read = objects(&**session).await;
        session.batch_execute("ROLLBACK").await.doing(DOING)?;
        if read.as_ref().err().is_none_or(|e| !passes(e, tries)) {
            return read.doing(DOING);
        }
    }
}

async fn digest(session: &Session) -> Result<String> {
    let mut tries = 0;
    loop {
        tries += 1;
        begin_quoted(session, BEGIN).await?;
        let rows = session.query_prepared(lines::digest(), &[]).await;
        session.batch_execute("ROLLBACK").await.doing(DOING)?;
        if rows.as_ref().err().is_none_or(|e| !passes(e, tries)) {
            let rows = rows.doing(DOING)?;
            return Ok(rows.first().map(|row| row.get(0)).unwrap_or_default());
        }
    }
}

/// Something was dropped between its line and its definition.
fn passes(error: &tokio_postgres::Error, tries: u32) -> bool {
    error.code() == Some(&SqlState::INTERNAL_ERROR) && tries < TRIES
}
