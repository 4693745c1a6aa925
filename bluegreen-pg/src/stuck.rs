//! Why an apply worker does not get on: the transaction that it fails at, read from the slot without taking it from there,
//! and the row in it that the follower has already.

use crate::catalog::may_execute;
use crate::connect::Session;
use crate::error::{Doing, PgError};
use crate::ident::{Relation, ident, literal};
use bluegreen_core::Result;
use bytes::Buf;
use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};
use tokio_postgres::error::SqlState;

const DOING: &str = "look why the mirror does not get on";

/// So many changes of it are read at most: the first that fails is among the first of its transaction, or nobody could tell.
const CHANGES: i32 = 5_000;

/// The worker uses the slot for a moment each time that it tries.
const FREE_WITHIN: Duration = Duration::from_secs(3);

/// What was found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Stuck {
    /// At this transaction.
    At(String),
    /// It cannot be seen from here.
    Unknown,
    /// It got on while we looked: it is not stuck.
    Moves,
}

/// Looks for the transaction that the subscription `name`, of `oid`, fails at.
pub(crate) async fn why(origin: &Session, follower: &Session, name: &str, oid: u32) -> Result<Stuck> {
    // Without it nobody knows what was applied already, and what was applied is there.
    if !may_execute(&**follower, "pg_show_replication_origin_status()").await? {
        return Ok(Stuck::Unknown);
    }
    let before = applied(follower, oid).await?;
    let found = match peek(origin, name).await? {
        Some(rows) => describe(follower, before, rows).await?,
        None => None,
    };
    // A row is seen only after its commit has moved this on: what was blamed on a row before is no longer true.
    if applied(follower, oid).await? != before {
        return Ok(Stuck::Moves);
    }
    Ok(found.map_or(Stuck::Unknown, Stuck::At))
}

/// Up to where the follower has applied.
async fn applied(follower: &Session, oid: u32) -> Result<u64> {
    let row = follower
        .query_opt(
            "SELECT remote_lsn::text FROM pg_replication_origin_status WHERE external_id = $1",
            &[&format!("pg_{oid}")],
        )
        .await
        .doing(DOING)?;
    Ok(row
        .and_then(|r| lsn(r.get::<_, Option<&str>>(0).unwrap_or_default()))
        .unwrap_or(0))
}

/// What is said of the first transaction beyond that; none when there is none to be seen.
async fn describe(follower: &Session, applied: u64, rows: Vec<bytes::Bytes>) -> Result<Option<String>> {
    let mut relations = HashMap::new();
    let mut open = Transaction::default();
    for mut message in rows {
        match read(&mut message, &mut relations) {
            Some(Message::Begin) => open = Transaction::default(),
            Some(Message::Change(what, relation, key)) => open.saw(what, &relation, key),
            Some(Message::Commit(end)) if end <= applied => open = Transaction::default(),
            Some(Message::Commit(_)) => break,
            Some(Message::Other) => {}
            None => return Ok(None),
        }
    }
    if open.changes.is_empty() {
        return Ok(None);
    }
    for (relation, keys) in &open.inserted {
        for key in keys {
            if is_there(follower, relation, key).await? {
                let key: Vec<String> = key
                    .iter()
                    .map(|(column, value)| format!("{column} = {value}"))
                    .collect();
                return Ok(Some(format!(
                    "it would insert the row ({}) into {relation}, which is there already: written by somebody else; compare \
                     the two, and delete the one that should not be there",
                    key.join(", ")
                )));
            }
        }
    }
    let changes: Vec<String> = open.changes.iter().map(|(what, n)| format!("{n} {what}")).collect();
    Ok(Some(format!(
        "it fails at a transaction with {}; the follower's server log says at which and why",
        changes.join(", ")
    )))
}

