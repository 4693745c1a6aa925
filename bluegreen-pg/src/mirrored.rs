//! Whether a mirror has all tables of the application, and the very ones it began with. Names alone do not tell: two tables may
//! have exchanged theirs, or one was taken out of the publication and put back, and rows of meanwhile are lost. So the numbers
//! behind the names are recorded when a mirror is made, at both sides, in `bluegreen.mirrored`.

use crate::catalog::{APPLICATION, RELATIONS, SEQUENCES, TABLES};
use crate::connect::Session;
use crate::drift::some;
use crate::error::{Doing, fault};
use crate::ident::literal;
use bluegreen_core::{Error, Kind, Result};
use std::collections::{BTreeMap, BTreeSet};
use tokio_postgres::{GenericClient, Row};

/// What the publication `$1` is: a line for itself, which changes with any `ALTER PUBLICATION .. SET (..)`, and one a table. Row
/// filters and lists of columns are part of an entry: to change them makes another one.
const PUBLISHED: &str = "SELECT p.oid, p.xmin, r.oid AS entry, c.oid AS relation, format('%I.%I', n.nspname, c.relname) AS name, \
     format('%L.%L', n.nspname, c.relname) AS plain, n.nspname = 'bluegreen' AS ours \
     FROM pg_publication p JOIN pg_publication_rel r ON r.prpubid = p.oid \
     JOIN pg_class c ON c.oid = r.prrelid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE p.pubname = $1";

const PUBLISHED_LINES: &str = "format('%s %s publication', min(oid), min(xmin::text)) \
     || string_agg(E'\\n' || entry::text || ' ' || relation::text || ' ' || name, '' ORDER BY entry)";

/// The tables of the subscription `$1`.
const SUBSCRIBED: &str = "SELECT c.oid AS relation, r.srsubstate, format('%I.%I', n.nspname, c.relname) AS name, \
     format('%L.%L', n.nspname, c.relname) AS plain, n.nspname = 'bluegreen' AS ours \
     FROM pg_subscription s JOIN pg_subscription_rel r ON r.srsubid = s.oid \
     JOIN pg_class c ON c.oid = r.srrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
     WHERE s.subname = $1 AND s.subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())";

const SUBSCRIBED_LINES: &str = "string_agg('0 ' || relation::text || ' ' || name, E'\\n' ORDER BY relation)";

/// A list of names.
const NAMES: &str = "string_agg(name, ',' ORDER BY name COLLATE \"C\")";

/// A digest of the names that is the same on both sides, whatever their encodings are, and whatever word a version quotes.
const DIGEST: &str =
    "md5(convert_to(string_agg(plain, ',' ORDER BY convert_to(plain, 'UTF8')) FILTER (WHERE NOT ours), 'UTF8'))";

/// So many are named.
const NAMED: usize = 5;

/// One statement for the writer's side, run in the pause: `$1` is the publication.
pub(crate) fn writer_check() -> String {
    format!(
        "WITH app AS MATERIALIZED (SELECT c.relkind, format('%I.%I', n.nspname, c.relname) AS name \
          {RELATIONS} WHERE {APPLICATION} AND ({TABLES} OR {SEQUENCES})), \
         pub AS MATERIALIZED ({PUBLISHED}), \
         seen AS MATERIALIZED (SELECT (SELECT {NAMES} FROM app WHERE relkind = 'r') AS tables, \
          {NAMES} FILTER (WHERE NOT ours) AS published, {DIGEST} AS digest, {PUBLISHED_LINES} AS lines FROM pub) \
         SELECT coalesce(seen.digest, 'none') AS names, \
          CASE WHEN seen.tables IS DISTINCT FROM seen.published THEN (SELECT string_agg(line, '; ') FROM ( \
           SELECT name || ' is not in it' AS line FROM (SELECT name FROM app WHERE relkind = 'r' EXCEPT SELECT name FROM pub) a \
           UNION ALL SELECT name || ' is in it' FROM (SELECT name FROM pub WHERE NOT ours EXCEPT SELECT name FROM app WHERE relkind = 'r') b \
           LIMIT {NAMED}) l) END AS amiss, \
          (SELECT string_agg(gid, ', ') FROM pg_prepared_xacts WHERE database = current_database()) AS prepared, \
          (SELECT count(*) FROM app WHERE relkind = 'S') AS sequences, \
          EXISTS (SELECT FROM pg_largeobject_metadata) AS large_objects, \
          coalesce(m.tables = seen.lines, false) AS same, \
          CASE WHEN m.tables IS DISTINCT FROM seen.lines THEN seen.lines END AS now, \
          CASE WHEN m.tables IS DISTINCT FROM seen.lines THEN m.tables END AS was \
         FROM seen LEFT JOIN bluegreen.mirrored m ON m.mirror = $1"
    )
}

