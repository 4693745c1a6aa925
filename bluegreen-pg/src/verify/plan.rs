//! How a table is compared: the digest of a row that comes out alike on every version, the ranges of the key, and the SQL of
//! both. Pure; which tables there are is read in `tables.rs`.

use crate::ident::{Relation, ident, literal};

/// About so much is read at a time: a statement stays short, so that it keeps no old row alive for long.
const PIECE_BYTES: u64 = 16 * 1024 * 1024;

/// How many parts a table has whose rows cannot be walked in the order of a key.
pub(super) const BUCKETS: u32 = 4096;

/// Types whose hash is of the same bytes in every version and tells apart whatever prints differently. Everything else is
/// hashed as text: floats, numerics (1.0 is 1.00), JSON, arrays, enums (their hash is of a number that each side chose).
const HASHED: [u32; 19] = [
    16, 17, 18, 19, 20, 21, 23, 25, 26, 650, 829, 869, 1043, 1082, 1083, 1114, 1184, 2950, 774,
];

/// Types whose order is the same everywhere, whatever the locale.
const ORDERED: [u32; 11] = [16, 17, 20, 21, 23, 26, 1082, 1083, 1114, 1184, 2950];

/// Those whose order is the collation's.
const COLLATED: [u32; 3] = [19, 25, 1043];

/// What the server's own types are cast to is what they print, but for this one: its cast shows the declaration that neither a copy nor
/// the mirror brings.
const XML: u32 = 142;

/// The first oid that a server gives to what users make.
const FIRST_USER_OID: u32 = 16_384;

/// A column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Column {
    pub(super) name: String,
    /// Its type, as SQL.
    pub(super) type_name: String,
    /// Its type, or what its domain is made of.
    pub(super) base: u32,
    /// The collation and its version; empty when that is not known, `C` for plain bytes.
    pub(super) collation: String,
    pub(super) collatable: bool,
    /// Whether it is XML, through however many domains.
    pub(super) xml: bool,
}

impl Column {
    /// Its value in the digest.
    fn digested(&self) -> String {
        let name = ident(&self.name);
        // A collation may have a hash of its own, by keys that change with its version.
        if HASHED.contains(&self.base) && !self.collatable {
            name
        } else {
            format!("({} COLLATE \"C\")", self.text())
        }
    }

    /// Its value as text: what its server prints, for that is what travels. A cast of the application's may say anything else. Of an
    /// `xml` that has no declaration, or none that is printed, the server takes a line end away each time that it prints it.
    fn text(&self) -> String {
        let name = ident(&self.name);
        if self.base < FIRST_USER_OID && self.base != XML {
            return format!("{name}::text");
        }
        let mut printed = format!("pg_catalog.format('%s', {name})");
        if self.xml {
            printed = format!("pg_catalog.ltrim({printed}, pg_catalog.chr(10))");
        }
        // A row of nothing but NULL is none: so it is not asked with IS NULL.
        format!("CASE WHEN {name} IS DISTINCT FROM NULL THEN {printed} END")
    }

    /// Whether both sides sort by it alike.
    pub(super) fn ordered_like(&self, other: &Self) -> bool {
        let collated = COLLATED.contains(&self.base) && !self.collation.is_empty() && self.collation == other.collation;
        self.base == other.base && (ORDERED.contains(&self.base) || collated)
    }
}

/// A table on both sides.
#[derive(Debug, Clone)]
pub(super) struct Table {
    pub(super) relation: Relation,
    /// Of an extension's own table, which rows are the user's: what follows the table's name in `FROM`; empty for all.
    pub(super) only: String,
    pub(super) columns: Vec<Column>,
    /// What names a row: the primary key, or the index of the replica identity; empty if there is neither.
    pub(super) key: Vec<Column>,
    /// Whether both sides walk the key in the same order.
    pub(super) ordered: bool,
    /// About.
    pub(super) rows: u64,
    pub(super) bytes: u64,
}