/// The changes that the slot holds, without taking them; none while somebody keeps using it.
async fn peek(origin: &Session, name: &str) -> Result<Option<Vec<bytes::Bytes>>> {
    let until = Instant::now() + FREE_WITHIN;
    loop {
        let read = origin
            .query(
                "SELECT data FROM pg_logical_slot_peek_binary_changes($1, NULL, $2, 'proto_version', '1', 'publication_names', $3)",
                &[&name, &CHANGES, &ident(name)],
            )
            .await;
        match read {
            Ok(rows) => {
                let data = rows.iter().map(|r| bytes::Bytes::copy_from_slice(r.get(0)));
                return Ok(Some(data.collect()));
            }
            Err(e) if e.code() == Some(&SqlState::OBJECT_IN_USE) && Instant::now() < until => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(e) if e.code() == Some(&SqlState::OBJECT_IN_USE) => return Ok(None),
            Err(e) => return Err(PgError::from(e)).doing(DOING),
        }
    }
}

async fn is_there(follower: &Session, relation: &Relation, key: &Key) -> Result<bool> {
    let is: Vec<String> = key
        .iter()
        .map(|(column, value)| format!("{} = {}", ident(column), literal(value)))
        .collect();
    let sql = format!("SELECT EXISTS (SELECT FROM ONLY {relation} WHERE {})", is.join(" AND "));
    match follower.query_one(&sql, &[]).await {
        Ok(row) => Ok(row.get(0)),
        // The table, a column or a type is not there: that is another reason, which the comparison of schemas names.
        Err(e) if e.as_db_error().is_some() => Ok(false),
        Err(e) => Err(PgError::from(e)).doing(DOING),
    }
}

/// What a transaction does.
#[derive(Debug, Default)]
struct Transaction {
    /// How often it does what to which table.
    changes: BTreeMap<String, u32>,
    /// The keys of what it inserts.
    inserted: Vec<(Relation, Vec<Key>)>,
}

impl Transaction {
    fn saw(&mut self, what: &str, relation: &Relation, key: Option<Key>) {
        *self.changes.entry(format!("{what} on {relation}")).or_default() += 1;
        let Some(key) = key.filter(|k| !k.is_empty()) else {
            return;
        };
        match self.inserted.last_mut() {
            Some((last, keys)) if last == relation => keys.push(key),
            _ => self.inserted.push((relation.clone(), vec![key])),
        }
    }
}

/// The columns that identify a row, and their values as text.
type Key = Vec<(String, String)>;