/// One statement for the follower's side, run in the pause: `$1` is the subscription.
pub(crate) fn follower_check() -> String {
    format!(
        "WITH sub AS MATERIALIZED ({SUBSCRIBED}), \
         seen AS MATERIALIZED (SELECT {DIGEST} AS digest, {SUBSCRIBED_LINES} AS lines, \
          count(*) FILTER (WHERE srsubstate <> 'r') AS unready FROM sub) \
         SELECT coalesce(seen.digest, 'none') AS names, seen.unready, \
          (SELECT max(w.pid) FROM pg_stat_subscription w WHERE w.subid = s.oid AND w.relid IS NULL) AS worker, \
          coalesce(m.tables = seen.lines, false) AS same, \
          CASE WHEN m.tables IS DISTINCT FROM seen.lines THEN seen.lines END AS now, \
          CASE WHEN m.tables IS DISTINCT FROM seen.lines THEN m.tables END AS was \
         FROM pg_subscription s CROSS JOIN seen LEFT JOIN bluegreen.mirrored m ON m.mirror = $1 WHERE s.subname = $1 \
         AND s.subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())"
    )
}

/// The statement that records what the publication is, to be run when it is made.
pub(crate) fn record_published(migration: &str, mirror: &str) -> String {
    record(PUBLISHED, PUBLISHED_LINES, migration, mirror)
}

/// The same of the subscription.
pub(crate) fn record_subscribed(migration: &str, mirror: &str) -> String {
    record(SUBSCRIBED, SUBSCRIBED_LINES, migration, mirror)
}

fn record(relations: &str, lines: &str, migration: &str, mirror: &str) -> String {
    let (migration, mirror) = (literal(migration), literal(mirror));
    format!(
        "INSERT INTO bluegreen.mirrored (mirror, migration, tables) SELECT {mirror}, {migration}, {lines} FROM ({}) AS r \
         ON CONFLICT (mirror) DO UPDATE SET tables = excluded.tables",
        relations.replace("$1", &mirror)
    )
}

/// Looks at both sides, outside any pause. Refuses a mirror that does not have all tables, or other ones than it began with.
pub(crate) async fn check(origin: &Session, follower: &Session, mirror: &str) -> Result<()> {
    let doing = "look whether all is mirrored";
    let (ask_writer, ask_follower) = (writer_check(), follower_check());
    let (writer, follower) = tokio::try_join!(
        one(&**origin, &ask_writer, mirror),
        one(&**follower, &ask_follower, mirror)
    )?;
    let writer = writer.ok_or_else(|| fault(Kind::Diverged, doing, "the publication is gone"))?;
    let follower = follower.ok_or_else(|| fault(Kind::Diverged, doing, "the subscription is gone"))?;
    tables_are_published(&writer, mirror)?;
    tables_are_subscribed(&writer, &follower, mirror)
}

async fn one(client: &impl GenericClient, sql: &str, mirror: &str) -> Result<Option<Row>> {
    let rows = client.query_opt(sql, &[&mirror]).await;
    rows.doing("look whether all is mirrored")
}

/// What a [`writer_check`] must have said of the tables.
pub(crate) fn tables_are_published(writer: &Row, mirror: &str) -> Result<()> {
    if let Some(amiss) = writer.get::<_, Option<String>>("amiss") {
        return Err(fault(
            Kind::Diverged,
            "look whether all is mirrored",
            format!(
                "the publication {mirror} does not list the tables of the database: {amiss}. A table cannot join a mirror \
                 that runs: drop or move what was made or added since it began, or abort and begin again"
            ),
        ));
    }
    same(writer, &format!("the publication {mirror}"))
}