/// Where a range of a key ends: the values, as text.
pub(super) type Bound = Vec<String>;

/// Rows whose key is after `after` and not after `to`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) after: Option<Bound>,
    pub(super) to: Option<Bound>,
}

impl Table {
    /// How many rows are read at a time.
    pub(super) fn piece_rows(&self) -> u64 {
        let row = (self.bytes / self.rows.max(1)).max(32);
        (PIECE_BYTES / row).clamp(200, 50_000)
    }

    /// Where its rows come from. The condition may be more than one, so it stands in a query of its own.
    fn source(&self) -> String {
        match self.only.trim() {
            "" => format!("ONLY {}", self.relation),
            only => format!("(SELECT *, xmin FROM ONLY {} {only}) AS rows", self.relation),
        }
    }

    /// The digest of a row: 64 bits, over every column, seeded by the key, so that two rows that exchange a value do not
    /// make the same sum.
    fn row_digest(&self) -> String {
        let row = |columns: &[Column]| columns.iter().map(Column::digested).collect::<Vec<_>>().join(", ");
        let all = row(&self.columns);
        let seed = match self.key.as_slice() {
            [only] if [20, 21, 23].contains(&only.base) => format!("{}::bigint", ident(&only.name)),
            [] => format!("pg_catalog.hash_record_extended(ROW({all}), 1)"),
            key => format!("pg_catalog.hash_record_extended(ROW({}), 1)", row(key)),
        };
        format!("pg_catalog.hash_record_extended(ROW({all}), {seed})")
    }

    /// The part that a row without a walkable key is in.
    fn bucket(&self) -> String {
        let columns = if self.key.is_empty() { &self.columns } else { &self.key };
        let row: Vec<String> = columns.iter().map(Column::digested).collect();
        format!(
            "(pg_catalog.hash_record_extended(ROW({}), 7) & {})",
            row.join(", "),
            BUCKETS - 1
        )
    }

    fn condition(&self, range: &Range) -> String {
        let names: Vec<String> = self.key.iter().map(|c| ident(&c.name)).collect();
        let values = |bound: &Bound| {
            let typed = bound
                .iter()
                .zip(&self.key)
                .map(|(v, c)| format!("{}::{}", literal(v), c.type_name));
            typed.collect::<Vec<_>>().join(", ")
        };
        let mut all = Vec::new();
        for (op, bound) in [(">", &range.after), ("<=", &range.to)] {
            if let Some(bound) = bound {
                all.push(format!("({}) {op} ({})", names.join(", "), values(bound)));
            }
        }
        if all.is_empty() {
            "true".into()
        } else {
            all.join(" AND ")
        }
    }

    /// How many rows a range has, and the sum of their digests.
    pub(super) fn digest(&self, range: &Range) -> String {
        if self.columns.is_empty() {
            return format!("SELECT count(*), '0' FROM {}", self.source());
        }
        format!(
            "SELECT count(*), coalesce(sum({}), 0)::text FROM {} WHERE {}",
            self.row_digest(),
            self.source(),
            self.condition(range)
        )
    }

    /// The same of every part of a table that is not walked.
    pub(super) fn digest_buckets(&self) -> String {
        format!(
            "SELECT {}, count(*), sum({})::text FROM {} GROUP BY 1",
            self.bucket(),
            self.row_digest(),
            self.source()
        )
    }

    /// The key that is `rows` after the beginning of a range.
    pub(super) fn boundary(&self, after: Option<&Bound>, rows: u64) -> String {
        let range = Range {
            after: after.cloned(),
            to: None,
        };
        let names: Vec<String> = self.key.iter().map(|c| ident(&c.name)).collect();
        format!(
            "SELECT ARRAY[{}] FROM {} WHERE {} ORDER BY {} OFFSET {} LIMIT 1",
            self.key_texts(),
            self.source(),
            self.condition(&range),
            names.join(", "),
            rows.saturating_sub(1)
        )
    }

