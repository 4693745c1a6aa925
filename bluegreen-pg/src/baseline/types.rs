//! Which types have one binary form at both servers; of all others the rows travel as text.

use crate::connect::Session;
use crate::error::Doing;
use bluegreen_core::Result;
use std::collections::{HashMap, HashSet};

/// The types of the origin, and the extensions that both servers have in the same version.
pub(super) struct Types(HashMap<u32, Type>);

struct Type {
    kind: char,
    base: u32,
    element: u32,
    /// It has functions for both ways.
    travels: bool,
    /// It came with an extension that the other server has in the same version.
    same: bool,
}

/// The first oid that a server gives to what users make.
const FIRST_USER_OID: u32 = 16_384;

/// Types whose binary form is an oid of this server's catalogue.
const OID_ALIASES: &[u32] = &[24, 2202, 2203, 2204, 2205, 2206, 3734, 3769, 4089, 4096, 4191];

impl Types {
    pub(super) async fn read(origin: &Session, follower: &Session) -> Result<Self> {
        let doing = "read the types";
        let extensions = "SELECT extname::text || ' ' || extversion FROM pg_extension";
        let there = follower.query(extensions, &[]).await.doing(doing)?;
        let there: HashSet<String> = there.iter().map(|r| r.get(0)).collect();
        let rows = origin
            .query(
                "SELECT t.oid, t.typtype::text, t.typbasetype, \
                 CASE WHEN t.typlen = -1 AND t.typcategory = 'A' THEN t.typelem ELSE 0 END, \
                 t.typsend::oid <> 0 AND t.typreceive::oid <> 0, x.extname::text || ' ' || x.extversion \
                 FROM pg_type t LEFT JOIN pg_depend d ON d.classid = 'pg_type'::regclass AND d.objid = t.oid \
                     AND d.deptype = 'e' AND d.refclassid = 'pg_extension'::regclass \
                 LEFT JOIN pg_extension x ON x.oid = d.refobjid \
                 WHERE t.typtype <> 'c' OR t.oid < 16384",
                &[],
            )
            .await
            .doing(doing)?;
        Ok(Self(
            rows.iter()
                .map(|r| {
                    let extension: Option<String> = r.get(5);
                    let row = Type {
                        kind: r.get::<_, &str>(1).chars().next().unwrap_or('?'),
                        base: r.get(2),
                        element: r.get(3),
                        travels: r.get(4),
                        same: extension.is_some_and(|e| there.contains(&e)),
                    };
                    (r.get(0), row)
                })
                .collect(),
        ))
    }

    pub(super) fn all_binary(&self, oids: &[u32]) -> bool {
        oids.iter().all(|oid| self.binary(*oid))
    }

    fn binary(&self, oid: u32) -> bool {
        let Some(row) = self.0.get(&oid) else { return false };
        if !row.travels || OID_ALIASES.contains(&oid) {
            return false;
        }
        match row.kind {
            'd' => self.binary(row.base),
            // Labels travel, not oids.
            'e' => true,
            // An array names its element's oid, which differs between servers for what users made.
            'b' if row.element != 0 => row.element < FIRST_USER_OID && self.binary(row.element),
            'b' => oid < FIRST_USER_OID || row.same,
            'r' | 'm' => oid < FIRST_USER_OID,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn types() -> Types {
        let of = |kind, base, element, travels, same| Type {
            kind,
            base,
            element,
            travels,
            same,
        };
        Types(HashMap::from([
            (23, of('b', 0, 0, true, false)),
            (1007, of('b', 0, 23, true, false)),
            (2205, of('b', 0, 0, true, false)),
            (3904, of('r', 0, 0, true, false)),
            (1033, of('b', 0, 0, false, false)),
            (20_000, of('d', 23, 0, true, false)),
            (20_001, of('d', 2205, 0, true, false)),
            (20_002, of('e', 0, 0, true, false)),
            (20_003, of('b', 0, 20_002, true, false)),
            (20_004, of('b', 0, 0, true, true)),
            (20_005, of('b', 0, 0, true, false)),
            (20_006, of('r', 0, 0, true, false)),
        ]))
    }

    #[test]
    fn binary_only_where_both_servers_mean_the_same() {
        let types = types();
        for oid in [23, 1007, 3904, 20_000, 20_002, 20_004] {
            assert!(types.all_binary(&[23, oid]), "{oid}");
        }
        for oid in [2205, 1033, 20_001, 20_003, 20_005, 20_006, 99_999] {
            assert!(!types.all_binary(&[23, oid]), "{oid}");
        }
    }
}