/// What a [`follower_check`] must have said of the tables, beside the writer's.
pub(crate) fn tables_are_subscribed(writer: &Row, follower: &Row, mirror: &str) -> Result<()> {
    if writer.get::<_, String>("names") != follower.get::<_, String>("names") {
        return Err(fault(
            Kind::Diverged,
            "look whether all is mirrored",
            format!(
                "the subscription {mirror} does not list the tables of the publication: one was dropped or renamed at the \
                 follower, or the subscription refreshed. Abort and begin again"
            ),
        ));
    }
    same(follower, &format!("the subscription {mirror}"))
}

fn same(row: &Row, what: &str) -> Result<()> {
    if row.get("same") {
        return Ok(());
    }
    let (was, now): (Option<String>, Option<String>) = (row.get("was"), row.get("now"));
    Err(changed(
        what,
        was.as_deref().unwrap_or_default(),
        now.as_deref().unwrap_or_default(),
    ))
}

fn changed(what: &str, was: &str, now: &str) -> Error {
    let how = some(&differences(was, now));
    fault(
        Kind::Diverged,
        "look whether all is mirrored",
        format!(
            "{what} is not what the mirror began with: {how}. Rows of meanwhile may be missing at the follower, or be in \
             another table there: abort and begin again; where only names changed, they may be given back instead, if nothing \
             was written into these tables meanwhile"
        ),
    )
}

/// A line of a record: the name, the entry's number, and the table's.
fn line(line: &str) -> Option<(&str, (&str, &str))> {
    let (entry, rest) = line.split_once(' ')?;
    let (relation, name) = rest.split_once(' ')?;
    Some((name, (entry, relation)))
}

/// How a record differs from what is now, in words.
fn differences(was: &str, now: &str) -> Vec<String> {
    let read = |text| str::lines(text).filter_map(line).collect::<BTreeMap<_, _>>();
    let (was, now) = (read(was), read(now));
    let called = |all: &BTreeMap<&str, (&str, &str)>, relation: &str| {
        let found = all.iter().find(|(name, of)| of.1 == relation && name.contains('.'));
        found.map(|(name, _)| (*name).to_owned())
    };
    let mut how = BTreeSet::new();
    for (name, (entry, relation)) in &was {
        match now.get(name) {
            _ if !name.contains('.') => {
                if now.get(name) != Some(&(*entry, *relation)) {
                    how.insert("it was altered or made anew".to_owned());
                }
            }
            None => {
                how.insert(match called(&now, relation) {
                    Some(other) => format!("{name} is called {other} now"),
                    None => format!("{name} is gone"),
                });
            }
            Some((_, other)) if other != relation => {
                how.insert(match called(&was, other) {
                    Some(before) => format!("{name} is another table, which was {before}"),
                    None => format!("{name} is another table, made since"),
                });
            }
            Some((other, _)) if other != entry => {
                how.insert(format!("{name} was taken out and put back"));
            }
            Some(_) => {}
        }
    }
    for (name, (_, relation)) in &now {
        if !was.contains_key(name) && called(&was, relation).is_none() {
            how.insert(format!("{name} was not there"));
        }
    }
    if how.is_empty() {
        how.insert("its list of tables is another".to_owned());
    }
    how.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAS: &str = "9 700 publication\n1 11 public.live\n2 12 public.staging\n3 13 public.\"a b\"";

    #[test]
    fn what_differs_is_named() {
        let now = |from: &str, to: &str| {
            assert!(WAS.contains(from), "{from}");
            differences(WAS, &WAS.replace(from, to))
        };
        assert_eq!(now("9 700", "9 701"), ["it was altered or made anew"]);
        assert_eq!(now("3 13", "4 13"), ["public.\"a b\" was taken out and put back"]);
        assert_eq!(now("3 13", "4 14"), ["public.\"a b\" is another table, made since"]);
        assert_eq!(
            now("public.live", "public.old"),
            ["public.live is called public.old now"]
        );
        assert_eq!(now("\n1 11 public.live", ""), ["public.live is gone"]);
        assert_eq!(
            now("public.live", "public.live\n8 18 public.late"),
            ["public.late was not there"]
        );
        let swapped = "9 700 publication\n2 12 public.live\n1 11 public.staging\n3 13 public.\"a b\"";
        assert_eq!(
            differences(WAS, swapped),
            [
                "public.live is another table, which was public.staging",
                "public.staging is another table, which was public.live"
            ]
        );
        assert_eq!(differences("", ""), ["its list of tables is another"]);
    }
}