    fn key_texts(&self) -> String {
        self.key.iter().map(Column::text).collect::<Vec<_>>().join(", ")
    }

    /// Every row of a range: its key and its digest.
    pub(super) fn rows_of(&self, range: &Range) -> String {
        format!(
            "SELECT ARRAY[{}], {} FROM {} WHERE {}",
            self.key_texts(),
            self.row_digest(),
            self.source(),
            self.condition(range)
        )
    }

    /// Every row of some parts: its key, or its own text where it has none, and its digest.
    pub(super) fn rows_of_buckets(&self, buckets: &[i64]) -> String {
        let key = if self.key.is_empty() {
            format!("{}::text", self.row_digest())
        } else {
            self.key_texts()
        };
        let list: Vec<String> = buckets.iter().map(ToString::to_string).collect();
        format!(
            "SELECT ARRAY[{key}], {} FROM {} WHERE {} IN ({})",
            self.row_digest(),
            self.source(),
            self.bucket(),
            list.join(", ")
        )
    }

    /// The rows of some keys: key, digest, and the transaction that wrote it there.
    pub(super) fn rows_of_keys(&self, keys: &[Bound]) -> String {
        format!(
            "SELECT ARRAY[{}], {}, xmin::text::bigint FROM {} WHERE {}",
            self.key_texts(),
            self.row_digest(),
            self.source(),
            self.is_one_of(keys)
        )
    }

    /// How often the rows of some digests (`$1`) are there, and how many of them had been written before a transaction
    /// (`$2`). One that is frozen may have a number that counts for nothing: then it is not among the latter.
    pub(super) fn counts_of_digests(&self) -> String {
        format!(
            "SELECT digest, count(*), count(*) FILTER (WHERE age(writer) > age($2::text::xid)) \
             FROM (SELECT {} AS digest, xmin AS writer FROM {}) AS all_rows WHERE digest = ANY ($1::bigint[]) GROUP BY digest",
            self.row_digest(),
            self.source()
        )
    }

    /// All columns of a row, as text.
    pub(super) fn values_of(&self, key: &Bound) -> String {
        let texts: Vec<String> = self.columns.iter().map(Column::text).collect();
        format!(
            "SELECT ARRAY[{}] FROM {} WHERE {} LIMIT 1",
            texts.join(", "),
            self.source(),
            self.is(key)
        )
    }

    /// How often a row without a key is there.
    pub(super) fn count_of(&self, key: &Bound) -> String {
        format!("SELECT count(*) FROM {} WHERE {}", self.source(), self.is(key))
    }

    /// Whether a row is the one of a key; one without a key is known by its digest.
    fn is(&self, key: &Bound) -> String {
        if self.key.is_empty() {
            format!("{} = {}", self.row_digest(), literal(&key.concat()))
        } else {
            self.is_one_of(std::slice::from_ref(key))
        }
    }

    fn is_one_of(&self, keys: &[Bound]) -> String {
        let names: Vec<String> = self.key.iter().map(|c| ident(&c.name)).collect();
        let rows: Vec<String> = keys
            .iter()
            .map(|key| {
                let typed = key
                    .iter()
                    .zip(&self.key)
                    .map(|(v, c)| format!("{}::{}", literal(v), c.type_name));
                format!("({})", typed.collect::<Vec<_>>().join(", "))
            })
            .collect();
        format!("({}) IN ({})", names.join(", "), rows.join(", "))
    }