#[derive(Debug, PartialEq)]
enum Message {
    Begin,
    /// An insert has its key.
    Change(&'static str, Relation, Option<Key>),
    /// The position after it.
    Commit(u64),
    Other,
}

/// A table as the stream describes it: its name, and its columns with whether they are part of the key.
#[derive(Debug)]
struct Described {
    relation: Relation,
    columns: Vec<(String, bool)>,
}

/// Reads one message of pgoutput's protocol, version 1; none when it is not one.
/// See "Logical Replication Message Formats" in PostgreSQL's documentation.
fn read(message: &mut bytes::Bytes, relations: &mut HashMap<u32, Described>) -> Option<Message> {
    Some(match message.try_get_u8().ok()? {
        b'B' => Message::Begin,
        b'C' => {
            message.try_get_u8().ok()?;
            message.try_get_u64().ok()?;
            Message::Commit(message.try_get_u64().ok()?)
        }
        b'R' => {
            let oid = message.try_get_u32().ok()?;
            let (schema, name) = (text(message)?, text(message)?);
            message.try_get_u8().ok()?;
            let mut columns = Vec::new();
            for _ in 0..message.try_get_u16().ok()? {
                let key = message.try_get_u8().ok()? & 1 == 1;
                columns.push((text(message)?, key));
                message.try_get_u32().ok()?;
                message.try_get_u32().ok()?;
            }
            let schema = if schema.is_empty() { "pg_catalog".into() } else { schema };
            let relation = Relation::new(schema, name);
            relations.insert(oid, Described { relation, columns });
            Message::Other
        }
        b'I' => {
            let described = relations.get(&message.try_get_u32().ok()?)?;
            message.try_get_u8().ok()?;
            let key = tuple(message, &described.columns)?;
            Message::Change("INSERT", described.relation.clone(), Some(key))
        }
        kind @ (b'U' | b'D') => {
            let described = relations.get(&message.try_get_u32().ok()?)?;
            let what = if kind == b'U' { "UPDATE" } else { "DELETE" };
            Message::Change(what, described.relation.clone(), None)
        }
        b'T' => {
            let tables = message.try_get_u32().ok()?;
            message.try_get_u8().ok()?;
            let first = relations.get(&message.try_get_u32().ok()?)?;
            (tables > 0).then_some(())?;
            Message::Change("TRUNCATE", first.relation.clone(), None)
        }
        _ => Message::Other,
    })
}

fn tuple(message: &mut bytes::Bytes, columns: &[(String, bool)]) -> Option<Key> {
    let mut key = Vec::new();
    let count = usize::from(message.try_get_u16().ok()?);
    for (column, is_key) in columns.iter().take(count) {
        match message.try_get_u8().ok()? {
            b't' => {
                let length = usize::try_from(message.try_get_u32().ok()?).ok()?;
                if message.remaining() < length {
                    return None;
                }
                let value = message.split_to(length);
                if *is_key {
                    key.push((column.clone(), String::from_utf8_lossy(&value).into_owned()));
                }
            }
            b'n' | b'u' => {}
            _ => return None,
        }
    }
    Some(key)
}

fn text(message: &mut bytes::Bytes) -> Option<String> {
    let end = message.iter().position(|b| *b == 0)?;
    let text = String::from_utf8(message.split_to(end).to_vec()).ok()?;
    message.advance(1);
    Some(text)
}

/// A position as a number: `16/B374D848`.
fn lsn(text: &str) -> Option<u64> {
    let (high, low) = text.split_once('/')?;
    Some((u64::from_str_radix(high, 16).ok()? << 32) | u64::from_str_radix(low, 16).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::{BufMut, Bytes, BytesMut};

    fn relation() -> Bytes {
        let mut m = BytesMut::from(&b"R"[..]);
        m.put_u32(7);
        m.put_slice(b"shop\0orders\0d");
        m.put_u16(2);
        for (name, key) in [("id", 1_u8), ("note", 0)] {
            m.put_u8(key);
            m.put_slice(name.as_bytes());
            m.put_u8(0);
            m.put_u32(23);
            m.put_u32(0);
        }
        m.freeze()
    }

    fn insert() -> Bytes {
        let mut m = BytesMut::from(&b"I"[..]);
        m.put_u32(7);
        m.put_slice(b"N");
        m.put_u16(2);
        m.put_slice(b"t\0\0\0\x0242n");
        m.freeze()
    }

    #[test]
    fn an_insert_shows_its_key() {
        let mut known = HashMap::new();
        assert_eq!(read(&mut relation(), &mut known), Some(Message::Other));
        let key = vec![("id".to_owned(), "42".to_owned())];
        let expected = Message::Change("INSERT", Relation::new("shop", "orders"), Some(key));
        assert_eq!(read(&mut insert(), &mut known), Some(expected));
    }

    #[test]
    fn what_is_cut_short_is_nothing() {
        let mut known = HashMap::new();
        let whole = relation();
        for end in 0..whole.len() {
            assert_eq!(read(&mut whole.slice(..end), &mut known), None, "{end}");
        }
        read(&mut relation(), &mut known);
        let whole = insert();
        for end in 0..whole.len() {
            assert_eq!(read(&mut whole.slice(..end), &mut known), None, "{end}");
        }
    }

    #[test]
    fn positions_are_numbers() {
        assert_eq!(lsn("1/10"), Some((1 << 32) + 16));
        assert_eq!(lsn("nonsense"), None);
    }
}
