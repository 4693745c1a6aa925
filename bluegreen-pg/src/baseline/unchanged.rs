//! Only what the snapshot saw may be read. Whatever gives a table another file (`ALTER TABLE`, `VACUUM FULL`, `CLUSTER`,
//! `pg_repack`, `TRUNCATE`) may give its rows new places and new authors: the snapshot does not find them then, or not in the range
//! that is read, and nothing says so. Pure.

use crate::ident::{Relation, literal};

/// Where a reader's transaction is between two pieces: what it locked after it, it lets go of when it comes back. The snapshot stays.
pub(super) const BETWEEN: &str = "SAVEPOINT between_pieces";

/// The statements that read a piece, safe from who changes its tables: locked, they are what they were before the rows are
/// read; those that are not come as a row, with nothing after it that counts. All at once, it costs no round trip.
pub(super) fn guarded(tables: &[&Relation], reads: &str) -> String {
    let each = |one: &dyn Fn(&Relation) -> String| tables.iter().map(|t| one(t)).collect::<Vec<_>>().join(", ");
    format!(
        "LOCK TABLE {} IN ACCESS SHARE MODE; \
         SELECT format('%I.%I', t.schema, t.name) FROM (VALUES {}) AS t (schema, name, id) WHERE ({SEEN}) IS NULL LIMIT 1; \
         {reads}; ROLLBACK TO SAVEPOINT between_pieces",
        each(&|t| format!("ONLY {t}")),
        each(&|t| {
            let quoted = literal(&t.to_string());
            format!("({}, {}, {quoted}::regclass)", literal(&t.schema), literal(&t.name))
        }),
    )
}

/// The table of that name that the snapshot sees, if its file is the one that is there now, and its columns are called the same: a
/// query sees the catalogue as the snapshot does, a function of the server's as it is. (What is read is named by columns.) One value for
/// each table, so that it is looked up by its index: as an `EXISTS` it is joined with all there are, in each piece again.
const SEEN: &str = "SELECT true FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
     WHERE c.oid = t.id AND c.relname = t.name AND n.nspname = t.schema \
     AND c.relfilenode = coalesce(pg_relation_filenode(c.oid), 0) \
     AND NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped \
         AND (pg_identify_object('pg_class'::regclass, c.oid, a.attnum)).identity \
             IS DISTINCT FROM format('%I.%I.%I', n.nspname, c.relname, a.attname))";

/// A relation that the snapshot sees and that is not there by its name any more: `pg_dump` locks what it saw.
pub(super) const GONE: &str = "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
     WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND c.relpersistence <> 't' AND n.nspname !~ '^pg_' \
     AND n.nspname NOT IN ('information_schema', 'bluegreen') \
     AND to_regclass(format('%I.%I', n.nspname, c.relname)) IS DISTINCT FROM c.oid::regclass LIMIT 1";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_tables_are_locked_and_looked_at_before_any_is_read() {
        let (one, other) = (Relation::new("S", "it's"), Relation::new("public", "b"));
        let sql = guarded(&[&one, &other], "COPY 1; COPY 2");
        let parts: Vec<&str> = sql.split("; ").collect();
        assert_eq!(
            parts[0],
            "LOCK TABLE ONLY \"S\".\"it's\", ONLY \"public\".\"b\" IN ACCESS SHARE MODE"
        );
        assert!(parts[1].contains("('S', 'it''s', '\"S\".\"it''s\"'::regclass), ('public', 'b', "));
        assert_eq!(parts[2..], ["COPY 1", "COPY 2", "ROLLBACK TO SAVEPOINT between_pieces"]);
    }
}
