//! What a dump makes: every kind of thing that it may, how each is named in a statement, and how an unfinished try is wiped.

use crate::connect::Session;
use crate::error::Doing;
use crate::ident::ident;
use bluegreen_core::Result;

/// Every kind of thing that a dump's first section may make, and that is not part of another thing. (The columns of a partition key are
/// part of their own table.)
pub(crate) const OBJECTS: &str = "
    SELECT c AS classid, o AS objid FROM (
        SELECT tableoid, oid FROM pg_namespace WHERE nspname !~ '^pg_'
        UNION ALL SELECT tableoid, oid FROM pg_extension
        UNION ALL SELECT tableoid, oid FROM pg_class WHERE relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND relpersistence <> 't'
        UNION ALL SELECT tableoid, oid FROM pg_type
        UNION ALL SELECT tableoid, oid FROM pg_proc
        UNION ALL SELECT tableoid, oid FROM pg_collation
        UNION ALL SELECT tableoid, oid FROM pg_conversion
        UNION ALL SELECT tableoid, oid FROM pg_operator
        UNION ALL SELECT tableoid, oid FROM pg_opfamily
        UNION ALL SELECT tableoid, oid FROM pg_opclass
        UNION ALL SELECT tableoid, oid FROM pg_am
        UNION ALL SELECT tableoid, oid FROM pg_cast
        UNION ALL SELECT tableoid, oid FROM pg_transform
        UNION ALL SELECT tableoid, oid FROM pg_language
        UNION ALL SELECT tableoid, oid FROM pg_ts_config
        UNION ALL SELECT tableoid, oid FROM pg_ts_dict
        UNION ALL SELECT tableoid, oid FROM pg_ts_parser
        UNION ALL SELECT tableoid, oid FROM pg_ts_template
        UNION ALL SELECT tableoid, oid FROM pg_foreign_data_wrapper
        UNION ALL SELECT tableoid, oid FROM pg_foreign_server
    ) AS things (c, o)
    WHERE NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = c AND d.objid = o AND d.objsubid = 0 AND d.deptype IN ('i', 'e'))";

/// What its last section may make, and that is not part of another thing.
pub(crate) const LATE_OBJECTS: &str = "
    SELECT e.tableoid AS classid, e.oid AS objid FROM pg_event_trigger e WHERE NOT EXISTS (SELECT FROM pg_depend d
        WHERE d.classid = e.tableoid AND d.objid = e.oid AND d.deptype = 'e')
    UNION ALL SELECT tableoid, oid FROM pg_default_acl";

/// The kind of the record that holds which default privileges there were before us.
const DEFAULTS_BEFORE: &str = "default privileges before";

/// Begins the record: which default privileges are not ours. They are made at the end of the copy, and no `DROP` is for them.
pub(crate) async fn begin(session: &Session, migration: &str) -> Result<()> {
    session
        .execute(
            "INSERT INTO bluegreen.made (migration, kind, identity) SELECT $1, $2, coalesce(jsonb_agg(i.identity), '[]')::text \
             FROM pg_default_acl a, LATERAL pg_identify_object(a.tableoid, a.oid, 0) AS i",
            &[&migration, &DEFAULTS_BEFORE],
        )
        .await
        .doing("record what was made")?;
    Ok(())
}

/// Statements that take away the default privileges which are not in the record: an entry that says what holds without it goes.
const FORGET_DEFAULTS: &str = "
    SELECT concat(
        (SELECT string_agg(DISTINCT format('%s REVOKE ALL ON %s FROM %s;', start, things,
            CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END), ' ') FROM aclexplode(defaclacl)),
        CASE WHEN everywhere THEN format('%s GRANT ALL ON %s TO %I;', start, things, owner) END,
        CASE WHEN everywhere AND things IN ('FUNCTIONS', 'TYPES') THEN format('%s GRANT ALL ON %s TO PUBLIC;', start, things) END)
    FROM (
        SELECT a.defaclacl, a.defaclnamespace = 0, pg_get_userbyid(a.defaclrole), format('ALTER DEFAULT PRIVILEGES FOR ROLE %I%s',
            pg_get_userbyid(a.defaclrole), (SELECT format(' IN SCHEMA %I', nspname) FROM pg_namespace n WHERE n.oid = a.defaclnamespace)),
            CASE a.defaclobjtype WHEN 'r' THEN 'TABLES' WHEN 'S' THEN 'SEQUENCES' WHEN 'f' THEN 'FUNCTIONS' WHEN 'T' THEN 'TYPES'
                WHEN 'n' THEN 'SCHEMAS' ELSE 'LARGE OBJECTS' END
        FROM bluegreen.made m, pg_default_acl a, LATERAL pg_identify_object(a.tableoid, a.oid, 0) AS i
        WHERE m.migration = $1 AND m.kind = $2 AND NOT m.identity::jsonb ? i.identity
    ) AS entry (defaclacl, everywhere, owner, start, things)";