    /// A key for people: `id=5, region='north'`.
    pub(super) fn name_of(&self, key: &Bound) -> String {
        if self.key.is_empty() {
            return "a row without a key".into();
        }
        let named = self.key.iter().zip(key).map(|(c, v)| format!("{}={v}", c.name));
        named.collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(name: &str, type_name: &str, base: u32) -> Column {
        Column {
            name: name.into(),
            type_name: type_name.into(),
            base,
            collation: if base == 25 { "C".into() } else { String::new() },
            collatable: base == 25,
            xml: base == 142,
        }
    }

    fn table(key: Vec<Column>) -> Table {
        Table {
            relation: Relation::new("S", "t"),
            only: String::new(),
            columns: vec![column("id", "bigint", 20), column("it's", "numeric", 1700)],
            key,
            ordered: true,
            rows: 1_000,
            bytes: 100_000,
        }
    }

    #[test]
    fn a_range_is_half_open_and_quoted() {
        let t = table(vec![column("id", "bigint", 20), column("n\"", "text", 25)]);
        let range = Range {
            after: Some(vec!["1".into(), "o'x\\".into()]),
            to: Some(vec!["2".into(), "b".into()]),
        };
        assert_eq!(
            t.condition(&range),
            "(\"id\", \"n\"\"\") > ('1'::bigint,  E'o''x\\\\'::text) AND (\"id\", \"n\"\"\") <= ('2'::bigint, 'b'::text)"
        );
        assert_eq!(t.condition(&Range::default()), "true");
    }

    #[test]
    fn what_prints_differently_is_hashed_as_text_and_each_row_has_its_seed() {
        let by_key = table(vec![column("id", "bigint", 20)]).row_digest();
        assert!(
            by_key.contains("ROW(\"id\", (\"it's\"::text COLLATE \"C\")), \"id\"::bigint)"),
            "{by_key}"
        );
        let no_key = table(vec![]);
        assert!(no_key.row_digest().matches("hash_record_extended").count() == 2);
        assert!(no_key.bucket().contains("\"it's\""));
    }

    #[test]
    fn what_a_cast_may_show_otherwise_is_printed() {
        assert_eq!(column("n", "numeric", 1700).text(), "\"n\"::text");
        assert_eq!(
            column("m", "mood", 16_400).text(),
            "CASE WHEN \"m\" IS DISTINCT FROM NULL THEN pg_catalog.format('%s', \"m\") END"
        );
        let xml = column("x", "xml", 142).text();
        assert!(xml.contains("ltrim(pg_catalog.format('%s', \"x\"), "), "{xml}");
    }

    #[test]
    fn text_is_walked_only_where_both_sides_sort_it_alike() {
        let plain = column("n", "text", 25);
        let german = Column {
            collation: "default de_DE.UTF-8 2.36".into(),
            ..plain.clone()
        };
        let newer = Column {
            collation: "default de_DE.UTF-8 2.41".into(),
            ..plain.clone()
        };
        let unknown = Column {
            collation: String::new(),
            ..plain.clone()
        };
        assert!(plain.ordered_like(&plain) && german.ordered_like(&german));
        assert!(!german.ordered_like(&newer) && !unknown.ordered_like(&unknown) && !plain.ordered_like(&german));
        let price = column("p", "double precision", 701);
        assert!(!price.ordered_like(&price));
    }

    #[test]
    fn of_an_extensions_table_only_the_users_rows_are_read() {
        let t = Table {
            only: "WHERE NOT a OR b".into(),
            ..table(vec![column("id", "bigint", 20)])
        };
        let range = Range {
            after: None,
            to: Some(vec!["2".into()]),
        };
        assert!(t.digest(&range).ends_with(
            "FROM (SELECT *, xmin FROM ONLY \"S\".\"t\" WHERE NOT a OR b) AS rows WHERE (\"id\") <= ('2'::bigint)"
        ));
        assert!(table(vec![]).digest_buckets().contains("FROM ONLY \"S\".\"t\" GROUP"));
    }

    #[test]
    fn pieces_fit_wide_and_narrow_rows() {
        let sized = |rows, bytes| {
            Table {
                rows,
                bytes,
                ..table(vec![])
            }
            .piece_rows()
        };
        assert_eq!(sized(1_000_000, 50_000_000), 50_000);
        assert_eq!(sized(1_000, 100_000_000), 200);
        assert_eq!(sized(0, 0), 200.max(PIECE_BYTES / 32).min(50_000));
    }
}