/// The event triggers that run a function we made.
const EVENT_TRIGGERS: &str = "SELECT e.evtname::text FROM pg_event_trigger e, \
     LATERAL pg_identify_object('pg_proc'::regclass, e.evtfoid, 0) AS i \
     WHERE EXISTS (SELECT FROM bluegreen.made m WHERE m.migration = $1 AND m.kind = i.type AND m.identity = i.identity)";

/// So many statements share a transaction, so that the locks of a large schema need not fit into one.
pub(crate) const TOGETHER: usize = 1000;

/// Drops what an unfinished try made, and nothing else.
pub(crate) async fn wipe(session: &mut Session, migration: &str) -> Result<()> {
    let doing = "drop what the unfinished copy made";
    // First what may have something against a DROP.
    let triggers = session.query(EVENT_TRIGGERS, &[&migration]).await.doing(doing)?;
    let mut sql: String = triggers
        .iter()
        .map(|row| format!("DROP EVENT TRIGGER IF EXISTS {};", ident(row.get(0))))
        .collect();
    let defaults = session
        .query(FORGET_DEFAULTS, &[&migration, &DEFAULTS_BEFORE])
        .await
        .doing(doing)?;
    sql.extend(defaults.iter().map(|row| row.get::<_, String>(0)));
    let transaction = session.transaction().await.doing(doing)?;
    transaction.batch_execute(&sql).await.doing(doing)?;
    transaction
        .execute(
            "DELETE FROM bluegreen.made WHERE migration = $1 AND kind = $2",
            &[&migration, &DEFAULTS_BEFORE],
        )
        .await
        .doing(doing)?;
    transaction.commit().await.doing(doing)?;

    // An operator class of an access method that is gone cannot be named any more, not even with IF EXISTS.
    let made = session
        .query(
            "SELECT kind, identity, ordinal FROM bluegreen.made WHERE migration = $1 ORDER BY kind = 'access method', ordinal",
            &[&migration],
        )
        .await
        .doing(doing)?;
    for some in made.chunks(TOGETHER) {
        let sql: String = some.iter().map(|row| drop_statement(row.get(0), row.get(1))).collect();
        let ordinals: Vec<i64> = some.iter().map(|row| row.get(2)).collect();
        let transaction = session.transaction().await.doing(doing)?;
        transaction.batch_execute(&sql).await.doing(doing)?;
        transaction
            .execute(
                "DELETE FROM bluegreen.made WHERE migration = $1 AND ordinal = ANY ($2)",
                &[&migration, &ordinals],
            )
            .await
            .doing(doing)?;
        transaction.commit().await.doing(doing)?;
    }
    session
        .execute("DELETE FROM bluegreen.copied WHERE migration = $1", &[&migration])
        .await
        .doing(doing)?;
    Ok(())
}

fn drop_statement(kind: &str, identity: &str) -> String {
    let word = word(kind);
    match identity.rsplit_once(" on language ").filter(|_| kind == "transform") {
        Some((of, language)) => format!("DROP {word} IF EXISTS {of} LANGUAGE {language} CASCADE;"),
        None => format!("DROP {word} IF EXISTS {identity} CASCADE;"),
    }
}

/// What statements call a kind of `pg_identify_object`'s.
pub(crate) fn word(kind: &str) -> &str {
    match kind {
        // As an aggregate `a()` would have to be `a(*)`.
        "function" | "procedure" | "aggregate" => "ROUTINE",
        "foreign-data wrapper" => "FOREIGN DATA WRAPPER",
        "statistics object" => "STATISTICS",
        kind => kind,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_dropped_by_its_word() {
        let drops = [
            ("table", "public.t", "DROP table IF EXISTS public.t CASCADE;"),
            ("aggregate", "public.a()", "DROP ROUTINE IF EXISTS public.a() CASCADE;"),
            (
                "foreign-data wrapper",
                "\"W\"",
                "DROP FOREIGN DATA WRAPPER IF EXISTS \"W\" CASCADE;",
            ),
            (
                "operator class",
                "public.o USING btree",
                "DROP operator class IF EXISTS public.o USING btree CASCADE;",
            ),
            (
                "transform",
                "for public.\"x on language y\" on language sql",
                "DROP transform IF EXISTS for public.\"x on language y\" LANGUAGE sql CASCADE;",
            ),
        ];
        for (kind, identity, drop) in drops {
            assert_eq!(drop_statement(kind, identity), drop);
        }
    }
}
